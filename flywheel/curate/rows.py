"""Rows on disk, as filters see them: scanned in batches, as often as wanted, by the columns wanted.

Nothing holds all rows. What is held for each row is its id, one bit that says whether it is still alive, and the
numbers that filters note down (``quality``, ``difficulty``).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flywheel.curate.columns import as_text, recipe_for
from flywheel.errors import DataError

Row = dict[str, Any]
"""A row as a user's own filter sees it. In a run: ``sample_id``, ``problem_id``, ``prompt``, ``messages``, ``text``,
``tokens``, ``finish``, ``kind``, ``data``, ``score``, ``passed``, ``reason``, ``pass_rate`` (of its problem; None if
undecided), and what derives from them (``columns.DERIVED``)."""

BATCH_BYTES = 16 << 20
MOST_ROWS = 8192
T = TypeVar("T")


@dataclass(frozen=True)
class Batch:
    """Some rows that are alive.

    Attributes:
        ordinals: their places in the source, from 0, increasing; int64.
        table: the columns that were asked for.
    """

    ordinals: NDArray[np.int64]
    table: pa.RecordBatch

    def __len__(self) -> int:
        return len(self.ordinals)

    def column(self, name: str) -> pa.Array:
        return self.table.column(name)

    def text(self, name: str) -> pa.Array:
        """A column as plain strings; null is empty."""
        return as_text(self.table.column(name))

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as floats; null is NaN."""
        return as_numbers(self.table.column(name))


class Source(Protocol):
    """Where rows lie: columns by name, in an order that stays."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def count(self) -> int: ...

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows, in order, with these columns."""
        ...


class ParquetSource:
    """Parquet parts, one after the other.

    Args:
        files: the parts.
        named: the name that filters know a column by, and what the file calls it; others keep their names.

    Raises:
        DataError: a part is missing, is not Parquet, or has other columns than the first.
    """

    def __init__(self, files: Sequence[Path], named: Mapping[str, str] | None = None) -> None:
        self._files = list(files)
        self._named = dict(named or {})
        self.count: int = 0
        bytes_ = 0
        schema: pa.Schema | None = None
        for file in self._files:
            parquet = open_parquet(file)
            found = parquet.schema_arrow.remove_metadata()
            if schema is not None and set(found.names) != set(schema.names):
                odd = ", ".join(sorted(set(found.names) ^ set(schema.names)))
                raise DataError(f"{file} and {self._files[0]} differ in columns: {odd}")
            schema = schema or found
            self.count += parquet.metadata.num_rows
            bytes_ += sum(parquet.metadata.row_group(i).total_byte_size for i in range(parquet.num_row_groups))
        self._size = int(np.clip(BATCH_BYTES // max(1, bytes_ // max(1, self.count)), 64, MOST_ROWS))
        self.schema: pa.Schema = schema if schema is not None else pa.schema([])
        if wrong := [actual for actual in self._named.values() if actual not in self.schema.names]:
            raise DataError(
                f"{self._files[0]} has no column {', '.join(wrong)}", hint=f"it has {', '.join(self.schema.names)}"
            )
        hidden = set(self._named.values())
        self.names: list[str] = [
            *self._named,
            *(n for n in self.schema.names if n not in hidden and n not in self._named),
        ]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        actual = [self._named.get(name, name) for name in columns]
        for file in self._files:
            for batch in open_parquet(file).iter_batches(self._size, columns=sorted(set(actual))):
                yield pa.RecordBatch.from_arrays([batch.column(name) for name in actual], names=list(columns))


class TableSource:
    """Rows in memory: for tests, and for tables small enough."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self.names, self.count = table.column_names, len(table)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if columns:
            yield from self._table.select(list(columns)).to_batches(MOST_ROWS)


class Rows:
    """The rows of a source that are still alive.

    Attributes:
        count: rows of the source, dead ones included.
        alive: which are alive; bool by ordinal. The chain clears it; filters only read it.
        notes: numbers that filters left for later ones, such as ``quality``; float64 by ordinal, NaN where unknown.

    Raises:
        DataError: no column ``sample_id``, or an id that is null or stands twice.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.count = source.count
        self.alive: NDArray[np.bool_] = np.ones(source.count, bool)
        self.notes: dict[str, NDArray[np.float64]] = {}
        if "sample_id" not in source.names:
            raise DataError("the rows have no ids", hint=f"the columns are {', '.join(source.names)}")
        self.ids: pa.Array = _all_ids(source)

    @classmethod
    def of(cls, rows: Sequence[Row] | pa.Table) -> Rows:
        """Rows in memory."""
        return cls(TableSource(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows))))

    def __len__(self) -> int:
        """How many are alive."""
        return int(np.count_nonzero(self.alive))

    def has(self, column: str) -> bool:
        """Whether a column is there, or can be derived from those that are."""
        return column in self._source.names or recipe_for(column, self._source.names) is not None

    @property
    def names(self) -> list[str]:
        """The source's own columns."""
        return list(self._source.names)

    def scan(self, *columns: str) -> Iterator[Batch]:
        """The rows that are alive now, in order; each call starts over.

        Raises:
            DataError: a column that is not there and cannot be derived.
        """
        plan = self._plan(columns)
        alive = self.alive.copy()
        start = 0
        for whole in self._source.batches(plan):
            living = alive[start : start + len(whole)]
            ordinals = np.flatnonzero(living) + start
            start += len(whole)
            if len(ordinals):
                batch = whole if len(ordinals) == len(whole) else whole.filter(pa.array(living))
                yield Batch(ordinals, self._derived(batch, columns))

    def map(self, function: Callable[[Batch], T], *columns: str) -> Iterator[tuple[Batch, T]]:
        """Apply a function to every batch, on all cores; Arrow and NumPy leave them free. Results come in order."""
        workers = len(os.sched_getaffinity(0))
        waiting: deque[tuple[Batch, Future[T]]] = deque()
        with ThreadPoolExecutor(workers) as pool:
            for batch in self.scan(*columns):
                waiting.append((batch, pool.submit(function, batch)))
                if len(waiting) > 2 * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()

    def dicts(self, columns: Iterable[str] | None = None) -> Iterator[tuple[int, Row]]:
        """The rows that are alive, one by one, as dictionaries."""
        wanted = list(columns) if columns is not None else self.names
        for batch in self.scan(*wanted):
            yield from zip(batch.ordinals.tolist(), batch.table.to_pylist(), strict=True)

    def numbers(self, column: str) -> NDArray[np.float64]:
        """A column of all rows as float64 by ordinal: NaN where it is null, and for dead rows."""
        values = np.full(self.count, np.nan)
        for batch in self.scan(column):
            values[batch.ordinals] = batch.numbers(column)
        return values

    def codes(self, column: str) -> tuple[NDArray[np.int64], pa.Array]:
        """A column of short texts as numbers by ordinal (-1 for dead rows), and the distinct values they stand for."""
        codes = np.full(self.count, -1, np.int64)
        batches = [(batch.ordinals, batch.text(column)) for batch in self.scan(column)]
        if not batches:
            return codes, pa.array([], pa.string())
        coded = pa.chunked_array([values for _, values in batches]).dictionary_encode().unify_dictionaries()
        for (ordinals, _), chunk in zip(batches, coded.chunks, strict=True):
            codes[ordinals] = chunk.indices.to_numpy(zero_copy_only=False)
        return codes, coded.chunk(0).dictionary

    @cached_property
    def rank(self) -> NDArray[np.int64]:
        """Place of each row by id, shorter ids first: breaks ties alike in whatever order the rows lie.

        Ids that end in a number are thus in that number's order, as a problem's samples are.
        """
        table = pa.table({"length": pc.binary_length(self.ids), "id": self.ids})
        order = pc.sort_indices(table, sort_keys=[("length", "ascending"), ("id", "ascending")]).to_numpy()
        rank = np.empty(self.count, np.int64)
        rank[order] = np.arange(self.count)
        return rank

    def note(self, name: str, values: NDArray[np.float64]) -> None:
        """Leave a number for each row to later filters, and to the record of why rows were kept."""
        assert len(values) == self.count
        self.notes[name] = np.asarray(values, np.float64)

    def quality(self) -> NDArray[np.float64]:
        """What "better" means when one row must go: the noted quality, else the column ``reward`` or ``score``.

        Rows without one count as the worst; where there is none at all, all rows are equal.
        """
        if "quality" in self.notes:
            values = self.notes["quality"]
        else:
            column = next((name for name in ("reward", "score") if self.has(name)), None)
            values = np.zeros(self.count) if column is None else self.numbers(column)
        return np.where(np.isnan(values), -np.inf, values)

    def difficulty(self) -> NDArray[np.float64]:
        """The noted difficulty, else 1 - pass rate; 1 where unknown, so that quality alone decides."""
        values = self.notes.get("difficulty")
        if values is None:
            values = 1 - self.numbers("pass_rate") if self.has("pass_rate") else np.ones(self.count)
        return np.where(np.isnan(values), 1.0, values)

    def _plan(self, columns: Iterable[str]) -> list[str]:
        """The source's columns that are needed for these."""
        plan: dict[str, None] = {}
        for name in columns:
            if name in self._source.names:
                plan[name] = None
            elif (way := recipe_for(name, self._source.names)) is not None:
                plan |= dict.fromkeys(self._plan(way[0]))
            else:
                raise DataError(f"there is no column {name!r}", hint=f"the columns are {', '.join(self._source.names)}")
        return list(plan)

    def _derived(self, batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
        if batch.schema.names == list(columns):
            return batch
        made: dict[str, pa.Array] = dict(zip(batch.schema.names, batch.columns, strict=True))

        def get(name: str) -> pa.Array:
            if name not in made:
                way = recipe_for(name, self._source.names)
                assert way is not None  # the plan has it
                made[name] = way[1](*(get(need) for need in way[0]))
            return made[name]

        return pa.RecordBatch.from_arrays([get(name) for name in columns], names=list(columns))


def as_numbers(array: pa.Array) -> NDArray[np.float64]:
    """An Arrow column as float64; null is NaN.

    Raises:
        DataError: it holds something else than numbers.
    """
    try:
        cast = array.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"a column that should hold numbers holds {array.type}: {error}") from error
    values: NDArray[np.float64] = cast.to_numpy(zero_copy_only=False)
    return values


def open_parquet(file: Path) -> pq.ParquetFile:
    """A Parquet file, its pages read as they are needed; not mapped, since what was mapped counts as memory in use.

    Raises:
        DataError: it is missing, or not Parquet.
    """
    try:
        return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read as Parquet: {error}") from error


def _all_ids(source: Source) -> pa.Array:
    parts = [batch.column(0).cast(pa.string()) for batch in source.batches(["sample_id"])]
    ids = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    if ids.null_count:
        raise DataError(f"{ids.null_count} rows have no id")
    if (distinct := pc.count_distinct(ids).as_py()) != len(ids):
        counts = pc.value_counts(ids)
        twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))[0].as_py()
        raise DataError(
            f"{len(ids) - distinct} ids stand more than once, such as {twice['values']!r}, {twice['counts']} times",
            hint="every row needs an id of its own",
        )
    return ids
