"""Semantic deduplication: time, memory, growth and missed duplicates, beside SemHash, and what it finds in GSM8K.

    python benchmarks/dedup.py [--sizes 75000 150000 300000 600000 1200000] [--semhash 75000] [--gsm8k FILE] [--json]

Each size is a Parquet file of planted vectors (``dedup_data.py``) that ``flywheel dedup`` and SemHash take in processes
of their own. The audit compares random rows with all others by brute force. See ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dedup_data import copied, paraphrased
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from flywheel.engines.embed import Encoder

HERE = Path(__file__).parent
THRESHOLD = 0.9
AUDITED = 2000
BATCH = 8192
ROUNDING = 1e-5
"""Cosines this near to the threshold may fall on either side, in float32."""
PLANTED = 200
SHOWN = 25
GSM8K_THRESHOLDS = (0.9, 0.85, 0.8)
HEADINGS = (
    "rows", "by", "seconds", "CPU s", "peak GB", "kept", "duplicates audited", "missed", "wrongly removed",
    "pairs left", "groups right",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[75_000, 150_000, 300_000, 600_000, 1_200_000])
    parser.add_argument("--semhash", type=int, nargs="*", default=[75_000], help="sizes that SemHash does as well")
    parser.add_argument("--against", choices=("kept", "seen"), default="kept")
    parser.add_argument("--gsm8k", type=Path, help="JSON lines (perhaps gzip) with a `question` each")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "flywheel-bench-dedup")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"vectors": [], "gsm8k": None}
    for size in asked.sizes:
        file = asked.work / f"planted-{size}.parquet"
        if not file.exists():
            measured([sys.executable, str(HERE / "dedup_data.py"), str(size), str(file)])
        results["vectors"].append(flywheel(file, asked.work, asked.against))
        if size in asked.semhash:
            results["vectors"].append(semhash(file, asked.work))
    if asked.gsm8k is not None:
        results["gsm8k"] = gsm8k(asked.gsm8k, asked.work)
    if asked.json:
        print(json.dumps(results, indent=2))
    else:
        show(results)


def measured(command: list[str]) -> dict[str, float]:
    """A process's wall clock, processor time (all threads) and peak memory."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "memory_gb": usage.ru_maxrss / 1e6,
    }


def flywheel(file: Path, work: Path, against: str) -> dict[str, Any]:
    """``flywheel dedup`` on a planted file."""
    out = work / "kept.parquet"
    columns = ["--embedding-column", "embedding", "--score-column", "score", "--id-column", "id"]
    options = ["--threshold", str(THRESHOLD), "--against", against, "--json"]
    cost = measured([sys.executable, "-m", "flywheel", "dedup", str(file), str(out), *columns, *options])
    names = pq.ParquetFile(out).read(columns=["id"])["id"].to_pylist()
    kept = np.array([int(name.removeprefix("row-")) for name in names])
    removed = pq.ParquetFile(work / "kept.removed.parquet").read(columns=["id", "removed_by", "cosine"])
    by = {int(name.removeprefix("row-")) for name in removed["removed_by"].to_pylist()}
    witnessed = {"witnesses_kept": by <= set(kept.tolist())}
    return {"by": "flywheel"} | cost | witnessed | audit(file, kept, against)


def semhash(file: Path, work: Path) -> dict[str, Any]:
    """SemHash on the same file."""
    listed = work / "semhash.json"
    cost = measured([sys.executable, str(HERE / "dedup_peer.py"), str(file), str(listed)])
    return {"by": "SemHash"} | cost | audit(file, np.array(json.loads(listed.read_text())), "kept")


def audit(file: Path, kept: NDArray[np.int64], against: str) -> dict[str, Any]:
    """What was missed, by brute force over random rows, and what became of the planted groups.

    Returns:
        duplicates: audited rows near to a better row that was kept (``seen``: to any better one).
        missed: those of them that stayed all the same.
        lost: audited rows that went without such a row.
        left: pairs above the threshold of which both stayed.
        groups, groups_right: planted groups; those of which the best row stayed and no other.
    """
    parquet = pq.ParquetFile(file)
    facts = parquet.read(columns=["score", "group"])
    score, group = facts["score"].to_numpy(), facts["group"].to_numpy()
    rank = np.empty(len(score), np.int64)
    rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
    stays = np.zeros(len(score), bool)
    stays[kept] = True
    rows = np.sort(np.random.default_rng(1).choice(len(score), min(AUDITED, len(score)), replace=False))
    queries = np.concatenate([part[np.isin(at, rows)] for at, part in vectors(parquet)])
    near, maybe, left = np.zeros(len(rows), bool), np.zeros(len(rows), bool), 0
    for at, part in vectors(parquet):
        scores = part @ queries.T
        other, query = np.nonzero(scores >= THRESHOLD - ROUNDING)
        sure = scores[other, query] >= THRESHOLD + ROUNDING
        other = at[other]
        better = rank[other] < rank[rows[query]]
        counts = better & (stays[other] | (against == "seen"))
        near[query[counts & sure]] = True
        maybe[query[counts]] = True
        left += int(np.count_nonzero(sure & (other != rows[query]) & stays[other] & stays[rows[query]]))
    planted = np.flatnonzero(group >= 0)
    order = planted[np.lexsort((rank[planted], group[planted]))]
    first = np.ones(len(order), bool)
    first[1:] = group[order][1:] != group[order][:-1]
    right = (np.bincount(group[order], stays[order]) == 1) & stays[order[first]]
    return {
        "rows": len(score),
        "kept": len(kept),
        "audited": len(rows),
        "duplicates": int(near.sum()),
        "missed": int((near & stays[rows]).sum()),
        "lost": int((~maybe & ~stays[rows]).sum()),
        "left": left,
        "groups": len(right),
        "groups_right": int(right.sum()),
    }


def vectors(parquet: pq.ParquetFile) -> Any:
    """Row numbers and vectors, a batch at a time."""
    first = 0
    for batch in parquet.iter_batches(BATCH, columns=["embedding"]):
        part = batch.column(0).flatten().to_numpy().reshape(len(batch), -1)
        yield np.arange(first, first + len(part)), part
        first += len(part)


def gsm8k(file: Path, work: Path) -> dict[str, Any]:
    """Copies and paraphrases of some problems, planted and looked for; and near-duplicates that were there before."""
    content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    questions = [json.loads(line)["question"] for line in content.splitlines()]
    chosen = random.Random(0).sample(range(len(questions)), PLANTED)
    ids = [f"gsm8k-{i}" for i in range(len(questions))]
    ids += [f"copy-{i}" for i in chosen] + [f"paraphrase-{i}" for i in chosen]
    texts = questions + [copied(questions[i]) for i in chosen] + [paraphrased(questions[i], i) for i in chosen]
    scores = [1.0] * len(questions) + [0.0] * 2 * PLANTED  # what was there before stays
    source, out = work / "gsm8k.parquet", work / "gsm8k-kept.parquet"
    started = time.perf_counter()
    embeddings = list(Encoder().encode(texts))
    embedding_seconds = time.perf_counter() - started
    pq.write_table(pa.table({"id": ids, "text": texts, "embedding": embeddings, "score": scores}), source)
    text = dict(zip(ids, texts, strict=True))
    found: dict[str, Any] = {"rows": len(texts), "planted": PLANTED, "embedding_seconds": embedding_seconds, "at": []}
    for threshold in GSM8K_THRESHOLDS:
        columns = ["--embedding-column", "embedding", "--score-column", "score", "--threshold", str(threshold)]
        cost = measured([sys.executable, "-m", "flywheel", "dedup", str(source), str(out), *columns])
        removed = pq.ParquetFile(work / "gsm8k-kept.removed.parquet").read(["id", "removed_by", "cosine"]).to_pylist()
        counts = Counter(row["id"].split("-")[0] for row in removed)
        kinds = {"copies": counts["copy"], "paraphrases": counts["paraphrase"], "own": counts["gsm8k"]}
        found["at"].append({"threshold": threshold, **cost, **kinds})
        if threshold == THRESHOLD:
            own = sorted((r for r in removed if r["id"].startswith("gsm8k")), key=lambda r: (-r["cosine"], r["id"]))
            found["own"] = [(r["cosine"], text[r["id"]], text[r["removed_by"]]) for r in own[:SHOWN]]
    return found


def show(results: dict[str, Any]) -> None:
    console = Console(width=160)
    table = Table(box=box.SIMPLE_HEAD, title=f"planted vectors, threshold {THRESHOLD}", title_justify="left")
    for name in HEADINGS:
        table.add_column(name, justify="left" if name == "by" else "right")
    for r in results["vectors"]:
        share = f"{r['missed']} ({r['missed'] / max(1, r['duplicates']):.2%})"
        groups = f"{r['groups_right']:,} of {r['groups']:,}"
        cost = (f"{r['seconds']:.1f}", f"{r['cpu_seconds']:.0f}", f"{r['memory_gb']:.2f}")
        found = (f"{r['kept']:,}", f"{r['duplicates']:,}", share, str(r["lost"]), str(r["left"]), groups)
        table.add_row(f"{r['rows']:,}", r["by"], *cost, *found)
    console.print(table)
    same = {r["rows"]: r for r in results["vectors"] if r["by"] == "flywheel"}
    for r in results["vectors"]:
        if r["by"] == "SemHash" and r["rows"] in same:
            ours = same[r["rows"]]
            console.print(
                f"{r['rows']:,} rows: {r['seconds'] / ours['seconds']:.1f} times as fast as SemHash; "
                f"missed {ours['missed']} against {r['missed']}"
            )
    if (found := results["gsm8k"]) is not None:
        console.print(f"GSM8K, {found['rows']:,} rows, embedded in {found['embedding_seconds']:.0f} s")
        for at in found["at"]:
            console.print(
                f"threshold {at['threshold']}: {at['copies']} of {found['planted']} copies and {at['paraphrases']} "
                f"paraphrases found, and {at['own']} near-duplicates that were there before"
            )
        console.print(f"the nearest of these at {THRESHOLD}:")
        for cosine, removed, kept in found["own"]:
            console.print(f"{cosine:.4f}  {removed}\n        {kept}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
