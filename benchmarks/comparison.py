"""What ``countdown_vs_grpo.py`` found, as a table, a sentence and a plot."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from rich import box
from rich.table import Table

SHOWN = ("accuracy", "pass@8", "greedy_accuracy", "unique_correct", "mean_tokens")
MUST_WIN = ("accuracy", "pass@8")
TITLES = {"accuracy": "sampled accuracy (temperature 1)", "pass@8": "pass@8"}
LOOKS = {"GRPO": ("tab:orange", "s"), "flywheel": ("tab:blue", "o")}

Lines = list[tuple[list[float], list[float]]]


def table(results: list[dict[str, Any]]) -> Table:
    """Warm-up, GRPO and flywheel at the end of the budget: each seed, and the mean."""
    drawn = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("seed", "minutes", "method", *SHOWN):
        drawn.add_column(column, justify="left" if column == "method" else "right", no_wrap=True)
    seeds = [(str(r["seed"]), r["budget"], ends(r)) for r in results]
    mean = {name: {k: fmean(e[name][k] for _, _, e in seeds) for k in SHOWN} for name in seeds[0][2]}
    for seed, budget, methods in [*seeds, ("mean", fmean(r["budget"] for r in results), mean)]:
        for i, (method, metrics) in enumerate(methods.items()):
            lead = (seed, f"{budget / 60:.1f}") if i == 0 else ("", "")
            figures = [f"{metrics[key]:.3f}" for key in SHOWN]
            drawn.add_row(*lead, method, *figures, end_section=i == len(methods) - 1)
    return drawn


def ends(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics that the table compares."""
    first, ours, theirs = result["flywheel"][0], result["flywheel"][-1], result["grpo"][-1]
    return {"warm-up": first["metrics"], "GRPO": theirs["metrics"], "flywheel": ours["metrics"]}


def verdict(results: list[dict[str, Any]]) -> str:
    """In how many seeds flywheel ends higher."""
    told = []
    for key in MUST_WIN:
        won = sum(ends(r)["flywheel"][key] > ends(r)["GRPO"][key] for r in results)
        told.append(f"{key} in {won} of {len(results)} seeds")
    return f"flywheel ends higher than GRPO on {', '.join(told)}"


def plot(results: list[dict[str, Any]], file: Path) -> None:
    """Accuracy and pass@8 over minutes: a thin line per seed, a thick one for their mean."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    for axis, (key, title) in zip(axes, TITLES.items(), strict=True):
        for method, (color, mark) in LOOKS.items():
            lines = [_line(result[method.lower()], key) for result in results]
            for x, y in lines:
                axis.plot(x, y, color=color, alpha=0.35, linewidth=1)
            axis.plot(*_mean(lines), color=color, linewidth=2.5, marker=mark, label=f"{method}, mean of {len(lines)}")
        axis.set(title=title, xlabel="minutes after the warm-up")
        axis.grid(alpha=0.3)
    axes[0].legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)


def _line(points: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    return [point["seconds"] / 60 for point in points], [point["metrics"][key] for point in points]


def _mean(lines: Lines) -> tuple[list[float], list[float]]:
    """Means point by point: the n-th round or mark of every seed, at their mean time."""
    count = min(len(x) for x, _ in lines)
    x, y = ([fmean(line[axis][i] for line in lines) for i in range(count)] for axis in (0, 1))
    return x, y
