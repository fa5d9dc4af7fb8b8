"""Near-exact deduplication of texts by MinHash: cheap, and before anything is embedded.

A text is the set of its word n-grams. rensa makes signatures whose agreement estimates the Jaccard similarity of two
sets; rows that agree on all of a band of their signature are compared (locality-sensitive hashing). Best row first,
each stays unless it is similar enough to one that was kept.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.ngrams import blocks, mix, words

Signatures = NDArray[np.uint32]
RECALL = 0.995
"""Probability that a pair whose similarity is just the threshold is compared."""
MOST_OF_A_BUCKET = 64
"""Rows of a bucket that a later one is compared with. Larger buckets come of boilerplate that many rows share; what is
nearly equal meets in other buckets as well."""


@dataclass(frozen=True)
class NearExactRemoved:
    """The rows that go, the kept rows that they repeat, and the estimated similarities."""

    rows: NDArray[np.int64]
    by: NDArray[np.int64]
    similarity: NDArray[np.float32]


def signatures(texts: pa.Array, size: int, permutations: int, seed: int = 0) -> Signatures:
    """A signature per text: (n, permutations).

    Args:
        texts: strings without nulls.
        size: words per n-gram. A text of fewer words is one n-gram.
        permutations: numbers per signature; the estimate's standard error is at most 0.5 / sqrt(permutations).
        seed: of the permutations.
    """
    parts = [_block_signatures(block, size, permutations, seed) for _, block in blocks(texts)]
    return np.concatenate(parts) if parts else np.empty((0, permutations), np.uint32)


def _block_signatures(texts: pa.Array, size: int, permutations: int, seed: int) -> Signatures:
    from rensa import RMinHash

    split = words(texts)
    hashes, valid = split.ngrams(size)
    counts = np.bincount(split.rows()[valid], minlength=len(texts))
    short = counts == 0
    tokens, offsets = hashes[valid], np.zeros(len(texts) + 1, np.int64)
    if short.any():
        tokens = np.insert(tokens, np.cumsum(counts)[short], split.whole()[short])
        counts[short] = 1
    np.cumsum(counts, out=offsets[1:])
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(tokens, offsets, permutations, seed)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(texts), permutations)


def near_exact(signed: Signatures, threshold: float) -> NearExactRemoved:
    """Greedy pass over signatures, best row first.

    Raises:
        ValueError: the threshold is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")
    keys, shared, candidates = _buckets(signed, _band_size(threshold, signed.shape[1]))
    kept: defaultdict[int, list[int]] = defaultdict(list)
    removed: list[tuple[int, int, float]] = []
    for i, row in enumerate(candidates.tolist()):
        own = keys[i, shared[i]].tolist()
        found = sorted({other for key in own for other in kept.get(key, ())})
        if found:
            alike = (signed[found] == signed[row]).mean(axis=1)
            best = int(alike.argmax())
            if alike[best] >= threshold:
                removed.append((row, found[best], float(alike[best])))
                continue
        for key in own:
            if len(kept[key]) < MOST_OF_A_BUCKET:
                kept[key].append(row)
    table = np.array(removed, np.float64).reshape(-1, 3)
    return NearExactRemoved(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2].astype(np.float32))


def _band_size(threshold: float, permutations: int) -> int:
    """The largest band with which a pair at the threshold is still found: fewer false candidates than smaller ones."""
    for size in range(permutations, 1, -1):
        if 1 - (1 - threshold**size) ** (permutations // size) >= RECALL:
            return size
    return 1


def _buckets(signed: Signatures, size: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.int64]]:
    """Band keys of the rows that share one with another row, which of them are shared, and which rows these are."""
    bands = signed.shape[1] // size
    shared = np.zeros((len(signed), bands), bool)
    for band in range(bands):
        _, inverse, counts = np.unique(_keys(signed, band, size), return_inverse=True, return_counts=True)
        shared[:, band] = counts[inverse] > 1
    rows = np.flatnonzero(shared.any(axis=1))
    keys = np.empty((len(rows), bands), np.uint64)
    for band in range(bands):
        keys[:, band] = _keys(signed[rows, : bands * size], band, size)
    return keys, shared[rows], rows


def _keys(signed: Signatures, band: int, size: int) -> NDArray[np.uint64]:
    """One band of all rows as a number each, which differs from that of any other band."""
    key = np.full(len(signed), band + 1, np.uint64)
    for column in range(band * size, (band + 1) * size):
        key = mix(key + signed[:, column])
    return key
