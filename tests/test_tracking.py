"""Numbers go out once, on their own axes, and a resumed run continues the same W&B run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flywheel.files import read_json
from flywheel.recipe_file import parse_recipe
from flywheel.rundir import RunDir
from flywheel.tracking import Tracker

SUMMARY: dict[str, Any] = {
    "round": 1,
    "promoted": True,
    "metrics": {"accuracy": 0.5, "greedy_accuracy": 0.6, "pass@8": 0.9, "unique_correct": 2.0, "mean_tokens": 7.5},
    "counts": {"right": 12, "kept": 8, "pairs": 3, "sft_skipped": "words are left out"},
    "seconds": {"sft": 1.5},
}


def recipe(**track: Any) -> Any:
    raw = {"name": "t", "model": "m", "task": {"use": "countdown"}, "track": track}
    return parse_recipe(raw)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "rounds").mkdir()
    return RunDir(tmp_path)


def rows(run: RunDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder_always_has_the_numbers(run: RunDir) -> None:
    tracker = Tracker(run, recipe(), active=True)
    tracker.train("sft", 1, 10, {"loss": 2.0, "note": "text is left out"})
    tracker.trained("sft", 40)
    tracker.train("sft", 2, 10, {"loss": 1.0})
    tracker.round(SUMMARY)
    tracker.close()
    first, second, summary = rows(run)
    assert first == {"round": 1, "sft/loss": 2.0, "sft/step": 10}
    assert second["sft/step"] == 50, "steps are counted over the whole run"
    assert {k: summary[k] for k in SUMMARY["metrics"]} == SUMMARY["metrics"]
    assert summary["counts/kept"] == 8 and summary["seconds/sft"] == 1.5


def test_other_ranks_stay_silent(run: RunDir) -> None:
    Tracker(run, recipe(), active=False).round(SUMMARY)
    assert not (run.path / "metrics.jsonl").exists()


def test_wandb_goes_offline_without_a_key_and_keeps_its_id(run: RunDir) -> None:
    ids = []
    for step in (10, 5):  # the second attempt goes back, as a resumed one does
        tracker = Tracker(run, recipe(wandb={"project": "test"}), active=True)
        tracker.train("sft", 1, step, {"loss": 1.0})
        tracker.round(SUMMARY)
        tracker.close()
        ids.append(read_json(run.path / "wandb.json")["id"])
    assert ids[0] == ids[1]
    assert read_json(run.path / "wandb.json")["mode"] == "offline"
    files = list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(files) == 2
    deadline = time.monotonic() + 20  # W&B's own process writes the last of it after `finish` has returned
    while any(b"kept" not in file.read_bytes() for file in files) and time.monotonic() < deadline:
        time.sleep(0.1)
    logged = [file.read_bytes() for file in files]
    for data in logged:
        for name in (
            b"accuracy",
            b"pass@8",
            b"unique_correct",
            b"mean_tokens",
            b"sft/loss",
            b"sft/step",
            b"counts/kept",
        ):
            assert name in data
