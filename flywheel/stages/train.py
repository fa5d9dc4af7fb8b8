"""The training stages: warm-up, SFT and DPO. One process per rank, one group per stage."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

from flywheel.devices import await_release, memory_in_use, visible_gpus
from flywheel.files import read_json, read_rows, write_json, write_rows
from flywheel.recipe import Dpo, Training
from flywheel.stagedir import StageDir
from flywheel.stages.context import Checkpoint, Context
from flywheel.stages.problems import FILE
from flywheel.stages.schemas import SFT
from flywheel.types import Problem


def warm_up(ctx: Context) -> Checkpoint:
    """Round 0: SFT on the task's demonstrations; without a ``warmup:`` the recipe's model as it is."""
    section = ctx.recipe.warmup
    if section is None:
        return ctx.initial()
    stage = ctx.run.stage(0, "warmup")

    def draw(work: Path) -> Path:
        split = {"split": "demonstrations", "start": 0, "count": section.problems, "needs_gold": True}
        payload = {"task": ctx.task_payload(), **split, "file": str(work / FILE)}
        ctx.run_worker(stage, "flywheel.stages.problems:work", payload)
        problems = [Problem.from_row(row) for row in read_rows(work / FILE)]
        write_rows(work / "sft.parquet", [_demonstration(problem) for problem in problems], SFT)
        return work / "sft.parquet"

    return _train(ctx, stage, section, ctx.initial(), draw, keys=("seed", "model", "task", "warmup", "chat_template"))


def sft(ctx: Context, number: int, start: Checkpoint, curated: StageDir) -> Checkpoint:
    """SFT on this round's rows; skipped, with the reason recorded, if the round brought none."""
    section = ctx.recipe.sft
    stage = ctx.run.stage(number, "sft")
    if section is None:
        return start
    if curated.info()["kept"] == 0:
        return _skip(ctx, stage, start, curated, "sft", "no completion of this round was verified and kept")
    file = curated.path / "sft.parquet"
    return _train(ctx, stage, section, start, lambda work: file, keys=("seed", "sft"), parent=curated)


def dpo(
    ctx: Context, number: int, start: Checkpoint, curated: StageDir, references: dict[str, Checkpoint]
) -> Checkpoint:
    """DPO on this round's pairs; skipped, with the reason recorded, if there are none.

    Args:
        references: the checkpoints that ``dpo.reference`` may name: "initial", "previous", "sft".
    """
    section = ctx.recipe.dpo
    stage = ctx.run.stage(number, "dpo")
    if section is None:
        return start
    if curated.info()["pairs"] == 0:
        return _skip(ctx, stage, start, curated, "dpo", "no problem gave a pair to prefer one completion over another")
    file = curated.path / "pairs.parquet"
    return _train(
        ctx,
        stage,
        section,
        start,
        lambda work: file,
        keys=("seed", "dpo"),
        parent=curated,
        reference=references[section.reference],
    )


def _train(
    ctx: Context,
    stage: StageDir,
    section: Training,
    start: Checkpoint,
    prepare: Any,
    *,
    keys: tuple[str, ...],
    parent: StageDir | None = None,
    reference: Checkpoint | None = None,
) -> Checkpoint:
    """All ranks train together; rank 0 commits."""
    parents = {"start": start.identity}
    if parent is not None:
        parents[parent.label] = parent.identity()
    if reference is not None:
        parents["reference"] = reference.identity
    inputs = ctx.inputs(keys, parents)
    if not ctx.reuse(stage, inputs):
        payload = {
            "section": section.model_dump(mode="json"),
            "model": start.path,
            "reference": reference.path if reference else None,
            "chat_template": ctx.chat_template(),
            "work": str(stage.work),
            "seed": ctx.recipe.seed,
            "rank": ctx.rank.index,
            "world": ctx.rank.world,
        }
        kind = "dpo" if isinstance(section, Dpo) else "sft"
        if ctx.rank.leads:
            started = time.time()
            work = stage.begin(inputs)
            plan = {"data": str(prepare(work)), "port": _free_port()}
            write_json(work / f".plan.{ctx.session.id}.json", plan)
            info = _run_trainer(ctx, stage, kind, payload, plan)
            ctx.meet(stage.work, stage.label)
            ctx.commit(stage, inputs, info, started)
            ctx.tracker.trained(stage.name, info["steps"])
        else:
            plan_file = stage.work / f".plan.{ctx.session.id}.json"
            ctx.session.wait(lambda: plan_file.exists(), f"rank 0 to begin {stage.label}")
            _run_trainer(ctx, stage, kind, payload, read_json(plan_file))
            ctx.meet(stage.work, stage.label)
            ctx.await_commit(stage)
    return Checkpoint(str(stage.path / "model"), int(stage.round_dir.name), stage.identity())


def _run_trainer(
    ctx: Context, stage: StageDir, kind: str, payload: dict[str, Any], plan: dict[str, Any]
) -> dict[str, Any]:
    bar = ctx.bar(stage, stage.name, "steps")

    def receive(message: str, values: dict[str, Any]) -> None:
        if message == "progress":
            bar.update(values["done"], values["total"])
        elif message == "log":
            ctx.tracker.train(stage.name, int(stage.round_dir.name), values["step"], values["values"])

    used = memory_in_use(visible_gpus()[ctx.rank.local :][:1])
    worker = ctx.start(
        stage,
        f"flywheel.training.train:{kind}",
        {**payload, "data": plan["data"]},
        env=_training_env(ctx, plan["port"]),
        on_message=receive,
    )
    try:
        info: dict[str, Any] = ctx.finish(worker)[0]
    finally:
        bar.close()
    await_release(used, {worker.process.pid})
    return info


def _training_env(ctx: Context, port: int) -> dict[str, str | None]:
    """The launcher's variables stay; only the rendezvous is fresh for each stage."""
    if ctx.rank.world > 1:
        # The launcher's own store does not listen on the new port: rank 0 of the stage opens one.
        rendezvous = {"MASTER_ADDR": ctx.rank.master, "MASTER_PORT": str(port)}
        return {**rendezvous, "TORCHELASTIC_USE_AGENT_STORE": None}
    # One process trains on one device: several visible ones would make the Trainer replicate by threads.
    gpus = visible_gpus()
    return {"CUDA_VISIBLE_DEVICES": gpus[0]} if len(gpus) > 1 else {}


def _skip(ctx: Context, stage: StageDir, start: Checkpoint, curated: StageDir, key: str, why: str) -> Checkpoint:
    inputs = ctx.inputs((key,), {"start": start.identity, curated.label: curated.identity()})
    announce = f"  {stage.label} is skipped: {why}"
    ctx.lead(stage, inputs, lambda work: {"skipped": why}, announce)
    return start


def _demonstration(problem: Problem) -> dict[str, Any]:
    return {
        "row_id": f"demo-{problem.id}",
        "prompt": list(problem.prompt),
        "completion": [{"role": "assistant", "content": problem.gold}],
        "source": "demonstration",
        "round": 0,
        "problem_id": problem.id,
        "sample_id": None,
        "pass_rate": None,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
