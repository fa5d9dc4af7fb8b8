"""An engine for the filters that ask a judge: the run's own policy, or what the filter's ``engine`` option says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flywheel.curate import Aids, Filter, make_filters
from flywheel.devices import await_release, cpu_threads, generation_env, memory_in_use, replicas
from flywheel.engines import EngineSpec, make_engine
from flywheel.engines.base import derive_seed
from flywheel.errors import RecipeError
from flywheel.recipe import EngineUse
from flywheel.stagedir import StageDir
from flywheel.stages.context import Checkpoint, Context
from flywheel.tracking import Bar
from flywheel.workers import Report


def run_with_engine(ctx: Context, stage: StageDir, policy: Checkpoint, target: str, payload: dict[str, Any]) -> Any:
    """Run a worker that can load an engine for its judges, and see it out.

    It has this rank's first devices, as a sampler would, and its exit frees them. Its judges' progress is shown.

    Args:
        ctx, stage: what the worker runs for.
        policy: the checkpoint that judges, unless a filter names another engine.
        target, payload: as for ``workers.spawn``; ``aids`` reads what is added to the payload.
    """
    asked = [option for _, filter in make_filters(ctx.recipe.curate, ctx.base) for option in _engines(filter)]
    local = [engine_use(option, ctx.recipe.engine) for option in asked if not _on_a_server(option)]
    gpus = replicas(ctx.rank, max((use.tensor_parallel for use in local), default=1), 1)[0]
    spec = EngineSpec(
        **ctx.recipe.engine.model_dump(mode="json", exclude={"cpu_replicas", "extra"}),
        model=str(policy.path),
        chat_template=ctx.chat_template(),
        threads=None if gpus else cpu_threads(ctx.rank, 1),
        seed=derive_seed(ctx.recipe.seed, stage.label) % 2**31,
        extra=ctx.recipe.engine.extra,
    )
    bars: dict[str, Bar] = {}

    def receive(kind: str, values: dict[str, Any]) -> None:
        if kind == "filtered":
            bar = bars.setdefault(values["filter"], ctx.bar(stage, values["filter"], "rows"))
            bar.update(values["done"], values["total"])

    used = memory_in_use(gpus)
    added = {"engine": spec, "usage": str(ctx.run.path / "usage.jsonl")}
    worker = ctx.start(stage, target, {**payload, **added}, env=generation_env(gpus), on_message=receive)
    try:
        (result,) = ctx.finish(worker)
    finally:
        for bar in bars.values():
            bar.close()
    await_release(used, {worker.process.pid})
    return result


def aids(payload: dict[str, Any], report: Report) -> Aids:
    """In the worker: what its filters may use."""
    base = Path(payload["base"])
    return Aids(
        base=base,
        scratch=Path(payload["work"]),
        heldout=Path(payload["heldout"]),
        reference=[Path(file) for file in (*payload["older"], payload["warmup"]) if file],
        engine=lambda option: make_engine(spec_of(option, payload["engine"], base, payload["usage"])),
        progress=lambda name, done, total: report("filtered", filter=name, done=done, total=total),
    )


def engine_use(option: dict[str, Any] | None, default: EngineUse) -> EngineUse:
    """A filter's ``engine`` option, which may also name a ``model``; None is the run's own engine.

    Raises:
        RecipeError: a key that engines do not have, or a wrong value.
    """
    if option is None:
        return default
    try:
        return EngineUse.model_validate({key: value for key, value in option.items() if key != "model"})
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RecipeError(
            f"a judge's engine: {told}", hint="its keys are those of `engine` in docs/recipes.md"
        ) from error


def spec_of(option: dict[str, Any] | None, policy: EngineSpec, base: Path, usage: str | None) -> EngineSpec:
    """What to load for a filter's ``engine`` option."""
    if option is None:
        return _with_paths(policy, base, usage)
    use = engine_use(option, EngineUse())
    model = str(option.get("model", policy.model))
    if (base / model).is_dir():
        model = str((base / model).resolve())
    own: dict[str, Any] = {"model": model, "chat_template": policy.chat_template if model == policy.model else None}
    fields = use.model_dump(mode="json", exclude={"cpu_replicas"})
    return _with_paths(replace(policy, **fields, **own), base, usage)


def _with_paths(spec: EngineSpec, base: Path, usage: str | None) -> EngineSpec:
    """A scripted engine's file lies beside the recipe, a paid engine's bill in the run."""
    if spec.use == "openai" and usage is not None:
        return replace(spec, extra={**spec.extra, "usage_file": usage})
    if "script" in spec.extra:
        return replace(spec, extra={**spec.extra, "script": str(base / spec.extra["script"])})
    return spec


def _engines(filter: Filter) -> Sequence[dict[str, Any] | None]:
    asked: Sequence[dict[str, Any] | None] = getattr(filter, "engines", ())
    return asked


def _on_a_server(option: dict[str, Any] | None) -> bool:
    return option is not None and option.get("use") == "openai"
