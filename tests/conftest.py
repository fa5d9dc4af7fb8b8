"""What several test files share: one real, small training run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def flywheel(*arguments: str | Path, cwd: Path = ROOT, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """The program as users start it."""
    command = [sys.executable, "-m", "flywheel", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of recipes/smoke.yaml, trained once for all tests: treat it as read-only."""
    folder = tmp_path_factory.mktemp("runs") / "smoke"
    done = flywheel("run", "recipes/smoke.yaml", "--run-dir", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
