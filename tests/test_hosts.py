"""``launch/multi_node.sh`` on two machines is one run: both sample, both train, one folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cluster import ADDRESSES, ROOT, Host, await_that, two_hosts
from killing import assert_whole

QUICK = ("rounds=1", "warmup.epochs=5", "sample.problems=64", "sample.chunk=4", "evaluate.problems=32")
"""Enough warm-up for right and wrong answers, so that SFT and DPO have something to do."""


CPU = ROOT / "accelerate_configs" / "cpu.yaml"


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    with two_hosts(tmp_path) as both:
        yield both


@dataclass
class Launcher:
    process: subprocess.Popen[bytes]
    log: Path

    def end(self, limit: float = 300) -> tuple[int, str]:
        """Exit code and output."""
        return self.process.wait(limit), self.log.read_text()


def launch(hosts: Sequence[Host], run: Path, *overrides: str, config: Path = CPU) -> list[Launcher]:
    """The same command on each host."""
    common = {"NNODES": str(len(hosts)), "MASTER_ADDR": ADDRESSES[hosts[0].name], "NPROC_PER_NODE": "1"}
    common["CONFIG"] = str(config)
    command = ["launch/multi_node.sh", "recipes/smoke.yaml", "--run-dir", str(run), *QUICK, *overrides]
    logs = [run.parent / f"{host.name}-of-{len(hosts)}.out" for host in hosts]
    return [
        Launcher(host.start(*command, log=log, NODE_RANK=str(rank), **common), log)
        for rank, (host, log) in enumerate(zip(hosts, logs, strict=True))
    ]


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["cpu.yaml", "multi_node_zero3.yaml"])
def test_two_hosts_sample_and_train_together(name: str, hosts: tuple[Host, Host], tmp_path: Path) -> None:
    run, config = tmp_path / "run", tmp_path / name
    shipped = yaml.safe_load((ROOT / "accelerate_configs" / name).read_text())
    config.write_text(yaml.safe_dump({**shipped, "use_cpu": True}))
    for launcher in launch(hosts, run, config=config):
        code, output = launcher.end()
        assert code == 0, output
    assert_whole(run)
    summary = json.loads((run / "rounds" / "001" / "round.json").read_text())
    assert summary["counts"]["sft_steps"] > 0 and summary["counts"]["dpo_steps"] > 0
    for rank in (0, 1):
        rows = [json.loads(line) for line in (run / f"timeline.rank{rank}.jsonl").read_text().splitlines()]
        busy = {(row["stage"], row["phase"]) for row in rows if row["phase"] in ("sample", "train")}
        assert {("warmup", "train"), ("sft", "train"), ("dpo", "train"), ("samples", "sample")} <= busy
    backend = (run / "logs" / "latest" / "rank1.001.sft.log").read_text()
    assert {"cpu.yaml": "backend: ddp"}.get(name, "zero3") in backend


@pytest.mark.heavy
def test_a_host_that_does_not_see_the_run_folder_is_an_error_not_a_hang(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    hosts[1].tell("mount", "-t", "tmpfs", "none", runs)
    (code_0, said_0), (code_1, said_1) = (launcher.end() for launcher in launch(hosts, runs / "run"))
    assert code_0 != 0 and code_1 != 0
    assert re.search(r"rank 1 did not join within \d+ s", said_0), said_0
    assert re.search(r"this host \(beta\) see\s+the same folder", said_1), said_1


@pytest.mark.heavy
def test_a_host_that_dies_ends_the_run_and_the_other_can_resume_it(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    run = tmp_path / "run"
    survivor, _ = launch(hosts, run, "warmup.save_steps=10")
    await_that(lambda: checkpoints(run, world=2) != [], "a checkpoint of the warm-up", 120, survivor.log.read_text)
    hosts[1].down()
    code, said = survivor.end(90)
    assert code != 0
    assert "10.77.0.2" in said or "rank 1 has not answered" in said, said
    (again,) = launch(hosts[:1], run, "warmup.save_steps=10")
    code, said = again.end()
    assert code == 0, said
    assert_whole(run)


def checkpoints(run: Path, world: int) -> list[Path]:
    return [*run.glob(f"rounds/000/.warmup.work/.trainer.{world}/checkpoint-*/complete.0")]


def multi_node(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / "launch" / "multi_node.sh"), *arguments]
    path = os.environ["PATH"]
    return subprocess.run(command, capture_output=True, text=True, env={"PATH": path, **variables}, timeout=60)


def test_what_multi_node_needs_is_said() -> None:
    whole = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "host0"}
    for name in whole:
        done = multi_node("RECIPE", **{key: value for key, value in whole.items() if key != name})
        assert done.returncode != 0 and f"set {name} to" in done.stderr
    assert "usage: " in multi_node(**whole).stderr


def test_multi_node_passes_each_hosts_place_to_accelerate(tmp_path: Path) -> None:
    """The script gives by flags what the config cannot know: machine_rank and main_process_ip."""
    (tmp_path / "accelerate").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "accelerate").chmod(0o755)
    variables = {"NNODES": "3", "NODE_RANK": "1", "MASTER_ADDR": "host0", "NPROC_PER_NODE": "4"}
    told = multi_node("R.yaml", "rounds=2", **variables, PATH=f"{tmp_path}:{os.environ['PATH']}").stdout.split()
    config = yaml.safe_load(Path(told[told.index("--config_file") + 1]).read_text())
    assert config["num_machines"] > 1 and config["rdzv_backend"] == "static"
    assert config["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
    flags = dict(zip(told[1::2], told[2::2], strict=False))
    assert flags["--machine_rank"] == "1" and flags["--num_machines"] == "3" and flags["--num_processes"] == "12"
    assert flags["--main_process_ip"] == "host0" and flags["--main_process_port"] == "29500"
    assert told[-5:] == ["-m", "flywheel", "run", "R.yaml", "rounds=2"]


def test_the_skypilot_task_gives_multi_node_all_that_it_needs(tmp_path: Path) -> None:
    """Parsed and its command run with SkyPilot's variables; its schema was checked by hand (docs/clusters.md)."""
    task = yaml.safe_load((ROOT / "launch" / "skypilot.yaml").read_text())
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "multi_node.sh").write_text('#!/bin/sh\necho "$NNODES $NODE_RANK $MASTER_ADDR" "$@"\n')
    (tmp_path / "launch" / "multi_node.sh").chmod(0o755)
    sky = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    sky["SKYPILOT_NODE_IPS"] = "10.0.0.1\n10.0.0.2"
    told = subprocess.check_output(
        ["bash", "-c", task["run"]], env={"PATH": os.environ["PATH"], **sky, **task["envs"]}, cwd=tmp_path, text=True
    )
    assert told == "2 1 10.0.0.1 recipes/countdown_gpu.yaml --run-dir /runs/countdown_gpu\n"
