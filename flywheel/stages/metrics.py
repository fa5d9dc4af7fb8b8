"""Evaluation metrics, computed per problem first so that two checkpoints can be compared in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from statistics import fmean
from typing import Any


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased pass@k from ``c`` right among ``n`` samples: 1 - C(n-c, k) / C(n, k) (Codex §2.1)."""
    if n - c < k:
        return 1.0
    return 1.0 - comb(n - c, k) / comb(n, k)


def per_problem(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One entry per problem from its graded answers (rows with ``kind``, ``mode``, ``passed``, ``text``, ``tokens``).

    Returns:
        ``problem_id``, ``n`` and ``right`` (decided sampled answers), ``undecided``, ``unique`` (distinct
        right answers), ``tokens`` (mean per sampled answer), ``greedy`` (bool or None).
    """
    grouped: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["kind"] == "answer":
            grouped.setdefault(row["problem_id"], []).append(row)
    entries = []
    for problem_id, group in grouped.items():
        sampled = [row for row in group if row["mode"] == "sampled"]
        decided = [row for row in sampled if row["passed"] is not None]
        right = [row for row in decided if row["passed"]]
        greedy = [row["passed"] for row in group if row["mode"] == "greedy"]
        entries.append(
            {
                "problem_id": problem_id,
                "n": len(decided),
                "right": len(right),
                "undecided": len(sampled) - len(decided),
                "unique": len({"".join(row["text"].split()) for row in right}),
                "tokens": fmean(row["tokens"] for row in sampled) if sampled else 0.0,
                "greedy": greedy[0] if greedy else None,
            }
        )
    return entries


def summarise(entries: Sequence[Mapping[str, Any]], completions: int) -> dict[str, float]:
    """The metrics of a checkpoint.

    Returns:
        ``accuracy`` (mean share of right samples), ``pass@k`` for k = 2, 4, … up to ``completions``,
        ``unique_correct`` and ``mean_tokens`` (per problem / per completion), ``greedy_accuracy`` if
        asked for, and ``undecided`` (share of samples without verdict). Problems where nothing was
        decided do not count.
    """
    decided = [e for e in entries if e["n"] > 0]
    metrics = {"accuracy": _mean(e["right"] / e["n"] for e in decided)}
    if greedy := [e["greedy"] for e in entries if e["greedy"] is not None]:
        metrics["greedy_accuracy"] = _mean(greedy)
    k = 2
    while k <= completions:
        metrics[f"pass@{k}"] = _mean(pass_at_k(e["n"], e["right"], k) for e in decided if e["n"] >= k)
        k *= 2
    metrics["unique_correct"] = _mean(e["unique"] for e in decided)
    metrics["mean_tokens"] = _mean(e["tokens"] for e in entries)
    total = sum(e["n"] + e["undecided"] for e in entries)
    metrics["undecided"] = sum(e["undecided"] for e in entries) / total if total else 0.0
    return {name: round(value, 6) for name, value in metrics.items()}


def _mean(values: Any) -> float:
    listed = [float(v) for v in values]
    return fmean(listed) if listed else 0.0
