"""Judging rows by the thousand: concurrently, and without losing to a crash what was judged already."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flywheel.curate.chain import Aids
from flywheel.curate.rows import Row, Rows
from flywheel.engines.base import Engine, EnginePolicy
from flywheel.errors import RecipeError
from flywheel.types import Message, Sampling
from flywheel.verify import Judgement, Rubric, judge, load_rubric

PORTION, CONTINUOUS = 256, 1024
"""Rows judged at once: enough to fill an engine's batch, few enough to lose. With a continuous engine more, because its
batch runs empty at the end of each portion."""


@dataclass(frozen=True)
class Judge:
    """Who judges, by what.

    Attributes:
        rubric: a shipped rubric's name, or a Markdown file beside the recipe.
        votes: answers to average.
        engine: as a recipe's ``engine:``, perhaps with a ``model``; None: the run's policy.
        min_score: the mean score that passes; None: most votes must reach the rubric's mark.
    """

    rubric: str = "general"
    votes: int = 1
    engine: dict[str, Any] | None = None
    min_score: float | None = None

    def __post_init__(self) -> None:
        if self.votes < 1:
            raise ValueError("votes must be at least 1")

    @classmethod
    def of(cls, options: dict[str, Any] | Judge) -> Judge:
        """From a recipe's mapping.

        Raises:
            ValueError: an option that there is not.
        """
        if isinstance(options, Judge):
            return options
        if unknown := sorted(options.keys() - {"rubric", "votes", "engine", "min_score"}):
            raise ValueError(f"judge has no option {', '.join(unknown)}; known: rubric, votes, engine, min_score")
        return cls(**options)

    def passes(self, judgement: Judgement, rubric: Rubric) -> bool | None:
        """Whether a row is good enough; None if undecided."""
        if judgement.score is None:
            return None
        if self.min_score is not None:
            return judgement.score >= self.min_score
        return judgement.passed if rubric.mark is not None else judgement.score >= rubric.scale[1]


@dataclass(frozen=True)
class Judged:
    """Some rows and what the judge said of each; arrays by place.

    Attributes:
        ordinals: the rows.
        scores: mean of the votes; NaN: undecided.
        passed: 1, 0, or -1 for undecided.
        reasons: the judge's words, or why it is undecided.
    """

    ordinals: NDArray[np.int64]
    scores: NDArray[np.float64]
    passed: NDArray[np.int8]
    reasons: list[str]


def judge_rows(name: str, rows: Rows, judging: Judge, aids: Aids, wanted: NDArray[np.bool_]) -> Iterator[Judged]:
    """Judge those rows that are alive and wanted, a portion at a time, in their order.

    Judgements are kept in ``aids.scratch``: what a crash interrupts goes on where it was.

    Raises:
        RecipeError: there is no such rubric, it asks for a field that rows lack, or there is no engine to ask.
    """
    rubric = load_rubric(judging.rubric, aids.base)
    total = int(np.count_nonzero(wanted & rows.alive))
    if not total:
        return
    columns = _columns(rubric, rows)
    store = _Store(aids.scratch, name, rubric, judging)
    done = 0
    with _engine(judging, aids) as engine, asyncio.Runner() as runner:
        size = CONTINUOUS if engine.continuous else PORTION
        for batch in rows.scan("sample_id", *columns):
            here = np.flatnonzero(wanted[batch.ordinals])
            for begin in range(0, len(here), size):
                at = here[begin : begin + size]
                portion = batch.table.take(pa.array(at)).to_pylist()
                missing = [row for row in portion if row["sample_id"] not in store.known]
                if missing:
                    store.add(missing, runner.run(_judge_all(engine, rubric, judging.votes, missing)))
                said = [store.known[row["sample_id"]] for row in portion]
                done += len(at)
                aids.progress(name, done, total)
                passed = [-1 if (p := judging.passes(j, rubric)) is None else int(p) for j in said]
                yield Judged(
                    batch.ordinals[at],
                    np.array([np.nan if j.score is None else j.score for j in said]),
                    np.array(passed, np.int8),
                    [j.reason for j in said],
                )
                store.forget(portion)


async def _judge_all(engine: Engine, rubric: Rubric, votes: int, portion: Sequence[Row]) -> list[Judgement]:
    def ask(row: Row) -> Any:
        policy = EnginePolicy(engine, Sampling(), f"judge:{rubric.name}:{row['sample_id']}", evaluating=True)
        return judge(policy, rubric, votes, **fields_of(row))

    return list(await asyncio.gather(*(ask(row) for row in portion)))


def fields_of(row: Row) -> dict[str, Any]:
    """What a rubric's template may use: ``prompt`` and ``response``, the row's columns, and what its ``data`` holds."""
    known = json.loads(row["data"]) if isinstance(row.get("data"), str) and row["data"].startswith("{") else {}
    fields = {**known, **{key: value for key, value in row.items() if key not in ("prompt", "messages")}}
    messages = row.get("messages")
    prompt = row.get("prompt")
    if isinstance(messages, list) and messages:
        before = [*prompt, *messages[:-1]] if isinstance(prompt, list) else messages[:-1]
        fields |= {"prompt": conversation(before), "response": messages[-1]["content"] or ""}
    else:
        fields |= {"prompt": prompt if isinstance(prompt, str) else "", "response": row.get("text") or ""}
    return fields


def conversation(messages: Sequence[Message]) -> str:
    """Messages as a judge reads them; a single question stands for itself."""
    if len(messages) == 1:
        return messages[0]["content"] or ""
    return "\n\n".join(f"{message['role'].capitalize()}: {message['content'] or ''}" for message in messages)


def _columns(rubric: Rubric, rows: Rows) -> list[str]:
    """What must be read for a rubric."""
    wanted: list[str] = []
    for field in rubric.fields:
        if field in ("prompt", "response"):
            wanted += [name for name in ("prompt", "messages", "text") if rows.has(name)]
        elif rows.has(field):
            wanted.append(field)
        elif rows.has("data"):
            wanted.append("data")
        else:
            raise RecipeError(
                f"rubric {rubric.name!r} asks for {field!r}, which the rows do not have",
                hint=f"the columns are {', '.join(rows.names)}",
            )
    return list(dict.fromkeys(wanted))


@contextmanager
def _engine(judging: Judge, aids: Aids) -> Iterator[Engine]:
    if aids.engine is None:
        raise RecipeError("a judge needs an engine", hint="give the filter one: judge: {engine: {use: openai, …}}")
    engine: Engine = aids.engine(judging.engine)
    try:
        yield engine
    finally:
        engine.close()


class _Store:
    """Judgements by row, appended to a file as they are made."""

    def __init__(self, folder: Path | None, name: str, rubric: Rubric, judging: Judge) -> None:
        told = repr((rubric.template, rubric.system, rubric.scale, rubric.mark, judging))
        key = hashlib.sha256(told.encode()).hexdigest()[:12]
        self._file = None if folder is None else folder / f".judged.{name.replace('/', '_')}.{key}.jsonl"
        self.known: dict[str, Judgement] = {}
        if self._file is not None and self._file.exists():
            whole, newline, _ = self._file.read_bytes().rpartition(b"\n")  # a crash may have cut the last line off
            os.truncate(self._file, len(whole + newline))
            for line in whole.splitlines():
                entry = json.loads(line)
                id = entry.pop("id")
                self.known[id] = Judgement(**{**entry, "votes": tuple(entry["votes"])})

    def add(self, rows: Sequence[Row], judgements: Sequence[Judgement]) -> None:
        pairs = [(row["sample_id"], said) for row, said in zip(rows, judgements, strict=True)]
        self.known.update(pairs)
        if self._file is not None:
            lines = (
                {"id": id, "score": said.score, "votes": said.votes, "reason": said.reason, "passed": said.passed}
                for id, said in pairs
            )
            with self._file.open("a") as file:
                file.write("".join(json.dumps(line) + "\n" for line in lines))

    def forget(self, rows: Sequence[Row]) -> None:
        """What was handed on need not stay in memory."""
        for row in rows:
            self.known.pop(row["sample_id"], None)
