"""What a user is promised of curation: nothing vanishes without a reason, and pairs mean what they say."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.curate import make_filters, make_pairs, run_filters
from flywheel.errors import RecipeError
from flywheel.types import Completion, Group, Pair, Problem, Sample, Verdict


def sample_row(i: int, problem: str = "p", **fields: Any) -> dict[str, Any]:
    row = {
        "sample_id": f"s{i:03d}",
        "problem_id": problem,
        "text": f"text {i}",
        "tokens": 5,
        "finish": "stop",
        "score": 1.0,
        "passed": True,
        "reason": "",
        "pass_rate": 0.5,
    }
    return {**row, **fields}


def kept(name: str, rows: list[dict[str, Any]], **options: Any) -> list[str]:
    survivors, _, _ = run_filters(make_filters([{name: options}]), rows)
    return [row["sample_id"] for row in survivors]


ROWS = st.lists(
    st.builds(
        dict,
        problem_id=st.sampled_from("pqr"),
        text=st.sampled_from(["a", " a", "b", "c d", "cd"]),
        tokens=st.integers(1, 4),
        finish=st.sampled_from(["stop", "length"]),
        passed=st.sampled_from([True, True, False, None]),
        pass_rate=st.sampled_from([None, 0.0, 0.25, 1.0]),
    ),
    max_size=30,
).map(lambda fields: [sample_row(i, f.pop("problem_id"), **f) for i, f in enumerate(fields)])

CHAINS = st.lists(
    st.sampled_from(
        [
            {"exact_duplicates": {}},
            {"exact_duplicates": {"ignore_space": False}},
            {"cap_per_problem": {"keep": 1}},
            {"cap_per_problem": {"keep": 2, "prefer": "shortest"}},
            {"pass_rate": {"min": 0.2, "max": 0.9}},
            {"finished": {}},
        ]
    ),
    max_size=4,
)


@settings(deadline=None)
@given(ROWS, CHAINS)
def test_every_row_is_kept_or_dropped_exactly_once(rows: list[dict[str, Any]], chain: list[Any]) -> None:
    survivors, dropped, funnel = run_filters(make_filters(chain), rows)
    ids = Counter(row["sample_id"] for row in [*survivors, *dropped])
    assert ids == Counter(row["sample_id"] for row in rows)
    assert all(row["reason"] and row["filter"] for row in dropped)
    assert funnel[0]["rows_in"] == len(rows)
    assert funnel[-1]["kept"] == len(survivors)
    assert [step["rows_in"] for step in funnel[1:]] == [step["kept"] for step in funnel[:-1]]
    assert len(dropped) == sum(step["rows_in"] - step["kept"] for step in funnel)


@settings(deadline=None)
@given(ROWS, CHAINS)
def test_only_verified_rows_survive_and_what_replaced_a_row_did_too_until_then(
    rows: list[dict[str, Any]], chain: list[Any]
) -> None:
    survivors, dropped, _ = run_filters(make_filters(chain), rows)
    assert all(row["passed"] is True for row in survivors)
    known = {row["sample_id"]: row for row in rows}
    for drop in dropped:
        if drop["removed_by"] is not None:
            assert known[drop["removed_by"]]["problem_id"] == drop["problem_id"]
            assert drop["removed_by"] != drop["sample_id"]


@settings(deadline=None)
@given(ROWS, CHAINS)
def test_the_same_rows_give_the_same_result_in_the_same_order(rows: list[dict[str, Any]], chain: list[Any]) -> None:
    assert run_filters(make_filters(chain), rows) == run_filters(make_filters(chain), list(rows))


@settings(deadline=None)
@given(ROWS, CHAINS)
def test_the_order_of_rows_is_kept(rows: list[dict[str, Any]], chain: list[Any]) -> None:
    plain = [{k: {**v, **({"prefer": "first"} if k == "cap_per_problem" else {})} for k, v in f.items()} for f in chain]
    survivors, _, _ = run_filters(make_filters(plain), rows)
    ids = [row["sample_id"] for row in survivors]
    assert ids == sorted(ids)


def test_undecided_is_not_called_wrong() -> None:
    rows = [sample_row(0, passed=None, reason="timeout"), sample_row(1, passed=False, reason="no answer")]
    _, dropped, _ = run_filters(make_filters([]), rows)
    assert [row["reason"] for row in dropped] == ["undecided: timeout", "wrong: no answer"]


def test_a_duplicate_is_dropped_in_favour_of_the_first() -> None:
    rows = [sample_row(0, text="a b"), sample_row(1, text="ab"), sample_row(2, "q", text="ab")]
    _, dropped, _ = run_filters(make_filters([{"exact_duplicates": {}}]), rows)
    assert [(row["sample_id"], row["removed_by"]) for row in dropped] == [("s001", "s000")]
    assert kept("exact_duplicates", rows, ignore_space=False) == ["s000", "s001", "s002"]


def test_the_cap_counts_per_problem_and_may_prefer_short_answers() -> None:
    rows = [sample_row(i, "pq"[i % 2], tokens=10 - i) for i in range(8)]
    assert kept("cap_per_problem", rows, keep=2) == ["s000", "s001", "s002", "s003"]
    assert sorted(kept("cap_per_problem", rows, keep=1, prefer="shortest")) == ["s006", "s007"]


def test_the_pass_rate_band_includes_its_ends() -> None:
    rows = [sample_row(i, pass_rate=rate) for i, rate in enumerate([0.1, 0.2, 0.5, 0.8, 0.9, None])]
    assert kept("pass_rate", rows, min=0.2, max=0.8) == ["s001", "s002", "s003"]


def test_cut_off_answers_can_be_dropped() -> None:
    assert kept("finished", [sample_row(0, finish="length"), sample_row(1)]) == ["s001"]


def test_a_number_that_the_rollout_found_can_be_bounded() -> None:
    found = ['{"belief": 0.2}', '{"belief": 0.5}', '{"belief": 1.0}', '{"belief": null}', "{}", '{"belief": "yes"}']
    rows = [sample_row(i, data=data) for i, data in enumerate([*found, None])]
    assert kept("data", rows, field="belief", min=0.5) == ["s001", "s002"]
    assert kept("data", rows, field="belief", max=0.5, missing="keep") == ["s000", "s001", "s004", "s006"]
    nested = [sample_row(i, data='{"claim": {"agreed": %d}}' % i) for i in range(3)]  # noqa: UP031
    assert kept("data", nested, field="claim.agreed", min=1, max=1) == ["s001"]
    _, dropped, _ = run_filters(make_filters([{"data": {"field": "belief", "min": 0.5}}]), rows)
    assert {row["reason"] for row in dropped} == {
        "belief below 0.5",
        "belief is undecided",
        "belief is not a number",
        "no belief",
    }
    for wrong in ({"field": "x"}, {"field": "x", "min": 0, "missing": "ignore"}, {"min": 1}):
        with pytest.raises(RecipeError):
            make_filters([{"data": wrong}])


# -- pairs ---------------------------------------------------------------------------------------


def group(scores: list[float | None], texts: list[str] | None = None, gold: str | None = "gold") -> Group:
    problem = Problem.ask("p", "?", gold=gold)
    named = texts or [f"text {i}" for i in range(len(scores))]
    samples = [
        Sample(f"s{i}", "p", 1, Completion.of(text), Verdict(score, "r"))
        for i, (score, text) in enumerate(zip(scores, named, strict=True))
    ]
    return Group(problem, samples)


def pairs_of(strategy: str, one: Group, kept_ids: set[str] | None = None, most: int = 3, seed: int = 0) -> list[Pair]:
    chosen = {sample.id for sample in one.right} if kept_ids is None else kept_ids
    return list(make_pairs(strategy, [one], chosen, most, seed))


SCORES = st.lists(st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.0, None]), max_size=10)
STRATEGIES = ["right_vs_wrong", "best_vs_worst", "gold_vs_own", "step", "revised_vs_first"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(scores=SCORES, most=st.integers(1, 6), seed=st.integers(0, 3), data=st.data())
def test_pairs_are_distinct_bounded_and_chosen_from_what_was_kept(
    strategy: str, scores: list[float | None], most: int, seed: int, data: st.DataObject
) -> None:
    texts = [data.draw(st.sampled_from("abcdefgh")) for _ in scores]
    one = group(scores, texts)
    kept_ids = {s.id for s in one.right if data.draw(st.booleans())}
    pairs = pairs_of(strategy, one, kept_ids, most, seed)
    assert len(pairs) <= most
    assert len({pair.id for pair in pairs}) == len(pairs)
    for pair in pairs:
        assert pair.chosen.id in kept_ids or strategy == "gold_vs_own"
        assert pair.chosen.completion.text != pair.rejected.completion.text
        assert pair.rejected.problem_id == pair.chosen.problem_id == "p"
    assert pairs == pairs_of(strategy, one, kept_ids, most, seed)


def test_right_vs_wrong_never_rejects_what_is_undecided_or_right() -> None:
    one = group([1.0, None, 0.0, 1.0])
    pairs = pairs_of("right_vs_wrong", one, most=10)
    assert {(p.chosen.id, p.rejected.id) for p in pairs} == {("s0", "s2"), ("s3", "s2")}


@pytest.mark.parametrize(("right", "wrong"), [(1, 4), (4, 1), (3, 3), (2, 4), (4, 6)])
def test_right_vs_wrong_uses_every_completion_before_any_twice(right: int, wrong: int) -> None:
    one = group([1.0] * right + [0.0] * wrong)
    few = pairs_of("right_vs_wrong", one, most=min(right, wrong))
    assert len({p.chosen.id for p in few}) == len({p.rejected.id for p in few}) == len(few) == min(right, wrong)
    everything = pairs_of("right_vs_wrong", one, most=1000)
    assert len(everything) == right * wrong


@pytest.mark.parametrize("scores", [[1.0, 1.0], [0.0, 0.0], [None, None], [1.0, None], []])
def test_without_contrast_there_is_no_pair(scores: list[float | None]) -> None:
    assert pairs_of("right_vs_wrong", group(scores)) == []
    assert pairs_of("best_vs_worst", group(scores)) == []


def test_best_vs_worst_takes_the_extremes() -> None:
    one = group([0.5, 1.0, 0.0, None, 0.5])
    (pair,) = pairs_of("best_vs_worst", one, {"s1"}, most=5)
    assert (pair.chosen.id, pair.rejected.id) == ("s1", "s2")


def test_gold_is_preferred_to_the_policy_s_own_even_when_that_is_right() -> None:
    one = group([1.0, 0.0, 1.0], ["own way", "wrong", "gold"])
    pairs = pairs_of("gold_vs_own", one, set())
    assert {p.rejected.id for p in pairs} == {"s0", "s1"}
    assert {p.chosen.completion.text for p in pairs} == {"gold"}
    assert {p.chosen.id for p in pairs} == {"gold-p"}
    assert pairs_of("gold_vs_own", group([1.0, 0.0], gold=None), set()) == []


def test_step_pairs_contrast_ways_to_go_on_from_the_same_prefix() -> None:
    problem = Problem.ask("p", "?")

    def sample(name: str, text: str, right: bool | None, prefix: int | None = None) -> Sample:
        data = {} if prefix is None else {"prefix": prefix}
        score = None if right is None else float(right)
        return Sample(name, "p", 1, replace(Completion.of(text), data=data), Verdict(score, ""))

    samples = [
        sample("own", "a\nb\nwrong", False),
        sample("short", "a\nright", True, 1),
        sample("long", "a\nb\nright", True, 3),
        sample("also wrong", "a\nwrong", False, 1),
        sample("undecided", "a\nb\n?", None, 3),
        sample("elsewhere", "z\nwrong", False),
    ]
    one = Group(problem, samples)
    found = pairs_of("step", one, most=5)
    # From "a\nb" only two go on and differ; the longest prefix comes first.
    assert (found[0].chosen.id, found[0].rejected.id) == ("long", "own")
    assert len(found) == 2 and "elsewhere" not in {pair.rejected.id for pair in found}
    assert pairs_of("step", one, most=1) == found[:1]
    assert pairs_of("step", one, kept_ids={"own"}) == []
    assert pairs_of("step", group([1.0, 0.0])) == []  # nothing was continued


def test_a_pair_does_not_depend_on_other_problems() -> None:
    one = group([1.0, 1.0, 0.0, 0.0])
    other = Group(Problem.ask("q", "?"), [])
    kept_ids = {"s0", "s1"}
    alone = list(make_pairs("right_vs_wrong", [one], kept_ids, 2, 0))
    assert list(make_pairs("right_vs_wrong", [other, one], kept_ids, 2, 0)) == alone


def test_derived_material_is_paired_only_with_answers_to_the_same_prompt_and_does_not_count_as_an_attempt() -> None:
    problem = Problem.ask("p", "solve")
    other = [{"role": "user", "content": "translate"}]

    def sample(name: str, right: bool, **fields: Any) -> Sample:
        completion = Completion([{"role": "assistant", "content": name}], **fields)
        return Sample(name, "p", 1, completion, Verdict.right() if right else Verdict.wrong("no"))

    group = Group(
        problem,
        [
            sample("a", True),
            sample("b", False),
            sample("c", False),
            sample("d", True, kind="revision"),
            sample("t", True, kind="translation", prompt=other),
            sample("u", False, kind="translation", prompt=other),
        ],
    )
    assert group.pass_rate == pytest.approx(1 / 3)
    pairs = list(make_pairs("right_vs_wrong", [group], {s.id for s in group.samples}, 10, seed=0))
    assert {(p.chosen.id, p.rejected.id) for p in pairs} == {("a", "b"), ("a", "c"), ("d", "b"), ("d", "c"), ("t", "u")}
    assert {p.id: list(p.prompt) for p in pairs}["t>u"] == other


def test_what_mends_an_attempt_is_preferred_to_it_and_its_mistake_is_never_learned() -> None:
    problem = Problem.ask("p", "solve")

    def told(role: str, text: str) -> dict[str, str]:
        return {"role": role, "content": text}

    wrong = Sample("a", "p", 1, Completion.of("1/0"), Verdict.wrong("raises"))
    right = Sample("b", "p", 1, Completion.of("1"), Verdict.right())
    dialogue = [told("assistant", "1/0"), told("user", "it raises"), told("assistant", "one")]
    mended = Sample("c", "p", 1, Completion(dialogue, kind="revision"), Verdict.right())
    unmended = Sample("d", "p", 1, Completion([*dialogue[:2], dialogue[0]], kind="revision"), Verdict.wrong("no"))
    group = Group(problem, [wrong, right, mended, unmended])
    kept = {"b", "c"}
    after = [*problem.prompt, *dialogue[:2]]
    corrected = Sample("c", "p", 1, Completion(dialogue[2:], kind="revision", prompt=after), Verdict.right())
    for form in (mended, corrected):
        (pair,) = make_pairs("revised_vs_first", [Group(problem, [wrong, right, form, unmended])], kept, 5, seed=0)
        assert (pair.chosen.id, pair.rejected.id) == ("c", "a")
        assert list(pair.chosen.completion.messages) == dialogue[-1:]
        assert pair.prompt == problem.prompt
    both = list(make_pairs(["right_vs_wrong", "revised_vs_first"], [group], kept, 5, seed=0))
    assert {p.id for p in both} == {"b>a", "c>a"}
    assert list(make_pairs("revised_vs_first", [group], {"b"}, 5, seed=0)) == []


def test_a_cap_and_duplicates_are_told_apart_by_kind() -> None:
    rows = [
        sample_row(i, text="same", kind=kind) for i, kind in enumerate(["answer", "answer", "revision", "revision"])
    ]
    assert kept("exact_duplicates", rows) == ["s000", "s002"]
    rows = [{**row, "text": str(i)} for i, row in enumerate([*rows, sample_row(4, kind="answer")])]
    assert kept("cap_per_problem", rows, keep=1) == ["s000", "s002"]
