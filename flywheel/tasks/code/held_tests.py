"""Tests in another language, held against the Python assertions that they translate.

A right translation with other tests is worth as little as a wrong one: whoever translates both could leave out what
fails. So each Python assertion must be found again, in an assertion of its own, with every number and string of it and
no further numbers but lengths and tolerances, an equality must be one that a right program alone passes, and true must
not become false. What is not recognized is refused: that costs a translation, and accepting costs the trust in all.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.sandbox.poison import alterations
from flywheel.sandbox.syntax import opening_of, parse, text_of, walk

if TYPE_CHECKING:
    from tree_sitter import Node

Number = int | float | str

_NUMBER = re.compile(
    r"(?<![\w.])(?:(?<![\w)\]])-)?(?:0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|(?:\d+(?:[_']\d+)*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
)
_ESCAPE = re.compile(r"\\(?:u\{?[0-9A-Fa-f]{1,6}\}?|x[0-9A-Fa-f]{2}|(.))", re.DOTALL)
_QUOTED = re.compile(r"""(?<![0-9A-Fa-f])(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`(?:[^`\\]|\\.)*`)""", re.DOTALL)
_BLOCK = re.compile(r"block|body|compound_statement|statement_list")
_BOUND = re.compile(r"([A-Za-z_]\w*)(?:\[\w*\]|: [^=;\n]*)?\s*:?=(?![=>~])")
_ASSERTS = re.compile(
    r"(?im)assert|expect\b|expect\(|equal|require|check|\b(ok|is|is_deeply|eq|test|die|unless)\b|[=!]="
    r"|(^|\bif |[|&!{]) *\[+ "
)
_FALSE = re.compile(r"(?i)false|\bnot\b|(?<![\w!])!|~=|-ne\b|\brefute|\bunless\b|(?:=|-eq)\s*[\"']?0\b")
_DENIES = re.compile(r"(?i)false|\bnot\b|(?<![\w!])!(?![=!])|\brefute|\bunless\b")
_WEAKER = re.compile(
    r"\|\||\bor\b|\bif\b|\?|[!<>]=|!~|[<>] *-?(?!\.?0*\.0\d|1e-)[\d.\"']|-(?:[lg][et]|ne)\b|\bne\b"
    r"|(?i:\bnot|\w_?ne\b|not_?\w*equal|not_?\w*eq\b|unequal)"
)
"""What makes something else than an equality of an assertion that is not sure to fail if it is altered."""
_TINY = 0.01
"""Numbers up to it are taken for the tolerance of a comparison of floats."""
_WORDLESS = ("c", "perl", "bash")
"""Languages without words for true and false."""
_DEEPEST = 100
"""What finds assertions takes the square of the depth."""


def shortfall(language: str, tests: str, asserts: Sequence[str], function: str | None) -> str | None:
    """What tests lack of the assertions that they translate; None if they have all of them.

    Args:
        language: of the tests.
        tests: a translation, which calls the function by its name in the customs of the language.
        asserts: the Python assertions, each of which parses.
        function: that is tested.
    """
    names = _names(tests, function)
    if function and not names:
        return f"the tests do not call {function}"
    opening = opening_of(language, tests)
    code = opening + tests.encode(errors="replace")
    root = parse(language, code).root_node
    if _is_deep(root):
        return "the tests are nested too deeply"
    edits = alterations(language, tests, names)
    about = _about(root, code, names, [(e.start + len(opening), e.end + len(opening)) for e in edits])
    sure = [edit.start + len(opening) for edit in edits if edit.sure]
    there = list(_found(root, code, len(opening), about, sure, quotes=language != "bash"))
    if len(there) < len(asserts):
        return f"the tests have {len(there)} assertions about {function}, and the Python ones {len(asserts)}"
    free = dict(enumerate(there))
    lost = []
    for place, line in enumerate(asserts):
        wanted = _Wanted.of(line, language not in _WORDLESS)
        order = sorted(free, key=lambda n: abs(n - place))  # most translators keep it
        found = next((n for n in order if wanted.is_in(free[n])), None)
        if found is None:
            lost.append(line if len(line) <= 200 else f"{line[:200]}…")
        else:
            del free[found]
    if lost:
        return "no assertion of the tests has all the values, and no others, of " + "; ".join(lost[:3])
    return None


@dataclass(frozen=True, slots=True)
class _Found:
    """An assertion of a translation.

    Attributes:
        text: of it and of the set-up before it, back to the assertion before; without comments and escapes.
        numbers: all that are there.
        bare: those outside of strings: there may be no others than were asked for, and lengths.
        statement: its own text, likewise, and without strings where the language has them for nothing else.
        sure: whether a right program is sure to fail it where its expectation is altered: an equality, always reached.
    """

    text: str
    numbers: Counter[Number]
    bare: Counter[Number]
    statement: str
    sure: bool


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What must be found of a Python assertion.

    Attributes:
        numbers, strings: each as often as it is there; of a string that languages write differently, its words.
        holds: whether the function's answer should be true or false; None if it is no bare truth value.
        truths: the words true and false, each as often as it is there, where there are several.
        equality: whether it is the function's answer, and no truth value, that is equal to something.
        longest: length of its longest list, text or table: a translation may have to say lengths.
    """

    numbers: Counter[Number]
    strings: Counter[str]
    holds: bool | None
    truths: Counter[str]
    equality: bool
    longest: int

    @classmethod
    def of(cls, line: str, has_words: bool) -> _Wanted:
        """
        Args:
            line: a Python assertion.
            has_words: whether the other language has words for true and false.
        """
        node = ast.parse(line).body[0]
        if isinstance(node, ast.Assert) and node.msg is not None:  # of the message nothing need be found
            node.msg = None
            line = ast.unparse(node)
        nodes = list(ast.walk(node))
        texts = [_text(n.value) for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str | bytes)]
        lengths = [len(n.elts) for n in nodes if isinstance(n, ast.List | ast.Tuple | ast.Set)]
        lengths += [len(n.keys) for n in nodes if isinstance(n, ast.Dict)]
        strings = Counter(part for text in texts for part in _parts(text))
        bools = [n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, bool)]
        truths = Counter(str(value).lower() for value in bools)
        several = truths if has_words and truths.total() > 1 else Counter[str]()
        holds = _holds(node)
        test = node.test if isinstance(node, ast.Assert) else None
        equality = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is) and holds is None
        longest = max([1, *lengths, *map(len, texts)])
        return cls(_numbers(_plain(line)), strings, holds, several, equality, longest)

    def is_in(self, found: _Found) -> bool:
        if self.numbers - found.numbers or not all(map(self._may_be_added, found.bare - self.numbers)):
            return False
        if any(len(_standing(text).findall(found.text)) < times for text, times in self.strings.items()):
            return False
        if self.truths - Counter(re.findall(r"\b(?:true|false)\b", found.text.lower())):
            return False
        if self.equality and not found.sure and _WEAKER.search(found.statement):
            return False
        if self.holds is False:
            return _FALSE.search(found.statement) is not None
        says_true = re.search(r"(?i)\btrue\b", found.statement) is not None
        return self.holds is None or says_true or _DENIES.search(found.statement) is None

    def _may_be_added(self, number: Number) -> bool:
        if isinstance(number, int):
            return -1 <= number <= self.longest
        return isinstance(number, float) and abs(number) <= _TINY


def _unstyled(name: str) -> str:
    """A name without its language's customs: fooBar, foo_bar and FooBar are one."""
    return name.replace("_", "").lower()


def _names(tests: str, function: str | None) -> set[str]:
    words = set(re.findall(r"[A-Za-z_]\w*", tests))
    return {word for word in words if function and _unstyled(word) == _unstyled(function)}


def _about(root: Node, code: bytes, names: set[str], altered: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where the statements are that assert, of the function itself or of what its result was stored in."""
    called = [
        node.byte_range
        for node in walk(root)
        if node.child_count == 0 and "string" not in node.type and text_of(code, node) in names
    ]
    statements = {_statement(root, *place) for place in (*called, *altered)}
    return sorted((a, b) for a, b in statements if _ASSERTS.search(code[a:b].decode(errors="replace")))


def _found(
    root: Node, code: bytes, start: int, about: Sequence[tuple[int, int]], sure: Sequence[int], quotes: bool
) -> Iterator[_Found]:
    bare = bytearray(code)
    for node in walk(root):
        if "comment" in node.type:
            bare[node.start_byte : node.end_byte] = b" " * (node.end_byte - node.start_byte)
    for first, end in about:
        set_up, statement = (bare[a:b].decode(errors="replace") for a, b in ((start, first), (first, end)))
        # Values in what nobody uses are not asserted.
        bound = _BOUND.findall(_QUOTED.sub("", set_up))
        used = all(len(re.findall(rf"\b{name}\b", set_up + statement)) > bound.count(name) for name in bound)
        text = set_up + statement if used else statement
        yield _Found(
            text=_plain(text),
            numbers=_numbers(_plain(text)),
            bare=_numbers(_plain(_QUOTED.sub('""', text) if quotes else text)),
            statement=_plain(_QUOTED.sub('""', statement) if quotes else statement),
            sure=any(first <= at < end for at in sure),
        )
        start = end


def _is_deep(root: Node) -> bool:
    cursor, depth = root.walk(), 0
    while depth <= _DEEPEST:
        if cursor.goto_first_child():
            depth += 1
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return False
            depth -= 1
    return True


def _statement(root: Node, start: int, end: int) -> tuple[int, int]:
    """The innermost statement around a place."""
    found, cursor, of_a_block = root, root.walk(), True
    # Downwards: tree-sitter looks for a parent from the root on, each time.
    while cursor.goto_first_child_for_byte(start) is not None:
        node = cursor.node
        assert node is not None
        if node.start_byte > start or node.end_byte < end:
            break
        found = node if of_a_block else found
        of_a_block = _BLOCK.search(node.type) is not None
    return found.byte_range


def _plain(code: str) -> str:
    """Code without escapes: of a character that stands for itself it, of others a blank."""
    return _ESCAPE.sub(lambda escape: escape[1] if escape[1] and not escape[1].isalnum() else " ", code)


def _numbers(text: str) -> Counter[Number]:
    return Counter(map(_number, _NUMBER.findall(text)))


def _number(text: str) -> Number:
    """A number whatever way it is written; of fractions six digits, which is what people copy of them."""
    text = text.replace("_", "").replace("'", "")
    try:
        if re.fullmatch(r"-?\d+", text):
            return int(text)
        if re.match(r"-?0[xXbBoO]", text):
            return int(text, 0)
        value = float(f"{float(text):.6g}") if float(text) % 1 else float(text)
        return int(value) if value % 1 == 0 else value
    except (ValueError, OverflowError):  # too long, or infinite
        return text


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")


def _parts(text: str) -> list[str]:
    """A string as all languages write it, or its words where they would not."""
    if re.fullmatch(r"[ !%&()*+,\-./:;<=>?\[\]^_{|}~0-9A-Za-z]+", text):
        return [text]
    return re.findall(r"[0-9A-Za-z]{2,}", text)


def _standing(text: str) -> re.Pattern[str]:
    """A string that is no part of a longer word."""
    before = r"(?<![0-9A-Za-z])" if text[0].isalnum() else ""
    after = r"(?![0-9A-Za-z])" if text[-1].isalnum() else ""
    return re.compile(before + re.escape(text) + after)


def _holds(node: ast.stmt) -> bool | None:
    test = node.test if isinstance(node, ast.Assert) else None
    constants = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, bool)]
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq | ast.Is) and len(constants) == 1:
        sides = [test.left, *test.comparators]
        return constants[0] if any(isinstance(s, ast.Constant) and s.value is constants[0] for s in sides) else None
    if constants:  # among the arguments
        return None
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return False if isinstance(test.operand, ast.Call) else None
    return True if isinstance(test, ast.Call) else None
