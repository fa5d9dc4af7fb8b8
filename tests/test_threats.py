"""Programs that attack the sandbox, its neighbours, the tests or the judge: each has its safe outcome."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from threats import DOUBLE, DOUBLE_CALLS, RIGHT, THREATS, Threat, run, works

from flywheel.errors import UserError
from flywheel.sandbox import cgroups, isolation
from flywheel.sandbox.grading import Policy, Program, grade_many
from flywheel.sandbox.job import Executor, Job, Limits
from flywheel.sandbox.local import LocalExecutor


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor() as executor:
        yield executor


@pytest.fixture
def box(tmp_path: Path) -> Path:
    (tmp_path / "marker").write_text("untouched")
    return tmp_path


def test_every_threat_is_there() -> None:
    assert [threat.number for threat in THREATS] == list(range(1, 45))  # the 45th is below: it takes the executor apart


@pytest.mark.parametrize("threat", THREATS, ids=str)
def test_threat_local(threat: Threat, local: LocalExecutor, box: Path) -> None:
    threat.run(local, box)


def test_45_a_runner_that_dies_is_not_the_programs_fault() -> None:
    """Kill the zygotes under running programs: those run again, and nobody is called wrong."""
    program = b"import time\ntime.sleep(0.4)\nprint('done')\n"
    with LocalExecutor(slots=2) as executor:
        works(executor)
        killer = subprocess.Popen(
            [sys.executable, "-c", _KILL_ZYGOTES, str(os.getpid())], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        outcomes = [o for (o,) in executor.run_all([Job("python", {"main.py": program})] * 12)]
        assert killer.wait() == 0
        assert {o.status for o in outcomes} <= {"exited", "infra_error"}
        assert sum(o.ok for o in outcomes) >= 10
        works(executor)
        assert executor.health() is None


_KILL_ZYGOTES = """
import os, signal, sys, time
from pathlib import Path
for _ in range(2):
    time.sleep(0.5)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inside = b"flywheel.sandbox.inside.zygote" in (process / "cmdline").read_bytes()
            parents, at = [], int(process.name)
            while at > 1:
                at = int((Path("/proc") / str(at) / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.append(at)
            if inside and int(process.name) != os.getpid() and int(sys.argv[1]) in parents:
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ValueError): pass
"""


def test_a_sandbox_that_fails_leaves_grades_undecided() -> None:
    class Broken(LocalExecutor):
        def __init__(self) -> None:
            self.count = 1

        async def run(self, job: Job) -> list:  # type: ignore[type-arg]
            from flywheel.sandbox.job import Outcome

            return [Outcome("infra_error", detail="on fire")] * len(job.stdin)

    asks = [(Program(RIGHT), DOUBLE), (Program(RIGHT), DOUBLE_CALLS)]
    grades = grade_many(Broken(), asks)
    assert [g.passed for g in grades] == [None, None]
    assert all("on fire" in g.reason for g in grades)
    assert all(g.verdict().score is None for g in grades)


def _left(pid: int) -> list[str]:
    """What an executor of a process has left on the machine."""
    parents = cgroups.find()
    folders = [parents.memory, parents.pids] if parents else []
    left = [str(p) for folder in folders for p in folder.glob(f"{cgroups.PREFIX}{pid}-*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{cgroups.PREFIX}{pid}-" in (process / "cgroup").read_text():
                left.append(f"process {process.name}")
        except OSError:
            continue
    return left


@pytest.mark.parametrize("way", ["close", "SIGKILL", "SIGTERM", "exit"])
def test_nothing_is_left_behind(way: str, tmp_path: Path) -> None:
    script = tmp_path / "use.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, threading, time
        from flywheel.sandbox.local import LocalExecutor
        from flywheel.sandbox.job import Job
        executor = LocalExecutor(slots=2)
        program = b"import os, time\\nos.fork()\\nos.setsid() if os.getpid() != os.getpgid(0) else 0\\ntime.sleep(30)"
        if {way!r} in ("close", "exit"):
            executor.run_all([Job("python", {{"main.py": b"print(1)"}})] * 4)
            print("ready", flush=True)
            if {way!r} == "close": executor.close()
        else:
            jobs = [Job("python", {{"main.py": program}})] * 2
            threading.Thread(target=executor.run_all, args=(jobs,), daemon=True).start()
            time.sleep(0.5)
            print("ready", flush=True)
            time.sleep(60)
        """)
    )
    user = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    assert user.stdout is not None
    assert user.stdout.readline() == b"ready\n"
    if way.startswith("SIG"):
        user.send_signal(getattr(signal, way))
    user.wait(20)
    deadline = time.monotonic() + 10
    while (_left(user.pid) or [p for p in tmp_path.iterdir() if p != script]) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _left(user.pid) == []
    assert [p.name for p in tmp_path.iterdir()] == ["use.py"]
    mounts = Path("/proc/mounts").read_text()
    assert not any(name in mounts for name in ("flywheel", "/run/guest", str(tmp_path)))


def test_the_namespaces_are_really_the_programs_own(local: LocalExecutor) -> None:
    source = (
        "import os\nprint(*[os.readlink(f'/proc/self/ns/{n}') for n in ('user', 'pid', 'mnt', 'ipc', 'net', 'uts')])"
    )
    names = ("user", "pid", "mnt", "ipc", "net", "uts")
    outside = {os.readlink(f"/proc/self/ns/{name}") for name in names}
    inside = run(local, source).stdout.decode().split()
    assert len(inside) == 6
    assert outside.isdisjoint(inside)
    capabilities = """
status = [line.split() for line in open('/proc/self/status')]
names = ('CapPrm:', 'CapEff:', 'CapInh:', 'CapAmb:', 'NoNewPrivs:')
print([words[1] for words in status if words and words[0] in names])
"""
    assert (
        run(local, capabilities).stdout
        == b"['0000000000000000', '0000000000000000', '0000000000000000', '0000000000000000', '1']\n"
    )
    assert (
        b"2"
        in run(local, "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('Seccomp:')])").stdout
    )


def test_programs_do_not_share_a_user_with_the_machine() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each slot a user of its own")
    with LocalExecutor(slots=2) as executor, ThreadPoolExecutor(1) as pool:
        ending = pool.submit(executor.run_all, [Job("python", {"main.py": b"import time\ntime.sleep(1.5)"})] * 2)
        users: set[str] = set()
        while len(users) < 2 and not ending.done():
            users |= {fields["Uid"].split()[0] for fields in _programs_of(os.getpid())}
        assert all(o.ok for (o,) in ending.result())
    assert len(users) == 2  # not even with each other
    assert all(int(user) >= 1_900_000_000 for user in users)


def _programs_of(pid: int) -> Iterator[dict[str, str]]:
    """What the machine's /proc says of the processes of programs below a process: those in the innermost namespace."""
    every = {}
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            every[path.parent.name] = dict(line.split(":", 1) for line in path.read_text().splitlines())
    for fields in every.values():
        ancestor = fields
        while ancestor["Pid"].strip() != str(pid) and ancestor["PPid"].strip() in every:
            ancestor = every[ancestor["PPid"].strip()]
        if ancestor["Pid"].strip() == str(pid) and len(fields["NSpid"].split()) == 4:
            yield fields


def test_the_first_process_is_closed_to_programs(local: LocalExecutor) -> None:
    """It waits in the zygote's own memory: who could look into it could change what runs next."""
    outcome = run(
        local,
        textwrap.dedent("""
        import ctypes, os, signal
        libc = ctypes.CDLL(None, use_errno=True)
        opened = []
        for name in ("mem", "environ", "maps", "auxv", "fd", "root", "cwd", "exe", "ns/mnt", "task/1/mem"):
            for flags in (os.O_RDONLY, os.O_RDWR):
                try:
                    opened.append((name, os.open("/proc/1/" + name, flags)))
                except OSError:
                    pass
        for number in (101, 310, 311, 438, 308):  # ptrace, process_vm_readv and _writev, pidfd_getfd, setns
            if libc.syscall(number, 1, 1, 0, 0, 0, 0) >= 0:
                opened.append(number)
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSTOP, signal.SIGINT, signal.SIGSEGV):
            try:
                os.kill(1, number)
            except PermissionError:
                pass
        print(opened, os.path.exists("/proc/1"))
        """),
    )
    assert outcome.ok, outcome
    assert outcome.stdout == b"[] True\n"
    assert run(local, "print('next')").stdout == b"next\n"


def test_orphans_are_reaped_while_a_program_runs(local: LocalExecutor) -> None:
    """Who leaves children behind does not run out of processes by that."""
    outcome = run(
        local,
        textwrap.dedent("""
        import os, time
        for _ in range(300):
            if os.fork() == 0:
                os.fork()  # its child is an orphan at once
                os._exit(0)
            os.wait()
        until = time.monotonic() + 5
        while (left := sum(name.isdigit() for name in os.listdir("/proc"))) > 2 and time.monotonic() < until:
            time.sleep(0.01)
        print(left)
        """),
        limits=Limits(processes=64),
    )
    assert outcome.ok, outcome
    assert outcome.stdout == b"2\n"


def test_without_namespaces_a_program_ends_with_its_zygote(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children, too, though there the kernel does not see to it."""
    monkeypatch.setattr(isolation, "ways", lambda: ["landlock"])
    name = f"86399.{os.getpid()}"
    sleeping = f"import subprocess\nsubprocess.run(['sleep', '{name}'])"
    others = _called("flywheel.sandbox.inside.zygote")
    with LocalExecutor(slots=1, require="landlock") as executor, ThreadPoolExecutor(1) as pool:
        ending = pool.submit(run, executor, sleeping, limits=Limits(wall=3.0))
        while not (asleep := _called("sleep", name)):
            assert not ending.done()
            time.sleep(0.01)
        started = _called("flywheel.sandbox.inside.zygote") - others
        (zygote,) = (pid for pid in started if _parent(pid) == os.getpid())
        os.kill(zygote, signal.SIGKILL)
        until = time.monotonic() + 10
        while asleep & _called("sleep", name):
            assert time.monotonic() < until
            time.sleep(0.01)
        assert ending.result().status == "wall"  # run again, in a new zygote
    assert not _called("sleep", name)


def _called(*words: str) -> set[int]:
    """Processes whose command line has all of these words."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if set(words) <= set(path.read_text().split("\0")):
                found.add(int(path.parent.name))
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0  # another's, and gone by now


def test_files_come_back_whatever_a_program_leaves_running(local: LocalExecutor) -> None:
    """Who kills or stops all it can see does not reach what fetches the files."""
    for number in ("SIGKILL", "SIGSTOP"):
        outcome = run(
            local,
            textwrap.dedent(f"""
            import os, signal
            open("left.txt", "w").write("here")
            if os.fork() == 0:
                while os.getppid() != 1:
                    pass
                while True:
                    try:
                        os.kill(-1, signal.{number})
                    except ProcessLookupError:
                        pass
            """),
            fetch=("left.txt",),
        )
        assert outcome.ok, outcome
        assert outcome.files == {"left.txt": b"here"}


def test_weaker_isolation_is_never_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without bubblewrap: refused, with the remedy; accepted only when it was asked for, and then said."""
    monkeypatch.setattr(isolation, "ways", lambda: ["landlock"])
    with pytest.raises(UserError, match="namespaces is required") as refused:
        LocalExecutor(slots=1)
    assert "bubblewrap" in str(refused.value.hint)
    with LocalExecutor(slots=1, require="landlock") as executor:
        about = executor.capabilities()
        assert about.level == "landlock"
        assert any("Landlock" in remark for remark in about.remarks)
        outcome = run(executor, "print('hello')")
        assert outcome.ok, outcome
        assert outcome.level == "landlock"
    monkeypatch.setattr(isolation, "ways", list)
    with pytest.raises(UserError, match="cannot be isolated"):
        LocalExecutor(slots=1, require="landlock")


@pytest.fixture(scope="module")
def landlock() -> Iterator[LocalExecutor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "ways", lambda: ["landlock"])
        with LocalExecutor(require="landlock") as executor:
            yield executor


_LANDLOCK = (1, 2, 4, 12, 13, 15, 16, 17, 19, 22, 23, 24, 25, 26, 33, 34, 35, 36, 38, 42)


@pytest.mark.parametrize("threat", [t for t in THREATS if t.number in _LANDLOCK], ids=str)
def test_threat_landlock(threat: Threat, landlock: LocalExecutor, box: Path) -> None:
    threat.run(landlock, box)


@pytest.fixture(scope="module")
def in_user_namespace() -> Iterator[LocalExecutor]:
    """As where flywheel is not root, or root may not make namespaces except of users."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolation, "ways", lambda: ["user"])
        with LocalExecutor() as executor:
            yield executor


@pytest.mark.parametrize("threat", [t for t in THREATS if t.number in (1, 16, 23, 27, 33, 34, 36, 42)], ids=str)
def test_threat_in_a_user_namespace(threat: Threat, in_user_namespace: LocalExecutor, box: Path) -> None:
    assert in_user_namespace.capabilities().level == "namespaces"
    threat.run(in_user_namespace, box)


@pytest.mark.parametrize("limits", [Limits(cpu=0.5), Limits(memory=64 << 20), Limits(output=100), Limits(processes=4)])
def test_limits_that_were_in_force_are_told(limits: Limits, local: Executor) -> None:
    outcome = run(local, "print(1)", limits=limits)
    assert outcome.ok, outcome
    assert outcome.limits.memory == limits.memory
    assert outcome.usage.wall > 0
    assert outcome.usage.memory > 0
    assert Policy().flaky
