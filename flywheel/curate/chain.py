"""Filters in a chain: each says which rows go and why; who is left goes on to the next.

Every row that goes is written down at once, with its reason, the row that made it redundant (if any) and details
(a cosine, a cluster, the n-gram that matched); the funnel counts them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.rows import MOST_ROWS, Row, Rows
from flywheel.errors import DataError

DROPPED = pa.schema(
    [
        ("sample_id", pa.string()),
        ("problem_id", pa.string()),
        ("filter", pa.string()),
        ("reason", pa.string()),
        ("removed_by", pa.string()),
        ("detail", pa.string()),  # JSON
    ]
)
"""Columns of ``dropped.parquet``."""

REASONS_SHOWN = 20
OTHER = "(other reasons)"


@dataclass(frozen=True, slots=True)
class Drop:
    """Why one row was dropped, as a row-wise filter says it; ``by`` is the id of the row that made it redundant."""

    reason: str
    by: str | None = None


@dataclass(frozen=True)
class Drops:
    """Rows that go.

    Attributes:
        ordinals: which; each row at most once in all that a filter yields.
        reason: why, for all of them or for each.
        by: ordinals of the rows that made them redundant, -1 for none; None if none for any.
        detail: further columns, one value per row: numbers or texts.
    """

    ordinals: NDArray[np.int64]
    reason: str | Sequence[str]
    by: NDArray[np.int64] | None = None
    detail: Mapping[str, Sequence[Any] | NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Aids:
    """What a filter may need from outside.

    Attributes:
        base: the folder that paths in a filter's options start from.
        scratch: a folder for what is worth keeping over a crash, such as judgements.
        heldout: the run's own held-out problems, a Parquet file of the columns in ``Problem.to_row``.
        reference: training rows of earlier rounds, to compare this round's phrases with.
        engine: makes the engine that a judge needs, given the filter's ``engine`` option (None: the run's policy);
            the caller closes it.
        progress: called with a filter's name, rows done and rows in all.
    """

    base: Path = field(default_factory=Path)
    scratch: Path | None = None
    heldout: Path | None = None
    reference: Sequence[Path] = ()
    engine: Callable[[dict[str, Any] | None], Any] | None = None
    progress: Callable[[str, int, int], None] = lambda name, done, total: None


class Filter(Protocol):
    """Says which rows go.

    A filter may also have ``check(base)``, which raises what is wrong with the files that its options name, ``engines``
    (the ``engine`` options of its judges, for ``flywheel check``) and ``report`` (what it measured, once it has run).
    """

    @property
    def columns(self) -> Sequence[str]:
        """What it reads; the chain looks for them before anything runs."""
        ...

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        """The rows that go, in any number of portions. It may scan the rows as often as it needs."""
        ...


class RowWise:
    """The simple form of a filter, for one that looks at one row after the other.

    Wraps a class with ``decide(rows)``, which yields every row that it is given with None (kept) or a ``Drop``. The
    rows are dictionaries; a ``columns`` attribute on the class spares reading the others.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        wanted = getattr(inner, "columns", None)
        self.columns: Sequence[str] = () if wanted is None else ("sample_id", *(c for c in wanted if c != "sample_id"))
        self._all = wanted is None

    def drops(self, rows: Rows, aids: Aids) -> Iterator[Drops]:
        places = _Places(rows)
        given = dict.fromkeys(rows.alive.nonzero()[0].tolist())
        stream = (row for _, row in rows.dicts(None if self._all else self.columns))
        going: list[tuple[int, str, int]] = []
        for row, drop in self._inner.decide(stream):
            ordinal = places.of(row["sample_id"])
            if ordinal not in given:
                raise DataError(
                    f"{type(self._inner).__name__}.decide yielded {row['sample_id']!r} twice, or made it up"
                )
            del given[ordinal]
            if drop is not None:
                going.append((ordinal, drop.reason, -1 if drop.by is None else places.of(drop.by)))
            if len(going) == MOST_ROWS:
                yield self._portion(going)
                going = []
        yield self._portion(going)
        if given:
            raise DataError(f"{type(self._inner).__name__}.decide left out {len(given)} rows: it must yield every row")

    @staticmethod
    def _portion(going: list[tuple[int, str, int]]) -> Drops:
        ordinals, reasons, by = zip(*going, strict=True) if going else ((), (), ())
        return Drops(np.array(ordinals, np.int64), reasons, np.array(by, np.int64))


class _Places:
    """Ordinals by id."""

    def __init__(self, rows: Rows) -> None:
        self._by_id: dict[str, int] = dict(zip(rows.ids.to_pylist(), range(rows.count), strict=True))

    def of(self, id: str) -> int:
        if id not in self._by_id:
            raise DataError(f"a filter names the row {id!r}, which is not there")
        return self._by_id[id]


class Sink(Protocol):
    """Where dropped rows are written."""

    def write(self, table: pa.Table) -> None: ...


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.tables: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self.tables.append(table)

    def rows(self) -> list[Row]:
        return pa.concat_tables(self.tables).to_pylist() if self.tables else []


def run_chain(
    filters: Sequence[tuple[str, Filter]], rows: Rows, dropped: Sink, aids: Aids | None = None
) -> list[dict[str, Any]]:
    """Run the filters one after the other; afterwards ``rows`` holds who is left.

    Args:
        filters: name and filter, in order.
        rows: all rows; their ``alive`` is cleared as they go.
        dropped: gets a table of the columns ``DROPPED`` for every portion.
        aids: what filters may need from outside.

    Returns:
        The funnel: per filter ``filter``, ``rows_in``, ``kept``, ``dropped`` (its reasons with their counts), and, of a
        filter that measures something, its ``report``.

    Raises:
        DataError: a column that a filter needs is not there; all of them are named, before any filter has run.
    """
    aids = aids or Aids()
    _check_columns(filters, rows)
    problems = _Problems(rows)
    funnel = []
    for name, filter in filters:
        entering = len(rows)
        going = np.zeros(rows.count, bool)
        reasons: Counter[str] = Counter()
        for portion in filter.drops(rows, aids):
            if not len(portion.ordinals):
                continue
            again = going[portion.ordinals] | ~rows.alive[portion.ordinals]
            assert not again.any(), f"filter {name} drops a row that is gone"
            going[portion.ordinals] = True
            assert (
                np.count_nonzero(going[portion.ordinals]) == len(np.unique(portion.ordinals)) == len(portion.ordinals)
            )
            dropped.write(_table(name, portion, rows, problems))
            reasons.update(
                [portion.reason] * len(portion.ordinals) if isinstance(portion.reason, str) else portion.reason
            )
        rows.alive &= ~going
        step = {"filter": name, "rows_in": entering, "kept": len(rows), "dropped": _counted(reasons)}
        if report := getattr(filter, "report", None):
            step["report"] = report
        funnel.append(step)
    return funnel


def run_filters(
    filters: Sequence[tuple[str, Filter]], rows: Sequence[Row], aids: Aids | None = None
) -> tuple[list[Row], list[Row], list[Row]]:
    """Run a chain over rows in memory: for tests, notebooks and a few thousand rows.

    Returns:
        kept: the surviving rows, in their order.
        dropped: the columns ``DROPPED`` of the others.
        funnel: as from ``run_chain``.
    """
    if not rows:  # and so no columns
        return [], [], [{"filter": name, "rows_in": 0, "kept": 0, "dropped": {}} for name, _ in filters]
    alive, sink = Rows.of(rows), Kept()
    funnel = run_chain(filters, alive, sink, aids)
    return [rows[i] for i in np.flatnonzero(alive.alive)], sink.rows(), funnel


def _check_columns(filters: Sequence[tuple[str, Filter]], rows: Rows) -> None:
    lacking = [
        f"filter {name} needs the column {column!r}, which is not there"
        for name, filter in filters
        for column in filter.columns
        if not rows.has(column)
    ]
    if lacking:
        raise DataError("\n".join(lacking), hint=f"the columns are {', '.join(rows.names)}")


class _Problems:
    """Each row's problem, for the record; held as codes, not as texts."""

    def __init__(self, rows: Rows) -> None:
        self._codes: NDArray[np.int64] | None = None
        self._names: Any = None
        if rows.has("problem_id"):
            self._codes, self._names = rows.codes("problem_id")

    def of(self, ordinals: NDArray[np.int64]) -> pa.Array:
        if self._codes is None:
            return pa.nulls(len(ordinals), pa.string())
        return self._names.take(pa.array(self._codes[ordinals]))


def _table(name: str, portion: Drops, rows: Rows, problems: _Problems) -> pa.Table:
    count = len(portion.ordinals)
    reason = [portion.reason] * count if isinstance(portion.reason, str) else list(portion.reason)
    by = pa.nulls(count, pa.string())
    if portion.by is not None:
        by = rows.ids.take(pa.array(portion.by, mask=portion.by < 0))
    columns = [rows.ids.take(pa.array(portion.ordinals)), problems.of(portion.ordinals), [name] * count, reason, by]
    arrays = [*columns, _details(portion.detail, count)]
    return pa.Table.from_arrays(
        [pa.array(x, kind) for x, kind in zip(arrays, DROPPED.types, strict=True)], schema=DROPPED
    )


def _details(detail: Mapping[str, Sequence[Any] | NDArray[Any]], count: int) -> list[str]:
    if not detail:
        return ["{}"] * count
    plain = {key: values.tolist() if isinstance(values, np.ndarray) else values for key, values in detail.items()}
    return [
        json.dumps(dict(zip(plain, values, strict=True)), ensure_ascii=False)
        for values in zip(*plain.values(), strict=True)
    ]


def _counted(reasons: Counter[str]) -> dict[str, int]:
    """Reasons by frequency; where there are very many, the rare ones together."""
    ranked = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = dict(ranked[:REASONS_SHOWN])
    rest = sum(count for _, count in ranked[REASONS_SHOWN:])
    return {**shown, OTHER: rest} if rest else shown


def show_funnel(funnel: Iterable[Mapping[str, Any]], reasons: int = 3) -> list[str]:
    """Lines for people: rows in, kept, and the commonest reasons of each filter."""
    lines = []
    for step in funnel:
        gone = step["rows_in"] - step["kept"]
        lines.append(f"{step['filter']:<20} {step['rows_in']:>12,} -> {step['kept']:>12,}   dropped {gone:,}")
        lines += [f"{count:>36,}   {reason}" for reason, count in list(step.get("dropped", {}).items())[:reasons]]
    return lines
