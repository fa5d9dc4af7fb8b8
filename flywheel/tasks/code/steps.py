"""The steps of a rollout: every completion is kept, with what it was made from."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from flywheel.errors import NoAnswer
from flywheel.sandbox.grading import Grade
from flywheel.tasks.base import Policy
from flywheel.tasks.code.options import Options
from flywheel.tasks.code.prompts import Prompts
from flywheel.tasks.code.running import Ask, Runner
from flywheel.tasks.code.spec import Spec
from flywheel.types import Completion, Message

T = TypeVar("T")


class Steps:
    """Completions in the order in which they become samples.

    ``data["parents"]`` of each are the places in this list of what it was made from: the column ``index`` of the same
    problem's samples.
    """

    def __init__(self) -> None:
        self._kept: list[Completion] = []

    def add(
        self,
        completion: Completion,
        kind: str,
        prompt: Sequence[Message] | None = None,
        parents: Sequence[int] = (),
        **data: Any,
    ) -> int:
        """Keep a completion; returns its place."""
        facts = {**completion.data, "parents": list(parents), **data}
        self._kept.append(replace(completion, kind=kind, prompt=prompt or completion.prompt, data=facts))
        return len(self._kept) - 1

    def note(self, index: int, **data: Any) -> None:
        """Add to what is known of a completion."""
        kept = self._kept[index]
        self._kept[index] = replace(kept, data={**kept.data, **data})

    def __getitem__(self, index: int) -> Completion:
        return self._kept[index]

    def all(self) -> list[Completion]:
        return list(self._kept)


@dataclass(frozen=True)
class Work:
    """What a rollout works with.

    Attributes:
        question: what is asked, in words.
        spec: the tests, frozen: nothing that the policy writes from here on changes them.
        asked: the conversation that asks for the program.
        derived: whether that is another than the problem's own prompt.
        base: the folder that relative paths start from.
    """

    options: Options
    prompts: Prompts
    runner: Runner
    policy: Policy
    question: str
    spec: Spec
    asked: Sequence[Message]
    derived: bool = False
    base: Path | None = None
    steps: Steps = field(default_factory=Steps)

    @property
    def prompt(self) -> Sequence[Message] | None:
        """The ``prompt`` of completions that answer the question."""
        return self.asked if self.derived else None

    @property
    def tested(self) -> dict[str, Any]:
        """What goes with a completion that these tests judge: the tests, where they are not the problem's own."""
        return {"spec": self.spec.to_data()} if self.derived else {}

    async def ask(self, messages: Sequence[Message]) -> Completion:
        """One answer."""
        return (await self.answers(messages, 1))[0]

    async def answers(self, messages: Sequence[Message], n: int) -> list[Completion]:
        """Several answers. Where the engine has none (``NoAnswer``) something stands for each, of finish "abort".

        So one request that cannot be answered ends what depends on it, and no more.
        """
        try:
            return await self.policy.chat(messages, n=n)
        except NoAnswer as error:
            return [Completion.missing(error.message)] * n

    async def grade_all(self, asks: Sequence[Ask], *, poison: bool | None = None) -> list[Grade]:
        """A grade per program, run together."""

        async def together() -> list[Grade]:
            return list(await asyncio.gather(*(self.runner.grade(*ask, poison=poison) for ask in asks)))

        return await self.wait_for(together())

    async def wait_for(self, running: Coroutine[Any, Any, T]) -> T:
        """Wait for what runs outside the policy, and asks it nothing.

        If the engine is not continuous nobody else goes on meanwhile: what is asked next belongs to the same batch
        whatever the clock says (``Policy.continuous``).
        """
        if self.policy.continuous:
            return await running
        with ThreadPoolExecutor(1) as thread:  # this thread's event loop is running already
            return thread.submit(asyncio.run, running).result()

    def draw(self, what: str) -> random.Random:
        """Random choices that depend on nothing but this rollout and what they are for."""
        return random.Random(f"{self.policy.key}:{what}")


@dataclass(frozen=True)
class Attempt:
    """A program with its grade.

    Attributes:
        index: of its completion among the steps; of a dialogue that goes on, of the last one that was kept.
        first: the same of the attempt that its dialogue began with.
        completion: as it was answered.
        program: what was run.
        grade: against the frozen tests.
    """

    index: int
    first: int
    completion: Completion
    program: str
    grade: Grade
