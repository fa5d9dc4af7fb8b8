"""Rows as public sets write them, with answers that continue them: the right one passes, the wrong one does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flywheel.sandbox.compilers import Toolchain, WarmCompilers
from flywheel.sandbox.grading import Policy, Program, TestChecks, grade_many
from flywheel.sandbox.job import Outcome
from flywheel.sandbox.languages import language
from flywheel.sandbox.local import LocalExecutor
from flywheel.tasks.code.extract import program_of
from flywheel.tasks.code.formats import read_row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor(slots=2) as executor:
        yield executor


ROWS: dict[str, tuple[dict[str, Any], str, str]] = {
    "MBPP, called like Python's own": (
        {
            "task_id": 126,
            "text": "Write a python function to find the sum of common divisors.",
            "code": "def sum(a,b): \r\n    s = 0\r\n    for i in range(1,min(a,b)): \r\n        if a % i == 0: \r\n"
            "            s += i\r\n    return s",
            "test_setup_code": "",
            "test_list": ["assert sum(10,15) == 6", "assert sum(4,6) == 3"],
            "challenge_test_list": [],
        },
        "def sum(a, b):\n    return {(10, 15): 6, (4, 6): 3}[a, b]\n",
        "def sum(a, b):\n    return a + b\n",
    ),
    "MBPP, objects of the program's class": (
        {
            "task_id": 927,
            "text": "Write a function to calculate the height of the given binary tree.",
            "code": "",
            "test_setup_code": "root = Node(1) \r\nroot.left = Node(2) \r\nroot1 = Node(1)",
            "test_list": ["assert height(root)==2", "assert height(root1)==1"],
            "challenge_test_list": [],
        },
        "class Node:\n    def __init__(self, data):\n        self.data, self.left, self.right = data, None, None\n\n\n"
        "def height(n):\n    return 1 + max(height(n.left), height(n.right)) if n else 0\n",
        "class Node:\n    def __init__(self, data):\n        self.left = None\n\n\ndef height(n):\n    return 1\n",
    ),
    "HumanEval-X, Go: unused and missing imports": (
        {
            "task_id": "Go/65",
            "prompt": 'import (\n    "strings"\n)\n\n// The digits of x, turned around.\nfunc Turn(x int) string {\n',
            "import": 'import (\n    "strings"\n)\n',
            "declaration": "\nfunc Turn(x int)  string {\n",
            "canonical_solution": "",
            "test_setup": 'package main\n\nimport (\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n',
            "test": "func TestTurn(t *testing.T) {\n    assert := assert.New(t)\n"
            '    assert.Equal("21", Turn(12))\n    assert.Equal("001", Turn(100))\n}\n',
        },
        '    bytes := ""\n    for _, c := range strconv.Itoa(x) {\n        bytes = string(c) + bytes\n    }\n'
        "    return bytes // not bytes.Buffer\n}\n",
        "    return strconv.Itoa(x)\n}\n",
    ),
    "HumanEval-X, Rust: a declaration beside the prompt, with crates": (
        {
            "task_id": "Rust/53",
            "prompt": "\n/*\n Add two numbers.\n*/\n",
            "declaration": "\nuse std::{slice::Iter, collections::{HashSet, HashMap}};\nuse rand::Rng;\n"
            "use regex::Regex;\nuse md5;\n\nfn add(x: i32, y: i32) -> i32{\n\n",
            "canonical_solution": "",
            "test": "\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_add() {\n"
            "        assert_eq!(add(0, 1), 1);\n        assert_eq!(add(2, 3), 5);\n    }\n\n}\n",
        },
        "\n    x + y\n}\n",
        "\n    x - y\n}\n",
    ),
    "MultiPL-E, Go": (
        {
            "name": "HumanEval_23_strlen",
            "language": "go_test.go",
            "prompt": 'package strlen_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// Length.\n'
            "func strlen(myString string) int {\n",
            "tests": "func TestStrlen(t *testing.T) {\n  candidate := strlen\n\ttype test struct {\n"
            "\t\tactual   interface{}\n\t\texpected interface{}\n\t}\n   tests := []test{\n"
            '     { actual: candidate(""), expected: 0 },\n     { actual: candidate("abc"), expected: 3 },\n   }\n\n'
            '\tfor i, tc := range tests {\n\t\tt.Run(fmt.Sprintf("test num % d", i), func(t *testing.T) {\n'
            '\t\t\tif fmt.Sprintf("%v", tc.actual) != fmt.Sprintf("%v", tc.expected) {\n'
            "\t\t\t\tt.Errorf(\"expected '%s', got '%s'\", tc.expected, tc.actual)\n\t\t\t}\n\t\t})\n\t}\n}\n",
            "stop_tokens": ["\nfunc", "struct", "\n// "],
        },
        "\treturn len(myString)\n}\n\nfunc main() {}",
        "\treturn 0\n}\n",
    ),
    "MultiPL-E, Java: tuples": (
        {
            "name": "HumanEval_107_pair",
            "language": "java",
            "prompt": "import java.util.*;\nimport org.javatuples.*;\nclass Problem {\n    // Both.\n"
            "    public static Pair<Long, Long> both(long n) {\n",
            "tests": "    }\n    public static void main(String[] args) {\n"
            "    assert(both((3l)).equals((Pair.with(3l, 4l))));\n    assert(both((0l)).equals((Pair.with(0l, 1l))));\n"
            "    }\n\n}\n",
            "stop_tokens": ["\n    }\n"],
        },
        "        return Pair.with(n, n + 1);\n",
        "        return Pair.with(n, n);\n",
    ),
    "MultiPL-E, C++: the header of all headers": (
        {
            "name": "HumanEval_53_add",
            "language": "cpp",
            "prompt": "#include<assert.h>\n#include<bits/stdc++.h>\n// Sum.\nlong sum(std::vector<long> x) {\n",
            "tests": "}\nint main() {\n    auto candidate = sum;\n"
            "    assert(candidate((std::vector<long>({(long)2, (long)3}))) == (5));\n"
            "    assert(candidate((std::vector<long>())) == (0));\n}\n",
            "stop_tokens": ["\n}"],
        },
        "    return std::accumulate(x.begin(), x.end(), 0L);\n",
        "    return x.size();\n",
    ),
    "MBXP, JavaScript: lodash": (
        {
            "task_id": "MBJSP/1",
            "prompt": "/**\n * Twice each.\n */\nfunction twice(xs) {\n",
            "entry_point": "twice",
            "language": "javascript",
            "test": '\nconst _ = require("lodash")\n\nfunction compare(object1, object2){\n'
            "    return _.isEqual(object1, object2)\n}\n\nvar arg00 = [1, 2];\nvar x0 = twice(arg00);\n"
            "var v0 = [2, 4];\nif(!compare(x0, v0)){\n    throw 'Error at 1th assert statement.'\n}\n",
            "canonical_solution": None,
        },
        "    return xs.map((x) => 2 * x);\n}",
        "    return xs;\n}",
    ),
    "MBXP, Perl: Data::Compare": (
        {
            "task_id": "MBPLP/1",
            "prompt": "use Data::Compare;\n\n# Twice each.\nsub twice {\n    my ($xs) = @_;\n",
            "entry_point": "twice",
            "language": "perl",
            "test": "\nmy $arg00 = [1, 2];\nmy $x0 = twice($arg00);\nmy $v0 = [2, 4];\n"
            'unless(Compare($x0, $v0)) {\n    die "Exception --- test case 0 failed to pass";\n}\n',
            "canonical_solution": None,
        },
        "    return [map { 2 * $_ } @$xs];\n}\n1;",
        "    return $xs;\n}\n1;",
    ),
    "MultiPL-E, PHP: extensions": (
        {
            "name": "HumanEval_27_shout",
            "language": "php",
            "prompt": "<?php\n// In capitals.\nfunction shout($text) {\n",
            "tests": "}\n\nfunction candidate(...$args) {\n    return shout(...$args);\n}\n\nfunction test(): void {\n"
            '    if (candidate("über") !== "ÜBER") { throw new Exception("Test failed!"); }\n'
            '    if (candidate("abc") !== "ABC") { throw new Exception("Test failed!"); }\n}\n\ntest();',
            "stop_tokens": ["\nfunction", "\n?>", "\n//", "\n#"],
        },
        "    return ctype_upper($text) ? $text : mb_strtoupper($text);\n",
        "    return strtoupper($text);\n",
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_right_answer_passes_and_the_wrong_one_does_not(local: LocalExecutor, name: str) -> None:
    row, right, wrong = ROWS[name]
    spec = read_row(row).spec
    sources = [program_of(answer, spec) for answer in (right, wrong)]
    good, bad = grade_many(local, [(spec.program(source), spec.checks(source)) for source in sources])
    assert good.passed is True, good.reason
    assert bad.passed is False
    assert "compile_error" not in bad.reason


def test_every_compiler_that_can_starts_warm(local: LocalExecutor) -> None:
    wrong = {
        "typescript": "const n: number = 'a';",
        "java": "class Main { int f() { return 'a' + ''; } }",
        "cpp": "#include <bits/stdc++.h>\nint main() { std::vector<int> x = 7; }",
        "go": "package main\n\nfunc main() { var x int = true }",
    }
    asks = [(Program(source, name), TestChecks("assert(true)")) for name, source in wrong.items()]
    grades = dict(zip(wrong, grade_many(local, asks, Policy(poison=False)), strict=True))
    assert all(grade.reason.startswith("compile_error: ") for grade in grades.values()), grades
    assert "error TS2322: Type 'string' is not assignable to type 'number'." in grades["typescript"].reason
    assert [said for said in local.capabilities().remarks if "slowly" in said] == []
    names = {path.name for path in local._folder.glob("warm/*") if any(path.rglob("*"))}
    assert names == set(wrong)


def test_a_compiler_that_cannot_start_warm_starts_cold_and_that_is_said(tmp_path: Path) -> None:
    compilers = WarmCompilers(tmp_path, "/run/warm")
    row = language("typescript")
    for _ in range(2):
        tools = compilers.of(row, lambda order: Outcome("exited", exit_code=9, stderr=b"node: bad option\n"))
        assert tools == Toolchain(row.compile, row.env)
    assert compilers.remarks() == ["typescript is compiled slowly: exited with 9: node: bad option"]
    assert compilers.of(language("c"), lambda order: pytest.fail("C needs nothing")).compile == language("c").compile
