"""Find a task by name, or by ``./file.py:Class`` beside the recipe."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from flywheel.errors import TaskError
from flywheel.tasks.base import Task

BUILTIN = {
    "countdown": "flywheel.tasks.countdown:Countdown",
    "addition": "flywheel.tasks.addition:Addition",
    "math": "flywheel.tasks.math:Math",
    "code": "flywheel.tasks.code:Code",
    "oneliners": "flywheel.tasks.code.oneliners:Oneliners",
}


def load_task(use: str, args: dict[str, Any] | None = None, base: Path | None = None) -> Task:
    """Make the task that a recipe names; if its class has an argument ``base``, that is the recipe's folder.

    Args:
        use: a name in ``BUILTIN``, ``./file.py:Class`` (relative to ``base``) or ``package.module:Class``.
        args: keyword arguments of the class; one that takes a ``base`` is given the folder below.
        base: the folder of the recipe; the current folder if None.

    Raises:
        TaskError: nothing by that name, the file does not import, or the arguments do not fit.
    """
    base = base or Path.cwd()
    cls = _find_class(use, base)
    given = dict(args or {})
    if "base" in _parameters(cls):
        given.setdefault("base", base)
    try:
        task = cls(**given)
    except (TypeError, ValueError) as error:
        raise TaskError(f"task {use}: {error}", hint="mend `task.args` in the recipe") from error
    missing = [name for name in ("problems", "rollout", "verify") if not callable(getattr(task, name, None))]
    if missing:
        raise TaskError(
            f"task {use}: {cls.__name__} lacks {', '.join(missing)}",
            hint="subclass flywheel.tasks.BaseTask and define problems(split) and verify(problem, completion)",
        )
    return task  # type: ignore[no-any-return]


def _find_class(use: str, base: Path) -> Any:
    target = BUILTIN.get(use, use)
    where, colon, name = target.rpartition(":")
    if not colon:
        near = get_close_matches(use, BUILTIN, n=1)
        raise TaskError(
            f"there is no task {use!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
            hint=f"use one of {', '.join(BUILTIN)}, or ./file.py:Class",
        )
    if where.endswith(".py") and not (base / where).is_file():
        raise TaskError(f"task {use}: there is no file {base / where}")
    try:
        module = _import_file(base / where) if where.endswith(".py") else importlib.import_module(where)
    except Exception as error:  # a user's file may raise anything
        raise TaskError(f"task {use}: {where} does not import: {type(error).__name__}: {error}") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        raise TaskError(f"task {use}: {where} has no class {name!r}") from error


def _parameters(cls: Any) -> Mapping[str, Any]:
    try:
        return inspect.signature(cls).parameters
    except (TypeError, ValueError):
        return {}


def _import_file(path: Path) -> Any:
    path = path.resolve()
    # Named by its path, alike in every process, so that two recipes' `task.py` do not shadow each other.
    name = f"flywheel_user_task_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
