"""Python assertions, read: which function they call, and which of them are plain cases of it.

``assert f([3, 1]) == [1, 3]`` says nothing that ``f``, its arguments and a value do not say. Taken apart, the value can
stay outside the sandbox, which is the stronger way to test. What computes more than that stays a test file.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from flywheel.tasks.code.spec import Case

UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
"""What reading a program that anybody may have written can raise: too deep and too large are among it."""
_NOT_TESTED = frozenset(dir(__builtins__) if not isinstance(__builtins__, dict) else __builtins__)


def split_asserts(code: str) -> list[str] | None:
    """The statements of test code that is nothing but assertions; None if it is more than that, or does not parse."""
    try:
        body = ast.parse(code).body
        if not body or not all(isinstance(node, ast.Assert) for node in body):
            return None
        return [ast.unparse(node) for node in body]
    except UNREADABLE:
        return None


def called(asserts: Sequence[str], gold: str | None = None) -> str | None:
    """The function that assertions test: the one that most of them call.

    Python's own do not count, unless a program that is known to be right defines one of the name (MBPP has a ``sum`` of
    common divisors), or nothing else is called.

    Args:
        gold: such a program.
    """
    own = _NOT_TESTED - _functions(gold)
    counts: Counter[str] = Counter()
    for text in asserts:
        try:
            tree = ast.parse(text)
        except UNREADABLE:
            continue
        calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
        names = dict.fromkeys(node.func.id for node in calls if isinstance(node.func, ast.Name))
        counts.update([name for name in names if name not in own] or names)
    return max(counts, key=lambda name: (name not in own, counts[name]), default=None)


def _functions(code: str | None) -> set[str]:
    try:
        body = ast.parse(code or "").body
    except UNREADABLE:
        return set()
    return {node.name for node in body if isinstance(node, ast.FunctionDef)}


def as_cases(asserts: Iterable[ast.stmt | str], function: str) -> list[Case] | None:
    """Assertions as cases of a function; None if one of them is more than a call compared with a value."""
    cases: list[Case] = []
    for given in asserts:
        try:
            nodes = ast.parse(given).body if isinstance(given, str) else [given]
        except UNREADABLE:
            return None
        for node in nodes:
            if _says_nothing(node):
                continue
            case = _case(node, function)
            if case is None:
                return None
            cases.append(case)
    return cases or None


def check_cases(tests: str, function: str) -> list[Case] | None:
    """The cases of a HumanEval ``def check(candidate)``; None if it does more than compare calls with values."""
    try:
        body = ast.parse(tests).body
    except UNREADABLE:
        return None
    checks = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == "check"]
    others = [node for node in body if not _is_metadata(node) and node not in checks and not _calls_check(node)]
    if len(checks) != 1 or others or len(checks[0].args.args) != 1:
        return None
    return as_cases(checks[0].body, checks[0].args.args[0].arg)


def is_plain(value: Any) -> bool:
    """Whether a value can be compared outside the process that made it, and written down as a literal."""
    if isinstance(value, list | tuple | set):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, value)) and all(map(is_plain, value.values()))
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str | bytes)


def _case(node: ast.stmt, function: str) -> Case | None:
    if not isinstance(node, ast.Assert):
        return None
    test = node.test
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    left, right, operator = test.left, test.comparators[0], test.ops[0]
    if _is_call(right, function) and isinstance(operator, ast.Eq):
        left, right = right, left
    if not _is_call(left, function) or not isinstance(left, ast.Call) or left.keywords:
        return None
    is_none = isinstance(operator, ast.Is) and isinstance(right, ast.Constant) and right.value is None
    if not isinstance(operator, ast.Eq) and not is_none:  # `is True` is not met by the 1 that a case may accept
        return None
    try:
        arguments, value = [ast.literal_eval(a) for a in left.args], ast.literal_eval(right)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    return Case(arguments, value) if is_plain(arguments) and is_plain(value) else None


def _is_call(node: ast.expr, function: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == function


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, ``pass``, or ``assert True``, as HumanEval has them."""
    if isinstance(node, ast.Pass):
        return True
    constant = node.test if isinstance(node, ast.Assert) else node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and (isinstance(node, ast.Expr) or constant.value is True)


def _is_metadata(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["METADATA"]


def _calls_check(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and _is_call(node.value, "check")
