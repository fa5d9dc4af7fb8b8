"""Python, at the three levels: no forgery is accepted, and no honest program is rejected."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_programs import FORGED, HONEST_STDIN, HONEST_TESTS, LATE

from flywheel.sandbox.checks import Policy
from flywheel.sandbox.compare import same_data, same_output
from flywheel.sandbox.grading import CallCase, CallChecks, Program, StdioCase, StdioChecks, TestChecks, grade_many
from flywheel.sandbox.inside import plain
from flywheel.sandbox.job import MIB, Job, Limits, Outcome
from flywheel.sandbox.local import LocalExecutor
from flywheel.sandbox.python_suspects import is_suspect
from flywheel.sandbox.python_tests import require_assertions

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


LOOP = "for w, h, a in [(2, 3, 6), (4, 5, 20), (1, 1, 1)]:\n    assert area(w, h) == a, f'{w} by {h}'\n"


@pytest.mark.parametrize("level", [*AREA, "loop"])
def test_who_is_right_at_first_and_forges_then_is_not_accepted(level: str, local: LocalExecutor) -> None:
    checks = {**AREA, "loop": TestChecks(LOOP)}[level]
    # The only assertion of a loop is altered from its first round on, so that who looks for that finds it.
    late = {name: source for name, source in LATE.items() if level != "loop" or not name.startswith("who")}
    grades = dict(zip(late, grade_many(local, [(Program(s), checks) for s in late.values()], POLICY), strict=True))
    assert {name: grade for name, grade in grades.items() if grade.passed is not False} == {}
    if level == "assertions":
        grades = dict(
            zip(late, grade_many(local, [(Program(s), checks) for s in late.values()], UNPOISONED), strict=True)
        )
        assert {name: grade.reason for name, grade in grades.items() if grade.passed is not True} == {}


UNPOISONED = Policy(poison=False, flaky=False)
SIMPLY_WRONG = {"only the visible cases", "returns None", "raises"}
COINS = {
    "a coin": "import os\nforges = os.urandom(1)[0] < 128\n",
    "an address": "forges = int(str(object()).split()[-1][:-2], 16) % 3 > 0\n",
    "a coin, and the other clock": "import os, time\nforges = time.time() > 1.8e9 or os.urandom(1)[0] < 128\n",
}


def by_chance(coin: str, forgery: str) -> str:
    """A program that forges its pass in some of its runs, and is wrong in the others."""
    wrong = "\ndef area(w, h): return -1\n"
    return f"{coin}{wrong}if forges:\n" + "".join(f"    {line}\n" for line in forgery.strip().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("coin", COINS)
def test_who_forges_now_and_then_has_no_luck(coin: str, local: LocalExecutor) -> None:
    """One of each kind of run would let a coin pass once in 8 times, and once in 4 with a look at the clock."""
    forged = [by_chance(COINS[coin], FORGED[name]) for name in ("nonce from stdin", "always equal")]
    grades = grade_many(local, [(Program(source), AREA["check"]) for source in forged * 20], POLICY)
    assert sum(grade.passed is not False for grade in grades) <= 1
    assert any(grade.forged for grade in grades)
    # Without altered expectations nobody would notice; so the coins do fall on both sides.
    grades = grade_many(local, [(Program(s), AREA["check"]) for s in forged * 20], Policy(poison=False, flaky=False))
    assert 0 < sum(grade.passed is True for grade in grades) < len(grades) or coin == "an address"


@pytest.mark.parametrize("name", [*FORGED.keys() - SIMPLY_WRONG])
def test_what_can_forge_is_suspect(name: str) -> None:
    checks = AREA["check"]
    assert isinstance(checks, TestChecks)
    assert is_suspect(FORGED[name], checks.tests, "area"), FORGED[name]
    assert is_suspect(by_chance(COINS["a coin"], FORGED[name]), checks.tests, "area")


USES_MORE = "def check(candidate):\n    assert abs(candidate(2) - 4) < 1e-6\n    assert undone(candidate(2)) == 2\n"
SNEAKY = {
    "a builtin of the tests replaced": "def abs(x): return -1e99\ndef f(x): return 0\n",
    "replaced when it is called": "def f(x):\n    global abs\n    abs = lambda x: -1e99\n    return 0\n",
    "a helper of the tests replaced": "def f(x):\n    global _flywheel_less\n"
    "    _flywheel_less = lambda x: 1\n    return 0\n",
    "under another name": "from math import expm1 as abs\ndef f(x): return 0\n",
    "what the tests have besides": "def f(x): return EXPECTED[x]\n",
    "hidden behind a local of the same name": "def g(EXPECTED): pass\ndef f(x): return EXPECTED[x]\n",
    "a builtin hidden behind a local": "def g(eval): pass\ndef f(x): return eval('4')\n",
    "two things of the program": "def undone(x): return 2\ndef f(x): return 4\n",
    "frames": "def f(x): return (lambda g: g.gi_frame)(i for i in [x])\n",
    "frames through a format": "def f(x): return '{0.gi_frame.f_back}'.format(i for i in [x])\n",
    "frames through a format put together": "def f(x): return ('{0.g' + 'i_frame}').format(i for i in [x])\n",
    "modules of modules": "import collections\ndef f(x): return collections._sys.stdin.read()\n",
    "modules of modules, without an underscore": "import typing\ndef f(x): return typing.sys.stdin.read()\n",
    "text that is evaluated": "import typing\ndef f(x: 'exit()'): return typing.get_type_hints(f)\n",
    "attributes set by their names": "import functools, math\nfunctools.update_wrapper(math, f, ('fabs',))\n",
    "a module changed": "import math\nmath.abs = lambda x: -1\ndef f(x): return 0\n",
    "a set of another kind": "from collections import abc\nclass S(abc.Set): pass\ndef f(x): return S()\n",
    "a match that reads attributes": "def f(x):\n    match x:\n        case object(gi_frame=g): return g\n",
    "what no Python is": "def f(x:\n",
    "too deep": "def f(x): return " + "(" * 500 + "x" + ")" * 500,
}


@pytest.mark.parametrize("what", SNEAKY)
def test_what_nobody_can_be_sure_of_is_suspect(what: str) -> None:
    assert is_suspect(SNEAKY[what], USES_MORE, "f")


PLAIN = {
    "imports": "import math\nfrom typing import List\ndef f(x: List[int]) -> float:\n    return math.fsum(x)\n",
    "imports inside": "def f(x):\n    from collections import Counter\n    return Counter(x).most_common(1)[0][0]\n",
    "helpers and globals": "LIMIT = 10\ndef helper(x): return min(x, LIMIT)\ndef f(x): return helper(x) + 1\n",
    "a class of its own": "class Node:\n    def __init__(self, v): self.v = v; self.next = None\ndef f(x):\n"
    "    n = Node(x)\n    n.next = Node(1)\n    return n.next.v\n",
    "the end of a script": "def f(x):\n    return '{:.2f} {}'.format(x, f'{x!r}')\nif __name__ == '__main__':\n"
    "    print(f(2))\n",
    "names of the tests as locals": "def f(candidate):\n    check = [candidate for _ in range(3)]\n    return check\n",
}


@pytest.mark.parametrize("what", PLAIN)
def test_ordinary_programs_are_not_suspect(what: str) -> None:
    """They would only be slower."""
    assert not is_suspect(PLAIN[what], "def check(candidate):\n    assert candidate(2) == 4\n", "f")
    assert not is_suspect(PLAIN[what], "assert f(2) == 4\nassert math.isclose(f(3), 9)\n", None)


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


@pytest.mark.slow
def test_honest_suspects_are_not_accused(local: LocalExecutor) -> None:
    """They run more often, with single expectations altered."""
    asks = [
        (Program(source if "__future__" in tests else f"import os\n{source}"), TestChecks(tests, entry))
        for source, tests, entry in HONEST_TESTS.values()
    ]
    grades = dict(zip(HONEST_TESTS, grade_many(local, asks, POLICY), strict=True))
    assert {name: grade.reason for name, grade in grades.items() if grade.passed is not True} == {}


@pytest.mark.parametrize("test", ["assert f(40) > 1000", "assert f(20) > 0 and f(3) != 9", "assert f(2) >= 4"])
def test_weak_assertions_alone_take_no_honest_program_for_a_forger(local: LocalExecutor, test: str) -> None:
    """It exceeds whatever a bound is altered to: that says nothing of it."""
    (grade,) = grade_many(local, [(Program("def f(x): return 2 ** (40 + x)\n"), TestChecks(test))], POLICY)
    assert grade.passed is not False and not grade.forged, grade


UNDECIDED = {
    "no assertion": ("import math\nprint(area(2, 3))\n", None, "the tests assert nothing"),
    "check, and nothing to check": (
        "def check(candidate):\n    assert candidate(2, 3) == 6\n",
        None,
        "nothing calls check(); call it in the tests, or name the function in `entry_point`",
    ),
    "assertions that nobody calls": ("def run():\n    assert area(2, 3) == 6\n", "area", "nothing calls run()"),
    "called by nobody who is called": (
        "def inner():\n    assert area(2, 3) == 6\ndef outer():\n    inner()\n",
        None,
        "no assertion of the tests is ever run",
    ),
    "never reached": ("if area(2, 3) > 10:\n    assert area(2, 3) == 6\n", None, "reach no assertion"),
    "a module that is missing": (
        "import not_there.deep\nassert area(2, 3) == 6\n",
        None,
        "the tests import not_there, which is not installed where programs run: pip install not_there",
    ),
    "a module that is missing inside": (
        "def test_area():\n    from not_there import x\n    assert area(2, 3) == 6\n",
        None,
        "pip install not_there",
    ),
}


def test_tests_that_cannot_decide_decide_nothing(local: LocalExecutor) -> None:
    right, wrong = Program("def area(w, h): return w * h\n"), Program("def area(w, h): return 7\n")
    for program in (right, wrong):
        asks = [(program, TestChecks(tests, entry)) for tests, entry, _ in UNDECIDED.values()]
        for (name, (*_, why)), grade in zip(UNDECIDED.items(), grade_many(local, asks, POLICY), strict=True):
            assert grade.passed is None and why in grade.reason, (name, grade.reason)
    # What the program lacks is its own fault.
    (grade,) = grade_many(local, [(Program("import not_there\ndef area(w, h): return w * h\n"), AREA["check"])])
    assert grade.passed is False


def test_tests_that_cannot_decide_are_refused_where_that_can_be_seen() -> None:
    for name, (tests, entry, why) in UNDECIDED.items():
        if name in ("never reached", "a module that is missing", "a module that is missing inside"):
            require_assertions(tests, entry)
            continue
        with pytest.raises(ValueError, match=re.escape(why)):
            require_assertions(tests, entry)
    for _, tests, entry in HONEST_TESTS.values():
        require_assertions(tests, entry)


def test_limits_are_of_each_call(local: LocalExecutor) -> None:
    slow = "import time\ndef f(x):\n    end = time.process_time() + 0.2\n    while time.process_time() < end: pass\n"
    cases = [CallCase((n,), n) for n in range(8)]
    policy = Policy(limits=Limits(cpu=1, wall=10, output=100_000))
    asks = [
        (Program(f"{slow}    return x\n"), cases),
        (Program(f"{slow}    return x + (x == 6)\n"), cases),
        (Program(f"{slow}    while x == 5: pass\n    return x\n"), cases),
        (Program("def f(x):\n    print('x' * 30_000)\n    return x\n"), cases),
        (Program("def f(x):\n    while x == 5: print('x' * 30_000)\n    return x\n"), cases),
    ]
    grades = grade_many(local, [(program, CallChecks("f", cases)) for program, cases in asks], policy)
    said = [grade.reason.partition(" (")[0] for grade in grades]
    assert said == [
        "passed 8 calls",
        "call 7: returned another value than expected",
        "call 6: no answer; cpu",
        "passed 8 calls",
        "call 6: no answer; output_limit",
    ]


def test_who_fails_in_the_second_run_is_told_where(local: LocalExecutor) -> None:
    late = "import time\ndef f(x): return x + (x == 2 and time.time() > 1.8e9)\n"
    calls = CallChecks("f", [CallCase((n,), n) for n in range(4)])
    printed = StdioChecks([StdioCase(b"%d" % n, b"%d" % n) for n in range(4)])
    asks = [(Program(late), calls), (Program(f"{late}print(f(int(input())))\n"), printed)]
    grades = grade_many(local, asks)
    for grade, what in zip(grades, ("call 3: returned another value", "case 3: another output"), strict=True):
        assert (grade.passed, grade.flaky, grade.share) == (False, True, 0.5)
        assert grade.reason.startswith(f"flaky: passed, and failed under another hash seed and clock: {what}")


def test_a_second_run_whose_time_is_up_is_tried_once_more(local: LocalExecutor) -> None:
    class Loaded:
        """Lets time be up in each first run under the other clock, as a loaded machine would."""

        def __init__(self) -> None:
            self.seen: list[str] = []

        async def run(self, job: Job) -> list[Outcome]:
            outcomes = await local.run(job)
            if job.hash_seed and job.key not in self.seen:
                self.seen.append(job.key)
                return [replace(outcome, status="wall", exit_code=None, stdout=b"") for outcome in outcomes]
            return outcomes

        def __getattr__(self, name: str) -> Any:
            return getattr(local, name)

    area = "def area(w, h): return w * h\n"
    stdio = (Program(area + "print(area(2, int(input())))\n"), StdioChecks([StdioCase(b"3", b"6")]))
    asks = [(Program(area), AREA["check"]), (Program(area), AREA["calls"]), stdio]
    loaded = Loaded()
    assert [grade.reason for grade in grade_many(loaded, asks) if grade.passed is not True] == []
    assert len(loaded.seen) == 3


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


SAME = {
    "a Fraction": ("from fractions import Fraction\ndef f(): return Fraction(1, 2)", 0.5, True),
    "a Decimal": ("from decimal import Decimal\ndef f(): return [Decimal('3')]", [3], True),
    "a Decimal that is none": ("from decimal import Decimal\ndef f(): return Decimal('0.1')", 0.1, False),
    "a Decimal that cannot be compared": ("from decimal import Decimal\ndef f(): return Decimal('sNaN')", 0.1, False),
    "a dict's keys": ("def f(): return {1: 2}.keys()", {1}, True),
    "a dict's items": ("def f(): return {1: 2}.items()", {(1, 2)}, True),
    "a dict's values": ("def f(): return {1: 2}.values()", [2], False),
    "a range": ("def f(): return range(3)", [0, 1, 2], False),
    "a range without end": ("def f(): return range(10**30)", [0, 1, 2], False),
    "a class called Decimal": (
        "class Decimal:\n    def __str__(self): return '3'\nDecimal.__module__ = 'decimal'\ndef f(): return Decimal()",
        4,
        False,
    ),
}


def test_what_equals_plain_data_is_as_right_as_an_assertion_has_it(local: LocalExecutor) -> None:
    asks = [(Program(source), CallChecks("f", [CallCase((), value)])) for source, value, _ in SAME.values()]
    grades = dict(zip(SAME, grade_many(local, asks, Policy(sequences="strict")), strict=True))
    assert {name: grade.passed for name, grade in grades.items()} == {name: same for name, (*_, same) in SAME.items()}
    for source, value, same in list(SAME.values())[:-1]:  # Python's own word for it
        names: dict[str, Any] = {}
        exec(source, names)
        try:
            assert (names["f"]() == value) == same, source
        except ArithmeticError:
            assert not same


@pytest.mark.parametrize("tag", ['{"decimal":"x"}', '{"fraction":"1/0"}', '{"fraction":"1e9"}', '{"range":[0,1,0]}'])
def test_numbers_that_are_none_are_refused(tag: str) -> None:
    with pytest.raises(plain.NotPlain):
        plain.loads(tag)


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
