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

from flywheel.errors import UserError
from flywheel.sandbox.languages import language
from flywheel.tasks.code import asserts
from flywheel.tasks.code.cases import input_output, read_cases, scored_lists
from flywheel.tasks.code.spec import Spec

Row = Mapping[str, Any]

QUESTION = (
    "question_content", "question", "description", "problem_statement", "problem", "text", "prompt", "instruction",
    "content",
)  # fmt: skip
GOLD = ("canonical_solution", "reference_solution", "solution", "solutions", "code", "gold")
NAME = ("task_id", "problem_id", "question_id", "id", "name")


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
            return read(row)
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
    prompt = _text(row, "prompt" if row.get("prompt") else "complete_prompt")  # BigCodeBench has two
    tests, entry = _text(row, "test"), _optional(row, "entry_point") or _last_function(prompt)
    tongue = _language(row["language"]) if row.get("language") else _family(row) or "python"
    name, gold, setup = _name(row), row.get("canonical_solution"), _lines(row.get("test_setup"))
    whole = prompt + gold if isinstance(gold, str) else None
    if tongue != "python":
        return Read("humaneval", name, prompt, Spec("tests", tongue, entry, prompt, setup, tests=tests), whole)
    _parses(tests, "test")
    found = asserts.check_cases(tests, entry) if entry else None
    if found is not None:
        return Read("humaneval", name, prompt, Spec("call", "python", entry, prompt, setup, cases=found), whole)
    return Read("humaneval", name, prompt, Spec("tests", "python", entry, prompt, setup, tests=tests), whole)


def _family(row: Row) -> str | None:
    return _known(str(row.get("task_id", "")).partition("/")[0])


def _last_function(prompt: str) -> str | None:
    found = re.findall(r"^def\s+(\w+)", prompt, re.MULTILINE)
    return found[-1] if found else None


def _is_multipl_e(row: Row) -> bool:
    return isinstance(row.get("tests"), str) and "prompt" in row and "language" in row and "entry_point" not in row


def _multipl_e(row: Row) -> Read:
    tongue = _language(row["language"])
    prompt, tests = _text(row, "prompt"), _text(row, "tests")
    stop = [str(s) for s in _listed(row.get("stop_tokens") or [], "stop_tokens")]
    spec = Spec("tests", tongue, None, prompt, tests=tests, stop=stop)
    gold = _gold(row)
    whole = gold if gold is None or prompt.strip() in gold else prompt + gold
    return Read("multipl-e", _name(row, "name", *NAME), prompt, spec, whole)


def _is_mbpp(row: Row) -> bool:
    return "test_list" in row


def _mbpp(row: Row) -> Read:
    shown = _assertions(row["test_list"], "test_list")
    hidden = _assertions(row.get("challenge_test_list") or [], "challenge_test_list", may_be_empty=True)
    setup = _lines(row.get("test_setup_code"), row.get("test_imports"))
    read = _asserted("mbpp", row, shown, hidden, setup)
    if isinstance(row.get("test"), str) and row["test"].strip():  # MBPP+: far more inputs, as a program
        _parses(row["test"], "test")
        read = replace(read, spec=replace(read.spec, level="tests", cases=(), tests=row["test"]))
    return read


def _is_assert_list(row: Row) -> bool:
    return _assert_field(row) is not None


def _assert_field(row: Row) -> str | None:
    for key in ("asserts", "assertions", "tests", "test_cases", "test"):
        listed = row.get(key)
        if isinstance(listed, str) and asserts.split_asserts(listed):
            return key
        if isinstance(listed, list) and listed and all(isinstance(x, str) for x in listed):
            return key
    return None


def _assert_list(row: Row) -> Read:
    key = _assert_field(row)
    assert key is not None
    listed = asserts.split_asserts(row[key]) if isinstance(row[key], str) else row[key]
    setup = _lines(row.get("setup"), row.get("imports"))
    return _asserted("asserts", row, _assertions(listed, key), [], setup)


def _asserted(format: str, row: Row, shown: list[str], hidden: list[str], setup: str) -> Read:
    tests = [*shown, *hidden]
    given = row.get("entry_point")
    entry = given if isinstance(given, str) and given else asserts.called(tests)
    if entry is None:
        raise ValueError("its tests call no function of the answer; name it in `entry_point`")
    prefix = _optional(row, "starter_code")
    found = asserts.as_cases(tests, entry)
    if found is not None:
        spec = Spec("call", "python", entry, prefix, setup, cases=found)
    else:
        spec = Spec("tests", "python", entry, prefix, setup=setup, tests="\n".join(tests) + "\n")
    return Read(format, _name(row), _question(row), spec, _gold(row), tuple(shown), prefix)


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
    starter = _optional(row, "starter_code")
    function = metadata.get("func_name") if isinstance(metadata, dict) else None
    spec = read_cases(listed, function or row.get("fn_name"), starter)
    return Read("livecodebench", _name(row, "question_id", *NAME), _question(row), spec, _gold(row), starter=starter)


def _is_input_output(row: Row) -> bool:
    return row.get("input_output") not in (None, "")


def _apps(row: Row) -> Read:
    given = row["input_output"]
    table = json.loads(given) if isinstance(given, str) else given
    if not isinstance(table, Mapping):
        raise ValueError("`input_output` is not an object with inputs and outputs")
    starter = _optional(row, "starter_code")
    spec = input_output(table, table.get("fn_name"), starter)
    return Read("apps", _name(row), _question(row), spec, _gold(row), starter=starter)


def _is_contest(row: Row) -> bool:
    return isinstance(row.get("public_tests"), Mapping) or isinstance(row.get("private_tests"), Mapping)


def _contest(row: Row) -> Read:
    inputs: list[Any] = []
    outputs: list[Any] = []
    for key in ("public_tests", "private_tests", "generated_tests"):
        table = row.get(key) or {}
        inputs += _listed(table.get("input") or [], f"{key}.input")
        outputs += _listed(table.get("output") or [], f"{key}.output")
    return Read(
        "contest", _name(row, "name"), _question(row), input_output({"inputs": inputs, "outputs": outputs}), _gold(row)
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
    starter = _optional(row, "starter_code")
    function = row.get("entry_point") or row.get("fn_name") or row.get("func_name")
    key = _case_field(row)
    if key is None:
        spec = input_output(row, function, starter)
    else:
        listed = json.loads(row[key]) if isinstance(row[key], str) else row[key]
        spec = read_cases(listed, function, starter)
    tongue = _language(row["language"]) if row.get("language") else "python"
    return Read("cases", _name(row), _question(row), replace(spec, language=tongue), _gold(row), starter=starter)


def _is_test_file(row: Row) -> bool:
    return any(isinstance(row.get(key), str) and row[key].strip() for key in ("test", "tests", "test_code"))


def _test_file(row: Row) -> Read:
    key = next(k for k in ("test", "tests", "test_code") if isinstance(row.get(k), str) and row[k].strip())
    tongue = _language(row["language"]) if row.get("language") else "python"
    tests = row[key]
    if tongue == "python":
        _parses(tests, key)
    entry = row.get("entry_point") if isinstance(row.get("entry_point"), str) else None
    spec = Spec("tests", tongue, entry, setup=_lines(row.get("setup")), tests=tests)
    return Read("testfile", _name(row), _question(row), spec, _gold(row))


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


def _question(row: Row) -> str:
    for key in QUESTION:
        if isinstance(row.get(key), str) and row[key].strip():
            return str(row[key]).strip()
    raise ValueError(f"nothing is asked: it has none of {', '.join(QUESTION[:-1])}")


def _gold(row: Row) -> str | None:
    """The first solution that is written down; APPS has a JSON list of them, CodeContests a table by language."""
    for key in GOLD:
        value = row.get(key)
        if key == "solutions" and isinstance(value, str) and value.strip().startswith("["):
            try:
                value = json.loads(value)
            except ValueError:
                continue
        if isinstance(value, Mapping) and isinstance(value.get("solution"), list):
            languages = value.get("language") or []
            value = [s for s, number in zip(value["solution"], languages, strict=False) if number == 3]  # Python 3
        if isinstance(value, list):
            value = next((x for x in value if isinstance(x, str)), None)
        if isinstance(value, str) and value.strip():
            return value
    return None


def _name(row: Row, *keys: str) -> str | None:
    for key in keys or NAME:
        if isinstance(row.get(key), str | int) and str(row[key]).strip():
            return str(row[key])
    return None


def _text(row: Row, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`{key}` must be text, not {'empty' if value == '' else type(value).__name__}")
    return value


def _optional(row: Row, key: str) -> str:
    value = row.get(key)
    return value if isinstance(value, str) else ""


def _listed(value: Any, key: str) -> list[Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"`{key}` is not a list: {error}") from error
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{key}` must be a list, not {type(value).__name__}")
    return list(value)


def _assertions(value: Any, key: str, *, may_be_empty: bool = False) -> list[str]:
    listed = _listed(value, key)
    if not listed and not may_be_empty:
        raise ValueError(f"`{key}` is empty: there is nothing to test")
    for number, text in enumerate(listed, start=1):
        if not isinstance(text, str):
            raise ValueError(f"`{key}`, test {number}: must be text, not {type(text).__name__}")
        _parses(text, f"{key}, test {number}")
    return listed


def _parses(code: str, what: str) -> None:
    import ast

    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise ValueError(f"`{what}` is not Python{line}: {reason}") from error


def _lines(*given: Any) -> str:
    """Set-up code, given as text or as a list of lines."""
    parts = [line for value in given for line in ([value] if isinstance(value, str) else value or []) if line.strip()]
    return "\n".join(parts) + "\n" if parts else ""


def _language(name: Any) -> str:
    try:
        return language(str(name)).name
    except UserError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def _known(name: str) -> str | None:
    try:
        return language(name).name
    except UserError:
        return None
