"""Jobs and outcomes as JSON: this project's own form, which loses nothing, and SandboxFusion's ``/run_code``.

SandboxFusion (https://bytedance.github.io/SandboxFusion) runs one source file with text on stdin and answers with text,
a return code and whether the time was up; which limit else was met, bytes, CPU time and memory are not in it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, TypeAdapter

from flywheel.errors import UserError
from flywheel.sandbox.job import MIB, Capabilities, Job, Level, Limits, Outcome, Status, Usage
from flywheel.sandbox.languages import LANGUAGES, entry_of, language

FUSION = {row.fusion: row.name for row in LANGUAGES.values() if row.fusion}
"""SandboxFusion's names of languages, and ours."""


class _Plain(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class LimitsForm(_Plain):
    """``job.Limits``."""

    cpu: float = Field(gt=0)
    wall: float = Field(gt=0)
    memory: int = Field(gt=0)
    processes: int = Field(gt=0)
    output: int = Field(ge=0)
    disk: int = Field(ge=0)


class JobForm(_Plain):
    """One case of a ``job.Job``; contents are base64."""

    language: str
    files: dict[str, Base64Bytes]
    entry: str = ""
    argv: list[str] = []
    stdin: Base64Bytes = b""
    limits: LimitsForm
    hash_seed: int = 0
    clock: int | None = None
    fetch: list[str] = []

    @classmethod
    def of(cls, job: Job, case: int) -> dict[str, Any]:
        """A case as plain data."""
        return {
            "language": job.language,
            "files": _encoded(job.files),
            "entry": job.entry,
            "argv": list(job.argv),
            "stdin": _text(job.stdin[case]),
            "limits": asdict(job.limits),
            "hash_seed": job.hash_seed,
            "clock": job.clock,
            "fetch": list(job.fetch),
        }

    def job(self) -> Job:
        """Raises: UserError: file names that leave the work folder."""
        return Job(
            self.language,
            dict(self.files),
            self.entry,
            tuple(self.argv),
            (self.stdin,),
            Limits(**self.limits.model_dump()),
            self.hash_seed,
            self.clock,
            tuple(self.fetch),
        )


class OutcomeForm(_Plain):
    """A ``job.Outcome``; contents are base64."""

    status: Status
    exit_code: int | None = None
    signal: int | None = None
    stdout: Base64Bytes = b""
    stderr: Base64Bytes = b""
    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0
    limits: LimitsForm
    level: Level
    detail: str = ""
    files: dict[str, Base64Bytes] = {}

    @classmethod
    def of(cls, outcome: Outcome) -> dict[str, Any]:
        """An outcome as plain data."""
        return {
            "status": outcome.status,
            "exit_code": outcome.exit_code,
            "signal": outcome.signal,
            "stdout": _text(outcome.stdout),
            "stderr": _text(outcome.stderr),
            **asdict(outcome.usage),
            "limits": asdict(outcome.limits),
            "level": outcome.level,
            "detail": outcome.detail,
            "files": _encoded(outcome.files),
        }

    def outcome(self) -> Outcome:
        return Outcome(
            self.status,
            self.exit_code,
            self.signal,
            self.stdout,
            self.stderr,
            Usage(self.cpu, self.wall, self.memory),
            Limits(**self.limits.model_dump()),
            self.level,
            self.detail,
            files=dict(self.files),
        )


def capabilities_from(data: Any) -> Capabilities:
    """Capabilities from plain data.

    Raises:
        ValueError: it is something else.
    """
    return TypeAdapter(Capabilities).validate_python(data)


class FusionRequest(_Plain):
    """What SandboxFusion's ``/run_code`` takes. ``compile_timeout`` is not used: compiling has limits of its own."""

    code: str
    language: str
    stdin: str | None = None
    compile_timeout: float = 10
    run_timeout: float = Field(default=10, gt=0)
    memory_limit_MB: int = -1
    files: dict[str, Base64Bytes | None] = {}
    fetch_files: list[str] = []
    args: list[str] = []

    def job(self) -> Job:
        """Raises: UserError: a language without a row, or file names that leave the work folder."""
        name = FUSION.get(self.language) or language(self.language).name
        code = self.code.encode(errors="surrogatepass")
        entry = entry_of(name, self.code)
        limits = Limits(cpu=self.run_timeout, wall=self.run_timeout)
        if self.memory_limit_MB > 0:
            limits = Limits(cpu=limits.cpu, wall=limits.wall, memory=self.memory_limit_MB * MIB)
        beside = {path: content for path, content in self.files.items() if content is not None}
        stdin = (self.stdin or "").encode(errors="surrogatepass")
        return Job(
            name,
            {**beside, entry: code},
            entry,
            tuple(self.args),
            (stdin,),
            limits,
            fetch=tuple(self.fetch_files),
        )


class _CommandResult(_Plain):
    status: Literal["Finished", "Error", "TimeLimitExceeded"]
    execution_time: float | None = None
    return_code: int | None = None
    stdout: str | None = None
    stderr: str | None = None


class FusionResponse(_Plain):
    """What it answers."""

    status: Literal["Success", "Failed", "SandboxError"]
    message: str = ""
    compile_result: _CommandResult | None = None
    run_result: _CommandResult | None = None
    files: dict[str, Base64Bytes] = {}

    def outcome(self, job: Job) -> Outcome | None:
        """What it says of a job's run; None if the sandbox failed."""
        made, ran = self.compile_result, self.run_result
        if self.status == "SandboxError":
            return None
        if made is not None and (made.status != "Finished" or made.return_code):
            if made.status == "Error":
                return None
            why = "the compiler's time was up" if made.status == "TimeLimitExceeded" else ""
            outcome = _said(made, job)
            return Outcome("compile_error", made.return_code, stderr=outcome.stderr, limits=job.limits, detail=why)
        if ran is None or ran.status == "Error":
            return None
        return _said(ran, job, dict(self.files))


def to_fusion(job: Job, case: int) -> dict[str, Any]:
    """A case of a job as a ``/run_code`` request.

    Raises:
        UserError: it has what SandboxFusion cannot take.
    """
    row = language(job.language)
    entry = job.entry or row.file
    if row.fusion is None:
        raise UserError(f"SandboxFusion has no {row.name}", hint=_OWN)
    if job.argv:
        raise UserError("SandboxFusion gives programs no arguments", hint=_OWN)
    try:
        code, stdin = job.files[entry].decode(), job.stdin[case].decode()
    except UnicodeDecodeError as error:
        raise UserError("SandboxFusion takes programs and stdin as UTF-8 text only", hint=_OWN) from error
    return {
        "code": code,
        "language": row.fusion,
        "stdin": stdin,
        "compile_timeout": 60,
        "run_timeout": job.limits.wall,
        "memory_limit_MB": math.ceil(job.limits.memory / MIB),
        "files": _encoded({name: content for name, content in job.files.items() if name != entry}),
        "fetch_files": list(job.fetch),
    }


def from_outcome(outcome: Outcome, compiled: bool) -> dict[str, Any]:
    """An outcome as a ``/run_code`` response.

    Args:
        compiled: whether the language is.
    """
    ran: dict[str, Any] = {
        "status": "TimeLimitExceeded" if outcome.status in ("cpu", "wall") else "Finished",
        "execution_time": outcome.usage.wall,
        "return_code": outcome.exit_code,
        "stdout": outcome.stdout.decode(errors="replace"),
        "stderr": outcome.stderr.decode(errors="replace"),
    }
    if outcome.status == "infra_error":
        return {"status": "SandboxError", "message": outcome.detail}
    if outcome.status == "compile_error":
        made = {**ran, "return_code": outcome.exit_code or 1}
        return {"status": "Failed", "message": "", "compile_result": made, "run_result": None, "files": {}}
    if outcome.status not in ("exited", "cpu", "wall"):
        ran |= {"return_code": -(outcome.signal or 9), "stderr": f"{ran['stderr']}\n{outcome}".strip()}
    done = {"status": "Finished", "execution_time": 0.0, "return_code": 0, "stdout": "", "stderr": ""}
    return {
        "status": "Success" if outcome.ok else "Failed",
        "message": "",
        "compile_result": done if compiled else None,
        "run_result": ran,
        "files": _encoded(outcome.files),
    }


_OWN = "use this project's own server: flywheel serve-sandbox"


def _said(result: _CommandResult, job: Job, files: Mapping[str, bytes] | None = None) -> Outcome:
    told = Outcome(
        "exited",
        stdout=(result.stdout or "").encode(errors="surrogatepass")[: job.limits.output],
        stderr=(result.stderr or "").encode(errors="surrogatepass")[: job.limits.output],
        usage=Usage(wall=result.execution_time or 0.0),
        limits=job.limits,
        level="remote",
    )
    code = result.return_code
    if result.status == "TimeLimitExceeded":
        return replace(told, status="wall")
    if code is not None and (code < 0 or code > 128):  # a shell's way to tell of a signal
        return replace(told, status="signaled", signal=-code if code < 0 else code - 128)
    return replace(told, exit_code=code, files=files or {})


def _encoded(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: _text(content) for name, content in files.items()}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
