"""Self-verification (Llama 3 section 4.3.3): the policy checks its own chains, and what it believes stays with them.

A row's ``belief`` is the share of the scale that the checks gave, 0 to 1. To train on nothing but what is right *and*
believed right, a recipe filters on it: ``curate: [{data: {field: belief, min: 0.5}}]``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from flywheel.tasks.math.attempt import Attempt, mark
from flywheel.tasks.math.options import SelfVerify
from flywheel.types import Completion
from flywheel.verify.judge import Judgement, Rubric, judge


async def believe(at: Attempt, completions: Sequence[Completion], options: SelfVerify) -> list[Completion]:
    """The completions, the right ones with their ``belief`` (None: the checks could not be read) and its ``checks``.

    What is wrong, or undecided, is never trained on, and not checked.
    """
    verdicts = await at.verify(completions)
    right = [i for i, verdict in enumerate(verdicts) if verdict.passed]
    checks = await asyncio.gather(*(_check(at, completions[i], options) for i in right))
    believed = {i: _data(at, check) for i, check in zip(right, checks, strict=True)}
    return [mark(c, **believed[i]) if i in believed else c for i, c in enumerate(completions)]


async def _check(at: Attempt, completion: Completion, options: SelfVerify) -> Judgement:
    question = str(completion.data.get("question", at.question))
    said = "\n\n".join(m["content"] for m in completion.messages)
    return await judge(at.policy, _rubric(at), votes=options.votes, prompt=question, response=said)


def _rubric(at: Attempt) -> Rubric:
    assert at.task.kit.rubric is not None  # there is one wherever there are options
    return at.task.kit.rubric


def _data(at: Attempt, check: Judgement) -> dict[str, object]:
    low, high = _rubric(at).scale
    belief = None if check.score is None else (check.score - low) / (high - low)
    return {"belief": belief, "checks": list(check.votes)}
