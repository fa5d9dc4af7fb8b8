"""``accelerate launch`` with several ranks is the same program: all sample, all train, one folder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, flywheel

QUICK = ("rounds=1", "sample.chunk=8", "warmup.epochs=10")


def on_cpu(name: str, folder: Path) -> Path:
    """A shipped accelerate config as it is, but for two ranks of this machine's CPU."""
    config = yaml.safe_load((ROOT / "accelerate_configs" / name).read_text())
    file = folder / name
    file.write_text(yaml.safe_dump({**config, "use_cpu": True, "num_processes": 2, "num_machines": 1}))
    return file


def command(config: Path, run: Path, *overrides: str, ranks: int = 2) -> list[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    launcher += ["--num_processes", str(ranks), "--main_process_port", "0", "-m", "flywheel"]
    return [*launcher, "run", str(ROOT / "recipes" / "smoke.yaml"), "--run-dir", str(run), *QUICK, *overrides]


def launch(config: Path, run: Path, *overrides: str, ranks: int = 2) -> subprocess.CompletedProcess[str]:
    asked = command(config, run, *overrides, ranks=ranks)
    return subprocess.run(asked, capture_output=True, text=True, timeout=500, cwd=run.parent, check=False)


def spans(run: Path, rank: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / f"timeline.rank{rank}.jsonl").read_text().splitlines()]


def files(run: Path) -> set[str]:
    """Every file that a run leaves in its rounds; weights may be stored in any number of shards."""
    names = (str(file.relative_to(run)) for file in (run / "rounds").rglob("*") if file.is_file())
    return {re.sub(r"model-\d+-of-\d+", "model", name) for name in names}


def loss(run: Path, stage: str) -> float:
    return float(json.loads((run / "rounds" / stage / "manifest.json").read_text())["info"]["last"]["loss"])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by one process."""
    run = tmp_path_factory.mktemp("alone") / "run"
    done = flywheel("run", "recipes/smoke.yaml", "--run-dir", run, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    return run


HEAVY = [pytest.param(name, marks=pytest.mark.heavy) for name in ("zero3.yaml", "fsdp2.yaml")]


@pytest.mark.slow
@pytest.mark.parametrize("config", ["cpu.yaml", "cpu_zero2.yaml", *HEAVY])
def test_two_ranks_sample_and_train_together(config: str, tmp_path: Path, alone: Path) -> None:
    run = tmp_path / "run"
    done = launch(on_cpu(config, tmp_path), run)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads((run / "rounds" / "001" / "round.json").read_text())
    assert summary["counts"]["sft_steps"] > 0 and summary["counts"]["dpo_steps"] > 0
    for stage in ("000/warmup", "001/sft"):  # the same rows and steps; only the order of the sums differs
        assert loss(run, stage) == pytest.approx(loss(alone, stage), rel=0.15)
    for rank in (0, 1):
        busy = {(row["stage"], row["phase"]) for row in spans(run, rank) if row["phase"] in ("sample", "train")}
        assert {("warmup", "train"), ("sft", "train"), ("dpo", "train"), ("samples", "sample")} <= busy
    assert files(run) == files(alone)
    # Sharded in fact, and not only by name.
    logs = "".join(log.read_text() for log in (run / "logs" / "latest").glob("rank0.001.sft.log"))
    assert {"cpu.yaml": "backend: ddp", "fsdp2.yaml": "fsdp", "zero3.yaml": "zero3"}.get(config, "zero2") in logs


@pytest.mark.heavy
def test_lora_on_sharded_weights_is_merged(tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = launch(on_cpu("zero3.yaml", tmp_path), run, "sft.lora={r: 4}", "dpo.lora={r: 4}", "sft.learning_rate=1e-2")
    assert done.returncode == 0, done.stdout + done.stderr
    model = run / "rounds" / "001" / "dpo" / "model"
    assert (model / "config.json").exists() and not (model / "adapter_config.json").exists()
    assert loss(run, "001/sft") < 1.5


@pytest.mark.heavy
def test_adapters_alone_are_committed_from_sharded_weights_and_sampled_from(tmp_path: Path) -> None:
    run = tmp_path / "run"
    lora = "{r: 4, merge: false}"
    asked = (f"sft.lora={lora}", f"dpo.lora={lora}", "sft.learning_rate=1e-2", "promote.test=always", "rounds=2")
    done = launch(on_cpu("zero3.yaml", tmp_path), run, *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in ("001/sft", "002/dpo"):
        model = run / "rounds" / stage / "model"
        assert (model / "adapter_config.json").exists() and not (model / "model.safetensors").exists()
    assert json.loads((run / "rounds" / "002" / "round.json").read_text())["policy_in"] == "rounds/001/dpo/model"


@pytest.mark.slow
def test_a_killed_rank_ends_the_launch_by_name_and_another_number_of_ranks_resumes(tmp_path: Path) -> None:
    run, config = tmp_path / "run", on_cpu("cpu.yaml", tmp_path)
    with subprocess.Popen(
        command(config, run), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as launched:
        victim = _agent_at(run, rank=1, stage="warmup", limit=120)
        os.kill(victim, signal.SIGKILL)
        begun = time.monotonic()
        told, _ = launched.communicate(timeout=60)
    assert launched.returncode != 0
    assert time.monotonic() - begun < 20
    assert re.search(rf"rank 1 \(process {victim}\) was killed; it was at round 0 warmup", told), told
    assert "logs/latest/rank1" in told
    done = flywheel("run", "recipes/smoke.yaml", "--run-dir", run, *QUICK)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((run / "state.json").read_text())["state"] == "finished"


def _agent_at(run: Path, rank: int, stage: str, limit: float) -> int:
    """The process of a rank's agent, once its worker trains."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        logs = run / "logs" / "latest" / f"rank{rank}.000.{stage}.log"
        beat = run / "session" / f"beat.{rank}"
        if logs.exists() and "training backend" in logs.read_text():
            return int(json.loads(beat.read_text())["pid"])
        time.sleep(0.1)
    raise AssertionError(f"rank {rank} did not reach {stage}")
