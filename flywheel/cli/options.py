"""What several commands take: ``--arg key=value``, and where ``--task ./file.py:Class`` is looked for."""

from __future__ import annotations

from typing import Annotated, Any

import typer
import yaml

from flywheel.errors import TaskError

ARG_HELP = "An argument of the task's class, such as numbers=4; may be repeated."
Args = Annotated[list[str] | None, typer.Option("--arg", metavar="KEY=VALUE", help=ARG_HELP)]


def task_args(given: list[str] | None) -> dict[str, Any]:
    """``["numbers=4", "style=terse"]`` as keyword arguments; the values are YAML, as in a recipe.

    Raises:
        TaskError: naming every entry that is not KEY=VALUE.
    """
    args: dict[str, Any] = {}
    wrong: list[str] = []
    for entry in given or []:
        key, equals, value = entry.partition("=")
        if not equals or not key.isidentifier():
            wrong.append(f"--arg {entry!r} is not KEY=VALUE")
            continue
        try:
            args[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            wrong.append(f"the value in --arg {entry!r} is not YAML")
    if wrong:
        raise TaskError("\n".join(wrong), hint="for example: --task countdown --arg numbers=4 --arg style=terse")
    return args
