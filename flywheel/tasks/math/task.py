"""The math task: where problems come from, how they are asked, and what is right."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flywheel.errors import TaskError
from flywheel.sources import first_few, refuse_faults
from flywheel.tasks.base import BaseTask, Policy
from flywheel.tasks.math import demonstrate
from flywheel.tasks.math.claims import judge_claims
from flywheel.tasks.math.dataset import Dataset, Item, Source, as_text, load
from flywheel.tasks.math.kit import Kit
from flywheel.tasks.math.rollouts import rollout
from flywheel.tasks.math.template import vary
from flywheel.tasks.splits import require_split
from flywheel.types import Completion, Message, Problem, Verdict
from flywheel.verify.math import Claimed, MathVerifier
from flywheel.verify.math_extract import gold_answer

BROKEN = ("refuse", "skip")
SAMPLE = 200
SHOWN = 20
"""Rows that ``flywheel check`` names; the rest are counted."""


class Math(BaseTask):
    """Questions with one answer that can be checked.

    Args:
        dataset: a JSONL or Parquet file, a folder of them, or a Hugging Face id. Not needed to grade.
        split: the split that is trained on; "train" of a folder or Hugging Face dataset if None.
        heldout: the split that is held out ("test"), or another file, folder or Hugging Face id; if None, one question
            in 8, by a hash of its text. What is held out is taken out of the training split.
        config: a Hugging Face dataset's configuration.
        fields: the dataset's names of ``question``, ``answer`` and ``solution``; the usual ones are found without. Any
            other name is kept in ``Problem.data``.
        style: how the final answer is asked for: "boxed", "hashes" (GSM8K's ####) or "bare" (not at all).
        variants: how many more training problems are made of each whose solution is a chain of ``<<a+b=c>>`` steps, by
            changing its numbers and names (``template.py``).
        shuffle: give the training problems in an order drawn by ``seed``, not the dataset's.
        seed: of the order and the variants.
        broken: what to do with rows that cannot be used: "refuse" the dataset, or "skip" them.
        unlabelled: training questions may lack an answer; what the attempts agree on then stands for it
            (``rollouts.vote``).
        rollouts: how a problem is attempted, and what else is made of the attempts (``options.Rollouts``).
        workers: processes of the verifier, in each process that verifies; None is one per CPU.
        base: the folder that relative paths start from; ``load_task`` gives the recipe's.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        dataset: str | None = None,
        split: str | None = None,
        heldout: str | None = None,
        config: str | None = None,
        fields: Mapping[str, str] | None = None,
        style: str = "boxed",
        variants: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        broken: str = "refuse",
        unlabelled: bool = False,
        rollouts: Mapping[str, Any] | None = None,
        workers: int | None = None,
        base: Path | None = None,
    ) -> None:
        _one_of("style", style, demonstrate.STYLES)
        _one_of("broken", broken, BROKEN)
        if type(variants) is not int or variants < 0:
            raise ValueError(f"variants must be a whole number of at least 0, not {variants!r}")
        if workers is not None and (type(workers) is not int or workers < 1):
            raise ValueError(f"workers must be a whole number of at least 1, not {workers!r}")
        self.source = None if dataset is None else Source(dataset, split, heldout, config, dict(fields or {}), base)
        self.style, self.variants, self.shuffle, self.seed = style, variants, shuffle, seed
        self.broken, self.unlabelled = broken, unlabelled
        self.kit = Kit(rollouts, base)
        self._verifier = MathVerifier(workers)

    @cached_property
    def dataset(self) -> Dataset:
        """All rows, read once.

        Raises:
            TaskError: no dataset is named.
            DataError: it cannot be read.
        """
        if self.source is None:
            raise TaskError("the math task has no dataset", hint="name it in the recipe: task.args.dataset")
        return load(self.source, unlabelled=self.unlabelled)

    def problems(self, split: str) -> Iterable[Problem]:
        """Problems of a split; "demonstrations" are those of the training split that have a worked solution.

        Raises:
            TaskError: an unknown split, or no dataset.
            DataError: the dataset cannot be read, or has broken rows that are not to be skipped.
        """
        require_split("math", split)
        data = self.dataset
        if self.broken == "refuse":
            refuse_faults(data.faults, "mend these rows, or leave them out with task.args.broken: skip", SHOWN)
        if split == "heldout":
            return (self.problem(item) for item in data.heldout)
        return (self.problem(item) for item in self._train() if split == "train" or item.solution is not None)

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        """See ``rollouts.rollout``."""
        return await rollout(self, problem, policy)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        return self.verify_many([(problem, completion)], self.kit.options.timeout)[0]

    def verify_many(self, asks: Sequence[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        """A verdict for each completion, in their order; may be called from any thread.

        Raises:
            UserError: math-verify is needed and not installed.
        """
        return judge_claims(self._verify, asks, timeout)

    def ask(self, question: str) -> list[Message]:
        """The prompt for a question: one user message."""
        if self.kit.options.code is not None:
            return self.kit.prompts.ask("code", question=question)
        return [{"role": "user", "content": demonstrate.STYLES[self.style].format(question=question)}]

    def problem(self, item: Item) -> Problem:
        """An item as it is asked."""
        data = {**item.extra, "question": item.question, "answer": item.answer, "where": item.where}
        return Problem(f"math-{item.id}", self.ask(item.question), demonstrate.gold(item, self.style), data)

    def read_problem(self, row: dict[str, Any], number: int) -> Problem:
        """The problem of a row that ``flywheel grade`` reads: its ``answer`` is the gold, bare or worked out.

        Raises:
            ValueError: the row has no ``answer``.
        """
        given = as_text(row.get("answer", row.get("gold")))
        if not given:
            raise ValueError("no `answer`")
        question = str(row.get("question", row.get("problem", "")))
        data = {"question": question, "answer": gold_answer(given)}
        return Problem(str(row.get("problem_id", row.get("id", f"line-{number}"))), self.ask(question), data=data)

    def wrong_answers(self, problem: Problem) -> list[str]:
        """The neighbour of a number, ten times it, and its negative."""
        return demonstrate.wrong(problem.data.get("answer"), self.style)

    def findings(self) -> list[str]:
        """Gold answers that cannot be used, by row, and what the rollouts lack. Of broken rows ``problems`` tells."""
        if find_spec("math_verify") is None:
            return ["math-verify is not installed: pip install 'flywheel[math]'", *self.kit.findings()]
        faults = list(self._unverifiable(self.dataset)) if self.broken == "refuse" else []
        return [*first_few(faults, SHOWN), *self.kit.findings(self.unlabelled)]

    def notes(self) -> list[str]:
        """What ``flywheel check`` should say, though nothing is wrong."""
        data = self.dataset
        said = [f"{len(data.train):,} questions to train on, {len(data.heldout):,} held out"]
        if self.variants:
            some = data.train[:SAMPLE]
            can = sum(vary(item, f"{self.seed} 1") is not None for item in some)
            said.append(f"of the first {len(some)} questions, {can} can be varied, {self.variants} times each")
        if self.broken == "skip" and data.faults:
            said.append(f"{len(data.faults):,} rows are skipped, the first: {data.faults[0]}")
        if data.shared:
            said.append(f"{data.shared:,} training questions are held out as well, and left out")
        return said

    def close(self) -> None:
        """End the verifier's workers, and what rollouts started."""
        self._verifier.close()
        self.kit.close()

    def _train(self) -> Iterator[Item]:
        """The training items in their order; variants are made when they are reached."""
        order = [(item, number) for number in range(1 + self.variants) for item in self.dataset.train]
        if self.shuffle:
            order.sort(key=lambda one: hashlib.sha256(f"{self.seed} {one[0].id} {one[1]}".encode()).digest())
        for item, number in order:
            made = item if number == 0 else vary(item, f"{self.seed} {number}")
            if made is not None:
                yield made

    def _verify(self, asks: Sequence[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        claims = [Claimed(p.data.get("answer"), c.text, c.finish == "length") for p, c in asks]
        return self._verifier.verify_many(claims, timeout)

    def _unverifiable(self, data: Dataset) -> Iterator[str]:
        """Gold answers that nothing can be held against, or that are not accepted against themselves."""
        items = [item for item in [*data.train, *data.heldout] if item.answer is not None]
        timeout = self.kit.options.timeout
        unreadable = self._verifier.unreadable([str(item.answer) for item in items], timeout)
        golds = [Claimed(item.answer, demonstrate.gold(item, self.style) or "") for item in items]
        verdicts = self._verifier.verify_many(golds, timeout)
        for item, bad, verdict in zip(items, unreadable, verdicts, strict=True):
            if bad:
                yield f"{item.where}: the gold answer cannot be read: {str(item.answer)[:60]!r}"
            elif verdict.passed is not True:
                yield f"{item.where}: the gold answer is not accepted against itself ({verdict.reason})"


def _one_of(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
