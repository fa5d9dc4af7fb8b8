"""New problems from random snippets of code (Llama 3 §4.3.1; OSS-Instruct, Wei et al. 2023): seeds, and proposals read.

A seed is a problem of the train split like any other: its prompt asks for a problem, and its rollout solves what was
proposed.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import random
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from flywheel.errors import TaskError
from flywheel.sources import SUFFIXES, exists, read_source
from flywheel.tasks.code.asserts import UNREADABLE
from flywheel.tasks.code.extract import after_thinking, blocks
from flywheel.tasks.code.options import Proposals
from flywheel.tasks.code.prompts import Prompts
from flywheel.types import Problem

TOPICS = Path(__file__).parent / "topics.txt"
CODE = (
    *(".py", ".js", ".mjs", ".ts", ".tsx", ".jsx", ".php", ".sh", ".bash", ".java", ".kt", ".scala", ".cpp", ".cc"),
    *(".cxx", ".c", ".h", ".hpp", ".cs", ".go", ".rs", ".rb", ".pl", ".pm", ".lua", ".sql", ".swift", ".r", ".jl"),
    *(".hs", ".ml", ".ex", ".clj", ".m", ".f90", ".dart"),
)
"""Files that are taken for code."""
FIELDS = ("code", "content", "snippet", "source", "func", "whole_func_string", "canonical_solution", "solution", "text")
MOST_BYTES = 1 << 20
"""Larger files are mostly data or generated."""
MOST_TEXT = 64 << 20
"""Characters of code that are kept to draw from; of a larger source, its beginning."""

_REFERS = re.compile(r"\b(the|this|above|given)\s+(code\s+)?snippet\b|\bcode above\b|\babove code\b", re.IGNORECASE)


@dataclass(frozen=True)
class Proposal:
    """A problem that was proposed.

    Attributes:
        question: all of it, with the signature at its end.
        entry_point: the function that is asked for.
    """

    question: str
    entry_point: str


class Seeds:
    """Snippets and topics, drawn at random, as problems that ask for a problem.

    Args:
        options: where snippets come from.
        prompts: with "propose".
        base: the folder that relative paths start from.
        seed: of the draws.

    Raises:
        TaskError: there is no code, or none that is long enough, or no topics.
    """

    def __init__(self, options: Proposals, prompts: Prompts, base: Path | None, seed: int) -> None:
        self._options, self._prompts, self._seed = options, prompts, seed
        self._topics = _read_topics(options.topics, base)
        self._documents: list[tuple[str, list[str]]] = []
        size = 0
        for place, text in _documents(options, base):
            lines = text.splitlines()
            if _told(lines) >= options.min_lines:
                self._documents.append((place, lines))
                size += len(text)
            if size > MOST_TEXT:
                break
        if not self._documents:
            raise TaskError(
                f"task.args.propose.snippets: {options.snippets} holds no code of {options.min_lines} lines or more",
                hint="name a folder of source files, a source file, or a dataset with a field of code (propose.field)",
            )

    def __iter__(self) -> Iterator[Problem]:
        """Without end; always the same for the same seed."""
        for number in count():
            draw = random.Random(f"seeds {self._seed} {number}")
            place, lines = draw.choice(self._documents)
            snippet = self._window(lines, draw)
            topic = draw.choice(self._topics)
            key = hashlib.sha256(f"{number}\0{snippet}\0{topic}".encode()).hexdigest()[:12]
            data = {"seed": {"snippet": snippet, "topic": topic, "place": place}}
            yield Problem(f"seed-{key}", self._prompts.ask("propose", snippet=snippet, topic=topic), None, data)

    def _window(self, lines: list[str], draw: random.Random) -> str:
        low, high = self._options.min_lines, max(self._options.min_lines, self._options.max_lines)
        length = min(draw.randint(low, high), len(lines))
        start = draw.randint(0, len(lines) - length)
        while _told(lines[start : start + length]) < low and length < len(lines):
            start, length = max(0, start - 1), length + 1
        return textwrap.dedent("\n".join(lines[start : start + length])).strip("\n")


def read_proposal(text: str, options: Proposals) -> Proposal:
    """A proposed problem out of a policy's answer.

    Raises:
        ValueError: it is not usable; says why.
    """
    text = after_thinking(text).strip()
    found = blocks(text)
    if not found or not text.endswith(("```", "~~~")):
        raise ValueError("it does not end with a code block that gives the signature")
    signature = _signature(found[-1].code)
    statement = text[: text.rindex(found[-1].code)]
    statement = statement[: statement.rstrip("\n").rfind("\n") + 1].strip()
    words = len(statement.split())
    if not options.min_words <= words <= options.max_words:
        raise ValueError(f"it has {words} words, not {options.min_words} to {options.max_words}")
    if _REFERS.search(statement):
        raise ValueError("it refers to the snippet, which nobody will see")
    if any(_solves(block.code, signature.name) for block in found[:-1]):
        raise ValueError("it gives a solution away")
    try:
        question = f"{statement}\n\n```python\n{ast.unparse(_bare(signature))}\n```"
    except RecursionError as error:
        raise ValueError("its signature is nested too deeply") from error
    return Proposal(question, signature.name)


def _signature(code: str) -> ast.FunctionDef:
    try:
        body = ast.parse(code).body
    except UNREADABLE as error:
        raise ValueError("its last code block is not Python") from error
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    others = [node for node in body if not isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom)]
    if len(functions) != 1 or others:
        raise ValueError("its last code block is not the signature of one function")
    function = functions[0]
    if not all(_is_filler(node) for node in function.body):
        raise ValueError("its last code block is a solution, not a signature")
    if hasattr(builtins, function.name) or function.name.startswith("_"):
        raise ValueError(f"a function cannot be called {function.name}")
    if not function.args.args and not function.args.posonlyargs:
        raise ValueError("its function takes no arguments")
    return function


def _bare(function: ast.FunctionDef) -> ast.FunctionDef:
    filler: list[ast.stmt] = [ast.Expr(ast.Constant(...))]
    documented = ast.get_docstring(function) is not None
    bare = ast.FunctionDef(
        name=function.name,
        args=function.args,
        body=([function.body[0]] if documented else []) + filler,
        decorator_list=[],
        returns=function.returns,
        type_comment=None,
    )
    return ast.fix_missing_locations(bare)


def _is_filler(node: ast.stmt) -> bool:
    if isinstance(node, ast.Pass):
        return True
    if isinstance(node, ast.Raise):
        return "NotImplementedError" in ast.unparse(node)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _solves(code: str, name: str) -> bool:
    """Whether a block defines the function with a body of its own."""
    try:
        body = ast.parse(code).body
    except UNREADABLE:
        return False
    return any(
        isinstance(node, ast.FunctionDef) and node.name == name and not all(map(_is_filler, node.body)) for node in body
    )


def _documents(options: Proposals, base: Path | None) -> Iterator[tuple[str, str]]:
    """Pieces of code, each with where it is from."""
    path = next((p for p in ((base or Path()) / options.snippets, Path(options.snippets)) if p.exists()), None)
    if path is not None and path.is_dir():
        files = sorted(f for f in path.rglob("*") if f.suffix in CODE and f.is_file() and _visible(f, path))
        if files:
            yield from (pair for file in files for pair in _file(file, str(file.relative_to(path))))
            return
    elif path is not None and not path.name.endswith(SUFFIXES):
        yield from _file(path, path.name)
        return
    elif path is None and not exists(options.snippets, base) and options.snippets.count("/") != 1:
        raise TaskError(f"task.args.propose.snippets: there is no file or folder {options.snippets}")
    for row in read_source(options.snippets, base=base):
        names = (options.field,) if options.field else FIELDS
        code = next((row.values[n] for n in names if isinstance(row.values.get(n), str)), None)
        if code is not None:
            yield row.where, code


def _file(file: Path, place: str) -> Iterator[tuple[str, str]]:
    if file.stat().st_size <= MOST_BYTES:
        try:
            yield place, file.read_text()
        except UnicodeDecodeError:
            return  # no text, so no code


def _visible(file: Path, root: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(root).parts)


def _told(lines: list[str]) -> int:
    return sum(bool(line.strip()) for line in lines)


def _read_topics(name: str | None, base: Path | None) -> list[str]:
    file = TOPICS if name is None else next((p for p in ((base or Path()) / name, Path(name)) if p.is_file()), None)
    if file is None:
        raise TaskError(f"task.args.propose.topics: there is no file {name}")
    topics = [line.strip() for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
    if not topics:
        raise TaskError(f"task.args.propose.topics: {file} names no topics")
    return topics
