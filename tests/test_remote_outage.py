"""Servers that stop, hang, refuse or break while programs are to be run: none of it makes a program wrong."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from servers import serve_sandbox, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from test_remote import FINE, answering, app, python

from flywheel.errors import UserError
from flywheel.sandbox.grading import CallCase, CallChecks, Grade, Program, grade_many
from flywheel.sandbox.job import MIB, Job, Limits, Outcome
from flywheel.sandbox.remote import RemoteExecutor
from flywheel.tasks import close_task, load_task
from flywheel.tasks.check import check_task


def later(work: Any, *arguments: Any) -> Future[Any]:
    """Work in a thread of its own."""
    done: Future[Any] = Future()

    def do() -> None:
        try:
            done.set_result(work(*arguments))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=do, daemon=True).start()
    return done


def grades(executor: RemoteExecutor, count: int) -> list[Grade]:
    checks = CallChecks("double", [CallCase((2,), 4)])
    return grade_many(executor, [(Program(f"def double(x): return {1 + n % 2} * x"), checks) for n in range(count)])


def port_of(url: str) -> str:
    return url.rsplit(":", 1)[1]


def test_while_all_servers_are_down_programs_wait(capsys: pytest.CaptureFixture[str]) -> None:
    """A restart of the only server costs time and no verdict, also when it is down before the first program."""
    with serve_sandbox("--arg", "slots=2") as url:
        remote = RemoteExecutor(url)
        grades(remote, 1)
    capsys.readouterr()
    with remote:
        waiting = later(grades, remote, 40)
        time.sleep(1.5)
        assert not waiting.done()
        with serve_sandbox("--arg", "slots=2", "--port", port_of(url)):
            assert [grade.passed for grade in waiting.result(60)] == [False, True] * 20
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert url in said[0] and "wait up to 600 s" in said[0] and "flywheel serve-sandbox" in said[0]
    assert said[1] == f"{url} answers again"


@pytest.fixture
def nobody() -> str:
    """A URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_stage_that_begins_in_an_outage_waits(nobody: str) -> None:
    with RemoteExecutor(nobody) as remote:
        waiting = later(grades, remote, 10)
        with serve_sandbox("--arg", "slots=2", "--port", port_of(nobody)):
            assert [grade.passed for grade in waiting.result(60)] == [False, True] * 5
            assert "python" in remote.capabilities().languages


def test_a_check_does_not_wait(nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who asks for a server is told at once that there is none, and then its programs do not wait for one either."""
    begun = time.monotonic()
    with RemoteExecutor(nobody) as remote:
        with pytest.raises(UserError, match=r"no sandbox server answers: .*refused"):
            remote.capabilities()
        assert {grade.passed for grade in grades(remote, 10)} == {None}
    rows = [
        {
            "text": f"Multiply by {n}.",
            "code": f"def times(x):\n    return {n} * x",
            "test_list": [f"assert times(1) == {n}"],
        }
        for n in range(40)
    ]
    (tmp_path / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sandbox = {"executor": "remote", "extra": {"servers": nobody}}
    task = load_task("code", {"problems": "problems.jsonl", "sandbox": sandbox}, tmp_path)
    found = check_task(task, needs_demonstrations=False)
    close_task(task)
    assert f"no sandbox server answers: {nobody}: " in found[0]
    assert all("cannot be reached" in finding or "more like it" in finding for finding in found[1:])
    assert "programs wait" not in capsys.readouterr().err
    assert time.monotonic() - begun < 20


def test_when_no_server_comes_back_programs_are_undecided() -> None:
    """After the bound, and then all of them at once."""
    with serving(app(answering(FINE))) as one, serving(app(answering(FINE))) as two:
        remote = RemoteExecutor([one, two], patience=2)
    with remote:
        begun = time.monotonic()
        outcomes = [o for (o,) in remote.run_all([python("")] * 200)]
        assert 2 <= time.monotonic() - begun < 6
        assert {o.status for o in outcomes} == {"infra_error"}
        assert all(f"{url}: cannot be reached: " in outcomes[-1].detail for url in (one, two))
        begun = time.monotonic()
        assert {grade.passed for grade in grades(remote, 50)} == {None}
        assert time.monotonic() - begun < 2


def test_closing_ends_the_waiting_at_once() -> None:
    with serving(app(answering(FINE))) as url:
        remote = RemoteExecutor(url)
    waiting = later(remote.run_all, [python("")] * 20)
    time.sleep(0.5)
    begun = time.monotonic()
    remote.close()
    assert time.monotonic() - begun < 1
    assert {(o.status, o.detail) for (o,) in waiting.result(1)} == {("infra_error", "the executor was closed")}


@pytest.mark.parametrize(
    ("path", "protocol", "word"), [("", "flywheel", "HTTP 404"), ("/x", None, "HTTP 404, no sandbox server")]
)
def test_what_waiting_does_not_mend_is_said_at_once(path: str, protocol: Any, word: str) -> None:
    with serving(Starlette()) as url, pytest.raises(UserError, match=word):
        RemoteExecutor(url + path, protocol)
    with pytest.raises(UserError, match="protocol"):
        RemoteExecutor("cpu-1:8181")


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_whose_server_is_away_is_waited_for(status: int) -> None:
    asked: list[float] = []

    async def away(request: Request) -> Response:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] < 1.5:
            return PlainTextResponse("no upstream", status)
        return await answering(FINE)(request)  # type: ignore[no-any-return]

    with serving(app(away)) as url, RemoteExecutor(url) as remote:
        assert {o.status for (o,) in remote.run_all([python("")] * 50)} == {"exited"}
    assert sum(when - asked[0] < 1.5 for when in asked) <= 6  # three programs at once, and then one each time


def test_a_program_that_no_proxy_lets_through_does_not_wait_for_ever() -> None:
    async def handle(request: Request) -> Response:
        await asyncio.sleep(0.05)
        slow = (await request.json())["argv"] == ["slow"]
        return PlainTextResponse("took too long", 504) if slow else await answering(FINE)(request)

    with serving(app(handle, parallel=8)) as url, RemoteExecutor(url) as remote:
        outcomes = [o for (o,) in remote.run_all([python("", argv=("slow",)), *[python("")] * 200])]
    assert outcomes[0].status == "infra_error" and "504" in outcomes[0].detail
    assert {o.status for o in outcomes[1:]} == {"exited"}


class HangsUp(http.server.BaseHTTPRequestHandler):
    """Says what it can do, and hangs up when it is to do it."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"executor": "local", "level": "namespaces", "languages": ["python"], "parallel": 2}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))

    def log_message(self, *_: object) -> None: ...


def test_a_program_under_which_servers_go_away_each_time_is_undecided_in_the_end() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with RemoteExecutor(f"http://127.0.0.1:{server.server_port}") as remote:
            outcome = later(remote.run_all, [python("")]).result(60)[0][0]
        server.shutdown()
    assert outcome.status == "infra_error" and "disconnected" in outcome.detail


@pytest.fixture
def hole() -> Iterator[str]:
    """A host that drops what it gets: the queue of a socket that accepts nobody is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as deaf:
        held = []
        for _ in range(4):
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex(deaf.getsockname())
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"
        for each in held:
            each.close()


def test_a_host_that_drops_packets_holds_nobody_for_long(hole: str) -> None:
    begun = time.monotonic()
    with serving(app(answering(FINE, 0.01))) as url, RemoteExecutor([hole, url]) as remote:
        assert {o.status for (o,) in remote.run_all([python("")] * 100)} == {"exited"}
    assert time.monotonic() - begun < 20


def test_a_job_that_is_refused_concerns_nobody_else() -> None:
    """Neither a limit that is too high nor a language that is broken there makes the server rest."""
    ruby = Job("ruby", {"main.rb": b""})
    broken = Outcome("infra_error", detail="ruby does not work here")

    async def handle(request: Request) -> Response:
        asked = await request.json()
        return await answering(broken if asked["language"] == "ruby" else FINE)(request)  # type: ignore[no-any-return]

    with serving(app(handle, languages=("python", "ruby"))) as url, RemoteExecutor(url) as remote:
        begun = time.monotonic()
        for _ in range(20):
            (bad,), (good,) = remote.run_all([ruby, python("")])
            assert (bad.status, good.status) == ("infra_error", "exited")
            assert "ruby does not work here" in bad.detail
        assert time.monotonic() - begun < 5
    with serve_sandbox("--arg", "slots=1") as url, RemoteExecutor(url) as remote:
        begun = time.monotonic()
        for _ in range(5):
            (bad,), (good,) = remote.run_all([python("", limits=Limits(memory=1 << 50)), python("print(1)")])
            assert good.stdout == b"1\n"
            assert bad.status == "infra_error" and "limits.memory is more than" in bad.detail
        assert time.monotonic() - begun < 5
        assert remote.capabilities().remarks == (f"{url} (flywheel): answers",)


def test_what_sandbox_fusion_cannot_vary_is_said() -> None:
    with serve_sandbox("--arg", "slots=1") as url, RemoteExecutor(url, protocol="sandbox_fusion") as remote:
        can = remote.capabilities()
    assert (can.clock, can.hash_seed) == (False, False)
    assert any(url in remark and "hash seed and clock" in remark for remark in can.remarks)


def test_a_full_server_reads_no_body() -> None:
    """Bodies of many megabytes that wait would take the memory that the limit on waiting is to protect."""
    with serve_sandbox("--arg", "slots=1", "--waiting", "0") as url:
        address = ("127.0.0.1", int(port_of(url)))
        request = f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-length: {200 * MIB}\r\n\r\n{{".encode()
        with socket.create_connection(address) as inside, socket.create_connection(address) as sent_away:
            inside.sendall(request)
            time.sleep(0.3)
            sent_away.sendall(request)
            sent_away.settimeout(5)
            assert sent_away.recv(100).startswith(b"HTTP/1.1 429")
        with RemoteExecutor(url) as remote:  # who went without sending the rest has left the place
            assert remote.run_all([python("print(1)")])[0][0].ok


def test_a_program_whose_server_died_runs_on_the_next() -> None:
    """The connection breaks off under a program: it runs again, on the server that is started next."""
    done = threading.Event()

    async def hang(_: Request) -> Response:
        done.set()
        await asyncio.sleep(60)
        raise AssertionError

    with serving(app(hang)) as url:
        remote = RemoteExecutor(url)
        waiting = later(remote.run_all, [python("print(7)")])
        assert done.wait(10)
    with remote, serve_sandbox("--arg", "slots=1", "--port", port_of(url)):
        assert waiting.result(30)[0][0].stdout == b"7\n"
