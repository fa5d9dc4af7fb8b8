"""What a user is promised of `flywheel curate`, and of filters inside a run: files in, files out, reasons for all."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, flywheel

from flywheel.files import read_json, read_rows
from flywheel.recipe_file import parse_recipe
from flywheel.recipe_keys import select

RECIPE = {"curate": ["exact_duplicates", {"length": {"unit": "words", "max": 5}}, {"format": {"forbid": ["sorry"]}}]}


def curated(folder: Path, rows: list[dict[str, Any]], recipe: Any = RECIPE, *options: str) -> tuple[Any, Path]:
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    if rows:
        pq.write_table(pa.Table.from_pylist(rows), folder / "in.parquet", row_group_size=3)
    out = folder / "out"
    return flywheel("curate", folder / "in.parquet", out, "--recipe", folder / "recipe.yaml", *options), out


def talk(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


SHAPES: dict[str, Any] = {
    "messages": lambda q, a: {"messages": talk(q, a)},
    "trl": lambda q, a: {"prompt": talk(q, a)[:1], "completion": talk(q, a)[1:]},
    "text": lambda q, a: {"question": q, "answer": a},
    "sharegpt": lambda q, a: {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]},
    "both": lambda q, a: {"prompt": q, "messages": talk(q, a)},
}
TALKS = [("2+2?", "four"), ("2+2?", " four "), ("3+3?", "four"), ("hi", "I am sorry"), ("hi", "a b c d e f g")]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_usual_form_of_dialogues_is_understood(tmp_path: Path, shape: str) -> None:
    done, out = curated(tmp_path, [SHAPES[shape](*pair) for pair in TALKS], RECIPE, "--json")
    assert done.returncode == 0, done.stderr
    kept, dropped = read_rows(out / "kept.parquet"), read_rows(out / "dropped.parquet")
    assert len(kept) == 2 and len(dropped) == 3
    assert set(kept[0]) == {"sample_id", *SHAPES[shape]("", "")}
    assert sorted(row["filter"] for row in dropped) == ["exact_duplicates", "format", "length"]
    assert next(row for row in dropped if row["filter"] == "exact_duplicates")["removed_by"] in {
        row["sample_id"] for row in kept
    }
    assert json.loads(done.stdout) == read_json(out / "funnel.json")


def test_the_order_of_rows_makes_no_difference_and_nothing_is_lost(tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": q, "response": a} for i, (q, a) in enumerate(TALKS * 3)]
    found = []
    for name in "ab":
        random.Random(name).shuffle(rows)
        done, out = curated(tmp_path / name, rows)
        assert done.returncode == 0, done.stderr
        assert "exact_duplicates" in done.stdout
        kept, dropped = read_rows(out / "kept.parquet"), read_rows(out / "dropped.parquet")
        assert sorted([*(r["id"] for r in kept), *(r["sample_id"] for r in dropped)]) == sorted(r["id"] for r in rows)
        found.append(({r["id"] for r in kept}, {r["sample_id"]: (r["reason"], r["removed_by"]) for r in dropped}))
    assert found[0] == found[1]


def test_columns_can_be_named_and_verdicts_come_first(tmp_path: Path) -> None:
    rows = [
        {"key": i, "ask": "q", "say": f"a{i}", "stars": i, "passed": i != 2, "reason": "off", "group": "g"}
        for i in range(8)
    ]
    recipe = [{"quality": {"reward_quantile": 0.5}}, {"cap_per_problem": {"keep": 2, "prefer": "best"}}]
    names = ("--id-column", "key", "--prompt-column", "ask", "--completion-column", "say", "--score-column", "stars")
    done, out = curated(tmp_path, rows, recipe, *names, "--problem-column", "group")
    assert done.returncode == 0, done.stderr
    assert [row["key"] for row in read_rows(out / "kept.parquet")] == [6, 7]
    reasons = {row["sample_id"]: row["reason"] for row in read_rows(out / "dropped.parquet")}
    assert reasons["2"] == "wrong: off"
    assert reasons["4"] == "over the cap of 2" or reasons["5"] == "over the cap of 2"


def test_heldout_problems_are_kept_out_if_they_are_given(tmp_path: Path) -> None:
    text = "How many eggs are left in the basket if Ann takes five of the twelve and Bob takes three more of them?"
    (tmp_path / "eval.jsonl").write_text(json.dumps({"question": text}))
    rows = [{"prompt": text, "response": "4"}, {"prompt": "2+2?", "response": "4"}]
    done, out = curated(tmp_path, rows, {"curate": ["finished"]}, "--heldout", str(tmp_path / "eval.jsonl"))
    assert done.returncode == 1  # these rows do not say how they ended
    assert "'finish'" in done.stderr
    done, out = curated(tmp_path, rows, {"curate": [{"format": {}}]}, "--heldout", str(tmp_path / "eval.jsonl"))
    assert done.returncode == 0, done.stderr
    (drop,) = read_rows(out / "dropped.parquet")
    assert drop["filter"] == "decontaminate" and json.loads(drop["detail"])["item"] == "#0"


@pytest.mark.parametrize(
    ("rows", "recipe", "options", "message"),
    [
        ([{"a": 1}], RECIPE, [], "no column looks like a dialogue"),
        ([{"text": "x"}], RECIPE, ["--text-column", "txt"], "there is no column txt"),
        ([{"text": "x"}], {"curate": [{"lenght": {}}]}, [], "did you mean 'length'"),
        ([{"text": "x"}], {"filters": []}, [], "no list of filters"),
        ([{"text": "x"}], {"curate": [3]}, [], "is not a filter"),
        ([{"text": "x"}], {"curate": ["cap_per_problem"]}, [], "'problem_id'"),
        ([{"text": "x"}], {"curate": ["self_filter"]}, [], "needs a model here"),
        ([{"text": "x"}], {"curate": [{"self_filter": {"rubric": "generl"}}]}, [], "did you mean 'general'"),
        ([{"text": "x", "id": None}], RECIPE, [], "no id"),
        ([], RECIPE, [], "cannot be read as Parquet"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_get_one_message(tmp_path: Path, rows: Any, recipe: Any, options: list[str], message: str) -> None:
    done, _ = curated(tmp_path, rows, recipe, *options)
    assert done.returncode == 1
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_empty_files_single_rows_and_nulls_are_no_trouble(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("prompt", pa.string()), ("response", pa.string())])
    for name, rows in {"none": [], "one": [{"id": "a", "prompt": "q", "response": "r"}], "null": [{"id": "a"}]}.items():
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "in.parquet")
        done, out = curated(folder, [], {"curate": ["exact_duplicates", {"repetition": {}}, {"language": {}}]})
        assert done.returncode == 0, done.stderr
        assert len(read_rows(out / "kept.parquet")) == len(rows)
        done, _ = curated(folder, [])
        assert done.returncode == 1 and "finished curation" in done.stderr


# -- in a run ----------------------------------------------------------------------------------------


def test_a_run_s_own_policy_can_judge_and_its_rubbish_is_a_recorded_decision(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
    (tmp_path / "short.md").write_text("---\nscale: [0, 1]\nmark: 1\nmax_tokens: 8\n---\n{{ response }}\n")
    scripted = {"use": "scripted", "extra": {"answers": {"*": ["Score: 3"]}}}
    recipe |= {
        "rounds": 1,
        "curate": [
            {"quality": {"reward_quantile": None, "judge": {"engine": scripted}}},
            {"self_filter": {"rubric": "short.md", "undecided": "keep", "votes": 2}},
            {"quality": {"reward_quantile": 0.0, "per": "problem.target"}},
            {"./own.py:Odd": {}},
        ],
    }
    (tmp_path / "own.py").write_text(
        "class Odd:\n    columns = ('tokens',)\n"
        "    def decide(self, rows):\n        yield from ((row, None) for row in rows)\n"
    )
    (tmp_path / "judged.yaml").write_text(yaml.safe_dump(recipe))
    done = flywheel("run", tmp_path / "judged.yaml", "--run-dir", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "self_filter" in done.stdout
    folder = tmp_path / "run" / "rounds" / "001" / "curated"
    funnel = {step["filter"]: step for step in read_json(folder / "funnel.json")}
    assert list(funnel) == ["verified", "decontaminate", "quality", "self_filter", "quality (2)", "./own.py:Odd"]
    assert funnel["decontaminate"]["report"]["sets"]["heldout"] > 0
    assert funnel["quality"]["report"]["judged"] == funnel["quality"]["kept"] > 0
    assert funnel["self_filter"]["report"]["undecided"] == funnel["self_filter"]["rows_in"]
    assert len(read_rows(folder / "sft.parquet")) >= funnel["self_filter"]["kept"]
    assert not list(folder.glob(".*"))
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    (counts,) = [line for line in lines if "counts/kept" in line]
    assert counts["counts/dropped_by_self_filter"] == 0
    (told,) = [line for line in lines if "funnel/verified/rows_in" in line]
    gone = sum(count for name, count in told.items() if name.startswith("funnel/verified/dropped: "))
    assert told["funnel/verified/rows_in"] - gone == told["funnel/verified/kept"] == funnel["verified"]["kept"]
    assert set(read_json(folder / "difficulty.json")) == {"measure", "never solved", "before", "after"}


def test_check_reads_what_filters_name_and_who_judges_may_move(tmp_path: Path) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
    recipe["curate"] = [
        {"self_filter": {"rubric": "mine.md"}},
        {"quality": {"judge": {"engine": {"use": "vlm"}}}},
        {"overused_phrases": {"lists": ["xx"]}},
        {"decontaminate": {"against": ["none.jsonl"]}},
        {"difficulty": {"by": "judge", "engine": {"batchsize": 3}}},
    ]
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(recipe))
    done = flywheel("check", tmp_path / "wrong.yaml")
    assert done.returncode == 1
    told = " ".join((done.stdout + done.stderr).split())
    for message in ("'mine.md'", "no engine 'vlm'", "list of phrases 'xx'", "none.jsonl", "batchsize"):
        assert message in told, told


def test_a_judge_s_servers_are_no_part_of_what_a_stage_depends_on() -> None:
    def parts(server: str) -> Any:
        engine = {"use": "openai", "extra": {"model": "m", "servers": [server]}}
        recipe = yaml.safe_load((ROOT / "recipes" / "smoke.yaml").read_text())
        recipe["curate"] = [{"quality": {"judge": {"engine": engine}}}]
        parsed = parse_recipe(recipe)
        assert parsed.engines() == {"transformers", "openai"}
        return select(parsed.model_dump(mode="json"), ["curate"])

    assert parts("http://a/v1") == parts("http://b/v1")
