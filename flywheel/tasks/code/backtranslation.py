"""Programs explained, documented and debugged, and written again from that (Llama 3 §4.3.1, backtranslation).

What is said of a program is as good as what can be made from it: the program is recreated from the text alone, run
against the original's tests, and compared with it by a judge.
"""

from __future__ import annotations

import ast

from flywheel.sandbox.grading import Grade
from flywheel.tasks.code.asserts import UNREADABLE
from flywheel.tasks.code.extract import after_thinking, blocks, code_in, program_of, says
from flywheel.tasks.code.mutate import mutants
from flywheel.tasks.code.solving import said
from flywheel.tasks.code.steps import Attempt, Work
from flywheel.types import Completion
from flywheel.verify import judge, load_rubric

KINDS = {"explain": "explanation", "document": "documentation", "debug": "debugging"}
MOST_MUTANTS = 24
"""Altered programs that are tried until one fails its tests."""


async def backtranslate_all(work: Work, source: Attempt) -> None:
    """Ask about a verified program in some of the ways, and hold the answers against it."""
    options = work.options.backtranslate
    if options is None or work.spec.language != "python":
        return
    ways = work.draw("backtranslate").sample(options.ways, min(options.per_problem, len(options.ways)))
    for way in ways:
        if way == "debug":
            await _debug(work, source)
        else:
            await _describe(work, source, way)


async def _describe(work: Work, source: Attempt, way: str) -> None:
    """Explain or document, then recreate the program from nothing but that."""
    asked = work.prompts.ask(way, language="python", program=source.program.strip("\n"))
    answer = await work.ask(asked)
    if answer.finish == "abort":
        work.steps.note(source.index, cut_short=answer.error)
        return
    description, fault = (_explained if way == "explain" else _documented)(answer.text, source.program)
    facts = {"fault": fault, "recreated": None, "fidelity": None, **work.tested}
    index = work.steps.add(answer, KINDS[way], asked, [source.index], **facts)
    if fault is not None:
        return
    question = work.prompts.ask("recreate", language="python", description=description)
    again = await work.ask(question)
    if again.finish == "abort":
        work.steps.note(index, cut_short=again.error)
        return
    recreated = program_of(again.text, work.spec)
    step = work.steps.add(again, "recreation", question, [index], **work.tested)
    work.steps.note(index, recreated=recreated, recreation=step)
    await _compare(work, index, source.program, recreated)


async def _debug(work: Work, source: Attempt) -> None:
    """Plant a bug, have it found and mended."""
    broken = await _broken(work, source.program)
    if broken is None:
        return
    program, grade = broken
    most = work.options.revise.shown if work.options.revise else 2000
    told = said(grade, work.spec, most)
    failed = "\n".join(str(told[key]) for key in ("outcome", "failed", "stderr") if told.get(key))
    asked = work.prompts.ask(
        "debug", language="python", question=work.question, program=program.strip("\n"), failed=failed
    )
    answer = await work.ask(asked)
    if answer.finish == "abort":
        work.steps.note(source.index, cut_short=answer.error)
        return
    mended = code_in(answer.text, "python", work.spec.function)
    fault = None if mended is not None else "it gives no program"
    facts = {"fault": fault, "fidelity": None, "planted": program, **work.tested}
    index = work.steps.add(answer, KINDS["debug"], asked, [source.index], **facts)
    if mended is not None:
        await _compare(work, index, source.program, program_of(answer.text, work.spec))


async def _compare(work: Work, index: int, original: str, recreated: str) -> None:
    """A judge's word on whether two programs behave the same; running them is the verifier's part."""
    options = work.options.backtranslate
    assert options is not None
    rubric = load_rubric(options.rubric, work.base)
    found = await judge(work.policy, rubric, options.votes, original=original, recreated=recreated)
    facts = {"score": found.score, "passed": found.passed, "reason": found.reason, "votes": list(found.votes)}
    work.steps.note(index, fidelity=facts)


def _explained(text: str, program: str) -> tuple[str, str | None]:
    """An explanation, and what is wrong with it: one that quotes the code would be recreated whatever it says."""
    text = after_thinking(text).strip()
    if not text:
        return text, "there is no explanation"
    quoted = [block for block in blocks(text) if len(block.code.strip().splitlines()) > 1]
    if quoted:
        return text, "it quotes the code"
    lines = {line.strip() for line in program.splitlines() if len(line.strip()) > 15}
    copied = [line for line in lines if line in text]
    if len(copied) * 2 > len(lines) > 0:
        return text, "it quotes the code"
    return text, None


def _documented(text: str, program: str) -> tuple[str, str | None]:
    """Signatures and docstrings of a documented program, and what is wrong with it."""
    code = code_in(text, "python") or ""
    try:
        return _outlined(code, program)
    except UNREADABLE:
        return "", "the documented program does not parse"


def _outlined(code: str, program: str) -> tuple[str, str | None]:
    tree = ast.parse(code)
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    bare = [f.name for f in functions if not ast.get_docstring(f)]
    if not functions or bare:
        return "", f"there is no docstring for {', '.join(bare[:3])}" if bare else "it has no function"
    if says(code) != says(program):
        return "", "it changes more than comments and docstrings"
    kept = [_outline(node) for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return "\n\n".join(f"```python\n{outline}\n```" for outline in kept), None


def _outline(node: ast.stmt) -> str:
    """Signatures with docstrings; the code is left out."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
            inner.body = [*inner.body[: bool(ast.get_docstring(inner))], ast.Expr(ast.Constant(...))]
    return ast.unparse(node)


async def _broken(work: Work, program: str) -> tuple[str, Grade] | None:
    """The program with one operator or constant altered so that its tests fail, and how; None if none does."""
    try:
        chosen = list(mutants(program, MOST_MUTANTS, work.draw("debug")))
    except UNREADABLE:
        return None
    grades = await work.grade_all([(mutant, work.spec) for mutant in chosen], poison=False)
    return next(((m, g) for m, g in zip(chosen, grades, strict=True) if g.passed is False), None)


def recreated_programs(completion: Completion, tests_of: str | None) -> list[str]:
    """What must pass the tests for an explanation, documentation or debugging to be right."""
    programs = []
    if completion.kind != "explanation":
        programs.append(code_in(completion.text, "python", tests_of) or "")
    if completion.kind != "debugging":
        programs.append(completion.data["recreated"])
    return programs
