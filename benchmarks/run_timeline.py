"""What a run did when: its committed stages and their spans, without the pauses between attempts.

Every worker and agent of a run appends spans to ``timeline.rank*.jsonl``. A run that was killed and
resumed also holds spans of work that was lost, and hours in which nothing ran; neither says anything
about how fast flywheel is, so both are left out here, for all benchmarks alike:

- a stage counts from the start to the end of the attempt that committed it;
- a gap between two stages counts, unless a new attempt began in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Interval = tuple[float, float]

_SLACK = 0.005
"""Seconds by which a span may stick out of its stage: two processes read the clock."""
_CONCLUDING = 60.0
"""Most seconds from the last stage to its ``round.json``; beyond, the file was copied or touched later."""


@dataclass(frozen=True)
class Span:
    """One row of the timeline."""

    rank: int
    round: int
    stage: str
    worker: str
    phase: str
    start: float
    end: float

    @property
    def interval(self) -> Interval:
        return (self.start, self.end)


@dataclass(frozen=True)
class RoundTime:
    """A round as it was made.

    Attributes:
        number: 0 is the warm-up's.
        finished: whether it has been concluded; a round in progress ends with its last stage.
        wall: disjoint intervals whose sum is the round's wall clock.
        stages: one span of the agent's for each committed stage.
        spans: what the workers did within them, and the agent's commits.
    """

    number: int
    finished: bool
    wall: list[Interval]
    stages: list[Span]
    spans: list[Span]

    @property
    def seconds(self) -> float:
        return length(self.wall)


def read_rounds(run: Path) -> list[RoundTime]:
    """The rounds that have a committed stage, in order.

    Raises:
        FileNotFoundError: no timeline in that folder.
    """
    spans = read_spans(run)
    stages = _committed(spans)
    walls = _walls(run, stages, [s for s in spans if s.phase != "stage"])
    rounds = []
    for number in sorted({stage.round for stage in stages}):
        own = [stage for stage in stages if stage.round == number]
        inside = [s for s in spans if s.round == number and s.phase != "stage" and _within(s, own)]
        rounds.append(RoundTime(number, _conclusion(run, number).exists(), union(walls[number]), own, inside))
    return rounds


def read_spans(run: Path) -> list[Span]:
    """All rows of all ranks and attempts, by start; a half-written last line is skipped.

    Raises:
        FileNotFoundError: no timeline in that folder.
    """
    files = sorted(run.glob("timeline.rank*.jsonl"))
    if not files:
        raise FileNotFoundError(f"{run} has no timeline.rank*.jsonl: it is not a run folder, or nothing ran yet")
    rows = [row for file in files for line in file.read_text().splitlines() if (row := _parse(line)) is not None]
    return sorted((Span(**{key: row[key] for key in Span.__annotations__}) for row in rows), key=lambda s: s.start)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and row.keys() >= Span.__annotations__.keys() else None


def _committed(spans: list[Span]) -> list[Span]:
    """The agent's "stage" row of each committed stage; of one that was repaired, the last."""
    last = {(s.round, s.stage): s for s in spans if s.phase == "stage"}
    return sorted(last.values(), key=lambda s: (s.start, s.end))


def _walls(run: Path, stages: list[Span], spans: list[Span]) -> dict[int, list[Interval]]:
    """Stages plus the gaps that follow them: a round's gaps are its own until the next round starts."""
    walls: dict[int, list[Interval]] = {}
    breaks = _attempt_traces(run)
    for i, stage in enumerate(stages):
        mine = walls.setdefault(stage.round, [])
        mine.append(stage.interval)
        end = max(s.end for s in stages[: i + 1])
        if i + 1 < len(stages):
            following = stages[i + 1]
            lost = any(end < s.start and s.end < following.start for s in spans)
            # The earliest trace of an attempt is older than the end of the first stage that it commits.
            resumed = any(end < trace < following.end for trace in breaks)
            if following.start > end and not lost and not resumed:
                mine.append((end, following.start))
        else:
            concluded = _conclusion(run, stage.round)
            if concluded.exists() and 0 < concluded.stat().st_mtime - end < _CONCLUDING:
                mine.append((end, concluded.stat().st_mtime))
    return walls


def _conclusion(run: Path, number: int) -> Path:
    return run / "rounds" / f"{number:03d}" / "round.json"


def _attempt_traces(run: Path) -> list[float]:
    """When each attempt after the first had surely begun: its oldest log file."""
    traces = []
    for attempt in sorted((run / "logs").glob("attempt_[0-9]*"))[1:]:
        times = [file.stat().st_mtime for file in attempt.iterdir()]
        traces += [min(times)] if times else []
    return traces


def _within(span: Span, stages: Iterable[Span]) -> bool:
    return any(stage.start - _SLACK <= span.start and span.end <= stage.end + _SLACK for stage in stages)


# -- interval arithmetic: sorted, disjoint lists in and out --------------------------------------------


def union(intervals: Iterable[Interval]) -> list[Interval]:
    """The same points, as disjoint intervals in order."""
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        elif end > start:
            merged.append((start, end))
    return merged


def minus(a: Iterable[Interval], b: Iterable[Interval]) -> list[Interval]:
    """What of ``a`` is not in ``b``."""
    cut = union(b)
    left: list[Interval] = []
    for start, end in union(a):
        for begin, stop in cut:
            if stop <= start or begin >= end:
                continue
            if begin > start:
                left.append((start, begin))
            start = max(start, stop)
        if start < end:
            left.append((start, end))
    return left


def length(intervals: Iterable[Interval]) -> float:
    """Total seconds."""
    return sum(end - start for start, end in union(intervals))
