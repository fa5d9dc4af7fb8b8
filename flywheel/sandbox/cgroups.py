"""Limits on memory and processes of a whole slot: cgroups of either version, where this process may make them."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

PREFIX = "flywheel-sandbox-"


@dataclass(frozen=True)
class Parents:
    """Where cgroups can be made: folders of the memory and the pids controller (in version 2 the same one)."""

    version: int
    memory: Path
    pids: Path

    def make(self, name: str) -> Group:
        """A new group below.

        Raises:
            OSError: it cannot be made here.
        """
        group = Group(self.version, self.memory / name, self.pids / name)
        for folder in group.folders:
            folder.mkdir(exist_ok=True)
        return group


@dataclass(frozen=True)
class Group:
    """One slot's group."""

    version: int
    memory: Path
    pids: Path

    @property
    def folders(self) -> list[Path]:
        return list(dict.fromkeys((self.memory, self.pids)))

    @cached_property
    def _events(self) -> int:
        """A descriptor that stays open: it is read for each program."""
        return os.open(self.memory / ("memory.events" if self.version == 2 else "memory.oom_control"), os.O_RDONLY)

    def limit_memory(self, most: int) -> None:
        """Bytes that all processes together may use; swap counts as memory, or is not given at all.

        Raises:
            OSError: they use more already.
        """
        if self.version == 2:
            (self.memory / "memory.max").write_text(str(most))
            with suppress(OSError):  # a kernel without swap accounting has no such file
                (self.memory / "memory.swap.max").write_text("0")
            return
        files = [self.memory / "memory.limit_in_bytes", self.memory / "memory.memsw.limit_in_bytes"]
        files = [file for file in files if file.exists()]
        for file in (*files, *files):  # the second may never be below the first: one of the two orders works
            with suppress(OSError):
                file.write_text(str(most))
        if int(files[0].read_text()) > most:
            raise OSError(f"{files[0]} cannot be set to {most}")

    def limit_processes(self, most: int) -> None:
        (self.pids / "pids.max").write_text(str(most))

    def processes(self) -> int:
        """Processes and threads that are in it."""
        return int((self.pids / "pids.current").read_text())

    def used_memory(self) -> int:
        return int((self.memory / ("memory.current" if self.version == 2 else "memory.usage_in_bytes")).read_text())

    def killed(self) -> int:
        """How many processes were killed for lack of memory, ever."""
        lines = os.pread(self._events, 4096, 0).splitlines()
        return next(int(line[9:]) for line in lines if line.startswith(b"oom_kill "))

    def close(self) -> None:
        """Let go of what was opened."""
        if (descriptor := vars(self).pop("_events", None)) is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove it; its processes must have ended, or be about to."""
        self.close()
        for folder in self.folders:
            for _ in range(200):
                try:
                    folder.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    time.sleep(0.01)


def find() -> Parents | None:
    """Where this process may make limited groups; tried, not guessed. None if nowhere."""
    name = f"{PREFIX}probe-{os.getpid()}"
    for parents in _candidates():
        group = None
        try:
            if parents.version == 2:
                with suppress(OSError):  # it may have been enabled from above
                    (parents.memory / "cgroup.subtree_control").write_text("+memory +pids")
            group = parents.make(name)
            group.limit_memory(1 << 30)
            group.limit_processes(64)
            group.used_memory(), group.killed()
            return parents
        except (OSError, StopIteration):
            continue
        finally:
            if group is not None:
                group.remove()
    return None


def sweep(parents: Parents) -> None:
    """Remove groups whose executor is gone (its janitor was killed, too)."""
    for parent in {parents.memory, parents.pids}:
        for folder in parent.glob(f"{PREFIX}*"):
            owner = folder.name.removeprefix(PREFIX).split("-")[0]
            if owner.isdigit() and not Path(f"/proc/{owner}").exists():
                with suppress(OSError):
                    folder.rmdir()


def _candidates() -> list[Parents]:
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(","), path))
    mounted = _mounts()
    found = []
    if "memory" in mounted and "pids" in mounted and "memory" in own and "pids" in own:
        memory, pids = (_folder(*mounted[c], own[c]) for c in ("memory", "pids"))
        found.append(Parents(1, memory, pids))
    if "" in mounted and "" in own:
        folder = _folder(*mounted[""], own[""])
        # A group with processes of its own cannot limit its children; its parent already limits it and its siblings.
        found += [Parents(2, folder, folder), Parents(2, folder.parent, folder.parent)]
    return found


def _mounts() -> dict[str, tuple[Path, str]]:
    """By controller ("" is version 2): where its hierarchy is mounted, and which folder of it is shown there."""
    found: dict[str, tuple[Path, str]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, point = before.split(" ")[3:5]
        if kind == "cgroup2":
            found.setdefault("", (Path(point), root))
        elif kind == "cgroup":
            for controller in options.split(","):
                found.setdefault(controller, (Path(point), root))
    return found


def _folder(point: Path, root: str, own: str) -> Path:
    inner = own.removeprefix(root.rstrip("/")).lstrip("/")
    return point / inner if (point / inner).is_dir() else point
