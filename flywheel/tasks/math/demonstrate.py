"""How a final answer is asked for and given: prompts, gold completions, and answers that must be rejected."""

from __future__ import annotations

import re
from fractions import Fraction

from flywheel.tasks.math.dataset import Item
from flywheel.verify.math_forms import read
from flywheel.verify.math_number import read_quantity

STYLES = {
    "boxed": "{question}\n\nReason step by step, and put your final answer within \\boxed{{}}.",
    "hashes": "{question}\n\nReason step by step, and end with a line that holds #### and the final answer.",
    "bare": "{question}",
}
"""What is asked; the question is the only field."""
_ANNOTATION = re.compile(r"<<[^<>]*>>")


def gold(item: Item, style: str) -> str | None:
    """A right completion: the worked solution, if there is one, and the answer as the style wants it."""
    if item.answer is None:
        return None
    worked = _ANNOTATION.sub("", item.solution or "").strip()
    if worked and "####" not in worked and ("\\boxed" in worked or style == "bare"):
        return worked
    head = worked.rpartition("####")[0].rstrip() if "####" in worked else worked
    return "\n".join(part for part in (head, final(item.answer, style)) if part)


def final(answer: str, style: str) -> str:
    """The line that gives an answer."""
    return f"#### {answer}" if style == "hashes" else f"The answer is $\\boxed{{{answer}}}$."


def wrong(answer: str | None, style: str) -> list[str]:
    """Completions that are wrong for sure, where the answer is a number."""
    quantity = read_quantity(read(answer)) if answer is not None else None
    if quantity is None:
        return []
    value = quantity.value
    others = dict.fromkeys((value + 1, value * 10, -value))
    return [final(_plain(other), style) for other in others if other != value]


def _plain(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
