"""Deduplicating a Parquet file, or a folder of parts, without holding its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.curate.chain import Aids, Drops
from flywheel.curate.dedup import Dedup, NearExact
from flywheel.curate.rows import MOST_ROWS, ParquetSource, Rows, open_parquet
from flywheel.errors import DataError
from flywheel.files import ParquetSink

CONTENT = {"text": "text", "messages": "conversation", "embedding": "embedding"}
"""Kind of content: what filters call its column."""
GUESSED_IDS = ("id", "sample_id", "row_id")
ROW_NUMBER = "row"


@dataclass(frozen=True)
class Columns:
    """What the columns of a file are.

    Attributes:
        kind: "text", "messages" or "embedding".
        content: the column of it.
        score: the column that says which of two duplicates is better, higher is; None: all are equal.
        id: the column of ids; None: one of ``GUESSED_IDS`` that tells rows apart, else rows are numbered from 0.
    """

    kind: str
    content: str
    score: str | None = None
    id: str | None = None


def dedup_file(
    file: Path, out: Path, removed: Path, columns: Columns, filters: Sequence[Dedup | NearExact], aids: Aids
) -> dict[str, Any]:
    """Write the kept rows, in their order and with all their columns, and the removed ones with why they are.

    Args:
        file: a Parquet file, or a folder of parts.
        out: gets the kept rows.
        removed: gets the removed rows: their columns, ``removed_by`` (an id, or a row's number from 0 where there are
            no ids), ``cosine`` and ``cluster`` (null where they are near-exact), ``similarity`` and ``reason``.
        columns: what is what.
        filters: run one after the other.
        aids: for their progress.

    Returns:
        Counts: ``rows``, ``kept``, ``removed``, ``reasons``, ``not_compared`` and what the filters report.

    Raises:
        DataError: a file or column that is missing or holds something else.
    """
    source = _Source(file, columns)
    rows = Rows(source)
    decisions = _Decisions(rows.count)
    report: dict[str, Any] = {"not_compared": {}}
    for filter in filters:
        gone = np.zeros(rows.count, bool)
        for portion in filter.drops(rows, aids):
            if not len(portion.ordinals):
                continue
            decisions.note(portion)
            gone[portion.ordinals] = True
        rows.alive &= ~gone
        report |= getattr(filter, "report", {})
    _write(source, rows, decisions, out, removed)
    reasons = {reason: int(np.count_nonzero(decisions.reason == i)) for i, reason in enumerate(decisions.reasons)}
    counts = {"ids": source.id or "row numbers", "rows": rows.count}
    return counts | {"kept": len(rows), "removed": rows.count - len(rows), "reasons": reasons} | report


class _Source:
    """A file's columns under the names that filters know them by; nothing else of it can influence them."""

    def __init__(self, file: Path, columns: Columns) -> None:
        files = sorted(file.glob("*.parquet")) if file.is_dir() else [file]
        if not files:
            raise DataError(f"the folder {file} has no *.parquet")
        self.schema: pa.Schema = open_parquet(files[0]).schema_arrow
        there = self.schema.names
        named = {CONTENT[columns.kind]: columns.content}
        if columns.score is not None:
            named["score"] = columns.score
        id = columns.id or next((name for name in GUESSED_IDS if name in there and _are_ids(files, name)), None)
        if id is not None:
            named["sample_id"] = id
        if lacking := [name for name in named.values() if name not in there]:
            near = [match for name in lacking for match in get_close_matches(name, there, n=1, cutoff=0.5)]
            raise DataError(
                f"{file} has no column {', '.join(map(repr, lacking))}"
                + (f"; did you mean {', '.join(map(repr, near))}?" if near else ""),
                hint=f"its columns are {', '.join(there)}",
            )
        self.all = ParquetSource(files)
        self._named = ParquetSource(files, named) if len(set(named.values())) == len(named) else None
        if self._named is None:
            raise DataError(
                "one column is named for two purposes", hint="ids, scores and contents are columns of their own"
            )
        self.id: str | None = id
        self.count = self.all.count
        self.names = ["sample_id", *(name for name in named if name != "sample_id")]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if list(columns) == ["sample_id"] and self.id is None:
            for first in range(0, self.count, MOST_ROWS):
                numbers = pa.array(np.arange(first, min(first + MOST_ROWS, self.count)))
                yield pa.RecordBatch.from_arrays([numbers], names=["sample_id"])
        else:
            assert self._named is not None
            yield from self._named.batches(columns)


def _are_ids(files: Sequence[Path], column: str) -> bool:
    """Whether a column that nobody named tells rows apart."""
    values = pa.chunked_array(
        [c for file in files for c in open_parquet(file).read(columns=[column])[0].chunks] or [[]]
    )
    nested = pa.types.is_nested(values.type)
    return not nested and not values.null_count and int(pc.count_distinct(values).as_py()) == len(values)


class _Decisions:
    """What was decided of each row, by ordinal."""

    def __init__(self, count: int) -> None:
        self.by = np.full(count, -1, np.int64)
        self.reason = np.full(count, -1, np.int8)
        self.reasons: list[str] = []
        self.detail = {name: np.full(count, np.nan) for name in ("cosine", "cluster", "similarity")}

    def note(self, portion: Drops) -> None:
        assert isinstance(portion.reason, str) and portion.by is not None
        if portion.reason not in self.reasons:
            self.reasons.append(portion.reason)
        self.by[portion.ordinals] = portion.by
        self.reason[portion.ordinals] = self.reasons.index(portion.reason)
        for name, values in portion.detail.items():
            self.detail[name][portion.ordinals] = values

    def columns(self, ordinals: NDArray[np.int64], ids: pa.Array, kind: pa.DataType) -> Mapping[str, pa.Array]:
        def number(name: str, type: pa.DataType) -> pa.Array:
            values = self.detail[name][ordinals]
            return pa.array(values, mask=np.isnan(values)).cast(type)

        return {
            "removed_by": ids.take(pa.array(self.by[ordinals])).cast(kind),
            "cosine": number("cosine", pa.float64()),
            "cluster": number("cluster", pa.int32()),
            "similarity": number("similarity", pa.float64()),
            "reason": pa.array([self.reasons[i] for i in self.reason[ordinals]], pa.string()),
        }


def _ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same, with the next one read while one is written."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _write(source: _Source, rows: Rows, decisions: _Decisions, out: Path, removed: Path) -> None:
    own = source.schema
    kind = pa.int64() if source.id is None else own.field(source.id).type
    empty = decisions.columns(np.empty(0, np.int64), rows.ids, kind)
    # A column of the file that is called like one of ours stays, under another name.
    others = [f"input_{name}" if name in empty else name for name in own.names]
    fields = [pa.field(name, field.type) for name, field in zip(others, own, strict=True)]
    if source.id is None:
        fields.append(pa.field(ROW_NUMBER if ROW_NUMBER not in others else "row_number", pa.int64()))
    schema = pa.schema([*fields, *(pa.field(name, array.type) for name, array in empty.items())])
    with ParquetSink(out, own) as kept, ParquetSink(removed, schema) as dropped:
        first = 0
        for batch in _ahead(source.all.batches(own.names)):
            alive = rows.alive[first : first + len(batch)]
            gone = np.flatnonzero(~alive)
            kept.write(pa.table(batch.filter(pa.array(alive))))
            if len(gone):
                ordinals = gone + first
                arrays = batch.take(pa.array(gone)).columns
                numbers = [pa.array(ordinals)] if source.id is None else []
                told = decisions.columns(ordinals, rows.ids, kind).values()
                dropped.write(pa.Table.from_arrays([*arrays, *numbers, *told], names=schema.names))
            first += len(batch)
