"""Whether two answers are the same, by their form: numbers, lists, tuples, intervals, matrices, words, choices.

Pure Python and linear but for the elements of a list that has no order. What is neither plainly the same nor plainly
different is handed to ``other``, or left undecided: the symbolic comparison is in ``math_symbolic.py``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from flywheel.verify.math_clean import clean, compact, enclosed, split_at, split_top
from flywheel.verify.math_extract import NUMBER
from flywheel.verify.math_number import WORDS, Quantity, read_quantity, same_quantity

Other = Callable[[str, str], bool | None]
"""Compares two cleaned answers that have no plain form; None if it cannot tell."""

LONGEST = 2_000
"""Characters past which an answer is not looked into."""
_MOST_ITEMS = 40

_BRACKET = re.compile(r"[()\[\]{}]")
_EQUALS = re.compile(r"(?<![<>!:])=(?!=)")
_RELATION = re.compile(r"<|>|\\l[et](?![a-zA-Z])|\\g[et](?![a-zA-Z])|\\ne(?![a-zA-Z])")
_CUP = re.compile(r"\\cup(?![a-zA-Z])|(?<![a-zA-Z])U(?![a-zA-Z])")
_IN = re.compile(r"^\s*[a-zA-Z]\s*\\in(?![a-zA-Z])\s*")
_NAME = re.compile(
    r"\\?[a-zA-Z]+'?(?:_\{?[a-zA-Z0-9]+\}?)?(?:\([a-zA-Z, ]+\))?|\\text\{[^{}]*\}|[a-zA-Z][a-zA-Z ]*"
    r"|\([a-zA-Z](?:\s*,\s*[a-zA-Z])+\)"
)
_MATRIX = re.compile(r"\\begin\{([bpvBV]?matrix|array|smallmatrix)\}(?:\{[^{}]*\})?(.*)\\end\{\1\}")
_BASED = re.compile(
    r"([0-9A-Za-z]+)\s*_\s*\{?\s*(?:\\text\{\s*)?(\d+|[a-z]+)\s*\}?\s*\}?|([0-9A-Za-z]+) \(?(?:in )?base (\d+)\)?"
)
_BASES = {name: str(n) for name, n in WORDS.items()}
_CHOICE = re.compile(r"\(?\s*([A-J])\s*[).:]?")
_CHOSEN = re.compile(
    r"\(([A-Ja-j])\)(?:[.:]?\s.*)?|([A-Ja-j])(?:[).:](?:\s.*)?)?|(?:option|choice)\s+\(?([A-Ja-j])\)?", re.DOTALL
)
_PREFIX = re.compile(r"\(?[A-J][).:]\s+(?=\S)|\([A-J]\)\s*(?=\S)")
_WORDS = re.compile(r"[A-Za-z][A-Za-z\s'.,!-]*")
_YES_OR_NO = re.compile(r"(?i)(?:yes|no|true|false)\b")
_SKIPPED = re.compile("a|an|the|it|is|are|was|on|in|at|of|by|to")
_NEGATIONS = re.compile("not|no|neither|nor|non|never|none|cannot")
_MATH_WORDS = re.compile("and|or|pi|sqrt|sin|cos|tan|log|ln|exp|infty|theta|alpha|beta")
_DEEPEST = 40
"""Brackets in brackets past which an answer is not looked into."""


def same(gold: str, answer: str, other: Other = lambda gold, answer: None) -> bool | None:
    """Whether an answer is the gold one; None if neither its form nor ``other`` can tell."""
    if max(len(gold), len(answer)) > LONGEST:
        return _same_long(gold, answer)
    if max(_depth(gold), _depth(answer)) > _DEEPEST:
        return True if gold == answer else None
    gold, answer = read(gold), read(answer)
    if not gold or not answer:
        return None
    if compact(gold) == compact(answer):
        return True
    return _same(gold, answer, other)


@lru_cache(maxsize=4096)
def read(text: str) -> str:
    """An answer, cleaned."""
    return clean(text)


def is_number(gold: str) -> bool:
    """Whether an answer is a plain number, with or without unit."""
    return len(gold) <= LONGEST and read_quantity(read(gold)) is not None


def is_plain(gold: str) -> bool:
    """Whether the form of an answer alone says what it means: numbers, words, a choice, or a list of them."""
    if len(gold) > LONGEST or _depth(gold) > _DEEPEST:
        return False
    text = read(gold)
    if read_quantity(text) is not None or _words(text) or _based(text) or _CHOICE.fullmatch(text):
        return True
    found = _items(text)
    return found is not None and bool(found[1]) and all(part != text and is_plain(part) for part in found[1])


def _depth(text: str) -> int:
    """How deep brackets stand in brackets."""
    deepest = depth = 0
    for match in _BRACKET.finditer(text):
        depth += 1 if match.group() in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def _same_long(gold: str, answer: str) -> bool | None:
    """Of texts too long to look into: digits can still be compared."""
    if gold.strip() == answer.strip():
        return True
    digits = [text.strip().strip("$").replace(",", "").replace("{", "").replace("}", "") for text in (gold, answer)]
    if all(re.fullmatch(r"-?\d+", text) for text in digits):
        one, two = ((text.startswith("-"), text.lstrip("-").lstrip("0")) for text in digits)
        return one == two
    return None


def _same(gold: str, answer: str, other: Other) -> bool | None:
    if "\\approx" in gold + answer:
        return _by_approximation(gold, answer, other)
    if (decided := _by_choice(gold, answer)) is not None:
        return decided
    one, two = read_quantity(gold), read_quantity(answer)
    if one is not None and two is not None:
        return same_quantity(one, two)
    if one is not None and (number := _only_number(answer)) is not None:
        return same_quantity(one, number)
    if (said := _YES_OR_NO.match(answer)) and _YES_OR_NO.fullmatch(gold):
        return said[0].lower() == gold.lower()
    for compare in (_by_matrix, _by_base, _by_union, _by_items):
        if (found := compare(gold, answer, other)) is not _NO_FORM:
            return found  # type: ignore[return-value]
    sides = _sides(gold, answer)
    if sides is not None:
        return same(*sides, other)
    if (decided := _by_words(gold, answer)) is not None:
        return decided
    return other(gold, answer)


def _by_approximation(gold: str, answer: str, other: Other) -> bool | None:
    """Of ``exact ≈ rounded``, either side may be what is meant."""
    sides = [[part for part in re.split(r"\\approx", text) if part.strip()] for text in (gold, answer)]
    pairs = [(g, a) for g in {*sides[0][:1], *sides[0][-1:]} for a in {*sides[1][:1], *sides[1][-1:]}]
    decisions = [same(g, a, other) for g, a in pairs]
    return True if True in decisions else None if None in decisions or not decisions else False


class _NoForm:
    """Neither side has the form."""


_NO_FORM = _NoForm()
Found = bool | None | _NoForm


def _by_choice(gold: str, answer: str) -> bool | None:
    """Multiple choice: gold is one letter, A to J."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r"\1", gold).strip()
    letter = _CHOICE.fullmatch(bare)
    said = re.sub(r"\\text\{([^{}]*)\}", r"\1", answer).strip()
    if letter is not None:
        chosen = _CHOSEN.fullmatch(said)
        if chosen is None:
            return None if len(bare) == 1 else False
        return letter[1] == next(group for group in chosen.groups() if group).upper()
    if (prefix := _PREFIX.match(said)) and not _PREFIX.match(bare):
        rest = said[prefix.end() :]
        return True if not _PREFIX.match(rest) and same(gold, rest) else None
    return None


def _by_matrix(gold: str, answer: str, other: Other) -> Found:
    one, two = _MATRIX.fullmatch(_in_bracket(gold)), _MATRIX.fullmatch(_in_bracket(answer))
    if one is None or two is None:
        return _NO_FORM
    if "v" in (one[1] + two[1]).lower() and one[1] != two[1] and "vmatrix" in (one[1], two[1]):
        return other(gold, answer)  # a determinant is a number
    rows, others = _cells(one[2]), _cells(two[2])
    if [len(row) for row in rows] != [len(row) for row in others]:
        return False
    return _all(same(a, b, other) for r, s in zip(rows, others, strict=True) for a, b in zip(r, s, strict=True))


def _in_bracket(text: str) -> str:
    """What a bracket around an array holds."""
    found = enclosed(text)
    return found[1] if found and found[1].startswith("\\begin") else text


def _cells(body: str) -> list[list[str]]:
    rows = [
        row for row in re.split(r"\\\\(?:\[[^\]]*\])?|\\cr(?![a-zA-Z])", body.replace("\\hline", "")) if row.strip()
    ]
    return [[cell.strip() for cell in row.split("&")] for row in rows]


def _by_base(gold: str, answer: str, other: Other) -> Found:
    one, two = _based(gold), _based(answer)
    if one is None:
        return _NO_FORM
    if two is None:  # the question has the base
        return compact(answer).lower() == one[0] if re.fullmatch(r"[0-9A-Za-z]+", compact(answer)) else _NO_FORM
    return one == two


def _based(text: str) -> tuple[str, str] | None:
    """The digits and the base of a number such as 1011_2."""
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    digits, base = match[1] or match[3], match[2] or match[4]
    base = _BASES.get(base, base)
    if not base.isdigit() or not re.search(r"\d", digits):
        return None
    return digits.lower(), base


def _by_union(gold: str, answer: str, other: Other) -> Found:
    one, two = (_IN.sub("", text) for text in (gold, answer))
    parts, others = split_at(one, _CUP), split_at(two, _CUP)
    if len(parts) < 2 and len(others) < 2:
        return _NO_FORM
    if len(parts) != len(others):
        return other(gold, answer)
    matched = _unordered(parts, others, other)
    return matched if matched else other(gold, answer)


def _by_items(gold: str, answer: str, other: Other) -> Found:
    """Lists, sets, tuples and intervals."""
    one, two = _items(gold), _items(answer)
    if one is None and two is None:
        return _NO_FORM
    (left, parts, right), (opens, others, closes) = one or ("", [gold], ""), two or ("", [answer], "")
    if max(len(parts), len(others)) > _MOST_ITEMS:
        return other(gold, answer)
    if one is None and not opens and all(len(split_at(part, _EQUALS)) > 1 for part in others):
        if all(_is_name(split_at(part, _EQUALS)[0]) for part in others):
            return False
        return same(gold, others[-1], other)  # steps of a calculation
    if (comma := _decimal_comma(gold, answer)) is not None:
        return comma
    if len(parts) != len(others) and "," in gold + answer:  # 1,234 may be a number, and two
        apart, asunder = (split_top(text, grouped=False) for text in (gold, answer))
        if len(apart) == len(asunder) > 1 and not left and not opens:
            return _unordered(apart, asunder, other)
    if len(parts) != len(others):
        plain = all(read_quantity(read(part)) is not None for part in [*parts, *others])
        return False if plain else other(gold, answer)
    if len(parts) == 1:
        return same(parts[0], others[0], other)
    if (
        left
        and opens
        and (left, right) != (opens, closes)
        and not (_set_like(left) or _set_like(opens))
        and len(parts) == 2
    ):
        return False  # of two numbers, the brackets say which ends belong to the interval
    if _set_like(left) and _set_like(opens):
        return _unordered(parts, others, other)
    return _all(same(a, b, other) for a, b in zip(parts, others, strict=True))


def _decimal_comma(gold: str, answer: str) -> bool | None:
    """Whether one side is a decimal with a comma, as much of Europe writes it; None if it is not.

    A gold 1,22 is rather two numbers, but 0,22 is not.
    """
    for one, two, point in ((answer, gold, r"-?\d+,\d+"), (gold, answer, r"-?0,\d+")):
        if re.fullmatch(point, one) and re.fullmatch(r"-?\d*\.\d+", two):
            left, right = read_quantity(one.replace(",", ".")), read_quantity(two)
            return left is not None and right is not None and same_quantity(left, right)
    return None


def _set_like(bracket: str) -> bool:
    return bracket in ("", "\\{", "{")


def _items(text: str) -> tuple[str, list[str], str] | None:
    """The brackets and items of a list; None if there is but one item without brackets."""
    text = _IN.sub("", text)
    parts = _signs(split_top(text))
    if len(parts) > 1:
        return "", parts, ""
    found = enclosed(text)
    if found is None:
        return None
    left, inner, right = found
    left = "(" if left == "\\langle" else left
    right = ")" if right == "\\rangle" else right
    inner_parts = _signs(split_top(inner))
    if len(inner_parts) < 2 and left not in ("\\{", "{", "("):
        return None
    return left, inner_parts, right


def _signs(parts: list[str]) -> list[str]:
    """Items with plus-or-minus as two."""
    return [
        part.replace("\\pm", sign).strip() if part.count("\\pm") == 1 else part
        for part in parts
        for sign in (("+", "-") if part.count("\\pm") == 1 else ("",))
    ]


def _sides(gold: str, answer: str) -> tuple[str, str] | None:
    """What is left to compare of equations: the sides that name nothing; None if there is nothing to leave out."""
    one, two = split_at(gold, _EQUALS), split_at(answer, _EQUALS)
    if len(one) == 1 and len(two) > 1:
        last = two[-1] if not _is_name(two[-1]) or _is_name(two[0]) else two[0]
        return (gold, last) if not _RELATION.search(gold) else None
    if len(two) == 1 and len(one) > 1 and _is_name(one[0]):
        return one[-1], answer
    named = len(one) == 2 and len(two) >= 2 and _is_name(one[0]) and _is_name(two[0])
    if named and (compact(one[0]) == compact(two[0]) or len(two[0].strip().replace("\\", "")) > 3):
        return one[-1], two[-1]
    return None


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text.strip()) is not None


def _by_words(gold: str, answer: str) -> bool | None:
    one, two = _words(gold), _words(answer)
    if one is None and two is None:
        return None
    if one is None or two is None:
        known = read_quantity(gold if two is not None else answer)
        return False if known is not None else None
    if one == two or " ".join(one) == "".join(two) or "".join(one) == "".join(two):
        return True
    if any(map(_NEGATIONS.fullmatch, one)) != any(map(_NEGATIONS.fullmatch, two)):
        return False
    return len(one) == 1 and one[0] in two and len(two) <= 4


def _words(text: str) -> list[str] | None:
    """The words of an answer that is nothing but words."""
    text = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text).strip()
    if not _WORDS.fullmatch(text):
        return None
    words = [word.strip(".,!'-").lower() for word in text.split()]
    if not any(len(word) > 1 for word in words) or any(map(_MATH_WORDS.fullmatch, words)):
        return None
    return [word for word in words if not _SKIPPED.fullmatch(word)] or words


def _only_number(text: str) -> Quantity | None:
    """The number of a sentence that has one."""
    bare = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    if sum(not _MATH_WORDS.fullmatch(word.lower()) for word in re.findall(r"(?<!\\)[A-Za-z]{2,}", bare)) < 2:
        return None
    if re.search(r"\\(?!text|\$|%)[a-zA-Z]+|\^|[A-Za-z]\d|\d[A-Za-z]", bare):
        return None
    found = list(NUMBER.finditer(bare))
    if len(found) != 1:
        return None
    start, end = found[0].span()
    sign = "-" if re.search(r"(?:^|\s)-\$?$", bare[:start]) else ""
    percent = "%" if re.match(r"\s*(?:\\?%|percent)", bare[end:]) else ""
    return read_quantity(sign + bare[start:end] + percent)


def _all(decisions: object) -> bool | None:
    """False if one is False, None if one is None, True otherwise."""
    unknown = False
    for decision in decisions:  # type: ignore[attr-defined]
        if decision is False:
            return False
        unknown = unknown or decision is None
    return None if unknown else True


def _unordered(parts: list[str], others: list[str], other: Other) -> bool | None:
    """Whether each part has a partner of its own."""
    left = list(others)
    unknown = False
    for part in parts:
        decisions = [same(part, candidate, other) for candidate in left]
        if True in decisions:
            del left[decisions.index(True)]
        elif None in decisions:
            unknown = True
        else:
            return False
    return None if unknown else True
