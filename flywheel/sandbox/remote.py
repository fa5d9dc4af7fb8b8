"""Programs on other machines, over HTTP: this project's own servers, or any that speak SandboxFusion's ``/run_code``.

Each server gets at most so many programs at once as it can run. What becomes of a request that brings no outcome:

- A server that is full (429) is left alone for a moment, and the program goes elsewhere, or waits.
- A server that cannot be reached (no connection, or 502, 503, 504 from what stands before it) rests, longer each time,
  and then one program finds out whether it is back. While none can be reached, programs wait; when none of those that
  they may go to has been back for ``patience`` seconds, their outcome is an ``infra_error``. That costs a program no
  try, unless a proxy says so of a server that answered others meanwhile: then the request is at fault.
- A server that goes away under a program rests too. The program is unlucky a few times, and then at fault.
- A server that answers with something else than an outcome rests, and the program goes elsewhere.
- A server whose sandbox failed is not given programs in that language for a while.
- A server that refuses the program (400, 413, 422) is as good as before: that concerns the program alone.

Who asks what the servers can do (``capabilities``), or whether they do (``health``), is told at once that none can be
reached, and programs do not wait then: so it is with ``flywheel check``, and before the first stage of a run. Later
stages do not ask, and wait.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flywheel.errors import UserError
from flywheel.sandbox.job import Capabilities, Job, Outcome
from flywheel.sandbox.languages import language
from flywheel.sandbox.pool import Pool, SandboxFailed
from flywheel.sandbox.remote_server import LONGEST_REST, Broken, Down, Full, Gone, Protocol, Refused, Server
from flywheel.sandbox.wire import (
    FUSION,
    FusionResponse,
    JobForm,
    OutcomeForm,
    capabilities_from,
    to_fusion,
)

TOKEN = "FLYWHEEL_SANDBOX_TOKEN"
"""Environment variable with the servers' bearer token."""
_START = "start one with: flywheel serve-sandbox --port 8181"
_CONNECTING = 5.0
_LOOKING = 10.0
_COMPILING = 90.0
_QUEUEING = 300.0
"""Seconds that a job may stand in a server's queue."""
_KEEPALIVE = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] + [
    (socket.IPPROTO_TCP, getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
]
"""A server that vanishes without a word is noticed in half a minute, not when its answer is overdue."""
_UNLUCKY = 3
"""Times that servers may go away under a program before that is taken for its own doing."""
_MOST_AT_ONCE = 1024
"""Each request that is under way has a thread."""
_UNMET = 96
"""Threads for a server when none has said yet how much it can run: what one of 64 cores is given."""
_INSTALL = "pip install 'flywheel[code]'"


class RemoteExecutor(Pool[None]):
    """Runs programs on servers; see ``job.Executor``.

    Args:
        servers: base URLs.
        protocol: "flywheel" or "sandbox_fusion"; by default each server is asked.
        parallel: programs at once per server that does not say how many it can run.
        token: bearer token; by default the environment's FLYWHEEL_SANDBOX_TOKEN.
        patience: seconds for which programs wait while no server can be reached, or all are full.

    Raises:
        UserError: no server is of use, which waiting does not mend: not a sandbox server's URL or protocol, another
            token; says what each of them said. That none can be reached is for ``capabilities`` to say.
    """

    def __init__(
        self,
        servers: Sequence[str] | str,
        protocol: Protocol | None = None,
        parallel: int = 16,
        token: str | None = None,
        patience: float = 600.0,
    ) -> None:
        urls = [servers] if isinstance(servers, str) else list(servers)
        if not urls:
            raise UserError("the remote executor has no servers", hint="servers: [http://host:8181]")
        token = token or token_of_environment()
        self._http = _client({"Authorization": f"Bearer {token}"} if token else {})
        self._free = threading.Condition()
        self._closing = threading.Event()
        self._all_down = False
        self._protocol, self._parallel, self._patience = protocol, parallel, patience
        self._servers = [Server(url.rstrip("/")) for url in urls]
        self._meet_all()
        known = [server.parallel for server in self._servers if server.capabilities is not None]
        if not known and any(server.down_since is None for server in self._servers):
            self._http.close()
            raise self._nobody_answers()
        # One that is away now may come back, as large as the others.
        away = (len(urls) - len(known)) * max(known, default=_UNMET)
        super().__init__(min(_MOST_AT_ONCE, sum(known) + away), "remote", tries=2)

    def capabilities(self) -> Capabilities:
        self._check_open()
        if all(server.capabilities is None for server in self._servers):
            self._meet_all()
        every = [server.capabilities for server in self._servers if server.capabilities is not None]
        if not every:
            self._give_up()
            raise self._nobody_answers()
        levels = {c.level for c in every}
        remarks = [f"{s.url} ({s.protocol}): {s.problem or 'answers'}" for s in self._servers]
        fixed = [s.url for s in self._servers if s.capabilities is not None and not s.capabilities.hash_seed]
        if fixed:
            remarks.append(f"{', '.join(fixed)}: hash seed and clock cannot be set, so reruns find few flaky programs")
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
                if server.capabilities is None:
                    self._meet(server)
                path = "/health" if server.protocol == "flywheel" else "/v1/ping"
                answer = self._send("GET", server.url + path, _LOOKING)
                if answer.status_code == 200:
                    return None
                said.append(f"{server.url}: HTTP {answer.status_code}")
            except SandboxFailed as error:
                said.append(f"{server.url}: {error}")
        self._give_up()
        return f"no sandbox server answers: {'; '.join(said)}"

    def _give_up(self) -> None:
        """Who was told that no server has ever been reached need not wait for one as well."""
        with self._free:
            if all(server.capabilities is None for server in self._servers):
                for server in self._servers:
                    server.give_up()
                self._all_down = True  # which is said by now

    def close(self) -> None:
        self._closing.set()
        with self._free:
            self._free.notify_all()
        super().close()

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
        name = language(job.language).name
        failed: dict[str, str] = {}
        until = time.monotonic() + self._patience
        sent_away = unlucky = 0
        while (server := self._choose(name, failed, until)) is not None:
            sent = time.monotonic()
            try:
                outcome = self._ask(server, job, case)
            except BaseException as error:
                self._leave(server, name, sent, error)
                if isinstance(error, Full):
                    sent_away += 1
                    self._closing.wait(random.uniform(0.5, 1.0) * min(error.seconds, 0.02 * 2.0 ** min(sent_away, 10)))
                elif isinstance(error, Gone) and unlucky < _UNLUCKY:
                    unlucky += 1
                elif not isinstance(error, SandboxFailed):
                    raise
                elif not isinstance(error, Down) or (error.proxy and server.answered > sent):
                    failed[server.url] = str(error)
            else:
                self._leave(server, name, sent)
                return outcome
        raise SandboxFailed(self._why_not(failed))

    def _choose(self, name: str, failed: Collection[str], until: float) -> Server | None:
        """A place at the best server that has not failed this job; waits for one. None: there is none to wait for.

        A server that rests is asked all the same if no other is left, and it can be reached.
        """
        with self._free:
            while not self._closing.is_set():
                able = [s for s in self._servers if s.runs(name) and s.url not in failed]
                awake = [s for s in able if not s.rests(name)] or [s for s in able if s.down_since is None]
                ready = [s for s in awake if s.has_place]
                if ready:
                    best = min(ready, key=lambda s: (s.rest.failures, s.running / s.parallel))
                    best.take()
                    return best
                if time.monotonic() > until or all(s.lost(self._patience) for s in able):
                    break
                self._free.wait(min((s.seconds_to_wait(name) for s in able), default=1.0))
        return None

    def _leave(self, server: Server, name: str, sent: float, error: BaseException | None = None) -> None:
        """Give back a place, and note what the request came to."""
        with self._free:
            server.running -= 1
            if error is None:
                server.note_outcome(name, sent)
            elif isinstance(error, Full):
                server.note_full(error.seconds, sent)
            elif isinstance(error, Refused):
                server.note_answer(sent)
            elif isinstance(error, Broken):
                server.note_broken(name, str(error), sent)
            elif isinstance(error, Down):
                server.note_down(str(error), self._patience)
            elif isinstance(error, SandboxFailed):
                server.note_failure(str(error))
            self._tell(server)
            self._free.notify_all()

    def _tell(self, server: Server) -> None:
        """Say it once when no server can be reached any more, and once when one can."""
        all_down = all(s.down_since is not None for s in self._servers)
        if all_down and not self._all_down:
            said = f"{self._nobody_answers().message}; programs wait up to {self._patience:g} s: {_START}"
            print(said, file=sys.stderr, flush=True)
        elif self._all_down and not all_down:
            print(f"{server.url} answers again", file=sys.stderr, flush=True)
        self._all_down = all_down

    def _nobody_answers(self) -> UserError:
        said = "; ".join(f"{server.url}: {server.problem}" for server in self._servers)
        return UserError(f"no sandbox server answers: {said}", hint=f"{_START}; or correct `servers`")

    def _why_not(self, failed: Mapping[str, str]) -> str:
        if self._closing.is_set():
            return "the executor was closed"
        lost = [server for server in self._servers if server.lost(self._patience)]
        said = {server.url: f"cannot be reached: {server.problem}" for server in lost}
        return "; ".join(f"{url}: {why}" for url, why in {**said, **failed}.items()) or (
            f"all sandbox servers were full for {self._patience:g} s"
        )

    def _ask(self, server: Server, job: Job, case: int) -> Outcome:
        """Raises: Full; SandboxFailed: the server did not answer as it should."""
        if server.capabilities is None:
            self._meet(server)
        own = server.protocol == "flywheel"
        body = JobForm.of(job, case) if own else to_fusion(job, case)
        seconds = job.limits.wall + _COMPILING + _QUEUEING
        answer = self._send("POST", server.url + ("/v1/jobs" if own else "/run_code"), seconds, body)
        if answer.status_code == 429:
            raise Full(_seconds(answer.headers.get("retry-after")))
        if answer.status_code != 200:
            kind = Refused if answer.status_code in (400, 413, 422) else SandboxFailed
            raise kind(f"HTTP {answer.status_code}: {answer.text[:200]}")
        try:
            if own:
                outcome: Outcome | None = OutcomeForm.model_validate(answer.json()).outcome()
                why = outcome.detail if outcome else ""
            else:
                told = FusionResponse.model_validate(answer.json())
                outcome, why = told.outcome(job), told.message
        except (ValueError, RecursionError) as error:
            raise SandboxFailed(f"an answer that is no outcome: {str(error)[:200]}") from error
        if outcome is None or outcome.status == "infra_error":
            raise Broken(why or "its sandbox failed")
        return outcome

    def _meet_all(self) -> None:
        """Meet those that are not known; one that does not answer keeps a problem."""

        def meet(server: Server) -> None:
            try:
                sent = time.monotonic()
                self._meet(server)
                server.note_answer(sent)
            except Down as error:
                server.note_down(str(error), self._patience)
            except SandboxFailed as error:
                server.note_failure(str(error))

        with ThreadPoolExecutor(len(self._servers)) as pool:
            list(pool.map(meet, (server for server in self._servers if server.capabilities is None)))

    def _meet(self, server: Server) -> None:
        """Learn what a server speaks and can do.

        Raises:
            SandboxFailed: it cannot be reached, is none, or refuses the token.
        """
        if self._protocol != "sandbox_fusion":
            answer = self._send("GET", f"{server.url}/v1/capabilities", _LOOKING)
            if answer.status_code == 200:
                try:
                    server.capabilities = capabilities_from(answer.json())
                except ValueError as error:
                    raise SandboxFailed(f"capabilities that are none: {str(error)[:200]}") from error
                return
            if answer.status_code in (401, 403):
                raise SandboxFailed(f"HTTP {answer.status_code}: {TOKEN} must be set as it is there")
            if self._protocol == "flywheel":
                raise SandboxFailed(f"HTTP {answer.status_code} for its capabilities")
        answer = self._send("GET", f"{server.url}/v1/ping", _LOOKING)
        if answer.status_code != 200:
            raise SandboxFailed(f"HTTP {answer.status_code}, no sandbox server")
        server.protocol = "sandbox_fusion"
        names = tuple(FUSION.values())
        server.capabilities = Capabilities(
            "http", "remote", names, self._parallel, "none", "none", clock=False, hash_seed=False
        )

    def _send(self, method: str, url: str, seconds: float, body: Any = None) -> Any:
        """An HTTP answer.

        Raises:
            Down: nobody is there who could give one.
            Gone: the connection broke off.
            SandboxFailed: it did not come, or there is no such URL.
        """
        import httpx

        try:
            answer = self._http.request(method, url, json=body, timeout=httpx.Timeout(seconds, connect=_CONNECTING))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Down(_words(error)) from error
        except (httpx.NetworkError, httpx.RemoteProtocolError) as error:
            raise Gone(_words(error)) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise SandboxFailed(_words(error)) from error
        if answer.status_code in (502, 503, 504):
            raise Down(f"HTTP {answer.status_code}: {answer.text[:200]}", proxy=True)
        return answer


def token_of_environment() -> str | None:
    """The bearer token that servers and clients share; None if there is none, or an empty one."""
    return os.environ.get(TOKEN, "").strip() or None


def _client(headers: dict[str, str]) -> Any:
    try:
        import httpx
    except ImportError as error:
        raise UserError("the remote executor needs httpx, which is not installed", hint=_INSTALL) from error
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    transport = httpx.HTTPTransport(limits=limits, trust_env=False, socket_options=_KEEPALIVE)
    # trust_env: a proxy for the outside world must not get what goes to one's own servers.
    return httpx.Client(headers=headers, transport=transport, trust_env=False)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _seconds(header: str | None) -> float:
    try:
        return min(LONGEST_REST, max(0.05, float(header or 1.0)))
    except ValueError:
        return 1.0
