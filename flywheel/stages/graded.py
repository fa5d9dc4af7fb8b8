"""Reading samples together with their verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flywheel.files import read_rows
from flywheel.types import Completion, Group, Problem, Sample, Verdict


def read_graded(samples: Path, verdicts: Path, pattern: str = "*.parquet") -> list[dict[str, Any]]:
    """Sample rows with the columns of their verdicts, in the order of parts and rows."""
    rows = []
    for part in sorted(samples.glob(pattern)):
        graded = {v["sample_id"]: v for v in read_rows(verdicts / part.name)}
        rows += [{**row, **graded[row["sample_id"]]} for row in read_rows(part)]
    return rows


def make_groups(problems: Iterable[Problem], rows: Iterable[dict[str, Any]]) -> list[Group]:
    """One group per problem, in the order of the problems."""
    by_problem: dict[str, list[Sample]] = {}
    for row in rows:
        verdict = Verdict(row["score"], row["reason"], json.loads(row["detail"]))
        sample = Sample(row["sample_id"], row["problem_id"], row["round"], Completion.from_row(row), verdict)
        by_problem.setdefault(sample.problem_id, []).append(sample)
    return [Group(problem, by_problem.get(problem.id, [])) for problem in problems]
