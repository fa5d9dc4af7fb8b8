"""Starting `flywheel run` in order to kill it: whole process trees, at chosen moments."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flywheel.ledger import Ledger

ROOT = Path(__file__).parents[1]
SMOKE = ROOT / "recipes" / "smoke.yaml"
OVERRIDES = ("warmup.save_steps=10", "sft.save_steps=2", "dpo.save_steps=1", "sample.chunk=16")
"""More points to resume from than the recipe has by itself."""

Reached = Callable[[Path], bool]


def command(run_dir: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "flywheel", "run", str(SMOKE), "--run-dir", str(run_dir), *OVERRIDES, *more]


def flywheel_run(run_dir: Path, *more: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Start or resume, and wait."""
    done = subprocess.run(command(run_dir, *more), capture_output=True, text=True, timeout=timeout, check=False)
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return done


def descendants(pid: int) -> list[int]:
    """A process and everything below it, read in well under a millisecond so that a moment does not pass."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{parent}/task"):
                found += map(int, Path(task.path, "children").read_text().split())
    return found


class Tree:
    """One `flywheel run` and all its processes."""

    def __init__(self, run_dir: Path, *more: str) -> None:
        self.run_dir = run_dir
        self.begun = time.monotonic()
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        self._output = (run_dir.parent / f"{run_dir.name}.out").open("a+")
        self._from = self._output.seek(0, os.SEEK_END)
        self.agent = subprocess.Popen(
            command(run_dir, *more), stdout=self._output, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.members: list[psutil.Process] = []

    def wait_for(self, reached: Callable[[], bool], limit: float = 150) -> bool:
        """True once it is so; False if the run ends first."""
        while not reached():
            if self.agent.poll() is not None:
                return False
            assert time.monotonic() - self.begun < limit, f"waited {limit} s:\n{self.output()}"
            time.sleep(0.001)
        return True

    def signal(self, number: int, *, whole: bool = False) -> None:
        """Send a signal to the agent alone, or (SIGKILL) to every process of the tree at once."""
        pids = descendants(self.agent.pid)
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.members.append(psutil.Process(pid))
        os.kill(self.agent.pid, number)
        if whole:
            for pid in pids[1:]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.agent.pid, number)

    def end(self, limit: float = 20) -> int:
        """Wait for the agent, then for the rest of the tree; returns the agent's exit code."""
        code = self.agent.wait(limit)
        _, alive = psutil.wait_procs(self.members, timeout=limit)
        assert not alive, f"still alive {limit} s after the agent: {alive}"
        return code

    def output(self) -> str:
        self._output.flush()
        self._output.seek(self._from)
        return self._output.read()


# -- moments ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """When to kill. ``missed``: the run is past it (the stage was skipped, or too quick for us).

    ``prepare`` is called before the run is started.
    """

    name: str
    reached: Reached
    missed: Reached = lambda run: False
    prepare: Callable[[Path], None] = lambda run: None


def stage(run: Path, number: int, name: str) -> Path:
    return run / "rounds" / f"{number:03d}" / name


def work(run: Path, number: int, name: str) -> Path:
    return run / "rounds" / f"{number:03d}" / f".{name}.work"


def committed(number: int, name: str) -> Moment:
    return Moment(f"committed {number} {name}", lambda run: stage(run, number, name).is_dir())


def _during(kind: str, number: int, name: str, reached: Reached) -> Moment:
    return Moment(f"{kind} {number} {name}", reached, lambda run: stage(run, number, name).is_dir())


def parts(number: int, name: str, count: int) -> Moment:
    """Mid-chunk: that many parts are there, the next is being made."""
    return _during("chunk", number, name, lambda run: len([*work(run, number, name).rglob("*-*.parquet")]) >= count)


def checkpoint(number: int, name: str, count: int = 1) -> Moment:
    """Mid-training, after a checkpoint became complete."""
    pattern = ".trainer.*/checkpoint-*/complete.0"
    return _during("checkpoint", number, name, lambda run: len([*work(run, number, name).glob(pattern)]) >= count)


def torn(number: int, name: str) -> Moment:
    """Mid-checkpoint: its folder is there, the mark of completeness is not."""
    return _during("torn", number, name, lambda run: bool(torn_checkpoints(work(run, number, name))))


def torn_checkpoints(folder: Path) -> list[Path]:
    return [c for c in folder.glob(".trainer.*/checkpoint-*") if not (c / "complete.0").exists()]


def committing(number: int, name: str) -> Moment:
    """Mid-commit: the manifest is being written or is written, the folder has not got its name yet."""
    return _during("commit", number, name, lambda run: bool([*work(run, number, name).glob("*manifest.json*")]))


def after_start(seconds: float) -> Moment:
    """So long after the process began, whatever it is doing."""
    begun: list[float] = []

    def reached(run: Path) -> bool:
        if not begun:
            begun.append(time.monotonic())
        return time.monotonic() - begun[0] > seconds

    return Moment(f"{seconds:.2f} s after the start", reached)


def while_working(seconds: float) -> Moment:
    """So long after this attempt's first worker began."""
    begun: list[float] = []
    earlier: list[Path] = []

    def reached(run: Path) -> bool:
        latest = newest_attempt(run)
        if not begun and latest not in earlier and any(latest.glob("rank0.0*.log")):
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() - begun[0] > seconds

    return Moment(f"{seconds:.2f} s into the work", reached, prepare=lambda run: earlier.append(newest_attempt(run)))


def newest_attempt(run: Path) -> Path:
    return max((run / "logs").glob("attempt_*"), default=run)


def boundaries(rounds: int) -> list[Moment]:
    names = ("problems", "samples", "verdicts", "curated", "sft", "dpo", "evaluate")
    first = [committed(0, "warmup"), committed(0, "evaluate")]
    return first + [committed(number, name) for number in range(1, rounds + 1) for name in names]


def scattered(seed: int) -> list[Moment]:
    """Moments all over a run of two rounds, in an order in which one run folder can meet them all."""
    rng = random.Random(seed)
    return [
        after_start(rng.uniform(0.2, 3)),
        after_start(rng.uniform(3, 6)),
        while_working(rng.uniform(0, 0.5)),
        checkpoint(0, "warmup"),
        torn(0, "warmup"),
        while_working(rng.uniform(0.5, 2)),
        committing(0, "warmup"),
        parts(0, "evaluate", 1),
        parts(0, "evaluate", rng.randint(3, 6)),
        committing(0, "evaluate"),
        while_working(rng.uniform(0, 0.5)),
        parts(1, "samples", 1),
        parts(1, "verdicts", rng.randint(2, 6)),
        committing(1, "samples"),
        while_working(rng.uniform(0, 0.3)),
        checkpoint(1, "sft"),
        torn(1, "sft"),
        committing(1, "sft"),
        checkpoint(1, "dpo"),
        torn(1, "dpo"),
        committing(1, "dpo"),
        parts(1, "evaluate", rng.randint(1, 8)),
        parts(2, "samples", rng.randint(1, 7)),
        while_working(rng.uniform(0, 0.8)),
        torn(2, "sft"),
        checkpoint(2, "dpo"),
        committing(2, "evaluate"),
    ]


# -- a run that is killed again and again -------------------------------------------------------------


@dataclass
class History:
    """What became of a run that was killed at each of a list of moments."""

    run_dir: Path
    kills: list[str] = field(default_factory=list)
    hits: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    seconds: float = 0.0


def haunt(run_dir: Path, moments: list[Moment]) -> History:
    """Kill the whole tree at each moment, resume by the same command, and let it finish at last.

    After each kill: what was finished before must not have been made again.
    """
    history = History(run_dir)
    begun = time.monotonic()
    for moment in moments:
        kept = kept_files(run_dir)
        saved = newest_checkpoints(run_dir)
        moment.prepare(run_dir)
        tree = Tree(run_dir)
        if not tree.wait_for(lambda m=moment: m.reached(run_dir) or m.missed(run_dir)):  # type: ignore[misc]
            history.complaints.append(f"{moment.name}: never came; the run ended with {tree.end()}:\n{tree.output()}")
            break
        tree.signal(signal.SIGKILL, whole=True)
        tree.end()
        history.kills.append(moment.name)
        if moment.reached(run_dir):
            history.hits.append(moment.name.split()[0])
        history.complaints += [f"{moment.name}: {c}" for c in repeated(run_dir, kept, saved)]
    kept, saved = kept_files(run_dir), newest_checkpoints(run_dir)
    done = flywheel_run(run_dir)
    if done.returncode != 0:
        history.complaints.append(f"the last start ended with {done.returncode}: {done.stdout}{done.stderr}")
    history.complaints += repeated(run_dir, kept, saved)
    history.seconds = time.monotonic() - begun
    return history


def kept_files(run_dir: Path) -> dict[str, tuple[int, int]]:
    """Inode and modification time of every finished part and every committed file, by its final name."""
    found = {}
    for file in (run_dir / "rounds").rglob("*"):
        relative = str(file.relative_to(run_dir))
        final = re.sub(r"/\.(\w+)\.work/", r"/\1/", relative)
        part = re.search(r"-\d{5}\.parquet$", relative) is not None
        if "/." not in final and (part or final == relative) and (info := _stat(file)):
            found[final] = info
    return found


def _stat(file: Path) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        info = file.lstat()
        if file.is_file():
            return info.st_ino, info.st_mtime_ns
    return None


def newest_checkpoints(run_dir: Path) -> dict[tuple[str, str], int]:
    """Step of the last complete checkpoint of each stage that is being trained."""
    found: dict[tuple[str, str], int] = {}
    for mark in (run_dir / "rounds").glob("*/.*.work/.trainer.1/checkpoint-*/complete.0"):
        work_dir = mark.parents[2]
        key = (work_dir.parent.name, work_dir.name[1:-5])
        found[key] = max(found.get(key, 0), int(mark.parent.name.split("-")[1]))
    return found


def repeated(run_dir: Path, kept: dict[str, tuple[int, int]], saved: dict[tuple[str, str], int]) -> Iterator[str]:
    """What the last attempt did again although it had been done."""
    now = kept_files(run_dir)
    for name, before in kept.items():
        if now.get(name) != before:
            yield f"{name} was made again"
    attempt = newest_attempt(run_dir)
    for (number, name), step in saved.items():
        log = attempt / f"rank0.{number}.{name}.log"
        said = re.findall(r"resuming from \S*checkpoint-(\d+)", log.read_text()) if log.exists() else []
        if said and int(said[0]) != step:
            yield f"round {number} {name} resumed from step {said[0]}, not {step}"
        if not said and (run_dir / "rounds" / number / name).is_dir():
            yield f"round {number} {name} was trained again from its start, not from step {step}"


# -- what a finished run must be ----------------------------------------------------------------------


def weights(run_dir: Path) -> dict[str, str]:
    """Hash of every checkpoint of a run, and of the best."""
    files = {str(f.relative_to(run_dir)): f for f in sorted(run_dir.glob("rounds/*/*/model/model.safetensors"))}
    files["best"] = run_dir / "best" / "model.safetensors"
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}


def decisions(run_dir: Path) -> list[tuple[object, ...]]:
    rounds = [json.loads(file.read_text()) for file in sorted(run_dir.glob("rounds/*/round.json"))]
    return [(r["round"], r["promoted"], r["policy_out"], r["metrics"]) for r in rounds]


def assert_whole(run_dir: Path) -> None:
    """A finished folder: an intact ledger with each stage once, and no leftovers."""
    path = run_dir / "ledger.jsonl"
    entries = Ledger(path).entries()
    assert len(entries) == len(path.read_text().splitlines()), "the ledger has a damaged line"
    stages = [(entry["round"], entry["stage"]) for entry in entries]
    on_disk = {(int(m.parents[1].name), m.parent.name) for m in run_dir.glob("rounds/*/*/manifest.json")}
    assert len(stages) == len(set(stages))
    assert set(stages) == on_disk
    leftovers = [str(p) for p in run_dir.rglob(".*")]
    assert not leftovers, leftovers
    assert json.loads((run_dir / "state.json").read_text())["state"] == "finished"


def state_of(run_dir: Path) -> str:
    told = subprocess.run(
        [sys.executable, "-m", "flywheel", "status", str(run_dir), "--json"], capture_output=True, text=True, check=True
    )
    state: str = json.loads(told.stdout)["state"]
    return state
