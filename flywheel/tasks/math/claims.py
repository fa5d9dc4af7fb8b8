"""What an answer is held against, where that is not the dataset's gold: an agreement of several attempts.

A rollout that makes a new question, or attempts one that has no answer, lets the policy answer several times. What
they agree on becomes a claim, kept in ``Completion.data`` with the completions that rest on it; verdicts say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flywheel.types import Completion, Problem, Verdict

SELF_CONSISTENCY = "self_consistency"
"""``Verdict.detail["level"]`` where the answer is what several attempts agreed on, and nobody knows it."""

Ask = tuple[Problem, Completion]


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer that several attempts agree on.

    Attributes:
        answer: what they agree on.
        agreed: how many of them.
        attempts: of how many.
        question: the question, if it is not the problem's own.
    """

    answer: str
    agreed: int
    attempts: int
    question: str | None = None

    def to_data(self) -> dict[str, Any]:
        """As ``Completion.data`` keeps it."""
        return {"claim": {"answer": self.answer, "agreed": self.agreed, "attempts": self.attempts}} | (
            {"question": self.question} if self.question is not None else {}
        )


def inherited(completion: Completion) -> dict[str, Any]:
    """The part of its data by which anything made from a completion is held against the same answer."""
    return {key: completion.data[key] for key in ("claim", "question") if key in completion.data}


def refuse(completion: Completion, reason: str) -> Completion:
    """The completion, marked as one that nothing can be said of."""
    return replace(completion, data={**completion.data, "refused": reason})


def judge_claims(
    verify_many: Callable[[Sequence[Ask], float], list[Verdict]], asks: Sequence[Ask], timeout: float
) -> list[Verdict]:
    """Verdicts in which claims stand in for gold answers.

    Args:
        verify_many: holds completions against the answers of their problems.
        asks: problems as they are in the dataset, and what was made of them.
        timeout: seconds per completion.

    Returns:
        Undecided for what a rollout refused; ``detail["level"]`` is ``SELF_CONSISTENCY`` where a claim was the measure.
    """
    refused = {i: str(c.data["refused"]) for i, (_, c) in enumerate(asks) if "refused" in c.data}
    rest = [i for i in range(len(asks)) if i not in refused]
    found = dict(zip(rest, verify_many([_held_against(*asks[i]) for i in rest], timeout), strict=True))
    return [
        Verdict.undecided(refused[i]) if i in refused else _marked(found[i], completion)
        for i, (_, completion) in enumerate(asks)
    ]


def _held_against(problem: Problem, completion: Completion) -> Ask:
    claim = completion.data.get("claim")
    if claim is None:
        return problem, completion
    question = completion.data.get("question", problem.data.get("question"))
    # The id stays: a derived row is filed under the problem that it came from.
    held = replace(problem, gold=None, data={**problem.data, "question": question, "answer": claim["answer"]})
    return held, completion


def _marked(verdict: Verdict, completion: Completion) -> Verdict:
    claim = completion.data.get("claim")
    if claim is None:
        return verdict
    return replace(verdict, detail={**verdict.detail, "level": SELF_CONSISTENCY, **claim})
