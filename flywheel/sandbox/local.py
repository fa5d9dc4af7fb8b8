"""Programs run on this machine, two at once per core, whichever process runs them (``turns.py``).

Each slot is a thread of the pool with a cgroup and zygotes of its own (``slot.py``). The strongest isolation that works
here is found by running a program in it; a machine that has less than is required is refused.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

from flywheel.errors import UserError
from flywheel.sandbox import cgroups, isolation
from flywheel.sandbox.compiled import COMPILING, CompileCache
from flywheel.sandbox.compilers import WarmCompilers
from flywheel.sandbox.janitor import Janitor
from flywheel.sandbox.job import MIB, Capabilities, Job, Limits, Outcome
from flywheel.sandbox.languages import LANGUAGES, commands, installed, language, missing, work_files
from flywheel.sandbox.pool import Pool, SandboxFailed
from flywheel.sandbox.slot import Order, Slot, SlotBroken
from flywheel.sandbox.trial import Trials
from flywheel.sandbox.turns import Turns

_PER_CORE = 2
_STACK = 256 * MIB
_PRELOADABLE = ("numpy", "asyncio", "unittest")
_IMPORTS = re.compile(rb"^\s*(?:import|from)\s+(\w+)", re.MULTILINE)
_number = itertools.count()

Require = Literal["namespaces", "landlock"]


class LocalExecutor(Pool[Slot]):
    """Runs programs on this machine; see ``job.Executor``.

    A zygote dies with the thread that started it: a slot belongs to its thread, from its making to its end.

    Args:
        slots: programs at once, whatever other executors do; by default two per core that this process may use, shared
            with all executors of this user here. (A short program's namespaces take as long to come and go as it runs,
            and much of that is waiting.)
        require: least isolation; "landlock" also takes a machine that has no user namespaces.

    Raises:
        UserError: the machine cannot isolate programs as required; says what it lacks.
    """

    def __init__(self, slots: int | None = None, require: Require = "namespaces") -> None:
        shared = [_PER_CORE * core + i for core in sorted(os.sched_getaffinity(0)) for i in range(_PER_CORE)]
        count = slots or len(shared)
        self._turns = None if slots else Turns(shared)
        self._compiled = CompileCache()
        self._compilers: WarmCompilers | None = None
        self._trials = Trials()
        self._way: isolation.Way | None = None
        self._stronger: list[str] = []
        self._require = require
        self._parents = cgroups.find()
        self._groups = self._make_groups(count)
        # What compilers read; and Landlock has no tmpfs of its own: programs work in folders below this one.
        self._folder = Path(tempfile.mkdtemp(prefix=cgroups.PREFIX))
        self._folder.chmod(0o711)
        locked = [self._turns.file] if self._turns else []
        self._janitor = Janitor([*(f for group in self._groups for f in group.folders), self._folder, *locked])
        super().__init__(count, "namespaces")

    def capabilities(self) -> Capabilities:
        self._check_open()
        assert self._way is not None and self._compilers is not None
        limited: Literal["cgroup", "rlimit"] = "cgroup" if self._groups else "rlimit"
        said = [*isolation.remarks(self._way), *(f"stronger, but not possible here: {why}" for why in self._stronger)]
        said += self._compilers.remarks()
        if not self._groups:
            said.append(
                "no writable cgroup: memory is limited per process, and that of garbage-collected runtimes is not"
            )
        return Capabilities(
            executor="local",
            level=self._level,
            languages=tuple(name for name in LANGUAGES if installed(name)),
            parallel=self.count,
            memory=limited,
            processes=limited,
            remarks=tuple(said),
        )

    def admit(self, job: Job) -> None:
        if not installed(job.language):
            raise UserError("; ".join(missing([job.language])))

    def open(self, number: int) -> Slot:
        """A slot on the strongest way that works, which the first thread finds out."""
        if self._way is not None:
            return self._slot(number, self._way)
        slot = self._probe()
        self._level = slot.level
        return slot

    def attempt(self, job: Job, case: int, place: Slot) -> Outcome:
        try:
            with self._turns.turn() if self._turns else nullcontext():
                self._trials.require(job.language, lambda trial: self._run(place, trial, 0))
                return self._run(place, job, case)
        except SlotBroken as error:
            raise SandboxFailed(str(error)) from error

    def leave(self, place: Slot) -> None:
        place.close()

    def release(self) -> None:
        if self._turns is not None:
            self._turns.close()
        self._janitor.clean()

    def _make_groups(self, count: int) -> list[cgroups.Group]:
        if self._parents is None:
            return []
        cgroups.sweep(self._parents)
        name = f"{cgroups.PREFIX}{os.getpid()}-{next(_number)}"
        made: list[cgroups.Group] = []
        try:
            for number in range(count):
                made.append(self._parents.make(f"{name}-{number}"))
        except OSError as error:
            for group in made:
                group.remove()
            raise UserError(f"no more cgroups can be made below {self._parents.memory}: {error.strerror}") from error
        return made

    def _slot(self, index: int, way: isolation.Way) -> Slot:
        return Slot(index, way, self._groups[index] if self._groups else None, self._folder)

    def _probe(self) -> Slot:
        """A slot on the strongest way in which a program really runs, which is remembered.

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
                    self._way, self._stronger = way, failed
                    self._compilers = WarmCompilers(*isolation.warm(way, self._folder))
                    return slot
                failed.append(f"{way}: the trial program {outcome}")
            except SlotBroken as error:
                failed.append(f"{way}: {error}")
            slot.close()
        tried = "; ".join(filter(None, failed)) or "bubblewrap is not installed, and the kernel has no Landlock"
        hint = "apt-get install bubblewrap, and allow user namespaces (in a container: its seccomp profile)"
        if self._require == "namespaces":
            hint += "; or accept less isolation with `require: landlock`, or use the container or remote executor"
        raise UserError(f"programs cannot be isolated here ({self._require} is required): {tried}", hint=hint)

    def _run(self, slot: Slot, job: Job, case: int) -> Outcome:
        row = language(job.language)
        files = work_files(job)
        limits = job.limits
        if limits.processes < row.processes:
            limits = replace(limits, processes=row.processes)
        order = Order(
            files,
            limits,
            entry=job.entry or row.file,
            args=job.argv,
            stdin=job.stdin[case],
            hash_seed=job.hash_seed,
            clock=job.clock,
            preload=_preload(files) if row.name == "python" else (),
            environment=row.env,
            fetch=job.fetch,
            stack=_STACK // 4,
            address_space=row.address_space,
        )
        if row.name == "python":
            return slot.run(order)
        assert self._compilers is not None
        tools = self._compilers.of(row, slot.run)
        compile_command, run_command = commands(job, tools.compile)
        order = replace(order, argv=run_command, stack=_STACK)
        if compile_command is None:
            return slot.run(order)
        compiling = Order(
            files, COMPILING, compile_command, environment=tools.env, fetch=None, address_space=row.address_space
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
