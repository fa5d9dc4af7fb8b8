"""`recipes/code.yaml` from beginning to end: every step of it, on a model and datasets of test size."""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, TINY, flywheel
from test_code_problems import write_jsonl
from test_code_task import fenced
from test_openai import Body, FakeServer, Reply, fine

from flywheel.engines.checkpoint import make_model
from flywheel.files import read_json, read_rows
from flywheel.recipe import ScratchModel
from flywheel.rundir import RunDir
from flywheel.stages.history import trace

pytestmark = pytest.mark.slow


class Measure:
    """A family of problems: ``measure_A_B(n)`` is n * A + B, and B where n is negative."""

    def __init__(self, a: int, b: int) -> None:
        self.a, self.b, self.name = a, b, f"measure_{a}_{b}"

    @classmethod
    def of(cls, text: str) -> Measure:
        """The one that a text is about."""
        found = re.search(r"measure_(\d+)_(\d+)", text)
        assert found is not None, text
        return cls(int(found[1]), int(found[2]))

    def told(self) -> str:
        """In words, so many of them its own that no other problem is near to it."""
        draw = random.Random(self.name)
        words = ["".join(draw.choices("aeioulmnrst", k=6)) for _ in range(24)]
        return (
            f"A {' '.join(words)} costs {self.a} for each of n pieces and {self.b} to set up. "
            "Return what n pieces cost in all; for a negative n that is the set-up alone."
        )

    def right(self, way: int = 0) -> str:
        body = (f"n * {self.a} + {self.b}", f"{self.b} + {self.a} * n", f"{self.b} + n * {self.a}")[way]
        return f"def {self.name}(n: int) -> int:\n    if n < 0:\n        return {self.b}\n    return {body}\n"

    def wrong(self) -> str:
        return f"def {self.name}(n: int) -> int:\n    return n * {self.a} + {self.b}\n"

    def cases(self) -> dict[int, int]:
        return {n: max(n, 0) * self.a + self.b for n in (0, 1, 7, 40, -1, -25)}

    def tests(self) -> list[str]:
        return [f"assert {self.name}({n}) == {result}" for n, result in self.cases().items()]

    def translated(self, language: str) -> str:
        """Program and tests, as they are asked for."""
        program, test = _TRANSLATED[language]
        filled = program.replace("NAME", self.name).replace("AAA", str(self.a)).replace("BBB", str(self.b))
        lines = [test.format(name=self.name, n=n, result=result) for n, result in self.cases().items()]
        return fenced(f"{filled}\n", language) + "\n" + fenced("\n".join(lines) + "\n", language)


_ASSERT = "assert({name}({n}) == {result});"
_TRANSLATED = {
    "typescript": (
        "function NAME(n: number): number {\n  return n < 0 ? BBB : n * AAA + BBB;\n}",
        "assert.strictEqual({name}({n}), {result});",
    ),
    "php": (
        "<?php\nfunction NAME(int $n): int {\n    return $n < 0 ? BBB : $n * AAA + BBB;\n}",
        "assert({name}({n}) === {result});",
    ),
    "java": (
        "class Solution {\n    static int NAME(int n) { return n < 0 ? BBB : n * AAA + BBB; }\n}",
        "assert Solution.{name}({n}) == {result};",
    ),
    "cpp": ("int NAME(int n) { return n < 0 ? BBB : n * AAA + BBB; }", _ASSERT),
    "bash": (
        "NAME() { if (( $1 < 0 )); then echo BBB; else echo $(( $1 * AAA + BBB )); fi; }",
        '[ "$({name} {n})" = "{result}" ]',
    ),
    "go": (
        "package main\n\nfunc NAME(n int) int {\n\tif n < 0 {\n\t\treturn BBB\n\t}\n\treturn n*AAA + BBB\n}",
        "assert({name}({n}) == {result})",
    ),
    "rust": (
        "fn NAME(n: i64) -> i64 { if n < 0 { BBB } else { n * AAA + BBB } }",
        "assert_eq!({name}({n}), {result});",
    ),
}


class Teacher:
    """A model that knows what it is asked, and is wrong often enough for every step to have work."""

    def __call__(self, body: Body) -> Reply:
        text = body["messages"][-1]["content"]
        return fine(body, *self.answers(text, body["messages"], body["n"]))

    def answers(self, text: str, messages: list[dict[str, str]], n: int) -> list[str]:
        if "for inspiration" in text:
            return [self.proposal(zlib.crc32(text.encode()))] * n
        measure = Measure.of("\n".join(m["content"] for m in messages))
        if text.startswith("Solve this problem"):
            exits = f"import os\n\n\ndef {measure.name}(n):\n    os._exit(0)\n"
            tried = [measure.right(0), measure.wrong(), measure.right(1), exits, measure.right(2), measure.wrong()]
            return [*map(fenced, tried), "I like trains. ``` [[[", fenced(measure.wrong() + "# once more\n")][:n]
        return [self.one(text, measure)] * n

    def one(self, text: str, measure: Measure) -> str:
        if "You review code" in text:
            # Style is a matter of taste, and this one is a pedant's.
            plain = f"{measure.b} + {measure.a} * n" in text
            return f"Correct. {'Constants' if plain else 'Terms'} stand first.\nScore: {1 if plain else 2}"
        if "Below are two programs" in text:
            return "They agree.\nScore: 1"
        if "Write unit tests" in text:
            return fenced("\n".join([*measure.tests(), f"assert {measure.name}(2) == 0"]) + "\n")
        if "Translate this Python" in text:
            language = re.search(r"its tests to (\w+)", text)
            assert language is not None
            return measure.translated(language[1])
        if "Explain this" in text:
            return f"{measure.name}(n) is {measure.told()}"
        if "Document this" in text:
            program = text.split("```python\n")[1].split("```")[0]
            return fenced(program.replace("int:\n", 'int:\n    """What n pieces cost in all."""\n', 1))
        known = ("from this description", "is meant to solve the problem", "The tests stay as they are")
        assert any(words in text for words in known), text
        return "A negative n was forgotten.\n" + fenced(measure.right())

    def proposal(self, key: int) -> str:
        """Of few different problems, some are proposed twice."""
        measure = Measure(30 + key % 8, 50 + key % 8)
        signature = f"def {measure.name}(n: int) -> int:\n    ...\n"
        return f"{measure.told()}\n\n{fenced(signature).partition(chr(10))[2].strip()}"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the recipe names, under the names that it has on the Hub, and a model."""
    folder = tmp_path_factory.mktemp("hub")
    mbpp, human_eval, code = (
        folder / name
        for name in (
            "google-research-datasets/mbpp",
            "openai/openai_humaneval",
            "codeparrot/codeparrot-clean-valid",
        )
    )
    for made in (mbpp, human_eval, code):
        made.mkdir(parents=True)
    given = [Measure(10 + i, 90 + i) for i in range(6)]
    rows: list[dict[str, Any]] = [
        {
            "task_id": 601 + i,
            "text": f"Write a python function to find the price. {m.told()}",
            "code": m.right(),
            "test_list": m.tests()[:4],
            "test_setup_code": "",
            "challenge_test_list": m.tests()[4:],
        }
        for i, m in enumerate(given)
    ]
    write_jsonl(mbpp / "train-00000-of-00001.jsonl", rows)
    write_jsonl(mbpp / "test-00000-of-00001.jsonl", [{**rows[0], "task_id": 11, "text": "Not of this split."}])
    held = [Measure(70 + i, 20 + i) for i in range(4)]
    rows = [
        {
            "task_id": f"HumanEval/{i}",
            "prompt": f'\n\ndef {m.name}(n: int) -> int:\n    """ {m.told()}\n    """\n',
            "canonical_solution": f"    return n * {m.a} + {m.b} if n > 0 else {m.b}\n",
            "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n"
            + "".join(f"    assert candidate({n}) == {result}\n" for n, result in m.cases().items()),
            "entry_point": m.name,
        }
        for i, m in enumerate(held)
    ]
    write_jsonl(human_eval / "test-00000-of-00001.jsonl", rows)
    snippets = [f"total = {n}\nfor item in items:\n    total += item.price\nprint(total)\n" for n in range(40)]
    write_jsonl(code / "train.jsonl", [{"repo_name": "a/b", "content": text} for text in snippets])
    torch.manual_seed(0)
    model, tokenizer = make_model(
        ScratchModel.model_validate({**TINY, "config": {**TINY["config"], "max_position_embeddings": 8192}})
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def run(hub: Path) -> Iterator[Path]:
    """Two rounds of the recipe. Smaller, with a teacher that answers at once in the place of a model of 7B, and a gate
    that lets a model pass which learns nothing of it; all else is as it is written there."""
    server = FakeServer(Teacher())
    small = {
        "model": str(hub / "model"),
        "engine": {"use": "transformers", "cpu_replicas": 1},
        "rounds": 2,
        "sample.engine": {"use": "openai", "extra": {"servers": [server.url]}},
        "sample.problems": 16,
        "sample.chunk": 4,
        "sft.batch_size": 8,
        "sft.max_steps": 3,
        "dpo.batch_size": 4,
        "dpo.max_steps": 3,
        "evaluate": {"problems": 4, "completions": 2},
        "promote": {"test": "always"},
        "track": {},
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in small.items()]
    overrides += ["sft.threads=1", "dpo.threads=1"]
    try:
        recipe = ROOT / "recipes" / "code.yaml"
        done = flywheel("run", recipe, "--run-dir", hub / "run", *overrides, cwd=hub, timeout=550)
    finally:
        server.stop()
    assert done.returncode == 0, done.stderr + done.stdout
    yield hub / "run"


def of(run: Path, number: int) -> tuple[dict[str, dict[str, Any]], dict[str, bool | None]]:
    """A round's samples by their ids, and what the verifier said of each."""
    folder = run / f"rounds/{number:03d}"
    samples = {row["sample_id"]: {**row, "data": json.loads(row["data"])} for row in read_rows(folder / "samples")}
    return samples, {row["sample_id"]: row["passed"] for row in read_rows(folder / "verdicts")}


def test_every_step_of_the_recipe_leaves_what_it_should(run: Path) -> None:
    samples, passed = of(run, 1)
    found = Counter((row["kind"], passed[id_]) for id_, row in samples.items())
    for kind in ("answer", "revision", "translation", "explanation", "documentation", "debugging"):
        assert found[kind, True] > 0, found
    assert found["answer", False] > found["answer", True]
    assert found.keys() >= {("proposal", None), ("tests", None), ("recreation", None)}  # kept for their lineage
    proposed = [row["data"] for row in samples.values() if row["kind"] == "proposal"]
    refused = [data["why_not"] for data in proposed if "why_not" in data]
    assert refused and all("word 3-grams" in why for why in refused)
    assert len(proposed) - len(refused) > 3
    for row in samples.values():
        if row["kind"] == "tests":  # the one that is wrong is gone
            assert row["data"]["agreeing"] == 3 and len(row["data"]["tests"]) == 6
        if row["kind"] == "revision":
            parent = samples[row["sample_id"].rpartition("-")[0] + f"-{row['data']['parents'][0]}"]
            assert passed[parent["sample_id"]] is False
    assert len({row["data"]["language"] for row in samples.values() if row["kind"] == "translation"}) > 2


def test_both_trainings_get_what_the_recipe_says(run: Path) -> None:
    samples, passed = of(run, 1)
    kept = read_rows(run / "rounds/001/curated/sft.parquet")
    assert {row["kind"] for row in kept} >= {"answer", "revision", "translation"}
    assert all(passed[row["sample_id"]] for row in kept)
    learned = {message["content"] for row in kept for message in row["completion"] if message["role"] == "assistant"}
    wrong = {row["messages"][-1]["content"] for id_, row in samples.items() if passed[id_] is False}
    assert learned.isdisjoint(wrong)
    pairs = read_rows(run / "rounds/001/curated/pairs.parquet")
    kinds = Counter((samples[pair["chosen_id"]]["kind"], samples[pair["rejected_id"]]["kind"]) for pair in pairs)
    assert kinds["answer", "answer"] > 0 and kinds["revision", "answer"] > 0
    for pair in pairs:
        assert passed[pair["chosen_id"]] is True and passed[pair["rejected_id"]] is False
    for number in (1, 2):
        done = read_json(run / f"rounds/{number:03d}/round.json")
        assert done["counts"]["sft_steps"] == done["counts"]["dpo_steps"] == 3
        assert done["promoted"]
    evaluated = read_rows(run / "rounds/001/evaluate/samples")
    assert len({row["problem_id"] for row in evaluated}) == 4 and {row["kind"] for row in evaluated} == {"answer"}


def test_each_round_starts_over_from_the_base_model(run: Path) -> None:
    first, second = (read_json(run / f"rounds/{n:03d}/sft/manifest.json")["inputs"]["parents"] for n in (1, 2))
    assert first["start"] == second["start"]
    decided = read_json(run / "rounds/002/round.json")
    assert decided["policy_in"] == "rounds/001/dpo/model"  # which is what sampled


def test_a_derived_row_is_counted_among_its_kind_and_names_what_it_was_made_from(run: Path) -> None:
    samples, _ = of(run, 1)
    for problem in sorted({row["problem_id"] for row in samples.values()})[:4]:
        rows = [row for row in samples.values() if row["problem_id"] == problem]
        counts = Counter(row["kind"] for row in rows)
        seen: Counter[str] = Counter()
        histories = [h for h in trace(RunDir.existing(run), problem).samples if h.stage == "round 1 samples"]
        for history in sorted(histories, key=lambda h: h.sample["index"]):
            assert history.settings["engine"] == "openai"
            kind = history.sample["kind"]
            seen[kind] += 1
            assert history.place == (seen[kind], counts[kind])
            parents = samples[history.sample["sample_id"]]["data"].get("parents", [])
            assert history.parents == [f"{history.sample['sample_id'].rpartition('-')[0]}-{i}" for i in parents]
    revision = next(row for row in samples.values() if row["kind"] == "revision")
    done = flywheel("show", run, "--id", revision["sample_id"])
    stem = revision["sample_id"].rpartition("-")[0]
    assert "revision 1 of 3" in done.stdout
    assert f"made from: {stem}-{revision['data']['parents'][0]}" in done.stdout
