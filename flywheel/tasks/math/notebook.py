"""Blocks of Python that are run one after the other, like the cells of a notebook, in the sandbox."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flywheel.errors import UserError
from flywheel.sandbox.job import Executor, Job, Limits, Outcome

_PROGRAM = """\
import ast, contextlib, io, json, sys, traceback

def run(source, names):
    tree = ast.parse(source, "block")
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "block", "exec"), names)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), "block", "eval"), names)
        if value is not None:
            print(value)

with open("blocks.json") as file:
    *earlier, latest = json.load(file)
names = {"__name__": "__main__"}
for source in earlier:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with contextlib.suppress(BaseException):
            run(source, names)
try:
    run(latest, names)
except SystemExit:
    pass
except BaseException as error:
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != "block":
        trace = trace.tb_next
    sys.stdout.flush()
    traceback.print_exception(type(error), error, trace, limit=-3, chain=False)
"""


@dataclass(frozen=True, slots=True)
class Shown:
    """What the model gets to see of a block.

    Attributes:
        text: its output, cut to a size, with the error or the limit that ended it.
        kept: whether it can be run again before the next block.
        failure: why the sandbox could not run it; then nothing is known of the block.
    """

    text: str
    kept: bool = True
    failure: str | None = None


class Notebook:
    """Runs blocks; the sandbox starts with the first of them.

    Args:
        timeout: seconds that one block may run, with those before it.
        max_output: characters that are shown.
        sandbox: as ``sandbox.make_executor`` takes it.
    """

    def __init__(self, timeout: float, max_output: int, sandbox: str | Mapping[str, Any] = "local") -> None:
        self._limits = Limits(cpu=timeout, wall=timeout + 5)
        self._max_output = max_output
        self._spec = sandbox
        self._executor: Executor | None = None

    async def run(self, blocks: Sequence[str]) -> Shown:
        """What the last block shows."""
        [outcome] = await self._sandbox().run(self._job(blocks))
        return self._shown(outcome)

    def run_all(self, notebooks: Sequence[Sequence[str]]) -> list[Shown]:
        """The same for several, from plain code."""
        outcomes = self._sandbox().run_all([self._job(blocks) for blocks in notebooks])
        return [self._shown(outcome) for [outcome] in outcomes]

    def findings(self) -> list[str]:
        """Why no code can be run here."""
        try:
            languages = self._sandbox().capabilities().languages
        except UserError as error:
            return [f"rollouts.code: {error.message}" + (f" ({error.hint})" if error.hint else "")]
        return [] if "python" in languages else ["rollouts.code: the sandbox cannot run Python here"]

    def close(self) -> None:
        """End the sandbox."""
        if self._executor is not None:
            self._executor.close()
        self._executor = None

    def _sandbox(self) -> Executor:
        if self._executor is None:
            self._executor = _make_executor(self._spec)
        return self._executor

    def _job(self, blocks: Sequence[str]) -> Job:
        files = {"main.py": _PROGRAM.encode(), "blocks.json": json.dumps(list(blocks)).encode()}
        return Job("python", files, entry="main.py", limits=self._limits)

    def _shown(self, outcome: Outcome) -> Shown:
        if outcome.status == "infra_error":
            return Shown("", kept=False, failure=outcome.detail or "no reason given")
        said = (outcome.stdout + outcome.stderr).decode("utf-8", "replace").strip()
        if not outcome.ok:
            said = f"{said}\n({outcome})".strip()
        return Shown(_cut(said, self._max_output) or "(no output)", kept=outcome.ok)


def _make_executor(spec: str | Mapping[str, Any]) -> Executor:
    """The sandbox, loaded only where it is wanted.

    Raises:
        UserError: this installation has none, or the machine cannot run it.
    """
    try:
        make: Any = importlib.import_module("flywheel.sandbox").make_executor
    except (ImportError, AttributeError) as error:
        raise UserError(f"there is no sandbox to run code in: {error}", hint="leave rollouts.code out") from error
    executor: Executor = make(spec)
    return executor


def _cut(text: str, most: int) -> str:
    """The beginning and the end of a text that is too long: errors stand at the end."""
    if len(text) <= most:
        return text
    head, tail = most - most // 2, most // 2
    return f"{text[:head]}\n… ({len(text) - most:,} characters) …\n{text[len(text) - tail :] if tail else ''}".strip()
