"""The code task from end to end: a scripted policy's right, wrong, hostile and garbage answers in the real sandbox."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import test_code_problems as rows

from flywheel.engines import EnginePolicy
from flywheel.engines.scripted import ScriptedEngine
from flywheel.errors import NoAnswer, UserError
from flywheel.sandbox.job import Executor, Job, Outcome
from flywheel.tasks.code import Code
from flywheel.tasks.code.coverage import measure
from flywheel.tasks.code.options import Options, UnitTests
from flywheel.tasks.code.running import Runner
from flywheel.tasks.code.unit_tests import validate
from flywheel.types import Completion, Message, Problem, Sampling, Verdict

RIGHT = """\
def count_rises(readings, limit):
    # A rise needs a predecessor that is not over the limit, or none.
    count = 0
    over = False
    for reading in readings:
        if reading > limit and not over:
            count += 1
        over = reading > limit
    return count
"""
OTHER_WAY = """\
def count_rises(readings, limit):
    flags = [False] + [reading > limit for reading in readings]
    return sum(1 for a, b in zip(flags, flags[1:]) if b and not a)
"""
WRONG = RIGHT.replace("and not over", "")
EXITS = "import os\n\n\ndef count_rises(readings, limit):\n    os._exit(0)\n"
ALWAYS_EQUAL = """\
class Anything(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


def count_rises(readings, limit):
    return Anything(1)
"""
HANGS = "def count_rises(readings, limit):\n    while True:\n        pass\n"
SYNTAX = "def count_rises(readings, limit)\n    return 0\n"
GARBAGE = "I like trains. \x00 ``` [[["
PROPOSAL = """\
Given a list of readings and a limit, count how often the readings rise above the limit. A rise is a reading over the
limit whose predecessor is not over it; the first reading counts as a rise if it is over the limit.

```python
def count_rises(readings: list[int], limit: int) -> int:
    ...
```"""
TESTS = [
    "assert count_rises([], 0) == 0",
    "assert count_rises([1, 5, 6, 2, 7], 4) == 2",
    "assert count_rises([5], 4) == 1",
    "assert count_rises([4], 4) == 0",
    "assert count_rises([9, 1, 9, 1, 9], 3) == 3",
]
BAD_TESTS = ["assert count_rises([5, 5], 4) == 2", "assert 1 == 1", "assert count_rises.__name__ == 'count_rises'"]
JAVASCRIPT = """\
function countRises(readings, limit) {
  let count = 0, over = false;
  for (const reading of readings) {
    if (reading > limit && !over) count += 1;
    over = reading > limit;
  }
  return count;
}
"""
JAVASCRIPT_TESTS = """\
assert.strictEqual(countRises([], 0), 0);
assert.strictEqual(countRises([1, 5, 6, 2, 7], 4), 2);
assert.strictEqual(countRises([5], 4), 1);
assert.strictEqual(countRises([4], 4), 0);
assert.strictEqual(countRises([9, 1, 9, 1, 9], 3), 3);
"""
BROKEN_JAVASCRIPT = JAVASCRIPT.replace("!over", "over")
DOCUMENTED = RIGHT.replace(
    "    # A rise", '    """Count readings over the limit whose predecessor is not."""\n    # A rise'
)
EXPLANATION = "count_rises(readings, limit) returns how many readings are over the limit while the one before is not."


def fenced(code: str, tag: str = "python") -> str:
    return f"Here it is.\n```{tag}\n{code}```\n"


class Script:
    """A policy that answers by what it is asked; ``asked`` keeps every request."""

    def __init__(self, **answers: Sequence[str]) -> None:
        self.answers = {
            "propose": [PROPOSAL],
            "tests": ["```python\n" + "\n".join([*TESTS, *BAD_TESTS]) + "\n```"],
            "solve": [fenced(RIGHT), fenced(OTHER_WAY), fenced(WRONG), fenced(EXITS), fenced(ALWAYS_EQUAL), GARBAGE],
            "revise": ["The state was ignored.\n" + fenced(RIGHT)],
            "translate": [fenced(JAVASCRIPT, "javascript") + fenced(JAVASCRIPT_TESTS, "javascript")],
            "explain": [EXPLANATION],
            "document": [fenced(DOCUMENTED)],
            "debug": [fenced(RIGHT)],
            "recreate": [fenced(OTHER_WAY)],
            "review": ["Correct and clean.\nScore: 2"],
            "fidelity": ["They agree.\nScore: 1"],
            **answers,
        }
        self.asked: list[tuple[str, list[Message]]] = []

    def __call__(self, messages: list[Message], sampling: Sampling) -> list[str]:
        text = messages[-1]["content"]
        kind = next(kind for marker, kind in MARKERS if marker in text)
        self.asked.append((kind, messages))
        turn = sum(k == kind for k, _ in self.asked) - 1
        listed = self.answers[kind]
        return [listed[i] if sampling.n > 1 else listed[min(turn, len(listed) - 1)] for i in range(sampling.n)]

    def policy(self, n: int = 6, *, evaluating: bool = False) -> EnginePolicy:
        return EnginePolicy(ScriptedEngine(answer=self), Sampling(n=n), "key", evaluating)


MARKERS = (
    ("You review code", "review"),
    ("Below are two programs", "fidelity"),
    ("for inspiration", "propose"),
    ("Write unit tests", "tests"),
    ("do not reach all of a solution", "tests"),
    ("Solve this problem", "solve"),
    ("The tests stay as they are", "revise"),
    ("Translate this Python", "translate"),
    ("Explain this", "explain"),
    ("Document this", "document"),
    ("is meant to solve the problem", "debug"),
    ("from this description", "recreate"),
)
ALL: dict[str, Any] = {
    "propose": {"snippets": "snippet.py"},
    "revise": {"turns": 2, "per_problem": 3},
    "translate": {"languages": ["javascript"]},
    "backtranslate": {"per_problem": 3},
    "judge": {},
    "train_on": ["answer", "revision", "translation", "explanation", "documentation", "debugging", "proposal", "tests"],
    "sandbox": {"seconds": 3.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "snippet.py").write_text("last = None\nfor value in values:\n    if value > last:\n        n += 1\n")
    row = {"id": "given", "question": "Count rises of readings over a limit.", "tests": TESTS, "code": RIGHT}
    (tmp_path / "problems.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


@pytest.fixture
def made(folder: Path) -> Iterator[Any]:
    """Makes tasks, and closes them."""
    tasks: list[Code] = []

    def make(**args: Any) -> Code:
        tasks.append(Code(base=folder, **{"heldout": "problems.jsonl", **args}))
        return tasks[-1]

    yield make
    for task in tasks:
        task.close()


def roll(task: Code, problem: Problem, policy: EnginePolicy) -> tuple[list[Completion], list[Verdict]]:
    completions = asyncio.run(task.rollout(problem, policy))
    for completion in completions:
        assert Completion.from_row(completion.to_row()) == completion  # what is kept survives the disk
    return completions, task.verify_many([(problem, completion) for completion in completions])


def of_kind(
    kind: str, completions: Sequence[Completion], verdicts: Sequence[Verdict]
) -> list[tuple[Completion, Verdict]]:
    return [(c, v) for c, v in zip(completions, verdicts, strict=True) if c.kind == kind]


def test_a_snippet_becomes_a_verified_problem_and_every_step_is_kept(made: Any) -> None:
    task = made(**ALL)
    seed = next(task.problems("train"))
    completions, verdicts = roll(task, seed, Script().policy())
    for completion in completions:
        assert all(0 <= parent < len(completions) for parent in completion.data["parents"])
    ((proposal, right),) = of_kind("proposal", completions, verdicts)
    assert right.passed is True
    assert proposal.data["entry_point"] == "count_rises"
    assert proposal.data["topic"] == seed.data["seed"]["topic"]
    ((tests, right),) = of_kind("tests", completions, verdicts)
    assert right.passed is True
    assert tests.data["tests"] == TESTS  # the wrong one, and the two that test nothing, are gone
    assert tests.data["agreeing"] == 2
    assert tests.data["coverage"] == {"lines": 1.0, "branches": 1.0}
    answers = of_kind("answer", completions, verdicts)
    assert [verdict.passed for _, verdict in answers] == [True, True, False, False, False, False]
    assert all(verdict.detail["level"] == "call" for _, verdict in answers[:5])
    assert all(c.prompt is not None and "count_rises" in c.prompt[0]["content"] for c, _ in answers)
    revisions = of_kind("revision", completions, verdicts)
    assert [verdict.passed for _, verdict in revisions] == [True, True, True]
    for revision, _ in revisions:
        (parent,) = revision.data["parents"]
        assert revision.prompt is not None and revision.prompt[-2] == completions[parent].messages[0]
        assert [m["role"] for m in revision.prompt] == ["user", "assistant", "user"]
        assert [m["role"] for m in revision.messages] == ["assistant"]
    for kind in ("translation", "explanation", "documentation", "debugging"):
        ((step, verdict),) = of_kind(kind, completions, verdicts)
        assert verdict.passed is True, (kind, verdict, step.data)
        assert completions[step.data["parents"][0]].kind in ("answer", "revision")
    assert len(of_kind("recreation", completions, verdicts)) == 2
    assert all(v.passed is None for _, v in of_kind("recreation", completions, verdicts))


def test_a_failed_program_s_author_is_told_what_happened(made: Any) -> None:
    task = made(problems="problems.jsonl", revise={"turns": 1, "per_problem": 6})
    problem = next(task.problems("heldout"))
    raises = RIGHT.replace("count = 0", "print('here'); count = 1 // 0")
    script = Script(solve=[fenced(WRONG), fenced(raises), fenced(SYNTAX), GARBAGE])
    completions, verdicts = roll(task, problem, script.policy(4))
    told = [messages[-1]["content"] for kind, messages in script.asked if kind == "revise"]
    assert len(told) == 4
    assert "did not pass" in told[0]
    assert TESTS[1] in told[0]
    assert "ZeroDivisionError" in told[1]
    assert "here" in told[1]
    assert "line 1" in told[2]
    assert "SyntaxError" in told[2]  # what it was run with decides; a parser alone can be mistaken
    assert "no program in the answer" not in told[3]
    conversations = [messages for kind, messages in script.asked if kind == "revise"]
    assert conversations[0][0] == problem.prompt[0]
    assert WRONG in conversations[0][1]["content"]
    assert [c.kind for c in completions] == ["answer"] * 4 + ["revision"] * 4
    assert [v.passed for v in verdicts] == [False] * 4 + [True] * 4
    assert all(c.prompt is None for c in completions[:4])


def test_what_is_learned_is_the_correction_and_not_the_mistake(made: Any) -> None:
    """Llama 3 §4.3.1 trains on dialogues that end well; that a model learns their beginnings, nobody would expect."""
    for learn, roles in (("correction", ["assistant"]), ("dialogue", ["assistant", "user", "assistant"])):
        task = made(problems="problems.jsonl", revise={"turns": 1} if learn == "correction" else {"learn": learn})
        problem = next(task.problems("heldout"))
        completions, verdicts = roll(task, problem, Script(solve=[fenced(WRONG)]).policy(1))
        ((revision, verdict),) = of_kind("revision", completions, verdicts)
        assert verdict.passed is True
        assert [m["role"] for m in revision.messages] == roles
        whole = [*(revision.prompt or problem.prompt), *revision.messages]
        assert [m["role"] for m in whole] == ["user", "assistant", "user", "assistant"]
        assert whole[:2] == [*problem.prompt, completions[0].messages[0]]
        assert any(WRONG in m["content"] for m in revision.messages) == (learn == "dialogue")


def test_what_was_made_before_the_engine_failed_is_kept(made: Any) -> None:
    task = made(problems="problems.jsonl", revise={})
    script = Script(solve=[fenced(WRONG), fenced(RIGHT)])

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        if "The tests stay as they are" in messages[-1]["content"]:
            raise NoAnswer("the server is gone")
        return script(messages, sampling)

    policy = EnginePolicy(ScriptedEngine(answer=answer), Sampling(n=2), "key")
    completions, verdicts = roll(task, next(task.problems("heldout")), policy)
    assert [v.passed for v in verdicts] == [False, True]
    assert completions[0].data["cut_short"] == "the server is gone"


def test_revising_ends_after_so_many_turns_and_cannot_loosen_the_tests(made: Any) -> None:
    task = made(problems="problems.jsonl", revise={"turns": 3, "per_problem": 1})
    problem = next(task.problems("heldout"))
    cheat = fenced(WRONG + "\n\nassert count_rises([5, 5], 4) == 2  # the tests were wrong\n")
    patch = fenced("import builtins\nbuiltins.AssertionError = None\n" + ALWAYS_EQUAL)
    completions, verdicts = roll(task, problem, Script(solve=[fenced(WRONG)], revise=[cheat, patch, cheat]).policy(1))
    assert [c.kind for c in completions] == ["answer", "revision"]
    assert len(completions[1].prompt or []) == 7
    assert completions[1].data["turns"] == 3
    assert [v.passed for v in verdicts] == [False, False]


def test_when_the_policy_is_evaluated_there_are_attempts_and_nothing_else(made: Any) -> None:
    task = made(**ALL)
    script = Script()
    completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(evaluating=True))
    assert {kind for kind, _ in script.asked} == {"solve"}
    assert [c.kind for c in completions] == ["answer"] * 6
    assert [v.passed for v in verdicts] == [True, True, False, False, False, False]
    assert [c.data for c in completions] == [{}] * 6


def test_no_tests_that_can_be_believed_no_verdict(made: Any) -> None:
    task = made(**{**ALL, "unit_tests": {"tries": 2}})
    lonely = [fenced(RIGHT), fenced(WRONG), GARBAGE]
    for answers, says in (
        ({"solve": lonely}, "1 different solutions agree"),
        ({"tests": ["no tests today", GARBAGE]}, "0 usable tests"),
        ({"tests": ["```python\nassert count_rises([], 1) == 0\nassert count_rises([1], 1) == 0\n"
                    "assert count_rises([], 2) == 0\n```"]}, "a stub passes all of them: return 0"),
    ):  # fmt: skip
        completions, verdicts = roll(task, next(task.problems("train")), Script(**answers).policy(3))
        assert [c.kind for c in completions] == ["proposal", "tests", "tests", "answer", "answer", "answer"]
        tried = of_kind("tests", completions, verdicts)
        assert all(v.passed is False and says in v.reason for _, v in tried), [v.reason for _, v in tried]
        assert all(v.passed is None and says in v.reason for _, v in of_kind("answer", completions, verdicts))
        task = made(**{**ALL, "unit_tests": {"tries": 2}})


def test_tests_that_miss_a_branch_are_asked_for_more(made: Any) -> None:
    task = made(**ALL)
    few = [t for t in TESTS if "5, 6" not in t and "[9" not in t]
    more = [t for t in TESTS if t not in few]
    first = ["assert count_rises([], 0) == 0", "assert count_rises([], 5) == 0", "assert count_rises([], -5) == 0"]
    script = Script(tests=["\n".join([*first, "assert count_rises([7], 5) == 1"]), "\n".join([*few, *more])])
    task.options = task.options.model_copy(update={"unit_tests": UnitTests(line_coverage=1.0, branch_coverage=1.0)})
    completions, verdicts = roll(task, next(task.problems("train")), script.policy())
    tried = of_kind("tests", completions, verdicts)
    assert [v.passed for _, v in tried] == [False, True]
    assert "branches" in tried[0][1].reason
    assert "never past its body" in [m for k, m in script.asked if k == "tests"][1][-1]["content"]
    assert set(tried[1][0].data["tests"]) == {*first, "assert count_rises([7], 5) == 1", *few, *more}


def test_a_proposal_is_refused_if_it_is_nearly_known(made: Any) -> None:
    task = made(**ALL)
    seeds = task.problems("train")
    first, _ = roll(task, next(seeds), Script().policy(2))
    assert first[0].data.get("why_not") is None
    completions, verdicts = roll(task, next(seeds), Script().policy(2))
    assert [c.kind for c in completions] == ["proposal", "proposal"]
    assert all(v.passed is False and "word 3-grams" in v.reason for v in verdicts)
    completions, verdicts = roll(task, next(seeds), Script(propose=["Nope.", GARBAGE]).policy(2))
    assert all(v.passed is False and "code block" in v.reason for v in verdicts)


def test_what_the_judge_does_not_like_is_revised_and_else_half_right(made: Any) -> None:
    task = made(problems="problems.jsonl", judge={}, revise={"turns": 1, "per_problem": 1})
    problem = next(task.problems("heldout"))
    reviews = ["Names are poor.\nScore: 1", "Better.\nScore: 2"]
    script = Script(solve=[fenced(RIGHT), fenced(RIGHT)], review=reviews, revise=[fenced(OTHER_WAY)])
    completions, verdicts = roll(task, problem, script.policy(1))
    assert [c.kind for c in completions] == ["answer", "revision"]
    assert [v.score for v in verdicts] == [0.5, 1.0]
    assert verdicts[0].detail["judge"] == 1.0
    assert "Names are poor" in (completions[1].prompt or [])[-1]["content"]
    task = made(problems="problems.jsonl", judge={}, revise={"turns": 3, "per_problem": 1})
    reviews = ["Names are poor.\nScore: 1", "Not yet.\nScore: 1", "Better.\nScore: 2"]
    script = Script(
        solve=[fenced(RIGHT)], review=reviews, revise=[fenced(DOCUMENTED), fenced(WRONG), fenced(OTHER_WAY)]
    )
    completions, verdicts = roll(task, problem, script.policy(1))
    assert [c.kind for c in completions] == ["answer", "revision", "revision"]  # revised until it pleases
    assert [v.score for v in verdicts] == [0.5, 0.5, 1.0]
    assert len(completions[2].prompt or []) == 7
    unreadable = Script(solve=[fenced(RIGHT)], review=["Fine, I think."])
    _, verdicts = roll(task, problem, unreadable.policy(1))
    assert verdicts[0].passed is None


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        ({"translate": [fenced(BROKEN_JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")]}, "translation", ""),
        ({"translate": [fenced(JAVASCRIPT, "js")]}, "translation", "no second block"),
        ({"translate": [GARBAGE]}, "translation", ""),
        ({"explain": [f"It runs this:\n{fenced(RIGHT)}"]}, "explanation", "quotes the code"),
        ({"recreate": [fenced(WRONG)]}, "explanation", ""),
        ({"fidelity": ["They differ.\nScore: 0"]}, "explanation", "fidelity gives 0"),
        ({"document": [fenced(RIGHT)]}, "documentation", "no docstring"),
        ({"document": [fenced(DOCUMENTED.replace("+= 1", "+= 2"))]}, "documentation", "changes more"),
        ({"debug": ["There is no bug."]}, "debugging", "gives no program"),
        ({"debug": [fenced(WRONG)]}, "debugging", ""),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_wrong_and_says_why(
    made: Any, answers: dict[str, list[str]], kind: str, says: str
) -> None:
    languages = {"translate": {"languages": ["javascript"], "turns": 0}} if kind == "translation" else {}
    way = {"explanation": "explain", "documentation": "document", "debugging": "debug"}.get(kind)
    back = {"backtranslate": {"ways": [way]}} if way else {}
    task = made(problems="problems.jsonl", **languages, **back)
    problem = next(task.problems("heldout"))
    completions, verdicts = roll(task, problem, Script(solve=[fenced(RIGHT)], **answers).policy(1))
    ((_, verdict),) = of_kind(kind, completions, verdicts)
    assert verdict.passed is False
    assert says in verdict.reason


def test_other_tests_than_the_python_program_s_say_nothing_of_a_translation(made: Any) -> None:
    task = made(problems="problems.jsonl", translate={"languages": ["javascript"], "turns": 0})
    weaker = JAVASCRIPT_TESTS.replace("assert.strictEqual", "assert.notStrictEqual", 1)
    for tests in ("countRises(1); // 5 6 2 7 9\n", weaker):
        answer = fenced(JAVASCRIPT, "js") + fenced(tests, "js")
        completions, verdicts = roll(
            task, next(task.problems("heldout")), Script(solve=[fenced(RIGHT)], translate=[answer]).policy(1)
        )
        ((_, verdict),) = of_kind("translation", completions, verdicts)
        assert verdict.score is None and "not those of the Python program" in verdict.reason


def test_a_translation_that_fails_is_revised_with_its_tests(made: Any) -> None:
    task = made(problems="problems.jsonl", translate={"languages": ["javascript"]})
    wrong = fenced(BROKEN_JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")
    mended = fenced(JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")
    script = Script(solve=[fenced(RIGHT)], translate=[wrong], revise=[mended])
    completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(1))
    ((translation, verdict),) = of_kind("translation", completions, verdicts)
    assert verdict.passed is True
    assert [m["role"] for m in translation.prompt or []] == ["user", "assistant", "user"]
    assert len(translation.messages) == 1
    assert translation.data["spec"]["tests"] == JAVASCRIPT_TESTS


def test_a_translation_s_tests_are_frozen_once_they_have_run(made: Any) -> None:
    task = made(problems="problems.jsonl", translate={"languages": ["javascript"], "turns": 2})
    wrong = fenced(BROKEN_JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")
    looser = fenced(BROKEN_JAVASCRIPT, "js") + fenced("assert.strictEqual(countRises([], 0), 0);\n", "js")
    for first, says in ((wrong, "Expected values"), (looser, "1 assertions about count_rises, and the Python ones 5")):
        script = Script(solve=[fenced(RIGHT)], translate=[first], revise=[looser, fenced(JAVASCRIPT, "js")])
        completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(1))
        ((_, verdict),) = of_kind("translation", completions, verdicts)
        told = [messages[-1]["content"] for kind, messages in script.asked if kind == "revise"]
        assert says in told[0]
        assert ("Give both blocks again" in told[0]) == (first is looser)
        assert verdict.passed is (first is wrong)  # held against the Python tests, the looser ones count for nothing


DERIVED = {"translation", "explanation", "documentation", "debugging"}


@pytest.mark.parametrize(
    ("asked", "absent", "undecided"),
    [
        ("explain", {"explanation"}, set()),
        ("document", {"documentation"}, set()),
        ("debug", {"debugging"}, set()),
        ("translate", {"translation"}, set()),
        ("recreate", set(), {"explanation", "documentation"}),
        ("fidelity", set(), {"explanation", "documentation", "debugging"}),
        ("review", DERIVED, {"answer"}),  # they are made of what was approved
    ],
)
@pytest.mark.parametrize("fails", [True, False])
def test_a_request_without_an_answer_makes_nothing_wrong_and_nothing_right(
    made: Any, asked: str, absent: set[str], undecided: set[str], fails: bool
) -> None:
    knobs = {"judge": {}, "revise": {}, "translate": {"languages": ["javascript"]}, "backtranslate": {"per_problem": 3}}
    task = made(problems="problems.jsonl", **knobs)
    script = Script(solve=[fenced(RIGHT), fenced(RIGHT)])
    completions, verdicts = roll(task, next(task.problems("heldout")), without(script, asked, fails))
    found = {c.kind: v.passed for c, v in zip(completions, verdicts, strict=True) if c.kind != "recreation"}
    kinds = ({"answer"} | DERIVED) - absent
    assert found == {kind: None if kind in undecided else True for kind in kinds}


def without(script: Script, asked: str, fails: bool, n: int = 2) -> EnginePolicy:
    """The script, with an engine that has no answer to one kind of request: it says so, or gives what stands for it."""

    class Missing(ScriptedEngine):
        async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
            found = await super().chat(messages, sampling)
            if script.asked[-1][0] != asked:
                return found
            if fails:
                raise NoAnswer("the prompt is too long")
            return [Completion.missing("aborted")] * len(found)

    return EnginePolicy(Missing(answer=script), Sampling(n=n), "key")


def test_a_dialogue_that_gets_no_answer_keeps_what_it_came_to_and_the_judge_is_asked_all_the_same(made: Any) -> None:
    task = made(problems="problems.jsonl", judge={}, revise={"turns": 3})
    script = Script(
        solve=[fenced(RIGHT), fenced(WRONG)], revise=[fenced(WRONG + "# again\n")], review=["Ugly.\nScore: 1"]
    )

    def answer(messages: list[Message], sampling: Sampling) -> list[str]:
        told = script(messages, sampling)
        if script.asked[-1][0] == "revise" and (len(messages) > 3 or "reviewer" in messages[-1]["content"]):
            raise NoAnswer("the prompt is too long")
        return told

    policy = EnginePolicy(ScriptedEngine(answer=answer), Sampling(n=2), "key")
    completions, verdicts = roll(task, next(task.problems("heldout")), policy)
    assert [c.kind for c in completions] == ["answer", "answer", "revision"]
    assert [v.score for v in verdicts] == [0.5, 0.0, 0.0]
    assert completions[2].data["cut_short"] == completions[0].data["cut_short"] == "the prompt is too long"
    assert completions[2].data["turns"] == 1


@pytest.mark.parametrize(
    ("asked", "kinds"),
    [
        ("propose", ["proposal"] * 2),
        ("solve", ["proposal"] + ["answer"] * 2),
        ("tests", ["proposal", "tests"] + ["answer"] * 2),
    ],
)
@pytest.mark.parametrize("fails", [True, False])
def test_a_seed_keeps_what_it_has_when_a_request_gets_no_answer(
    made: Any, asked: str, kinds: list[str], fails: bool
) -> None:
    task = made(**ALL)
    completions, verdicts = roll(task, next(task.problems("train")), without(Script(), asked, fails))
    assert [c.kind for c in completions] == kinds
    assert all(v.passed is (True if c.kind == "proposal" and asked != "propose" else None)
               for c, v in zip(completions, verdicts, strict=True))  # fmt: skip


def test_a_reasoning_model_s_thoughts_are_not_read(made: Any) -> None:
    thought = "<think>\nPerhaps:\n" + fenced(WRONG) + fenced(BROKEN_JAVASCRIPT, "js") + "\n</think>\n"
    back = {"ways": ["explain"]}
    task = made(problems="problems.jsonl", translate={"languages": ["javascript"]}, backtranslate=back)
    answers = {k: [thought + Script().answers[k][0]] for k in ("explain", "translate", "recreate")}
    script = Script(solve=[thought + fenced(RIGHT)], **answers)
    completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(1))
    assert {c.kind for c in completions} == {"answer", "translation", "explanation", "recreation"}
    assert all(v.passed for c, v in zip(completions, verdicts, strict=True) if c.kind != "recreation")
    assert "think" not in next(m for k, m in script.asked if k == "recreate")[-1]["content"]


def test_what_a_compiler_takes_is_not_wrong_because_a_parser_does_not(made: Any) -> None:
    macro = "#define FOR(i, n) for (int i = 0; i < (n); ++i)\n#include <vector>\n"
    program = macro + (
        "int count_rises(std::vector<int> xs, int limit) {\n  int count = 0;\n"
        "  FOR(i, (int)xs.size()) if (xs[i] > limit && (i == 0 || xs[i - 1] <= limit)) count += 1;\n"
        "  return count;\n}\n"
    )
    tests = "".join(t.replace("assert ", "assert(").replace("[", "{").replace("]", "}") + ");\n" for t in TESTS)
    task = made(problems="problems.jsonl", translate={"languages": ["cpp"]})
    script = Script(solve=[fenced(RIGHT)], translate=[fenced(program, "cpp") + fenced(tests, "cpp")])
    completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(1))
    ((_, verdict),) = of_kind("translation", completions, verdicts)
    assert verdict.passed is True, verdict


def test_programs_in_the_language_that_the_recipe_names(made: Any, folder: Path) -> None:
    row = {"id": "sum", "question": "Add the numbers.", "inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
    own = {**row, "id": "own", "question": "Add them all.", "tests": rows.CASES, "language": "python"}
    (folder / "sums.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(own) + "\n")
    task = made(problems="sums.jsonl", heldout="problems.jsonl", language="bash", revise={"turns": 1})
    given, named = sorted(task.problems("train"), key=lambda problem: problem.id, reverse=True)
    assert "in bash" in given.prompt[0]["content"] and "in python" in named.prompt[0]["content"]
    script = Script(solve=[fenced("read a b; echo $((a * b))\n", "bash")],
                    revise=[fenced("read a b; echo $((10#$a + b))\n", "bash")])  # fmt: skip
    completions, verdicts = roll(task, given, script.policy(1))
    assert [v.passed for v in verdicts] == [False, True], verdicts
    assert "```bash block" in (completions[1].prompt or [])[-1]["content"]
    for wrong, says in (
        ({"language": "cpp", "propose": {"snippets": "snippet.py"}}, "solved and tested in Python"),
        ({"translate": {"languages": ["python"]}}, "what is translated from"),
        ({"translate": {"languages": ["php", "sql"]}}, "sql has no functions"),
    ):
        with pytest.raises(ValueError, match=says):
            Code(**wrong)


@pytest.mark.parametrize("slow", [0, 1])
def test_an_engine_that_is_not_continuous_is_asked_in_one_order_however_long_programs_run(made: Any, slow: int) -> None:
    task = made(problems="problems.jsonl", revise={}, translate={"languages": ["javascript"]})
    problem = next(task.problems("heldout"))
    asked: list[int] = []

    def policy(number: int) -> EnginePolicy:
        sleeps = f"import time\ntime.sleep({0.5 if number == slow else 0})\n"
        script = Script(solve=[fenced(sleeps + WRONG)])

        def answer(messages: list[Message], sampling: Sampling) -> list[str]:
            asked.append(number)
            return script(messages, sampling)

        made = EnginePolicy(ScriptedEngine(answer=answer), Sampling(n=1), "key")
        made.continuous = False
        return made

    async def both() -> None:
        await asyncio.gather(*(task.rollout(problem, policy(number)) for number in (0, 1)))

    asyncio.run(both())
    assert asked == [0, 1] * 3  # attempts, revisions, translations


def test_programs_that_hang_flood_or_die_are_wrong_and_nothing_is_left_of_them(made: Any) -> None:
    task = made(problems="problems.jsonl", sandbox={"seconds": 1.0})
    problem = next(task.problems("heldout"))
    floods = "def count_rises(readings, limit):\n    while True:\n        print('x' * 100000)\n"
    eats = "def count_rises(readings, limit):\n    return len(bytearray(8 << 30))\n"
    kills = "import os\n\n\ndef count_rises(readings, limit):\n    os.kill(os.getpid(), 9)\n"
    programs = [HANGS, floods, eats, kills, EXITS, ALWAYS_EQUAL, RIGHT]
    verdicts = task.verify_many([(problem, Completion.of(fenced(program))) for program in programs])
    assert [v.passed for v in verdicts] == [False] * 6 + [True]
    assert all(v.reason for v in verdicts[:6])


def test_kinds_that_are_not_trained_on_are_kept_for_their_lineage_only(made: Any) -> None:
    task = made(**{**ALL, "train_on": ["revision"]})
    completions, verdicts = roll(task, next(task.problems("train")), Script().policy())
    for completion, verdict in zip(completions, verdicts, strict=True):
        if completion.kind not in ("answer", "revision"):
            assert verdict.passed is None
            assert "lineage" in verdict.reason


ADDS = "print(sum(map(int, input().split())))\n"
PYTEST = {
    "question": "Negate.",
    "test": "from solution import negate\n\n\ndef test_it():\n    assert negate(1) == -1\n",
}
METHOD = "class Solution:\n    def total(self, nums: List[int], k) -> int:\n        return sum(nums) + k"
JS_ROW = {
    "name": "HumanEval_1_f",
    "language": "js",
    "prompt": "//Add.\nfunction f(a, b){\n",
    "tests": "const assert = require('node:assert');\n\nfunction test() {\n  let candidate = f;\n"
    "  assert.deepEqual(candidate(1, 2),3);\n}\n\ntest();",
    "stop_tokens": ["\nfunction "],
}


@pytest.mark.parametrize(
    ("row", "right", "wrong", "level"),
    [
        (rows.ADD, "    return helper(a) + b", "    return helper(a) - b", "call"),
        ({**rows.ADD, "test": rows.ADD_TESTS}, "    return helper(a) + b", "    return helper(a) - b", "tests"),
        (rows.HUMAN_EVAL_X, "    return helper(a) + b", "    pass", "call"),
        (rows.MBPP, "def double(x):\n    return x + x", "def double(x):\n    return x * x", "call"),
        (rows.MBPP_PLUS, "def double(x):\n    return x + x", "def double(x):\n    return min(4, x + x)", "tests"),
        (rows.BIG_CODE_BENCH, "    return n", "    return 2", "tests"),
        (rows.LCB_STDIO, ADDS, "print(3)", "stdio"),
        (rows.LCB_CALL, METHOD, "def total(nums, k):\n    return k", "call"),
        (rows.LCB_CALL, "def total(nums, k):\n    return sum(nums) + k", "class Solution: pass", "call"),
        (rows.APPS, "print(eval('+'.join(open(0).read().split())))", "print(3)", "stdio"),
        (rows.APPS_CALL, "add = lambda a, b: a + b", "add = 3", "call"),
        (rows.CONTEST, ADDS, ADDS.replace("sum", "max"), "stdio"),
        ({"problem": "Add.", "tests": rows.CASES}, ADDS, "", "stdio"),
        (rows.ASSERTS, "def negate(x):\n    return -x", "def negate(x):\n    return x", "call"),
        (rows.TEST_FILE, "def negate(x):\n    return -x", "def negate(x):\n    return x", "tests"),
        (PYTEST, "def negate(x):\n    return -x", "def negate(x):\n    return x", "tests"),
        (JS_ROW, "  return a + b;\n}", "  process.exit(0);\n}", "tests"),
    ],
)  # fmt: skip
def test_every_format_is_run(runner_of: Code, row: dict[str, Any], right: str, wrong: str, level: str) -> None:
    problem = runner_of.read_problem(row, 1)
    verdicts = runner_of.verify_many([(problem, Completion.of(text)) for text in (right, wrong)])
    assert [v.passed for v in verdicts] == [True, False], verdicts
    assert verdicts[0].detail["level"] == level


@pytest.fixture(scope="module")
def runner_of() -> Iterator[Code]:
    task = Code()
    yield task
    task.close()


def test_a_machine_that_cannot_isolate_is_named_at_check(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.sandbox.isolation.ways", list)
    found = made(problems="problems.jsonl").findings()
    assert any("programs cannot be isolated here" in finding and "apt-get install" in finding for finding in found), (
        found
    )


def test_a_sandbox_that_is_not_there_is_one_message(made: Any) -> None:
    task = made(problems="problems.jsonl", sandbox={"executor": "remote", "extra": {"servers": ["http://127.0.0.1:9"]}})
    problem = next(task.problems("heldout"))
    (finding,) = [found for found in task.findings() if "127.0.0.1:9" in found]
    assert "flywheel serve-sandbox" in finding
    with pytest.raises(UserError, match="no sandbox server answers"):
        task.open()
    (verdict,) = task.verify_many([(problem, Completion.of(fenced(RIGHT)))])
    assert verdict.score is None and "127.0.0.1:9" in verdict.reason


def test_a_language_that_is_not_installed_leaves_its_own_programs_undecided(
    made: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lua = {"language": "lua", "question": "Negate.", "prompt": "local function f(x)\n", "test": "assert(f(1) == -1)"}
    rows = [(tmp_path / "problems.jsonl").read_text(), json.dumps(lua)]
    (tmp_path / "two.jsonl").write_text("".join(rows))
    task = made(problems="problems.jsonl", heldout="two.jsonl")
    asks = [(problem, Completion.of(fenced(RIGHT))) for problem in task.problems("heldout")]
    monkeypatch.setattr("flywheel.sandbox.local.installed", lambda name: name != "lua")
    monkeypatch.setattr("flywheel.sandbox.local.missing", lambda names: ["lua programs cannot be run here"])
    python, other = task.verify_many(asks)
    assert python.passed is True
    assert other.score is None and "lua programs cannot be run here" in other.reason


class Dying:
    """An executor whose machine goes away under it."""

    def __init__(self, inner: Executor) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run_all(self, jobs: Any) -> list[list[Outcome]]:
        return [[Outcome("infra_error", detail="the machine is gone")] * len(job.stdin) for job in jobs]

    async def run(self, job: Job) -> list[Outcome]:
        return self.run_all([job])[0]

    async def submit(self, batch: Sequence[Job]) -> AsyncIterator[Outcome]:
        for number, outcomes in enumerate(self.run_all(batch)):
            for case, outcome in enumerate(outcomes):
                yield outcome.at(number, case)


def test_a_sandbox_that_dies_leaves_completions_undecided_and_unrevised(made: Any) -> None:
    task = made(problems="problems.jsonl", revise={})
    problem = next(task.problems("heldout"))
    task.runner._executor = Dying(task.runner.executor)
    completions, verdicts = roll(task, problem, Script().policy(4))
    assert [c.kind for c in completions] == ["answer"] * 4
    assert [v.passed for v in verdicts] == [None] * 4
    assert all("the machine is gone" in v.reason for v in verdicts)


def test_coverage_counts_lines_and_branches_of_functions() -> None:
    program = (
        "import math\n\n\n"
        "def f(x):\n"
        '    """Doc."""\n'
        "    if x > 3:\n"
        "        return 1\n"
        "    for i in range(x):\n"
        "        if i == 2:\n"
        "            break\n"
        "    return math.floor(x)\n"
    )
    runner = Runner(Options())
    try:
        some = asyncio.run(measure(runner, program, ["assert f(4) == 1"]))
        every = asyncio.run(measure(runner, program, ["assert f(4) == 1", "assert f(3) == 3", "assert f(0) == 0"]))
        none = asyncio.run(measure(runner, "import os\nos._exit(0)\n", []))
    finally:
        runner.close()
    assert some is not None
    assert every is not None
    assert (some.lines, some.all_lines, some.branches, some.all_branches) == (2, 5, 1, 6)
    assert "line 8: for i in range(x):" in some.missed
    assert (every.line_share, every.branch_share) == (1.0, 1.0)
    assert none is None


def test_only_lines_that_can_be_reached_are_counted() -> None:
    program = (
        "def f(x):\n    total: int\n    total = 0\n    if (\n        x > 3\n        and x < 9\n    ):\n"
        "        total = max(\n            x,\n            5,\n        )\n    return total\n"
    )
    runner = Runner(Options())
    try:
        found = asyncio.run(measure(runner, program, ["assert f(4) == 5", "assert f(1) == 0"]))
        some = asyncio.run(measure(runner, program, ["assert f(1) == 0"]))
    finally:
        runner.close()
    assert found is not None and some is not None
    assert (found.lines, found.all_lines, found.missed) == (4, 4, ())
    assert (some.lines, some.missed) == (3, ("line 8: total = max(",))


def test_solutions_that_differ_in_comments_alone_do_not_agree(made: Any) -> None:
    task = made(**ALL)
    same = [fenced(RIGHT), fenced(RIGHT + "# done\n"), fenced(DOCUMENTED)]
    completions, verdicts = roll(task, next(task.problems("train")), Script(solve=same).policy(3))
    assert "1 different solutions agree" in of_kind("tests", completions, verdicts)[0][1].reason


def test_validation_is_by_agreement_and_not_by_majority_of_one() -> None:
    runner = Runner(Options())
    try:
        few = UnitTests(min_kept=2, agreement=2, line_coverage=0, branch_coverage=0)
        found = asyncio.run(validate(runner, [*TESTS, BAD_TESTS[0]], [WRONG, RIGHT, OTHER_WAY], "count_rises", few))
        assert found.why_not is None
        assert list(found.tests) == TESTS
        assert found.agreeing == (1, 2)
        alone = asyncio.run(validate(runner, TESTS, [RIGHT], "count_rises", few))
        assert alone.why_not == "1 different solutions agree on the tests, not 2"
    finally:
        runner.close()
