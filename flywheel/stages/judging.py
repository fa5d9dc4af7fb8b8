"""An engine for the filters that ask a judge: the run's own policy, or what the filter's ``engine`` option says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from flywheel.curate import Aids, make_filters
from flywheel.devices import await_release, cpu_threads, generation_env, memory_in_use, replicas
from flywheel.engines import EngineSpec, make_engine
from flywheel.engines.base import derive_seed
from flywheel.errors import RecipeError
from flywheel.recipe import EngineUse
from flywheel.stagedir import StageDir
from flywheel.stages.context import Checkpoint, Context
from flywheel.workers import Report


@dataclass(frozen=True)
class Judging:
    """How one curation's judge runs, if any of its filters asks one."""

    ctx: Context
    stage: StageDir
    policy: Checkpoint

    @classmethod
    def of(cls, ctx: Context, stage: StageDir, policy: Checkpoint) -> Judging:
        return cls(ctx, stage, policy)

    def run_worker(self, target: str, payload: dict[str, Any]) -> Any:
        """Run a worker that has an engine at hand: on this rank's first devices, as a sampler would, and freed by
        its exit."""
        filters = make_filters(self.ctx.recipe.curate, self.ctx.base)
        asked = [option for _, filter in filters for option in getattr(filter, "engines", ())]
        local = [engine_use(option, self.ctx.recipe.engine) for option in asked if not _on_a_server(option)]
        gpus = replicas(self.ctx.rank, max((use.tensor_parallel for use in local), default=1), 1)[0]
        spec = EngineSpec(
            **self.ctx.recipe.engine.model_dump(mode="json", exclude={"cpu_replicas", "extra"}),
            model=str(self.policy.path),
            chat_template=self.ctx.chat_template(),
            threads=None if gpus else cpu_threads(self.ctx.rank, 1),
            seed=derive_seed(self.ctx.recipe.seed, self.stage.label) % 2**31,
            extra=self.ctx.recipe.engine.extra,
        )
        bars = {}

        def receive(kind: str, values: dict[str, Any]) -> None:
            if kind == "filtered":
                name = values["filter"]
                if name not in bars:
                    bars[name] = self.ctx.bar(self.stage, name, "rows")
                bars[name].update(values["done"], values["total"])

        used = memory_in_use(gpus)
        worker = self.ctx.start(
            self.stage,
            target,
            {**payload, "engine": spec, "usage": str(self.ctx.run.path / "usage.jsonl")},
            env=generation_env(gpus),
            on_message=receive,
        )
        try:
            (result,) = self.ctx.finish(worker)
        finally:
            for bar in bars.values():
                bar.close()
        await_release(used, {worker.process.pid})
        return result

    @staticmethod
    def aids(payload: dict[str, Any], report: Report) -> Aids:
        """In the worker: what the filters may use."""
        base, out = Path(payload["base"]), Path(payload["work"])
        return Aids(
            base=base,
            scratch=out,
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


def _on_a_server(option: dict[str, Any] | None) -> bool:
    return option is not None and option.get("use") == "openai"
