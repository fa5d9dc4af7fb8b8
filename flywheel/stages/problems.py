"""Draw this round's problems: the next stretch of the task's train split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from flywheel.errors import TaskError
from flywheel.files import write_rows
from flywheel.stagedir import StageDir
from flywheel.stages.context import Context
from flywheel.stages.schemas import PROBLEMS
from flywheel.tasks import load_task
from flywheel.types import Problem
from flywheel.workers import Report

KEYS = ("task",)
FILE = "problems.parquet"


def draw_problems(ctx: Context, number: int) -> StageDir:
    """The ``problems`` stage of a round."""
    count = ctx.recipe.sample.problems
    inputs = ctx.inputs(KEYS, {"count": str(count)})
    stage = ctx.run.stage(number, "problems")

    def build(work: Path) -> dict[str, Any]:
        start = (number - 1) * count
        payload = {"task": ctx.task_payload(), "split": "train", "start": start, "count": count}
        drawn = ctx.run_worker(stage, "flywheel.stages.problems:work", {**payload, "file": str(work / FILE)})
        return {"problems": drawn}

    return ctx.lead(stage, inputs, build)


def work(payload: dict[str, Any], report: Report) -> int:
    """Worker: write problems ``start … start + count`` of a split; returns how many there were."""
    with report.span("draw"):
        task = load_task(payload["task"]["use"], payload["task"]["args"], Path(payload["task"]["base"]))
        split = payload["split"]
        drawn = list(stretch(task.problems(split), payload["start"], payload["count"]))
        if not drawn:
            raise TaskError(f"task {payload['task']['use']} yields no problems for split {split!r}")
        _refuse_twins(drawn, split)
        if payload.get("needs_gold") and (bare := next((p for p in drawn if p.gold is None), None)):
            raise TaskError(f"task {payload['task']['use']}: {split} problem {bare.id} has no gold completion")
        write_rows(Path(payload["file"]), [problem.to_row() for problem in drawn], PROBLEMS)
    return len(drawn)


def stretch(problems: Iterable[Problem], start: int, count: int) -> Iterator[Problem]:
    """Items ``start … start + count``; a finite split starts over, but repeats nothing within a stretch."""
    passed: list[Problem] = []
    source = iter(problems)
    for problem in islice(source, start):
        passed.append(problem)
    if len(passed) == start:  # the split reaches that far
        reached = list(islice(source, count))
        yield from reached
        if len(reached) == count:
            return
        everything = passed + reached
        yield from everything[: min(count - len(reached), len(passed))]
    elif passed:
        first = start % len(passed)
        turned = passed[first:] + passed[:first]
        yield from turned[:count]


def _refuse_twins(problems: list[Problem], split: str) -> None:
    seen: set[str] = set()
    for problem in problems:
        if problem.id in seen:
            raise TaskError(
                f"two problems of split {split!r} have the id {problem.id!r}",
                hint="derive ids from the problem's content, and yield each problem once",
            )
        seen.add(problem.id)
