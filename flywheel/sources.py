"""Rows of a dataset, wherever it lies: a JSONL or Parquet file, a folder of them, or the Hugging Face Hub.

::

    rows = read_source("train.jsonl.gz", base=recipe_folder)      # or a folder, or "openai/gsm8k"
    rows = map_fields(rows, {"question": "problem", "answer": "solution"})

A row keeps where it came from, so that whatever is wrong with it later can be named by file and number.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from io import BufferedReader
from pathlib import Path
from typing import Any

from flywheel.errors import DataError, UserError

SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz", ".parquet")
"""Files that are read; of ``.json``, a list is many rows and an object is one."""
SHOWN = 5
"""Wrong rows that an error names; the rest are counted."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_MISSING = object()


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row of a dataset.

    Attributes:
        place: the file or dataset it is from.
        number: which line (JSONL) or row (everything else) of it, from 1.
        values: its fields; empty if it could not be read.
        fault: why it could not be read, or lacks a field; None if it is whole.
    """

    place: str
    number: int
    values: Mapping[str, Any]
    fault: str | None = None

    @property
    def where(self) -> str:
        """Such as ``train.jsonl, row 17``."""
        return f"{self.place}, row {self.number}"


def read_source(
    source: str, *, split: str | None = None, config: str | None = None, base: Path | None = None
) -> Iterator[SourceRow]:
    """The rows of a dataset, in its order; a broken one is yielded with its ``fault`` and no values.

    Args:
        source: a file (see ``SUFFIXES``), a folder, or a Hugging Face dataset id, ``owner/name`` or
            ``owner/name@revision``. What exists as a file or folder is that.
        split: of a folder, the files that are named after it (``train.jsonl``, ``test-00000-of-00002.parquet``,
            ``train/algebra/1.json``); of a Hugging Face dataset, its split. A single file has no splits.
        config: of a folder, the folder in it that is read; of a Hugging Face dataset, its configuration.
        base: the folder that a relative path starts from, before the current one is tried.

    Raises:
        DataError: at the call: nothing is there, or not this split. While reading: a file is not what its name says.
        UserError: a Hugging Face id, and the ``datasets`` package is not installed.
    """
    path = _local(source, base)
    if path is None:
        return _read_hub(source, split, config)
    if path.is_file():
        return _read_file(path)
    files = _files(path, split, config)
    return (row for file in files for row in _read_file(file))


def exists(source: str, base: Path | None = None) -> bool:
    """Whether a source is a file or folder on this machine."""
    return _find(source, base) is not None


def map_fields(
    rows: Iterable[SourceRow], fields: Mapping[str, str], optional: Iterable[str] = ()
) -> Iterator[SourceRow]:
    """Rows with the fields that a task knows, by the task's names.

    Args:
        rows: as read; broken ones pass through.
        fields: the task's name of a field to the dataset's; with dots, a field within a field (``extra_info.answer``).
        optional: the task's names of those that a row may lack, and then does not have.

    Yields:
        Each row with nothing but the mapped fields; without one that is not optional, or with null in its place, it has
        a ``fault``.

    Raises:
        DataError: no row has one of the mapped fields, be it optional: the mapping names no field of the dataset.
    """
    optional = frozenset(optional)
    absent = dict(fields)
    known: list[str] = []
    held: list[SourceRow] = []  # a mapping that names no field is one error, not one per row
    for row in rows:
        if absent and row.fault is None:
            known += [name for name in _names(row.values) if name not in known]
            absent = {ours: theirs for ours, theirs in absent.items() if _get(row.values, theirs) is _MISSING}
        held.append(_mapped(row, fields, optional))
        if not absent:
            yield from held
            held.clear()
    if known and absent:
        raise DataError("\n".join(_no_field(theirs, known, held[-1].place) for theirs in absent.values()))
    yield from held


def whole(rows: Iterable[SourceRow]) -> list[SourceRow]:
    """All rows, none of them broken.

    Raises:
        DataError: some are; names the first few with their numbers, and counts the rest.
    """
    listed = list(rows)
    refuse_faults(f"{row.where}: {row.fault}" for row in listed if row.fault is not None)
    return listed


def refuse_faults(faults: Iterable[str], hint: str | None = None) -> None:
    """Raise one error for all faults, if there are any.

    Raises:
        DataError: naming the first ``SHOWN``.
    """
    listed = list(faults)
    if listed:
        raise DataError("\n".join(first_few(listed)), hint)


def first_few(lines: Sequence[str], most: int = SHOWN) -> list[str]:
    """The first lines, and how many more there are."""
    more = len(lines) - most
    return [*lines[:most], *([f"… and {more} more like it"] if more > 0 else [])]


def _mapped(row: SourceRow, fields: Mapping[str, str], optional: frozenset[str]) -> SourceRow:
    if row.fault is not None:
        return row
    read = {ours: _get(row.values, theirs) for ours, theirs in fields.items()}
    found = {ours: value for ours, value in read.items() if value is not _MISSING and value is not None}
    lacking = [f"`{theirs}`" for ours, theirs in fields.items() if ours not in found and ours not in optional]
    return replace(row, values=found, fault=f"no {' and no '.join(lacking)}" if lacking else None)


def _get(values: Mapping[str, Any], name: str) -> Any:
    """A field by its name, or by a path of names joined with dots."""
    if name in values:
        return values[name]
    head, dot, rest = name.partition(".")
    inner = values.get(head) if dot else None
    return _get(inner, rest) if isinstance(inner, Mapping) else _MISSING


def _names(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield prefix + name
        if isinstance(value, Mapping):
            yield from _names(value, f"{prefix}{name}.")


def _no_field(name: str, known: list[str], place: str) -> str:
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"{place} has no field {name!r}" + (
        f"; did you mean {near[0]!r}?" if near else f"; it has {', '.join(known)}"
    )


def _find(source: str, base: Path | None) -> Path | None:
    tried = (folder / Path(source).expanduser() for folder in (base or Path(), Path()))
    return next((path for path in tried if path.exists()), None)


def _local(source: str, base: Path | None) -> Path | None:
    """The path that a source names, or None for an id of the Hub."""
    path = _find(source, base)
    if path is not None:
        if path.is_file() and not path.name.endswith(SUFFIXES):
            raise DataError(f"{path}: files of this kind are not read", hint=f"use one of {', '.join(SUFFIXES)}")
        return path
    if not _HUB_ID.fullmatch(source) or source.endswith(SUFFIXES):
        where = f" (looked in {base} and in the current folder)" if base and not Path(source).is_absolute() else ""
        raise DataError(f"there is no file or folder {source}{where}", hint="or name a dataset of the Hub: owner/name")
    return None


def _files(folder: Path, split: str | None, config: str | None) -> list[Path]:
    """The data files below a folder that belong to a split, by name."""
    root = folder / config if config is not None else folder
    found = sorted(
        path
        for path in root.rglob("*")
        if path.name.endswith(SUFFIXES) and path.is_file() and not _hidden(path.relative_to(root))
    )
    if not found:
        raise DataError(f"there is no data in {root}", hint=f"it needs files of these kinds: {', '.join(SUFFIXES)}")
    if split is None:
        return found
    chosen = [path for path in found if split in _splits_of(path.relative_to(root))]
    if not chosen:
        shown = first_few([str(path.relative_to(root)) for path in found])
        raise DataError(f"{root} has no files of the split {split!r}: {', '.join(shown)}")
    return chosen


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _splits_of(path: Path) -> set[str]:
    """What splits a file may belong to: its folders' names, and its own up to a first ``-``, ``_`` or ``.``."""
    stem = path.name.split(".")[0]
    return {*path.parts[:-1], stem, re.split(r"[-_]", stem)[0]}


def _read_file(path: Path) -> Iterator[SourceRow]:
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.name.removesuffix(".gz").endswith(".json"):
            yield from _read_json(path)
        else:
            yield from _read_lines(path)
    except (OSError, EOFError) as error:  # gzip's own errors are among them
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _open(path: Path) -> gzip.GzipFile | BufferedReader:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read_lines(path: Path) -> Iterator[SourceRow]:
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _parsed(str(path), number, line)


def _parsed(place: str, number: int, line: bytes) -> SourceRow:
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return SourceRow(place, number, {}, "not UTF-8")
    except (ValueError, RecursionError) as error:
        return SourceRow(place, number, {}, f"not JSON: {error}")
    return _object(place, number, values)


def _object(place: str, number: int, values: Any) -> SourceRow:
    if not isinstance(values, dict):
        return SourceRow(place, number, {}, f"not a JSON object but {type(values).__name__}")
    return SourceRow(place, number, values)


def _read_json(path: Path) -> Iterator[SourceRow]:
    with _open(path) as file:
        try:
            value = json.loads(file.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{path} is not JSON: {error}", hint="one object per line is a file named .jsonl"
            ) from error
    for number, values in enumerate(value if isinstance(value, list) else [value], start=1):
        yield _object(str(path), number, values)


def _read_parquet(path: Path) -> Iterator[SourceRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield SourceRow(str(path), number, values)
    except pa.ArrowException as error:
        raise DataError(f"{path} is not Parquet: {error}") from error


def _read_hub(source: str, split: str | None, config: str | None) -> Iterator[SourceRow]:
    """Rows of a dataset of the Hub, downloaded once into the Hugging Face cache."""
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"reading {source} needs the package datasets", hint="pip install 'flywheel[train]'") from error
    name, _, revision = source.partition("@")
    try:
        loaded = datasets.load_dataset(name, config, split=split, revision=revision or None)
    except Exception as error:  # the library raises its own, the Hub's, fsspec's and builtin types
        raise DataError(
            f"the dataset {source}" + (f" ({config})" if config else "") + f" cannot be loaded: {_said(error)}",
            hint="check its name, configuration and split; without a network, download it and name the file or folder",
        ) from error
    parts = loaded if isinstance(loaded, Mapping) else {split: loaded}
    return (
        SourceRow(f"{source} [{part}]" if part else source, number, values)
        for part, rows in parts.items()
        for number, values in enumerate(rows, start=1)
    )


def _said(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
