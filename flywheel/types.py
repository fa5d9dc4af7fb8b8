"""The nouns: frozen data that stages, tasks and engines hand to each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

Message = dict[str, str]
"""One chat message, ``{"role": …, "content": …}``, as chat templates and TRL take it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to solve.

    Attributes:
        id: stable and unique within the task; a hash of the content is best.
        prompt: the chat messages that the policy sees.
        gold: a known right completion, or None. Demonstrations need one.
        data: whatever the verifier needs; must survive JSON.
    """

    id: str
    prompt: Sequence[Message]
    gold: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def ask(cls, id: str, question: str, gold: str | None = None, **data: Any) -> Problem:
        """A problem whose prompt is a single user message."""
        return cls(id=id, prompt=[{"role": "user", "content": question}], gold=gold, data=data)

    def to_row(self) -> dict[str, Any]:
        return {
            "problem_id": self.id,
            "prompt": list(self.prompt),
            "gold": self.gold,
            "data": json.dumps(dict(self.data), sort_keys=True),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Problem:
        return cls(row["problem_id"], row["prompt"], row["gold"], json.loads(row["data"]))


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample one chat request.

    Attributes:
        n: completions per request.
        temperature: 0 is greedy.
        top_p: nucleus mass, 1 keeps all.
        top_k: 0 keeps all.
        max_tokens: most new tokens per completion.
        stop: strings that end a completion; they are not part of its text.
        seed: same seed, same request, same batch: same completions.
    """

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """What a policy answered: one assistant message, or a whole conversation after the prompt.

    Attributes:
        messages: everything after the prompt; the last message is the assistant's.
        tokens: how many tokens the policy generated, all turns together.
        finish: "stop" (ended by itself), "length" (cut at max_tokens) or "abort" (the engine gave no answer).
        error: with "abort": why there is no answer.
        kind: "answer" is an independent attempt at the problem: pass rates and evaluation count these alone.
            Any other name is material that a rollout derived (a revision, a translation, a rationalized chain);
            it is verified, curated and trained on in the same way.
        prompt: the conversation that it answers, where that is not the problem's own prompt.
        data: what the rollout knows of it (step scores, votes, parents); must survive JSON.
    """

    messages: Sequence[Message]
    tokens: int = 0
    finish: str = "stop"
    error: str | None = None
    kind: str = "answer"
    prompt: Sequence[Message] | None = None
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, tokens: int = 0, finish: str = "stop") -> Completion:
        """A single-turn completion."""
        return cls([{"role": "assistant", "content": text}], tokens, finish)

    @classmethod
    def missing(cls, why: str) -> Completion:
        """What stands for a completion that the engine could not give: empty, and never judged wrong."""
        return cls([{"role": "assistant", "content": ""}], 0, "abort", why)

    @property
    def text(self) -> str:
        """The last assistant message."""
        return self.messages[-1]["content"]

    def then(self, reply: str, answer: Completion) -> Completion:
        """This conversation, continued by a user message and the policy's next answer."""
        return replace(
            self,
            messages=[*self.messages, {"role": "user", "content": reply}, *answer.messages],
            tokens=self.tokens + answer.tokens,
            finish=answer.finish,
            error=answer.error,
            data={**self.data, **answer.data},
        )

    def to_row(self) -> dict[str, Any]:
        return {
            "messages": list(self.messages),
            "text": self.text,
            "tokens": self.tokens,
            "finish": self.finish,
            "error": self.error,
            "kind": self.kind,
            "answers": None if self.prompt is None else list(self.prompt),
            "data": json.dumps(dict(self.data), sort_keys=True),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Completion:
        return cls(
            row["messages"],
            row["tokens"],
            row["finish"],
            row["error"],
            row["kind"],
            row["answers"],
            json.loads(row["data"]),
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verifier says: a score in [0, 1], or undecided with a reason.

    A verifier that could not decide (timeout, broken infrastructure, no parsable gold) never says
    "wrong": it returns ``Verdict.undecided(reason)``.
    """

    score: float | None
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def right(cls, reason: str = "", **detail: Any) -> Verdict:
        return cls(1.0, reason, detail)

    @classmethod
    def wrong(cls, reason: str, **detail: Any) -> Verdict:
        return cls(0.0, reason, detail)

    @classmethod
    def undecided(cls, reason: str, **detail: Any) -> Verdict:
        return cls(None, reason, detail)

    @property
    def passed(self) -> bool | None:
        """True only for full marks; None when undecided."""
        return None if self.score is None else self.score >= 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """A completion with its verdict and its lineage."""

    id: str
    problem_id: str
    round: int
    completion: Completion
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Group:
    """A problem and its graded samples: what pairs and pass rates are made from."""

    problem: Problem
    samples: Sequence[Sample]

    @property
    def right(self) -> list[Sample]:
        return [s for s in self.samples if s.verdict.passed is True]

    @property
    def wrong(self) -> list[Sample]:
        return [s for s in self.samples if s.verdict.passed is False]

    @property
    def pass_rate(self) -> float | None:
        """Share of right ones among the decided independent attempts; None if none was decided."""
        passed = [s.verdict.passed for s in self.samples if s.completion.kind == "answer"]
        decided = [p for p in passed if p is not None]
        return sum(decided) / len(decided) if decided else None

    def by_prompt(self) -> list[Group]:
        """One group per conversation that was answered, so that only answers to the same are compared."""
        answered: dict[str, list[Sample]] = {}
        for sample in self.samples:
            answered.setdefault(json.dumps(sample.completion.prompt), []).append(sample)
        return [Group(self.problem, samples) for samples in answered.values()]


@dataclass(frozen=True, slots=True)
class Pair:
    """A preference: two samples of one problem."""

    problem: Problem
    chosen: Sample
    rejected: Sample

    @property
    def id(self) -> str:
        return f"{self.chosen.id}>{self.rejected.id}"

    @property
    def prompt(self) -> Sequence[Message]:
        """The conversation that both answer."""
        return self.chosen.completion.prompt or self.problem.prompt
