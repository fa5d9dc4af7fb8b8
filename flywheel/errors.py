"""Every error flywheel raises on purpose, one type per boundary.

::

    FlywheelError                  message + hint (the command that mends it) + exit code
    ├── UserError            (1)   something the user can mend
    │   ├── RecipeError            a recipe that does not parse, or contradicts itself
    │   ├── TaskError              a task that cannot be loaded, or whose verifier is wrong
    │   ├── ModelError             a checkpoint that is missing, unreadable or without chat template
    │   ├── DataError              an input file that is missing, malformed or lacks a column
    │   ├── BudgetSpent            a paid engine reached the recipe's cap
    │   ├── DiskFull               no space left where the run is
    │   └── RunDirError            the run folder
    │       ├── RunLocked          another process is writing it
    │       ├── RecipeChanged      an edit that would change a finished stage
    │       └── CorruptStage       a committed file no longer has its recorded hash
    ├── EngineFailed         (3)   an engine that cannot go on: its server is gone, its process died
    ├── NoAnswer             (3)   one request that failed for good: its completions stay undecided
    ├── StageFailed          (3)   a worker died or raised: which stage, which log, the last lines
    ├── PeerLost             (3)   another rank stopped
    └── Interrupted        (130)   SIGINT or SIGTERM: nothing is lost, the same command resumes
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


class FlywheelError(Exception):
    """Base of all deliberate errors.

    Args:
        message: what is wrong and where, in one sentence or a short list.
        hint: the command or edit that mends it.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[type, tuple[str, str | None]]:
        # Errors cross from worker to agent: keep both parts.
        return (type(self), (self.message, self.hint))


class UserError(FlywheelError):
    """Something that the user can mend; shown without a traceback."""


class RecipeError(UserError):
    """A recipe that does not parse, or that contradicts itself."""


class TaskError(UserError):
    """A task that cannot be loaded, yields no problems, or whose verifier is wrong."""


class ModelError(UserError):
    """A checkpoint that is missing, unreadable, too large or without a chat template."""


class DataError(UserError):
    """An input file that is missing, malformed or lacks a column."""


class BudgetSpent(UserError):
    """A paid engine reached its cap. Nothing is lost; with a higher cap the same command resumes."""


class DiskFull(UserError):
    """No space is left on the disk that holds the run. Nothing committed is lost."""

    @classmethod
    def of(cls, folder: Path) -> DiskFull:
        return cls(
            f"no space left on the disk that holds {folder}; nothing finished is lost",
            hint="free some disk space; the same command resumes",
        )

    @staticmethod
    def caused(error: BaseException, folder: Path) -> bool:
        """Whether an error is a write that found no space.

        Not every library passes the system's error on (torch.save says "file write failed"), so a disk
        that is full when a write fails counts as well.
        """
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
            if "No space left on device" in str(cause):
                return True
            cause = cause.__cause__ or cause.__context__
        if not isinstance(error, OSError | RuntimeError):
            return False
        try:
            disk = os.statvfs(folder)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < 64 * 1024


class RunDirError(UserError):
    """A run folder that cannot be used as it is."""


class RunLocked(RunDirError):
    """Another process is writing this run."""


class RecipeChanged(RunDirError):
    """The recipe was edited in a way that would change a finished stage."""


class CorruptStage(RunDirError):
    """A committed file no longer has its recorded size or hash."""


class EngineFailed(FlywheelError):
    """An engine that cannot go on: its server is unreachable, its process died, its memory is not freed."""

    exit_code = 3


class NoAnswer(FlywheelError):
    """One request failed for good, while others succeed. Rollouts may catch it; samplers record it as undecided."""

    exit_code = 3


class StageFailed(FlywheelError):
    """A worker raised or died. The message names rank and stage, the hint the log."""

    exit_code = 3


class PeerLost(FlywheelError):
    """Another rank of this launch failed or stopped answering."""

    exit_code = 3


class Interrupted(FlywheelError):
    """SIGINT or SIGTERM arrived. Nothing is lost; the same command resumes."""

    exit_code = 130
