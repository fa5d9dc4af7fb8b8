"""Test idioms of the languages that have a ``main``: C, C++, Go, Java and Rust.

A test file's own ``main`` is renamed and called from ours, which prints the nonce after it. A program's ``main``
(models like to add an example) is renamed as well, and never called.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flywheel.errors import DataError
from flywheel.sandbox.languages import entry_of
from flywheel.sandbox.syntax import Edit, edited, parse, parse_errors, text_of, walk

if TYPE_CHECKING:
    from tree_sitter import Node


@dataclass(frozen=True, slots=True)
class Sources:
    """Source files, and which is the entry."""

    files: Mapping[str, str]
    entry: str


@dataclass(frozen=True, slots=True)
class Ending:
    """What stands after the tests.

    Attributes:
        nonce: letters and digits; printed as the last line.
        fails: an assertion that fails stands before it: nobody should get past it.
    """

    nonce: str
    fails: bool = False

    @property
    def halves(self) -> tuple[str, str]:
        middle = len(self.nonce) // 2
        return self.nonce[:middle], self.nonce[middle:]

    def fail(self, statement: str) -> str:
        return statement if self.fails else ""

    def show(self, statement: str) -> str:
        """A statement with calls that print the nonce on a line of its own, one per half."""
        first, second = self.halves
        return "\n".join((statement.replace("{}", f'"\\n{first}"'), statement.replace("{}", f'"{second}\\n"')))


def cpp(program: str, tests: str, ending: Ending) -> Sources:
    headers = "#undef NDEBUG\n#undef assert\n#include <cassert>\n#include <cstdio>\n#include <cstdlib>"
    source = _c_like("cpp", program, tests, ending, headers)
    if _ALL_HEADERS.search(source):  # compiled ahead, which only helps where it is the first
        source = f"#include <bits/stdc++.h>\n{source}"
    return Sources({"main.cpp": source}, "main.cpp")


_ALL_HEADERS = re.compile(r"^\s*#\s*include\s*<bits/stdc\+\+\.h>", re.MULTILINE)


def c(program: str, tests: str, ending: Ending) -> Sources:
    headers = "#undef NDEBUG\n#undef assert\n#include <assert.h>\n#include <stdio.h>\n#include <stdlib.h>\n"
    headers += "#include <string.h>\n#include <stdbool.h>"
    return Sources({"main.c": _c_like("c", program, tests, ending, headers)}, "main.c")


def _c_like(name: str, program: str, tests: str, ending: Ending, headers: str) -> str:
    body, found = _rename_main(name, tests, "flywheel_tests", at_end="return 0;")
    if found is None:
        body = f"int flywheel_tests() {{\n{tests}\nreturn 0;\n}}"
    arguments = "0, 0" if found is not None and re.search(r"main\s*\(\s*(const\s+)?(int|char)", tests) else ""
    last = (
        f"int main() {{\nint code = flywheel_tests({arguments});\nif (code) return code;\n{ending.fail('assert(0);')}"
    )
    return "\n".join((_rename_main(name, program, "flywheel_example")[0], headers, body, last)) + (
        f"\nfflush(0);\n{ending.show('fputs({}, stdout);')}\nfflush(0);\nreturn 0;\n}}\n"
    )


def rust(program: str, tests: str, ending: Ending) -> Sources:
    body, found = _rename_main("rust", tests, "flywheel_tests")
    call = "flywheel_tests();"
    if found is not None and found.child_by_field_name("return_type") is not None:
        call = "flywheel_tests().unwrap();"
    elif found is None and "#[test]" in tests:
        body, call = _rust_tests(tests)
    elif found is None:
        body = f"fn flywheel_tests() {{\n{tests}\n}}"
    last = f"fn main() {{\n{call}\n{ending.fail('assert!(false);')}\n{ending.show('print!({});')}\n}}\n"
    return Sources(
        {"main.rs": "\n".join((_rename_main("rust", program, "flywheel_example")[0], body, last))}, "main.rs"
    )


def _rust_tests(tests: str) -> tuple[str, str]:
    """Test functions made callable from outside their module, and the calls."""
    module = re.search(r"#\[cfg\(test\)\]\s*(?:pub\s+)?mod\s+(\w+)", tests)
    prefix = f"{module.group(1)}::" if module else ""
    names = _RUST_TEST.findall(_C_COMMENT.sub("", tests))
    if not names:
        raise DataError("the Rust tests have no function with #[test] that could be called")
    plain = _RUST_TEST.sub(r"pub fn \1", re.sub(r"#\[cfg\(test\)\]", "", tests))
    return plain, "\n".join(f"{prefix}{name}();" for name in names)


_C_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_RUST_TEST = re.compile(r"#\[test\]\s*(?://[^\n]*\s*|#\[[^\]]*\]\s*)*(?:pub\s+)?fn\s+(\w+)")


def go(program: str, tests: str, ending: Ending) -> Sources:
    program = _go_main_package(_rename_main("go", program, "flywheel_example")[0])
    names = re.findall(r"^func\s+(Test\w*)\s*\(\s*\w+\s+\*testing\.T\s*\)", tests, re.MULTILINE)
    body, found = _rename_main("go", tests, "flywheel_tests")
    if not names and found is None:
        helper = "" if re.search(r"func\s+assert\b", program) or "assert(" not in tests else _GO_ASSERT
        body = _go_imported(f"{helper}\nfunc flywheel_tests() {{\n{tests}\n}}\n")
    if re.search(r"^\s*package\s", body, re.MULTILINE):
        files = {"main.go": program, "tests.go": _go_main_package(body)}
    else:  # the tests live on the program's imports
        files = {"main.go": f"{program}\n{body}"}
    last = _go_testing(names, ending) if names else _go_plain(ending)
    return Sources({**files, "flywheel.go": last}, "main.go")


_GO_PACKAGES = (
    *("fmt", "reflect", "strings", "sort", "math", "errors", "strconv", "bytes", "regexp", "time", "unicode", "os"),
    *("container/heap", "container/list", "crypto/md5", "math/bits", "math/rand", "unicode/utf8"),
)
_GO_WORD = re.compile(r"\w+")
_GO_ASSERT = 'func assert(ok bool) {\n\tif !ok {\n\t\tpanic("assertion failed")\n\t}\n}'


def _go_main_package(source: str) -> str:
    named, times = re.subn(r"^(\s*)package\s+\w+", r"\1package main", source, count=1, flags=re.MULTILINE)
    return named if times else f"package main\n{source}"


def go_imports(sources: Sources) -> Sources:
    """The imports of program and setup put in order.

    HumanEval-X has a ``test_setup`` and imports of its own above the program, so package and imports come twice, and
    answers cannot add to them; Go refuses repeated, unused and missing imports alike.
    """
    return Sources({**sources.files, "main.go": _go_imported(sources.files["main.go"])}, sources.entry)


def _go_imported(source: str) -> str:
    """A source with one package clause, and the imports that it uses: of those it has, and of usual ones."""
    code = source.encode(errors="replace")
    root = parse("go", code).root_node
    heads = [node for node in root.children if node.type in ("package_clause", "import_declaration")]
    given = [text_of(code, node) for head in heads for node in walk(head) if node.type == "import_spec"]
    body = edited(source, [Edit(head.start_byte, head.end_byte, b"") for head in heads])
    used, own = _go_names(code, root)
    known = {_go_name(spec) for spec in given}
    more = [f'"{path}"' for path in _GO_PACKAGES if _go_name(path) in used - known - own]
    imports = [spec for spec in dict.fromkeys(given) if _go_name(spec) in used | {"_", "."}] + more
    return "\n".join(["package main", *(f"import {spec}" for spec in imports), body])


def _go_names(code: bytes, root: Node) -> tuple[set[str], set[str]]:
    """The names before a dot, and those of variables and parameters."""
    used, own = set(), set()
    for node in walk(root):
        if node.type in ("selector_expression", "qualified_type"):
            used.add(text_of(code, node.children[0]))
        elif node.type in ("short_var_declaration", "range_clause", "var_spec", "parameter_declaration"):
            names = node.child_by_field_name("left") or node.child_by_field_name("name")
            own |= set(_GO_WORD.findall(text_of(code, names))) if names is not None else set()
    return used, own


def _go_name(spec: str) -> str:
    """What an import is called in the source: its alias, or the last part of its path."""
    alias, _, path = spec.rpartition(" ")
    return alias.strip() or path.strip('"`').split("/")[-1]


def _go_plain(ending: Ending) -> str:
    fail = ending.fail('panic("the end")')
    show = ending.show("os.Stdout.WriteString({})")
    return f'package main\n\nimport "os"\n\nfunc main() {{\nflywheel_tests()\n{fail}\n{show}\n}}\n'


def _go_testing(names: list[str], ending: Ending) -> str:
    runs = "\n".join(f't.Run("{name}", {name})' for name in names)
    return f"""package main

import (
	"os"
	"testing"
)

func main() {{
	match := func(string, string) (bool, error) {{ return true, nil }}
	testing.Main(match, []testing.InternalTest{{{{"Flywheel", func(t *testing.T) {{
		t.Run("Tests", func(t *testing.T) {{
			{runs}
		}})
		if t.Failed() {{
			return
		}}
		{ending.fail("t.FailNow()")}
		{ending.show("os.Stdout.WriteString({})")}
		os.Exit(0)
	}}}}}}, nil, nil)
	os.Exit(1)
}}
"""


def java(program: str, tests: str, ending: Ending) -> Sources:
    program, tests = (re.sub(r"^\s*package\s+[\w.]+\s*;", "", part, flags=re.MULTILINE) for part in (program, tests))
    if not re.search(r"\bstatic\s+void\s+main\b", tests):
        tests = _java_statements(program, tests)
    if parse_errors("java", program) or parse_errors("java", tests) or not re.search(r"\bclass\s", tests):
        joined = f"{program}\n{tests}"  # the tests go on with the program's last class
        files = {entry_of("java", joined): joined}
        main = _class_of_main(joined)
    else:
        mine, theirs = entry_of("java", program), entry_of("java", tests)
        imports = [line for line in _JAVA_IMPORT.findall(program) if line not in tests]
        if mine == theirs:  # a file can only be called after a public class
            mine = "FlywheelProgram.java" if re.search(r"\bpublic\s+class\b", tests) else mine
            theirs = "FlywheelTests.java" if mine == theirs else theirs
        files = {mine: program, theirs: "\n".join([*imports, tests])}
        main = _class_of_main(tests)
    show = ending.show("out.write({}.getBytes());")
    last = f"""
public class FlywheelMain {{
    public static void main(String[] arguments) throws Throwable {{
        {main}.main(new String[0]);
        {ending.fail("assert false;")}
        java.io.OutputStream out = new java.io.FileOutputStream(java.io.FileDescriptor.out);
        System.out.flush();
        {show}
        out.flush();
        Runtime.getRuntime().halt(0);
    }}
}}
"""
    return Sources({**files, "FlywheelMain.java": last}, "FlywheelMain.java")


_JAVA_IMPORT = re.compile(r"^\s*import\s+[^;]+;", re.MULTILINE)
"""Tests are often written to stand below the program, and live on its imports."""


def _java_statements(program: str, tests: str) -> str:
    """Statements as a class with a ``main``; it inherits the program's class, so that bare names are found."""
    found = re.search(r"^\s*(?:public\s+)?class\s+(\w+)(?!\s*<)", program, re.MULTILINE)
    heir = f" extends {found.group(1)}" if found else ""
    return (
        "import java.util.*;\nimport java.util.stream.*;\n"
        f"public class FlywheelTests{heir} {{\npublic static void main(String[] arguments) throws Throwable {{\n"
        f"{tests}\n}}\n}}\n"
    )


def _class_of_main(source: str) -> str:
    """The last class that has a ``static void main``."""
    code = source.encode(errors="replace")
    name = "Main"
    for node in walk(parse("java", code).root_node):
        if node.type != "method_declaration" or _name(code, node) != "main":
            continue
        around = node.parent
        while around is not None and around.type != "class_declaration":
            around = around.parent
        if around is not None:
            name = _name(code, around)
    return name


def _name(code: bytes, node: Node) -> str:
    field = node.child_by_field_name("name")
    return "" if field is None else text_of(code, field)


def _rename_main(name: str, source: str, new: str, at_end: str = "") -> tuple[str, Node | None]:
    """A source whose ``main`` is called something else, and that function's node; None if it has no ``main``.

    Args:
        at_end: a statement to add to it: flowing off the end is allowed to ``main`` alone.
    """
    code = source.encode(errors="replace")
    for node in walk(parse(name, code).root_node):
        if node.type not in ("function_definition", "function_item", "function_declaration"):
            continue
        field = node.child_by_field_name("name") or node.child_by_field_name("declarator")
        if field is not None and field.type == "function_declarator":
            field = field.child_by_field_name("declarator")
        if field is None or text_of(code, field) != "main":
            continue
        edits = [Edit(field.start_byte, field.end_byte, new.encode())]
        if at_end:
            edits.append(Edit(node.end_byte - 1, node.end_byte, f"{at_end}\n}}".encode()))
        return edited(source, edits), node
    return source, None
