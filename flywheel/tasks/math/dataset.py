"""A dataset of questions and answers as problems, with its held-out part.

Nothing is read before the first split is asked for, and then once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from flywheel.errors import DataError
from flywheel.sources import SourceRow, exists, map_fields, read_source
from flywheel.tasks.splits import HELD_OUT_ONE_IN
from flywheel.verify.math_extract import gold_answer, has_working

QUESTION = ("question", "problem", "prompt", "query", "Problem", "Question")
ANSWER = ("answer", "final_answer", "expected_answer", "solution", "gold", "ground_truth", "Answer")
SOLUTION = ("solution", "generated_solution")
CONFIGS = {"openai/gsm8k": "main", "gsm8k": "main"}
"""Configurations of Hub datasets that have several, of which one is meant."""


@dataclass(frozen=True)
class Source:
    """Where questions and answers are, as the recipe names them.

    Attributes:
        dataset: a JSONL or Parquet file, a folder of them, or a Hugging Face id.
        split: which split of it is trained on; None is all of a file, and "train" of a folder or Hugging Face dataset.
        heldout: the name of the split that is held out; or another file, folder or Hugging Face id; None holds out one
            question in 8 by a hash of its text.
        config: a Hugging Face dataset's configuration.
        fields: the dataset's name of ``question``, ``answer`` and ``solution``; of any other name, what is kept with
            the problem. What is not named is looked for under the usual names.
        base: the folder that relative paths start from.
    """

    dataset: str
    split: str | None = None
    heldout: str | None = None
    config: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    base: Path | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """A question with its answer.

    Attributes:
        where: file or dataset, and row.
        question: its text, as it is.
        answer: the final answer; None if the row has none.
        solution: a worked solution that ends in it, if the row has one.
        extra: other fields that the recipe maps.
    """

    where: str
    question: str
    answer: str | None
    solution: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the question, whatever its white space and case."""
        return _hash(re.sub(r"\s+", " ", self.question.strip().lower()))

    @property
    def id(self) -> str:
        """Names the question and its answer."""
        return _hash(f"{self.key} {self.answer}")[:12]


@dataclass(frozen=True)
class Dataset:
    """What a source holds.

    Attributes:
        train: items in the dataset's order; none of their questions is held out.
        heldout: items that are only evaluated.
        faults: rows that cannot be used, each with its place and why.
        shared: how many questions were taken out of ``train`` because they are held out as well.
    """

    train: list[Item]
    heldout: list[Item]
    faults: list[str]
    shared: int = 0


def load(source: Source, *, unlabelled: bool = False) -> Dataset:
    """Read a source.

    Args:
        source: where it is.
        unlabelled: rows without an answer are no fault in the part that is trained on.

    Raises:
        DataError: nothing is there, no row has a mapped field, or there is not one row.
        UserError: a Hugging Face id without the ``datasets`` package.
    """
    config = source.config or CONFIGS.get(source.dataset.partition("@")[0])
    split = source.split or (None if _is_file(source) else "train")
    rows = _read(source, source.dataset, split, config)
    train, faults = _items(rows, source.fields, unlabelled)
    if not train and not faults:
        raise DataError(f"{source.dataset} is empty" + (f" (split {split!r})" if split else ""))
    if source.heldout is None:
        held = [item for item in train if int(item.key[-4:], 16) % HELD_OUT_ONE_IN == 0]
    else:
        held, more = _items(_heldout_rows(source, config), source.fields, False)
        if not held and not more:
            raise DataError(f"the held-out data {source.heldout} is empty")
        faults += more
    known = {item.key for item in held}
    kept = [item for item in train if item.key not in known]
    labelled = [item for item in held if item.answer is not None]
    return Dataset(_once(kept), _once(labelled), faults, 0 if source.heldout is None else len(train) - len(kept))


def _heldout_rows(source: Source, config: str | None) -> Iterator[SourceRow]:
    assert source.heldout is not None
    if exists(source.heldout, source.base) or "/" in source.heldout:
        split = None if Path(source.heldout).suffix or exists(source.heldout, source.base) else "test"
        return _read(source, source.heldout, split, CONFIGS.get(source.heldout))
    if _is_file(source):
        raise DataError(
            f"heldout: {source.heldout!r} is neither a file nor a folder, and the file {source.dataset} has no splits",
            hint="name a file that holds the evaluation problems, or leave `heldout` out: one in 8 is then held out",
        )
    return _read(source, source.dataset, source.heldout, config)


def _read(source: Source, where: str, split: str | None, config: str | None) -> Iterator[SourceRow]:
    return read_source(where, split=split, config=config, base=source.base)


def _is_file(source: Source) -> bool:
    return exists(source.dataset, source.base) and not any(
        (folder / source.dataset).is_dir() for folder in (source.base or Path(), Path())
    )


def _items(rows: Iterator[SourceRow], fields: Mapping[str, str], unlabelled: bool) -> tuple[list[Item], list[str]]:
    """Items, and what is wrong with the rows that make none."""
    broken: list[SourceRow] = []
    first = next(rows, None)
    while first is not None and first.fault is not None:
        broken.append(first)
        first = next(rows, None)
    names = dict(fields) if first is None else _names(first, fields, unlabelled)
    optional = [name for name in names if name != "question" and (name != "answer" or unlabelled)]
    mapped = map_fields(chain(broken, [] if first is None else [first], rows), names, optional)
    made = [f"{row.where}: {row.fault}" if row.fault is not None else _item(row, unlabelled) for row in mapped]
    return [x for x in made if isinstance(x, Item)], [x for x in made if isinstance(x, str)]


def _names(row: SourceRow, fields: Mapping[str, str], unlabelled: bool) -> dict[str, str]:
    """The map of fields, with the usual names for those that the recipe does not give."""
    names = dict(fields)
    for ours, usual in (("question", QUESTION), ("answer", ANSWER), ("solution", SOLUTION)):
        found = next((name for name in usual if name in row.values and name not in names.values()), None)
        if ours not in names and found is not None:
            names[ours] = found
    wanted = ("question",) if unlabelled else ("question", "answer")
    if missing := [name for name in wanted if name not in names]:
        raise DataError(
            f"{row.place} has no field that looks like the {' or the '.join(missing)}; it has {', '.join(row.values)}",
            hint="name it in the recipe: task.args.fields: {question: …, answer: …}",
        )
    return names


def _item(row: SourceRow, unlabelled: bool) -> Item | str:
    """An item, or what is wrong with its row."""
    values = dict(row.values)
    question = as_text(values.pop("question"))
    if not question:
        return f"{row.where}: the question is empty"
    given, solution = as_text(values.pop("answer", None)), as_text(values.pop("solution", None))
    answer = gold_answer(given) if given else None
    if answer is None and not (unlabelled and not given):
        return f"{row.where}: " + (f"no answer can be read from {given[:60]!r}" if given else "no gold answer")
    worked = next((text for text in (solution, given) if text and has_working(text)), None)
    return Item(row.where, question, answer, worked, values)


def as_text(value: Any) -> str:
    """A field as text: numbers are written out, a list of answers is joined, chat messages are their last text."""
    if isinstance(value, list):
        if value and isinstance(value[-1], Mapping):
            return as_text(value[-1].get("content"))
        return ", ".join(as_text(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value).strip()


def _once(items: list[Item]) -> list[Item]:
    return list({item.id: item for item in reversed(items)}.values())[::-1]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
