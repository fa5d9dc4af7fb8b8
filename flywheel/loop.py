"""The round: everything flywheel does, on one screen.

Take the latest promoted checkpoint, draw problems, sample completions and verify them while they
come, curate them into SFT rows and preference pairs, train SFT then DPO, evaluate on held-out
problems, and promote only if it is really better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flywheel.files import read_json, write_json
from flywheel.rundir import RunDir
from flywheel.stages.context import Checkpoint, Context
from flywheel.stages.curate import curate
from flywheel.stages.evaluate import evaluate
from flywheel.stages.problems import draw_problems
from flywheel.stages.promote import Decision, decide
from flywheel.stages.sample import sample_and_verify_round
from flywheel.stages.train import dpo, sft, warm_up


def run_rounds(ctx: Context) -> None:
    """Turn the wheel as often as the recipe says; rounds that are finished are read, not repeated."""
    base = best = warm_up(ctx)
    incumbent = 0  # the round whose evaluation the best checkpoint has
    evaluate(ctx, 0, base)
    _conclude(ctx, 0, base, base, Decision(True, "the start", 0.0, None))
    for number in range(1, ctx.recipe.rounds + 1):
        candidate = _attempt(ctx, number, base, best)
        if candidate in (base, best):
            decision = Decision(False, "this round trained nothing", 0.0, None)
            evaluate(ctx, number, best)
        else:
            decision = _gate(ctx, incumbent, number, candidate)
        if _conclude(ctx, number, best, candidate, decision):
            best, incumbent = candidate, number


def _attempt(ctx: Context, number: int, base: Checkpoint, best: Checkpoint) -> Checkpoint:
    """One round's data and training; returns its candidate."""
    problems = draw_problems(ctx, number)
    samples, verdicts = sample_and_verify_round(ctx, number, best, problems)
    curated = curate(ctx, number, best, problems, samples, verdicts)
    start = base if ctx.recipe.train_from == "base" else best
    tuned = sft(ctx, number, start, curated)
    return dpo(ctx, number, tuned, curated, references={"initial": base, "previous": best, "sft": tuned})


def _gate(ctx: Context, incumbent: int, number: int, candidate: Checkpoint) -> Decision:
    """Evaluate the candidate and compare it, problem by problem, with the incumbent."""
    result = evaluate(ctx, number, candidate)
    before = read_json(ctx.run.stage(incumbent, "evaluate").path / "results.json")
    after = read_json(result.path / "results.json")
    return decide(ctx.recipe.promote, before, after, ctx.recipe.seed)


def _conclude(ctx: Context, number: int, entered: Checkpoint, candidate: Checkpoint, decision: Decision) -> bool:
    """Rank 0 writes ``round.json``, moves ``best`` and tells the trackers; once per round.

    Returns:
        Whether the candidate was promoted: as it was decided then, also if `promote` was edited since.
    """
    file = ctx.run.round_dir(number) / "round.json"
    if not ctx.rank.leads:
        ctx.session.wait(file.exists, f"rank 0 to conclude round {number}")
    if file.exists():
        return bool(read_json(file)["promoted"])
    leaves = candidate if decision.promoted else entered
    summary = {
        "round": number,
        "policy_in": ctx.shown(entered),
        "candidate": ctx.shown(candidate),
        "policy_out": ctx.shown(leaves),
        "promoted": decision.promoted,
        "why": decision.why,
        "metrics": read_json(ctx.run.stage(number, "evaluate").path / "metrics.json"),
        "counts": _counts(ctx.run, number),
        "seconds": {stage.name: stage.manifest()["seconds"] for stage in ctx.run.committed(number)},
    }
    if ctx.is_ours(leaves):
        ctx.run.point_best(Path(str(leaves.path)))
    ctx.tracker.round(summary)
    write_json(file, summary)  # last: what a crash interrupts here is done again, and ends the same
    ctx.screen.say(_sentence(summary))
    return decision.promoted


def _counts(run: RunDir, number: int) -> dict[str, Any]:
    """The funnel: from problems drawn to rows and pairs trained on."""
    counts: dict[str, Any] = {}
    for stage in run.committed(number):
        info = stage.info()
        if stage.name == "curated":
            counts |= info
        elif stage.name in ("warmup", "sft", "dpo"):
            counts |= {f"{stage.name}_steps": info.get("steps", 0)}
            if "skipped" in info:
                counts |= {f"{stage.name}_skipped": info["skipped"]}
    return counts


def _sentence(summary: dict[str, Any]) -> str:
    metrics = "  ".join(f"{name} {value:.3f}" for name, value in summary["metrics"].items() if name != "undecided")
    verdict = "promoted" if summary["promoted"] else "kept the incumbent"
    took = sum(summary["seconds"].values())
    return f"round {summary['round']}: {metrics}\n  {verdict}: {summary['why']} ({took:.0f} s)"
