"""Tests with altered expectations: what a right program must fail.

A test file runs in the same process as the program that it tests, so a program can skip it, patch its assertions or
answer "equal" to every comparison. Such a program passes altered tests as well; an honest one fails them. Assertions
are found by tree-sitter, in every language in the same way:

- a comparison (``f(2) == 5``, ``[[ $(f 2) = 5 ]]``) or a call that compares (``assert_eq!(f(2), 5)``,
  ``expect(f(2)).toEqual([5])``) with the program's result on one side: a literal of the other side is changed;
- a table's ``expected: 5``: the same;
- what the program's result was stored in (``got = f(2)``) counts as the program;
- an assertion without a comparison, ``assert(is_prime(7))``: it is negated.

An alteration is *sure* if a right program must fail it: a plain literal becomes another, the comparison is all that is
asserted, and it stands where every run of the tests comes by. The last of those is altered, and nothing before it: a
program that is right for the first assertions, and forges from some call on, forges by then, and has seen nothing yet
that tells this run from the true one. In a second run it is one by a draw, for who forges in between.

Only tests are read here, and whole: the program under test has no part in what is altered but for the names it defines.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flywheel.sandbox.checks import Which
from flywheel.sandbox.languages import language
from flywheel.sandbox.syntax import Edit, edited, opening_of, parse, text_of, walk

if TYPE_CHECKING:
    from tree_sitter import Node

_EQUAL = {"==", "===", "eq", "is", "IS", "-eq", "="}
_UNEQUAL = {"!=", "!==", "ne", "<>", "~=", "-ne"}
_COMPARES = re.compile(r"(?i)equal|^assert_?eq$|^equals?$|^is$|is_deeply|eq_deeply|same|^eql$|^tobe$|^cmp_ok$")
_NOT = re.compile(r"(?i)not|unequal|isnt|_ne$")
_ASSERTS = re.compile(r"(?i)^(assert|ok|check|require|assert_?true|assert_?that|test)$")
_EXPECTED = re.compile(r"(?i)^[\"':$]*(expected|expect|want|wanted|exp|output|answer)[\"':]*$")
_NUMBER = re.compile(r"^(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO][0-7]+|\d[\d_]*)(.*)$", re.DOTALL)
_BASES: dict[str, tuple[int, Callable[[int], str]]] = {"0x": (16, hex), "0b": (2, bin), "0o": (8, oct)}
_EDGES = {2**n - 1 for n in (7, 8, 15, 16, 31, 32, 63, 64)}
_BLOCK = re.compile(r"block|body|compound_statement|^program|source_file")
_CONDITION = re.compile(r"^if|^unless|conditional")
_BRANCHES = re.compile(r"for|while|until|loop|repeat|switch|case|match|when|select_statement|try|catch|rescue|ternary")
_FUNCTION = re.compile(r"func|method_decl|^method$|lambda|closure|arrow|subroutine|constructor")
_FAILS = re.compile(r"(?i)throw|panic|exit|raise|die|abort|fail|fatal|error")
_ASSERTING = re.compile(r"(?i)assert|expect|^is$|^is_deeply$|^ok$|\basList$")
STRING = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_PLAIN = re.compile(
    r"(?:[\s.,:;()\[\]{}\-@]|=>|->|(?<=vec)!|(?<=[a-z])<|>(?=[({>])|(?<![\w.])\d{1,6}(?:\.\d{1,6})?[lLfFdDuU]*(?![\w.])"
    r"|\b(?:true|false|null|nil|None|undef|True|False|NULL|long|int|double|float|char|string|std|vector|List|Arrays|asList"
    r"|of|new|vec|Some|Ok|String|from|to_string|to_owned|array|Integer|Long|int32|int64|float64)\b)*"
)
"""What remains of a literal without its strings: numbers that every type holds exactly, and types. No operator."""
_BINDS = re.compile(r"assign|declarat|let_")
_TYPE = re.compile(r"^(array_type|template_argument_list|type_arguments|type_descriptor)$")
_WORD = re.compile(r"(?<!\w)[A-Za-z_]\w*[!?]?")
_BOOLS = {"true": "false", "false": "true", "True": "False", "False": "True", "TRUE": "FALSE", "FALSE": "TRUE"}
_NOTHING = {
    "null": "424243",
    "undefined": "424243",
    "nil": "424243",
    "None": "424243",
    "undef": "424243",
    "NULL": "424243",
}
_DYNAMIC = {"python", "javascript", "php", "ruby", "lua", "perl", "sql"}
_NEGATION = {"python": "not ({})", "lua": "not ({})", "sql": "NOT ({})", "bash": ""}


def alterations(name: str, tests: str, under_test: Iterable[str] = ()) -> list[Alteration]:
    """One alteration per assertion that can be altered, in the order of the text.

    Args:
        name: the language.
        tests: source of the tests alone.
        under_test: names of the functions and classes that are tested; "candidate" always counts.
    """
    tongue, given, opening = language(name).name, tests.encode(errors="replace"), opening_of(name, tests)
    starts = rb"(?:\A|;)" if b";" in given else rb"(?m:^)"
    bare = [m.end() for m in re.finditer(starts + _BARE_SQL, given, re.IGNORECASE)] if tongue == "sql" else []
    code = opening + edited(given.decode(), [Edit(at, at, _SELECT) for at in bare]).encode()
    found = _Reader(tongue, code, parse(name, code).root_node, {*under_test, "candidate"}).read()

    def back(at: int) -> int:
        """Where it is in the tests."""
        at -= len(opening)
        for insertion in bare:
            at -= len(_SELECT) * (at > insertion)
        return at

    return [replace(edit, start=back(edit.start), end=back(edit.end)) for edit in found]


_SELECT = b"SELECT "
_BARE_SQL = rb"\s*(?=[^\s;/-])(?!(?:SELECT|WITH|VALUES)\b)"
"""Before an expression that stands where only a statement would parse."""


def poisoned(name: str, tests: str, under_test: Iterable[str], which: Which, nonce: str) -> tuple[str, int, bool]:
    """Tests with some expectations altered, how many, and whether a right program is sure to fail; 0 if none can be.

    Args:
        which: see there. Where no alteration is sure, all from a random assertion on are altered, and at least two.
        nonce: decides what is random; the program under test must not know it.
    """
    found = alterations(name, tests, under_test)
    sure = [number for number, change in enumerate(found) if change.sure]
    if which != "all" and sure:
        chosen = random.Random(nonce).choice(sure) if which == "one" else sure[-1]
        return edited(tests, [found[chosen]]), 1, True
    first = random.Random(nonce).randrange(max(1, len(found) - 1)) if which != "all" else 0
    return edited(tests, found[first:]), len(found) - first, not found


def defined(name: str, program: str, tests: str) -> set[str]:
    """Names of the functions, methods and classes that a program defines.

    Those within its functions count if tests call them, or use no others: ``i`` is a variable of many tests, too.
    """
    code = opening_of(name, program) + program.encode(errors="replace")
    outer: set[str] = set()
    inner: set[str] = set()
    within = 0
    for node in walk(parse(name, code).root_node):
        inside = node.start_byte < within
        if _DEFINES.search(node.type):
            for field in ("name", "declarator", "left"):
                child = node.child_by_field_name(field)
                if child is not None and child.end_byte - child.start_byte < 80:
                    last = re.findall(r"[A-Za-z_]\w*", text_of(code, child).split("(")[0])
                    (inner if inside else outer).update(last[-1:])
        body = node.child_by_field_name("body") if _HAS_LOCALS.search(node.type) else None
        if body is not None or "parameter" in node.type:
            within = max(within, (body or node).end_byte)
    if outer.isdisjoint(_WORD.findall(tests)):
        return outer | inner
    return outer | {name for name in inner if re.search(rf"\b{name}\s*\(", tests)}


_DEFINES = re.compile(r"function|method|class|struct|subroutine|impl|declarator|assignment")
_HAS_LOCALS = re.compile(r"func|method|arrow|lambda|closure|subroutine|constructor")


@dataclass(frozen=True, slots=True)
class Alteration(Edit):
    """An altered expectation.

    Attributes:
        sure: whether a program that is right must fail it.
    """

    sure: bool = False


@dataclass(frozen=True, slots=True)
class _Reader:
    """Finds the assertions of one test file."""

    name: str
    code: bytes
    root: Node
    under_test: set[str]

    def read(self) -> list[Alteration]:
        for node in walk(self.root):
            self.follow(node)
        found: list[Alteration] = []
        truths: list[Alteration] = []
        altered: set[int] = set()
        for node in walk(self.root):
            if self.within(node, altered):  # a second alteration would undo the first: `equal(true, same(f(2), 5))`
                continue
            change = self.comparison(node) or self.call(node) or self.keyed(node)
            if change is not None:
                found.append(replace(change, sure=change.sure and self.is_asserted(node) and self.is_reached(node)))
                altered.add(node.id)
            else:
                truths += self.truth(node)
        # An assertion around an alteration that was found already needs no negation.
        free = [t for t in truths if not any(t.start <= f.start < t.end for f in found)]
        return sorted(found + free, key=lambda change: change.start)

    def within(self, node: Node, altered: set[int]) -> bool:
        """Whether a node is part of an expression that is altered already."""
        around = node.parent
        while altered and around is not None and not _BLOCK.search(around.type):
            if around.id in altered:
                return True
            around = around.parent
        return False

    def follow(self, node: Node) -> None:
        """``got = f(2)``: what is said of ``got`` from here on is said of the program."""
        signs = [c for c in node.children if c.type in ("=", ":=")]
        if not _BINDS.search(node.type) or not signs or not self.mentions(signs[0].end_byte, node.end_byte):
            return
        left = self.code[node.start_byte : signs[0].start_byte].decode(errors="replace")
        # In a typed declaration the name comes last; otherwise there may be several.
        names = _WORD.findall(left.split(":")[0])
        self.under_test.update(names if "," in left else names[-1:])

    def comparison(self, node: Node) -> Alteration | None:
        """``left == right``; an inequality counts where it is a condition that leads to a failure."""
        if node.child_count != 3 or not re.search(r"binary|comparison|equality", node.type):
            return None
        operator = text_of(self.code, node.children[1])
        if operator not in _EQUAL | _UNEQUAL or (operator == "=" and self.name not in ("bash", "sql")):
            return None
        condition, negated = self.surroundings(node)
        if not condition and negated != (operator in _UNEQUAL):
            return None
        left, right = node.children[0], node.children[2]
        change = self.expected_of((left.start_byte, left.end_byte), (right.start_byte, right.end_byte))
        if change is None or operator not in ("==", "!="):
            return change
        # `true == 5`, and 6; and numerically all words are equal.
        loose = self.name == "php" or (self.name == "perl" and change.text[-1:] in b"'\"")
        return replace(change, sure=change.sure and not loose)

    def call(self, node: Node) -> Alteration | None:
        """``assert_equal(expected, actual)``, ``actual.equals(expected)``, ``expect(actual).toEqual(expected)``."""
        if not re.search(r"call|invocation", node.type):
            return None
        name, arguments = self.parts(node)
        if name in self.under_test:
            return None
        if arguments is not None and _ASSERTS.match(name):
            return self.macro(arguments)
        if arguments is None or not _COMPARES.search(name) or _NOT.search(name) or self.surroundings(node)[1]:
            return None
        given = self.split(arguments)
        if len(given) == 1:
            before = (node.start_byte, arguments.start_byte)
            return self.literal_in(*given[0]) if self.mentions(*before) else None
        if len(given) < 2:
            return None
        first, second = given[:2]
        mention = self.mentions(*first), self.mentions(*second)
        if mention not in ((True, False), (False, True)):
            return None
        change = self.literal_in(*(second if mention[0] else first))
        # What comes third may be a tolerance that is wide enough for both.
        message = all(self.code[a:b].strip()[-1:] in b"'\"`" for a, b in given[2:])
        return change and replace(change, sure=change.sure and message)

    def keyed(self, node: Node) -> Alteration | None:
        """``expected: 5`` in a table of cases, or ``expected = 5``."""
        if node.named_child_count < 2 or not re.search(r"pair|keyed|element_init|field|assignment|declarat", node.type):
            return None
        key, value = node.named_children[0], node.named_children[-1]
        if not _EXPECTED.match(text_of(self.code, key)) or self.mentions(value.start_byte, value.end_byte):
            return None
        change = self.literal_in(value.start_byte, value.end_byte)
        return change and replace(change, sure=False)  # whether anybody looks at it is not to be seen

    def truth(self, node: Node) -> list[Alteration]:
        """``assert(f(7))``: negated as a whole, where the language has a "not" that goes around anything."""
        around = _NEGATION.get(self.name, "!({})")
        if not around:
            return []
        if node.type == "assert_statement" and node.named_children:
            span = node.named_children[0].start_byte, node.named_children[0].end_byte
        elif re.search(r"call|invocation", node.type):
            name, arguments = self.parts(node)
            asserts = _ASSERTS.match(name) and name not in self.under_test
            given = self.split(arguments) if arguments is not None and asserts else []
            if not given:
                return []
            span = given[0]
        else:
            return []
        if not self.mentions(*span):
            return []
        text = self.code[slice(*span)].decode(errors="replace")
        return [Alteration(*span, around.format(text).encode())]

    def macro(self, arguments: Node) -> Alteration | None:
        """``assert!(left == right)`` in Rust, where a macro's arguments are bare tokens."""
        signs = [c for c in arguments.children if c.type == "=="]
        if arguments.type != "token_tree" or len(signs) != 1:
            return None
        left, right = (arguments.start_byte + 1, signs[0].start_byte), (signs[0].end_byte, arguments.end_byte - 1)
        return self.expected_of(left, right)

    def expected_of(self, left: tuple[int, int], right: tuple[int, int]) -> Alteration | None:
        here, there = self.mentions(*left), self.mentions(*right)
        return None if here == there else self.literal_in(*(right if here else left))

    def literal_in(self, start: int, end: int) -> Alteration | None:
        """The first literal of a stretch that can be changed; sure if the stretch is nothing but literals."""
        top = self.root.descendant_for_byte_range(start, end)
        for node in walk(top if top is not None else self.root):
            inner = node.named_children[0] if node.named_child_count == 1 else None
            wraps = inner is not None and inner.byte_range == node.byte_range  # Go's `literal_element`
            if node.start_byte < start or node.end_byte > end or wraps or _in_type(node):
                continue
            changed = _changed(self.name, node, text_of(self.code, node))
            if changed is not None:
                plain = _PLAIN.fullmatch(STRING.sub("", self.code[start:end].decode(errors="replace"))) is not None
                return Alteration(node.start_byte, node.end_byte, changed.encode(), plain)
        return None

    def is_asserted(self, node: Node) -> bool:
        """Whether a comparison is all that is asserted: nothing but "and" and "not" between it and its assertion."""
        at: Node | None = node
        while at is not None and not _BLOCK.search(at.type):
            if at.type == "assert_statement":
                return True
            if self.name == "bash" and at.type == "test_command":
                return self.ends_the_script(at)
            if self.name == "sql" and re.search("where|subquery|exists|join", at.type):
                return False
            if self.name == "sql" and at.type in ("select_expression", "term"):
                return True
            if _CONDITION.search(at.type):
                holds = at.child_by_field_name("condition")
                inside = holds is not None and holds.start_byte <= node.start_byte and node.end_byte <= holds.end_byte
                return inside and _FAILS.search(STRING.sub("", text_of(self.code, at))) is not None
            if re.search(r"call|invocation", at.type):
                name, arguments = self.parts(at)
                before = self.code[at.start_byte : arguments.start_byte].rstrip(b"( ") if arguments is not None else b""
                if _ASSERTS.match(name) or _ASSERTING.search(before.decode(errors="replace")):
                    return True
            elif at is not node and at.child_count == 3 and re.search(r"binary|boolean|logical|comparison", at.type):
                if text_of(self.code, at.children[1]) not in ("&&", "and", "AND"):
                    return False
            elif _BRANCHES.search(at.type):
                return False
            at = at.parent
        return False

    def ends_the_script(self, test: Node) -> bool:
        """Of Bash, which stops at a command that fails, but not in a condition or with something in its place."""
        at = test
        while at.parent is not None and not _BLOCK.search(at.parent.type):
            inside, at = at, at.parent
            if at.type == "list":
                left, right = at.children[0], at.children[-1]
                text = STRING.sub("", text_of(self.code, right))
                if inside == left and not ("||" in map(_type, at.children) and re.search(r"exit|return|false", text)):
                    return False
            elif re.search(r"if_statement|while|for_|case|until|elif", at.type):
                return False
        return True

    def is_reached(self, node: Node) -> bool:
        """Whether every run of the tests comes by a statement, as far as that can be seen."""
        at = node
        while at.parent is not None:
            inside, at = at, at.parent
            if _CONDITION.search(at.type) and inside != at.child_by_field_name("condition"):
                return False
            if _BRANCHES.search(at.type) or (self.name == "ruby" and at.type in ("block", "do_block")):
                return False
            if _FUNCTION.search(at.type) and "call" not in at.type and not self.is_called(at):
                return False
        return True

    def is_called(self, function: Node) -> bool:
        """Whether somebody calls a function of the tests: the tests themselves, or who runs them."""
        named = function.child_by_field_name("name") or function.child_by_field_name("declarator")
        if named is None and function.parent is not None:  # `const test = () => …`
            named = function.parent.child_by_field_name("name")
        found = _WORD.findall(text_of(self.code, named).split("(")[0]) if named is not None else []
        if not found:
            return False
        name = found[-1]
        before = self.code[: function.start_byte].decode(errors="replace").rstrip()
        run = re.match(r"(?i)main$|test", name) or re.search(r"#\[test\]\s*(#\[[^\]]*\]\s*)*(pub)?$", before)
        return run is not None or len(re.findall(rf"\b{re.escape(name)}\b", self.code.decode(errors="replace"))) > 1

    def surroundings(self, node: Node) -> tuple[bool, bool]:
        """Whether a node is part of an ``if``'s condition, and whether a "not" stands before it."""
        negated = False
        around = node.parent
        while around is not None and not _BLOCK.search(around.type):
            if _CONDITION.search(around.type):
                return True, negated
            first = text_of(self.code, around.children[0])
            negated ^= around.child_count == 2 and first in ("!", "not", "NOT")
            around = around.parent
        return False, negated

    def parts(self, node: Node) -> tuple[str, Node | None]:
        """A call's name (the last part of a dotted one), and the node that holds its arguments."""
        holds = [c for c in node.named_children if re.search(r"argument|token_tree|list_expression", c.type)]
        if not holds:
            return "", None
        before = self.code[node.start_byte : holds[-1].start_byte].decode(errors="replace")
        names = re.findall(r"[A-Za-z_]\w*", before)
        return (names[-1] if names else ""), holds[-1]

    def split(self, arguments: Node) -> list[tuple[int, int]]:
        """The arguments as byte ranges: what stands between commas."""
        children = [c for c in arguments.children if c.type not in ("(", ")", "[", "]", "{", "}")]
        ranges: list[tuple[int, int]] = []
        start = None
        for child in children:
            if child.type == ",":
                start = None
            elif start is None:
                start = child.start_byte
                ranges.append((start, child.end_byte))
            else:
                ranges[-1] = (start, child.end_byte)
        return ranges

    def mentions(self, start: int, end: int) -> bool:
        text = self.code[start:end].decode(errors="replace")
        if self.name == "sql":  # whatever is no literal comes from the program's tables
            return re.search(r"[A-Za-z_]", re.sub(r"'[^']*'", "", text)) is not None
        return not self.under_test.isdisjoint(_WORD.findall(text))


def _type(node: Node) -> str:
    return node.type


def _in_type(node: Node) -> bool:
    """Whether a node is part of a type, like the 3 in Go's ``[3]int{1, 2, 3}``: changed, it would not compile."""
    around = node.parent
    for _ in range(3):
        if around is None:
            return False
        if _TYPE.search(around.type):
            return True
        around = around.parent
    return False


def _changed(name: str, node: Node, text: str) -> str | None:
    """Another literal of the same type; None for what is no literal."""
    if text in _BOOLS and "string" not in node.type:
        return _BOOLS[text]
    if text in _NOTHING and name in _DYNAMIC and "string" not in node.type:
        return _NOTHING[text]
    if re.search(r"char|rune", node.type) and text.startswith("'"):
        return "'z'" if text != "'z'" else "'y'"
    if re.search(r"string|literal", node.type) and text[-1:] in "'\"`" and len(text) > 1:
        return _other_string(node, text)
    if re.search(r"num|int|float|literal|word", node.type) and (match := _NUMBER.match(text)):
        return _other_number(match)
    return None


def _other_string(node: Node, text: str) -> str | None:
    if any(re.search(r"interpol|substitution|expansion", child.type) for child in node.children):
        return None
    # At the end: prefixes, raw strings and byte-order marks are at the front.
    return f"{text[:-1]}~{text[-1]}"


def _other_number(match: re.Match[str]) -> str:
    digits, rest = match.groups()
    base, write = _BASES.get(digits[:2].lower(), (10, str))
    value = int(digits.replace("_", ""), base)
    return f"{write(value + (-1 if value in _EDGES else 1))}{rest}"
