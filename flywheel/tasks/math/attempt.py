"""What the parts of a math rollout share: one problem, the policy, and ways to ask and to verify."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
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
    _known: dict[str, Verdict] = field(default_factory=dict, compare=False, repr=False)

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
        """Verdicts, in order; completions that the engine could not give are undecided. The same is judged once."""
        asked = problem or self.problem
        new = {_key(asked, c): c for c in completions if _key(asked, c) not in self._known and c.finish != "abort"}
        if new:
            asks = [(asked, completion) for completion in new.values()]
            verify = partial(self.task.verify_many, asks, self.task.kit.options.timeout)
            # If the engine is not continuous: what is asked next belongs to the same batch whatever the clock says.
            found = await asyncio.to_thread(verify) if self.policy.continuous else verify()
            self._known.update(zip(new, found, strict=True))
        return [
            Verdict.undecided(f"no answer: {c.error}") if c.finish == "abort" else self._known[_key(asked, c)]
            for c in completions
        ]


def _key(problem: Problem, completion: Completion) -> str:
    """What a verdict depends on."""
    told = [completion.data.get(key) for key in ("claim", "question", "refused")]
    return json.dumps([problem.data.get("answer"), completion.text, completion.finish, told], sort_keys=True)


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
