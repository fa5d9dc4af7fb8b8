"""Chunks: small fixed batches of a long stage, claimed by whoever is free, each kept once written."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.files import read_rows
from flywheel.types import Problem


@dataclass(frozen=True)
class Job:
    """One pass over a file of problems.

    Attributes:
        name: prefix of the parts' names: ``NAME-00007.parquet``.
        problems: the Parquet file.
        samples: folder of the sampled parts.
        verdicts: folder of the verified parts.
        chunk: problems per part.
        count: problems in the file.
        mode: "sampled" or "greedy".
        prefix: start of the sample ids.
        evaluating: the samples measure the policy, and nobody trains on them.
    """

    name: str
    problems: Path
    samples: Path
    verdicts: Path
    chunk: int
    count: int
    mode: str
    prefix: str
    evaluating: bool = False

    def parts(self) -> list[str]:
        return [f"{self.name}-{i:05d}.parquet" for i in range((self.count + self.chunk - 1) // self.chunk)]

    def to_payload(self) -> dict[str, Any]:
        return {k: str(v) if isinstance(v, Path) else v for k, v in self.__dict__.items()}

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Job:
        paths = {key: Path(payload[key]) for key in ("problems", "samples", "verdicts")}
        return cls(**{**payload, **paths})

    def load(self) -> list[list[Problem]]:
        """The problems, chunk by chunk."""
        problems = [Problem.from_row(row) for row in read_rows(self.problems)]
        return [problems[i : i + self.chunk] for i in range(0, len(problems), self.chunk)]

    def missing(self, folder: Path) -> list[str]:
        return [part for part in self.parts() if not (folder / part).exists()]


def claim(folder: Path, session: str, part: str) -> bool:
    """Take a part for this worker; False if another of this launch has it.

    Claims belong to a launch: what a dead one had claimed is free again.
    """
    claims = folder / f".claims.{session}"
    claims.mkdir(exist_ok=True)
    try:
        os.close(os.open(claims / part, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True
