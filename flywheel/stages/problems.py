"""Draw this round's problems: the next stretch of the task's train split."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
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
PATIENCE = 20
"""Draws per wanted problem after which a stretch makes do with what it has."""


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
        drawn = stretch(lambda: task.problems(split), payload["start"], payload["count"], repeats=split == "train")
        if not drawn:
            raise TaskError(f"task {payload['task']['use']} yields no problems for split {split!r}")
        if payload.get("needs_gold") and (bare := next((p for p in drawn if p.gold is None), None)):
            raise TaskError(f"task {payload['task']['use']}: {split} problem {bare.id} has no gold completion")
        write_rows(Path(payload["file"]), [problem.to_row() for problem in drawn], PROBLEMS)
    return len(drawn)


def stretch(source: Callable[[], Iterable[Problem]], start: int, count: int, *, repeats: bool) -> list[Problem]:
    """The next ``count`` distinct problems from position ``start`` on.

    A split may draw the same problem again, as the task's distribution has it; within a stretch the first
    stands for all. A split that ends starts over. Fewer come back if there are no more to be found.

    Args:
        source: the split, from its beginning each time.
        start: position in the split, repetitions counted.
        count: how many are wanted.
        repeats: whether a problem may come again, perhaps in other words.

    Raises:
        TaskError: two different problems behind one id, which would be counted as one.
    """
    problems = iter(source())
    passed = sum(1 for _ in islice(problems, start))
    if 0 < passed < start:
        problems = islice(source(), start % passed, None)
    found: dict[str, Problem] = {}
    for problem in islice(chain(problems, _again(source)), count * PATIENCE):
        if found.setdefault(problem.id, problem) != problem and not repeats:
            raise TaskError(f"two problems have the id {problem.id!r}", hint="derive ids from the problem's content")
        if len(found) == count:
            break
    return list(found.values())


def _again(source: Callable[[], Iterable[Problem]]) -> Iterator[Problem]:
    yield from source()  # opened only when the first pass is used up
