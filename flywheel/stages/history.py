"""Walk a run folder back: from any id to the problem, the policy, the seed, the verdict and the filters.

Everything is read with the id as a filter, one row group at a time, so that big folders are fine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.errors import DataError
from flywheel.files import read_json
from flywheel.rundir import RunDir
from flywheel.stagedir import StageDir
from flywheel.stages.problems import FILE

Row = dict[str, Any]
SAMPLE_FOLDERS = {"samples": "", "evaluate": "samples"}
"""Stages with samples, and where in them these are."""


@dataclass(frozen=True)
class Step:
    """What one filter said of a sample: ``reason`` is None if it let the sample pass; ``detail`` is JSON or empty."""

    filter: str
    reason: str | None = None
    removed_by: str | None = None
    detail: str = ""


@dataclass(frozen=True)
class TrainingRow:
    """A row of a round's SFT mix; ``trained`` says whether that round's SFT (or warm-up) is finished."""

    stage: str
    row: Row
    trained: bool


@dataclass(frozen=True)
class PairRow:
    """A preference pair; ``trained`` says whether that round's DPO is finished."""

    round: int
    row: Row
    trained: bool


@dataclass(frozen=True)
class SampleHistory:
    """One sample from its policy to the rows it became.

    Attributes:
        stage: such as "round 1 samples".
        sample: the columns of the sample and of its verdict.
        policy: the checkpoint that answered, as ``round.json`` names it; None if that is not written yet.
        settings: sampling settings in force.
        place: which of its kind it is among the samples of its rollout, from 1, and how many there are.
        parents: ids of the samples of its rollout that it was made from.
        steps: the filters it met, in order; empty for evaluation samples and before curation.
        rows: the SFT rows made of it, this round's and later replays.
        pairs: the pairs it is in.
    """

    stage: str
    sample: Row
    policy: str | None
    settings: Row
    place: tuple[int, int]
    parents: list[str]
    steps: list[Step]
    rows: list[TrainingRow]
    pairs: list[PairRow]


@dataclass(frozen=True)
class History:
    """All that a run knows of one id.

    Attributes:
        id: as asked.
        kind: "sample", "training row", "pair" or "problem".
        problem: the problem's row; None if its file is not there any more.
        drawn: the stages that drew the problem.
        samples: the histories behind the id: one for a sample or an SFT row, two for a pair, and
            all samples of a problem.
        rows: SFT rows that the id names.
        pairs: pairs that the id names.
    """

    id: str
    kind: str
    problem: Row | None
    drawn: list[str]
    samples: list[SampleHistory] = field(default_factory=list)
    rows: list[TrainingRow] = field(default_factory=list)
    pairs: list[PairRow] = field(default_factory=list)


def trace(run: RunDir, id: str) -> History:
    """The whole history of a sample, SFT row, pair or problem.

    Raises:
        DataError: no committed stage has this id.
    """
    if pairs := _pairs(run, "pair_id", id):
        row = pairs[0].row
        ends = [row["chosen_id"], row["rejected_id"]]
        samples = [_history(run, *found) for end in ends for found in _samples(run, "sample_id", end)]
        problem = _problem(run, row["problem_id"], f"round {pairs[0].round} problems")
        return History(id, "pair", *problem, samples=samples, pairs=pairs)
    if rows := _training_rows(run, "row_id", id):
        row = rows[0].row
        samples = [_history(run, *found) for found in _samples(run, "sample_id", row["sample_id"])]
        drawn_for = "round 0 warmup" if row["sample_id"] is None else f"round {row['round']} problems"
        problem = _problem(run, row["problem_id"], drawn_for)
        return History(id, "training row", *problem, samples=samples, rows=rows)
    if found := list(_samples(run, "sample_id", id)):
        stage, _, sample = found[0]
        drawn_for = stage.label if stage.name == "evaluate" else f"round {sample['round']} problems"
        problem = _problem(run, sample["problem_id"], drawn_for)
        return History(id, "sample", *problem, samples=[_history(run, *one) for one in found])
    return _problem_history(run, id)


def _problem_history(run: RunDir, id: str) -> History:
    """A problem with all its samples and demonstrations; SPIN's pairs name its gold `gold-PROBLEM`."""
    problem, drawn = _problem(run, id)
    if problem is None:
        problem, drawn = _problem(run, id.removeprefix("gold-"))
    if problem is None:
        raise DataError(
            f"{run.path} has no sample, training row, pair or problem {id!r} in its finished stages",
            hint=f"flywheel show {run.path} lists samples with their ids; --pairs and --dropped list the others",
        )
    name = problem["problem_id"]
    samples = [_history(run, *found) for found in _samples(run, "problem_id", name)]
    rows = [row for row in _training_rows(run, "problem_id", name) if row.row["sample_id"] is None]
    return History(id, "problem", problem, drawn, samples=samples, rows=rows)


def graded_rows(run: RunDir, number: int, names: Iterable[str] = ("samples",)) -> Iterator[Row]:
    """A round's samples with their verdicts, part by part, in the order of parts and rows.

    Args:
        run: the run.
        number: the round.
        names: stages to read, of ``SAMPLE_FOLDERS``.
    """
    for name in names:
        stage = run.stage(number, name)
        for part in _sample_parts(stage):
            yield from _with_verdicts(stage, part, pq.ParquetFile(part).read().to_pylist(), run)


def find(files: Iterable[Path], column: str, values: Iterable[str]) -> Iterator[tuple[Path, Row]]:
    """Rows whose column has one of the values; other columns are read only where there is a hit."""
    wanted = pa.array(list(values), pa.string())
    for file in files:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            hits = pc.is_in(parquet.read_row_group(group, columns=[column]).column(0), value_set=wanted)
            if pc.any(hits).as_py():
                for row in parquet.read_row_group(group).filter(hits).to_pylist():
                    yield file, row


def texts(run: RunDir, number: int, ids: Iterable[str]) -> dict[str, str]:
    """The last message of each of these samples of a round."""
    found = find(_sample_parts(run.stage(number, "samples")), "sample_id", ids)
    return {row["sample_id"]: row["text"] for _, row in found}


def _sample_parts(stage: StageDir) -> list[Path]:
    folder = stage.path / SAMPLE_FOLDERS[stage.name]
    return sorted(folder.glob("*.parquet")) if stage.committed else []


def _samples(run: RunDir, column: str, value: str | None) -> Iterator[tuple[StageDir, Path, Row]]:
    """Sample rows with their verdicts, after the stage and the part that they are of."""
    if value is None:
        return
    for number in run.rounds():
        for name in SAMPLE_FOLDERS:
            stage = run.stage(number, name)
            for part, row in find(_sample_parts(stage), column, [value]):
                yield stage, part, next(iter(_with_verdicts(stage, part, [row], run)))


def _with_verdicts(stage: StageDir, part: Path, rows: list[Row], run: RunDir) -> Iterator[Row]:
    number = int(stage.round_dir.name)
    folder = stage.path / "verdicts" if stage.name == "evaluate" else run.stage(number, "verdicts").path
    file = folder / part.name
    verdicts: dict[str, Row] = {}
    if file.exists():
        found = find([file], "sample_id", [row["sample_id"] for row in rows])
        verdicts = {row["sample_id"]: row for _, row in found}
    unverified = {"score": None, "passed": None, "reason": "not verified yet", "detail": "{}"}
    for row in rows:
        yield {**row, **verdicts.get(row["sample_id"], unverified)}


def _history(run: RunDir, stage: StageDir, part: Path, sample: Row) -> SampleHistory:
    together = [row for _, row in find([part], "problem_id", [sample["problem_id"]]) if row["mode"] == sample["mode"]]
    alike = [row["index"] for row in together if row["kind"] == sample["kind"]]
    made_from = _parents(json.loads(sample["data"]))
    return SampleHistory(
        stage=stage.label,
        sample=sample,
        policy=_policy(run, stage),
        settings=_settings(run, stage, sample["mode"]),
        place=(sorted(alike).index(sample["index"]) + 1, len(alike)),
        parents=[row["sample_id"] for row in together if row["index"] in made_from],
        steps=_steps(run, stage, sample["sample_id"]),
        rows=_training_rows(run, "sample_id", sample["sample_id"]),
        pairs=[pair for column in ("chosen_id", "rejected_id") for pair in _pairs(run, column, sample["sample_id"])],
    )


def _parents(data: Row) -> list[Any]:
    """Places in its rollout of what a sample was made from, as the shipped tasks note them."""
    named = data.get("parents", data.get("parent"))
    return named if isinstance(named, list) else [named]


def _policy(run: RunDir, stage: StageDir) -> str | None:
    """The checkpoint behind a stage's samples, relative to the run folder if it is inside."""
    if stage.name == "evaluate":
        policy = stage.info()["policy"]  # a folder, a hub id, or a scratch model's spec
        path = Path(str(policy))
        return str(path.relative_to(run.path)) if path.is_relative_to(run.path) else str(policy)
    before = int(stage.round_dir.name) - 1
    for file, key in (
        (stage.round_dir / "round.json", "policy_in"),
        (run.round_dir(before) / "round.json", "policy_out"),
    ):
        if file.exists():
            return str(read_json(file)[key])
    return None


def _settings(run: RunDir, stage: StageDir, mode: str) -> Row:
    """What the engine was told: as the stage's manifest recorded it, the rest from the resolved recipe."""
    recorded, recipe = stage.manifest()["inputs"]["recipe"], run.resolved()["recipe"]
    section = {**recipe["sample"], **recorded.get("sample", {})}
    if stage.name == "evaluate":
        held = {**recipe["evaluate"], **recorded.get("evaluate", {})}
        section |= {"completions": held["completions"], "temperature": held["temperature"], "top_p": 1.0, "top_k": 0}
    if mode == "greedy":
        section |= {"completions": 1, "temperature": 0.0}
    names = ("completions", "temperature", "top_p", "top_k", "max_tokens", "stop")
    engine = {**recipe["engine"], **recorded.get("engine", {})}
    if stage.name == "samples":  # a teacher may have answered instead of the policy; it is never evaluated
        engine = section.get("engine") or engine
    told = {"seed": recorded.get("seed", recipe["seed"]), "engine": engine["use"]}
    return {**{name: section[name] for name in names}, **told}


def _steps(run: RunDir, stage: StageDir, sample_id: str) -> list[Step]:
    """The filters of ``funnel.json`` up to the one that dropped the sample, or all."""
    curated = run.stage(int(stage.round_dir.name), "curated")
    if stage.name != "samples" or not curated.committed:
        return []
    drop = next((row for _, row in find([curated.path / "dropped.parquet"], "sample_id", [sample_id])), None)
    steps: list[Step] = []
    for entry in read_json(curated.path / "funnel.json"):
        if drop is not None and drop["filter"] == entry["filter"]:
            detail = drop.get("detail", "{}")
            told = "" if detail == "{}" else detail
            return [*steps, Step(drop["filter"], drop["reason"], drop["removed_by"], told)]
        steps.append(Step(entry["filter"]))
    return steps


def _training_rows(run: RunDir, column: str, value: str) -> list[TrainingRow]:
    rows = []
    for number in run.rounds():
        for source, trainer in (("warmup", "warmup"), ("curated", "sft")):
            stage = run.stage(number, source)
            if stage.committed:
                trained = _trained(run.stage(number, trainer))
                label = f"round {number} {trainer}"
                rows += [
                    TrainingRow(label, row, trained) for _, row in find([stage.path / "sft.parquet"], column, [value])
                ]
    return rows


def _pairs(run: RunDir, column: str, value: str) -> list[PairRow]:
    pairs = []
    for number in run.rounds():
        stage = run.stage(number, "curated")
        if stage.committed:
            trained = _trained(run.stage(number, "dpo"))
            pairs += [PairRow(number, row, trained) for _, row in find([stage.path / "pairs.parquet"], column, [value])]
    return pairs


def _trained(stage: StageDir) -> bool:
    return stage.committed and "skipped" not in stage.info()


def _problem(run: RunDir, problem_id: str, drawn_for: str | None = None) -> tuple[Row | None, list[str]]:
    """A problem's row as one stage drew it (a task may word it anew each time), and all stages that drew it.

    Args:
        run: the run.
        problem_id: which.
        drawn_for: label of the stage whose wording counts; the first one's if None.
    """
    drawn: dict[str, Row] = {}
    for number in run.rounds():
        for name in ("warmup", "problems", "evaluate"):
            stage = run.stage(number, name)
            if stage.committed and (stage.path / FILE).exists():
                drawn |= [(stage.label, row) for _, row in find([stage.path / FILE], "problem_id", [problem_id])]
    first = next(iter(drawn.values()), None)
    return (drawn.get(drawn_for, first) if drawn_for else first), list(drawn)
