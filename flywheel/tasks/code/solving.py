"""Programs written, run, and revised by what the run said (Llama 3 §4.3.1, execution feedback)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from flywheel.sandbox.grading import Grade
from flywheel.sandbox.syntax import lint, parse_errors
from flywheel.tasks.code.extract import after_thinking, program_of
from flywheel.tasks.code.options import Revise
from flywheel.tasks.code.spec import Spec
from flywheel.tasks.code.steps import Attempt, Work
from flywheel.types import Completion, Message
from flywheel.verify import judge, load_rubric


async def attempt_all(work: Work, answers: Sequence[Completion], parents: Sequence[int] = ()) -> list[Attempt]:
    """Keep independent answers, and run those that are there."""
    kept = [(work.steps.add(answer, "answer", work.prompt, parents, **_facts(work)), answer) for answer in answers]
    kept = [(index, answer) for index, answer in kept if answer.finish != "abort"]
    programs = [program_of(answer.text, work.spec) for _, answer in kept]
    grades = await work.grade_all([(program, work.spec) for program in programs])
    return [
        Attempt(index, index, answer, program, grade)
        for (index, answer), program, grade in zip(kept, programs, grades, strict=True)
    ]


async def revise_all(work: Work, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Revise failed programs until they pass or the turns are used up; each dialogue is kept, whatever its end.

    Returns:
        The last attempt of each dialogue.
    """
    options = work.options.revise
    if options is None:
        return []

    async def failing(found: Sequence[Attempt]) -> list[Attempt]:
        return [attempt for attempt in found if attempt.grade.passed is False]

    return await _revise(work, options, await failing(attempts), failing)


async def _revise(
    work: Work,
    options: Revise,
    attempts: Sequence[Attempt],
    wanting: Callable[[Sequence[Attempt]], Awaitable[list[Attempt]]],
) -> list[Attempt]:
    """Dialogues about some of the attempts; ``wanting`` says with which of them they go on."""
    attempts = _distinct(attempts)[: options.per_problem]
    ended: list[Attempt] = []
    for turn in range(options.turns):
        told = await asyncio.gather(*(feedback(work, options, attempt) for attempt in attempts))
        found = await _next_turn(work, attempts, told, last=turn + 1 == options.turns)
        attempts = await wanting(found)
        going_on = {attempt.first for attempt in attempts}
        ended += [attempt for attempt in found if attempt.first not in going_on]
    return [*ended, *attempts]


async def _next_turn(work: Work, attempts: Sequence[Attempt], told: Sequence[str], *, last: bool) -> list[Attempt]:
    """Tell each attempt's author what was wrong, and run what comes back; of each dialogue its end is kept.

    One that gets no answer ends with what it had come to.
    """
    conversations = [[*work.asked, *a.completion.messages, _user(text)] for a, text in zip(attempts, told, strict=True)]
    replies = await asyncio.gather(*(work.ask(conversation) for conversation in conversations))
    answered: list[tuple[Attempt, Completion]] = []
    for attempt, text, reply in zip(attempts, told, replies, strict=True):
        if reply.finish != "abort":
            answered.append((attempt, attempt.completion.then(text, reply)))
            continue
        pending = attempt.grade.passed is False and len(attempt.completion.messages) > 1
        index = _keep(work, attempt.first, attempt.completion) if pending else attempt.index
        work.steps.note(index, cut_short=reply.error)
    programs = [program_of(dialogue.text, work.spec) for _, dialogue in answered]
    grades = await work.grade_all([(program, work.spec) for program in programs])
    found: list[Attempt] = []
    for (attempt, dialogue), program, grade in zip(answered, programs, grades, strict=True):
        over = last or grade.passed is not False
        index = _keep(work, attempt.first, dialogue) if over else attempt.index
        found.append(Attempt(index, attempt.first, dialogue, program, grade))
    return found


def _keep(work: Work, first: int, dialogue: Completion) -> int:
    """A dialogue among the steps."""
    turns = len(dialogue.messages) // 2
    kept, prompt = learned(work, dialogue, work.prompt)
    return work.steps.add(kept, "revision", prompt, [first], turns=turns, **_facts(work))


def learned(
    work: Work, dialogue: Completion, asked: Sequence[Message] | None
) -> tuple[Completion, Sequence[Message] | None]:
    """A dialogue and what it answers, as it is trained on: the loss is on the completion, not on what it answers.

    Only its last answer was verified. The mistakes before it are what it corrects, so that training teaches to mend
    them and not to make them.

    Args:
        asked: the conversation that the dialogue answers; None is the problem's own prompt.
    """
    learn = (work.options.revise or Revise()).learn
    if learn == "dialogue" or len(dialogue.messages) == 1:
        return dialogue, asked
    before = work.asked if asked is None else asked
    return replace(dialogue, messages=dialogue.messages[-1:]), [*before, *dialogue.messages[:-1]]


async def feedback(work: Work, options: Revise, attempt: Attempt) -> str:
    """What the author of a program is told: what parser, linter and run say of it, or the judge if it passed."""
    language = work.spec.language
    if attempt.grade.passed:
        review = work.steps[attempt.index].data["judge"]["reason"]
        return work.prompts.text("revise", language=language, review=review)
    if not attempt.program.strip():
        return work.prompts.text("revise", language=language, findings=["there is no program in the answer"])
    findings = await work.wait_for(remarks(language, attempt.program, linted=options.lint))
    return work.prompts.text(
        "revise", language=language, findings=findings, **said(attempt.grade, work.spec, options.shown)
    )


async def remarks(language: str, program: str, *, linted: bool = False) -> list[str]:
    """What parser and linter say of a program. Advice alone: a parser knows no macros, so only a run decides."""
    found = parse_errors(language, program)
    if not found and linted:
        found = await asyncio.to_thread(lint, language, program)
    return [str(finding) for finding in found]


def said(grade: Grade, spec: Spec, most: int) -> dict[str, object]:
    """A failed run in the words of the prompts: outcome, the case that failed, return code and both streams."""
    fields: dict[str, object] = {"outcome": grade.reason, "returncode": None, "failed": _failed_case(grade, spec, most)}
    if grade.outcomes:
        outcome = grade.outcomes[-1]
        fields["returncode"] = outcome.exit_code
        fields["stdout"] = _clipped(outcome.stdout, most)
        fields["stderr"] = _clipped(outcome.stderr, most)
    return fields


def _failed_case(grade: Grade, spec: Spec, most: int) -> str:
    """The first case that did not pass; empty where that cannot be told."""
    number = round(grade.share * len(spec.cases))
    if grade.passed is not False or number >= len(spec.cases):
        return ""
    if spec.level == "call":
        return spec.as_asserts()[number][:most]
    case = spec.cases[number]
    return f"input:\n{case.input[:most]}\nexpected output:\n{case.output[:most]}"


async def review_all(work: Work, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Judge what passed on correctness and style; what misses the mark is revised until it does not, if that is wanted.

    The judgement is noted with the completion, and counts when it is verified.

    Returns:
        Attempts that passed both tests and judge.
    """
    passed = [attempt for attempt in attempts if attempt.grade.passed is True]
    if work.options.judge is None:
        return passed
    approved, missed = await _judge_each(work, passed)

    async def wanting(found: Sequence[Attempt]) -> list[Attempt]:
        more, missed = await _judge_each(work, [a for a in found if a.grade.passed is True])
        approved.extend(more)
        return [*missed, *(a for a in found if a.grade.passed is False)]

    if work.options.revise is not None and work.options.judge.revise:
        await _revise(work, work.options.revise, missed, wanting)
    return approved


async def _judge_each(work: Work, attempts: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """Those that reach the rubric's mark, and those that do not; who cannot be judged is neither."""
    options = work.options.judge
    assert options is not None
    rubric = load_rubric(options.rubric, work.base)
    asked = _as_text(work.asked)
    found = await asyncio.gather(
        *(
            judge(work.policy, rubric, options.votes, prompt=asked, response=after_thinking(a.completion.text))
            for a in attempts
        )
    )
    approved: list[Attempt] = []
    missed: list[Attempt] = []
    for attempt, judgement in zip(attempts, found, strict=True):
        facts = {"score": judgement.score, "passed": judgement.passed, "reason": judgement.reason}
        work.steps.note(attempt.index, judge={**facts, "votes": list(judgement.votes)})
        if judgement.passed is not None:
            (approved if judgement.passed else missed).append(attempt)
    return approved, missed


def _facts(work: Work) -> dict[str, Any]:
    """What the verifier needs beside the text; a judgement that is due and never came leaves it undecided."""
    return {**work.tested, **({} if work.options.judge is None else {"judge": None})}


def _distinct(attempts: Sequence[Attempt]) -> list[Attempt]:
    return list({attempt.program: attempt for attempt in reversed(attempts)}.values())[::-1]


def _as_text(messages: Sequence[Message]) -> str:
    return "\n\n".join(message["content"] for message in messages)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _clipped(stream: bytes, most: int) -> str:
    """The end of a stream, where errors are told."""
    text = stream.decode(errors="replace").strip()
    return text if len(text) <= most else "[…] " + text[-most:]
