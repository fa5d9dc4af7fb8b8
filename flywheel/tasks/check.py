"""Prove a task before it costs anything: its verifier accepts the gold and rejects what is wrong."""

from __future__ import annotations

from itertools import islice, pairwise

from flywheel.errors import UserError
from flywheel.tasks.base import Task, time_limit
from flywheel.types import Completion, Problem, Verdict

SAMPLE = 200
"""Problems of each split that are looked at."""


def check_task(task: Task, *, needs_demonstrations: bool) -> list[str]:
    """Everything that is wrong with a task, in words; empty if nothing is.

    Args:
        task: the task.
        needs_demonstrations: the recipe warms up, so each demonstration must have a gold completion.
    """
    findings: list[str] = []
    splits: dict[str, list[Problem]] = {}
    for split in ("train", "heldout", *(["demonstrations"] if needs_demonstrations else [])):
        try:
            splits[split] = list(islice(task.problems(split), SAMPLE))
        except UserError as error:
            findings += _told(error)
            continue
        except Exception as error:  # a user's code may raise anything; it is a finding, not a crash
            findings.append(f"problems({split!r}) raised {type(error).__name__}: {error}")
            continue
        if not splits[split]:
            findings.append(f"split {split!r} has no problems")
    findings += _overlap(splits)
    findings += [
        f"demonstration {p.id} has no gold completion" for p in splits.get("demonstrations", []) if p.gold is None
    ][:3]
    known = {p.id: p for problems in splits.values() for p in problems if p.gold is not None}
    try:  # first: what keeps the verifier from working is said before what it then does wrong
        findings += getattr(task, "findings", list)()
    except UserError as error:
        findings += _told(error)
    findings += _verifier(task, list(known.values()))
    return list(dict.fromkeys(findings))  # what keeps one split from being read may keep the others as well


def _told(error: UserError) -> list[str]:
    return [*error.message.splitlines(), *([f"({error.hint})"] if error.hint else [])]


def _overlap(splits: dict[str, list[Problem]]) -> list[str]:
    heldout = {p.id for p in splits.get("heldout", [])}
    return [
        f"problem {shared} is both in 'heldout' and in {split!r}: its evaluation would mean nothing"
        for split in ("train", "demonstrations")
        if (shared := next((p.id for p in splits.get(split, []) if p.id in heldout), None))
    ]


def _verifier(task: Task, problems: list[Problem]) -> list[str]:
    wrong = [(p, text) for p in problems for text in ("", *getattr(task, "wrong_answers", lambda _: [])(p))]
    # Another problem's answer may happen to be right here too, but not most of the time.
    others = [(p, str(other.gold)) for p, other in pairwise(problems) if p.gold != other.gold]
    verdicts = iter(_verify_all(task, [*((p, str(p.gold)) for p in problems), *wrong, *others]))
    rejected = [
        f"the verifier does not accept the gold answer of {problem.id} ({_said(verdict)})"
        for problem, verdict in [(problem, next(verdicts)) for problem in problems]
        if verdict.passed is not True
    ]
    accepted = [
        f"the verifier accepts the wrong answer {text!r} for {problem.id}"
        for (problem, text), verdict in [(ask, next(verdicts)) for ask in wrong]
        if verdict.passed is True
    ]
    taken = sum(verdict.passed is True for verdict in verdicts)
    found = [*_first(rejected), *_first(accepted)]
    if taken * 2 > len(others):
        found.append(f"the verifier accepts another problem's gold answer for {taken} of {len(others)} problems")
    return found


def _verify_all(task: Task, asks: list[tuple[Problem, str]]) -> list[Verdict]:
    """All at once, if the task can."""
    many = getattr(task, "verify_many", None)
    if many is None:
        return [_verify(task, problem, text) for problem, text in asks]
    try:
        verdicts: list[Verdict] = many([(problem, Completion.of(text)) for problem, text in asks], time_limit(task))
    except Exception as error:  # see check_task
        return [Verdict.undecided(f"verify_many raised {type(error).__name__}: {error}")] * len(asks)
    return verdicts


def _verify(task: Task, problem: Problem, text: str) -> Verdict:
    try:
        return task.verify(problem, Completion.of(text))
    except Exception as error:  # see check_task
        return Verdict.undecided(f"verify raised {type(error).__name__}: {error}")


def _said(verdict: Verdict) -> str:
    return f"score {verdict.score}: {verdict.reason}" if verdict.score is not None else f"undecided: {verdict.reason}"


def _first(findings: list[str], most: int = 3) -> list[str]:
    more = len(findings) - most
    return findings[:most] + ([f"… and {more} more like it"] if more > 0 else [])
