"""Evaluate a checkpoint on the run's held-out problems: the same ones after every round."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from flywheel.files import read_json, write_json
from flywheel.stagedir import StageDir
from flywheel.stages.chunks import Job
from flywheel.stages.context import Checkpoint, Context
from flywheel.stages.graded import read_graded
from flywheel.stages.metrics import per_problem, summarise
from flywheel.stages.problems import FILE
from flywheel.stages.rollouts import sample_and_verify
from flywheel.stages.sample import sampling_fields
from flywheel.workers import Report

SAMPLING_KEYS = ("sample.max_tokens", "sample.stop", "sample.chunk")
KEYS = ("seed", "model", "task", "evaluate", "engine", "chat_template", "verify.timeout", *SAMPLING_KEYS)


def evaluate(ctx: Context, number: int, policy: Checkpoint) -> StageDir:
    """The ``evaluate`` stage of a round: samples, verdicts, per-problem results and metrics."""
    stage = ctx.run.stage(number, "evaluate")
    inputs = ctx.inputs(KEYS, {"policy": policy.identity})
    if ctx.reuse(stage, inputs):
        return stage
    started = time.time()
    ready = stage.work / ".ready"
    if ctx.rank.leads:
        work = stage.begin(inputs)
        _draw_heldout(ctx, stage, work)
        for folder in ("samples", "verdicts"):
            (work / folder).mkdir(exist_ok=True)
        ready.touch()
    else:
        ctx.session.wait(lambda: ready.exists() or stage.committed, f"rank 0 to begin {stage.label}")
        if stage.committed:
            return stage
    sample_and_verify(ctx, stage, policy, ctx.recipe.engine, _jobs(ctx, stage, number))
    if ctx.rank.leads:
        payload = {"work": str(stage.work), "completions": ctx.recipe.evaluate.completions}
        metrics = ctx.run_worker(stage, "flywheel.stages.evaluate:work", payload)
        ctx.commit(stage, inputs, {"metrics": metrics, "policy": policy.path}, started)
    return ctx.await_commit(stage)


def _jobs(ctx: Context, stage: StageDir, number: int) -> list[tuple[Job, dict[str, Any]]]:
    section = ctx.recipe.evaluate

    def job(mode: str) -> Job:
        return Job(
            name=mode,
            problems=stage.work / FILE,
            samples=stage.work / "samples",
            verdicts=stage.work / "verdicts",
            chunk=ctx.recipe.sample.chunk,
            count=int(read_json(stage.work / "drawn.json")["problems"]),
            mode=mode,
            prefix=f"e{number:03d}{mode[0]}",
            evaluating=True,
        )

    sampled = sampling_fields(ctx, n=section.completions, temperature=section.temperature, top_p=1.0, top_k=0)
    jobs = [(job("sampled"), sampled)]
    if section.greedy:
        jobs.append((job("greedy"), sampling_fields(ctx, n=1, temperature=0.0)))
    return jobs


def _draw_heldout(ctx: Context, stage: StageDir, work: Path) -> None:
    if (work / "drawn.json").exists():
        return
    split = {"split": "heldout", "start": 0, "count": ctx.recipe.evaluate.problems}
    payload = {"task": ctx.task_payload(), **split, "file": str(work / FILE)}
    drawn = ctx.run_worker(stage, "flywheel.stages.problems:work", payload)
    write_json(work / "drawn.json", {"problems": drawn})


def work(payload: dict[str, Any], report: Report) -> dict[str, float]:
    """Worker: ``results.json`` (per problem) and the metrics."""
    with report.span("metrics"):
        folder = Path(payload["work"])
        entries = per_problem(read_graded(folder / "samples", folder / "verdicts"))
        write_json(folder / "results.json", entries)
        metrics = summarise(entries, payload["completions"])
        write_json(folder / "metrics.json", metrics)
    return metrics
