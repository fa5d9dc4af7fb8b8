"""Inputs with outputs, as contest datasets write them: standard input and output, or arguments and a value."""

from __future__ import annotations

import ast
import base64
import binascii
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from flywheel.tasks.code.asserts import is_plain
from flywheel.tasks.code.spec import Case, Spec

# What contest sites import for the methods that they ask for.
CONTEST_IMPORTS = """\
import bisect, collections, functools, heapq, itertools, math, random, re, string, sys
from typing import *
from collections import *
from functools import *
from heapq import *
from bisect import *
from itertools import *
from math import *
from builtins import *
"""


def scored_lists(value: Any, key: str) -> list[Any]:
    """LiveCodeBench's list of cases: JSON, or JSON that is pickled, packed with zlib and written in base64.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        raise ValueError(f"`{key}` must be a list, or text that holds one")
    try:
        listed = json.loads(value)
    except ValueError:
        listed = _unpacked(value, key)
    if not isinstance(listed, list):
        raise ValueError(f"`{key}` does not hold a list")
    return listed


def read_cases(listed: Sequence[Any], function: Any = None, starter: str = "") -> Spec:
    """Cases of the form ``{"input": …, "output": …}``; LiveCodeBench adds a ``testtype``.

    Raises:
        ValueError: no cases, or one that is malformed; says which.
    """
    inputs, outputs = [], []
    functional = bool(function)
    for number, case in enumerate(listed, start=1):
        if not isinstance(case, Mapping) or "input" not in case or not ({"output", "expected_output"} & case.keys()):
            raise ValueError(f"case {number} is not an object with `input` and `output`")
        inputs.append(case["input"])
        outputs.append(case.get("output", case.get("expected_output")))
        functional = functional or case.get("testtype") == "functional"
    if functional and not function:
        function = _function_in(starter)
        if function is None:
            raise ValueError("its cases call a function, which neither `metadata.func_name` nor `starter_code` names")
    if not function:
        return input_output({"inputs": inputs, "outputs": outputs})
    arguments = [_json_lines(given, n) if isinstance(given, str) else given for n, given in enumerate(inputs, start=1)]
    values = [_json(given, n) if isinstance(given, str) else given for n, given in enumerate(outputs, start=1)]
    return _call(str(function), starter, arguments, values)


def input_output(table: Mapping[str, Any], function: Any = None, starter: str = "") -> Spec:
    """Parallel lists of ``inputs`` and ``outputs``, as APPS, TACO and CodeContests have them.

    Raises:
        ValueError: they are empty, differ in length, or hold what is neither text nor lines.
    """
    inputs, outputs = table.get("inputs"), table.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        raise ValueError("`inputs` and `outputs` must be lists")
    if not inputs or len(inputs) != len(outputs):
        raise ValueError(f"there are {len(inputs)} inputs and {len(outputs)} outputs")
    if function:
        # APPS, whose table names the function, wraps each value in a list of one.
        wrapped = "fn_name" in table and all(isinstance(value, list) and len(value) == 1 for value in outputs)
        return _call(str(function), starter, inputs, [value[0] for value in outputs] if wrapped else outputs)
    cases = [Case(_stream(a, n, "input"), _stream(b, n, "output")) for n, (a, b) in enumerate(zip(inputs, outputs), 1)]  # noqa: B905
    return Spec("stdio", cases=cases)


def starter_class(code: str) -> tuple[str, str] | None:
    """Class and first method of a starter such as ``class Solution: def f(self, …):``; None if it has none."""
    try:
        body = ast.parse(code).body
    except SyntaxError:
        try:  # a starter often ends at the colon of the method
            body = ast.parse(code.rstrip() + "\n        pass\n").body
        except SyntaxError:
            return None
    for node in body:
        if isinstance(node, ast.ClassDef):
            method = next((m.name for m in node.body if isinstance(m, ast.FunctionDef) and m.name[:2] != "__"), None)
            return (node.name, method) if method else None
    return None


def _call(function: str, starter: str, arguments: Sequence[Any], values: Sequence[Any]) -> Spec:
    for number, (given, value) in enumerate(zip(arguments, values, strict=True), start=1):
        if not isinstance(given, list | tuple):
            raise ValueError(f"case {number}: the arguments must be a list")
        if not is_plain(list(given)) or not is_plain(value):
            raise ValueError(f"case {number}: arguments and values must be plain data")
    cases = [Case(list(given), value) for given, value in zip(arguments, values, strict=True)]
    found = starter_class(starter)
    if found is not None and "." not in function:
        function = f"{found[0]}.{function}"
    return Spec("call", "python", function, setup=CONTEST_IMPORTS, cases=cases, sequences="loose")


def _function_in(starter: str) -> str | None:
    found = starter_class(starter)
    if found is not None:
        return found[1]
    for text in (starter, starter.rstrip() + "\n    pass\n"):
        try:
            return next((n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)), None)
        except SyntaxError:
            continue
    return None


def _json_lines(text: str, number: int) -> list[Any]:
    return [_json(line, number) for line in text.splitlines() if line.strip()]


def _json(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"case {number}: {text[:40]!r} is not JSON: {error}") from error


def _stream(value: Any, number: int, which: str) -> str:
    if isinstance(value, list) and all(isinstance(line, str | int | float) for line in value):
        return "\n".join(map(str, value)) + "\n"
    if not isinstance(value, str | int | float):
        raise ValueError(f"case {number}: its {which} must be text, not {type(value).__name__}")
    return str(value)


class _Text(pickle.Unpickler):
    """Reads text and nothing else: a pickle may name any function to call, and none is allowed."""

    def find_class(self, module: str, name: str) -> Any:
        raise ValueError(f"a pickle that wants {module}.{name}")


def _unpacked(value: str, key: str) -> Any:
    try:
        packed = zlib.decompress(base64.b64decode(value.encode()))
        found = _Text(io.BytesIO(packed)).load()
        return json.loads(found) if isinstance(found, str | bytes) else found
    except (ValueError, binascii.Error, zlib.error, pickle.UnpicklingError, EOFError, IndexError, KeyError) as error:
        raise ValueError(f"`{key}` is neither JSON nor LiveCodeBench's packed form: {error}") from error
