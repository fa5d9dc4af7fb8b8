"""Sample and verify at the same time: engines on the devices, verifiers on the CPUs.

Used for a round's training samples and for evaluation alike.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from flywheel.devices import await_release, cpu_threads, generation_env, memory_in_use, replicas
from flywheel.engines import EngineSpec
from flywheel.engines.base import derive_seed
from flywheel.recipe import EngineUse
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
    ctx: Context, stage: StageDir, policy: Checkpoint, engine: EngineUse, jobs: list[tuple[Job, dict[str, Any]]]
) -> dict[str, Any]:
    """Fill every part of the jobs, together with the other ranks.

    Args:
        stage: the stage that logs and timeline are filed under.
        policy: the checkpoint that answers.
        engine: what runs it.
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
    groups = _groups(ctx, engine) if any(job.missing(job.samples) for job, _ in jobs) else []
    used = memory_in_use([gpu for group in groups for gpu in group])
    samplers = _start_samplers(ctx, stage, policy, engine, groups, common, meter)
    verifiers = _start_verifiers(ctx, stage, common, meter) if any(j.missing(j.verdicts) for j, _ in jobs) else []
    try:
        results = ctx.finish(*samplers, *verifiers)
    finally:
        meter.close()
    await_release(used, {worker.process.pid for worker in samplers})
    ctx.meet(jobs[0][0].verdicts, stage.label)
    paid = {key for result in results for key in result if key in ("requests", "prompt_tokens", "cost")}
    keys = ("completions", "tokens", "undecided", *sorted(paid))
    return {key: sum(result.get(key, 0) for result in results) for key in keys}


def _groups(ctx: Context, engine: EngineUse) -> list[list[str]]:
    """The GPUs of each of this rank's engines; servers have devices of their own."""
    return [[]] if engine.use == "openai" else replicas(ctx.rank, engine.tensor_parallel, engine.cpu_replicas)


def _start_samplers(
    ctx: Context,
    stage: StageDir,
    policy: Checkpoint,
    engine: EngineUse,
    groups: list[list[str]],
    common: dict[str, Any],
    meter: _Meter,
) -> list[Worker]:
    number = int(stage.round_dir.name)
    spec = EngineSpec(
        **engine.model_dump(mode="json", exclude={"cpu_replicas", "extra"}),
        model=str(policy.path),
        chat_template=ctx.chat_template(),
        threads=cpu_threads(ctx.rank, len(groups)) if groups and not groups[0] else None,
        extra=_own_paths(ctx, engine),
    )

    def payload(replica: int) -> dict[str, Any]:
        # Only engines that cannot seed each request use this one; no two of them may share a random stream.
        seed = derive_seed(ctx.recipe.seed, stage.label, ctx.session.id, ctx.rank.index, replica) % 2**31
        own = {"round": number, "policy": policy.identity[:12], "seed": ctx.recipe.seed}
        return {**common, **own, "engine": replace(spec, seed=seed)}

    return [
        ctx.start(
            stage,
            "flywheel.stages.sampler:work",
            payload(i),
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


def _own_paths(ctx: Context, engine: EngineUse) -> dict[str, Any]:
    """What only the run knows: the scripted engine's file lies beside the recipe, a paid engine's bill in the run."""
    if engine.use == "openai":
        return {**engine.extra, "usage_file": str(ctx.run.path / "usage.jsonl")}
    if "script" in engine.extra:
        return {**engine.extra, "script": str(ctx.base / engine.extra["script"])}
    return engine.extra
