"""Processes of their own for the sides of a comparison; those of one side begin together."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flywheel.workers import tail

PATIENCE = 300
"""Seconds that one process waits for the others to be ready."""

_start_line: Any = None
"""A barrier that the processes of ``apart`` share."""


def apart(work: Callable[[dict[str, Any]], Any], jobs: list[dict[str, Any]], log: Path) -> list[Any]:
    """``work(job)`` for all jobs at once, each in a fresh process that writes to ``log``; raises what one raises."""
    context = get_context("spawn")
    shared = (context.Barrier(len(jobs)), log)
    try:
        with ProcessPoolExecutor(len(jobs), mp_context=context, initializer=_to_start, initargs=shared) as pool:
            return list(pool.map(work, jobs))
    except Exception:
        print(tail(log), file=sys.stderr)
        raise


def start_together() -> None:
    """In ``work``: wait until all of them have come so far."""
    _start_line.wait(PATIENCE)


def _to_start(line: Any, log: Path) -> None:
    global _start_line
    _start_line = line
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
