"""The math task: datasets as they come, what is wrong with them by row, variants, and grading from the shell."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flywheel.errors import DataError, TaskError
from flywheel.sources import read_source
from flywheel.tasks import close_task, load_task
from flywheel.tasks.check import check_task
from flywheel.tasks.math.chain import read_chain
from flywheel.tasks.math.dataset import Item, Source, load
from flywheel.tasks.math.names import HER, HIS
from flywheel.tasks.math.task import Math
from flywheel.tasks.math.template import chain_result, vary
from flywheel.types import Completion
from flywheel.verify.math_number import read_quantity

GSM8K = Path(__file__).parents[1].parent / "shared" / "data" / "gsm8k_train.jsonl.gz"

WORKED = (
    "Ann has 12 boxes with 8 pens each and gives 20 pens to Tom. How many pens are left?",
    "She has 12*8 = <<12*8=96>>96 pens.\nShe keeps 96-20 = <<96-20=76>>76 pens.\n#### 76",
)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {n}+{n}?", "answer": f"It is {n}+{n} = <<{n}+{n}={2 * n}>>{2 * n}.\n#### {2 * n}"}
        for n in range(2, count + 2)
    ]


def write(file: Path, listed: list[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in listed))
    return file


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Any]:
    made: list[Math] = []

    def task(**args: Any) -> Math:
        made.append(load_task("math", {"workers": 1, **args}, tmp_path))  # type: ignore[arg-type]
        return made[-1]

    yield task
    for one in made:
        close_task(one)


def test_a_dataset_beside_the_recipe_is_split_by_its_content(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "a.jsonl", rows(300))
    task = make(dataset="a.jsonl")
    assert check_task(task, needs_demonstrations=True) == []
    train, heldout = ({p.data["question"] for p in task.problems(split)} for split in ("train", "heldout"))
    assert len(train) + len(heldout) == 300
    assert not train & heldout
    assert 15 < len(heldout) < 70
    write(tmp_path / "a.jsonl", rows(400)[::-1])
    again = {p.data["question"] for p in make(dataset="a.jsonl").problems("heldout")}
    assert heldout <= again, "more rows, in another order: what was held out stays so"


def test_problems_carry_the_question_the_answer_and_a_right_completion(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "a.jsonl", [{"question": WORKED[0], "answer": WORKED[1]}])
    for style, ending in (("boxed", "The answer is $\\boxed{76}$."), ("hashes", "#### 76")):
        [problem] = [p for s in ("train", "heldout") for p in make(dataset="a.jsonl", style=style).problems(s)]
        assert problem.data["answer"] == "76"
        assert problem.data["where"].endswith("a.jsonl, row 1")
        assert problem.prompt[0]["content"].startswith(WORKED[0])
        assert problem.gold is not None
        assert problem.gold.endswith(ending)
        assert "<<" not in problem.gold


def test_a_heldout_file_is_kept_out_of_training(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "a.jsonl", rows(50))
    write(tmp_path / "b.jsonl", [{**row, "question": row["question"].upper()} for row in rows(10)])
    task = make(dataset="a.jsonl", heldout="b.jsonl")
    assert len(list(task.problems("train"))) == 40
    assert len(list(task.problems("heldout"))) == 10
    assert "10 training questions are held out as well, and left out" in task.notes()


def test_a_folder_with_splits_and_a_map_of_fields(tmp_path: Path, make: Any) -> None:
    for split, start in (("train", 2), ("test", 100)):
        table = pa.Table.from_pylist(
            [{"q": f"What is {n}^2?", "info": {"gold": n * n}, "level": n % 5} for n in range(start, start + 20)]
        )
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    task = make(dataset="data", heldout="test", fields={"question": "q", "answer": "info.gold", "level": "level"})
    assert check_task(task, needs_demonstrations=False) == []
    problem = next(iter(task.problems("heldout")))
    assert (problem.data["answer"], problem.data["level"]) == ("10000", 0)


def test_math_as_it_is_published(tmp_path: Path, make: Any) -> None:
    solution = "We have $x = \\frac{2}{4}$, so the answer is $\\boxed{\\frac{1}{2}}$."
    row = {"problem": "Solve $2x=1$.", "level": "Level 1", "type": "Algebra", "solution": solution}
    for split in ("train", "test"):
        file = tmp_path / "MATH" / split / "algebra" / "1.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({**row, "problem": f"{row['problem']} ({split})"}))
    task = make(dataset="MATH", heldout="test")
    [problem] = task.problems("train")
    assert (problem.data["answer"], problem.gold) == ("\\frac{1}{2}", solution)
    verdict = task.verify(problem, Completion.of("So it is 0.5, and that is \\boxed{.5}"))
    assert verdict.passed is True


def test_check_names_every_row_that_cannot_be_used(tmp_path: Path, make: Any) -> None:
    broken = [
        *rows(20),
        {"question": "What is missing?"},
        {"question": "What is null?", "answer": None},
        {"question": "What is empty?", "answer": ""},
        {"question": "", "answer": "5"},
        '{"question": "What is cut',
        {"question": "No final answer?", "answer": "####"},
    ]
    write(tmp_path / "a.jsonl", broken)
    told = "\n".join(check_task(make(dataset="a.jsonl"), needs_demonstrations=False))
    for number, why in (
        (21, "no `answer`"),
        (22, "no `answer`"),
        (23, "no gold answer"),
        (24, "the question is empty"),
    ):
        assert f"a.jsonl, row {number}: {why}" in told
    assert "a.jsonl, row 25: not JSON" in told
    assert "a.jsonl, row 26: no answer can be read from '####'" in told
    assert "task.args.broken: skip" in told
    skipping = make(dataset="a.jsonl", broken="skip")
    assert check_task(skipping, needs_demonstrations=False) == []
    assert any("6 rows are skipped, the first: " in note for note in skipping.notes())


def test_check_names_gold_answers_that_cannot_be_read(tmp_path: Path, make: Any) -> None:
    bad = ["\\frac{1}{", "\\sqrt{x", "x +* \\foo{"]
    write(tmp_path / "a.jsonl", [*rows(20), *({"question": f"Q{i}", "answer": text} for i, text in enumerate(bad))])
    told = check_task(make(dataset="a.jsonl"), needs_demonstrations=False)
    for number in (21, 22, 23):
        assert any(f"row {number}: the gold answer cannot be read" in line for line in told), told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"dataset": "empty.jsonl"}, "empty.jsonl is empty"),
        ({"dataset": "absent.jsonl"}, "there is no file or folder absent.jsonl"),
        ({"dataset": "a.jsonl", "fields": {"answer": "anwser"}}, "no field 'anwser'; did you mean 'answer'"),
        ({"dataset": "odd.jsonl"}, "no field that looks like the question or the answer; it has x"),
        ({"dataset": "a.jsonl", "heldout": "test"}, "has no splits"),
        ({}, "the math task has no dataset"),
    ],
)
def test_what_is_no_dataset_is_one_finding(tmp_path: Path, make: Any, args: dict[str, Any], told: str) -> None:
    write(tmp_path / "empty.jsonl", [])
    write(tmp_path / "a.jsonl", rows(5))
    write(tmp_path / "odd.jsonl", [{"x": 1}])
    task = make(**args)
    with pytest.raises((DataError, TaskError), match=told.split(";")[0].replace("(", "\\(")):
        list(task.problems("train"))
    findings = check_task(task, needs_demonstrations=True)
    assert any(told in line for line in findings), findings
    assert len(findings) <= 2


@pytest.mark.parametrize(
    "args", [{"style": "loud"}, {"broken": "x"}, {"variants": -1}, {"workers": 0}, {"rollouts": {"x": 1}}]
)
def test_wrong_arguments_are_refused(args: dict[str, Any]) -> None:
    with pytest.raises(TaskError, match="math: "):
        load_task("math", args)


def test_rows_without_answers_may_be_trained_on_by_vote(tmp_path: Path, make: Any) -> None:
    write(tmp_path / "a.jsonl", [*rows(30), *({"question": f"What is {n}?"} for n in range(20))])
    task = make(dataset="a.jsonl", unlabelled=True)
    bare = [p for p in task.problems("train") if p.data["answer"] is None]
    assert len(bare) > 10
    assert all(p.data["answer"] is not None for p in task.problems("heldout"))
    assert task.verify(bare[0], Completion.of("\\boxed{1}")).reason == "no gold answer"


def test_a_variant_recomputes_the_chain_and_says_what_it_changed() -> None:
    item = Item("here, row 1", WORKED[0], "76", WORKED[1])
    made = vary(item, "0")
    assert made is not None
    assert made.solution is not None
    assert vary(item, "0") == made
    assert vary(item, "1") != made
    assert str(chain_result(made.solution)) == made.answer
    variant = made.extra["variant"]
    assert variant["from"] == f"math-{item.id}"
    for old, new in variant["numbers"].items():
        assert new in made.question and new in made.solution
        assert old in item.question
    for old, new in variant["names"].items():
        assert (old in HER) == (new in HER)
        assert (old in HIS) == (new in HIS)
        assert old not in made.question


@pytest.mark.parametrize(
    ("question", "solution", "may"),
    [
        ("A week has 7 days. Ann eats 3 a day. How many?", "3*7 = <<3*7=21>>21\n#### 21", {"3"}),  # 7 is the week's
        ("Ann has five cats and 5 dogs.", "5+5 = <<5+5=10>>10\n#### 10", set()),  # a number in words
        ("Ann has 6 cats, sells 3, buys 10.", "6-3 = <<6-3=3>>3\n3+10 = <<3+10=13>>13\n#### 13", {"10"}),
        ("Ann has 14 cats and 9 dogs.", "14+9 = <<14+9=24>>24\n#### 24", None),  # a wrong chain
        ("Ann has 14 cats and 9 dogs.", "14+9 = 23\n#### 23", None),  # no chain
        ("Ann has 14 cats and 9 dogs.", "14+9 = <<14+9=23>>23, and 23+8 = 31\n#### 31", None),  # the end is not in it
        ("Ann has 14 cats and some.", "14+8 = <<14+8=22>>22\n#### 22", None),  # where is 8 from?
    ],
)
def test_what_cannot_be_traced_is_not_varied(question: str, solution: str, may: set[str] | None) -> None:
    made = vary(Item("row", question, solution.rpartition("#### ")[2], solution), "0")
    if made is not None:
        assert may is not None
        assert made.extra["variant"]["numbers"].keys() <= may


def test_variants_enlarge_the_training_split_alone(tmp_path: Path, make: Any) -> None:
    listed = [
        {
            "question": f"Ann has {n} boxes with 8 pens each and gives away 25 pens. How many are left?",
            "answer": f"{n}*8 = <<{n}*8={8 * n}>>{8 * n}\nThen {8 * n}-25 = <<{8 * n}-25={8 * n - 25}>>{8 * n - 25}\n"
            f"#### {8 * n - 25}",
        }
        for n in range(11, 60)
    ]
    write(tmp_path / "a.jsonl", listed)
    plain, varied = make(dataset="a.jsonl"), make(dataset="a.jsonl", variants=2)
    assert [p.id for p in plain.problems("heldout")] == [p.id for p in varied.problems("heldout")]
    ids = {p.id for p in plain.problems("train")}
    more = list(varied.problems("train"))
    assert ids < {p.id for p in more}
    assert len(more) > 2 * len(ids)
    assert [p.id for p in more] == [p.id for p in make(dataset="a.jsonl", variants=2).problems("train")]
    assert all(p.data["variant"]["from"] in ids for p in more if "variant" in p.data)
    asks = [(p, Completion.of(str(p.gold))) for p in more]
    assert all(verdict.passed for verdict in varied.verify_many(asks, 5.0))


def gsm8k_items() -> list[Item]:
    if not GSM8K.exists():
        pytest.skip(f"needs GSM8K's train split at {GSM8K}")
    data = load(Source(str(GSM8K)))
    assert data.faults == []
    return [*data.train, *data.heldout]


def check_variants(items: list[Item]) -> int:
    """How many can be varied; each variant holds what is promised of it."""
    made = [(item, new) for item in items if (new := vary(item, "0")) is not None]
    for item, new in made:
        assert new.solution is not None and item.solution is not None and new.answer is not None
        before, after = read_chain(item.solution), read_chain(new.solution)
        assert before is not None and after is not None
        answer = read_quantity(new.answer)
        assert answer is not None
        assert answer.value == after[-1].result
        for old, step in zip(before, after, strict=True):
            assert (step.result > 0) == (old.result > 0)
            assert step.result.denominator == 1 or old.result.denominator != 1
    return len(made)


def test_gsm8k_varies_in_a_sample() -> None:
    assert check_variants(gsm8k_items()[:400]) > 160


@pytest.mark.slow
def test_gsm8k_varies_as_a_whole() -> None:
    assert check_variants(gsm8k_items()) >= 3000


def test_grade_from_the_shell(tmp_path: Path) -> None:
    asked = [
        {"answer": WORKED[1], "completion": "So \\boxed{76}."},
        {"answer": 76, "completion": "The answer is 77."},
        {"answer": "\\frac{1}{2}", "completion": "Thus $x = \\boxed{0.5}$."},
        {"answer": "2\\sqrt{3}", "completion": "It is \\boxed{\\sqrt{12}}"},
        {"answer": "5", "completion": "I do not know."},
        {"answer": ["1", "2"], "completion": "\\boxed{2, 1}"},
        {"answer": "x", "completion": "\\boxed{" + "9^{" * 9 + "9" + "}" * 9 + "x^x}"},
    ]
    file = write(tmp_path / "in.jsonl", asked)
    command = [sys.executable, "-m", "flywheel", "grade", "--task", "math", str(file), "--json", "--timeout", "2"]
    done = subprocess.run([*command, "--out", str(tmp_path / "out.jsonl")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    graded = [row.values for row in read_source(str(tmp_path / "out.jsonl"))]
    assert [row["passed"] for row in graded[:6]] == [True, False, True, True, None, True]
    assert graded[6]["passed"] is not True
    assert facts["n"] == 7


def test_grade_names_rows_without_gold(tmp_path: Path) -> None:
    file = write(tmp_path / "in.jsonl", [{"answer": "5", "completion": "5"}, {"completion": "5"}, {"answer": "5"}])
    command = [sys.executable, "-m", "flywheel", "grade", "--task", "math", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "line 2: no `answer`" in done.stderr + done.stdout
    assert "line 3: no `completion`" in done.stderr + done.stdout


def test_the_shuffle_depends_on_the_seed_alone(tmp_path: Path, make: Any) -> None:
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows(80))
    orders = [[p.id for p in islice(make(dataset="a.jsonl.gz", seed=s).problems("train"), 40)] for s in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    plain = [p.data["where"] for p in make(dataset="a.jsonl.gz", shuffle=False).problems("train")]
    assert plain == sorted(plain, key=lambda where: int(where.rpartition(" ")[2]))
