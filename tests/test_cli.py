"""What a user is promised of the command line: help, exit codes, contracts, and every row explained."""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import duckdb
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, flywheel

from flywheel.errors import DataError
from flywheel.files import read_json, read_rows
from flywheel.rundir import RunDir
from flywheel.stages.history import find, graded_rows, trace
from flywheel.stages.schemas import PROBLEMS
from flywheel.types import Problem

COMMANDS = ("run", "check", "status", "show", "eval", "grade", "curate", "dedup", "new")
METRICS = ("accuracy", "greedy_accuracy", "pass@8", "unique_correct", "mean_tokens")


# -- every command -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    done = flywheel(command, "--help")
    assert done.returncode == 0
    assert f"flywheel {command}" in done.stdout
    assert len(done.stdout.splitlines()) > 5


def test_the_help_names_every_command() -> None:
    done = flywheel("--help")
    assert done.returncode == 0
    for command in COMMANDS:
        assert f"  {command} " in done.stdout


@pytest.mark.parametrize(
    "start",
    [
        "import flywheel",
        "import flywheel.cli.app",
        "sys.argv = ['flywheel', '--help']; from flywheel.__main__ import main; main()",
    ],
)
def test_starting_is_light(start: str) -> None:
    code = f"import sys\ntry:\n    {start}\nfinally:\n    print('LOADED', sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(ast.literal_eval(done.stdout.partition("LOADED ")[2]))
    assert "flywheel" in loaded
    assert not loaded & {"torch", "vllm", "transformers", "trl", "peft", "accelerate", "datasets", "wandb"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nowhere.yaml"], 1, "there is no recipe nowhere.yaml"),
        (["run", "recipes/smoke.yaml", "rouds=3"], 1, "did you mean 'rounds'"),
        (["check", "nowhere.yaml"], 1, "there is no recipe"),
        (["status", "nowhere"], 1, "is not a run folder"),
        (["show", "nowhere"], 1, "is not a run folder"),
        (["show", "nowhere", "--failed", "--pairs"], 2, "exclude each other"),
        (["eval", "nowhere"], 1, "no --task is given"),
        (["eval", "nowhere", "--task", "countdown", "--problems", "0"], 1, "evaluate.problems"),
        (["grade", "nowhere.jsonl"], 2, "--task"),
        (["grade", "nowhere.jsonl", "--task", "countdown"], 1, "nowhere.jsonl cannot be read"),
        (["grade", "nowhere.jsonl", "--task", "countdwn"], 1, "did you mean 'countdown'"),
        (["grade", "nowhere.jsonl", "--task", "countdown", "--arg", "numbers"], 1, "is not KEY=VALUE"),
        (["new", "two words"], 1, "must be a Python identifier"),
        (["new", "class"], 1, "must be a Python identifier"),
        (["spin"], 2, "No such command"),
        (["run"], 2, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_gets_one_message_and_its_exit_code(arguments: list[str], code: int, said: str) -> None:
    done = flywheel(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


# -- grade ---------------------------------------------------------------------------------------


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


ANSWERS = [
    {"numbers": [3, 5], "target": 8, "completion": "3+5"},
    {"numbers": [3, 5], "target": 8, "completion": "3*5"},
    {"id": "b", "prompt": "3 5=8", "gold": "3+5", "data": {"numbers": [3, 5], "target": 8}, "completion": "5+3"},
    {"data": {"numbers": [3, 5]}, "completion": "3+5"},
]
TERSE = ("--task", "countdown", "--arg", "numbers=2", "--arg", "style=terse")


def test_grade_prints_its_contract_and_writes_each_verdict(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", *ANSWERS, "")
    out = tmp_path / "out.jsonl"
    done = flywheel("grade", *TERSE, file, "--out", out, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert list(facts) == ["n", "passed", "failed", "undecided", "seconds", "per_second"]
    assert (facts["n"], facts["passed"], facts["failed"], facts["undecided"]) == (4, 2, 1, 1)
    assert facts["per_second"] == pytest.approx(4 / facts["seconds"], rel=0.01)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [{k: row[k] for k in given} for row, given in zip(rows, ANSWERS, strict=True)] == ANSWERS
    assert [row["passed"] for row in rows] == [True, False, True, None]
    assert [row["score"] for row in rows] == [1.0, 0.0, 1.0, None]
    assert rows[1]["reason"] == "wrong value"
    assert "KeyError" in rows[3]["reason"]


def test_grade_tells_people_the_counts_per_reason(tmp_path: Path) -> None:
    done = flywheel("grade", *TERSE, write_lines(tmp_path / "in.jsonl", *ANSWERS))
    assert done.returncode == 0
    for said in ("passed            2   50.0%", "1 wrong value", "1 verifier raised KeyError", "4 completions in"):
        assert said in done.stdout


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_grade_takes_problems_from_a_file(tmp_path: Path, form: str) -> None:
    problems = [Problem.ask(f"p{n}", "?", numbers=[n, 1], target=n + 1).to_row() for n in (2, 3)]
    file = tmp_path / f"problems.{form}"
    if form == "parquet":
        import pyarrow as pa

        pq.write_table(pa.Table.from_pylist(problems, schema=PROBLEMS), file)
    else:
        write_lines(file, *problems)
    rows = [{"problem_id": "p2", "completion": "2+1"}, {"problem_id": "p3", "completion": "2+1"}]
    done = flywheel("grade", *TERSE, write_lines(tmp_path / "in.jsonl", *rows), "--problems", file, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["passed"] == 1
    stray = write_lines(tmp_path / "stray.jsonl", {"problem_id": "p9", "completion": "1"}, {"completion": "1"})
    done = flywheel("grade", *TERSE, stray, "--problems", file)
    assert done.returncode == 1
    assert "line 1: no problem 'p9'" in done.stderr
    assert "line 2: no `problem_id`" in done.stderr


def test_grade_names_the_first_bad_lines_at_once_and_writes_nothing(tmp_path: Path) -> None:
    bad = ["{", "[1]", '{"x": 1}', '{"completion": 3}', '{"completion": "1", "data": [1]}', "{", "{"]
    file = write_lines(tmp_path / "in.jsonl", ANSWERS[0], *bad)
    out = tmp_path / "out.jsonl"
    out.write_text("as before")
    done = flywheel("grade", *TERSE, file, "--out", out)
    assert done.returncode == 1
    for number, said in enumerate(["not JSON", "not a JSON object", "no `completion`", "`completion`", "`data`"], 2):
        assert f"{file}, line {number}: {said}" in done.stderr
    assert "and 2 more" in done.stderr
    assert "Traceback" not in done.stderr
    assert out.read_text() == "as before"
    assert sorted(tmp_path.iterdir()) == [file, out]


def test_grade_refuses_an_out_it_cannot_write_before_grading(tmp_path: Path) -> None:
    file = write_lines(tmp_path / "in.jsonl", *ANSWERS)
    for out in (tmp_path, tmp_path / "missing" / "out.jsonl"):
        done = flywheel("grade", *TERSE, file, "--out", out)
        assert done.returncode == 1
        assert "cannot be written" in done.stderr


def test_grade_times_out_and_survives_a_task_that_raises(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from flywheel.tasks import BaseTask\n"
        "class Slow(BaseTask):\n"
        "    def problems(self, split): return []\n"
        "    def verify(self, problem, completion):\n"
        "        time.sleep(float(completion.text))\n"
        "        raise RuntimeError('broken')\n"
    )
    file = write_lines(tmp_path / "in.jsonl", {"completion": "60"}, {"completion": "0"}, {"completion": "0"})
    done = flywheel("grade", "--task", "./slow.py:Slow", "in.jsonl", "--timeout", "0.2", cwd=tmp_path, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "undecided         3" in done.stdout
    assert "1 no verdict within 0.2 s" in done.stdout
    assert "2 verifier raised RuntimeError: broken" in done.stdout
    assert done.stderr.count("Traceback") == 1  # once, for who writes the verifier
    assert file.exists()


# -- new -----------------------------------------------------------------------------------------


def test_a_new_task_passes_its_check_as_it_is(tmp_path: Path) -> None:
    done = flywheel("new", "word_flip", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == {"word_flip.py", "word_flip.yaml"}
    assert "class WordFlip(BaseTask)" in (tmp_path / "word_flip.py").read_text()
    assert "NAME" not in (tmp_path / "word_flip.py").read_text() + (tmp_path / "word_flip.yaml").read_text()
    done = flywheel("check", "word_flip.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing is wrong" in done.stdout


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("precious")
    done = flywheel("new", "mine", "--dir", tmp_path)
    assert done.returncode == 1
    assert "would be overwritten" in done.stderr
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert not (tmp_path / "mine.py").exists()


# -- a finished run ------------------------------------------------------------------------------


def test_status_json_is_its_contract(smoke_run: Path) -> None:
    done = flywheel("status", smoke_run, "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["run"] == str(smoke_run)
    assert facts["state"] == "finished"
    assert facts["best"] == str(smoke_run / "best")
    assert [entry["round"] for entry in facts["rounds"]] == [0, 1, 2]
    for entry in facts["rounds"]:
        assert entry.keys() == {
            "round", "policy_in", "policy_out", "promoted", "why", "metrics", "counts", "seconds",
        }  # fmt: skip
        assert set(METRICS) <= entry["metrics"].keys()
        assert entry["why"]
        assert all(seconds >= 0 for seconds in entry["seconds"].values())
    assert {"samples", "right", "kept", "pairs"} <= facts["rounds"][1]["counts"].keys()


def test_status_and_show_are_readable_in_a_pipe(smoke_run: Path) -> None:
    for arguments in (["status", smoke_run], ["show", smoke_run], ["show", smoke_run, "--pairs"]):
        done = flywheel(*arguments)
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "…" not in done.stdout.replace("… and more", ""), "cut off to fit a width"


def test_show_lists_samples_failures_drops_and_pairs(smoke_run: Path) -> None:
    rows = list(graded_rows(RunDir.existing(smoke_run), 1))
    by_id = {row["sample_id"]: row for row in rows}

    def shown(*options: str) -> str:
        done = flywheel("show", smoke_run, "--round", "1", "--limit", "0", *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    everything = shown()
    assert all(sample_id in everything for sample_id in by_id)
    failures = shown("--failed")
    for sample_id, row in by_id.items():
        assert (f"\n{sample_id}  " in failures) == (row["passed"] is not True)
    dropped = read_rows(smoke_run / "rounds/001/curated/dropped.parquet")
    drops = shown("--dropped")
    for row in dropped:
        assert f"\n{row['sample_id']}\n  dropped by {row['filter']}: {row['reason']}\n" in drops
        assert by_id[row["sample_id"]]["text"] in drops
    pairs = shown("--pairs")
    for row in read_rows(smoke_run / "rounds/001/curated/pairs.parquet"):
        assert f"\n{row['pair_id']}\n" in pairs


def test_show_stops_at_the_limit_and_says_so(smoke_run: Path) -> None:
    done = flywheel("show", smoke_run, "--round", "1", "--limit", "3")
    assert done.stdout.count("\nr001-") == 3
    assert "and more" in done.stdout


@pytest.mark.parametrize(("options", "said"), [(["--id", "nobody"], "'nobody'"), (["--round", "99"], "round 99")])
def test_show_of_what_is_not_there_is_an_error_with_a_hint(smoke_run: Path, options: list[str], said: str) -> None:
    done = flywheel("show", smoke_run, *options)
    assert done.returncode == 1
    assert said in done.stderr
    assert "->" in done.stderr
    assert "Traceback" not in done.stderr


def chosen_rows(run: Path, file: str, count: int = 4) -> list[dict[str, Any]]:
    """Random rows of every round's training file."""
    rows = [row for path in sorted(run.glob(f"rounds/*/{file}")) for row in read_rows(path)]
    assert rows, f"the smoke run made no {file}: it can show nothing"
    return random.Random(0).sample(rows, min(count, len(rows)))


def test_any_sft_row_is_walked_back_to_its_problem_policy_seed_verdict_and_filters(smoke_run: Path) -> None:
    run = RunDir.existing(smoke_run)
    fresh = [row for row in chosen_rows(smoke_run, "curated/sft.parquet", 10_000) if row["source"] != "demonstration"]
    assert fresh, "no round of the smoke run kept a sample: it can show nothing"
    for row in random.Random(1).sample(fresh, min(6, len(fresh))):
        history = trace(run, row["row_id"])
        (sample,) = history.samples
        number = row["round"]
        assert history.kind == "training row"
        assert history.problem is not None
        assert history.problem["problem_id"] == row["problem_id"]
        assert history.problem["prompt"] == row["prompt"]
        assert f"round {number} problems" in history.drawn
        assert sample.sample["sample_id"] == row["sample_id"]
        assert sample.sample["messages"] == row["completion"]
        assert sample.sample["passed"] is True
        assert sample.sample["seed_key"].endswith(row["problem_id"])
        assert sample.place == (sample.sample["index"] + 1, 4) and sample.parents == []
        assert sample.policy == read_json(run.round_dir(number) / "round.json")["policy_in"]
        assert (smoke_run / sample.policy / "config.json").is_file()
        funnel = read_json(smoke_run / f"rounds/{number:03d}/curated/funnel.json")
        assert [step.filter for step in sample.steps] == [entry["filter"] for entry in funnel]
        assert all(step.reason is None for step in sample.steps)
        assert f"round {number} sft" in [training.stage for training in history.rows]
    done = flywheel("show", smoke_run, "--id", row["row_id"])
    assert done.returncode == 0, done.stderr
    for said in (row["problem_id"], sample.policy, sample.sample["seed_key"], "verdict: right", "filter verified"):
        assert said in done.stdout


def test_replayed_rows_tell_every_round_that_trained_on_them(smoke_run: Path) -> None:
    replayed = [row for row in read_rows(smoke_run / "rounds/002/curated/sft.parquet") if row["source"] == "replay"]
    assert replayed, "round 1 of the smoke run kept no sample: it can show nothing"
    history = trace(RunDir.existing(smoke_run), replayed[0]["row_id"])
    assert [(row.stage, row.row["source"]) for row in history.rows] == [
        ("round 1 sft", "round"),
        ("round 2 sft", "replay"),
    ]


def test_any_pair_is_walked_back_to_a_right_and_a_wrong_sample_of_one_problem(smoke_run: Path) -> None:
    run = RunDir.existing(smoke_run)
    for row in chosen_rows(smoke_run, "curated/pairs.parquet"):
        history = trace(run, row["pair_id"])
        chosen, rejected = history.samples
        assert (chosen.sample["sample_id"], rejected.sample["sample_id"]) == (row["chosen_id"], row["rejected_id"])
        assert chosen.sample["problem_id"] == rejected.sample["problem_id"] == row["problem_id"]
        assert chosen.sample["passed"] is True
        assert rejected.sample["passed"] is False
        assert chosen.sample["messages"] == row["chosen"]
        assert rejected.sample["messages"] == row["rejected"]
        assert row["pair_id"] in [pair.row["pair_id"] for pair in chosen.pairs]
        assert rejected.steps[-1].reason is not None
    done = flywheel("show", smoke_run, "--id", row["pair_id"])
    assert done.returncode == 0, done.stderr
    for sample in (chosen, rejected):
        assert f"sample {sample.sample['sample_id']}  " in done.stdout


def test_demonstrations_dropped_samples_problems_and_evaluations_have_a_history_too(smoke_run: Path) -> None:
    run = RunDir.existing(smoke_run)
    demonstration = read_rows(smoke_run / "rounds/000/warmup/sft.parquet")[0]
    history = trace(run, demonstration["row_id"])
    assert history.rows[0].stage == "round 0 warmup"
    assert history.samples == []
    assert history.problem is not None
    assert history.problem["gold"] == demonstration["completion"][0]["content"]
    for drop in read_rows(smoke_run / "rounds/001/curated/dropped.parquet")[:3]:
        (sample,) = trace(run, drop["sample_id"]).samples
        assert (sample.steps[-1].filter, sample.steps[-1].reason) == (drop["filter"], drop["reason"])
        assert sample.rows == []
    evaluated = next(iter(graded_rows(run, 1, ["evaluate"])))
    (sample,) = trace(run, evaluated["sample_id"]).samples
    assert sample.policy == read_json(run.round_dir(1) / "round.json")["candidate"]
    problem = trace(run, evaluated["problem_id"])
    assert problem.kind == "problem"
    assert evaluated["sample_id"] in [sample.sample["sample_id"] for sample in problem.samples]
    with pytest.raises(DataError):
        trace(run, "nobody")


def test_find_reads_the_rows_that_were_asked_for(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "a=b.parquet"
    pq.write_table(pa.table({"id": [str(i) for i in range(100)], "x": range(100)}), path, row_group_size=7)
    assert [(row["id"], row["x"]) for _, row in find([path], "id", ["13", "90"])] == [("13", 13), ("90", 90)]
    assert list(find([path], "id", ["nobody"])) == []


def test_every_sample_is_accounted_for(smoke_run: Path) -> None:
    for number in (1, 2):
        folder = smoke_run / f"rounds/{number:03d}"
        samples = [row["sample_id"] for row in read_rows(folder / "samples")]
        kept = [r["sample_id"] for r in read_rows(folder / "curated/sft.parquet") if r["source"] == "round"]
        dropped = [row["sample_id"] for row in read_rows(folder / "curated/dropped.parquet")]
        assert Counter(kept + dropped) == Counter(samples)


def test_the_run_folder_is_read_by_duckdb(smoke_run: Path) -> None:
    rounds = smoke_run / "rounds"
    (counted,) = duckdb.sql(
        f"""select count(*), count(distinct s.sample_id), sum(v.passed::int)
        from '{rounds}/*/samples/*.parquet' s join '{rounds}/*/verdicts/*.parquet' v using (sample_id)"""
    ).fetchall()
    expected = [row for number in (1, 2) for row in graded_rows(RunDir.existing(smoke_run), number)]
    assert counted == (len(expected), len(expected), sum(row["passed"] is True for row in expected))


@pytest.mark.parametrize(
    ("files", "columns"),
    [
        ("samples/*.parquet", {"sample_id", "messages", "seed_key"}),
        ("verdicts/*.parquet", {"sample_id", "score", "reason"}),
        ("curated/sft.parquet", {"prompt", "completion", "row_id"}),
        ("curated/pairs.parquet", {"prompt", "chosen", "rejected", "pair_id"}),
        ("curated/dropped.parquet", {"sample_id", "filter", "reason", "removed_by"}),
    ],
)
def test_the_run_folder_is_read_by_datasets(smoke_run: Path, tmp_path: Path, files: str, columns: set[str]) -> None:
    paths = sorted(map(str, smoke_run.glob(f"rounds/001/{files}")))
    loaded = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=str(tmp_path))
    assert columns <= set(loaded.column_names)
    assert len(loaded) == sum(pq.ParquetFile(path).metadata.num_rows for path in paths)


def test_a_run_s_best_is_evaluated_as_the_run_did(smoke_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "evaluated"
    done = flywheel("eval", smoke_run, "--problems", "16", "--completions", "2", "--out", out, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert list(facts) == ["model", "task", "problems", "metrics"]
    assert facts["model"] == str((smoke_run / "best").resolve())
    assert (facts["task"], facts["problems"]) == ("countdown", 16)
    assert {"accuracy", "greedy_accuracy", "pass@2", "unique_correct", "mean_tokens"} <= facts["metrics"].keys()
    best = next(entry for entry in _summaries(smoke_run) if str(smoke_run / entry["candidate"]) == facts["model"])
    greedy = read_json(smoke_run / f"rounds/{best['round']:03d}/evaluate/results.json")[:16]
    assert facts["metrics"]["greedy_accuracy"] == pytest.approx(sum(e["greedy"] for e in greedy) / 16, abs=1e-6)
    shown = flywheel("show", out, "--limit", "2")
    assert shown.returncode == 0, shown.stderr
    assert "round 0, evaluate" in shown.stdout
    other = flywheel("eval", ROOT / "recipes", "--task", "countdown", "--out", out)
    assert other.returncode == 1
    assert "holds an evaluation of" in other.stderr


def _summaries(run: Path) -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(run.glob("rounds/*/round.json"))]
