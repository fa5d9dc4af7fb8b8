"""Code problems: rows of public datasets are read as they are, and the program in a completion is found."""

from __future__ import annotations

import ast
import base64
import gzip
import json
import pickle
import random
import time
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flywheel.errors import DataError, FlywheelError, TaskError
from flywheel.recipe_file import load_recipe
from flywheel.tasks import load_task
from flywheel.tasks.code import Code
from flywheel.tasks.code.asserts import as_cases, called, check_cases
from flywheel.tasks.code.backtranslation import _documented, _explained
from flywheel.tasks.code.duplicates import NearDuplicates
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.formats import read_row
from flywheel.tasks.code.mutate import mutants
from flywheel.tasks.code.options import Options, Proposals
from flywheel.tasks.code.prompts import FIELDS as PROMPTS
from flywheel.tasks.code.prompts import Prompts
from flywheel.tasks.code.proposals import Seeds, read_proposal
from flywheel.tasks.code.spec import Case, Spec
from flywheel.tasks.code.translation import read_translation
from flywheel.tasks.code.unit_tests import assertions

HUMAN_EVAL = Path(__file__).parents[2] / "shared" / "data" / "HumanEval.jsonl.gz"
ADD = {
    "task_id": "HumanEval/900",
    "prompt": "from typing import List\n\n\ndef helper(x):\n    return x\n\n\n"
    'def add(a: int, b: int) -> int:\n    """ Sum. """\n',
    "entry_point": "add",
    "canonical_solution": "    return helper(a) + b\n",
    "test": "METADATA = {}\n\n\ndef check(candidate):\n"
    "    assert candidate(1, 2) == 3\n    assert candidate(2, 2) == 4\n",
}
ADD_TESTS = "def check(candidate):\n    for i in range(3):\n        assert candidate(i, 1) == i + 1\n"
MBPP = {
    "task_id": 11,
    "text": "Write a function to double.",
    "code": "def double(x):\n    return 2 * x",
    "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": ["assert double(-1) == -2"],
}
MULTIPL_E = {
    "name": "HumanEval_23_strlen",
    "language": "lua",
    "prompt": "-- Length.\nlocal function strlen(string)\n",
    "doctests": "transform",
    "tests": "lu = require('luaunit')\nlu.assertEquals(strlen('abc'), 3)\n",
    "stop_tokens": ["\nlocal", "\nfunction", "\n--", "\n\n"],
}
CASES = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 5\n", "output": "10\n"}]
LCB_STDIO = {
    "question_title": "A",
    "question_content": "Add two numbers.",
    "question_id": "1873_A",
    "public_test_cases": json.dumps([{**CASES[0], "testtype": "stdin"}]),
    "private_test_cases": base64.b64encode(
        zlib.compress(pickle.dumps(json.dumps([{**CASES[1], "testtype": "stdin"}])))
    ).decode(),
    "starter_code": "",
    "metadata": "{}",
}
LCB_CALL = {
    "question_content": "Sum the list.",
    "question_id": "3001",
    "starter_code": "class Solution:\n    def total(self, nums: List[int]) -> int:\n        ",
    "public_test_cases": [{"input": "[1, 2]\n3", "output": "6", "testtype": "functional"}],
    "private_test_cases": "[]",
    "metadata": {"func_name": "total"},
}
APPS = {
    "problem_id": 7,
    "question": "Add.",
    "solutions": json.dumps(["a, b = map(int, input().split())\nprint(a + b)"]),
    "input_output": json.dumps({"inputs": ["1 2\n", ["3", "4"]], "outputs": ["3\n", "7"]}),
}
APPS_CALL = {"question": "Add.", "input_output": {"fn_name": "add", "inputs": [[1, 2], [0, 0]], "outputs": [[3], [0]]}}
CONTEST = {
    "name": "1_A. Sum",
    "description": "Add.",
    "public_tests": {"input": ["1 2"], "output": ["3"]},
    "private_tests": {"input": ["4 4"], "output": ["8"]},
    "solutions": {"language": [2, 3], "solution": ["int main(){}", "print(sum(map(int, input().split())))"]},
}
ASSERTS = {"question": "Negate.", "tests": ["assert negate(1) == -1", "assert negate(0) == 0"]}
TEST_FILE = {"instruction": "Negate.", "test": "def test_negate():\n    assert negate(1) == -1\n", "solution": "x"}
HUMAN_EVAL_PACK = {
    "task_id": "JavaScript/3",
    "prompt": "const f = (x) => {\n",
    "canonical_solution": "  return x;\n}\n",
    "entry_point": "f",
    "test": "console.assert(f(1) === 1)",
}
HUMAN_EVAL_X = {
    "task_id": "Python/900",
    **{key: ADD[key] for key in ("prompt", "canonical_solution")},
    "test": str(ADD["test"]) + "\ncheck(add)\n",
}
MBPP_PLUS = {
    **MBPP,
    "test": "import numpy as np\nfor i in range(99):\n    assert double(i) == 2 * i\n",
    "test_imports": [],
}
BIG_CODE_BENCH = {
    "task_id": "BigCodeBench/0",
    "complete_prompt": "import random\ndef task_func(n):\n",
    "instruct_prompt": "Write it.",
    "canonical_solution": "    return n\n",
    "test": "import unittest\nclass TestCases(unittest.TestCase):\n"
    "    def test_a(self):\n        self.assertEqual(task_func(1), 1)\n",
    "entry_point": "task_func",
}


@pytest.mark.parametrize(
    ("row", "format", "level", "language", "entry", "cases"),
    [
        (ADD, "humaneval", "call", "python", "add", 2),
        ({**ADD, "test": ADD_TESTS}, "humaneval", "tests", "python", "add", 0),
        (MBPP, "mbpp", "call", "python", "double", 3),
        ({**MBPP, "test_list": ["assert set(double((1,))) == {2}"]}, "mbpp", "tests", "python", "double", 0),
        (MULTIPL_E, "multipl-e", "tests", "lua", None, 0),
        (LCB_STDIO, "livecodebench", "stdio", "python", None, 2),
        (LCB_CALL, "livecodebench", "call", "python", "Solution.total", 1),
        (APPS, "apps", "stdio", "python", None, 2),
        (APPS_CALL, "apps", "call", "python", "add", 2),
        (CONTEST, "contest", "stdio", "python", None, 2),
        (ASSERTS, "asserts", "call", "python", "negate", 2),
        ({**ASSERTS, "tests": "\n".join(ASSERTS["tests"])}, "asserts", "call", "python", "negate", 2),
        ({**ASSERTS, "language": "en"}, "asserts", "call", "python", "negate", 2),
        ({**ASSERTS, "language": "lua", "tests": "assert(negate(1) == -1)"}, "testfile", "tests", "lua", None, 0),
        (
            {**ASSERTS, "language": "js", "tests": ["assert(negate(1) === -1)"]},
            "testfile",
            "tests",
            "javascript",
            None,
            0,
        ),
        (TEST_FILE, "testfile", "tests", "python", None, 0),
        ({**TEST_FILE, "language": "en"}, "testfile", "tests", "python", None, 0),
        ({"problem": "Add.", "tests": CASES}, "cases", "stdio", "python", None, 2),
        ({"problem": "Add.", "inputs": ["1 2"], "outputs": ["3"]}, "cases", "stdio", "python", None, 1),
        (HUMAN_EVAL_PACK, "humaneval", "tests", "javascript", "f", 0),
        (HUMAN_EVAL_X, "humaneval", "call", "python", "add", 2),
        (MBPP_PLUS, "mbpp", "tests", "python", "double", 0),
        (BIG_CODE_BENCH, "humaneval", "tests", "python", "task_func", 0),
    ],
)
def test_a_row_s_format_shows_in_its_fields_and_is_tested_at_the_strongest_level(
    row: dict[str, Any], format: str, level: str, language: str, entry: str | None, cases: int
) -> None:
    read = read_row(row)
    found = (read.format, read.spec.level, read.spec.language, read.spec.entry_point, len(read.spec.cases))
    assert found == (format, level, language, entry, cases)
    data = json.loads(json.dumps(read.spec.to_data()))
    assert Spec.from_data(data).to_data() == data


def test_what_a_row_knows_is_kept() -> None:
    assert read_row(LCB_CALL).spec.cases[0].input == [[1, 2], 3]
    assert read_row(APPS_CALL).spec.cases[0].output == 3
    lists = read_row({"question": "[x]", "entry_point": "f", "inputs": [[1], [2]], "outputs": [[1], [2]]}).spec
    assert [case.output for case in lists.cases] == [[1], [2]]
    assert read_row(APPS).spec.cases[1].input == "3\n4\n"
    assert read_row(CONTEST).gold == "print(sum(map(int, input().split())))"
    assert read_row(ADD).gold == ADD["prompt"] + ADD["canonical_solution"]
    assert (read_row(ADD).id, read_row(MBPP).id, read_row(ASSERTS).id[:8]) == ("HumanEval/900", "mbpp/11", "asserts-")
    assert read_row(MBPP).shown == ("assert double(2) == 4", "assert double(0) == 0")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "x"}, "no known format of code problems in the fields question"),
        ({**ADD, "test": "def check(candidate:\n"}, "`test` is not Python (line 1)"),
        ({**ADD, "prompt": 3}, "`prompt` must be text, not int"),
        ({**MBPP, "test_list": []}, "`test_list` is empty"),
        ({**MBPP, "test_list": ["assert f(1) == ", "x"]}, "`test_list, test 1` is not Python"),
        ({**MBPP, "test_list": "not json"}, "`test_list` is not a list"),
        ({**MBPP, "text": ""}, "nothing is asked"),
        ({**MULTIPL_E, "language": "cobol"}, "no language is called 'cobol'"),
        ({**LCB_STDIO, "private_test_cases": "AAAA"}, "neither JSON nor LiveCodeBench's packed form"),
        ({**LCB_STDIO, "public_test_cases": '[{"input": "1"}]'}, "case 1 is not an object with `input` and `output`"),
        ({**LCB_CALL, "metadata": {}, "starter_code": ""}, "its cases call a function"),
        ({**APPS, "input_output": "{"}, ""),
        ({**APPS, "input_output": {"inputs": ["1"], "outputs": []}}, "there are 1 inputs and 0 outputs"),
        ({"question": "x", "tests": ["assert 1 == 1"]}, "call no function"),
        ({**MBPP, "test_setup_code": "root = Node("}, "`test_setup_code` is not Python (line 1)"),
        ({"prompt": "x", "base_input": [[1]], "plus_input": []}, "EvalPlus's own files have inputs without outputs"),
    ],
)
def test_a_broken_row_says_what_is_wrong(row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError) as raised:
        read_row(row)
    assert says in str(raised.value)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("called",)


def test_packed_cases_may_not_call_anything(capsys: pytest.CaptureFixture[str]) -> None:
    packed = base64.b64encode(zlib.compress(pickle.dumps(_Evil()))).decode()
    with pytest.raises(ValueError, match=r"a pickle that wants builtins\.print"):
        read_row({**LCB_STDIO, "private_test_cases": packed})
    assert capsys.readouterr().out == ""


TEXTS = (
    "assert f(1) == 2",
    "def check(candidate):\n    assert candidate(1) == 2\n",
    "python",
    "js",
    "[1, 2]",
    '{"a": 1}',
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    *("test", "tests", "entry_point", "prompt", "complete_prompt", "question", "test_list", "input_output"),
    *("public_test_cases", "private_tests", "public_tests", "inputs", "outputs", "language", "starter_code"),
    *("canonical_solution", "task_id", "test_setup_code", "test_imports", "test_setup", "setup", "solutions"),
    *("challenge_test_list", "stop_tokens", "asserts", "cases", "test_code", "metadata", "name", "fn_name"),
)
FIELD = st.sampled_from(FIELDS)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(FIELD, JSON, max_size=6))
def test_whatever_a_row_holds_it_is_read_or_refused_with_a_reason(row: dict[str, Any]) -> None:
    try:
        read = read_row(row)
    except ValueError:
        return
    Spec.from_data(json.loads(json.dumps(read.spec.to_data())))


def test_assertions_are_taken_apart_only_where_nothing_is_lost() -> None:
    assert called(["assert sorted(f(1)) == [1]", "assert f(2) == g(1)"]) == "f"
    (case,) = as_cases(["assert f([1], {'a': (2,)}) == {3}"], "f") or []
    assert (case.input, case.output) == ([[1], {"a": (2,)}], {3})
    for more in (
        "assert f(x=1) == 1",
        "assert f(1) < 2",
        "assert f(y) == 1",
        "assert not f(1)",
        "f(1)",
        "assert f(1) is 3",
    ):
        assert as_cases([more], "f") is None
    assert as_cases(["assert f(1) is None"], "f") is not None
    assert as_cases(["assert f(1) == float('nan')", "assert f(1) == 1e999"], "f") is None
    assert check_cases("import math\n" + ADD["test"], "add") is None


# -- extraction ----------------------------------------------------------------------------------

ADD_SPEC = read_row(ADD).spec
WHOLE = "def add(a, b):\n    return helper(a) + b\n"


def runs(text: str, spec: Spec = ADD_SPEC) -> int:
    space: dict[str, Any] = {}
    exec(program_of(text, spec), space)
    result: int = space["add"](20, 22)
    return result


@pytest.mark.parametrize(
    "text",
    [
        "    return helper(a) + b\n",
        "    return helper(a) + b\n\n\ndef other():\n    return )\n",
        "return helper(a) + b",
        "    total = helper(a)\n    return total + b\n# Example:\n>>> add(1, 2)",
        WHOLE,
        f"Here it is:\n```python\n{WHOLE}```\nIt adds.",
        f"```\n{WHOLE}```",
        f"```py\n{WHOLE}",
        f"```python\n{WHOLE}```\nFor example:\n```python\nprint(add(1, 2))\n```",
        f"```bash\npip install x\n```\n```python\n{WHOLE}```",
        f"<think>\n```python\ndef add(a, b):\n    return 0\n```\n</think>\n```python\n{WHOLE}```",
        f"~~~python\n{WHOLE}~~~",
        "```python\n    return helper(a) + b\n```",
        WHOLE.replace("\n", "\r\n"),
    ],
)
def test_the_program_is_found_in_any_usual_answer(text: str) -> None:
    assert runs(text) == 42


def test_prose_around_bare_code_is_left_out() -> None:
    spec = Spec("call", "python", "add")
    assert runs("Sure, here is the function:\n\ndef add(a, b):\n    return a + b\n\nI hope this helps!", spec) == 42
    assert program_of("I do not know.", spec) == "I do not know."


def test_other_languages_are_continued_or_taken_whole() -> None:
    spec = read_row(MULTIPL_E).spec
    assert program_of("    return #string\nend\n\nlocal x = 1", spec) == MULTIPL_E["prompt"] + "    return #string\nend"
    whole = "local function strlen(string)\n  return #string\nend\n"
    assert program_of(f"```lua\n{whole}```", spec) == "-- Length.\n" + whole


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.text(st.sampled_from("`~ab: \n\tdef()python#'\"\\"), max_size=200))
def test_no_text_is_too_odd(text: str) -> None:
    assert isinstance(program_of(text, ADD_SPEC), str)
    assert isinstance(program_of(text, read_row(MULTIPL_E).spec), str)


ANSWERS = st.text(st.sampled_from("`~ab1: \n\t=def()[]{}python#'\"\\@assert"), max_size=300)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(ANSWERS)
def test_no_answer_is_too_odd_for_what_a_rollout_makes_of_it(text: str) -> None:
    assert isinstance(assertions(text, "a"), list)
    assert isinstance(read_translation(text, "javascript", ADD_SPEC).program, str)
    _explained(text, WHOLE)
    _documented(f"```python\n{text}\n```", WHOLE)
    with suppress(ValueError):
        read_proposal(text, Proposals(snippets=".", min_words=1))
    with suppress(ValueError):
        read_proposal(f"Do it.\n```python\n{text}\n```", Proposals(snippets=".", min_words=1))


@pytest.mark.parametrize("depth", [80, 400, 900, 5000, 50_000])
def test_nothing_is_too_deep(depth: int) -> None:
    for open_, close in (("-", ""), ("(", ")"), ("[", "]"), ("not ", ""), ("lambda: ", "")):
        deep = f"{open_ * depth}1{close * depth}"
        program_of(f"```python\ndef add(a, b):\n    return {deep}\n```", ADD_SPEC)
        assertions(f"assert a({deep}) == 1", "a")
        read_translation(f"```js\nf({deep})\n```\n```js\nadd({deep})\n```", "javascript", ADD_SPEC)
        _documented(f'```python\ndef f(x={deep}):\n    """Doc."""\n    return {deep}\n```', WHOLE)
        with suppress(ValueError):
            read_row({**ASSERTS, "tests": [f"assert f({deep}) == {deep}"]})
        with suppress(ValueError):
            text = f"Do it now.\n```python\ndef f(x: {deep}): ...\n```"
            read_proposal(text, Proposals(snippets=".", min_words=1))


# -- the dataset ---------------------------------------------------------------------------------


def write_jsonl(path: Path, rows: list[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**ASSERTS, "question": f"Negate, variant {i}.", "id": f"n{i}"} for i in range(count)]


def test_a_hash_of_the_content_holds_problems_out_and_a_file_of_them_wins(tmp_path: Path) -> None:
    rows = numbered(80)
    task = load_task("code", {"problems": write_jsonl(tmp_path / "p.jsonl", rows)})
    train, heldout = ({p.id for p in task.problems(split)} for split in ("train", "heldout"))
    assert train.isdisjoint(heldout)
    assert len(train | heldout) == 80
    assert 2 <= len(heldout) <= 25
    again = load_task("code", {"problems": write_jsonl(tmp_path / "q.jsonl", rows[::-1])})
    assert {p.id for p in again.problems("heldout")} == heldout
    mine = write_jsonl(tmp_path / "h.jsonl", [*rows[:5], {**ASSERTS, "question": "New.", "id": "new"}])
    both = load_task("code", {"problems": "p.jsonl", "heldout": mine}, tmp_path)
    assert len(list(both.problems("heldout"))) == 6
    assert {p.id for p in both.problems("train")} == {f"n{i}" for i in range(5, 80)}


def test_broken_rows_are_named_by_their_numbers_all_at_once(tmp_path: Path) -> None:
    rows: list[Any] = [ADD, "{", {"question": "x"}, {**MBPP, "test_list": []}]
    args = {"problems": write_jsonl(tmp_path / "p.jsonl", rows)}
    with pytest.raises(DataError) as raised:
        list(load_task("code", args).problems("train"))
    assert "3 of 4 problem rows are broken" in raised.value.message
    for number in (2, 3, 4):
        assert f"p.jsonl, row {number}: " in raised.value.message
    assert "skip_broken" in str(raised.value.hint)
    kept = load_task("code", {**args, "skip_broken": True})
    assert [p.id for split in ("train", "heldout") for p in kept.problems(split)] == ["HumanEval/900"]


def test_fields_can_be_renamed_and_ids_of_two_datasets_may_clash(tmp_path: Path) -> None:
    strange = [{"ask": "Negate.", "checks": ASSERTS["tests"], "id": "1"}]
    write_jsonl(tmp_path / "a.jsonl", strange)
    task = load_task("code", {"problems": "a.jsonl", "fields": {"question": "ask", "tests": "checks"}}, tmp_path)
    assert len([*task.problems("train"), *task.problems("heldout")]) == 1
    for name, text in (("b", "One."), ("c", "Two.")):
        write_jsonl(tmp_path / f"{name}.jsonl", [{**ASSERTS, "question": text, "id": "1"}])
    two = load_task("code", {"problems": ["b.jsonl", "c.jsonl"]}, tmp_path)
    assert len({p.id for split in ("train", "heldout") for p in two.problems(split)}) == 2


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "there are no problems"),
        ({"problem": "x"}, "problem: unknown argument"),
        ({"problems": "nowhere.jsonl"}, "there is no file or folder nowhere.jsonl"),
        ({"propose": {"snippets": "."}}, "have no held-out ones"),
        ({"problems": "x.jsonl", "translate": {"languages": ["cobol"]}}, "no language is called 'cobol'"),
        ({"problems": "x.jsonl", "revise": {"turns": 0}}, "revise.turns"),
        ({"problems": "x.jsonl", "train_on": ["answers"]}, "no kind is called answers"),
        ({"problems": "x.jsonl", "prompts": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_a_wrong_argument_is_one_message(args: dict[str, Any], says: str) -> None:
    with pytest.raises(FlywheelError) as raised:
        list(load_task("code", args).problems("train"))
    assert says in raised.value.message


def test_prompts_are_files_that_can_be_replaced(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "p.jsonl", numbered(3))
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "solve.md").write_text("Bitte löse: {{ question }}")
    task = load_task("code", {"problems": rows, "prompts": "prompts"}, tmp_path)
    asked = [p.prompt[0]["content"] for split in ("train", "heldout") for p in task.problems(split)]
    assert sorted(asked) == [f"Bitte löse: Negate, variant {i}." for i in range(3)]
    for name, text, says in (
        ("solve.md", "{{ qestion }}", "it uses qestion"),
        ("solve.md", "{{ question", "solve.md"),
        ("slove.md", "x", "did you mean solve.md"),
    ):
        folder = tmp_path / "bad"
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        (folder / name).write_text(text)
        with pytest.raises(TaskError, match=says):
            Prompts(folder)


def test_every_prompt_is_shipped_and_uses_what_it_is_given() -> None:
    prompts = Prompts()
    for name, fields in PROMPTS.items():
        text = prompts.text(
            name, **{field: [f"<{field}>"] if field in ("tests", "findings") else f"<{field}>" for field in fields}
        )
        missing = [field for field in fields if f"<{field}>" not in text and field not in ("entry_point", "failed")]
        assert not missing, f"{name} does not use {missing}"


def test_the_style_raw_asks_with_the_bare_beginning(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [ADD])
    task = load_task("code", {"problems": path, "heldout": path, "style": "raw"})
    (problem,) = task.problems("heldout")
    assert problem.prompt[0]["content"] == ADD["prompt"]
    assert problem.gold == ADD["canonical_solution"]


@pytest.mark.skipif(not HUMAN_EVAL.exists(), reason="../shared/data is not here")
def test_humaneval_is_read_whole() -> None:
    rows = [json.loads(line) for line in gzip.decompress(HUMAN_EVAL.read_bytes()).splitlines()]
    for row in rows:
        read = read_row(row)
        assert program_of(row["canonical_solution"], read.spec) == row["prompt"] + row["canonical_solution"]
        fenced = f"```python\n{row['prompt']}{row['canonical_solution']}```"
        compile(program_of(fenced, read.spec), row["task_id"], "exec")
    levels = [read_row(row).spec.level for row in rows]
    assert levels.count("call") >= 140


# -- what rollouts are made of -------------------------------------------------------------------

PROPOSAL = """\
Given a list of readings and a limit, count how often the readings rise above the limit. A rise is a reading over the
limit whose predecessor is not over it; the first reading counts as a rise if it is over the limit.

For example, `count_rises([1, 5, 6, 2, 7], 4)` is 2.

```python
def count_rises(readings: list[int], limit: int) -> int:
    ...
```"""


def test_a_proposal_is_a_statement_and_a_signature() -> None:
    found = read_proposal(f"<think>hm</think>{PROPOSAL}\n", Proposals(snippets="."))
    assert found.entry_point == "count_rises"
    assert found.question.startswith("Given a list of readings")
    assert found.question.endswith("def count_rises(readings: list[int], limit: int) -> int:\n    ...\n```")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not end with a code block"),
        ("Write a function.", "does not end with a code block"),
        (PROPOSAL.replace("...", "return sum(r > limit for r in readings)"), "a solution, not a signature"),
        (PROPOSAL.replace("    ...\n", "    ...\n\nprint(1)\n"), "not the signature of one function"),
        (PROPOSAL.replace("def count_rises(", "def count rises("), "not Python"),
        (PROPOSAL.replace("count_rises", "sum"), "cannot be called sum"),
        (PROPOSAL.replace("readings: list[int], limit: int", ""), "takes no arguments"),
        (PROPOSAL.replace("Given a list", "Like the above snippet, given a list"), "refers to the snippet"),
        ("Count rises.\n\n```python\ndef f(x): ...\n```", "it has 2 words"),
        (
            PROPOSAL.replace("For example", "```python\ndef count_rises(r, l):\n    return 1\n```\nFor example"),
            "gives a solution away",
        ),
    ],
)
def test_a_proposal_that_is_not_usable_says_why(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_proposal(text, Proposals(snippets="."))


def test_near_duplicates_are_found_by_what_they_share() -> None:
    known = NearDuplicates()
    known.add("a", "Count how often the readings rise above the limit.")
    known.add("b", "Sort the words of a text by their length, then by the alphabet.")
    name, share = known.nearest("count how often the READINGS rise above a limit") or ("", 0.0)
    assert name == "a"
    assert 0.4 < share < 1.0
    assert known.nearest("Count how often the readings rise above the limit.") == ("a", 1.0)
    assert known.nearest("Entirely other things") is None


def test_seeds_are_snippets_and_topics_and_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.py").write_text("\n".join(f"    x{i} = {i}" for i in range(40)))
    (tmp_path / "src" / "b.js").write_text("let a = 1;\nlet b = 2;\nlet c = a + b;\n")
    (tmp_path / "src" / "data.bin").write_bytes(b"\x00\xff")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"code": "a = 1\nb = 2\nc = 3\n"}) + "\n")
    (tmp_path / "topics.txt").write_text("# a comment\nknots\nflags\n")
    for snippets in ("src", "src/a.py", "rows.jsonl"):
        options = Proposals(snippets=snippets, topics="topics.txt")
        seeds = list(islice(Seeds(options, Prompts(), tmp_path, 0), 50))
        assert seeds == list(islice(Seeds(options, Prompts(), tmp_path, 0), 50))
        assert len({seed.id for seed in seeds}) == 50
        assert {seed.data["seed"]["topic"] for seed in seeds} == {"knots", "flags"}
        assert all(3 <= len(seed.data["seed"]["snippet"].splitlines()) <= 15 for seed in seeds)
        assert all(seed.data["seed"]["snippet"] in seed.prompt[0]["content"] for seed in seeds)
    for bad in ("topics.txt", "nowhere"):
        with pytest.raises(FlywheelError):
            Seeds(Proposals(snippets=bad, topics="nowhere"), Prompts(), tmp_path, 0)


def test_the_train_split_strews_seeds_among_the_given(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "p.jsonl", numbered(20))
    (tmp_path / "a.py").write_text("a = 1\nb = 2\nc = 3\n")
    args = {"problems": "p.jsonl", "propose": {"snippets": "a.py", "share": 0.25}}
    drawn = list(islice(load_task("code", args, tmp_path).problems("train"), 200))
    assert sum("seed" in problem.data for problem in drawn) == 50
    assert all("seed" not in p.data for p in load_task("code", args, tmp_path).problems("heldout"))


def test_mutants_differ_in_one_place() -> None:
    program = 'def f(x: int = 3) -> int:\n    """Doc 1."""\n    return x + 1 if x < 2 and x else -x\n'
    found = list(mutants(program))
    assert len(found) == len(set(found)) == 7
    assert all(text != program for text in found)
    assert any("x - 1" in text for text in found)
    assert any("x <= 2" in text for text in found)
    assert any("x < 2 or x" in text for text in found)


def test_few_of_many_mutants_cost_little() -> None:
    program = f"T = {list(range(3000))}\ndef f(x):\n    return T[x] + 1\n"
    start = time.perf_counter()
    some = list(mutants(program, 5, random.Random(0)))
    assert time.perf_counter() - start < 5
    assert len(set(some)) == 5 and ast.unparse(ast.parse(program)) + "\n" not in some
    assert some == list(mutants(program, 5, random.Random(0)))


def test_a_letter_of_a_text_may_be_what_is_wrong() -> None:
    program = "def f(s):\n    'Doc.'\n    return s in 'aeiou' or f'{s}!' == ''\n"
    found = "".join(mutants(program))
    assert all(part in found for part in ("'aeio'", "f'{s}'", "== ' '"))
    assert "'Doc'" not in found


def test_tests_are_the_assertions_that_call_the_function() -> None:
    text = (
        "```python\n# Tests\nassert f(1) == 2, 'one'\nassert f(1) == 2\nassert True\nprint(f(2))\nassert g(f(3))\n```"
    )
    assert assertions(text, "f") == ["assert f(1) == 2", "assert g(f(3))"]
    assert assertions("assert f(1) == \nassert f(2) == 3\nthat is all", "f") == ["assert f(2) == 3"]
    assert assertions("nothing", "f") == []


def test_a_translation_may_not_leave_tests_out() -> None:
    spec = Spec("call", "python", "f", cases=[Case([1], -1)])
    good = "```javascript\nfunction f(x) { return -x; }\n```\n```javascript\nassert(f(1) === -1);\n```"
    assert read_translation(good, "javascript", spec).fault is None
    for text, says in (
        (good.replace("f(1) === -1", "1 === 1"), "do not call f"),
        (good.split("```\n```")[0] + "```", "no second block"),
        (good.replace("f(1)", "f(2)"), "all the values, and no others, of assert f(1) == -1"),
        (good.replace("-1)", "1)"), "all the values, and no others, of assert f(1) == -1"),
        (good.replace("-1)", "-1 || 5)"), "all the values, and no others, of assert f(1) == -1"),
        ("", "there is no program"),
    ):
        assert says in str(read_translation(text, "javascript", spec).fault)


@pytest.mark.parametrize("name", ["code", "code_tiny"])
def test_the_shipped_recipes_name_arguments_that_there_are(name: str) -> None:
    recipe = load_recipe(Path(__file__).parents[1] / "recipes" / f"{name}.yaml")
    load_task(recipe.task.use, recipe.task.args)


def test_options_say_all_errors_at_once() -> None:
    with pytest.raises(ValueError, match=r"sandbox.executor.*; .*unknown"):
        Code(sandbox={"executor": "none"}, unknown=1)
    assert Options().train_on == ["answer", "revision", "translation", "explanation", "documentation", "debugging"]
