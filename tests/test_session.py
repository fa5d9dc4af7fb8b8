"""Ranks that meet through a folder: they find each other, and notice who is gone and why."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flywheel import session as module
from flywheel.errors import Interrupted, PeerLost, RunDirError, StageFailed
from flywheel.session import Rank, Session

OTHER = """
import sys, time
from pathlib import Path
from flywheel.session import Rank, Session
session = Session(Path(sys.argv[1]), Rank(index=1, world=2), doing="round 1 sft")
session.join()
print("joined", flush=True)
command = sys.stdin.readline().strip()
if command == "leave":
    session.leave()
"""


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.02)


@pytest.fixture
def other(tmp_path: Path) -> subprocess.Popen[str]:
    """Rank 1, a process of its own, in session with ``ours``."""
    command = [sys.executable, "-c", OTHER, str(tmp_path / "session")]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def meet(folder: Path, other: subprocess.Popen[str]) -> Session:
    ours = Session(folder / "session", Rank(index=0, world=2))
    ours.open()
    ours.join()
    assert other.stdout is not None and other.stdout.readline() == "joined\n"
    return ours


def watch(ours: Session, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ours.check_peers()
        time.sleep(0.02)


def test_a_killed_rank_of_this_host_is_named_at_once_with_what_it_did(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    ours = meet(tmp_path, other)
    assert ours.explain() is None
    other.kill()
    other.wait()
    with pytest.raises(PeerLost, match=rf"rank 1 \(process {other.pid}\) was killed; it was at round 1 sft") as lost:
        watch(ours)
    assert str(tmp_path / "logs" / "latest") in str(lost.value.hint)
    assert ours.explain() is not None
    ours.close()


def test_a_rank_that_left_is_not_missed(tmp_path: Path, other: subprocess.Popen[str]) -> None:
    ours = meet(tmp_path, other)
    other.communicate("leave\n")
    watch(ours, seconds=0.5)
    assert ours.explain() is None
    ours.close()


def two_sessions(folder: Path) -> tuple[Session, Session]:
    ours, theirs = (Session(folder / "session", Rank(index=i, world=2)) for i in (0, 1))
    ours.open()
    joining = threading.Thread(target=theirs.join)
    joining.start()
    ours.join()
    joining.join()
    return ours, theirs


def test_a_rank_that_failed_is_quoted_and_one_that_was_interrupted_interrupts(tmp_path: Path) -> None:
    ours, theirs = two_sessions(tmp_path)
    theirs.fail(StageFailed("rank 1: round 1 dpo exited with 1"))
    with pytest.raises(PeerLost, match="rank 1 stopped: rank 1: round 1 dpo exited with 1"):
        watch(ours)
    theirs.fail(Interrupted("interrupted by SIGINT"))
    with pytest.raises(Interrupted, match="rank 1 was interrupted"):
        watch(ours)


def test_the_failure_of_an_earlier_launch_is_not_this_ones(tmp_path: Path) -> None:
    earlier, _ = two_sessions(tmp_path)
    earlier.fail(RunDirError("the disk was full then"))
    late = Session(tmp_path / "session", Rank(index=1, world=2))  # it arrives before rank 0 has cleared the folder
    joining = threading.Thread(target=late.join)
    joining.start()
    time.sleep(0.2)
    assert joining.is_alive()
    ours = Session(tmp_path / "session", Rank(index=0, world=2))
    ours.open()
    ours.join()
    joining.join(timeout=10)
    assert late.id == ours.id


def test_a_rank_that_never_comes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_LIMIT", 0.2)
    ours = Session(tmp_path / "session", Rank(index=0, world=3))
    ours.open()
    with pytest.raises(PeerLost, match="rank 1, 2 did not join"):
        ours.join()


def test_a_folder_that_another_host_does_not_see_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "JOIN_LIMIT", 0.2)
    with pytest.raises(PeerLost, match=r"rank 1 waited .* see the same folder as rank 0's"):
        Session(tmp_path / "session", Rank(index=1, world=2)).join()


def test_a_heart_that_stands_still_is_noticed_without_a_process_to_look_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: subprocess.Popen[str]
) -> None:
    ours = meet(tmp_path, other)
    monkeypatch.setattr(module, "_home", lambda: "another host")
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    other.kill()
    other.wait()
    with pytest.raises(PeerLost, match="rank 1 has not answered for 0 s; it was at round 1 sft"):
        watch(ours)
    ours.close()
