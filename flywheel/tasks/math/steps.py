"""Step scores without labels (Math-Shepherd section 3.3): go on from each step, and see how often that ends well.

For each scored chain ``data["steps"]`` has, per step, ``ends`` (where it ends in the text, in characters), ``soft``
(the share of its continuations that are right) and ``hard`` (1 if one is); None where none was decided. The last step's
score is the chain's own verdict. ``data["step_min"]`` is the lowest soft score, for
``curate: [{data: {field: step_min, min: 0.25}}]``.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flywheel.tasks.math.attempt import Attempt, distinct, mark
from flywheel.tasks.math.claims import inherited
from flywheel.tasks.math.options import Steps
from flywheel.types import Completion, Verdict


@dataclass(frozen=True)
class _Prefix:
    """The beginning of a chain, to be continued: ``end`` is its length in characters."""

    chain: int
    end: int


async def score_steps(
    at: Attempt, answers: Sequence[Completion], options: Steps
) -> tuple[list[Completion], list[Completion]]:
    """Score the steps of attempts.

    Returns:
        The attempts, those that were scored with their scores; and continuations of kind "continuation": whole chains,
        each with the length of the ``prefix`` that it shares with the attempt ``parent`` (its position), at most
        ``options.keep`` right and as many wrong ones of each prefix that has both.
    """
    whole = [a for a in distinct(answers) if _can_be_scored(a)]
    chosen = [next(i for i, a in enumerate(answers) if a is chain) for chain in whole[: options.chains]]
    ends = {i: step_ends(answers[i].text, options.split, options.max_steps) for i in chosen}
    prefixes = [_Prefix(i, end) for i in chosen for end in ends[i][:-1]]
    verdicts = await at.verify([answers[i] for i in chosen])
    chains = await asyncio.gather(*(_continue(at, answers[p.chain], p, options.continuations) for p in prefixes))
    flat = await at.verify([chain for group in chains for chain in group])
    n = options.continuations
    judged = {p: (chains[k], flat[k * n : (k + 1) * n]) for k, p in enumerate(prefixes)}
    scored = list(answers)
    for i, verdict in zip(chosen, verdicts, strict=True):
        groups = [judged[_Prefix(i, end)][1] for end in ends[i][:-1]]
        scored[i] = mark(answers[i], **scores(ends[i], [*groups, [verdict]]))
    kept = [c for p in prefixes for c in _contrast(*judged[p], options.keep)]
    return scored, kept


def _can_be_scored(chain: Completion) -> bool:
    return (
        chain.finish == "stop" and len(chain.messages) == 1 and bool(chain.text.strip()) and "refused" not in chain.data
    )


def step_ends(text: str, split: str, most: int) -> list[int]:
    """Where the steps of a chain end, in characters; the last end is that of the text.

    Args:
        text: a chain.
        split: regular expression of what stands between two steps; a prefix ends before it.
        most: beyond it, neighbouring steps are joined, evenly.
    """
    end = len(text.rstrip())
    starts = [m.start() for m in re.finditer(split, text) if text[: m.start()].strip() and m.start() < end]
    ends = [*dict.fromkeys(len(text[:s].rstrip()) for s in starts), len(text)]
    if len(ends) <= most:
        return ends
    return [ends[(k + 1) * len(ends) // most - 1] for k in range(most)]


def scores(ends: Sequence[int], verdicts: Sequence[Sequence[Verdict]]) -> dict[str, object]:
    """The ``data`` of a scored chain, from the verdicts after each of its steps."""
    soft: list[float | None] = []
    for group in verdicts:
        decided = [verdict.passed for verdict in group if verdict.passed is not None]
        soft.append(sum(decided) / len(decided) if decided else None)
    hard = [None if value is None else int(value > 0) for value in soft]
    known = [value for value in soft if value is not None]
    return {
        "steps": {"ends": list(ends), "soft": soft, "hard": hard},
        "step_min": min(known) if known else None,
    }


async def _continue(at: Attempt, chain: Completion, prefix: _Prefix, n: int) -> list[Completion]:
    """Whole chains that share a prefix."""
    begun = chain.text[: prefix.end]
    messages = [*(chain.prompt or at.problem.prompt), {"role": "assistant", "content": begun}]
    rests = await at.chat(messages, n=n)
    data = {**inherited(chain), "prefix": prefix.end, "parent": prefix.chain}
    return [
        replace(
            rest,
            messages=[{"role": "assistant", "content": begun + rest.text}] if rest.finish != "abort" else rest.messages,
            kind="continuation",
            prompt=chain.prompt,
            data=data,
        )
        for rest in rests
    ]


def _contrast(chains: Sequence[Completion], verdicts: Sequence[Verdict], keep: int) -> list[Completion]:
    """Some right and some wrong ones, where there are both."""
    sides = [
        [c for c, v in zip(chains, verdicts, strict=True) if v.passed is passed and c.finish == "stop"][:keep]
        for passed in (True, False)
    ]
    return [chain for side in sides for chain in side] if all(sides) else []
