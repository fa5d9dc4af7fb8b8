"""Verified Python programs in other languages (Llama 3 §4.3.1, translation), checked by parse, compile and run.

Where a problem is told by standard input and output, the translation is run on the same cases. Otherwise the policy
translates the tests as well, and these are held against the Python ones: every number and word of them must be there,
they must call what they test, and they must fail when their expectations are altered.
"""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from flywheel.sandbox.grading import Grade
from flywheel.sandbox.syntax import parse_errors
from flywheel.sandbox.testfile import tests_at_fault
from flywheel.tasks.code.asserts import UNREADABLE
from flywheel.tasks.code.extract import blocks, code_in, is_tag
from flywheel.tasks.code.solving import learned, said
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
    "sql": "expressions that are true, one per line.",
    "python": "lines such as `assert f([1]) == [2]`.",
}
"""What tests look like in each language, for the prompt."""


@dataclass(frozen=True)
class Translated:
    """A translation out of an answer; ``fault`` says what is wrong with it before it is run."""

    program: str
    spec: Spec
    fault: str | None = None


@dataclass(frozen=True)
class _Draft:
    language: str
    asked: list[Message]
    completion: Completion
    read: Translated
    grade: Grade | None

    @property
    def wrong(self) -> bool:
        return self.read.fault is not None or (self.grade is not None and self.grade.passed is False)


async def translate_all(work: Work, source: Attempt) -> None:
    """Translate a verified program; what comes out is kept, right or wrong."""
    options = work.options.translate
    if options is None or work.spec.language != "python":
        return
    draw = work.draw("translate")
    chosen = [name for name in options.languages if name != "python"]
    chosen = draw.sample(chosen, min(options.per_problem, len(chosen)))
    asked = [_ask(work, source, language) for language in chosen]
    answers = await asyncio.gather(*(work.policy.chat(prompt, n=1) for prompt in asked))
    drafts = await asyncio.gather(
        *(_draft(work, name, prompt, a[0]) for name, prompt, a in zip(chosen, asked, answers, strict=True))
    )
    for _ in range(options.turns):
        wrong = [draft for draft in drafts if draft.wrong]
        told = [_feedback(work, draft) for draft in wrong]
        replies = await asyncio.gather(
            *(
                work.policy.chat([*d.asked, *d.completion.messages, {"role": "user", "content": text}], n=1)
                for d, text in zip(wrong, told, strict=True)
            )
        )
        mended = iter(
            await asyncio.gather(
                *(
                    _draft(work, d.language, d.asked, d.completion.then(text, reply[0]))
                    for d, text, reply in zip(wrong, told, replies, strict=True)
                )
            )
        )
        drafts = [next(mended) if draft.wrong else draft for draft in drafts]
    for draft in drafts:
        facts = {"language": draft.language, "spec": draft.read.spec.to_data(), "fault": draft.read.fault}
        kept, prompt = learned(work, draft.completion, draft.asked)
        work.steps.add(kept, "translation", prompt, [source.index], **facts)


def read_translation(text: str, language: str, original: Spec) -> Translated:
    """Program and tests out of an answer, looked over before they are run.

    Args:
        text: the answer.
        language: that was asked for.
        original: the tests of the Python program.
    """
    if original.level == "stdio":
        spec = replace(original, language=language, prefix="", stop=(), setup="")
        program = code_in(text, language) or text
        return Translated(program, spec, _fault(language, program, None, original))
    found = [block.code for block in blocks(text) if is_tag(block.tag, language)]
    program, tests = (found[0], "\n".join(found[1:])) if len(found) > 1 else (found[0] if found else text, "")
    spec = Spec("tests", language, tests=tests)
    return Translated(program, spec, _fault(language, program, tests, original))


def _fault(language: str, program: str, tests: str | None, original: Spec) -> str | None:
    if not program.strip():
        return "there is no program in the answer"
    if errors := parse_errors(language, program):
        return f"the program does not parse: {errors[0]}"
    if tests is None:
        return None
    if not tests.strip():
        return "there is no second block with the tests"
    if wrong := tests_at_fault(language, program, tests):
        return f"the tests do not parse: {wrong}"
    if lost := lost_values(original.as_asserts(), tests):
        return f"the tests leave out what the Python ones have: {', '.join(lost[:5])}"
    if original.function and _plain(original.function) not in map(_plain, re.findall(r"[A-Za-z_]\w*", tests)):
        return f"the tests do not call {original.function}"
    return None


def lost_values(asserts: Sequence[str], tests: str) -> list[str]:
    """Whole numbers of two digits or more, and words, that assertions have and their translation lacks."""
    text = re.sub(r"(?<=\d)[_'](?=\d)", "", tests)  # 1_000 and 1'000
    numbers, words = set(re.findall(r"\d+", text)), set(re.findall(r"[^\W_]+", text))
    lost: dict[str, None] = {}
    for line in asserts:
        try:
            constants = [n.value for n in ast.walk(ast.parse(line)) if isinstance(n, ast.Constant)]
        except UNREADABLE:
            continue
        for value in constants:
            if isinstance(value, int) and not isinstance(value, bool) and value > 9 and str(value) not in numbers:
                lost[str(value)] = None
            elif isinstance(value, str):
                lost |= {word: None for word in re.findall(r"[A-Za-z0-9]{2,}", value) if word not in words}
    return list(lost)


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


async def _draft(work: Work, language: str, asked: list[Message], completion: Completion) -> _Draft:
    read = read_translation(completion.text, language, work.spec)
    grade = None if read.fault else await work.runner.grade(read.program, read.spec)
    return _Draft(language, asked, completion, read, grade)


def _feedback(work: Work, draft: _Draft) -> str:
    if draft.read.fault is not None:
        text = work.prompts.text("revise", language=draft.language, findings=[draft.read.fault])
    else:
        assert draft.grade is not None
        most = work.options.revise.shown if work.options.revise else 2000
        text = work.prompts.text("revise", language=draft.language, **said(draft.grade, draft.read.spec, most))
    if draft.read.spec.level == "tests":
        text += " Give both blocks again: the program, and the tests, none of them left out or made weaker."
    return text


def _plain(name: str) -> str:
    """A name without its language's customs: fooBar, foo_bar and FooBar are one."""
    return name.replace("_", "").lower()
