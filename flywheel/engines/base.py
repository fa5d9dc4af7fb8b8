"""The engine protocol, and the policy that a rollout talks to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flywheel.types import Completion, Message, Sampling


@dataclass(frozen=True)
class EngineSpec:
    """Which engine, and what it is told; plain data, so that it can cross to a worker.

    Attributes:
        use: a name in ``ENGINES``.
        model: checkpoint folder or hub id.
        dtype: "auto", "float32", …
        batch_size: most sequences at once.
        chat_template: Jinja source that replaces the tokenizer's, or None.
        threads: CPU threads; None is the library's default.
        tensor_parallel: devices that the model spans.
        max_model_len: most tokens of prompt and completion; None is the model's own limit.
        memory: share of the device's memory that the engine may take.
        seed: for engines whose batches share one random stream.
        extra: further arguments of the engine's class.
    """

    use: str
    model: str
    dtype: str = "auto"
    batch_size: int = 512
    chat_template: str | None = None
    threads: int | None = None
    tensor_parallel: int = 1
    max_model_len: int | None = None
    memory: float = 0.9
    seed: int = 0
    extra: dict[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Answers chat requests, concurrently.

    Attributes:
        continuous: whether requests may join and leave at any time without changing what the others get. If
            not, what is answered together is part of the result, and a sampler takes one chunk at a time.
    """

    continuous: bool

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        """``sampling.n`` completions of one conversation. Concurrent calls are batched.

        A conversation that ends with the assistant's own message is continued: the completions hold what follows.

        Raises:
            NoAnswer: this request failed for good; others may succeed.
            EngineFailed: no request can succeed any more.
        """
        ...

    def close(self) -> None:
        """Free the device; nothing of the engine is left when it returns."""
        ...


class EnginePolicy:
    """A checkpoint as one rollout sees it.

    Its seeds derive from the rollout's key and the number of the call, so a problem gets the same
    seeds whichever worker attempts it.
    """

    def __init__(self, engine: Engine, sampling: Sampling, key: str, evaluating: bool = False) -> None:
        self._engine = engine
        self.sampling = sampling
        self.key = key
        self.evaluating = evaluating
        self.continuous = engine.continuous
        self._calls = 0

    async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]:
        seed = derive_seed(self.key, self._calls)
        self._calls += 1
        return await self._engine.chat(list(messages), replace(self.sampling, seed=seed, **overrides))


def derive_seed(*parts: object) -> int:
    """A 63-bit seed from anything printable; equal parts give equal seeds on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
