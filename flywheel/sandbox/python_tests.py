"""Python's test files: how they are run beside a program, and how their expectations are altered.

Tests may be plain assertions, ``def check(candidate)`` (HumanEval), ``test_*`` functions (with pytest's parametrize),
or classes of tests. They are rewritten as syntax trees; the program is never read, only run.
"""

from __future__ import annotations

import ast
import json
from dataclasses import dataclass
from pathlib import Path

from flywheel.errors import DataError
from flywheel.sandbox.checks import Program, TestChecks, TestRun
from flywheel.sandbox.python_poison import HELPERS, poison

_DRIVER = (Path(__file__).parent / "inside" / "test_driver.py").read_bytes()


class PythonTests:
    """``checks.TestIdiom`` of Python."""

    def assemble(self, program: Program, checks: TestChecks, nonce: str) -> TestRun:
        tests = _parse(checks)
        return _run(program, checks, _Plan.of(tests, checks), nonce)

    def poison(self, program: Program, checks: TestChecks, nonce: str) -> tuple[TestRun, int]:
        tests = _parse(checks)
        altered = poison(tests, {checks.entry_point} if checks.entry_point else _defined(program.source))
        plan = _Plan.of(tests, checks)
        source = f"{HELPERS}\n{plan.source}" if altered else f"{plan.source}\nassert False, 'the end'\n"
        return _run(program, checks, _Plan(source, plan.functions, plan.classes), nonce), altered


@dataclass(frozen=True)
class _Plan:
    """The tests' source as it is run, then functions to call, then classes of tests to run."""

    source: str
    functions: tuple[str, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, tests: ast.Module, checks: TestChecks) -> _Plan:
        body = [inner for node in tests.body for inner in _unguarded(node)]
        called = {n.func.id for n in ast.walk(tests) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        functions = [n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name not in called]
        for function in functions:
            if any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list):
                raise DataError("tests with pytest's fixtures cannot be run", hint="write them as plain functions")
        names = {f.name for f in functions}
        if checks.entry_point and "check" in names:
            body += ast.parse(f"check({checks.entry_point})").body
        return cls(
            ast.unparse(ast.Module(body, [])),
            tuple(f.name for f in functions if f.name.startswith("test")),
            tuple(n.name for n in body if isinstance(n, ast.ClassDef) and _is_test(n)),
        )


def _parse(checks: TestChecks) -> ast.Module:
    if not checks.tests.strip():
        raise DataError("a Python problem has no tests", hint="give each problem assertions or a test file")
    try:
        return ast.parse(checks.tests)
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
