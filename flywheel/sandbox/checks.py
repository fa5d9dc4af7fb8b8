"""What is graded, against what, how strictly, and the grade: the nouns of ``grading.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from flywheel.sandbox.job import Job, Limits, Outcome
from flywheel.types import Verdict


@dataclass(frozen=True)
class Program:
    """What is graded: source in one language, with files that lie beside it."""

    source: str
    language: str = "python"
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class StdioCase:
    """One input and the output that it should give."""

    stdin: bytes
    stdout: bytes
    argv: tuple[str, ...] = ()


@dataclass(frozen=True)
class CallCase:
    """One call and what it should return (plain Python data)."""

    args: tuple[Any, ...]
    expected: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StdioChecks:
    cases: Sequence[StdioCase]


@dataclass(frozen=True)
class CallChecks:
    """Calls of ``function``: a name, or ``Class.method`` (an instance is made without arguments). Python only."""

    function: str
    cases: Sequence[CallCase]


@dataclass(frozen=True)
class TestChecks:
    """A test file in the program's language.

    Attributes:
        tests: runs after the program, in its namespace; plain asserts, ``def check(candidate)``, ``test_*`` functions
            or unittest classes in Python.
        entry_point: with it, ``check(entry_point)`` is called if there is a ``check``.
        setup: runs before the program (imports, as in MBPP's ``test_imports``).
    """

    __test__ = False  # not for pytest to collect

    tests: str
    entry_point: str | None = None
    setup: str = ""


Checks = StdioChecks | CallChecks | TestChecks


@dataclass(frozen=True)
class TestRun:
    """A test file made ready to run: the fields of a ``Job``. The last line it prints must be the nonce."""

    __test__ = False

    files: Mapping[str, bytes]
    entry: str = ""
    stdin: bytes = b""


Which = Literal["most", "one", "all"]
"""Which expectations are altered:

- "most": what a program that passed is run with. In Python all of them, and the tests go on after each; elsewhere the
  last one that a right program is sure to fail, so that whoever forges from some call on has begun by then;
- "one": one that a right program is sure to fail, by a draw that the nonce decides;
- "all": every one, and the first that fails ends the run.
"""


@dataclass(frozen=True)
class Poisoned:
    """A test file with altered expectations, made ready to run.

    Attributes:
        run: what runs.
        altered: how many expectations; with 0 nothing could be altered but the end, where an assertion fails.
        sure: whether a right program is sure to fail. If not, alterations may be without effect, or undo each other.
    """

    run: TestRun
    altered: int
    sure: bool


class TestIdiom(Protocol):
    """How test files of one language run; ``testfile.py`` has a row per language.

    Attributes:
        reruns: the poisoned reruns of every program that passed.
    """

    @property
    def reruns(self) -> tuple[Which, ...]: ...

    def assemble(self, program: Program, checks: TestChecks, nonce: str) -> TestRun:
        """Program and tests as one job, which prints the nonce as its last line if every test was run and passed.

        Raises:
            DataError: tests that do not parse, or that decide nothing.
        """
        ...

    def poison(self, program: Program, checks: TestChecks, nonce: str, which: Which = "most") -> Poisoned:
        """The same with expectations altered, so that a right program does not print the nonce."""
        ...

    def is_suspect(self, program: Program, checks: TestChecks) -> bool:
        """Whether a program that passes may do so by chance and other means than its answers; it is run more often."""
        ...

    def lacking(self, checks: TestChecks, outcome: Outcome) -> Job | None:
        """A job that prints the names of modules that the tests import and that are not there.

        None where the run gave no cause to ask.
        """
        ...


@dataclass(frozen=True)
class Policy:
    """How strictly answers are compared, and how often programs are run.

    Attributes:
        text: stdout compared as "bytes", as "lines" (blanks at line ends and empty lines at the end do not count) or
            as "tokens" (split at blanks; numbers within ``tolerance``).
        tolerance: most difference of two floats, relative and absolute; 0 is exact. NaN equals NaN.
        sequences: "strict": a tuple is no list; "loose": it is.
        numbers: "strict": a bool is no int and an int no float; "loose": as Python's ``==`` has it.
        flaky: run passed programs again under another hash seed and clock.
        poison: run programs that passed a test file again with altered expectations.
        limits: of each run.
    """

    text: Literal["bytes", "lines", "tokens"] = "lines"
    tolerance: float = 0.0
    sequences: Literal["strict", "loose"] = "loose"
    numbers: Literal["strict", "loose"] = "loose"
    flaky: bool = True
    poison: bool = True
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class Grade:
    """A program's verdict with its evidence.

    Attributes:
        passed: None is undecided.
        reason: one line.
        level: "stdio", "call" or "tests".
        outcomes: the runs that decided; the last one is what a policy should see of a failure.
        share: of the cases, those that passed before the first failure; 1.0 when all did.
        flaky: passed once, and not under another hash seed and clock.
        forged: passed although the expectations had been altered.
        poisoned: how many expectations the poisoned rerun altered; None where there was none.
    """

    passed: bool | None
    reason: str
    level: Literal["stdio", "call", "tests"]
    outcomes: tuple[Outcome, ...] = ()
    share: float = 0.0
    flaky: bool = False
    forged: bool = False
    poisoned: int | None = None

    def verdict(self) -> Verdict:
        """As stages record it; the level and the isolation are in its detail."""
        detail: dict[str, Any] = {"level": self.level, "share": round(self.share, 6)}
        if self.outcomes:
            detail["isolation"] = self.outcomes[-1].level
        detail |= {name: True for name in ("flaky", "forged") if getattr(self, name)}
        if self.poisoned is not None:
            detail["poisoned"] = self.poisoned
        return Verdict(None if self.passed is None else float(self.passed), self.reason, detail)
