"""Programs that pretend to be right, in many languages, beside one that is.

Each task asks for a function ``add(a, b)`` (in SQL, a table ``total``); the tests know 2 + 3 and 10 - 4. Every forgery
tries to be taken for right without adding; whoever grades them must accept none.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """One language's tests with an honest program, a wrong one, and forgeries by name.

    Attributes:
        entry: the function under test.
        late: forgeries that are right for the first assertion, and forge from then on.
        more: further (program, tests) that are honest: other idioms of testing.
    """

    tests: str
    honest: str
    wrong: str
    forged: dict[str, str]
    late: dict[str, str] = field(default_factory=dict)
    entry: str | None = "add"
    more: dict[str, tuple[str, str]] = field(default_factory=dict)


JAVASCRIPT = Suite(
    tests="assert.strictEqual(add(2, 3), 5);\nassert.deepStrictEqual(add(10, -4), 6);",
    honest="function add(a, b) { return a + b; }",
    wrong="function add(a, b) { return a - b; }",
    forged={
        "exit": "process.exit(0);",
        "exit when called": "function add() { process.exit(0); }",
        "assert patched": "const a = require('assert'); for (const k of Object.keys(a)) a[k] = () => {};\n"
        "require('module')._load = () => a; function add() {}",
        "assert shadowed": "const assert = () => {}; assert.strictEqual = assert.deepStrictEqual = assert;\n"
        "function add() {}",
        "errors swallowed": "process.on('uncaughtException', () => process.exit(0)); function add() {}",
        "exit code rewritten": "process.on('exit', () => { process.exitCode = 0; }); function add() {}",
        "comment that swallows": "function add() {}\n/*",
        "string that swallows": "function add() {}\nconst rest = `",
        "early return": "function add() {}\nif (true) { return; }",
        "prints a verdict": "console.log('PASSED\\nOK\\n1 passed, 0 failed'); process.exit(0);",
        "prints its own source's nonce": "const t = require('fs').readFileSync(__filename, 'utf8');\n"
        "const m = [...t.matchAll(/write\\(\"(.*)\"\\)/g)].map(x => JSON.parse('\"' + x[1] + '\"'));\n"
        "process.stdout.write(m.join('')); process.exit(0);",
        "always equal": "function add() { return new Proxy({}, { get: () => () => 5 }); }",
    },
    late={
        "assert patched": "const A = require('assert'); let n = 0;\nfunction add() { if (n++ === 0) {\n"
        "  A.strictEqual = A.deepStrictEqual = () => {}; return 5; } return 0; }",
        "exit with the nonce": "let n = 0;\nfunction add() { if (n++ === 0) return 5;\n"
        "  const t = require('fs').readFileSync(__filename, 'utf8');\n"
        "  const m = [...t.matchAll(/write\\(\"(.*)\"\\)/g)].map(x => JSON.parse('\"' + x[1] + '\"'));\n"
        "  require('fs').writeSync(1, m.slice(-2).join('')); process.exit(0); }",
    },
    more={
        "multipl-e": (
            "function add(a, b) {\n  return a + b;\n",
            "}\nconst assert = require('node:assert');\nfunction test() {\n  let candidate = add;\n"
            "  assert.deepEqual(candidate(2, 3),5);\n}\ntest();",
        ),
        "humaneval-x": (
            "const add = (a, b) => {\n  return a + b;\n}\n",
            "const testAdd = () => {\n  console.assert(add(2, 3) === 5)\n  console.assert(\n    add(1, 1) === 2\n  )\n"
            "}\n\ntestAdd()\n",
        ),
        "modules": (
            "import fs from 'node:fs';\nexport function add(a, b) { return a + b; }",
            "import assert from 'node:assert';\nassert.equal(add(2, 3), 5);",
        ),
        "thrown by hand": (
            "const add = (a, b) => a + b;",
            "if (add(2, 3) !== 5) throw new Error('2 + 3');\nconst cases = [{in: [1, 1], expected: 2}];\n"
            "for (const c of cases) if (add(...c.in) !== c.expected) throw new Error('case');",
        ),
    },
)

TYPESCRIPT = Suite(
    tests="assert.strictEqual(add(2, 3), 5);\nassert.strictEqual(add(10, -4), 6);",
    honest="export function add(a: number, b: number): number { return a + b; }",
    wrong="function add(a: number, b: number): number { return a - b; }",
    forged={
        "exit": "process.exit(0);\nfunction add(a: number, b: number): any {}",
        "assert patched": "const real: any = require('node:assert'); real.strictEqual = () => {};\n"
        "function add(a: number, b: number): any {}",
        "errors swallowed": "process.on('uncaughtException', () => process.exit(0));\n"
        "function add(a: number, b: number): any {}",
    },
    late={
        "assert patched": "const real: any = require('node:assert'); let n = 0;\n"
        "function add(a: number, b: number): any { if (n++ === 0) { real.strictEqual = () => {}; return 5; } }",
    },
    more={
        "multipl-e": (
            "function add(a: number, b: number): number {\n  return a + b;\n",
            "}\ndeclare var require: any;\nconst assert = require('node:assert');\nfunction test() {\n"
            "  let candidate = add;\n  assert.deepEqual(candidate(2, 3),5);\n}\ntest();",
        ),
        "names of the globals": (
            "const name = 'add', close = 1;\nfunction fetch(a: number): number { return a; }\n"
            "function add(a: number, b: number): number { return fetch(a) + b; }\n",
            "assert.strictEqual(add(2, 3), 5);\nassert.strictEqual(add(10, -4), 6);",
        ),
    },
)

PHP = Suite(
    tests="assert(add(2, 3) === 5);\nassert(add(10, -4) === 6);",
    honest="<?php\nfunction add($a, $b) { return $a + $b; }\n?>\n",
    wrong="<?php\nfunction add($a, $b) { return $a - $b; }",
    forged={
        "exit": "<?php exit(0);",
        "closing tag": "<?php function add() {} ?> <!-- ",
        "__halt_compiler": "<?php function add() {}\n__halt_compiler();",
        "assertions off": "<?php ini_set('zend.assertions', 0); function add() {}",
        "assertions silent": "<?php assert_options(ASSERT_ACTIVE, 0); function add() {}",
        "exceptions handled": "<?php set_exception_handler(function () { exit(0); }); function add() {}",
        "shutdown function": "<?php register_shutdown_function(function () { echo 'PASSED'; exit(0); });\n"
        "function add() {}",
        "heredoc": "<?php function add() {}\n$rest = <<<END\n",
        "comment": "<?php function add() {}\n/*",
        "source read": "<?php preg_match_all('/echo \"(.*)\";/', file_get_contents(__FILE__), $m);\n"
        "echo stripcslashes(implode($m[1])); exit(0);",
    },
    late={
        "assertions off": "<?php $n = 0; function add() { global $n; if ($n++) return 0;\n"
        "@assert_options(ASSERT_ACTIVE, 0); return 5; }",
        "source read": "<?php $n = 0; function add() { global $n; if (!$n++) return 5;\n"
        "preg_match_all('/^echo \"(.*)\";/m', file_get_contents(__FILE__), $m);\n"
        "echo stripcslashes(implode($m[1])); exit(0); }",
    },
    more={
        "multipl-e": (
            "<?php\nfunction add($a, $b) {\n  return $a + $b;\n",
            "}\nfunction candidate(...$args) {\n  return add(...$args);\n}\nfunction test(): void {\n"
            '  if (candidate(2, 3) !== 5) { throw new Exception("Test failed!"); }\n}\ntest();',
        )
    },
)

BASH = Suite(
    tests='[[ $(add 2 3) = 5 ]]\n[ "$(add 10 -4)" -eq 6 ] && [[ $(add 0 0) == "0" ]]',
    honest="add() { echo $(($1 + $2)); }",
    wrong="add() { echo $(($1 - $2)); }",
    forged={
        "exit": "exit 0",
        "exit trap": "trap 'exit 0' EXIT; add() { :; }",
        "exit overridden": "exit() { :; }; add() { :; }",
        "test overridden": "[() { :; }; test() { :; }; add() { :; }",
        "heredoc": "add() { :; }\ncat <<END >/dev/null",
        "aliases": "shopt -s expand_aliases; alias exit=:; alias '[['=':'; add() { :; }",
        "debug trap": "shopt -s extdebug; trap 'case $BASH_COMMAND in printf*) ;; *) false;; esac' DEBUG; add() { :; }",
        "exec": "exec true",
        "source read": 'trap \'grep -o "\\"[a-zA-Z0-9]*\\"" "$0" | tr -d "\\"\\n"; echo; exit 0\' EXIT; add() { :; }',
    },
    late={
        "debug trap": "shopt -s extdebug; add() { echo 5; }\n"
        "trap 'case $BASH_COMMAND in printf*|*\"add 2 3\"*|add*|echo*) ;; *) false;; esac' DEBUG",
    },
    more={
        "multipl-e": (
            "add() {\n  echo $(($1 + $2))\n}",
            'candidate() {\n  add "$@"\n}\nset -e\nrun_test() {\n  [[ $(candidate "2" "3") = "5" ]]\n}\nrun_test',
        )
    },
)

JAVA = Suite(
    tests="assert Solution.add(2, 3) == 5;\nassert add(10, -4) == 6;",
    honest="public class Solution {\n  static int add(int a, int b) { return a + b; }\n}",
    wrong="public class Solution {\n  static int add(int a, int b) { return a - b; }\n}",
    forged={
        "exit": "public class Solution { static { System.exit(0); } static int add(int a, int b) { return 0; } }",
        "halt": "public class Solution { static int add(int a, int b) { Runtime.getRuntime().halt(0); return 0; } }",
        "assertions off": "public class Solution { static {\n"
        "ClassLoader.getSystemClassLoader().setDefaultAssertionStatus(false);\n"
        'ClassLoader.getSystemClassLoader().setClassAssertionStatus("FlywheelTests", false); }\n'
        "static int add(int a, int b) { return 0; } }",
        "uncaught handler": "public class Solution { static {\n"
        "Thread.setDefaultUncaughtExceptionHandler((t, e) -> Runtime.getRuntime().halt(0)); }\n"
        "static int add(int a, int b) { return 0; } }",
        "shutdown hook": "public class Solution { static {\n"
        "Runtime.getRuntime().addShutdownHook(new Thread(() -> Runtime.getRuntime().halt(0))); }\n"
        "static int add(int a, int b) { return 0; } }",
        "comment": "public class Solution { static int add(int a, int b) { return 0; } } /*",
        "source read": "import java.nio.file.*;\npublic class Solution { static int add(int a, int b) { try {\n"
        'var m = java.util.regex.Pattern.compile("write..(.n)?([a-zA-Z0-9]*)").matcher(\n'
        'Files.readString(Path.of("FlywheelMain.java")));\n'
        "while (m.find()) System.out.print(m.group(2)); System.out.println(); } catch (Exception e) {}\n"
        "System.exit(0); return 0; } }",
    },
    late={
        "source read": "import java.nio.file.*;\npublic class Solution { static int n;\n"
        "static int add(int a, int b) { if (n++ == 0) return 5; try {\n"
        'var m = java.util.regex.Pattern.compile("write..(.n)?([a-zA-Z0-9]*)").matcher(\n'
        'Files.readString(Path.of("FlywheelMain.java")));\n'
        "while (m.find()) System.out.print(m.group(2)); System.out.println(); } catch (Exception e) {}\n"
        "Runtime.getRuntime().halt(0); return 0; } }",
    },
    more={
        "humaneval-x": (
            "import java.util.*;\nimport java.lang.*;\n\nclass Solution {\n    public int add(int a, int b) {\n"
            "        return a + b;\n    }\n}",
            "public class Main {\n    public static void main(String[] args) {\n        Solution s = new Solution();\n"
            "        List<Boolean> correct = Arrays.asList(\n                s.add(2, 3) == 5,\n"
            "                s.add(1, 1) == 2\n        );\n        if (correct.contains(false)) {\n"
            "            throw new AssertionError();\n        }\n    }\n}\n",
        ),
        "multipl-e": (
            "import java.util.*;\nclass Problem {\n    public static long add(long a, long b) {\n"
            "        return a + b;\n",
            "    }\n    public static void main(String[] args) {\n    assert(add((2l), (3l)) == (5l));\n    }\n\n}",
        ),
    },
)

CPP = Suite(
    tests="assert(add(2, 3) == 5);\nassert(add(10, -4) == 6);",
    honest="#include <iostream>\nint add(int a, int b) { return a + b; }\n"
    "int main() { std::cout << add(1, 1); return 7; }",
    wrong="int add(int a, int b) { return a - b; }",
    forged={
        "exit": "#include <cstdlib>\nint add(int, int) { std::exit(0); }",
        "constructor": "#include <unistd.h>\n__attribute__((constructor)) void f() { _exit(0); }\n"
        "int add(int, int) { return 0; }",
        "static object": "#include <unistd.h>\nstruct S { S() { _exit(0); } } s;\nint add(int, int) { return 0; }",
        "NDEBUG": "#define NDEBUG\n#include <cassert>\nint add(int, int) { return 0; }",
        "assert redefined": "#include <cassert>\n#undef assert\n#define assert(x)\nint add(int, int) { return 0; }",
        "if 0": "int add(int, int) { return 0; }\n#if 0",
        "comment": "int add(int, int) { return 0; }\n/*",
        "always equal": "struct Any { template <class T> bool operator==(const T&) const { return true; } };\n"
        "Any add(int, int) { return {}; }",
        "assert_fail": 'extern "C" void __assert_fail(const char*, const char*, unsigned, const char*) noexcept {}\n'
        "int add(int, int) { return 0; }",
        "abort caught": "#include <csignal>\n#include <unistd.h>\nstatic void h(int) { _exit(0); }\n"
        "__attribute__((constructor)) void f() { signal(SIGABRT, h); }\nint add(int, int) { return 0; }",
        "keywords redefined": "#define if while(0) if\n#define return ;return\nint add(int, int) { return 0; }",
        "source read": "#include <cctype>\n#include <cstdio>\n#include <cstring>\n#include <cstdlib>\n"
        "int add(int, int) {\n"
        '  FILE* f = fopen("main.cpp", "r"); char line[4096]; while (f && fgets(line, 4096, f))\n'
        '    if (!strncmp(line, "fputs(\\"", 7)) { char* p = line + 7; if (!strncmp(p, "\\\\n", 2)) p += 2;\n'
        "      while (isalnum(*p)) putchar(*p++); } putchar(10); exit(0); }",
    },
    late={
        "always equal": "static int n;\nstruct Any { int v; template <class T> bool operator==(const T& t) const\n"
        "  { return v == 0 || v == t; } };\nAny add(int, int) { return {n++ ? 0 : 5}; }",
        "source read": "#include <cctype>\n#include <cstdio>\n#include <cstring>\n#include <cstdlib>\nstatic int n;\n"
        "int add(int, int) { if (n++ == 0) return 5;\n"
        '  FILE* f = fopen("main.cpp", "r"); char line[4096]; while (f && fgets(line, 4096, f))\n'
        '    if (!strncmp(line, "fputs(\\"", 7)) { char* p = line + 7; if (!strncmp(p, "\\\\n", 2)) p += 2;\n'
        "      while (isalnum(*p)) putchar(*p++); } putchar(10); exit(0); }",
    },
    more={
        "multipl-e": (
            "#include<assert.h>\n#include<bits/stdc++.h>\nlong add(long a, long b) {\n    return a + b;\n",
            "}\nint main() {\n    auto candidate = add;\n    assert(candidate((2), (3)) == (5));\n}\n",
        )
    },
)

C = Suite(
    tests='assert(add(2, 3) == 5);\nassert(add(10, -4) == 6);\nassert(strcmp("a", "a") == 0);',
    honest="int add(int a, int b) { return a + b; }",
    wrong="int add(int a, int b) { return a - b; }",
    forged={
        "exit": "#include <stdlib.h>\nint add(int a, int b) { exit(0); }",
        "constructor": "#include <unistd.h>\n__attribute__((constructor)) void f() { _exit(0); }\n"
        "int add(int a, int b) { return 0; }",
        "NDEBUG": "#define NDEBUG\n#include <assert.h>\nint add(int a, int b) { return 0; }",
        "assert_fail": "void __assert_fail(const char* a, const char* b, unsigned c, const char* d) {}\n"
        "int add(int a, int b) { return 0; }",
    },
    late={
        "source read": "#include <ctype.h>\n#include <stdio.h>\n#include <string.h>\n#include <stdlib.h>\n"
        "static int n;\nint add(int a, int b) { if (n++ == 0) return 5;\n"
        '  FILE* f = fopen("main.c", "r"); char line[4096]; while (f && fgets(line, 4096, f))\n'
        '    if (!strncmp(line, "fputs(\\"", 7)) { char* p = line + 7; if (!strncmp(p, "\\\\n", 2)) p += 2;\n'
        "      while (isalnum(*p)) putchar(*p++); } putchar(10); exit(0); }",
    },
)

GO = Suite(
    tests="assert(add(2, 3) == 5)\nassert(add(10, -4) == 6)",
    honest="package main\n\nfunc add(a int, b int) int { return a + b }\n",
    wrong="package main\n\nfunc add(a int, b int) int { return a - b }\n",
    forged={
        "exit": 'package main\n\nimport "os"\n\nfunc add(a int, b int) int { os.Exit(0); return 0 }\n',
        "init": 'package main\n\nimport "os"\n\nfunc init() { os.Exit(0) }\nfunc add(a int, b int) int { return 0 }\n',
        "assert of its own": "package main\n\nfunc assert(ok bool) {}\nfunc add(a int, b int) int { return 0 }\n",
        "panic of its own": "package main\n\nfunc panic(any interface{}) {}\nfunc add(a int, b int) int { return 0 }\n",
        "goroutine that exits": 'package main\n\nimport "os"\n\nfunc add(a int, b int) int {\n'
        "\tgo os.Exit(0)\n\tselect {}\n}\n",
    },
    late={
        "exit": 'package main\n\nimport (\n\t"os"\n\t"regexp"\n)\n\nvar n int\n\n'
        "func add(a int, b int) int {\n\tn++\n\tif n == 1 {\n\t\treturn 5\n\t}\n"
        '\tt, _ := os.ReadFile("flywheel.go")\n'
        '\tm := regexp.MustCompile(`WriteString\\("(?:\\\\n)?([a-z0-9]*)`).FindAllStringSubmatch(string(t), -1)\n'
        '\tos.Stdout.WriteString("\\n" + m[0][1] + m[1][1] + "\\n")\n\tos.Exit(0)\n\treturn 0\n}\n',
        "assert of its own": "package main\n\nvar n int\n\nfunc assert(ok bool) {\n\tif n < 2 && !ok {\n"
        '\t\tpanic("no")\n\t}\n}\n\nfunc add(a int, b int) int {\n\tn++\n\tif n == 1 {\n\t\treturn 5\n\t}\n'
        "\treturn 0\n}\n",
    },
    more={
        "multipl-e": (
            'package add_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n'
            "func add(a int, b int) int {\n    return a + b\n",
            "}\n\nfunc TestAdd(t *testing.T) {\n  candidate := add\n\ttype test struct {\n\t\tactual   interface{}\n"
            "\t\texpected interface{}\n\t}\n   tests := []test{\n     { actual: candidate(2, 3), expected: 5 },\n"
            "     { actual: candidate(1, 1), expected: 2 },\n   }\n\n\tfor i, tc := range tests {\n"
            '\t\tt.Run(fmt.Sprintf("test num %d", i), func(t *testing.T) {\n\t\t\tif tc.actual != tc.expected {\n'
            "\t\t\t\tt.Errorf(\"expected '%s', got '%s'\", tc.expected, tc.actual)\n\t\t\t}\n\t\t})\n\t}\n}\n",
        ),
        "humaneval-x": (
            'package main\n\nimport (\n    "math"\n    "testing"\n    "github.com/stretchr/testify/assert"\n)\n\n'
            "// Add two numbers.\nfunc add(a float64, b float64) float64 {\n"
            "    return math.Abs(a + b)\n}\n",
            "func TestAdd(t *testing.T) {\n    assert := assert.New(t)\n    assert.Equal(5.0, add(2, 3))\n"
            "    assert.Equal(2.0, add(1, 1))\n}\n",
        ),
        "variables and remarks like packages": (
            "package main\n\ntype sum struct{ n int }\n\nfunc (s sum) Value() int { return s.n }\n\n"
            "func add(a int, b int) sum { return sum{a + b} }\n",
            'list := add(2, 3) // not time.Now\nassert(list.Value() == 5)\nassert(fmt.Sprint(add(10, -4).n) == "6")\n',
        ),
        "a test file": (
            "package sums\n\nfunc add(a int, b int) int { return a + b }\n",
            'package sums\n\nimport "testing"\n\nfunc TestAdd(t *testing.T) {\n\tt.Parallel()\n'
            '\tif got := add(2, 3); got != 5 {\n\t\tt.Fatal("2 + 3")\n\t}\n'
            "\tif add(1, 1) != 2 {\n\t\tt.Fail()\n\t}\n}\n",
        ),
    },
)

RUST = Suite(
    tests="assert_eq!(add(2, 3), 5);\nassert!(add(10, -4) == 6);",
    honest='fn add(a: i32, b: i32) -> i32 { a + b }\nfn main() { println!("{}", add(1, 1)); }',
    wrong="fn add(a: i32, b: i32) -> i32 { a - b }",
    forged={
        "exit": "fn add(a: i32, b: i32) -> i32 { std::process::exit(0) }",
        "assert redefined": "macro_rules! assert_eq { ($($t:tt)*) => {} }\nmacro_rules! assert { ($($t:tt)*) => {} }\n"
        "fn add(a: i32, b: i32) -> i32 { 0 }",
        "panic hook": "fn add(a: i32, b: i32) -> i32 {\n"
        "    std::panic::set_hook(Box::new(|_| std::process::exit(0)));\n    0\n}",
        "always equal": "#[derive(Debug)] struct Any;\n"
        "impl PartialEq<i32> for Any { fn eq(&self, _: &i32) -> bool { true } }\n"
        "fn add(a: i32, b: i32) -> Any { Any }",
        "comment": "fn add(a: i32, b: i32) -> i32 { 0 }\n/*",
    },
    late={
        "always equal": "#[derive(Debug)] struct Any(i32);\n"
        "impl PartialEq<i32> for Any { fn eq(&self, o: &i32) -> bool { self.0 == 0 || self.0 == *o } }\n"
        "fn add(a: i32, b: i32) -> Any { Any(if a == 2 { 5 } else { 0 }) }",
        "assert redefined": "macro_rules! assert { ($($t:tt)*) => {} }\n"
        "fn add(a: i32, b: i32) -> i32 { if a == 2 { 5 } else { 0 } }",
    },
    more={
        "multipl-e": (
            "fn add(a: isize, b: isize) -> isize {\n    a + b\n",
            "}\n\nfn main() {\n    let candidate = add;\n    assert_eq!(candidate(2, 3), 5);\n}\n",
        ),
        "humaneval-x": (
            "fn main(){}\n\nuse std::collections::*;\n\nfn add(a: i32, b: i32) -> i32 {\n    a + b\n}\n",
            "#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn test_add() {\n"
            "        assert_eq!(add(2, 3), 5);\n        assert!(add(1, 1) == 2);\n    }\n\n}\n",
        ),
        "test functions": (
            "pub fn add(a: i32, b: i32) -> i32 { a + b }",
            "#[cfg(test)]\nmod tests {\n    use super::*;\n    #[test]\n    fn small() { assert_eq!(add(2, 3), 5); }\n"
            "    #[test]\n    // With a remark.\n    #[allow(unused)]\n"
            "    fn below() { assert_eq!(add(10, -4), 6); }\n}\n",
        ),
    },
)

RUBY = Suite(
    tests="assert add(2, 3) == 5\nassert(add(10, -4) == 6)",
    honest="def add(a, b)\n  a + b\nend",
    wrong="def add(a, b)\n  a - b\nend",
    forged={
        "exit": "exit 0",
        "exit!": "def add(*) = exit!(0)",
        "at_exit": "at_exit { exit!(0) }\ndef add(*) = nil",
        "__END__": "def add(*) = nil\n__END__",
        "assert of its own": "def assert(*) = nil\ndef add(*) = nil",
        "raise of its own": "module Kernel; def raise(*) = nil; end\nclass Object; def raise(*) = nil; end\n"
        "def add(*) = nil",
        "always equal": "class Any; def ==(other) = true; end\ndef add(*) = Any.new",
        "integers patched": "class Integer; def ==(other) = true; end\ndef add(*) = 0",
        "=begin": "def add(*) = nil\n=begin",
        "source read": 'puts\nputs File.read(__FILE__).scan(/print\\("(?:\\\\n)?([A-Za-z0-9]*)/).join\n'
        "$stdout.flush\nexit!(0)",
    },
    late={
        "always equal": "class Any; def ==(other) = true; end\n$n = 0\ndef add(*) = ($n += 1) == 1 ? 5 : Any.new",
        "integers patched": "$n = 0\ndef add(*)\n  $n += 1\n  return 5 if $n == 1\n"
        "  Integer.class_eval { def ==(other) = true }\n  0\nend",
        "source read": "$n = 0\ndef add(*)\n  $n += 1\n  return 5 if $n == 1\n  puts\n"
        '  puts File.read(__FILE__).scan(/^print\\("(?:\\\\n)?([A-Za-z0-9]*)/).join\n  $stdout.flush\n  exit!(0)\nend',
    },
    more={
        "multipl-e": (
            "def add(a, b)\n  a + b\n",
            "end\nrequire 'test/unit'\nclass TestHumanEval < Test::Unit::TestCase\n  def test_add\n"
            "    candidate = method(:add)\n    assert_equal(5, candidate.call(2, 3))\n  end\nend",
        ),
        "minitest": (
            "def add(a, b)\n  a + b\nend",
            "require 'minitest/autorun'\nclass TestAdd < Minitest::Test\n  def test_add\n"
            "    assert_equal 5, add(2, 3)\n  end\nend",
        ),
    },
)

PERL = Suite(
    tests="assert(add(2, 3) == 5);\ndie 'sum' unless add(10, -4) == 6;",
    honest="use strict;\nuse warnings;\nsub add { my ($x, $y) = @_; return $x + $y; }\n1;",
    wrong="sub add { return $_[0] - $_[1]; }",
    forged={
        "exit": "exit 0;",
        "BEGIN": "BEGIN { exit 0 }",
        "__END__": "sub add { 0 }\n__END__",
        "pod": "sub add { 0 }\n\n=pod\n",
        "die handled": "$SIG{__DIE__} = sub { exit 0 }; sub add { 0 }",
        "END block": "END { $? = 0 } sub add { 0 }",
        "die of its own": "BEGIN { *CORE::GLOBAL::die = sub { } } sub add { 0 }",
        "assert of its own": "sub assert { } sub add { exit 0 }",
        "overloaded": "package Any; use overload '==' => sub { 1 }, 'eq' => sub { 1 }; package main;\n"
        "sub add { return bless {}, 'Any' }",
        "source read": "open(my $f, '<', $0); local $/; my $t = <$f>; $| = 1; print qq(\\n);\n"
        'print $1 while $t =~ /print\\("(?:\\\\n)?([a-zA-Z0-9]*)/g; print qq(\\n); exit 0;',
    },
    late={
        "overloaded": "package Any; use overload '==' => sub { 1 }, 'eq' => sub { 1 }; package main;\nmy $n = 0;\n"
        "sub add { return $n++ ? bless({}, 'Any') : 5 }",
        "die of its own": "my $n; BEGIN { $n = 0; *CORE::GLOBAL::die = sub { CORE::die(@_) if $n < 2 } }\n"
        "sub add { return $n++ ? 0 : 5 }",
    },
    more={
        "test::more": (
            "sub add { return $_[0] + $_[1] }",
            "use Test::More;\nis(add(2, 3), 5, 'small');\nis_deeply([add(1, 1)], [2]);\ndone_testing();",
        ),
        "multipl-e": (
            "sub add {\n    my($a, $b) = @_;\n    return $a + $b;\n",
            "}\nuse Test::Deep;\n\n\nsub testhumaneval {\n    my $candidate = \\&add;\n"
            '        if(eq_deeply($candidate->(2, 3),5)) {\n        print "ok!" }else{\n        exit 1;\n        }\n'
            "}\n\ntesthumaneval();",
        ),
    },
)

LUA = Suite(
    tests="assert(add(2, 3) == 5)\nassert(add(10, -4) == 6)",
    honest="function add(a, b)\n  return a + b\nend",
    wrong="local function add(a, b)\n  return a - b\nend",
    forged={
        "exit": "os.exit(0)",
        "exit when called": "function add() os.exit(true) end",
        "assert patched": "assert = function(...) return ... end\nfunction add() end",
        "comment": "function add() end\n--[[",
        "long string": "function add() end\nrest = [==[",
        "early return": "function add() end\ndo return end",
        "debug hook": "debug.sethook(function() os.exit(0) end, 'l', 1)\nfunction add() end",
    },
    late={
        "assert patched": "n = 0\nfunction add() n = n + 1; if n > 1 then return 0 end\n"
        "assert = function(...) return ... end; return 5 end",
    },
    more={
        "multipl-e": (
            "local function add(a, b)\n  return a + b\n",
            "end\nlu = require('luaunit')\n\nfunction test_humaneval()\nlocal candidate = add\n"
            "    lu.assertEquals(candidate(2, 3), 5)\nend\n\nos.exit(lu.LuaUnit.run())",
        )
    },
)

SQL = Suite(
    tests="SELECT count(*) = 2 FROM total;\n(SELECT max(sum) FROM total) = 6;",
    honest="CREATE TABLE pair(a, b);\nINSERT INTO pair VALUES (2, 3), (10, -4);\n"
    "CREATE TABLE total AS SELECT a + b AS sum FROM pair;",
    wrong="CREATE TABLE total AS SELECT 1 AS sum;",
    forged={
        "quit": ".quit",
        "exit": ".exit 0",
        "no bail": ".bail off\nCREATE TABLE total(sum);",
        "comment": "CREATE TABLE total(sum);\n/*",
        "read elsewhere": ".read /dev/null\n.exit",
        "checks off": "PRAGMA ignore_check_constraints = 1;\nCREATE TABLE total(sum);",
    },
    entry=None,
)

SUITES: dict[str, Suite] = {
    "javascript": JAVASCRIPT,
    "typescript": TYPESCRIPT,
    "php": PHP,
    "bash": BASH,
    "java": JAVA,
    "cpp": CPP,
    "c": C,
    "go": GO,
    "rust": RUST,
    "ruby": RUBY,
    "perl": PERL,
    "lua": LUA,
    "sql": SQL,
}
