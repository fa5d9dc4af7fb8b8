"""Lists of phrases: files, one per language, that a user can read and replace; and phrases that are new."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.curate.chain import Aids
from flywheel.curate.columns import last_text
from flywheel.curate.ngrams import Lookup, blocks, words
from flywheel.curate.rows import ParquetSource, Rows, open_parquet
from flywheel.errors import DataError, RecipeError

LISTS = Path(__file__).parent / "phrases"
SAMPLE = 10_000
"""Texts that are enough to find what stands in a hundredth of all."""

CANDIDATES = 500

_LINE = re.compile(r"^(?:(?P<name>[^=/]+?)\s*=\s*/(?P<regex>.+)/|(?P<text>.+?))(?:\s+@\s*(?P<target>[\d.]+))?$")


@dataclass(frozen=True)
class Phrase:
    """What is counted.

    Attributes:
        name: for people.
        pattern: RE2, matched without regard to case.
        target: the share of rows that it may have; None: the filter's.
    """

    name: str
    pattern: str
    target: float | None = None

    @cached_property
    def anywhere(self) -> str:
        return f"(?:{self.pattern})"


def read_list(name: str, base: Path) -> list[Phrase]:
    """A shipped list by its language, or one's own by path.

    Raises:
        RecipeError: no such list, or a line that cannot be read.
    """
    file = LISTS / f"{name}.txt"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        file = base / name
    if not file.is_file():
        shipped = ", ".join(sorted(path.stem for path in LISTS.glob("*.txt")))
        raise RecipeError(f"there is no list of phrases {name!r}", hint=f"shipped are {shipped}; or give a file's path")
    lines = [line.strip() for line in file.read_text().splitlines()]
    return [parse_line(line) for line in lines if line and not line.startswith("#")]


def parse_line(line: str) -> Phrase:
    """``PHRASE``, or ``NAME = /REGEX/``; each perhaps with `` @ SHARE``.

    Raises:
        RecipeError: a regular expression that RE2 does not take, or a share outside [0, 1].
    """
    found = _LINE.match(line)
    assert found is not None  # the last alternative takes anything
    target = None if found["target"] is None else float(found["target"])
    if target is not None and not 0 <= target <= 1:
        raise RecipeError(f"the share in {line!r} is not between 0 and 1")
    phrase = Phrase(found["name"], found["regex"], target) if found["regex"] else literal(found["text"], target)
    try:
        pc.match_substring_regex(pa.array([""]), phrase.pattern, ignore_case=True)
    except pa.ArrowInvalid as error:
        raise RecipeError(f"the pattern in {line!r}: {error}") from error
    return phrase


def literal(text: str, target: float | None = None) -> Phrase:
    """A phrase as it stands: whole words, any white space between them, straight or curly apostrophes."""
    body = r"\s+".join(re.escape(word).replace("'", "['’]") for word in text.split())
    before = r"\b" if text[0].isascii() and text[0].isalnum() else ""
    after = r"\b" if text[-1].isascii() and text[-1].isalnum() else ""
    return Phrase(text, before + body + after, target)


def sample_texts(rows: Rows, column: str = "text", most: int = SAMPLE) -> list[str]:
    """Texts of a few rows, chosen by their ids: the same whatever the order of the rows."""
    alive = np.flatnonzero(rows.alive)
    if len(alive) > most:
        salted = words(pc.binary_join_element_wise("w", rows.ids, "")).whole()[alive]
        alive = alive[np.argsort(salted, kind="stable")[:most]]
    wanted = np.zeros(rows.count, bool)
    wanted[alive] = True
    texts: list[str] = []
    for batch in rows.scan(column):
        texts += batch.text(column).filter(pa.array(wanted[batch.ordinals])).to_pylist()
    return texts


def reference_texts(files: Iterable[Path]) -> list[str]:
    """Answers of training rows, or texts of any Parquet file that has some."""
    texts: list[str] = []
    for file in files:
        names = open_parquet(file).schema_arrow.names
        column = next((name for name in ("completion", "messages", "conversation", "text") if name in names), None)
        if column is None:
            raise DataError(f"the reference {file} has no column completion, messages, conversation or text")
        source = ParquetSource([file], {"messages": column} if column == "completion" else {})
        needed = "messages" if column == "completion" else column
        for batch in source.batches([needed]):
            texts += last_text(batch.column(0)).to_pylist()
            if len(texts) >= SAMPLE:
                break
    return texts[:SAMPLE]


def new_phrases(
    texts: list[str], reference: list[str], share: float, ratio: float, most: int, sizes: Iterable[int] = (3, 4, 5, 6)
) -> list[Phrase]:
    """Word n-grams that many of the texts have, and few of the reference.

    Args:
        texts: answers of this round.
        reference: answers to compare with.
        share: of the texts that must have it.
        ratio: how much commoner it must be than in the reference.
        most: phrases at most, the commonest; of those that overlap and are as common, the longest.
        sizes: words of an n-gram.
    """
    if not texts or not reference:
        return []
    found: dict[str, int] = {}
    for n in sizes:
        grams, counts = _document_counts(texts, n)
        common = counts >= max(2, share * len(texts))
        grams, counts = grams[common], counts[common]
        known, before = _document_counts(reference, n)
        places = np.minimum(np.searchsorted(known, grams), max(0, len(known) - 1))
        earlier = np.where(known[places] == grams, before[places], 0) if len(known) else np.zeros(len(grams))
        expected = np.maximum(earlier / len(reference), 1 / (len(reference) + 1))
        new = counts / len(texts) >= ratio * expected
        read = _as_text(texts, grams[new], n)
        found |= {read[gram]: count for gram, count in zip(grams[new].tolist(), counts[new].tolist(), strict=True)}
    ranked = sorted(found.items(), key=lambda item: (-item[1], -len(item[0]), item[0]))
    groups: list[list[str]] = []
    for text, count in ranked[:CANDIDATES]:
        # Windows on the same longer phrase stand in the same texts and share words: one stands for all.
        same = [g for g in groups if any(_overlap(text, other) and count >= 0.9 * found[other] for other in g)]
        groups = [g for g in groups if g not in same] + [[*(other for g in same for other in g), text]]
    groups.sort(key=lambda group: ranked.index((group[0], found[group[0]])))
    return [literal_words(group[0]) for group in groups[:most]]


def _overlap(one: str, other: str) -> bool:
    """Whether two phrases share two words in a row."""
    first, second = one.split(), other.split()
    return not set(pairwise(first)).isdisjoint(pairwise(second))


def literal_words(text: str) -> Phrase:
    """A phrase of words with anything but words between them."""
    return Phrase(text, r"\b" + r"[^\pL\pN]+".join(map(re.escape, text.split())) + r"\b")


def _document_counts(texts: list[str], n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Each n-gram that stands somewhere, sorted, and in how many texts it does."""
    parts = []
    for _, block in blocks(pa.array(texts, pa.string())):
        found = words(block)
        hashes, valid = found.ngrams(n)
        # Text and n-gram in one number: equal ones are neighbours once sorted.
        keys = (found.rows()[valid].astype(np.uint64) << np.uint64(44)) | (hashes[valid] >> np.uint64(20))
        order = np.argsort(keys)
        again = np.zeros(len(keys), bool)
        again[1:] = keys[order][1:] == keys[order][:-1]
        parts.append(hashes[valid][order][~again])
    grams, counts = np.unique(np.concatenate(parts), return_counts=True)
    return grams, counts


def _as_text(texts: list[str], grams: NDArray[np.uint64], n: int) -> dict[int, str]:
    """How n-grams read, in lower case and without punctuation."""
    lookup, read = Lookup(grams), dict[int, str]()
    for _, block in blocks(pa.array(texts, pa.string())):
        found = words(block)
        hashes, valid = found.ngrams(n)
        for place in lookup.find(hashes, valid)[0].tolist() if len(read) < len(grams) else ():
            if int(hashes[place]) not in read:
                read[int(hashes[place])] = " ".join(found.text(word, 1) for word in range(place, place + n))
    return read


def reference_of(aids: Aids, given: str | None) -> list[Path]:
    """What to compare with: a file that the recipe names, else the run's earlier rows."""
    return [aids.base / given] if given is not None else list(aids.reference)
