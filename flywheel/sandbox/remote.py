"""Programs on other machines, over HTTP: this project's own servers, or any that speak SandboxFusion's ``/run_code``.

Each server gets at most so many programs at once as it can run; who is full (429, 503) is left alone for a while, who
does not answer for longer, and what it was asked is asked elsewhere. An outcome is an ``infra_error`` only when every
server failed.
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from flywheel.errors import UserError
from flywheel.sandbox.job import Capabilities, Job, Outcome
from flywheel.sandbox.languages import language
from flywheel.sandbox.pool import Pool, SandboxFailed
from flywheel.sandbox.wire import (
    FUSION,
    FusionResponse,
    JobForm,
    OutcomeForm,
    capabilities_from,
    to_fusion,
)

Protocol = Literal["flywheel", "sandbox_fusion"]

TOKEN = "FLYWHEEL_SANDBOX_TOKEN"
"""Environment variable with the servers' bearer token."""
_COMPILING = 90.0
_WAITING = 300.0
"""Seconds that a job may stand in a server's queue, or wait until one of the servers is not full."""
_LONGEST_REST = 30.0
_MOST_AT_ONCE = 1024
"""Each request that is under way has a thread."""
_INSTALL = "pip install 'flywheel[code]'"


@dataclass
class _Server:
    """One server, as it was last seen; guarded by the executor's condition.

    ``places``: how many programs at once it took of ours before it was full; grows again while it takes them.
    """

    url: str
    protocol: Protocol = "flywheel"
    capabilities: Capabilities | None = None
    running: int = 0
    places: float = math.inf
    failures: int = 0
    rests_until: float = 0.0
    problem: str | None = None

    @property
    def parallel(self) -> int:
        """Programs that it should have at once: somewhat more than it runs, so that it need not wait for the next."""
        runs = self.capabilities.parallel if self.capabilities else 1
        return runs + (runs + 1) // 2

    @property
    def has_place(self) -> bool:
        return self.running + 1 <= min(self.parallel, self.places)

    def runs(self, name: str) -> bool:
        return self.capabilities is None or name in self.capabilities.languages

    def rest(self, seconds: float) -> None:
        self.rests_until = max(self.rests_until, time.monotonic() + seconds)


class _Full(Exception):
    """A server has no place now, and may have one in so many seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class RemoteExecutor(Pool[None]):
    """Runs programs on servers; see ``job.Executor``.

    Args:
        servers: base URLs.
        protocol: "flywheel" or "sandbox_fusion"; by default each server is asked.
        parallel: programs at once per server that does not say how many it can run.
        token: bearer token; by default the environment's FLYWHEEL_SANDBOX_TOKEN.

    Raises:
        UserError: no server answers; says what each of them said.
    """

    def __init__(
        self,
        servers: Sequence[str] | str,
        protocol: Protocol | None = None,
        parallel: int = 16,
        token: str | None = None,
    ) -> None:
        urls = [servers] if isinstance(servers, str) else list(servers)
        if not urls:
            raise UserError("the remote executor has no servers", hint="servers: [http://host:8181]")
        token = token or os.environ.get(TOKEN)
        self._http = _client({"Authorization": f"Bearer {token}"} if token else {})
        self._free = threading.Condition()
        self._protocol, self._parallel = protocol, parallel
        self._servers = [_Server(url.rstrip("/")) for url in urls]
        for server in self._servers:
            self._meet(server)
        known = [server for server in self._servers if server.capabilities is not None]
        if not known:
            self._http.close()
            said = "; ".join(f"{server.url}: {server.problem}" for server in self._servers)
            raise UserError(
                f"no sandbox server answers: {said}",
                hint="start one with: flywheel serve-sandbox --port 8181; or correct `servers`",
            )
        # One that is away now may come back, as large as the others.
        away = (len(urls) - len(known)) * max(server.parallel for server in known)
        threads = min(_MOST_AT_ONCE, sum(server.parallel for server in known) + away)
        super().__init__(threads, "remote", tries=2)

    def capabilities(self) -> Capabilities:
        self._check_open()
        met = [server for server in self._servers if server.capabilities is not None]
        every = [server.capabilities for server in met if server.capabilities is not None]
        levels = {c.level for c in every}
        remarks = [f"{s.url} ({s.protocol}): {s.problem or 'answers'}" for s in self._servers]
        return Capabilities(
            executor="http",
            level=levels.pop() if len(levels) == 1 else "remote",
            languages=tuple(dict.fromkeys(name for c in every for name in c.languages)),
            parallel=sum(c.parallel for c in every),
            memory=min((c.memory for c in every), key=("none", "rlimit", "cgroup").index),
            processes=min((c.processes for c in every), key=("none", "rlimit", "cgroup").index),
            clock=all(c.clock for c in every),
            hash_seed=all(c.hash_seed for c in every),
            remarks=tuple(remarks),
        )

    def health(self) -> str | None:
        if self._closed:
            return super().health()
        said = []
        for server in self._servers:
            try:
                path = "/health" if server.protocol == "flywheel" else "/v1/ping"
                answer = self._http.get(server.url + path, timeout=5.0)
                if answer.status_code == 200:
                    return None
                said.append(f"{server.url}: HTTP {answer.status_code}")
            except _http_errors() as error:
                said.append(f"{server.url}: {_words(error)}")
        return f"no sandbox server answers: {'; '.join(said)}"

    def release(self) -> None:
        self._http.close()

    def open(self, number: int) -> None:
        """A thread keeps nothing: each request finds a server that has a place."""

    def admit(self, job: Job) -> None:
        name = language(job.language).name
        able = [server for server in self._servers if server.runs(name)]
        if not able:
            raise UserError(
                f"no sandbox server runs {name} programs", hint="install the language there, and start the server again"
            )
        if all(server.protocol == "sandbox_fusion" for server in able):
            for case in range(len(job.stdin)):
                to_fusion(job, case)

    def attempt(self, job: Job, case: int, place: None) -> Outcome:
        """Ask one server after the other until one knows the outcome."""
        failed: dict[str, str] = {}
        patience = time.monotonic() + _WAITING
        sent_away = 0
        while (server := self._choose(job, failed, patience)) is not None:
            try:
                outcome = self._ask(server, job, case)
                self._leave(server)
                return outcome
            except _Full as full:
                self._leave(server, full=full.seconds)
                sent_away += 1
                time.sleep(random.uniform(0.5, 1.0) * min(full.seconds, 0.02 * 2.0 ** min(sent_away, 10)))
            except SandboxFailed as error:
                failed[server.url] = str(error)
                self._leave(server, str(error))
            except BaseException as error:
                self._leave(server, f"{type(error).__name__}: {error}")
                raise
        why = "; ".join(f"{url}: {said}" for url, said in failed.items())
        raise SandboxFailed(why or f"all sandbox servers were full for {_WAITING:g} s")

    def _choose(self, job: Job, failed: dict[str, str], patience: float) -> _Server | None:
        """A place at the emptiest server that has not failed this job; waits for one. None: there is none to wait for.

        A server that rests after failing is asked all the same if no other is left: it may be back.
        """
        name = language(job.language).name
        with self._free:
            while True:
                able = [s for s in self._servers if s.runs(name) and s.url not in failed]
                now = time.monotonic()
                if not able or now > patience:
                    return None
                awake = [s for s in able if s.failures == 0 or s.rests_until <= now]
                ready = [s for s in awake or able if s.has_place and (s.rests_until <= now or not awake)]
                if ready:
                    best = min(ready, key=lambda s: (s.failures, s.running / s.parallel))
                    best.running += 1
                    return best
                rests = [s.rests_until - now for s in able if s.rests_until > now]
                self._free.wait(min([*rests, 1.0]))

    def _leave(self, server: _Server, problem: str | None = None, full: float | None = None) -> None:
        """Give back a place.

        Args:
            problem: why there was no answer.
            full: the server had no place; seconds after which it may have one.
        """
        with self._free:
            server.running -= 1
            server.problem = problem
            server.failures = server.failures + 1 if problem else 0
            if problem:
                server.rest(min(_LONGEST_REST, 0.5 * 2.0 ** min(server.failures, 10)))
            elif full is None:
                server.places += 0.2 / server.places
            elif server.running:  # what of ours runs there will make a place
                server.places = min(server.places, server.running)
            else:
                server.places = 1
                server.rest(full)
            self._free.notify_all()

    def _ask(self, server: _Server, job: Job, case: int) -> Outcome:
        """Raises: _Full; SandboxFailed: the server did not answer as it should."""
        if server.capabilities is None:
            self._meet(server)
            if server.capabilities is None:
                raise SandboxFailed(server.problem or "does not answer")
        own = server.protocol == "flywheel"
        body = JobForm.of(job, case) if own else to_fusion(job, case)
        seconds = job.limits.wall + _COMPILING + _WAITING
        try:
            answer = self._http.post(server.url + ("/v1/jobs" if own else "/run_code"), json=body, timeout=seconds)
        except _http_errors() as error:
            raise SandboxFailed(_words(error)) from error
        if answer.status_code in (429, 503):
            raise _Full(_seconds(answer.headers.get("retry-after")))
        if answer.status_code != 200:
            raise SandboxFailed(f"HTTP {answer.status_code}: {answer.text[:200]}")
        try:
            if own:
                outcome: Outcome | None = OutcomeForm.model_validate(answer.json()).outcome()
                why = outcome.detail if outcome else ""
            else:
                told = FusionResponse.model_validate(answer.json())
                outcome, why = told.outcome(job), told.message
        except (json.JSONDecodeError, ValidationError, RecursionError) as error:
            raise SandboxFailed(f"an answer that is no outcome: {str(error)[:200]}") from error
        if outcome is None or outcome.status == "infra_error":
            raise SandboxFailed(why or "its sandbox failed")
        return outcome

    def _meet(self, server: _Server) -> None:
        """Learn what a server speaks and can do; one that does not answer keeps a problem."""
        try:
            if self._protocol != "sandbox_fusion":
                answer = self._http.get(f"{server.url}/v1/capabilities", timeout=10.0)
                if answer.status_code == 200:
                    server.capabilities = capabilities_from(answer.json())
                    return
                if self._protocol == "flywheel" or answer.status_code in (401, 403):
                    server.problem = f"HTTP {answer.status_code} for its capabilities"
                    return
            answer = self._http.get(f"{server.url}/v1/ping", timeout=10.0)
            if answer.status_code == 200:
                server.protocol = "sandbox_fusion"
                names = tuple(FUSION.values())
                server.capabilities = Capabilities(
                    "http", "remote", names, self._parallel, "none", "none", clock=False, hash_seed=False
                )
                return
            server.problem = f"HTTP {answer.status_code}, no sandbox server"
        except _http_errors() as error:
            server.problem = _words(error)
        except ValueError as error:
            server.problem = f"capabilities that are none: {str(error)[:200]}"


def _client(headers: dict[str, str]) -> Any:
    try:
        import httpx
    except ImportError as error:
        raise UserError("the remote executor needs httpx, which is not installed", hint=_INSTALL) from error
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    # trust_env: a proxy for the outside world must not get what goes to one's own servers.
    return httpx.Client(headers=headers, limits=limits, trust_env=False)


def _http_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.HTTPError, httpx.InvalidURL)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _seconds(header: str | None) -> float:
    try:
        return min(_LONGEST_REST, max(0.05, float(header or 1.0)))
    except ValueError:
        return 1.0
