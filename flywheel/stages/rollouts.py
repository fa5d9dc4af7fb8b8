"""Sample and verify at the same time: engines on the devices, verifiers on the CPUs.

Used for a round's training samples and for evaluation alike.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from flywheel.devices import cpu_threads, generation_env, replicas
from flywheel.stagedir import StageDir
from flywheel.stages.chunks import Job
from flywheel.stages.context import Checkpoint, Context
from flywheel.tracking import Bar
from flywheel.workers import Worker


class _Meter:
    """Adds up what the workers report, and shows it."""

    def __init__(self, sampling: Bar, verifying: Bar, problems: int, completions: int) -> None:
        self._sampling, self._verifying = sampling, verifying
        self._problems, self._completions = problems, completions
        self._sampled = self._tokens = 0
        self._verified: dict[str, int] = {}

    def on_sampler(self, kind: str, values: dict[str, Any]) -> None:
        if kind == "sampled":
            self._sampled += values["problems"]
            self._tokens += values["tokens"]
            self._sampling.update(self._sampled, self._problems, f"({self._tokens:,} tokens)")

    def on_verifier(self, who: str, kind: str, values: dict[str, Any]) -> None:
        if kind == "verified":
            self._verified[who] = values["verdicts"]
            self._verifying.update(sum(self._verified.values()), self._completions)

    def close(self) -> None:
        self._sampling.close()
        self._verifying.close()


def sample_and_verify(
    ctx: Context, stage: StageDir, policy: Checkpoint, jobs: list[tuple[Job, dict[str, Any]]]
) -> dict[str, Any]:
    """Fill every part of the jobs, together with the other ranks.

    Args:
        stage: the stage that logs and timeline are filed under.
        policy: the checkpoint that answers.
        jobs: each with the fields of its ``Sampling``.

    Returns:
        This rank's counts: ``completions``, ``tokens``, ``undecided`` of what it did itself in this attempt.
    """
    entries = [{"job": job.to_payload(), "sampling": sampling} for job, sampling in jobs]
    common = {"task": ctx.task_payload(), "jobs": entries, "session": ctx.session.id}
    problems = sum(job.count for job, _ in jobs)
    meter = _Meter(
        ctx.bar(stage, "sampling", "problems"),
        ctx.bar(stage, "verifying", "completions"),
        problems,
        sum(job.count * sampling["n"] for job, sampling in jobs),
    )
    samplers = _start_samplers(ctx, stage, policy, common, meter) if any(j.missing(j.samples) for j, _ in jobs) else []
    verifiers = _start_verifiers(ctx, stage, common, meter) if any(j.missing(j.verdicts) for j, _ in jobs) else []
    try:
        results = ctx.finish(*samplers, *verifiers)
    finally:
        meter.close()
    ctx.session.wait(
        lambda: not any(job.missing(job.samples) or job.missing(job.verdicts) for job, _ in jobs),
        f"the other ranks' chunks of {stage.label}",
    )
    keys = ("completions", "tokens", "undecided")
    return {key: sum(result.get(key, 0) for result in results) for key in keys}


def _start_samplers(
    ctx: Context, stage: StageDir, policy: Checkpoint, common: dict[str, Any], meter: _Meter
) -> list[Worker]:
    engine = ctx.resolved["engine"]
    groups = replicas(ctx.rank, ctx.recipe.engine.tensor_parallel, ctx.recipe.engine.cpu_replicas)
    payload = {
        **common,
        "engine": {
            "use": engine["use"],
            "model": policy.path,
            "dtype": engine["dtype"],
            "batch_size": engine["batch_size"],
            "chat_template": ctx.chat_template(),
            "threads": cpu_threads(ctx.rank, len(groups)) if groups and not groups[0] else None,
            "extra": _absolute_script(engine["extra"], ctx.base),
        },
        "round": int(stage.round_dir.name),
        "policy": policy.identity[:12],
        "seed": ctx.recipe.seed,
    }
    return [
        ctx.start(
            stage,
            "flywheel.stages.sampler:work",
            payload,
            suffix=f".sampler{i}",
            env=generation_env(gpus),
            on_message=meter.on_sampler,
        )
        for i, gpus in enumerate(groups)
    ]


def _start_verifiers(ctx: Context, stage: StageDir, common: dict[str, Any], meter: _Meter) -> list[Worker]:
    payload = {**common, "timeout": ctx.recipe.verify.timeout}
    workers = []
    for i in range(ctx.recipe.verify.workers):
        who = f".verifier{i}"
        receive = partial(meter.on_verifier, who)
        target = "flywheel.stages.verifier:work"
        workers.append(ctx.start(stage, target, payload, suffix=who, on_message=receive))
    return workers


def _absolute_script(extra: dict[str, Any], base: Path) -> dict[str, Any]:
    """The scripted engine's file is named beside the recipe."""
    return {**extra, "script": str(base / extra["script"])} if "script" in extra else extra
