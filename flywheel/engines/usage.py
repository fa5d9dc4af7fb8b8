"""What a paid engine has used: counted for this process, and in a file for all that share a run."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from flywheel.recipe import Number, Section


class Prices(Section):
    """USD per million tokens."""

    input: Number = Field(ge=0, allow_inf_nan=False)
    output: Number = Field(ge=0, allow_inf_nan=False)


@dataclass
class Usage:
    """Answered requests, their tokens, and USD (0 without prices)."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0

    def add(self, prompt_tokens: int, completion_tokens: int, cost: float) -> None:
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.cost += cost


@dataclass
class Bill:
    """What was answered, by this process and by all that share a file.

    Args:
        path: JSONL, appended to and never rewritten; None counts this process alone.
        prices: USD per million tokens.
    """

    path: str | None
    prices: Prices | None
    own: Usage = field(default_factory=Usage)
    total: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._file: int | None = None
        self._read_to = 0  # bytes
        if self.path is not None:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            self.refresh()

    def add(self, server: str, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        spent = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, "cost": 0.0}
        if self.prices:
            priced = prompt_tokens * self.prices.input + completion_tokens * self.prices.output
            spent["cost"] = priced / 1e6
        self.own.add(**spent)  # type: ignore[arg-type]
        if self._file is None:
            self.total.add(**spent)  # type: ignore[arg-type]
            return
        entry = {"time": round(time.time(), 3), "server": server, "model": model, **spent}
        # One write of one short line: O_APPEND keeps those of several processes apart.
        os.write(self._file, (json.dumps(entry) + "\n").encode())

    def refresh(self) -> None:
        """Read what everyone, this process included, appended since the last time."""
        if self._file is None:
            return
        while block := os.pread(self._file, 1 << 20, self._read_to):
            whole = block[: block.rfind(b"\n") + 1]
            if not whole:
                return
            self._read_to += len(whole)
            for line in whole.splitlines():
                try:
                    entry = json.loads(line)
                    self.total.add(entry["prompt_tokens"], entry["completion_tokens"], entry["cost"])
                except (ValueError, KeyError, TypeError):
                    continue  # torn by a machine that went down

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
