"""The languages that programs may be written in: a row each.

A row says how a program of that language is stored, compiled and run inside a sandbox, what the system must have for
it, and how it is called elsewhere. How a program is tested is in ``testfile.py``, how it is parsed in ``syntax.py``.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from flywheel.errors import UserError

if TYPE_CHECKING:
    from flywheel.sandbox.job import Job

SANDBOX_PATH = "/usr/local/bin:/usr/bin:/bin"
"""Where programs of a sandbox are looked for: what the machine has under ``/usr``, and nobody's home."""


@dataclass(frozen=True, slots=True)
class Warm:
    """What a compiler needs for every program, made once; see ``compilers.py``.

    Attributes:
        make: shell commands that fill the folder ``warm``; run beside ``files``, where one that fails ends them.
        files: sources for it.
        compile: instead of the language's own command, with ``{warm}`` for the folder; None: it stays.
        env: environment variables of compilations, likewise.
    """

    make: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    compile: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Language:
    """One language.

    Attributes:
        name: what jobs call it.
        file: the program's file name in the work folder.
        run: command that runs it there; see ``commands`` for what stands in braces.
        trial: a program that prints 42; see ``trial.py``.
        compile: command that makes what ``run`` runs; None where there is nothing to compile.
        programs: what must be installed, with the Debian package that brings it.
        image: container image that has these programs.
        grammar: tree-sitter's name.
        aliases: other names, as in Markdown fences and data sets.
        fusion: SandboxFusion's name; None if it has none.
        etc: what of ``/etc`` the programs cannot do without.
        env: environment variables beside the sandbox's own.
        support: files that lie beside every program of the language.
        address_space: whether a limit on address space (RLIMIT_AS) is bearable: virtual machines with garbage
            collectors reserve far more than they use, and need a memory cgroup instead.
        processes: least number of processes and threads that its runtime needs.
        warm: how its compiler is made fast, where programs are run on this machine.
    """

    name: str
    file: str
    run: tuple[str, ...]
    trial: str
    compile: tuple[str, ...] | None = None
    programs: Mapping[str, str] = field(default_factory=dict)
    image: str = "debian:bookworm-slim"
    grammar: str = ""
    aliases: tuple[str, ...] = ()
    fusion: str | None = None
    etc: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    support: Mapping[str, bytes] = field(default_factory=dict)
    address_space: bool = True
    processes: int = 1
    warm: Warm | None = None


_NODE_TYPES = b"""declare var require: any, process: any, module: any, exports: any, Buffer: any, global: any;
declare var console: any, performance: any, crypto: any, fetch: any;
declare var setTimeout: any, setInterval: any, setImmediate: any, queueMicrotask: any, structuredClone: any;
declare var clearTimeout: any, clearInterval: any, clearImmediate: any;
declare var URL: any, URLSearchParams: any, TextEncoder: any, TextDecoder: any, AbortController: any;
type URL = any;
type URLSearchParams = any;
declare module "*";
"""
_WARN = ("-w", "-pipe")  # a warning is no error, and compilers print a lot of them
_CPP = ("-std=c++17", "-O1", *_WARN, "-pthread")
_RUST = ("-C", "opt-level=1", "-C", "codegen-units=1", "-C", "prefer-dynamic", "-C", "rpath")  # linking was half of it
_ALTERNATIVES = ("/etc/alternatives",)
# Where Debian puts lodash, which MBXP imports. Node ends at once if it may not read OpenSSL's own configuration.
_NODE = {"NODE_PATH": "/usr/share/nodejs", "OPENSSL_CONF": "/dev/null"}
_CLASSES = ".:/usr/share/java/javatuples.jar"  # imported by all of MultiPL-E
_JAVAC = ("-J-XX:TieredStopAtLevel=1", "-J-XX:+UseSerialGC", "-nowarn", "-d", ".", "-cp", _CLASSES)


def _sources(*names: str) -> dict[str, bytes]:
    return {name: (Path(__file__).parent / "warm" / name).read_bytes() for name in names}


_ROWS = (
    Language(
        "python",
        file="main.py",
        trial="print(6 * 7)",
        run=("python3", "{entry}"),  # where flywheel runs there is a Python
        image="python:3.11-slim",
        grammar="python",
        aliases=("py", "python3"),
        fusion="python",
    ),
    Language(
        "javascript",
        file="main.js",
        trial="console.log(6 * 7)",
        run=("node", "{entry}"),
        programs={"node": "nodejs"},
        image="node:20-slim",
        grammar="javascript",
        aliases=("js", "node", "nodejs"),
        fusion="nodejs",
        env=_NODE,
        address_space=False,
        processes=16,
    ),
    Language(
        "typescript",
        file="main.ts",
        trial="const n: number = 6 * 7;\nconsole.log(n);",
        # Types are checked. Node's own names are declared beside the program, since not everyone has @types/node; those
        # of browsers are not (a program may call something `name`, or `close`).
        compile=("tsc", "--target", "es2021", "--module", "commonjs", "--skipLibCheck", "--lib", "es2021", "{sources}"),
        run=("node", "{stem}.js"),
        programs={"tsc": "node-typescript", "node": "nodejs"},
        image="flywheel-sandbox",
        grammar="typescript",
        aliases=("ts",),
        fusion="typescript",
        env=_NODE,
        support={"node.d.ts": _NODE_TYPES},
        address_space=False,
        processes=16,
        warm=Warm(
            make="""
                lib=$(dirname "$(dirname "$(readlink -f "$(command -v tsc)")")")/lib
                { cat "$lib/typescript.js"; echo "const LIBRARY = '$lib/';"; cat tsc.js; } >entry.js
                echo 'const xs: number[] = [3].map((x) => x + 1); export {};' >warm.ts
                node --snapshot-blob warm/tsc.blob --build-snapshot entry.js
                node --snapshot-blob warm/tsc.blob warm.ts
            """,
            files=_sources("tsc.js"),
            compile=("node", "--snapshot-blob", "{warm}/tsc.blob", "{sources}"),
        ),
    ),
    Language(
        "php",
        file="main.php",
        trial="<?php echo 6 * 7;",
        # PHP's own default compiles assert() away.
        run=("php", "-d", "zend.assertions=1", "-d", "assert.exception=1", "-d", "display_errors=stderr", "{entry}"),
        programs={"php": "php-cli"},
        image="php:8-cli",
        grammar="php",
        fusion="php",
        etc=(*_ALTERNATIVES, "/etc/php"),  # which extensions it has: ctype, mbstring
    ),
    Language(
        "bash",
        file="main.sh",
        trial="echo $((6 * 7))",
        run=("bash", "{entry}"),
        programs={"bash": "bash"},
        grammar="bash",
        aliases=("sh", "shell"),
        fusion="bash",
    ),
    Language(
        "java",
        file="Main.java",
        trial="class Main { public static void main(String[] arguments) { System.out.println(6 * 7); } }",
        compile=("javac", *_JAVAC, "{sources}"),
        run=("java", "-ea", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xss64m", "-cp", _CLASSES, "{stem}"),
        programs={"javac": "default-jdk-headless", "java": "default-jdk-headless"},
        image="eclipse-temurin:17",
        grammar="java",
        fusion="java",
        etc=(*_ALTERNATIVES, "/etc/java-*-openjdk"),
        address_space=False,
        processes=32,
        warm=Warm(  # the compiler's own classes, loaded
            make=f"""
                javac -J-XX:ArchiveClassesAtExit=warm/javac.jsa {" ".join(_JAVAC)} Warm.java
                test -s warm/javac.jsa
            """,
            files=_sources("Warm.java"),
            compile=("javac", "-J-XX:SharedArchiveFile={warm}/javac.jsa", *_JAVAC, "{sources}"),
        ),
    ),
    Language(
        "cpp",
        file="main.cpp",
        trial="#include <iostream>\nint main() { std::cout << 6 * 7; }",
        compile=("g++", *_CPP, "-o", "main", "{sources}"),
        run=("./main",),
        programs={"g++": "g++"},
        image="gcc:12",
        grammar="cpp",
        aliases=("c++", "cc", "cxx"),
        fusion="cpp",
        warm=Warm(  # contests' header of all headers, where it is a program's first
            make=f"""
                mkdir warm/bits
                echo '#include <bits/stdc++.h>' >all.h
                echo '#include_next <bits/stdc++.h>' >warm/bits/stdc++.h
                g++ {" ".join(_CPP)} -x c++-header -o warm/bits/stdc++.h.gch all.h
            """,
            compile=("g++", "-I{warm}", *_CPP, "-o", "main", "{sources}"),
        ),
    ),
    Language(
        "c",
        file="main.c",
        trial='#include <stdio.h>\nint main(void) { printf("%d", 6 * 7); }',
        compile=("gcc", "-std=gnu11", "-O1", *_WARN, "-o", "main", "{sources}", "-lm", "-pthread"),
        run=("./main",),
        programs={"gcc": "gcc"},
        image="gcc:12",
        grammar="c",
    ),
    Language(
        "go",
        file="main.go",
        trial='package main\n\nimport "fmt"\n\nfunc main() { fmt.Println(6 * 7) }',
        compile=("go", "build", "-ldflags=-s -w", "-o", "main", "{sources}"),
        run=("./main",),
        programs={"go": "golang-go"},
        image="golang:1.19",
        grammar="go",
        aliases=("golang", "go_test.go"),  # MultiPL-E calls it so
        fusion="go",
        # Debian's Go packages lie in /usr/share/gocode; modules would have to be fetched.
        env={
            "GOCACHE": "/tmp/go-cache",
            "GOPATH": "/tmp/go:/usr/share/gocode",
            "GO111MODULE": "off",
            "GOFLAGS": "-p=1",
        },
        address_space=False,
        processes=32,
        warm=Warm(  # the packages that tests import, built
            make="""
                export GOCACHE=$PWD/warm
                go build -o warm.out warm.go
                [ ! -d /usr/share/gocode/src/github.com/stretchr/testify ] || go build -o testify.out testify.go
                touch $(printf 'warm/%02x/.keep ' $(seq 0 255))  # Go makes folders that are missing, or tries to
            """,
            files=_sources("warm.go", "testify.go"),
            env={"GOCACHE": "{warm}"},
        ),
    ),
    Language(
        "rust",
        file="main.rs",
        trial='fn main() { println!("{}", 6 * 7); }',
        compile=("rustc", "--edition", "2021", *_RUST, "-A", "warnings", "-o", "main", "{entry}"),
        run=("./main",),
        programs={"rustc": "rustc", "cc": "gcc"},
        image="rust:1-slim",
        grammar="rust",
        aliases=("rs",),
        fusion="rust",
        etc=_ALTERNATIVES,
        processes=16,
    ),
    Language(
        "ruby",
        file="main.rb",
        trial="puts 6 * 7",
        run=("ruby", "{entry}"),
        programs={"ruby": "ruby"},
        image="ruby:3.1-slim",
        grammar="ruby",
        aliases=("rb",),
        fusion="ruby",
        processes=4,
    ),
    Language(
        "perl",
        file="main.pl",
        trial="print 6 * 7;",
        run=("perl", "{entry}"),
        programs={"perl": "perl"},
        image="perl:5.36-slim",
        grammar="perl",
        aliases=("pl",),
        fusion="perl",
    ),
    Language(
        "lua",
        file="main.lua",
        trial="print(6 * 7)",
        run=("lua5.4", "{entry}"),
        programs={"lua5.4": "lua5.4"},
        image="flywheel-sandbox",
        grammar="lua",
        fusion="lua",
    ),
    Language(
        "sql",
        file="main.sql",
        trial="SELECT 6 * 7;",
        # -bail: the first error ends the script, with a return code. It is read as a file, so that stdin is free.
        run=("sqlite3", "-batch", "-bail", "-init", "/dev/null", ":memory:", ".read {entry}"),
        programs={"sqlite3": "sqlite3"},
        image="flywheel-sandbox",
        grammar="sql",
        aliases=("sqlite", "sqlite3"),
        fusion="sql",
    ),
)

LANGUAGES: dict[str, Language] = {row.name: row for row in _ROWS}
_PUBLIC_CLASS = re.compile(
    r"^\s*public\s+(?:final\s+|abstract\s+)*(?:class|record|enum|interface)\s+(\w+)", re.MULTILINE
)
_MAIN_CLASS = re.compile(r"\bclass\s+(\w+)(?=(?:(?!\bclass\b).)*?\bstatic\s+void\s+main\b)", re.DOTALL)
_NAMES = {alias: row for row in _ROWS for alias in (row.name, *row.aliases)}


def language(name: str) -> Language:
    """The row of a language, by its name or an alias, whatever its case.

    Raises:
        UserError: a language that has no row.
    """
    row = _NAMES.get(name.strip().lower())
    if row is None:
        close = get_close_matches(name.lower(), _NAMES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(LANGUAGES)}"
        raise UserError(f"no language is called {name!r}", hint=hint)
    return row


def commands(job: Job, compiler: tuple[str, ...] | None = None) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """What compiles a job (None: nothing to compile), and what runs it; both in its work folder.

    In a row's commands ``{entry}`` is the job's entry (or the language's own file name), ``{stem}`` its name without
    the suffix, and ``{sources}`` all files of the job with the entry's suffix, the entry first.

    Args:
        job: a program.
        compiler: instead of the language's own ``compile``.
    """
    row = language(job.language)
    entry = job.entry or row.file
    stem, _, suffix = entry.rpartition(".")
    others = sorted(name for name in work_files(job) if name != entry and name.endswith(f".{suffix}"))

    def filled(command: tuple[str, ...]) -> tuple[str, ...]:
        words: list[str] = []
        for word in command:
            words += (
                [entry, *others] if word == "{sources}" else [word.replace("{entry}", entry).replace("{stem}", stem)]
            )
        return tuple(words)

    compile = compiler or row.compile
    return (filled(compile) if compile else None), (*filled(row.run), *job.argv)


def work_files(job: Job) -> dict[str, bytes]:
    """All files of a job's work folder: its own, and what its language puts beside them."""
    return {**language(job.language).support, **job.files}


def entry_of(name: str, source: str) -> str:
    """The file name that a program should have: the language's own, but Java names files after their public class."""
    row = language(name)
    if row.name == "java":
        found = _PUBLIC_CLASS.search(source) or _MAIN_CLASS.search(source)
        return f"{found.group(1)}.java" if found else row.file
    return row.file


def absent(name: str) -> dict[str, str]:
    """What a language lacks on this machine: each missing program with the Debian package that brings it."""
    return {
        program: package
        for program, package in language(name).programs.items()
        if shutil.which(program, path=SANDBOX_PATH) is None
    }


def installed(name: str) -> bool:
    """Whether programs of this language can be compiled and run on this machine."""
    return not absent(name)


def missing(names: Iterable[str] = tuple(LANGUAGES)) -> list[str]:
    """One sentence, with its remedy, for each language that this machine cannot run."""
    sentences = []
    for name in names:
        lacks = absent(name)
        if lacks:
            packages = " ".join(dict.fromkeys(lacks.values()))
            sentences.append(
                f"{language(name).name} programs cannot be run here: {', '.join(lacks)} is not under {SANDBOX_PATH}"
                f" (Debian: apt-get install {packages})"
            )
    return sentences
