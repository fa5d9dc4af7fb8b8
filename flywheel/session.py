"""Agents: one light process per rank, which agree through the run folder alone.

Rank 0 owns the run's lock. The others introduce themselves with a random token and wait until rank 0
has written a session that lists it, so that leftovers of an earlier launch are never mistaken for
this one. From then on each rank's heartbeat is a counter in a file; a counter that stands still for
``PATIENCE`` seconds of the reader's own clock means that the rank is gone.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from flywheel.errors import FlywheelError, PeerLost
from flywheel.files import read_json, write_json
from flywheel.workers import die_with_parent

BEAT = 1.0
PATIENCE = 60.0
JOIN_LIMIT = 300.0


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
    """One launch of all ranks on one run folder."""

    folder: Path
    rank: Rank
    token: str = field(default_factory=lambda: secrets.token_hex(8))
    id: str = ""
    _seen: dict[int, tuple[str, float]] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)
    _checked: float = 0.0

    def join(self) -> None:
        """Meet the other ranks.

        Raises:
            PeerLost: they did not appear within ``JOIN_LIMIT`` seconds.
        """
        if self.rank.world == 1:
            self.id = self.token
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._gather() if self.rank.leads else self._introduce()
        threading.Thread(target=self._beat, daemon=True).start()

    def _gather(self) -> None:
        for old in self.folder.iterdir():
            old.unlink(missing_ok=True)
        write_json(self.folder / "open.json", {"token": self.token})
        hellos = [self.folder / f"hello.{rank}.json" for rank in range(1, self.rank.world)]
        self.wait(lambda: all(hello.exists() for hello in hellos), "the other ranks to join", JOIN_LIMIT)
        tokens = [read_json(hello)["token"] for hello in hellos]
        write_json(self.folder / "session.json", {"id": self.token, "tokens": tokens})
        self.id = self.token

    def _introduce(self) -> None:
        def accepted() -> bool:
            hello = self.folder / f"hello.{self.rank.index}.json"
            if (self.folder / "open.json").exists() and not hello.exists():
                write_json(hello, {"token": self.token, "host": socket.gethostname()})
            try:
                session = read_json(self.folder / "session.json")
            except (FileNotFoundError, ValueError):
                return False
            if self.token not in session["tokens"]:
                # A session of an earlier launch: rank 0 has not cleared the folder yet.
                hello.unlink(missing_ok=True)
                return False
            self.id = session["id"]
            return True

        self.wait(accepted, f"rank 0 to open the session in {self.folder}", JOIN_LIMIT)

    def _beat(self) -> None:
        mine = self.folder / f"beat.{self.rank.index}"
        count = 0
        while not self._stop.wait(BEAT):
            count += 1
            mine.write_text(f"{self.id} {count}")

    def check_peers(self) -> None:
        """See that every rank is alive.

        Raises:
            PeerLost: one failed, with its own words, or its heartbeat stands still.
        """
        now = time.monotonic()
        if self.rank.world == 1 or now - self._checked < BEAT:
            return
        self._checked = now
        for rank in range(self.rank.world):
            if rank == self.rank.index:
                continue
            failed = self.folder / f"failed.{rank}.json"
            if failed.exists():
                raise PeerLost(f"rank {rank} stopped: {read_json(failed)['message']}")
            try:
                beat = (self.folder / f"beat.{rank}").read_text()
            except FileNotFoundError:
                beat = ""
            before, since = self._seen.get(rank, ("", now))
            if beat != before or rank not in self._seen:
                self._seen[rank] = (beat, now)
            elif now - since > PATIENCE:
                raise PeerLost(f"rank {rank} has not answered for {PATIENCE:.0f} s", hint="see its log in logs/latest")

    def wait(self, ready: Callable[[], bool], what: str, limit: float | None = None, poll: float = 0.05) -> None:
        """Wait for a fact on disk while watching the peers.

        Raises:
            PeerLost: a peer is gone, or the limit passed.
        """
        begun = time.monotonic()
        while not ready():
            if self.id:
                self.check_peers()
            if limit is not None and time.monotonic() - begun > limit:
                raise PeerLost(f"rank {self.rank.index} waited {limit:.0f} s for {what}")
            time.sleep(poll)

    def fail(self, error: FlywheelError) -> None:
        """Tell the peers why this rank stops."""
        if self.rank.world > 1 and self.id:
            write_json(self.folder / f"failed.{self.rank.index}.json", {"message": error.message})

    def close(self) -> None:
        self._stop.set()
