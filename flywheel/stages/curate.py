"""Curate a round: verified samples become SFT rows and pairs, the rest keep their reasons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flywheel.curate import DROPPED, Aids, Filter, ParquetSource, Rows, make_filters, make_pairs, run_chain
from flywheel.curate.chain import show_funnel
from flywheel.curate.columns import user_text
from flywheel.curate.decontaminate import Decontaminate
from flywheel.curate.difficulty import before_and_after
from flywheel.files import ParquetSink, write_json
from flywheel.stagedir import StageDir
from flywheel.stages.context import Checkpoint, Context
from flywheel.stages.graded import Tally, graded_parts, make_groups, tally, write_graded
from flywheel.stages.judging import aids, run_with_engine
from flywheel.stages.problems import FILE
from flywheel.stages.schemas import PAIRS, SFT
from flywheel.types import Pair, Problem
from flywheel.workers import Report

KEYS = ("seed", "curate", "replay", "pairs")


def curate(
    ctx: Context, number: int, policy: Checkpoint, problems: StageDir, samples: StageDir, verdicts: StageDir
) -> StageDir:
    """The ``curated`` stage of a round; the policy is the one that sampled it, and judges where a filter asks it."""
    window = ctx.recipe.replay.rounds
    first = 1 if window is None else max(1, number - window)
    older = [ctx.run.stage(n, "curated") for n in range(first, number)]
    warmup = ctx.run.stage(0, "warmup")
    heldout = ctx.run.stage(0, "evaluate")
    measured = heldout.manifest()["files"][FILE]["sha256"]  # the problems alone: how they were answered is no matter
    parents = {"verdicts": verdicts.identity(), "heldout": measured, **{s.label: s.identity() for s in older}}
    stage = ctx.run.stage(number, "curated")

    def build(work: Path) -> dict[str, Any]:
        payload = {
            "filters": ctx.resolved["curate"],
            "base": str(ctx.base),
            "heldout": str(heldout.path / FILE),
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
        counts, funnel = run_with_engine(ctx, stage, policy, "flywheel.stages.curate:work", payload)
        ctx.tracker.funnel(number, funnel)
        ctx.screen.say("\n".join([f"round {number}: curation", *(f"  {line}" for line in show_funnel(funnel))]))
        made: dict[str, Any] = counts
        return made

    return ctx.lead(stage, ctx.inputs(KEYS, parents), build)


def work(payload: dict[str, Any], report: Report) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Worker: write ``sft.parquet``, ``pairs.parquet``, ``dropped.parquet``, ``funnel.json``, ``difficulty.json``.

    Returns:
        What the stage records of itself, and the funnel.
    """
    with report.span("curate"):
        out = Path(payload["work"])
        folders = (Path(payload["samples"]), Path(payload["verdicts"]))
        found = tally(Path(payload["problems"]), *folders)
        graded = out / ".graded.parquet"
        filters = make_filters(payload["filters"], Path(payload["base"]), heldout=True)
        asked = {column for _, filter in filters for column in filter.columns}
        write_graded(graded, found, *folders, with_data=any(column.startswith("problem.") for column in asked))
        rows = Rows(ParquetSource([graded]))
        entered = rows.alive.copy()
        with ParquetSink(out / "dropped.parquet", DROPPED) as dropped:
            funnel = run_chain(filters, rows, dropped, aids(payload, report))
        with ParquetSink(out / "sft.parquet", SFT) as sft:
            _write_own(sft, rows, payload["round"])
            kept = sft.rows
            _write_replayed(sft, payload)
        held = _held_out(filters, found.problems, aids(payload, report))
        pairs = _write_pairs(out / "pairs.parquet", payload, found, rows, held)
        write_json(out / "funnel.json", funnel)
        write_json(out / "difficulty.json", before_and_after(rows, entered))
        graded.unlink()
        counts = {**found.counts, "kept": kept, "replayed": sft.rows - kept, "pairs": pairs}
    return {**counts, **_dropped_by(funnel)}, funnel


def _dropped_by(funnel: list[dict[str, Any]]) -> dict[str, int]:
    """The funnel as numbers for ``round.json``, ``metrics.jsonl`` and W&B."""
    gone: dict[str, int] = {}
    for step in funnel[1:]:  # the first is the verifier, whose counts have names of their own
        name = f"dropped_by_{step['filter']}"
        gone[name] = gone.get(name, 0) + step["rows_in"] - step["kept"]
    return gone


def _write_own(sink: ParquetSink, rows: Rows, number: int) -> None:
    """The rows of this round that were kept."""
    for batch in rows.scan("sample_id", "prompt", "messages", "problem_id", "kind", "pass_rate"):
        columns = dict(zip(batch.table.schema.names, batch.table.columns, strict=True))
        columns["completion"] = columns.pop("messages")
        columns["row_id"] = pc.binary_join_element_wise("sft-", columns["sample_id"], "")
        columns["source"] = pa.repeat("round", len(batch))
        columns["round"] = pa.repeat(pa.scalar(number, pa.int32()), len(batch))
        sink.write(pa.table(columns))


def _write_replayed(sink: ParquetSink, payload: dict[str, Any]) -> None:
    """Rows of earlier rounds (each round's own, not what it replayed), and demonstrations."""
    for file in payload["older"]:
        for batch in pq.ParquetFile(file).iter_batches(8192):
            own = pa.table(batch).filter(pc.equal(batch["source"], "round"))
            replay = pa.repeat("replay", len(own))
            sink.write(own.set_column(own.schema.get_field_index("source"), SFT.field("source"), replay))
    if payload["warmup"]:
        left = payload["demonstrations"]
        for batch in pq.ParquetFile(payload["warmup"]).iter_batches(8192):
            if left > 0:
                sink.write(pa.table(batch.slice(0, left)))
                left -= len(batch)


def _held_out(filters: list[tuple[str, Filter]], problems: pa.Table, given: Aids) -> set[str]:
    """Problems that hold an evaluation problem: a pair teaches its prompt, whoever answered."""
    checks = [filter for _, filter in filters if isinstance(filter, Decontaminate)]
    questions = [text for chunk in problems["prompt"].chunks for text in user_text(chunk).to_pylist()]
    held = np.zeros(len(problems), bool)
    for check in checks:
        held |= check.holds(questions, given)
    return set(problems["problem_id"].filter(pa.array(held)).to_pylist())


def _write_pairs(file: Path, payload: dict[str, Any], found: Tally, rows: Rows, held: set[str]) -> int:
    """Preference pairs, part by part: a problem's samples all lie in one part. None of the problems ``held`` out."""
    section = payload["pairs"]
    with ParquetSink(file, PAIRS) as sink:
        if section is None:
            return 0
        places = dict(zip(found.problems["problem_id"].to_pylist(), range(len(found.problems)), strict=True))
        start = 0
        for part in graded_parts(Path(payload["samples"]), Path(payload["verdicts"])):
            alive = rows.alive[start : start + len(part)]
            start += len(part)
            kept = {row["sample_id"] for row, lives in zip(part, alive, strict=True) if lives}
            here = sorted({places[row["problem_id"]] for row in part if row["problem_id"] not in held})
            problems = [Problem.from_row(row) for row in found.problems.take(here).to_pylist()]
            pairs = make_pairs(
                section["strategy"], make_groups(problems, part), kept, section["per_problem"], payload["seed"]
            )
            sink.write(pa.Table.from_pylist([_pair_row(pair, payload["round"]) for pair in pairs], schema=PAIRS))
        return sink.rows


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
