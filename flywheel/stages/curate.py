"""Curate a round: verified samples become SFT rows and pairs, the rest keep their reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.curate import make_filters, make_pairs, run_filters
from flywheel.files import read_rows, write_json, write_rows, write_table
from flywheel.stagedir import StageDir
from flywheel.stages.context import Context
from flywheel.stages.graded import make_groups, read_graded
from flywheel.stages.problems import FILE
from flywheel.stages.schemas import DROPPED, PAIRS, SFT
from flywheel.types import Group, Pair, Problem
from flywheel.workers import Report

KEYS = ("seed", "curate", "replay", "pairs")


def curate(ctx: Context, number: int, problems: StageDir, samples: StageDir, verdicts: StageDir) -> StageDir:
    """The ``curated`` stage of a round."""
    window = ctx.recipe.replay.rounds
    first = 1 if window is None else max(1, number - window)
    older = [ctx.run.stage(n, "curated") for n in range(first, number)]
    warmup = ctx.run.stage(0, "warmup")
    parents = {"verdicts": verdicts.identity(), **{s.label: s.identity() for s in older}}
    stage = ctx.run.stage(number, "curated")

    def build(work: Path) -> dict[str, Any]:
        payload = {
            "filters": ctx.resolved["curate"],
            "pairs": ctx.resolved["pairs"] if ctx.recipe.dpo is not None else None,
            "seed": ctx.recipe.seed,
            "round": number,
            "problems": str(problems.path / FILE),
            "samples": str(samples.path),
            "verdicts": str(verdicts.path),
            "older": [str(s.path / "sft.parquet") for s in older],
            "warmup": str(warmup.path / "sft.parquet") if warmup.committed else None,
            "demonstrations": ctx.recipe.replay.demonstrations,
            "work": str(work),
        }
        counts: dict[str, Any] = ctx.run_worker(stage, "flywheel.stages.curate:work", payload)
        return counts

    return ctx.lead(stage, ctx.inputs(KEYS, parents), build)


def work(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Worker: write ``sft.parquet``, ``pairs.parquet``, ``dropped.parquet`` and ``funnel.json``."""
    with report.span("curate"):
        out = Path(payload["work"])
        problems = [Problem.from_row(row) for row in read_rows(Path(payload["problems"]))]
        rows = read_graded(Path(payload["samples"]), Path(payload["verdicts"]))
        groups = make_groups(problems, rows)
        rates = {group.problem.id: group.pass_rate for group in groups}
        rows = [{**row, "pass_rate": rates[row["problem_id"]]} for row in rows]
        kept, dropped, funnel = run_filters(make_filters(payload["filters"]), rows)
        fresh = pa.Table.from_pylist(_sft_rows(kept, {p.id: p for p in problems}, payload["round"]), schema=SFT)
        replayed = _replayed(payload)
        pairs = _pairs(payload, groups, {row["sample_id"] for row in kept})
        write_table(out / "sft.parquet", pa.concat_tables([fresh, *replayed]))
        write_rows(out / "pairs.parquet", [_pair_row(pair, payload["round"]) for pair in pairs], PAIRS)
        write_rows(out / "dropped.parquet", dropped, DROPPED)
        write_json(out / "funnel.json", funnel)
    return {
        "problems": len(problems),
        "samples": len(rows),
        "right": sum(row["passed"] is True for row in rows),
        "wrong": sum(row["passed"] is False for row in rows),
        "undecided": sum(row["passed"] is None for row in rows),
        "solved": sum(bool(group.right) for group in groups),
        "kept": len(kept),
        "replayed": sum(len(table) for table in replayed),
        "pairs": len(pairs),
    }


def _sft_rows(kept: list[dict[str, Any]], problems: dict[str, Problem], number: int) -> list[dict[str, Any]]:
    return [
        {
            "row_id": f"sft-{row['sample_id']}",
            "prompt": row["answers"] or list(problems[row["problem_id"]].prompt),
            "completion": row["messages"],
            "source": "round",
            "round": number,
            "problem_id": row["problem_id"],
            "sample_id": row["sample_id"],
            "kind": row["kind"],
            "pass_rate": row["pass_rate"],
        }
        for row in kept
    ]


def _replayed(payload: dict[str, Any]) -> list[pa.Table]:
    """Rows of earlier rounds (each round's own, not what it replayed), and demonstrations."""
    tables = []
    for file in payload["older"]:
        table = pq.ParquetFile(file).read()
        own = table.filter(pc.equal(table["source"], "round"))
        replay = pa.array(["replay"] * len(own), pa.string())
        tables.append(own.set_column(own.schema.get_field_index("source"), SFT.field("source"), replay))
    if payload["warmup"] and payload["demonstrations"]:
        tables.append(pq.ParquetFile(payload["warmup"]).read().slice(0, payload["demonstrations"]))
    return tables


def _pairs(payload: dict[str, Any], groups: list[Group], kept: set[str]) -> list[Pair]:
    section = payload["pairs"]
    if section is None:
        return []
    return list(make_pairs(section["strategy"], groups, kept, section["per_problem"], payload["seed"]))


def _pair_row(pair: Pair, number: int) -> dict[str, Any]:
    return {
        "pair_id": pair.id,
        "prompt": list(pair.prompt),
        "chosen": list(pair.chosen.completion.messages),
        "rejected": list(pair.rejected.completion.messages),
        "round": number,
        "problem_id": pair.problem.id,
        "chosen_id": pair.chosen.id,
        "rejected_id": pair.rejected.id,
    }
