"""How the programs of one problem are tested: plain data that travels with the problem."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from flywheel.sandbox.grading import CallCase, CallChecks, Checks, Program, StdioCase, StdioChecks, TestChecks

LEVELS = ("stdio", "call", "tests")
"""Strongest first: in "stdio" and "call" the expected values never enter the sandbox."""


@dataclass(frozen=True)
class Case:
    """One input and what must come out.

    Attributes:
        input: standard input ("stdio"), or the list of arguments ("call").
        output: standard output, or the value returned.
    """

    input: Any
    output: Any


@dataclass(frozen=True)
class Spec:
    """The tests of a problem.

    Attributes:
        level: "stdio" (cases of text), "call" (cases of arguments and values) or "tests" (code that runs after the
            program, in its process).
        language: by the sandbox's name.
        entry_point: the function that is called, or ``Class.method``; None for whole programs.
        prefix: code that a bare continuation continues, and whose imports and helpers a whole program may use.
        setup: code that runs before the program.
        cases: with "stdio" and "call".
        tests: with "tests".
        stop: strings that end a continuation.
        sequences: "loose" where the expected values come from JSON, which has no tuples.
    """

    level: str
    language: str = "python"
    entry_point: str | None = None
    prefix: str = ""
    setup: str = ""
    cases: Sequence[Case] = ()
    tests: str = ""
    stop: Sequence[str] = ()
    sequences: str = "strict"

    @property
    def function(self) -> str | None:
        """The bare name of what is called."""
        return self.entry_point.rpartition(".")[2] if self.entry_point else None

    def to_data(self) -> dict[str, Any]:
        """Survives JSON: the values of "call" cases are kept as Python literals."""
        write = repr if self.level == "call" else str
        plain = [field for field in fields(self) if field.name not in ("cases", "stop")]
        changed = {
            field.name: getattr(self, field.name)
            for field in plain
            if field.name == "level" or getattr(self, field.name) != field.default
        }
        if self.cases:
            changed["cases"] = [{key: write(value) for key, value in asdict(case).items()} for case in self.cases]
        if self.stop:
            changed["stop"] = list(self.stop)
        return changed

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Spec:
        read = literal_eval if data["level"] == "call" else str
        cases = [Case(read(case["input"]), read(case["output"])) for case in data.get("cases", [])]
        return cls(**{**data, "cases": cases})

    def program(self, source: str) -> Program:
        """A source as the sandbox takes it."""
        # `from __future__` must come first; whoever writes it imports what is needed as well.
        first = self.setup if self.level != "tests" and "from __future__" not in source else ""
        return Program(first + source, self.language)

    def checks(self, source: str) -> Checks:
        """The tests as the sandbox takes them, for a program that may have a method's function without its class."""
        if self.level == "stdio":
            return StdioChecks([StdioCase(case.input.encode(), case.output.encode()) for case in self.cases])
        if self.level == "tests":
            return TestChecks(self.tests, self.entry_point, self.setup)
        assert self.entry_point is not None
        owner, _, function = self.entry_point.rpartition(".")
        bare = bool(owner) and re.search(rf"^class\s+{re.escape(owner)}\b", source, re.MULTILINE) is None
        calls = [CallCase(tuple(case.input), case.output) for case in self.cases]
        return CallChecks(function if bare else self.entry_point, calls)

    def as_asserts(self) -> list[str]:
        """The tests as assertions in Python, to be read; what is one test file comes as its lines."""
        if self.level != "call":
            return self.tests.splitlines()
        calls = (f"{self.entry_point}({', '.join(map(repr, case.input))})" for case in self.cases)
        return [f"assert {call} == {case.output!r}" for call, case in zip(calls, self.cases, strict=True)]


class Specs:
    """The tests of many completions; what several have in common is read once.

    Public sets have problems with megabytes of tests, and a problem has many completions.
    """

    def __init__(self) -> None:
        # By identity: whoever asks holds the data for as long as the answers are used.
        self._read: dict[int, Spec] = {}

    def of(self, data: Mapping[str, Any]) -> Spec:
        """The ``Spec`` that plain data stand for."""
        if id(data) not in self._read:
            self._read[id(data)] = Spec.from_data(data)
        return self._read[id(data)]
