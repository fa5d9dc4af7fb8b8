"""``flywheel run``: start or resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flywheel.agent import Order, run
from flywheel.cli.tables import rounds_table
from flywheel.rundir import RunDir
from flywheel.tracking import Screen


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, such as sft.learning_rate=1e-4.")] = None,
    run_dir: Annotated[Path | None, typer.Option(help="The run's folder.  [default: runs/NAME]")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Set damaged stages aside and make them again.")] = False,
    fork_from: Annotated[
        int | None, typer.Option(help="Start a new folder that shares the finished rounds up to this one.")
    ] = None,
) -> None:
    """Start a run, or resume it: the same command does both."""
    from flywheel.session import Rank

    screen = Screen(speaks=Rank.from_env().leads)
    finished = run(Order(recipe, overrides or [], run_dir, repair, fork_from), screen)
    if screen.speaks:
        screen.console.print(rounds_table(finished))
        _say_best(finished, screen)


def _say_best(run: RunDir, screen: Screen) -> None:
    best = run.path / "best"
    if best.exists():
        screen.console.print(f"best checkpoint: {best}", markup=False)
