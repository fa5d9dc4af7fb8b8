"""Preference pairs from graded groups, by published strategies."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import lcm

from flywheel.types import Completion, Group, Message, Pair, Sample, Verdict

REVISION = "revision"
"""Kind of a completion that mends an attempt. As a dialogue it begins with the mistake, which must not be preferred."""


def make_pairs(
    strategy: str | Sequence[str], groups: Iterable[Group], chosen_ids: set[str], per_problem: int, seed: int
) -> Iterator[Pair]:
    """Pairs of distinct completions of the same problem and the same prompt.

    Args:
        strategy: "right_vs_wrong" (Iterative RPO §2: random right against random wrong), "best_vs_worst"
            (Self-Rewarding §2.4: extreme scores, ties dropped), "gold_vs_own" (SPIN: the gold
            completion against the policy's own, right or wrong), "step" (Step-DPO: a right against a wrong way to
            go on from the same prefix; needs ``data["prefix"]``, its length in characters) or "revised_vs_first"
            (Llama 3 §4.2.1: edited over rejected: a revision's last answer against the first attempt that it
            mends); or several of them.
        groups: problems with their graded samples.
        chosen_ids: samples that survived curation; only these can be chosen.
        per_problem: most pairs per strategy and problem, and per prompt that a rollout derived from it.
        seed: of the random choices.
    """
    makers = {
        "right_vs_wrong": _right_vs_wrong,
        "best_vs_worst": _best_vs_worst,
        "gold_vs_own": _gold_vs_own,
        "step": _step,
    }
    chosen = [strategy] if isinstance(strategy, str) else strategy
    for group in groups:
        # Seeded by problem, so that a pair does not depend on which other problems there are.
        draw = random.Random(f"{seed}:{group.problem.id}")
        for comparable in group.by_prompt():
            alike = replace(comparable, samples=[s for s in comparable.samples if not _mends(s)])
            for name in chosen:
                if name in makers:
                    yield from makers[name](alike, chosen_ids, per_problem, draw)
        if "revised_vs_first" in chosen:
            yield from _revised_vs_first(group, chosen_ids, per_problem, draw)


def _right_vs_wrong(group: Group, chosen_ids: set[str], most: int, draw: random.Random) -> list[Pair]:
    right = [s for s in group.right if s.id in chosen_ids]
    wrong = _distinct(group.wrong)
    draw.shuffle(right)
    draw.shuffle(wrong)
    if not right or not wrong:
        return []
    # Walk both lists round and round, so that no completion is used twice before all were used once; the walk
    # closes after lcm steps, and a shift by one opens the next.
    period = lcm(len(right), len(wrong))
    pairs: list[Pair] = []
    for i in range(len(right) * len(wrong)):
        pair = Pair(group.problem, right[i % len(right)], wrong[(i + i // period) % len(wrong)])
        # A verifier that changes its mind could have put the same text on both sides.
        if pair.chosen.completion.text != pair.rejected.completion.text:
            pairs.append(pair)
        if len(pairs) == most:
            break
    return pairs


def _best_vs_worst(group: Group, chosen_ids: set[str], most: int, draw: random.Random) -> list[Pair]:
    decided = [s for s in _distinct(group.samples) if s.verdict.score is not None]
    draw.shuffle(decided)
    ranked = sorted(decided, key=lambda s: s.verdict.score or 0.0, reverse=True)
    pairs: list[Pair] = []
    for best, worst in zip(ranked, reversed(ranked), strict=True):
        if len(pairs) == most or (best.verdict.score or 0.0) <= (worst.verdict.score or 0.0):
            break
        if best.id in chosen_ids:
            pairs.append(Pair(group.problem, best, worst))
    return pairs


def _gold_vs_own(group: Group, chosen_ids: set[str], most: int, draw: random.Random) -> list[Pair]:
    gold = group.problem.gold
    if gold is None:
        return []
    round_number = group.samples[0].round if group.samples else 0
    chosen = Sample(
        f"gold-{group.problem.id}", group.problem.id, round_number, Completion.of(gold), Verdict.right("gold")
    )
    own = [s for s in _distinct(group.samples) if s.completion.text.strip() != gold.strip()]
    draw.shuffle(own)
    return [Pair(group.problem, chosen, sample) for sample in own[:most]]


def _step(group: Group, chosen_ids: set[str], most: int, draw: random.Random) -> list[Pair]:
    """The longest prefixes first: what differs after them is least. What both share cancels out of DPO's loss."""
    prefixes = {
        s.completion.text[: s.completion.data["prefix"]] for s in group.samples if "prefix" in s.completion.data
    }
    pairs: dict[str, Pair] = {}
    for prefix in sorted(prefixes, key=lambda text: (-len(text), text)):
        same = [s for s in group.samples if len(s.completion.messages) == 1 and s.completion.text.startswith(prefix)]
        pairs |= {pair.id: pair for pair in _right_vs_wrong(Group(group.problem, same), chosen_ids, 1, draw)}
        if len(pairs) >= most:
            break
    return list(pairs.values())


def _revised_vs_first(group: Group, chosen_ids: set[str], most: int, draw: random.Random) -> list[Pair]:
    pairs: list[Pair] = []
    for sample in group.right:
        if sample.completion.kind != REVISION or sample.id not in chosen_ids:
            continue
        dialogue = _conversation(group, sample)
        # A revision goes on from the attempt that it mends, be that a part of it or of what it answers.
        first = next((s for s in group.wrong if _begins(dialogue, group, s)), None)
        if first is not None:
            # The last answer alone, as if it had come at once: it stands beside the first, not after it.
            answer = replace(sample.completion, messages=[dialogue[-1]], prompt=first.completion.prompt)
            pairs.append(Pair(group.problem, replace(sample, completion=answer), first))
    draw.shuffle(pairs)
    return pairs[:most]


def _begins(dialogue: list[Message], group: Group, attempt: Sample) -> bool:
    begun = _conversation(group, attempt)
    return attempt.completion.kind != REVISION and dialogue[: len(begun)] == begun


def _conversation(group: Group, sample: Sample) -> list[Message]:
    asked = sample.completion.prompt
    return [*(group.problem.prompt if asked is None else asked), *sample.completion.messages]


def _mends(sample: Sample) -> bool:
    return sample.completion.kind == REVISION and len(sample.completion.messages) > 1


def _distinct(samples: Iterable[Sample]) -> list[Sample]:
    """The first sample of each text."""
    by_text: dict[str, Sample] = {}
    for sample in samples:
        by_text.setdefault(sample.completion.text, sample)
    return list(by_text.values())
