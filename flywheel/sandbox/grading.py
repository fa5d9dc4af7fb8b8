"""Is a program right? Three levels of evidence, from strongest to weakest.

- ``StdioChecks``: the program reads stdin and writes stdout; what it should write never enters the sandbox.
- ``CallChecks``: a function of it is called; arguments go in, answers come out as tagged plain data, and are compared
  outside, so no ``__eq__``, frame walk or early exit can help.
- ``TestChecks``: tests run in the same process as the program. That their end was reached is proven by a nonce on a
  private file descriptor, and a program that passed must *fail* when the expectations are altered (poisoned rerun);
  several times, if it is one that might forge at random, or meddle with its tests.

Limits are of each case, each call, or the test file. A program that passed runs again under another hash seed and
clock; one that then fails is flaky, and wrong. Where the sandbox failed, or tests cannot decide, it is undecided.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flywheel.errors import DataError, UserError
from flywheel.sandbox.checks import (
    CallCase,
    CallChecks,
    Checks,
    Grade,
    Policy,
    Program,
    StdioCase,
    StdioChecks,
    TestChecks,
    TestIdiom,
    TestRun,
    Which,
)
from flywheel.sandbox.compare import same_data, same_output
from flywheel.sandbox.diagnosis import how
from flywheel.sandbox.inside import plain
from flywheel.sandbox.job import Executor, Job, Outcome
from flywheel.sandbox.languages import entry_of, language
from flywheel.sandbox.python_poison import UNMET
from flywheel.sandbox.python_tests import PythonTests
from flywheel.sandbox.testfile import IDIOMS

__all__ = [
    "CallCase",
    "CallChecks",
    "Checks",
    "Grade",
    "Policy",
    "Program",
    "StdioCase",
    "StdioChecks",
    "TestChecks",
    "TestIdiom",
    "TestRun",
    "grade",
    "grade_many",
    "idiom",
]

CLOCK, OTHER_CLOCK = 1_700_000_000, 1_830_297_599
"""When programs run, and when they run again: another year, month, weekday, hour, second."""
OTHER_SEED = 271828
_MORE_POISONED = 3
"""Poisoned reruns of a suspect, under either seed and clock, beside one more true run. What forges with a probability
of p must have luck p²(1 - p)⁴ · p²(1 - p)³: at best once in 1,300 times, and not once in 4 as with one of each kind."""
_WAVES = (1, 4, 16, 64)
_AT_ONCE = 64
_LIMITS = ("cpu", "wall", "output_limit")
_MOST_RUNS = 10
"""Runs for the calls of one program: all of them together may take ten times what one may."""
_INSIDE = Path(__file__).parent / "inside"
_CALL_DRIVER = (_INSIDE / "call_driver.py").read_bytes()
_PLAIN = (_INSIDE / "plain.py").read_bytes()


async def grade(executor: Executor, program: Program, checks: Checks, policy: Policy | None = None) -> Grade:
    """Grade one program. Concurrent calls share the executor."""
    policy = policy or Policy()
    try:
        if isinstance(checks, StdioChecks):
            return await _grade_stdio(executor, program, checks, policy)
        if isinstance(checks, CallChecks):
            return await _grade_calls(executor, program, checks, policy)
        return await _grade_tests(executor, program, checks, policy)
    except UserError as error:  # such as a language that is not installed: others' programs can still be judged
        level = "stdio" if isinstance(checks, StdioChecks) else "call" if isinstance(checks, CallChecks) else "tests"
        return _undecided(level, None, f"{error.message}{f' ({error.hint})' if error.hint else ''}")


def grade_many(executor: Executor, asks: Sequence[tuple[Program, Checks]], policy: Policy | None = None) -> list[Grade]:
    """Grade many programs at once, from plain code; the grades in the order of the asks."""

    async def all_of_them() -> list[Grade]:
        gate = asyncio.Semaphore(max(_AT_ONCE, 4 * executor.count))

        async def one(program: Program, checks: Checks) -> Grade:
            async with gate:
                return await grade(executor, program, checks, policy)

        return await asyncio.gather(*(one(*ask) for ask in asks))

    return asyncio.run(all_of_them())


def idiom(name: str) -> TestIdiom:
    """How test files of a language run."""
    row = language(name)
    return PythonTests() if row.name == "python" else IDIOMS[row.name]


def _unchanged(job: Job) -> Job:
    return job


def _again(job: Job) -> Job:
    return replace(job, hash_seed=OTHER_SEED, clock=OTHER_CLOCK)


def _undecided(level: str, outcome: Outcome | None, why: str) -> Grade:
    return Grade(None, why, level, (outcome,) if outcome else ())  # type: ignore[arg-type]


# stdio


async def _grade_stdio(executor: Executor, program: Program, checks: StdioChecks, policy: Policy) -> Grade:
    if not checks.cases:
        return _undecided("stdio", None, "the problem has no cases")
    row = language(program.language)
    name = entry_of(row.name, program.source)
    files = {**program.files, name: program.source.encode("utf-8", "surrogatepass")}
    job = Job(row.name, files, name, limits=policy.limits, clock=CLOCK)
    done = 0
    last: Outcome | None = None
    for wave in _waves(checks.cases):
        outcomes = await executor.run(replace(job, argv=wave[0].argv, stdin=tuple(case.stdin for case in wave)))
        for case, last in zip(wave, outcomes, strict=True):
            failed = _stdio_failure(case, last, policy, done)
            if failed is not None:
                return replace(failed, share=done / len(checks.cases))
            done += 1
    assert last is not None
    if policy.flaky:
        seen = 0
        for wave in _same_argv(checks.cases):
            again = _again(replace(job, argv=wave[0].argv, stdin=tuple(case.stdin for case in wave)))
            for case, outcome in zip(wave, await _rerun(executor, again), strict=True):
                failed = _stdio_failure(case, outcome, policy, seen)
                if failed is not None:
                    return _flaky(replace(failed, share=seen / len(checks.cases)))
                seen += 1
    return Grade(True, f"passed {done} cases", "stdio", (last,), 1.0)


def _stdio_failure(case: StdioCase, outcome: Outcome, policy: Policy, number: int) -> Grade | None:
    if outcome.status == "infra_error":
        return _undecided("stdio", outcome, f"the sandbox failed: {outcome.detail}")
    if not outcome.ok:
        return Grade(False, f"case {number + 1}: {how(outcome)}", "stdio", (outcome,))
    if not same_output(case.stdout, outcome.stdout, policy):
        return Grade(False, f"case {number + 1}: another output than expected", "stdio", (outcome,))
    return None


def _same_argv(cases: Sequence[StdioCase]) -> Iterator[list[StdioCase]]:
    """Neighbours with equal arguments, which can be one job."""
    wave: list[StdioCase] = []
    for case in cases:
        if wave and wave[0].argv != case.argv:
            yield wave
            wave = []
        wave.append(case)
    if wave:
        yield wave


def _waves(cases: Sequence[StdioCase]) -> Iterator[list[StdioCase]]:
    """A few cases first, so that a program that fails at once, or runs into its limits, costs little."""
    sizes = iter(_WAVES)
    for group in _same_argv(cases):
        at = 0
        while at < len(group):
            size = next(sizes, 256)
            yield group[at : at + size]
            at += size


# calls


async def _grade_calls(executor: Executor, program: Program, checks: CallChecks, policy: Policy) -> Grade:
    if language(program.language).name != "python":
        return _undecided("call", None, f"functions of {program.language} cannot be called; use test files")
    if not checks.cases:
        return _undecided("call", None, "the problem has no cases")
    try:
        calls = [plain.dumps((list(case.args), dict(case.kwargs))) for case in checks.cases]
    except plain.NotPlain as error:
        return _undecided("call", None, f"the problem's arguments cannot be sent: {error}")
    files = {
        **program.files,
        "solution.py": program.source.encode("utf-8", "surrogatepass"),
        "_call.py": _CALL_DRIVER,
        "_plain.py": _PLAIN,
    }
    job = Job("python", files, "_call.py", limits=policy.limits, clock=CLOCK)
    found = await _run_calls(executor.run, job, checks, calls, policy)
    if found.passed is not True or not policy.flaky:
        return found
    again = await _run_calls(partial(_rerun, executor), _again(job), checks, calls, policy)
    return found if again.passed else _flaky(again)


async def _run_calls(
    run: Callable[[Job], Awaitable[list[Outcome]]], job: Job, checks: CallChecks, calls: Sequence[str], policy: Policy
) -> Grade:
    """Limits are of each call: what is left when a run met one runs anew, unless that call had the run to itself."""
    right = 0
    for _ in range(_MOST_RUNS):
        stdin = "\n".join([checks.function, *calls[right:]]).encode()
        (outcome,) = await run(replace(job, stdin=(stdin,)))
        before = right
        found, right = _judge_calls(checks.cases, before, outcome, policy)
        cut_short = outcome.status in _LIMITS and right - before == outcome.stdout.count(b"\n") > 0
        if not cut_short or len(calls) == right == before + 1:
            break
        right = min(right, len(calls) - 1)  # all answered, and over the limit of one: the last is to end by itself
    return found


def _judge_calls(cases: Sequence[CallCase], done: int, outcome: Outcome, policy: Policy) -> tuple[Grade, int]:
    """Compare each answer after the first ``done``; the first that is missing or wrong decides.

    And how many of all were right.
    """
    if outcome.status == "infra_error":
        return _undecided("call", outcome, f"the sandbox failed: {outcome.detail}"), done
    *answers, _ = outcome.stdout.split(b"\n")  # the last line ends with a line break, too
    for number, case in enumerate(cases[done:], start=done):
        missing = number - done >= len(answers)
        why = f"no answer; {how(outcome)}" if missing else _answer_fault(case, answers[number - done], policy)
        if why is not None:
            return Grade(False, f"call {number + 1}: {why}", "call", (outcome,), number / len(cases)), number
    if not outcome.ok:
        return Grade(False, f"after all calls: {how(outcome)}", "call", (outcome,), 1.0), len(cases)
    return Grade(True, f"passed {len(cases)} calls", "call", (outcome,), 1.0), len(cases)


def _answer_fault(case: CallCase, line: bytes, policy: Policy) -> str | None:
    try:
        said = json.loads(line)
        if not isinstance(said, dict):
            return "no answer that can be read"
        if "value" not in said:
            return str(said.get("refused", "no answer that can be read"))[:200]
        value = plain.loads(json.dumps(said["value"]))
    except (ValueError, RecursionError):
        return "no answer that can be read"
    if isinstance(value, plain.Other):
        return f"returned a {value.kind}, which is no data"
    return None if same_data(case.expected, value, policy) else "returned another value than expected"


# test files


async def _grade_tests(executor: Executor, program: Program, checks: TestChecks, policy: Policy) -> Grade:
    tests = idiom(program.language)
    nonce = secrets.token_hex(16)
    try:
        run = tests.assemble(program, checks, nonce)
    except DataError as error:
        return _undecided("tests", None, f"{error.message}; {error.hint}" if error.hint else error.message)
    job = _test_job(program, run, policy)
    outcome, reached = await _run_tests(executor, job, nonce)
    if outcome.status == "infra_error":
        return _undecided("tests", outcome, f"the sandbox failed: {outcome.detail}")
    if not reached:
        lacking = await _lacking(executor, tests.lacking(checks, outcome))
        return lacking or Grade(False, _test_failure(outcome), "tests", (outcome,))
    altered: int | None = None
    if policy.poison:
        for which in tests.reruns:
            found, number = await _poisoned_rerun(executor, program, checks, policy, outcome, which)
            altered = number if altered is None else altered
            if found is not None:
                return replace(found, poisoned=altered)
    if policy.flaky and (found := await _true_rerun(executor, _again(job), nonce)) is not None:
        return replace(found, poisoned=altered)
    if policy.poison and tests.is_suspect(program, checks):
        for change in (_unchanged, _again)[: 1 + policy.flaky]:
            reruns = [
                _poisoned_rerun(executor, program, checks, policy, outcome, "one", change)
                for _ in range(_MORE_POISONED)
            ]
            true = _true_rerun(executor, change(job), nonce)
            again, false = await asyncio.gather(true, asyncio.gather(*reruns))
            for found in (again, *(found for found, _ in false)):
                if found is not None:
                    return replace(found, poisoned=altered)
    return Grade(True, "passed the tests", "tests", (outcome,), 1.0, poisoned=altered)


async def _lacking(executor: Executor, job: Job | None) -> Grade | None:
    """Undecided, if what the tests import is missing whatever the program does."""
    if job is None:
        return None
    (outcome,) = await executor.run(job)
    names = outcome.stdout.decode(errors="replace").split()
    if not outcome.ok or not names:
        return None
    what = " ".join(dict.fromkeys(names))
    why = f"the tests import {what}, which is not installed where programs run: pip install {what}"
    return _undecided("tests", outcome, why)


async def _poisoned_rerun(
    executor: Executor,
    program: Program,
    checks: TestChecks,
    policy: Policy,
    true_run: Outcome,
    which: Which = "most",
    change: Callable[[Job], Job] = _unchanged,
) -> tuple[Grade | None, int]:
    """What is wrong with a program if its tests' expectations are altered; None if they fail, as they should.

    And how many were altered.
    """
    nonce = secrets.token_hex(16)
    try:
        poisoned = idiom(program.language).poison(program, checks, nonce, which)
    except (RecursionError, ValueError) as error:
        return _undecided("tests", true_run, f"the tests cannot be altered: {error}"), 0
    outcome, passed = await _run_tests(executor, change(_test_job(program, poisoned.run, policy)), nonce)
    found = None
    if outcome.status == "infra_error":
        found = _undecided("tests", outcome, f"the sandbox failed: {outcome.detail}")
    elif outcome.status == "compile_error":  # that proves nothing: the run itself compiled
        found = _undecided("tests", outcome, "the tests do not compile with altered expectations")
    elif outcome.exit_code == UNMET and language(program.language).name == "python":
        found = _undecided(
            "tests", outcome, "the tests reach no assertion that a right program must fail if it is altered"
        )
    elif passed:
        why = "passed although the expectations had been altered"
        found = Grade(False, why, "tests", (true_run, outcome), forged=True)
        if not poisoned.sure and which != "all":  # alterations may be without effect, or undo each other
            found, _ = await _poisoned_rerun(executor, program, checks, policy, true_run, "all", change)
            if found is None:
                found = _undecided("tests", true_run, "passed with some expectations altered, and failed with all")
    return found, poisoned.altered


async def _true_rerun(executor: Executor, job: Job, nonce: str) -> Grade | None:
    """What is wrong with a program that passed if it runs once more; None if it passes again."""
    outcome, passed = _nonce_found((await _rerun(executor, job))[0], nonce)
    if outcome.status == "infra_error":
        return _undecided("tests", outcome, f"the sandbox failed: {outcome.detail}")
    return None if passed else _flaky(Grade(False, _test_failure(outcome), "tests", (outcome,)))


def _test_job(program: Program, run: TestRun, policy: Policy) -> Job:
    name = language(program.language).name
    return Job(name, run.files, run.entry, stdin=(run.stdin,), limits=policy.limits, clock=CLOCK)


async def _run_tests(executor: Executor, job: Job, nonce: str) -> tuple[Outcome, bool]:
    """How the tests ended, without the nonce, and whether the nonce proves that their end was reached."""
    (outcome,) = await executor.run(job)
    return _nonce_found(outcome, nonce)


def _nonce_found(outcome: Outcome, nonce: str) -> tuple[Outcome, bool]:
    before, found, after = outcome.stdout.rpartition(nonce.encode())
    if not found or after.strip():
        return outcome, False
    return replace(outcome, stdout=before.removesuffix(b"\n")), outcome.ok


def _test_failure(outcome: Outcome) -> str:
    if outcome.ok:
        return "ended before its tests did, with exit code 0"
    return how(outcome)


async def _rerun(executor: Executor, job: Job) -> list[Outcome]:
    """Run what passed before once more; if time is up, that may be the machine's load, and it is tried once again."""
    outcomes = await executor.run(job)
    if any(outcome.status == "wall" for outcome in outcomes):
        outcomes = await executor.run(job)
    return outcomes


def _flaky(failed: Grade) -> Grade:
    """The grade of a program that passed, for a rerun that failed; undecided where that was."""
    if failed.passed is None:
        return failed
    why = f"flaky: passed, and failed under another hash seed and clock: {failed.reason}"
    return replace(failed, reason=why, flaky=True)
