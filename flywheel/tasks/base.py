"""What a task is: where problems come from, how the policy attempts one, and who is right.

A user's own task is a class in a file beside the recipe (``task: {use: ./roman.py:Roman}``); it
needs ``problems`` and ``verify``. Subclassing ``BaseTask`` brings the default rollout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, runtime_checkable

from flywheel.types import Completion, Message, Problem, Sampling, Verdict

SECONDS = 10.0
"""Per completion, for tasks that say nothing else."""


class Policy(Protocol):
    """The checkpoint being improved, as a rollout sees it.

    Attributes:
        sampling: the recipe's settings; ``sampling.n`` is how many completions a problem should get.
        key: names this rollout (seed, round, mode, problem): what else is random should derive from it.
        evaluating: the completions measure the policy, and nobody trains on them: a rollout then gives
            independent attempts and nothing else.
        continuous: whether requests may come at any time. If not, what is asked together is part of the result, and a
            rollout that waits for anything else than the policy waits in turn, so that runs can be repeated.
    """

    sampling: Sampling
    key: str
    evaluating: bool
    continuous: bool

    async def chat(self, messages: Iterable[Message], **overrides: Any) -> list[Completion]:
        """Sample the next assistant message; or the rest of it, where the conversation ends with its beginning.

        Args:
            messages: the conversation so far.
            overrides: fields of ``Sampling`` that differ from the recipe's, such as ``n=1``.
        """
        ...


@runtime_checkable
class Task(Protocol):
    """The protocol that the round loop speaks.

    A task may have more, and is asked only for what it has:

    - ``wrong_answers(problem) -> list[str]``: completions that the verifier must reject;
    - ``verify_many(asks, timeout) -> list[Verdict]``: a chunk's ``(problem, completion)`` at once, for a verifier
      with workers of its own; it sees to the time limit (seconds per completion) and to retries itself;
    - ``timeout``: seconds per completion where the user says none; by default 10;
    - ``findings() -> list[str]``: what else ``flywheel check`` should say is wrong;
    - ``notes() -> list[str]``: what it should say when nothing is wrong;
    - ``read_problem(row, number) -> Problem``: how ``flywheel grade`` reads a row of a dataset, or one that carries
      its own problem; ValueError says what is wrong with it;
    - ``open()``: called by ``flywheel grade`` before anything is verified; a UserError says what it lacks;
    - ``close()``: called once in each process that used the task, to end what it started.
    """

    def problems(self, split: str) -> Iterable[Problem]:
        """Problems of a split, always in the same order; may be endless.

        Splits: "train" (each round draws the next stretch; a problem may come again), "heldout"
        (evaluation; must share no problem with the others) and "demonstrations" (warm-up; each with a
        gold completion).
        """
        ...

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        """Attempt a problem; the default is K single-turn samples."""
        ...

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        """Score one completion; pure, and safe to call from several processes."""
        ...


class BaseTask:
    """The defaults of ``Task``: K independent single-turn samples, no splits of its own."""

    def problems(self, split: str) -> Iterable[Problem]:
        raise TypeError(f"{type(self).__name__} must define problems(split)")

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        return await policy.chat(problem.prompt)

    def verify(self, problem: Problem, completion: Completion) -> Verdict:
        raise TypeError(f"{type(self).__name__} must define verify(problem, completion)")

    def wrong_answers(self, problem: Problem) -> list[str]:
        """Completions that the verifier must reject; ``flywheel check`` adds generic ones."""
        return []


def time_limit(task: Task) -> float:
    """Seconds per completion, where the user says none."""
    return float(getattr(task, "timeout", SECONDS))


def open_task(task: Task) -> None:
    """See that a task can verify now.

    Raises:
        UserError: what it lacks, and what mends it.
    """
    getattr(task, "open", lambda: None)()


def close_task(task: Task) -> None:
    """End what a task has started, if it starts anything."""
    getattr(task, "close", lambda: None)()
