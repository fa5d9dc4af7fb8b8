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
    assert "did not pass" not in told[2]
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
    assert completions[-1].data["cut_short"] == "the server is gone"


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
    unreadable = Script(solve=[fenced(RIGHT)], review=["Fine, I think."])
    _, verdicts = roll(task, problem, unreadable.policy(1))
    assert verdicts[0].passed is None


@pytest.mark.parametrize(
    ("answers", "kind", "says"),
    [
        ({"translate": [fenced(BROKEN_JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")]}, "translation", ""),
        ({"translate": [fenced(JAVASCRIPT, "js")]}, "translation", "no second block"),
        ({"translate": [fenced(JAVASCRIPT, "js") + fenced("countRises(1); // 5 6 2 7 9\n", "js")]}, "translation", ""),
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


def test_a_translation_that_fails_is_revised_with_its_tests(made: Any) -> None:
    task = made(problems="problems.jsonl", translate={"languages": ["javascript"]})
    wrong = fenced(BROKEN_JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")
    mended = fenced(JAVASCRIPT, "js") + fenced(JAVASCRIPT_TESTS, "js")
    script = Script(solve=[fenced(RIGHT)], translate=[wrong], revise=[mended])
    completions, verdicts = roll(task, next(task.problems("heldout")), script.policy(1))
    ((translation, verdict),) = of_kind("translation", completions, verdicts)
    assert verdict.passed is True
    assert [m["role"] for m in translation.prompt or []] == ["user", "assistant", "user"]
    assert "Give both blocks again" in (translation.prompt or [])[-1]["content"]
    assert len(translation.messages) == 1


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
        task.verify_many([(problem, Completion.of(fenced(RIGHT)))])


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
