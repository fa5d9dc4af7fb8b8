"""What a completion is worth: which programs of it must pass which tests, and what a judge added."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.sandbox.grading import Grade
from flywheel.tasks.code.backtranslation import recreated_programs
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.running import Ask, Runner
from flywheel.tasks.code.spec import Spec, Specs
from flywheel.tasks.code.translation import read_translation
from flywheel.types import Completion, Problem, Verdict

PARTIAL = 0.5
"""Score of what passes its tests but misses a judge's mark: neither right nor as bad as wrong."""


@dataclass(frozen=True)
class Plan:
    """What is to be run for a verdict; with ``ready`` nothing is."""

    asks: Sequence[Ask] = ()
    ready: Verdict | None = None


def verify_all(
    runner: Runner, asks: Sequence[tuple[Problem, Completion]], train_on: Sequence[str], timeout: float | None
) -> list[Verdict]:
    """A verdict per completion; all programs are run in one batch.

    Args:
        runner: where programs run.
        asks: completions with their problems.
        train_on: kinds that are trained on; others are undecided, which keeps them out of everything but the record.
        timeout: seconds per run.
    """
    specs = Specs()
    plans = [_plan(problem, completion, train_on, specs) for problem, completion in asks]
    grades = iter(runner.grade_all([ask for plan in plans for ask in plan.asks], timeout))
    verdicts = []
    for plan, (_, completion) in zip(plans, asks, strict=True):
        own = [next(grades) for _ in plan.asks]
        verdicts.append(plan.ready if plan.ready is not None else _verdict(own, completion))
    return verdicts


def _plan(problem: Problem, completion: Completion, train_on: Sequence[str], specs: Specs) -> Plan:
    kind, data = completion.kind, completion.data
    if kind not in train_on and kind != "answer":
        return Plan(ready=Verdict.undecided(f"a step ({kind}), kept for its lineage"))
    if completion.finish == "abort":
        return Plan(ready=Verdict.undecided(f"no answer: {completion.error}"))
    if kind in ("proposal", "tests"):
        return Plan(ready=_validity(data))
    if (why := data.get("untested")) is not None:
        return Plan(ready=Verdict.undecided(f"no tests could be validated: {why}"))
    own = "original" if kind == "translation" else "spec"
    frozen = data.get(own) or problem.data.get("spec")  # its own tests, or the problem's
    if frozen is None:
        return Plan(ready=Verdict.undecided("the problem has no tests"))
    spec = specs.of(frozen)
    if kind == "translation":
        return _plan_translation(completion, spec)
    if data.get("fault") is not None:
        return Plan(ready=Verdict.wrong(str(data["fault"]), level=spec.level))
    if kind in ("explanation", "documentation", "debugging"):
        if kind != "debugging" and data.get("recreated") is None:
            return Plan(ready=Verdict.undecided(f"no program was made from it: {data.get('cut_short', 'no answer')}"))
        return Plan([(program, spec) for program in recreated_programs(completion, spec.function)])
    program = program_of(completion.text, spec)
    if not completion.text.strip():
        return Plan(ready=Verdict.wrong("there is no program", level=spec.level))
    return Plan([(program, spec)])


def _plan_translation(completion: Completion, original: Spec) -> Plan:
    """The tests are held against the original's once more: what the rollout found is not taken on trust."""
    if "language" not in completion.data:
        return Plan(ready=Verdict.undecided("it does not say to which language it translates"))
    frozen = completion.data.get("spec", {}).get("tests")
    read = read_translation(completion.text, completion.data["language"], original, frozen)
    if not read.decides:
        return Plan(ready=Verdict.undecided(f"its tests are not those of the Python program: {read.fault}"))
    if read.fault is not None:
        return Plan(ready=Verdict.wrong(read.fault, level=read.spec.level))
    return Plan([(read.program, read.spec)])


def _verdict(grades: Sequence[Grade], completion: Completion) -> Verdict:
    verdicts = [grade.verdict() for grade in grades]
    worst = min(verdicts, key=lambda v: {False: 0, None: 1, True: 2}[v.passed])
    if worst.passed is not True:
        return worst
    worst = Verdict(worst.score, "", worst.detail)  # there is nothing to say of what is right
    for name in ("fidelity", "judge"):
        if name in completion.data:
            worst = _judged(worst, name, completion.data[name])
    return worst


def _judged(verdict: Verdict, name: str, judged: dict[str, Any] | None) -> Verdict:
    """A judge can only take away from what the tests have given; where one was due and never asked, nobody knows."""
    if verdict.passed is not True:
        return verdict
    if judged is None:
        return Verdict(None, f"{name} undecided: it was never asked", verdict.detail)
    detail = {**verdict.detail, name: judged["score"], f"{name}_votes": judged["votes"]}
    if judged["passed"] is None:
        return Verdict(None, f"{name} undecided: {judged['reason']}", detail)
    if not judged["passed"]:
        return Verdict(PARTIAL, f"passes its tests, but {name} gives {judged['score']:g}", detail)
    return Verdict(verdict.score, verdict.reason, detail)


def _validity(data: Any) -> Verdict:
    """Of proposals and tests: what the rollout found out about them, with the sandbox's help."""
    why = data.get("why_not")
    return Verdict.right() if why is None else Verdict.wrong(str(why))
