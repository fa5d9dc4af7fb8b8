"""Difficulty: measured, kept in a band, and compared before and after, so that lost hard prompts are seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.judged import Judge, judge_rows
from flywheel.curate.rows import Rows
from flywheel.verify import load_rubric

MEASURES = ("pass_rate", "intentions", "judge")
BINS = 10


class Difficulty:
    """Measures how hard each row's problem is, and keeps a band of it.

    `pass_rate`: 1 - the pass rate of the problem's verified group. `intentions`: how many things the prompt asks for
    (Instag). `judge`: three points. Leaves the difficulty to later filters; without limits it drops nothing.

    Args:
        by: `pass_rate`, `intentions` or `judge`.
        min: least difficulty kept, in the measure's own unit; null: no limit.
        max: greatest difficulty kept; null: no limit.
        ends: with `pass_rate`: false drops problems that are always or never solved.
        votes: of the judge.
        rubric: a Markdown file instead of the shipped `intentions` or `difficulty`.
        engine: as in `self_filter`.
    """

    def __init__(
        self,
        by: str = "pass_rate",
        min: float | None = None,
        max: float | None = None,
        ends: bool = True,
        votes: int = 1,
        rubric: str | None = None,
        engine: dict[str, Any] | None = None,
    ) -> None:
        if by not in MEASURES:
            raise ValueError(f"by must be one of {', '.join(MEASURES)}")
        if min is not None and max is not None and min > max:
            raise ValueError("needs min <= max")
        self._by, self._min, self._max, self._ends = by, min, max, ends
        shipped = "intentions" if by == "intentions" else "difficulty"
        self._judge = None if by == "pass_rate" else Judge(rubric or shipped, votes, engine)
        self.engines = [] if self._judge is None else [engine]
        self.columns = ("pass_rate",) if by == "pass_rate" else ("problem_id", "prompt")
        self.report: dict[str, Any] = {}

    def check(self, base: Path) -> None:
        """Raise what is wrong with the files that the options name."""
        if self._judge is not None:
            load_rubric(self._judge.rubric, base)

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        values = 1 - rows.numbers("pass_rate") if self._judge is None else self._judged(rows, aids, self._judge)
        rows.note("difficulty", values)
        before = histogram(values[rows.alive])
        alive = rows.alive
        unknown = alive & np.isnan(values)
        low = alive & (values < (-np.inf if self._min is None else self._min))
        high = alive & (values > (np.inf if self._max is None else self._max))
        always, never = alive & (values == 0), alive & (values == 1)
        if self._by != "pass_rate" or self._ends:
            always = never = np.zeros(rows.count, bool)
        limited = self._min is not None or self._max is not None or not self._ends
        gone = np.zeros(rows.count, bool)
        for out, reason in (
            (unknown & limited, "difficulty undecided"),
            (low, "too easy"),
            (high, "too hard"),
            (always, "always solved"),
            (never, "never solved"),
        ):
            at = np.flatnonzero(out & ~gone)
            gone |= out
            shown = [None if np.isnan(value) else round(float(value), 4) for value in values[at]]
            yield Drops(at, reason, detail={"difficulty": shown})
        self.report = {"by": self._by, "before": before, "after": histogram(values[alive & ~gone])}

    def _judged(self, rows: Rows, aids: Aids, judging: Judge) -> NDArray[np.float64]:
        """Each problem is judged once, by its first row; all of its rows have its difficulty."""
        codes, names = rows.codes("problem_id")
        alive = np.flatnonzero(rows.alive)
        order = alive[np.lexsort((rows.rank[alive], codes[alive]))]
        first = order[np.unique(codes[order], return_index=True)[1]]
        asked = np.zeros(rows.count, bool)
        asked[first] = True
        of_problem = np.full(len(names) + 1, np.nan)
        for said in judge_rows(f"difficulty by {self._by}", rows, judging, aids, asked):
            of_problem[codes[said.ordinals]] = said.scores
        return np.where(rows.alive, of_problem[codes], np.nan)


def before_and_after(rows: Rows, entered: NDArray[np.bool_]) -> dict[str, Any]:
    """How hard the problems are, of which there were rows before curation, and after: hard ones are lost first.

    Args:
        rows: after the last filter.
        entered: which rows were alive before the first; their problems are counted once each.
    """
    kept = rows.alive
    rows.alive = entered
    try:
        if not (rows.has("pass_rate") and rows.has("problem_id")):
            return {}
        values, (codes, names) = 1 - rows.numbers("pass_rate"), rows.codes("problem_id")
    finally:
        rows.alive = kept
    of_problem = np.full(len(names), np.nan)
    of_problem[codes[entered]] = values[entered]
    after = of_problem[np.unique(codes[kept])]
    return {
        "measure": "1 - pass rate, problems",
        "never solved": int(np.count_nonzero(of_problem == 1)),
        "before": histogram(of_problem[of_problem != 1]),
        "after": histogram(after[after != 1]),
    }


def histogram(values: NDArray[np.float64], edges: NDArray[np.float64] | None = None) -> dict[str, int]:
    """Counts by range of values; the unknown ones apart. Shares are counted in tenths, scores each by itself."""
    known = values[~np.isnan(values)]
    counts: dict[str, int] = {}
    if len(known) and edges is None and known.max() > 1:
        marks, sizes = np.unique(np.round(known), return_counts=True)
        counts = {f"{mark:g}": int(size) for mark, size in zip(marks, sizes, strict=True)}
    else:
        edges = np.linspace(0, 1, BINS + 1) if edges is None else edges
        sizes, _ = np.histogram(known, edges)
        counts = {f"{low:.1f}-{high:.1f}": int(n) for low, high, n in zip(edges, edges[1:], sizes, strict=False)}
    if len(known) < len(values):
        counts["unknown"] = len(values) - len(known)
    return counts
