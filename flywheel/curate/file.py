"""Curating one Parquet file of dialogues, as ``flywheel curate`` does; no run and no recipe is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from flywheel.curate.chain import DROPPED, Aids, Filter, run_chain
from flywheel.curate.difficulty import before_and_after
from flywheel.curate.rows import MOST_ROWS, ParquetSource, Rows, open_parquet
from flywheel.errors import DataError
from flywheel.files import ParquetSink, write_json

CONVERSATIONS = ("messages", "conversation", "conversations", "dialogue", "chat")
ANSWERS = ("completion", "response", "answer", "output", "chosen")
PROMPTS = ("prompt", "question", "instruction", "problem", "input")
IDS = ("sample_id", "id", "row_id", "uuid")


@dataclass(frozen=True)
class Columns:
    """Where a file has what filters read; None: looked for under the usual names.

    Attributes:
        messages: whole conversations, as lists of messages.
        prompt: what was asked, text or messages.
        completion: what was answered, text or messages.
        text: whole dialogues as plain text.
        id: unique ids; where there are none, they are made from content and place.
        problem: what several answers have in common; else rows with the same question are one problem.
        reward: a score.
    """

    messages: str | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    id: str | None = None
    problem: str | None = None
    reward: str | None = None


def curate_file(
    file: Path,
    out: Path,
    filters: Sequence[tuple[str, Filter]],
    columns: Columns | None = None,
    aids: Aids | None = None,
) -> list[dict[str, Any]]:
    """Write ``kept.parquet``, ``dropped.parquet``, ``funnel.json`` and ``difficulty.json`` to a folder.

    Args:
        file: Parquet, or a folder of parts with the same columns.
        out: the folder; made if it is not there.
        filters: as from ``make_filters``.
        columns: the file's columns.
        aids: what filters may need from outside; judgements are kept in ``out`` until it is finished.

    Returns:
        The funnel.

    Raises:
        DataError: the input cannot be read, lacks a column, or ``out`` is finished already.
    """
    if (out / "funnel.json").exists():
        raise DataError(f"{out} holds a finished curation", hint=f"choose another folder, or: rm -r {out}")
    parts = sorted(file.glob("*.parquet")) if file.is_dir() else [file]
    if not parts:
        raise DataError(f"{file} has no Parquet files")
    source = open_source(parts, columns or Columns())
    rows = Rows(source)
    entered = rows.alive.copy()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made: {error.strerror}") from error
    aids = replace(aids or Aids(), scratch=out)
    with ParquetSink(out / "dropped.parquet", DROPPED) as dropped:
        funnel = run_chain(filters, rows, dropped, aids)
    _write_kept(parts, source, rows, out / "kept.parquet")
    write_json(out / "difficulty.json", before_and_after(rows, entered))
    write_json(out / "funnel.json", funnel)
    for scratch in out.glob(".judged.*"):
        scratch.unlink()
    return funnel


def open_source(parts: Sequence[Path], columns: Columns) -> Identified | ParquetSource:
    """The file under the names that filters know.

    Raises:
        DataError: there is nothing that looks like a dialogue, or a column that was named is not there.
    """
    schema = open_parquet(parts[0]).schema_arrow
    found = _named(schema, columns, whole=_whole_conversations(parts[0], schema))
    named = {name: actual for name, actual in found.items() if name != actual}
    source = ParquetSource(parts, named)
    return source if "sample_id" in source.names else Identified(source)


class Identified:
    """A source that is given ids: a hash of the row's content, and its place.

    Content comes first, so that ties between rows are broken alike in whatever order the rows lie.
    """

    def __init__(self, source: ParquetSource) -> None:
        self._source = source
        self.count = source.count
        self.names = ["sample_id", *source.names]
        parts: list[pa.Array] = []
        start = 0
        for batch in source.batches(source.names):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            parts.append(pa.array([f"{_digest(row)}-{i:09d}" for i, row in enumerate(rows, start)], pa.string()))
            start += len(batch)
        self._ids = pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        others = [name for name in columns if name != "sample_id"]
        if not others:
            for begin in range(0, self.count, MOST_ROWS):
                yield pa.RecordBatch.from_arrays([self._ids.slice(begin, MOST_ROWS)], names=["sample_id"])
            return
        start = 0
        for batch in self._source.batches(others):
            made = {"sample_id": self._ids.slice(start, len(batch)), **dict(zip(others, batch.columns, strict=True))}
            start += len(batch)
            yield pa.RecordBatch.from_arrays([made[name] for name in columns], names=list(columns))


def _digest(row: tuple[Any, ...]) -> str:
    return hashlib.blake2b(repr(row).encode(errors="replace"), digest_size=8).hexdigest()


def _whole_conversations(file: Path, schema: pa.Schema) -> list[str]:
    """Columns of messages that begin with a question: they need no prompt beside them."""
    lists = [name for name in schema.names if _is_list(schema.field(name).type)]
    first: dict[str, Any] = {}
    for batch in open_parquet(file).iter_batches(256, columns=lists):
        for row in batch.to_pylist():
            first = {name: first.get(name) or (row[name] or [None])[0] for name in lists}
        break
    roles = {name: m.get("role", m.get("from")) for name, m in first.items() if isinstance(m, dict)}
    return [name for name, role in roles.items() if role not in ("assistant", "gpt", None)]


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _named(schema: pa.Schema, given: Columns, whole: Sequence[str]) -> dict[str, str]:
    """Names that filters know, and the file's own.

    Args:
        schema: the file's columns.
        given: those that the user named.
        whole: columns that hold whole conversations.
    """
    there = schema.names
    if missing := [name for name in vars(given).values() if name is not None and name not in there]:
        raise DataError(f"there is no column {', '.join(missing)}", hint=f"the columns are {', '.join(there)}")
    named: Mapping[str, str | None]
    asked = given.prompt or next((name for name in PROMPTS if name in there), None)
    if given.text:
        named = {"text": given.text}
    elif given.messages or given.completion:
        named = {"conversation": given.messages} if given.messages else {"prompt": asked, "messages": given.completion}
    elif talk := next((name for name in CONVERSATIONS if name in whole), None):
        named = {"conversation": talk}
    elif asked is not None and (answer := next((name for name in (*ANSWERS, "messages") if name in there), None)):
        named = {"prompt": asked, "messages": answer}
    elif "text" in there:
        named = {"text": "text"}
    else:
        raise DataError(
            f"no column looks like a dialogue; the columns are {', '.join(there)}",
            hint="name it: --messages-column, --prompt-column and --completion-column, or --text-column",
        )
    rest = {
        "sample_id": given.id or next((name for name in IDS if name in there), None),
        "problem_id": given.problem or ("problem_id" if "problem_id" in there else None),
        "reward": given.reward or ("reward" if "reward" in there else None),
    }
    return {name: actual for name, actual in {**named, **rest}.items() if actual is not None}


def _write_kept(parts: Sequence[Path], source: Identified | ParquetSource, rows: Rows, file: Path) -> None:
    """The rows that are left, with all of their columns; and with their ids, where these were made."""
    plain = ParquetSource(parts)
    made = isinstance(source, Identified)
    schema = plain.schema.insert(0, pa.field("sample_id", pa.string())) if made else plain.schema
    start = 0
    with ParquetSink(file, schema) as sink:
        for batch in plain.batches(plain.names):
            here = slice(start, start + len(batch))
            start += len(batch)
            table = pa.table(batch)
            if made:
                table = table.add_column(0, "sample_id", rows.ids.slice(here.start, len(batch)))
            sink.write(table.filter(pa.array(np.ascontiguousarray(rows.alive[here]))))
