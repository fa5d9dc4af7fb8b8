"""The same threats over HTTP and in containers: each has its safe outcome wherever programs run."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import serve_sandbox
from threats import RIGHT, THREATS, Threat, works

from flywheel.sandbox.container import ContainerExecutor
from flywheel.sandbox.grading import CallCase, CallChecks, Program, grade_many
from flywheel.sandbox.job import Job
from flywheel.sandbox.remote import RemoteExecutor


@pytest.fixture(scope="module")
def http() -> Iterator[RemoteExecutor]:
    with serve_sandbox() as url, RemoteExecutor(url) as executor:
        yield executor


@pytest.fixture(scope="module")
def containers() -> Iterator[ContainerExecutor]:
    with ContainerExecutor(rootfs="host") as executor:
        yield executor


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "marker").write_text("untouched")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_threat_over_http(threat: Threat, http: RemoteExecutor, box: Path) -> None:
    threat.run(http, box)


@pytest.mark.heavy
@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_threat_in_containers(threat: Threat, containers: ContainerExecutor, box: Path) -> None:
    threat.run(containers, box)


SLOW = Job("python", {"main.py": b"import time\ntime.sleep(0.4)\nprint('done')\n"})


@pytest.mark.slow
def test_45_a_server_that_dies_is_not_the_programs_fault() -> None:
    """Killed with programs running in it: they run on the other one. With none left, nobody is called wrong."""
    with serve_sandbox() as stays, contextlib.ExitStack() as stack:
        process, url = _server(stack)
        executor = stack.enter_context(RemoteExecutor([url, stays]))
        killer = threading.Timer(0.6, process.kill)
        killer.start()
        outcomes = [o for (o,) in executor.run_all([SLOW] * 12)]
        killer.join()
        assert all(o.ok and o.stdout == b"done\n" for o in outcomes)
        works(executor)
    with contextlib.ExitStack() as stack:
        process, url = _server(stack)
        executor = stack.enter_context(RemoteExecutor(url, patience=1))
        process.kill()
        (grade,) = grade_many(executor, [(Program(RIGHT), CallChecks("double", [CallCase((2,), 4)]))])
        assert grade.passed is None
        assert url in grade.reason
        assert grade.verdict().score is None


def _server(stack: contextlib.ExitStack) -> tuple[subprocess.Popen[str], str]:
    """A server that will be killed."""
    command = [sys.executable, "-m", "flywheel", "serve-sandbox", "--port", "0"]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.kill)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.mark.heavy
def test_45_a_container_that_is_killed_is_not_the_programs_fault(containers: ContainerExecutor) -> None:
    """Its monitor and its first process are killed from outside while programs run: those run again."""
    killed = threading.Event()
    killer = threading.Thread(target=_kill_some, args=(killed,), daemon=True)
    killer.start()
    outcomes = [o for (o,) in containers.run_all([SLOW] * 8)]
    killer.join(30)
    assert killed.is_set()
    assert {o.status for o in outcomes} <= {"exited", "infra_error"}
    assert sum(o.ok for o in outcomes) >= 6
    works(containers)
    assert containers.health() is None


def _kill_some(killed: threading.Event) -> None:
    """Kill podman's client of two running containers of ours."""
    done: set[int] = set()
    until = time.monotonic() + 20
    while len(done) < 2 and time.monotonic() < until:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if words[:2] == [b"podman", b"run"] and parent == os.getpid() and int(folder.name) not in done:
                    time.sleep(0.3)
                    os.kill(int(folder.name), signal.SIGKILL)
                    done.add(int(folder.name))
                    killed.set()
                    break
        time.sleep(0.2)
