"""A balanced mix: how much of each task or source the training rows are to have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.curate.basic import places_within
from flywheel.curate.chain import Aids, Drops
from flywheel.curate.ngrams import words
from flywheel.curate.rows import Rows


class Mix:
    """Thins groups of rows out until their sizes are in the wanted proportions. Nothing is repeated.

    Args:
        weights: share of each group, by the value of `by`; they need not add up to 1.
        by: column of the groups, such as `source` or `kind`, or `problem.KEY` for what a task knows of its problems, or
            `data.KEY` for what the rollout knows of the sample; or several, whose values are joined with `/`.
        total: rows wanted at most, all groups together; null: as many as the proportions allow.
        scarce: groups with at most this many rows stay whole and do not hold the others back.
        others: `drop` or `keep` rows of groups without a weight.
        prefer: `best` (highest quality) or `random`, of the rows of a group.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        by: str | Sequence[str] = "source",
        total: int | None = None,
        scarce: int = 0,
        others: str = "drop",
        prefer: str = "best",
    ) -> None:
        if not weights or any(weight <= 0 for weight in weights.values()):
            raise ValueError("weights must be positive")
        if others not in ("drop", "keep") or prefer not in ("best", "random"):
            raise ValueError("others must be 'drop' or 'keep', and prefer 'best' or 'random'")
        scale = sum(weights.values())
        self._weights = {str(name): weight / scale for name, weight in weights.items()}
        self._total, self._scarce, self._others, self._prefer = total, scarce, others, prefer
        self.columns = (by,) if isinstance(by, str) else tuple(by)
        self.report: dict[str, Any] = {}

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        codes, names = self._groups(rows)
        alive = np.flatnonzero(rows.alive)
        counts = np.bincount(codes[alive], minlength=len(names))
        limits = self._limits(names, counts)
        self.report = {
            name: [int(n), int(min(n, limits[i]))] for i, (name, n) in enumerate(zip(names, counts, strict=True))
        }
        order = alive[np.lexsort((rows.rank[alive], self._worse(rows)[alive], codes[alive]))]
        over = places_within(codes[order]) >= limits[codes[order]]
        gone = order[over]
        yield Drops(
            gone,
            [
                f"over the share of {names[c]}" if names[c] in self._weights else f"no weight: {names[c]}"
                for c in codes[gone]
            ],
        )

    def _groups(self, rows: Rows) -> tuple[NDArray[np.int64], list[str]]:
        parts = [rows.codes(column) for column in self.columns]
        codes = parts[0][0]
        names = [str(name) for name in parts[0][1].to_pylist()]
        for more, values in parts[1:]:
            codes = np.where(codes < 0, -1, codes * max(1, len(values)) + more)
            names = [f"{name}/{value}" for name in names for value in values.to_pylist()]
        return codes, names

    def _limits(self, names: list[str], counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows that each group may have."""
        there = {
            name: int(n) for name, n in zip(names, counts, strict=True) if name in self._weights and n > self._scarce
        }
        total = min((n / self._weights[name] for name, n in there.items()), default=0.0)
        if self._total is not None:
            total = min(total, self._total)
        limits = counts.copy()
        for i, name in enumerate(names):
            if name in there:
                limits[i] = ceil(total * self._weights[name] - 1e-6)
            elif name not in self._weights and self._others == "drop":
                limits[i] = 0
        return limits

    def _worse(self, rows: Rows) -> NDArray[np.float64]:
        if self._prefer == "best":
            return -rows.quality()
        return words(rows.ids).whole().astype(np.float64)  # as good as random, and the same every time
