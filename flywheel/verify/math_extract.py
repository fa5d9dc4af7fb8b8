"""Find the final answer in a solution, or in what a dataset gives as gold.

In this order: ``\\boxed{}``; GSM8K's ``####``; a sentence that says so ("the answer is …", "Answer: …"); and where
nothing says so, the last number in bold, the last formula or the last number. All searches are linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from flywheel.verify.math_number import read_quantity

LONGEST_GOLD = 1_000
"""Characters past which a gold answer without any marker is a text, not an answer."""
_WINDOW = 600
"""Characters after "the answer is" in which the answer must stand."""
_SHORT = 40
"""Characters of a text that may be nothing but a number."""
_TAIL = 30_000
"""Characters at the end of a text in which "the answer is" counts."""
_BOXES = 64
"""Boxes that are looked at, from the last one on."""

_END_TOKENS = ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "</s>", "<eos>", "<end_of_turn>")
_NEXT_TASK = re.compile(r"\n[ \t]*(?:#+[ \t]*)?(?:Question|Q|Problem|Human|User|Instruction|Exercise)[ \t]*\d*[ \t]*:")
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(\S[^\n]*)")
_HEADING = re.compile(
    r"(?i)[*_ ]*(?:step|part|case|solution|explanation|given|calculat|conclusion|understand|analy|final|answer"
    r"|verif|check|why|how|let|find|\d+[.)]\s)"
)
_SAID = re.compile(
    r"(?i)\b(?:(?:final|correct|right)[ \t]+(?:answer|result|choice|option)|answers?|ans)\b[*_]*"
    r"(?:[ \t]+(?:to|of|for)\b[^.:\n=]{1,120}?|[ \t]+choice|[ \t]+option|[ \t]*\([^()\n]{1,30}\))?"
    r"[*_]*[ \t]*"
    r"(?:(?:is|are|was|be|would be|will be|must be|should be|equals|comes out to)\b(?:[ \t]+(?:therefore|thus|then))?"
    r"[ \t]*:?|:|=|\n)[*_\s]*"
)
_REASON = re.compile(
    r"(?i),?[ ]+(?:since|because|which|where|given that|so that|as)[ ]|,[ ]+not[ ]|(?<=\d)[ ]+\((?=[a-z])"
)
_OPTION_IS_RIGHT = re.compile(
    r"(?i)\b(?:option|choice)[ \t]+[*_]*\(?([A-J])\b\)?[*_]*[ \t]+is[ \t]+(?:the[ \t]+)?(?:correct|right)"
)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*(?!:)")
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?P<a>[^$]{1,1000}?)\$\$|\\\[(?P<b>.{1,1000}?)\\\]|\\\((?P<c>.{1,1000}?)\\\)"
    r"|(?<![\\$])\$(?P<d>(?:\\\$|[^$\n]){1,1000}?)(?<!\\)\$(?!\d)",
    re.DOTALL,
)
_AND = re.compile(r"[\s.]*(?:,|;|,?[ ]*\band\b|,?[ ]*\bor\b)[\s]*")
_LAYOUT = re.compile(r"\\(?:q?quad|text|mbox|textrm|[,;:! ()\[\]])(?![a-zA-Z])|[{}$\s,;]+")
_BETWEEN = re.compile(r"(?:\.? |[\w()' -]{0,50}\b(?:and|or)\b)?[\w()' -]{0,24}=? ?|\.?")
_CORRECTS = re.compile(r"(?i)\b(?:wait|actually|instead|correct|mistake|check|sorry|should|so|but|not|then)\b")
_FINAL = re.compile(r"(?i)\bfinal[ \t]+answer\b")
NUMBER = re.compile(
    r"(?<![\w.])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d])"
    r"|(?:(?<![\w.,])|(?<=[^\d],)|(?<=Rs)|(?<=USD)|(?<=EUR))\d+(?:\.\d+|,\d{1,2}(?![\d,]))?(?:\s*/\s*\d+(?:\.\d+)?)?"
    r"|(?<![\w.])\.\d+"
)
_LATEX_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|\d\s*\d)")


@dataclass(frozen=True, slots=True)
class Found:
    """A final answer as it stands in a text.

    Attributes:
        text: the answer; several that were given side by side are joined with commas.
        how: what pointed to it: "boxed", "hashes", "said", "bold", "formula" or "number".
    """

    text: str
    how: str


def final_answer(text: str, *, numeric: bool = False, marked: bool = False) -> Found | None:
    """The final answer of a solution, or None if it gives none.

    Args:
        text: the solution; what a reasoning model thought before ``</think>``, and what it wrote after its end or
            about a next question, does not count.
        numeric: a number is expected: where nothing says which is the answer, the last number is taken rather than
            the last formula.
        marked: take only what is marked as the answer: for a text that was cut off.
    """
    text = _own_part(text)
    found = _said_after_box(text, numeric) or _boxed(text) or _after_hashes(text) or _said(text, numeric)
    if found is None and not marked:
        found = _unmarked(text, numeric)
    return found


def gold_answer(text: str) -> str | None:
    """The final answer of a dataset's gold: a worked solution, or the bare answer; None if there is none in it."""
    text = text.strip()
    found = _after_hashes(text, gold=True) if "####" in text else _boxed(text)
    if found is not None:
        return found.text
    if not text or "####" in text:
        return None
    if len(text) <= LONGEST_GOLD and ("\n" not in text or "\\begin" in text) and len(text.split()) <= 40:
        said = _said(text)
        return said.text if said is not None else _bare(text)
    said = _said(text)
    return said.text if said is not None else None


def has_working(text: str) -> bool:
    """Whether a gold text shows how its answer comes about."""
    answer = gold_answer(text)
    return answer is not None and len(text.strip()) > len(answer) + 30


def _own_part(text: str) -> str:
    """What the solution itself is: after the thinking, before the end."""
    _, thought, rest = text.rpartition("</think>")
    if thought and rest.strip():
        text = rest
    for token in _END_TOKENS:
        text = text.partition(token)[0]
    following = _NEXT_TASK.search(text, _first_mark(text))
    return text[: following.start()] if following else text


def _first_mark(text: str) -> int:
    """Where an answer is first marked: only after it may another task begin."""
    said = _SAID.search(text, 0, _TAIL)
    at = (text.find("\\boxed"), text.find("####"), said.end() if said else -1)
    return min((place for place in at if place >= 0), default=len(text))


def _boxed(text: str) -> Found | None:
    """What the last box holds; boxes with nothing but a comma or "and" between them belong together."""
    parts: list[str] = []
    end = len(text)
    begins = end
    for _ in range(_BOXES):
        start = max(text.rfind("\\boxed", 0, end), text.rfind("\\fbox", 0, end))
        if start < 0:
            break
        opened = start + (6 if text.startswith("\\boxed", start) else 5)
        content, stop = _box_content(text, opened)
        if content and (not parts or _belong_together(text[stop:begins])):
            if content not in parts:
                parts.insert(0, content)
            begins = start
        elif parts:
            break
        end = start
    return Found(", ".join(parts), "boxed") if parts else None


def _said_after_box(text: str, numeric: bool) -> Found | None:
    """A sentence after the last box that says what the final answer is, which may take the box back."""
    rest = text[max(text.rfind("\\boxed"), 0) :] if "\\boxed" in text else ""
    final = _FINAL.search(rest)
    return _said(rest[final.start() :], numeric) if final else None


def _belong_together(between: str) -> bool:
    """Whether two boxes with this between them are two parts of one answer: nothing to speak of, or an "and"."""
    if len(between) > 120 or _CORRECTS.search(between):
        return False
    plain = _LAYOUT.sub(" ", between).strip()
    return _BETWEEN.fullmatch(plain) is not None and (len(plain) < 3 or re.search(r"\b(?:and|or)\b", plain) is not None)


def _box_content(text: str, at: int) -> tuple[str, int]:
    """What stands in the braces that open here, and where they end; without braces, up to the formula's end."""
    while at < len(text) and text[at] in " \t\n":
        at += 1
    if at >= len(text) or text[at] != "{":
        stop = next((m.start() for m in re.compile(r"[$\n]|\\[\])]").finditer(text, at)), len(text))
        return _bare(text[at:stop]), stop
    depth = 0
    for match in re.compile(r"\\[\\{}]|[{}]").finditer(text, at):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return _bare(text[at + 1 : match.start()]), match.end()
    stop = next((m.start() for m in re.compile(r"[$\n]").finditer(text, at)), len(text))
    return _bare(text[at + 1 : stop]), stop  # cut off, or never closed


def _after_hashes(text: str, gold: bool = False) -> Found | None:
    if "####" not in text:
        return None
    found = None
    for match in _HASHES.finditer(text):
        if gold or not _HEADING.match(match.group(1)):
            found = match.group(1)
    return Found(answer, "hashes") if found and (answer := _bare(found)) else None


def _said(text: str, numeric: bool = False) -> Found | None:
    """What the last sentence names that says which the answer is; of a number, one that names one."""
    text = text[-_TAIL:]
    for match in reversed(list(_SAID.finditer(text))):
        answer = _clause(text[match.end() : match.end() + _WINDOW])
        if answer and not (numeric and not re.search(r"\d", answer) and read_quantity(answer) is None):
            return Found(answer, "said")
    options = [] if numeric else _OPTION_IS_RIGHT.findall(text)
    return Found(options[-1].upper(), "said") if options else None


def _clause(rest: str) -> str | None:
    """The answer at the beginning of what follows "the answer is", if it reads like one."""
    rest = rest.lstrip(" \t\n*_`")
    formulas = _leading_formulas(rest)
    if formulas is not None:
        return formulas
    sentence = re.split(r"\n|(?<![\d\s])\.(?=\s|$)|(?<=\d)\.(?=\s|$)|(?<=[\w})])[!?](?=\s|$)", rest, maxsplit=1)[0]
    sentence = _bare(_REASON.split(sentence.partition("**")[0], maxsplit=1)[0])
    if not sentence:
        return None
    if (
        len(re.findall(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", "", sentence))) > 6
    ):  # a sentence: what does it start with?
        number = re.match(
            r"[-−+]?\s*[$€£]?\s*(?:" + NUMBER.pattern.replace(r"(?<![\w.])", "") + r")(?:\s*\\?%)?", sentence
        )
        option = re.match(r"\(?([A-J])[).:](?=\s|$)", sentence)
        return number.group() if number else option.group(1) if option else None
    return sentence


def _leading_formulas(rest: str) -> str | None:
    """The formulas at the beginning of a text, those joined by "and" together."""
    parts: list[str] = []
    at = 0
    while (match := _FORMULA.match(rest, at)) is not None:
        content = _content(match)
        if _is_prose(content):
            break
        after = rest[match.end() :]
        percent = re.match(r"\s*(?:\\?%|percent\b)", after)
        parts.append(_bare(content) + ("\\%" if percent else ""))
        joined = _AND.match(rest, match.end() + (percent.end() if percent else 0))
        if joined is None:
            break
        at = joined.end()
    return ", ".join(part for part in parts if part) or None


def _content(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None)


def _is_prose(formula: str) -> bool:
    """Whether two dollar signs were prices, with words between them."""
    return (
        re.search(r"(?<![\\a-zA-Z{])[a-zA-Z]{2,}\s+[a-zA-Z]{2,}", re.sub(r"\\[a-z]+\{[^{}]*\}", "", formula))
        is not None
    )


def _unmarked(text: str, numeric: bool) -> Found | None:
    """The answer of a text that does not say which it is."""
    text = text.rstrip()
    if numeric and len(text) < _SHORT and read_quantity(_bare(text)) is not None:
        return Found(_bare(text), "number")
    bold = [m.group(1) for m in _BOLD.finditer(text[-_WINDOW:])]
    for part in reversed(bold):
        if re.search(r"\d", part) and not _HEADING.match(part) and not part.rstrip().endswith(":"):
            return Found(_bare(part), "bold")
    number = _last_number(text)
    formulas = [m for m in _FORMULA.finditer(text[-10 * _WINDOW :]) if not _is_prose(_content(m))]
    if numeric:
        after = text[-10 * _WINDOW :][formulas[-1].end() :] if formulas else text
        if formulas and not re.search(r"\d", after) and re.search(r"\d", _content(formulas[-1])):
            return Found(_bare(_content(formulas[-1])), "formula")
        return Found(number, "number") if number is not None else None
    for match in reversed(formulas):
        if content := _bare(_content(match)):
            return Found(content, "formula")
    if number is not None and len(text.split()) > 1:
        return Found(number, "number")
    short = _bare(text)
    return Found(short, "number" if number else "said") if short and len(short) <= 60 and "\n" not in short else None


def _last_number(text: str) -> str | None:
    """The last number with its sign and percent sign; digits within a LaTeX fraction are not numbers of their own."""
    tail = text[text.rfind(" ", 0, -10 * _WINDOW) + 1 :] if len(text) > 10 * _WINDOW else text
    fractions = list(_LATEX_FRACTION.finditer(tail))
    last = max([*NUMBER.finditer(tail), *fractions], key=lambda match: match.end(), default=None)
    if last is None:
        return None
    start, end = next((f.span() for f in fractions if f.start() < last.start() < f.end()), last.span())
    before = tail[:start].rstrip("$€£ ") if tail[:start].endswith(("$", "€", "£")) else tail[:start]
    sign = ""
    if before.endswith(("-", "−")):
        left = before[:-1][-20:]
        # After a number, a name or a bracket it is a minus between two, unless a word stands off to its left.
        if not re.search(r"[\w)\]}%]\s*$", left) or re.search(r"[A-Za-z:]\s+$", left):
            sign = "-"
    percent = re.match(r"\s*(?:\\?%|percent\b)", tail[end:])
    return sign + tail[start:end] + ("%" if percent else "")


def _bare(text: str) -> str:
    """An answer without what surrounds it: white space, dollar signs of a formula, emphasis, a full stop."""
    text = text.strip()
    before = None
    while before != text and len(text) <= LONGEST_GOLD:
        before = text
        text = re.sub(r"(?<=[a-z]{2})!+$", "", text.strip().strip("`").rstrip(".;,:")).strip()  # 5! is a number
        for left, right in (("**", "**"), ("$$", "$$"), ("$", "$"), ("\\[", "\\]"), ("\\(", "\\)"), ("__", "__")):
            if text.startswith(left) and text.endswith(right) and len(text) >= len(left) + len(right):
                inner = text[len(left) : len(text) - len(right)]
                if left not in inner:
                    text = inner
    return text.removesuffix("\\").strip()
