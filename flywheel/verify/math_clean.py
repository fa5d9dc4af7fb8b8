"""One spelling for what LaTeX and Unicode can write in many ways, and the parts of an answer at its top level."""

from __future__ import annotations

import re

_CHARACTERS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "×": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "∗": "*",
    "÷": "/",
    "π": "\\pi ",
    "√": "\\sqrt",
    "∞": "\\infty ",
    "≤": "\\le ",
    "≥": "\\ge ",
    "≠": "\\ne ",
    "±": "\\pm ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "≈": "\\approx ",
    "∅": "\\emptyset ",
    "θ": "\\theta ",
    "°": "^\\circ",
    "½": " 1/2",
    "⅓": " 1/3",
    "⅔": " 2/3",
    "¼": " 1/4",
    "¾": " 3/4",
    "²": "^2",
    "³": "^3",
    "’": "'",
    "“": '"',
    "”": '"',
    "％": "%",
    "，": ", ",
    "\u00a0": " ",
    "\u2009": " ",
    "\u202f": " ",
    "\u200b": "",
    "\ufeff": "",
    "\t": " ",
    "\n": " ",
    "\r": " ",
}
_TRANSLATION = str.maketrans(_CHARACTERS)
_REPLACEMENTS = [
    (re.compile(r"(?<![a-zA-Z}\]_^])\{\}"), ""),
    (re.compile(r"\{,\}|(?<=\d),\s*\\!\s*(?=\d{3})"), ","),
    (re.compile(r"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])\s*\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|boldsymbol|bf|rm|it)(?![a-zA-Z])"), ""),
    (re.compile(r"(?<!\\)\\!|\\hspace\{[^{}]*\}|\\phantom\{[^{}]*\}|\\hphantom\{[^{}]*\}"), ""),
    (re.compile(r"(?<=\d)\s*(?<!\\)\\[,;:! ]\s*(?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<!\\)\\[,;: ]|~|\\(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])"), " "),
    (re.compile(r"\{([^{}]+)\\choose(?![a-zA-Z])([^{}]+)\}"), r"\\binom{\1}{\2}"),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (
        re.compile(r"\\(?:mbox|textrm|textbf|textit|textnormal|textsf|mathrm|mathbf|mathit|mathsf|operatorname)\s*\{"),
        r"\\text{",
    ),
    (re.compile(r"\\(?:leq|leqslant)(?![a-zA-Z])"), r"\\le"),
    (re.compile(r"\\(?:geq|geqslant)(?![a-zA-Z])"), r"\\ge"),
    (re.compile(r"\\neq(?![a-zA-Z])"), r"\\ne"),
    (re.compile(r"\\(?:l|r)?brace(?![a-zA-Z])"), ""),
    (re.compile(r"\\(?:lvert|rvert|vert)(?![a-zA-Z])"), "|"),
    (re.compile(r"\\(?:varnothing)(?![a-zA-Z])"), r"\\emptyset"),
    (re.compile(r"\\dots(?![a-zA-Z])|\\ldots|\\cdots"), "..."),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![a-zA-Z])|\\circ\s*$"), " degrees "),
    (re.compile(r"\\\$"), "$"),
    (re.compile(r"(?<![\d.,])(\d{1,3}) (\d{3})(?![\d.,/])"), r"\1\2"),
    (re.compile(r"\\text\{\s*([-+\d.,/ ]+|[ie])\s*\}"), r"\1"),
    (re.compile(r"(?<![a-zA-Z])([ap])\.\s?m(?![a-zA-Z])\.?"), r"\1m"),
    (re.compile(r"\\text\{\s*(?:,?\s*(and|or))\s*\}"), r" \1 "),
    (re.compile(r"\\sqrt\s*([0-9a-zA-Z])"), r"\\sqrt{\1}"),
    (re.compile(r"\+\s*\\infty|(?<![\\\w])\+?(?:infinity|inf|oo)(?![a-zA-Z])"), r"\\infty"),
]
_LEADING = re.compile(
    r"^(?:\\approx|\\sim|~|≈|=|:|approximately|approx\.?|about|roughly|exactly|only)(?![a-zA-Z])\s*", re.I
)
_ESCAPED = re.compile(r"\\\\(?=[a-zA-Z])")
_WHOLE_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_CURRENCY = re.compile(r"\$(?!\s*[-+]?\s*[\d.])|(?<=[\d.])\$")
_OPEN, _SHUT = {"(": ")", "[": "]", "{": "}", "\\{": "\\}", "\\langle": "\\rangle"}, {")", "]", "}", "\\}", "\\rangle"}
_TOKEN = re.compile(r"\\(?:[a-zA-Z]+|.)|.", re.DOTALL)
_JOINT = re.compile(r"(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])")


def clean(text: str) -> str:
    """An answer in one spelling; linear in its length."""
    text = text.translate(_TRANSLATION)
    if "\\\\" in text and "\\begin" not in text:
        text = _ESCAPED.sub(r"\\", text)  # it was escaped once too often
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = _CURRENCY.sub("", text)
    text = re.sub(r"\s+", " ", text).strip().strip('"`').strip()
    text = text.rstrip(".;,:").strip()
    text = _LEADING.sub("", text)
    whole = _WHOLE_TEXT.fullmatch(text)
    return whole[1].strip() if whole else text


def compact(text: str) -> str:
    """Without the white space that means nothing: any but that between two letters or digits."""
    return re.sub(r"(?<![a-zA-Z0-9])\s+|\s+(?![a-zA-Z0-9])", "", text)


def split_top(text: str, grouped: bool = True) -> list[str]:
    """The parts of a list at its top level: between commas, semicolons, "and" and "or".

    A comma between digits and exactly three more is a thousands separator, unless they are not ``grouped``.
    """
    cuts: list[tuple[int, int]] = []
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _SHUT:
            depth -= 1
        elif depth == 0 and (token == ";" or (token == "," and not (grouped and _groups_digits(text, match.start())))):
            cuts.append(match.span())
        elif depth == 0 and token in "ao" and (joint := _JOINT.match(text, match.start())):
            cuts.append(joint.span())
    starts, ends = [0, *(end for _, end in cuts)], [*(start for start, _ in cuts), len(text)]
    return [part for start, end in zip(starts, ends, strict=True) if (part := text[start:end].strip())]


def _groups_digits(text: str, at: int) -> bool:
    return (
        re.match(r",\d{3}(?!\d)", text[at : at + 5]) is not None
        and re.search(r"(?<!\d)\d{1,3}$", text[max(0, at - 4) : at]) is not None
    )


def split_at(text: str, separator: re.Pattern[str]) -> list[str]:
    """The parts of a text between separators that stand outside all brackets."""
    parts: list[str] = []
    depth = start = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _SHUT:
            depth -= 1
        elif depth == 0 and match.start() >= start and (cut := separator.match(text, match.start())):
            parts.append(text[start : cut.start()])
            start = cut.end()
    return [*parts, text[start:]]


def enclosed(text: str) -> tuple[str, str, str] | None:
    """The bracket that encloses a whole text, what is in it, and the closing one, which may be of another kind."""
    tokens = list(_TOKEN.finditer(text))
    if len(tokens) < 2 or tokens[0].group() not in _OPEN or tokens[-1].group() not in _SHUT:
        return None
    depth = 0
    for token in tokens[:-1]:
        depth += (token.group() in _OPEN) - (token.group() in _SHUT)
        if depth == 0:
            return None
    return tokens[0].group(), text[tokens[0].end() : tokens[-1].start()].strip(), tokens[-1].group()
