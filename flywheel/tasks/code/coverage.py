"""How much of a Python program its tests reach, measured where they run: in the sandbox."""

from __future__ import annotations

import ast
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from flywheel.sandbox.job import Job
from flywheel.tasks.code.running import Runner

# Traces the program alone: what it imports is not its code. A test that fails has reached what it has reached.
_DRIVER = """\
import dis, json, sys, types
source = open("program.txt", encoding="utf-8").read()
tests = json.load(open("tests.json", encoding="utf-8"))
arcs = set()
def local(frame, event, argument, last):
    if event == "line":
        arcs.add((last[0], frame.f_lineno))
        last[0] = frame.f_lineno
    elif event == "return":
        arcs.add((last[0], 0))
    return last[1]
def tracer(frame, event, argument):
    if event != "call" or frame.f_code.co_filename != "<program>":
        return None
    last = [0, None]
    last[1] = lambda frame, event, argument: local(frame, event, argument, last)
    return last[1]
def lines_of(code):
    found = {line for _, line in dis.findlinestarts(code) if line}
    return found.union(*(lines_of(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))
space = {"__name__": "program"}
compiled = compile(source, "<program>", "exec")
lines = sorted(lines_of(compiled))
sys.settrace(tracer)
try:
    exec(compiled, space)
    for number, test in enumerate(tests):
        try:
            exec(compile(test, "<test>", "exec"), dict(space))
        except Exception:
            pass
finally:
    sys.settrace(None)
    print("\\n" + NONCE + json.dumps([lines, sorted(arcs)]))
"""


@dataclass(frozen=True)
class Coverage:
    """What was reached of what there is to reach, counted within functions.

    Attributes:
        lines, all_lines: statements.
        branches, all_branches: both ways out of each ``if``, ``while`` and ``for``.
        missed: what was not reached, in words.
    """

    lines: int
    all_lines: int
    branches: int
    all_branches: int
    missed: tuple[str, ...] = ()

    @property
    def line_share(self) -> float:
        return self.lines / self.all_lines if self.all_lines else 1.0

    @property
    def branch_share(self) -> float:
        return self.branches / self.all_branches if self.all_branches else 1.0


async def measure(runner: Runner, program: str, tests: Sequence[str]) -> Coverage | None:
    """Run a program's tests under a tracer.

    Args:
        runner: where they run.
        program: Python source that parses.
        tests: assertions.

    Returns:
        None if the run ended before the count could be read.
    """
    nonce = secrets.token_hex(16)
    files = {
        "driver.py": _DRIVER.replace("NONCE", repr(nonce)).encode(),
        "program.txt": program.encode(),
        "tests.json": json.dumps(list(tests)).encode(),
    }
    outcome = await runner.run(Job("python", files, entry="driver.py", limits=runner.limits()))
    _, found, counted = outcome.stdout.decode(errors="replace").rpartition(nonce)
    if not found:
        return None
    try:
        lines, arcs = json.loads(counted)
        return _count(program, set(map(int, lines)), {(int(a), int(b)) for a, b in arcs})
    except (ValueError, TypeError):
        return None


def _count(program: str, lines: set[int], arcs: set[tuple[int, int]]) -> Coverage:
    """Hold what was traced against the statements.

    Args:
        program: the source.
        lines: that have code, says the Python that ran it: a bare annotation has none.
        arcs: lines that followed each other.
    """
    tree = ast.parse(program)
    source = program.splitlines()
    reached = {b for _, b in arcs}
    wanted = {first: head & lines for first, head in sorted(_statements(tree).items()) if head & lines}
    missed = [f"line {n}: {source[n - 1].strip()}" for n, head in wanted.items() if not head & reached]
    branches = 0
    found = _branches(tree)
    for at, into in found:
        taken = [(a, b) for a, b in arcs if a == at and b != at]
        inside, outside = any(b == into for _, b in taken), any(b != into for _, b in taken)
        branches += inside + outside
        if at in reached and not inside:
            missed.append(f"line {at}, never into its body: {source[at - 1].strip()}")
        if at in reached and not outside:
            missed.append(f"line {at}, never past its body: {source[at - 1].strip()}")
    return Coverage(
        sum(bool(head & reached) for head in wanted.values()), len(wanted), branches, 2 * len(found), tuple(missed)
    )


def _statements(tree: ast.AST) -> dict[int, set[int]]:
    """Where statements of functions begin, with the lines up to their bodies; docstrings and definitions are none."""
    found: dict[int, set[int]] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.stmt) and node is not function and not _silent(node):
                    within = (n.lineno for n in ast.walk(node) if isinstance(n, ast.stmt) and n is not node)
                    end = min((line - 1 for line in within), default=node.end_lineno or node.lineno)
                    found.setdefault(node.lineno, set()).update(range(node.lineno, max(node.lineno, end) + 1))
    return found


def _silent(node: ast.stmt) -> bool:
    """Statements that Python runs without a line of their own, or that are no code."""
    constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return constant or isinstance(node, ast.Global | ast.Nonlocal | ast.Pass | ast.Break | ast.Continue | ast.Try)


def _branches(tree: ast.AST) -> list[tuple[int, int]]:
    """Lines of ``if``, ``while`` and ``for`` in functions, each with the first of its body where that is another."""
    found: list[tuple[int, int]] = []
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.If | ast.While | ast.For) and node.body[0].lineno > node.lineno:
                endless = isinstance(node, ast.While) and isinstance(node.test, ast.Constant)
                spread = (node.test if not isinstance(node, ast.For) else node.iter).end_lineno != node.lineno
                if not endless and not spread:
                    found.append((node.lineno, node.body[0].lineno))
    return sorted(set(found))
