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

import psutil
import pytest
from servers import serve_sandbox
from threats import RIGHT, THREATS, Threat, works

from flywheel.sandbox.container import ContainerExecutor
from flywheel.sandbox.grading import CallCase, CallChecks, Policy, Program, grade_many
from flywheel.sandbox.job import Job, Limits
from flywheel.sandbox.pool import TRIES
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


VICTIMS = ("monitor", "first process", "client", "container")


@pytest.mark.heavy
@pytest.mark.parametrize("victim", VICTIMS)
def test_45_a_container_that_is_killed_is_not_the_programs_fault(victim: str) -> None:
    """Whatever of it is killed from outside while an honest program runs: the program runs again, and passes."""
    source = "import time\ntime.sleep(2)\n" + RIGHT
    checks = CallChecks("double", [CallCase((2,), 4)])
    policy = Policy(limits=Limits(wall=6), flaky=False)
    with ContainerExecutor(rootfs="host", slots=1) as executor:
        works(executor)
        killer = threading.Thread(target=_kill, args=(victim,), daemon=True)
        killer.start()
        (grade,) = grade_many(executor, [(Program(source), checks)], policy)
        killer.join(30)
        assert grade.passed, grade.reason
        works(executor)
        assert executor.health() is None


@pytest.mark.heavy
def test_45_a_container_that_is_killed_again_and_again_is_undecided() -> None:
    checks = CallChecks("double", [CallCase((2,), 4)])
    with ContainerExecutor(rootfs="host", slots=1) as executor:
        works(executor)
        killer = threading.Thread(target=_kill, args=("container", TRIES), daemon=True)
        killer.start()
        (grade,) = grade_many(executor, [(Program("import time\ntime.sleep(9)\n" + RIGHT), checks)])
        killer.join(30)
        assert grade.passed is None
        assert "the container ended with 137" in grade.reason


def _kill(victim: str, times: int = 1) -> None:
    """Kill a part of this process's running container, once its program has had a second."""
    seen: set[str] = set()
    until = time.monotonic() + 30
    while len(seen) < times and time.monotonic() < until:
        running = _podman("ps", "--filter", f"name=-{os.getpid()}-", "--format", "{{.Names}}").split()
        for name in set(running) - seen:
            seen.add(name)
            time.sleep(1.0)
            if victim == "container":
                _podman("kill", name)
                continue
            state = {"monitor": "{{.State.ConmonPid}}", "first process": "{{.State.Pid}}"}
            pid = _podman("inspect", "--format", state[victim], name) if victim in state else _client_of(name)
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.1)


def _client_of(name: str) -> int:
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words[:2] == ["podman", "run"] and name in words:
            return int(process.pid)
    raise AssertionError(f"{name} has no client")


def _podman(*arguments: str) -> str:
    return subprocess.run(["podman", *arguments], capture_output=True, text=True, check=True).stdout
