"""The verifying worker: scores each sampled chunk as soon as it is on disk."""

from __future__ import annotations

import json
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flywheel.files import read_rows, write_rows
from flywheel.stages.chunks import Job, claim
from flywheel.stages.schemas import VERDICTS
from flywheel.tasks import Task, load_task
from flywheel.types import Completion, Problem, Verdict
from flywheel.workers import Report

_POLL = 0.02


def work(payload: dict[str, Any], report: Report) -> dict[str, Any]:
    """Verify parts as they appear, until every part has its verdicts.

    Payload: ``task``, ``jobs``, ``session``, ``timeout`` (seconds per completion).

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
    return counts


def _verify_part(
    task: Task, job: Job, part: str, problems: dict[str, Problem], timeout: float, counts: dict[str, Any]
) -> None:
    rows = []
    for row in read_rows(job.samples / part):
        begun = time.perf_counter()
        completion = Completion(row["messages"], row["tokens"], row["finish"])
        if completion.finish == "abort":
            verdict = Verdict.undecided(f"no answer: {row['error']}")
        else:
            verdict = judge(task, problems[row["problem_id"]], completion, timeout)
        counts["verdicts"] += 1
        counts["undecided"] += verdict.score is None
        rows.append(
            {
                "sample_id": row["sample_id"],
                "problem_id": row["problem_id"],
                "score": verdict.score,
                "passed": verdict.passed,
                "reason": verdict.reason,
                "detail": json.dumps(dict(verdict.detail)),
                "seconds": time.perf_counter() - begun,
            }
        )
    write_rows(job.verdicts / part, rows, VERDICTS)


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
