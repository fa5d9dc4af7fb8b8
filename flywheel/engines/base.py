"""The engine protocol, and the policy that a rollout talks to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from flywheel.types import Completion, Message, Sampling


class Engine(Protocol):
    """Answers chat requests, concurrently."""

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        """``sampling.n`` completions of one conversation. Concurrent calls are batched."""
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class EnginePolicy:
    """A checkpoint as one rollout sees it.

    Its seeds derive from the rollout's key and the number of the call, so a problem gets the same
    seeds whichever worker attempts it.
    """

    def __init__(self, engine: Engine, sampling: Sampling, key: str) -> None:
        self._engine = engine
        self._sampling = sampling
        self._key = key
        self._calls = 0

    async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]:
        seed = derive_seed(self._key, self._calls)
        self._calls += 1
        return await self._engine.chat(list(messages), replace(self._sampling, seed=seed, **overrides))


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable; equal parts give equal seeds on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
