"""Decontamination: no training row may hold a problem that the model is measured by.

Word n-grams find copies, also partial ones; embeddings find paraphrases. What the evaluation problems have in
common (an instruction that is the same in all, a template with other numbers) says nothing of any one of them:
such n-grams are left out, and a problem that has no others counts only where it stands whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.evalsets import Item, read_set
from flywheel.curate.ngrams import Lookup, Words, blocks, words
from flywheel.curate.rows import Batch, Rows

HELDOUT = "heldout"
COMMON = 3
"""An n-gram in more evaluation problems than this, digits aside, is boilerplate."""


@dataclass(frozen=True)
class Match:
    """A row that holds an evaluation problem: by which rule, which problem, and the words that matched."""

    row: int
    rule: str
    item: Item
    matched: str


class Decontaminate:
    """Drops rows that hold problems of an evaluation set. On by default for the run's own held-out problems.

    Three rules: a word n-gram in common that only few evaluation problems have; most of a problem's shorter n-grams
    in common; the whole problem, for those that are short or made from a template. What matched what is recorded.

    Args:
        heldout: check against the run's own held-out problems.
        against: further evaluation sets: files beside the recipe (Parquet, JSON lines, text), or `{file, column}`.
        ngram: words in a row that are enough (GPT-3: 13).
        short_ngram: words of the n-grams that are counted for coverage.
        coverage: share of a problem's short n-grams that is too much.
        similarity: cosine of embeddings from which on a question is a paraphrase; null: no embeddings.
        encoder: what embeds, if `similarity` is set: a sentence-transformers or Hugging Face model; null is
            all-MiniLM-L6-v2, which the `curate` extra brings along.
    """

    def __init__(
        self,
        heldout: bool = True,
        against: Sequence[str | dict[str, str]] = (),
        ngram: int = 13,
        short_ngram: int = 8,
        coverage: float = 0.8,
        similarity: float | None = None,
        encoder: str | None = None,
    ) -> None:
        if not 2 <= short_ngram <= ngram:
            raise ValueError("needs 2 <= short_ngram <= ngram")
        if not 0 < coverage <= 1:
            raise ValueError("coverage must be in (0, 1]")
        if similarity is not None and not 0 < similarity <= 1:
            raise ValueError("similarity must be in (0, 1]")
        self._heldout, self._against = heldout, list(against)
        self._ngram, self._short, self._coverage = ngram, short_ngram, coverage
        self._similarity, self._encoder = similarity, encoder
        self.columns = ("dialogue",)
        self.report: dict[str, Any] = {}

    def check(self, base: Path) -> None:
        """Raise what is wrong with the files that the options name."""
        self._items(Aids(base=base))

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        items = self._items(aids)
        self.report = {"sets": dict(Counter(item.set for item in items))}
        if not items:
            return
        index = self._index(items)
        columns = ("dialogue", "question") if rows.has("question") else ("dialogue",)
        gone = np.zeros(rows.count, bool)
        for batch, matches in rows.map(index.search, *columns):
            if matches:
                ordinals = batch.ordinals[[match.row for match in matches]]
                gone[ordinals] = True
                yield Drops(
                    ordinals,
                    [f"{match.rule} in common with {match.item.set}" for match in matches],
                    detail={
                        "set": [match.item.set for match in matches],
                        "item": [match.item.id for match in matches],
                        "matched": [match.matched for match in matches],
                    },
                )
        if self._similarity is not None:
            yield from self._paraphrases(rows, items, gone, self._similarity, aids)

    def holds(self, questions: Iterable[str], aids: Aids) -> NDArray[np.bool_]:
        """Which of some questions are evaluation problems, by the words alone: for pairs, whose rejected answers (and
        gold ones) are not rows."""
        texts = pa.array(list(questions), pa.string())
        held = np.zeros(len(texts), bool)
        if (items := self._items(aids)) and len(texts):
            columns = pa.RecordBatch.from_arrays([texts, texts], names=["dialogue", "question"])
            matches = self._index(items).search(Batch(np.arange(len(texts)), columns))
            held[[match.row for match in matches]] = True
        return held

    def _index(self, items: list[Item]) -> Index:
        return Index(items, self._ngram, self._short, self._coverage)

    def _items(self, aids: Aids) -> list[Item]:
        items = read_set(aids.heldout, HELDOUT) if self._heldout and aids.heldout is not None else []
        for entry in self._against:
            given = {"file": entry} if isinstance(entry, str) else entry
            items += read_set(aids.base / given["file"], Path(given["file"]).name, given.get("column"))
        return items

    def _paraphrases(
        self, rows: Rows, items: list[Item], gone: NDArray[np.bool_], similarity: float, aids: Aids
    ) -> Iterator[Drops]:
        from flywheel.engines.embed import Encoder

        encoder = Encoder(self._encoder)
        asked = encoder.encode([item.text for item in items])
        column = "question" if rows.has("question") else "dialogue"
        done = 0
        for batch in rows.scan(column):
            here = np.flatnonzero(~gone[batch.ordinals])
            cosine = encoder.encode(batch.text(column).take(pa.array(here)).to_pylist()) @ asked.T
            nearest = cosine.argmax(axis=1)
            top = cosine[np.arange(len(here)), nearest]
            hit = top >= similarity
            found = [items[i] for i in nearest[hit]]
            yield Drops(
                batch.ordinals[here[hit]],
                [f"paraphrase of {item.set}" for item in found],
                detail={
                    "set": [item.set for item in found],
                    "item": [item.id for item in found],
                    "matched": [item.text for item in found],
                    "cosine": np.round(top[hit].astype(float), 4),
                },
            )
            done += len(batch)
            aids.progress("decontaminate", done, len(rows))


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

    def search(self, batch: Batch) -> list[Match]:
        """At most one match per row of a batch with ``dialogue`` and perhaps ``question``; the surest rule first."""
        matches: dict[int, Match] = {}
        for begin, texts in blocks(batch.text("dialogue")):
            for match in self._in_dialogues(words(texts), begin):
                matches.setdefault(match.row, match)
        if "question" in batch.table.schema.names:
            for begin, texts in blocks(batch.text("question")):
                found = words(texts)
                hashes = found.whole()
                places, _ = self._asked.find(hashes, np.diff(found.offsets) > 0)
                for place in places.tolist():
                    item = self._items[self._questions[int(hashes[place])]]
                    matches.setdefault(begin + place, Match(begin + place, "same question", item, item.text))
        return [matches[row] for row in sorted(matches)]

    def _in_dialogues(self, found: Words, begin: int) -> Iterator[Match]:
        rows = found.rows()
        hashes, valid = found.ngrams(self._n)
        places, grams = self._long.lookup.find(hashes, valid)
        hit, first = np.unique(rows[places], return_index=True)
        for row, at in zip(hit.tolist(), first.tolist(), strict=True):
            item = self._items[self._long.first[grams[at]]]
            yield Match(begin + row, f"{self._n}-gram", item, found.text(int(places[at]), self._n))
        hashes, valid = found.ngrams(self._short)
        places, grams = self._few.lookup.find(hashes, valid)
        for row, item_at, place in self._covered(rows[places], grams, places):
            text = found.text(place, self._short)
            yield Match(begin + row, f"most {self._short}-grams", self._items[item_at], text)
        for length, (lookup, of) in self._spans.items():
            hashes, valid = found.ngrams(length)
            for place in lookup.find(hashes, valid)[0].tolist():
                item = self._items[of[int(hashes[place])]]
                yield Match(begin + int(rows[place]), "whole problem", item, found.text(place, length))

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
