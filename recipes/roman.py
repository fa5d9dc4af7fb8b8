"""A task of your own, whole: a recipe beside this file says `task: {use: ./roman.py:Roman}`."""

import random
from collections.abc import Iterator

from flywheel.tasks import BaseTask
from flywheel.types import Completion, Problem, Verdict

SYMBOLS = {1000: "M", 900: "CM", 500: "D", 400: "CD", 100: "C", 90: "XC", 50: "L", 40: "XL"}
SYMBOLS |= {10: "X", 9: "IX", 5: "V", 4: "IV", 1: "I"}


def roman(number: int) -> str:
    text = ""
    for value, symbol in SYMBOLS.items():
        text += symbol * (number // value)
        number %= value
    return text


class Roman(BaseTask):
    def problems(self, split: str) -> Iterator[Problem]:
        # Every 7th number is held out: 7 and 10 share no factor, so held-out numbers end in any digit.
        numbers = [n for n in range(1, 4000) if (n % 7 == 0) == (split == "heldout")]
        for n in random.Random(split).sample(numbers, len(numbers)):
            yield Problem.ask(f"roman-{n}", f"Write {n} as a Roman numeral, and nothing else.", gold=roman(n))

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        return Verdict.right() if completion.text.strip() == problem.gold else Verdict.wrong("wrong numeral")
