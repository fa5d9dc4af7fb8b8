"""Programs at once on a machine: as many as there are turns, whoever asks for them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flywheel.errors import UserError
from flywheel.sandbox import turns
from flywheel.sandbox.job import Job
from flywheel.sandbox.local import LocalExecutor
from flywheel.sandbox.turns import Turns

_HOLDER = """
import sys
from flywheel.sandbox.turns import Turns
turns = Turns(range(2))
with turns.turn(), turns.turn():
    print("has both", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that other executors on this machine have no part in it."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def holder() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"has both\n"
    return process


def test_never_more_at_once_than_there_are(tmp_path: Path) -> None:
    """Two owners with four threads each share three turns."""
    running, most, done = 0, 0, 0
    lock = threading.Lock()

    def work(shared: Turns) -> None:
        nonlocal running, most, done
        for _ in range(10):
            with shared.turn():
                with lock:
                    running += 1
                    most = max(most, running)
                time.sleep(0.002)
                with lock:
                    running -= 1
                    done += 1

    owners = [Turns(range(3)), Turns(range(3))]
    threads = [threading.Thread(target=work, args=(owners[i % 2],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (3, 80)
    owners[0].close()
    assert list(tmp_path.iterdir()) == [owners[1].file]
    owners[1].close()
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_waited_for_and_a_killed_one_gives_back() -> None:
    other = holder()
    ours = Turns(range(2))
    got = threading.Event()

    def ask() -> None:
        with ours.turn():
            got.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert not got.wait(0.5)
    other.kill()
    assert got.wait(30)
    thread.join()
    other.communicate()
    ours.close()


def test_a_stopped_process_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "_PATIENCE", 1.0)
    other = holder()
    other.send_signal(signal.SIGSTOP)
    ours = Turns(range(2))
    begun = time.monotonic()
    for _ in range(10):
        with ours.turn():
            pass
    assert 1 <= time.monotonic() - begun < 8  # one of them has waited, not each
    other.send_signal(signal.SIGCONT)
    other.communicate()
    ours.close()


def test_executors_share_them_and_leave_nothing(tmp_path: Path) -> None:
    """Also one that is killed."""
    code = (
        "import time\nfrom flywheel.sandbox.local import LocalExecutor\n"
        "executor = LocalExecutor()\nprint('up', flush=True)\ntime.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    with LocalExecutor() as executor:
        ((outcome,),) = executor.run_all([Job("python", {"main.py": b"print(1)"})])
        assert outcome.ok
    assert len(list(tmp_path.glob("flywheel-turns-*"))) == 1
    process.kill()
    process.communicate()
    until = time.monotonic() + 30
    while list(tmp_path.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def test_somebody_else_s_file_is_an_error(tmp_path: Path) -> None:
    first = Turns(range(1))
    first.close()
    first.file.symlink_to("/dev/null")
    with pytest.raises(UserError, match="cannot be opened") as caught:
        Turns(range(1))
    assert "TMPDIR" in str(caught.value.hint)
