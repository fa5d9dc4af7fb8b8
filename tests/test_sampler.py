"""The sampling worker: how many chunks it keeps in flight, and what it writes where an engine has no answer."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Quiet

from flywheel.engines import Engine, EngineSpec
from flywheel.engines.scripted import ScriptedEngine
from flywheel.errors import NoAnswer
from flywheel.files import read_rows, write_rows
from flywheel.stages import sampler, verifier
from flywheel.stages.chunks import Job
from flywheel.stages.schemas import PROBLEMS
from flywheel.tasks import BaseTask, Policy
from flywheel.types import Completion, Message, Problem, Sampling, Verdict


class Counting(ScriptedEngine):
    """Remembers how many requests were in flight at once; has no answer to some."""

    def __init__(self, continuous: bool, refuse: str = "") -> None:
        super().__init__(answers={"*": ["1"]}, delay=0.01)
        self.continuous = continuous
        self._refuse = refuse
        self._now = self.most = 0

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            if self._refuse and self._refuse in messages[-1]["content"]:
                await asyncio.sleep(0.01)
                raise NoAnswer("the server hung up")
            return await super().chat(messages, sampling)
        finally:
            self._now -= 1


def sample(engine: Engine, folder: Path, monkeypatch: pytest.MonkeyPatch, problems: list[Problem]) -> dict[str, Any]:
    write_rows(folder / "problems.parquet", [p.to_row() for p in problems], PROBLEMS)
    for name in ("samples", "verdicts"):
        (folder / name).mkdir(exist_ok=True)
    job = Job(
        "part", folder / "problems.parquet", folder / "samples", folder / "verdicts", 4, len(problems), "sampled", "r1"
    )
    sampling = {"n": 2, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 4, "stop": []}
    payload = {
        "task": {"use": "addition", "args": {}, "base": "."},
        "jobs": [{"job": job.to_payload(), "sampling": sampling}],
        "session": "s",
        "timeout": 5.0,
        "engine": EngineSpec("scripted", "", batch_size=16),
        "round": 1,
        "policy": "p",
        "seed": 0,
    }
    monkeypatch.setattr(sampler, "make_engine", lambda spec: engine)
    counts = sampler.work(payload, Quiet())  # type: ignore[arg-type]
    verifier.work(payload, Quiet())  # type: ignore[arg-type]
    return counts


def additions(count: int) -> list[Problem]:
    from flywheel.tasks import load_task

    source = load_task("addition", {}).problems("train")
    return [problem for problem, _ in zip(source, range(count), strict=False)]


def test_only_a_continuous_engine_gets_several_chunks_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for continuous, most in ((False, 4), (True, 16)):
        engine = Counting(continuous)
        (tmp_path / str(continuous)).mkdir()
        counts = sample(engine, tmp_path / str(continuous), monkeypatch, additions(32))
        assert counts == {"chunks": 8, "completions": 64, "tokens": 64}
        assert engine.most == most


def test_without_an_answer_a_sample_is_undecided_and_not_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = additions(6)
    refused = problems[2]
    sample(Counting(True, refuse=refused.prompt[-1]["content"]), tmp_path, monkeypatch, problems)
    rows = [row for part in sorted((tmp_path / "samples").glob("*.parquet")) for row in read_rows(part)]
    verdicts = [row for part in sorted((tmp_path / "verdicts").glob("*.parquet")) for row in read_rows(part)]
    assert len(rows) == len(verdicts) == 12
    for row, verdict in zip(rows, verdicts, strict=True):
        if row["problem_id"] == refused.id:
            assert (row["finish"], row["text"], row["error"]) == ("abort", "", "the server hung up")
            assert verdict["passed"] is None and verdict["reason"] == "no answer: the server hung up"
        else:
            assert row["finish"] == "stop" and row["error"] is None and verdict["passed"] is not None


class Derives(BaseTask):
    """Brings something derived beside its attempts, and verifies a whole chunk at once."""

    def __init__(self) -> None:
        self.chunks: list[int] = []
        self.closed = 0

    async def rollout(self, problem: Problem, policy: Policy) -> list[Completion]:
        answers = await policy.chat(problem.prompt)
        if policy.evaluating:
            return answers
        hint = [{"role": "user", "content": "with a hint"}]
        return [*answers, replace(answers[0], kind="hinted", prompt=hint, data={"parent": policy.key})]

    def verify_many(self, asks: list[tuple[Problem, Completion]], timeout: float) -> list[Verdict]:
        self.chunks.append(len(asks))
        return [Verdict.right(kind=completion.kind, **completion.data) for _, completion in asks]

    def close(self) -> None:
        self.closed += 1


def test_what_a_rollout_derives_reaches_the_verifier_with_its_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = Derives()
    for module in (sampler, verifier):
        monkeypatch.setattr(module, "load_task", lambda *_: task)
    sample(Counting(True), tmp_path, monkeypatch, additions(4))
    [part] = (tmp_path / "verdicts").glob("*.parquet")
    [samples] = (tmp_path / "samples").glob("*.parquet")
    derived = [row for row in read_rows(samples) if row["kind"] == "hinted"]
    assert len(derived) == 4 and derived[0]["answers"] == [{"role": "user", "content": "with a hint"}]
    assert task.chunks == [12] and task.closed == 2
    details = [json.loads(row["detail"]) for row in read_rows(part)]
    assert {d["parent"] for d in details if d["kind"] == "hinted"} == {row["seed_key"] for row in derived}
