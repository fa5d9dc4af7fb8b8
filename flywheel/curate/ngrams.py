"""Words and word n-grams of many texts at once, as 64-bit hashes in NumPy arrays.

A word is a run of letters and digits, in lower case; Chinese and Japanese characters, which are written without
spaces, are words of their own. Punctuation does not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

U64 = np.uint64
BLOCK_BYTES = 1 << 20
"""Texts are hashed this many bytes at a time: the arrays then stay in the processor's caches."""

_SHIFT = U64(32)
_MIX = U64(0xD6E8FEB86659FD93)
_BASE = 0x9E3779B97F4A7C15  # odd, so it has an inverse modulo 2^64
_WORD = np.zeros(256, bool)
_WORD[[*range(48, 58), *range(65, 91), *range(97, 123), *range(128, 256)]] = True


@dataclass(frozen=True)
class Words:
    """The words of some texts, in order.

    Attributes:
        hashes: of each word; uint64.
        offsets: where each text's words begin in ``hashes``; one more than there are texts.
        starts, ends: of each word, in bytes of ``data``.
        data: the texts in lower case, UTF-8, one after the other.
    """

    hashes: NDArray[np.uint64]
    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    data: NDArray[np.uint8]

    def ngrams(self, n: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """The hash of the ``n`` words from each word on, and whether that many are left in its text."""
        count = len(self.hashes)
        if count < n:
            return np.zeros(count, U64), np.zeros(count, bool)
        powers, inverse = _powers(count + 1)
        sums = np.zeros(count + 1, U64)
        np.cumsum(self.hashes * powers[:count], out=sums[1:])
        hashes = np.zeros(count, U64)
        hashes[: count - n + 1] = mix((sums[n:] - sums[:-n]) * inverse[: count - n + 1])
        valid = np.ones(count, bool)
        some = np.diff(self.offsets) > 0
        begins, closes = self.offsets[:-1][some], self.offsets[1:][some]
        for back in range(1, n):  # from the end of each text backwards
            valid[np.maximum(closes - back, begins)] = False
        return hashes, valid

    def whole(self) -> NDArray[np.uint64]:
        """One hash for all words of each text."""
        powers, inverse = _powers(len(self.hashes) + 1)
        sums = np.zeros(len(self.hashes) + 1, U64)
        np.cumsum(self.hashes * powers[: len(self.hashes)], out=sums[1:])
        of_text = (sums[self.offsets[1:]] - sums[self.offsets[:-1]]) * inverse[self.offsets[:-1]]
        return mix(of_text + np.diff(self.offsets).astype(U64))

    def rows(self) -> NDArray[np.int64]:
        """The text of each word."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def text(self, word: int, n: int) -> str:
        """The ``n`` words from a word on, as they stand."""
        last = min(word + n, len(self.ends)) - 1
        return self.data[self.starts[word] : self.ends[last]].tobytes().decode(errors="replace")


def words(texts: pa.Array, digits: bool = True) -> Words:
    """Split texts into words.

    Args:
        texts: strings, together not much more than ``BLOCK_BYTES``; see ``blocks``.
        digits: False: all digits look alike.
    """
    lower = pc.utf8_lower(texts)
    if not digits:
        lower = pc.replace_substring_regex(lower, "[0-9]+", "0")
    offsets, data = buffers(lower)
    inside = _WORD[data]
    first = np.zeros(len(data) + 1, bool)  # a word cannot reach over the beginning of a text
    first[offsets] = True
    if len(data) and data.max() >= 128:
        _beyond_ascii(data, inside, first)
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | first[1:-1]
    closes = inside.copy()
    closes[:-1] &= ~inside[1:] | first[1:-1]
    starts, ends = np.flatnonzero(begins), np.flatnonzero(closes) + 1
    return Words(_hash(data, starts, ends), np.searchsorted(starts, offsets), starts, ends, data)


def blocks(texts: pa.Array) -> Iterator[tuple[int, pa.Array]]:
    """A batch in pieces of about ``BLOCK_BYTES``, each with the place of its first text."""
    offsets, _ = buffers(texts)
    begin = 0
    while begin < len(texts):
        end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + BLOCK_BYTES)))
        yield begin, texts.slice(begin, end - begin)
        begin = end


def buffers(texts: pa.Array) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Offsets (from 0) and bytes of an Arrow string array without nulls."""
    _, places, content = texts.buffers()
    if not len(texts) or places is None:
        return np.zeros(len(texts) + 1, np.int64), np.zeros(0, np.uint8)
    offsets = np.frombuffer(places, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    data = np.frombuffer(content, np.uint8)[offsets[0] : offsets[-1]] if content is not None else np.zeros(0, np.uint8)
    return offsets - offsets[0], data


def mix(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all of them."""
    hashes = hashes ^ (hashes >> _SHIFT)
    hashes *= _MIX
    hashes ^= hashes >> _SHIFT
    hashes *= _MIX
    hashes ^= hashes >> _SHIFT
    return hashes


class Lookup:
    """Which of very many hashes are among a few.

    Args:
        hashes: the few; uint64, in any order, perhaps several times.
    """

    def __init__(self, hashes: NDArray[np.uint64]) -> None:
        self.hashes = np.unique(hashes)
        bits = int(np.clip(np.ceil(np.log2(64 * (len(self.hashes) + 1))), 12, 24))
        self._shift = U64(64 - bits)
        self._table = np.zeros(1 << bits, bool)
        self._table[self.hashes >> self._shift] = True

    def find(self, asked: NDArray[np.uint64], valid: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where those that were found stand among the asked, and among ``hashes``."""
        if not len(self.hashes):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        maybe = np.flatnonzero(self._table[asked >> self._shift] & valid)
        at = np.searchsorted(self.hashes, asked[maybe])
        at[at == len(self.hashes)] = 0
        found = self.hashes[at] == asked[maybe]
        return maybe[found], at[found]


def _beyond_ascii(data: NDArray[np.uint8], inside: NDArray[np.bool_], first: NDArray[np.bool_]) -> None:
    """Typographic punctuation ends words; Chinese and Japanese characters are words of their own."""
    lead = np.flatnonzero(data >= 0xE2)
    lead = lead[(lead + 2 < len(data))]
    second = data[lead + 1]
    punctuation = (data[lead] == 0xE2) & (second <= 0x81)  # U+2000 to U+207F
    punctuation |= (data[lead] == 0xE3) & (second == 0x80)  # U+3000 to U+303F
    punctuation |= (data[lead] == 0xEF) & (second == 0xBC) & (data[lead + 2] <= 0x8F)  # full-width ! to /
    for k in range(3):
        inside[lead[punctuation] + k] = False
    alone = lead[(data[lead] >= 0xE3) & (data[lead] <= 0xE9) & ~punctuation]
    first[alone] = True
    first[alone + 3] = True


def _hash(data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A hash per word: its bytes, eight at a time."""
    padded = np.zeros(len(data) + 8, np.uint8)
    padded[: len(data)] = data
    eights: NDArray[np.uint64] = np.ndarray(len(data) + 1, U64, padded.data, strides=(1,))  # from every byte on
    length = ends - starts
    left = np.minimum(length, 8).astype(U64)
    hashes = mix((eights[starts] & _mask(left)) + length.astype(U64) * U64(_BASE))
    at, longer = 8, np.flatnonzero(length > 8)
    while len(longer):
        left = np.minimum(length[longer] - at, 8).astype(U64)
        hashes[longer] = mix(hashes[longer] + (eights[starts[longer] + at] & _mask(left)))
        at += 8
        longer = longer[length[longer] > at]
    return hashes


def _mask(count: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return _MASKS[count.astype(np.intp)]


_MASKS = np.array([(1 << (8 * count)) - 1 for count in range(9)], U64)


@cache
def _all_powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    powers = np.full(count, _BASE, U64)
    inverse = np.full(count, pow(_BASE, -1, 1 << 64), U64)
    powers[0] = inverse[0] = 1
    return np.cumprod(powers, dtype=U64), np.cumprod(inverse, dtype=U64)


def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Powers of the base, and of its inverse; cached in a few sizes."""
    powers, inverse = _all_powers(1 << max(12, (count - 1).bit_length()))
    return powers[:count], inverse[:count]
