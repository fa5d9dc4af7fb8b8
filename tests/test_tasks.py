"""What a user is promised of tasks: fair splits, golds that pass, wrong answers that do not, no surprises."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations_with_replacement, islice, permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import TaskError
from flywheel.tasks import Task, load_task
from flywheel.tasks import expression as expression_module
from flywheel.tasks.addition import Addition
from flywheel.tasks.countdown import Countdown
from flywheel.tasks.expression import (
    MAX_LENGTH,
    ExpressionError,
    evaluate,
    numbers_in,
    operators_in,
    parse,
    render,
)
from flywheel.types import Completion, Problem, Verdict

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "heldout", "demonstrations")
COUNTDOWNS: list[dict[str, Any]] = [
    {"numbers": numbers, "max_number": most, "operators": operators, "style": style}
    for numbers, most, operators in [
        (2, 9, "+"),
        (3, 20, "+-*"),
        (4, 100, "+-*/"),
        (6, 10, "*/"),
        (12, 5, "+-/"),
    ]
    for style in ("terse", "chat")
]
ADDITIONS: list[dict[str, Any]] = [
    {"digits": digits, "order": order, "pad": pad}
    for digits in (2, [1, 8], [30, 40])
    for order in ("plain", "reversed")
    for pad in (False, True)
]
TASKS: list[Task] = [
    *(Countdown(**args) for args in COUNTDOWNS),
    *(Addition(**args) for args in ADDITIONS),
    load_task("./roman.py:Roman", base=ROOT / "recipes"),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: type(task).__name__)
"""Tests that hold for every task that ships, the example of a user's own included."""


def some(task: Task, split: str, count: int = 200) -> list[Problem]:
    return list(islice(task.problems(split), count))


def judge(task: Task, problem: Problem, text: str) -> Verdict:
    return task.verify(problem, Completion.of(text))


def ids(problems: Iterable[Problem]) -> set[str]:
    return {problem.id for problem in problems}


# ---------------------------------------------------------------- every task


@every_task
@pytest.mark.parametrize("split", SPLITS)
def test_gold_is_right_even_after_a_trip_through_parquet_rows(task: Task, split: str) -> None:
    problems = some(task, split)
    assert problems
    for problem in problems:
        assert problem.gold is not None
        again = Problem.from_row(json.loads(json.dumps(problem.to_row())))
        assert judge(task, again, problem.gold).passed is True
        assert judge(task, again, f"  {problem.gold}\n").passed is True


@every_task
def test_wrong_answers_are_wrong_and_say_why(task: Any) -> None:
    for problem in some(task, "train"):
        for answer in [
            *task.wrong_answers(problem),
            "",
            "I do not know.",
            "-1",
            f"{problem.gold}{problem.gold}",
        ]:
            # Two answers in a row are fine where the last pair of tags counts.
            if answer == f"{problem.gold}{problem.gold}" and "<answer>" in answer:
                continue
            verdict = judge(task, problem, answer)
            assert verdict.passed is False, (problem, answer)
            assert verdict.reason


@every_task
def test_no_evaluated_problem_comes_twice_or_in_training(task: Task) -> None:
    drawn = {split: some(task, split, 400) for split in SPLITS}
    for split in ("heldout", "demonstrations"):
        assert len(ids(drawn[split])) == len(drawn[split])
    assert not ids(drawn["heldout"]) & (ids(drawn["train"]) | ids(drawn["demonstrations"]))


@every_task
def test_problems_are_the_same_each_time(task: Task) -> None:
    assert some(task, "train") == some(task, "train")
    assert some(task, "train") != some(task, "demonstrations")


def test_problems_are_the_same_in_another_process() -> None:
    program = """
from itertools import islice
from flywheel.tasks import load_task
for name in ("countdown", "addition"):
    for split in ("train", "heldout"):
        print(*(p.id for p in islice(load_task(name).problems(split), 20)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1234"}
    out = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    here = [
        " ".join(problem.id for problem in some(load_task(name), split, 20))
        for name in ("countdown", "addition")
        for split in ("train", "heldout")
    ]
    assert out.stdout.splitlines() == here


@pytest.mark.parametrize("name", ["countdown", "addition"])
def test_a_misspelt_split_is_an_error_at_once(name: str) -> None:
    with pytest.raises(TaskError, match="held_out") as caught:
        load_task(name).problems("held_out")
    assert "heldout" in (caught.value.hint or "")


# ---------------------------------------------------------------- countdown


def test_heldout_countdown_stays_out_of_training_whatever_the_settings() -> None:
    """Small numbers, so that the settings' problems overlap heavily: a leak would show."""
    variants = [
        {"seed": seed, "operators": operators, "style": style}
        for seed in (0, 1)
        for operators in ("+-", "+-*", "+-*/")
        for style in ("terse", "chat")
    ]
    tasks = [Countdown(numbers=3, max_number=6, **variant) for variant in variants]  # type: ignore[arg-type]

    def asked(split: str, count: int) -> set[tuple[tuple[int, ...], int]]:
        # By content and not by id: an id that depended on the settings would hide the leak.
        drawn = (problem.data for task in tasks for problem in some(task, split, count))
        return {(tuple(sorted(data["numbers"])), data["target"]) for data in drawn}

    held_out, training = asked("heldout", 60), asked("train", 400) | asked("demonstrations", 400)
    assert len(held_out) > 60
    assert len(training) > 500
    assert not held_out & training


def test_countdown_draws_every_problem_of_a_small_space_and_ends() -> None:
    reachable = {
        (numbers, target)
        for numbers in combinations_with_replacement(range(1, 5), 3)
        for a, b, c in permutations(numbers)
        for first in (a + b, a - b, a * b)
        for target in (first + c, first - c, first * c, c - first)
        if 0 < target <= 40
    }
    task = Countdown(numbers=3, max_number=4)
    drawn = [
        (tuple(sorted(p.data["numbers"])), p.data["target"])
        for s in ("demonstrations", "heldout")
        for p in task.problems(s)
    ]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == reachable


def test_countdown_without_any_problem_ends() -> None:
    assert list(Countdown(numbers=2, max_number=1, operators="-").problems("train")) == []


def test_one_countdown_problem_in_eight_is_held_out() -> None:
    task = Countdown(numbers=3, max_number=9)
    held_out, training = (len(list(task.problems(split))) for split in ("heldout", "demonstrations"))
    assert 0.10 < held_out / (held_out + training) < 0.15


def test_countdown_seeds_draw_other_problems() -> None:
    assert some(Countdown(seed=0), "train", 20) != some(Countdown(seed=1), "train", 20)


def test_countdown_respects_its_bounds_and_does_not_give_the_order_away() -> None:
    problems = some(Countdown(numbers=4, max_number=30, max_target=50, style="terse"), "train", 300)
    same_order = 0
    for problem in problems:
        numbers, target = problem.data["numbers"], problem.data["target"]
        assert problem.prompt[0]["content"] == f"{' '.join(map(str, numbers))}={target}"
        assert len(numbers) == 4
        assert all(1 <= number <= 30 for number in numbers)
        assert 0 < target <= 50
        same_order += numbers == numbers_in(parse(problem.gold or ""))
    assert same_order < len(problems) / 8  # by chance: 1 in 24, and some more for repeated numbers


def test_countdown_demonstrations_use_every_operator() -> None:
    task = Countdown(numbers=4, operators="+-*/", style="terse")
    used = Counter(o for p in some(task, "demonstrations", 500) for o in operators_in(parse(p.gold or "")))
    assert all(used[operator] > 25 for operator in "+-*/"), used


def test_countdown_chat_prompt_says_what_the_verifier_checks() -> None:
    problem = some(Countdown(operators="-*"), "train", 1)[0]
    text = problem.prompt[0]["content"]
    assert all(str(number) in text for number in [*problem.data["numbers"], problem.data["target"]])
    assert "-, *" in text
    assert "+" not in text
    assert "<answer>" in text


TERSE = Countdown(style="terse", operators="+-*/")
CHAT = Countdown(style="chat", operators="+-*/")
PROBLEM = Problem("x", [], data={"numbers": [7, 3, 5], "target": 22})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("3*5+7", None),
        (" 7 + ( 5*3 ) ", None),
        ("((7))+((5)*(3))", None),
        ("<answer>3*5+7</answer>", None),
        ("7+3\N{MULTIPLICATION SIGN}5", None),
        ("", "no answer"),
        ("  \n", "no answer"),
        ("22", "wrong numbers"),
        ("3*5+7+0", "wrong numbers"),
        ("3*5", "wrong numbers"),
        ("3*5+7+7-7", "wrong numbers"),
        ("3+5+7", "wrong value"),
        ("7/(3-5)", "wrong value"),
        ("3*5+7=22", "unparsable"),
        ("-3*-5+7", "unparsable"),
        ("--3*5+7", "unparsable"),
        ("+7+3*5", "unparsable"),
        ("3(5)+7", "unparsable"),
        ("35 + 7", "wrong numbers"),
        ("3 5 + 7", "unparsable"),
        ("03*5+7", "unparsable"),
        ("3.0*5+7", "unparsable"),
        ("3**5+7", "unparsable"),
        ("3*5+7#", "unparsable"),
        ("3*5+(7", "unparsable"),
        ("3*5+7)", "unparsable"),
        ("()3*5+7", "unparsable"),
        ("\u0663*\u0665+\u0667", "unparsable"),
        ("3*5+7\N{SUPERSCRIPT TWO}", "unparsable"),
        ("3_*5+7", "unparsable"),
        ("int('22')", "unparsable"),
        ("3*5+7\n3*5+7", "unparsable"),
        ("<answer></answer>", "no answer"),
        ("1+" * 1000 + "1", "too long"),
        ("(" * 200 + "1" + ")" * 200, "too deep"),
    ],
)
def test_countdown_verdicts(answer: str, reason: str | None) -> None:
    verdict = judge(TERSE, PROBLEM, answer)
    assert (verdict.passed, verdict.reason) == (reason is None, reason or "")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("Three times five is 15.\n<answer>3*5+7</answer>", None),
        ("<answer>\n 3 \N{MULTIPLICATION SIGN} 5 + 7 = 22\n</answer> Done!", None),
        ("<answer>3+5+7</answer> no: <answer>3*5+7</answer>", None),
        ("Let me see.\n\n3 * 5 + 7 = 22\n \n", None),
        ("3*5+7", None),
        ("<answer>3*5+7</answer> or <answer>3+5+7</answer>", "wrong value"),
        ("<answer>3*5+7=23</answer>", "unparsable"),
        ("<answer>3+5+7=22</answer>", "wrong value"),
        ("<answer>22</answer>", "wrong numbers"),
        ("3*5+7\nThat was easy.", "unparsable"),
        ("<answer>3*5+7", "unparsable"),
        ("<answer>=22</answer>", "no answer"),
        ("<answer> </answer>", "no answer"),
    ],
)
def test_countdown_finds_the_answer_in_a_chat(answer: str, reason: str | None) -> None:
    verdict = judge(CHAT, PROBLEM, answer)
    assert (verdict.passed, verdict.reason) == (reason is None, reason or "")


def test_countdown_reasons_that_need_another_problem() -> None:
    zero = Problem("x", [], data={"numbers": [3, 3, 5], "target": 5})
    assert judge(TERSE, zero, "5/(3-3)").reason == "division by zero"
    assert judge(Countdown(operators="+-"), PROBLEM, "3*5+7").reason == "operator not allowed"
    quarter = Problem("x", [], data={"numbers": [8, 3, 8, 3], "target": 24})
    assert judge(TERSE, quarter, "8/(3-8/3)").passed is True  # exact: floats give 23.999...
    assert judge(TERSE, quarter, "8/3/8*3").detail == {"value": "1"}


@given(st.text() | st.text("0123456789+-*/() =\n<answer>", max_size=60), st.sampled_from([TERSE, CHAT]))
@settings(max_examples=400, deadline=2000)
def test_any_text_gets_a_decided_verdict(text: str, task: Countdown) -> None:
    assert judge(task, PROBLEM, text).passed in (True, False)
    assert judge(task, PROBLEM, f"<answer>{text}</answer>").passed in (True, False)
    assert judge(Addition(), some(Addition(), "train", 1)[0], text).passed in (True, False)


HOSTILE = {
    "open parentheses": "(" * 10**5,
    "balanced parentheses": "(" * 10**5 + "1" + ")" * 10**5,
    "tower": "9**9**9",
    "huge number": "9" * 10**6,
    "product": "*".join(["9" * 18] * 10**4),
    "open tags": "<answer>" * 10**5,
    "close tags": "</answer>" * 10**5,
    "tags": "<answer></answer>" * 10**5,
    "lines": "\n" * 10**6,
    "equals": "=" * 10**6,
    "code": "__import__('os').system('true')",
    "nul": "\x00",
    "surrogate": "\ud800",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_wrong_and_costs_little(text: str) -> None:
    addition = Addition()
    sum_ = some(addition, "train", 1)[0]
    start = time.process_time()
    for wrapped in (text, f"<answer>{text}</answer>"):
        assert judge(TERSE, PROBLEM, wrapped).passed is False
        assert judge(CHAT, PROBLEM, wrapped).passed is False
        assert judge(addition, sum_, wrapped).passed is False
    assert time.process_time() - start < 2  # what is quadratic here takes minutes


@pytest.mark.parametrize(
    "arguments",
    [
        {"numbers": 1},
        {"numbers": 21},
        {"numbers": 3.5},
        {"numbers": "3"},
        {"numbers": True},
        {"max_number": 0},
        {"max_number": "20"},
        {"max_target": 0},
        {"operators": ""},
        {"operators": "+^"},
        {"style": "verbose"},
    ],
)
def test_countdown_refuses_bad_arguments_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Countdown(**arguments)


# ---------------------------------------------------------------- expressions

Tree = Any  # int, or (Tree, operator, Tree)
trees = st.recursive(
    st.integers(0, 10**6),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner),
    max_leaves=12,
)


def postfix(tree: Tree) -> tuple[int | str, ...]:
    if isinstance(tree, int):
        return (tree,)
    left, operator, right = tree
    return (*postfix(left), *postfix(right), operator)


def value_of(tree: Tree) -> Fraction:
    """The oracle: Python's own Fractions over the tree."""
    if isinstance(tree, int):
        return Fraction(tree)
    left, right = value_of(tree[0]), value_of(tree[2])
    return {"+": left.__add__, "-": left.__sub__, "*": left.__mul__, "/": left.__truediv__}[tree[1]](right)


@given(trees)
@settings(max_examples=300, deadline=None)
def test_printed_expressions_read_back_with_the_same_value(tree: Tree) -> None:
    expression = postfix(tree)
    text = render(expression)
    again = parse(text)
    assert numbers_in(again) == numbers_in(expression)
    assert operators_in(again) == operators_in(expression)
    assert render(again) == text
    try:
        expected = value_of(tree)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="division by zero"):
            evaluate(again)
    else:
        assert evaluate(again) == evaluate(expression) == expected


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        (((1, "+", 2), "+", 3), "1+2+3"),
        ((1, "+", (2, "+", 3)), "1+2+3"),
        ((1, "+", (2, "-", 3)), "1+2-3"),
        ((1, "-", (2, "+", 3)), "1-(2+3)"),
        ((1, "-", (2, "-", 3)), "1-(2-3)"),
        ((1, "*", (2, "/", 3)), "1*2/3"),
        ((1, "/", (2, "*", 3)), "1/(2*3)"),
        ((1, "/", (2, "/", 3)), "1/(2/3)"),
        (((1, "+", 2), "*", 3), "(1+2)*3"),
        ((1, "*", (2, "+", 3)), "1*(2+3)"),
        ((1, "+", (2, "*", 3)), "1+2*3"),
        ((1, "-", (2, "*", 3)), "1-2*3"),
    ],
)
def test_only_necessary_parentheses_are_printed(tree: Tree, text: str) -> None:
    assert render(postfix(tree)) == text


@given(st.text(max_size=MAX_LENGTH * 2) | st.text("0123456789+-*/() ", max_size=MAX_LENGTH * 2))
@settings(max_examples=300, deadline=2000)
def test_parse_returns_an_expression_or_one_of_few_reasons(text: str) -> None:
    reason = ""
    try:
        expression = parse(text)
        str(evaluate(expression))
    except ExpressionError as error:
        reason = error.reason
    else:
        assert len(expression) == 2 * len(numbers_in(expression)) - 1
    assert reason in {"", "unparsable", "too long", "too deep", "division by zero"}


def test_the_largest_expression_is_still_cheap_and_printable() -> None:
    text = "*".join(["9" * 18] * (MAX_LENGTH // 19))
    assert len(str(evaluate(parse(text)))) <= MAX_LENGTH
    assert len(str(evaluate(parse(text.replace("*", "/"))))) <= MAX_LENGTH


def test_the_parser_executes_nothing() -> None:
    tree = ast.parse(Path(expression_module.__file__).read_text())
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    assert not called & {"eval", "exec", "compile", "literal_eval", "__import__", "getattr"}
    assert modules <= {"__future__", "re", "collections.abc", "fractions"}


# ---------------------------------------------------------------- addition


@given(
    lengths=st.tuples(st.integers(1, 60), st.integers(0, 20)),
    order=st.sampled_from(["plain", "reversed"]),
    pad=st.booleans(),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_addition_says_the_true_sum_in_its_format(lengths: tuple[int, int], order: str, pad: bool, seed: int) -> None:
    least, most = lengths[0], sum(lengths)
    for problem in some(Addition([least, most], order=order, pad=pad, seed=seed), "train", 5):
        step = -1 if order == "reversed" else 1
        a, b = (number[::step] for number in problem.prompt[0]["content"].removesuffix("=").split("+"))
        result = (problem.gold or "")[::step]
        assert least <= len(a) == len(b) <= most
        assert int(result) == int(a) + int(b)
        assert len(result) == len(a) + 1 if pad else result == str(int(result))


@pytest.mark.parametrize(
    ("arguments", "gold"),
    [
        ({}, "579"),
        ({"pad": True}, "0579"),
        ({"order": "reversed"}, "975"),
        ({"order": "reversed", "pad": True}, "9750"),
    ],
)
def test_addition_counts_zeros_and_names_what_is_wrong(arguments: dict[str, Any], gold: str) -> None:
    task = Addition(**arguments)
    problem = Problem("x", [], data={"a": "123", "b": "456"})
    verdicts = {text: judge(task, problem, text) for text in ("579", "0579", "00579", "975", "9750", "97500")}
    assert [text for text, verdict in verdicts.items() if verdict.passed] == [gold]
    same_value = {"975", "9750", "97500"} if "order" in arguments else {"579", "0579", "00579"}
    for text in verdicts.keys() - {gold}:
        assert verdicts[text].reason == ("wrong format" if text in same_value else "wrong value")
    assert judge(task, problem, " ").reason == "no answer"
    assert judge(task, problem, "\u096b\u096d\u096f").reason == "not a number"
    assert judge(task, problem, "+579").reason == "not a number"


def test_addition_lengths_are_uniform_and_heldout_may_be_longer() -> None:
    task = Addition(digits=[5, 8], heldout_digits=[9, 10])
    lengths = Counter(len(problem.data["a"]) for problem in some(task, "train", 2000))
    assert lengths.keys() == {5, 6, 7, 8}
    assert all(400 < count < 600 for count in lengths.values()), lengths
    assert {len(problem.data["a"]) for problem in some(task, "heldout")} == {9, 10}


def test_heldout_sums_stay_out_of_training_mirrored_too_whatever_the_settings() -> None:
    def sums(split: str) -> set[tuple[str, ...]]:
        tasks = [Addition(d, order=o, seed=s) for d in (1, [1, 2]) for o in ("plain", "reversed") for s in (0, 1)]
        return {tuple(sorted((p.data["a"], p.data["b"]))) for t in tasks for p in some(t, split, 3000)}

    held_out, training = sums("heldout"), sums("train") | sums("demonstrations")
    assert not held_out & training
    assert 0.10 < len(held_out) / len(held_out | training) < 0.15


def test_addition_of_the_longest_numbers_works() -> None:
    task = Addition(4000)
    problem = some(task, "train", 1)[0]
    assert judge(task, problem, problem.gold or "").passed is True
    assert judge(task, problem, f"0{problem.gold}").reason == "wrong format"


@pytest.mark.parametrize(
    "arguments",
    [
        {"digits": 0},
        {"digits": [3, 2]},
        {"digits": [1, 2, 3]},
        {"digits": 5000},
        {"digits": "18"},
        {"heldout_digits": [1.5, 2]},
        {"order": "backwards"},
        {"pad": "no"},
    ],
)
def test_addition_refuses_bad_arguments_by_name(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        Addition(**arguments)


# ---------------------------------------------------------------- a user's own task, and loading


def test_roman_is_right_and_short_enough_to_copy() -> None:
    task = load_task("./roman.py:Roman", base=ROOT / "recipes")
    golds = {problem.id: problem.gold for split in SPLITS for problem in task.problems(split)}
    assert len(golds) == 3999
    expected = {1: "I", 4: "IV", 9: "IX", 14: "XIV", 40: "XL", 90: "XC", 444: "CDXLIV", 1994: "MCMXCIV"}
    assert {n: golds[f"roman-{n}"] for n in expected} == expected
    assert len(set(golds.values())) == 3999
    assert len((ROOT / "recipes" / "roman.py").read_text().splitlines()) < 30


def test_tasks_load_by_name_and_by_module() -> None:
    assert isinstance(load_task("countdown", {"numbers": 4}), Countdown)
    assert isinstance(load_task("addition", {"digits": [1, 3]}), Addition)
    assert isinstance(load_task("flywheel.tasks.countdown:Countdown"), Countdown)


@pytest.mark.parametrize(
    ("use", "arguments", "says"),
    [
        ("countdwon", {}, "did you mean 'countdown'"),
        ("chess", {}, "no task 'chess'"),
        ("./nowhere.py:Roman", {}, "no file"),
        ("./roman.py:Greek", {}, "no class 'Greek'"),
        ("flywheel.tasks.nowhere:X", {}, "does not import"),
        ("countdown", {"number": 3}, "number"),
        ("countdown", {"numbers": 1}, "numbers must be a whole number from 2 to 20, not 1"),
        ("countdown", {"style": "loud"}, "style must be one of terse, chat"),
        ("addition", {"digits": [9, 1]}, "digits must be n"),
        ("./roman.py:roman", {"number": 3}, "lacks problems, rollout, verify"),
    ],
)
def test_a_task_that_cannot_load_says_why(use: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(TaskError, match=re.escape(says)):
        load_task(use, arguments, base=ROOT / "recipes")
