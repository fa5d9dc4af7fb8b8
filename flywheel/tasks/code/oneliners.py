"""One-line Python functions from examples: the smallest task whose answers must be run to be judged.

A problem shows what a hidden function makes of some strings, ``abCdB>BDCBA Bcaab>BAACB=``, and wants a function,
``lambda s:s[::-1].upper()``. It is right if it gives the right output for these and for further, hidden inputs, when
it is called in the sandbox. Nothing asks for the expression that the problem was made from: what runs right is right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from flywheel.tasks.base import BaseTask
from flywheel.tasks.code.extract import parses
from flywheel.tasks.code.options import Options
from flywheel.tasks.code.running import Runner
from flywheel.tasks.code.spec import Case, Spec, Specs
from flywheel.tasks.splits import draw_split, require_split
from flywheel.types import Completion, Problem, Verdict

LETTERS = "abc"
PROBES = ("abCdB", "Bcaab", "eDaCbd", "dB")
"""The inputs that are shown: always the same, so that a very small model can learn to read what became of them."""
STEPS: dict[str, tuple[str, ...]] = {
    "reverse": ("{s}[::-1]",),
    "case": ("{s}.upper()", "{s}.swapcase()"),
    "cut": ("{s}[1:]", "{s}[:-1]"),
    "take": ("{s}[:2]", "{s}[-2:]"),
    "skip": ("{s}[::2]",),
    "twice": ("{s}*2",),
    "sort": ("''.join(sorted({s}))",),
    "append": tuple(f"{{s}}+'{c}'" for c in LETTERS),
    "prepend": tuple(f"'{c}'+{{s}}" for c in LETTERS),
    "remove": tuple(f"{{s}}.replace('{c}','')" for c in LETTERS),
    "replace": tuple(f"{{s}}.replace('{a}','{b}')" for a, b in zip(LETTERS, LETTERS[1:] + LETTERS[0], strict=True)),
}
"""What a function does, one thing after another: families, so that each is as likely as any other."""
_LOOSE = ("append", "prepend", "twice")
"""What these leave must stand in parentheses before it is cut, or a method of it is called."""
_PLAIN = ("append", "prepend", "sort")
"""These take anything as it stands."""

Step = tuple[str, str]
"""A family and one of its templates."""


class Oneliners(BaseTask):
    """String functions without end, of up to ``steps`` steps.

    One function in 8 is held out, by a hash of its expression: no example of it is in a training split.

    Args:
        steps: most steps of a function, 1 to 4.
        shown: examples in the prompt, 1 to 4.
        hidden: further inputs on which the answer must be right.
        seed: another seed draws other examples.
        slots: programs that the sandbox runs at once; null is two per core.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self, steps: int = 3, shown: int = 2, hidden: int = 6, seed: int = 0, slots: int | None = None
    ) -> None:
        for name, value, low, high in (
            ("steps", steps, 1, 4),
            ("shown", shown, 1, len(PROBES)),
            ("hidden", hidden, 1, 100),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name} must be a whole number from {low} to {high}, not {value!r}")
        self.steps, self.shown, self.hidden, self.seed = steps, shown, hidden, seed
        sandbox: dict[str, Any] = {"seconds": 2.0, "memory_mb": 256, "extra": {"slots": slots} if slots else {}}
        # Whatever the hash seed, what a one-line function of a string returns is the same.
        self._runner = Runner(Options.model_validate({"sandbox": sandbox, "flaky": False}))

    @property
    def timeout(self) -> float:
        """CPU seconds of one run, unless the user says otherwise."""
        return self._runner.seconds

    def problems(self, split: str) -> Iterator[Problem]:
        """Problems in a fixed order, each with the function that it was made from as gold.

        Raises:
            TaskError: a split other than "train", "heldout" and "demonstrations".
        """
        require_split("oneliners", split)
        return self._problems(split)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        """Right if the function gives the right output for every input, run in the sandbox."""
        return self.verify_many([(problem, completion)])[0]

    def verify_many(self, asks: Sequence[tuple[Problem, Completion]], timeout: float | None = None) -> list[Verdict]:
        """All at once; what is no lambda on one line is wrong without being run."""
        lines = [completion.text.strip() for _, completion in asks]
        runnable = [i for i, line in enumerate(lines) if line.startswith("lambda ") and _is_expression(line)]
        specs = Specs()
        programs = [(f"f = {lines[i]}\n", specs.of(asks[i][0].data["spec"])) for i in runnable]
        grades = self._runner.grade_all(programs, timeout)
        verdicts = [Verdict.wrong("not a lambda on one line")] * len(asks)
        for i, grade in zip(runnable, grades, strict=True):
            verdict = grade.verdict()
            verdicts[i] = replace(verdict, reason="" if verdict.passed else verdict.reason)
        return verdicts

    def wrong_answers(self, problem: Problem) -> list[str]:
        """A function that ignores its argument, and what is no function."""
        return ["lambda s:None", "lambda s:", "s[::-1]"]

    def findings(self) -> list[str]:
        """Whether the sandbox works here."""
        why = self._runner.executor.health()
        return [] if why is None else [f"the sandbox does not run programs: {why}"]

    def close(self) -> None:
        """End the sandbox."""
        self._runner.close()

    def _problems(self, split: str) -> Iterator[Problem]:
        rng = random.Random(f"oneliners {self.seed} {split}")
        for key, steps in draw_split(split, lambda: self._draw(rng)):
            pairs = self._examples(steps, rng)
            if pairs is None:
                continue
            spec = Spec("call", "python", "f", cases=[Case([given], output) for given, output in pairs])
            prompt = " ".join(f"{given}>{output}" for given, output in pairs[: self.shown]) + "="
            gold = f"lambda s:{write(steps)}"
            yield Problem.ask(f"one-{key}", prompt, gold, spec=spec.to_data())

    def _draw(self, rng: random.Random) -> tuple[str, list[Step]] | None:
        """A function, and the expression that is its canonical text."""
        steps = [(family, rng.choice(STEPS[family])) for family in rng.choices(_FAMILIES, k=rng.randint(1, self.steps))]
        return write(steps), steps

    def _examples(self, steps: Sequence[Step], rng: random.Random) -> list[tuple[str, str]] | None:
        """Inputs with outputs; None if those that are shown would not show one of the steps."""
        inputs = [*PROBES[: self.shown], *(_input(rng) for _ in range(self.hidden))]
        states = [inputs]
        for end in range(1, len(steps) + 1):
            function = _function(write(steps[:end]))
            states.append([function(given) for given in inputs])
        for before, after in pairwise(states):
            if before[: self.shown] == after[: self.shown]:
                return None
        shown = states[-1][: self.shown]
        return list(zip(inputs, states[-1], strict=True)) if all(shown) else None


def _is_expression(line: str) -> bool:
    """Whether a line can be what a name is set to; the sandbox need not be asked."""
    return "\n" not in line and parses(f"f = {line}\n")


def write(steps: Sequence[Step]) -> str:
    """The expression of ``s`` that takes the steps one after another."""
    expression, before = "s", ""
    for family, template in steps:
        loose = before in _LOOSE and family not in _PLAIN
        expression = template.format(s=f"({expression})" if loose else expression)
        before = family
    return expression


def _input(rng: random.Random) -> str:
    return "".join(rng.choices("abcdABC", k=rng.randint(3, 6)))


@lru_cache(maxsize=100_000)
def _function(expression: str) -> Callable[[str], str]:
    # Our own expressions, made from the table above; what a policy writes runs in the sandbox alone.
    function: Callable[[str], str] = eval(f"lambda s:{expression}", {"__builtins__": {"sorted": sorted}})
    return function


_FAMILIES = tuple(STEPS)
