"""Semantic deduplication of vectors: the best row of each neighbourhood stays (Llama 3 §4.2.3, SemDeDup).

Rows come best first. Each in turn stays unless its cosine to a row before it reaches the threshold: to one that was
kept (so every removed row has a kept near-duplicate to name), or to any that was seen, which is Llama 3's wording. What
differs from the paper: rows are compared not only within their k-means cluster but also with the clusters behind whose
border a neighbour may lie (``clusters.py``), since a pair that a border divides would otherwise stay twice.

The pass is the sequential one, computed in blocks: a block is compared with what earlier blocks kept, then the pairs
within it are settled in order. Memory is that of the vectors, which are sorted in place, and a few numbers per row.

On a GPU there are no clusters: all pairs are compared (``engines/neighbours.py``), and none is missed.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from flywheel.curate.clusters import Clusters, find_clusters, one_cluster
from flywheel.devices import visible_gpus

if TYPE_CHECKING:
    from flywheel.engines.neighbours import Neighbours

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Found = tuple[Ints, Ints, Floats]
"""Rows, what each is near to, and the cosines."""
Against = Literal["kept", "seen"]

EXACT_ROWS = 16_384
"""Up to here every pair is compared."""
FIRST_BLOCK = 32_768
SMALLEST_BLOCK = 2_048
MOST_PAIRS = 8_000_000
"""Near-duplicate pairs held at once; a block that has more is halved."""
SCORES = 1 << 20
"""Cosines computed at once by a thread: what its cache holds."""
REFERENCES = 4096
COLUMNS = 32
TOLERANCE = 1e-6
"""float32's error in a cosine: equal rows must be found at a threshold of 1 as well."""


@dataclass(frozen=True)
class Removed:
    """The rows that go, in ascending order.

    Attributes:
        rows: places in the given order.
        by: for each a near-duplicate before it: a kept one, or with ``against="seen"`` any.
        cosine: of the two.
        cluster: of the removed row.
        clusters: how many clusters there were; 1: every pair was compared.
        probed: clusters that a row was compared with, on average.
    """

    rows: Ints
    by: Ints
    cosine: Floats
    cluster: NDArray[np.int32]
    clusters: int
    probed: float


def check_threshold(threshold: float) -> None:
    """Raises:
    ValueError: it is not in (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, not {threshold}")


def deduplicate(
    vectors: Floats,
    threshold: float = 0.9,
    against: Against = "kept",
    *,
    seed: int = 0,
    overwrite: bool = False,
    device: str | None = None,
) -> Removed:
    """Find the near-duplicates among unit vectors.

    Args:
        vectors: (n, d), each of norm 1, best row first.
        threshold: cosine from which a row is a duplicate, in (0, 1].
        against: compare a row with those "kept" so far, or all "seen" so far.
        seed: of k-means. Same vectors, same order, same seed, same number of cores: same result.
        overwrite: the vectors may be sorted in place and partly lost, which spares a copy of them.
        device: where all pairs are compared, as torch names it; None is a GPU that has room for them, if there is one
            and it pays, else clusters on the processor.

    Raises:
        ValueError: a wrong threshold or shape.
        ImportError: faiss or threadpoolctl is not installed; the ``curate`` extra brings them.
    """
    check_threshold(threshold)
    if against not in ("kept", "seen"):
        raise ValueError(f"against must be 'kept' or 'seen', not {against!r}")
    if vectors.ndim != 2:
        raise ValueError(f"vectors must be (rows, dimensions), not {vectors.shape}")
    limit = min(threshold, 1 - TOLERANCE)
    device = device or _gpu_for(vectors)
    if device is not None:
        from flywheel.engines.neighbours import Neighbours  # torch, for those who have use for it

        whole = _AllPairs(Neighbours(np.ascontiguousarray(vectors, np.float32), limit, device), len(vectors), against)
        whole.run()
        return whole.removed(np.zeros(len(vectors), np.int32), 1, 1.0)
    work = vectors if overwrite and vectors.dtype == np.float32 else np.array(vectors, np.float32)
    with _threads() as pool:
        clusters = (
            one_cluster(len(work)) if len(work) <= EXACT_ROWS else find_clusters(work, threshold, pool, seed=seed)
        )
        greedy = _Clustered(work, clusters, limit, against, pool)
        greedy.run()
    return greedy.removed(clusters.home, clusters.count, 1 + len(clusters.guests) / max(1, len(work)))


def _gpu_for(vectors: Floats) -> str | None:
    """A GPU that all pairs of these rows are compared on; few of them are done before it has woken up."""
    if len(vectors) <= EXACT_ROWS or not visible_gpus():
        return None
    from flywheel.engines.neighbours import room_for

    rows, dimensions = vectors.shape
    return "cuda" if room_for(rows, dimensions, "cuda") else None


class _Pass(ABC):
    """The pass over all rows, whose ranks count them best first."""

    growth = 2
    """How much larger each block is than the one before it."""

    def __init__(self, rows: int, against: Against) -> None:
        self._seen = against == "seen"
        self.gone = np.zeros(rows, bool)
        self.by = np.full(rows, -1, np.int64)
        self.cosine = np.zeros(rows, np.float32)

    def run(self) -> None:
        first, size = 0, FIRST_BLOCK
        while first < len(self.gone):
            self._block(first, min(first + size, len(self.gone)))
            first, size = first + size, self.growth * size

    def removed(self, home: NDArray[np.int32], clusters: int, probed: float) -> Removed:
        rows = np.flatnonzero(self.gone)
        return Removed(rows, self.by[rows], np.minimum(self.cosine[rows], 1.0), home[rows], clusters, probed)

    def _block(self, first: int, last: int) -> None:
        """Decide the rows of these ranks, then make references of them."""
        self._remove(self._hits(first, last))
        pairs = self._pairs(first, last, MOST_PAIRS if last - first > SMALLEST_BLOCK else SMALLEST_BLOCK**2)
        if pairs is None:
            middle = (first + last) // 2
            self._block(first, middle)
            self._block(middle, last)
            return
        row, by, cosine = pairs
        if not self._seen:
            kept = _settle(row, by, first, last)
            witnessed = kept[by - first]
            row, by, cosine = row[witnessed], by[witnessed], cosine[witnessed]
        self._remove((row, by, cosine))
        self._refer(first, last)

    def _remove(self, found: Found) -> None:
        """Of each row's duplicates the nearest is recorded, of equally near ones the best."""
        row, by, cosine = found
        order = np.lexsort((by, -cosine, row))
        order = order[np.unique(row[order], return_index=True)[1]]
        self.gone[row[order]], self.by[row[order]], self.cosine[row[order]] = True, by[order], cosine[order]

    @abstractmethod
    def _hits(self, first: int, last: int) -> Found:
        """Rows of these ranks that are near to a reference, with a near one for each."""

    @abstractmethod
    def _pairs(self, first: int, last: int, most: int) -> Found | None:
        """Near-duplicates within a block, as (later, earlier, cosine); None if they are more than ``most``."""

    @abstractmethod
    def _refer(self, first: int, last: int) -> None:
        """Later rows are compared with these: with all, or with those that were kept."""


class _AllPairs(_Pass):
    """On a device, without clusters."""

    growth = 1  # large blocks save nothing there, and a dense mass has fewer pairs in small ones

    def __init__(self, neighbours: Neighbours, rows: int, against: Against) -> None:
        super().__init__(rows, against)
        self._neighbours = neighbours

    def _hits(self, first: int, last: int) -> Found:
        return self._neighbours.hits(np.arange(first, last))

    def _pairs(self, first: int, last: int, most: int) -> Found | None:
        return self._neighbours.pairs(self._alive(first, last), self._counting(first, last), most)

    def _refer(self, first: int, last: int) -> None:
        self._neighbours.refer(self._counting(first, last))

    def _counting(self, first: int, last: int) -> Ints:
        """The rows of these ranks that remove others."""
        return np.arange(first, last) if self._seen else self._alive(first, last)

    def _alive(self, first: int, last: int) -> Ints:
        return first + np.flatnonzero(~self.gone[first:last])


class _Clustered(_Pass):
    """On the processor, cluster by cluster. Positions are where the rows' vectors lie now.

    A cluster's vectors are contiguous and by rank. Its first ``filled[c]`` positions hold references, the rows that
    later ones are compared with: kept rows are moved forward over removed ones as the pass goes on.
    """

    def __init__(
        self, vectors: Floats, clusters: Clusters, limit: float, against: Against, pool: ThreadPoolExecutor
    ) -> None:
        count = len(vectors)
        super().__init__(count, against)
        self._limit, self._pool, self._clusters = np.float32(limit), pool, clusters
        self._rank = np.argsort(clusters.home, kind="stable")
        self._starts = np.searchsorted(clusters.home[self._rank], np.arange(clusters.count + 1))
        if clusters.count > 1:
            _sort_in_place(vectors, self._rank)
        self._vectors = vectors
        self._references = self._rank.copy()
        self._position = np.empty(count, np.int64)
        self._position[self._rank] = np.arange(count)
        self._filled = np.zeros(clusters.count, np.int64)

    def _hits(self, first: int, last: int) -> Found:
        return self._gather(self._near_references, first, last)

    def _pairs(self, first: int, last: int, most: int) -> Found | None:
        self._left = most
        pairs = self._gather(self._near_pairs, first, last)
        # Threads that count down at once may lose a step, so what is left can be too much, never too little.
        return pairs if self._left >= 0 and len(pairs[0]) <= most else None

    def _refer(self, first: int, last: int) -> None:
        for cluster in range(self._clusters.count):
            self._refer_cluster(cluster, first, last)

    def _gather(self, task: Callable[[int, int, int], list[tuple[Any, ...]]], first: int, last: int) -> Found:
        """What a task finds in all clusters: rows, what they are near to, and the cosines."""
        found = [f for part in self._pool.map(lambda c: task(c, first, last), self._by_size()) for f in part]
        if not found:
            return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
        row, by, cosine = (np.concatenate([f[i] for f in found]) for i in range(3))
        return row, by, cosine

    def _by_size(self) -> list[int]:
        sizes = np.diff(self._starts) + np.diff(self._clusters.bounds)
        order: list[int] = np.argsort(-sizes, kind="stable").tolist()  # large ones first: threads end together
        return order

    def _home(self, cluster: int, first: int, last: int) -> Ints:
        """A cluster's own rows of these ranks."""
        own: Ints = self._rank[self._starts[cluster] : self._starts[cluster + 1]]
        return own[np.searchsorted(own, first) : np.searchsorted(own, last)]

    def _queries(self, cluster: int, first: int, last: int) -> Ints:
        """The undecided rows of these ranks that are compared with a cluster, in order: its own and its guests."""
        bounds = self._clusters.bounds
        guests = self._clusters.guests[bounds[cluster] : bounds[cluster + 1]]
        guests = guests[np.searchsorted(guests, first) : np.searchsorted(guests, last)]
        rows = np.sort(np.concatenate([self._home(cluster, first, last), guests.astype(np.int64)]))
        undecided: Ints = rows[~self.gone[rows]]
        return undecided

    def _near_references(self, cluster: int, first: int, last: int) -> list[tuple[Any, ...]]:
        """Task: each query's nearest reference, where it is near enough.

        The best references first: in a dense mass they settle nearly all, and the others need not be asked.
        """
        queries = self._queries(cluster, first, last) if self._filled[cluster] else np.empty(0, np.int64)
        start = int(self._starts[cluster])
        end = start + int(self._filled[cluster])
        found: list[tuple[Any, ...]] = []
        for base in range(start, end, REFERENCES):
            here = slice(base, min(base + REFERENCES, end))
            missed = [queries[:0]]
            step = max(16, SCORES // (here.stop - here.start))
            for at in range(0, len(queries), step):
                rows = queries[at : at + step]
                scores = self._vectors[self._position[rows]] @ self._vectors[here].T
                near = scores.max(axis=1) >= self._limit
                missed.append(rows[~near])
                if near.any():
                    scores = scores[near]
                    nearest = scores.argmax(axis=1)
                    found.append(
                        (rows[near], self._references[here][nearest], scores[np.arange(len(nearest)), nearest])
                    )
            queries = np.concatenate(missed)
        return found

    def _near_pairs(self, cluster: int, first: int, last: int) -> list[tuple[Any, ...]]:
        """Task: the pairs of each query with rows of the cluster that come before it in the block."""
        others = self._home(cluster, first, last)
        if not self._seen:
            others = others[~self.gone[others]]
        queries = self._queries(cluster, first, last)
        if not len(others) or not len(queries):
            return []
        vectors = self._vectors[self._position[others]]
        found: list[tuple[Any, ...]] = []
        step = max(16, min(SCORES // len(others), -(-len(queries) // 4)))  # four at least: half of the pairs are idle
        for at in range(0, len(queries), step):
            rows = queries[at : at + step]
            before = int(np.searchsorted(others, rows[-1]))
            if not before or self._left < 0:
                continue
            scores = self._vectors[self._position[rows]] @ vectors[:before].T
            near = np.flatnonzero(scores.max(axis=1) >= self._limit)
            query, other = np.nonzero(scores[near] >= self._limit)
            query = near[query]
            earlier = others[other] < rows[query]
            query, other = query[earlier], other[earlier]
            self._left -= len(query)
            if len(query):
                found.append((rows[query], others[other], scores[query, other]))
        return found

    def _refer_cluster(self, cluster: int, first: int, last: int) -> None:
        """A cluster's rows of these ranks that become references, moved together."""
        rows = self._home(cluster, first, last)
        if not self._seen:
            rows = rows[~self.gone[rows]]
        start = self._starts[cluster] + self._filled[cluster]
        here = slice(start, start + len(rows))
        if not self._seen:
            self._vectors[here] = self._vectors[self._position[rows]]
        self._references[here] = rows
        self._filled[cluster] += len(rows)


def _settle(row: Ints, by: Ints, first: int, last: int) -> NDArray[np.bool_]:
    """Which rows of a block stay, given its near-duplicate pairs: those that no earlier row that stays is near to.

    All rows at once, as far as they do not wait for each other, and again until none is open.
    """
    row, by = row - first, by - first
    stays = np.ones(last - first, bool)
    open_ = np.zeros(last - first, bool)
    open_[row] = True
    while len(row):
        decided = ~open_[by]
        goes = row[decided & stays[by]]
        stays[goes] = open_[goes] = False
        left = open_[row] & (open_[by] | stays[by])
        row, by = row[left], by[left]
        waits = np.zeros(len(open_), bool)
        waits[row] = True
        open_ &= waits
    return stays


def _sort_in_place(vectors: Floats, order: Ints) -> None:
    """``vectors[:] = vectors[order]`` with little memory beside it."""
    for first in range(0, vectors.shape[1], COLUMNS):
        vectors[:, first : first + COLUMNS] = vectors[order, first : first + COLUMNS]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """One thread per core, each with a BLAS of one thread: many small products are faster so than one at a time."""
    from threadpoolctl import threadpool_limits

    cores = len(os.sched_getaffinity(0))
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(cores) as pool:
        yield pool
