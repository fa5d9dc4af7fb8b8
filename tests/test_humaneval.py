"""HumanEval: every canonical solution passes, no stub does, and no mutant that its own tests can tell apart."""

from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import random
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flywheel.sandbox.grading import Checks, Policy, Program, TestChecks, grade_many
from flywheel.sandbox.job import Limits
from flywheel.sandbox.local import LocalExecutor
from flywheel.tasks.code.mutate import mutants

ROOT = Path(__file__).parents[1]
FILE = ROOT.parent / "shared" / "data" / "HumanEval.jsonl.gz"
POLICY = Policy(limits=Limits(cpu=5, wall=20))

pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"{FILE} is not there")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    with gzip.open(FILE, "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor() as executor:
        yield executor


def ask(row: dict[str, str], body: str) -> tuple[Program, Checks]:
    return Program(row["prompt"] + body), TestChecks(row["test"], row["entry_point"])


def test_every_canonical_solution_passes(rows: list[dict[str, str]], local: LocalExecutor) -> None:
    grades = grade_many(local, [ask(row, row["canonical_solution"]) for row in rows], POLICY)
    assert {r["task_id"]: g.reason for r, g in zip(rows, grades, strict=True) if g.passed is not True} == {}
    assert len(grades) == 164
    assert all(grade.poisoned for grade in grades)  # in each, expectations could be altered, and were


@pytest.mark.parametrize("body", ["raise NotImplementedError", "return None", "pass", "import sys; sys.exit(0)"])
def test_no_stub_passes(body: str, rows: list[dict[str, str]], local: LocalExecutor) -> None:
    grades = grade_many(local, [ask(row, f"    {body}\n") for row in rows], POLICY)
    assert [r["task_id"] for r, g in zip(rows, grades, strict=True) if g.passed is not False] == []


def test_no_answer_that_is_equal_to_everything_passes(rows: list[dict[str, str]], local: LocalExecutor) -> None:
    body = "    class Any_:\n"
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "contains", "bool"):
        body += f"        def __{name}__(self, *_): return True\n"
    for name in ("sub", "rsub", "add", "abs", "round", "getitem", "mul", "pow"):
        body += f"        def __{name}__(self, *_): return self\n"
    body += "        def __iter__(self): return iter([self])\n        def __len__(self): return 1\n"
    grades = grade_many(
        local, [ask(row, f"{body}        __hash__ = None\n    return Any_()\n") for row in rows], POLICY
    )
    assert [r["task_id"] for r, g in zip(rows, grades, strict=True) if g.passed is not False] == []
    assert sum(grade.forged for grade in grades) > 100


@pytest.mark.heavy
def test_no_mutant_passes_that_its_tests_can_tell(rows: list[dict[str, str]], local: LocalExecutor) -> None:
    """The oracle is Python itself: the mutant and its tests, executed as they are in a plain process."""
    draw = random.Random(0)
    cases = []
    for row in rows:
        found = list(mutants(row["prompt"] + row["canonical_solution"]))
        cases += [(row, source) for source in draw.sample(found, min(4, len(found)))]
    assert len(cases) > 500
    asks: list[tuple[Program, Checks]] = [(Program(s), TestChecks(r["test"], r["entry_point"])) for r, s in cases]
    grades = grade_many(local, asks, Policy(limits=Limits(cpu=4, wall=20), flaky=False))
    with ThreadPoolExecutor(2) as pool:
        truths = list(pool.map(lambda case: passes_plainly(*case), cases))
    wrongly_accepted = [
        (row["task_id"], source)
        for (row, source), grade, truth in zip(cases, grades, truths, strict=True)
        if grade.passed is not False and not truth
    ]
    wrongly_rejected = [
        (row["task_id"], grade.reason)
        for (row, _), grade, truth in zip(cases, grades, truths, strict=True)
        if grade.passed is not True and truth
    ]
    assert wrongly_accepted == []
    assert wrongly_rejected == []
    assert 0.5 < sum(not truth for truth in truths) / len(truths) < 1  # most mutants are found by the tests


def passes_plainly(row: dict[str, str], source: str) -> bool:
    process = multiprocessing.get_context("fork").Process(target=_execute, args=(row, source))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode == 0


def _execute(row: dict[str, str], source: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    signal.setitimer(signal.ITIMER_PROF, 6)  # of the processor, as the sandbox counts
    try:
        exec(f"{source}\n{row['test']}\ncheck({row['entry_point']})\n", {})
    except BaseException:
        os._exit(1)
    os._exit(0)
