"""Workers: started quickly, heard, and gone without a trace, whoever dies first."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from flywheel.agent import PRELOAD
from flywheel.errors import DiskFull, StageFailed, TaskError
from flywheel.workers import Report, Worker, run_all, spawn, start_forkserver, stop_all, tail

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def forkserver() -> None:
    # The one that the whole test session shares: waiting for it here keeps its imports out of the timings.
    start_forkserver(PRELOAD)
    log = Path(os.devnull)
    run_all([spawn("test_workers:add", {"a": 0, "b": 0}, name="first", log=log)])


# -- what the workers of these tests do -----------------------------------------------------------------


def add(payload: dict[str, Any], report: Report) -> int:
    report("progress", done=1, total=1)
    print("adding")
    return payload["a"] + payload["b"]


def environment(payload: dict[str, Any], report: Report) -> list[str | None]:
    return [os.environ.get(name) for name in payload["names"]]


def start_one_too(payload: dict[str, Any], report: Report) -> float:
    started = time.perf_counter()
    child = multiprocessing.Process(target=os.getpid)
    child.start()
    child.join()
    return time.perf_counter() - started


def break_down(payload: dict[str, Any], report: Report) -> None:
    print("about to break")
    raise ZeroDivisionError("a bug of ours")


def complain(payload: dict[str, Any], report: Report) -> None:
    raise TaskError("the task is wrong", hint="mend it")


def fill_the_disk(payload: dict[str, Any], report: Report) -> None:
    with Path("/dev/full").open("wb") as file:
        file.write(b"x" * 100_000)


def sleep(payload: dict[str, Any], report: Report) -> None:
    report("ready", pid=os.getpid())
    time.sleep(60)


def sleep_through_sigterm(payload: dict[str, Any], report: Report) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sleep(payload, report)


def sleep_with_child(payload: dict[str, Any], report: Report) -> None:
    child = subprocess.Popen(["sleep", "60"])
    report("ready", pid=os.getpid(), child=child.pid)
    time.sleep(60)


def leave_a_child(payload: dict[str, Any], report: Report) -> int:
    return subprocess.Popen(["sleep", "60"]).pid


# -- helpers --------------------------------------------------------------------------------------------


class Ear:
    """Collects a worker's messages."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, values: dict[str, Any]) -> None:
        self.heard.append((kind, values))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [values for heard, values in self.heard if heard == kind]


def start(tmp_path: Path, function: str, ear: Ear | None = None, **payload: Any) -> Worker:
    log = tmp_path / f"{function}.log"
    return spawn(f"test_workers:{function}", payload, name=function, log=log, on_message=ear or Ear())


def until(happened: Any, limit: float = 10.0) -> None:
    begun = time.monotonic()
    while not happened():
        assert time.monotonic() - begun < limit, "it did not happen"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def ready(worker: Worker, ear: Ear) -> dict[str, Any]:
    def heard() -> bool:
        worker.read()
        return bool(ear.of("ready"))

    until(heard)
    return ear.of("ready")[0]


# -- the promises ---------------------------------------------------------------------------------------


def test_a_worker_returns_its_result_and_reports_on_the_way(tmp_path: Path) -> None:
    ear = Ear()
    workers = [start(tmp_path, "add", ear, a=1, b=i) for i in range(3)]
    assert run_all(workers) == [1, 2, 3]
    assert len(ear.of("progress")) == 3
    assert (tmp_path / "add.log").read_text().count("adding") == 3  # a worker's prints go to its log alone


def test_start_up_is_recorded_and_quick(tmp_path: Path) -> None:
    ear = Ear()
    for _ in range(7):
        run_all([start(tmp_path, "add", ear, a=1, b=1)])
    spans = [span for span in ear.of("span") if span["phase"] == "spawn"]
    assert len(spans) == 7
    # From a forkserver that has everything loaded it is far less; a busy machine may be in the way of some.
    assert min(span["end"] - span["start"] for span in spans) < 1.0


def test_the_environment_is_changed_for_the_worker_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = spawn(
        "test_workers:environment",
        {"names": ["FLYWHEEL_SET", "HOME"]},
        name="environment",
        log=tmp_path / "log",
        env={"FLYWHEEL_SET": "yes", "HOME": None},
    )
    assert run_all([worker]) == [["yes", None]]
    assert "FLYWHEEL_SET" not in os.environ


def test_what_a_worker_starts_imports_nothing_again(tmp_path: Path) -> None:
    assert run_all([start(tmp_path, "start_one_too")])[0] < 1


def test_a_deliberate_error_arrives_whole(tmp_path: Path) -> None:
    with pytest.raises(TaskError) as caught:
        run_all([start(tmp_path, "complain")])
    assert (caught.value.message, caught.value.hint) == ("the task is wrong", "mend it")


def test_an_unexpected_error_names_the_log_and_quotes_its_end(tmp_path: Path) -> None:
    with pytest.raises(StageFailed) as caught:
        run_all([start(tmp_path, "break_down")])
    assert "break_down exited with 1" in caught.value.message
    assert "about to break" in caught.value.message
    assert "ZeroDivisionError: a bug of ours" in caught.value.message
    assert str(tmp_path / "break_down.log") in (caught.value.hint or "")
    assert caught.value.exit_code == 3


def test_a_full_disk_is_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match="no space left"):
        run_all([start(tmp_path, "fill_the_disk")])


def test_a_killed_worker_is_noticed_and_the_others_are_stopped(tmp_path: Path) -> None:
    ears = [Ear(), Ear()]
    workers = [start(tmp_path, "sleep", ear) for ear in ears]
    pids = [ready(worker, ear)["pid"] for worker, ear in zip(workers, ears, strict=True)]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(StageFailed, match="sleep was killed by SIGKILL"):
        run_all(workers)
    assert not alive(pids[1])


def test_a_worker_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.workers._GRACE_SECONDS", 0.2)
    ear = Ear()
    worker = start(tmp_path, "sleep_through_sigterm", ear)
    pid = ready(worker, ear)["pid"]
    worker.stop()
    assert not alive(pid)


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_workers_own_child_does_not_outlive_it(tmp_path: Path, how: str) -> None:
    ear = Ear()
    worker = start(tmp_path, "sleep_with_child", ear)
    pids = ready(worker, ear)
    if how == "killed":
        os.kill(pids["pid"], signal.SIGKILL)
        with pytest.raises(StageFailed):
            run_all([worker])
    else:

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_all([worker], tick=interrupt)
    until(lambda: not alive(pids["pid"]) and not alive(pids["child"]))


def test_what_a_finished_worker_left_running_is_ended(tmp_path: Path) -> None:
    (child,) = run_all([start(tmp_path, "leave_a_child")])
    until(lambda: not alive(child))
    assert not alive(child)


def test_each_worker_leads_a_process_group(tmp_path: Path) -> None:
    ear = Ear()
    worker = start(tmp_path, "sleep", ear)
    pid = ready(worker, ear)["pid"]
    assert os.getpgid(pid) == pid != os.getpgrp()
    worker.stop()


def test_workers_that_nobody_waits_for_yet_can_be_ended_too(tmp_path: Path) -> None:
    ear = Ear()
    worker = start(tmp_path, "sleep_with_child", ear)
    pids = ready(worker, ear)
    started_just_now = start(tmp_path, "sleep")
    stop_all()
    until(lambda: not alive(pids["pid"]) and not alive(pids["child"]))
    assert worker.process.exitcode == started_just_now.process.exitcode == -signal.SIGKILL


AGENT = """
import sys
from contextlib import suppress
from pathlib import Path
from flywheel.workers import run_all, spawn, start_forkserver

if __name__ == "__main__":
    start_forkserver([])
    tell = lambda kind, values: kind == "ready" and print(values["pid"], values["child"], flush=True)
    log = Path(sys.argv[1])
    run_all([spawn("test_workers:sleep_with_child", {}, name="w", log=log, on_message=tell) for _ in range(2)])
"""


@pytest.mark.parametrize("victim", ["agent", "forkserver"])
def test_workers_die_with_the_agent_or_the_forkserver(tmp_path: Path, victim: str) -> None:
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    agent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "log")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert agent.stdout is not None
    pairs = [agent.stdout.readline().split() for _ in range(2)]
    workers, children = ([int(pair[i]) for pair in pairs] for i in (0, 1))
    helpers = [p.pid for p in psutil.Process(agent.pid).children()]  # the forkserver and the resource tracker
    server = psutil.Process(workers[0]).ppid()
    assert server in helpers
    os.kill(agent.pid if victim == "agent" else server, signal.SIGKILL)
    try:
        # Two workers: if one held the other's pipe open, neither would notice.
        until(lambda: not any(map(alive, [*workers, *children])))
    finally:
        agent.kill()
        agent.communicate()
    until(lambda: not any(map(alive, helpers)))


def test_the_end_of_a_log_is_indented_and_short(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert tail(log) == ""
    log.write_text("\n".join(map(str, range(100))))
    assert tail(log, lines=2) == "    98\n    99"
