"""Threads that run jobs from one queue: what executors share that keep no state between programs."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass

from flywheel.sandbox.batch import run, run_all, stream
from flywheel.sandbox.job import Job, Level, Outcome

TRIES = 3
"""How often a job is run when the sandbox fails."""


class SandboxFailed(Exception):
    """The sandbox, not the program, is at fault: worth another try."""


@dataclass(frozen=True)
class _Task:
    job: Job
    case: int
    deliver: Callable[[Outcome], None]
    wanted: Callable[[], bool]


class Pool:
    """The half of an executor that hands jobs to threads.

    Args:
        count: threads, and so programs at once.
        level: what an outcome says of the isolation when nothing was run.
        tries: how often a job is run when the sandbox fails.
    """

    def __init__(self, count: int, level: Level, tries: int = TRIES) -> None:
        self.count = count
        self._level = level
        self._tries = tries
        self._closed = False
        self._problem: str | None = None
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, args=(i,), daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def admit(self, job: Job) -> None:
        """Refuse a job that can never be run.

        Raises:
            UserError: says what mends it.
        """

    def attempt(self, job: Job, case: int, slot: int) -> Outcome:
        """Run one case of a job, in the thread that has a slot's number.

        Raises:
            SandboxFailed: nothing is known of the program.
        """
        raise TypeError(f"{type(self).__name__} must define attempt(job, case, slot)")

    def submit(self, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
        return stream(self._put, batch)

    async def run(self, job: Job) -> list[Outcome]:
        return await run(self._put, job)

    def run_all(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
        return run_all(self._put, list(jobs))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def _put(self, job: Job, case: int, deliver: Callable[[Outcome], None], wanted: Callable[[], bool]) -> None:
        self._check_open()
        self.admit(job)
        self._tasks.put(_Task(job, case, deliver, wanted))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the executor was closed")

    def _serve(self, slot: int) -> None:
        while (task := self._tasks.get()) is not None:
            if task.wanted():
                task.deliver(self._until_it_works(task, slot))

    def _until_it_works(self, task: _Task, slot: int) -> Outcome:
        why = ""
        for _ in range(self._tries):
            try:
                outcome = self.attempt(task.job, task.case, slot)
                self._problem = None
                return outcome
            except SandboxFailed as error:
                why = str(error)
            except Exception as error:  # a defect of ours must not leave who waits without an answer
                why = f"{type(error).__name__}: {error}"
        self._problem = why
        return Outcome("infra_error", limits=task.job.limits, level=self._level, detail=why)
