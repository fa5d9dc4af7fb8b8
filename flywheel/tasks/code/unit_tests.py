"""Tests that a policy writes, and what must be true of them before they count (Llama 3 §4.3.1, with guards).

A test is one assertion, and counts only if it fails on stubs, if several different solutions agree on it, and if all
of them together reach the code. Which solutions agree is found as in CodeT (Chen et al. 2022): those that pass the same
tests stand together, and the set with the most solutions times tests is believed.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from flywheel.tasks.code.asserts import UNREADABLE, as_cases
from flywheel.tasks.code.coverage import Coverage, measure
from flywheel.tasks.code.extract import after_thinking, code_in, says
from flywheel.tasks.code.options import UnitTests
from flywheel.tasks.code.running import Runner
from flywheel.tasks.code.spec import Spec

STUBS = (
    "raise NotImplementedError",
    "return None",
    "return args[0] if args else None",
    "return 0",
    "return 1",
    "return ''",
    "return []",
    "return {}",
    "return ()",
    "return True",
    "return False",
)
"""Bodies that solve nothing. Tests that accept one of them say too little."""


@dataclass(frozen=True)
class Validated:
    """Tests after validation.

    Attributes:
        tests: what is left of them.
        why_not: what they lack to be frozen; None if nothing.
        agreeing: which of the solutions pass all of them.
        coverage: of the first agreeing solution.
    """

    tests: tuple[str, ...]
    why_not: str | None
    agreeing: tuple[int, ...] = ()
    coverage: Coverage | None = None


def different(programs: Iterable[str]) -> list[str]:
    """Programs that are not the same but for comments, docstrings and layout, in their order."""
    return list({says(program): program for program in reversed(list(programs))}.values())[::-1]


def assertions(text: str, entry_point: str) -> list[str]:
    """The usable tests of an answer: assertions that call the function, each once; what else it says is left out."""
    code = code_in(text, "python")
    if code is None:
        code = after_thinking(text)
    found: dict[str, None] = {}
    for line in _statements(code):
        node = line.body[0]
        calls = {n.func.id for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
        if isinstance(node, ast.Assert) and entry_point in calls:
            with suppress(RecursionError):  # too deep to be written down again
                # The message is for people; without it equal tests are equal texts.
                found[ast.unparse(ast.Assert(node.test, None))] = None
    return list(found)


def _statements(code: str) -> list[ast.Module]:
    """Statements one by one; where the whole does not parse, the lines that do."""
    try:
        return [ast.Module([node], []) for node in ast.parse(code).body]
    except UNREADABLE:
        pass
    parsed = []
    for line in code.splitlines():
        try:
            body = ast.parse(line.strip()).body
        except UNREADABLE:
            continue
        parsed += [ast.Module([node], []) for node in body]
    return parsed


def spec_of(tests: Sequence[str], entry_point: str) -> Spec:
    """Assertions as frozen tests, at the strongest level that they allow."""
    cases = as_cases(list(tests), entry_point)
    if cases is not None:
        return Spec("call", "python", entry_point, cases=cases)
    return Spec("tests", "python", entry_point, tests="\n".join(tests) + "\n")


async def validate(
    runner: Runner, tests: Sequence[str], solutions: Sequence[str], entry_point: str, options: UnitTests
) -> Validated:
    """Look for the tests that can be believed.

    Args:
        runner: where programs run.
        tests: assertions, each once.
        solutions: different programs that try to solve the problem.
        entry_point: the function that tests call.
        options: what is required.
    """
    tests = await _failing_on_stubs(runner, tests, entry_point)
    if len(tests) < options.min_kept:
        return Validated(tuple(tests), f"{len(tests)} usable tests, not {options.min_kept}")
    passes = await _matrix(runner, tests, solutions, entry_point)
    kept, agreeing = _consensus(passes)
    if len(agreeing) < options.agreement:
        why = f"{len(agreeing)} different solutions agree on the tests, not {options.agreement}"
        return Validated((), why, tuple(agreeing))
    chosen = tuple(tests[i] for i in kept)
    if len(chosen) < options.min_kept:
        return Validated(chosen, f"solutions agree on {len(chosen)} tests, not {options.min_kept}", tuple(agreeing))
    accepted = await _accepted_stub(runner, chosen, entry_point)
    if accepted is not None:
        return Validated(chosen, f"a stub passes all of them: {accepted}", tuple(agreeing))
    return await _covering(runner, Validated(chosen, None, tuple(agreeing)), solutions[agreeing[0]], options)


async def _covering(runner: Runner, found: Validated, program: str, options: UnitTests) -> Validated:
    coverage = await measure(runner, program, found.tests)
    why = None
    if coverage is None:
        why = "their coverage could not be measured"
    elif coverage.line_share < options.line_coverage:
        why = f"they reach {coverage.line_share:.0%} of the lines, not {options.line_coverage:.0%}"
    elif coverage.branch_share < options.branch_coverage:
        why = f"they take {coverage.branch_share:.0%} of the branches, not {options.branch_coverage:.0%}"
    return Validated(found.tests, why, found.agreeing, coverage)


async def _matrix(runner: Runner, tests: Sequence[str], solutions: Sequence[str], entry_point: str) -> list[list[bool]]:
    """Which solution passes which test; one that could not be decided counts as not passed."""
    specs = [spec_of([test], entry_point) for test in tests]

    async def row(program: str) -> list[bool]:
        grades = await asyncio.gather(*(runner.grade(program, spec, poison=False) for spec in specs))
        return [grade.passed is True for grade in grades]

    return list(await asyncio.gather(*map(row, solutions)))


def _consensus(passes: Sequence[Sequence[bool]]) -> tuple[list[int], list[int]]:
    """Tests and solutions that bear each other out: solutions of the same passes, times tests, the most."""
    groups: dict[tuple[bool, ...], list[int]] = {}
    for number, row in enumerate(passes):
        groups.setdefault(tuple(row), []).append(number)
    ranked = [(len(members) * sum(row), len(members), row) for row, members in groups.items() if any(row)]
    if not ranked:
        return [], []
    best = max(ranked)[2]
    kept = [number for number, passed in enumerate(best) if passed]
    # Whoever passes more than these passes them too.
    agreeing = [number for number, row in enumerate(passes) if all(row[i] for i in kept)]
    return kept, agreeing


async def _failing_on_stubs(runner: Runner, tests: Sequence[str], entry_point: str) -> list[str]:
    """Tests that fail on a function that only raises: the others test nothing."""
    raising = _stub(entry_point, STUBS[0])
    grades = await asyncio.gather(*(runner.grade(raising, spec_of([t], entry_point), poison=False) for t in tests))
    return [test for test, grade in zip(tests, grades, strict=True) if grade.passed is False]


async def _accepted_stub(runner: Runner, tests: Sequence[str], entry_point: str) -> str | None:
    spec = spec_of(tests, entry_point)
    grades = await asyncio.gather(*(runner.grade(_stub(entry_point, body), spec, poison=False) for body in STUBS))
    return next((body for body, grade in zip(STUBS, grades, strict=True) if grade.passed is not False), None)


def _stub(entry_point: str, body: str) -> str:
    return f"def {entry_point}(*args, **kwargs):\n    {body}\n"
