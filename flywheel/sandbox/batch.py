"""The three ways to wait for jobs, over one way to hand them in: a stream, one job, or plain code."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from flywheel.sandbox.job import Job, Outcome


class Put(Protocol):
    """Hands in one case of a job.

    ``deliver`` is called once with its outcome, from any thread; a case that is no longer ``wanted`` when its turn
    comes need not be run, and is not delivered.
    """

    def __call__(
        self, job: Job, case: int, deliver: Callable[[Outcome], None], wanted: Callable[[], bool], /
    ) -> None: ...


async def stream(put: Put, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
    """Outcomes as they come. When the caller stops listening, what has not begun is not run."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[Outcome] = asyncio.Queue()
    listening = True

    def send(outcome: Outcome) -> None:
        if listening and not loop.is_closed():
            loop.call_soon_threadsafe(arrived.put_nowait, outcome)

    try:
        count = _hand_in(put, batch, send, lambda: listening)
        for _ in range(count):
            yield await arrived.get()
    finally:
        listening = False


async def run(put: Put, job: Job) -> list[Outcome]:
    """One job's outcomes, a case each."""
    outcomes = [outcome async for outcome in stream(put, [job])]
    return sorted(outcomes, key=lambda outcome: outcome.case)


def run_all(put: Put, jobs: Sequence[Job]) -> list[list[Outcome]]:
    """All jobs' outcomes, in their order, without an event loop."""
    arrived: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
    listening = True
    try:
        count = _hand_in(put, jobs, arrived.put, lambda: listening)
        results: list[list[Outcome]] = [[] for _ in jobs]
        for _ in range(count):
            outcome = arrived.get()
            results[outcome.job].append(outcome)
    finally:
        listening = False
    return [sorted(outcomes, key=lambda outcome: outcome.case) for outcomes in results]


def _hand_in(put: Put, jobs: Sequence[Job], send: Callable[[Outcome], None], wanted: Callable[[], bool]) -> int:
    """Hand in each case of each job; returns how many."""
    count = 0
    for position, job in enumerate(jobs):
        for case in range(len(job.stdin)):
            put(job, case, _labelled(send, position, case), wanted)
            count += 1
    return count


def _labelled(send: Callable[[Outcome], None], position: int, case: int) -> Callable[[Outcome], None]:
    return lambda outcome: send(outcome.at(position, case))
