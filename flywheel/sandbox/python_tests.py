"""Python's test files: how they are run beside a program, and how their expectations are altered.

Tests may be plain assertions, ``def check(candidate)`` (HumanEval), ``test_*`` functions (with pytest's parametrize),
or classes of tests. They are rewritten as syntax trees; the program is never read, only run.

Tests that would pass whatever the program does decide nothing, and are refused: those without an assertion, and those
whose assertions stand where nobody calls them.
"""

from __future__ import annotations

import ast
import json
import random
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flywheel.errors import DataError
from flywheel.sandbox.checks import Poisoned, Program, TestChecks, TestRun, Which
from flywheel.sandbox.job import Job, Outcome
from flywheel.sandbox.python_poison import END, GOING_ON, HELPERS, lone_sites, poison, poison_one, poison_to_the_first
from flywheel.sandbox.python_suspects import is_suspect

_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)
_DRIVER = (Path(__file__).parent / "inside" / "test_driver.py").read_bytes()


class PythonTests:
    """``checks.TestIdiom`` of Python."""

    reruns: tuple[Which, ...] = ("most",)

    def assemble(self, program: Program, checks: TestChecks, nonce: str) -> TestRun:
        return _run(program, checks, _planned(checks.tests, checks.entry_point), nonce)

    def poison(self, program: Program, checks: TestChecks, nonce: str, which: Which = "most") -> Poisoned:
        """See ``checks.TestIdiom``; "most" are all of them, and the tests go on after each."""
        under_test = frozenset({checks.entry_point} if checks.entry_point else _defined(program.source))
        asked = checks.tests, checks.entry_point, under_test
        lone = _lone_sites(*asked) if which == "one" else ()
        if lone:  # every other time the last: who forges from some call on does so by then
            number = random.Random(nonce).choice([*lone, *lone[-1:] * len(lone)])
            return Poisoned(_run(program, checks, _poisoned_one(*asked, number), nonce), 1, sure=True)
        if which == "one":  # as plainly, so that nothing in it is a trace of this run
            plan, altered = _poisoned_to_the_first(*asked)
            return Poisoned(_run(program, checks, plan, nonce), altered, sure=False)
        plan, altered = _poisoned(*asked)
        return Poisoned(_run(program, checks, plan, nonce), altered, sure=True)

    def is_suspect(self, program: Program, checks: TestChecks) -> bool:
        return is_suspect(f"{checks.setup}\n{program.source}", checks.tests, checks.entry_point)

    def lacking(self, checks: TestChecks, outcome: Outcome) -> Job | None:
        said = set(_NO_MODULE.findall(outcome.stderr.decode(errors="replace"))[-1:])
        roots = {module.partition(".")[0] for module in said}
        imports = {*_imports(checks.setup), *_imports(checks.tests)} if roots else set()
        wanted = sorted(module for module in imports if module.partition(".")[0] in roots)
        return Job("python", {"main.py": _TRY_IMPORTS.format(wanted).encode()}) if wanted else None


_NO_MODULE = re.compile(r"^(?:ModuleNotFoundError|ImportError): .*?'([\w.]+)'", re.MULTILINE)
_TRY_IMPORTS = """
import importlib
for module in {!r}:
    try:
        importlib.import_module(module)
    except ImportError:
        print(module.partition(".")[0])
"""


def require_assertions(tests: str, entry_point: str | None) -> None:
    """Refuse tests that cannot decide.

    Raises:
        ValueError: no Python, without any assertion, or with none that is ever reached; says what would mend it.
    """
    try:
        _planned(tests, entry_point)
    except DataError as error:
        raise ValueError(f"{error.message}; {error.hint}" if error.hint else error.message) from error


@dataclass(frozen=True)
class _Plan:
    """The tests' source as it is run, then functions to call, classes of tests to run, and functions that end it."""

    source: str
    functions: tuple[str, ...]
    classes: tuple[str, ...]
    last: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def _planned(tests: str, entry_point: str | None) -> _Plan:
    """Many programs are graded by the same tests."""
    plan = _plan(_parse(tests), entry_point)
    _require_reached(plan)
    return plan


@lru_cache(maxsize=4096)
def _poisoned(tests: str, entry_point: str | None, under_test: frozenset[str]) -> tuple[_Plan, int]:
    tree = _parse(tests)
    altered = poison(tree, set(under_test))
    return _ending(_plan(tree, entry_point, GOING_ON), altered), altered


@lru_cache(maxsize=4096)
def _poisoned_to_the_first(tests: str, entry_point: str | None, under_test: frozenset[str]) -> tuple[_Plan, int]:
    tree = _parse(tests)
    altered = poison_to_the_first(tree, set(under_test))
    plan = _plan(tree, entry_point)
    return plan if altered else _ending(plan, altered), altered


def _ending(plan: _Plan, altered: int) -> _Plan:
    if not altered:  # nothing but the end
        plan = replace(plan, source=f"{plan.source}\ndef {END}(): assert False, 'the end'\n")
    return replace(plan, last=(END,))


@lru_cache(maxsize=4096)
def _lone_sites(tests: str, entry_point: str | None, under_test: frozenset[str]) -> tuple[int, ...]:
    return tuple(lone_sites(_parse(tests), set(under_test)))


def _poisoned_one(tests: str, entry_point: str | None, under_test: frozenset[str], number: int) -> _Plan:
    tree = _parse(tests)
    poison_one(tree, set(under_test), number)
    return _plan(tree, entry_point)


def _plan(tests: ast.Module, entry_point: str | None, helpers: str = "") -> _Plan:
    body = [inner for node in tests.body for inner in _unguarded(node)]
    called = {n.func.id for n in ast.walk(tests) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    functions = [n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name not in called]
    for function in functions:
        if any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list):
            raise DataError("tests with pytest's fixtures cannot be run", hint="write them as plain functions")
    if entry_point and "check" in {f.name for f in functions}:
        body += _parse(f"check({entry_point})").body
    first: list[ast.stmt] = [n for n in body if isinstance(n, ast.ImportFrom) and n.module == "__future__"]
    rest = [n for n in body if n not in first]
    try:
        future, source = (ast.unparse(ast.Module(part, [])) for part in (first, rest))
    except (RecursionError, ValueError) as error:  # or an integer of thousands of digits
        raise DataError(f"the tests cannot be written down to be run: {error}") from error
    return _Plan(
        # In every run, so that a program cannot tell by them which one it is in.
        f"{future}\n{HELPERS}\n{helpers}\n{source}\n",
        tuple(f.name for f in functions if f.name.startswith("test")),
        tuple(n.name for n in body if isinstance(n, ast.ClassDef) and _is_test(n)),
    )


def _require_reached(plan: _Plan) -> None:
    """Refuse tests that pass whatever the program does: no assertion of them is ever run."""
    body = _parse(plan.source).body
    reached: list[ast.AST] = []
    waiting: dict[str, ast.stmt] = {}
    for statement in body:
        if isinstance(statement, _DEFINITIONS) and not statement.decorator_list:
            waiting[statement.name] = statement
        else:
            reached.append(statement)
    found = {*plan.functions, *plan.classes}
    asserting = [name for name, node in waiting.items() if any(map(_asserts, ast.walk(node)))]
    at = 0
    while found or at < len(reached):
        reached += [waiting.pop(name) for name in found & waiting.keys()]
        found = set()
        for node in (inner for top in reached[at:] for inner in ast.walk(top)):
            if _asserts(node) or (isinstance(node, ast.Name) and node.id in _BY_NAME):
                return
            found |= {str(getattr(node, field)) for field in ("id", "attr", "value") if hasattr(node, field)}
        at, found = len(reached), found & waiting.keys()
    if not asserting:
        raise DataError("the tests assert nothing, so every program would pass", hint="give each problem assertions")
    name = asserting[0]
    hint = f"call it in the tests{', or name the function in `entry_point`' if name == 'check' else ''}"
    raise DataError(f"no assertion of the tests is ever run: nothing calls {name}()", hint=hint)


_DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_BY_NAME = {"globals", "locals", "vars", "eval", "exec", "getattr", "dir", "inspect"}
"""What can reach a function that nobody mentions."""
_SAYS_SO = re.compile(r"(?i)assert|raises|warns|fail|check|verif|expect|test|equal|same|compare|exit")


def _asserts(node: ast.AST) -> bool:
    """Whether a node can make a run of the tests fail on purpose."""
    match node:
        case ast.Assert(test=test):
            return not isinstance(test, ast.Constant)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)):
            return _SAYS_SO.search(name) is not None
    return isinstance(node, ast.Raise)


@lru_cache(maxsize=4096)
def _imports(code: str) -> frozenset[str]:
    """The modules that the tests import, beside the program itself."""
    found: set[str] = set()
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except _UNREADABLE:
        return frozenset()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return frozenset(found - {"solution"})


def _parse(tests: str) -> ast.Module:
    if not tests.strip():
        raise DataError("a Python problem has no tests", hint="give each problem assertions or a test file")
    try:
        return ast.parse(tests)
    except _UNREADABLE as error:
        raise DataError(f"the tests are not Python: {error}") from error


def _unguarded(node: ast.stmt) -> list[ast.stmt]:
    """A statement of the tests as it is run: ``if __name__ == "__main__"`` is true, and nobody else runs the tests."""
    if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test) and "__main__" in ast.unparse(node.test):
        return [inner for statement in node.body for inner in _unguarded(statement)]
    text = ast.unparse(node) if isinstance(node, ast.Expr) else ""
    return [] if text.startswith(("unittest.main(", "pytest.main(", "sys.exit(", "exit(")) else [node]


def _is_test(node: ast.ClassDef) -> bool:
    bases = [ast.unparse(base) for base in node.bases]
    return node.name.startswith("Test") or any("TestCase" in base for base in bases)


def _defined(source: str) -> set[str]:
    """What a program defines; of one that does not parse, nothing."""
    try:
        tree = ast.parse(source)
    except _UNREADABLE:
        return set()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and not node.name.startswith("__")}


def _run(program: Program, checks: TestChecks, plan: _Plan, nonce: str) -> TestRun:
    said = {
        "before": ["setup.py"] * bool(checks.setup.strip()) + ["solution.py"],
        "tests": "tests.py",
        "functions": plan.functions,
        "classes": plan.classes,
        "last": plan.last,
    }
    files = {
        **program.files,
        "solution.py": _bytes(program.source),
        "tests.py": _bytes(plan.source),
        "_plan.json": json.dumps(said).encode(),
        "_run_tests.py": _DRIVER,
    }
    if checks.setup.strip():
        files["setup.py"] = _bytes(checks.setup)
    return TestRun(files, "_run_tests.py", nonce.encode())


def _bytes(source: str) -> bytes:
    return source.encode("utf-8", "surrogatepass")
