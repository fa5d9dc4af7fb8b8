"""SemHash on the same vectors, in a process of its own, so that its time and memory can be told.

python benchmarks/dedup_peer.py IN.parquet KEPT.json --threshold 0.9
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from semhash import SemHash

BATCH = 8192


class _NoEncoder:
    """SemHash asks for an encoder even where the embeddings are given; it must not be needed."""

    def encode(self, inputs: object, **options: object) -> np.ndarray:
        raise AssertionError("the vectors are given")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("kept", type=Path)
    parser.add_argument("--threshold", type=float, default=0.9)
    asked = parser.parse_args()
    parquet = pq.ParquetFile(asked.file)
    score = parquet.read(columns=["score"])["score"].to_numpy()
    place = np.empty(len(score), np.int64)
    place[np.argsort(-score, kind="stable")] = np.arange(len(score))  # best first: SemHash keeps a group's first
    vectors, at = np.empty((0, 0), np.float32), 0
    for batch in parquet.iter_batches(BATCH, columns=["embedding"]):
        part = batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
        if not at:
            vectors = np.empty((len(score), part.shape[1]), np.float32)
        vectors[place[at : at + len(part)]] = part
        at += len(part)
    names = np.empty(len(score), object)
    names[place] = [str(i) for i in range(len(score))]
    found = SemHash.from_embeddings(vectors, names.tolist(), _NoEncoder()).self_deduplicate(asked.threshold)
    asked.kept.write_text(json.dumps([int(name) for name in found.selected]))


if __name__ == "__main__":
    main()
