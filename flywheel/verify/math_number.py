"""Numbers as people write them, read exactly: signs, separators, fractions, percent, currency, units, words.

What is not plainly a number is None, and left to sympy. Nothing here takes more than linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 200
"""Characters past which a text is no number that anyone means."""
_PLACES = 6
"""Decimals that are compared where one side is a decimal; math-verify's default."""
_CLOSE = Fraction(1, 10_000)
"""Share by which two decimals may differ at most: six places say nothing about 0.0000002."""
_LARGEST_EXPONENT = 300


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what stands around it.

    Attributes:
        value: the number before the percent sign or unit.
        decimal: it was written with a decimal point, so that it may be rounded.
        percent: a percent sign follows.
        unit: the words after it, in lower case; empty if none.
    """

    value: Fraction
    decimal: bool = False
    percent: bool = False
    unit: str = ""


_UNSIGNED = (
    r"(?:(?P<whole>\d{1,3}(?:,\d{3})+|\d+)(?P<point>\.\d*)?|(?P<bare>\.\d+))"
    r"(?:\s*(?:[eE](?P<exp>[-+]?\d{1,4})|(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*(?P<power>-?\d{1,4}|\{\s*-?\d{1,4}\s*\})))?"
)
_DECIMAL = re.compile(_UNSIGNED)
_FRACTION = re.compile(
    r"(?:(?P<mixed>\d{1,15})(?:\s+|\s*(?=\\frac)))?"
    r"(?:\\frac\s*(?:\{\s*(?P<n1>-?\d{1,3}(?:,\d{3})+|-?\d+)\s*\}|(?P<n2>\d))\s*(?:\{\s*(?P<d1>-?\d{1,3}(?:,\d{3})+|-?\d+)\s*\}|(?P<d2>\d))"
    r"|(?P<n3>\d{1,3}(?:,\d{3})+|\d+)\s*/\s*(?P<d3>\d{1,3}(?:,\d{3})+|\d+)(?![\d,.]))"
)
_REPEATING = re.compile(r"(?P<whole>\d{0,15})\.(?P<first>\d{0,15})\\(?:overline|bar)\s*\{?\s*(?P<again>\d{1,15})\s*\}?")
_SIGN = re.compile(r"\s*(?P<sign>[-+]?)\s*(?:\\?[$€£¥₹]|(?:US\$|USD|Rs\.?|EUR|GBP)(?![a-zA-Z]))?\s*(?P<again>[-+]?)\s*")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\s*\{\s*(?:percent|%|\\%)\s*\}|percent\b|percentage points?\b)")
_TIMES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_TIMES_WORD = re.compile(r"\s*(?:\\text\s*\{\s*)?(" + "|".join(_TIMES) + r")s?\b\s*")
_ONES = re.findall(
    r"\w+",
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
_TENS = re.findall(r"\w+", "twenty thirty forty fifty sixty seventy eighty ninety")
WORDS = {word: n for n, word in enumerate(_ONES)} | {word: 10 * n for n, word in enumerate(_TENS, start=2)}
_WORD = re.compile(
    r"(?i)(?:\\text\s*\{\s*)?(?P<tens>" + "|".join(_TENS) + r")[- ](?P<one>" + "|".join(_ONES[1:10]) + r")\b"
    r"|(?:\\text\s*\{\s*)?(?P<word>" + "|".join(sorted(WORDS, key=len, reverse=True)) + r")\b"
)
_FUNCTIONS = re.compile(
    "pi|sqrt|sin|cos|tan|cot|sec|csc|log|ln|exp|and|or|to|i|e|frac|infty|inf|infinity|theta|alpha|beta|gamma|phi|cdot"
    "|times|plus|minus|union|mod|pm|dx|dy|dt"
)
_LETTER_UNITS = frozenset("mgshlLJNWVKCFAa")
_UNIT_WORD = re.compile(r"[a-zA-Z][a-zA-Z'’-]*\.?|[°$€£%]")
_UNIT_GAP = re.compile(r"[\s,.()/;:*·²³-]+|\^\s*(?:\{\s*-?\d\s*\}|-?\d)|\\cdot(?![a-zA-Z])|\\circ(?![a-zA-Z])")

_KINDS = {
    "length": "mm,millimeter,millimetre=1 cm,centimeter,centimetre=10 m,meter,metre=1000 km,kilometer,kilometre=1e6",
    "imperial": "inch,inche,in=1 ft,foot,feet=12 yd,yard=36 mi,mile=63360",
    "mass": "mg,milligram=1 g,gram=1000 kg,kilogram=1e6",
    "weight": "oz,ounce=1 lb,pound=16",
    "time": "s,sec,second=1 min,minute=60 h,hr,hour=3600 day=86400 week=604800",
    "money": "cent=1 dollar,usd,buck=100",
    "volume": "ml,milliliter,millilitre=1 l,liter,litre=1000",
}


def _read_measures() -> dict[str, tuple[str, Fraction]]:
    entries = [(kind, entry.split("=")) for kind, listed in _KINDS.items() for entry in listed.split(" ")]
    return {name: (kind, Fraction(factor)) for kind, (names, factor) in entries for name in names.split(",")}


_MEASURES = _read_measures()
"""Each unit's kind, and how many of the kind's smallest it is."""


def read_quantity(text: str) -> Quantity | None:
    """A number with its sign, percent sign, currency and unit; None if the text is anything else."""
    text = text.strip()
    if not text or len(text) > LONGEST:
        return None
    sign = _SIGN.match(text)
    assert sign is not None
    if sign["sign"] and sign["again"]:
        return None
    negative = "-" in (sign["sign"], sign["again"])
    currency = re.search(r"[$]|USD", sign.group()) is not None
    found = _magnitude(text, sign.end())
    if found is None:
        return None
    value, decimal, end = found
    if times := _TIMES_WORD.match(text, end):
        value, end = value * _TIMES[times[1]], times.end()
        text = text.replace("}", " ") if "{" in times.group() else text
    percent = _PERCENT.match(text, end)
    unit = _unit(text[percent.end() if percent else end :])
    if unit is None:
        return None
    return Quantity(-value if negative else value, decimal, percent is not None, unit or ("dollar" if currency else ""))


def _magnitude(text: str, at: int) -> tuple[Fraction, bool, int] | None:
    """An unsigned number at a place: its value, whether it is a decimal, and where it ends."""
    if match := _FRACTION.match(text, at):
        top = match["n1"] or match["n2"] or match["n3"]
        bottom = match["d1"] or match["d2"] or match["d3"]
        numerator, denominator = _int(top), _int(bottom)
        if denominator == 0 or (match["mixed"] and (numerator < 0 or denominator < 0)):
            return None
        return _int(match["mixed"] or "0") + Fraction(numerator, denominator), False, match.end()
    if match := _REPEATING.match(text, at):
        first, again = match["first"], match["again"]
        tail = Fraction(int(again), (10 ** len(again) - 1) * 10 ** len(first))
        return Fraction(int((match["whole"] or "0") + first), 10 ** len(first)) + tail, False, match.end()
    if match := _DECIMAL.match(text, at):
        digits = (match["whole"] or "0").replace(",", "")
        part = (match["point"] or match["bare"] or ".")[1:]
        exponent = int((match["exp"] or match["power"] or "0").strip("{} "))
        if abs(exponent) > _LARGEST_EXPONENT:
            return None
        value = Fraction(int(digits + part), 10 ** len(part)) * Fraction(10) ** exponent
        return value, bool(part.strip("0")) or exponent < 0, match.end()
    if match := _WORD.match(text, at):
        value = Fraction(
            WORDS[match["word"].lower()]
            if match["word"]
            else WORDS[match["tens"].lower()] + WORDS[match["one"].lower()]
        )
        return value, False, match.end()
    return None


def _int(digits: str) -> int:
    return int(digits.replace(",", ""))


def _unit(rest: str) -> str | None:
    """The words after a number, cleaned; None if there is anything but words, so that it is no mere unit."""
    plain = re.sub(r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|operatorname|rm)\s*(?=\{)|\\ ", " ", rest)
    in_text = plain != rest
    plain = plain.replace("{", " ").replace("}", " ") if in_text else plain
    words: list[str] = []
    at = 0
    while at < len(plain):
        if gap := _UNIT_GAP.match(plain, at):
            at = gap.end()
            if words and re.search(r"[\^²³]", gap.group()):
                words.append("^")  # a square metre is no metre
        elif word := _UNIT_WORD.match(plain, at):
            name = word.group().rstrip(".")
            glued = at == 0 and not rest[:1].isspace() and not rest.startswith("\\")
            if _FUNCTIONS.fullmatch(name.lower()) and not in_text:
                return None
            if name.lower() in ("and", "or", "to"):
                return None
            if len(name) == 1 and name.isalpha() and not in_text and (glued or name not in _LETTER_UNITS):
                return None
            words.append(name.lower())
            at = word.end()
        else:
            return None
    if len(words) > 12 or (not words and re.search(r"[-*/^,]", plain)):
        return None
    return " ".join(words)


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Whether two quantities are the same number.

    Six decimals count where one side is a decimal. A percent sign may be left out, or resolved (50 % is 50 and 0.5).
    Units do not count, as one side often leaves them out, but where both are of one kind: an hour is 60 minutes.
    """
    a, b = gold.value, answer.value
    decimal = gold.decimal or answer.decimal
    if gold.percent != answer.percent:
        bare, percent = (b, a) if gold.percent else (a, b)
        # 0.25 and 0.25 % are hardly meant to be the same, while 25 and 25 % are.
        return (abs(percent) >= 1 and _close(bare, percent, decimal)) or _close(bare, percent / 100, True)
    one, other = _measure(gold.unit), _measure(answer.unit)
    halves = {_half_of_day(gold.unit), _half_of_day(answer.unit)}
    if halves == {"a", "p"}:
        return False
    if one is not None and other is not None and one[0] == other[0] and one[1] != other[1]:
        return _close(a * one[1], b * other[1], decimal)
    return _close(a, b, decimal)


def _measure(unit: str) -> tuple[str, Fraction] | None:
    return _MEASURES.get(unit) or _MEASURES.get(unit.removesuffix("s"))


def _half_of_day(unit: str) -> str | None:
    found = re.fullmatch(r"([ap]) ?m", unit)
    return found[1] if found else None


def _close(a: Fraction, b: Fraction, decimal: bool) -> bool:
    if a == b:
        return True
    return decimal and round(a, _PLACES) == round(b, _PLACES) and abs(a - b) <= _CLOSE * max(abs(a), abs(b))
