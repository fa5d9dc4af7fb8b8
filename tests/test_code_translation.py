"""Translations of the form that the prompt asks for are parsed, compiled, run, and run again with altered tests."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from flywheel.tasks.code.options import Options
from flywheel.tasks.code.running import Runner
from flywheel.tasks.code.translation import IDIOMS, read_translation
from flywheel.tasks.code.unit_tests import spec_of

TESTS = ["assert add_all([1, 22, 3]) == 26", "assert add_all([]) == 0", "assert add_all([-5, 15]) == 10"]
TRANSLATIONS = {
    "javascript": (
        ("function addAll(xs) { return xs.reduce((a, b) => a + b, 0); }"),
        (
            "assert.strictEqual(addAll([1, 22, 3]), 26);\n"
            "assert.strictEqual(addAll([]), 0);\n"
            "assert.strictEqual(addAll([-5, 15]), 10);"
        ),
    ),
    "typescript": (
        ("function addAll(xs: number[]): number { return xs.reduce((a, b) => a + b, 0); }"),
        (
            "assert.strictEqual(addAll([1, 22, 3]), 26);\n"
            "assert.strictEqual(addAll([]), 0);\n"
            "assert.strictEqual(addAll([-5, 15]), 10);"
        ),
    ),
    "php": (
        ("<?php\nfunction add_all(array $xs): int { return array_sum($xs); }"),
        ("assert(add_all([1, 22, 3]) === 26);\nassert(add_all([]) === 0);\nassert(add_all([-5, 15]) === 10);"),
    ),
    "bash": (
        ('add_all() { local t=0; for x in "$@"; do t=$((t + x)); done; echo "$t"; }'),
        ('[ "$(add_all 1 22 3)" = "26" ]\n[ "$(add_all)" = "0" ]\n[ "$(add_all -5 15)" = "10" ]'),
    ),
    "java": (
        (
            "import java.util.*;\n"
            "class Solution { static int addAll(List<Integer> xs) { int t = 0; for (int x : xs) t += x; return t; } }"
        ),
        (
            "assert Solution.addAll(List.of(1, 22, 3)) == 26;\n"
            "assert Solution.addAll(List.of()) == 0;\n"
            "assert Solution.addAll(List.of(-5, 15)) == 10;"
        ),
    ),
    "cpp": (
        ("#include <vector>\nint add_all(std::vector<int> xs) { int t = 0; for (int x : xs) t += x; return t; }"),
        ("assert(add_all({1, 22, 3}) == 26);\nassert(add_all({}) == 0);\nassert(add_all({-5, 15}) == 10);"),
    ),
    "c": (
        ("int add_all(const int *xs, int n) { int t = 0; for (int i = 0; i < n; i++) t += xs[i]; return t; }"),
        (
            "assert(add_all((int[]){1, 22, 3}, 3) == 26);\n"
            "assert(add_all((int[]){0}, 0) == 0);\n"
            "assert(add_all((int[]){-5, 15}, 2) == 10);"
        ),
    ),
    "go": (
        (
            "package main\n"
            "\n"
            "func AddAll(xs []int) int {\n"
            "\tt := 0\n"
            "\tfor _, x := range xs {\n"
            "\t\tt += x\n"
            "\t}\n"
            "\treturn t\n"
            "}"
        ),
        ("assert(AddAll([]int{1, 22, 3}) == 26)\nassert(AddAll([]int{}) == 0)\nassert(AddAll([]int{-5, 15}) == 10)"),
    ),
    "rust": (
        ("fn add_all(xs: &[i64]) -> i64 { xs.iter().sum() }"),
        ("assert_eq!(add_all(&[1, 22, 3]), 26);\nassert_eq!(add_all(&[]), 0);\nassert_eq!(add_all(&[-5, 15]), 10);"),
    ),
    "ruby": (
        ("def add_all(xs)\n  xs.sum\nend"),
        ("assert add_all([1, 22, 3]) == 26\nassert add_all([]) == 0\nassert add_all([-5, 15]) == 10"),
    ),
    "perl": (
        ("sub add_all { my $t = 0; $t += $_ for @_; return $t; }"),
        ("assert(add_all(1, 22, 3) == 26);\nassert(add_all() == 0);\nassert(add_all(-5, 15) == 10);"),
    ),
    "lua": (
        ("function add_all(xs)\n  local t = 0\n  for _, x in ipairs(xs) do t = t + x end\n  return t\nend"),
        ("assert(add_all({1, 22, 3}) == 26)\nassert(add_all({}) == 0)\nassert(add_all({-5, 15}) == 10)"),
    ),
}
"""A program and its tests in each language."""

WRONG = {"+=": "-=", "a + b": "a - b", "t + x": "t - x", "array_sum": "array_product", ".sum": ".max", "sum()": "max()"}
"""What is altered for a translation that should not pass."""


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    made = Runner(Options())
    yield made
    made.close()


def test_the_prompt_shows_the_tests_of_every_language() -> None:
    assert TRANSLATIONS.keys() == IDIOMS.keys()


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_translated_tests_must_have_every_assertion_with_its_values(language: str) -> None:
    program, tests = TRANSLATIONS[language]

    def fault(altered: str) -> str | None:
        text = f"```{language}\n{program}\n```\n```{language}\n{altered}\n```"
        return read_translation(text, language, spec_of(TESTS, "add_all")).fault

    assert fault(tests) is None
    lines = tests.splitlines()
    assert "2 assertions about add_all, and the Python ones 3" in str(fault("\n".join(lines[:2])))
    for old, new in (("-5", "5"), ("-5", "-6"), ("26", "25"), ("22", "2"), ("10", "15")):
        assert "assert add_all(" in str(fault(tests.replace(old, new))), (old, new)
    assert "assert add_all(" in str(fault(tests.replace("26", "27 || 26")))
    assert "assert add_all(" in str(fault("\n".join([lines[0], lines[1], lines[1]])))


VALUES = [
    "assert f('ab', 2.5) == {'x y': [1, -2]}",
    "assert f('a\\nbc', 0.30000000000000004) == 'cb'",
    "assert f('(()', 1) is None",
    "assert f('not me') == True",
    "assert not f('x')",
]
WRITTEN = """\
const wanted = {'x y': [1, -2]};  // 7
assert.deepStrictEqual(f('ab', 2.50), wanted);
assert(f("a\\nbc", 0.3) === 'cb');
assert.strictEqual(f('(()', 1), null);
assert(f("not me"));
assert(!f('x'));
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2.50", "2.51"),
        ("'ab'", "'abc'"),
        ("x y", "x z"),
        ("'(()'", "'()'"),
        ("!f", "f"),
        ('f("not', '!f("not'),
        ("", ""),
    ],
)
def test_values_of_every_kind_are_looked_for(old: str, new: str) -> None:
    text = f"```js\nfunction f() {{}}\n```\n```js\n{WRITTEN.replace(old, new, 1) if old else WRITTEN}```"
    fault = read_translation(text, "javascript", spec_of(VALUES, "f")).fault
    assert (fault is None) == (not old), fault


@pytest.mark.slow
@pytest.mark.parametrize("language", TRANSLATIONS)
def test_a_translation_is_run_in_its_language(runner: Runner, language: str) -> None:
    program, tests = TRANSLATIONS[language]
    altered = program
    for old, new in WRONG.items():
        altered = altered.replace(old, new)
    assert altered != program

    def passed(source: str) -> bool | None:
        text = f"The program:\n```{language}\n{source}\n```\nIts tests:\n```{language}\n{tests}\n```"
        read = read_translation(text, language, spec_of(TESTS, "add_all"))
        assert read.fault is None
        grade = asyncio.run(runner.grade(read.program, read.spec))
        assert grade.passed is not True or grade.poisoned
        return grade.passed

    assert passed(program) is True
    assert passed(altered) is False
