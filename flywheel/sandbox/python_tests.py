"""Python's test files: how they are run beside a program, and how their expectations are altered.

Tests may be plain assertions, ``def check(candidate)`` (HumanEval), ``test_*`` functions (with pytest's parametrize),
or classes of tests. They are rewritten as syntax trees; the program is never read, only run.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from flywheel.errors import DataError
from flywheel.sandbox.checks import Program, TestChecks, TestRun
from flywheel.sandbox.python_poison import HELPERS, poison
from flywheel.sandbox.python_suspects import is_suspect

_DRIVER = (Path(__file__).parent / "inside" / "test_driver.py").read_bytes()


class PythonTests:
    """``checks.TestIdiom`` of Python."""

    def assemble(self, program: Program, checks: TestChecks, nonce: str) -> TestRun:
        return _run(program, checks, _planned(checks.tests, checks.entry_point), nonce)

    def poison(
        self, program: Program, checks: TestChecks, nonce: str, *, all_of_them: bool = False
    ) -> tuple[TestRun, int]:
        """See ``checks.TestIdiom``; all of them are altered in any case."""
        under_test = {checks.entry_point} if checks.entry_point else _defined(program.source)
        plan, altered = _poisoned(checks.tests, checks.entry_point, frozenset(under_test))
        return _run(program, checks, plan, nonce), altered

    def is_suspect(self, program: Program, checks: TestChecks) -> bool:
        return is_suspect(f"{checks.setup}\n{program.source}", checks.tests, checks.entry_point)


@dataclass(frozen=True)
class _Plan:
    """The tests' source as it is run, then functions to call, then classes of tests to run."""

    source: str
    functions: tuple[str, ...]
    classes: tuple[str, ...]


@lru_cache(maxsize=4096)
def _planned(tests: str, entry_point: str | None) -> _Plan:
    """Many programs are graded by the same tests."""
    return _plan(_parse(tests), entry_point)


@lru_cache(maxsize=4096)
def _poisoned(tests: str, entry_point: str | None, under_test: frozenset[str]) -> tuple[_Plan, int]:
    tree = _parse(tests)
    altered = poison(tree, set(under_test))
    plan = _plan(tree, entry_point)
    return (plan if altered else replace(plan, source=f"{plan.source}\nassert False, 'the end'\n")), altered


def _plan(tests: ast.Module, entry_point: str | None) -> _Plan:
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
    except RecursionError as error:
        raise DataError("the tests are nested too deep to be run") from error
    return _Plan(
        # In every run, so that a program cannot tell by them which one it is in.
        f"{future}\n{HELPERS}\n{source}\n",
        tuple(f.name for f in functions if f.name.startswith("test")),
        tuple(n.name for n in body if isinstance(n, ast.ClassDef) and _is_test(n)),
    )


def _parse(tests: str) -> ast.Module:
    if not tests.strip():
        raise DataError("a Python problem has no tests", hint="give each problem assertions or a test file")
    try:
        return ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
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
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds) and not node.name.startswith("__")}


def _run(program: Program, checks: TestChecks, plan: _Plan, nonce: str) -> TestRun:
    said = {
        "before": ["setup.py"] * bool(checks.setup.strip()) + ["solution.py"],
        "tests": "tests.py",
        "functions": plan.functions,
        "classes": plan.classes,
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
