"""One stage's folder: it exists under its name only when the stage is finished.

Work goes on in ``.NAME.work``. To commit, every file is fsynced, a manifest (sizes, sha256, inputs) is
written, the folder is renamed and its parent fsynced. Entries of the work folder whose names start
with a dot are scratch (claims, Trainer checkpoints): they outlive a crash but not the commit.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel import __version__
from flywheel.errors import CorruptStage
from flywheel.files import digest, fsync_path, read_json, sha256_file, write_json

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class StageDir:
    """Where a stage's result is, or will be.

    Attributes:
        round_dir: ``…/rounds/NNN``.
        name: the stage's name, such as "samples".
    """

    round_dir: Path
    name: str

    @property
    def path(self) -> Path:
        """The committed folder."""
        return self.round_dir / self.name

    @property
    def work(self) -> Path:
        """Where the stage is being made."""
        return self.round_dir / f".{self.name}.work"

    @property
    def label(self) -> str:
        return f"round {int(self.round_dir.name)} {self.name}"

    @property
    def committed(self) -> bool:
        return (self.path / MANIFEST).is_file()

    def manifest(self) -> dict[str, Any]:
        """The committed stage's manifest.

        Raises:
            CorruptStage: it cannot be read.
        """
        try:
            manifest: dict[str, Any] = read_json(self.path / MANIFEST)
            recorded = manifest.pop("checksum")
            _ = manifest["files"], manifest["inputs"], manifest["info"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupt(self.path / MANIFEST, "is unreadable") from error
        if recorded != digest(manifest):
            raise _corrupt(self.path / MANIFEST, "no longer has its recorded checksum")
        return manifest

    def info(self) -> dict[str, Any]:
        """What the stage recorded of itself: counts, metrics, decisions."""
        info: dict[str, Any] = self.manifest()["info"]
        return info

    def identity(self) -> str:
        """A hash of what the stage is made of; children record it as their parent."""
        manifest = self.manifest()
        return digest({"files": manifest["files"], "inputs": manifest["inputs"]})

    def begin(self, inputs: dict[str, Any]) -> Path:
        """Open the work folder: resume what was made from the same inputs, sweep everything else."""
        marker = self.work / ".inputs.json"
        if self.work.exists():
            try:
                resumable = read_json(marker) == inputs
            except (OSError, ValueError):
                resumable = False
            if not resumable:
                shutil.rmtree(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        for leftover in self.work.rglob(".*.tmp"):
            leftover.unlink()
        if not marker.exists():
            write_json(marker, inputs)
        return self.work

    def commit(self, inputs: dict[str, Any], info: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Publish the work folder under the stage's name. Returns the manifest."""
        files = {}
        for path in sorted(self.work.rglob("*")):
            relative = path.relative_to(self.work)
            if path.is_file() and not any(part.startswith(".") for part in relative.parts):
                if relative.name == MANIFEST and len(relative.parts) == 1:
                    continue
                fsync_path(path)
                files[str(relative)] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
        manifest: dict[str, Any] = {
            "flywheel": __version__,
            "round": int(self.round_dir.name),
            "stage": self.name,
            "inputs": inputs,
            "info": info,
            "files": files,
            "seconds": round(seconds, 3),
            "committed": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        manifest = json.loads(json.dumps(manifest))  # as it will be read back
        write_json(self.work / MANIFEST, {**manifest, "checksum": digest(manifest)})
        for folder in {(self.work / name).parent for name in files}:
            fsync_path(folder)
        self.work.rename(self.path)
        fsync_path(self.round_dir)
        self.sweep()
        return manifest

    def sweep(self) -> None:
        """Delete scratch that a finished stage no longer needs."""
        if not self.committed:
            return
        for scratch in list(self.path.rglob(".*")):
            if not scratch.exists():  # it was inside another
                continue
            shutil.rmtree(scratch) if scratch.is_dir() else scratch.unlink()
        if self.work.exists():
            shutil.rmtree(self.work)

    def check(self) -> None:
        """Compare every file with the manifest.

        Raises:
            CorruptStage: a file is missing, was truncated or changed; the message names it.
        """
        for name, recorded in self.manifest()["files"].items():
            path = self.path / name
            if not path.is_file():
                raise _corrupt(path, "is missing")
            if path.stat().st_size != recorded["bytes"]:
                raise _corrupt(path, f"has {path.stat().st_size} bytes instead of {recorded['bytes']}")
            if sha256_file(path) != recorded["sha256"]:
                raise _corrupt(path, "no longer has its recorded sha256")


def _corrupt(path: Path, what: str) -> CorruptStage:
    return CorruptStage(
        f"{path} {what}; it will not be used",
        hint="run the same command with --repair: this stage and those after it are set aside and made again",
    )
