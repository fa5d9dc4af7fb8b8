"""What several test files share: a tiny model, and one real, small training run."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# By the clock an example may take long on a busy machine, and not when it is tried again: that says nothing of it.
hypothesis.settings.register_profile("flywheel", deadline=None)
hypothesis.settings.load_profile("flywheel")

ROOT = Path(__file__).parents[1]

TINY: dict[str, Any] = {
    "architecture": "llama",
    "config": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,  # 32 wide: the narrowest that vLLM's CPU kernels know
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "max_position_embeddings": 128,
    },
}
"""A model from random weights, as a recipe gives it."""


class Quiet:
    """A worker's report that nobody reads."""

    def __call__(self, kind: str, **values: Any) -> None: ...

    def span(self, phase: str) -> AbstractContextManager[None]:
        return nullcontext()


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
