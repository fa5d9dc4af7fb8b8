"""Arithmetic as a policy writes it: ``3*(5+7)``, read, printed and evaluated exactly.

Text from a model is hostile input, so nothing here calls ``eval`` or recurses: a regular expression
cuts tokens, a shunting-yard puts them in postfix order, and limits bound every step. An expression is
therefore a flat sequence, ``(3, 5, 7, "+", "*")`` for the one above: operands first, then operator.

The grammar is small on purpose: non-negative integers in ASCII digits without leading zeros,
``+ - * /`` or their typographic signs, parentheses, spaces. There is no unary sign, no power and no
implied product, and two digits with a space between them are two numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction

OPERATORS = "+-*/"
MAX_LENGTH = 500
"""Most characters of an expression."""
MAX_DEPTH = 100
"""Most operators and parentheses that may wait for their right-hand side."""

Postfix = tuple[int | str, ...]
"""Numbers and operators, each operator after its two operands."""

_RANK = {"+": 1, "-": 1, "*": 2, "/": 2}
_NUMBER_RANK = 3
_DIGITS = frozenset("0123456789")  # not str.isdigit, which also takes "٣" and "²"
# Numbers end after 18 digits: a longer one becomes two numbers in a row, which the grammar refuses.
_TOKEN = re.compile(r"0|[1-9][0-9]{0,17}|\S")
_GLYPHS = str.maketrans(
    "\N{MINUS SIGN}\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}\N{DIVISION SIGN}",
    "-**/",
)


class ExpressionError(ValueError):
    """Text that is no expression, or one without a value.

    Attributes:
        reason: "unparsable", "too long", "too deep" or "division by zero": few, so that they can be counted.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse(text: str) -> Postfix:
    """Read an expression, in time linear in its length.

    Raises:
        ExpressionError: the text is not an expression of this grammar, or exceeds a limit.
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError("too long")
    postfix: list[int | str] = []
    waiting: list[str] = []
    number_next = True
    for token in _TOKEN.findall(text if text.isascii() else text.translate(_GLYPHS)):
        if number_next:
            if token[0] in _DIGITS:
                postfix.append(int(token))
                number_next = False
            elif token == "(":
                waiting.append(token)
            else:
                raise ExpressionError("unparsable")
        elif token == ")":
            while waiting and waiting[-1] != "(":
                postfix.append(waiting.pop())
            if not waiting:
                raise ExpressionError("unparsable")
            waiting.pop()
        elif token in _RANK:
            while waiting and _RANK.get(waiting[-1], 0) >= _RANK[token]:
                postfix.append(waiting.pop())
            waiting.append(token)
            number_next = True
        else:
            raise ExpressionError("unparsable")
        if len(waiting) > MAX_DEPTH:
            raise ExpressionError("too deep")
    if number_next or "(" in waiting:
        raise ExpressionError("unparsable")
    return (*postfix, *reversed(waiting))


def evaluate(postfix: Iterable[int | str]) -> Fraction | int:
    """The exact value: an ``int`` if it is whole.

    Works on plain numerators and denominators, several times faster than on Fractions; what an
    expression of ``MAX_LENGTH`` can grow to stays below that many digits.

    Raises:
        ExpressionError: "division by zero".
    """
    stack: list[tuple[int, int]] = []
    for token in postfix:
        if isinstance(token, int):
            stack.append((token, 1))
            continue
        c, d = stack.pop()
        a, b = stack.pop()
        if token == "+":
            stack.append((a * d + c * b, b * d))
        elif token == "-":
            stack.append((a * d - c * b, b * d))
        elif token == "*":
            stack.append((a * c, b * d))
        elif c == 0:
            raise ExpressionError("division by zero")
        else:
            stack.append((a * d, b * c))
    a, b = stack.pop()
    return Fraction(a, b) if a % b else a // b


def render(postfix: Iterable[int | str]) -> str:
    """Print with only the parentheses that the value needs: ``(3+5)*7``, ``3-(5-7)``, but ``3+5-7``."""
    stack: list[tuple[str, int]] = []
    for token in postfix:
        if isinstance(token, int):
            stack.append((str(token), _NUMBER_RANK))
            continue
        rank = _RANK[token]
        right, right_rank = stack.pop()
        left, left_rank = stack.pop()
        if left_rank < rank:
            left = f"({left})"
        if right_rank < rank or (right_rank == rank and token in "-/"):
            right = f"({right})"
        stack.append((f"{left}{token}{right}", rank))
    return stack.pop()[0]


def numbers_in(postfix: Iterable[int | str]) -> list[int]:
    """The numbers, in the order in which they are written."""
    return [token for token in postfix if isinstance(token, int)]


def operators_in(postfix: Iterable[int | str]) -> set[str]:
    """The operators that occur."""
    return {token for token in postfix if isinstance(token, str)}
