"""Python programs that could meddle with their tests, told from those that can only answer.

A program that forges passes now and then (says "equal", or finds the nonce, in some of its runs and not in others) may
have luck with one poisoned rerun, and one that looks around may know it for what it is. Rather than run every program
many times, those are let off that have no means to forge: plain functions over plain values, from modules that give
nothing else. It is a list of what is allowed, so that what nobody thought of is suspect as well; a suspect loses time,
and nothing else.
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache

from flywheel.sandbox.python_poison import GOING_ON, HELPERS


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_REACHING = _words(
    "BaseException SystemExit __import__ breakpoint compile copyright credits delattr dir eval exec exit getattr "
    "globals help input license locals memoryview open quit setattr super type vars"
)
_BUILTINS = {"__name__", *(name for name in dir(builtins) if name not in _REACHING and not name.startswith("_"))}
_MODULES = _words(
    "__future__ bisect cmath collections copy dataclasses datetime fractions functools hashlib heapq itertools math "
    "re string typing"
)
_METHODS = _words("__init__ __repr__ __str__")
_LEADING = _words(
    "Formatter ForwardRef abc dispatch_table format_map get_field get_type_hints make_dataclass update_wrapper wraps"
)
"""What leads from those modules to attributes by their names, to evaluated text, or to other kinds of equality."""
_INSIDE = re.compile(r"_|(gi|cr|ag|tb|f|co)_|\*")
_TRAVERSES = re.compile(r"\{[^{}:!]*[.\[]")
"""``"{0.attribute}"``."""


def is_suspect(source: str, tests: str, entry_point: str | None) -> bool:
    """Whether a program could make its tests pass by other means than its answers."""
    try:
        nodes, used = list(ast.walk(ast.parse(source))), _used(tests)
        table = symtable.symtable(source, "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return True
    bound = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    bound |= {s.get_name() for s in _inner(table) if s.is_declared_global()}
    taken = {s.get_name() for s in table.get_symbols()} | {s.get_name() for s in _inner(table) if s.is_global()}
    return (
        not taken <= bound | _BUILTINS
        or not _asked_for_one_thing(nodes, bound & used, entry_point)
        or any(_reaches(node, used) for node in nodes)
    )


@lru_cache(maxsize=4096)
def _used(tests: str) -> frozenset[str]:
    """Every name in the tests, and in what helps them."""
    nodes = ast.walk(ast.parse(tests + HELPERS + GOING_ON))
    found = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "name")}
    return frozenset(name for name in found if name)


def _inner(table: symtable.SymbolTable) -> Iterator[symtable.Symbol]:
    """Symbols of all functions and classes below a table."""
    for child in table.get_children():
        yield from child.get_symbols()
        yield from _inner(child)


def _asked_for_one_thing(nodes: Sequence[ast.AST], shared: set[str], entry_point: str | None) -> bool:
    """Whether the tests take one function or class from the program, and nothing that could stand for theirs.

    Args:
        shared: what the program sets and the tests use.
    """
    imports = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names if not name.asname}
    defined = [node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    own = shared - (imports & _MODULES)
    wanted = {entry_point} if entry_point else own
    return own <= wanted and len(wanted) == 1 and all(defined.count(name) == 1 for name in wanted)


def _reaches(node: ast.AST, used: frozenset[str]) -> bool:
    """Whether a node of the program can get hold of more than plain values."""
    match node:
        case ast.Import(names=names):
            return any(name.name not in _MODULES for name in names)
        case ast.ImportFrom(module=module, names=names):
            return module not in _MODULES or any(_leads_on(name.name) for name in names)
        case ast.Name(id=name):
            return name.startswith("__") and name != "__name__"
        case ast.Attribute(attr="format", value=value):
            return not (isinstance(value, ast.Constant) and not _TRAVERSES.search(str(value.value)))
        case ast.Attribute(attr=name, ctx=context):
            return _leads_on(name) or (name in used and not isinstance(context, ast.Load))
        case ast.ClassDef(bases=bases, keywords=keywords):
            return bool(bases or keywords)
        case ast.FunctionDef(name=name):
            return name.startswith("__") and name not in _METHODS
        case ast.Constant(value=str() as text):
            return "__" in text and text != "__main__"
    return isinstance(node, ast.AsyncFunctionDef | ast.MatchClass)


def _leads_on(name: str) -> bool:
    return name in _LEADING or name in sys.stdlib_module_names or _INSIDE.match(name) is not None
