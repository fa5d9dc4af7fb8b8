"""What sandboxes are asked and what they answer: jobs in, outcomes out.

Every executor (local, container, remote) speaks the ``Executor`` protocol, so who grades need not know where programs
run. An outcome is a fact that the supervisor observed, never something that the program said of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal, Protocol

from flywheel.errors import UserError

MIB = 1 << 20

Status = Literal["exited", "signaled", "cpu", "wall", "oom", "output_limit", "compile_error", "infra_error"]
"""How a program ended:

- ``exited``: by itself, with ``exit_code``; ``signaled``: by the signal ``signal``, its own or another's doing;
- ``cpu`` / ``wall`` / ``oom`` / ``output_limit``: it was ended at that limit;
- ``compile_error``: it did not compile, ``stderr`` says why;
- ``infra_error``: the sandbox failed, after retries; nothing is known of the program.
"""

Level = Literal["namespaces", "container", "landlock", "remote"]
"""What stands between a program and the machine: user, PID, mount, IPC and network namespaces with seccomp; a
container; Landlock and seccomp on the machine's own namespaces; whatever a server uses."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu: CPU seconds; checked per process, and for the program with the children it waited for.
        wall: seconds from its start.
        memory: bytes, of all its processes together.
        processes: processes and threads at once.
        output: bytes that it may write to stdout and stderr together.
        disk: bytes that it may leave in its work folder.
    """

    cpu: float = 10.0
    wall: float = 15.0
    memory: int = 1024 * MIB
    processes: int = 64
    output: int = 8 * MIB
    disk: int = 64 * MIB


@dataclass(frozen=True)
class Job:
    """A program and how to run it; equal content has an equal ``key``. There is never a network.

    Attributes:
        language: a row's name in ``languages.py``.
        files: relative paths to contents; they lie in the work folder, which is the current folder.
        entry: the file that is compiled or run; "" is the language's own name for it.
        argv: arguments after the program.
        stdin: one run per case, each in a fresh sandbox with that standard input; compiled once.
        limits: of each run. Compiling has limits of its own.
        hash_seed: PYTHONHASHSEED, and what else a language's hashing is seeded with.
        clock: epoch seconds that a Python program's clock starts from; None, and in other languages, the real time.
        fetch: files to bring back from the work folder; only regular files are, and what is missing is left out.

    Raises:
        UserError: a file's path leaves the work folder.
    """

    language: str
    files: Mapping[str, bytes]
    entry: str = ""
    argv: tuple[str, ...] = ()
    stdin: tuple[bytes, ...] = (b"",)
    limits: Limits = field(default_factory=Limits)
    hash_seed: int = 0
    clock: int | None = None
    fetch: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (*self.files, *self.fetch, *([self.entry] if self.entry else [])):
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
                raise UserError(f"{name!r} is not a file name inside a program's work folder")

    @cached_property
    def key(self) -> str:
        """A hash of everything that can change the outcome."""
        digest = hashlib.sha256()
        plain = [self.language, self.entry, self.argv, asdict(self.limits), self.hash_seed, self.clock, self.fetch]
        parts = [json.dumps(plain).encode()]
        for name in sorted(self.files):
            parts += [name.encode("utf-8", "surrogateescape"), bytes(self.files[name])]
        for part in (*parts, b"stdin", *self.stdin):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Usage:
    """What a run took: CPU seconds (with waited-for children), wall seconds, peak resident bytes."""

    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of a job ended.

    Attributes:
        status: see ``Status``.
        exit_code: with "exited" (and "compile_error", the compiler's); else None.
        signal: the number of the signal that ended it; else None.
        stdout, stderr: bytes as written, at most ``limits.output`` together.
        usage: measured by the supervisor.
        limits: that were in force.
        level: the isolation that was in force.
        detail: for people: the reason of an infra_error, the limit that was met.
        job: position of the job in its batch.
        case: which of the job's stdin cases.
        files: what ``Job.fetch`` asked for.
    """

    status: Status
    exit_code: int | None = None
    signal: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    usage: Usage = field(default_factory=Usage)
    limits: Limits = field(default_factory=Limits)
    level: Level = "namespaces"
    detail: str = ""
    job: int = 0
    case: int = 0
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Ended by itself with exit code 0. What that is worth is for a grader to say."""
        return self.status == "exited" and self.exit_code == 0

    def at(self, job: int, case: int) -> Outcome:
        """This outcome at a place of a batch."""
        return replace(self, job=job, case=case)

    def __str__(self) -> str:
        how = {"exited": f"exited with {self.exit_code}", "signaled": f"ended by signal {self.signal}"}
        return how.get(self.status, self.status) + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an executor can do here; probed, not assumed.

    Attributes:
        executor: "local", "container" or "http".
        level: the isolation that every program gets.
        languages: that can be run.
        parallel: programs at once.
        memory: how memory is limited: "cgroup" (all processes together), "rlimit" (each process), "none".
        processes: how their number is limited, in the same words.
        clock: whether ``Job.clock`` is honoured; if not, jobs see the real time.
        hash_seed: whether ``Job.hash_seed`` is.
        remarks: in words, what is weaker than the best, and why.
    """

    executor: str
    level: Level
    languages: tuple[str, ...]
    parallel: int
    memory: Literal["cgroup", "rlimit", "none"] = "cgroup"
    processes: Literal["cgroup", "rlimit", "none"] = "cgroup"
    clock: bool = True
    hash_seed: bool = True
    remarks: tuple[str, ...] = ()


class Executor(Protocol):
    """Runs programs. Safe to use from several tasks of one event loop, or from plain code; not after ``close``.

    A failure of the sandbox itself is retried, and then an outcome ("infra_error"), not an exception.
    """

    @property
    def count(self) -> int:
        """Jobs that it works at, at once; others wait for their turn."""
        ...

    def capabilities(self) -> Capabilities:
        """What this executor can do here.

        Raises:
            UserError: it cannot run programs at all, or not at the level that was required; says what mends it.
        """
        ...

    def submit(self, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
        """Run all jobs; yields an outcome for each case of each job as it ends, in any order."""
        ...

    async def run(self, job: Job) -> list[Outcome]:
        """Run one job; an outcome per case, in their order."""
        ...

    def run_all(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
        """Run all jobs without an event loop; for each, in their order, an outcome per case."""
        ...

    def health(self) -> str | None:
        """None if programs can be run now; else what is wrong."""
        ...

    def close(self) -> None:
        """End everything that was started; nothing of it is left when this returns. Closing again does nothing."""
        ...
