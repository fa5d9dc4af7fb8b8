"""The filters that need nothing but a sample's own columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.rows import Batch, Rows


class Verified:
    """Keeps what the verifier passed. Always first, whatever the recipe says."""

    columns = ("passed", "reason")

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch in rows.scan("passed", "reason"):
            passed = batch.column("passed").cast(pa.bool_())
            out = pc.invert(pc.fill_null(passed, False))
            word = pc.if_else(pc.is_null(passed), "undecided: ", "wrong: ")
            said = pc.binary_join_element_wise(word, batch.text("reason"), "").filter(out)
            yield Drops(batch.ordinals[out.to_numpy(zero_copy_only=False)], said.to_pylist())


def _siblings(rows: Rows) -> NDArray[np.int64]:
    """A number per problem and kind, by ordinal; -1 for dead rows. Plain texts have neither, and are all alike."""
    if not rows.has("problem_id"):
        return np.where(rows.alive, 0, -1)
    problems, _ = rows.codes("problem_id")
    if not rows.has("kind"):
        return problems
    kinds, names = rows.codes("kind")
    return np.where(problems < 0, -1, problems * len(names) + kinds)


class ExactDuplicates:
    """Drops a completion that is kept already for the same problem and kind: of equal ones the first stays.

    Plain texts, which have no problems, are compared with all others.

    Args:
        ignore_space: treat texts that differ only in white space as equal.
    """

    columns = ("text",)

    def __init__(self, ignore_space: bool = True) -> None:
        self._ignore_space = ignore_space

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        codes = _siblings(rows)
        keys = np.zeros(rows.count, "V16")
        for batch, hashes in rows.map(self._hashes, "text"):
            keys[batch.ordinals] = hashes
        alive = np.flatnonzero(rows.alive)
        # Sorted by problem, text and rank: in each run of equal keys the first is the one that stays.
        halves = keys.view(np.uint64).reshape(-1, 2)
        order = alive[np.lexsort((rows.rank[alive], halves[alive, 1], halves[alive, 0], codes[alive]))]
        new = np.ones(len(order), bool)
        new[1:] = (codes[order][1:] != codes[order][:-1]) | (halves[order][1:] != halves[order][:-1]).any(axis=1)
        first = order[new][np.cumsum(new) - 1]
        yield Drops(order[~new], "same completion", by=first[~new])

    def _hashes(self, batch: Batch) -> NDArray[np.void]:
        texts = batch.text("text").to_pylist()
        if self._ignore_space:
            texts = ["".join(text.split()) for text in texts]
        return np.array([hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts], "V16")


class CapPerProblem:
    """Keeps at most ``keep`` rows of a problem, so that easy problems do not flood the mix (ReST-EM: 10).

    Args:
        keep: rows per problem, of each kind: plain attempts do not crowd out what was derived from them.
        prefer: "first" (sampling order), "shortest" (fewest tokens) or "best" (highest quality).
    """

    def __init__(self, keep: int = 4, prefer: str = "first") -> None:
        if keep < 1:
            raise ValueError("keep must be at least 1")
        if prefer not in ("first", "shortest", "best"):
            raise ValueError("prefer must be 'first', 'shortest' or 'best'")
        self._keep, self._prefer = keep, prefer
        self.columns = ("problem_id", "tokens") if prefer == "shortest" else ("problem_id",)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        codes = _siblings(rows)
        alive = np.flatnonzero(rows.alive)
        order = alive[np.lexsort((rows.rank[alive], self._worse(rows)[alive], codes[alive]))]
        yield Drops(order[places_within(codes[order]) >= self._keep], f"over the cap of {self._keep}")

    def _worse(self, rows: Rows) -> NDArray[np.float64]:
        if self._prefer == "shortest":
            return rows.numbers("tokens")
        return -rows.quality() if self._prefer == "best" else np.zeros(rows.count)


class PassRate:
    """Keeps problems whose pass rate lies in a band: what is always solved teaches little.

    Args:
        min: lowest pass rate kept; a single lucky hit may be a wrong chain with the right answer.
        max: highest pass rate kept.
    """

    columns = ("pass_rate",)

    def __init__(self, min: float = 0.0, max: float = 1.0) -> None:
        if not 0 <= min <= max <= 1:
            raise ValueError("needs 0 <= min <= max <= 1")
        self._min, self._max = min, max

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch in rows.scan("pass_rate"):
            rate = batch.numbers("pass_rate")
            low = np.isnan(rate) | (rate < self._min)
            high = ~low & (rate > self._max)
            yield Drops(batch.ordinals[low], "pass rate below the band")
            yield Drops(batch.ordinals[high], "pass rate above the band")


class Finished:
    """Drops completions that were cut off at the token limit."""

    columns = ("finish",)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch in rows.scan("finish"):
            cut = pc.not_equal(batch.text("finish"), "stop").to_numpy(zero_copy_only=False)
            yield Drops(batch.ordinals[cut], "cut off at max_tokens")


def places_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """0, 1, 2 … within each run of equal values of an array that is sorted by them."""
    places = np.arange(len(groups))
    starts = np.ones(len(groups), bool)
    starts[1:] = groups[1:] != groups[:-1]
    within: NDArray[np.int64] = places - np.maximum.accumulate(np.where(starts, places, 0))
    return within
