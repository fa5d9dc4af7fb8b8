"""Evaluation problems, looked for by their word n-grams in very many texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.evalsets import Item
from flywheel.curate.ngrams import Lookup, Words, blocks, words
from flywheel.curate.rows import Batch

COMMON = 3
"""An n-gram in more evaluation problems than this, digits aside, is boilerplate."""
USUAL = 10
"""So is one in more of the problems that the rows answer (GPT-3, appendix C, has the same limit)."""


@dataclass(frozen=True)
class Match:
    """What a row has of an evaluation problem: by which rule, which problem, and the words that matched."""

    rule: str
    item: Item
    matched: str


@dataclass(frozen=True)
class Found:
    """What was found in a batch.

    Attributes:
        matches: by the batch's row: evidence enough.
        rows, grams: which row has which long n-gram: evidence, unless very many problems' rows have it.
    """

    matches: dict[int, Match]
    rows: NDArray[np.int64]
    grams: NDArray[np.int64]


class Index:
    """Evaluation problems, ready to be looked for in rows.

    Args:
        items: the problems; those without words are ignored.
        n, short, coverage: as the filter's ``ngram``, ``short_ngram`` and ``coverage``.
    """

    def __init__(self, items: Sequence[Item], n: int, short: int, coverage: float) -> None:
        self._items = list(items)
        self._n, self._short = n, short
        texts = pa.array([item.text for item in items], pa.string())
        exact, alike = _all_words(texts, True), _all_words(texts, False)
        common = min(COMMON, max(1, len(items) // 2))
        self._long = _Grams(exact, alike, n, common)
        self._few = _Grams(exact, alike, short, common)
        lengths = np.diff(exact.offsets)
        # A problem most of whose n-grams are everybody's is known only by all of its words.
        grams = np.maximum(lengths - short + 1, 0)
        telling = self._few.telling(len(items))
        self._needed = np.where(2 * telling >= np.maximum(grams, 1), np.ceil(coverage * telling), np.inf)
        whole, counts = np.unique(exact.whole(), return_counts=True)
        rare = np.isin(exact.whole(), whole[counts <= common]) & (lengths > 0)
        self._questions = {int(h): i for i, h in reversed(list(enumerate(exact.whole()))) if rare[i]}
        self._asked = Lookup(np.array(list(self._questions), np.uint64))
        self._spans = _spans(exact, rare & np.isinf(self._needed) & (lengths >= short))

    def search(self, batch: Batch) -> Found:
        """What the rows of a batch with ``dialogue`` and perhaps ``question`` have; the surest rule first."""
        matches: dict[int, Match] = {}
        rows, grams = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for begin, texts in blocks(batch.text("dialogue")):
            found = words(texts)
            hashes, valid = found.ngrams(self._n)
            places, those = self._long.lookup.find(hashes, valid)
            rows.append(begin + found.rows()[places])
            grams.append(those)
            for row, match in self._in_dialogues(found):
                matches.setdefault(begin + row, match)
        if "question" in batch.table.schema.names:
            for begin, texts in blocks(batch.text("question")):
                found = words(texts)
                hashes = found.whole()
                places, _ = self._asked.find(hashes, np.diff(found.offsets) > 0)
                for place in places.tolist():
                    item = self._items[self._questions[int(hashes[place])]]
                    matches.setdefault(begin + place, Match("same question", item, item.text))
        return Found(matches, np.concatenate(rows), np.concatenate(grams))

    def by_ngram(
        self, rows: NDArray[np.int64], grams: NDArray[np.int64], problems: NDArray[np.int64]
    ) -> dict[int, Match]:
        """Rows that have a long n-gram of an evaluation problem which is not in everybody's, or most of its n-grams.

        Args:
            rows, grams: which row has which n-gram.
            problems: the problem that each row answers; several rows of one are no more evidence than one.
        """
        own = np.unique(np.stack([rows, grams], axis=1), axis=0)
        rows, grams = own[:, 0], own[:, 1]
        pairs = np.unique(np.stack([grams, problems[rows]], axis=1), axis=0)
        usual = np.bincount(pairs[:, 0], minlength=len(self._long.first)) > USUAL
        # Of a problem that leaked into many rows every n-gram is usual; but there most of them stand together.
        items = np.array(self._long.first, np.int64)
        of_row, place, count = np.unique(
            np.stack([rows, items[grams]], axis=1), axis=0, return_inverse=True, return_counts=True
        )
        most = 2 * count >= np.bincount(items, minlength=len(self._items))[of_row[:, 1]]
        telling = ~usual[grams] | most[place.reshape(-1)]
        hit, first = np.unique(rows[telling], return_index=True)
        rule = f"{self._n}-gram"
        return {
            row: Match(rule, self._items[self._long.first[gram]], self._long.text(gram))
            for row, gram in zip(hit.tolist(), grams[telling][first].tolist(), strict=True)
        }

    def _in_dialogues(self, found: Words) -> Iterator[tuple[int, Match]]:
        rows = found.rows()
        hashes, valid = found.ngrams(self._short)
        places, grams = self._few.lookup.find(hashes, valid)
        for row, item_at, place in self._covered(rows[places], grams, places):
            yield row, Match(f"most {self._short}-grams", self._items[item_at], found.text(place, self._short))
        for length, (lookup, of) in self._spans.items():
            hashes, valid = found.ngrams(length)
            for place in lookup.find(hashes, valid)[0].tolist():
                item = self._items[of[int(hashes[place])]]
                yield int(rows[place]), Match("whole problem", item, found.text(place, length))

    def _covered(
        self, rows: NDArray[np.int64], grams: NDArray[np.int64], places: NDArray[np.int64]
    ) -> Iterator[tuple[int, int, int]]:
        """Row, problem and a place, wherever enough of a problem's n-grams stand in a row."""
        seen: Counter[tuple[int, int]] = Counter()
        for row, gram in dict.fromkeys(zip(rows.tolist(), grams.tolist(), strict=True)):
            seen.update((row, item) for item in self._few.items[gram])
        place_of = dict(zip(reversed(rows.tolist()), reversed(places.tolist()), strict=True))
        for (row, item), count in sorted(seen.items()):
            if count >= self._needed[item]:
                yield row, item, place_of[row]


class _Grams:
    """The n-grams that tell problems apart.

    Attributes:
        lookup: finds them.
        items: the problems that each of them stands in, few.
        first: the first of those.
    """

    def __init__(self, exact: Words, alike: Words, n: int, common: int) -> None:
        hashes, valid = exact.ngrams(n)
        shapes, _ = alike.ngrams(n)  # the same places, with the digits alike
        rows = exact.rows()[valid]
        pairs = np.unique(np.stack([shapes[valid], rows.astype(np.uint64)]), axis=1)
        shape, problems = np.unique(pairs[0], return_counts=True)
        keep = problems[np.searchsorted(shape, shapes[valid])] <= common
        self.lookup = Lookup(hashes[valid][keep])
        self.items: list[list[int]] = [[] for _ in self.lookup.hashes]
        at = np.searchsorted(self.lookup.hashes, hashes[valid][keep])
        for gram, item in sorted(set(zip(at.tolist(), rows[keep].tolist(), strict=True))):
            self.items[gram].append(item)
        self.first = [items[0] for items in self.items]
        self._words, self._n = exact, n
        self._places = dict(zip(reversed(at.tolist()), reversed(np.flatnonzero(valid)[keep].tolist()), strict=True))

    def text(self, gram: int) -> str:
        """How one of them reads."""
        return self._words.text(self._places[gram], self._n)

    def telling(self, problems: int) -> NDArray[np.float64]:
        """How many of them each problem has."""
        return np.bincount([item for items in self.items for item in items], minlength=problems).astype(float)


def _all_words(texts: pa.Array, digits: bool) -> Words:
    """Words of an evaluation set; a run of digits is one word either way, so that places agree."""
    return words(texts, digits)


def _spans(exact: Words, wanted: NDArray[np.bool_]) -> dict[int, tuple[Lookup, dict[int, int]]]:
    """Whole problems by their number of words: what finds them, and which they are."""
    lengths = np.diff(exact.offsets)
    spans = {}
    for length in np.unique(lengths[wanted]).tolist():
        at = np.flatnonzero(wanted & (lengths == length))
        hashes = exact.ngrams(length)[0][exact.offsets[:-1][at]]
        spans[int(length)] = (Lookup(hashes), dict(zip(map(int, hashes), at.tolist(), strict=True)))
    return spans
