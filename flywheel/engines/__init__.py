"""Engines: what turns chat requests into completions."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

from flywheel.engines.base import Engine, EnginePolicy, EngineSpec
from flywheel.errors import EngineFailed, RecipeError, UserError

ENGINES = ("transformers", "vllm", "openai", "scripted")

__all__ = ["ENGINES", "Engine", "EnginePolicy", "EngineSpec", "findings", "make_engine", "modules"]

_INSTALL = {"vllm": "make vllm, or on a GPU: pip install 'flywheel[vllm]'", "openai": "pip install 'flywheel[openai]'"}


def modules(uses: Iterable[str]) -> list[str]:
    """Modules that take long to import, of those engines that are not part of every installation.

    Raises:
        RecipeError: one of them is not installed here.
    """
    wanted = [use for use in _INSTALL if use in set(uses)]
    for use in wanted:
        if find_spec(use) is None:
            raise RecipeError(f"engine {use!r} needs the package {use}, which is not installed", hint=_INSTALL[use])
    return [f"flywheel.engines.{use}" for use in wanted]


def findings(use: str, model: str | dict[str, Any], extra: dict[str, Any]) -> list[str]:
    """What is wrong with an engine's settings, as far as it shows without loading the model."""
    try:
        if use not in ENGINES:
            raise RecipeError(f"there is no engine {use!r}; use one of {', '.join(ENGINES)}")
        if use == "vllm":
            from flywheel.engines.vllm import check

            check(model, extra)
        if use == "openai":
            make_engine(EngineSpec(use, "", extra=extra)).close()  # asks the servers for their models
    except (UserError, EngineFailed) as error:
        return [*error.message.splitlines(), *([f"({error.hint})"] if error.hint else [])]
    return []


def make_engine(spec: EngineSpec) -> Engine:
    """Load an engine; only the one that is asked for is imported.

    Raises:
        RecipeError: no such engine, or an argument that it does not take.
        ModelError: the checkpoint cannot be loaded, or has no chat template.
    """
    common = {"dtype": spec.dtype, "batch_size": spec.batch_size, "chat_template": spec.chat_template}
    try:
        if spec.use == "transformers":
            from flywheel.engines.transformers import TransformersEngine

            return TransformersEngine(spec.model, **{**common, "threads": spec.threads, **spec.extra})
        if spec.use == "vllm":
            from flywheel.engines.vllm import VllmEngine

            own = ("threads", "tensor_parallel", "max_model_len", "memory", "seed")
            return VllmEngine(spec.model, **{**common, **{name: getattr(spec, name) for name in own}, **spec.extra})
        if spec.use == "openai":
            from flywheel.engines.openai import OpenAIEngine

            return OpenAIEngine(**{"concurrency": spec.batch_size, **spec.extra})
        if spec.use == "scripted":
            from flywheel.engines.scripted import ScriptedEngine

            return ScriptedEngine(**spec.extra)
    except TypeError as error:
        raise RecipeError(f"engine.extra: {error}", hint="see docs/recipes.md") from error
    raise RecipeError(f"there is no engine {spec.use!r}", hint=f"use one of {', '.join(ENGINES)}")
