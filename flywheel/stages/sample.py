"""A round's samples and their verdicts: two stages, made at the same time, committed one after the other."""

from __future__ import annotations

import time
from typing import Any

from flywheel.stagedir import StageDir
from flywheel.stages.chunks import Job
from flywheel.stages.context import Checkpoint, Context
from flywheel.stages.problems import FILE
from flywheel.stages.rollouts import sample_and_verify

SAMPLE_KEYS = ("seed", "task", "sample", "engine", "chat_template")
VERDICT_KEYS = ("task", "verify.timeout")


def sampling_fields(ctx: Context, **changes: Any) -> dict[str, Any]:
    """The recipe's sampling settings as fields of ``Sampling``."""
    section = ctx.recipe.sample
    fields = {key: getattr(section, key) for key in ("temperature", "top_p", "top_k", "max_tokens", "stop")}
    return {"n": section.completions, **fields, **changes}


def sample_and_verify_round(
    ctx: Context, number: int, policy: Checkpoint, problems: StageDir
) -> tuple[StageDir, StageDir]:
    """The ``samples`` and ``verdicts`` stages of a round."""
    samples, verdicts = ctx.run.stage(number, "samples"), ctx.run.stage(number, "verdicts")
    parents = {"policy": policy.identity, "problems": problems.identity()}
    sample_inputs = ctx.inputs(SAMPLE_KEYS, parents)
    verdict_inputs = ctx.inputs(VERDICT_KEYS, parents)
    if ctx.reuse(samples, sample_inputs) and ctx.reuse(verdicts, verdict_inputs):
        return samples, verdicts
    if ctx.rank.leads:
        if not samples.committed:
            samples.begin(sample_inputs)
        verdicts.begin(verdict_inputs)
    else:
        ctx.session.wait(lambda: verdicts.work.exists() or verdicts.committed, f"rank 0 to begin {verdicts.label}")
    started = time.time()
    job = Job(
        name="part",
        problems=problems.path / FILE,
        samples=samples.path if samples.committed else samples.work,
        verdicts=verdicts.work,
        chunk=ctx.recipe.sample.chunk,
        count=problems.info()["problems"],
        mode="sampled",
        prefix=f"r{number:03d}",
    )
    counts = sample_and_verify(
        ctx, samples, policy, ctx.recipe.sample.engine or ctx.recipe.engine, [(job, sampling_fields(ctx))]
    )
    if ctx.rank.leads:
        if not samples.committed:
            ctx.commit(samples, sample_inputs, {"attempt": counts}, started)
        ctx.commit(verdicts, verdict_inputs, {"parts": len(job.parts())}, started)
    ctx.await_commit(verdicts)
    return samples, verdicts
