"""``flywheel show``: read samples with their verdicts; with ``--id``, one row's whole history."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from flywheel.cli.tables import find_run
from flywheel.errors import DataError
from flywheel.files import read_json, read_rows
from flywheel.rundir import RunDir
from flywheel.stages.history import History, PairRow, SampleHistory, Step, TrainingRow, graded_rows, texts, trace

Row = dict[str, Any]
T = TypeVar("T")
COLOURS = {"right": "green", "wrong": "red", "undecided": "yellow"}


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder, or its name under runs/.")],
    round: Annotated[int | None, typer.Option(help="Which round.  [default: the last with samples]")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only samples that are wrong or undecided.")] = False,
    dropped: Annotated[bool, typer.Option("--dropped", help="What curation dropped, by which filter, why.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Preference pairs: chosen against rejected.")] = False,
    id: Annotated[str | None, typer.Option(help="The whole history of a sample, row, pair or problem.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="Most entries; 0 shows all.")] = 20,
) -> None:
    """Read a round's samples with their verdicts and reasons, or one row's whole history."""
    if failed + dropped + pairs + (id is not None) > 1:
        raise typer.BadParameter("--failed, --dropped, --pairs and --id exclude each other")
    found = find_run(run)
    page = Page()
    if id is not None:
        page.history(trace(found, id))
        return
    number = _round(found, round)
    if dropped or pairs:
        _curated(page, found, number, limit, pairs)
    else:
        _samples(page, found, number, limit, failed)


# -- lists -----------------------------------------------------------------------------------------


def _round(run: RunDir, asked: int | None) -> int:
    """The round to read.

    Raises:
        DataError: it has no samples yet.
    """
    ready = {n: {stage.name for stage in run.committed(n)} & {"verdicts", "evaluate"} for n in run.rounds()}
    readable = [n for n, names in ready.items() if names]
    # Round 0 has no samples of its own but its evaluation's, which are better than none.
    trained = [n for n, names in ready.items() if "verdicts" in names] or readable
    if asked is None and trained:
        return trained[-1]
    if asked is not None and asked in readable:
        return asked
    what = "no finished samples yet" if asked is None else f"no finished samples in round {asked}"
    there = ", ".join(map(str, readable)) or "none"
    raise DataError(f"{run.path} has {what}", hint=f"rounds with samples: {there}; see flywheel status {run.path}")


def _samples(page: Page, run: RunDir, number: int, limit: int, failed: bool) -> None:
    name = "samples" if run.stage(number, "verdicts").committed else "evaluate"
    page.say(f"round {number}, {name}" + (": wrong or undecided" if failed else ""))
    rows = (row for row in graded_rows(run, number, [name]) if not (failed and row["passed"] is True))
    asked = _prompts(run, number, name)
    for row in page.upto(limit, rows):
        page.say()
        page.verdict(row["sample_id"], row, f"{row['kind']}, {row['tokens']} tokens, {_ended(row)}")
        page.messages(row["answers"] or asked.get(row["problem_id"], []))
        page.messages(row["messages"])


def _curated(page: Page, run: RunDir, number: int, limit: int, pairs: bool) -> None:
    stage = run.stage(number, "curated")
    if not stage.committed:
        raise DataError(f"round {number} of {run.path} is not curated", hint=f"flywheel status {run.path}")
    if pairs:
        page.say(f"round {number}, pairs")
        for row in page.upto(limit, read_rows(stage.path / "pairs.parquet")):
            page.say()
            page.say(row["pair_id"], style="bold")
            page.pair(row)
        return
    funnel = read_json(stage.path / "funnel.json")
    told = ", ".join(f"{entry['filter']} {entry['rows_in']} -> {entry['kept']}" for entry in funnel)
    page.say(f"round {number}, dropped by curation: {told}")
    rows = read_rows(stage.path / "dropped.parquet")
    shown = rows[: limit or None]
    named = texts(run, number, {row[key] for row in shown for key in ("sample_id", "removed_by") if row[key]})
    for row in page.upto(limit, rows):
        page.say()
        page.say(row["sample_id"], style="bold")
        told = f" {row['detail']}" if row.get("detail", "{}") != "{}" else ""
        page.say(f"  dropped by {row['filter']}: {row['reason']}{told}", style="yellow")
        page.block(named.get(row["sample_id"], ""), "text: ")
        if row["removed_by"]:
            page.block(named.get(row["removed_by"], ""), f"kept {row['removed_by']}: ")


def _prompts(run: RunDir, number: int, name: str) -> dict[str, list[Row]]:
    stage = run.stage(number, "problems" if name == "samples" else name)
    rows = read_rows(stage.path / "problems.parquet", ["problem_id", "prompt"])
    return {row["problem_id"]: row["prompt"] for row in rows}


def _ended(row: Row) -> str:
    return {"stop": "ended by itself", "length": "cut off at max_tokens"}.get(row["finish"]) or str(row["finish"])


def _word(passed: bool | None) -> str:
    return "undecided" if passed is None else "right" if passed else "wrong"


# -- the page --------------------------------------------------------------------------------------


class Page:
    """Where everything is printed: coloured on a terminal, plain in a pipe, never cut to a width."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def say(self, text: str = "", style: str = "") -> None:
        self._console.print(Text(_visible(text), style=style))

    def upto(self, limit: int, rows: Iterable[T]) -> Iterator[T]:
        """The first rows, and a line that says so if there are more, or none."""
        source = iter(rows)
        count = -1
        for count, row in enumerate(islice(source, limit or None)):  # noqa: B007 (the count is used below)
            yield row
        if count < 0:
            self.say("  none")
        elif next(source, None) is not None:
            self.say(f"\n… and more: --limit {10 * limit}, or --limit 0 for all")

    def block(self, text: str, label: str) -> None:
        """A text under its label; further lines are indented like the first."""
        self.say(f"  {label}" + text.replace("\n", "\n    "))

    def messages(self, messages: Iterable[Row]) -> None:
        for message in messages:
            self.block(message["content"], f"{message['role']}: ")

    def verdict(self, title: str, row: Row, note: str = "") -> None:
        word = _word(row["passed"])
        line = Text(_visible(title), style="bold")
        line.append("  " + _scored(row), style=COLOURS[word])
        line.append(f"  ({note})" if note else "", style="dim")
        self._console.print(line)

    def pair(self, row: Row) -> None:
        self.messages(row["prompt"])
        for side, colour in (("chosen", "green"), ("rejected", "red")):
            self.say(f"  {side}: {row[f'{side}_id']}", style=colour)
            for message in row[side]:
                self.block(message["content"], f"  {message['role']}: ")

    # -- one id ------------------------------------------------------------------------------------

    def history(self, history: History) -> None:
        """Everything about one id, from its problem to the rounds that trained on it."""
        self.say(f"{history.id}: a {history.kind}", style="bold")
        self._problem(history)
        for row in history.rows[:1]:
            self.say(f"row {row.row['row_id']}", style="bold")
            self.messages(row.row["completion"])
            if row.row["sample_id"] is None:
                self.say("  made from the problem's gold completion")
            self._trained(history.rows)
        for pair in history.pairs[:1]:
            self.say(f"pair {pair.row['pair_id']}", style="bold")
            self.pair(pair.row)
            self._paired(history.pairs, None)
        for sample in history.samples:
            self._sample(sample, with_rows=history.kind != "training row", with_pairs=history.kind != "pair")

    def _problem(self, history: History) -> None:
        problem = history.problem
        if problem is None:
            self.say("problem: its file is not in the run folder", style="bold")
            return
        self.say(f"problem {problem['problem_id']}, drawn for {', '.join(history.drawn)}", style="bold")
        self.messages(problem["prompt"])
        self.block(problem["gold"] if problem["gold"] is not None else "none", "gold: ")
        self.block(problem["data"], "data: ")

    def _sample(self, history: SampleHistory, with_rows: bool, with_pairs: bool) -> None:
        sample, settings = history.sample, history.settings
        self.verdict(f"sample {sample['sample_id']}", sample, history.stage)
        self.say(f"  policy: {history.policy or 'not recorded yet'} ({sample['policy']})")
        number, count = history.place
        seed = f"seed key {sample['seed_key']}, {sample['kind']} {number} of {count}"
        told = ", ".join(f"{name} {value}" for name, value in settings.items() if value not in ([], None))
        self.say(f"  sampling: {seed}, chunk {sample['chunk']}; {told}")
        if history.parents:
            self.say(f"  made from: {', '.join(history.parents)}")
        if sample["answers"]:
            self.say(f"  {sample['kind']}, an answer to:")
            self.messages(sample["answers"])
        self.messages(sample["messages"])
        if sample["data"] != "{}":
            self.block(sample["data"], f"{sample['kind']}, from its rollout: ")
        self.say(f"  ended: {_ended(sample)}, {sample['tokens']} tokens")
        detail = f" {sample['detail']}" if sample["detail"] not in ("", "{}") else ""
        self.say(f"  verdict: {_scored(sample)}{detail}", style=COLOURS[_word(sample["passed"])])
        self._steps(history.steps)
        if with_rows and history.stage.endswith("samples"):
            self._trained(history.rows)
        if with_pairs and history.stage.endswith("samples"):
            self._paired(history.pairs, sample["sample_id"])

    def _steps(self, steps: list[Step]) -> None:
        for step in steps:
            if step.reason is None:
                self.say(f"  filter {step.filter}: passed", style="green")
            else:
                by = f" (kept instead: {step.removed_by})" if step.removed_by else ""
                told = f" {step.detail}" if step.detail else ""
                self.say(f"  filter {step.filter}: dropped, {step.reason}{by}{told}", style="yellow")

    def _trained(self, rows: list[TrainingRow]) -> None:
        if not rows:
            self.say("  trained on: never")
        for row in rows:
            verb = "trained on by" if row.trained else "in the mix, not (yet) trained on, of"
            self.say(f"  {verb} {row.stage} as {row.row['row_id']} ({row.row['source']})")

    def _paired(self, pairs: list[PairRow], sample_id: str | None) -> None:
        for pair in pairs:
            role = "pair" if sample_id is None else "chosen" if pair.row["chosen_id"] == sample_id else "rejected"
            verb = "trained on by" if pair.trained else "made, not (yet) trained on, in"
            self.say(f"  {role}: {verb} round {pair.round} dpo as {pair.row['pair_id']}")


def _scored(row: Row) -> str:
    """Such as "wrong: no answer" or "undecided: timeout"; a score between 0 and 1 is told."""
    score = row["score"]
    partial = f" (score {score:g})" if score is not None and 0 < score < 1 else ""
    return _word(row["passed"]) + partial + (f": {row['reason']}" if row["reason"] else "")


def _visible(text: str) -> str:
    """Control characters as escapes: a policy must not be able to drive the terminal."""
    return text if text.isprintable() else "".join(c if _harmless(c) else ascii(c)[1:-1] for c in text)


def _harmless(character: str) -> bool:
    return character.isprintable() or character in "\n\t" or unicodedata.category(character) in ("Zs", "Co")
