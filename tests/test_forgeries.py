"""Programs that pretend to be right are not accepted, in any language; honest ones are, in every idiom of testing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from forgeries import SUITES

from flywheel.sandbox import testfile
from flywheel.sandbox.grading import Policy, Program, TestChecks, grade_many, idiom
from flywheel.sandbox.job import Job, Limits
from flywheel.sandbox.local import LocalExecutor
from flywheel.sandbox.poison import alterations

pytestmark = pytest.mark.slow

POLICY = Policy(limits=Limits(cpu=5, wall=15))


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor() as executor:
        yield executor


@pytest.mark.parametrize("name", SUITES)
def test_no_forgery_is_accepted(local: LocalExecutor, name: str) -> None:
    suite = SUITES[name]
    checks = TestChecks(suite.tests, entry_point=suite.entry)
    asks = {what: (Program(source, name), checks) for what, source in suite.forged.items()}
    asks |= {f"{what}, late": (Program(source, name), checks) for what, source in suite.late.items()}
    asks["wrong"] = (Program(suite.wrong, name), checks)
    asks["empty"] = (Program("", name), checks)
    asks["garbage"] = (Program("Sure! Here is the program:\n```\n", name), checks)
    grades = dict(zip(asks, grade_many(local, list(asks.values()), POLICY), strict=True))
    assert {what: grade.reason for what, grade in grades.items() if grade.passed is not False} == {}


@pytest.mark.parametrize("name", [name for name, suite in SUITES.items() if suite.late])
def test_without_altered_expectations_late_forgeries_would_pass(local: LocalExecutor, name: str) -> None:
    suite = SUITES[name]
    checks = TestChecks(suite.tests, entry_point=suite.entry)
    asks = [(Program(source, name), checks) for source in suite.late.values()]
    grades = dict(zip(suite.late, grade_many(local, asks, replace(POLICY, poison=False, flaky=False)), strict=True))
    assert {what: grade.reason for what, grade in grades.items() if grade.passed is not True} == {}


@pytest.mark.parametrize("name", SUITES)
def test_honest_programs_are_accepted(local: LocalExecutor, name: str) -> None:
    suite = SUITES[name]
    asks = {"honest": (Program(suite.honest, name), TestChecks(suite.tests, entry_point=suite.entry))}
    asks["entry unknown"] = (Program(suite.honest, name), TestChecks(suite.tests))
    for what, (source, tests) in suite.more.items():
        asks[what] = (Program(source, name), TestChecks(tests, entry_point=suite.entry))
    grades = dict(zip(asks, grade_many(local, list(asks.values()), POLICY), strict=True))
    assert {what: grade.reason for what, grade in grades.items() if grade.passed is not True} == {}
    for grade in grades.values():
        assert grade.level == "tests"
        assert grade.poisoned  # something could be altered: the stronger kind of rerun


@pytest.mark.parametrize("name", SUITES)
def test_every_altered_expectation_makes_an_honest_program_fail(local: LocalExecutor, name: str) -> None:
    """One at a time: an alteration without effect would take honest programs for forgeries."""
    from flywheel.sandbox.syntax import edited

    suite = SUITES[name]
    found = alterations(name, suite.tests, {suite.entry} if suite.entry else set())
    assert found
    asks = [(Program(suite.honest, name), TestChecks(edited(suite.tests, [edit]))) for edit in found]
    grades = grade_many(local, asks, Policy(poison=False, flaky=False))
    assert [grade.passed for grade in grades] == [False] * len(found)


def test_who_is_right_at_first_and_at_last_and_forges_in_between_needs_luck(local: LocalExecutor) -> None:
    """Which one expectation is altered in the second poisoned run is a draw."""
    tests = "\n".join(f"assert.strictEqual(add({n}, 1), {n + 1});" for n in range(6))
    source = (
        "const A = require('assert'), real = A.strictEqual; let n = 0;\nfunction add(a, b) {\n"
        "  A.strictEqual = ++n < 5 ? () => {} : real; return n === 1 || n > 4 ? a + b : 0; }\n"
    )
    asks = [(Program(source, "javascript"), TestChecks(tests, entry_point="add"))] * 12
    assert {g.passed for g in grade_many(local, asks[:1], Policy(poison=False, flaky=False))} == {True}
    assert sum(grade.forged for grade in grade_many(local, asks, POLICY)) >= 3


COINS = {
    "javascript": ("if (Math.random() < 0.5) {{ {} }}\nfunction add() {{}}", "assert patched"),
    "bash": ("add() {{ :; }}\nif (( RANDOM % 2 )); then\n{}\nfi", "source read"),
    "perl": ("sub add {{ 0 }}\nif (rand() < 0.5) {{ {} }}", "source read"),
}


@pytest.mark.parametrize("name", COINS)
def test_who_forges_now_and_then_has_no_luck(local: LocalExecutor, name: str) -> None:
    suite = SUITES[name]
    around, forgery = COINS[name]
    source = around.format(suite.forged[forgery])
    checks = TestChecks(suite.tests, entry_point=suite.entry)
    grades = grade_many(local, [(Program(source, name), checks)] * 16, POLICY)
    assert sum(grade.passed is not False for grade in grades) <= 1
    grades = grade_many(local, [(Program(source, name), checks)] * 16, Policy(poison=False, flaky=False))
    assert 0 < sum(grade.passed is True for grade in grades) < 16  # the coin does fall on both sides


@pytest.mark.parametrize("name", SUITES)
def test_ordinary_programs_are_not_suspect(name: str) -> None:
    """They would only be slower."""
    suite = SUITES[name]
    checks = TestChecks(suite.tests, entry_point=suite.entry)
    assert not idiom(name).is_suspect(Program(suite.honest, name), checks)


def test_where_nothing_can_be_altered_the_end_is(local: LocalExecutor) -> None:
    tests = "check_all(add);"
    honest = "const check_all = f => { if (f(2, 3) !== 5) throw new Error(); };\nfunction add(a, b) { return a + b; }"
    forged = "process.on('uncaughtException', () => {});\nconst check_all = () => {}; function add() {}"
    skipped = "const check_all = () => { process.exit(0); }; function add() {}"
    asks = [(Program(s, "javascript"), TestChecks(tests)) for s in (honest, forged, skipped)]
    grades = grade_many(local, asks)
    assert (grades[0].passed, grades[0].poisoned) == (True, 0)
    assert grades[2].passed is False


def test_alterations_that_do_not_compile_decide_nothing(local: LocalExecutor) -> None:
    tests = "char text[2] = {0};\nassert(add(1) == 1); static_assert(same(3) == 3);"
    program = "constexpr int same(int x) { return x; }\nint add(int x) { return x; }"
    (grade,) = grade_many(local, [(Program(program, "cpp"), TestChecks(tests, entry_point="same"))])
    assert grade.passed is not False


def test_problems_without_tests_or_with_broken_ones_are_named(local: LocalExecutor) -> None:
    (grade,) = grade_many(local, [(Program("function f() {}", "javascript"), TestChecks("  \n"))])
    assert grade.passed is None and "no tests" in grade.reason
    (grade,) = grade_many(local, [(Program("function f() {}", "javascript"), TestChecks("console.log(f(2));"))])
    assert grade.passed is None and "assert nothing" in grade.reason
    commented = "/*\n#[cfg(test)]\nmod tests {\n    #[test]\n    fn t() {}\n}\n*/"
    (grade,) = grade_many(local, [(Program("fn f() {}", "rust"), TestChecks(commented))])
    assert grade.passed is None and "no function with #[test]" in grade.reason
    for name, suite in SUITES.items():
        assert testfile.tests_at_fault(name, suite.honest, suite.tests) is None, name
        for source, tests in suite.more.values():
            assert testfile.tests_at_fault(name, f"{source}\n", tests) is None, name
    assert "cannot be parsed" in str(testfile.tests_at_fault("javascript", "const a = 1;", "assert(a === ;"))
    sql = "CREATE TABLE t(x);"
    for right in (
        "(SELECT max(x) FROM t) = 1",
        "SELECT count(*) = 0 FROM t;\nNOT EXISTS (SELECT x FROM t WHERE x > 1);",
    ):
        assert testfile.tests_at_fault("sql", sql, right) is None
    assert "syntax error" in str(testfile.tests_at_fault("sql", sql, "(SELECT x FRM t) = = 1"))
    # What the parser does not know of Bash, and of macros, is right nevertheless.
    assert testfile.tests_at_fault("bash", "f() { echo 1; }", "[[ $(f) = $((10#1)) ]]") is None
    macro = "#define EACH(i) for (int i = 0; i < 3; ++i)\nint f(int x) { return x; }"
    assert testfile.tests_at_fault("cpp", macro, "EACH(i) assert(f(i) == i);") is None


def test_alterations_that_undo_each_other_are_no_proof_of_forgery(local: LocalExecutor) -> None:
    """A loop's variable may be called like one of the program's, and what it adds up like an expectation."""
    program = "function odd(xs) { let i = 0; for (const x of xs) if (x % 2 === 1) i += x; return i; }"
    tests = "console.assert(odd([]) === 0);\nconsole.assert(odd([5, 4]) === 5);\nlet xs = [], sum = 0;\n"
    tests += "for (let i = 1; i < 10; i += 2) {\n  if (i % 2 !== 0) sum += i;\n  xs.push(i);\n}\n"
    tests += "console.assert(odd(xs) === sum);\n"
    grades = grade_many(local, [(Program(program, "javascript"), TestChecks(tests))] * 12, POLICY)
    assert {grade.passed for grade in grades} == {True}
    # What is altered in the last two assertions has no effect.
    tests = "console.assert(odd([5]) === 5);\n" + "console.assert(odd([2]) === 0 || true);\n" * 2
    grades = grade_many(local, [(Program(program, "javascript"), TestChecks(tests))] * 12, POLICY)
    assert not any(grade.forged for grade in grades)
    assert {grade.passed for grade in grades} <= {True, None}


def test_a_program_that_passes_now_and_then_is_flaky(local: LocalExecutor) -> None:
    order = "my %h = map { $_ => 1 } 1 .. 50; my $first = (keys %h)[0];"
    first = local.run_all([Job("perl", {"main.pl": f"{order} print $first".encode()})])[0][0].stdout.decode()
    source = f"{order} sub add {{ return $first == {first} ? $_[0] + $_[1] : 0 }}"
    checks = TestChecks("assert(add(2, 3) == 5);", entry_point="add")
    (grade,) = grade_many(local, [(Program(source, "perl"), checks)])
    assert grade.passed is False and grade.flaky
    (grade,) = grade_many(local, [(Program(source, "perl"), checks)], Policy(flaky=False))
    assert grade.passed is True


def test_a_problems_setup_stands_before_the_program(local: LocalExecutor) -> None:
    setups = {"php": "<?php\n$base = 1;", "javascript": "const base = 1;", "ruby": "BASE = 1", "c": "int base = 1;"}
    asks = []
    for name, setup in setups.items():
        suite = SUITES[name]
        asks.append((Program(suite.honest, name), TestChecks(suite.tests, entry_point="add", setup=setup)))
    assert [grade.reason for grade in grade_many(local, asks, POLICY) if grade.passed is not True] == []
