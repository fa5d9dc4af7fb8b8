"""A sandbox server: any executor behind HTTP, for machines that have no CPUs to spare.

===================== =====================================================================================
``POST /v1/jobs``      one case of a job, as ``wire.JobForm``; answers with an outcome that has lost nothing
``POST /run_code``     SandboxFusion's protocol
``GET /v1/capabilities`` what programs can be run here, and how many at once
``GET /health``        200 and how full it is; 503 and why, when no program can be run: after a failure one is tried
``GET /v1/ping``       "pong", as SandboxFusion has it
===================== =====================================================================================

When as many requests wait as may, the next ones get 429 with ``Retry-After``, and their bodies are not read: who sends
shall go elsewhere, or wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from flywheel.errors import UserError
from flywheel.sandbox.job import MIB, Executor, Job, Limits, Outcome
from flywheel.sandbox.languages import language
from flywheel.sandbox.trial import trial
from flywheel.sandbox.wire import FusionRequest, JobForm, OutcomeForm, from_outcome

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

MOST = Limits(cpu=600.0, wall=900.0, memory=16384 * MIB, processes=1024, output=64 * MIB, disk=1024 * MIB)
"""The most that a request may ask for."""
BODY = 256 * MIB
"""The most bytes of a request."""
_RETRY = "1"
_TRYING = 5.0
_TRIED = 5.0
"""Seconds that a program may take which is run for ``/health``, and for which its outcome is not asked again."""
Form = TypeVar("Form", bound=BaseModel)


class Refused(Exception):
    """A request that is not run: HTTP status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Gate:
    """Runs jobs, so many at once as the executor can and so many waiting as may.

    Args:
        executor: stays the caller's to close.
        waiting: requests that may wait beside those that run.
    """

    def __init__(self, executor: Executor, waiting: int) -> None:
        self.executor = executor
        self.capabilities = executor.capabilities()
        self.most = self.capabilities.parallel + waiting
        self.inside = 0
        self._trying: asyncio.Task[None] | None = None
        self._tried = -math.inf

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A request's place, from before its body is read: bodies take memory too.

        Raises:
            Refused: there is none.
        """
        if self.inside >= self.most:
            raise Refused(429, f"{self.inside} programs are running or waiting")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def run(self, job: Job, gone: Callable[[], Awaitable[None]]) -> Outcome:
        """The only case of a job that has a place.

        Args:
            gone: returns when nobody waits for the answer any more.

        Raises:
            Refused: too high a limit, or a job that this executor cannot run.
        """
        for name, most in asdict(MOST).items():
            if getattr(job.limits, name) > most:
                raise Refused(422, f"limits.{name} is more than {most}")
        try:
            return await _unless(self.executor.run(job), gone)
        except UserError as error:
            raise Refused(422, f"{error.message}{f' ({error.hint})' if error.hint else ''}") from error

    async def health(self) -> str | None:
        """None if programs can be run now; else what is wrong.

        Who sends programs to healthy servers alone would never see one succeed here again: so one is run, now and then.
        """
        problem = await asyncio.to_thread(self.executor.health)  # it may ask an engine, and that may hang
        if problem is None:
            return None
        if self._trying is None and time.monotonic() - self._tried >= _TRIED:
            self._trying = asyncio.create_task(self._try())
        if self._trying is not None:
            await asyncio.shield(self._trying)
            problem = await asyncio.to_thread(self.executor.health)
        return problem

    async def _try(self) -> None:
        names = self.capabilities.languages
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.executor.run(trial("python" if "python" in names else names[0])), _TRYING)
        finally:
            self._trying, self._tried = None, time.monotonic()

    def state(self) -> dict[str, Any]:
        running = min(self.inside, self.capabilities.parallel)
        return {"running": running, "waiting": self.inside - running, "parallel": self.capabilities.parallel}


async def _unless(work: Any, gone: Callable[[], Awaitable[None]]) -> Outcome:
    """Wait for a job, and give it up when nobody waits for it."""
    job = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(gone())
    try:
        await asyncio.wait({job, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not job.done():
            raise Refused(499, "the client is gone")
        return next(iter(job.result()))  # type: ignore[no-any-return]
    finally:
        for task in (job, watch):
            task.cancel()


def make_app(executor: Executor, waiting: int = 64, token: str | None = None) -> Starlette:
    """The server's application.

    Args:
        executor: stays the caller's to close.
        waiting: requests that may wait beside those that run.
        token: that every request must bear, but for ``/health`` and ``/v1/ping``; an empty one is none.

    Raises:
        UserError: starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import JSONResponse, PlainTextResponse
        from starlette.routing import Route
    except ImportError as error:
        raise UserError(
            "serving needs starlette, which is not installed", hint="pip install 'flywheel[code]'"
        ) from error
    gate = Gate(executor, waiting)

    def answered(handle: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                _authorize(request, token)
                return JSONResponse(await handle(request))
            except Refused as error:
                headers = {"retry-after": _RETRY} if error.status == 429 else {}
                return JSONResponse({"error": str(error)}, error.status, headers=headers)

        return endpoint

    async def jobs(request: Request) -> Any:
        with gate.place():
            job = _made(await _form(request, JobForm))
            return OutcomeForm.of(await gate.run(job, _gone(request)))

    async def run_code(request: Request) -> Any:
        with gate.place():
            job = _made(await _form(request, FusionRequest))
            outcome = await gate.run(job, _gone(request))
            return from_outcome(outcome, language(job.language).compile is not None)

    async def capabilities(_: Request) -> Any:
        return asdict(gate.capabilities)

    async def health(_: Request) -> Response:
        problem = await gate.health()
        state = {"status": problem or "ok", **gate.state()}
        return JSONResponse(state, 503 if problem else 200)

    async def ping(_: Request) -> Response:
        return PlainTextResponse("pong")

    return Starlette(
        routes=[
            Route("/v1/jobs", answered(jobs), methods=["POST"]),
            Route("/run_code", answered(run_code), methods=["POST"]),
            Route("/v1/capabilities", answered(capabilities)),
            Route("/health", health),
            Route("/v1/ping", ping),
        ]
    )


def _authorize(request: Request, token: str | None) -> None:
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if token and not hmac.compare_digest(given.encode(), token.encode()):
        raise Refused(401, "the request bears no valid token")


async def _form(request: Request, form: type[Form]) -> Form:
    """A request's body.

    Raises:
        Refused: it is too long, no JSON, or has other fields than it should; or whoever sent it is gone.
    """
    from starlette.requests import ClientDisconnect

    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > BODY:
                raise Refused(413, f"the request has more than {BODY} bytes")
    except ClientDisconnect as error:
        raise Refused(499, "the client is gone") from error
    try:
        return form.model_validate(json.loads(body))
    except (ValueError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise Refused(400, "the request is no JSON") from error
        faults = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise Refused(422, "; ".join(faults[:5])) from error


def _made(form: JobForm | FusionRequest) -> Job:
    try:
        return form.job()
    except UserError as error:
        raise Refused(422, f"{error.message}{f' ({error.hint})' if error.hint else ''}") from error


def _gone(request: Request) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return wait
