"""Math rollouts, from the sampling worker to curated rows: what becomes of right, wrong and garbage answers."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Quiet
from hypothesis import given
from hypothesis import strategies as st

import flywheel.sandbox
from flywheel.curate import make_filters, make_pairs, run_filters
from flywheel.engines import EnginePolicy, EngineSpec
from flywheel.engines.scripted import ScriptedEngine
from flywheel.errors import NoAnswer, RecipeError, TaskError
from flywheel.files import write_rows
from flywheel.sandbox.job import Capabilities, Outcome
from flywheel.sandbox.job import Job as ProgramJob
from flywheel.stages import sampler, verifier
from flywheel.stages.chunks import Job
from flywheel.stages.graded import make_groups, read_graded
from flywheel.stages.schemas import PROBLEMS
from flywheel.tasks import close_task, load_task
from flywheel.tasks.math import notebook
from flywheel.tasks.math.kit import Kit
from flywheel.tasks.math.options import Rollouts
from flywheel.tasks.math.rewrite import hidden_number
from flywheel.tasks.math.steps import step_ends
from flywheel.types import Completion, Group, Message, Problem, Sampling

PENS = {"question": "Ann has 5 pens and gets 3 more. How many pens?", "answer": "8"}
EGGS = {"question": "Bob has 9 eggs and eats 2. How many eggs?", "answer": "7"}
RIGHT, WRONG, GARBAGE = "5+3=8\nThe answer is \\boxed{8}.", "5-3=2\nThe answer is \\boxed{2}.", "I like pens."

Answer = Callable[[list[Message], Sampling], list[str]]


class Told(ScriptedEngine):
    """Answers by a function, and remembers what it was asked; refuses what the function has no answer for."""

    def __init__(self, answer: Answer, continuous: bool) -> None:
        super().__init__(answer=answer)
        self.continuous = continuous
        self.asked: list[list[Message]] = []

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        self.asked.append(messages)
        found = await super().chat(messages, sampling)
        if not found:
            raise NoAnswer("the server hung up")
        return found


class World:
    """A task, an engine, and what came of them."""

    def __init__(self, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tmp, self.monkeypatch = tmp, monkeypatch
        self.problems: list[Problem] = []

    def roll(
        self,
        rollouts: dict[str, Any],
        answer: Answer,
        *rows: dict[str, Any],
        n: int = 2,
        evaluating: bool = False,
        continuous: bool = True,
        **args: Any,
    ) -> tuple[list[dict[str, Any]], Told]:
        """Graded rows, as curation reads them, and the engine."""
        held = {"question": "Held out: 1+1?", "answer": "2"}
        for name, content in (("train", rows or (PENS,)), ("heldout", (held,))):
            (self.tmp / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
        args = {"dataset": "train.jsonl", "heldout": "heldout.jsonl", "rollouts": rollouts, "shuffle": False, **args}
        self.problems = list(load_task("math", args, self.tmp).problems("train"))
        write_rows(self.tmp / "problems.parquet", [p.to_row() for p in self.problems], PROBLEMS)
        for name in ("samples", "verdicts"):
            (self.tmp / name).mkdir(exist_ok=True)
        count = len(self.problems)
        places = (self.tmp / "problems.parquet", self.tmp / "samples", self.tmp / "verdicts")
        job = Job("part", *places, 64, count, "sampled", "r001", evaluating)
        sampling = {"n": n, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 64, "stop": []}
        payload = {
            "task": {"use": "math", "args": args, "base": str(self.tmp)},
            "jobs": [{"job": job.to_payload(), "sampling": sampling}],
            "session": "s",
            "timeout": 10.0,
            "engine": EngineSpec("scripted", ""),
            "round": 1,
            "policy": "p",
            "seed": 0,
        }
        engine = Told(answer, continuous)
        self.monkeypatch.setattr(sampler, "make_engine", lambda spec: engine)
        sampler.work(payload, Quiet())  # type: ignore[arg-type]
        verifier.work(payload, Quiet())  # type: ignore[arg-type]
        return read_graded(self.tmp / "samples", self.tmp / "verdicts"), engine

    def groups(self, rows: list[dict[str, Any]]) -> list[Group]:
        return make_groups(self.problems, rows)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(tmp_path, monkeypatch)


def last(messages: list[Message]) -> str:
    return messages[-1]["content"]


def of(rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["kind"] == kind]


def data(row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(row["data"])
    return found


# -- attempts --------------------------------------------------------------------------------------------


def test_attempts_are_right_wrong_or_without_an_answer(world: World) -> None:
    rows, engine = world.roll({}, lambda m, s: [RIGHT, WRONG, GARBAGE], n=3)
    assert [row["passed"] for row in rows][:2] == [True, False]
    assert rows[2]["passed"] is not True
    assert len(engine.asked) == 1 and {row["kind"] for row in rows} == {"answer"}


EVERYTHING = {"rationalize": {}, "correct": {}, "self_verify": {}, "vote": {}, "rewrite": {}, "steps": {}}


def test_an_evaluation_sees_independent_attempts_and_nothing_else(world: World) -> None:
    rows, engine = world.roll(EVERYTHING, lambda m, s: [WRONG] * s.n, evaluating=True)
    assert len(engine.asked) == 1
    assert [(row["kind"], row["data"]) for row in rows] == [("answer", "{}")] * 2


@pytest.mark.parametrize(
    "garbage", ["", "<question></question>", "Score: maybe", "\\boxed{", "```python\n", "\n\n\n", "8" * 5000]
)
@pytest.mark.parametrize("continuous", [True, False])
def test_a_policy_that_talks_garbage_breaks_nothing(world: World, garbage: str, continuous: bool) -> None:
    rows, _ = world.roll(EVERYTHING, lambda m, s: [garbage] * s.n, PENS, EGGS, continuous=continuous)
    assert len(of(rows, "answer")) == 4
    assert not any(row["passed"] for row in rows)
    assert all(row["passed"] is False or row["reason"] for row in rows)


def test_what_the_engine_cannot_answer_costs_only_itself(world: World) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        return [WRONG, WRONG] if last(messages).startswith(PENS["question"]) and len(messages) == 1 else []

    def plain(messages: list[Message], sampling: Sampling) -> list[str]:
        return answer(messages, sampling) if "The correct answer is" not in last(messages) else []

    rows, _ = world.roll({"rationalize": {"samples": 3}, "correct": {}, "steps": {}, "rewrite": {}}, plain)
    assert [row["passed"] for row in of(rows, "answer")] == [False, False]
    derived = [row for row in rows if row["kind"] != "answer"]
    assert {row["kind"] for row in derived} >= {"rationalized", "corrected", "rewritten"}
    assert {row["passed"] for row in derived} == {None}
    assert all("the server hung up" in row["reason"] for row in derived)


# -- rationalization -------------------------------------------------------------------------------------


def test_an_unsolved_problem_is_tried_again_with_a_hint_that_is_not_trained_on(world: World) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        hinted = "The correct answer is 8" in last(messages)
        if EGGS["question"] in last(messages):
            return ["\\boxed{7}", "\\boxed{1}"]
        return [RIGHT, WRONG, GARBAGE][: sampling.n] if hinted else [WRONG, GARBAGE]

    rows, engine = world.roll({"rationalize": {"samples": 3}}, answer, PENS, EGGS)
    hinted = of(rows, "rationalized")
    assert len(hinted) == 3 and len(engine.asked) == 3  # the solved problem was not asked again
    assert [row["passed"] for row in hinted][:2] == [True, False]
    assert {row["problem_id"] for row in hinted} == {world.problems[0].id}
    assert all(row["answers"] is None and data(row) == {"hint": "8"} for row in hinted)
    pens, eggs = world.groups(rows)
    assert pens.pass_rate == 0.0 and eggs.pass_rate == 0.5


# -- corrections -----------------------------------------------------------------------------------------


def test_a_correction_answers_the_wrong_chain_and_only_the_correction_is_learned(world: World) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        return [RIGHT, WRONG] if len(messages) == 3 else [GARBAGE + " \\boxed{4}", RIGHT]

    rows, _ = world.roll({"correct": {"chains": 2, "tries": 2}}, answer)
    fixes = of(rows, "corrected")
    assert [row["passed"] for row in fixes] == [True, False]
    for row in fixes:
        question, mistake, remark = row["answers"]
        assert question["content"].startswith(PENS["question"])
        assert mistake == {"role": "assistant", "content": GARBAGE + " \\boxed{4}"}
        assert remark["role"] == "user" and "wrong" in remark["content"]
        assert len(row["messages"]) == 1 and data(row)["parent"] == 0
    [group] = world.groups(rows)
    assert group.pass_rate == 0.5
    pairs = list(make_pairs("right_vs_wrong", [group], {s.id for s in group.right}, 5, 0))
    assert {len(pair.prompt) for pair in pairs} == {1, 3}


def test_a_correction_that_is_still_wrong_is_sent_back_as_often_as_allowed(world: World) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        turn = sum(m["role"] == "assistant" for m in messages)
        return [RIGHT if turn == 3 else f"turn {turn}: \\boxed{{{turn}}}"] * sampling.n

    rows, _ = world.roll({"correct": {"tries": 1, "turns": 5}}, answer, n=1)
    fixes = of(rows, "corrected")
    assert [(row["passed"], data(row)["turn"], len(row["answers"])) for row in fixes] == [
        (False, 1, 3),
        (False, 2, 5),
        (True, 3, 7),
    ]


# -- self-verification -----------------------------------------------------------------------------------


def test_only_what_is_right_and_believed_right_survives_a_filter_on_belief(world: World) -> None:
    doubted, unread = "By luck, \\boxed{8}.", "Hm, \\boxed{8}."

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        if "<solution>" not in last(messages):
            return [RIGHT, WRONG, doubted, unread]
        if doubted in last(messages):
            return ["Score: 0", "Score: 1", "Score: 0"]
        return ["who knows"] * 3 if unread in last(messages) else ["Every step holds.\nScore: 1"] * 3

    rows, engine = world.roll({"self_verify": {"votes": 3}}, answer, n=4)
    assert len(engine.asked) == 4  # one round of attempts, and three that were right
    assert [data(row).get("belief", "not asked") for row in rows] == [1.0, "not asked", pytest.approx(1 / 3), None]
    filters = make_filters([{"data": {"field": "belief", "min": 0.5}}])
    survivors, dropped, _ = run_filters(filters, [{**row, "pass_rate": 0.5} for row in rows])
    assert [row["text"] for row in survivors] == [RIGHT]
    assert len(dropped) == 3


# -- votes -----------------------------------------------------------------------------------------------


def test_where_no_answer_is_known_the_majority_s_counts_and_the_verdict_says_so(world: World) -> None:
    answers = ["\\boxed{8}", "So 16/2 = \\boxed{8.0}", "The answer is 8", WRONG, GARBAGE]
    rows, _ = world.roll({"vote": {}}, lambda m, s: answers, {"question": PENS["question"]}, n=5, unlabelled=True)
    assert [row["passed"] for row in rows][:4] == [True, True, True, False]
    assert rows[4]["passed"] is not True
    details = [json.loads(row["detail"]) for row in rows]
    assert all(d["level"] == "self_consistency" and (d["agreed"], d["attempts"]) == (3, 5) for d in details)


@pytest.mark.parametrize("answers", [["\\boxed{8}", "\\boxed{8}", WRONG, "\\boxed{3}", "\\boxed{4}"], [GARBAGE] * 5])
def test_without_agreement_nothing_is_decided(world: World, answers: list[str]) -> None:
    row = {"question": PENS["question"]}
    rows, _ = world.roll({"vote": {}, **EVERYTHING}, lambda m, s: answers, row, n=5, unlabelled=True)
    assert [row["passed"] for row in rows] == [None] * 5
    assert all("no answer is known" in row["reason"] for row in rows)


def test_a_known_answer_is_not_voted_on(world: World) -> None:
    rows, _ = world.roll({"vote": {}}, lambda m, s: [WRONG] * s.n, n=4)
    assert [row["passed"] for row in rows] == [False] * 4
    assert "level" not in json.loads(rows[0]["detail"])


# -- new questions ---------------------------------------------------------------------------------------


def wrap(question: str) -> str:
    return f"Here it is:\n<question>\n{question}\n</question>"


def rewriting(answers: dict[str, list[str]], questions: dict[str, str]) -> Answer:
    """``questions`` by what the request begins with, ``answers`` by the question."""

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        text = last(messages)
        for begins, question in questions.items():
            if text.startswith(begins):
                return [wrap(question)]
        return next((found for question, found in answers.items() if text.startswith(question)), [WRONG] * sampling.n)

    return answer


REPHRASED, TURNED = "Ann's 5 pens become 3 more. How many are there?", "After getting x more Ann has 8. What is x?"
HARDER = "Ann has 5 pens, gets 3 more and loses half. How many pens?"
BEGINS = {"Rewrite": REPHRASED, "Turn": TURNED, "Make": HARDER}


def test_a_new_question_enters_if_its_answers_agree(world: World) -> None:
    answers = {
        REPHRASED: [RIGHT] * 3 + [WRONG],
        HARDER: ["\\boxed{4}", "It is \\boxed{4}.", "\\boxed{4}", "\\boxed{5}"],
    }
    rows, _ = world.roll({"rewrite": {"kinds": ["rephrase", "condition"]}}, rewriting(answers, BEGINS))
    new = of(rows, "rewritten")
    assert [row["passed"] for row in new] == [True, True, True, False] * 2
    for row, question, kind in ((new[0], REPHRASED, "rephrase"), (new[4], HARDER, "condition")):
        assert row["answers"][0]["content"].startswith(question)
        assert data(row)["question"] == question and data(row)["rewriting"] == kind
        assert json.loads(row["detail"])["level"] == "self_consistency"
        assert row["problem_id"] == world.problems[0].id
    [group] = world.groups(rows)
    assert group.pass_rate == 0.0  # of the attempts at the question itself
    assert len(list(make_pairs("right_vs_wrong", [group], {s.id for s in group.right}, 1, 0))) == 2


def test_a_question_that_is_turned_around_asks_for_a_number_of_the_text(world: World) -> None:
    asked: list[str] = []

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        text = last(messages)
        if text.startswith("Turn"):
            asked.append(text)
            return [wrap(TURNED)]
        if not text.startswith(TURNED):
            return [WRONG] * sampling.n
        return ["\\boxed{5}" if "has x pens" in asked[0] else "\\boxed{3}"] * sampling.n

    rows, _ = world.roll({"rewrite": {"kinds": ["backward"]}}, answer)
    assert "known to be 8" in asked[0] and " x " in asked[0]
    assert [row["passed"] for row in of(rows, "rewritten")] == [True] * 4


@pytest.mark.parametrize(
    ("question", "solutions", "reason"),
    [
        (REPHRASED, [RIGHT, RIGHT, WRONG, WRONG], "rephrase: 2 of 4 solutions agree on the known answer"),
        (REPHRASED, [GARBAGE] * 4, "rephrase: 0 of 4 solutions agree on the known answer"),
        (PENS["question"].upper(), [RIGHT] * 4, "rephrase: the question is the same as before"),
        ("", [RIGHT] * 4, "rephrase: no question between <question> and </question>"),
    ],
)
def test_a_question_that_does_not_enter_leaves_a_row_that_says_why(
    world: World, question: str, solutions: list[str], reason: str
) -> None:
    script = rewriting({REPHRASED: solutions, PENS["question"].upper(): solutions}, {"Rewrite": question})
    rows, _ = world.roll({"rewrite": {"kinds": ["rephrase"]}}, script)
    [row] = of(rows, "rewritten")
    assert row["passed"] is None and row["reason"] == reason and row["text"] == wrap(question)


def test_a_question_that_gives_its_answer_away_does_not_enter(world: World) -> None:
    script = rewriting({}, {"Turn": "Ann has 5 pens and gets 3 more, 8 in all. What is x?"})
    rows, _ = world.roll({"rewrite": {"kinds": ["backward"]}}, script)
    [row] = of(rows, "rewritten")
    assert row["reason"] == "backward: the question gives away what it asks for"


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("She has $5 and 20% of 3.5 kg, 5 times", {"20", "3.5"}),
        ("1,000 of 3/4 at \\frac{1}{2} and x^2, version a7", set()),
        ("Out of 12, 7 are red.", {"12", "7"}),
    ],
)
def test_only_a_number_that_stands_alone_and_once_is_asked_for(question: str, numbers: set[str]) -> None:
    import random

    drawn = {hidden_number(question, random.Random(i)) for i in range(40)}
    assert {match.group() for match in drawn if match is not None} == numbers


# -- steps -----------------------------------------------------------------------------------------------

GOOD_CHAIN = "good start\ngood middle\n\\boxed{8}"
BAD_CHAIN = "good start\nbad middle\n\\boxed{2}"


def go_on(messages: list[Message], sampling: Sampling) -> list[str]:
    if messages[-1]["role"] != "assistant":
        return [GOOD_CHAIN, BAD_CHAIN]
    begun = last(messages)
    if "bad" in begun:
        return ["\n\\boxed{2}"] * sampling.n
    ends = ["\nok\n\\boxed{8}", "\noh\n\\boxed{2}"] if "middle" not in begun else ["\n\\boxed{8}"]
    return [ends[i % len(ends)] for i in range(sampling.n)]


def test_a_step_is_scored_by_what_follows_when_the_policy_goes_on(world: World) -> None:
    rows, engine = world.roll({"steps": {"continuations": 4}}, go_on)
    good, bad = (data(row) for row in of(rows, "answer"))
    assert good["steps"] == {"ends": [10, 22, len(GOOD_CHAIN)], "soft": [0.5, 1.0, 1.0], "hard": [1, 1, 1]}
    assert bad["steps"]["soft"] == [0.5, 0.0, 0.0] and bad["steps"]["hard"] == [1, 0, 0]
    assert (good["step_min"], bad["step_min"]) == (0.5, 0.0)
    assert sum(messages[-1]["role"] == "assistant" for messages in engine.asked) == 4
    kept = of(rows, "continuation")
    # Where continuations differ in outcome one of each is kept: after "good start", of either chain.
    assert [(row["passed"], data(row)["prefix"], data(row)["parent"]) for row in kept] == [
        (True, 10, 0),
        (False, 10, 0),
        (True, 10, 1),
        (False, 10, 1),
    ]
    assert kept[0]["text"] == "good start\nok\n\\boxed{8}" and kept[0]["answers"] is None
    [group] = world.groups(rows)
    assert group.pass_rate == 0.5
    pairs = list(make_pairs("step", [group], {s.id for s in group.right}, 4, 0))
    assert pairs and all(p.chosen.completion.text.startswith("good start\n") for p in pairs)
    assert all(p.rejected.completion.text.startswith("good start\n") for p in pairs)
    steady, _, _ = run_filters(
        make_filters([{"data": {"field": "step_min", "min": 0.25}}]), [{**row, "pass_rate": 0.5} for row in rows]
    )
    assert [row["text"] for row in steady] == [GOOD_CHAIN]


def test_steps_of_chains_that_were_cut_off_or_are_the_same_are_not_scored_twice(world: World) -> None:
    rows, engine = world.roll({"steps": {"continuations": 2, "keep": 0}}, lambda m, s: [GOOD_CHAIN] * s.n, n=3)
    assert ["steps" in data(row) for row in rows] == [True, False, False]
    assert len(engine.asked) == 1 + 2 and len(rows) == 3


@given(st.text(alphabet="ab \n", max_size=60), st.integers(2, 6))
def test_steps_end_in_order_with_the_text_and_no_more_often_than_allowed(text: str, most: int) -> None:
    ends = step_ends(text, r"\n+", most)
    assert ends == sorted(set(ends)) and ends[-1] == len(text) and len(ends) <= most
    assert all(text[:end].strip() and text[:end] == text[:end].rstrip() for end in ends[:-1])
    steps = [line for line in re.split(r"\n+", text) if line.strip()]
    assert len(ends) == min(most, max(1, len(steps)))


# -- code ------------------------------------------------------------------------------------------------


class Subprocess:
    """An executor without a sandbox: what blocks do is then as real as where they run is not safe."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails
        self.closed = 0

    def capabilities(self) -> Capabilities:
        return Capabilities("local", "namespaces", ("python",), 1)

    async def run(self, job: ProgramJob) -> list[Outcome]:
        return [self._one(job)]

    def run_all(self, jobs: list[ProgramJob]) -> list[list[Outcome]]:
        return [[self._one(job)] for job in jobs]

    def close(self) -> None:
        self.closed += 1

    def _one(self, job: ProgramJob) -> Outcome:
        if self._fails:
            return Outcome("infra_error", detail=self._fails)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in job.files.items():
                (Path(folder) / name).write_bytes(content)
            command = [sys.executable, "-I", job.entry]
            try:
                done = subprocess.run(command, cwd=folder, capture_output=True, timeout=job.limits.cpu, check=False)
            except subprocess.TimeoutExpired as late:
                return Outcome("wall", stdout=late.stdout or b"", detail="wall clock")
        return Outcome("exited", exit_code=done.returncode, stdout=done.stdout, stderr=done.stderr)


SANDBOXES = ["subprocess", *(["local"] if hasattr(flywheel.sandbox, "make_executor") else [])]


@pytest.fixture(params=SANDBOXES)
def executor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "subprocess":
        monkeypatch.setattr(notebook, "_make_executor", lambda spec: Subprocess())
    return str(request.param)


def block(code: str, before: str = "") -> str:
    return f"{before}\n```python\n{code}\n```"


@pytest.mark.parametrize("continuous", [True, False])
def test_code_is_run_its_output_is_shown_and_variables_live_on(world: World, executor: str, continuous: bool) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        turns = [m["content"] for m in messages[1:] if m["role"] == "user"]
        if not turns:
            assert "```output" in sampling.stop and "```python" in last(messages)
            return [block("pens = 5\nprint('noise')", "First."), block("1/0"), RIGHT]
        if "noise" in turns[0]:
            return [block("pens + 3")] if len(turns) == 1 else [f"So \\boxed{{{turns[1].split()[1]}}}."]
        return ["\\boxed{8}" if "ZeroDivisionError" in turns[0] else "\\boxed{0}"]

    rows, _ = world.roll({"code": {}}, answer, n=3, continuous=continuous)
    assert [row["passed"] for row in rows] == [True, True, True]
    assert [len(row["messages"]) for row in rows] == [5, 3, 1]
    assert [m["role"] for m in rows[0]["messages"]] == ["assistant", "user", "assistant", "user", "assistant"]
    # Only what the newest block prints is shown.
    assert rows[0]["messages"][3]["content"] == "```output\n8\n```"
    assert (
        "line 1, in <module>" in rows[1]["messages"][1]["content"]
        and "main.py" not in rows[1]["messages"][1]["content"]
    )
    assert [data(row).get("blocks") for row in rows] == [2, 1, None]


def test_an_endless_or_talkative_block_is_cut_and_the_turns_are_counted(world: World, executor: str) -> None:
    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        if len(messages) == 1:
            return [block("while True: pass"), block("print('x' * 5000)")]
        return [block("print(2)")]

    options = {"turns": 2, "timeout": 4, "max_output": 100}
    rows, _ = world.roll({"code": options}, answer)
    assert not any(row["passed"] for row in rows)
    endless, talkative = (row["messages"] for row in rows)
    assert len(endless) == len(talkative) == 1 + 2 * 2
    assert re.search("cpu|wall|signal", endless[1]["content"])
    assert endless[3]["content"] == "```output\n2\n```"  # the endless block is not run again
    assert len(talkative[1]["content"]) < 200 and "4,900 characters" in talkative[1]["content"]


def test_a_sandbox_that_fails_leaves_the_attempt_undecided(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "_make_executor", lambda spec: Subprocess(fails="no space"))
    rows, _ = world.roll({"code": {}}, lambda m, s: [block("print(1)", "\\boxed{8}"), RIGHT])
    assert [row["passed"] for row in rows] == [None, True]
    assert rows[0]["reason"] == "the sandbox failed: no space"


def test_without_a_sandbox_the_check_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(flywheel.sandbox, "make_executor", raising=False)
    [finding] = Kit({"code": {}}, tmp_path).findings()
    assert "rollouts.code: there is no sandbox to run code in" in finding and "leave rollouts.code out" in finding
    assert Kit({}, tmp_path).findings() == []


def test_unlabelled_problems_need_a_vote() -> None:
    assert Kit({"vote": {}}).findings(unlabelled=True) == []
    [finding] = Kit({}).findings(unlabelled=True)
    assert "rollouts.vote" in finding


def test_what_was_started_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = Subprocess()
    monkeypatch.setattr(notebook, "_make_executor", lambda spec: started)
    kit = Kit({"code": {}})
    assert kit.findings() == [] and started.closed == 0
    kit.close()
    kit.close()
    assert started.closed == 1


# -- settings --------------------------------------------------------------------------------------------


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    wrong = {
        "rationalise": {},
        "steps": {"continuation": 3, "split": "("},
        "vote": {"agreement": 2},
        "code": {"turns": 0},
    }
    with pytest.raises(TaskError) as caught:
        load_task("math", {"rollouts": wrong}, tmp_path)
    for part in (
        "rollouts.rationalise: unknown key; did you mean 'rationalize'?",
        "rollouts.steps.continuation: unknown key; did you mean 'continuations'?",
        "rollouts.steps.split: not a regular expression",
        "rollouts.vote.agreement: ",
        "rollouts.code.turns: ",
    ):
        assert part in caught.value.message
    with pytest.raises(TaskError, match="must be a mapping"):
        load_task("math", {"rollouts": ["correct"]}, tmp_path)


def test_prompts_can_be_replaced_one_by_one(world: World) -> None:
    (world.tmp / "mine").mkdir()
    (world.tmp / "mine" / "rationalize.md").write_text("{{ answer }} it is: {{ question }}\n")
    _, engine = world.roll({"rationalize": {}, "prompts": "mine"}, lambda m, s: [WRONG] * s.n)
    assert last(engine.asked[1]) == f"8 it is: {PENS['question']}"


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rationalise.md", "x", "did you mean rationalize.md"),
        ("correct.md", "{{ solution }}", "uses solution, which is not there"),
        ("code.md", "{% if %}", "code.md"),
    ],
)
def test_prompts_that_are_broken_are_named(tmp_path: Path, name: str, content: str, complaint: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError, match=complaint):
        load_task("math", {"rollouts": {"prompts": "."}}, tmp_path)


def test_every_setting_says_what_it_means() -> None:
    for name, field in Rollouts.model_fields.items():
        assert field.description, name


def test_the_same_seeds_give_the_same_rollout(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(PENS) + "\n")
    task = load_task("math", {"dataset": "train.jsonl", "rollouts": EVERYTHING}, tmp_path)
    problem = Problem("p", task.ask(PENS["question"]), data={**PENS})  # type: ignore[attr-defined]

    def once() -> list[Completion]:
        engine = ScriptedEngine(answers={"*": [RIGHT, WRONG, GARBAGE, wrap(REPHRASED), "Score: 1"]})
        return asyncio.run(task.rollout(problem, EnginePolicy(engine, Sampling(n=4), "k")))

    assert once() == once()
    close_task(task)
