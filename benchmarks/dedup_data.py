"""Rows whose near-duplicates are known: vectors in skewed clusters, and word problems with copies and paraphrases.

    python benchmarks/dedup_data.py ROWS OUT.parquet [--seed 0]

Vectors lie around centres whose sizes follow Zipf's law (the largest holds some 13 % of them). A planted group is a row
and one to seven others at a cosine of 0.96 to 0.995 to it, so that any two of a group are above 0.9; a decoy lies at
0.80 to 0.88 from another row and must stay.
"""

from __future__ import annotations

import argparse
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DIMENSIONS = 384
CENTRES = 3000
ZIPF = 1.1
SPREAD = 0.9
"""Norm of what a row adds to its centre's unit vector: two rows of a centre are at a cosine of 0.55."""
GROUPED, DECOYS = 0.25, 0.05
LARGEST_GROUP = 8
COSINES, DECOY_COSINES = (0.96, 0.995), (0.80, 0.88)
PART = 50_000

Floats = NDArray[np.float32]


def plant(rows: int, seed: int = 0) -> tuple[Floats, NDArray[np.int32], NDArray[np.float64]]:
    """Vectors of norm 1, each row's group (-1: none), and scores."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, LARGEST_GROUP + 1, max(1, int(rows * GROUPED / (LARGEST_GROUP / 2 + 1))))
    decoys = int(rows * DECOYS)
    copies = int(sizes.sum()) - len(sizes)
    first = rows - copies - decoys
    shares = 1 / np.arange(1, CENTRES + 1) ** ZIPF
    centres = _units(draw.standard_normal((CENTRES, DIMENSIONS), np.float32))
    label = draw.choice(CENTRES, first, p=shares / shares.sum())
    vectors = np.empty((rows, DIMENSIONS), np.float32)
    for at in range(0, first, PART):
        here = slice(at, min(at + PART, first))
        noise = draw.standard_normal((here.stop - at, DIMENSIONS), np.float32)
        vectors[here] = _units(centres[label[here]] + SPREAD / np.sqrt(DIMENSIONS) * noise)
    group = np.full(rows, -1, np.int32)
    group[: len(sizes)] = np.arange(len(sizes))
    group[first : first + copies] = np.repeat(np.arange(len(sizes)), sizes - 1)
    _perturb(vectors, group[first : first + copies], first, COSINES, draw)
    _perturb(vectors, draw.integers(len(sizes), first, decoys), first + copies, DECOY_COSINES, draw)
    order = draw.permutation(rows)
    for column in range(0, DIMENSIONS, 32):
        vectors[:, column : column + 32] = vectors[order, column : column + 32]
    return vectors, group[order], draw.random(rows)


def _perturb(
    vectors: Floats, origin: NDArray[np.integer], to: int, cosines: tuple[float, float], draw: np.random.Generator
) -> None:
    """Write rows from ``to`` on, each at a random cosine to its origin."""
    for at in range(0, len(origin), PART):
        base = vectors[origin[at : at + PART]]
        cosine = draw.uniform(*cosines, (len(base), 1)).astype(np.float32)
        noise = draw.standard_normal(base.shape, np.float32)
        noise = _units(noise - (noise * base).sum(axis=1, keepdims=True) * base)
        vectors[to + at : to + at + len(base)] = cosine * base + np.sqrt(1 - cosine**2) * noise


def _units(vectors: Floats) -> Floats:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(file: Path, rows: int, seed: int = 0) -> None:
    """A Parquet file of ``id``, ``embedding``, ``score`` and the ``group`` that a row was planted in."""
    vectors, group, score = plant(rows, seed)
    schema = pa.schema(
        [("id", pa.string()), ("embedding", pa.list_(pa.float32())), ("score", pa.float64()), ("group", pa.int32())]
    )
    with pq.ParquetWriter(file, schema, compression="zstd", compression_level=1, use_dictionary=False) as writer:
        for at in range(0, rows, PART):
            here = slice(at, min(at + PART, rows))
            count = here.stop - at
            lists = pa.ListArray.from_arrays(
                np.arange(count + 1, dtype=np.int32) * DIMENSIONS, vectors[here].reshape(-1)
            )
            ids = [f"row-{i}" for i in range(at, here.stop)]
            writer.write_table(pa.table([ids, lists, score[here], group[here]], schema=schema))


NAMES = ("Amara", "Bogdan", "Chiara", "Dewi", "Eskil", "Farah", "Goran", "Hana")
REWORDED = (
    (r"\bHow many\b", "What is the number of"),
    (r"\bhow many\b", "what number of"),
    (r"\bHow much\b", "What amount"),
    (r"\bbuys\b", "purchases"),
    (r"\bbought\b", "purchased"),
    (r"\beach\b", "every"),
    (r"\bin total\b", "altogether"),
    (r"\bgives\b", "hands"),
    (r"\bwants to\b", "would like to"),
    (r"\bneeds\b", "requires"),
    (r"\bgets\b", "receives"),
    (r"\bcosts?\b", "is priced at"),
    (r"\bIf\b", "Suppose that"),
    (r"\btwice as many\b", "double the number of"),
    (r"\bkids\b", "children"),
    (r"\bmakes\b", "produces"),
    (r"\bstarts? with\b", "has at first"),
    (r"\bThere are\b", "We have"),
)


def copied(question: str) -> str:
    """The same problem, typed anew: case, spaces and punctuation differ."""
    return "Q:  " + question.replace(". ", " .  ").replace("?", " ?").upper()


def paraphrased(question: str, seed: int) -> str:
    """The same problem in other words, with another name for its most frequent person, and a sentence before it."""
    for pattern, other in REWORDED:
        question = re.sub(pattern, other, question)
    people = re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}\b", question) or re.findall(r"^[A-Z][a-z]{2,}\b", question)
    if people:
        person = max(sorted(set(people)), key=people.count)
        question = re.sub(rf"\b{person}\b", random.Random(seed).choice(NAMES), question)
    return f"Solve this problem. {question}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    write(asked.out, asked.rows, asked.seed)
