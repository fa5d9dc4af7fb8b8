"""The program in a completion: in a fenced block, bare, among prose, or as the continuation of the prompt.

What is taken depends on the text and the question alone, never on which reading would pass the tests.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from flywheel.errors import UserError
from flywheel.sandbox.languages import language
from flywheel.tasks.code.asserts import UNREADABLE
from flywheel.tasks.code.spec import Spec

STOPS = ("\nclass ", "\ndef ", "\nif ", "\nprint(", "\n#", "\n@", "\nassert ", "\nimport ", "\nfrom ")
"""Where a function's continuation has ended (Codex §2.1), if what follows does not parse."""

_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[ \t]*([^\s`{]*)[^\n]*$", re.MULTILINE)
_STARTS = ("def ", "class ", "import ", "from ", "@", "async def ")


@dataclass(frozen=True)
class Block:
    """A fenced block; ``tag`` is what stands behind the opening fence, in lower case."""

    tag: str
    code: str


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a text in their order; the last may lack its closing fence."""
    found: list[Block] = []
    at = 0
    while opening := _FENCE.search(text, at):
        start = opening.end() + 1
        closing = next((m for m in _FENCE.finditer(text, start) if _closes(m, opening)), None)
        end = closing.start() if closing else len(text)
        found.append(Block(opening[2].lower(), text[start:end]))
        if closing is None:
            break
        at = closing.end()
    return found


def _closes(line: re.Match[str], opening: re.Match[str]) -> bool:
    return line[1].startswith(opening[1]) and not line[2]


def code_in(text: str, tongue: str, containing: str | None = None) -> str | None:
    """The block of a language that a text ends up with; None if it has no block.

    Among several, the last that defines ``containing`` counts, or the last of the language, or the last without a tag.
    """
    found = blocks(after_thinking(text))
    if not found:
        return None
    own = [block.code for block in found if is_tag(block.tag, tongue)] or [b.code for b in found if not b.tag]
    if not own:
        own = [block.code for block in found]
    if containing is not None:
        own = [code for code in own if _defines(code, containing)] or own
    return own[-1]


def program_of(text: str, spec: Spec) -> str:
    """The whole program that a completion stands for, before the tests are added.

    Args:
        text: what the policy wrote.
        spec: of the problem: its language, entry point, and the code that a continuation continues.
    """
    fenced = code_in(text, spec.language, spec.function)
    code = fenced if fenced is not None else after_thinking(text)
    code = code.replace("\r\n", "\n").removeprefix("\ufeff")
    return (_python if spec.language == "python" else _other)(code, spec, fenced is not None)


def _python(code: str, spec: Spec, fenced: bool) -> str:
    prefix, entry = spec.prefix, spec.function
    if prefix:
        if entry is not None and parses(code) and _defines(code, entry):
            return _preamble(prefix, entry) + code
        return next(_continued(prefix, code), prefix + code)
    if fenced or parses(code):
        return code
    return _among_prose(code) or code


def _continued(prefix: str, code: str) -> Iterator[str]:
    """Readings of a continuation that parse: as it is, to where its function ends, with its first indent restored."""
    indented = "    " + code.lstrip(" ")
    for text in (code, indented):
        if parses(prefix + text):
            yield prefix + text
        cut = min((at for stop in STOPS if (at := text.find(stop)) >= 0), default=len(text))
        if cut < len(text) and text[:cut].strip() and parses(prefix + text[:cut] + "\n"):
            yield prefix + text[:cut] + "\n"


def _preamble(prefix: str, entry: str) -> str:
    """What a prompt gives besides the function that is asked for: imports and helpers."""
    try:
        body = ast.parse(prefix).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        # The prompt ends within the function: what stands before it can still be read.
        at = re.search(rf"^(async\s+)?def\s+{re.escape(entry)}\b", prefix, re.MULTILINE)
        return prefix[: at.start()] if at else ""
    last = next((n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == entry), None)
    if last is None:
        return prefix if prefix.endswith("\n") else prefix + "\n"
    first = min([last.lineno, *(d.lineno for d in last.decorator_list)])
    return "".join(prefix.splitlines(keepends=True)[: first - 1])


def _among_prose(text: str) -> str | None:
    """The lines from the first definition or import on, as far as they parse."""
    lines = text.splitlines(keepends=True)
    start = next((number for number, line in enumerate(lines) if line.startswith(_STARTS)), None)
    if start is None:
        return None
    end = len(lines)
    while end > start:
        code = "".join(lines[start:end])
        wrong = _first_error(code)
        if wrong is None:
            return code
        # What stands before the line that is wrong may be whole, or end in a header without a body: then less of it.
        end = min(end - 1, start + max(wrong - 1, 0))
    return None


def _other(code: str, spec: Spec, fenced: bool) -> str:
    if not spec.prefix:
        return code
    header = _header(spec.prefix)
    name = _named_in(header)
    if name and re.search(rf"\b{re.escape(name)}\b", code) and _looks_whole(code, header, name):
        return _before(spec.prefix, header) + _without_last_brace(code, spec)
    cut = min((at for stop in spec.stop if (at := code.find(stop)) > 0), default=len(code))
    return spec.prefix + code[:cut]


def _header(prefix: str) -> str:
    """The line that a prompt ends with: the signature of what is asked for."""
    lines = [line for line in prefix.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _named_in(header: str) -> str | None:
    found = re.findall(r"(?:\bsub\s+)?([A-Za-z_]\w*)\s*(?:<[^>(]*>)?\s*[({]", header)
    return found[0] if found else None


def _looks_whole(code: str, header: str, name: str) -> bool:
    """Whether code has the signature itself: a line that names the function and starts as the prompt's line does."""
    first = header.split()[0] if header.split() else ""
    return any(re.search(rf"\b{re.escape(name)}\b", line) and first in line.split() for line in code.splitlines())


def _before(prefix: str, header: str) -> str:
    return prefix[: prefix.rindex(header)]


def _without_last_brace(code: str, spec: Spec) -> str:
    """A whole class closes itself; the tests of the Java problems close it once more."""
    opened = spec.prefix.count("{") - spec.prefix.count("}")
    surplus = code.count("}") - code.count("{")
    if spec.language == "java" and opened > 1 and surplus == 0 and re.search(r"\bclass\s+\w+", code):
        return code[code.index("{", code.index("class")) + 1 : code.rindex("}")]
    return code


def after_thinking(text: str) -> str:
    """What a reasoning model says after it has thought."""
    return text.rsplit("</think>", 1)[-1]


def is_tag(tag: str, tongue: str) -> bool:
    """Whether a fence's tag names a language."""
    try:
        return bool(tag) and language(tag).name == tongue
    except UserError:
        return False


def _defines(code: str, name: str) -> bool:
    name = re.escape(name)
    return re.search(rf"^\s*((async\s+)?def\s+{name}\b|{name}\s*=)", code, re.MULTILINE) is not None


def parses(code: str) -> bool:
    """Whether Python could compile a program."""
    return _first_error(code) is None


def says(program: str) -> str:
    """What a Python program says to the machine: equal for two that differ in comments, docstrings and layout alone.

    What cannot be parsed is only what it is.
    """
    try:
        tree = ast.parse(program)
        documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
        for node in ast.walk(tree):
            if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        return ast.dump(tree)
    except UNREADABLE:
        return program


def _first_error(code: str) -> int | None:
    """The line at which Python cannot read on; None if it reads all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Compiled, not only parsed: a continuation that lost its indent parses, with `return` outside the function.
            compile(code, "<completion>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return None
