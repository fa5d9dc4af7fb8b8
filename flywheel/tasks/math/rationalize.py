"""Rationalization (STaR section 3.1): a problem that nobody solved is attempted again with its answer as a hint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flywheel.tasks.math.attempt import Attempt, mark
from flywheel.tasks.math.options import Rationalize
from flywheel.types import Completion


async def rationalize(at: Attempt, answers: Sequence[Completion], options: Rationalize) -> list[Completion]:
    """Hinted chains, if no attempt is right and the answer is known; trained on as answers to the plain problem."""
    if at.answer is None or any(verdict.passed for verdict in await at.verify(answers)):
        return []
    prompt = at.task.kit.prompts.ask("rationalize", question=at.question, answer=at.answer)
    chains = await at.chat(prompt, n=options.samples)
    return [replace(mark(chain, hint=at.answer), kind="rationalized") for chain in chains]
