"""Countdown: reach a target from given numbers, each used exactly once.

The game is the numbers round of the television programme, as a task for language models in
Gandhi et al. 2024, "Stream of Search" (there with 4 numbers and ``+ - * /``). Problems are made
backwards, from a random expression, so every one has a solution, and that is its demonstration.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from flywheel.tasks.base import BaseTask
from flywheel.tasks.expression import (
    OPERATORS,
    ExpressionError,
    Postfix,
    evaluate,
    numbers_in,
    operators_in,
    parse,
    render,
)
from flywheel.tasks.splits import draw_split, require_split
from flywheel.types import Completion, Problem, Verdict

STYLES = ("terse", "chat")

_OPEN, _CLOSE = "<answer>", "</answer>"
_CHAT_PROMPT = """\
Use the numbers {numbers} to write an arithmetic expression that equals {target}. \
Use every number exactly once, and no others. You may use {operators} and parentheses. \
Think it through, then end with the expression alone between answer tags, like this: \
<answer>{example}</answer>"""


class Countdown(BaseTask):
    """Countdown problems without end.

    One problem in 8 is held out. A hash of the sorted numbers and the target decides which, and nothing
    else: no seed, style or set of operators can bring a held-out problem into a training split.
    Training problems come as often as random expressions make them; the held-out problems and the
    demonstrations come once each, and end when no new one is left.

    Args:
        numbers: how many numbers a problem has, 2 to 20.
        max_number: they are drawn from 1 to this, at most a billion.
        operators: which of ``+-*/`` an answer may use; a quotient on the way need not be whole.
        max_target: the largest target; 10 times ``max_number`` if None, the game's own proportion.
        style: "terse" asks ``3 5 7=22`` and wants ``3*5+7`` and nothing else, for a tiny model of
            characters; "chat" asks in English and wants ``<answer>3*5+7</answer>``.
        seed: another seed draws other problems, from the same two sides of the hash.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        numbers: int = 3,
        max_number: int = 20,
        operators: str = "+-*",
        max_target: int | None = None,
        style: str = "chat",
        seed: int = 0,
    ) -> None:
        self.numbers = _whole("numbers", numbers, 2, 20)
        self.max_number = _whole("max_number", max_number, 1, 10**9)
        self.max_target = 10 * max_number if max_target is None else _whole("max_target", max_target, 1)
        if not operators or not set(operators) <= set(OPERATORS):
            raise ValueError(f"operators must be some of {OPERATORS!r}, not {operators!r}")
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
        self.operators = "".join(o for o in OPERATORS if o in operators)
        self.style = style
        self.seed = seed

    def problems(self, split: str) -> Iterator[Problem]:
        """Problems in a fixed order; every one carries a gold answer.

        Raises:
            TaskError: a split other than "train", "heldout" and "demonstrations".
        """
        require_split("countdown", split)
        return self._problems(split)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        """Right if the answer uses each number once, only allowed operators, and equals the target.

        The answer is what the last pair of answer tags holds. Without tags it is the whole text
        (terse), or the last line that is not empty (chat). In chat style it may end in ``= target``.

        Returns:
            A verdict that is never undecided. Reasons: "no answer", "operator not allowed", "wrong numbers",
            "wrong value" (with ``detail["value"]``), and those of ``ExpressionError``.
        """
        target = problem.data["target"]
        answer = self._answer(completion.text, target)
        if not answer:
            return Verdict.wrong("no answer")
        try:
            expression = parse(answer)
            if not operators_in(expression).issubset(self.operators):
                return Verdict.wrong("operator not allowed")
            # Before evaluating: so the largest value is bounded by the problem, not by the policy.
            if sorted(numbers_in(expression)) != sorted(problem.data["numbers"]):
                return Verdict.wrong("wrong numbers")
            value = evaluate(expression)
        except ExpressionError as error:
            return Verdict.wrong(error.reason)
        return Verdict.right() if value == target else Verdict.wrong("wrong value", value=str(value))

    def wrong_answers(self, problem: Problem) -> list[str]:
        """The bare target, its neighbour, a number used twice, and the right numbers with another value."""
        numbers, target = problem.data["numbers"], problem.data["target"]
        total = "+".join(map(str, numbers))
        # A difference is smaller than the sum of the same positive numbers, so one of the two misses.
        missed = total if sum(numbers) != target else "-".join(map(str, numbers))
        return [self._format(text) for text in (f"{target}", f"{target + 1}", f"{total}+{numbers[0]}", missed)]

    def _problems(self, split: str) -> Iterator[Problem]:
        rng = random.Random(f"countdown {self.seed} {split}")

        def draw() -> tuple[str, tuple[Postfix, int]] | None:
            solution = self._draw(rng)
            target = self._target(solution)
            return None if target is None else (_terse(sorted(numbers_in(solution)), target), (solution, target))

        for key, (solution, target) in draw_split(split, draw):
            # Shown in another order than the solution's, which would otherwise be given away.
            shown = sorted(numbers_in(solution), key=lambda _: rng.random())
            gold = self._format(render(solution))
            yield Problem.ask(f"cd-{key}", self._question(shown, target), gold, numbers=shown, target=target)

    def _draw(self, rng: random.Random) -> Postfix:
        """A random expression: numbers in a row, operators strewn in wherever two operands are at hand."""
        chance, operators = rng.random, self.operators
        postfix: list[int | str] = []
        operands = 0
        for left in range(self.numbers - 1, -1, -1):
            postfix.append(1 + int(chance() * self.max_number))
            operands += 1
            while operands > 1 and (left == 0 or chance() < 0.5):
                postfix.append(operators[int(chance() * len(operators))])
                operands -= 1
        return tuple(postfix)

    def _target(self, solution: Postfix) -> int | None:
        """The value, if a problem may ask for it."""
        try:
            value = evaluate(solution)
        except ExpressionError:
            return None
        return value if isinstance(value, int) and 0 < value <= self.max_target else None

    def _question(self, numbers: Sequence[int], target: int) -> str:
        if self.style == "terse":
            return _terse(numbers, target)
        return _CHAT_PROMPT.format(
            numbers=_series(numbers),
            target=target,
            operators=", ".join(self.operators),
            example=f"1{self.operators[0]}2",
        )

    def _format(self, expression: str) -> str:
        return expression if self.style == "terse" else f"{_OPEN}{expression}{_CLOSE}"

    def _answer(self, text: str, target: int) -> str:
        # str.rfind and no regular expression: a lazy .*? is quadratic on a text of opening tags.
        end = text.rfind(_CLOSE)
        start = text.rfind(_OPEN, 0, end) if end >= 0 else -1
        if start >= 0:
            answer = text[start + len(_OPEN) : end].strip()
        else:
            answer = text.strip()
            if self.style == "chat":
                answer = answer.rpartition("\n")[2]
        if self.style == "chat":
            expression, equals, claim = answer.rpartition("=")
            if equals and claim.strip() == str(target):
                answer = expression.strip()
        return answer


def _terse(numbers: Sequence[int], target: int) -> str:
    return f"{' '.join(map(str, numbers))}={target}"


def _series(numbers: Sequence[int]) -> str:
    return f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def _whole(name: str, value: int, least: int, most: int | None = None) -> int:
    """Check a recipe's argument, which YAML may have made anything."""
    if type(value) is not int or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be a whole number {span}, not {value!r}")
    return value
