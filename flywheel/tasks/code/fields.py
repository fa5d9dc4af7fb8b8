"""The fields of a dataset's row, read with care: what is missing or of the wrong kind is a ValueError that names it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from flywheel.errors import UserError
from flywheel.sandbox.languages import language
from flywheel.sandbox.python_tests import require_assertions

Row = Mapping[str, Any]

QUESTION = (
    "question_content", "question", "description", "problem_statement", "problem", "text", "prompt", "instruction",
    "content",
)  # fmt: skip
GOLD = ("canonical_solution", "reference_solution", "solution", "solutions", "code", "gold")
NAME = ("task_id", "problem_id", "question_id", "id", "name")


def question_of(row: Row) -> str:
    """What is asked: the first of ``QUESTION`` that the row has."""
    for key in QUESTION:
        if isinstance(row.get(key), str) and row[key].strip():
            return str(row[key]).strip()
    raise ValueError(f"nothing is asked: it has none of {', '.join(QUESTION[:-1])}")


def gold_of(row: Row) -> str | None:
    """The first solution that is written down; APPS has a JSON list of them, CodeContests a table by language."""
    for key in GOLD:
        value = row.get(key)
        if key == "solutions" and isinstance(value, str) and value.strip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, Mapping) and isinstance(value.get("solution"), list):
            languages = value.get("language") or []
            value = [s for s, number in zip(value["solution"], languages, strict=False) if number == 3]  # Python 3
        if isinstance(value, list):
            value = next((x for x in value if isinstance(x, str)), None)
        if isinstance(value, str) and value.strip():
            return value
    return None


def name_of(row: Row, *keys: str) -> str | None:
    """The dataset's own name of the problem."""
    for key in keys or NAME:
        if isinstance(row.get(key), str | int) and str(row[key]).strip():
            return str(row[key])
    return None


def text_of(row: Row, key: str) -> str:
    """A field that must be text, and not empty."""
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` must be text, not {'empty' if value == '' else type(value).__name__}")
    return value


def optional(row: Row, key: str) -> str:
    """A field that may be missing; empty if it is."""
    value = row.get(key)
    return value if isinstance(value, str) else ""


def list_of(value: Any, key: str) -> list[Any]:
    """A list, perhaps written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"`{key}` is not a list: {error}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{key}` must be a list, not {type(value).__name__}")
    return list(value)


def assertions(value: Any, key: str, *, may_be_empty: bool = False) -> list[str]:
    """A list of test code, each of which parses."""
    listed = list_of(value, key)
    if not listed and not may_be_empty:
        raise ValueError(f"`{key}` is empty: there is nothing to test")
    for number, text in enumerate(listed, start=1):
        if not isinstance(text, str):
            raise ValueError(f"`{key}`, test {number}: must be text, not {type(text).__name__}")
        require_python(text, f"{key}, test {number}")
    return listed


def require_tests(code: str, what: str, entry_point: str | None) -> None:
    """Refuse tests that Python cannot parse, or that decide nothing."""
    require_python(code, what)
    try:
        require_assertions(code, entry_point)
    except ValueError as error:
        raise ValueError(f"`{what}`: {error}") from error


def require_python(code: str, what: str) -> None:
    """Refuse what Python cannot parse."""
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"`{what}` is not Python{line}: {reason}") from error


def code_lines(*given: Any) -> str:
    """Set-up code, given as text or as a list of lines."""
    parts = [line for value in given for line in ([value] if isinstance(value, str) else value or [])]
    if not all(isinstance(line, str) for line in parts):
        raise ValueError("its set-up code is not text")
    return "".join(f"{line}\n" for line in parts if line.strip())


def language_named(name: Any) -> str:
    """A language of the sandbox, by any of its names."""
    try:
        return language(str(name)).name
    except UserError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def known_language(name: str) -> str | None:
    """The same, or None."""
    try:
        return language(name).name
    except UserError:
        return None
