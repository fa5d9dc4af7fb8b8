"""How much of a round is not sampling, verification, training or evaluation, from a run's own timings.

    python benchmarks/overhead.py runs/countdown [runs/other …] [--json]

Covered is every moment in which some worker of some rank was sampling, verifying or training
(evaluation is sampling and verifying). The rest of the wall clock is overhead, told by what went on
in it, and in which stage. Start-up is the time from asking for a worker until its function runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from run_timeline import Interval, RoundTime, Span, length, minus, read_rounds, read_spans

WORK = ("sample", "verify", "train")
REST = ("tokenize", "load", "spawn", "draw", "curate", "metrics", "unload", "save", "commit")
"""The other phases. Of several at once, the first in this order gets the time."""
AGENT, BETWEEN = "agent", "between"
"""Inside a stage without any phase (work folders, ends of workers); outside of all (the gate, ``round.json``)."""
TARGET_PERCENT = 5.0
TARGET_STARTUP = 1.0
SHOWN = 4


def measure(run: Path) -> dict[str, Any]:
    """One run's overhead: ``rounds`` (see ``_round``), ``total`` over the finished ones after 0, and ``startup``.

    Raises:
        FileNotFoundError: the folder holds no timeline.
    """
    rounds = [_round(measured) for measured in read_rounds(run)]
    turns = [r for r in rounds if r["round"] > 0 and r["finished"]]
    starts = [span.end - span.start for span in read_spans(run) if span.phase == "spawn"]
    return {
        "run": str(run),
        "rounds": rounds,
        "total": _sum(turns) if turns else None,
        "startup": {"workers": len(starts), "median": median(starts), "max": max(starts)} if starts else None,
    }


def _round(measured: RoundTime) -> dict[str, Any]:
    """Seconds of wall clock, covered and not; the latter split by ``phase``, and by ``stage phase`` in ``where``."""
    left = minus(measured.wall, (s.interval for s in measured.spans if s.phase in WORK))
    overhead = length(left)
    where: dict[str, float] = {}
    split = dict.fromkeys((*REST, AGENT, BETWEEN), 0.0)
    parts = [(phase, stage) for phase in (*REST, AGENT) for stage in measured.stages]
    for phase, stage in parts:
        rest = minus(left, _busy(measured, phase, stage))
        where[f"{stage.stage} {phase}"] = length(left) - length(rest)
        split[phase] += length(left) - length(rest)
        left = rest
    split[BETWEEN] = where[BETWEEN] = length(left)
    return {
        "round": measured.number,
        "finished": measured.finished,
        **_shares(measured.seconds, overhead),
        "split": split,
        "where": {name: seconds for name, seconds in where.items() if seconds > 0},
    }


def _busy(measured: RoundTime, phase: str, stage: Span) -> list[Interval]:
    if phase == AGENT:  # asked for last: all of the stage that no phase explains
        return [stage.interval]
    return [s.interval for s in measured.spans if (s.phase, s.stage) == (phase, stage.stage)]


def _sum(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    shares = _shares(sum(r["seconds"] for r in rounds), sum(r["overhead"] for r in rounds))
    parts = {key: sorted({name for r in rounds for name in r[key]}) for key in ("split", "where")}
    added = {key: {name: sum(r[key].get(name, 0.0) for r in rounds) for name in names} for key, names in parts.items()}
    return {**shares, **added}


def _shares(seconds: float, overhead: float) -> dict[str, float]:
    percent = 100 * overhead / seconds if seconds else 0.0
    return {"seconds": seconds, "covered": seconds - overhead, "overhead": overhead, "percent": percent}


def show(result: dict[str, Any], console: Console) -> None:
    """Print one run's table and how it stands to the targets."""
    lines = [(str(r["round"]) + ("" if r["finished"] else " so far"), r) for r in result["rounds"]]
    total = result["total"]
    console.print(_table(result["run"], [*lines, ("after 0", total)] if total else lines))
    if total:
        percent = total["percent"]
        told = _against(percent, TARGET_PERCENT)
        largest = sorted(total["where"].items(), key=lambda item: -item[1])[:SHOWN]
        console.print(f"overhead of the rounds after the warm-up: {percent:.1f} % ({told} %)")
        console.print("largest: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in largest))
    if startup := result["startup"]:
        told = f"median {startup['median']:.3f} s ({_against(startup['median'], TARGET_STARTUP)} s)"
        console.print(f"start-up of {startup['workers']} workers: {told}, max {startup['max']:.3f} s")


def _table(title: str, lines: list[tuple[str, dict[str, Any]]]) -> Table:
    table = Table(title=f"{title}: seconds", title_justify="left", box=box.SIMPLE, pad_edge=False)
    columns = (*REST, AGENT, BETWEEN)
    for column in ("round", "wall", "covered", "overhead", "%", *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for name, entry in lines:
        figures = [f"{entry[key]:.1f}" for key in ("seconds", "covered", "overhead", "percent")]
        table.add_row(name, *figures, *(f"{entry['split'][key]:.2f}" for key in columns))
    return table


def _against(value: float, target: float) -> str:
    return f"{'meets' if value < target else 'misses'} the target of < {target:g}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_DIR")
    parser.add_argument("--json", action="store_true", help="print JSON, one entry per run")
    args = parser.parse_args()
    try:
        results = [measure(run) for run in args.runs]
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(results, indent=2))
        return 0
    # Wide enough for the table, whatever the terminal: a log file has no width.
    console = Console(highlight=False, width=max(130, Console().width))
    for result in results:
        show(result, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
