"""Decontamination: no training row may hold a problem that the model is measured by.

Word n-grams find copies, also partial ones; embeddings find paraphrases. What the evaluation problems have in
common (an instruction that is the same in all, a template with other numbers) says nothing of any one of them:
such n-grams are left out, and a problem that has no others counts only where it stands whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.contamination import Index, Match
from flywheel.curate.evalsets import Item, read_set
from flywheel.curate.rows import Batch, Rows

HELDOUT = "heldout"


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
        matches: dict[int, Match] = {}
        having, grams = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch, found in rows.map(index.search, *columns):
            matches |= {int(batch.ordinals[row]): match for row, match in found.matches.items()}
            having.append(batch.ordinals[found.rows])
            grams.append(found.grams)
        problems = rows.codes("problem_id")[0] if rows.has("problem_id") else np.arange(rows.count)
        matches |= index.by_ngram(np.concatenate(having), np.concatenate(grams), problems)
        ordinals = np.array(sorted(matches), np.int64)
        yield _drops(ordinals, [matches[int(ordinal)] for ordinal in ordinals])
        if self._similarity is not None:
            gone = np.zeros(rows.count, bool)
            gone[ordinals] = True
            yield from self._paraphrases(rows, items, gone, self._similarity, aids)

    def holds(self, questions: Iterable[str], aids: Aids) -> NDArray[np.bool_]:
        """Which of some questions are evaluation problems, by the words alone: for pairs, whose rejected answers (and
        gold ones) are not rows."""
        texts = pa.array(list(questions), pa.string())
        held = np.zeros(len(texts), bool)
        if (items := self._items(aids)) and len(texts):
            columns = pa.RecordBatch.from_arrays([texts, texts], names=["dialogue", "question"])
            index = self._index(items)
            found = index.search(Batch(np.arange(len(texts)), columns))
            held[[*found.matches, *index.by_ngram(found.rows, found.grams, np.arange(len(texts)))]] = True
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


def _drops(ordinals: NDArray[np.int64], matches: Sequence[Match]) -> Drops:
    return Drops(
        ordinals,
        [f"{match.rule} in common with {match.item.set}" for match in matches],
        detail={
            "set": [match.item.set for match in matches],
            "item": [match.item.id for match in matches],
            "matched": [match.matched for match in matches],
        },
    )
