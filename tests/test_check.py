"""What ``flywheel check`` finds in a task, and what it must not find."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flywheel.tasks import BaseTask, load_task
from flywheel.tasks.check import check_task
from flywheel.types import Completion, Problem, Verdict


class Doubling(BaseTask):
    """2n, with faults to order."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def problems(self, split: str) -> Iterator[Problem]:
        if self.fault == "raises":
            raise OSError("no such data")
        if self.fault == "empty":
            return
        for n in range(50):
            if (n % 5 == 0) == (split == "heldout") or self.fault == "overlap":
                gold = None if self.fault == "no gold" else str(2 * n)
                yield Problem.ask(f"d-{n}", f"{n}*2", gold=gold)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        if self.fault == "crashes":
            raise KeyError("gold")
        if self.fault == "says yes":
            return Verdict.right()
        if self.fault == "any number":
            return Verdict.right() if completion.text.isdigit() else Verdict.wrong("not a number")
        right = completion.text == problem.gold and self.fault != "says no"
        return Verdict.right() if right else Verdict.wrong("wrong")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raises", "raised OSError: no such data"),
        ("empty", "split 'heldout' has no problems"),
        ("overlap", "is both in 'heldout' and in 'train'"),
        ("no gold", "has no gold completion"),
        ("crashes", "undecided: verify raised KeyError"),
        ("says yes", "accepts the wrong answer ''"),
        ("any number", "accepts another problem's gold answer for"),
        ("says no", "does not accept the gold answer of d-"),
    ],
)
def test_each_fault_is_found(fault: str, said: str) -> None:
    findings = check_task(Doubling(fault), needs_demonstrations=True)
    assert any(said in finding for finding in findings), findings


def test_a_sound_task_has_no_findings() -> None:
    assert check_task(Doubling(), needs_demonstrations=True) == []


@pytest.mark.parametrize("style", ["terse", "chat"])
def test_the_shipped_tasks_are_sound(style: str) -> None:
    assert check_task(load_task("countdown", {"style": style, "operators": "+-*/"}), needs_demonstrations=True) == []
    assert check_task(load_task("addition", {"pad": style == "chat"}), needs_demonstrations=True) == []
