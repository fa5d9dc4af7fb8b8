"""Makes the dataset of `stories.yaml`: short word problems, each with a chain of thought written by a template."""

import json
import random
import sys
from pathlib import Path

NAMES = ("Ann", "Bob", "Eve", "Joe", "Kim", "Max", "Sue", "Tom")
THINGS = ("pens", "eggs", "nuts", "keys", "hats", "figs")
STEPS = {"gets {n}": "+", "finds {n}": "+", "loses {n}": "-", "drops {n}": "-", "triples them": "*"}
"""What happens, and what it does to the number."""


def story(draw: random.Random, steps: int, most: int) -> dict[str, str]:
    """A question and its solution; no number on the way is negative or larger than ``most``."""
    start = total = draw.randint(2, most // 2)
    thing = draw.choice(THINGS)
    told, chain = [], [f"{start} {thing}."]
    while len(told) < steps:
        what, sign = draw.choice(list(STEPS.items()))
        n = 3 if sign == "*" else draw.randint(1, most // 2)
        result = {"+": total + n, "-": total - n, "*": total * n}[sign]
        if 0 <= result <= most:
            told.append(what.format(n=n))
            chain.append(f"{total}{sign}{n}={result} {thing}.")
            total = result
    question = f"{draw.choice(NAMES)} has {start} {thing}, {', '.join(told)}. How many?"
    return {"question": question, "answer": "\n".join([*chain, f"#### {total}"])}


def stories(count: int, worked: int, seed: int = 0, steps: int = 2, most: int = 20) -> list[dict[str, str]]:
    """Distinct stories, always the same ones; the last ``worked`` of them show how their answer comes about."""
    draw = random.Random(f"stories {seed}")
    found: dict[str, dict[str, str]] = {}
    while len(found) < count:
        one = story(draw, steps, most)
        found.setdefault(one["question"], one)
    rows = list(found.values())
    for row in rows[: count - worked]:
        row["answer"] = row["answer"].rpartition("#### ")[2]
    return rows


if __name__ == "__main__":
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in stories(12_000, 4_000)))
    print(f"{file}: 12,000 stories, 4,000 of them worked out")
