"""What the parts of a math rollout share: one problem, the policy, and ways to ask and to verify."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from flywheel.errors import NoAnswer
from flywheel.tasks.base import Policy
from flywheel.tasks.math.kit import Kit
from flywheel.types import Completion, Message, Problem, Verdict


class Solver(Protocol):
    """What a rollout needs of the math task."""

    kit: Kit

    def ask(self, question: str) -> list[Message]:
        """The prompt for a question."""
        ...

    def verify_many(self, asks: Sequence[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        """Verdicts, in order; safe to call from several threads."""
        ...


@dataclass(frozen=True)
class Attempt:
    """One problem at work."""

    task: Solver
    problem: Problem
    policy: Policy

    @property
    def question(self) -> str:
        return str(self.problem.data["question"])

    @property
    def answer(self) -> str | None:
        """The gold final answer."""
        answer = self.problem.data.get("answer")
        return None if answer is None else str(answer)

    async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]:
        """As the policy answers; a request that fails costs its own completions, not those that are there already."""
        wanted = overrides.get("n", self.policy.sampling.n)
        return await answered(self.policy.chat(messages, **overrides), wanted)

    async def verify(self, completions: Sequence[Completion], problem: Problem | None = None) -> list[Verdict]:
        """Verdicts, in order; completions that the engine could not give are undecided."""
        asks = [(problem or self.problem, c) for c in completions if c.finish != "abort"]
        timeout = self.task.kit.options.timeout
        if self.policy.continuous:
            found = iter(await asyncio.to_thread(self.task.verify_many, asks, timeout))
        else:  # what is asked next belongs to the same batch whatever the clock says
            found = iter(self.task.verify_many(asks, timeout))
        return [Verdict.undecided(f"no answer: {c.error}") if c.finish == "abort" else next(found) for c in completions]


async def answered(request: Awaitable[list[Completion]], n: int) -> list[Completion]:
    """What a request brings, or n completions that say why it brought nothing."""
    try:
        return await request
    except NoAnswer as error:
        return [Completion.missing(error.message)] * n


def mark(completion: Completion, **data: Any) -> Completion:
    """The completion, with more of what is known of it."""
    return replace(completion, data={**completion.data, **data})


def distinct(completions: Iterable[Completion]) -> list[Completion]:
    """The first of each text."""
    by_text: dict[str, Completion] = {}
    for completion in completions:
        by_text.setdefault(completion.text, completion)
    return list(by_text.values())
