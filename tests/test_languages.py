"""Every language's row: programs of it parse, compile, run and are tested here, and what is missing is said."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from forgeries import SUITES
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import UserError
from flywheel.sandbox import isolation, languages
from flywheel.sandbox.grading import Program, TestChecks, grade_many
from flywheel.sandbox.job import Job
from flywheel.sandbox.languages import LANGUAGES, commands, entry_of, installed, language, missing
from flywheel.sandbox.local import LocalExecutor
from flywheel.sandbox.poison import alterations, defined, poisoned
from flywheel.sandbox.syntax import edited, lint, parse_errors

ECHO = {
    "python": "print(input()[::-1])",
    "javascript": "console.log([...require('fs').readFileSync(0, 'utf8').trim()].reverse().join(''))",
    "typescript": "const s: string = require('fs').readFileSync(0, 'utf8').trim();\n"
    "console.log([...s].reverse().join(''))",
    "php": '<?php echo strrev(trim(fgets(STDIN))), "\\n";',
    "bash": 'read -r s; for ((i = ${#s} - 1; i >= 0; i--)); do printf %s "${s:i:1}"; done; echo',
    "java": "import java.util.*;\npublic class Turn {\n  public static void main(String[] args) {\n"
    "    System.out.println(new StringBuilder(new Scanner(System.in).nextLine()).reverse());\n  }\n}",
    "cpp": "#include <algorithm>\n#include <iostream>\n#include <string>\nint main() { std::string s; std::cin >> s;\n"
    "std::reverse(s.begin(), s.end()); std::cout << s << '\\n'; }",
    "c": '#include <stdio.h>\n#include <string.h>\nint main(void) { char s[99]; scanf("%98s", s);\n'
    "for (int i = strlen(s); i-- > 0;) putchar(s[i]); putchar('\\n'); return 0; }",
    "go": 'package main\n\nimport "fmt"\n\nfunc main() {\n\tvar s string\n\tfmt.Scan(&s)\n'
    "\tfor i := len(s) - 1; i >= 0; i-- {\n\t\tfmt.Print(string(s[i]))\n\t}\n\tfmt.Println()\n}\n",
    "rust": "use std::io;\nfn main() { let mut s = String::new(); io::stdin().read_line(&mut s).unwrap();\n"
    'println!("{}", s.trim().chars().rev().collect::<String>()); }',
    "ruby": "puts gets.strip.reverse",
    "perl": "my $s = <STDIN>; chomp $s; print scalar reverse($s), qq(\\n);",
    "lua": "print(io.read():reverse())",
    "sql": "SELECT 'cba';",
}
"""Programs that turn a line around."""


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor(slots=2) as executor:
        yield executor


def test_every_language_is_installed_for_the_tests() -> None:
    assert len(LANGUAGES) == 14
    assert missing() == []


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_program_reads_and_writes(local: LocalExecutor, name: str) -> None:
    source = ECHO[name]
    assert parse_errors(name, source) == []
    entry = entry_of(name, source)
    outcome = local.run_all([Job(name, {entry: source.encode()}, entry, stdin=(b"abc\n",))])[0][0]
    assert (outcome.status, outcome.exit_code, outcome.stdout) == ("exited", 0, b"cba\n"), outcome.stderr


@pytest.mark.slow
def test_every_language_works_under_landlock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "ways", lambda: ["landlock"])
    jobs = {}
    for name, source in ECHO.items():
        entry = entry_of(name, source)
        jobs[name] = Job(name, {entry: source.encode()}, entry, stdin=(b"abc\n",))
    with LocalExecutor(slots=2, require="landlock") as executor:
        outcomes = dict(zip(jobs, executor.run_all(jobs.values()), strict=True))
        assert executor.capabilities().level == "landlock"
        assert not [said for said in executor.capabilities().remarks if "slowly" in said]
    assert {name: str(o) for name, (o,) in outcomes.items() if o.stdout.strip() != b"cba"} == {}


def test_a_compiler_that_does_not_work_makes_no_program_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    row = LANGUAGES["c"]
    broken = replace(row, compile=("sh", "-c", "echo 'gcc: cannot execute cc1' >&2; exit 1"))
    monkeypatch.setitem(LANGUAGES, "c", broken)
    monkeypatch.setitem(languages._NAMES, "c", broken)
    with LocalExecutor(slots=1) as executor:
        (grade,) = grade_many(executor, [(Program("int f(void) { return 1; }", "c"), TestChecks("assert(f() == 2);"))])
        assert grade.passed is None
        assert "c does not work here: a trial program compile_error: gcc: cannot execute cc1" in grade.reason
        assert "c does not work here" in str(executor.health())
        monkeypatch.undo()
        (outcome,) = executor.run_all([Job("bash", {"main.sh": b"echo"})])[0]
        assert outcome.ok and executor.health() is None


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_program_that_is_cut_off_does_not_parse_and_does_not_run(local: LocalExecutor, name: str) -> None:
    source = {"sql": "SELECT (1 +", "bash": "if true; then echo 1", "perl": "sub f { (1 + "}.get(
        name, ECHO[name][:-3] + "("
    )
    assert parse_errors(name, source)
    outcome = local.run_all([Job(name, {entry_of(name, source): source.encode()}, entry_of(name, source))])[0][0]
    assert not outcome.ok
    assert outcome.stderr
    assert (outcome.status == "compile_error") == (language(name).compile is not None)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(LANGUAGES)), st.text() | st.binary().map(lambda b: b.decode(errors="surrogateescape")))
def test_anything_can_be_parsed_and_altered(name: str, source: str) -> None:
    assert len(parse_errors(name, source)) <= 20
    alterations(name, source)
    defined(name, source, source)


def test_deep_programs_are_parsed_and_linted() -> None:
    for source in ("(" * 100_000, "[" * 50_000 + "]" * 50_000, "-" * 100_000 + "1"):
        parse_errors("python", source)
        assert isinstance(lint("python", source), list)


def test_where_a_parser_stops_is_said() -> None:
    found = parse_errors("python", "def f(x):\n    return (x\n")
    assert found and found[0].line in (1, 2)
    assert "line" in str(found[0])
    assert parse_errors("php", "echo 1;\n$x = ;")[0].line == 2


def test_python_is_linted_for_mistakes_not_for_taste() -> None:
    remarks = lint("python", "import os\n\n\ndef f(x=[]):\n  return y\n")
    assert {remark.code for remark in remarks} == {"F401", "B006", "F821"}
    assert [remark.line for remark in remarks if remark.code == "F821"] == [5]
    assert lint("python", "def f( x ):\n  l=1;return x+l\n") == [] or all(
        r.code.startswith("E7") for r in lint("python", "def f( x ):\n  l=1;return x+l\n")
    )
    assert lint("python", "def f(:\n")
    assert lint("ruby", "def f(") == []


def test_what_is_missing_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "SANDBOX_PATH", "/nowhere")
    assert not installed("typescript")
    said = "\n".join(missing(["typescript", "js"]))
    assert "tsc" in said and "apt-get install node-typescript nodejs" in said and "/nowhere" in said
    assert installed("python")


def test_an_unknown_language_is_refused_with_a_likely_name() -> None:
    with pytest.raises(UserError) as caught:
        language("pyton")
    assert "python" in str(caught.value.hint)
    assert language(" C++ ").name == "cpp"
    assert language("JS").name == "javascript"


def test_aliases_and_names_are_all_different() -> None:
    names = [name for row in LANGUAGES.values() for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))


def test_commands_are_filled_in_from_the_job() -> None:
    job = Job("java", {"A.java": b"", "B.java": b"", "c.txt": b""}, entry="B.java", argv=("x",))
    compiler, run = commands(job)
    assert compiler is not None and compiler[-2:] == ("B.java", "A.java")
    assert run[-2:] == ("B", "x")
    for name, row in LANGUAGES.items():
        assert not any("{" in word for command in commands(Job(name, {row.file: b""})) if command for word in command)


def test_java_files_are_named_after_their_class() -> None:
    assert entry_of("java", "class A {}\npublic class Foo {}") == "Foo.java"
    assert entry_of("java", "class A {}\nclass B { public static void main(String[] a) {} }") == "B.java"
    assert entry_of("java", "int x;") == "Main.java"
    assert entry_of("python", "class X: pass") == "main.py"


ASSERTIONS = {
    "python": [
        "assert add(2, 3) == 5",
        "assert 'x' == name('x')",
        "assert f(2) is None",
        "self.assertEqual(f(1), [1])",
    ],
    "javascript": [
        "assert.deepEqual(add(2, 3), 5);",
        "expect(f([1])).toEqual([1]);",
        "if (f(2) !== 3) throw new Error();",
    ],
    "php": ["assert(add(2, 3) === 5);", "if (candidate(2) !== 'x') { throw new Exception('no'); }"],
    "bash": ['[[ $(add 2 3) = "5" ]]', '[ "$(f 2)" -eq 5 ]'],
    "java": ['class A { void t() { assert f(2).equals("x"); assert add(1l, 2l) == (3l); } }'],
    "cpp": ["void t() { assert(f(std::vector<long>({1})) == std::vector<long>({2})); ASSERT_EQ(f(1), 2); }"],
    "c": ['void t() { assert(strcmp(f("a"), "b") == 0); }'],
    "go": ["package p\nfunc t() { if add(2, 3) != 5 { panic(1) }; x := T{actual: f(1), expected: 2} }"],
    "rust": ["fn t() { assert_eq!(add(2, 3), 5); assert!(f(vec![1]) == vec![2]); }"],
    "ruby": ["assert_equal(5, f(2))", "assert f([1]) == {a: 1}", "raise 'x' unless f(2) == 5"],
    "perl": ["is(add(2, 3), 5);", "die unless f(1) eq 'b';", "exit 1 if f(1) != 2;"],
    "lua": ["assert(add(2, 3) == 5)", "lu.assertEquals(f(1), 'x')"],
    "sql": ["SELECT (SELECT count(*) FROM t) = 3;"],
}


@pytest.mark.parametrize("name", ASSERTIONS)
def test_what_is_expected_is_altered_and_what_is_given_is_not(name: str) -> None:
    for tests in ASSERTIONS[name]:
        found = alterations(name, tests, {"add", "f", "name"})
        assert found, tests
        for edit in found:
            before = tests.encode()[: edit.start].decode()
            assert "(" not in before or not before.rstrip().endswith(("add(", "f(", "name("))
        changed = edited(tests, found)
        assert changed != tests
        assert len(parse_errors(name, changed)) <= len(parse_errors(name, tests))
        for call in ("add(2, 3)", "f(2)", "f(1)", "f([1])", "(add 2 3)", "(f 2)", "name('x')"):
            assert tests.count(call) == changed.count(call)


@pytest.mark.parametrize(
    ("name", "tests"),
    [
        ("javascript", "const got = f(2);\nassert.equal(got, 5);"),
        ("typescript", "let got: number = f(2);\nif (got !== 5) throw new Error();"),
        ("php", "$got = f(2);\nassert($got === 5);"),
        ("bash", "got=$(f 2)\n[[ $got = 5 ]]"),
        ("java", "class A { void t() { int got = f(2);\nassertEquals(5, got); } }"),
        ("cpp", "void t() { auto got = f(2);\nassert(got == 5); }"),
        ("c", "void t() { int got = f(2);\nassert(got == 5); }"),
        ("go", "func t() { got, err := f(2)\nif err != nil || got != 5 { panic(1) } }"),
        ("rust", "fn t() { let got: i32 = f(2);\nassert_eq!(got, 5); }"),
        ("ruby", "got = f(2)\nassert_equal 5, got"),
        ("perl", "my $got = f(2);\nis($got, 5);"),
        ("lua", "local got = f(2)\nassert(got == 5)"),
        ("python", "got = f(2)\nassert got == 5"),
    ],
)
def test_a_result_is_followed_through_variables(name: str, tests: str) -> None:
    altered, count, _ = poisoned(name, tests, {"f"}, "most", "nonce")
    assert (altered, count) == (tests.replace("5", "6"), 1)


def test_names_within_functions_are_under_test_only_if_tests_call_them() -> None:
    program = "function odd(xs) { let i = 0; for (const x of xs) i += x % 2; return i; }"
    assert defined("javascript", program, "for (let i = 1; i < 3; i++) assert(odd([i]) === 1);") == {"odd"}
    hidden = "const i = 1; (() => { globalThis.odd = (xs) => 1; })();"
    assert defined("javascript", hidden, "for (let i = 1; i < 3; i++) assert(odd([i]) === 1);") >= {"odd"}
    assert defined("java", "class A { int f(int n) { int i = n; return i; } }", "int i = new A().f(2);") == {"A", "f"}
    assert defined("javascript", "(() => { globalThis.odd = 1; })();", "assert(odd === 1)") == {"odd"}


def all_altered(name: str, tests: str, entry: str) -> tuple[str, int]:
    altered, count, _ = poisoned(name, tests, {entry}, "all", "nonce")
    return altered, count


def test_what_cannot_be_altered_is_negated_or_left() -> None:
    assert all_altered("javascript", "assert(isPrime(7));", "isPrime") == ("assert(!(isPrime(7)));", 1)
    assert all_altered("cpp", "void t() {}", "f")[1] == 0
    # Its name may be one that assertions have.
    same = "void t() { assert(same(3) == 4); }"
    assert all_altered("cpp", same, "same") == (same.replace("4", "5"), 1)
    assert all_altered("go", "func t() { if f() != [3]int{1, 2, 3} { panic(1) } }", "f")[0].count("[3]int{2, 2, 3}")
    assert all_altered("rust", "fn t() { assert!(f() == 0b101); }", "f")[0].count("0b110")
    runes = "func t() { if f() != 'a' || f() != '\\n' { panic(1) } }"
    assert all_altered("go", runes, "f") == (runes.replace("'a'", "'z'").replace("'\\n'", "'z'"), 2)
    assert alterations("java", "class A { void t() { assertEquals('\\\\', f(2)); } }", {"f"})[0].text == b"'z'"
    table = "func t() { assert.Equal(map[rune]int{'a': 1}, f()) }"
    assert all_altered("go", table, "f") == (table.replace("'a'", "'z'"), 1)
    # Two alterations in one assertion would undo each other; several assertions in a block are several.
    nested = "t.Run(1, func() { assert.Equal(true, same([]int{7}, f(2)))\nassert.Equal(8, f(3)) })"
    found = alterations("go", f"func t() {{ {nested} }}", {"f"})
    assert [edit.text for edit in found] == [b"false", b"9"]
    # An inequality would hold of an altered value as well.
    assert alterations("python", "assert f(2) != 5", {"f"})[0].text == b"not (f(2) != 5)"


def test_the_last_sure_expectation_is_altered_and_for_suspects_any() -> None:
    tests = [f"assert(f({i}) === {i});" for i in range(6)]
    tests[3:] = ["assert(f(3) === 3 || true);", "if (f(4)) { assert(f(4) === 4); }", "assert(f(5) !== 6);"]
    altered, count, sure = poisoned("javascript", "\n".join(tests), {"f"}, "most", "nonce")
    assert (count, sure) == (1, True)
    assert altered.splitlines() == [*tests[:2], "assert(f(2) === 3);", *tests[3:]]
    drawn = [poisoned("javascript", "\n".join(tests), {"f"}, "one", str(key)) for key in range(60)]
    lines = [[n for n in range(6) if text.splitlines()[n] != tests[n]] for text, _, _ in drawn]
    assert {tuple(changed) for changed in lines} == {(0,), (1,), (2,)}


SURE = {
    "javascript": ["assert.equal(f(2), 5)", "if (f(2) !== 5) throw 1", "const t = () => { assert(f(2) === [5]) }; t()"],
    "php": ["assert(f(2) === 5);"],
    "java": ["class A { public static void main(String[] a) { assert f(2).equals(List.of(5l)) && true; } }"],
    "cpp": ["int main() { assert(f(2) == std::vector<int>({5})); }"],
    "go": ["func TestF(t *testing.T) { if f(2) != 5 { t.Fatal(1) } }"],
    "rust": ["#[test] fn t() { assert_eq!(f(2), vec![5]); }"],
    "ruby": ["assert_equal 5, f(2)"],
    "lua": ["assert(f(2) == 5)"],
    "bash": ["[[ $(f 2) = 5 ]]"],
}
UNSURE = {
    "javascript": [
        "assert(f(2) === 5 || x)",
        "function t() { assert(f(2) === 5) }",
        "try { assert(f(2) === 5) } catch (e) {}",
        "if (f(2) === 5) n += 1",
        "const ok = f(2) === 5",
        "assert.equal(f(2), g(5))",
        "assert.equal(f(2), 5 % 2)",
        "assert(f(2) === 9007199254740992)",
        "assert(x ? f(2) === 5 : true)",
    ],
    "php": ["assert(f(2) == 5);"],
    "go": ["func TestF(t *testing.T) { for i := 0; i < n; i++ { if f(2) != 5 { t.Fatal(1) } } }"],
    "ruby": ["3.times { assert_equal 5, f(2) }"],
}


@pytest.mark.parametrize("name", SURE)
def test_sure_is_what_every_right_program_fails(name: str) -> None:
    for tests in SURE[name]:
        assert poisoned(name, tests, {"f"}, "most", "nonce")[2], tests
    for tests in UNSURE.get(name, []):
        assert not poisoned(name, tests, {"f"}, "most", "nonce")[2], tests


def test_where_nothing_is_sure_all_are_altered_from_a_random_assertion_on() -> None:
    tests = "\n".join(f"if (x) {{ assert(f({i}) === {i}); }}" for i in range(10))
    seen = {poisoned("javascript", tests, {"f"}, "most", str(key)) for key in range(50)}
    assert {count for _, count, _ in seen} == set(range(2, 11))
    for altered, count, sure in seen:
        assert not sure
        lines = altered.splitlines()
        assert lines[: 10 - count] == tests.splitlines()[: 10 - count]
        assert all(a != b for a, b in zip(lines[10 - count :], tests.splitlines()[10 - count :], strict=True))


def test_there_is_a_suite_of_forgeries_for_every_other_language() -> None:
    assert set(SUITES) == set(LANGUAGES) - {"python"}
    assert sum(len(suite.forged) for suite in SUITES.values()) >= 80


def test_scripts_and_images_install_every_program() -> None:
    root = Path(__file__).parents[1]
    for file in ("scripts/system-packages.sh", "launch/Containerfile.sandbox"):
        text = (root / file).read_text()
        for row in LANGUAGES.values():
            for program, package in row.programs.items():
                assert package in text, f"{file}: {program} of {row.name}"
    assert shutil.which("podman")


HONEST = {
    "a condition within a query": ("sql", "CREATE TABLE t (id INTEGER); INSERT INTO t VALUES (1), (2);",
                                   "EXISTS (SELECT 1 FROM t WHERE id = 1);\n(SELECT count(*) FROM t) = 2;\n"),
    "a condition that is only told": (
        "bash", "f() { echo $(($1 * 2)); }",
        'if [[ "$(f 2)" = 4 ]]; then echo PASS; else echo FAIL; fi\n[ "$(f 3)" = "6" ]\n'
        '[ "$(f 1)" = 2 ] && echo ok || :\n'),
    "a wide tolerance": ("lua", "function f(x) return x * 500.2 end",
                         "lu = require('luaunit')\nlu.assertEquals(f(0), 0)\nlu.assertAlmostEquals(f(2), 1000, 1)\n"),
    "a word that is only printed": (
        "javascript", "function f(x) { return 2 * x; }",
        "const assert = require('assert');\nassert.strictEqual(f(1), 2);\nif (f(2) !== 4) console.log('failed');\n"),
    "an exit status": ("c", "int f(int x) { return 2 * x; }", "int main() { if (f(2) != 4) return 1; return 0; }"),
    "Test::More": ("perl", "sub f { return [map { 2 * $_ } @_] }",
                   "use Test::More;\nis_deeply(f(1, 2), [2, 4], 'doubled');\nis(f(3)->[0], 6);\ndone_testing();\n"),
}  # fmt: skip


@pytest.mark.parametrize("what", HONEST)
def test_no_honest_program_is_taken_for_a_forger(local: LocalExecutor, what: str) -> None:
    """Though its tests hold some alterations that a right program need not fail."""
    name, source, tests = HONEST[what]
    for entry in (None, "f"):
        (grade,) = grade_many(local, [(Program(source, name), TestChecks(tests, entry_point=entry))])
        assert grade.passed is True, (entry, grade)
