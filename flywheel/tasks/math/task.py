"""The math task: where problems come from, how they are asked, and what is right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from flywheel.errors import DataError, TaskError
from flywheel.tasks.base import BaseTask, Policy
from flywheel.tasks.math.claims import judge_claims
from flywheel.tasks.math.dataset import Dataset, Item, Source, load
from flywheel.tasks.math.kit import Kit
from flywheel.tasks.math.rollouts import rollout
from flywheel.tasks.splits import require_split
from flywheel.types import Completion, Message, Problem, Verdict
from flywheel.verify.math_extract import gold_answer

BOXED = "{question}\n\nReason step by step, and put your final answer within \\boxed{{}}."
HASHES = "{question}\n\nReason step by step, and end with a line that holds #### and the final answer."
STYLES = {"boxed": BOXED, "hashes": HASHES, "bare": "{question}"}


class Math(BaseTask):
    """Questions with one answer that can be checked.

    Args:
        dataset: a JSONL or Parquet file, a folder of them, or a Hugging Face id. Not needed to grade.
        split: the split that is trained on; "train" of a folder or Hugging Face dataset if None.
        heldout: the split that is held out ("test"), or another file, folder or Hugging Face id; if None, one question
            in 8, by a hash of its text.
        config: a Hugging Face dataset's configuration.
        fields: the dataset's names of ``question``, ``answer`` and ``solution``; the usual ones are found without.
        style: how the final answer is asked for: "boxed", "hashes" (GSM8K's ####) or "bare" (not at all).
        unlabelled: training questions may lack an answer; a vote then stands for it.
        rollouts: how a problem is attempted and what else is made of the attempts: ``options.Rollouts``.
        base: the folder that relative paths start from; given by ``load_task``.

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
        unlabelled: bool = False,
        rollouts: Mapping[str, Any] | None = None,
        base: Path | None = None,
    ) -> None:
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}, not {style!r}")
        self.source = None if dataset is None else Source(dataset, split, heldout, config, dict(fields or {}), base)
        self.style = style
        self.unlabelled = unlabelled
        self.kit = Kit(rollouts, base)

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
        require_split("math", split)
        data = self.dataset
        if data.faults:
            raise DataError("\n".join(data.faults[:5]))
        items = data.heldout if split == "heldout" else data.train
        return (self.problem(item) for item in items if split != "demonstrations" or item.solution is not None)

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        """See ``rollouts.rollout``."""
        return await rollout(self, problem, policy)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        return self.verify_many([(problem, completion)], 10.0)[0]

    def verify_many(self, asks: Sequence[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        """A verdict for each completion, in their order; may be called from any thread."""
        return judge_claims(self._verify, asks, timeout)

    def _verify(self, asks: Sequence[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        return [Verdict.undecided("the verifier is not there yet")] * len(asks)

    def ask(self, question: str) -> list[Message]:
        """The prompt for a question: one user message."""
        if self.kit.options.code is not None:
            return self.kit.prompts.ask("code", question=question)
        return [{"role": "user", "content": STYLES[self.style].format(question=question)}]

    def read_problem(self, row: dict[str, Any], number: int) -> Problem:
        """The problem of a row that ``flywheel grade`` reads: its ``answer`` is the gold, bare or worked out.

        Raises:
            ValueError: the row has no ``answer``.
        """
        answer = row.get("answer")
        if answer is None:
            raise ValueError("no `answer`")
        question = str(row.get("question", row.get("problem", "")))
        data = {"question": question, "answer": gold_answer(str(answer))}
        return Problem(str(row.get("id", f"line-{number}")), self.ask(question), data=data)

    def problem(self, item: Item) -> Problem:
        """An item as it is asked."""
        data = {**item.extra, "question": item.question, "answer": item.answer, "where": item.where}
        return Problem(f"math-{item.id}", self.ask(item.question), item.solution, data)
