"""What a recipe can say under ``task.args`` of the code task; every capability is a knob, and off by default."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from flywheel.errors import UserError
from flywheel.recipe import Number, Section
from flywheel.sandbox.languages import language

KINDS = ("answer", "revision", "translation", "explanation", "documentation", "debugging", "proposal", "tests")
"""Kinds of completions that can be trained on; "recreation" and what else a rollout notes is lineage only."""
WAYS = ("explain", "document", "debug")


class Proposals(Section):
    """New problems, proposed by the policy from random snippets of code (Llama 3 §4.3.1)."""

    snippets: str = Field(description="Code to draw snippets from: a folder, a file, or a dataset.")
    field: str | None = Field(default=None, description="The dataset's field that holds code; null finds it.")
    topics: str | None = Field(default=None, description="A file with a topic per line; null is the shipped list.")
    share: Number = Field(default=0.5, gt=0, le=1, description="Share of the train split that proposes a problem.")
    min_lines: int = Field(default=3, ge=1, description="Shortest snippet.")
    max_lines: int = Field(default=15, ge=1, description="Longest snippet.")
    tries: int = Field(default=2, ge=1, description="Proposals per snippet until one is valid.")
    min_words: int = Field(default=20, ge=1, description="Words that a problem has at least.")
    max_words: int = Field(default=400, ge=1, description="Words that a problem has at most.")
    similarity: Number = Field(
        default=0.6, gt=0, le=1, description="Refuse a problem whose word 3-grams overlap this much with a known one."
    )


class UnitTests(Section):
    """Tests that the policy writes, and what must be true of them before they count."""

    count: int = Field(default=8, ge=1, description="Tests asked for.")
    min_kept: int = Field(default=3, ge=1, description="Tests that must be left after validation.")
    agreement: int = Field(
        default=2,
        ge=1,
        description="Solutions that must pass all kept tests; they differ in more than comments.",
    )
    line_coverage: Number = Field(default=0.9, ge=0, le=1, description="Lines of a solution that they must reach.")
    branch_coverage: Number = Field(default=0.75, ge=0, le=1, description="Branches that they must take.")
    tries: int = Field(default=2, ge=1, description="Times to ask; after the first with what is not covered yet.")


class Revise(Section):
    """Failed programs are shown what went wrong, and revised."""

    turns: int = Field(default=2, ge=1, description="Revisions of one program at most.")
    per_problem: int = Field(default=2, ge=1, description="Failed programs per problem that are revised.")
    lint: bool = Field(default=True, description="Also show the linter's remarks, beside those of parser and run.")
    shown: int = Field(default=2000, ge=100, description="Characters of each output stream that are shown.")
    learn: Literal["dialogue", "correction"] = Field(
        default="correction",
        description="What a kept dialogue teaches: the last answer, as one to all before it, or mistakes as well.",
    )


class Translate(Section):
    """Verified Python programs, translated."""

    languages: list[str] = Field(min_length=1, description="Languages to translate to.")
    per_problem: int = Field(default=1, ge=1, description="Languages per problem, drawn from the list.")
    turns: int = Field(default=1, ge=0, description="Revisions of a translation that fails.")

    @field_validator("languages")
    @classmethod
    def _known(cls, given: list[str]) -> list[str]:
        named = [_language(name) for name in given]
        if "python" in named:
            raise ValueError("python is what is translated from; name other languages")
        if "sql" in named:
            raise ValueError("sql has no functions and reads no input, so nothing can be translated to it")
        return named


class Backtranslate(Section):
    """Verified programs explained, documented or debugged, and written again from that."""

    ways: list[Literal["explain", "document", "debug"]] = Field(
        default=["explain", "document", "debug"], min_length=1, description="What is asked about a program."
    )
    per_problem: int = Field(default=1, ge=1, description="Ways per problem, drawn from the list.")
    rubric: str = Field(default="fidelity", description="The judge's rubric for original against recreated code.")
    votes: int = Field(default=1, ge=1, description="Votes of the judge.")


class Judged(Section):
    """The policy judges what passed the tests; what misses the rubric's mark is not trained on."""

    rubric: str = Field(default="code_correctness_style", description="A shipped rubric's name, or a file.")
    votes: int = Field(default=1, ge=1, description="Votes that are averaged.")
    revise: bool = Field(default=True, description="Revise what misses the mark, if `revise` is on, for as many turns.")


class Sandbox(Section):
    """Where programs run."""

    executor: Literal["local", "container", "remote"] = Field(default="local", description="What runs programs.")
    seconds: Number = Field(default=10.0, gt=0, description="CPU seconds of a run; by the clock twice that and 5 more.")
    memory_mb: int = Field(default=1024, ge=16, description="Memory of one program.")
    extra: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the executor.")


class Options(Section):
    """All of them."""

    problems: str | list[str] | None = Field(default=None, description="Problems: files, folders or datasets.")
    heldout: str | list[str] | None = Field(
        default=None, description="Held-out problems; null holds out one in `held_out_one_in` of `problems` by a hash."
    )
    split: str | None = Field(default=None, description="Split of `problems` where they are a folder or dataset.")
    heldout_split: str | None = Field(default=None, description="Split of `heldout`.")
    held_out_one_in: int = Field(default=8, ge=2, description="Share that is held out by a hash of the content.")
    fields: dict[str, str] = Field(default_factory=dict, description="A known field's name: the dataset's name of it.")
    skip_broken: bool = Field(default=False, description="Leave broken rows out instead of refusing the dataset.")
    language: str = Field(
        default="python", description="Language of programs that read standard input, where a row names none."
    )
    compare: Literal["lines", "tokens", "bytes"] = Field(
        default="lines", description="How standard output is compared: all but blanks at line ends, words, bytes."
    )
    tolerance: Number = Field(default=0.0, ge=0, description="Difference of two floats that is none.")
    style: Literal["chat", "raw"] = Field(
        default="chat", description="`raw` asks with the bare beginning of the program, for base models."
    )
    rules: bool = Field(default=True, description="Put the general rules of good programming into the prompt.")
    show_tests: int = Field(default=1, ge=0, description="Tests of a list of assertions that the prompt shows.")
    prompts: str | None = Field(default=None, description="A folder whose files replace shipped prompts.")
    poisoned: bool = Field(default=True, description="Run what passed a test file again with altered expectations.")
    flaky: bool = Field(default=True, description="Run what passed again under another hash seed and clock.")
    sandbox: Sandbox = Field(default_factory=Sandbox, description="Where programs run.")
    propose: Proposals | None = Field(default=None, description="Propose problems from snippets.")
    unit_tests: UnitTests = Field(default_factory=UnitTests, description="Tests for proposed problems.")
    revise: Revise | None = Field(default=None, description="Execution feedback.")
    translate: Translate | None = Field(default=None, description="Translation.")
    backtranslate: Backtranslate | None = Field(default=None, description="Backtranslation.")
    judge: Judged | None = Field(default=None, description="Correctness and style.")
    train_on: list[str] = Field(
        default=["answer", "revision", "translation", "explanation", "documentation", "debugging"],
        description=f"Kinds that can become training rows: {', '.join(KINDS)}; the rest is kept for its lineage.",
    )
    seed: int = Field(default=0, description="Draws other snippets and topics.")

    @field_validator("language")
    @classmethod
    def _known(cls, given: str) -> str:
        return _language(given)

    @model_validator(mode="after")
    def _python_where_it_must_be(self) -> Options:
        if self.language == "sql":
            raise ValueError("language: sql programs do not read standard input")
        if self.language != "python" and self.propose is not None:
            raise ValueError(
                f"language is {self.language}, but what `propose` makes is solved and tested in Python; leave one of "
                "them out"
            )
        return self

    @field_validator("train_on")
    @classmethod
    def _kinds(cls, given: list[str]) -> list[str]:
        if unknown := [kind for kind in given if kind not in KINDS]:
            raise ValueError(f"no kind is called {', '.join(unknown)}; known: {', '.join(KINDS)}")
        return given


def _language(name: str) -> str:
    try:
        return language(name).name
    except UserError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error
