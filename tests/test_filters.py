"""What a user is promised of each filter: what it drops, the reason that it gives, and that order does not matter."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.curate import FILTERS, Aids, ParquetSource, Rows, make_filters, run_chain, run_filters
from flywheel.curate.chain import Kept
from flywheel.engines import EngineSpec, make_engine
from flywheel.errors import DataError, RecipeError
from flywheel.recipe_file import load_filters

Rowlist = list[dict[str, Any]]


def row(i: int, text: str = "", **fields: Any) -> dict[str, Any]:
    question = fields.pop("question", f"question number {i}")
    text = text or f"answer {i}"
    return {
        "sample_id": f"s{i:03d}",
        "problem_id": f"p{i}",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": question}],
        "messages": [{"role": "assistant", "content": text}],
        "text": text,
        "tokens": len(text.split()),
        "finish": "stop",
        "passed": True,
        "reason": "",
        "score": 1.0,
        "pass_rate": 0.5,
        "source": "math",
        **fields,
    }


def run(rows: Rowlist, *chain: dict[str, Any], aids: Aids | None = None) -> tuple[list[str], dict[str, str], Rowlist]:
    """Ids of the kept, reasons of the dropped, and the funnel."""
    kept, dropped, funnel = run_filters(make_filters(list(chain), verified=False), rows, aids)
    return [r["sample_id"] for r in kept], {r["sample_id"]: r["reason"] for r in dropped}, funnel


# -- of every filter -------------------------------------------------------------------------------

TEXTS = [
    "The answer is 4.",
    "I'm sorry, but as an AI I can't!",
    "la la la la la la la la la la la la la la la la la la la la la la la la la la la",
    "```python\nx = 1",
    "Die Summe von zwei und drei ist fünf, das ist eine einfache Rechnung.",
    '{"answer": 4}',
    "",
]
FIELDS = st.fixed_dictionaries(
    {
        "text": st.sampled_from(TEXTS),
        "problem_id": st.sampled_from("pqr"),
        "question": st.sampled_from(["one", "two", "What is the sum of two and three?"]),
        "finish": st.sampled_from(["stop", "length"]),
        "score": st.sampled_from([None, 0.2, 0.5, 1.0]),
        "pass_rate": st.sampled_from([None, 0.0, 0.25, 1.0]),
        "source": st.sampled_from(["math", "code", "chat"]),
    }
)
ROWS = st.lists(FIELDS, max_size=24).map(lambda many: [row(i, **fields) for i, fields in enumerate(many)])
STABLE: list[dict[str, Any]] = [
    {"exact_duplicates": {}},
    {"cap_per_problem": {"keep": 2}},
    {"cap_per_problem": {"keep": 1, "prefer": "best"}},
    {"pass_rate": {"min": 0.1, "max": 0.9}},
    {"finished": {}},
    {"decontaminate": {}},
    {"length": {"min": 2, "unit": "words"}},
    {"format": {}},
    {"format": {"json": True}},
    {"language": {}},
    {"repetition": {"ngram": 3, "least": 5}},
    {"overused_phrases": {"spare": 1, "target": 0.2}},
    {"self_filter": {"engine": {"use": "scripted", "extra": {"answers": {"*": ["Score: 3", "Score: 1", "what?"]}}}}},
    {"difficulty": {"ends": False}},
    {"mix": {"weights": {"math": 2, "code": 1}}},
    {"mix": {"weights": {"math": 2, "code": 1}, "total": 5, "others": "keep", "prefer": "random", "scarce": 1}},
]
CHAINS = st.lists(st.sampled_from([*STABLE, {"quality": {"reward_quantile": 0.5, "per": "source"}}]), max_size=3)


def aids(folder: Path | None = None) -> Aids:
    def engine(option: dict[str, Any] | None) -> Any:
        assert option is not None
        return make_engine(EngineSpec(model="", **option))

    return Aids(engine=engine, heldout=folder)


@pytest.fixture(scope="session")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("heldout") / "problems.parquet"
    prompt = [{"role": "user", "content": "What is the sum of two and three?"}]
    pq.write_table(pa.Table.from_pylist([{"problem_id": "h1", "prompt": prompt}]), file)
    return file


@settings(deadline=None, max_examples=150)
@given(ROWS, CHAINS, st.randoms(use_true_random=False))
def test_each_row_is_kept_or_dropped_once_whatever_their_order(
    heldout: Path, rows: Rowlist, chain: list[Any], shuffle: random.Random
) -> None:
    kept, dropped, funnel = run(rows, *chain, aids=aids(heldout))
    assert sorted([*kept, *dropped]) == sorted(r["sample_id"] for r in rows)
    assert all(dropped.values())
    assert [sum(step["dropped"].values()) for step in funnel] == [step["rows_in"] - step["kept"] for step in funnel]
    mixed = list(rows)
    shuffle.shuffle(mixed)
    again, others, counted = run(mixed, *chain, aids=aids(heldout))
    assert (set(again), others) == (set(kept), dropped)
    assert [step["dropped"] for step in counted] == [step["dropped"] for step in funnel]


@pytest.mark.parametrize("filter", STABLE, ids=str)
@settings(deadline=None, max_examples=15)
@given(rows=ROWS)
def test_what_a_filter_kept_it_keeps_again(heldout: Path, filter: dict[str, Any], rows: Rowlist) -> None:
    kept, _, _ = run(rows, filter, aids=aids(heldout))
    again, dropped, _ = run([r for r in rows if r["sample_id"] in set(kept)], filter, aids=aids(heldout))
    assert (again, dropped) == (kept, {})


@pytest.mark.parametrize("filter", [*STABLE, {"quality": {}}], ids=str)
def test_one_row_no_row_and_equal_rows_are_no_trouble(heldout: Path, filter: dict[str, Any]) -> None:
    one = row(0, score=None, text="x")
    for rows in ([], [one], [{**one, "sample_id": f"s{i}"} for i in range(5)]):
        kept, dropped, _ = run(rows, filter, aids=aids(heldout))
        assert len(kept) + len(dropped) == len(rows)


def test_every_filter_is_tested_somewhere() -> None:
    told = "".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    assert all(f'{{"{name}": ' in told for name in FILTERS)


# -- the chain -------------------------------------------------------------------------------------


def test_missing_columns_are_named_all_at_once_before_anything_runs() -> None:
    rows = [{"sample_id": "a", "text": "x"}]
    with pytest.raises(DataError) as caught:
        run(rows, {"pass_rate": {}}, {"finished": {}})
    assert run([*rows, {"sample_id": "b", "text": " x"}], {"exact_duplicates": {}})[0] == ["a"]
    assert "'pass_rate'" in caught.value.message and "'finish'" in caught.value.message


def test_ids_must_be_there_and_differ() -> None:
    with pytest.raises(DataError, match="'a', 2 times"):
        run([{"sample_id": "a", "text": "x"}, {"sample_id": "a", "text": "y"}], {"format": {}})
    with pytest.raises(DataError, match="no ids"):
        run([{"text": "x"}], {"format": {}})
    with pytest.raises(DataError, match="1 rows have no id"):
        run([{"sample_id": None, "text": "x"}, {"sample_id": "b", "text": "x"}], {"format": {}})


def test_a_column_of_the_wrong_type_is_a_clear_message() -> None:
    with pytest.raises(DataError, match="numbers"):
        run([row(0, pass_rate="high")], {"pass_rate": {}})


def test_parts_are_read_by_column_and_in_order(tmp_path: Path) -> None:
    rows = [row(i) for i in range(30)]
    for part in range(3):
        pq.write_table(
            pa.Table.from_pylist(rows[part * 10 : part * 10 + 10]), tmp_path / f"{part}.parquet", row_group_size=4
        )
    found = Rows(ParquetSource(sorted(tmp_path.glob("*.parquet"))))
    found.alive[5:25] = False
    seen = [
        (int(i), text)
        for batch in found.scan("text")
        for i, text in zip(batch.ordinals, batch.text("text").to_pylist(), strict=True)
    ]
    assert seen == [(i, f"answer {i}") for i in range(30) if not 5 <= i < 25]
    assert [name for batch in found.scan("question", "dialogue") for name in batch.table.schema.names][:2] == [
        "question",
        "dialogue",
    ]
    assert (
        next(iter(found.scan("dialogue"))).text("dialogue")[0].as_py() == "Be brief.\n\nquestion number 0\n\nanswer 0"
    )
    with pytest.raises(DataError, match="no column 'colour'"):
        next(found.scan("colour"))


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(DataError, match=r"x\.parquet"):
        ParquetSource([tmp_path / "x.parquet"])


OWN = '''
from flywheel.curate import Drop

class Short:
    """Drops long answers."""
    columns = ("text",)

    def __init__(self, most=5):
        self.most = most

    def decide(self, rows):
        for row in rows:
            yield row, Drop("too long for me") if len(row["text"]) > self.most else None

class Forgetful(Short):
    def decide(self, rows):
        yield from list(super().decide(rows))[1:]
'''


def test_one_s_own_filter_is_a_class_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    rows = [row(0, "short"), row(1, "not so short")]
    filters = make_filters([{"./own.py:Short": {"most": 6}}], tmp_path, verified=False)
    kept, dropped, _ = run_filters(filters, rows)
    assert [r["sample_id"] for r in kept] == ["s000"]
    assert dropped[0]["reason"] == "too long for me"
    with pytest.raises(DataError, match="left out 1 rows"):
        run_filters(make_filters([{"./own.py:Forgetful": {}}], tmp_path, verified=False), rows)
    for wrong, message in (
        ("./own.py:Nope", "no class"),
        ("./no.py:Short", "no file"),
        ("./own.py:Drop", "neither|missing"),
    ):
        with pytest.raises(RecipeError, match=message):
            make_filters([{wrong: {}}], tmp_path)


def test_wrong_options_are_all_named_at_once() -> None:
    wrong = [
        {"qualty": {}},
        {"length": {"maximum": 3}},
        {"length": {"min": 3, "max": 2}},
        {"quality": {"reward_quantile": 1.5}},
        {"quality": {"judge": {"rubrik": "general"}}},
        {"format": {"require": ["("]}},
        {"decontaminate": {"similarity": 2}},
        {"mix": {"weights": {}}},
    ]
    with pytest.raises(RecipeError) as caught:
        make_filters(wrong)
    assert len(caught.value.message.splitlines()) == len(wrong)
    assert "did you mean 'quality'" in caught.value.message


# -- form ------------------------------------------------------------------------------------------


def test_length_in_each_unit() -> None:
    rows = [row(0, "one two three"), row(1, "one"), row(2, "x" * 50, tokens=None)]
    assert run(rows, {"length": {"min": 2}})[0] == ["s000"]
    assert run(rows, {"length": {"min": 2}})[1]["s002"] == "length unknown"
    assert run(rows, {"length": {"unit": "words", "max": 1}})[0] == ["s001", "s002"]
    assert run(rows, {"length": {"unit": "characters", "min": 5, "max": 20}})[0] == ["s000"]


def test_format_says_what_is_wrong() -> None:
    texts = [
        "ok #### 4",
        "no answer",
        "",
        "```\nx = 1\n``` #### 1",
        "```\nx = 1 #### 1",
        "<think>hm #### 2",
        "bad #### word",
    ]
    rows = [{**row(i), "text": text} for i, text in enumerate(texts)]
    kept, dropped, _ = run(rows, {"format": {"require": ["####"], "forbid": [r"\bbad\b"]}})
    assert kept == ["s000", "s003"]
    assert dropped == {
        "s001": "lacks ####",
        "s002": "empty",
        "s004": "open code fence",
        "s005": "open <think>",
        "s006": r"has \bbad\b",
    }
    assert run([row(0, '{"a": 1}'), row(1, "{a: 1}")], {"format": {"json": True}})[0] == ["s000"]


def test_repetition_is_measured_in_ngrams() -> None:
    varied = " ".join(f"word{i}" for i in range(60))
    looped = "start here and then " + "go on and on and " * 15
    rows = [row(0, varied), row(1, looped), row(2, "ha ha ha ha ha ha ha")]
    kept, dropped, _ = run(rows, {"repetition": {}})
    assert kept == ["s000", "s002"]  # the third is too short to tell
    assert dropped["s001"].startswith("repeats over 30%")


def test_languages_are_told_apart_and_code_is_not_a_language() -> None:
    texts = [
        "The sum of two numbers is what you get when you add them together.",
        "Die Summe zweier Zahlen erhält man, wenn man sie zusammenzählt.",
        "二つの数の和は、それらを足し合わせて得られるものです。そうでしょう。",
        "```python\nfor i in range(10): print(i)\n```",
        "x = 4",
    ]
    rows = [row(i, text) for i, text in enumerate(texts)]
    kept, dropped, _ = run(rows, {"language": {"keep": ["en"]}})
    assert kept == ["s000", "s003", "s004"]
    assert dropped == {"s001": "language de", "s002": "language ja"}
    assert run(rows, {"language": {"keep": ["de", "ja"], "unsure": "drop"}})[0] == ["s001", "s002"]


# -- phrases ---------------------------------------------------------------------------------------


def test_phrases_are_balanced_and_the_worst_rows_go_first() -> None:
    rows = [row(i, f"Fine, {i}.", score=0.5) for i in range(80)]
    rows += [row(100 + i, f"I’m  sorry, number {i}", score=i / 20) for i in range(20)]
    kept, dropped, funnel = run(rows, {"overused_phrases": {"target": 0.1, "spare": 2}})
    sorry = [r for r in kept if r >= "s100"]
    assert len(sorry) == 8  # a tenth of 88
    assert sorry == [f"s{i}" for i in range(112, 120)]
    assert set(dropped.values()) == {"overused: I'm sorry"}
    assert funnel[0]["report"]["shares"]["I'm sorry"] == [0.2, round(8 / 88, 4)]


def test_marks_have_their_own_target_and_few_are_left_alone() -> None:
    rows = [row(i, f"Wow {i}!" if i < 50 else f"Well {i}.") for i in range(100)]
    assert len(run(rows, {"overused_phrases": {"spare": 0}})[1]) == 38  # 12 of 62 are just under 0.2
    assert run(rows, {"overused_phrases": {"spare": 60}})[1] == {}
    emojis = [row(i, f"Nice {i} 🎉" if i < 50 else f"Nice {i}") for i in range(100)]
    assert set(run(emojis, {"overused_phrases": {"spare": 0}})[1].values()) == {"overused: emojis"}


def test_newly_overused_ngrams_are_found_against_earlier_rows(tmp_path: Path) -> None:
    completion = [{"role": "assistant", "content": "We add the two numbers and get the result."}]
    old = [{"completion": completion, "row_id": f"r{i}"} for i in range(100)]
    pq.write_table(pa.Table.from_pylist(old), tmp_path / "old.parquet")
    text = "Let us break this down carefully. We add the two numbers and get {}."
    rows = [row(i, text.format(i) if i < 60 else f"We add the two numbers and get {i}.") for i in range(100)]
    kept, dropped, funnel = run(
        rows, {"overused_phrases": {"target": 0.1, "spare": 0}}, aids=Aids(reference=[tmp_path / "old.parquet"])
    )
    (new,) = funnel[0]["report"]["new"]
    assert new in "let us break this down carefully we add the two numbers"
    assert len(kept) == 44 and len(dropped) == 56
    found = run(rows, {"overused_phrases": {"target": 0.1, "new": 0}}, aids=Aids(reference=[tmp_path / "old.parquet"]))
    assert found[1] == {}


def test_a_list_is_a_file_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nfine @ 0\ngreeting = /^hi\\b/ @ 0.0\n")
    rows = [row(0, "Fine."), row(1, "hi there"), row(2, "refine")]
    assert run(rows, {"overused_phrases": {"lists": ["mine.txt"], "spare": 0}}, aids=Aids(base=tmp_path))[0] == ["s002"]
    with pytest.raises(RecipeError, match="no list of phrases 'xx'"):
        run(rows, {"overused_phrases": {"lists": ["xx"]}})
    with pytest.raises(RecipeError, match="the pattern in"):
        run(rows, {"overused_phrases": {"phrases": ["x = /(/"]}})


# -- quality ---------------------------------------------------------------------------------------


def scripted(*answers: str) -> dict[str, Any]:
    return {"use": "scripted", "extra": {"answers": {"*": list(answers)}}}


def test_the_top_quartile_of_rewards_of_each_stratum_stays() -> None:
    rows = [row(i, reward=i, source="math") for i in range(8)] + [
        row(10 + i, reward=100 + i, source="chat") for i in range(8)
    ]
    assert run(rows, {"quality": {}})[0] == ["s014", "s015", "s016", "s017"]
    kept, dropped, _ = run(rows, {"quality": {"per": "source"}})
    assert kept == ["s006", "s007", "s016", "s017"]
    assert set(dropped.values()) == {"reward below the quantile"}


def test_a_row_needs_the_reward_or_the_judge_or_both() -> None:
    rows = [
        row(0, "good", reward=1.0),
        row(1, "good", reward=0.0),
        row(2, "bad", reward=1.0),
        row(3, "bad", reward=0.0),
    ]
    asked = []

    class Picky:
        continuous = True

        async def chat(self, messages: Any, sampling: Any) -> Any:
            from flywheel.types import Completion

            asked.append(messages[-1]["content"])
            return [Completion.of("Score: 3" if "\ngood\n" in messages[-1]["content"] else "Score: 2")]

        def close(self) -> None: ...

    with_judge = Aids(engine=lambda option: Picky())
    options = {"reward_quantile": 0.5, "judge": {"rubric": "general"}}
    assert run(rows, {"quality": options}, aids=with_judge)[0] == ["s000", "s001", "s002"]
    assert len(asked) == 2  # those that the reward has kept are not judged
    kept, dropped, _ = run(rows, {"quality": {**options, "combine": "all"}}, aids=with_judge)
    assert kept == ["s000"]
    assert dropped["s002"] == "not the judge's top mark"
    assert run(rows, {"quality": {**options, "reward_quantile": None}}, aids=with_judge)[0] == ["s000", "s001"]


def test_a_judge_that_answers_rubbish_is_counted_and_never_a_crash() -> None:
    rows = [row(i, reward=float(i)) for i in range(4)]
    options = {"reward_quantile": 0.75, "judge": {"engine": scripted("lorem ipsum")}}
    kept, dropped, funnel = run(rows, {"quality": options}, aids=aids())
    assert kept == ["s003"]
    assert set(dropped.values()) == {"reward below the quantile, and judge undecided"}
    assert funnel[0]["report"]["undecided"] == 3
    kept, dropped, funnel = run(rows, {"self_filter": {"votes": 3, "engine": scripted("?")}}, aids=aids())
    assert set(dropped.values()) == {"judge undecided"}
    assert funnel[0]["report"]["undecided"] == 4
    assert len(run(rows, {"self_filter": {"engine": scripted("?"), "undecided": "keep"}}, aids=aids())[0]) == 4


def test_what_was_judged_before_a_crash_is_not_judged_again(tmp_path: Path) -> None:
    class Dying:
        continuous = False
        asked = 0

        async def chat(self, messages: Any, sampling: Any) -> Any:
            from flywheel.types import Completion

            Dying.asked += 1
            if Dying.asked == 300:
                raise ConnectionError
            return [Completion.of("Score: 3")]

        def close(self) -> None: ...

    rows = [row(i) for i in range(400)]
    with_scratch = Aids(engine=lambda option: Dying(), scratch=tmp_path)
    with pytest.raises(ConnectionError):
        run(rows, {"self_filter": {}}, aids=with_scratch)
    before = Dying.asked
    assert len(run(rows, {"self_filter": {}}, aids=with_scratch)[0]) == 400
    assert Dying.asked - before == 400 - 256  # the first portion was on disk


def test_a_judge_sees_the_whole_conversation_and_fields_of_the_row(tmp_path: Path) -> None:
    (tmp_path / "own.md").write_text(
        "---\nscale: [0, 1]\nmark: 1\n---\n{{ prompt }}|{{ response }}|{{ topic }}|{{ source }}\n"
    )
    messages = [
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
    ]
    rows = [row(0, question="q", messages=messages, data=json.dumps({"topic": "t"}))]
    text = "System: Be brief.\n\nUser: q\n\nAssistant: a\n\nUser: b|c|t|math"
    engine = {"use": "scripted", "extra": {"answers": {text: ["Score: 1"]}}}
    base = Aids(base=tmp_path, engine=aids().engine)
    assert run(rows, {"self_filter": {"rubric": "own.md", "engine": engine}}, aids=base)[0] == ["s000"]
    with pytest.raises(RecipeError, match="asks for 'topic'"):
        plain = [{k: v for k, v in rows[0].items() if k != "data"}]
        run(plain, {"self_filter": {"rubric": "own.md", "engine": engine}}, aids=base)
    with pytest.raises(RecipeError, match="needs an engine"):
        run(rows, {"self_filter": {}})


# -- difficulty and mix ------------------------------------------------------------------------------


def test_difficulty_keeps_a_band_and_shows_what_is_lost() -> None:
    rows = [row(i, pass_rate=rate) for i, rate in enumerate([0.0, 0.05, 0.5, 0.95, 1.0, None])]
    kept, dropped, funnel = run(rows, {"difficulty": {"max": 0.9, "ends": False}})
    assert kept == ["s002", "s003"]
    assert dropped == {"s000": "too hard", "s001": "too hard", "s004": "always solved", "s005": "difficulty undecided"}
    assert funnel[0]["report"]["before"]["0.9-1.0"] == 2
    assert funnel[0]["report"]["after"]["0.9-1.0"] == 0
    assert run(rows, {"difficulty": {}})[1] == {}


def test_each_problem_is_judged_once_for_its_difficulty() -> None:
    rows = [row(i, problem_id=f"p{i % 2}") for i in range(6)]
    engine = scripted("Score: 2")
    assert run(rows, {"difficulty": {"by": "judge", "min": 3, "engine": engine}}, aids=aids())[0] == []
    kept, _, funnel = run(rows, {"difficulty": {"by": "intentions", "engine": scripted("Score: 7")}}, aids=aids())
    assert len(kept) == 6
    assert funnel[0]["report"]["before"] == {"7": 6}


def test_a_mix_has_the_wanted_proportions() -> None:
    sources = ["general"] * 50 + ["code"] * 30 + ["math"] * 12 + ["odd"] * 3
    rows = [row(i, source=source, score=i / 100) for i, source in enumerate(sources)]
    weights = {"general": 0.5, "code": 0.25, "math": 0.25}
    kept, dropped, funnel = run(rows, {"mix": {"weights": weights}})
    left = [sources[int(id[1:])] for id in kept]
    assert {name: left.count(name) for name in set(left)} == {"general": 24, "code": 12, "math": 12}
    assert kept[0] == "s026"  # the best of each group stay
    assert dropped["s092"] == "no weight: odd"
    assert funnel[0]["report"]["general"] == [50, 24]
    assert len(run(rows, {"mix": {"weights": weights, "total": 20}})[0]) == 20
    assert len(run(rows, {"mix": {"weights": {**weights, "odd": 0.25}, "scarce": 3}})[0]) == 51
    assert len(run(rows, {"mix": {"weights": {"math/p90": 1, "math/p91": 1}, "by": ["source", "problem_id"]}})[0]) == 2


def test_notes_and_ranks_do_not_depend_on_order() -> None:
    rows = Rows.of([row(2), row(10, sample_id="s10"), row(1)])
    assert rows.rank.tolist() == [2, 0, 1]  # the shorter id first
    assert np.array_equal(rows.quality(), [1.0, 1.0, 1.0])
    assert np.array_equal(rows.difficulty(), [0.5, 0.5, 0.5])
    sink = Kept()
    assert run_chain([], rows, sink) == [] and sink.rows() == []


def test_values_of_the_task_and_the_rollout_can_be_columns() -> None:
    rows = [row(i, problem_data=json.dumps({"topic": "ab"[i % 2], "level": i}), data='{"votes": 3}') for i in range(6)]
    _, _, funnel = run(rows, {"mix": {"by": ["problem.topic", "data.votes"], "weights": {"a/3": 1, "b/3": 0.5}}})
    assert funnel[0]["report"] == {"a/3": [3, 3], "b/3": [3, 2]}
    assert len(run(rows, {"quality": {"reward": "problem.level", "per": "problem.topic"}})[0]) == 2
    with pytest.raises(DataError, match=r"problem\.topic"):
        run([row(0)], {"mix": {"by": "problem.topic", "weights": {"a": 1}}})


def test_a_filter_that_is_listed_twice_has_two_names() -> None:
    filters = make_filters([{"format": {}}, {"length": {}}, {"format": {"forbid": ["x"]}}], verified=False)
    assert [name for name, _ in filters] == ["format", "length", "format (2)"]


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "recipes" / "curation").glob("*.yaml")), ids=str)
def test_shipped_curations_are_right(file: Path) -> None:
    assert make_filters(load_filters(file), file.parent, verified=False)
