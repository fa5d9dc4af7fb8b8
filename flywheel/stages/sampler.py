"""The sampling worker: one engine, claiming chunks until none is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flywheel.engines import Engine, EnginePolicy, make_engine
from flywheel.errors import NoAnswer
from flywheel.files import write_rows
from flywheel.stages.chunks import Job, claim
from flywheel.stages.schemas import SAMPLES
from flywheel.tasks import Task, close_task, load_task
from flywheel.types import Completion, Problem, Sampling
from flywheel.workers import Report


def work(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Sample all chunks that can be claimed.

    Payload: ``engine`` (an ``EngineSpec``), ``task``, ``jobs`` (each with ``sampling``), ``session``,
    ``policy``, ``round``, ``seed``.

    Returns:
        Counts: ``chunks``, ``completions``, ``tokens``, and of a paid engine its ``Usage``.
    """
    with report.span("load"):
        task = load_task(payload["task"]["use"], payload["task"]["args"], Path(payload["task"]["base"]))
        engine = make_engine(payload["engine"])
    try:
        with report.span("sample"):
            counts = asyncio.run(_sample_all(task, engine, payload, report))
    finally:
        with report.span("unload"):
            engine.close()
            close_task(task)
    return counts


@dataclass(frozen=True)
class _Part:
    """A chunk that this worker may claim, and how it is sampled."""

    job: Job
    sampling: Sampling
    name: str
    index: int
    problems: list[Problem]


async def _sample_all(task: Task, engine: Engine, payload: dict[str, Any], report: Report) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    queue = _parts(payload)

    async def lane() -> None:
        for part in queue:  # shared: each part goes to one lane
            await _sample_part(part, task, engine, payload, report, counts)

    await asyncio.gather(*(lane() for _ in range(_lanes(engine, payload))))
    used = getattr(engine, "usage", None)  # of engines that are paid for
    return {key: counts[key] for key in ("chunks", "completions", "tokens")} | (asdict(used) if used else {})


def _lanes(engine: Engine, payload: dict[str, Any]) -> int:
    """Chunks in flight: enough to fill a continuous engine's batch while one of them runs out."""
    if not engine.continuous:
        return 1
    wide: int = max(entry["job"]["chunk"] * entry["sampling"]["n"] for entry in payload["jobs"])
    return 2 + int(payload["engine"].batch_size) // wide


def _parts(payload: dict[str, Any]) -> Iterator[_Part]:
    """Parts that nobody has made, each claimed for this worker."""
    for entry in payload["jobs"]:
        job = Job.from_payload(entry["job"])
        sampling = Sampling(**{**entry["sampling"], "stop": tuple(entry["sampling"]["stop"])})
        for index, (name, problems) in enumerate(zip(job.parts(), job.load(), strict=True)):
            if not (job.samples / name).exists() and claim(job.samples, payload["session"], name):
                yield _Part(job, sampling, name, index, problems)


async def _sample_part(
    part: _Part, task: Task, engine: Engine, payload: dict[str, Any], report: Report, counts: Counter[str]
) -> None:
    """Roll out a chunk's problems concurrently, and write their samples."""
    # A seed belongs to a problem of a round: whoever samples the chunk, the completions are the same.
    mode, number = part.job.mode, payload["round"]
    keys = [f"{payload['seed']}:{number}:{mode}:{problem.id}" for problem in part.problems]
    answers = await asyncio.gather(
        *(_attempt(task, engine, part, p, key) for p, key in zip(part.problems, keys, strict=True))
    )
    rows = [
        {
            "sample_id": f"{part.job.prefix}-{problem.id}-{i}",
            "problem_id": problem.id,
            "round": number,
            "policy": payload["policy"],
            "mode": mode,
            "chunk": part.index,
            "index": i,
            "seed_key": key,
            **completion.to_row(),
        }
        for problem, key, completions in zip(part.problems, keys, answers, strict=True)
        for i, completion in enumerate(completions)
    ]
    write_rows(part.job.samples / part.name, rows, SAMPLES)
    tokens = sum(row["tokens"] for row in rows)
    counts.update(chunks=1, completions=len(rows), tokens=tokens)
    report("sampled", problems=len(part.problems), tokens=tokens)


async def _attempt(task: Task, engine: Engine, part: _Part, problem: Problem, key: str) -> list[Completion]:
    """A rollout; where the engine had no answer, completions that say so."""
    try:
        return await task.rollout(problem, EnginePolicy(engine, part.sampling, key, part.job.evaluating))
    except NoAnswer as error:
        return [Completion.missing(error.message)] * part.sampling.n
