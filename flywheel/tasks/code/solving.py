"""Programs written, run, and revised by what the run said (Llama 3 §4.3.1, execution feedback)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from flywheel.sandbox.grading import Grade
from flywheel.sandbox.syntax import lint, parse_errors
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.options import Revise
from flywheel.tasks.code.spec import Spec
from flywheel.tasks.code.steps import Attempt, Work
from flywheel.types import Completion, Message
from flywheel.verify import judge, load_rubric


async def attempt_all(work: Work, answers: Sequence[Completion], parents: Sequence[int] = ()) -> list[Attempt]:
    """Keep independent answers, and run them."""
    programs = [program_of(answer.text, work.spec) for answer in answers]
    grades = await asyncio.gather(*(work.runner.grade(program, work.spec) for program in programs))
    return [
        Attempt(work.steps.add(answer, "answer", work.prompt, parents, **_tested(work)), answer, program, grade)
        for answer, program, grade in zip(answers, programs, grades, strict=True)
    ]


async def revise_all(work: Work, attempts: Sequence[Attempt]) -> list[Attempt]:
    """Revise failed programs until they pass or the turns are used up; each dialogue is kept, whatever its end.

    Returns:
        The last attempt of each dialogue.
    """
    options = work.options.revise
    if options is None:
        return []
    open_ones = _distinct([a for a in attempts if a.grade.passed is False])[: options.per_problem]
    done: list[Attempt] = []
    firsts = {attempt.index: attempt.index for attempt in open_ones}
    for turn in range(options.turns):
        told = await asyncio.gather(*(feedback(work, attempt) for attempt in open_ones))
        open_ones = await next_turn(work, open_ones, told, last=turn + 1 == options.turns, firsts=firsts)
        done += [a for a in open_ones if a.grade.passed is not False]
        open_ones = [a for a in open_ones if a.grade.passed is False]
        if not open_ones:
            break
    return done + open_ones


async def next_turn(
    work: Work, attempts: Sequence[Attempt], told: Sequence[str], *, last: bool, firsts: dict[int, int]
) -> list[Attempt]:
    """Tell each attempt's author what was wrong, and run what comes back; of each dialogue only its end is kept."""
    conversations = [[*work.asked, *a.completion.messages, _user(text)] for a, text in zip(attempts, told, strict=True)]
    replies = await asyncio.gather(*(work.policy.chat(conversation, n=1) for conversation in conversations))
    dialogues = [a.completion.then(text, reply[0]) for a, text, reply in zip(attempts, told, replies, strict=True)]
    programs = [program_of(dialogue.text, work.spec) for dialogue in dialogues]
    grades = await asyncio.gather(*(work.runner.grade(program, work.spec) for program in programs))
    found: list[Attempt] = []
    for attempt, dialogue, program, grade in zip(attempts, dialogues, programs, grades, strict=True):
        first = firsts[attempt.index]
        index = attempt.index
        if last or grade.passed is not False:
            turns = len(dialogue.messages) // 2
            kept, prompt = learned(work, dialogue, work.prompt)
            index = work.steps.add(kept, "revision", prompt, [first], turns=turns, **_tested(work))
            firsts[index] = first
        found.append(Attempt(index, dialogue, program, grade))
    return found


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


async def feedback(work: Work, attempt: Attempt) -> str:
    """What the author of a failed program is told: what parser, linter and run say of it."""
    options = work.options.revise
    assert options is not None
    language = work.spec.language
    findings = [str(finding) for finding in parse_errors(language, attempt.program)]
    if not attempt.program.strip():
        findings = ["there is no program in the answer"]
    if findings:  # what does not parse need not be run to be understood
        return work.prompts.text("revise", language=language, findings=findings)
    if options.lint:
        findings = [str(finding) for finding in await asyncio.to_thread(lint, language, attempt.program)]
    return work.prompts.text(
        "revise", language=language, findings=findings, **said(attempt.grade, work.spec, options.shown)
    )


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
    """Judge what passed on correctness and style; what misses the mark is revised once more, if that is wanted.

    The judgement is noted with the completion, and counts when it is verified.

    Returns:
        Attempts that passed both tests and judge.
    """
    options = work.options.judge
    passed = [a for a in attempts if a.grade.passed is True]
    if options is None:
        return passed
    approved, missed = await _judge_each(work, passed)
    if not missed or work.options.revise is None or not options.revise:
        return approved
    missed = _distinct(missed)[: work.options.revise.per_problem]
    told = [
        work.prompts.text("revise", language=work.spec.language, review=work.steps[a.index].data["judge"]["reason"])
        for a in missed
    ]
    revised = await next_turn(work, missed, told, last=True, firsts={a.index: a.index for a in missed})
    more, _ = await _judge_each(work, [a for a in revised if a.grade.passed is True])
    return approved + more


async def _judge_each(work: Work, attempts: Sequence[Attempt]) -> tuple[list[Attempt], list[Attempt]]:
    """Those that reach the rubric's mark, and those that do not; who cannot be judged is neither."""
    options = work.options.judge
    assert options is not None
    rubric = load_rubric(options.rubric, work.base)
    asked = _as_text(work.asked)
    found = await asyncio.gather(
        *(judge(work.policy, rubric, options.votes, prompt=asked, response=a.completion.text) for a in attempts)
    )
    approved: list[Attempt] = []
    missed: list[Attempt] = []
    for attempt, judgement in zip(attempts, found, strict=True):
        facts = {"score": judgement.score, "passed": judgement.passed, "reason": judgement.reason}
        work.steps.note(attempt.index, judge={**facts, "votes": list(judgement.votes)})
        if judgement.passed is not None:
            (approved if judgement.passed else missed).append(attempt)
    return approved, missed


def _tested(work: Work) -> dict[str, object]:
    """The tests go with the completion where they are not the problem's own."""
    return {"spec": work.spec.to_data()} if work.derived else {}


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
