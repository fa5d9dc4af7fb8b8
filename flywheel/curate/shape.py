"""Filters on the form of a text: its length, its format, whether it repeats itself."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.ngrams import blocks, words
from flywheel.curate.rows import Batch, Rows

UNITS = ("tokens", "words", "characters")


class Length:
    """Drops what is too short or too long.

    Args:
        min: least length kept.
        max: greatest length kept; null: no limit.
        unit: `tokens` (as the policy sampled them), `words` or `characters`.
        column: the text that is measured, unless in tokens: `text` (the answer) or `dialogue`.
    """

    def __init__(self, min: int = 1, max: int | None = None, unit: str = "tokens", column: str = "text") -> None:
        if unit not in UNITS:
            raise ValueError(f"unit must be one of {', '.join(UNITS)}")
        if max is not None and max < min:
            raise ValueError("needs min <= max")
        self._min, self._max, self._unit = min, max, unit
        self._column = "tokens" if unit == "tokens" else column
        self.columns = (self._column,)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch, length in rows.map(self._measure, self._column):
            unknown = np.isnan(length)
            short, long = length < self._min, length > (np.inf if self._max is None else self._max)
            yield Drops(batch.ordinals[unknown], "length unknown")
            for out, reason in ((short, f"under {self._min} {self._unit}"), (long, f"over {self._max} {self._unit}")):
                yield Drops(batch.ordinals[out], reason, detail={"length": length[out].astype(np.int64)})

    def _measure(self, batch: Batch) -> NDArray[np.float64]:
        if self._unit == "tokens":
            return batch.numbers("tokens")
        texts = batch.text(self._column)
        if self._unit == "characters":
            length: NDArray[np.float64] = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.float64)
            return length
        return np.concatenate([np.diff(words(block).offsets) for _, block in blocks(texts)]).astype(np.float64)


class Format:
    """Drops answers that are not formed as they should be.

    Args:
        require: regular expressions (RE2) that must each match somewhere.
        forbid: regular expressions that must not match.
        closed: drop what leaves a code fence or a `<think>` open, as answers that were cut off do.
        json: the whole answer must be JSON.
        empty: keep answers that are nothing but white space.
        column: the text that is looked at.
    """

    def __init__(
        self,
        require: Sequence[str] = (),
        forbid: Sequence[str] = (),
        closed: bool = True,
        json: bool = False,
        empty: bool = False,
        column: str = "text",
    ) -> None:
        for pattern in (*require, *forbid):
            try:
                pc.match_substring_regex(pa.array([""]), pattern)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        self._require, self._forbid, self._closed, self._json, self._empty = require, forbid, closed, json, empty
        self._column = column
        self.columns = (column,)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch, faults in rows.map(self._faults, self._column):
            gone = np.zeros(len(batch), bool)
            for reason, found in faults:
                yield Drops(batch.ordinals[found & ~gone], reason)
                gone |= found

    def _faults(self, batch: Batch) -> list[tuple[str, NDArray[np.bool_]]]:
        texts = batch.text(self._column)
        faults = []
        if not self._empty:
            faults.append(("empty", ~_matches(texts, r"\S")))
        faults += [(f"lacks {pattern}", ~_matches(texts, pattern)) for pattern in self._require]
        faults += [(f"has {pattern}", _matches(texts, pattern)) for pattern in self._forbid]
        if self._closed:
            fences = pc.count_substring(texts, "```").to_numpy(zero_copy_only=False)
            thoughts = pc.subtract(pc.count_substring(texts, "<think>"), pc.count_substring(texts, "</think>"))
            faults.append(("open code fence", fences % 2 == 1))
            faults.append(("open <think>", thoughts.to_numpy(zero_copy_only=False) > 0))
        if self._json:
            faults.append(("not JSON", np.array([not _is_json(text) for text in texts.to_pylist()], bool)))
        return faults


class Repetition:
    """Drops texts that say the same again and again, as a policy does whose likelihoods collapse.

    Args:
        share: greatest share of a text's n-grams that may be repetitions of an earlier one.
        ngram: words of an n-gram.
        least: texts with fewer n-grams than this are left alone.
        column: the text that is looked at.
    """

    def __init__(self, share: float = 0.3, ngram: int = 5, least: int = 20, column: str = "text") -> None:
        if not 0 <= share < 1:
            raise ValueError("share must be in [0, 1)")
        if ngram < 1 or least < 1:
            raise ValueError("ngram and least must be at least 1")
        self._share, self._ngram, self._least, self._column = share, ngram, least, column
        self.columns = (column,)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        for batch, share in rows.map(self._repeated, self._column):
            out = share > self._share
            detail = {"repeated": np.round(share[out], 3)}
            yield Drops(
                batch.ordinals[out], f"repeats over {self._share:.0%} of its {self._ngram}-grams", detail=detail
            )

    def _repeated(self, batch: Batch) -> NDArray[np.float64]:
        return np.concatenate([self._of_block(block) for _, block in blocks(batch.text(self._column))])

    def _of_block(self, texts: pa.Array) -> NDArray[np.float64]:
        found = words(texts)
        hashes, valid = found.ngrams(self._ngram)
        row = found.rows()[valid]
        # Text and n-gram in one number: equal ones are neighbours once sorted.
        keys = np.sort((row.astype(np.uint64) << np.uint64(44)) | (hashes[valid] >> np.uint64(20)))
        again = keys[1:][keys[1:] == keys[:-1]] >> np.uint64(44)
        total = np.bincount(row, minlength=len(texts))
        repeated = np.bincount(again.astype(np.int64), minlength=len(texts))
        return np.where(total >= self._least, repeated / np.maximum(total, 1), 0.0)


def _matches(texts: pa.Array, pattern: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.match_substring_regex(texts, pattern).to_numpy(zero_copy_only=False)
    return found


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
