"""``sbatch launch/slurm.sbatch`` sees a run through preemptions and time limits, on a real Slurm of two nodes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import ROOT, Job, Slurm, two_hosts
from killing import assert_whole, kept_files, newest_attempt, parts, state_of, weights

pytestmark = pytest.mark.heavy

SCRIPT = ROOT / "launch" / "slurm.sbatch"
SMOKE = ROOT / "recipes" / "smoke.yaml"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    folder = tmp_path_factory.mktemp("slurm")
    with two_hosts(folder) as (alpha, beta):
        yield Slurm(folder / "slurm", alpha, beta)


def submit(slurm: Slurm, run: Path, *overrides: str, nodes: int = 1, **options: str) -> Job:
    """One process per node, on its CPU."""
    chosen = [f"--{name}={value}" for name, value in {"nodes": str(nodes), **options}.items()]
    variables = {"CONFIG": "accelerate_configs/cpu.yaml", "NPROC_PER_NODE": "1"}
    output = f"--output={run.parent / '%j.out'}"
    return slurm.submit(output, *chosen, SCRIPT, SMOKE, "--run-dir", run, *overrides, **variables)


def stages(run: Path) -> int:
    return len([*run.glob("rounds/*/*/manifest.json")])


def preempt(slurm: Slurm) -> None:
    slurm.submit("--partition=urgent", "--nodes=2", "--output=/dev/null", "--wrap=sleep 1")


def test_a_preempted_job_is_requeued_and_gives_what_an_undisturbed_run_gives(
    slurm: Slurm, tmp_path: Path, smoke_run: Path
) -> None:
    run = tmp_path / "run"
    job = submit(slurm, run)
    job.await_that(lambda: parts(1, "samples", 1).reached(run), "round 1 to be sampled", 200)
    preempt(slurm)
    job.await_restart(1)
    assert state_of(run) == "interrupted"
    kept = kept_files(run)
    assert any(name.startswith("rounds/000/warmup/") for name in kept)
    job.start_soon()
    job.await_end("COMPLETED", limit=300)
    assert_whole(run)
    assert kept.items() <= kept_files(run).items(), "what was finished was made again"
    assert newest_attempt(run).name == "attempt_002"
    assert weights(run) == weights(smoke_run)


def test_two_nodes_outlive_a_time_limit_and_a_preemption_with_grace(slurm: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # The script asks for a signal two minutes before the limit: it comes as soon as Slurm looks, within half a minute.
    job = submit(slurm, run, "rounds=8", nodes=2, partition="graced", time="2")
    job.await_restart(1, limit=120)
    assert "it goes back to the queue" in job.output()

    done = stages(run)
    job.start_soon(TimeLimit="60")
    job.await_that(lambda: stages(run) >= done + 3, "three more stages", 240)
    preempt(slurm)
    job.await_restart(2)
    # Ended in time by flywheel, not by Slurm: it is the script that put the job back.
    assert job.output().count("it goes back to the queue") == 2
    assert state_of(run) == "interrupted"
    kept = kept_files(run)

    job.start_soon()
    job.await_end("COMPLETED", limit=300)
    assert_whole(run)
    assert kept.items() <= kept_files(run).items(), "what was finished was made again"
    for rank in (0, 1):
        rows = [json.loads(line) for line in (run / f"timeline.rank{rank}.jsonl").read_text().splitlines()]
        assert {("sft", "train"), ("dpo", "train"), ("samples", "sample")} <= {(r["stage"], r["phase"]) for r in rows}


def test_a_mistake_ends_the_job_and_does_not_requeue_it(slurm: Slurm, tmp_path: Path) -> None:
    job = submit(slurm, tmp_path / "run", "sft.learning_rat=1e-4")
    facts = job.await_end("FAILED", limit=120)
    assert facts["Restarts"] == "0" and facts["ExitCode"] == "1:0"
    assert "learning_rat" in job.output()


def test_a_cancelled_job_stays_cancelled(slurm: Slurm, tmp_path: Path) -> None:
    run = tmp_path / "run"
    job = submit(slurm, run)
    job.await_that(lambda: (run / "state.json").exists(), "the run to begin", 120)
    slurm.tell("scancel", str(job.number))
    assert job.await_end("CANCELLED")["Restarts"] == "0"
    assert state_of(run) == "interrupted"
