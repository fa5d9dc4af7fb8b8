"""The gate: a candidate replaces the incumbent only if it is better on the same held-out problems."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from flywheel.recipe import Promote

RESAMPLES = 10_000


@dataclass(frozen=True)
class Decision:
    """Whether to promote, and why, in words."""

    promoted: bool
    why: str
    gain: float
    confidence: float | None


def decide(section: Promote, incumbent: list[dict[str, Any]], candidate: list[dict[str, Any]], seed: int) -> Decision:
    """Compare two evaluations.

    Args:
        section: the recipe's ``promote``.
        incumbent: per-problem results of the current best (``results.json``).
        candidate: the same problems, answered by the new checkpoint.
        seed: of the bootstrap.
    """
    before, after = _scores(section.metric, incumbent), _scores(section.metric, candidate)
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return Decision(False, "no held-out problem was decided for both checkpoints", 0.0, None)
    old = np.array([before[p] for p in shared])
    new = np.array([after[p] for p in shared])
    gain = float((new - old).mean())
    told = f"{section.metric} {old.mean():.3f} -> {new.mean():.3f} on {len(shared)} held-out problems"
    if section.test == "always":
        return Decision(True, f"{told}; the recipe promotes always", gain, None)
    if section.test == "mcnemar":
        confidence = _mcnemar(old, new)
    else:
        confidence = _paired_bootstrap(new - old, section.min_gain, seed)
    promoted = gain > section.min_gain and confidence >= section.confidence
    comparison = ">=" if confidence >= section.confidence else "<"
    reason = f"{told}; {section.test} confidence {confidence:.3f} {comparison} {section.confidence:g}"
    if gain <= section.min_gain:
        reason += f"; gain {gain:+.3f} does not exceed {section.min_gain:g}"
    return Decision(promoted, reason, gain, confidence)


def _scores(metric: str, entries: list[dict[str, Any]]) -> dict[str, float]:
    if metric == "greedy_accuracy":
        return {e["problem_id"]: float(e["greedy"]) for e in entries if e["greedy"] is not None}
    return {e["problem_id"]: e["right"] / e["n"] for e in entries if e["n"] > 0}


def _paired_bootstrap(differences: np.ndarray[Any, Any], min_gain: float, seed: int) -> float:
    """Share of resampled problem sets whose mean difference exceeds ``min_gain`` (Koehn 2004)."""
    draw = np.random.default_rng(seed)
    n = len(differences)
    # How often each value comes up among n draws with replacement is multinomial; there are few distinct values.
    values, counts = np.unique(differences, return_counts=True)
    means = draw.multinomial(n, counts / n, size=RESAMPLES) @ values / n
    return float((means > min_gain).mean())


def _mcnemar(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    """One minus the exact one-sided McNemar p-value, a problem counting as won above half marks."""
    was, now = old > 0.5, new > 0.5
    gained, lost = int((~was & now).sum()), int((was & ~now).sum())
    n = gained + lost
    tail = sum(comb(n, i) for i in range(gained, n + 1)) / 2**n
    return 1.0 - tail if n else 0.0
