"""Self-consistency (Wang et al. 2022): where no answer is known, the one that most chains agree on is taken for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flywheel.tasks.math.attempt import Attempt, mark
from flywheel.tasks.math.claims import Claim, refuse
from flywheel.tasks.math.options import Vote
from flywheel.types import Completion, Problem
from flywheel.verify.math_extract import final_answer


async def vote(at: Attempt, answers: Sequence[Completion], options: Vote) -> list[Completion]:
    """The attempts at a problem without an answer, each with the majority's answer, or marked as undecidable."""
    claim = await majority(at, answers, at.problem)
    if claim is None:
        return [refuse(answer, "no answer is known, and no attempt has one") for answer in answers]
    share = claim.agreed / claim.attempts
    if share < options.agreement or claim.agreed < options.at_least:
        reason = f"no answer is known, and the attempts do not agree: {claim.agreed} of {claim.attempts}"
        return [refuse(answer, reason) for answer in answers]
    return [mark(answer, **claim.to_data()) for answer in answers]


async def majority(at: Attempt, attempts: Sequence[Completion], problem: Problem) -> Claim | None:
    """What most attempts agree on; of several answers that are equally frequent, the first given.

    Attempts without an answer count among those that do not agree.

    Args:
        at: asks the verifier which answers are the same.
        attempts: at the problem.
        problem: with any answer, or none.
    """
    left = [a for a in attempts if a.finish != "abort" and _answer(a.text) is not None]
    best: Claim | None = None
    while left and (best is None or len(left) > best.agreed):
        answer = str(_answer(left[0].text))
        held = replace(problem, gold=None, data={**problem.data, "answer": answer})
        same = [verdict.passed is True for verdict in await at.verify(left, held)]
        same[0] = True  # a verifier that cannot decide must not make the list endless
        if best is None or sum(same) > best.agreed:
            best = Claim(answer, sum(same), len(attempts))
        left = [a for a, agrees in zip(left, same, strict=True) if not agrees]
    return best


def _answer(text: str) -> str | None:
    """An answer that is marked as one, or has a number: that several chains say the same words is no agreement."""
    if (marked := final_answer(text, marked=True)) is not None:
        return marked.text
    found = final_answer(text)
    return found.text if found is not None and any(c.isdigit() for c in found.text) else None
