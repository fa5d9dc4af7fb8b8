"""``flywheel status``: where a run is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from flywheel.cli.tables import find_run, round_summaries, rounds_table
from flywheel.files import read_json
from flywheel.rundir import RunDir


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder, or its name under runs/.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Rounds, metrics, and what is running."""
    found = find_run(run)
    facts = summary(found)
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{found.path}: {facts['state']}" + (f" ({facts['stage']})" if facts["stage"] else ""), markup=False)
    why = read_json(found.path / "state.json")["why"] if (found.path / "state.json").exists() else ""
    if facts["state"] in ("failed", "interrupted") and why:
        console.print(f"  {why}", markup=False)
    if facts["rounds"]:
        console.print(rounds_table(found))
    if facts["best"]:
        console.print(f"best checkpoint: {facts['best']}", markup=False)


def summary(run: RunDir) -> dict[str, Any]:
    """The JSON of ``status --json`` (a contract)."""
    keys = ("round", "policy_in", "policy_out", "promoted", "why", "metrics", "counts", "seconds")
    best = run.path / "best"
    return {
        "run": str(run.path),
        "state": run.state(),
        "stage": _current_stage(run),
        "rounds": [{key: entry[key] for key in keys} for entry in round_summaries(run)],
        "best": str(best) if best.exists() else None,
    }


def _current_stage(run: RunDir) -> str | None:
    """The stages that have a work folder: what is being made, or was when the run stopped."""
    works = sorted((run.path / "rounds").glob("*/.*.work"))
    if not works:
        return None
    names = " + ".join(work.name[1:-5] for work in works)
    return f"round {int(works[-1].parent.name)}: {names}"
