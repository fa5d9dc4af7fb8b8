"""The problems that a model will be measured by, as texts to keep out of its training rows."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.curate.rows import open_parquet
from flywheel.errors import DataError

QUESTIONS = ("question", "problem", "prompt", "messages", "instruction", "input", "text")
"""Where a set's questions are looked for, in this order."""
IDS = ("problem_id", "id", "task_id", "question_id")


@dataclass(frozen=True)
class Item:
    """One evaluation problem: the set's name, its id there, and what is asked."""

    set: str
    id: str
    text: str


def read_set(file: Path, name: str | None = None, column: str | None = None) -> list[Item]:
    """The problems of an evaluation set.

    Args:
        file: Parquet, JSON lines (also ``.gz``), or plain text with a problem per line.
        name: what reports call it; None: the file's name.
        column: where the question is, text or chat messages; None: the first of ``QUESTIONS`` that is there.

    Raises:
        DataError: the file is missing, cannot be read, or has no such column.
    """
    if not file.is_file():
        raise DataError(f"there is no evaluation set {file}", hint="mend `decontaminate.against` in the recipe")
    name = name or file.name
    try:
        rows = list(_rows(file))
    except (OSError, ValueError) as error:
        raise DataError(f"evaluation set {file}: {error}") from error
    if not rows:
        raise DataError(f"evaluation set {file} is empty")
    key = column or next((key for key in QUESTIONS if key in rows[0]), None)
    if key is None or not all(key in row for row in rows):
        raise DataError(
            f"evaluation set {file} has no column {column or ' or '.join(QUESTIONS)}",
            hint=f"name one of {', '.join(rows[0])}: {{file: {file.name}, column: …}}",
        )
    own = next((candidate for candidate in IDS if candidate in rows[0]), None)
    return [Item(name, str(row[own]) if own else f"#{i}", _question(row[key])) for i, row in enumerate(rows)]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.suffix == ".parquet":
        for batch in open_parquet(file).iter_batches():
            yield from batch.to_pylist()
        return
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as lines:
        for line in lines:
            if line.strip():
                yield json.loads(line) if ".json" in file.name else {"text": line}


def _question(value: Any) -> str:
    """What the user says; system messages are the same for all problems, and answers are not the question."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    messages: Sequence[Any] = value if isinstance(value, list) else [value]
    said: Iterable[str] = (m["content"] for m in messages if isinstance(m, dict) and m.get("role") == "user")
    return "\n\n".join(said)
