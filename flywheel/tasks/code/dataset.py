"""The problems of a dataset: read once, checked row by row, some of them held out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flywheel.errors import DataError, TaskError
from flywheel.sources import SourceRow, first_few, read_source
from flywheel.tasks.code.fields import known_language
from flywheel.tasks.code.formats import Read, read_row
from flywheel.tasks.code.options import Options
from flywheel.tasks.code.prompts import Prompts
from flywheel.types import Message, Problem


class Dataset:
    """The given problems of a code task.

    A hash of what is asked decides what is held out, unless held-out problems are given; then a training problem that
    asks the same as one of them is left out.

    Args:
        options: of the task.
        prompts: that ask the problems.
        base: the folder that relative paths start from.
    """

    def __init__(self, options: Options, prompts: Prompts, base: Path | None) -> None:
        self._options, self._prompts, self._base = options, prompts, base
        self._splits: dict[str, list[Problem]] | None = None

    def split(self, name: str) -> list[Problem]:
        """Problems of "train", "heldout" or "demonstrations" (those of "train" that have a gold program).

        Raises:
            DataError: a source cannot be read, or some rows are broken; names the first few.
        """
        if self._splits is None:
            self._splits = self._load()
        return self._splits[name]

    def problem(self, row: Mapping[str, Any]) -> Problem:
        """A row of a known format as a problem.

        Raises:
            ValueError: says what is wrong with the row.
        """
        row = self._renamed(row)
        read = read_row(row)
        if read.spec.level == "stdio":
            named = known_language(str(row.get("language") or ""))  # of some datasets it is English
            wanted = named or self._options.language
            read = read if read.spec.language == wanted else in_language(read, wanted)
        return make_problem(read, self._options, self._prompts)

    def _load(self) -> dict[str, list[Problem]]:
        options = self._options
        given = self._read(options.problems, options.split)
        if options.heldout is None:
            heldout = [p for p in given if is_held_out(p, options.held_out_one_in)]
        else:
            heldout = self._read(options.heldout, options.heldout_split)
        known = {content_key(problem) for problem in heldout}
        train = [p for p in given if content_key(p) not in known]
        return {"train": train, "heldout": heldout, "demonstrations": [p for p in train if p.gold is not None]}

    def _read(self, sources: str | list[str] | None, split: str | None) -> list[Problem]:
        named = [sources] if isinstance(sources, str) else sources or []
        problems: dict[str, Problem] = {}
        broken: list[str] = []
        for row in (row for source in named for row in read_source(source, split=split, base=self._base)):
            try:
                problem = self._problem_of(row)
            except ValueError as error:
                broken.append(f"{row.where}: {error}")
                continue
            if problems.setdefault(problem.id, problem) != problem:
                # Two datasets may both count their problems from 0.
                other = Problem(f"{problem.id}-{content_key(problem)}", *_rest(problem))
                problems[other.id] = other
        if broken and not self._options.skip_broken:
            raise DataError(
                f"{len(broken)} of {len(broken) + len(problems)} problem rows are broken:\n"
                + "\n".join(first_few(broken)),
                hint="mend them, or leave them out: task.args.skip_broken: true",
            )
        if named and not problems:
            raise DataError(f"{', '.join(named)}: there are no problems" + (f"; {broken[0]}" if broken else ""))
        return list(problems.values())

    def _problem_of(self, row: SourceRow) -> Problem:
        if row.fault is not None:
            raise ValueError(row.fault)
        return self.problem(row.values)

    def _renamed(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        fields = self._options.fields
        if missing := [theirs for theirs in fields.values() if theirs not in row]:
            raise ValueError(f"no field {', '.join(missing)}, which task.args.fields names")
        return {**row, **{ours: row[theirs] for ours, theirs in fields.items()}}


def in_language(read: Read, language: str) -> Read:
    """A problem of standard input and output, asked and run in a language.

    The solution that it brings is one in the language that it was read in.
    """
    return replace(read, spec=replace(read.spec, language=language), gold=None)


def make_problem(read: Read, options: Options, prompts: Prompts) -> Problem:
    """A row that was understood, as the policy is asked it."""
    spec = read.spec
    data = {"format": read.format, "task_id": read.name, "question": read.question, "spec": spec.to_data()}
    gold = read.gold
    if gold is not None and options.style == "chat":
        gold = f"```{spec.language}\n{gold.rstrip()}\n```"
    elif gold is not None and spec.prefix and gold.startswith(spec.prefix):
        gold = gold[len(spec.prefix) :]
    return Problem(read.id, ask(read, options, prompts), gold, data)


def ask(read: Read, options: Options, prompts: Prompts) -> list[Message]:
    """The conversation that asks for a program."""
    spec = read.spec
    if options.style == "raw":
        return [{"role": "user", "content": spec.prefix or read.question}]
    rules = prompts.text("rules", language=spec.language) if options.rules else ""
    common = {"language": spec.language, "rules": rules}
    if spec.level == "stdio":
        return prompts.ask("solve_stdio", question=read.question, **common)
    if spec.prefix and spec.prefix == read.question:
        return prompts.ask("complete", code=spec.prefix.rstrip("\n"), **common)
    shown = list(read.shown[: options.show_tests])
    return prompts.ask(
        "solve",
        question=read.question,
        starter=read.starter.rstrip("\n"),
        entry_point=spec.entry_point,
        tests=shown,
        **common,
    )


def content_key(problem: Problem) -> str:
    """12 hexadecimal digits that say what is asked, whatever its name, its tests and the spacing."""
    return hashlib.sha256(" ".join(problem.data["question"].split()).encode()).hexdigest()[:12]


def is_held_out(problem: Problem, one_in: int) -> bool:
    """Whether a hash of the content puts a problem on the held-out side."""
    return int(content_key(problem), 16) % one_in == 0


def require_problems(options: Options) -> None:
    """Refuse a task that has nothing to solve or nothing to evaluate.

    Raises:
        TaskError: neither problems nor snippets, or nothing to hold out.
    """
    if options.problems is None and options.propose is None:
        raise TaskError(
            "there are no problems",
            hint="name a file, folder or dataset in task.args.problems, or snippets in task.args.propose",
        )
    if options.problems is None and options.heldout is None:
        raise TaskError(
            "proposed problems have no held-out ones: their tests are the policy's own",
            hint="name problems to evaluate on in task.args.heldout",
        )


def _rest(problem: Problem) -> tuple[Any, ...]:
    return problem.prompt, problem.gold, problem.data
