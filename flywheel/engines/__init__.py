"""Engines: what turns chat requests into completions."""

from __future__ import annotations

from typing import Any

from flywheel.engines.base import Engine, EnginePolicy
from flywheel.errors import RecipeError

ENGINES = ("transformers", "scripted")

__all__ = ["ENGINES", "Engine", "EnginePolicy", "make_engine"]


def make_engine(
    use: str,
    *,
    model: str,
    dtype: str,
    batch_size: int,
    chat_template: str | None,
    threads: int | None,
    extra: dict[str, Any],
) -> Engine:
    """Load an engine; only the one that is asked for is imported.

    Args:
        use: a name in ``ENGINES``.
        model: checkpoint folder or hub id.
        dtype: "auto", "float32", …
        batch_size: most sequences at once.
        chat_template: Jinja source that replaces the tokenizer's, or None.
        threads: CPU threads; None is the library's default.
        extra: further arguments of the engine's class.

    Raises:
        RecipeError: no such engine, or an argument that it does not take.
        ModelError: the checkpoint cannot be loaded, or has no chat template.
    """
    try:
        if use == "transformers":
            from flywheel.engines.transformers import TransformersEngine

            common = {"dtype": dtype, "batch_size": batch_size, "chat_template": chat_template, "threads": threads}
            return TransformersEngine(model, **{**common, **extra})
        if use == "scripted":
            from flywheel.engines.scripted import ScriptedEngine

            return ScriptedEngine(**extra)
    except TypeError as error:
        raise RecipeError(f"engine.extra: {error}", hint="see docs/recipes.md") from error
    raise RecipeError(f"there is no engine {use!r}", hint=f"use one of {', '.join(ENGINES)}")
