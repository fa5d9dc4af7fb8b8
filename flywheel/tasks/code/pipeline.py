"""A rollout of the code task, from a problem with tests or from a snippet of code, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flywheel.tasks.code.backtranslation import backtranslate_all
from flywheel.tasks.code.duplicates import NearDuplicates
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.proposals import Proposal, read_proposal
from flywheel.tasks.code.solving import attempt_all, review_all, revise_all
from flywheel.tasks.code.spec import Spec
from flywheel.tasks.code.steps import Attempt, Work
from flywheel.tasks.code.translation import translate_all
from flywheel.tasks.code.unit_tests import Validated, assertions, different, spec_of, validate
from flywheel.types import Completion, Problem

LANGUAGE = "python"
"""Of proposed problems: their tests are assertions, which are validated as Python."""


async def from_tests(work: Work, problem: Problem) -> list[Completion]:
    """Solve a problem that came with tests."""
    answers = await work.policy.chat(problem.prompt)
    if not _has_more(work):
        return answers  # nothing is made of them: the verifier alone runs them
    await _develop(work, await attempt_all(work, answers))
    return work.steps.all()


async def from_seed(work: Work, problem: Problem, known: NearDuplicates) -> list[Completion]:
    """Propose a problem, solve it, write tests for it, and go on from there."""
    proposed = await _propose(work, problem, known)
    if proposed is None:
        return work.steps.all()
    place, proposal = proposed
    rules = work.prompts.text("rules", language=LANGUAGE) if work.options.rules else ""
    asked = work.prompts.ask("solve", language=LANGUAGE, question=proposal.question, rules=rules)
    answers = await work.answers(asked, work.policy.sampling.n)
    unfrozen = replace(
        work, question=proposal.question, asked=asked, derived=True, spec=Spec("tests", LANGUAGE, proposal.entry_point)
    )
    frozen, parents = await _write_tests(unfrozen, answers, place, proposal.entry_point)
    if frozen.why_not is not None:
        for answer in answers:
            work.steps.add(answer, "answer", asked, parents, untested=frozen.why_not)
        return work.steps.all()
    work = replace(unfrozen, spec=spec_of(frozen.tests, proposal.entry_point))
    await _develop(work, await attempt_all(work, answers, parents))
    return work.steps.all()


async def _develop(work: Work, attempts: Sequence[Attempt]) -> None:
    """What the knobs make of attempts: revisions, a review, translations, explanations."""
    revised = await revise_all(work, attempts)
    approved = await review_all(work, [*attempts, *revised])
    if approved:
        source = work.draw("source").choice(approved)
        await translate_all(work, source)
        await backtranslate_all(work, source)


def _has_more(work: Work) -> bool:
    options = work.options
    return any(knob is not None for knob in (options.revise, options.judge, options.translate, options.backtranslate))


async def _propose(work: Work, problem: Problem, known: NearDuplicates) -> tuple[int, Proposal] | None:
    """A problem out of a seed, and its place among the steps; refused ones are kept with the reason."""
    options = work.options.propose
    assert options is not None
    for _ in range(options.tries):
        answer = await work.ask(problem.prompt)
        facts = dict(problem.data["seed"])
        try:
            if answer.finish == "abort":
                raise ValueError(f"no answer: {answer.error}")
            proposal = read_proposal(answer.text, options)
            near = known.nearest(proposal.question)
            if near is not None and near[1] >= options.similarity:
                raise ValueError(f"{near[1]:.0%} of its word 3-grams are those of {near[0]}")
        except ValueError as error:
            work.steps.add(answer, "proposal", why_not=str(error), **facts)
            continue
        known.add(problem.id, proposal.question)
        facts |= {"question": proposal.question, "entry_point": proposal.entry_point}
        return work.steps.add(answer, "proposal", **facts), proposal
    return None


async def _write_tests(
    work: Work, answers: Sequence[Completion], proposal: int, entry_point: str
) -> tuple[Validated, list[int]]:
    """Have tests written and validated, more of them where they do not reach all.

    Returns:
        What is left of them, and the steps that an answer to the problem comes from.
    """
    options = work.options.unit_tests
    programs = different(program_of(answer.text, work.spec) for answer in answers if answer.finish != "abort")
    if not programs:
        return Validated((), "there are no solutions"), [proposal]
    tests: list[str] = []
    parents = [proposal]
    found = Validated((), "none were written")
    for turn in range(options.tries):
        asked = _ask_for_tests(work, entry_point, tests, programs, found)
        answer = await work.ask(asked)
        if answer.finish == "abort":
            parents.append(work.steps.add(answer, "tests", asked, [proposal], turn=turn))
            return (found if turn else Validated((), f"no answer: {answer.error}")), parents
        tests = list(dict.fromkeys([*(found.tests or tests), *assertions(answer.text, entry_point)]))
        found = await work.wait_for(validate(work.runner, tests, programs, entry_point, options))
        facts: dict[str, object] = {
            "tests": list(found.tests),
            "why_not": found.why_not,
            "agreeing": len(found.agreeing),
            "turn": turn,
        }
        if found.coverage is not None:
            shares = {"lines": found.coverage.line_share, "branches": found.coverage.branch_share}
            facts |= {"coverage": {name: round(share, 4) for name, share in shares.items()}}
        parents.append(work.steps.add(answer, "tests", asked, [proposal], **facts))
        if found.why_not is None:
            break
    return found, parents


def _ask_for_tests(
    work: Work, entry_point: str, tests: Sequence[str], programs: Sequence[str], found: Validated
) -> list[dict[str, str]]:
    common = {"question": work.question, "entry_point": entry_point, "count": work.options.unit_tests.count}
    if found.coverage is None or not found.agreeing or not found.coverage.missed:
        return work.prompts.ask("tests", **common)
    missed = "; ".join(found.coverage.missed[:10])
    return work.prompts.ask(
        "more_tests", **common, tests=found.tests, program=programs[found.agreeing[0]].strip("\n"), missed=missed
    )
