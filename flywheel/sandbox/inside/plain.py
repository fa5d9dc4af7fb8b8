"""Plain data as tagged JSON: what crosses between a judge and the functions it calls. No pickle, no code.

Contents are taken by the base types' own methods, so that what a subclass says of itself (``__eq__``, ``__iter__``,
``__str__``) does not matter: a subclass counts as its base. This file is also sent into sandboxes, and stands alone.
"""

from __future__ import annotations

import json
from typing import Any

MOST_DEPTH = 100
MOST_NODES = 2_000_000
_SAFE = 1 << 53


class NotPlain(ValueError):
    """A value that is too deep, too large, or malformed."""


class Other:
    """Stands for a value of a type that is not data; equal to nothing."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __repr__(self) -> str:
        return f"<{self.kind}>"


def dumps(value: Any) -> str:
    """A value as one line of JSON.

    Raises:
        NotPlain: too deep or too large.
    """
    return json.dumps(_encode(value, 0, [MOST_NODES]), separators=(",", ":"))


def loads(text: str | bytes) -> Any:
    """The value again; what is not data is an ``Other``.

    Raises:
        NotPlain: not what ``dumps`` makes.
    """
    try:
        return _decode(json.loads(text), 0)
    except (ValueError, TypeError, KeyError, RecursionError, ArithmeticError, MemoryError) as error:
        raise NotPlain(f"not plain data: {error}") from error


def _encode(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if depth > MOST_DEPTH:
        raise NotPlain(f"nested deeper than {MOST_DEPTH}")
    if left[0] < 0:
        raise NotPlain(f"more than {MOST_NODES:,} values")
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    module = kind.__dict__.get("__module__", "")
    if isinstance(module, str) and module.split(".")[0] == "numpy" and hasattr(value, "tolist"):
        return _encode(value.tolist(), depth + 1, left)
    mro = type.mro(kind)
    for base, encode in _SCALARS.items():
        if base in mro:
            return encode(value)
    for base in mro:
        # Only who has imported them can return them; their modules are not imported here.
        if (base.__dict__.get("__module__"), base.__name__) in _EXACT:
            return {base.__name__.lower(): str.__str__(base.__dict__["__str__"](value))}
    if range in mro:
        return {"range": [_int(number) for number in (value.start, value.stop, value.step)]}
    for base, (tag, items) in _CONTAINERS.items():
        if base in mro:
            inner = [_encode(item, depth + 1, left) for item in items(value)]
            return inner if tag == "list" else {tag: inner}
    return {"other": kind.__name__[:100]}


def _int(value: int) -> Any:
    number = int.__add__(value, 0)
    return number if -_SAFE < number < _SAFE else {"int": hex(number)}


_SCALARS: dict[type, Any] = {
    int: _int,
    float: lambda value: {"float": float.__repr__(value)},
    str: lambda value: str.__str__(value) if type(value) is str else str.__getitem__(value, slice(None)),
    bytes: lambda value: {"bytes": bytes.hex(value)},
    bytearray: lambda value: {"bytes": bytearray.hex(value)},
    complex: lambda value: {"complex": [float.__repr__(value.real), float.__repr__(value.imag)]},
}
_CONTAINERS: dict[type, tuple[str, Any]] = {
    list: ("list", list.__iter__),
    tuple: ("tuple", tuple.__iter__),
    dict: ("dict", dict.items),
    set: ("set", set.__iter__),
    frozenset: ("set", frozenset.__iter__),
    type({}.keys()): ("set", type({}.keys()).__iter__),
    type({}.items()): ("set", type({}.items()).__iter__),
}
_EXACT = {("decimal", "Decimal"), ("fractions", "Fraction")}


def _decode(node: Any, depth: int) -> Any:
    if depth > 3 * MOST_DEPTH:
        raise ValueError("nested too deep")
    if node is None or isinstance(node, bool | int | str):
        return node
    if isinstance(node, list):
        return [_decode(item, depth + 1) for item in node]
    if not isinstance(node, dict) or len(node) != 1:
        raise ValueError("an unknown tag")
    ((tag, content),) = node.items()
    if tag in ("list", "tuple", "set", "dict"):
        inner = [_decode(item, depth + 1) for item in content]
        return {"list": list, "tuple": tuple, "set": frozenset, "dict": dict}[tag](inner)
    if tag == "range":
        numbers = range(*(_decode(number, depth + 1) for number in content))
        len(numbers)  # raises where it is too long to be compared
        return numbers
    if tag == "decimal":
        from decimal import Decimal

        number = Decimal(content)
        if number.is_snan():
            raise ValueError("a number that cannot be compared")
        return number
    if tag == "fraction":
        from fractions import Fraction

        return Fraction(*map(int, str.split(content, "/")))  # an exponent would let it be endless
    simple: dict[str, Any] = {"int": lambda c: int(c, 16), "float": float, "bytes": bytes.fromhex, "other": Other}
    if tag == "complex":
        return complex(float(content[0]), float(content[1]))
    return simple[tag](content)
