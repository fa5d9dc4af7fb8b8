"""Rows of public code datasets, read as problems: which format a row has shows in its fields.

Known are HumanEval (and HumanEval-X, HumanEvalPack), MBPP, MultiPL-E, plain lists of assertions, a file of tests, and
inputs with outputs as LiveCodeBench, APPS, TACO and CodeContests write them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from flywheel.tasks.code import asserts
from flywheel.tasks.code.cases import input_output, read_cases, scored_lists
from flywheel.tasks.code.extract import parses
from flywheel.tasks.code.fields import (
    NAME,
    Row,
    assertions,
    code_lines,
    gold_of,
    known_language,
    language_named,
    list_of,
    name_of,
    optional,
    question_of,
    require_python,
    require_tests,
    text_of,
)
from flywheel.tasks.code.spec import Spec


@dataclass(frozen=True)
class Read:
    """A row, understood.

    Attributes:
        format: which of the known formats it is.
        name: the dataset's own name of the problem, or None.
        question: what is asked, in words or as the beginning of a program.
        spec: how answers are tested.
        gold: a program that is known to be right, or None.
        shown: tests that the question may show.
        starter: code that the answer should begin from, if it is not in the question.
    """

    format: str
    name: str | None
    question: str
    spec: Spec
    gold: str | None = None
    shown: tuple[str, ...] = ()
    starter: str = ""

    @property
    def id(self) -> str:
        """The dataset's name if it says which dataset, else one made from format and name, or from the content."""
        if self.name is None:
            text = json.dumps([self.question, self.spec.to_data()], sort_keys=True)
            return f"{self.format}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        return f"{self.format}/{self.name}" if self.name.isdigit() else self.name


def read_row(row: Row) -> Read:
    """A problem from a row of any of the formats.

    Raises:
        ValueError: the row has no format that is known, or lacks something; says what.
    """
    for recognise, read in _FORMATS:
        if recognise(row):
            try:
                return read(row)
            except (
                AttributeError,
                TypeError,
                KeyError,
                RecursionError,
            ) as error:  # other people's data may be anything
                name = read.__name__.strip("_")
                raise ValueError(f"it looks like {name}, but its fields are not of the right kind: {error}") from error
    if "base_input" in row and "plus_input" in row:
        raise ValueError("EvalPlus's own files have inputs without outputs; the Hub's evalplus/* have them as `test`")
    has = ", ".join(sorted(map(str, row))) or "none"
    raise ValueError(
        f"no known format of code problems in the fields {has}; it needs tests: `test` with `entry_point` (HumanEval), "
        "`test_list` (MBPP), `tests` (assertions, MultiPL-E, or input/output cases), `input_output` (APPS), or "
        "`public_test_cases` (LiveCodeBench)"
    )


def _is_human_eval(row: Row) -> bool:
    if not isinstance(row.get("test"), str) or not ("prompt" in row or "complete_prompt" in row):
        return False
    # HumanEval-X names no entry point, but the language: Java/17.
    return isinstance(row.get("entry_point"), str) or ("canonical_solution" in row and _family(row) is not None)


def _human_eval(row: Row) -> Read:
    prompt = text_of(row, "prompt" if row.get("prompt") else "complete_prompt")  # BigCodeBench has two
    tongue = language_named(row["language"]) if row.get("language") else _family(row) or "python"
    head = optional(row, "declaration").rstrip()
    # In HumanEval-X's Rust the prompt is only what is asked; elsewhere it ends with the declaration, more or less.
    if head and "".join(head.splitlines()[-1].split()) not in "".join(prompt.split()):
        prompt = f"{_CRATE.sub('', head) if tongue == 'rust' else head}\n{prompt}"
    tests, entry = text_of(row, "test"), optional(row, "entry_point") or _last_function(prompt)
    name, gold, setup = name_of(row), row.get("canonical_solution"), code_lines(row.get("test_setup"))
    whole = prompt + gold if isinstance(gold, str) else None
    if tongue != "python":
        return Read("humaneval", name, prompt, Spec("tests", tongue, entry, prompt, setup, tests=tests), whole)
    require_tests(tests, "test", entry)
    found = asserts.check_cases(tests, entry) if entry else None
    if found is not None:
        return Read("humaneval", name, prompt, Spec("call", "python", entry, prompt, setup, cases=found), whole)
    return Read("humaneval", name, prompt, Spec("tests", "python", entry, prompt, setup, tests=tests), whole)


_CRATE = re.compile(r"^use\s+(?!(?:std|core|alloc)\b)[^;]*;\n", re.MULTILINE)
"""Three crates are imported in every problem, and used in five; there are none beside Rust's own here."""


def _family(row: Row) -> str | None:
    return known_language(str(row.get("task_id", "")).partition("/")[0])


def _last_function(prompt: str) -> str | None:
    found = re.findall(r"^def\s+(\w+)", prompt, re.MULTILINE)
    return found[-1] if found else None


def _is_multipl_e(row: Row) -> bool:
    return isinstance(row.get("tests"), str) and "prompt" in row and "language" in row and "entry_point" not in row


def _multipl_e(row: Row) -> Read:
    tongue = language_named(row["language"])
    prompt, tests = text_of(row, "prompt"), text_of(row, "tests")
    stop = [str(s) for s in list_of(row.get("stop_tokens") or [], "stop_tokens")]
    spec = Spec("tests", tongue, None, prompt, tests=tests, stop=stop)
    gold = gold_of(row)
    whole = gold if gold is None or prompt.strip() in gold else prompt + gold
    return Read("multipl-e", name_of(row, "name", *NAME), prompt, spec, whole)


def _is_mbpp(row: Row) -> bool:
    return "test_list" in row and _is_pythons(row)


def _mbpp(row: Row) -> Read:
    shown = assertions(row["test_list"], "test_list")
    hidden = assertions(row.get("challenge_test_list") or [], "challenge_test_list", may_be_empty=True)
    setup = code_lines(row.get("test_setup_code"))
    read = _asserted("mbpp", row, shown, hidden, code_lines(row.get("test_imports")))
    if setup:  # it stands between the program and the tests, and makes objects of the program's classes for them
        require_python(setup, "test_setup_code")
        tests = "\n".join([setup, *shown, *hidden])
        read = replace(read, spec=replace(read.spec, level="tests", cases=(), tests=f"{tests}\n"))
    if isinstance(row.get("test"), str) and row["test"].strip():  # MBPP+: far more inputs, as a program
        require_tests(row["test"], "test", read.spec.function)
        read = replace(read, spec=replace(read.spec, level="tests", cases=(), tests=row["test"]))
    return read


def _is_assert_list(row: Row) -> bool:
    return _assert_field(row) is not None and _is_pythons(row)


def _is_pythons(row: Row) -> bool:
    """What reads like Python in another language is not. Some datasets' language is English."""
    return (known_language(str(row.get("language") or "python")) or "python") == "python"


def _assert_field(row: Row) -> str | None:
    for key in ("asserts", "assertions", "tests", "test_cases", "test"):
        listed = row.get(key)
        if isinstance(listed, str) and asserts.split_asserts(listed):
            return key
        if listed and _is_texts(listed):
            return key
    return None


def _assert_list(row: Row) -> Read:
    key = _assert_field(row)
    assert key is not None
    listed = asserts.split_asserts(row[key]) if isinstance(row[key], str) else row[key]
    setup = code_lines(row.get("setup"), row.get("imports"))
    return _asserted("asserts", row, assertions(listed, key), [], setup)


def _asserted(format: str, row: Row, shown: list[str], hidden: list[str], setup: str) -> Read:
    tests = [*shown, *hidden]
    given = row.get("entry_point")
    entry = given if isinstance(given, str) and given else asserts.called(tests, gold_of(row))
    if entry is None:
        raise ValueError("its tests call no function of the answer; name it in `entry_point`")
    prefix = optional(row, "starter_code")
    found = asserts.as_cases(tests, entry)
    if found is not None:
        spec = Spec("call", "python", entry, prefix, setup, cases=found)
    else:
        spec = Spec("tests", "python", entry, prefix, setup=setup, tests="\n".join(tests) + "\n")
        require_tests(spec.tests, "tests", entry)
    return Read(format, name_of(row), question_of(row), spec, gold_of(row), tuple(shown), prefix)


def _is_live_code_bench(row: Row) -> bool:
    return "public_test_cases" in row or "private_test_cases" in row


def _live_code_bench(row: Row) -> Read:
    listed = [
        case
        for key in ("public_test_cases", "private_test_cases")
        for case in (scored_lists(row[key], key) if row.get(key) else [])
    ]
    metadata = row.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    starter = optional(row, "starter_code")
    function = metadata.get("func_name") if isinstance(metadata, dict) else None
    spec = read_cases(listed, function or row.get("fn_name"), starter)
    return Read(
        "livecodebench", name_of(row, "question_id", *NAME), question_of(row), spec, gold_of(row), starter=starter
    )


def _is_input_output(row: Row) -> bool:
    return row.get("input_output") not in (None, "")


def _apps(row: Row) -> Read:
    given = row["input_output"]
    table = json.loads(given) if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        raise ValueError("`input_output` is not an object with inputs and outputs")
    starter = optional(row, "starter_code")
    spec = input_output(table, table.get("fn_name"), starter)
    return Read("apps", name_of(row), question_of(row), spec, gold_of(row), starter=starter)


def _is_contest(row: Row) -> bool:
    return isinstance(row.get("public_tests"), Mapping) or isinstance(row.get("private_tests"), Mapping)


def _contest(row: Row) -> Read:
    inputs: list[Any] = []
    outputs: list[Any] = []
    for key in ("public_tests", "private_tests", "generated_tests"):
        table = row.get(key) or {}
        if not isinstance(table, Mapping):
            raise ValueError(f"`{key}` must be an object with input and output, not {type(table).__name__}")
        inputs += list_of(table.get("input") or [], f"{key}.input")
        outputs += list_of(table.get("output") or [], f"{key}.output")
    return Read(
        "contest",
        name_of(row, "name"),
        question_of(row),
        input_output({"inputs": inputs, "outputs": outputs}),
        gold_of(row),
    )


_CASES = ("tests", "test_cases", "cases", "examples")


def _is_cases(row: Row) -> bool:
    return _case_field(row) is not None or ("inputs" in row and "outputs" in row)


def _case_field(row: Row) -> str | None:
    def has_cases(value: Any) -> bool:
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                return False
        return isinstance(value, list) and bool(value) and all(isinstance(x, Mapping) and "input" in x for x in value)

    return next((key for key in _CASES if has_cases(row.get(key))), None)


def _cases(row: Row) -> Read:
    starter = optional(row, "starter_code")
    function = row.get("entry_point") or row.get("fn_name") or row.get("func_name")
    key = _case_field(row)
    if key is None:
        spec = input_output(row, function, starter)
    else:
        listed = json.loads(row[key]) if isinstance(row[key], str) else row[key]
        spec = read_cases(listed, function, starter)
    tongue = language_named(row["language"]) if row.get("language") else "python"
    return Read("cases", name_of(row), question_of(row), replace(spec, language=tongue), gold_of(row), starter=starter)


def _is_test_file(row: Row) -> bool:
    return _test_field(row) is not None


def _test_field(row: Row) -> str | None:
    keys = ("test", "tests", "test_code", "asserts", "assertions", "test_cases", "test_list")
    return next((key for key in keys if isinstance(row.get(key), str) and row[key].strip()), None) or next(
        (key for key in keys if row.get(key) and _is_texts(row[key])), None
    )


def _tongue(row: Row, tests: str) -> str:
    named = row.get("language") or "python"
    if known_language(str(named)) is None and parses(tests):  # it is English, or whatever is asked in
        return "python"
    return language_named(named)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _test_file(row: Row) -> Read:
    key = _test_field(row)
    assert key is not None
    tests = row[key] if isinstance(row[key], str) else "".join(f"{line}\n" for line in row[key])
    tongue = _tongue(row, tests)
    entry = row.get("entry_point") if isinstance(row.get("entry_point"), str) else None
    if tongue == "python":
        require_tests(tests, key, entry)
    spec = Spec("tests", tongue, entry, setup=code_lines(row.get("setup")), tests=tests)
    return Read("testfile", name_of(row), question_of(row), spec, gold_of(row))


_FORMATS = (
    (_is_human_eval, _human_eval),
    (_is_multipl_e, _multipl_e),
    (_is_mbpp, _mbpp),
    (_is_live_code_bench, _live_code_bench),
    (_is_input_output, _apps),
    (_is_contest, _contest),
    (_is_cases, _cases),
    (_is_assert_list, _assert_list),
    (_is_test_file, _test_file),
)
"""The first that fits; the more telling fields come first."""
