"""Math runs from beginning to end: a real model learns to reason, and each published method is its recipe."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, flywheel

from flywheel.files import read_json, read_rows

pytestmark = pytest.mark.heavy  # minutes: the warm-up that all of them start from


def stories(count: int, worked: int) -> list[dict[str, str]]:
    """The dataset of `recipes/stories.yaml`, as its script makes it."""
    spec = importlib.util.spec_from_file_location("stories", ROOT / "recipes" / "stories.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: list[dict[str, str]] = module.stories(count, worked)
    return made


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "stories.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in stories(6000, 4000)))
    return file


@pytest.fixture(scope="module")
def learned(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that learned from written chains, and one round from its own."""
    folder = tmp_path_factory.mktemp("runs") / "stories"
    small = ["rounds=1", "sample.problems=512", "evaluate.problems=128"]
    small += ["promote.confidence=0.5"]
    done = flywheel("run", "recipes/stories.yaml", "--run-dir", folder, f"task.args.dataset={dataset}", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def curated(run: Path, number: int = 1) -> list[dict[str, Any]]:
    rows = read_rows(run / f"rounds/{number:03d}/curated/sft.parquet")
    return [row for row in rows if row["source"] == "round"]


def test_a_small_model_reasons_in_steps_and_only_its_verified_chains_are_learned(learned: Path) -> None:
    before, after = (read_json(learned / f"rounds/{n:03d}/round.json") for n in (0, 1))
    assert before["metrics"]["accuracy"] > 0.15
    assert after["promoted"] == (after["metrics"]["accuracy"] > before["metrics"]["accuracy"])
    assert after["counts"]["sft_steps"] > 0
    right = {v["sample_id"] for v in read_rows(learned / "rounds/001/verdicts") if v["passed"]}
    rows = curated(learned)
    assert len(rows) > 100 and all(row["sample_id"] in right for row in rows)
    answers = {p["problem_id"]: json.loads(p["data"])["answer"] for p in read_rows(learned / "rounds/001/problems")}
    # The verifier reads answers as mathematics (`\\boxed{=7}`); nearly all are as the model was taught to write them.
    plain = sum(row["completion"][-1]["content"].endswith(f"\\boxed{{{answers[row['problem_id']]}}}$.") for row in rows)
    assert plain >= 0.9 * len(rows)


def small_run(name: str, start: Path, dataset: Path, run: Path, *overrides: str) -> None:
    """A recipe with small numbers, from a small model."""
    small = [f"model={start}", f"task.args.dataset={dataset}", "task.args.heldout=null", "task.args.style=bare"]
    small += ["engine={use: transformers, cpu_replicas: 2}", "rounds=1", "sample.problems=32", "sample.max_tokens=80"]
    small += ["evaluate={problems: 16, completions: 2}", "track={}"]
    recipe = (ROOT / "recipes" / f"{name}.yaml").read_text()
    small += [f"{stage}.threads=1" for stage in ("sft", "dpo") if f"\n{stage}: {{" in recipe]
    done = flywheel("run", f"recipes/{name}.yaml", "--run-dir", run, *small, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr


METHODS = {
    "gsm8k": ["task.args.rollouts.self_verify={votes: 1, rubric: RUBRIC}", "curate=[finished, exact_duplicates]"],
    "math_star": ["sample.problems=64"],
    "math_irpo": ["sample.completions=8"],
    "math_rest_em": ["sample.completions=8"],
}
"""Published methods, and what a model of this size cannot do: see its own errors. Numbers are smaller, nothing else."""


@pytest.mark.parametrize("name", METHODS)
def test_a_published_method_is_its_recipe(name: str, learned: Path, dataset: Path, tmp_path: Path) -> None:
    rubric = tmp_path / "brief.md"
    rubric.write_text("---\nscale: [0, 1]\nmax_tokens: 8\n---\n{{ prompt }} {{ response }} Score: N\n")
    overrides = [override.replace("RUBRIC", str(rubric)) for override in METHODS[name]]
    small_run(name, learned / "rounds/000/warmup/model", dataset, tmp_path / name, *overrides)
    counts = read_json(tmp_path / name / "rounds/001/round.json")["counts"]
    kinds = Counter(row["kind"] for row in read_rows(tmp_path / name / "rounds/001/samples"))
    if name != "math_star":
        assert counts["kept"] > 0
    if name == "gsm8k":
        assert kinds["corrected"] > 0 and counts["sft_steps"] > 0
        right = {v["sample_id"] for v in read_rows(tmp_path / name / "rounds/001/verdicts") if v["passed"]}
        rows = read_rows(tmp_path / name / "rounds/001/samples")
        assert {row["sample_id"] for row in rows if "belief" in row["data"]} == right
    elif name == "math_star":
        # One greedy rationale per problem, and one hinted for each problem that it did not solve.
        assert kinds["answer"] == 64 and kinds["rationalized"] == 64 - counts["solved"] + _solved_by_hint(
            tmp_path / name
        )
    elif name == "math_irpo":
        assert counts["pairs"] > 0 and counts["dpo_steps"] > 0 and "sft_steps" not in counts
    else:
        assert counts["sft_steps"] > 0 and "dpo_steps" not in counts
        assert max(Counter(row["problem_id"] for row in curated(tmp_path / name)).values()) <= 10


def _solved_by_hint(run: Path) -> int:
    verdicts = {v["sample_id"]: v["passed"] for v in read_rows(run / "rounds/001/verdicts")}
    return sum(
        verdicts[row["sample_id"]] is True
        for row in read_rows(run / "rounds/001/samples")
        if row["kind"] == "rationalized"
    )


def test_step_scores_and_step_pairs_come_from_a_real_model(learned: Path, dataset: Path, tmp_path: Path) -> None:
    parts = "{steps: {continuations: 3}, rationalize: {samples: 1}, correct: {tries: 1}, rewrite: {solutions: 2}}"
    overrides = [
        f"task.args.rollouts={parts}",
        "sample.problems=16",
        "sample.completions=4",
        "pairs={strategy: step, per_problem: 4}",
        "dpo={learning_rate: 1.0e-5, batch_size: 16, threads: 1}",
    ]
    overrides += ["warmup=null", "replay={}", "curate=[finished, {data: {field: step_min, min: 0.3, missing: keep}}]"]
    small_run("stories", learned / "rounds/000/warmup/model", dataset, tmp_path / "run", *overrides)
    samples = read_rows(tmp_path / "run/rounds/001/samples")
    assert {row["kind"] for row in samples} >= {"answer", "continuation", "corrected", "rewritten"}
    scored = {row["sample_id"]: json.loads(row["data"]) for row in samples if "step_min" in row["data"]}
    assert scored and all(len(found["steps"]["ends"]) == len(found["steps"]["soft"]) for found in scored.values())
    kept = {row["sample_id"] for row in curated(tmp_path / "run")}
    assert all(found["step_min"] >= 0.3 for sample, found in scored.items() if sample in kept)
    texts = {row["sample_id"]: row["text"] for row in samples}
    prefixes = {row["text"][: json.loads(row["data"])["prefix"]] for row in samples if row["kind"] == "continuation"}
    pairs = read_rows(tmp_path / "run/rounds/001/curated/pairs.parquet")
    assert pairs
    for pair in pairs:
        sides = [texts[pair[side]] for side in ("chosen_id", "rejected_id")]
        assert any(all(text.startswith(prefix) for text in sides) for prefix in prefixes)
    assert read_json(tmp_path / "run/rounds/001/round.json")["counts"]["dpo_steps"] > 0
