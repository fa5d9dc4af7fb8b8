"""Programs in containers: real podman, on this machine's own /usr, for no image can be pulled here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from servers import serving
from test_languages import ECHO

from flywheel.errors import UserError
from flywheel.sandbox import make_executor
from flywheel.sandbox.container import ContainerExecutor
from flywheel.sandbox.job import MIB, Job, Limits, Outcome
from flywheel.sandbox.languages import LANGUAGES, entry_of
from flywheel.sandbox.server import make_app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def containers() -> Iterator[ContainerExecutor]:
    with ContainerExecutor(rootfs="host", slots=2) as executor:
        yield executor


def python(source: str, *stdin: bytes, **more: Any) -> Job:
    return Job("python", {"main.py": source.encode()}, stdin=stdin or (b"",), **more)


def run(executor: ContainerExecutor, *jobs: Job) -> list[Outcome]:
    return [outcome for outcomes in executor.run_all(jobs) for outcome in outcomes]


def names() -> list[str]:
    listed = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    return [name for name in listed.stdout.split() if name.startswith("flywheel-")]


def test_what_it_can_do_is_said(containers: ContainerExecutor) -> None:
    can = containers.capabilities()
    assert (can.executor, can.level, can.memory, can.processes) == ("container", "container", "cgroup", "cgroup")
    assert set(can.languages) == set(LANGUAGES)
    assert containers.health() is None


@pytest.mark.parametrize("name", LANGUAGES)
def test_every_language_runs(containers: ContainerExecutor, name: str) -> None:
    entry = entry_of(name, ECHO[name])
    (outcome,) = run(containers, Job(name, {entry: ECHO[name].encode()}, entry, stdin=(b"abc\n",)))
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("exited", 0, b"cba\n"), outcome


def test_bytes_in_and_out(containers: ContainerExecutor) -> None:
    everything = bytes(range(256)) * 20_000
    echo = "import sys; d = sys.stdin.buffer.read(); sys.stdout.buffer.write(d); sys.stderr.buffer.write(d[:300])"
    first, second = run(containers, python(echo, everything, b""))
    assert first.stdout == everything and first.stderr == everything[:300]
    assert second.stdout == b"" and second.ok and second.case == 1


def test_files_and_arguments(containers: ContainerExecutor) -> None:
    source = """
import sys, pathlib as p
p.Path('out/x').write_bytes(p.Path('data/a b').read_bytes() + b'!')
p.Path('main.py').write_text('mine'); p.Path('link').symlink_to('/etc/passwd')
print(sys.argv[1:])
"""
    files = {"main.py": source.encode(), "data/a b": b"\0\xff", "out/keep": b""}
    job = Job("python", files, argv=("x y", "'\"$HOME", "é"), fetch=("out/x", "link", "absent", "main.py", "out"))
    (outcome,) = run(containers, job)
    assert outcome.ok, outcome.stderr
    assert outcome.stdout.decode() == "['x y', '\\'\"$HOME', 'é']\n"
    assert outcome.files == {"out/x": b"\0\xff!", "main.py": b"mine"}


def test_limits(containers: ContainerExecutor) -> None:
    outcomes = run(
        containers,
        python("while True: pass", limits=Limits(cpu=1, wall=10)),
        python("import time; print('up', flush=True); time.sleep(60)", limits=Limits(wall=4)),
        python("x = []\nwhile True: x.append(bytearray(1 << 24))", limits=Limits(memory=128 * MIB)),
        python("while True: print('x' * 10000)", limits=Limits(output=100_000)),
        python("import os\nopen('big', 'wb').write(b'0' * (32 << 20))", limits=Limits(disk=8 * MIB)),
        python("import os\nwhile True: os.fork()", limits=Limits(cpu=2, wall=4, processes=16)),
        python("import os; os.kill(os.getpid(), 11)"),
        python("import os, signal; signal.raise_signal(signal.SIGINT)"),
    )
    assert [o.status for o in outcomes[:4]] == ["cpu", "wall", "oom", "output_limit"]
    assert outcomes[1].stdout == b"up\n" and 4 <= outcomes[1].usage.wall < 12
    assert outcomes[2].usage.memory > 100 * MIB
    assert len(outcomes[3].stdout) == 100_000
    assert not outcomes[4].ok and not outcomes[5].ok
    assert (outcomes[6].status, outcomes[6].signal) == ("signaled", 11)
    assert b"KeyboardInterrupt" in outcomes[7].stderr
    assert all(o.level == "container" for o in outcomes)


def test_compile_errors(containers: ContainerExecutor) -> None:
    bad, good = run(containers, Job("c", {"main.c": b"int main( {"}), Job("c", {"main.c": b"int main() { return 9; }"}))
    assert bad.status == "compile_error" and b"error" in bad.stderr
    assert (good.status, good.exit_code) == ("exited", 9)


def test_a_program_cannot_reach_its_launcher(containers: ContainerExecutor) -> None:
    source = """
import os
tried = {}
def attempt(name, do):
    try:
        do(); tried[name] = True
    except OSError as error:
        tried[name] = type(error).__name__
attempt("kill", lambda: os.kill(1, 9))
attempt("memory", lambda: open("/proc/1/mem", "r+b"))
attempt("facts", lambda: open("/flywheel/out/facts", "w"))
attempt("list", lambda: os.listdir("/flywheel/out"))
attempt("root", lambda: os.setuid(0))
attempt("write", lambda: open("/usr/x", "w"))
attempt("etc", lambda: open("/etc/x", "w"))
print(tried, os.getuid(), len(os.listdir("/proc/self/fd")))
"""
    (outcome,) = run(containers, python(source))
    assert outcome.ok, outcome.stderr
    told = outcome.stdout.decode()
    assert "True" not in told and told.count("Error") == 7
    assert not told.endswith(" 0 4\n")


def test_what_a_program_leaves_is_gone(containers: ContainerExecutor) -> None:
    leave = """
import os, time
open('/tmp/mark', 'w'); open('/dev/shm/mark', 'w')
if os.fork() == 0:
    os.setsid(); time.sleep(600)
"""
    look = "import os; print(os.path.exists('/tmp/mark'), os.path.exists('/dev/shm/mark'))"
    first, second = run(containers, python(leave))[0], run(containers, python(look))[0]
    assert first.ok and first.usage.wall < 30
    assert second.stdout == b"False False\n"
    assert names() == []


SLEEPING = ["sleep", "600.125"]
OTHERS = f"""
from flywheel.sandbox.container import ContainerExecutor
from flywheel.sandbox.job import Job
program = b"import os; os.execvp('sleep', {SLEEPING})"
ContainerExecutor(rootfs='host', slots=1).run_all([Job('python', {{'main.py': program}})])
"""


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """An executor in another process, with a program that sleeps."""
    process = subprocess.Popen([sys.executable, "-c", OTHERS])
    # Containers come and go before this program's own, where it is tried whether Python runs at all.
    waiting = threading.Event()
    while SLEEPING not in [found.info["cmdline"] for found in psutil.process_iter(["cmdline"])]:
        assert process.poll() is None
        waiting.wait(0.1)
    yield process
    process.kill()
    process.wait()
    ContainerExecutor(rootfs="host", slots=1).close()
    assert names() == []


def test_what_a_killed_executor_left_is_removed(other: subprocess.Popen[bytes]) -> None:
    other.kill()
    other.wait()
    assert names() != []
    ContainerExecutor(rootfs="host", slots=1).close()
    assert names() == []


@pytest.mark.heavy
def test_what_runs_for_an_executor_that_cannot_be_seen_is_left_alone(other: subprocess.Popen[bytes]) -> None:
    """As when two containers with a flywheel in each share an engine's socket: process ids say nothing there."""
    (running,) = names()
    elsewhere = (
        "from flywheel.sandbox.container import ContainerExecutor\nContainerExecutor(rootfs='host', slots=1).close()"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", elsewhere]
    subprocess.run(command, check=True, timeout=60)
    assert names() == [running]
    assert other.poll() is None


def tool(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_no_engine_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="neither podman nor docker") as caught:
        ContainerExecutor()
    assert "apt-get install podman" in str(caught.value.hint)


def test_a_dead_daemon_is_an_error_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon at unix:///x. Is it running?' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match="Cannot connect to the Docker daemon") as caught:
        make_executor({"use": "container", "engine": "docker"})
    assert "start the daemon" in str(caught.value.hint) and "podman" in str(caught.value.hint)


def test_missing_images_are_named_with_the_command_that_gets_them() -> None:
    with pytest.raises(UserError, match=r"none of the languages' images, such as python:3\.11-slim") as caught:
        ContainerExecutor(engine="podman")
    assert "podman pull python" in str(caught.value.hint)
    with pytest.raises(UserError, match="the image no/such:1 is not there") as caught:
        ContainerExecutor(engine="podman", images={"py": "no/such:1"})
    assert caught.value.hint == "podman pull no/such:1"
    with pytest.raises(UserError, match="no language is called"):
        ContainerExecutor(engine="podman", images={"cobol": "x"})
    with pytest.raises(UserError, match="holds no root file system"):
        ContainerExecutor(rootfs="/proc")
    with pytest.raises(UserError, match="--rootfs"):
        ContainerExecutor(engine="docker", rootfs="host")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One that is made here, of the few programs that a container needs and a shell to run programs with."""
    archive = tmp_path_factory.mktemp("image") / "image.tar"
    programs = "/bin/sh /bin/bash /usr/bin/setpriv /usr/bin/env /bin/cp /bin/mkdir /bin/cat /bin/tar /usr/bin/head"
    linked = subprocess.run(["ldd", *programs.split()], capture_output=True, text=True, check=False).stdout
    libraries = set(re.findall(r"(/\S+) \(0x", linked))
    subprocess.run(["tar", "-chf", archive, *programs.split(), *libraries], check=True, capture_output=True)
    name = f"flywheel-test-{os.getpid()}:1"
    subprocess.run(["podman", "import", archive, name], check=True, capture_output=True)
    yield name
    subprocess.run(["podman", "rmi", "-f", name], check=True, capture_output=True)


def test_an_image(image: str) -> None:
    with ContainerExecutor(engine="podman", images={"bash": image}) as executor:
        assert executor.capabilities().languages == ("bash",)
        job = Job(
            "bash", {"main.sh": b'read -r a; echo "$a$a"; echo hi > file; id -u'}, stdin=(b"x\n",), fetch=("file",)
        )
        (outcome,) = run(executor, job)
        assert (outcome.stdout, outcome.files) == (b"xx\n", {"file": b"hi\n"})
        with pytest.raises(UserError, match="ruby programs cannot be run in containers here") as caught:
            run(executor, Job("ruby", {"main.rb": b""}))
        assert "podman pull ruby" in str(caught.value.hint)


def test_an_image_is_tried_in_each_way_and_with_each_engine(
    image: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """podman's usual runtime does not work here; then podman has no images, and docker, which is podman, has."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    job = Job("bash", {"main.sh": b"echo fine"})
    other_runtime = 'case "$*" in "run "*"--runtime runc"*) ;; "run "*) echo crun: no cgroup >&2; exit 126;; esac'
    tool(tmp_path, "podman", f'{other_runtime}; exec /usr/bin/podman "$@"')
    with ContainerExecutor(engine="podman", images={"bash": image}) as executor:
        assert run(executor, job)[0].stdout == b"fine\n"
    tool(
        tmp_path,
        "podman",
        'case "$1" in images) exit 0;; image) exit 1;; run) exit 126;; esac; exec /usr/bin/podman "$@"',
    )
    tool(tmp_path, "docker", 'case "$1" in info) echo 1; exit 0;; esac; exec /usr/bin/podman "$@"')
    with ContainerExecutor(images={"bash": image}) as executor:
        assert run(executor, job)[0].stdout == b"fine\n"
        assert executor.capabilities().remarks[0] == "docker"
    tool(tmp_path, "docker", 'case "$1" in run) echo no >&2; exit 125;; info) exit 0;; esac; exec /usr/bin/podman "$@"')
    with pytest.raises(UserError, match=f"docker run {image}: the container did not start: no"):
        ContainerExecutor(images={"bash": image})


def test_an_engine_that_fails_is_no_verdict(
    containers: ContainerExecutor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool(tmp_path, "podman", "echo 'time=now level=warning msg=cgroups' >&2; exec /usr/bin/podman \"$@\"")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    (outcome,) = run(containers, python("import sys; print(1); sys.exit('bye')"))
    assert (outcome.stdout, outcome.stderr) == (b"1\n", b"bye\n")  # without the engine's warnings
    tool(tmp_path, "podman", "echo 'no space left on device' >&2; exit 125")
    (outcome,) = run(containers, python("print(1)"))
    assert outcome.status == "infra_error"
    assert "no space left on device" in outcome.detail
    assert "no space left" in str(containers.health())
    with serving(make_app(containers)) as url:
        assert httpx.get(f"{url}/health", timeout=20).status_code == 503
        monkeypatch.undo()
        # What is sent to healthy servers alone does not come here: a program of the server's own finds out.
        until = time.monotonic() + 20
        while httpx.get(f"{url}/health", timeout=20).status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.5)
    assert containers.health() is None
    assert run(containers, python("print(1)"))[0].stdout == b"1\n"


def test_it_can_be_closed_again_and_not_used_after() -> None:
    executor = ContainerExecutor(rootfs="host", slots=1)
    executor.close()
    executor.close()
    assert executor.health() == "it was closed"
    with pytest.raises(RuntimeError, match="closed"):
        executor.run_all([python("")])
