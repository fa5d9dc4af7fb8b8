"""Streaming filters over graded samples: each row is kept, or dropped with a reason.

A filter is a generator over rows, so one that needs to see everything first (a quantile, a
clustering) can, and one that does not holds nothing.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

from flywheel.curate.fields import DataField
from flywheel.errors import RecipeError

Row = dict[str, Any]
"""A graded sample: ``sample_id``, ``problem_id``, ``messages``, ``text``, ``tokens``, ``finish``, ``kind``, ``data``,
``score``, ``passed``, ``reason``, ``pass_rate`` (of its problem; None if undecided)."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Why a row was dropped; ``by`` is the id of the row that made it redundant."""

    reason: str
    by: str | None = None


class Filter(Protocol):
    """Says of each row whether it stays."""

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        """Every input row exactly once, with None (kept) or the reason of its drop."""
        ...


class Verified:
    """Keeps what the verifier passed. Always first, whatever the recipe says."""

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        for row in rows:
            if row["passed"] is True:
                yield row, None
            elif row["passed"] is None:
                yield row, Drop(f"undecided: {row['reason']}")
            else:
                yield row, Drop(f"wrong: {row['reason']}")


class ExactDuplicates:
    """Drops a completion that was already kept for the same problem.

    Args:
        ignore_space: treat texts that differ only in white space as equal.
    """

    def __init__(self, ignore_space: bool = True) -> None:
        self._ignore_space = ignore_space

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        kept: dict[tuple[str, str], str] = {}
        for row in rows:
            text = "".join(row["text"].split()) if self._ignore_space else row["text"]
            first = kept.setdefault((row["problem_id"], text), row["sample_id"])
            yield row, None if first == row["sample_id"] else Drop("same completion", by=first)


class CapPerProblem:
    """Keeps at most ``keep`` rows of a problem, so that easy problems do not flood the mix (ReST-EM: 10).

    Args:
        keep: rows per problem.
        prefer: "first" (sampling order) or "shortest" (fewest tokens).
    """

    def __init__(self, keep: int = 4, prefer: str = "first") -> None:
        if keep < 1:
            raise ValueError("keep must be at least 1")
        if prefer not in ("first", "shortest"):
            raise ValueError("prefer must be 'first' or 'shortest'")
        self._keep, self._prefer = keep, prefer

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        if self._prefer == "shortest":
            rows = sorted(rows, key=lambda row: (row["tokens"], row["sample_id"]))
        seen: Counter[str] = Counter()
        for row in rows:
            seen[row["problem_id"]] += 1
            yield row, None if seen[row["problem_id"]] <= self._keep else Drop(f"over the cap of {self._keep}")


class PassRate:
    """Keeps problems whose pass rate lies in a band: what is always solved teaches little.

    Args:
        min: lowest pass rate kept; a single lucky hit may be a wrong chain with the right answer.
        max: highest pass rate kept.
    """

    def __init__(self, min: float = 0.0, max: float = 1.0) -> None:
        if not 0 <= min <= max <= 1:
            raise ValueError("needs 0 <= min <= max <= 1")
        self._min, self._max = min, max

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        for row in rows:
            rate = row["pass_rate"]
            if rate is None or rate < self._min:
                yield row, Drop("pass rate below the band")
            elif rate > self._max:
                yield row, Drop("pass rate above the band")
            else:
                yield row, None


class Finished:
    """Drops completions that were cut off at the token limit."""

    def decide(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Drop | None]]:
        for row in rows:
            yield row, None if row["finish"] == "stop" else Drop("cut off at max_tokens")


FILTERS: dict[str, Any] = {
    "exact_duplicates": ExactDuplicates,
    "cap_per_problem": CapPerProblem,
    "pass_rate": PassRate,
    "finished": Finished,
    "data": DataField,
}


def make_filters(entries: list[dict[str, dict[str, Any]]]) -> list[tuple[str, Filter]]:
    """The filters of a recipe's ``curate:``, in order, after the implicit ``verified``.

    Raises:
        RecipeError: naming every unknown filter or option.
    """
    filters: list[tuple[str, Filter]] = [("verified", Verified())]
    problems = []
    for position, entry in enumerate(entries):
        for name, options in entry.items():
            where = f"curate.{position}.{name}"
            if name not in FILTERS:
                near = get_close_matches(name, FILTERS, n=1, cutoff=0.5)
                problems.append(f"{where}: no such filter" + (f"; did you mean {near[0]!r}?" if near else ""))
                continue
            known = inspect.signature(FILTERS[name]).parameters
            if unknown := [key for key in options if key not in known]:
                problems.append(f"{where}: no option {', '.join(unknown)}; known: {', '.join(known) or 'none'}")
                continue
            try:
                filters.append((name, FILTERS[name](**options)))
            except (TypeError, ValueError) as error:
                problems.append(f"{where}: {error}")
    if problems:
        raise RecipeError("\n".join(problems), hint=f"the filters are {', '.join(FILTERS)}")
    return filters


def run_filters(filters: list[tuple[str, Filter]], rows: Iterable[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Chain the filters.

    Returns:
        kept: surviving rows.
        dropped: ``sample_id``, ``problem_id``, ``filter``, ``reason``, ``removed_by`` per dropped row.
        funnel: ``filter``, ``rows_in``, ``kept`` per filter.
    """
    dropped: list[Row] = []
    funnel: list[Row] = []
    current = list(rows)
    for name, filter in filters:
        survivors = []
        for row, drop in filter.decide(current):
            if drop is None:
                survivors.append(row)
            else:
                ids = {"sample_id": row["sample_id"], "problem_id": row["problem_id"]}
                dropped.append({**ids, "filter": name, "reason": drop.reason, "removed_by": drop.by})
        funnel.append({"filter": name, "rows_in": len(current), "kept": len(survivors)})
        current = survivors
    return current, dropped, funnel
