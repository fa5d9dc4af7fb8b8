"""Threads that run jobs from one queue: what all executors share."""

from __future__ import annotations

import queue
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from flywheel.sandbox.batch import run, run_all, stream
from flywheel.sandbox.job import Job, Level, Outcome

TRIES = 3
"""How often a job is run when the sandbox fails."""
Place = TypeVar("Place")
"""What a thread keeps from one program to the next, and nobody else touches."""


class SandboxFailed(Exception):
    """The sandbox, not the program, is at fault: worth another try."""


@dataclass(frozen=True)
class _Task:
    """One case of a job, and whom to tell."""

    job: Job
    case: int
    deliver: Callable[[Outcome], None]
    wanted: Callable[[], bool]


class Pool(Generic[Place]):
    """The half of an executor that hands jobs to threads. Its kinds say what one thread does.

    Threads open their places one after another, so what the first finds out holds for the others.

    Args:
        count: threads, and so programs at once.
        level: what an outcome says of the isolation when nothing was run.
        tries: how often a job is run when the sandbox fails.

    Raises:
        Exception: what ``open`` raised; everything is closed by then.
    """

    def __init__(self, count: int, level: Level, tries: int = TRIES) -> None:
        self.count = count
        self._level = level
        self._tries = tries
        self._closed = False
        self._problem: str | None = None
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        try:
            for number in range(count):
                opened: Future[None] = Future()
                thread = threading.Thread(
                    target=self._serve, args=(number, opened), name=f"sandbox-{number}", daemon=True
                )
                thread.start()
                self._threads.append(thread)
                opened.result()
        except BaseException:
            self.close()
            raise

    # What a kind says. The first three are called in the place's own thread.

    def open(self, number: int) -> Place:
        """Make the place of the thread with a number, counted from 0."""
        raise TypeError(f"{type(self).__name__} must define open(number)")

    def attempt(self, job: Job, case: int, place: Place) -> Outcome:
        """Run one case of a job.

        Raises:
            SandboxFailed: nothing is known of the program.
        """
        raise TypeError(f"{type(self).__name__} must define attempt(job, case, place)")

    def leave(self, place: Place) -> None:
        """End what a place holds."""

    def admit(self, job: Job) -> None:
        """Refuse a job that can never be run.

        Raises:
            UserError: says what mends it.
        """

    def release(self) -> None:
        """Give back what all places share; called once, when the threads have ended."""

    # What every kind does.

    def submit(self, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
        return stream(self._put, batch)

    async def run(self, job: Job) -> list[Outcome]:
        return await run(self._put, job)

    def run_all(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
        return run_all(self._put, list(jobs))

    def health(self) -> str | None:
        return "it was closed" if self._closed else self._problem

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _put(self, job: Job, case: int, deliver: Callable[[Outcome], None], wanted: Callable[[], bool]) -> None:
        self._check_open()
        self.admit(job)
        self._tasks.put(_Task(job, case, deliver, wanted))

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the executor was closed")

    def _serve(self, number: int, opened: Future[None]) -> None:
        try:
            place = self.open(number)
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(None)
        while (task := self._tasks.get()) is not None:
            if task.wanted():
                task.deliver(self._until_it_works(task, place))
        self.leave(place)

    def _until_it_works(self, task: _Task, place: Place) -> Outcome:
        why = ""
        for _ in range(self._tries):
            try:
                outcome = self.attempt(task.job, task.case, place)
                self._problem = None
                return outcome
            except SandboxFailed as error:
                why = str(error)
            except Exception as error:  # a defect of ours must not leave who waits without an answer
                why = f"{type(error).__name__}: {error}"
        self._problem = why
        return Outcome("infra_error", limits=task.job.limits, level=self._level, detail=why)
