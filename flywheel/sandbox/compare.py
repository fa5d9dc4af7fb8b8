"""Whether an answer is what was expected: of plain data, and of what a program wrote.

The declared policy (``checks.Policy``): a subclass of str, int, list … counts as its base type's contents; NaN equals
NaN; a tuple or a range is a list, and True is 1, unless the policy is strict; a Fraction or a Decimal is the number
that it equals, and a dict's keys are a set; order counts in sequences and not in dicts and sets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

from flywheel.sandbox.checks import Policy


def same_data(expected: Any, answer: Any, policy: Policy) -> bool:
    """Whether two values of plain data are the same."""
    if isinstance(expected, _NUMBERS) and isinstance(answer, _NUMBERS):
        return _same_number(expected, answer, policy)
    if isinstance(expected, _SEQUENCES) and isinstance(answer, _SEQUENCES):
        if policy.sequences == "strict" and _kind(expected) is not _kind(answer):
            return False
        return len(expected) == len(answer) and all(
            same_data(e, a, policy) for e, a in zip(expected, answer, strict=True)
        )
    if isinstance(expected, dict) and isinstance(answer, dict):
        if len(expected) != len(answer) or any(key not in answer for key in expected):
            return False
        return all(same_data(value, answer[key], policy) for key, value in expected.items())
    if isinstance(expected, set | frozenset) and isinstance(answer, set | frozenset):
        return expected == answer
    if isinstance(expected, bytes | bytearray):
        return isinstance(answer, bytes) and bytes(expected) == answer
    return type(expected) is type(answer) and bool(expected == answer)


_NUMBERS = (int, float, complex, Fraction, Decimal)
_SEQUENCES = (list, tuple, range)


def _kind(value: Any) -> type:
    return next(kind for kind in _SEQUENCES if isinstance(value, kind))


def _same_number(expected: Any, answer: Any, policy: Policy) -> bool:
    if policy.numbers == "strict" and type(expected) is not type(answer):
        return False
    if expected == answer:
        return True
    if not isinstance(expected, float | complex) and not isinstance(answer, float | complex | Fraction | Decimal):
        return False
    try:
        if isinstance(expected, complex) or isinstance(answer, complex):
            close = abs(complex(expected) - complex(answer)) <= policy.tolerance * max(1.0, abs(expected))
            return policy.tolerance > 0 and close
        wanted, given = float(expected), float(answer)
    except OverflowError:
        return False
    if math.isnan(wanted) or math.isnan(given):
        return math.isnan(wanted) and math.isnan(given)
    return policy.tolerance > 0 and math.isclose(wanted, given, rel_tol=policy.tolerance, abs_tol=policy.tolerance)


def same_output(expected: bytes, written: bytes, policy: Policy) -> bool:
    """Whether a program wrote what it should have; bytes that are no UTF-8 are compared as bytes."""
    if policy.text == "bytes":
        return expected == written
    if policy.text == "lines":
        return _lines(expected) == _lines(written)
    return _same_tokens(expected.split(), written.split(), policy.tolerance)


def _lines(text: bytes) -> list[bytes]:
    lines = [line.rstrip() for line in text.split(b"\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _same_tokens(expected: Sequence[bytes], written: Sequence[bytes], tolerance: float) -> bool:
    if len(expected) != len(written):
        return False
    for wanted, given in zip(expected, written, strict=True):
        if wanted == given:
            continue
        try:
            numbers = float(wanted), float(given)
        except ValueError:
            return False
        if not math.isclose(*numbers, rel_tol=tolerance, abs_tol=tolerance):
            return False
    return True
