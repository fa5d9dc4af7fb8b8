"""The symbolic comparison: math-verify and sympy. Runs in the workers of a ``Pool`` only, which can be killed.

Differs from calling ``math_verify.parse`` and ``verify`` on whole texts: the answer is already found, lists and tuples
are compared item by item (math-verify sorts both sides and hopes), and what has different values is not simplified.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

import sympy
from math_verify import LatexExtractionConfig, parse, verify

from flywheel.verify.math_forms import read, same
from flywheel.verify.math_number import read_quantity

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its own time limit is off

_CONFIG = [LatexExtractionConfig(boxed_match_priority=0)]
_FUNCTIONS = (
    "pi sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log exp theta alpha beta gamma phi lambda"
)
_PLAIN = re.compile(r"(?<![a-zA-Z\\])(" + "|".join(_FUNCTIONS.split()) + r")(?![a-zA-Z])")
_GLUED = re.compile(r"(?<![a-zA-Z\\])(sin|cos|tan|ln|log)(?=[a-zA-Z]\b)|(?<=\d)(pi|sqrt)(?![a-z])")
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_SEEN = r"""
\frac{\sqrt{3}}{2} | -\frac{1}{2}x^2+3x-4 | (x+1)(x-2) | 6\pi | \ln(2) | x=5 | (1,2) | [1,\infty) | 2^{10} | 1,2
\begin{pmatrix}1&2\\3&4\end{pmatrix}
"""
"""Answers of the commonest forms."""
_FAR = 1e-6
"""Share by which two values must differ to be called different without simplifying: math-verify compares six places."""
_POINTS = (0.734212, 1.312579, 2.178461, 0.417963, 3.291547, 0.956413)


def compare(item: list[str]) -> dict[str, Any]:
    """Whether an answer is the gold one: ``same``, and ``why`` if that is None.

    Args:
        item: gold and answer, as they stand in the text; or gold alone: whether it can be read.
    """
    if len(item) == 1:
        return {"same": is_readable(item[0]), "why": ""}
    unread: list[str] = []

    def symbolic(gold: str, answer: str) -> bool | None:
        expected, given = expression(gold), expression(answer)
        if expected is None:
            unread.append(gold)
            return None
        if given is None or _differ(expected, given):
            return False
        return bool(verify([expected], [given], timeout_seconds=None, allow_set_relation_comp=True))

    decided = same(item[0], item[1], symbolic)
    why = f"the gold answer cannot be read: {unread[0][:80]}" if unread else "no form of the gold answer is known"
    return {"same": decided, "why": "" if decided is not None else why}


def warm_up() -> None:
    """Load what comparisons need, and let the parser see what answers look like: it learns its grammar as it goes."""
    for text in re.split(r"[|\n]", _SEEN):
        expression(text.strip())
    compare(["\\frac{x+1}{2}", "0.5x+\\frac12"])
    expression.cache_clear()


def is_readable(gold: str) -> bool:
    """Whether an answer, or each item of a list, can be read as mathematics."""
    seen: list[bool] = []

    def note(gold: str, answer: str) -> bool:
        seen.append(expression(gold) is not None)
        return True

    # Held against what is nothing like it, an answer comes apart into the items that must be read.
    return expression(read(gold)) is not None or (same(gold, f"({gold})", note) is True and all(seen) and bool(seen))


@lru_cache(maxsize=2048)
def expression(text: str) -> Any:
    """A cleaned answer as a sympy object; None if it cannot be read as one."""
    quantity = read_quantity(text)
    if quantity is not None and not quantity.percent:  # no need of a grammar
        exact = sympy.Rational(quantity.value.numerator, quantity.value.denominator)
        return sympy.Float(exact) if quantity.decimal else exact
    if not _is_balanced(text):
        return None
    found = parse("\\boxed{" + as_latex(text) + "}", _CONFIG, parsing_timeout=None)
    value: Any = next((value for value in found if not isinstance(value, str)), None)
    units = {symbol: sympy.I for symbol in getattr(value, "free_symbols", ()) if symbol.name in ("i", "imath")}
    return value.subs(units) if units else value


def as_latex(text: str) -> str:
    """Plain notation as LaTeX: functions without a backslash, ``sqrt(…)``, ``**``, exponents of several digits."""
    text = _ascending(text.replace("**", "^"))
    text = _GLUED.sub(lambda m: f"\\{m[0]} " if m[1] else f" {m[0]}", text)
    text = _PLAIN.sub(r"\\\1 ", text)
    text = _in_braces(text, re.compile(r"(?<![a-zA-Z])\\?sqrt\s*\("), "\\sqrt{")
    text = _in_braces(text, re.compile(r"\^\s*\("), "^{")
    text = re.sub(r"([_^])\s*(-?\d{2,}|-\d)(?![\d}])", r"\1{\2}", text)
    if _TRIGONOMETRIC.search(text):
        text = re.sub(r"(\d+(?:\.\d+)?)\s*degrees", r"(\\frac{\\pi}{180}\\cdot \1)", text)
    return text.replace(" degrees", "").strip()


def _ascending(text: str) -> str:
    """A chain of relations from its smallest end: ``2 > x > 1`` as ``1 < x < 2``."""
    parts = re.split(r"(>|\\ge(?![a-zA-Z]))", text)
    if len(parts) < 5 or "<" in text or "\\le" in text:
        return text
    flipped = {">": "<", "\\ge": "\\le "}
    return "".join(flipped.get(part, part) for part in reversed(parts))


def _in_braces(text: str, opening: re.Pattern[str], replacement: str) -> str:
    """Round brackets after a function as the braces that LaTeX wants."""
    while (match := opening.search(text)) is not None:
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            end += 1
        if depth:
            return text
        text = text[: match.start()] + replacement + text[match.end() : end - 1] + "}" + text[end:]
    return text


def _is_balanced(text: str) -> bool:
    depth = 0
    for match in re.finditer(r"\\.|[{}]", text):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth < 0:
            return False
    return depth == 0


def _differ(gold: Any, answer: Any) -> bool:
    """Whether two expressions have plainly different values, at one point if they have variables."""
    if not isinstance(gold, sympy.Expr) or not isinstance(answer, sympy.Expr):
        return False
    if gold.has(sympy.UnevaluatedExpr) or answer.has(sympy.UnevaluatedExpr):
        return False  # a percent sign
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if len(symbols) > len(_POINTS) or (bool(gold.free_symbols) != bool(answer.free_symbols) and len(symbols) > 1):
        return False
    at = dict(zip(symbols, _POINTS, strict=False))
    try:
        one, two = complex(gold.subs(at).evalf(20)), complex(answer.subs(at).evalf(20))
    except (TypeError, ValueError, ArithmeticError, AttributeError, NotImplementedError):
        return False  # no numbers: let math-verify tell
    return abs(one - two) > _FAR * (1 + max(abs(one), abs(two)))
