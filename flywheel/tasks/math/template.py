"""Variants of a problem: other numbers and names, and the answer recomputed (as in GSM-Symbolic, Mirzadeh et al. 2024).

A solution that is a chain of ``<<a+b=c>>`` steps says how its answer follows from the question's numbers. Numbers are
told apart by their value: all that have one value change together. A number is left as it is where its value might
also mean something else (a week's 7, a number in words, a step's result), and a problem is refused where a number of
the solution cannot be traced.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from flywheel.tasks.math.chain import NUMBER, STEP, Step, number, read_chain
from flywheel.tasks.math.dataset import Item
from flywheel.tasks.math.names import rename, renamed
from flywheel.verify.math_number import WORDS, read_quantity

TRIES = 300
"""Draws of new numbers until the chain is sensible."""
_TOKEN = re.compile(r"(?<![\w.,:/-])(?:" + NUMBER.pattern + r")(?![\w:/]|[.,]\d|-\d)")
"""Numbers of a question that stand for themselves: none of 1/2, 5:30, 3rd, 10-15."""
_IMPLIED = {
    r"week|daily|every ?day|each day|days": (7,),
    r"year|annual|month": (12, 365, 52, 30, 4),
    r"day|daily|hour|night": (24, 60),
    r"hour|minute|second": (60, 3600),
    r"twice|double|half|halve|both|couple|pair|other": (2,),
    r"triple|third|thrice": (3,),
    r"quarter|quadruple|fourth": (4, 25),
    r"fifth": (5,),
    r"sixth": (6,),
    r"eighth": (8,),
    r"tenth|decade|dime": (10,),
    r"dozen": (12,),
    r"percent|%|cent|dollar|\$|century|meter|metre|hundred": (100,),
    r"thousand|kilo|km|kg|gram|liter|litre|meter|ml\b": (1000,),
    r"foot|feet|inch": (12,),
    r"yard": (3, 36),
    r"pound|ounce": (16,),
    r"quarter|nickel|coin": (25, 5),
    r"square|rectang|perimeter|side": (4, 2),
    r"triang": (3, 2),
    r"average|mean|remain|rest": (),
}
"""Numbers that words stand for without saying so."""
_CAPS = {
    r"hours?": (24, r"day|daily|night"),
    r"days?": (7, r"week"),
    r"months?": (12, r"year"),
    r"minutes?": (60, r"hour"),
}
"""The most that a number before a word may become, if another word is in the question."""
_CLOCK = re.compile(r"\s*(?:[ap]\.?m\b|o'clock|AM|PM)")
_ORDINALS = {"once": 1, "second": 2, "third": 3}
_ALWAYS = frozenset(Fraction(n) for n in (0, 1, 2))


@dataclass(frozen=True)
class _Template:
    """What may change of a problem.

    Attributes:
        steps: the chain.
        free: the values that may change.
        sources: per step and leaf, where it comes from: an earlier step, or None: a number of its own.
        most: the largest that some of ``free`` may become.
    """

    steps: list[Step]
    free: list[Fraction]
    sources: list[list[int | None]]
    most: dict[Fraction, int]


def vary(item: Item, seed: str) -> Item | None:
    """A variant of a problem; None if it has none.

    Args:
        item: with a worked solution.
        seed: another one draws other numbers.

    Returns:
        An item whose ``extra`` has ``variant``: the id that it was made ``from``, the ``seed``, the ``numbers`` and
        ``names`` that were changed.
    """
    template = _template(item)
    if template is None:
        return None
    rng = random.Random(f"variant {seed} {item.id}")
    for _ in range(TRIES):
        new = {value: _draw(value, template.most.get(value), rng) for value in template.free}
        if all(new[value] == value for value in new) or len(set(new.values())) < len(new):
            continue
        results = _recompute(template, new)
        if results is not None and (made := _rewrite(item, template, new, results, rng, seed)) is not None:
            return made
    return None


def chain_result(solution: str) -> Fraction | None:
    """What the last step of a right chain comes to."""
    steps = read_chain(solution)
    return steps[-1].result if steps else None


def _template(item: Item) -> _Template | None:
    if item.solution is None or item.answer is None:
        return None
    steps = read_chain(item.solution)
    answer = read_quantity(item.answer)
    if not steps or answer is None or answer.value != steps[-1].result:
        return None
    results = [step.result for step in steps]
    shown = dict.fromkeys(number(match.group()) for match in _TOKEN.finditer(item.question))
    implied = _implied(item.question) | _implied_words(item.solution) | _ALWAYS
    leaves = {leaf for step in steps for leaf in step.leaves}
    parts = {number(text) for text in NUMBER.findall(_TOKEN.sub(" ", item.question))}
    free = [
        v for v in shown if v in leaves and v not in implied and v not in parts and v not in results and not _is_year(v)
    ]
    fixed = implied | parts | set(shown) - set(free)
    sources = _sources(steps, set(free), fixed)
    return None if sources is None or not free else _Template(steps, free, sources, _limits(item.question))


def _limits(question: str) -> dict[Fraction, int]:
    """The largest that numbers may become: no day has 30 hours; what is a percentage stays below 100."""
    most: dict[Fraction, int] = {}
    for match in _TOKEN.finditer(question):
        value, after = number(match.group()), question[match.end() :]
        caps = [99] if value < 100 and re.match(r"\s*(?:%|percent)", after) else []
        caps += [
            cap
            for word, (cap, context) in _CAPS.items()
            if re.match(rf"[\s-]*(?:more |extra )?{word}\b", after) and value <= cap and re.search(context, question)
        ]
        if _CLOCK.match(after):
            caps = [int(value)]
        if caps:
            most[value] = min(*caps, most.get(value, caps[0]))
    return most


def _implied(text: str) -> set[Fraction]:
    """Values that words of a text may stand for."""
    lower = text.lower()
    found = {Fraction(n) for pattern, numbers in _IMPLIED.items() if re.search(pattern, lower) for n in numbers}
    return found | _implied_words(lower)


def _implied_words(text: str) -> set[Fraction]:
    words = re.findall(r"[a-z]+", text.lower())
    return {Fraction(WORDS[w] if w in WORDS else _ORDINALS[w]) for w in words if w in WORDS or w in _ORDINALS}


def _is_year(value: Fraction) -> bool:
    return value.denominator == 1 and 1900 <= value <= 2100


def _sources(steps: list[Step], free: set[Fraction], fixed: set[Fraction]) -> list[list[int | None]] | None:
    """Where each leaf comes from; None if that is not certain for one of them."""
    sources: list[list[int | None]] = []
    derived = {
        made for value in fixed for made in (value / 100, 1 - value / 100, 1 + value / 100, 100 - value, 100 + value)
    }
    for position, step in enumerate(steps):
        row: list[int | None] = []
        for leaf in step.leaves:
            earlier = [i for i in range(position) if steps[i].result == leaf]
            if len(earlier) > 1 or (earlier and leaf in fixed - _ALWAYS):
                return None
            if not earlier and leaf not in free and leaf not in fixed and leaf not in derived:
                return None
            row.append(earlier[0] if earlier else None)
        sources.append(row)
    return sources


def _draw(value: Fraction, most: int | None, rng: random.Random) -> Fraction:
    """A number like the one that was there: of its size, as round, with as many decimals."""
    places = _places(value)
    whole = int(value * 10**places)
    grain = next(g for g in (1000, 500, 100, 50, 10, 5, 1) if whole % g == 0 and (g == 1 or whole > g))
    low, high = max(1, -(-whole // (2 * grain))), max(2, 2 * whole // grain)
    if most is not None:
        high = max(low, min(high, most * 10**places // grain))
    drawn = rng.randint(low, high) * grain
    return Fraction(max(drawn, 2 if places == 0 else 1), 10**places)


def _places(value: Fraction) -> int:
    """Decimals of a number; 9 if they do not end before."""
    return next((n for n in range(9) if (value * 10**n).denominator == 1), 9)


def _recompute(template: _Template, new: dict[Fraction, Fraction]) -> list[Fraction] | None:
    """The new results; None if one of them is not of the kind that was there."""
    results: list[Fraction] = []
    for step, sources in zip(template.steps, template.sources, strict=True):
        leaves = [
            results[source] if source is not None else new.get(leaf, leaf)
            for leaf, source in zip(step.leaves, sources, strict=True)
        ]
        result = step.value(leaves)
        if result is None or not _is_like(step.result, result):
            return None
        results.append(result)
    return results


def _is_like(old: Fraction, new: Fraction) -> bool:
    """Whether a result is as sensible as the old one: its sign, its decimals, its size; one stays one."""
    if (old > 0) != (new > 0) or (old == 1) != (new == 1) or (old < 1) != (new < 1):
        return False
    return _places(new) <= _places(old) and old / 5 <= new <= old * 5


def _rewrite(
    item: Item,
    template: _Template,
    new: dict[Fraction, Fraction],
    results: list[Fraction],
    rng: random.Random,
    seed: str,
) -> Item | None:
    """The new texts; None if a number of the solution could mean two things that are different now."""
    meanings = dict(new)
    for step, result in zip(template.steps, results, strict=True):
        if meanings.setdefault(step.result, result) != result:
            return None
    changed = {old for old, value in meanings.items() if old != value}
    unchanged = _implied_words(f"{item.question} {item.solution}")
    if changed & (unchanged - {Fraction(1)}):
        return None
    question = _TOKEN.sub(lambda m: _like(m.group(), new.get(number(m.group()), number(m.group()))), item.question)
    solution = _solution(item.solution or "", template, results, meanings)
    if solution is None:
        return None
    names = renamed(item.question, rng)
    question, solution = rename(question, names), rename(solution, names)
    answer = _plain(results[-1])
    if chain_result(solution) != results[-1]:
        return None
    numbers = {_plain(old): _plain(value) for old, value in new.items() if old != value}
    made = {"from": f"math-{item.id}", "seed": seed, "numbers": numbers, "names": names}
    return replace(item, question=question, answer=answer, solution=solution, extra={**item.extra, "variant": made})


def _solution(
    text: str, template: _Template, results: list[Fraction], meanings: dict[Fraction, Fraction]
) -> str | None:
    """The solution with new numbers; None if it has one that nothing explains."""
    known = {leaf for step in template.steps for leaf in step.leaves} | meanings.keys() | _ALWAYS
    parts: list[str] = []
    at = position = 0
    for match in STEP.finditer(text):
        prose = _prose(text[at : match.start()], meanings, known)
        if prose is None:
            return None
        step = template.steps[position]
        leaves = _leaves(match[1], template.sources[position], results, meanings)
        parts += [prose, f"<<{leaves}={_plain(results[position])}>>"]
        at, position = match.end(), position + 1
        if follows := re.compile(NUMBER.pattern).match(text, at):
            if number(follows.group()) != step.result:
                return None
            parts.append(_like(follows.group(), results[position - 1]))
            at = follows.end()
    last = _prose(text[at:], meanings, known)
    return None if last is None else "".join([*parts, last])


def _leaves(
    expression: str, sources: list[int | None], results: list[Fraction], meanings: dict[Fraction, Fraction]
) -> str:
    """An expression with the new numbers, each from where it comes."""
    left = iter(sources)

    def new(match: re.Match[str]) -> str:
        value, source = number(match.group()), next(left)
        return _like(match.group(), results[source] if source is not None else meanings.get(value, value))

    return NUMBER.sub(new, expression).replace(",", "")


def _prose(text: str, meanings: dict[Fraction, Fraction], known: Iterable[Fraction]) -> str | None:
    values = [number(token) for token in NUMBER.findall(text)]
    if any(value not in known for value in values):
        return None
    return NUMBER.sub(lambda m: _like(m.group(), meanings.get(number(m.group()), number(m.group()))), text)


def _like(written: str, value: Fraction) -> str:
    """A number written as another one was: with its thousands separators and, if it was a price, two decimals."""
    if number(written) == value:
        return written
    places = _places(value)
    if re.search(r"\.\d\d$", written):
        places = max(places, 2)
    whole = "," in written or (len(written) < 4 and value >= 10_000)
    return f"{float(value):,.{places}f}" if whole else f"{float(value):.{places}f}"


def _plain(value: Fraction) -> str:
    places = _places(value)
    return f"{float(value):.{places}f}"
