"""Drawing a round's problems: the next stretch, distinct, starting over when a split ends."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, cycle

import pytest

from flywheel.errors import TaskError
from flywheel.stages.problems import stretch
from flywheel.types import Problem


def numbers(last: int) -> list[Problem]:
    return [Problem.ask(str(n), f"{n}?") for n in range(last)]


def drawn(last: int, start: int, wanted: int) -> list[int]:
    return [int(p.id) for p in stretch(lambda: numbers(last), start, wanted, repeats=True)]


def test_rounds_follow_on() -> None:
    assert drawn(100, 0, 4) == [0, 1, 2, 3]
    assert drawn(100, 4, 4) == [4, 5, 6, 7]


def test_a_split_that_ends_starts_over_and_repeats_nothing_within_a_stretch() -> None:
    assert drawn(10, 8, 4) == [8, 9, 0, 1]
    assert drawn(10, 10, 3) == [0, 1, 2]
    assert drawn(10, 24, 3) == [4, 5, 6]
    assert sorted(drawn(10, 7, 50)) == list(range(10))


def test_an_empty_split_gives_nothing() -> None:
    assert drawn(0, 0, 5) == [] and drawn(0, 8, 5) == []


def test_an_endless_split_may_repeat_itself() -> None:
    def endless() -> Iterator[Problem]:
        for n, again in zip(count(), cycle([False, True]), strict=False):
            yield Problem.ask(str(n // 2), "first" if not again else "again")

    found = stretch(endless, 0, 3, repeats=True)
    assert [(p.id, p.prompt[0]["content"]) for p in found] == [("0", "first"), ("1", "first"), ("2", "first")]


def test_a_split_with_too_few_problems_does_not_hang() -> None:
    found = stretch(lambda: cycle(numbers(3)), 0, 5, repeats=True)
    assert len(found) == 3


def test_two_problems_behind_one_id_are_refused_where_nothing_may_repeat() -> None:
    twins = [Problem.ask("a", "one"), Problem.ask("a", "other"), Problem.ask("b", "two")]
    with pytest.raises(TaskError, match="two problems have the id 'a'"):
        stretch(lambda: twins, 0, 2, repeats=False)
