"""Each filter over 1.2 million synthetic dialogues of 2 kB: seconds, peak memory, and what it dropped.

    python benchmarks/filters.py [--rows 1200000] [--only length,language] [--gsm8k gsm8k_train.jsonl.gz]

Each filter reads the same Parquet file in a process of its own: the time is from opening the file to the last dropped
row on disk; the memory is the process's greatest resident set. With GSM8K, 500 of its questions are the evaluation
set, 200 of them are planted, and the benchmark says how many of those decontamination found.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROWS_PER_GROUP = 20_000
PLANTED = 200
EVALUATED = 500
PLAIN, NGRAM = 60.0, 180.0
"""Seconds allowed: the goal for one pass, and for work on word n-grams."""
MEMORY = 4.0

CHAIN: dict[str, tuple[dict[str, Any], float]] = {
    "exact_duplicates": ({}, PLAIN),
    "near_exact": ({}, NGRAM),
    "cap_per_problem": ({"keep": 4, "prefer": "best"}, PLAIN),
    "pass_rate": ({"min": 0.1, "max": 0.9}, PLAIN),
    "finished": ({}, PLAIN),
    "length": ({"unit": "words", "min": 20, "max": 2000}, PLAIN),
    "format": ({"require": [r"\."], "forbid": [r"(?i)lorem ipsum"]}, PLAIN),
    "language": ({"keep": ["en"]}, PLAIN),
    "repetition": ({}, NGRAM),
    "overused_phrases": ({"reference": "reference.parquet"}, PLAIN),
    "quality": ({"reward_quantile": 0.75, "reward": "reward", "per": "source"}, PLAIN),
    "difficulty": ({"ends": False}, PLAIN),
    "mix": ({"weights": {"general": 0.5266, "code": 0.1489, "math": 0.2119}}, PLAIN),
    "decontaminate": ({"against": ["evaluation.jsonl"]}, NGRAM),
}

ENGLISH = (  # noqa: SIM905
    "the of and a to in is you that it he was for on are as with his they at be this have from or one had by word but "
    "not what all were we when your can said there use an each which she do how their if will up other about out many "
    "then them these so some her would make like him into time has look two more write go see number no way could "
    "people my than first water been call who oil its now find long down day did get come made may part answer problem "
    "function value list string return loop total price apples train speed hours minutes bakery teacher student garden "
    "window reason step result equation multiply divide subtract add remainder fraction percent discount ticket ferry"
).split()
GERMAN = (  # noqa: SIM905
    "der die das und ist nicht ein eine mit von auf für dem den im des zu es werden auch als bei nach wie aber nur "
    "noch man oder wenn mehr haben sein kann durch sehr diese antwort aufgabe zahl summe preis stunden"
).split()


def sentences(draw: np.random.Generator, vocabulary: list[str], count: int) -> list[str]:
    """Sentences of 8 to 24 words, common words often."""
    weights = 1 / np.arange(2, len(vocabulary) + 2)
    words = np.array(vocabulary, object)
    made = []
    for size in draw.integers(8, 25, count):
        text = " ".join(draw.choice(words, size, p=weights / weights.sum()))
        made.append(text.capitalize() + ". ")
    return made


def texts(draw: np.random.Generator, pool: pa.Array, rows: int, size: int) -> pa.Array:
    """Texts of ``size`` sentences each."""
    picked = pool.take(pa.array(draw.integers(0, len(pool), rows * size)))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, rows * size + 1, size), pa.int32()), picked)
    return pc.binary_join(lists, "")


def messages(role: str, contents: pa.Array) -> pa.Array:
    both = pa.StructArray.from_arrays([pa.repeat(role, len(contents)), contents], names=["role", "content"])
    return pa.ListArray.from_arrays(pa.array(np.arange(len(contents) + 1), pa.int32()), both)


def make(folder: Path, rows: int, gsm8k: Path | None) -> None:
    """Write ``dialogues.parquet``, ``reference.parquet`` and ``evaluation.jsonl``."""
    draw = np.random.default_rng(0)
    english = pa.array(sentences(draw, ENGLISH, 50_000))
    german = pa.array(sentences(draw, GERMAN, 5_000))
    questions = _questions(gsm8k) or sentences(draw, ENGLISH, EVALUATED)
    with (folder / "evaluation.jsonl").open("w") as file:
        file.write("".join(json.dumps({"id": i, "question": text}) + "\n" for i, text in enumerate(questions)))
    planted = np.sort(draw.choice(rows, PLANTED, replace=False))
    marks = pa.array(["", "I'm sorry. ", "Certainly! ", "🎉 ", "Let us unpack this together now. "])
    writer = None
    for begin in range(0, rows, ROWS_PER_GROUP):
        n = min(ROWS_PER_GROUP, rows - begin)
        asked, answer = texts(draw, english, n, 6), texts(draw, english, n, 23)
        foreign, looped = draw.random(n) < 0.02, draw.random(n) < 0.01
        answer = pc.replace_with_mask(answer, pa.array(foreign), texts(draw, german, int(foreign.sum()), 23))
        loops = [(text[:60] + " ") * 33 for text in answer.filter(pa.array(looped)).to_pylist()]
        answer = pc.replace_with_mask(answer, pa.array(looped), pa.array(loops, pa.string()))
        mark = marks.take(pa.array(draw.choice(len(marks), n, p=[0.57, 0.1, 0.2, 0.05, 0.08])))
        body = pc.binary_join_element_wise(mark, answer, "")
        here = np.flatnonzero((planted >= begin) & (planted < begin + n))
        mask = np.zeros(n, bool)
        mask[planted[here] - begin] = True
        pleas = [f"Please help me. {questions[i]} Thank you." for i in here]
        said = pc.replace_with_mask(asked, pa.array(mask), pa.array(pleas, pa.string()))
        ordinal = np.arange(begin, begin + n)
        table = pa.table(
            {
                "sample_id": pa.array([f"s{i}" for i in ordinal]),
                "problem_id": pa.array([f"p{i // 8}" for i in ordinal]),
                "prompt": messages("user", said),
                "messages": messages("assistant", body),
                "tokens": pa.array(draw.integers(10, 800, n), pa.int32()),
                "finish": pa.array(np.where(draw.random(n) < 0.05, "length", "stop")),
                "score": pa.array(np.ones(n)),
                "reward": pa.array(draw.normal(size=n)),
                "pass_rate": pa.array(draw.integers(0, 9, n) / 8),
                "source": pa.array(draw.choice(["general", "code", "math"], n, p=[0.6, 0.3, 0.1])),
            }
        )
        writer = writer or pq.ParquetWriter(folder / "dialogues.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()
    old = texts(draw, english, 20_000, 17)
    pq.write_table(pa.table({"text": old}), folder / "reference.parquet")


def _questions(gsm8k: Path | None) -> list[str]:
    if gsm8k is None:
        return []
    with gzip.open(gsm8k, "rt") as lines:
        return [json.loads(line)["question"] for line, _ in zip(lines, range(EVALUATED), strict=False)]


def measure(folder: Path, name: str) -> dict[str, Any]:
    """In a process of its own: one filter over the file."""
    from flywheel.curate import DROPPED, Aids, ParquetSource, Rows, make_filters, run_chain
    from flywheel.files import ParquetSink

    filters = make_filters([{name: CHAIN[name][0]}], verified=False)
    begun = time.perf_counter()
    rows = Rows(ParquetSource([folder / "dialogues.parquet"]))
    with ParquetSink(folder / f"{name}.parquet", DROPPED) as sink:
        (step,) = run_chain(filters, rows, sink, Aids(base=folder))
    seconds, cpu = time.perf_counter() - begun, time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {
        "filter": name,
        "seconds": round(seconds, 1),
        "cpu": round(cpu, 1),
        "peak_gib": round(peak, 2),
        "kept": step["kept"],
    }


def report(folder: Path, wanted: list[str], rows: int) -> list[dict[str, Any]]:
    print(f"{'filter':<20}{'seconds':>9}{'CPU s':>8}{'goal':>6}{'peak GiB':>10}{'dropped':>12}")
    found = []
    for name in wanted:
        command = [sys.executable, __file__, "--measure", name, "--folder", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stderr}")
        facts = json.loads(done.stdout.splitlines()[-1])
        goal = CHAIN[name][1]
        held = "" if facts["seconds"] <= goal and facts["peak_gib"] <= MEMORY else "   over the goal"
        gone = rows - facts["kept"]
        print(
            f"{name:<20}{facts['seconds']:>9.1f}{facts['cpu']:>8.1f}{goal:>6.0f}{facts['peak_gib']:>10.2f}{gone:>12,}{held}",
            flush=True,
        )
        found.append(facts)
    return found


def show_planted(folder: Path) -> None:
    dropped = pq.ParquetFile(folder / "decontaminate.parquet").read(["sample_id", "detail"]).to_pylist()
    items = {json.loads(row["detail"])["item"] for row in dropped}
    hit = sum(str(i) in items for i in range(PLANTED))
    print(f"planted evaluation questions found: {hit} of {PLANTED}; other rows dropped: {len(dropped) - hit}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_200_000)
    parser.add_argument("--only", default=",".join(CHAIN))
    parser.add_argument("--gsm8k", type=Path)
    parser.add_argument("--folder", type=Path, help="where the file is, or is to stay; else it is deleted")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.folder, given.measure)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "evaluation.jsonl").exists() or not (folder / "reference.parquet").exists():
            begun = time.perf_counter()
            make(folder, given.rows, given.gsm8k)
            print(f"{given.rows:,} dialogues made in {time.perf_counter() - begun:.0f} s", flush=True)
        wanted = given.only.split(",")
        report(folder, wanted, given.rows)
        if "decontaminate" in wanted:
            show_planted(folder)


if __name__ == "__main__":
    main()
