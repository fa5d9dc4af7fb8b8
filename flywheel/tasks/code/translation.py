"""Verified Python programs in other languages (Llama 3 §4.3.1, translation), checked by compile and run.

Where a problem is told by standard input and output, the translation is run on the same cases. Where its tests are
assertions the policy translates these as well, and they are held against the Python ones (``held_tests.py``): other
tests decide nothing. Once they have been accepted, only tests that are held as well can take their place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from flywheel.sandbox.grading import Grade
from flywheel.sandbox.testfile import tests_at_fault
from flywheel.tasks.code.asserts import split_asserts
from flywheel.tasks.code.extract import after_thinking, blocks, code_in, is_tag
from flywheel.tasks.code.held_tests import shortfall
from flywheel.tasks.code.solving import learned, remarks, said
from flywheel.tasks.code.spec import Spec
from flywheel.tasks.code.steps import Attempt, Work
from flywheel.types import Completion, Message

IDIOMS = {
    "javascript": "statements that use Node's assert, such as `assert.deepStrictEqual(f([1]), [2]);`.",
    "typescript": "statements that use Node's assert, such as `assert.deepStrictEqual(f([1]), [2]);`.",
    "php": "statements such as `assert(f([1]) === [2]);`.",
    "bash": 'a line such as `[ "$(f 1)" = "2" ]` for each.',
    "java": "statements such as `assert Solution.f(1) == 2;`, without a class or main around them.",
    "cpp": "statements such as `assert(f(1) == 2);`, without a main around them.",
    "c": "statements such as `assert(f(1) == 2);`, without a main around them.",
    "go": "statements such as `assert(f(1) == 2)`, with reflect.DeepEqual for slices and maps, without a main.",
    "rust": "statements such as `assert_eq!(f(1), 2);`, without a main around them.",
    "ruby": "lines such as `assert f([1]) == [2]`.",
    "perl": "statements such as `assert(f(1) == 2);`, which compare element by element where needed.",
    "lua": "statements such as `assert(f(1) == 2)`, which compare element by element where needed.",
}
"""The languages that can be translated to: what tests look like in each, for the prompt."""


@dataclass(frozen=True)
class Translated:
    """A translation out of an answer.

    Attributes:
        program: what is run.
        spec: its tests, in its language.
        fault: what is wrong with it before it is run; None if nothing.
        decides: whether that says something of the program; of tests that are not the Python program's, it does not.
    """

    program: str
    spec: Spec
    fault: str | None = None
    decides: bool = True


@dataclass(frozen=True)
class _Draft:
    language: str
    asked: list[Message]
    completion: Completion
    read: Translated
    grade: Grade | None
    cut_short: str | None = None

    @property
    def wrong(self) -> bool:
        """Whether it can and should be revised."""
        if self.cut_short is not None:
            return False
        return self.read.fault is not None or (self.grade is not None and self.grade.passed is False)

    @property
    def frozen(self) -> str | None:
        """The tests, if they are those of the Python program and a compiler has taken them."""
        read, grade = self.read, self.grade
        if read.fault is not None or grade is None or tests_at_fault(self.language, read.program, read.spec.tests):
            return None
        return read.spec.tests if all(outcome.status != "compile_error" for outcome in grade.outcomes) else None


async def translate_all(work: Work, source: Attempt) -> None:
    """Translate a verified program; what comes out is kept, right or wrong."""
    options = work.options.translate
    if options is None or work.spec.language != "python":
        return
    if work.spec.level != "stdio" and _assertions_of(work.spec) is None:
        return
    chosen = work.draw("translate").sample(options.languages, min(options.per_problem, len(options.languages)))
    asked = [_ask(work, source, language) for language in chosen]
    answers = await asyncio.gather(*(work.ask(prompt) for prompt in asked))
    for answer in answers:
        if answer.finish == "abort":
            work.steps.note(source.index, cut_short=answer.error)
    given = [ask for ask in zip(chosen, asked, answers, strict=True) if ask[2].finish != "abort"]
    drafts = await _drafts(work, [(*ask, None) for ask in given])
    for _ in range(options.turns):
        wrong = [draft for draft in drafts if draft.wrong]
        told = await asyncio.gather(*(_feedback(work, draft) for draft in wrong))
        replies = await asyncio.gather(
            *(
                work.ask([*d.asked, *d.completion.messages, {"role": "user", "content": text}])
                for d, text in zip(wrong, told, strict=True)
            )
        )
        ended = [draft for draft in drafts if not draft.wrong]
        unanswered = [(d, r) for d, r in zip(wrong, replies, strict=True) if r.finish == "abort"]
        ended += [replace(draft, cut_short=reply.error or "no answer") for draft, reply in unanswered]
        mended = [
            (d.language, d.asked, d.completion.then(text, reply), d.frozen)
            for d, text, reply in zip(wrong, told, replies, strict=True)
            if reply.finish != "abort"
        ]
        drafts = [*ended, *await _drafts(work, mended)]
    for draft in drafts:
        facts: dict[str, Any] = {"language": draft.language, "fault": draft.read.fault}
        if draft.cut_short is not None:
            facts["cut_short"] = draft.cut_short
        if draft.read.spec.level == "tests":
            facts["spec"] = draft.read.spec.to_data()
        if work.derived:
            facts["original"] = work.spec.to_data()
        kept, prompt = learned(work, draft.completion, draft.asked)
        work.steps.add(kept, "translation", prompt, [source.index], **facts)


def read_translation(text: str, language: str, original: Spec, frozen: str | None = None) -> Translated:
    """Program and tests out of an answer, looked over before they are run.

    Args:
        text: the answer.
        language: that was asked for.
        original: the tests of the Python program.
        frozen: translated tests that have been accepted already; they stand where those of the answer are not held.
    """
    if original.level == "stdio":
        program = code_in(text, language) or after_thinking(text)
        fault = None if program.strip() else "there is no program in the answer"
        return Translated(program, replace(original, language=language, prefix="", stop=(), setup=""), fault)
    text = after_thinking(text)
    found = [block.code for block in blocks(text) if is_tag(block.tag, language)]
    program, tests = (found[0], "\n".join(found[1:])) if found else (text, "")
    asserts = _assertions_of(original)
    read = Translated(program, Spec("tests", language, tests=tests))
    if not program.strip():
        return replace(read, fault="there is no program in the answer")
    if asserts is None:
        return replace(read, fault="the Python tests are more than assertions", decides=False)
    lacks = "there is no second block with the tests"
    for given in filter(None, (tests.strip() and tests, frozen)):
        fault = shortfall(language, given, asserts, original.function)
        if fault is None:
            return replace(read, spec=replace(read.spec, tests=given))
        lacks = fault
    return replace(read, fault=lacks, decides=not tests.strip())


def _assertions_of(original: Spec) -> list[str] | None:
    """What a translation's tests are held against; None if the original's are not assertions alone."""
    return original.as_asserts() if original.level == "call" else split_asserts(original.tests)


def _ask(work: Work, source: Attempt, language: str) -> list[Message]:
    if work.spec.level == "stdio":
        return work.prompts.ask("translate_stdio", language=language, program=source.program.strip("\n"))
    return work.prompts.ask(
        "translate",
        language=language,
        question=work.question,
        program=source.program.strip("\n"),
        tests=work.spec.as_asserts(),
        idiom=IDIOMS[language],
    )


async def _drafts(work: Work, given: Sequence[tuple[str, list[Message], Completion, str | None]]) -> list[_Draft]:
    """Answers (language, what they answer, dialogue, frozen tests), read and run."""
    reads = [read_translation(dialogue.text, language, work.spec, frozen) for language, _, dialogue, frozen in given]
    grades = iter(await work.grade_all([(read.program, read.spec) for read in reads if read.fault is None]))
    return [
        _Draft(language, asked, dialogue, read, next(grades) if read.fault is None else None)
        for (language, asked, dialogue, _), read in zip(given, reads, strict=True)
    ]


async def _feedback(work: Work, draft: _Draft) -> str:
    read = draft.read
    findings = await work.wait_for(remarks(draft.language, read.program))
    if read.fault is not None:
        findings = [read.fault, *findings]
    if read.spec.level == "tests" and (wrong := tests_at_fault(draft.language, read.program, read.spec.tests)):
        findings.append(f"the tests: {wrong}")
    most = work.options.revise.shown if work.options.revise else 2000
    run = said(draft.grade, read.spec, most) if draft.grade is not None else {}
    text = work.prompts.text("revise", language=draft.language, findings=findings, **run)
    if read.spec.level == "tests" and draft.frozen is None:
        text += " Give both blocks again: the program, and the tests, none of them left out or made weaker."
    elif read.spec.level == "tests":
        text += " If it is the tests that are wrong, give them again as well, none of them left out or made weaker."
    return text
