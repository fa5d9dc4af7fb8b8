"""What a recipe may say about rollouts, under ``task.args.rollouts``; every part is off until it is named."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from flywheel.recipe import Number, Section

Rewriting = Literal["rephrase", "backward", "condition"]


class Code(Section):
    """Attempts that reason and run code in turn, in training and evaluation alike."""

    turns: int = Field(default=4, ge=1, description="Most blocks of code that are run in one attempt.")
    timeout: Number = Field(default=10.0, gt=0, description="Seconds that one block may run.")
    max_output: int = Field(default=2000, ge=1, description="Characters of output that the model gets to see.")
    sandbox: str | dict[str, Any] = Field(
        default="local", description="Where blocks run: an executor's name, or `{use: NAME, …its options}`."
    )


class Rationalize(Section):
    """STaR section 3.1: for a problem that no attempt solved, sample again with the answer as a hint."""

    samples: int = Field(default=4, ge=1, description="Hinted chains per unsolved problem.")


class Correct(Section):
    """Dialogues in which a wrong chain is answered by its correction."""

    chains: int = Field(default=1, ge=1, description="Distinct wrong chains per problem that are to be mended.")
    tries: int = Field(default=2, ge=1, description="Corrections sampled each time.")
    turns: int = Field(default=1, ge=1, description="How often a correction that is still wrong is sent back.")


class SelfVerify(Section):
    """The policy checks each right chain; how much it believes in it stays with the row."""

    votes: int = Field(default=3, ge=1, description="Checks per chain.")
    rubric: str = Field(default="math", description="A rubric's name, or the path of one's own.")


class Vote(Section):
    """Where a problem has no answer, the majority's counts as one (self-consistency)."""

    agreement: Number = Field(default=0.5, gt=0, le=1, description="Share of the attempts that must agree.")
    at_least: int = Field(default=3, ge=2, description="Attempts that must agree, whatever their share.")


class Rewrite(Section):
    """New questions from known ones, kept if the answers that the policy gives to them agree."""

    kinds: list[Rewriting] = Field(
        default=["rephrase", "backward", "condition"], min_length=1, description="Which rewritings are tried."
    )
    solutions: int = Field(default=4, ge=2, description="Attempts at each new question.")
    agreement: Number = Field(default=0.75, gt=0, le=1, description="Share of them that must agree.")
    share: Number = Field(default=1.0, gt=0, le=1, description="Share of the problems that are rewritten.")


class Steps(Section):
    """Math-Shepherd: a step is as good as the answers that follow when the policy goes on from it."""

    continuations: int = Field(default=4, ge=1, description="Continuations sampled from the end of each step.")
    chains: int | None = Field(
        default=None, ge=1, description="Distinct chains per problem that are scored; null is all."
    )
    max_steps: int = Field(default=12, ge=2, description="Most steps of a chain; neighbours are joined beyond it.")
    split: str = Field(default=r"\n+", description="Regular expression between two steps.")
    keep: int = Field(
        default=1, ge=0, description="Right and wrong continuations of a prefix that are kept, where there are both."
    )

    @field_validator("split")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            matches_nothing = re.compile(pattern).match("") is not None
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if matches_nothing:
            raise ValueError("must not match the empty text")
        return pattern


class Rollouts(Section):
    """How a problem is attempted, and what else is made of the attempts while the model is loaded."""

    code: Code | None = Field(default=None, description="Reasoning interleaved with code.")
    rationalize: Rationalize | None = Field(default=None, description="Hinted chains for unsolved problems.")
    correct: Correct | None = Field(default=None, description="Corrections of wrong chains.")
    vote: Vote | None = Field(default=None, description="Majority answers for problems without one.")
    rewrite: Rewrite | None = Field(default=None, description="New questions.")
    steps: Steps | None = Field(default=None, description="Scores of steps, and continuations for pairs of them.")
    self_verify: SelfVerify | None = Field(default=None, description="The policy's own opinion of right chains.")
    prompts: str | None = Field(default=None, description="A folder whose files replace the shipped prompts.")
    timeout: Number = Field(default=10.0, gt=0, description="Seconds per answer, where a rollout verifies.")


def read_options(given: Mapping[str, Any] | None) -> Rollouts:
    """The recipe's ``rollouts``; ``correct: {}`` takes the defaults, ``correct: null`` leaves it out.

    Raises:
        ValueError: naming every wrong key and value.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"rollouts must be a mapping, not {given!r}")
    try:
        return Rollouts.model_validate(given or {})
    except ValidationError as error:
        raise ValueError("\n".join(_explain(dict(e)) for e in error.errors())) from error


def _explain(error: dict[str, Any]) -> str:
    where = ".".join(map(str, ("rollouts", *error["loc"])))
    if error["type"] != "extra_forbidden":
        return f"{where}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"
    *above, key = error["loc"]
    section = _section(Rollouts.model_fields[above[0]].annotation) if above else Rollouts
    near = get_close_matches(str(key), section.model_fields, n=1, cutoff=0.5)
    known = ", ".join(section.model_fields)
    return f"{where}: unknown key; " + (f"did you mean {near[0]!r}?" if near else f"known: {known}")


def _section(annotation: Any) -> type[Section]:
    return next(part for part in annotation.__args__ if isinstance(part, type) and issubclass(part, Section))
