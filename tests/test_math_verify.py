"""Final answers: right is right however it is written, wrong is wrong, and what cannot be decided is undecided."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.verify.math import Claimed, MathVerifier
from flywheel.verify.math_extract import final_answer, gold_answer
from flywheel.verify.math_forms import same
from flywheel.verify.pool import Pool

GSM8K = Path(__file__).parents[1].parent / "shared" / "data" / "gsm8k_train.jsonl.gz"


def read_pairs() -> dict[str, tuple[list[str], list[str]]]:
    """Gold answers with their right and wrong ones."""
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for line in (Path(__file__).parent / "data" / "math_pairs.txt").read_text().splitlines():
        kind, _, text = line.partition(" ")
        if kind == "=":
            right, wrong = pairs.setdefault(text, ([], []))
        elif kind in ("+", "-"):
            (right if kind == "+" else wrong).append(text)
    return pairs


PAIRS = read_pairs()


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    made = MathVerifier(workers=2)
    yield made
    made.close()


@pytest.mark.parametrize("gold", PAIRS)
def test_answers_by_hand(verifier: MathVerifier, gold: str) -> None:
    right, wrong = PAIRS[gold]
    claims = [Claimed(gold, f"We find that it is\n\\boxed{{{answer}}}.") for answer in (*right, *wrong)]
    verdicts = verifier.verify_many(claims, 10.0)
    refused = [a for a, v in zip(right, verdicts, strict=False) if v.passed is not True]
    accepted = [a for a, v in zip(wrong, verdicts[len(right) :], strict=True) if v.passed is not False]
    assert (refused, accepted) == ([], [])
    assert verifier.verify_many([Claimed(gold, f"The answer is ${gold}$.")], 10.0)[0].passed is True


@pytest.mark.parametrize(
    ("text", "found", "how"),
    [
        ("so \\boxed{5}", "5", "boxed"),
        ("\\boxed{5} and \\boxed{6}.", "5, 6", "boxed"),
        ("\\boxed{5}. Wait, that is wrong: \\boxed{6}", "6", "boxed"),
        ("put it in \\boxed{}: \\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{\\frac{1}{2", "\\frac{1}{2", "boxed"),
        ("$\\boxed 5$ apples", "5", "boxed"),
        ("<think>\\boxed{3}</think> It is \\boxed{4}", "4", "boxed"),
        ("a\n#### 1,234", "1,234", "hashes"),
        ("#### Step 1: add 5\nso 7\n#### 8", "8", "hashes"),
        ("#### 7\n\nQuestion: What is 2+2?\n#### 4", "7", "hashes"),
        ("#### 7<|endoftext|>#### 9", "7", "hashes"),
        ("The answer is $42.", "$42", "said"),
        ("The answer is 42 dollars. He has 3 left.", "42 dollars", "said"),
        ("So the final answer is: **(B)**", "(B)", "said"),
        ("The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}", "said"),
        ("# Answer\n\n5", "5", "said"),
        ("**Answer:** 12 apples", "12 apples", "said"),
        ("Answer: \\(x = 5\\)", "x = 5", "said"),
        ("The answers are $x=2$ and $x=3$.", "x=2, x=3", "said"),
        ("The correct option is (D).", "(D)", "said"),
        ("The answer is 5. So he has 5 apples of 7.", "5", "said"),
        ("The answer is 18 eggs, since 16-3-4 = 9 and 9*2 = 18.", "18 eggs", "said"),
        ("The answer should be 42, not 41.", "42", "said"),
        ("Thus the answer is 5 + 7 = 12.", "5 + 7 = 12", "said"),
        ("**Answer: 18**", "18", "said"),
        ("Answer:\n\nTo find it we first add all of the five numbers. 2 and 3 are 5", "5", "number"),
        ("First 3, then in total **72 clips**.", "72 clips", "bold"),
        ("It is $\\frac{3}{4}$ of it.", "\\frac{3}{4}", "formula"),
        ("5 + 7 = 12", "12", "number"),
        ("10 - 5 is 10-5", "5", "number"),
        ("it fell to -7 degrees", "-7", "number"),
        ("he pays $1,234.50.", "1,234.50", "number"),
        ("-72", "-72", "number"),
    ],
)
def test_where_the_final_answer_is(text: str, found: str, how: str) -> None:
    numeric = how in ("number", "bold")
    answer = final_answer(text, numeric=numeric)
    assert answer is not None
    assert (answer.text, answer.how) == (found, how)


def test_no_answer_is_undecided(verifier: MathVerifier) -> None:
    texts = ["", "I do not know.", "Let me think about that", "\\boxed{}"]
    verdicts = verifier.verify_many([Claimed("5", text) for text in texts], 5.0)
    assert [(v.passed, v.reason) for v in verdicts] == [(None, "no answer found")] * len(texts)
    cut = verifier.verify_many(
        [Claimed("5", "First we have 5", cut=True), Claimed("5", "\\boxed{5} and", cut=True)], 5.0
    )
    assert [v.passed for v in cut] == [None, True]
    assert verifier.verify_many([Claimed(None, "\\boxed{5}")], 5.0)[0].passed is None
    unreadable = verifier.verify_many([Claimed("\\frac{1}{", "\\boxed{\\sqrt{2}}")], 5.0)[0]
    assert unreadable.passed is None
    assert "gold answer cannot be read" in unreadable.reason


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("Natalia sold 48/2 = <<48/2=24>>24 clips.\nIn all <<48+24=72>>72.\n#### 72", "72"),
        ("#### 1,080", "1,080"),
        ("We get $x=\\boxed{\\frac{1}{2}}$.", "\\frac{1}{2}"),
        ("18", "18"),
        ("$\\frac{3}{4}$", "\\frac{3}{4}"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}"),
        ("The answer is 5", "5"),
        ("", None),
        ("####", None),
    ],
)
def test_gold_answers_are_found_in_what_datasets_have(gold: str, answer: str | None) -> None:
    assert gold_answer(gold) == answer


def gsm8k() -> list[tuple[str, dict[str, str]]]:
    if not GSM8K.exists():
        pytest.skip(f"needs GSM8K's train split at {GSM8K}")
    with gzip.open(GSM8K, "rt") as file:
        rows = [json.loads(line) for line in file]
    return [(str(gold_answer(row["answer"])), row) for row in rows]


def test_gsm8k_accepts_every_gold_solution_and_rejects_every_wrong_answer(verifier: MathVerifier) -> None:
    rows = gsm8k()
    assert len(rows) == 7473
    verdicts = verifier.verify_many([Claimed(gold, row["answer"]) for gold, row in rows], 10.0)
    assert all(v.passed is True for v in verdicts)
    wrong: list[Claimed] = []
    for gold, row in rows:
        value = int(gold.replace(",", ""))
        head = row["answer"].rpartition("####")[0]
        text = {n.rstrip(".,") for n in re.findall(r"\d[\d,.]*", row["question"] + head)}
        others = [str(value + 1), str(value - 1), str(value * 10), f"{value * 10:,}", str(-value)]
        others += [n for n in text if n.replace(",", "").count(".") < 2]
        wrong += [Claimed(gold, f"{head}#### {other}") for other in others if Fraction(other.replace(",", "")) != value]
    assert len(wrong) > 80_000
    assert {v.passed for v in verifier.verify_many(wrong, 10.0)} == {False}


NUMBERS = st.one_of(
    st.integers(-3000, 3_000_000).map(str),
    st.integers(1000, 9_999_999).map(lambda n: f"{n:,}"),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(lambda p: f"\\frac{{{p[0]}}}{{{p[1]}}}"),
    st.tuples(st.integers(0, 99), st.integers(1, 99)).map(lambda p: f"{p[0]}/{p[1]}"),
    st.decimals(-1000, 1000, places=3).map(lambda d: f"{d:f}"),
    st.integers(1, 500).map(lambda n: f"{n}\\%"),
    st.integers(0, 999).map(lambda n: f"{n} \\text{{ apples}}"),
    st.integers(0, 999).map(lambda n: f"\\${n}"),
)


@settings(max_examples=300, deadline=None)
@given(NUMBERS, NUMBERS, st.booleans())
def test_the_fast_path_agrees_with_math_verify(gold: str, other: str, itself: bool) -> None:
    import math_verify

    answer = gold if itself else other
    mine = same(gold, answer)
    if mine is None:
        return
    parsed = [math_verify.parse(f"\\boxed{{{text}}}", parsing_timeout=None) for text in (gold, answer)]
    assert mine == math_verify.verify(*parsed, timeout_seconds=None)


PIECES = st.sampled_from(
    re.findall(
        r"\S+",
        r"1 2 0 x y + - = ( ) [ ] { } \frac \sqrt \boxed{ \text{ \pm \cup and or , ; \approx & \\ % \% $ "
        r"\begin{pmatrix} \end{pmatrix} #### answer:is ^ _ \circ 1,000 . / A (A) five half \overline{3} ! ** cm \infty "
        r"< \le \in 10^ e i − ½ ²",
    )
)


@settings(max_examples=400, deadline=None)
@given(st.lists(PIECES, max_size=40), st.lists(PIECES, max_size=40), st.sampled_from(["", " "]))
def test_no_answer_breaks_the_fast_path(gold: list[str], answer: list[str], space: str) -> None:
    one, two = space.join(gold), space.join(answer)
    assert same(one, two) in (True, False, None)
    assert same(one, one) in (True, None)
    final_answer(two)
    gold_answer(one)


POISON = [
    "9^{9^{9^{9}}}+\\sqrt{2}",
    "\\sum_{k=1}^{10^{12}} \\lfloor \\sin k \\rfloor",
    "(x+1)^{9999999}-x^{9999999}",
    "\\frac{1}{" * 200 + "x" + "}" * 200,
    "(" * 500 + "x" + ")" * 500,
    "1" * 1_000_000,
    "x" * 1_000_000,
    "9**9**9",
    "10^{10^{10}}!",
]


def test_poison_costs_its_own_limit_and_nothing_else() -> None:
    verifier = MathVerifier(workers=2)
    try:
        honest = Claimed("2\\sqrt{3}", "\\boxed{\\sqrt{12}}")
        verifier.verify_many([honest], 10.0)  # the workers are there
        others = [Claimed(f"{n}\\sqrt{{3}}", f"\\boxed{{\\sqrt{{{3 * n * n}}}}}") for n in range(2, 60)]
        claims = [c for n, other in enumerate(others) for c in ([_poison(n), other] if n < len(POISON) else [other])]
        begun = time.monotonic()
        verdicts = verifier.verify_many(claims, 4.0)
        took = time.monotonic() - begun
        assert all(v.passed is True for c, v in zip(claims, verdicts, strict=True) if c in others)
        assert all(v.passed is not True for c, v in zip(claims, verdicts, strict=True) if c not in others)
        assert took < 4.0 * len(POISON) + 10
    finally:
        verifier.close()


def _poison(n: int) -> Claimed:
    return Claimed("x+\\sqrt{2}", f"\\boxed{{{POISON[n]}}}")


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # where the workers find this module
    pool = Pool("test_math_verify:misbehave", workers=2, memory=256 * 2**20)
    try:
        outcomes = pool.run(["eat", "swallow", "spin", "die", "raise", "return", "print"], 2.0)
        told = dict(zip(["eat", "swallow", "spin", "die", "raise", "return", "print"], outcomes, strict=True))
        assert told["eat"].failure == "memory"
        assert told["swallow"].grown or told["swallow"].failure == "memory"
        assert told["spin"].failure == "timeout"
        assert told["die"].failure == "crash"
        assert told["raise"].failure == "ValueError: no"
        assert told["return"].value == "return"
        assert told["print"].value == "print"
    finally:
        pool.close()


def misbehave(item: str) -> str:
    """What the workers of the pool under test are asked."""
    if item == "eat":
        bytearray(2**40)
    if item == "swallow":
        kept = []
        try:
            while True:
                kept.append(b"x" * 2**20)
        except MemoryError:
            return "false"
    while item == "spin":
        pass
    if item == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if item == "raise":
        raise ValueError("no")
    if item == "print":
        print("to nowhere", flush=True)
        os.write(2, b"to nowhere")
    return item


def test_several_threads_may_ask(verifier: MathVerifier) -> None:
    failures: list[str] = []

    def ask(n: int) -> None:
        claims = [Claimed(f"{n}\\sqrt{{{k}}}", f"\\boxed{{\\sqrt{{{n * n * k}}}}}") for k in (2, 3, 5, 7)]
        if any(v.passed is not True for v in verifier.verify_many(claims, 10.0)):
            failures.append(str(n))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(2, 12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("kill", [True, False])
def test_workers_end_with_close_and_with_their_owner(kill: bool) -> None:
    code = (
        "import os, sys, time\n"
        "from flywheel.verify.pool import Pool\n"
        "pool = Pool('test_math_verify:misbehave', workers=2)\n"
        "pool.submit(['spin', 'spin'], 600)\n"
        "time.sleep(1.5)\n"
        "children = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "pids = children + [p for c in children for p in open(f'/proc/{c}/task/{c}/children').read().split()]\n"
        "print(*pids, flush=True)\n" + ("time.sleep(600)\n" if kill else "pool.close(); print('closed', flush=True)\n")
    )
    env = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parent}"}
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 3, "the nursery and two workers"
    if kill:
        process.kill()
    else:
        assert process.stdout.readline() == "closed\n"
    process.wait()
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    "text",
    [
        "1" * 10**6, "\\boxed{" * 10**5, "\\boxed{\n" * 10**5, "answer to " * 10**5, "answer is " * 10**5, "$a" * 10**5,
        "\\(a" * 10**5, "####" * 10**5, "-" * 10**6 + "1", "1," * 10**5, "\nQuestion:" * 10**5, "**" * 10**5,
    ],
    ids=lambda text: repr(text[:10]),
)  # fmt: skip
def test_looking_for_an_answer_takes_linear_time(text: str) -> None:
    begun = time.process_time()
    found = final_answer(text)
    if found is not None:
        same("5", found.text)
    assert time.process_time() - begun < 1.5
