"""What a user is promised of the numbers: the estimators are right, and the gate is not fooled by noise."""

from __future__ import annotations

import random
from itertools import combinations
from math import comb
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel.recipe import Promote
from flywheel.stages.metrics import pass_at_k, per_problem, summarise
from flywheel.stages.promote import decide


def brute_force(n: int, c: int, k: int) -> float:
    """Share of all subsets of k samples that hold a right one."""
    subsets = list(combinations([True] * c + [False] * (n - c), k))
    return sum(any(subset) for subset in subsets) / len(subsets)


@pytest.mark.parametrize("n", range(1, 9))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(n: int) -> None:
    for c in range(n + 1):
        for k in range(1, n + 1):
            assert pass_at_k(n, c, k) == pytest.approx(brute_force(n, c, k))


@given(st.integers(1, 200), st.data())
def test_pass_at_k_grows_with_k_and_with_right_samples(n: int, data: st.DataObject) -> None:
    c = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    assert 0 <= pass_at_k(n, c, k) <= 1
    assert pass_at_k(n, c, 1) == pytest.approx(c / n)
    if k < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c, k + 1)
    if c < n:
        assert pass_at_k(n, c, k) <= pass_at_k(n, c + 1, k)


def answers(problem: str, passed: list[bool | None], texts: str = "", mode: str = "sampled") -> list[dict[str, Any]]:
    named = texts or "abcdefgh"[: len(passed)]
    return [
        {"problem_id": problem, "kind": "answer", "mode": mode, "passed": verdict, "text": text, "tokens": 2 + i}
        for i, (verdict, text) in enumerate(zip(passed, named, strict=True))
    ]


def test_the_metrics_of_a_small_evaluation_by_hand() -> None:
    rows = [
        *answers("p", [True, True, False, False], "aabc"),
        *answers("p", [True], mode="greedy"),
        *answers("q", [False, False, False, None]),
        *answers("q", [False], mode="greedy"),
        *answers("r", [None, None, None, None]),
    ]
    metrics = summarise(per_problem(rows), completions=4)
    assert metrics["accuracy"] == 0.25  # a half and nothing; r, where nothing was decided, does not count
    assert metrics["greedy_accuracy"] == 0.5
    assert metrics["pass@2"] == pytest.approx((1 - comb(2, 2) / comb(4, 2)) / 2, abs=1e-6)
    assert metrics["pass@4"] == 1.0  # only p has four decided answers
    assert metrics["unique_correct"] == 0.5
    assert metrics["mean_tokens"] == 3.5
    assert metrics["undecided"] == pytest.approx(5 / 12, abs=1e-6)


def test_an_undecided_answer_is_never_counted_as_wrong() -> None:
    (entry,) = per_problem(answers("p", [True, None, None]))
    assert (entry["n"], entry["right"], entry["undecided"]) == (1, 1, 2)
    assert summarise([entry], 2)["accuracy"] == 1.0


def test_an_evaluation_without_verdicts_has_metrics_and_not_a_crash() -> None:
    assert summarise(per_problem(answers("p", [None])), 8)["accuracy"] == 0.0
    assert summarise([], 8)["undecided"] == 0.0


def entries(rates: list[float], n: int = 8) -> list[dict[str, Any]]:
    return [
        {"problem_id": f"p{i}", "n": n, "right": round(rate * n), "greedy": rate > 0.5} for i, rate in enumerate(rates)
    ]


def noisy(chances: list[float], seed: int, n: int = 8) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return entries([sum(draw.random() < chance for _ in range(n)) / n for chance in chances], n)


TESTS = ["paired_bootstrap", "mcnemar"]


@pytest.mark.parametrize("test", TESTS)
def test_a_clear_gain_is_promoted(test: Any) -> None:
    decision = decide(Promote(test=test), entries([0.25] * 128), entries([0.75] * 128), seed=0)
    assert decision.promoted
    assert decision.gain == pytest.approx(0.5)
    assert decision.confidence == pytest.approx(1.0)


@pytest.mark.parametrize("test", TESTS)
def test_no_gain_and_a_loss_keep_the_incumbent_and_say_why(test: Any) -> None:
    same = entries([0.25, 0.75] * 32)
    worse = entries([0.0, 0.5] * 32)
    for candidate in (same, worse):
        decision = decide(Promote(test=test, confidence=0.5), same, candidate, seed=0)
        assert not decision.promoted
        assert "does not exceed" in decision.why
        assert "64 held-out problems" in decision.why


@pytest.mark.parametrize("test", TESTS)
def test_noise_is_seldom_promoted(test: Any) -> None:
    chances = [random.Random(i).random() for i in range(128)]
    promoted = sum(
        decide(Promote(test=test, confidence=0.95), noisy(chances, 2 * i), noisy(chances, 2 * i + 1), seed=i).promoted
        for i in range(60)
    )
    assert promoted <= 9  # 60 x 0.05 are expected


def test_the_bootstrap_agrees_with_the_normal_approximation() -> None:
    draw = random.Random(1)
    differences = [draw.choice([-1, 0, 0, 0, 1, 1]) / 8 for _ in range(200)]
    before, after = entries([0.5] * 200), entries([0.5 + d for d in differences])
    mean = sum(differences) / 200
    deviation = (sum((d - mean) ** 2 for d in differences) / 200 / 200) ** 0.5
    decision = decide(Promote(), before, after, seed=0)
    assert decision.confidence == pytest.approx(NormalDist().cdf(mean / deviation), abs=0.02)


def test_mcnemar_is_the_exact_one_sided_test() -> None:
    # 9 problems won, 2 lost: p = P(X >= 9) for X ~ Binomial(11, 1/2).
    before = entries([0.0] * 9 + [1.0] * 2 + [1.0] * 20)
    after = entries([1.0] * 9 + [0.0] * 2 + [1.0] * 20)
    decision = decide(Promote(test="mcnemar", metric="greedy_accuracy"), before, after, seed=0)
    assert decision.confidence == pytest.approx(1 - sum(comb(11, i) for i in (9, 10, 11)) / 2**11)


def test_a_gain_must_exceed_the_asked_for_one() -> None:
    before, after = entries([0.25] * 64), entries([0.375] * 64)
    assert decide(Promote(min_gain=0.1), before, after, seed=0).promoted
    assert not decide(Promote(min_gain=0.125), before, after, seed=0).promoted


def test_always_promotes_always() -> None:
    assert decide(Promote(test="always"), entries([1.0] * 4), entries([0.0] * 4), seed=0).promoted


def test_only_problems_decided_for_both_are_compared() -> None:
    before = entries([0.0, 0.0, 1.0])
    after = [{**entry, "problem_id": f"p{i + 1}"} for i, entry in enumerate(entries([1.0, 1.0, 1.0]))]
    assert "2 held-out problems" in decide(Promote(), before, after, seed=0).why
    nothing = [{**entry, "n": 0} for entry in before]
    decision = decide(Promote(), before, nothing, seed=0)
    assert not decision.promoted
    assert "no held-out problem" in decision.why


def test_the_same_seed_gives_the_same_decision() -> None:
    before, after = noisy([0.5] * 50, 1), noisy([0.55] * 50, 2)
    assert decide(Promote(), before, after, 3) == decide(Promote(), before, after, 3)
