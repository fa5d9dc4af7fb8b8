"""The local executor as its users have it: from an event loop, from plain code, for every kind of language."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyseccomp
import pytest

from flywheel.errors import UserError
from flywheel.sandbox import cgroups
from flywheel.sandbox.compiled import CompileCache
from flywheel.sandbox.grading import Program, StdioCase, StdioChecks, grade, grade_many
from flywheel.sandbox.job import MIB, Job, Limits, Outcome
from flywheel.sandbox.local import LocalExecutor

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor(slots=2) as executor:
        yield executor


def python(source: str, **job: object) -> Job:
    return Job("python", {"main.py": source.encode()}, **job)  # type: ignore[arg-type]


def test_equal_jobs_have_equal_keys() -> None:
    job = python("print(1)", stdin=(b"a", b"b"))
    assert job.key == python("print(1)", stdin=(b"a", b"b")).key
    others = [
        python("print(2)", stdin=(b"a", b"b")),
        python("print(1)", stdin=(b"ab",)),
        python("print(1)", stdin=(b"a", b"b"), hash_seed=1),
        python("print(1)", stdin=(b"a", b"b"), clock=1),
        python("print(1)", stdin=(b"a", b"b"), argv=("x",)),
        python("print(1)", stdin=(b"a", b"b"), limits=Limits(cpu=1)),
        Job("perl", {"main.py": b"print(1)"}, stdin=(b"a", b"b")),
    ]
    assert len({job.key, *(other.key for other in others)}) == 1 + len(others)


def test_a_case_each_in_a_fresh_sandbox(local: LocalExecutor) -> None:
    source = "import os, sys\nprint(sys.argv[1:], input(), os.path.exists('left'))\nopen('left', 'w')\n"
    outcomes = asyncio.run(local.run(python(source, stdin=(b"1\n", b"2\n", b"3\n"), argv=("x", "ü"))))
    assert [o.case for o in outcomes] == [0, 1, 2]
    assert [o.stdout.decode() for o in outcomes] == [f"['x', 'ü'] {n} False\n" for n in (1, 2, 3)]


def test_outcomes_come_as_they_end(local: LocalExecutor) -> None:
    async def positions() -> list[int]:
        jobs = [python(f"import time\ntime.sleep({s})") for s in (3.0, 0.0, 0.5)]
        return [outcome.job async for outcome in local.submit(jobs)]

    assert asyncio.run(positions()) == [1, 2, 0]


def test_the_event_loop_goes_on_while_programs_run(local: LocalExecutor) -> None:
    async def both() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await asyncio.gather(*(local.run(python("import time\ntime.sleep(0.5)")) for _ in range(2)))
        ticking.cancel()
        return ticks

    assert asyncio.run(both()) > 10


def test_who_stops_listening_is_not_worked_for(local: LocalExecutor) -> None:
    async def first() -> None:
        stream = local.submit([python("import time\ntime.sleep(0.2)")] * 200)
        async for _ in stream:
            break
        await stream.aclose()  # type: ignore[attr-defined]

    began = time.monotonic()
    asyncio.run(first())
    ((after,),) = local.run_all([python("print('next')")])
    assert after.stdout == b"next\n"
    assert time.monotonic() - began < 10


def test_threads_of_plain_code_share_an_executor(local: LocalExecutor) -> None:
    found: list[bytes] = []

    def use(number: int) -> None:
        for outcomes in local.run_all([python(f"print({number})")] * 5):
            found.append(outcomes[0].stdout)

    threads = [threading.Thread(target=use, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(b"%d\n" % n for n in range(6) for _ in range(5))


def test_grading_works_from_a_running_loop(local: LocalExecutor) -> None:
    async def several() -> list[bool | None]:
        checks = StdioChecks([StdioCase(b"%d\n" % n, b"%d\n" % (n * n)) for n in range(12)])
        right, wrong = Program("print(int(input()) ** 2)"), Program("print(int(input()) * 3)")
        grades = await asyncio.gather(*(grade(local, p, checks) for p in (right, wrong, right)))
        assert grades[1].share == pytest.approx(1 / 12)
        return [g.passed for g in grades]

    assert asyncio.run(several()) == [True, False, True]


def test_a_program_that_hangs_costs_one_limit_and_not_one_per_case(local: LocalExecutor) -> None:
    checks = StdioChecks([StdioCase(b"", b"x")] * 40)
    began = time.monotonic()
    from flywheel.sandbox.grading import Policy

    (found,) = grade_many(local, [(Program("while True: pass"), checks)], Policy(limits=Limits(cpu=1, wall=2)))
    assert found.passed is False
    assert time.monotonic() - began < 8


def test_unknown_and_missing_languages_are_said(local: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no language"):
        local.run_all([Job("klingon", {"main.kl": b""})])
    from flywheel.sandbox import languages

    monkeypatch.setattr(languages, "SANDBOX_PATH", "/nowhere")
    with pytest.raises(UserError, match="apt-get install"):
        local.run_all([Job("ruby", {"main.rb": b""})])


def test_closing_twice_and_using_afterwards() -> None:
    executor = LocalExecutor(slots=1)
    executor.close()
    executor.close()
    assert executor.health() == "it was closed"
    with pytest.raises(RuntimeError, match="closed"):
        executor.run_all([python("print(1)")])


def test_a_program_is_compiled_once(local: LocalExecutor) -> None:
    source = b'#include <stdio.h>\nint main() { int n; scanf("%d", &n); printf("%d\\n", n + 1); return 0; }\n'
    jobs = [Job("c", {"main.c": source}, stdin=(b"1", b"2", b"3"))] * 3
    first = time.monotonic()
    local.run_all(jobs[:1])
    second = time.monotonic()
    assert [[o.stdout for o in outcomes] for outcomes in local.run_all(jobs)] == [[b"2\n", b"3\n", b"4\n"]] * 3
    assert time.monotonic() - second < max(2.0, 3 * (second - first))
    ((broken,),) = local.run_all([Job("c", {"main.c": b"int main() { return x; }"})])
    assert broken.status == "compile_error"
    assert b"undeclared" in broken.stderr


def test_the_cache_of_what_was_compiled_is_bounded_and_shared() -> None:
    cache = CompileCache(most=3 * MIB)
    made: list[str] = []

    def make(name: str) -> Outcome:
        made.append(name)
        time.sleep(0.05)
        return Outcome("exited", 0, files={"main": bytes(MIB)})

    threads = [
        threading.Thread(target=cache.get, args=(("c", ("cc",), ((n, b""),)), lambda n=n: make(n))) for n in "aabbcc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == ["a", "b", "c"]
    cache.get(("c", ("cc",), (("d", b""),)), lambda: make("d"))
    for name in "abc":
        cache.get(("c", ("cc",), ((name, b""),)), lambda name=name: make(name))  # type: ignore[misc]
    assert len(made) > 4

    def fail() -> Outcome:
        raise OSError("no")

    key = ("c", ("cc",), (("e", b""),))
    with pytest.raises(OSError, match="no"):
        cache.get(key, fail)
    assert cache.get(key, lambda: make("e")).ok


def test_cgroups_of_version_2(tmp_path: Path) -> None:
    """The files that version 2 has are written and read; a real hierarchy is not at hand everywhere."""
    parents = cgroups.Parents(2, tmp_path, tmp_path)
    group = parents.make("one")
    assert group.folders == [tmp_path / "one"]
    (tmp_path / "one" / "memory.swap.max").write_text("max")
    (tmp_path / "one" / "memory.current").write_text("4096\n")
    (tmp_path / "one" / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n")
    group.limit_memory(64 * MIB)
    group.limit_processes(5)
    assert (tmp_path / "one" / "memory.max").read_text() == str(64 * MIB)
    assert (tmp_path / "one" / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "one" / "pids.max").read_text() == "5"
    assert (group.used_memory(), group.killed()) == (4096, 3)


def test_groups_whose_executor_is_gone_are_swept(tmp_path: Path) -> None:
    parents = cgroups.Parents(2, tmp_path, tmp_path)
    parents.make(f"{cgroups.PREFIX}99999999-0-0")
    mine = parents.make(f"{cgroups.PREFIX}1-0-0")
    cgroups.sweep(parents)
    assert [p.name for p in tmp_path.iterdir()] == [mine.memory.name]


def test_without_cgroups_memory_is_limited_per_process_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: None)
    with LocalExecutor(slots=1) as executor:
        about = executor.capabilities()
        assert about.memory == "rlimit"
        assert any("cgroup" in remark for remark in about.remarks)
        bomb = python("x = []\nwhile True: x.append(bytearray(1 << 20))", limits=Limits(memory=256 * MIB))
        ((outcome,),) = executor.run_all([bomb])
        assert not outcome.ok
        assert b"MemoryError" in outcome.stderr or outcome.signal
        forks = """
import os, time
n = 0
try:
    while True:
        if os.fork() == 0: time.sleep(9)
        n += 1
except OSError: print(n)
"""
        ((outcome,),) = executor.run_all([python(forks, limits=Limits(processes=8, wall=8))])
        assert int(outcome.stdout) <= 8, outcome


def test_programs_that_had_to_wait_for_a_core_are_undecided() -> None:
    """Far too many at once: no program is called too slow for what the others took from it."""
    busy = "import time\nwhile time.process_time() < 0.4: pass\nprint(1)"
    many = 12 * len(os.sched_getaffinity(0))
    with LocalExecutor(slots=many) as executor:
        outcomes = executor.run_all([python(busy, limits=Limits(cpu=1, wall=1.2))] * many)
        assert {o.status for (o,) in outcomes} <= {"exited", "infra_error"}
        assert any("the machine is too busy" in o.detail for (o,) in outcomes)
        # Who keeps himself from his cores, or sleeps, is judged.
        bomb = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
        ((crowd,),) = executor.run_all([python(bomb, limits=Limits(cpu=1, wall=1.5, processes=24))])
        ((sleeper,),) = executor.run_all([python("import time; time.sleep(9)", limits=Limits(wall=0.5))])
    assert crowd.status in ("wall", "cpu")
    assert sleeper.status == "wall"


def test_a_program_is_not_too_slow_because_the_harness_was_away() -> None:
    code = (
        "from flywheel.sandbox.job import Job, Limits\nfrom flywheel.sandbox.local import LocalExecutor\n"
        "with LocalExecutor(slots=1) as executor:\n"
        "    executor.run_all([Job('python', {'main.py': b'print(1)'})])\n    print('up', flush=True)\n"
        "    source = b'import time; time.sleep(0.7); print(2)'\n"
        "    ((o,),) = executor.run_all([Job('python', {'main.py': source}, limits=Limits(wall=1.5))])\n"
        "    print(o.status, o.stdout.decode().strip())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    time.sleep(0.3)  # it runs by now, or does not run yet: either way it has its time
    process.send_signal(signal.SIGSTOP)
    time.sleep(2.5)
    process.send_signal(signal.SIGCONT)
    assert process.communicate()[0] == "exited 2\n"


def test_threads_fit_into_the_address_space_where_there_is_no_cgroup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: None)
    threads = """
#include <thread>
#include <vector>
#include <iostream>
int main() {
    std::vector<std::thread> all;
    for (int i = 0; i < 8; i++) all.emplace_back([]{});
    for (auto& t : all) t.join();
    std::cout << "fine";
}
"""
    with LocalExecutor(slots=1) as executor:
        ((outcome,),) = executor.run_all([Job("cpp", {"main.cpp": threads.encode()})])
    assert outcome.stdout == b"fine", outcome


_AS_A_USER = """
import os
from flywheel.sandbox.job import Job
from flywheel.sandbox.local import LocalExecutor
with LocalExecutor(slots=1) as executor:
    assert executor.capabilities().level == "namespaces", executor.capabilities()
    source = b"import os; print(input(), os.getuid(), len(os.listdir('/proc')) > 5, os.access('/', os.W_OK))"
    ((outcome,),) = executor.run_all([Job("python", {"main.py": source}, stdin=(b"hi",))])
    assert outcome.stdout == b"hi 1000 True False\\n", outcome
    ((outcome,),) = executor.run_all([Job("bash", {"main.sh": b"id -un"})])
    assert outcome.stdout == b"user\\n", outcome
print("fine", os.getuid())
"""


def test_an_ordinary_user_has_namespaces_too() -> None:
    """Without root's rights: bubblewrap in a user namespace, and the same promises."""
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0:
        pytest.skip("the other tests of this file have just shown it")
    if subprocess.run([python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], check=False).returncode:
        pytest.skip("no Python 3.11 that other users than root can read")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        shutil.copytree(ROOT / "flywheel", folder / "flywheel", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(str(pyseccomp.__file__), folder)
        done = subprocess.run(
            [python, "-c", _AS_A_USER],
            env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"]},
            user=54321,
            group=54321,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        shutil.rmtree(folder)
    assert done.stdout == "fine 54321\n", done.stderr
