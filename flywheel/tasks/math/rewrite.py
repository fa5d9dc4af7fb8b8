"""New questions from known ones (MetaMath section 3): rephrased, turned around, or with one more condition.

The policy writes the question and answers it several times. Only if enough of the answers agree (and are the known one,
where there is one: a rephrased question keeps its answer, and what a turned-around question asks for was taken from
the text) does the question enter, with the answers as rows; otherwise one row says why it did not.
"""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, replace

from flywheel.tasks.math.attempt import Attempt, answered, mark
from flywheel.tasks.math.claims import Claim, refuse
from flywheel.tasks.math.code import solve
from flywheel.tasks.math.options import Rewrite
from flywheel.tasks.math.vote import majority
from flywheel.types import Completion, Message

_QUESTION = re.compile(r"<question>(.*?)</question>", re.DOTALL | re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,/^\\{-])\d+(?:\.\d+)?(?![\w/^}]|[.,]\d)")
UNKNOWN = "x"


@dataclass(frozen=True)
class _Order:
    """A rewriting that is asked for.

    Attributes:
        kind: a name in ``options.Rewriting``.
        messages: the request.
        known: the new question's answer, where it is known.
        hidden: a number that the new question must not contain.
    """

    kind: str
    messages: list[Message]
    known: str | None = None
    hidden: str | None = None


async def rewrite(at: Attempt, options: Rewrite) -> list[Completion]:
    """Answers to the new questions that were accepted; for each other, the policy's text, refused with a reason."""
    if at.answer is None or random.Random(f"rewrite {at.policy.key}").random() >= options.share:
        return []
    orders = [order for kind in options.kinds if (order := _order(at, kind)) is not None]
    written = await asyncio.gather(*(at.chat(order.messages, n=1) for order in orders))
    asked = [(order, text, *_read(at, order, text)) for order, [text] in zip(orders, written, strict=True)]
    solved = await asyncio.gather(
        *(
            answered(solve(at, at.task.ask(question), options.solutions), options.solutions)
            for _, _, question, _ in asked
            if question is not None
        )
    )
    solutions = iter(solved)
    found: list[Completion] = []
    for order, text, question, fault in asked:
        if question is None:
            found.append(_refused(order, text, fault))
        else:
            found += await _decide(at, options, order, text, question, next(solutions))
    return found


async def _decide(
    at: Attempt, options: Rewrite, order: _Order, text: Completion, question: str, solutions: list[Completion]
) -> list[Completion]:
    """The solutions as rows, if they agree; else the refused rewriting."""
    if all(solution.finish == "abort" for solution in solutions):
        return [_refused(order, text, f"no answer: {solutions[0].error}")]
    problem = replace(at.problem, gold=None, data={**at.problem.data, "question": question})
    if order.known is None:
        claim = await majority(at, solutions, problem)
    else:
        held = replace(problem, data={**problem.data, "answer": order.known})
        right = sum(verdict.passed is True for verdict in await at.verify(solutions, held))
        claim = Claim(order.known, right, len(solutions))
    agreed = claim.agreed if claim is not None else 0
    if claim is None or agreed < max(2, options.agreement * len(solutions)):
        what = "the known answer" if order.known is not None else "an answer"
        return [_refused(order, text, f"{agreed} of {len(solutions)} solutions agree on {what}")]
    data = {**replace(claim, question=question).to_data(), "rewriting": order.kind}
    prompt = at.task.ask(question)
    return [replace(mark(s, **data), kind="rewritten", prompt=prompt) for s in solutions]


def _order(at: Attempt, kind: str) -> _Order | None:
    """What is asked of the policy; None where the problem has nothing to turn around."""
    prompts = at.task.kit.prompts
    if kind == "rephrase":
        return _Order(kind, prompts.ask(kind, question=at.question), known=at.answer)
    if kind == "condition":
        return _Order(kind, prompts.ask(kind, question=at.question, answer=at.answer))
    number = hidden_number(at.question, random.Random(f"backward {at.policy.key}"))
    if number is None:
        return None
    unknown = at.question[: number.start()] + UNKNOWN + at.question[number.end() :]
    messages = prompts.ask(kind, question=at.question, answer=at.answer, unknown=unknown)
    return _Order(kind, messages, known=number.group(), hidden=number.group())


def hidden_number(question: str, draw: random.Random) -> re.Match[str] | None:
    """A number to ask for: one that stands alone, and only once; None if there is none."""
    numbers = list(_NUMBER.finditer(question))
    once = [n for n in numbers if len(re.findall(_alone(n.group()), question)) == 1]
    return draw.choice(once) if once else None


def _read(at: Attempt, order: _Order, text: Completion) -> tuple[str | None, str]:
    """The new question, or None and why there is none."""
    if text.finish == "abort":
        return None, f"no answer: {text.error}"
    found = _QUESTION.findall(text.text)
    question = found[-1].strip() if found else ""
    if not question:
        return None, "no question between <question> and </question>"
    if _plain(question) == _plain(at.question):
        return None, "the question is the same as before"
    if order.hidden is not None and re.search(_alone(order.hidden), question):
        return None, "the question gives away what it asks for"
    return question, ""


def _alone(number: str) -> str:
    """A pattern of the number where it is not part of a longer one."""
    return rf"(?<![\d.]){re.escape(number)}(?!\d|\.\d)"


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _refused(order: _Order, text: Completion, reason: str) -> Completion:
    marked = mark(text, rewriting=order.kind)
    return replace(refuse(marked, f"{order.kind}: {reason}"), kind="rewritten", prompt=order.messages)
