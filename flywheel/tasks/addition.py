"""Addition of numbers of any length: a small model that teaches itself longer and longer sums.

After Lee et al. 2025, "Self-Improving Transformers Overcome Easy-to-Hard and Length Generalization
Challenges" (arXiv 2502.01612): train on short sums, label slightly longer ones, filter, repeat. Both
operands have the same number of digits, the first not 0, as there. The paper's two formats are
``order="reversed", pad=True`` (section 4.1) and ``order="plain"`` (section 6.1, forward addition).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from flywheel.tasks.base import BaseTask
from flywheel.tasks.splits import draw_split, require_split
from flywheel.types import Completion, Problem, Verdict

ORDERS = ("plain", "reversed")
MAX_DIGITS = 4_000
"""Python refuses to print or read an integer of more than 4,300 digits."""


class Addition(BaseTask):
    """Sums of two n-digit numbers, asked as ``123+456=`` and answered ``579``.

    n is drawn uniformly. One sum in 8 is held out, by a hash of the two operands in either order: a
    training split has neither a held-out sum nor its mirror image, whatever seed, lengths and format.
    Held-out sums and demonstrations come once each, so one-digit sums soon run out and longer ones take
    their place; when no new one is left, the split ends. Training sums are drawn without end.

    Args:
        digits: n, or the least and the most of it, 1 to 4,000.
        heldout_digits: the same for the held-out split, such as longer sums; ``digits`` if None.
        order: "plain", or "reversed" to write operands and result from the least significant digit.
        pad: write the result with n + 1 digits always, zeros filling the most significant places.
        seed: another seed draws other sums, from the same two sides of the hash.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        digits: int | Sequence[int] = (1, 8),
        heldout_digits: int | Sequence[int] | None = None,
        order: str = "plain",
        pad: bool = False,
        seed: int = 0,
    ) -> None:
        self.digits = _span("digits", digits)
        self.heldout_digits = self.digits if heldout_digits is None else _span("heldout_digits", heldout_digits)
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, not {order!r}")
        if not isinstance(pad, bool):
            raise ValueError(f"pad must be true or false, not {pad!r}")
        self.order = order
        self.pad = pad
        self.seed = seed

    def problems(self, split: str) -> Iterator[Problem]:
        """Sums in a fixed order; every one carries its gold answer.

        Raises:
            TaskError: a split other than "train", "heldout" and "demonstrations".
        """
        require_split("addition", split)
        return self._problems(split)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        """Right if the answer, without surrounding white space, is the result to the character.

        The format is part of what is learned, so zeros count: a result with one zero too many or too few
        is wrong, with its own reason.

        Returns:
            A verdict that is never undecided. Reasons: "no answer", "not a number", "wrong format" (the right
            value with other padding), "wrong value".
        """
        a, b = problem.data["a"], problem.data["b"]
        answer = completion.text.strip()
        if answer == self._result(a, b):
            return Verdict.right()
        if not answer:
            return Verdict.wrong("no answer")
        if not (answer.isascii() and answer.isdigit()):
            return Verdict.wrong("not a number")
        # As strings: int() refuses, and before that is slow on, what a runaway policy can write.
        same_value = self._write(answer).lstrip("0") == str(int(a) + int(b))
        return Verdict.wrong("wrong format" if same_value else "wrong value")

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Off by one, an operand, a zero too many, and the digits back to front if that differs."""
        a, b = problem.data["a"], problem.data["b"]
        gold = self._result(a, b)
        off_by_one = self._result(a, str(int(b) + 1))
        mirrored = [gold[::-1]] if gold != gold[::-1] else []
        return [off_by_one, self._write(a), f"{gold}0", *mirrored]

    def _problems(self, split: str) -> Iterator[Problem]:
        rng = random.Random(f"addition {self.seed} {split}")
        least, most = self.heldout_digits if split == "heldout" else self.digits

        def draw() -> tuple[str, tuple[int, int]]:
            power = 10 ** rng.randint(least - 1, most - 1)
            a, b = rng.randrange(power, 10 * power), rng.randrange(power, 10 * power)
            return f"{min(a, b)}+{max(a, b)}", (a, b)

        for key, (a, b) in draw_split(split, draw):
            yield self._problem(f"add-{key}", str(a), str(b))

    def _problem(self, key: str, a: str, b: str) -> Problem:
        # The operands stay strings: readers other than Python round JSON's long integers.
        return Problem.ask(key, f"{self._write(a)}+{self._write(b)}=", self._result(a, b), a=a, b=b)

    def _result(self, a: str, b: str) -> str:
        total = str(int(a) + int(b))
        return self._write(total.zfill(len(a) + 1) if self.pad else total)

    def _write(self, digits: str) -> str:
        """Between plain digits and the task's order; its own inverse."""
        return digits[::-1] if self.order == "reversed" else digits


def _span(name: str, digits: int | Sequence[int]) -> tuple[int, int]:
    """Check a recipe's argument, which YAML may have made anything."""
    bounds = [digits, digits] if isinstance(digits, int) else digits
    match bounds:
        case [int(least), int(most)] if 1 <= least <= most <= MAX_DIGITS:
            return least, most
    raise ValueError(f"{name} must be n, or [least, most], from 1 to {MAX_DIGITS}, not {digits!r}")
