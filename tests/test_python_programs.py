"""Python, at the three levels: no forgery is accepted, and no honest program is rejected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_programs import FORGED, HONEST_STDIN, HONEST_TESTS

from flywheel.sandbox.checks import Policy
from flywheel.sandbox.compare import same_data, same_output
from flywheel.sandbox.grading import CallCase, CallChecks, Program, StdioCase, StdioChecks, TestChecks, grade_many
from flywheel.sandbox.inside import plain
from flywheel.sandbox.job import MIB, Limits
from flywheel.sandbox.local import LocalExecutor

POLICY = Policy(limits=Limits(cpu=5, wall=20, memory=512 * MIB))
STDIO = Policy(limits=Limits(cpu=5, wall=20, memory=1024 * MIB, output=4 * MIB))


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor() as executor:
        yield executor


AREA = {
    "assertions": TestChecks("assert area(2, 3) == 6\nassert area(4, 5) == 20\n"),
    "check": TestChecks(
        "def check(candidate):\n    assert candidate(2, 3) == 6\n    assert candidate(4, 5) == 20\n", "area"
    ),
    "functions": TestChecks(
        "def test_one():\n    assert area(2, 3) == 6\ndef test_two():\n    assert area(4, 5) == 20\n"
    ),
    "unittest": TestChecks(
        "import unittest\nclass TestArea(unittest.TestCase):\n    def test_it(self):\n"
        "        self.assertEqual(area(2, 3), 6)\n        self.assertEqual(area(4, 5), 20)\n"
    ),
    "calls": CallChecks("area", [CallCase((2, 3), 6), CallCase((4, 5), 20)]),
}


@pytest.mark.parametrize("level", AREA)
def test_no_forgery_is_accepted(level: str, local: LocalExecutor) -> None:
    asks = [(Program(source), AREA[level]) for source in FORGED.values()]
    grades = dict(zip(FORGED, grade_many(local, asks, POLICY), strict=True))
    # "check redefined" before the tests define it, and the like, change nothing: the program is simply wrong.
    assert {name: grade for name, grade in grades.items() if grade.passed is not False} == {}


@pytest.mark.parametrize("level", AREA)
def test_the_right_program_is_accepted(level: str, local: LocalExecutor) -> None:
    (grade,) = grade_many(local, [(Program("def area(w, h): return w * h\n"), AREA[level])], POLICY)
    assert grade.passed is True, grade
    assert grade.level == ("call" if level == "calls" else "tests")
    assert grade.verdict().detail["isolation"] == "namespaces"


def test_honest_programs_that_read_and_write(local: LocalExecutor) -> None:
    asks = [(Program(source), StdioChecks([StdioCase(i, o)])) for source, i, o in HONEST_STDIN.values()]
    grades = dict(zip(HONEST_STDIN, grade_many(local, asks, STDIO), strict=True))
    refused = {n: (g.reason, g.outcomes[-1].stdout[-200:]) for n, g in grades.items() if g.passed is not True}
    assert refused == {}


def test_honest_programs_that_are_tested(local: LocalExecutor) -> None:
    asks = [(Program(source), TestChecks(tests, entry)) for source, tests, entry in HONEST_TESTS.values()]
    grades = dict(zip(HONEST_TESTS, grade_many(local, asks, POLICY), strict=True))
    refused = {n: (g.reason, g.outcomes[-1].stderr[-300:]) for n, g in grades.items() if g.passed is not True}
    assert refused == {}
    # Nothing was taken on trust: in each, some expectation could be altered.
    assert [name for name, grade in grades.items() if not grade.poisoned] == []


def test_files_beside_a_program_can_be_imported_and_read(local: LocalExecutor) -> None:
    files = {"helper.py": b"def twice(x): return 2 * x\n", "data/in.txt": b"21"}
    source = "import helper\ndef area(w, h): return w * h\nprint(helper.twice(int(open('data/in.txt').read())))\n"
    asks = [
        (Program(source, files=files), StdioChecks([StdioCase(b"", b"42\n")])),
        (Program(source, files=files), AREA["check"]),
        (Program(source, files=files), AREA["calls"]),
    ]
    assert [grade.passed for grade in grade_many(local, asks, POLICY)] == [True] * 3


def test_what_a_grade_says(local: LocalExecutor) -> None:
    checks = TestChecks("assert area(2, 3) == 6, 'two by three'\n")
    wrong, broken, none = grade_many(
        local,
        [
            (Program("def area(w, h): return 1\n"), checks),
            (Program("def area(w, h): return w * h\n"), TestChecks("assert area(2,\n")),
            (Program("def area(w, h): return w * h\n"), TestChecks("  \n")),
        ],
    )
    assert "two by three" in wrong.reason
    assert b"assert area(2, 3) == 6" in wrong.outcomes[-1].stderr  # the traceback shows the line
    assert broken.passed is None and "not Python" in broken.reason
    assert none.passed is None and "no tests" in none.reason


def test_calls_of_methods_and_by_name(local: LocalExecutor) -> None:
    source = "class Solution:\n    def add(self, a, b=1): return a + b\n"
    checks = CallChecks("Solution.add", [CallCase((1,), 2), CallCase((1,), 4, {"b": 3}), CallCase(([1], [2]), [1, 2])])
    (grade,) = grade_many(local, [(Program(source), checks)])
    assert grade.passed is True, grade
    (grade,) = grade_many(local, [(Program(source), CallChecks("Solution.sub", checks.cases))])
    assert grade.passed is False


data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers()), inner)
        | st.sets(st.integers() | st.text())
    ),
    max_leaves=20,
)
STRICT = Policy(sequences="strict", numbers="strict")


@given(data)
def test_plain_data_survives_the_journey(value: Any) -> None:
    assert same_data(value, plain.loads(plain.dumps(value)), STRICT) or _has_complex_nan(value)


def _has_complex_nan(value: Any) -> bool:
    return ("nan" in repr(value) and "j" in repr(value)) or isinstance(value, set | dict)


@given(data, data)
def test_values_are_the_same_only_if_python_says_so(one: Any, other: Any) -> None:
    if same_data(one, plain.loads(plain.dumps(other)), STRICT):
        assert repr(one) == repr(other) or one == other or math.isnan(abs(complex(one)))


@given(st.text(max_size=300) | st.binary(max_size=300))
def test_what_is_no_plain_data_is_refused(text: str | bytes) -> None:
    try:
        plain.loads(text)
    except plain.NotPlain:
        return


@given(st.binary())
def test_output_equals_itself(text: bytes) -> None:
    for how in ("bytes", "lines", "tokens"):
        assert same_output(text, text, Policy(text=how))  # type: ignore[arg-type]
    assert same_output(text, text + b"\n\n", Policy())
    assert not same_output(text, text + b"x", Policy(text="bytes"))


def test_compare_tokens_with_tolerance() -> None:
    policy = Policy(text="tokens", tolerance=1e-6)
    assert same_output(b"1.0000001 yes\n", b"1.0  yes", policy)
    assert not same_output(b"1.1 yes", b"1.0 yes", policy)
    assert not same_output(b"1 2 3", b"1 2", policy)
    assert not same_output(b"yes", b"no", policy)
