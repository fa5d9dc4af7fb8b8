"""Code on the command line: `flywheel grade` with the real sandbox, `flywheel check` on bad input, a whole run."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, TINY, flywheel
from test_code_problems import ADD, MBPP, numbered, write_jsonl
from test_code_task import EXITS, GARBAGE, OTHER_WAY, PROPOSAL, RIGHT, TESTS, WRONG, fenced

from flywheel.files import read_rows
from flywheel.sandbox.languages import LANGUAGES, installed
from flywheel.tasks import close_task, load_task
from flywheel.tasks.check import check_task
from flywheel.tasks.code import Code
from flywheel.tasks.code.mutate import mutants
from flywheel.tasks.code.options import Options, Proposals
from flywheel.tasks.code.prompts import Prompts
from flywheel.tasks.code.proposals import read_proposal

HUMAN_EVAL = ROOT.parent / "shared" / "data" / "HumanEval.jsonl.gz"
needs_data = pytest.mark.skipif(not HUMAN_EVAL.exists(), reason="../shared/data is not here")


def human_eval() -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(HUMAN_EVAL.read_bytes()).splitlines()]


def graded(file: str, problems: Path | str, *more: str) -> dict[str, Any]:
    done = flywheel("grade", "--task", "code", "--problems", problems, file, "--json", *more)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


@needs_data
@pytest.mark.slow
def test_humaneval_s_solutions_pass_and_empty_bodies_do_not(tmp_path: Path) -> None:
    rows = human_eval()
    right = [{"task_id": r["task_id"], "completion": r["canonical_solution"]} for r in rows]
    facts = graded(write_jsonl(tmp_path / "right.jsonl", right), HUMAN_EVAL, "--out", str(tmp_path / "out.jsonl"))
    assert (facts["n"], facts["passed"], facts["failed"], facts["undecided"]) == (164, 164, 0, 0)
    levels = [json.loads(line)["detail"]["level"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert levels.count("call") >= 140
    assert set(levels) == {"call", "tests"}
    whole = [{"task_id": r["task_id"], "solution": r["prompt"] + r["canonical_solution"]} for r in rows]
    assert graded(write_jsonl(tmp_path / "whole.jsonl", whole), HUMAN_EVAL)["passed"] == 164
    empty = [
        {"task_id": r["task_id"], "completion": f"    {body}\n"}
        for r in rows
        for body in ("return None", "raise NotImplementedError", "pass")
    ]
    facts = graded(write_jsonl(tmp_path / "empty.jsonl", empty), HUMAN_EVAL)
    assert (facts["passed"], facts["failed"], facts["undecided"]) == (0, 492, 0)


@needs_data
@pytest.mark.slow
def test_altered_solutions_pass_only_where_the_tests_cannot_tell(tmp_path: Path) -> None:
    """What the plain test file tells apart, run by Python itself, must not be accepted."""
    rows, told_apart = [], []
    for row in human_eval()[::4]:
        for program in list(mutants(row["prompt"] + row["canonical_solution"]))[:4]:
            rows.append({"task_id": row["task_id"], "solution": program})
            told_apart.append(row)
    out = tmp_path / "out.jsonl"
    graded(write_jsonl(tmp_path / "in.jsonl", rows), HUMAN_EVAL, "--out", str(out), "--timeout", "4")
    accepted = [
        (row, given)
        for row, given in zip(told_apart, map(json.loads, out.read_text().splitlines()), strict=True)
        if given["passed"]
    ]
    assert len(accepted) < len(rows) / 2
    for row, given in accepted:  # the sandbox has let these run to their end: they are safe to run here
        space: dict[str, Any] = {}
        exec(f"{given['solution']}\n{row['test']}\ncheck({row['entry_point']})\n", space)


def test_grade_reads_every_form_of_rows(tmp_path: Path) -> None:
    problems = [ADD, MBPP]
    answers = [
        {"task_id": "HumanEval/900", "completion": ADD["canonical_solution"]},
        {"task_id": 11, "solution": MBPP["code"]},
        {"task_id": "mbpp/11", "completion": fenced(MBPP["code"].replace("2 *", "3 *") + "\n")},
        {"problem_id": "HumanEval/900", "completion": GARBAGE},
    ]
    expected = {"n": 4, "passed": 2, "failed": 2, "undecided": 0}
    plain = write_jsonl(tmp_path / "in.jsonl", answers)
    table = pa.Table.from_pylist([{**ADD, "task_id": "HumanEval/900"}])
    pq.write_table(table, tmp_path / "one.parquet")
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(Path(write_jsonl(tmp_path / "p.jsonl", problems)).read_bytes()))
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    for file, given in ((plain, "p.jsonl"), (plain, "p.jsonl.gz"), (str(tmp_path / "in.jsonl.gz"), "p.jsonl.gz")):
        facts = graded(file, tmp_path / given)
        assert {key: facts[key] for key in expected} == expected
        assert facts["per_second"] > 0
    one = write_jsonl(tmp_path / "one.jsonl", answers[:1])
    assert graded(one, tmp_path / "one.parquet")["passed"] == 1
    own = write_jsonl(tmp_path / "own.jsonl", [{**ADD, "completion": ADD["canonical_solution"]}])
    done = flywheel("grade", "--task", "code", own)
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout
    assert "per second" in done.stdout


def test_grade_names_bad_rows_of_either_file(tmp_path: Path) -> None:
    bad = write_jsonl(tmp_path / "bad.jsonl", [ADD, {**MBPP, "test_list": ["assert f("]}, "{"])
    done = flywheel("grade", "--task", "code", "--problems", bad, write_jsonl(tmp_path / "in.jsonl", []))
    assert done.returncode == 1
    assert "bad.jsonl, line 2: `test_list, test 1` is not Python" in done.stderr
    assert "bad.jsonl, line 3: not JSON" in done.stderr
    rows = [{"task_id": "HumanEval/901", "completion": "x"}, {"task_id": "HumanEval/900"}, {"completion": "x"}]
    good = write_jsonl(tmp_path / "good.jsonl", [ADD])
    done = flywheel("grade", "--task", "code", "--problems", good, write_jsonl(tmp_path / "in.jsonl", rows))
    assert done.returncode == 1
    for says in ("line 1: no problem 'HumanEval/901'", "line 2: no `completion`", "line 3: no `problem_id`"):
        assert says in done.stderr
    assert "Traceback" not in done.stderr


# -- check ---------------------------------------------------------------------------------------

RECIPE: dict[str, Any] = {
    "name": "codetest",
    "model": {**TINY, "config": {**TINY["config"], "max_position_embeddings": 2048}},
    "rounds": 1,
    "warmup": {"problems": 8, "epochs": 1, "max_length": 2048, "threads": 1},
    "sample": {
        "problems": 6,
        "completions": 4,
        "max_tokens": 8,
        "engine": {"use": "scripted", "extra": {"script": "script.json"}},
    },
    "curate": ["exact_duplicates"],
    "pairs": {"strategy": ["right_vs_wrong", "revised_vs_first"]},
    "sft": {"max_length": 2048, "batch_size": 8, "threads": 1, "learning_rate": 1e-3},
    "dpo": {"max_length": 2048, "batch_size": 8, "threads": 1},
    "evaluate": {"problems": 2, "completions": 2},
    "promote": {"test": "always"},
}


VACUOUS = {"tests": ["assert negate or 1", "assert negate"], "entry_point": "negate", "code": "negate = 1"}


BAD_LUA = {
    "language": "lua",
    "tests": "assert(f(1) == 1",
    "canonical_solution": "  return x\nend\n",
    "stop_tokens": [],
}


def write_recipe(folder: Path, **args: Any) -> Path:
    (folder / "script.json").write_text("{}")
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump({**RECIPE, "task": {"use": "code", "args": args}}))
    return file


@pytest.mark.parametrize(
    ("rows", "args", "says"),
    [
        ([*numbered(30), {"question": "x"}], {}, "row 31: no known format of code problems"),
        ([*numbered(30), {**MBPP, "test_list": ["assert ("]}], {}, "row 31: `test_list, test 1` is not Python"),
        ([{**row, "code": "def negate(x):\n    return x"} for row in numbered(30)], {}, "does not accept the gold"),
        ([{**row, **VACUOUS} for row in numbered(30)], {}, "accepts the wrong answer"),
        (numbered(30), {"judge": {"rubric": "code_corectness"}}, "there is no rubric 'code_corectness'"),
        (numbered(30), {"sandbox": {"extra": {"slot": 2}}}, "has no option 'slot'"),
        (numbered(30), {"propose": {"snippets": "nowhere.py"}}, "there is no file or folder nowhere.py"),
        ([{**BAD_LUA, "name": f"lua{i}", "prompt": f"-- {i}\nlocal function f(x)\n"} for i in range(30)], {},
         "cannot be used"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_before_anything_is_trained(
    tmp_path: Path, rows: list[Any], args: dict[str, Any], says: str
) -> None:
    write_jsonl(tmp_path / "problems.jsonl", rows)
    task = load_task("code", {"problems": "problems.jsonl", **args}, tmp_path)
    try:
        found = check_task(task, needs_demonstrations=False)
    finally:
        close_task(task)
    assert any(says in finding for finding in found), found


@pytest.mark.slow
def test_check_names_broken_rows_and_languages_that_are_not_installed(tmp_path: Path) -> None:
    languages = [name for name in LANGUAGES if name not in ("python", "sql")]
    lacking = [name for name in languages if not installed(name)]
    good = [{**r, "code": "def negate(x):\n    return -x"} for r in numbered(30)]
    write_jsonl(tmp_path / "problems.jsonl", [*good, "{"])
    done = flywheel("check", write_recipe(tmp_path, problems="problems.jsonl"))
    assert done.returncode == 1
    assert "problems.jsonl, row 31: not JSON" in done.stderr
    assert "Traceback" not in done.stderr
    write_jsonl(tmp_path / "problems.jsonl", good)
    done = flywheel("check", write_recipe(tmp_path, problems="problems.jsonl", translate={"languages": languages}))
    assert done.returncode == (1 if lacking else 0), done.stderr + done.stdout
    for name in lacking:
        assert f"{name} programs cannot be run here" in done.stderr
        assert "apt-get install" in done.stderr


# -- a whole run ---------------------------------------------------------------------------------


def scripted(folder: Path, questions: list[str], args: dict[str, Any]) -> dict[str, list[str]]:
    """What the teacher says, by the last message that it is sent."""
    prompts = Prompts()
    rules = prompts.text("rules", language="python")

    def solve(question: str, **shown: Any) -> str:
        return prompts.text("solve", language="python", question=question, rules=rules, starter="", **shown)

    tried = [fenced(RIGHT), fenced(OTHER_WAY), fenced(WRONG), fenced(EXITS), GARBAGE]
    answers = {solve(q, entry_point="count_rises", tests=TESTS[:1]): tried for q in questions}
    seeds = [p for p in islice(Code(base=folder, **args).problems("train"), 16) if "seed" in p.data]
    proposed = read_proposal(PROPOSAL, Proposals(snippets=".")).question
    tests = prompts.text("tests", question=proposed, entry_point="count_rises", count=8)
    return {
        **answers,
        **{seed.prompt[0]["content"]: [PROPOSAL] for seed in seeds},
        solve(proposed): [fenced(RIGHT), fenced(OTHER_WAY)],
        tests: ["\n".join(TESTS)],
        "*": ["Mended.\n" + fenced(RIGHT)],
    }


@pytest.mark.slow
def test_a_run_keeps_dialogues_that_end_well_and_prefers_what_they_end_with(tmp_path: Path) -> None:
    questions = [f"Count rises of readings over a limit, variant {i}." for i in range(24)]
    rows = [{"id": f"r{i}", "question": q, "tests": TESTS, "code": RIGHT} for i, q in enumerate(questions)]
    write_jsonl(tmp_path / "problems.jsonl", rows)
    (tmp_path / "snippet.py").write_text("last = None\nfor value in values:\n    if value > last:\n        n += 1\n")
    args = {
        "problems": "problems.jsonl",
        "propose": {"snippets": "snippet.py", "share": 0.34},
        "revise": {"turns": 1},
        "sandbox": {"seconds": 3.0},
    }
    recipe = write_recipe(tmp_path, **args)
    (tmp_path / "script.json").write_text(json.dumps(scripted(tmp_path, questions, args)))
    done = flywheel("run", recipe, "--run-dir", tmp_path / "run", timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout
    round1 = tmp_path / "run" / "rounds" / "001"
    samples = {row["sample_id"]: row for row in read_rows(round1 / "samples")}
    verdicts = {row["sample_id"]: row for row in read_rows(round1 / "verdicts")}
    revisions = [row for row in samples.values() if row["kind"] == "revision"]
    assert revisions
    for row in revisions:
        assert verdicts[row["sample_id"]]["passed"] is True
        (parent,) = json.loads(row["data"])["parents"]
        first = samples[row["sample_id"].rpartition("-")[0] + f"-{parent}"]
        assert first["messages"][0] == row["answers"][1]
        assert verdicts[first["sample_id"]]["passed"] is False
    assert all(json.loads(v["detail"])["level"] == "call" for v in verdicts.values() if v["passed"])
    proposals = [row for row in samples.values() if row["kind"] == "proposal"]
    refused = [row for row in proposals if "why_not" in json.loads(row["data"])]
    assert len(refused) < len(proposals)
    (source,) = {row["problem_id"] for row in proposals} - {row["problem_id"] for row in refused}
    (tests,) = [row for row in samples.values() if row["kind"] == "tests"]
    assert json.loads(tests["data"])["tests"] == TESTS
    assert all("word 3-grams" in json.loads(row["data"])["why_not"] for row in refused)
    kept = read_rows(round1 / "curated" / "sft.parquet")
    solved = [row for row in kept if row["problem_id"] == source]
    assert solved
    assert all("count_rises" in row["prompt"][0]["content"] for row in solved)
    assert {row["kind"] for row in kept} >= {"answer", "revision"}
    wrong = {row["messages"][-1]["content"] for id_, row in samples.items() if verdicts[id_]["passed"] is False}
    learned = {m["content"] for row in kept for m in row["completion"] if m["role"] == "assistant"}
    assert learned.isdisjoint(wrong)
    pairs = read_rows(round1 / "curated" / "pairs.parquet")
    mended = [pair for pair in pairs if samples[pair["chosen_id"]]["kind"] == "revision"]
    assert mended
    assert all(len(pair["chosen"]) == 1 for pair in mended)


def test_every_argument_is_in_the_guide() -> None:
    guide = (ROOT / "docs" / "code.md").read_text()

    def names(model: Any, prefix: str = "") -> list[str]:
        found = []
        for name, field in model.model_fields.items():
            parts = (field.annotation, *getattr(field.annotation, "__args__", ()))
            inner = [part for part in parts if hasattr(part, "model_fields")]
            found += names(inner[0], f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
        return found

    for name in names(Options):
        assert f"| `{name}` |" in guide, name
