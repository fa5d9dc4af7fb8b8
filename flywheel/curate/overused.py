"""Overused phrases: measured, and balanced to a target share (Llama 3 section 4.2.3), not banned."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.phraselists import (
    Phrase,
    new_phrases,
    parse_line,
    read_list,
    reference_of,
    reference_texts,
    sample_texts,
)
from flywheel.curate.rows import Batch, Rows
from flywheel.errors import RecipeError

MOST = 63
"""Phrases that a filter can watch at once: one bit each."""


class OverusedPhrases:
    """Brings each overused phrase down to a share of the rows, by dropping the rows of lowest quality that have it.

    Shares before and after are in the funnel's report. Phrases that this round's answers have far more often than the
    reference are found and balanced too.

    Args:
        lists: phrase lists: languages that ship with flywheel, `marks` (emojis, exclamation marks), or files.
        phrases: further phrases, written as in those files.
        target: share of rows that a phrase may have; a list may say otherwise for one.
        spare: a phrase in at most this many rows is left alone.
        new: most newly overused n-grams to balance as well; 0 looks for none.
        new_share: share of answers that makes an n-gram common.
        new_ratio: how much commoner it must be than in the reference.
        reference: Parquet file of answers to compare with; null: the run's earlier rows.
        column: the text that is searched.
    """

    def __init__(
        self,
        lists: Sequence[str] = ("en", "marks"),
        phrases: Sequence[str] = (),
        target: float = 0.05,
        spare: int = 20,
        new: int = 10,
        new_share: float = 0.05,
        new_ratio: float = 5.0,
        reference: str | None = None,
        column: str = "text",
    ) -> None:
        if not 0 <= target <= 1 or not 0 < new_share <= 1:
            raise ValueError("target and new_share must be shares")
        self._lists, self._phrases = list(lists), [parse_line(line) for line in phrases]
        self._target, self._spare = target, spare
        self._new, self._new_share, self._new_ratio, self._reference = new, new_share, new_ratio, reference
        self._column = column
        self.columns = (column,)
        self.report: dict[str, Any] = {}

    def check(self, base: Path) -> None:
        """Raise what is wrong with the files that the options name."""
        for name in self._lists:
            read_list(name, base)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        listed = [phrase for name in self._lists for phrase in read_list(name, aids.base)] + self._phrases
        # Found by its words alone, a listed phrase would be balanced twice.
        known = [" ".join(re.findall(r"\w+", phrase.name.lower())) for phrase in listed]
        new = [
            phrase for phrase in self._find_new(rows, aids) if not any(name in phrase.name for name in known if name)
        ]
        phrases = list({phrase.pattern: phrase for phrase in listed + new}.values())
        if len(phrases) > MOST:
            raise RecipeError(
                f"overused_phrases watches {MOST} phrases at once, and was given {len(phrases)}",
                hint="list the filter twice, with half of them each",
            )
        marks = self._marks(rows, phrases)
        total = len(rows)
        going, reasons = self._balance(rows, phrases, marks)
        left = np.delete(marks, going)
        self.report = {
            "target": self._target,
            "reference": bool(reference_of(aids, self._reference)),
            "new": [phrase.name for phrase in new],
            "shares": {
                phrase.name: [_share(marks, i, total), _share(left, i, total - len(going))]
                for i, phrase in enumerate(phrases)
                if (marks >> np.uint64(i) & np.uint64(1)).any()
            },
        }
        yield Drops(np.array(going, np.int64), [f"overused: {phrases[i].name}" for i in reasons])

    def _find_new(self, rows: Rows, aids: Aids) -> list[Phrase]:
        files = reference_of(aids, self._reference) if self._new else []
        if not files or not len(rows):
            return []
        texts = sample_texts(rows, self._column)
        return new_phrases(texts, reference_texts(files), self._new_share, self._new_ratio, self._new)

    def _marks(self, rows: Rows, phrases: list[Phrase]) -> NDArray[np.uint64]:
        """A bit per phrase, by ordinal."""
        marks = np.zeros(rows.count, np.uint64)
        if not phrases:
            return marks

        def mark(batch: Batch) -> NDArray[np.uint64]:
            found = np.zeros(len(batch), np.uint64)
            _mark(found, batch.text(self._column), np.arange(len(batch)), list(enumerate(phrases)))
            return found

        for batch, found in rows.map(mark, self._column):
            marks[batch.ordinals] = found
        return marks

    def _balance(self, rows: Rows, phrases: list[Phrase], marks: NDArray[np.uint64]) -> tuple[list[int], list[int]]:
        """The rows that go, worst first, and for each the phrase that it went for."""
        quality = rows.quality()
        marked = np.flatnonzero(rows.alive & (marks > 0))
        worst = marked[np.lexsort((-rows.rank[marked], quality[marked]))].tolist()
        counts = [int(np.count_nonzero(marks[marked] >> np.uint64(i) & np.uint64(1))) for i in range(len(phrases))]
        targets = [self._target if phrase.target is None else phrase.target for phrase in phrases]
        left, going, reasons = len(rows), [], []
        again = True
        while again:  # as rows go, what is left of them allows fewer
            again, stay = False, []
            over = {i for i, count in enumerate(counts) if count > max(self._spare, targets[i] * left)}
            for row in worst:
                bits = int(marks[row])
                hit = next((i for i in sorted(over) if bits >> i & 1), None)
                if hit is None:
                    stay.append(row)
                    continue
                going.append(row)
                reasons.append(hit)
                left, again = left - 1, True
                for i in range(len(phrases)):
                    counts[i] -= bits >> i & 1
                over = {i for i in over if counts[i] > max(self._spare, targets[i] * left)}
            worst = stay
        return going, reasons


def _mark(
    found: NDArray[np.uint64], texts: pa.Array, places: NDArray[np.int64], phrases: list[tuple[int, Phrase]]
) -> None:
    """Set the bits of phrases in texts that stand at places. Most texts have few of them: halves are tried first."""
    hit = _matches(texts, "|".join(phrase.anywhere for _, phrase in phrases))
    if not hit.any():
        return
    if len(phrases) == 1:
        found[places[hit]] |= np.uint64(1 << phrases[0][0])
        return
    few = texts.filter(pa.array(hit))
    for half in (phrases[: len(phrases) // 2], phrases[len(phrases) // 2 :]):
        _mark(found, few, places[hit], half)


def _matches(texts: pa.Array, pattern: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.match_substring_regex(texts, pattern, ignore_case=True).to_numpy(zero_copy_only=False)
    return found


def _share(marks: NDArray[np.uint64], phrase: int, rows: int) -> float:
    return round(int(np.count_nonzero(marks >> np.uint64(phrase) & np.uint64(1))) / rows, 4) if rows else 0.0
