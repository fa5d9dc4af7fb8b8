"""Where near neighbours are looked for: spherical k-means, and which other clusters a row might have a duplicate in.

A row's *margin* to a cluster is its distance from the plane that separates that cluster from the row's own. A
neighbour at an angle of at most acos(threshold) is never further than sqrt(1 - threshold²) across such a plane; how far
it really is, the rows themselves tell (``_reach``). Every cluster within that reach is probed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS_PER_CLUSTER = 500
"""Comparing a row with every centroid costs about as much here as comparing it with the clusters that it probes."""
SAMPLE_PER_CENTROID = 24
ITERATIONS = 4
OVERSIZED = 4.0
"""A cluster with this many times the mean size is split again."""
AUDITED = 512
"""Rows whose true neighbours are searched among all rows, to see how far across a border they lie."""
PERTURBED = 4096
AT_RANDOM, AS_OTHERS, TRUE = 0.999, 0.99, 0.995
"""Quantiles of the margins of rows that were perturbed so, and of true neighbours."""
ENOUGH = 100
"""True neighbours that need no stand-ins."""
MOST_NEIGHBOURS = 32
"""Counted per audited row (and a chunk's worth more), so that one dense group does not speak for all."""
MOST_PROBES = 64.0
"""Where a row would on average probe more clusters than this, fewer and larger ones are made: the work is the same
then, and there is less to remember."""
FEWEST_CLUSTERS = 16
CHUNK = 512

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Clusters:
    """A partition of rows, with probes.

    Attributes:
        home: each row's cluster.
        guests: rows that probe a foreign cluster, grouped by that cluster, in ascending order within it.
        bounds: ``guests[bounds[c]:bounds[c + 1]]`` are those of cluster c.
        reach: largest margin that is probed.
    """

    home: Ints
    guests: Ints
    bounds: NDArray[np.int64]
    reach: float

    @property
    def count(self) -> int:
        return len(self.bounds) - 1


def one_cluster(rows: int) -> Clusters:
    """All rows together: every pair is compared."""
    return Clusters(np.zeros(rows, np.int32), np.empty(0, np.int32), np.zeros(2, np.int64), 0.0)


def find_clusters(vectors: Floats, threshold: float, pool: ThreadPoolExecutor, seed: int = 0) -> Clusters:
    """Cluster unit vectors, given in an order that does not depend on how the rows came.

    Args:
        vectors: (n, d) of norm 1.
        threshold: cosine from which rows are duplicates.
        pool: threads; BLAS should be limited to one thread each.
        seed: of k-means.
    """
    count = max(2, len(vectors) // ROWS_PER_CLUSTER)
    while True:
        sample = np.ascontiguousarray(vectors[:: max(1, len(vectors) // (SAMPLE_PER_CENTROID * count))])
        centroids = _centroids(sample, count, seed)
        reach = _reach(vectors, sample, centroids, _apart(centroids), threshold, seed)
        centroids = _distinct(centroids, 2 * reach)
        margin = reach * _apart(centroids)
        some = sample[:: max(1, len(sample) // CHUNK)]
        probes = len(_probes(some, centroids, margin)[1]) / len(some)
        if count <= FEWEST_CLUSTERS or probes <= MOST_PROBES:
            break
        count //= 4

    def assign(first: int) -> tuple[Ints, Ints, Ints]:
        home, row, cluster = _probes(vectors[first : first + CHUNK], centroids, margin)
        return home, row + np.int32(first), cluster

    parts = list(pool.map(assign, range(0, len(vectors), CHUNK)))
    home, row, cluster = (np.concatenate([part[i] for part in parts]) for i in range(3))
    order = np.argsort(cluster, kind="stable")
    bounds = np.searchsorted(cluster[order], np.arange(len(centroids) + 1))
    return Clusters(home, row[order], bounds, reach)


def _probes(rows: Floats, centroids: Floats, margin: Floats) -> tuple[Ints, Ints, Ints]:
    """Each row's home, and the other clusters within reach, as pairs (row, cluster).

    Args:
        margin: how much less near than its home a cluster may be; (clusters, clusters), by home.
    """
    scores = rows @ centroids.T
    home = scores.argmax(axis=1).astype(np.int32)
    best = scores[np.arange(len(home)), home]
    scores += margin[home]
    row, cluster = np.nonzero(scores >= best[:, None])
    foreign = cluster != home[row]
    return home, row[foreign].astype(np.int32), cluster[foreign].astype(np.int32)


def _centroids(sample: Floats, count: int, seed: int) -> Floats:
    """k-means of a sample; clusters that stay oversized are split again, until they are not or cannot be."""
    centroids = _kmeans(sample, count, seed)
    cap = OVERSIZED * len(sample) / count
    given_up: set[int] = set()
    for _ in range(8):
        home = _nearest(sample, centroids)
        sizes = np.bincount(home, minlength=len(centroids))
        large = [c for c in np.flatnonzero(sizes > cap) if c not in given_up]
        if not large:
            break
        fresh = []
        for c in large:
            members = sample[home == c]
            parts = _kmeans(members, int(np.ceil(len(members) * count / len(sample))), seed)
            shares = np.bincount(_nearest(members, parts), minlength=len(parts))
            if shares.max() > 0.9 * len(members):  # rows that are all but equal
                given_up.add(int(c))
                continue
            centroids[c] = parts[0]
            fresh.append(parts[1:])
        if not fresh:
            break
        centroids = np.concatenate([centroids, *fresh])
    return centroids


def _kmeans(rows: Floats, count: int, seed: int) -> Floats:
    import faiss

    means = faiss.Kmeans(
        rows.shape[1],
        min(count, len(rows)),
        niter=ITERATIONS,
        spherical=True,
        seed=seed,
        gpu=faiss.get_num_gpus() > 0,
        min_points_per_centroid=1,
        max_points_per_centroid=10**6,
    )
    means.train(rows)
    centroids: Floats = np.asarray(means.centroids, np.float32)
    return centroids


def _nearest(rows: Floats, centroids: Floats) -> Ints:
    parts = [(rows[i : i + CHUNK] @ centroids.T).argmax(axis=1) for i in range(0, len(rows), CHUNK)]
    nearest: Ints = np.concatenate(parts).astype(np.int32)
    return nearest


def _distinct(centroids: Floats, distance: float) -> Floats:
    """Without those so close to another that rows of the one would probe the other anyway: dense masses stay whole."""
    kept = np.zeros(len(centroids), bool)
    apart = _apart(centroids)
    for c in range(len(centroids)):
        kept[c] = not (apart[c, kept] <= distance).any()
    return np.ascontiguousarray(centroids[kept])


def _apart(centroids: Floats) -> Floats:
    """Distances between all centroids; the diagonal is 1, so that nothing is divided by 0."""
    squares = (centroids**2).sum(axis=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares[None, :] - 2 * (centroids @ centroids.T), 1e-12))
    np.fill_diagonal(apart, 1.0)
    distances: Floats = apart.astype(np.float32)
    return distances


def _reach(vectors: Floats, sample: Floats, centroids: Floats, apart: Floats, threshold: float, seed: int) -> float:
    """The margin within which (nearly) all neighbours of a row have their homes.

    True neighbours tell: those of some rows, found by comparing these with all others. So do rows that are perturbed
    at random until their cosine is just the threshold. Where true neighbours are few, rows perturbed by the difference
    of two rows of their cluster stand in for them, since that is how rows differ there.
    """
    draw = np.random.default_rng(seed)
    rows = sample[:: max(1, len(sample) // PERTURBED)]
    noise = draw.standard_normal(rows.shape, np.float32)
    margins = [np.quantile(_margins(rows, _perturbed(rows, noise, threshold), centroids, apart), AT_RANDOM)]
    later, earlier = _true_neighbours(vectors, threshold)
    if len(later):
        margins.append(np.quantile(_margins(vectors[later], vectors[earlier], centroids, apart), TRUE))
    if len(later) < ENOUGH:
        mates = [_mates(_nearest(sample, centroids), _nearest(rows, centroids), draw) for _ in range(2)]
        others = _perturbed(rows, sample[mates[0]] - sample[mates[1]], threshold)
        margins.append(np.quantile(_margins(rows, others, centroids, apart), AS_OTHERS))
    return float(min(max(margins), np.sqrt(1 - threshold**2)))  # no neighbour is further than this root


def _perturbed(rows: Floats, noise: Floats, cosine: float) -> Floats:
    """Rows moved in the noise's direction until their cosine to where they were is as given."""
    across = noise - (noise * rows).sum(axis=1, keepdims=True) * rows
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-6)
    moved: Floats = cosine * rows + np.float32(np.sqrt(1 - cosine**2)) * across
    return moved


def _mates(home: Ints, clusters: Ints, draw: np.random.Generator) -> NDArray[np.int64]:
    """A row of each of these clusters, at random."""
    order = np.argsort(home, kind="stable")
    first, end = np.searchsorted(home[order], clusters), np.searchsorted(home[order], clusters, "right")
    mates: NDArray[np.int64] = order[first + (draw.random(len(clusters)) * (end - first)).astype(np.int64)]
    return mates


def _true_neighbours(vectors: Floats, threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Some rows' neighbours among all rows, as pairs (later, earlier)."""
    audited = np.arange(AUDITED) * len(vectors) // AUDITED
    queries = vectors[audited]
    found = np.zeros(AUDITED, np.int64)
    pairs = []
    for first in range(0, len(vectors), CHUNK):
        row, query = np.nonzero(vectors[first : first + CHUNK] @ queries.T >= threshold)
        row += first
        new = (row != audited[query]) & (found[query] < MOST_NEIGHBOURS)
        np.add.at(found, query[new], 1)
        pairs.append(np.stack([row[new], audited[query[new]]]))
    both = np.concatenate(pairs, axis=1)
    return both.max(axis=0), both.min(axis=0)


def _margins(rows: Floats, neighbours: Floats, centroids: Floats, apart: Floats) -> Floats:
    """How far across the border from each row's home its neighbour's home lies; 0 where it is the same."""
    scores = rows @ centroids.T
    home, other = scores.argmax(axis=1), _nearest(neighbours, centroids)
    each = np.arange(len(rows))
    margins: Floats = (scores[each, home] - scores[each, other]) / apart[home, other]
    return margins
