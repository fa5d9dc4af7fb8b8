"""Reading samples together with their verdicts: as Python rows for a few, part by part for many."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from flywheel.files import ParquetSink, read_rows
from flywheel.stages.schemas import GRADED
from flywheel.types import Completion, Group, Problem, Sample, Verdict


def read_graded(samples: Path, verdicts: Path, pattern: str = "*.parquet") -> list[dict[str, Any]]:
    """Sample rows with the columns of their verdicts, in the order of parts and rows."""
    return [row for part in graded_parts(samples, verdicts, pattern) for row in part]


def graded_parts(samples: Path, verdicts: Path, pattern: str = "*.parquet") -> Iterator[list[dict[str, Any]]]:
    """The same, one part after the other; a problem's samples all lie in one."""
    for part in sorted(samples.glob(pattern)):
        graded = {v["sample_id"]: v for v in read_rows(verdicts / part.name)}
        yield [{**row, **graded[row["sample_id"]]} for row in read_rows(part)]


def make_groups(problems: Iterable[Problem], rows: Iterable[dict[str, Any]]) -> list[Group]:
    """One group per problem, in the order of the problems."""
    by_problem: dict[str, list[Sample]] = {}
    for row in rows:
        verdict = Verdict(row["score"], row["reason"], json.loads(row["detail"]))
        sample = Sample(row["sample_id"], row["problem_id"], row["round"], Completion.from_row(row), verdict)
        by_problem.setdefault(sample.problem_id, []).append(sample)
    return [Group(problem, by_problem.get(problem.id, [])) for problem in problems]


@dataclass(frozen=True)
class Tally:
    """What the verdicts of a round come to.

    Attributes:
        problems: the ``problems.parquet`` of the round.
        pass_rate: of each problem, its independent attempts alone; NaN where none was decided.
        counts: ``problems``, ``samples``, ``right``, ``wrong``, ``undecided``, ``solved``.
    """

    problems: pa.Table
    pass_rate: NDArray[np.float64]
    counts: dict[str, int]


def tally(problems: Path, samples: Path, verdicts: Path) -> Tally:
    """Count a round's verdicts, part by part."""
    table = _read(problems).combine_chunks()
    right, decided = np.zeros(len(table)), np.zeros(len(table))
    solved = np.zeros(len(table), bool)
    counts = dict.fromkeys(("samples", "right", "wrong", "undecided"), 0)
    for part in sorted(samples.glob("*.parquet")):
        sample, verdict = _aligned(part, verdicts, ["sample_id", "problem_id", "kind"], ["sample_id", "passed"])
        at = _places(table, sample)
        passed = _mask(pc.equal(verdict["passed"], True))
        known = _mask(pc.is_valid(verdict["passed"]))
        answer = _mask(pc.equal(sample["kind"], "answer"))
        np.add.at(right, at[passed & answer], 1)
        np.add.at(decided, at[known & answer], 1)
        solved[at[passed]] = True
        counts["samples"] += len(at)
        counts["right"] += int(passed.sum())
        counts["wrong"] += int((known & ~passed).sum())
        counts["undecided"] += int((~known).sum())
    rate = np.divide(right, decided, out=np.full(len(table), np.nan), where=decided > 0)
    return Tally(table, rate, {"problems": len(table), **counts, "solved": int(solved.sum())})


def write_graded(file: Path, found: Tally, samples: Path, verdicts: Path, with_data: bool = False) -> None:
    """Write what filters see: every sample with its prompt, its verdict and its problem's pass rate.

    Args:
        file: the Parquet file.
        found: as from ``tally``.
        samples, verdicts: the round's parts.
        with_data: also what the task knows of the problem, as ``problem_data``.
    """
    own = [name for name in GRADED.names if name not in ("prompt", "pass_rate")]
    said = [name for name in ("score", "passed", "reason", "detail") if name in own]
    asked = [*(name for name in own if name not in said), "answers"]
    schema = GRADED.append(pa.field("problem_data", pa.string())) if with_data else GRADED
    with ParquetSink(file, schema) as sink:
        for part in sorted(samples.glob("*.parquet")):
            sample, verdict = _aligned(part, verdicts, asked, ["sample_id", *said])
            at = _places(found.problems, sample)
            prompts = found.problems["prompt"].take(pa.array(at))
            columns = {name: (verdict if name in said else sample)[name] for name in own}
            columns["prompt"] = pc.coalesce(sample["answers"], prompts)
            columns["pass_rate"] = pa.array(found.pass_rate[at], from_pandas=True)
            if with_data:
                columns["problem_data"] = found.problems["data"].take(pa.array(at))
            sink.write(pa.table(columns))


def _aligned(part: Path, verdicts: Path, asked: list[str], said: list[str]) -> tuple[pa.Table, pa.Table]:
    """A sampled part and its verdicts, row by row."""
    sample, verdict = _read(part, asked), _read(verdicts / part.name, said)
    at = pc.index_in(sample["sample_id"], verdict["sample_id"].combine_chunks())
    assert not at.null_count, f"{part} has samples without a verdict"
    return sample, verdict.take(at)


def _places(problems: pa.Table, sample: pa.Table) -> NDArray[np.int64]:
    found = pc.index_in(sample["problem_id"], problems["problem_id"].combine_chunks())
    places: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    return places


def _mask(values: pa.ChunkedArray) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy()
    return mask


def _read(file: Path, columns: list[str] | None = None) -> pa.Table:
    return pq.ParquetFile(file).read(columns=columns)
