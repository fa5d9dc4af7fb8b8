"""What hostile programs do, and what must come of it: 45 threats, each against whatever executor it is given.

Every function is one threat, ``(executor, box)``: ``box`` is a folder of this machine that programs must not be able to
change. They are numbered as in docs/sandbox.md. Limits are small, so that each takes a second or two at most.
"""

# ruff: noqa: E501

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel.sandbox.grading import (
    CallCase,
    CallChecks,
    Checks,
    Grade,
    Policy,
    Program,
    StdioCase,
    StdioChecks,
    TestChecks,
    grade_many,
)
from flywheel.sandbox.job import MIB, Executor, Job, Limits, Outcome

SMALL = Limits(cpu=2.0, wall=5.0, memory=256 * MIB, processes=32, output=1 * MIB, disk=8 * MIB)


@dataclass(frozen=True)
class Threat:
    number: int
    title: str
    run: Callable[[Executor, Path], None]

    def __str__(self) -> str:
        return f"{self.number:02d}-{self.title.replace(' ', '-')}"


THREATS: list[Threat] = []


def threat(number: int, title: str) -> Callable[[Callable[[Executor, Path], None]], Callable[[Executor, Path], None]]:
    def keep(function: Callable[[Executor, Path], None]) -> Callable[[Executor, Path], None]:
        THREATS.append(Threat(number, title, function))
        return function

    return keep


def run(executor: Executor, source: str, language: str = "python", **job: Any) -> Outcome:
    """One program's outcome."""
    files = job.pop("files", {})
    name = {"python": "main.py", "bash": "main.sh", "cpp": "main.cpp", "c": "main.c", "javascript": "main.js"}[language]
    limits = job.pop("limits", SMALL)
    (outcomes,) = executor.run_all([Job(language, {**files, name: source.encode()}, limits=limits, **job)])
    return outcomes[0]


def grade(executor: Executor, source: str, checks: Checks, language: str = "python", **policy: Any) -> Grade:
    (found,) = grade_many(executor, [(Program(source, language), checks)], Policy(limits=SMALL, **policy))
    return found


def rejected(executor: Executor, source: str, checks: Checks, language: str = "python") -> Grade:
    found = grade(executor, source, checks, language)
    assert found.passed is False, (source, found)
    return found


def works(executor: Executor) -> None:
    """Whatever happened before, an honest program runs as ever."""
    outcome = run(executor, "import os; print(sorted(os.listdir('.')), sum(range(10)))")
    assert outcome.ok, outcome
    assert outcome.stdout == b"['main.py'] 45\n"


DOUBLE = TestChecks("assert double(2) == 4\nassert double(5) == 10\n", "double")
DOUBLE_CALLS = CallChecks("double", [CallCase((2,), 4), CallCase((5,), 10)])
DOUBLE_STDIO = StdioChecks([StdioCase(b"2\n", b"4\n"), StdioCase(b"5\n", b"10\n")])
RIGHT = "def double(x):\n    return 2 * x\n"


def all_levels(executor: Executor, body: str) -> None:
    """A body of ``double`` that must pass at no level."""
    source = "def double(x):\n" + "".join(f"    {line}\n" for line in body.splitlines())
    rejected(executor, source, DOUBLE)
    rejected(executor, source, DOUBLE_CALLS)
    rejected(executor, source + "print(double(int(input())))\n", DOUBLE_STDIO)


@threat(1, "exit 0")
def _exit(executor: Executor, box: Path) -> None:
    all_levels(executor, "import sys\nsys.exit(0)")
    all_levels(executor, "raise SystemExit")
    rejected(executor, "exit 0\n", TestChecks('[ "$(double 2)" = 4 ]'), "bash")
    rejected(executor, "process.exit(0)\n", TestChecks("assert.equal(double(2), 4)"), "javascript")


@threat(2, "exit without cleanup")
def _halt(executor: Executor, box: Path) -> None:
    all_levels(executor, "import os\nos._exit(0)")
    all_levels(executor, "import os\nos.execv('/bin/true', ['true'])")
    all_levels(executor, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")


@threat(3, "atexit and exit trap")
def _atexit(executor: Executor, box: Path) -> None:
    all_levels(executor, "import atexit, os\natexit.register(os._exit, 0)\nreturn 0")
    rejected(executor, "trap 'echo passed; exit 0' EXIT\ndouble() { false; }\n", TestChecks("double 2"), "bash")


@threat(4, "true for all comparisons")
def _always_equal(executor: Executor, box: Path) -> None:
    body = """
class Yes(int):
    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda *_: True
    __hash__ = lambda _: 1
    __sub__ = __rsub__ = __abs__ = __round__ = lambda self, *_: self
    __repr__ = __str__ = lambda _: '4'
return Yes()
"""
    all_levels(executor, body)
    assert rejected(executor, "def double(x):" + body.replace("\n", "\n    "), DOUBLE).forged


@threat(5, "subclasses NaN and tuples")
def _policy(executor: Executor, box: Path) -> None:
    nan = float("nan")
    table: list[tuple[str, Any, dict[str, Any], bool]] = [
        ("type('S', (str,), {})('ab')", "ab", {}, True),  # counts as its base's contents
        ("type('I', (int,), {'__eq__': lambda *_: True, '__hash__': None})(3)", 4, {}, False),
        ("float('nan')", nan, {}, True),
        ("float('nan')", 1.0, {}, False),
        ("(1, 2)", [1, 2], {}, True),
        ("(1, 2)", [1, 2], {"sequences": "strict"}, False),
        ("[1, 2]", (1, 2), {"sequences": "strict"}, False),
        ("True", 1, {}, True),
        ("True", 1, {"numbers": "strict"}, False),
        ("{2, 1}", {1, 2}, {}, True),
        ("{'b': 1, 'a': [2.5]}", {"a": [2.5], "b": 1}, {}, True),
        ("0.1 + 0.2", 0.3, {}, False),
        ("0.1 + 0.2", 0.3, {"tolerance": 1e-9}, True),
        ("10 ** 40", 10**40, {}, True),
        ("object()", None, {}, False),
        ("(x for x in [1])", [1], {}, False),
    ]
    for returned, expected, policy, right in table:
        checks = CallChecks("f", [CallCase((), expected)])
        found = grade(executor, f"def f():\n    return {returned}\n", checks, **policy)
        assert found.passed is right, (returned, expected, policy, found)


@threat(6, "patched assertions")
def _patched(executor: Executor, box: Path) -> None:
    tests = """
import unittest
class TestDouble(unittest.TestCase):
    def test_double(self):
        self.assertEqual(double(2), 4)
"""
    patch = "import unittest\nunittest.TestCase.assertEqual = lambda *_: None\ndef double(x): return 0\n"
    rejected(executor, patch, TestChecks(tests))
    runner = "import unittest\nunittest.TestCase.run = lambda self, result=None: result\ndef double(x): return 0\n"
    rejected(executor, runner, TestChecks(tests))
    assert grade(executor, RIGHT, TestChecks(tests)).passed
    pytest = "def test_double():\n    assert double(2) == 4\n"
    rejected(
        executor, "import builtins\nbuiltins.AssertionError = SystemExit\ndef double(x): return 0\n", TestChecks(pytest)
    )
    assert grade(executor, RIGHT, TestChecks(pytest)).passed


@threat(7, "assertions compiled out")
def _compiled_out(executor: Executor, box: Path) -> None:
    for stub in ("def double(x): raise NotImplementedError\n", "def double(x): return None\n"):
        rejected(executor, stub, DOUBLE)
    program = "#define NDEBUG\n#include <cassert>\n#undef assert\n#define assert(x) ((void)0)\nint twice(int x) { return 0; }\n"
    tests = "int main() { assert(twice(2) == 4); return 0; }\n"
    rejected(executor, program, TestChecks(tests), "cpp")
    assert grade(executor, "int twice(int x) { return 2 * x; }\n", TestChecks(tests), "cpp").passed


@threat(8, "text that swallows the tests")
def _swallowed(executor: Executor, box: Path) -> None:
    rejected(executor, "def double(x): return 0\n'''\n", DOUBLE)
    rejected(executor, "def double(x): return 0\n#", DOUBLE)
    rejected(executor, "double() { echo 0; }\ncat > /dev/null <<'END'\n", TestChecks('[ "$(double 2)" = 4 ]'), "bash")


@threat(9, "shadowed modules")
def _shadowed(executor: Executor, box: Path) -> None:
    evil = b"import os\nos._exit(0)\n"
    names = ("conftest.py", "sitecustomize.py", "usercustomize.py", "json.py", "os.py", "unittest.py", "types.py")
    for checks in (DOUBLE, DOUBLE_CALLS):
        wrong = Program("def double(x): return 0\n", files=dict.fromkeys(names, evil))
        right = Program(RIGHT, files=dict.fromkeys(names, evil))
        found = grade_many(executor, [(wrong, checks), (right, checks)], Policy(limits=SMALL))
        assert found[0].passed is False, found[0]


@threat(10, "frame and gc walk")
def _walk(executor: Executor, box: Path) -> None:
    frames = """
import sys
frame, seen = sys._getframe(), []
while frame:
    for value in list(frame.f_locals.values()) + list(frame.f_globals.values()):
        if isinstance(value, (int, list, tuple, dict, str)): seen.append(repr(value))
    frame = frame.f_back
return 4 if any('10' == s for s in seen) else -1
"""
    all_levels(executor, frames)
    garbage = """
import gc
for found in gc.get_objects():
    if isinstance(found, dict) and 'expected' in found: return found['expected']
    if isinstance(found, list) and found and found[-1] in ('failed', 'passed'): found[:] = ['passed']
return None
"""
    all_levels(executor, garbage)
    source = """
def double(x):
    import sys, re
    frame = sys._getframe(1)
    line = open(frame.f_code.co_filename).read().splitlines()[frame.f_lineno - 1]
    return eval(re.search(r'==\\s*(\\S+)', line)[1])
"""
    assert rejected(executor, source, DOUBLE).forged


@threat(11, "reading tests argv env and proc")
def _reading(executor: Executor, box: Path) -> None:
    source = """
import glob, os, sys
found = [os.environ.get(k, '') for k in os.environ] + sys.argv
for path in glob.glob('*') + glob.glob('/proc/*/cmdline') + glob.glob('/proc/*/environ') + glob.glob('/tmp/**', recursive=True):
    try: found.append(open(path, errors='replace').read())
    except OSError: pass
print('expected-output' in ' '.join(found).replace('expected-' + 'output', '', 1))
"""
    assert (
        run(executor, source.replace("'expected-output'", "'expected' + '-output'"), stdin=(b"7\n",)).stdout
        == b"False\n"
    )
    secret = "import os\nprint([k for k in os.environ if 'TOKEN' in k or 'KEY' in k or 'SECRET' in k])\n"
    os.environ["FLYWHEEL_TEST_TOKEN"] = "secret"
    try:
        assert run(executor, secret).stdout == b"[]\n"
    finally:
        del os.environ["FLYWHEEL_TEST_TOKEN"]
    for path in ("/etc/shadow", str(Path(__file__).resolve()), str(box / "marker")):
        outcome = run(executor, f"print(open({path!r}, 'rb').read(1))")
        assert not outcome.ok, (path, outcome)


@threat(12, "printing a fake pass")
def _fake(executor: Executor, box: Path) -> None:
    all_levels(executor, "print('PASSED\\nOK\\n1 passed\\n{\"passed\": true}\\n')\nimport os\nos._exit(0)")


@threat(13, "writing or closing inherited descriptors")
def _descriptors(executor: Executor, box: Path) -> None:
    writing = """
import os
for fd in range(3, 256):
    for text in (b'passed\\n', b'{"ended": 0, "cpu": 0, "memory": 0, "wall": 0, "files": []}\\n'):
        try: os.write(fd, text)
        except OSError: pass
os._exit(0)
"""
    all_levels(executor, writing)
    all_levels(executor, "import os\nos.closerange(0, 256)\nos._exit(0)")
    outcome = run(
        executor, "import os\nprint(sorted(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else [])"
    )
    assert len(outcome.stdout.split(b",")) <= 5, outcome
    works(executor)


@threat(14, "replaying an earlier answer")
def _replay(executor: Executor, box: Path) -> None:
    source = """
import os, sys
def double(x):
    for fd in range(3, 64):
        try: os.write(fd, b'{"value":4}\\n{"value":10}\\n')
        except OSError: pass
    os._exit(0)
"""
    checks = CallChecks("double", [CallCase((2,), 4), CallCase((7,), 14), CallCase((5,), 10)])
    rejected(executor, source, checks)
    remembering = (
        "import os\ndef double(x):\n    p = '/tmp/answer'\n    if os.path.exists(p): return int(open(p).read())\n"
    )
    remembering += "    open(p, 'w').write('10')\n    return 4\n"
    rejected(executor, remembering, checks)


@threat(15, "cancelling alarms")
def _alarms(executor: Executor, box: Path) -> None:
    source = """
import signal, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.alarm(0)
signal.setitimer(signal.ITIMER_REAL, 0)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
except (ValueError, OSError): pass
while True: pass
"""
    outcome = run(executor, source, limits=Limits(cpu=1, wall=4))
    assert outcome.status in ("cpu", "wall"), outcome


@threat(16, "busy loop")
def _busy(executor: Executor, box: Path) -> None:
    outcome = run(executor, "while True: pass", limits=Limits(cpu=1, wall=20))
    assert outcome.status == "cpu", outcome


@threat(17, "sleep and blocked stdin")
def _sleep(executor: Executor, box: Path) -> None:
    began = time.monotonic()
    limits = Limits(cpu=5, wall=1)
    assert run(executor, "import time\ntime.sleep(60)", limits=limits).status == "wall"
    fifo = "import os\nos.mkfifo('f')\nopen('f').read()"
    assert run(executor, fifo, limits=limits).status == "wall"
    assert run(executor, "import sys\nprint(len(sys.stdin.read()), len(sys.stdin.read()))").stdout == b"0 0\n"
    assert time.monotonic() - began < 30


@threat(18, "never reading 5 MB of stdin")
def _unread(executor: Executor, box: Path) -> None:
    outcome = run(executor, "print('done')", stdin=(b"x" * 5 * MIB,))
    assert outcome.ok, outcome
    outcome = run(executor, "import time\ntime.sleep(60)", stdin=(b"x" * 5 * MIB,), limits=Limits(wall=1))
    assert outcome.status == "wall", outcome


@threat(19, "endless output")
def _endless(executor: Executor, box: Path) -> None:
    for stream in ("stdout", "stderr"):
        outcome = run(executor, f"import sys\nwhile True: sys.{stream}.write('x' * 65536)")
        assert outcome.status == "output_limit", outcome
        assert len(outcome.stdout) + len(outcome.stderr) <= SMALL.output
    works(executor)


@threat(20, "slow drip")
def _drip(executor: Executor, box: Path) -> None:
    source = "import time\nwhile True:\n    print('.', flush=True)\n    time.sleep(0.05)\n"
    outcome = run(executor, source, limits=Limits(wall=3))
    assert outcome.status == "wall", outcome
    assert outcome.stdout.startswith(b".\n.\n")


@threat(21, "strange bytes")
def _bytes(executor: Executor, box: Path) -> None:
    strange = b"\xff\xfe\x00\x1b[31m\xef\xbb\xbfa\r\nb\x80\n"
    outcome = run(executor, f"import sys\nsys.stdout.buffer.write({strange!r})")
    assert outcome.stdout == strange, outcome
    copy = "import sys\nsys.stdout.buffer.write(sys.stdin.buffer.read())"
    assert run(executor, copy, stdin=(strange,)).stdout == strange
    stdio = StdioChecks([StdioCase(b"", b"a\n")])
    rejected(executor, "import sys\nsys.stdout.buffer.write(b'\\xef\\xbb\\xbfa\\n')", stdio)
    rejected(executor, "import sys\nsys.stdout.buffer.write(b'a\\x00\\n')", stdio)
    rejected(executor, "print('\\x1b[0ma')", stdio)
    assert grade(
        executor, "import sys\nsys.stdout.buffer.write(b'a\\r\\n')", stdio
    ).passed  # a line's end is white space


@threat(22, "fork bomb")
def _fork_bomb(executor: Executor, box: Path) -> None:
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    jobs = [Job("python", {"main.py": bomb.encode()}, limits=Limits(cpu=1, wall=2, processes=16))]
    jobs += [Job("python", {"main.py": b"print(sum(range(1000)))"}, limits=Limits(cpu=10, wall=30))] * 6
    (first,), *others = executor.run_all(jobs)
    assert first.status in ("wall", "cpu", "signaled", "oom"), first
    assert all(outcomes[0].ok for outcomes in others), others
    works(executor)


@threat(23, "daemonised grandchild")
def _daemon(executor: Executor, box: Path) -> None:
    source = """
import os, time
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        for fd in (0, 1, 2): os.close(fd)
        while True: time.sleep(0.1)
    os._exit(0)
print('parent is done')
"""
    outcome = run(executor, source)
    assert outcome.ok, outcome  # within its wall limit, although nobody closes what is left
    counting = """
import os
try: print(sum(p.isdigit() for p in os.listdir('/proc')))
except OSError: print(0)
"""
    seen = run(executor, counting)
    assert int(seen.stdout) <= 4, seen


@threat(24, "grandchild that holds stdout open")
def _holding(executor: Executor, box: Path) -> None:
    outcome = run(executor, "import os, time\nprint('hi', flush=True)\nif os.fork() == 0: time.sleep(60)\n")
    assert outcome.ok, outcome  # within its wall limit
    assert outcome.stdout == b"hi\n"


@threat(25, "killing the parent and everyone")
def _killing(executor: Executor, box: Path) -> None:
    for target in ("os.getppid()", "-1", "1", "0"):
        outcome = run(executor, f"import os, signal\nos.kill({target}, signal.SIGKILL)\nprint('alive')")
        assert outcome.status in ("exited", "signaled"), (target, outcome)
    works(executor)


@threat(26, "killing itself")
def _suicide(executor: Executor, box: Path) -> None:
    outcome = run(
        executor, "import os, signal\nassert os.getpid() > 1\nos.kill(os.getpid(), signal.SIGKILL)\nprint('alive')"
    )
    assert outcome.status == "signaled", outcome
    assert outcome.signal == signal.SIGKILL
    outcome = run(executor, "import os\nos.abort()")
    assert (outcome.status, outcome.signal) == ("signaled", signal.SIGABRT), outcome


@threat(27, "allocation bomb")
def _allocation(executor: Executor, box: Path) -> None:
    limits = Limits(cpu=10, wall=20, memory=128 * MIB)
    bomb = "blocks = []\nwhile True: blocks.append(bytearray(8 << 20))\n"
    outcome = run(executor, bomb, limits=limits)
    assert outcome.status == "oom" or (not outcome.ok and b"MemoryError" in outcome.stderr), outcome
    if executor.capabilities().memory == "cgroup":
        assert outcome.status == "oom", outcome
        many = "import os\nfor _ in range(8):\n    if os.fork() == 0: break\n" + bomb
        assert run(executor, many, limits=limits).status == "oom"
    works(executor)


@threat(28, "filling the disk")
def _filling(executor: Executor, box: Path) -> None:
    source = "f = open('big', 'wb')\nwhile True: f.write(b'x' * 65536); f.flush()\n"
    outcome = run(executor, source)
    assert outcome.status in ("exited", "signaled", "oom") and not outcome.ok, outcome
    works(executor)


@threat(29, "very many files")
def _many_files(executor: Executor, box: Path) -> None:
    source = "import os\nfor i in range(100000): open(f'f{i}', 'w').close()\n"
    outcome = run(executor, source, limits=Limits(cpu=20, wall=30, disk=8 * MIB))
    assert outcome.status in ("exited", "cpu", "wall"), outcome
    deep = "import os\nfor i in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    assert run(executor, deep, limits=Limits(cpu=20, wall=30, disk=8 * MIB)).status in ("exited", "oom")
    works(executor)


@threat(30, "sparse files and zip bombs")
def _sparse(executor: Executor, box: Path) -> None:
    sparse = "f = open('sparse', 'wb')\nf.truncate(1 << 40)\nf.seek(1 << 39)\nf.write(b'x')\n"
    outcome = run(executor, sparse, fetch=("sparse",))
    assert sum(map(len, outcome.files.values())) == 0, outcome
    small = "f = open('sparse', 'wb')\nf.truncate(4 << 20)\n"
    assert len(run(executor, small, fetch=("sparse",)).files.get("sparse", b"")) in (0, 4 << 20)
    bomb = "import zlib\nd = zlib.compress(b'0' * (32 << 20), 9)\nopen('out', 'wb').write(zlib.decompress(d))\n"
    assert not run(executor, bomb).ok
    works(executor)


@threat(31, "links and devices as results")
def _links(executor: Executor, box: Path) -> None:
    source = """
import os
os.symlink('/etc/passwd', 'link')
os.mkfifo('fifo')
os.symlink('/', 'root')
os.mkdir('folder')
open('plain', 'w').write('yes')
"""
    names = ("link", "fifo", "root/etc/passwd", "folder", "plain", "absent")
    outcome = run(executor, source, fetch=names)
    assert outcome.ok, outcome
    assert set(outcome.files) <= {"plain"}, outcome.files


@threat(32, "names that leave the folder")
def _names(executor: Executor, box: Path) -> None:
    from flywheel.errors import UserError

    for name in ("../evil", "/etc/evil", "a/../../evil", "..", "", "a\0b"):
        try:
            Job("python", {"main.py": b"", name: b"x"})
        except UserError:
            continue
        raise AssertionError(name)


@threat(33, "writing outside the work folder")
def _outside(executor: Executor, box: Path) -> None:
    source = f"""
import os, site, sys
places = ['/usr/lib/evil', '/etc/evil', '/evil', '/bin/evil', {str(box / "marker")!r}, {str(box / "new")!r}, '/dev/evil', '/run/evil',
          os.path.dirname(os.__file__) + '/evil.py', '/root/.bashrc', '/var/evil', '/sys/evil', '/proc/sys/kernel/hostname']
done = []
for place in places:
    try:
        with open(place, 'w') as f: f.write('evil')
        done.append(place)
    except OSError: pass
print(done)
"""
    outcome = run(executor, source)
    assert outcome.ok, outcome
    assert (box / "marker").read_text() == "untouched"
    assert not (box / "new").exists()
    for place in ("/usr/lib/evil", "/etc/evil", "/evil", "/var/evil", "/run/evil", "/dev/evil"):
        assert not Path(place).exists(), place
    cache = (
        "import os\np = os.path.expanduser('~/.cache'); os.makedirs(p, exist_ok=True); open(p + '/x', 'w').write('1')"
    )
    run(executor, cache)
    left = run(
        executor,
        "import os\nprint(os.path.exists(os.path.expanduser('~/.cache/x')), os.path.exists('/tmp/left'))\nopen('/tmp/left', 'w') if os.access('/tmp', os.W_OK) else 0",
    )
    assert left.stdout == b"False False\n", left


@threat(34, "network")
def _network(executor: Executor, box: Path) -> None:
    source = """
import socket
reached = []
for family, address in ((socket.AF_INET, ('1.1.1.1', 53)), (socket.AF_INET, ('8.8.8.8', 443)), (socket.AF_UNIX, '/run/dbus/system_bus_socket'),
                        (socket.AF_UNIX, LISTENING)):
    try:
        s = socket.socket(family)
        s.settimeout(1)
        s.connect(address)
        reached.append(address)
    except OSError: pass
try:
    socket.setdefaulttimeout(1)
    reached.append(socket.gethostbyname('example.com'))
except OSError: pass
for family in (16, 17, 40):
    try: socket.socket(family, socket.SOCK_RAW); reached.append(family)
    except OSError: pass
print(reached)
"""
    import socket

    name = f"\0flywheel-threat-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        outcome = run(executor, source.replace("LISTENING", repr(name)))
    allowed = (b"[]\n", b"[16]\n") if executor.capabilities().executor != "local" else (b"[]\n",)
    assert outcome.stdout in allowed, outcome


@threat(35, "tracing and other processes' memory")
def _tracing(executor: Executor, box: Path) -> None:
    source = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
done = []
if libc.ptrace(16, os.getppid(), None, None) == 0: done.append('ptrace')
for pid in (1, os.getppid()):
    try:
        with open(f'/proc/{pid}/mem', 'rb') as f:
            f.seek(int(open(f'/proc/{pid}/maps').read().split('-')[0], 16))
            f.read(1)
        done.append(f'mem {pid}')
    except OSError: pass
print(done if os.getppid() else [])
"""
    outcome = run(executor, source)
    assert outcome.stdout == b"[]\n", outcome


@threat(36, "namespaces io_uring keyrings and bpf")
def _kernel(executor: Executor, box: Path) -> None:
    source = """
import ctypes, os, platform
libc = ctypes.CDLL(None, use_errno=True)
done = []
for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000 | 0x10000000):
    if libc.unshare(flag) == 0: done.append(hex(flag))
x86 = platform.machine() == 'x86_64'
calls = {'io_uring_setup': 425, 'bpf': 321 if x86 else 280, 'add_key': 248 if x86 else 217, 'keyctl': 250 if x86 else 219,
         'perf_event_open': 298 if x86 else 241, 'userfaultfd': 323 if x86 else 282, 'mount': 165 if x86 else 40}
buffer = ctypes.create_string_buffer(256)
for name, number in calls.items():
    if libc.syscall(number, 0, buffer, buffer, 64, 0) >= 0: done.append(name)
r = libc.syscall(56 if x86 else 220, 0x10000000 | 17, 0, 0, 0, 0)
if r == 0: os._exit(0)
if r > 0: done.append('clone newuser')
print(done)
"""
    outcome = run(executor, source)
    assert outcome.stdout == b"[]\n", outcome


@threat(37, "shared memory between runs")
def _shared(executor: Executor, box: Path) -> None:
    write = "import os\ntry: open('/dev/shm/left', 'w').write('x')\nexcept OSError: pass\n"
    read = "import os\nprint(os.listdir('/dev/shm') if os.path.isdir('/dev/shm') and os.access('/dev/shm', os.R_OK) else [])"
    writer, reader = Job("python", {"main.py": write.encode()}), Job("python", {"main.py": read.encode()})
    for _ in range(2):
        executor.run_all([writer] * 2)
        for outcomes in executor.run_all([reader] * 2):
            assert outcomes[0].stdout == b"[]\n", outcomes


@threat(38, "deep recursion")
def _recursion(executor: Executor, box: Path) -> None:
    crash = "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, n): return getattr(self, n + 'x')\nA().b\n"
    outcome = run(executor, crash, limits=Limits(cpu=10, wall=20, memory=512 * MIB))
    assert outcome.status in ("signaled", "oom") or (outcome.status == "exited" and outcome.exit_code), outcome
    c = "int f(int n) { volatile char b[4096]; b[0] = n; return f(n + 1) + b[0]; }\nint main() { return f(0); }\n"
    outcome = run(executor, c, "c", limits=Limits(cpu=10, wall=20, memory=1024 * MIB))
    assert (outcome.status, outcome.signal) == ("signaled", signal.SIGSEGV), outcome


@threat(39, "huge and deep answers")
def _huge(executor: Executor, box: Path) -> None:
    checks = CallChecks("f", [CallCase((), 1)])
    deep = "def f():\n    x = []\n    for _ in range(100000): x = [x]\n    return x\n"
    rejected(executor, deep, checks)
    rejected(executor, "def f():\n    return list(range(10**6))\n", checks)
    rejected(executor, "def f():\n    x = []\n    x.append(x)\n    return x\n", checks)
    rejected(
        executor, "class E:\n    def __reduce__(self): return (print, ('unpickled',))\ndef f(): return E()\n", checks
    )
    raw = "import os\ndef f():\n    for fd in range(3, 32):\n        try: os.write(fd, b'[' * 500000 + b'\\n')\n        except OSError: pass\n    os._exit(0)\n"
    rejected(executor, raw, checks)
    rejected(executor, "def f():\n    return 10 ** (10 ** 6)\n", checks)


@threat(40, "locale time zone hash seed and clock")
def _pinned(executor: Executor, box: Path) -> None:
    source = "import os, time, locale\nprint(hash('a'), list({'a', 'b', 'c', 'd'}), time.tzname, locale.getpreferredencoding())"
    job = Job("python", {"main.py": source.encode()})
    first, second = executor.run_all([job, job])
    assert first[0].ok, first
    assert first[0].stdout == second[0].stdout
    stdio = StdioChecks([StdioCase(b"", b"".join(b"%s\n" % x for x in (b"a", b"b", b"c")))])
    flaky = "import os\nfor x in (['a', 'b', 'c'] if hash('x') == SEED else 'z'): print(x)\n"
    seeded = int(run(executor, "print(hash('x'))").stdout)
    if executor.capabilities().hash_seed:
        assert rejected(executor, flaky.replace("SEED", str(seeded)), stdio).flaky
    if executor.capabilities().clock:
        year = "import datetime, time\nassert datetime.date.today().year == time.gmtime().tm_year\nprint(datetime.datetime.now().year)\n"
        assert rejected(executor, year, StdioChecks([StdioCase(b"", b"2023\n")])).flaky


@threat(41, "compiler bombs and includes")
def _compilers(executor: Executor, box: Path) -> None:
    outcome = run(executor, '#include "/etc/shadow"\nint main() { return 0; }\n', "c")
    assert outcome.status == "compile_error", outcome
    assert b"root:" not in outcome.stdout + outcome.stderr
    outcome = run(executor, f'#include "{Path(__file__).resolve()}"\nint main() {{ return 0; }}\n', "c")
    assert outcome.status == "compile_error", outcome
    outcome = run(executor, "#include __FILE__\nint main() { return 0; }\n", "c")
    assert outcome.status == "compile_error", outcome
    works(executor)


@threat(42, "poisoning later runs")
def _poisoning(executor: Executor, box: Path) -> None:
    evil = """
import builtins, sys, json, os, random
builtins.print = builtins.sum = lambda *_: None
json.dumps = None
sys.modules['math'] = None
os.environ['EVIL'] = '1'
sys.path.insert(0, '/tmp')
import ctypes
random.seed(1)
"""
    executor.run_all([Job("python", {"main.py": evil.encode()})] * 4)
    check = "import json, math, os, sys\nprint(json.dumps([math.sqrt(4), 'EVIL' in os.environ, sum([1, 2])]), '/tmp' in sys.path)"
    for outcomes in executor.run_all([Job("python", {"main.py": check.encode()})] * 4):
        assert outcomes[0].stdout == b"[2.0, false, 3] False\n", outcomes
    draws = executor.run_all([Job("python", {"main.py": b"import random\nprint(random.random())"})] * 4)
    assert len({outcomes[0].stdout for outcomes in draws}) == 4


@threat(43, "changing the judge's inputs")
def _inputs(executor: Executor, box: Path) -> None:
    source = "def f(values, want):\n    values.clear()\n    want.clear()\n    return values\n"
    arguments: Sequence[Any] = ([1, 2], [3])
    checks = CallChecks("f", [CallCase((arguments[0], arguments[1]), [1, 2])])
    rejected(executor, source, checks)
    assert arguments == ([1, 2], [3])


@threat(44, "only the first line right")
def _first_line(executor: Executor, box: Path) -> None:
    checks = StdioChecks([StdioCase(b"", b"1\n2\n3\n")])
    rejected(executor, "print(1)", checks)
    rejected(executor, "print(1)\nprint(2)\nprint(3)\nprint(4)", checks)
    rejected(executor, "print(1, 2, 3)", checks)
    calls = CallChecks("f", [CallCase((), [1, 2, 3])])
    rejected(executor, "def f(): return [1]", calls)
    rejected(executor, "def f(): return [1, 2, 3, 4]", calls)
