"""The sampling worker: one engine, claiming chunks until none is left."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flywheel.engines import Engine, EnginePolicy, make_engine
from flywheel.files import write_rows
from flywheel.stages.chunks import Job, claim
from flywheel.stages.schemas import SAMPLES
from flywheel.tasks import Task, load_task
from flywheel.types import Completion, Problem, Sampling
from flywheel.workers import Report


def work(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Sample all chunks that can be claimed.

    Payload: ``engine`` (arguments of ``make_engine``), ``task``, ``jobs`` (each with ``sampling``),
    ``session``, ``policy``, ``round``, ``seed``.

    Returns:
        Counts: ``chunks``, ``completions``, ``tokens``.
    """
    with report.span("load"):
        task = load_task(payload["task"]["use"], payload["task"]["args"], Path(payload["task"]["base"]))
        engine = make_engine(**payload["engine"])
    counts = {"chunks": 0, "completions": 0, "tokens": 0}
    try:
        with report.span("sample"):
            for entry in payload["jobs"]:
                job = Job.from_payload(entry["job"])
                sampling = Sampling(**{**entry["sampling"], "stop": tuple(entry["sampling"]["stop"])})
                _run_job(job, sampling, task, engine, payload, report, counts)
    finally:
        engine.close()
    return counts


def _run_job(
    job: Job,
    sampling: Sampling,
    task: Task,
    engine: Engine,
    payload: dict[str, Any],
    report: Report,
    counts: dict[str, Any],
) -> None:
    for index, (part, problems) in enumerate(zip(job.parts(), job.load(), strict=True)):
        if (job.samples / part).exists() or not claim(job.samples, payload["session"], part):
            continue
        # A seed belongs to a problem of a round: whoever samples the chunk, the completions are the same.
        keys = [f"{payload['seed']}:{payload['round']}:{job.mode}:{problem.id}" for problem in problems]
        answers = asyncio.run(_attempt_all(task, engine, sampling, problems, keys))
        rows = [
            {
                "sample_id": f"{job.prefix}-{problem.id}-{i}",
                "problem_id": problem.id,
                "round": payload["round"],
                "policy": payload["policy"],
                "mode": job.mode,
                "chunk": index,
                "index": i,
                "seed_key": key,
                "messages": list(completion.messages),
                "text": completion.text,
                "tokens": completion.tokens,
                "finish": completion.finish,
            }
            for problem, key, completions in zip(problems, keys, answers, strict=True)
            for i, completion in enumerate(completions)
        ]
        write_rows(job.samples / part, rows, SAMPLES)
        tokens = sum(row["tokens"] for row in rows)
        counts["chunks"] += 1
        counts["completions"] += len(rows)
        counts["tokens"] += tokens
        report("sampled", problems=len(problems), tokens=tokens)


async def _attempt_all(
    task: Task, engine: Engine, sampling: Sampling, problems: Sequence[Problem], keys: Sequence[str]
) -> list[list[Completion]]:
    """Roll out a chunk's problems concurrently; the engine batches what they ask."""
    policies = [EnginePolicy(engine, sampling, key) for key in keys]
    return await asyncio.gather(*(task.rollout(p, policy) for p, policy in zip(problems, policies, strict=True)))
