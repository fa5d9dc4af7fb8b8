"""Executors by name, as recipes have them: each is imported only when it is asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from flywheel.errors import UserError
from flywheel.sandbox.job import Executor

EXECUTORS = ("local", "container", "remote")


def open_executor(use: str = "local", /, **options: Any) -> Executor:
    """An executor, started.

    Args:
        use: "local", "container" or "remote".
        options: arguments of its class.

    Raises:
        UserError: no such executor or option, or it cannot run programs here; says what mends it.
    """
    make = _class(use)
    known = [name for name in inspect.signature(make).parameters if name != "self"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UserError(
            f"the {use} executor has no option {', '.join(map(repr, unknown))}", hint=f"it has {', '.join(known)}"
        )
    try:
        return make(**options)
    except TypeError as error:  # a required option that is not given
        raise UserError(f"the {use} executor: {error}", hint=f"its options are {', '.join(known)}") from error


def _class(use: str) -> Callable[..., Executor]:
    if use == "local":
        from flywheel.sandbox.local import LocalExecutor

        return LocalExecutor
    if use == "container":
        from flywheel.sandbox.container import ContainerExecutor

        return ContainerExecutor
    if use in ("remote", "http"):
        from flywheel.sandbox.remote import RemoteExecutor

        return cast(Callable[..., Executor], RemoteExecutor)
    raise UserError(f"no executor is called {use!r}", hint=f"there are {', '.join(EXECUTORS)}")
