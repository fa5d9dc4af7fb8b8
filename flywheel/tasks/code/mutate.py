"""Python programs with one operator or constant altered: bugs to be found, and wrong programs to be rejected."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator

_OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.USub: ast.UAdd,
}


def mutants(source: str, most: int | None = None, draw: random.Random | None = None) -> Iterator[str]:
    """The program with one place altered, for each place where that can be done, in the order of the text.

    Annotations and docstrings are left alone. Some mutants behave as the original does.

    Args:
        source: the program.
        most: a sample of so many places, where there are more; None: all of them.
        draw: draws the sample, in an order of its own; needed with ``most``.

    Raises:
        SyntaxError: the program does not parse.
    """
    tree = ast.parse(source)
    places = list(_places(tree))
    if most is not None:
        assert draw is not None
        places = draw.sample(places, min(most, len(places)))
    for node, name, position in places:
        # Altered in place, written down, and mended: a copy of the tree costs more than all the rest.
        value = getattr(node, name)
        original = value[position] if position is not None else value
        _alter(node, name, position)
        yield ast.unparse(tree) + "\n"
        if position is not None:
            value[position] = original
        else:
            setattr(node, name, original)


def _places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Nodes with an operator or a constant to alter: the node, its field, and the position in it."""
    skipped = _quiet(tree)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.BinOp | ast.BoolOp | ast.AugAssign | ast.UnaryOp) and type(node.op) in _OPERATORS:
            yield node, "op", None
        elif isinstance(node, ast.Compare):
            yield from ((node, "ops", i) for i, op in enumerate(node.ops) if type(op) in _OPERATORS)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str):
            yield node, "value", None


def _alter(node: ast.AST, name: str, position: int | None) -> None:
    value = getattr(node, name)
    if position is not None:
        value[position] = _OPERATORS[type(value[position])]()
    elif name == "op":
        setattr(node, name, _OPERATORS[type(value)]())
    else:
        setattr(node, name, _other(value))


def _other(value: bool | int | float | str) -> bool | int | float | str:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value[:-1] if value else " "  # a letter that was forgotten
    return value + 1


def _quiet(tree: ast.AST) -> set[int]:
    """Nodes within annotations and docstrings, which say nothing when the program runs."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            roots.append(node)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
    return {id(node) for root in roots if root is not None for node in ast.walk(root)}
