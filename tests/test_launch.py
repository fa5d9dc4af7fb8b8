"""``accelerate launch`` with two ranks is the same program: both sample, both train, one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_two_ranks_sample_and_train_together(tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    command += ["--config_file", str(ROOT / "accelerate_configs" / "cpu.yaml"), "--main_process_port", "0"]
    command += ["-m", "flywheel", "run", str(ROOT / "recipes" / "smoke.yaml"), "--run-dir", str(run), "rounds=1"]
    command += ["sample.chunk=8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "rounds" / "001" / "round.json").read_text())
    assert summary["counts"]["sft_steps"] > 0 and summary["counts"]["dpo_steps"] > 0
    for rank in (0, 1):
        rows = [json.loads(line) for line in (run / f"timeline.rank{rank}.jsonl").read_text().splitlines()]
        busy = {(row["stage"], row["phase"]) for row in rows if row["phase"] in ("sample", "train")}
        assert {("warmup", "train"), ("sft", "train"), ("dpo", "train"), ("samples", "sample")} <= busy
