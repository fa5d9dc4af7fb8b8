"""What a user is promised of a round's curation: rows, pairs and reasons, part by part, from what is on disk alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Quiet

from flywheel.engines import EngineSpec
from flywheel.files import read_json, read_rows, write_rows
from flywheel.stages.curate import work
from flywheel.stages.schemas import PROBLEMS, SAMPLES, SFT, VERDICTS
from flywheel.types import Completion, Problem

LEAKED = "Ann has twelve eggs, and on the way to the market she drops five of them. How many eggs are left to be sold?"
TALK = [{"role": "user", "content": "translate it"}]


def problem(i: int, question: str | None = None) -> Problem:
    return Problem.ask(f"p{i}", question or f"What is {i} + {i}?", gold=f"gold {i}", topic="ab"[i % 2])


def sample(part: int, name: str, problem_id: str, score: float | None, **fields: Any) -> tuple[Any, Any]:
    completion = Completion([{"role": "assistant", "content": f"answer {name}"}], tokens=3, **fields)
    row = {"sample_id": name, "problem_id": problem_id, "round": 2, "policy": "x", "mode": "sampled", "chunk": part}
    said = {"score": score, "passed": None if score is None else score >= 1, "reason": "r", "detail": "{}"}
    return (
        {**row, "index": 0, "seed_key": "k", **completion.to_row()},
        {"sample_id": name, "problem_id": problem_id, **said, "seconds": 0.0},
    )


@pytest.fixture
def payload(tmp_path: Path) -> dict[str, Any]:
    problems = [problem(0), problem(1), problem(2, LEAKED), problem(3)]
    parts = [
        [
            sample(0, "a", "p0", 1.0),
            sample(0, "b", "p0", 0.0),
            sample(0, "c", "p0", None),
            sample(0, "d", "p1", 1.0),
            sample(0, "t", "p1", 1.0, kind="translation", prompt=TALK),
            sample(0, "u", "p1", 0.0, kind="translation", prompt=TALK),
        ],
        [sample(1, "e", "p2", 1.0), sample(1, "f", "p2", 0.0), sample(1, "g", "p3", 0.0)],
    ]
    for folder in ("samples", "verdicts", "work"):
        (tmp_path / folder).mkdir()
    for i, part in enumerate(parts):
        write_rows(tmp_path / "samples" / f"sampled-{i:05d}.parquet", [s for s, _ in part], SAMPLES)
        # Verdicts are found by id, not by their place.
        write_rows(tmp_path / "verdicts" / f"sampled-{i:05d}.parquet", [v for _, v in reversed(part)], VERDICTS)
    write_rows(tmp_path / "problems.parquet", [p.to_row() for p in problems], PROBLEMS)
    write_rows(tmp_path / "heldout.parquet", [problem(9, LEAKED.upper()).to_row()], PROBLEMS)
    old = {"prompt": TALK, "completion": [{"role": "assistant", "content": "old"}], "round": 1, "kind": "answer"}
    sources = [{**old, "row_id": f"o{i}", "source": source} for i, source in enumerate(["round", "replay", "round"])]
    write_rows(tmp_path / "older.parquet", sources, SFT)
    write_rows(
        tmp_path / "warmup.parquet", [{**old, "row_id": f"w{i}", "source": "demonstration"} for i in range(5)], SFT
    )
    return {
        "filters": [{"exact_duplicates": {}}],
        "base": str(tmp_path),
        "heldout": str(tmp_path / "heldout.parquet"),
        "pairs": {"strategy": "right_vs_wrong", "per_problem": 2},
        "seed": 0,
        "round": 2,
        "problems": str(tmp_path / "problems.parquet"),
        "samples": str(tmp_path / "samples"),
        "verdicts": str(tmp_path / "verdicts"),
        "older": [str(tmp_path / "older.parquet")],
        "warmup": str(tmp_path / "warmup.parquet"),
        "demonstrations": 3,
        "work": str(tmp_path / "work"),
        "engine": EngineSpec("scripted", ""),
        "usage": str(tmp_path / "usage.jsonl"),
    }


def test_a_round_s_rows_pairs_and_reasons(payload: dict[str, Any]) -> None:
    counts, funnel = work(payload, Quiet())  # type: ignore[arg-type]
    out = Path(payload["work"])
    rows = {row["row_id"]: row for row in read_rows(out / "sft.parquet")}
    assert list(rows) == ["sft-a", "sft-d", "sft-t", "o0", "o2", "w0", "w1", "w2"]
    assert [row["source"] for row in rows.values()] == ["round"] * 3 + ["replay"] * 2 + ["demonstration"] * 3
    assert rows["sft-t"]["prompt"] == TALK and rows["sft-t"]["kind"] == "translation"
    assert rows["sft-a"]["prompt"] == [{"role": "user", "content": "What is 0 + 0?"}]
    assert (rows["sft-a"]["pass_rate"], rows["sft-d"]["pass_rate"], rows["sft-a"]["round"]) == (0.5, 1.0, 2)
    dropped = {row["sample_id"]: (row["filter"], row["reason"]) for row in read_rows(out / "dropped.parquet")}
    assert dropped == {
        "b": ("verified", "wrong: r"),
        "c": ("verified", "undecided: r"),
        "u": ("verified", "wrong: r"),
        "f": ("verified", "wrong: r"),
        "g": ("verified", "wrong: r"),
        "e": ("decontaminate", "13-gram in common with heldout"),
    }
    assert {row["pair_id"] for row in read_rows(out / "pairs.parquet")} == {"a>b", "t>u"}
    assert counts == {
        "problems": 4,
        "samples": 9,
        "right": 4,
        "wrong": 4,
        "undecided": 1,
        "solved": 3,
        "kept": 3,
        "replayed": 5,
        "pairs": 2,
        "dropped_by_decontaminate": 1,
        "dropped_by_exact_duplicates": 0,
    }
    assert read_json(out / "funnel.json") == funnel
    assert not list(out.glob(".*"))


def test_no_pair_teaches_a_heldout_problem_even_with_its_gold_answer(payload: dict[str, Any]) -> None:
    work({**payload, "pairs": {"strategy": "gold_vs_own", "per_problem": 9}}, Quiet())  # type: ignore[arg-type]
    pairs = read_rows(Path(payload["work"]) / "pairs.parquet")
    assert {row["problem_id"] for row in pairs} == {"p0", "p1", "p3"}


def test_the_task_s_topics_can_be_strata(payload: dict[str, Any]) -> None:
    filters = [{"mix": {"by": "problem.topic", "weights": {"a": 1, "b": 1}}}]
    _, funnel = work({**payload, "filters": filters, "pairs": None}, Quiet())  # type: ignore[arg-type]
    assert funnel[-1]["report"] == {"a": [1, 1], "b": [2, 1]}
    assert read_rows(Path(payload["work"]) / "pairs.parquet") == []
