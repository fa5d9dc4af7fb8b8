"""Agents: one light process per rank, which agree through the run folder alone.

Rank 0 owns the run's lock. The others introduce themselves with a random token and wait until rank 0
has written a session that lists it, so that leftovers of an earlier launch are never mistaken for
this one. From then on each rank's heartbeat is a counter in a file, with what the rank is doing; a
counter that stands still for ``PATIENCE`` seconds of the reader's own clock means that the rank is
gone. On the same host its process is looked at as well, which tells within a second.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flywheel.errors import FlywheelError, Interrupted, PeerLost
from flywheel.files import read_json, write_json
from flywheel.workers import die_with_parent

BEAT = 1.0
PATIENCE = 60.0
JOIN_LIMIT = 120.0
"""Seconds between the first rank and the last, whom a launcher starts together."""
_POLL = 0.05


@dataclass(frozen=True)
class Rank:
    """This process's place in the launch.

    Attributes:
        index: 0 … world - 1.
        world: number of agents.
        local: index among the agents of this host.
        local_world: number of agents of this host.
        master: host name at which rank 0 can be reached.
    """

    index: int = 0
    world: int = 1
    local: int = 0
    local_world: int = 1
    master: str = "127.0.0.1"

    @classmethod
    def from_env(cls) -> Rank:
        """As torchrun, ``accelerate launch`` or srun-started launchers set it; alone: rank 0 of 1."""
        env = os.environ
        world = int(env.get("WORLD_SIZE", "1"))
        if world > 1 or "LOCAL_RANK" in env:
            # A launcher that is killed must not leave its agents behind.
            die_with_parent(signal.SIGTERM)
        return cls(
            index=int(env.get("RANK", "0")),
            world=world,
            local=int(env.get("LOCAL_RANK", "0")),
            local_world=int(env.get("LOCAL_WORLD_SIZE", str(world))),
            master=env.get("MASTER_ADDR", "127.0.0.1"),
        )

    @property
    def leads(self) -> bool:
        return self.index == 0


@dataclass
class Session:
    """One launch of all ranks on one run folder.

    Attributes:
        folder: where the ranks meet.
        rank: this process's place.
        doing: what this rank is at, for the others' messages.
    """

    folder: Path
    rank: Rank
    doing: str = "starting"
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str = ""
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _checked: float = 0.0
    _count: int = 0
    _ignored: str | None = None
    _beating: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> None:
        """Rank 0, as soon as the run folder is its own: let the others see it."""
        self.id = self.token
        if self.rank.world == 1:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.iterdir():
            old.unlink(missing_ok=True)
        write_json(self.folder / "open.json", {"token": self.token})
        self._start_beating()

    def join(self) -> None:
        """Meet the other ranks.

        Raises:
            PeerLost: they did not appear within ``JOIN_LIMIT`` seconds.
        """
        if self.rank.world > 1:
            self._gather() if self.rank.leads else self._introduce()

    def _gather(self) -> None:
        hellos = [self.folder / f"hello.{rank}.json" for rank in range(1, self.rank.world)]
        begun = time.monotonic()
        while absent := [hello.name.split(".")[1] for hello in hellos if not hello.exists()]:
            if time.monotonic() - begun > JOIN_LIMIT:
                raise PeerLost(
                    f"rank {', '.join(absent)} did not join within {JOIN_LIMIT:.0f} s",
                    hint=f"does every host see {self.folder.parent}, and did every launcher start?",
                )
            time.sleep(_POLL)
        tokens = [read_json(hello)["token"] for hello in hellos]
        write_json(self.folder / "session.json", {"id": self.token, "tokens": tokens})

    def _introduce(self) -> None:
        where = self.folder.parent
        self._ignored = self._failure(0).get("session")  # of an earlier launch
        self.wait(
            lambda: (self.folder / "open.json").exists(),
            f"rank 0 to open {where}: does this host ({socket.gethostname()}) see the same folder as rank 0's?",
            JOIN_LIMIT,
        )

        def accepted() -> bool:
            hello = self.folder / f"hello.{self.rank.index}.json"
            if (self.folder / "open.json").exists() and not hello.exists():
                write_json(hello, {"token": self.token})
            try:
                session = read_json(self.folder / "session.json")
            except (FileNotFoundError, ValueError):
                self._check(0, time.monotonic())  # it may take long: it checks every file of the run
                return False
            if self.token not in session["tokens"]:
                # A session of an earlier launch: rank 0 has not cleared the folder yet.
                hello.unlink(missing_ok=True)
                return False
            self.id = session["id"]
            return True

        self.wait(accepted, f"rank 0 to begin in {where}")
        self._start_beating()

    def at(self, doing: str) -> None:
        """Tell the others what this rank is at now."""
        self.doing = doing
        if self.rank.world > 1 and self.id:
            self._beat()

    def _start_beating(self) -> None:
        self._beat()
        threading.Thread(target=self._beat_on, daemon=True).start()

    def _beat_on(self) -> None:
        while not self._stop.wait(BEAT):
            with suppress(OSError):  # on a full disk the main thread has more to say
                self._beat()

    def _beat(self) -> None:
        with self._beating:
            self._count += 1
            mine = {"session": self.id, "count": self._count, "home": _home(), "pid": os.getpid(), "doing": self.doing}
            new = self.folder / f".beat.{self.rank.index}.{self.token}"  # an earlier launch's rank may still beat
            new.write_text(json.dumps(mine))
            new.replace(self.folder / f"beat.{self.rank.index}")

    def check_peers(self) -> None:
        """See that every rank is alive.

        Raises:
            PeerLost: one failed, with its own words, or its process or heartbeat is gone.
        """
        now = time.monotonic()
        if self.rank.world == 1 or now - self._checked < BEAT:
            return
        self._checked = now
        for rank in range(self.rank.world):
            if rank != self.rank.index:
                self._check(rank, now)

    def _check(self, rank: int, now: float) -> None:
        failure = self._failure(rank)
        if failure and (failure["session"] == self.id if self.id else failure["session"] != self._ignored):
            if failure["interrupted"]:
                raise Interrupted(f"rank {rank} was interrupted; nothing is lost", hint="the same command resumes")
            raise PeerLost(f"rank {rank} stopped: {failure['message']}")
        if (self.folder / f"left.{rank}").exists():
            return
        if (died := self._died(rank)) is not None:
            raise died
        try:
            beat = (self.folder / f"beat.{rank}").read_text()
        except FileNotFoundError:
            beat = ""
        before, since = self._seen.get(rank, ("", now))
        if beat != before or rank not in self._seen:
            self._seen[rank] = (beat, now)
        elif now - since > PATIENCE:
            doing = _parse(beat).get("doing", "starting")
            raise PeerLost(f"rank {rank} has not answered for {PATIENCE:.0f} s; it was at {doing}", self._log_of(rank))

    def _failure(self, rank: int) -> dict[str, Any]:
        """What a rank said of its end; empty if it said nothing."""
        try:
            return dict(read_json(self.folder / f"failed.{rank}.json"))
        except FileNotFoundError:
            return {}

    def _died(self, rank: int) -> PeerLost | None:
        """Whether a rank of this host is gone without a word."""
        try:
            beat = _parse((self.folder / f"beat.{rank}").read_text())
        except FileNotFoundError:
            return None
        if not self.id or beat.get("session") != self.id or beat["home"] != _home() or _is_alive(beat["pid"]):
            return None
        if any((self.folder / name).exists() for name in (f"failed.{rank}.json", f"left.{rank}")):
            return None
        return PeerLost(
            f"rank {rank} (process {beat['pid']}) was killed; it was at {beat['doing']}", self._log_of(rank)
        )

    def explain(self) -> PeerLost | None:
        """Why a launcher may have ended this rank: another one of this host, killed without a word."""
        others = (rank for rank in range(self.rank.world) if rank != self.rank.index)
        return next((died for rank in others if (died := self._died(rank)) is not None), None)

    def _log_of(self, rank: int) -> str:
        return f"its logs: {self.folder.parent / 'logs' / 'latest'}/rank{rank}.*; the same command resumes"

    def wait(self, ready: Callable[[], bool], what: str, limit: float | None = None) -> None:
        """Wait for a fact on disk while watching the peers.

        Raises:
            PeerLost: a peer is gone, or the limit passed.
            Interrupted: a peer was.
        """
        begun = time.monotonic()
        while not ready():
            if self.id:
                self.check_peers()
            if limit is not None and time.monotonic() - begun > limit:
                raise PeerLost(f"rank {self.rank.index} waited {limit:.0f} s for {what}")
            time.sleep(_POLL)

    def fail(self, error: FlywheelError) -> None:
        """Tell the peers why this rank stops."""
        if self.rank.world > 1 and self.id:
            told = {"message": error.message, "interrupted": isinstance(error, Interrupted), "session": self.id}
            write_json(self.folder / f"failed.{self.rank.index}.json", told)

    def leave(self) -> None:
        """All is done: the others need not mind this rank's end."""
        if self.rank.world > 1:
            (self.folder / f"left.{self.rank.index}").touch()

    def close(self) -> None:
        """Stop the heart."""
        self._stop.set()


def _home() -> str:
    """Where process numbers mean the same: this host since its last start, and this container of it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux: the heartbeat has to do
        return f"unknown/{os.getpid()}"


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _parse(beat: str) -> dict[str, Any]:
    return dict(json.loads(beat)) if beat else {}
