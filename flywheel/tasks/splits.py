"""Splits of a task that draws its problems at random, some of them held out by a hash.

A hash of the problem's content decides whether it is held out, and nothing else: no seed, format or
setting can bring a held-out problem into a training split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import TypeVar

from flywheel.errors import TaskError

SPLITS = ("train", "heldout", "demonstrations")
HELD_OUT_ONE_IN = 8
PATIENCE = 20_000
"""Draws in a row without a new problem (some tenths of a second) after which a split ends."""

T = TypeVar("T")


def require_split(task: str, split: str) -> None:
    """Refuse a split that no such task has.

    Raises:
        TaskError: the split is not one of ``SPLITS``.
    """
    if split not in SPLITS:
        raise TaskError(f"{task} has no split {split!r}", hint=f"use one of {', '.join(SPLITS)}")


def draw_split(split: str, draw: Callable[[], tuple[str, T] | None]) -> Iterator[tuple[str, T]]:
    """What ``draw`` gives, as far as it belongs to the split.

    "train" is the task's own distribution, round after round: frequent problems come again. (Each problem
    once would leave the rare, hard ones for the last rounds, and train on what is not evaluated.) The other
    splits have each problem once, and end when nothing new comes.

    Args:
        split: one of ``SPLITS``.
        draw: returns the problem's canonical text (what makes it the same problem) and the problem, or
            None for a draw that makes none.

    Yields:
        12 hexadecimal digits of the canonical text's hash, for the id, and the problem.
    """
    seen: set[str] = set()
    rejected = 0
    while rejected < PATIENCE:
        rejected += 1
        drawn = draw()
        if drawn is None:
            continue
        canonical, problem = drawn
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = digest[:12]
        # The last digits decide, since the id has the first.
        if (int(digest[-4:], 16) % HELD_OUT_ONE_IN == 0) != (split == "heldout") or key in seen:
            continue
        rejected = 0
        if split != "train":
            seen.add(key)
        yield key, problem
