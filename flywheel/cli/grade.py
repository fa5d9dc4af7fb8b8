"""``flywheel grade``: score given completions with a task's verifier, offline."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

from flywheel.cli.options import Args, task_args
from flywheel.errors import DataError
from flywheel.files import write_atomic
from flywheel.sources import SUFFIXES, SourceRow, read_source
from flywheel.stages.verifier import judge_all
from flywheel.tasks import Task, close_task, load_task, open_task
from flywheel.types import Completion, Message, Problem, Verdict

SHOWN = 5
"""Wrong lines that an error names; the rest are counted."""
RESERVED = ("id", "problem_id", "prompt", "gold", "data", "completion")
"""Keys of a row that are not the problem's data."""
NAMES = ("problem_id", "task_id", "id")
"""Keys that may name the problem, and """
ANSWERS = ("completion", "solution")
"""keys that may hold the answer; the first that is there counts."""

Row = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One row of the input: a completion and the problem it answers."""

    row: Row
    problem: Problem
    completion: Completion


def command(
    file: Annotated[
        Path,
        typer.Argument(metavar="IN.jsonl", help="A `completion` (or `solution`) per row; JSONL, .jsonl.gz or Parquet."),
    ],
    task: Annotated[str, typer.Option(help="A built-in task's name, or ./file.py:Class.")],
    arg: Args = None,
    problems: Annotated[
        Path | None,
        typer.Option(help="Problems that rows name: a run folder's Parquet, or a dataset that the task can read."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write each row with its score, passed, reason and detail, as JSONL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="Seconds per completion; past it: undecided, or wrong where running it is the test. "
            "By default the task's own limit, or 10.",
        ),
    ] = None,
) -> None:
    """Score completions with a task's verifier.

    A row is self-contained, {"prompt": "...", "gold": "...", "data": {...}, "completion": "..."} (without
    "data", its other keys are the data, as in {"numbers": [3, 5], "target": 8, "completion": "3+5"}), or names
    a problem of --problems: {"problem_id": "...", "completion": "..."} (or `task_id`, as in HumanEval's samples).
    """
    grader = load_task(task, task_args(arg))
    if out is not None and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise DataError(f"--out {out} cannot be written: its folder is missing, or it is a folder itself")
    asks = read_asks(file, read_problems(problems, grader) if problems is not None else None, grader)
    started = time.perf_counter()
    try:
        open_task(grader)
        verdicts = grade(grader, asks, timeout)
    finally:
        close_task(grader)
    facts = summary(verdicts, time.perf_counter() - started)
    if out is not None:
        write_atomic(out, _graded_lines(asks, verdicts).encode())
    if as_json:
        print(json.dumps(facts))
    else:
        _show(facts, verdicts, out)


def grade(task: Task, asks: list[Ask], timeout: float | None) -> list[Verdict]:
    """A verdict per row, in their order; what a broken verifier prints is shown once, not per row."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        judged = judge_all(task, [(ask.problem, ask.completion) for ask in asks], timeout)
    if traceback := said.getvalue():
        first, _, more = traceback.partition("\nTraceback ")
        sys.stderr.write(first.rstrip() + "\n" + ("(and more like it)\n" if more else ""))
    return [verdict for verdict, _ in judged]


def summary(verdicts: list[Verdict], seconds: float) -> dict[str, Any]:
    """The JSON of ``grade --json`` (a contract)."""
    passed = Counter(verdict.passed for verdict in verdicts)
    return {
        "n": len(verdicts),
        "passed": passed[True],
        "failed": passed[False],
        "undecided": passed[None],
        "seconds": round(seconds, 6),
        "per_second": round(len(verdicts) / seconds, 3) if seconds > 0 else 0.0,
    }


def read_asks(file: Path, problems: Mapping[str, Problem] | None, task: Task | None = None) -> list[Ask]:
    """The rows of IN.jsonl.

    Args:
        file: JSONL (empty lines are skipped), also compressed, or Parquet.
        problems: by id, if the rows name them; None if each row carries its own.
        task: reads a row's own problem, if it has ``read_problem``.

    Raises:
        DataError: the file is missing, or some rows are wrong; names the first few, with their numbers.
    """

    def ask(number: int, row: Row) -> Ask:
        return Ask(row, _problem_of(row, number, problems, task), _completion_of(row))

    return _each_row(file, ask)


def read_problems(file: Path, task: Task | None = None) -> dict[str, Problem]:
    """Problems by id: a run folder's (Parquet, or JSONL with the same keys), or rows that the task can read.

    Raises:
        DataError: missing or malformed.
    """
    found = _each_row(file, lambda number, row: _own_problem(number, row, task))
    named = {str(problem.data["task_id"]): problem for problem in found if problem.data.get("task_id") is not None}
    return named | {problem.id: problem for problem in found}


def _each_row(file: Path, read: Callable[[int, Row], T]) -> list[T]:
    """Every row read; wrong ones are collected, so that one message names them all."""
    done: list[T] = []
    wrong: list[str] = []
    what = "row" if file.is_dir() or file.suffix == ".parquet" else "line"
    for row in _rows(file):
        try:
            if row.fault is not None:
                raise ValueError(row.fault)
            done.append(read(row.number, dict(row.values)))
        except ValueError as error:
            wrong.append(f"{row.place}, {what} {row.number}: {error}")
    if wrong:
        more = [f"… and {len(wrong) - SHOWN} more like it"] if len(wrong) > SHOWN else []
        raise DataError("\n".join(wrong[:SHOWN] + more), hint="the rows are described in: flywheel grade --help")
    return done


def _rows(file: Path) -> Iterator[SourceRow]:
    if file.is_dir() or file.name.endswith(SUFFIXES):
        if not file.exists():
            raise DataError(f"{file} cannot be read: no such file")
        yield from read_source(str(file))
        return
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    for number, line in enumerate(lines, start=1):  # whatever it is called, such as /dev/stdin
        if line.strip():
            yield _line(str(file), number, line)


def _line(place: str, number: int, line: bytes) -> SourceRow:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return SourceRow(place, number, {}, "not UTF-8")
    except ValueError as error:
        return SourceRow(place, number, {}, f"not JSON: {error}")
    if not isinstance(row, dict):
        return SourceRow(place, number, {}, f"not a JSON object but {type(row).__name__}")
    return SourceRow(place, number, row)


def _problem_of(row: Row, number: int, problems: Mapping[str, Problem] | None, task: Task | None) -> Problem:
    if problems is None:
        return _own_problem(number, row, task)
    name = next((row[key] for key in NAMES if row.get(key) is not None), None)
    if name is None:
        raise ValueError("no `problem_id`")
    if str(name) not in problems:
        raise ValueError(f"no problem {name!r} in --problems")
    return problems[str(name)]


def _own_problem(number: int, row: Row, task: Task | None = None) -> Problem:
    """The problem that a row carries; without `data`, whatever else it has is the data.

    A task's own reading comes first, but for rows that are problems of ours already.
    """
    read = getattr(task, "read_problem", None)
    if read is not None and "data" not in row:
        given: Problem = read(row, number)
        return given
    name = row.get("problem_id", row.get("id", f"line-{number}"))
    prompt, gold = row.get("prompt", []), row.get("gold")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if gold is not None and not isinstance(gold, str):
        raise ValueError(f"`gold` must be text, not {type(gold).__name__}")
    data = row["data"] if "data" in row else {key: row[key] for key in row if key not in RESERVED}
    if isinstance(data, str):  # as the run folder's Parquet has it
        data = json.loads(data)
    if not isinstance(data, dict):
        raise ValueError(f"`data` must be an object, not {type(data).__name__}")
    return Problem(str(name), _messages("prompt", prompt), gold, data)


def _completion_of(row: Row) -> Completion:
    given = next((row[key] for key in ANSWERS if row.get(key) is not None), None)
    if given is None:
        raise ValueError("no `completion`")
    if isinstance(given, str):
        return Completion.of(given)
    messages = _messages("completion", given)
    if not messages:
        raise ValueError("`completion` is empty: it needs a message")
    return Completion(messages)


def _messages(key: str, value: Any) -> list[Message]:
    """Chat messages, checked."""
    listed: list[Any] = value if isinstance(value, list) else [None]
    if not all(isinstance(m, dict) and isinstance(m.get("content"), str) and "role" in m for m in listed):
        raise ValueError(f"`{key}` must be text, or a list of {{role, content}} messages")
    return listed


def _graded_lines(asks: list[Ask], verdicts: list[Verdict]) -> str:
    rows = (
        {
            **ask.row,
            "score": verdict.score,
            "passed": verdict.passed,
            "reason": verdict.reason,
            "detail": dict(verdict.detail),
        }
        for ask, verdict in zip(asks, verdicts, strict=True)
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _show(facts: dict[str, Any], verdicts: list[Verdict], out: Path | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for key in ("passed", "failed", "undecided"):
        share = f"{facts[key] / facts['n']:7.1%}" if facts["n"] else ""
        console.print(f"{key:<10}{facts[key]:>9,} {share}", markup=False)
        wanted = {"passed": True, "failed": False, "undecided": None}[key]
        reasons = Counter(v.reason for v in verdicts if v.passed is wanted and v.reason)
        for reason, count in reasons.most_common(10):
            console.print(f"  {count:>17,} {reason}", markup=False)
    told = f"{facts['n']:,} completions in {facts['seconds']:.2f} s ({facts['per_second']:,.0f} per second)"
    console.print(told + (f"; each with its verdict in {out}" if out else ""), markup=False)
