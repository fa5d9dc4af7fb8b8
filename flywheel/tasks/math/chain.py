"""Chains of calculations as GSM8K annotates them: ``48/2 = <<48/2=24>>24``."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

STEP = re.compile(r"<<([^<>=]+)=([^<>=]+)>>")
NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+")
_OPERATIONS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


@dataclass(frozen=True, slots=True)
class Step:
    """One annotated calculation.

    Attributes:
        leaves: the numbers of its expression, from left to right.
        postfix: the expression: indices of leaves, operators, and "neg".
        result: what it says it comes to.
    """

    leaves: tuple[Fraction, ...]
    postfix: tuple[int | str, ...]
    result: Fraction

    def value(self, leaves: Sequence[Fraction]) -> Fraction | None:
        """What the expression comes to with other numbers; None if it divides by zero."""
        stack: list[Fraction] = []
        for part in self.postfix:
            if isinstance(part, int):
                stack.append(leaves[part])
            elif part == "neg":
                stack.append(-stack.pop())
            else:
                right, left = stack.pop(), stack.pop()
                if part == "/":
                    if right == 0:
                        return None
                    stack.append(left / right)
                else:
                    stack.append(left + right if part == "+" else left - right if part == "-" else left * right)
        return stack.pop()


def read_chain(solution: str) -> list[Step] | None:
    """The steps of a solution; None if there is none, or one of them is no plain calculation, or is wrong."""
    annotations = STEP.findall(solution)
    if not annotations or solution.count("<<") != len(annotations):
        return None
    steps: list[Step] = []
    for expression, result in annotations:
        step = _step(expression, result)
        if step is None or step.value(step.leaves) != step.result:
            return None
        steps.append(step)
    return steps


def number(text: str) -> Fraction:
    """A number such as 1,234.5, exactly."""
    return Fraction(text.replace(",", "") if not text.startswith(".") else "0" + text)


def _step(expression: str, result: str) -> Step | None:
    """A step; a percent sign divides by 100, which is then not among the leaves."""
    if not NUMBER.fullmatch(result.strip()) or not re.fullmatch(r"[\d.,+\-*/() %]+", expression):
        return None
    leaves = tuple(number(text) for text in NUMBER.findall(expression))
    counter = iter(range(len(leaves)))
    source = NUMBER.sub(lambda _: f"n{next(counter)}", expression).replace("%", "/100")
    try:
        tree = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, RecursionError):
        return None
    postfix = _postfix(tree)
    if postfix is None:
        return None
    hundreds = sum(part == "hundred" for part in postfix)
    placed = tuple(len(leaves) if part == "hundred" else part for part in postfix)
    return Step((*leaves, Fraction(100)) if hundreds else leaves, placed, number(result.strip()))


def _postfix(node: ast.expr) -> list[int | str] | None:
    if isinstance(node, ast.Name) and node.id[1:].isdigit():
        return [int(node.id[1:])]
    if isinstance(node, ast.Constant) and node.value == 100:
        return ["hundred"]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _postfix(node.operand)
        return None if inner is None else [*inner, "neg"]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _postfix(node.left), _postfix(node.right)
        return None if left is None or right is None else [*left, *right, _OPERATIONS[type(node.op)]]
    return None
