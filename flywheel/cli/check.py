"""``flywheel check``: everything that can be known before GPU time."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from flywheel.agent import PRELOAD, inspect, refuse
from flywheel.engines import modules
from flywheel.recipe_file import load_recipe
from flywheel.session import Rank
from flywheel.workers import start_forkserver


def command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key=value, as for run.")] = None,
) -> None:
    """Look for everything that is wrong with a recipe, its task and its model, without training anything."""
    loaded = load_recipe(recipe, overrides or [])
    start_forkserver(PRELOAD, also=modules(loaded.engines()))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "check.log"
        report = inspect(loaded, recipe.resolve().parent, Rank.from_env().world, log)
    for note in report["notes"]:
        print(note)
    refuse(report["findings"])
    print(f"{recipe}: nothing is wrong")
