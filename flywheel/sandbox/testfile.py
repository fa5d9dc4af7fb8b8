"""A program and the tests of it as one job: an idiom per language.

Tests are put after the program, in its namespace, as every public set has them (MultiPL-E, MBPP): plain assertions, or
a ``main`` (C, C++, Java, Go, Rust), or the language's own test functions (Go, Rust, Ruby). After them stands an ending
of ours, which prints a nonce: no nonce, no pass, whatever the exit code. The nonce is in the source in two halves, so
that a program which makes its own source be printed (PHP's ``?>``) does not print it; a program that goes to greater
length is caught by the poisoned rerun (``poison.py``).

``assert(condition)`` can be used in the tests of every language but Bash and SQL; where the language has none, the
ending brings one. In Bash a test is a command that succeeds, in SQL an expression or a query that is true.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from flywheel.errors import DataError
from flywheel.sandbox.chance import may_toss_a_coin
from flywheel.sandbox.checks import Poisoned, Program, TestChecks, TestRun, Which
from flywheel.sandbox.job import Job, Outcome
from flywheel.sandbox.languages import language
from flywheel.sandbox.poison import STRING, defined, poisoned
from flywheel.sandbox.syntax import parse_errors
from flywheel.sandbox.testfile_compiled import Ending, Sources, c, cpp, go, go_imports, java, rust


@dataclass(frozen=True, slots=True)
class Idiom:
    """A language's way of testing: ``grading.TestIdiom`` for it.

    Attributes:
        name: of the language.
        join: makes source files of a program, its tests and the ending.
        after_setup: mends the sources where the problem brings a setup, which the program's writer did not see.
    """

    name: str
    join: Callable[[str, str, Ending], Sources]
    after_setup: Callable[[Sources], Sources] | None = None
    reruns: tuple[Which, ...] = ("most", "one")

    def assemble(self, program: Program, checks: TestChecks, nonce: str) -> TestRun:
        """Program and tests as one job whose last line is the nonce if every test passed.

        Raises:
            DataError: there are no tests.
        """
        return self._run(program, checks, checks.tests, Ending(nonce))

    def poison(self, program: Program, checks: TestChecks, nonce: str, which: Which = "most") -> Poisoned:
        entry = checks.entry_point
        under_test = {entry} if entry else defined(self.name, program.source, checks.tests)
        tests, altered, sure = poisoned(self.name, checks.tests, under_test, which, nonce)
        return Poisoned(self._run(program, checks, tests, Ending(nonce, fails=not altered)), altered, sure)

    def is_suspect(self, program: Program, checks: TestChecks) -> bool:
        return may_toss_a_coin(self.name, program.source)

    def lacking(self, checks: TestChecks, outcome: Outcome) -> Job | None:
        return None  # what a compiler or another interpreter says of a module is too various

    def _run(self, program: Program, checks: TestChecks, tests: str, ending: Ending) -> TestRun:
        if not checks.tests.strip():
            raise DataError(f"a {self.name} problem has no tests", hint="give each problem assertions or a test file")
        if not _can_fail(self.name, checks.tests):
            raise DataError(f"the {self.name} {_NOTHING}", hint="give each problem assertions or a test file")
        source = f"{checks.setup}\n{program.source}" if checks.setup else program.source
        sources = self.join(source, tests, ending)
        if checks.setup and self.after_setup is not None:
            sources = self.after_setup(sources)
        files = {name: text.encode(errors="replace") for name, text in sources.files.items()}
        return TestRun({**program.files, **files}, entry=sources.entry)


_CAN_FAIL = re.compile(
    r"(?i)assert|expect|throw|die|exit|raise|panic|fail|fatal|error|abort|check|test|verif|equal|same|compare|unwrap"
    r"|require|\b(is|isnt|ok|must|should)\b"
)
"""What tests that can fail have in some place. In Bash and SQL everything is a test."""
_NOTHING = "tests assert nothing, so every program would pass"


def _can_fail(tongue: str, tests: str) -> bool:
    if tongue in ("bash", "sql") or (tongue in ("c", "cpp") and re.search(r"\breturn\s+[^0;\s]", tests)):
        return True
    return _CAN_FAIL.search(STRING.sub("", tests)) is not None


def tests_at_fault(name: str, program: str, tests: str) -> str | None:
    """Why tests cannot be right: they assert nothing, or parse neither alone nor after a program that does; else None.

    Only a language's own compiler or interpreter knows what of Bash is right, or what a macro makes of C: such tests
    are not refused before they run.

    Args:
        program: one that is known to be right.
    """
    tongue = language(name).name
    if not _can_fail(tongue, tests):
        return f"the {tongue} {_NOTHING}"
    if tongue == "sql":
        return next(filter(None, map(_sql_fault, _statements(tests))), None)
    if tongue == "bash" or (tongue in ("c", "cpp") and "#define" in program + tests):
        return None
    join = IDIOMS[tongue].join

    def broken(source: str) -> list[str]:
        try:
            files = join(source, tests, Ending("0" * 16)).files
        except DataError as error:
            return [error.message]
        return [str(finding) for text in files.values() for finding in parse_errors(name, text)]

    if parse_errors(name, program) or not broken(""):
        return None
    return next(iter(broken(program)), None)


def _javascript(program: str, tests: str, ending: Ending) -> Sources:
    module = re.search(r"^\s*import\s.*['\"]|^\s*export\s", program + "\n" + tests, re.MULTILINE) is not None
    before = []
    if module and "require(" in program + tests:
        before = ["import { createRequire as _createRequire } from 'node:module';"]
        before += ["const require = _createRequire(import.meta.url);"]
    before += _assert_of_node(program + tests, "import assert from 'node:assert';" if module else None)
    lines = [
        *before,
        program,
        _console_assert(tests),
        tests,
        ending.fail("throw new Error('the end')"),
        ending.show("process.stdout.write({})"),
    ]
    name = "main.mjs" if module else "main.js"
    return Sources({name: "\n".join(lines) + "\n"}, name)


def _typescript(program: str, tests: str, ending: Ending) -> Sources:
    before = _assert_of_node(program + tests, "const assert: any = require('node:assert');")
    # Behind a condition, or the compiler would complain of what comes after it.
    fail = ending.fail("if (String(process.pid) !== '') throw new Error('the end');")
    show = ending.show("process.stdout.write({})")
    # A module: what a program calls `fetch` or `process` is its own then, and no second global.
    return _single("main.ts", *before, program, _console_assert(tests), tests, fail, show, "export {};")


def _console_assert(tests: str) -> str:
    """HumanEval-X tests with ``console.assert``, which only prints."""
    if "console.assert" not in tests:
        return ""
    return "console.assert = (ok, ...said) => { if (!ok) throw new Error(['assertion failed', ...said].join(' ')); };"


def _assert_of_node(code: str, statement: str | None) -> list[str]:
    declared = re.search(r"\b(const|let|var|function|import)\s+(\*\s*as\s+)?assert\b", code)
    used = re.search(r"\bassert\b\s*[.(]", code)
    return [statement or "const assert = require('node:assert');"] if used and not declared else []


def _php(program: str, tests: str, ending: Ending) -> Sources:
    opened = program if re.match(r"\s*<\?(php|=)?", program) else f"<?php\n{program}"
    closed = re.sub(r"\?>\s*\Z", "", opened)  # an honest habit: without it, tests would be text
    if "?>" not in closed:  # a program after its problem's setup opens once more
        first, *rest = re.split(r"^\s*<\?php\b", closed, flags=re.MULTILINE)
        closed = f"{first}<?php{''.join(rest)}"
    plain = re.sub(r"\A\s*<\?(php)?|\?>\s*\Z", "", tests)
    fail = ending.fail("assert(false);")
    return _single("main.php", closed, plain, fail, ending.show("echo {};"))


def _bash(program: str, tests: str, ending: Ending) -> Sources:
    lines = [line.strip() for line in tests.splitlines() if line.strip()]
    if all(line.startswith(("[", "test ")) for line in lines):
        # `set -e` does not see what fails before `&&`.
        tests = "\n".join(f"{{ {line}\n}} || {{ echo 'a test failed' >&2; exit 1; }}" for line in lines)
    halves = " ".join(f'"{half}"' for half in ending.halves)
    show = f"printf '\\n%s%s\\n' {halves}"
    return _single("main.sh", program, "set -e", tests, ending.fail("[[ a = b ]]"), show)


def _ruby(program: str, tests: str, ending: Ending) -> Sources:
    frames = re.search(r"Test::Unit|Minitest", tests)
    helper = "" if frames or "def assert" in program + tests else _RUBY_ASSERT
    run = _RUBY_RUN if frames else ""
    # exit!: test frameworks would start once more at exit, and the nonce must be the last line.
    last = "$stdout.flush\nexit!(0)"
    fail = ending.fail("raise 'the end'")
    return _single("main.rb", program, helper, tests, run, fail, ending.show("print({})"), last)


_RUBY_ASSERT = """
def assert(condition, message = "assertion failed")
  raise message unless condition
end"""
_RUBY_RUN = """
if defined?(Test::Unit::AutoRunner)
  Test::Unit::AutoRunner.need_auto_run = false
  exit!(1) unless Test::Unit::AutoRunner.run
else
  exit!(1) unless Minitest.run([])
end"""


def _perl(program: str, tests: str, ending: Ending) -> Sources:
    used = re.search(r"\bassert\s*\(", tests) and not re.search(r"sub\s+assert\b|Assert", program + tests)
    helper = 'sub assert { die "assertion failed\\n" unless $_[0]; }' if used else ""
    fail = ending.fail('die "the end";')
    return _single("main.pl", program, helper, tests, fail, "$| = 1;", ending.show("print({});"))


def _lua(program: str, tests: str, ending: Ending) -> Sources:
    # LuaUnit's habit is to leave with its count of failures, before our end.
    kept = re.sub(r"os\.exit\(\s*([\w.]+\.run\([^()]*\))\s*\)", r"if \1 ~= 0 then os.exit(1) end", tests)
    return _single("main.lua", program, kept, ending.fail("assert(false)"), ending.show("io.write({})"))


def _sql(program: str, tests: str, ending: Ending) -> Sources:
    table = f"t{ending.nonce}"
    lines = [f"CREATE TEMP TABLE {table}(ok CHECK(ok = 1));"]
    for test in [*_statements(tests), *(["1 = 2"] if ending.fails else [])]:
        lines.append(f"INSERT INTO {table} VALUES (({test}\n) IS TRUE);")
    first, second = ending.halves
    show = [".output stdout", ".headers off", ".mode list", f"SELECT '{first}' || '{second}';"]
    return _single("main.sql", program, *lines, *show)


def _statements(tests: str) -> list[str]:
    """Tests as SQL expressions: what ends with a semicolon, or else each line."""
    if ";" not in tests:
        return [line.strip() for line in tests.splitlines() if line.strip()]
    found, part = [], ""
    for piece in re.split(r"(?<=;)", tests):
        part += piece
        if sqlite3.complete_statement(part):
            found.append(part.strip().rstrip(";"))
            part = ""
    return [test for test in [*found, part.strip()] if test.strip()]


def _sql_fault(test: str) -> str | None:
    """What sqlite's own parser says of a test. There are no tables here, so any other complaint says nothing."""
    with closing(sqlite3.connect(":memory:")) as database:
        try:
            database.execute(f"EXPLAIN SELECT ({test}\n) IS TRUE")
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            if _SYNTAX.search(str(error)):
                return f"{test[:60]!r}: {error}"
    return None


_SYNTAX = re.compile("syntax error|incomplete input|unrecognized token|one statement at a time")


def _single(name: str, *parts: str) -> Sources:
    return Sources({name: "\n".join(part for part in parts if part) + "\n"}, name)


IDIOMS: dict[str, Idiom] = {
    name: Idiom(name, join, go_imports if name == "go" else None)
    for name, join in {
        "javascript": _javascript,
        "typescript": _typescript,
        "php": _php,
        "bash": _bash,
        "java": java,
        "cpp": cpp,
        "c": c,
        "go": go,
        "rust": rust,
        "ruby": _ruby,
        "perl": _perl,
        "lua": _lua,
        "sql": _sql,
    }.items()
}
"""Python's is in ``grading.py``'s hands: there the nonce has a file descriptor of its own."""
