"""What a parser and a linter say of a program, without running it.

Parsing is tree-sitter's, for every language; Python is linted by ruff besides. Both only read, and both must be able to
read anything that a model writes, so trees are walked without recursion and the linter is a process with a time limit.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from flywheel.errors import UserError
from flywheel.sandbox.languages import language

if TYPE_CHECKING:
    from tree_sitter import Node, Parser, Tree

MOST = 20
"""Findings past this many are left out: they are mostly the first one's echoes."""

RULES = "E7,E9,F,B,PLE"
"""ruff's rules that tell likely mistakes; layout and taste are left to judges."""

_INSTALL = "pip install 'flywheel[code]'"


@dataclass(frozen=True, slots=True)
class Finding:
    """One remark on a program: where (counted from 1), what, and the linter's code ("" from a parser)."""

    line: int
    column: int
    message: str
    code: str = ""

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.code + ' ' if self.code else ''}{self.message}"


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes ``start`` to ``end`` of a source become ``text``."""

    start: int
    end: int
    text: bytes


def parse_errors(name: str, source: str) -> list[Finding]:
    """Where a program is not of its language's grammar; empty if it parses. At most ``MOST``.

    A parser knows no types and no names: what it lets pass may still not compile.

    Raises:
        UserError: an unknown language, or tree-sitter is not installed.
    """
    opening = opening_of(name, source)
    code = opening + source.encode(errors="replace")
    root = parse(name, code).root_node
    if not root.has_error:
        return []
    found = []
    for node in walk(root):
        if node.is_missing:
            found.append(_at(node, f"`{node.type}` is missing"))
        elif node.is_error:
            text = text_of(code, node).strip()
            found.append(_at(node, f"cannot be parsed: `{text[:60]}`" if text else "cannot be parsed"))
        if len(found) == MOST:
            break
    shift = opening.count(b"\n")
    return [replace(f, line=f.line - shift) for f in found or [_at(root, "cannot be parsed")]]


def lint(name: str, source: str, timeout: float = 20.0) -> list[Finding]:
    """A linter's remarks on a program: ruff's for Python, none for languages without a linter. At most ``MOST``.

    Args:
        timeout: seconds; past it the program counts as one that cannot be linted, which is a remark as well.

    Raises:
        UserError: an unknown language, or ruff is not installed.
    """
    if language(name).name != "python":
        return []
    command = [_ruff(), "check", "--isolated", "--no-cache", "--output-format=json", f"--select={RULES}", "-"]
    # Unpaired surrogates cannot be encoded; Python would refuse the program just as well.
    asked = source.encode(errors="replace")
    try:
        done = subprocess.run(command, input=asked, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return [Finding(1, 1, f"cannot be linted within {timeout:g} s")]
    if done.returncode not in (0, 1):
        why = done.stderr.decode(errors="replace").strip().splitlines()
        return [Finding(1, 1, f"cannot be linted: {why[-1] if why else f'ruff ended with {done.returncode}'}")]
    return [_remark(row) for row in json.loads(done.stdout)[:MOST]]


def opening_of(name: str, source: str) -> bytes:
    """What must stand before a source for a parser: PHP without its opening tag would be plain text."""
    return b"<?php\n" if language(name).name == "php" and "<?" not in source else b""


def parse(name: str, code: bytes) -> Tree:
    """tree-sitter's tree of a program, errors included."""
    return _parser(language(name).grammar).parse(code)


def walk(root: Node) -> Iterator[Node]:
    """All nodes, each before its children, in the order of the text."""
    cursor = root.walk()
    while True:
        node = cursor.node
        assert node is not None
        yield node
        if cursor.goto_first_child() or cursor.goto_next_sibling():
            continue
        while cursor.goto_parent():
            if cursor.goto_next_sibling():
                break
        else:
            return


def edited(source: str, edits: Iterable[Edit]) -> str:
    """A source with some edits made; of two that overlap, the first."""
    code = source.encode(errors="replace")
    parts, at = [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        if edit.start >= at:
            parts += [code[at : edit.start], edit.text]
            at = edit.end
    return b"".join([*parts, code[at:]]).decode(errors="replace")


def text_of(code: bytes, node: Node) -> str:
    """A node's source."""
    return code[node.start_byte : node.end_byte].decode(errors="replace")


def _at(node: Node, message: str) -> Finding:
    return Finding(node.start_point.row + 1, node.start_point.column + 1, message)


def _remark(row: dict[str, Any]) -> Finding:
    at = row["location"]
    return Finding(at["row"], at["column"], row["message"].splitlines()[0], row["code"] or "")


@cache
def _parser(grammar: str) -> Parser:
    try:
        from tree_sitter_language_pack import get_parser
    except ImportError as error:
        raise UserError("parsing programs needs tree-sitter, which is not installed", hint=_INSTALL) from error
    return get_parser(grammar)  # type: ignore[arg-type]


@cache
def _ruff() -> str:
    try:
        from ruff import find_ruff_bin  # type: ignore[import-untyped]

        return str(find_ruff_bin())
    except (ImportError, FileNotFoundError) as error:
        raise UserError("linting Python programs needs ruff, which is not installed", hint=_INSTALL) from error
