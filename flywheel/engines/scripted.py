"""An engine that answers from a script: for tests, ours and users' own."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

from flywheel.errors import DataError
from flywheel.types import Completion, Message, Sampling

Answer = Callable[[list[Message], Sampling], Sequence[str]]


class ScriptedEngine:
    """Looks the last user message up in a script.

    Args:
        script: a JSON file, ``{"question": ["answer", …]}``; the key ``"*"`` answers everything else.
        answers: the same as a mapping.
        answer: a function of messages and sampling, instead of a script.
        delay: seconds before each answer, to imitate a slow engine.
        seed: with several answers, which of them are drawn.
    """

    continuous = True

    def __init__(
        self,
        script: str | None = None,
        answers: dict[str, list[str]] | None = None,
        answer: Answer | None = None,
        delay: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._answers = dict(answers or {})
        if script is not None:
            try:
                self._answers |= json.loads(Path(script).read_text())
            except (OSError, ValueError, TypeError) as error:
                raise DataError(f"engine.extra.script {script}: {error}") from error
        self._answer = answer
        self._delay = delay
        self._seed = seed

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        if self._delay:
            await asyncio.sleep(self._delay)
        if self._answer is not None:
            texts = list(self._answer(messages, sampling))
        else:
            known = self._answers.get(messages[-1]["content"], self._answers.get("*", [""]))
            draw = random.Random(f"{self._seed}:{sampling.seed}")
            texts = [known[0] if sampling.temperature == 0 else draw.choice(known) for _ in range(sampling.n)]
        return [Completion.of(text, tokens=len(text.split())) for text in texts]

    def close(self) -> None:
        pass
