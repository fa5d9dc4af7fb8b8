"""Durable writes: what is on disk under its final name is whole."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROW_GROUP = 8192


def fsync_path(path: Path) -> None:
    """Flush a file's or folder's data to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: temporary name, fsync, rename, fsync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, indented for people."""
    write_atomic(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write one Parquet part atomically; zero rows make a valid empty part."""
    write_table(path, pa.Table.from_pylist(rows, schema=schema))


def write_table(path: Path, table: pa.Table) -> None:
    """Write an Arrow table as one Parquet part (zstd) atomically."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def read_rows(path: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    """Rows of one Parquet part, or of all parts of a folder in the order of their names."""
    parts = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    rows: list[dict[str, Any]] = []
    for part in parts:
        # ParquetFile, not read_table: a folder name such as `a=b` must not be read as a partition.
        rows += pq.ParquetFile(part).read(columns=columns).to_pylist()
    return rows


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """A hash of plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _worth_a_dictionary(schema: pa.Schema) -> list[str]:
    """Paths of all columns but floats: vectors have no values in common, and looking for some doubles the time."""
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    found = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    columns = [found.column(i) for i in range(len(found))]
    floats = ("FLOAT", "DOUBLE", "FIXED_LEN_BYTE_ARRAY", "BOOLEAN")
    return [column.path for column in columns if column.physical_type not in floats]


class ParquetSink:
    """One Parquet part (zstd), written a table at a time; it appears under its name when it is whole, or not at all.

    Args:
        path: the part.
        schema: its columns; tables are cast to it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path = path
        self._schema = schema
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        self._writer = pq.ParquetWriter(
            self._temporary, schema, compression="zstd", use_dictionary=_worth_a_dictionary(schema)
        )
        self._waiting: list[pa.Table] = []
        self._wait = 0
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Add rows. Small tables are gathered: a row group for each would make a file that is slow to read."""
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self.rows += len(table)
        self._wait += len(table)
        if self._wait >= _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting, self._wait = [], 0

    def __enter__(self) -> ParquetSink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                fsync_path(self._temporary)
                os.replace(self._temporary, self._path)
        finally:
            with suppress(OSError):
                self._temporary.unlink(missing_ok=True)
        if kind is None:
            fsync_path(self._path.parent)
