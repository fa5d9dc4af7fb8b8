"""Tables and facts about runs that several commands show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from flywheel.errors import RunDirError
from flywheel.files import read_json
from flywheel.rundir import RunDir


def find_run(name: Path) -> RunDir:
    """A run by its folder, or by its name under ``runs/``.

    Raises:
        RunDirError: there is none.
    """
    for candidate in (name, Path("runs") / name):
        if (candidate / "run.json").is_file():
            return RunDir.existing(candidate.resolve())
    known = sorted(p.parent.name for p in Path("runs").glob("*/run.json"))
    raise RunDirError(f"{name} is not a run folder", hint=f"runs here: {', '.join(known) or 'none'}")


def round_summaries(run: RunDir) -> list[dict[str, Any]]:
    """``round.json`` of each finished round."""
    files = [run.round_dir(number) / "round.json" for number in run.rounds()]
    return [read_json(file) for file in files if file.exists()]


def rounds_table(run: RunDir) -> Table:
    """A row per finished round."""
    table = Table(title=str(run.header()["name"]), title_justify="left")
    summaries = round_summaries(run)
    names = [name for name in (summaries[-1]["metrics"] if summaries else {}) if name not in ("undecided",)]
    table.add_column("round", justify="right")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for name in ("right", "kept", "pairs", "promoted", "seconds"):
        table.add_column(name, justify="right")
    for summary in summaries:
        counts = summary["counts"]
        table.add_row(
            str(summary["round"]),
            *(f"{summary['metrics'].get(name, float('nan')):.3f}" for name in names),
            *(str(counts.get(name, "")) for name in ("right", "kept", "pairs")),
            "yes" if summary["promoted"] else "no",
            f"{sum(summary['seconds'].values()):.0f}",
        )
    # Its natural width, however narrow the terminal (a pipe counts as 80): "0.…" tells nobody anything.
    table.width = Console(width=1000).measure(table).maximum
    return table
