"""The verifying worker: scores each sampled chunk as soon as it is on disk."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.errors import TaskError
from flywheel.files import read_rows, write_rows
from flywheel.stages.chunks import Job, claim
from flywheel.stages.schemas import VERDICTS
from flywheel.tasks import Task, close_task, load_task, time_limit
from flywheel.types import Completion, Problem, Verdict
from flywheel.workers import Report

_POLL = 0.02

Ask = tuple[Problem, Completion]


def work(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Verify parts as they appear, until every part has its verdicts.

    Payload: ``task``, ``jobs``, ``session``, ``timeout`` (seconds per completion; None is the task's own limit).

    Returns:
        Counts: ``verdicts``, ``undecided``, and ``busy`` seconds.
    """
    task = load_task(payload["task"]["use"], payload["task"]["args"], Path(payload["task"]["base"]))
    jobs = [Job.from_payload(entry["job"]) for entry in payload["jobs"]]
    counts = {"verdicts": 0, "undecided": 0, "busy": 0.0}
    todo = {(job, part) for job in jobs for part in job.missing(job.verdicts)}
    problems: dict[Path, dict[str, Problem]] = {
        job.problems: {p.id: p for chunk in job.load() for p in chunk} for job in jobs
    }
    try:
        _verify_all(task, todo, problems, payload, counts, report)
    finally:
        close_task(task)
    return counts


def _verify_all(
    task: Task,
    todo: set[tuple[Job, str]],
    problems: dict[Path, dict[str, Problem]],
    payload: dict[str, Any],
    counts: dict[str, Any],
    report: Report,
) -> None:
    while todo:
        ready = sorted((x for x in todo if (x[0].samples / x[1]).exists()), key=lambda x: (x[0].name, x[1]))
        for job, part in ready:
            todo.discard((job, part))
            if not (job.verdicts / part).exists() and claim(job.verdicts, payload["session"], part):
                begun = time.time()
                _verify_part(task, job, part, problems[job.problems], payload["timeout"], counts)
                counts["busy"] += time.time() - begun
                report("span", phase="verify", start=begun, end=time.time())
                report("verified", verdicts=counts["verdicts"])
        if todo and not ready:
            time.sleep(_POLL)


def _verify_part(
    task: Task, job: Job, part: str, problems: dict[str, Problem], timeout: float | None, counts: dict[str, Any]
) -> None:
    samples = read_rows(job.samples / part)
    asks = [(problems[row["problem_id"]], Completion.from_row(row)) for row in samples]
    rows = [
        {
            "sample_id": row["sample_id"],
            "problem_id": row["problem_id"],
            "score": verdict.score,
            "passed": verdict.passed,
            "reason": verdict.reason,
            "detail": json.dumps(dict(verdict.detail)),
            "seconds": seconds,
        }
        for row, (verdict, seconds) in zip(samples, judge_all(task, asks, timeout), strict=True)
    ]
    counts["verdicts"] += len(rows)
    counts["undecided"] += sum(row["score"] is None for row in rows)
    write_rows(job.verdicts / part, rows, VERDICTS)


def judge_all(task: Task, asks: Sequence[Ask], timeout: float | None) -> list[tuple[Verdict, float]]:
    """A verdict for each completion, and the seconds that it took, within ``timeout`` or the task's own limit.

    A task that has ``verify_many`` gets all of them at once, and sees to time limits and retries itself.
    Completions that an engine could not give are undecided without asking the task.
    """
    timeout = time_limit(task) if timeout is None else timeout
    there = [ask for ask in asks if ask[1].finish != "abort"]
    many = getattr(task, "verify_many", None)
    if many is None:
        verdicts = iter([_timed(task, ask, timeout) for ask in there])
    else:
        begun = time.perf_counter()
        found = many(there, timeout)
        each = (time.perf_counter() - begun) / max(1, len(there))
        if len(found) != len(there):
            raise TaskError(f"verify_many returned {len(found)} verdicts for {len(there)} completions")
        verdicts = iter([(verdict, each) for verdict in found])
    return [
        (Verdict.undecided(f"no answer: {completion.error}"), 0.0) if completion.finish == "abort" else next(verdicts)
        for _, completion in asks
    ]


def _timed(task: Task, ask: Ask, timeout: float) -> tuple[Verdict, float]:
    begun = time.perf_counter()
    return judge(task, *ask, timeout), time.perf_counter() - begun


def judge(task: Task, problem: Problem, completion: Completion, timeout: float, tries: int = 2) -> Verdict:
    """A task's verdict within a time limit; an error is retried, and then undecided, never wrong.

    Must run in the main thread (the limit is an interval timer).
    """
    verdict = Verdict.undecided("not verified")
    for _ in range(tries):
        try:
            with _limit(timeout):
                verdict = task.verify(problem, completion)
            if not isinstance(verdict, Verdict):
                raise TypeError(f"verify returned {type(verdict).__name__}, not Verdict")
            return verdict
        except _TimeUp:
            return Verdict.undecided(f"no verdict within {timeout:g} s")
        except Exception as error:
            # Whatever a user's verifier raises is the verifier's failure, not the completion's.
            traceback.print_exc()
            verdict = Verdict.undecided(f"verifier raised {type(error).__name__}: {error}")
    return verdict


class _TimeUp(BaseException):
    """Not an Exception, so that a verifier's own ``except Exception`` cannot swallow it."""


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def expire(*_: object) -> None:
        raise _TimeUp

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
