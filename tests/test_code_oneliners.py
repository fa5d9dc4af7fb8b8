"""One-line functions from examples: what runs right is right, however it is written, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from conftest import flywheel

from flywheel.tasks.check import check_task
from flywheel.tasks.code.oneliners import Oneliners
from flywheel.tasks.code.spec import Spec
from flywheel.types import Completion, Problem


@pytest.fixture(scope="module")
def task() -> Iterator[Oneliners]:
    made = Oneliners()
    yield made
    made.close()


def passed(task: Oneliners, problem: Problem, *texts: str) -> list[bool | None]:
    return [v.passed for v in task.verify_many([(problem, Completion.of(text)) for text in texts])]


def test_the_task_is_sound(task: Oneliners, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flywheel.tasks.check.SAMPLE", 40)
    assert check_task(task, needs_demonstrations=True) == []


def test_a_function_is_right_however_it_is_written(task: Oneliners) -> None:
    reverse = next(p for p in task.problems("train") if p.gold == "lambda s:s[::-1]")
    assert reverse.prompt[0]["content"] == "abCdB>BdCba Bcaab>baacB="
    right = [
        "lambda s:s[::-1]",
        " lambda x: ''.join(reversed(x))\n",
        "lambda s:__import__('re').sub('(?s).*',s[::-1],'x')[:len(s)]",
    ]
    assert passed(task, reverse, *right) == [True, True, True]
    known = "lambda s:{'abCdB':'BdCba','Bcaab':'baacB'}[s]"  # right where it can be seen, and nowhere else
    assert passed(task, reverse, known) == [False]


def test_what_cheats_is_wrong(task: Oneliners) -> None:
    reverse = next(p for p in task.problems("train") if p.gold == "lambda s:s[::-1]")
    cheats = [
        "lambda s:__import__('os')._exit(0)",
        "lambda s:type('A',(str,),{'__eq__':lambda a,b:True,'__hash__':str.__hash__})(s)",
        "lambda s:print('passed')",
        "lambda s:open('/proc/self/environ').read()",
        "lambda s:[s for s in iter(int,1)]",
        "lambda s:" + "(" * 500 + "s" + ")" * 500,
        "lambda s:s[::-1]\nf=1",
        "lambda s:",
        "s[::-1]",
        "",
        "\x00",
    ]
    assert passed(task, reverse, *cheats) == [False] * len(cheats)


def test_held_out_functions_are_in_no_other_split_and_every_case_is_the_gold_s(task: Oneliners) -> None:
    heldout = {p.gold for p in islice(task.problems("heldout"), 300)}
    for split in ("train", "demonstrations"):
        assert heldout.isdisjoint(p.gold for p in islice(task.problems(split), 2000))
    for problem in islice(task.problems("train"), 50):
        cases = Spec.from_data(problem.data["spec"]).cases
        assert len(cases) == task.shown + task.hidden
        shown = " ".join(f"{case.input[0]}>{case.output}" for case in cases[: task.shown])
        assert problem.prompt[0]["content"] == f"{shown}="


@pytest.mark.parametrize("args", [{"steps": 0}, {"shown": 9}, {"hidden": True}])
def test_an_argument_out_of_range_is_refused(args: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(args))):
        Oneliners(**args)


@pytest.mark.slow
def test_the_recipe_runs(tmp_path: Path) -> None:
    small = ["rounds=1", "warmup.problems=300", "warmup.epochs=2", "replay.demonstrations=300", "sample.problems=32"]
    small += ["evaluate.problems=16", "evaluate.completions=2", "sft.epochs=1"]
    done = flywheel("run", "recipes/code_tiny.yaml", "--run-dir", tmp_path / "run", *small)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "accuracy" in done.stdout
