"""Whether starting and ending an engine again and again leaves anything behind.

    python benchmarks/engine_cycles.py [--cycles 100] [--use vllm] [--kill-every N] [--json]

One agent starts a sampling worker as a stage does, lets it load the engine, sample a few prompts and close, and
does so ``--cycles`` times. Before, after, and every 10 cycles it counts what could have stayed: processes, open
files of the agent and of the forkserver, shared memory, temporary files and device memory. With ``--kill-every
N`` every Nth worker dies of SIGKILL, by turns while it loads and while it samples. Exit code 1 if anything grew.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from vllm_efficiency import MODEL

from flywheel.agent import PRELOAD
from flywheel.devices import cpu_threads, generation_env, replicas
from flywheel.engines import EngineSpec, modules
from flywheel.errors import FlywheelError, StageFailed
from flywheel.files import write_rows
from flywheel.session import Rank
from flywheel.stages.chunks import Job
from flywheel.stages.schemas import PROBLEMS
from flywheel.tasks import load_task
from flywheel.workers import Worker, run_all, spawn, start_forkserver

EVERY = 10
"""Cycles from one count to the next."""
SETTLE = 10.0
"""Seconds after a cycle in which what is ending may end."""
PROMPTS = 4
TASK = {"use": "countdown", "args": {"style": "terse"}, "base": "."}
MARK = "FLYWHEEL_ENGINE_CYCLES"
"""A variable that all processes of this benchmark inherit, also those whose parent is gone."""


# -- what is counted ------------------------------------------------------------------------------------


class Machine:
    """What the agent, its processes and its engines hold at a moment."""

    def __init__(self, temporary: Path) -> None:
        self._temporary = temporary
        self._mark = os.environ[MARK]
        self._gpus = shutil.which("nvidia-smi") is not None

    def count(self) -> dict[str, int]:
        """How many, or how much, of each kind."""
        gc.collect()  # a worker that nobody refers to closes its pipes
        counts = {
            "processes": len(self.processes()),
            "agent's files": _open_files(os.getpid()),
            "forkserver's files": _open_files(forkserver._forkserver._forkserver_pid),
            "/dev/shm": len(shared_memory()),
            "temporary files": len(self.files()),
        }
        return {**counts, "device MiB": _device_memory()} if self._gpus else counts

    def settled(self, before: dict[str, int] | None) -> dict[str, int]:
        """The counts, once they are as ``before`` or the time for that is over."""
        limit = time.monotonic() + SETTLE
        while before is not None and grown(before, found := self.count()) and time.monotonic() < limit:
            time.sleep(0.1)
        return found if before is not None else self.count()

    def processes(self) -> dict[int, str]:
        """All of this benchmark, zombies and orphans included, by their id."""
        found = psutil.Process().children(recursive=True)
        found += [process for process in psutil.process_iter() if _marked(process, self._mark)]
        return {process.pid: _name(process) for process in found if process.pid != os.getpid()}

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self._temporary)) for path in self._temporary.rglob("*"))

    def inventory(self) -> dict[str, Counter[str]]:
        """What the counts count, as far as it has names."""
        return {
            "processes": Counter(f"{pid} {name}" for pid, name in self.processes().items()),
            "/dev/shm": Counter(shared_memory()),
            "temporary files": Counter(self.files()),
        }


def grown(before: dict[str, int], after: dict[str, int]) -> list[str]:
    return [name for name in before if after[name] > before[name]]


def shared_memory() -> list[str]:
    return os.listdir("/dev/shm")  # noqa: PTH208


def _open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(MARK) == mark
    except (psutil.Error, OSError):  # ended meanwhile, or another user's
        return False


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.name()} ({process.status()})"
    except psutil.Error:
        return "ended"


def _device_memory() -> int:
    """MiB in use on all GPUs, as NVML counts them, without a CUDA context of our own."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


# -- a cycle --------------------------------------------------------------------------------------------


class Engines:
    """Sampling workers as a stage starts them, one after another."""

    def __init__(self, use: str, folder: Path) -> None:
        self._folder = folder
        [*_, group] = replicas(Rank(), 1, 1)
        self._env = generation_env(group)
        self._spec = EngineSpec(use, str(folder / "model"), batch_size=64, threads=cpu_threads(Rank(), 1))
        payload = {"folder": self._spec.model, "config": MODEL}
        run_all([self._spawn("vllm_efficiency:make_checkpoint", payload)])
        problems = load_task(TASK["use"], TASK["args"]).problems("train")
        rows = [problem.to_row() for problem, _ in zip(problems, range(PROMPTS), strict=False)]
        write_rows(folder / "problems.parquet", rows, PROBLEMS)

    def cycle(self, number: int, kill_in: str | None) -> None:
        """Start, sample, close; or, with ``kill_in``, die in that phase ("load" or "sample").

        Raises:
            SystemExit: the worker did not do what this cycle is about.
        """
        samples = self._folder / f"samples-{number}"
        samples.mkdir()
        job = Job("part", self._folder / "problems.parquet", samples, samples, PROMPTS, PROMPTS, "sampled", "c")
        sampling = {"n": 4, "max_tokens": 8, "stop": []}
        payload = {
            "engine": self._spec,
            "task": TASK,
            "jobs": [{"job": job.to_payload(), "sampling": sampling}],
            "session": "cycles",
            "policy": "random",
            "round": number,
            "seed": 0,
        }
        worker = self._spawn("flywheel.stages.sampler:work", payload)
        killer = _Killer(worker, kill_in, self._spec.use == "vllm")
        worker.on_message = killer.on_message
        try:
            [result] = run_all([worker], tick=killer.tick, poll=0.05)
            if kill_in is not None or result["completions"] != 4 * PROMPTS:
                raise SystemExit(f"cycle {number} should not have ended like this: {result}")
        except StageFailed:
            if kill_in is None:
                raise
        shutil.rmtree(samples)

    def _spawn(self, target: str, payload: dict[str, Any]) -> Worker:
        return spawn(target, payload, name="cycle", log=self._folder / "log", env=self._env)


class _Killer:
    """Kills a worker while it loads its engine ("load"), or as soon as that is loaded ("sample")."""

    def __init__(self, worker: Worker, phase: str | None, has_children: bool) -> None:
        self._worker, self._phase, self._has_children = worker, phase, has_children

    def on_message(self, kind: str, values: dict[str, Any]) -> None:
        if self._phase == "sample" and kind == "span" and values["phase"] == "load":
            self._kill()

    def tick(self) -> None:
        if self._phase != "load":
            return
        with suppress(psutil.NoSuchProcess):
            # Not before it has something to leave behind: vllm's own processes.
            if not self._has_children or psutil.Process(self._worker.process.pid).children():
                self._kill()

    def _kill(self) -> None:
        self._worker.process.kill()


def run_cycles(args: argparse.Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """All cycles; ``rows`` (cycle and counts), and what ``grew``: names as far as there are any."""
    temporary = scratch / "tmp"
    temporary.mkdir()
    os.environ |= {"TMPDIR": str(temporary), MARK: str(os.getpid())}
    start_forkserver(PRELOAD, also=modules([args.use]))
    tempfile.tempdir = str(temporary)  # not earlier: the forkserver's socket stays where it is until this process ends
    engines, machine = Engines(args.use, scratch), Machine(temporary)
    resource_tracker.ensure_running()
    before, had = machine.settled(None), machine.inventory()
    rows, started = [{"cycle": 0, "seconds": 0.0, **before}], time.monotonic()
    for number in range(1, args.cycles + 1):
        kill = args.kill_every and number % args.kill_every == 0
        engines.cycle(number, ("sample", "load")[number // args.kill_every % 2] if kill else None)
        if number % EVERY == 0 or number == args.cycles:
            rows.append({"cycle": number, "seconds": time.monotonic() - started, **machine.settled(before)})
            console.print(f"{number} cycles: {grown(before, rows[-1]) or 'nothing grew'}")
    grew = grown(before, rows[-1])
    has = machine.inventory()
    return {"rows": rows, "grew": {name: sorted((has[name] - had[name]) if name in has else []) for name in grew}}


# -- the command ----------------------------------------------------------------------------------------


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="held after so many cycles", title_justify="left", box=box.SIMPLE)
    for column in result["rows"][0]:
        table.add_column(column, justify="right")
    for row in result["rows"]:
        table.add_row(*(f"{value:.0f}" for value in row.values()))
    console.print(table)
    for name, what in result["grew"].items():
        console.print(f"grew: {name}" + "".join(f"\n  {entry}" for entry in what[:8]))
    console.print("something was left behind" if result["grew"] else "nothing was left behind")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100, help="(default: %(default)s)")
    parser.add_argument("--use", choices=("vllm", "transformers"), default="vllm", help="the engine")
    parser.add_argument("--kill-every", type=int, default=0, metavar="N", help="SIGKILL every Nth worker; 0: none")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    console = Console(highlight=False, width=max(110, Console().width), stderr=args.json)
    with tempfile.TemporaryDirectory(prefix="flywheel-cycles-") as scratch:
        try:
            result = run_cycles(args, Path(scratch), console)
        except FlywheelError as error:
            print(error, file=sys.stderr)
            return 1
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result, console)
    return 1 if result["grew"] else 0


if __name__ == "__main__":
    sys.exit(main())
