"""Programs run on this machine, as many at once as it has cores.

Each slot is a thread with a cgroup and zygotes of its own (``slot.py``); jobs wait in one queue. The strongest
isolation that works here is found by running a program in it; a machine that has less than is required is refused.
"""

from __future__ import annotations

import itertools
import os
import queue
import re
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from flywheel.errors import UserError
from flywheel.sandbox import cgroups, isolation
from flywheel.sandbox.batch import run, run_all, stream
from flywheel.sandbox.compiled import CompileCache
from flywheel.sandbox.janitor import Janitor
from flywheel.sandbox.job import MIB, Capabilities, Job, Limits, Outcome
from flywheel.sandbox.languages import LANGUAGES, commands, installed, language, missing, work_files
from flywheel.sandbox.slot import Order, Slot, SlotBroken

TRIES = 3
"""How often a job is run when the sandbox fails."""
COMPILING = Limits(cpu=60.0, wall=90.0, memory=2048 * MIB, processes=128, output=1 * MIB, disk=256 * MIB)
_STACK = 256 * MIB
_PRELOADABLE = ("numpy", "asyncio", "unittest")
_IMPORTS = re.compile(rb"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
_number = itertools.count()

Require = Literal["namespaces", "landlock"]


@dataclass(frozen=True)
class _Task:
    """One case of a job, and whom to tell."""

    job: Job
    case: int
    deliver: Callable[[Outcome], None]
    wanted: Callable[[], bool]


class LocalExecutor:
    """Runs programs on this machine; see ``job.Executor``.

    Args:
        slots: programs at once; by default two per core that this process may use, since a short program's namespaces
            take as long to come and go as it runs, and much of that is waiting.
        require: least isolation; "landlock" also takes a machine that has no user namespaces.

    Raises:
        UserError: the machine cannot isolate programs as required; says what it lacks.
    """

    def __init__(self, slots: int | None = None, require: Require = "namespaces") -> None:
        count = slots or 2 * len(os.sched_getaffinity(0))
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._compiled = CompileCache()
        self._closed = False
        self._problem: str | None = None
        self._stronger: list[str] = []
        self._require = require
        self._parents = cgroups.find()
        self._groups = self._make_groups(count)
        # Landlock has no tmpfs of its own: programs work in folders below this one.
        self._folder = Path(tempfile.mkdtemp(prefix=cgroups.PREFIX))
        self._folder.chmod(0o711)
        self._janitor = Janitor([*(f for group in self._groups for f in group.folders), self._folder])
        self._way: Future[isolation.Way] = Future()
        # A zygote dies with the thread that started it, so each slot's own thread does.
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"sandbox-slot-{i}", daemon=True) for i in range(count)
        ]
        for thread in self._threads:
            thread.start()
        try:
            self._way.result()
        except BaseException:
            self.close()
            raise

    def capabilities(self) -> Capabilities:
        self._check_open()
        way = self._way.result()
        limited: Literal["cgroup", "rlimit"] = "cgroup" if self._groups else "rlimit"
        said = [*isolation.remarks(way), *(f"stronger, but not possible here: {why}" for why in self._stronger)]
        if not self._groups:
            said.append(
                "no writable cgroup: memory is limited per process, and that of garbage-collected runtimes is not"
            )
        return Capabilities(
            executor="local",
            level="landlock" if way == "landlock" else "namespaces",
            languages=tuple(name for name in LANGUAGES if installed(name)),
            parallel=len(self._threads),
            memory=limited,
            processes=limited,
            remarks=tuple(said),
        )

    def submit(self, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
        return stream(self._put, batch)

    async def run(self, job: Job) -> list[Outcome]:
        return await run(self._put, job)

    def run_all(self, jobs: Iterable[Job]) -> list[list[Outcome]]:
        return run_all(self._put, list(jobs))

    def health(self) -> str | None:
        if self._closed:
            return "it was closed"
        return self._problem

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._janitor.clean()

    def __enter__(self) -> LocalExecutor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the executor was closed")

    def _make_groups(self, count: int) -> list[cgroups.Group]:
        if self._parents is None:
            return []
        cgroups.sweep(self._parents)
        name = f"{cgroups.PREFIX}{os.getpid()}-{next(_number)}"
        return [self._parents.make(f"{name}-{i}") for i in range(count)]

    def _put(self, job: Job, case: int, deliver: Callable[[Outcome], None], wanted: Callable[[], bool]) -> None:
        self._check_open()
        if not installed(job.language):
            raise UserError("; ".join(missing([job.language])))
        self._tasks.put(_Task(job, case, deliver, wanted))

    # What follows runs in the slots' threads.

    def _serve(self, index: int) -> None:
        slot = self._open_slot(index)
        while slot is not None and (task := self._tasks.get()) is not None:
            if task.wanted():
                task.deliver(self._attempt(slot, task))
        if slot is not None:
            slot.close()

    def _open_slot(self, index: int) -> Slot | None:
        """A slot on the strongest way that works; the first thread finds it out for all."""
        if index == 0:
            try:
                way, slot = self._probe()
            except BaseException as error:
                self._way.set_exception(error)
                return None
            self._way.set_result(way)
            return slot
        try:
            return self._slot(index, self._way.result())
        except UserError:
            return None  # the constructor raises it

    def _slot(self, index: int, way: isolation.Way) -> Slot:
        return Slot(index, way, self._groups[index] if self._groups else None, self._folder)

    def _probe(self) -> tuple[isolation.Way, Slot]:
        """The strongest way in which a program really runs.

        Raises:
            UserError: none does, or only weaker ones than required.
        """
        failed: list[str] = []
        for way in isolation.ways():
            if way == "landlock" and self._require != "landlock":
                failed.append("Landlock would work, and `require: landlock` accepts it" if not failed else "")
                continue
            slot = self._slot(0, way)
            try:
                outcome = slot.run(Order({"main.py": b"print(6 * 7)"}, Limits(), entry="main.py"))
                if outcome.ok and outcome.stdout == b"42\n":
                    self._stronger = failed
                    return way, slot
                failed.append(f"{way}: the trial program {outcome}")
            except SlotBroken as error:
                failed.append(f"{way}: {error}")
            slot.close()
        tried = "; ".join(filter(None, failed)) or "bubblewrap is not installed, and the kernel has no Landlock"
        hint = "apt-get install bubblewrap, and allow user namespaces (in a container: its seccomp profile)"
        if self._require == "namespaces":
            hint += "; or accept less isolation with `require: landlock`, or use the container or http executor"
        raise UserError(f"programs cannot be isolated here ({self._require} is required): {tried}", hint=hint)

    def _attempt(self, slot: Slot, task: _Task) -> Outcome:
        why = ""
        for _ in range(TRIES):
            try:
                outcome = self._run(slot, task.job, task.case)
                self._problem = None
                return outcome
            except SlotBroken as error:
                why = str(error)
            except Exception as error:  # a defect of ours must not leave who waits without an answer
                why = f"{type(error).__name__}: {error}"
        self._problem = why
        return Outcome("infra_error", limits=task.job.limits, level=slot.level, detail=why)

    def _run(self, slot: Slot, job: Job, case: int) -> Outcome:
        row = language(job.language)
        compile_command, run_command = commands(job)
        files = work_files(job)
        entry = job.entry or row.file
        order = Order(
            files,
            replace(job.limits, processes=max(job.limits.processes, row.processes)),
            argv=run_command,
            stdin=job.stdin[case],
            hash_seed=job.hash_seed,
            clock=job.clock,
            environment=row.env,
            fetch=job.fetch,
            stack=_STACK,
            address_space=row.address_space,
        )
        if row.name == "python":
            return slot.run(
                replace(order, argv=None, entry=entry, args=job.argv, stack=_STACK // 4, preload=_preload(files))
            )
        if compile_command is None:
            return slot.run(order)
        compiling = Order(
            files, COMPILING, compile_command, environment=row.env, fetch=None, address_space=row.address_space
        )
        key = (row.name, compile_command, tuple(sorted(files.items())))
        made = self._compiled.get(key, lambda: slot.run(compiling))
        if not made.ok:
            return replace(made, status="compile_error", stdout=b"", stderr=made.stdout + made.stderr, files={})
        programs = frozenset(made.files.keys() - files.keys())
        return slot.run(replace(order, files={**files, **made.files}, programs=programs))


def _preload(files: dict[str, bytes]) -> tuple[str, ...]:
    """Slow modules that a program imports, for which a zygote of their own has them loaded."""
    imported = {name for code in files.values() for name in _IMPORTS.findall(code)}
    return tuple(name for name in _PRELOADABLE if name.encode() in imported)
