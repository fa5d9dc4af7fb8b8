"""Throughput of the math verifier, beside math-verify called in one process. See README.md.

python benchmarks/math_verify.py [--workers 2] [--repeats 3] [--solutions 4000] [--data FILE] [--json]
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from flywheel.sources import map_fields, read_source
from flywheel.verify import math_forms
from flywheel.verify.math import Claimed, MathVerifier
from flywheel.verify.math_extract import gold_answer

PAIRS = Path(__file__).parents[1] / "tests" / "data" / "math_pairs.txt"
ENDINGS = ("#### {}", "The answer is {}.", "So in total it is \\boxed{{{}}}.", "The final answer is $\\boxed{{{}}}$.")
LIMIT = 10.0
TARGET = 1.7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--solutions", type=int, default=4000)
    parser.add_argument("--data", help="questions and worked answers; without it, solutions are made up")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pairs = answers_by_hand()
    loads = {
        "solutions": solutions(options.data, options.solutions),
        "answers": pairs,
        "symbolic": [claim for claim in pairs if math_forms.same(str(claim.gold), claim.text[7:-1]) is None],
    }
    rows = [measure(name, claims, options.workers, options.repeats) for name, claims in loads.items()]
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'per second':<10}{'n':>7}{'math-verify':>14}{'flywheel':>12}{'ratio':>8}{'agree':>8}")
    for row in rows:
        print(
            f"{row['load']:<10}{row['n']:>7,}{row['peer']:>14,.0f}{row['ours']:>12,.0f}{row['ratio']:>8.1f}"
            f"{row['agree']:>8.1%}"
        )
    start = max(row["start"] for row in rows)
    print(f"target: a ratio of at least {TARGET}; {options.workers} workers start in {start:.2f} s, once")


def solutions(data: str | None, count: int) -> list[Claimed]:
    """Worked solutions of word problems, half of them wrong."""
    rng = random.Random(0)
    if data is not None:
        rows = map_fields(read_source(data), {"answer": "answer"})
        golds = [
            (str(gold_answer(text)), text.rpartition("####")[0]) for row in rows if (text := str(row.values["answer"]))
        ]
    else:
        golds = [_made_up(rng) for _ in range(count)]
    claims = []
    for index, (gold, working) in enumerate(golds[:count]):
        given = gold if index % 2 else str(int(float(gold.replace(",", ""))) + rng.choice((1, 10, -3)))
        claims.append(Claimed(gold, working + ENDINGS[index // 2 % len(ENDINGS)].format(given)))
    return claims


def _made_up(rng: random.Random) -> tuple[str, str]:
    total, lines = rng.randint(2, 60), []
    for _ in range(rng.randint(2, 6)):
        more = rng.randint(2, 40)
        lines.append(f"Then there are {total} + {more} = <<{total}+{more}={total + more}>>{total + more} of them.")
        total += more
    return str(total), "\n".join(lines) + "\n"


def answers_by_hand() -> list[Claimed]:
    """The answers of the tests: every form there is, each once."""
    claims, gold = [], ""
    for line in PAIRS.read_text().splitlines():
        kind, _, text = line.partition(" ")
        if kind == "=":
            gold = text
        elif kind in ("+", "-"):
            claims.append(Claimed(gold, f"\\boxed{{{text}}}"))
    return claims


def measure(name: str, claims: list[Claimed], workers: int, repeats: int) -> dict[str, Any]:
    """The best of some repeats of either side, taking turns; nothing is remembered from one to the next."""
    library = peer()
    theirs_took, ours_took, starts = [], [], []
    theirs: list[bool] = []
    mine: list[bool | None] = []
    for _ in range(repeats):
        begun = time.perf_counter()
        theirs = [by_math_verify(library, claim) for claim in claims]
        theirs_took.append(time.perf_counter() - begun)
        math_forms.read.cache_clear()
        verifier = MathVerifier(workers)
        begun = time.perf_counter()
        verifier.verify_many([Claimed("\\sqrt{8}", "\\boxed{2\\sqrt{2}}")], LIMIT)
        starts.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        mine = [verdict.passed for verdict in verifier.verify_many(claims, LIMIT)]
        ours_took.append(time.perf_counter() - begun)
        verifier.close()
    agree = sum(one is two for one, two in zip(theirs, mine, strict=True)) / len(claims)
    return {
        "load": name,
        "n": len(claims),
        "peer": len(claims) / min(theirs_took),
        "ours": len(claims) / min(ours_took),
        "ratio": min(theirs_took) / min(ours_took),
        "agree": agree,
        "start": min(starts),
    }


def peer() -> Any:
    """The library, not this file, which has its name."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    return importlib.import_module("math_verify")


def by_math_verify(library: Any, claim: Claimed) -> bool:
    """As its documentation has it."""
    return bool(library.verify(library.parse(f"${claim.gold}$"), library.parse(claim.text)))


if __name__ == "__main__":
    main()
