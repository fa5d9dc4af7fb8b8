"""Programs over HTTP: the real server and client, and what happens when servers are full, broken or gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest
from conftest import flywheel
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import serve_sandbox, serving
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from flywheel.errors import UserError
from flywheel.sandbox.job import MIB, Job, Limits, Outcome, Usage
from flywheel.sandbox.local import LocalExecutor
from flywheel.sandbox.remote import RemoteExecutor
from flywheel.sandbox.server import make_app
from flywheel.sandbox.wire import FusionResponse, JobForm, OutcomeForm, from_outcome, to_fusion


def python(source: str, *stdin: bytes, **more: Any) -> Job:
    return Job("python", {"main.py": source.encode()}, stdin=stdin or (b"",), **more)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve_sandbox("--arg", "slots=2") as url:
        yield url


@pytest.fixture(scope="module")
def local() -> Iterator[LocalExecutor]:
    with LocalExecutor(slots=2) as executor:
        yield executor


def comparable(outcome: Outcome) -> tuple[Any, ...]:
    return (
        outcome.status,
        outcome.exit_code,
        outcome.signal,
        outcome.stdout,
        outcome.stderr,
        outcome.limits,
        outcome.level,
        outcome.detail,
        outcome.files,
        outcome.job,
        outcome.case,
    )


def test_nothing_is_lost_on_the_way(url: str, local: LocalExecutor) -> None:
    jobs = [
        python("import sys; sys.stdout.buffer.write(bytes(range(256)) + sys.stdin.buffer.read())", b"\0\xff", b"2"),
        python("import sys; print(sys.argv[1:], file=sys.stderr); sys.exit(7)", argv=("a b", "é")),
        python("open('x/y', 'wb').write(b'\\0')", fetch=("x/y", "absent")),
        Job("python", {"main.py": b"import m; open('out', 'wb').write(m.v)", "m.py": b"v = b'\\xfe'"}, fetch=("out",)),
        python("import os; os.abort()"),
        python("print('x' * 5000)", limits=Limits(output=1000)),
        python("while True: pass", limits=Limits(cpu=1, wall=5)),
        python("import time; time.sleep(9)", limits=Limits(wall=0.5)),
        python("bytearray(1 << 30)[::4096] = b'x' * (1 << 18)", limits=Limits(memory=128 * MIB)),
        python("import time; print(hash('a'), int(time.time()))", hash_seed=5, clock=1_000_000_000),
        Job("c", {"main.c": b"int main( {"}),
        Job("c", {"main.c": b"int main() { return 3; }"}),
    ]
    with RemoteExecutor(url) as remote:
        there, here = remote.run_all(jobs), local.run_all(jobs)
        assert remote.capabilities().level == local.capabilities().level
    for job, over_http, at_home in zip(jobs, there, here, strict=True):
        assert [comparable(o) for o in over_http] == [comparable(o) for o in at_home], job


OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from(["exited", "signaled", "cpu", "wall", "oom", "output_limit", "compile_error"]),
    exit_code=st.none() | st.integers(0, 255),
    signal=st.none() | st.integers(1, 64),
    stdout=st.binary(),
    stderr=st.binary(),
    usage=st.builds(Usage, st.floats(0, 1e6), st.floats(0, 1e6), st.integers(0, 1 << 60)),
    level=st.sampled_from(["namespaces", "container", "landlock", "remote"]),
    detail=st.text(st.characters(codec="utf-8")),
    files=st.dictionaries(st.text(st.characters(codec="utf-8")), st.binary()),
)


@given(OUTCOMES)
def test_any_outcome_survives_the_wire(outcome: Outcome) -> None:
    assert OutcomeForm.model_validate(OutcomeForm.of(outcome)).outcome() == outcome


@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8})?", fullmatch=True), st.binary(), min_size=1),
    st.lists(st.text(st.characters(codec="utf-8"))),
    st.binary(),
    st.none() | st.integers(0, 1 << 40),
)
def test_any_job_survives_the_wire(files: dict[str, bytes], argv: list[str], stdin: bytes, clock: int | None) -> None:
    job = Job("python", files, argv=tuple(argv), stdin=(stdin,), clock=clock, fetch=tuple(files))
    assert JobForm.model_validate(JobForm.of(job, 0)).job().key == job.key


@settings(max_examples=50)
@given(OUTCOMES)
def test_sandbox_fusion_keeps_whether_a_program_passed(outcome: Outcome) -> None:
    """Text, a code and whether time was up are all that it has: never may a failure become a pass."""
    job = Job("python", {"main.py": b""})
    back = FusionResponse.model_validate(from_outcome(outcome, compiled=False)).outcome(job)
    assert back is not None
    assert back.ok == outcome.ok
    assert (back.status == "wall") == (outcome.status in ("cpu", "wall"))


def test_a_sandbox_fusion_client_is_served(url: str) -> None:
    def ask(**request: Any) -> dict[str, Any]:
        answer = httpx.post(f"{url}/run_code", json=request, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]

    ran = ask(code="print(input() * 2)", language="python", stdin="ab", run_timeout=5, compile_timeout=5)
    assert (ran["status"], ran["run_result"]["stdout"], ran["run_result"]["return_code"]) == ("Success", "abab\n", 0)
    ran = ask(code="raise SystemExit(3)", language="python")
    assert (ran["status"], ran["run_result"]["return_code"]) == ("Failed", 3)
    ran = ask(code="while True: pass", language="python", run_timeout=0.5)
    assert (ran["status"], ran["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    ran = ask(code="console.log(require('fs').readFileSync('in.txt', 'utf8'))", language="nodejs",
              files={"in.txt": "aGk=", "none": None})  # fmt: skip
    assert ran["run_result"]["stdout"] == "hi\n"
    ran = ask(code='#include <cstdio>\nint main() { fopen("o", "w"); puts("1"); }', language="cpp", fetch_files=["o"])
    assert (ran["status"], ran["compile_result"]["return_code"], ran["files"]) == ("Success", 0, {"o": ""})
    ran = ask(code="int main( {", language="cpp")
    assert (ran["status"], ran["run_result"]) == ("Failed", None)
    assert "error" in ran["compile_result"]["stderr"]
    ran = ask(
        code="public class Prog { public static void main(String[] a) { System.out.print(6 * 7); } }", language="java"
    )
    assert ran["run_result"]["stdout"] == "42"


def test_a_client_of_a_sandbox_fusion_server(url: str) -> None:
    with RemoteExecutor([url], protocol="sandbox_fusion", parallel=4) as remote:
        assert remote.capabilities().level == "remote"
        outcomes = remote.run_all(
            [
                python("print(int(input()) + 1)", b"1", b"41"),
                python("import sys; print('no', file=sys.stderr); sys.exit(2)"),
                python("while True: pass", limits=Limits(cpu=1, wall=1)),
                Job("cpp", {"main.cpp": b"int main( {"}),
                Job("python", {"main.py": b"import m; print(m.v)", "m.py": b"v = 5"}),
            ]
        )
        told = [(o.status, o.exit_code, o.stdout) for os in outcomes for o in os]
        assert told[:3] == [("exited", 0, b"2\n"), ("exited", 0, b"42\n"), ("exited", 2, b"")]
        assert [status for status, *_ in told[3:5]] == ["wall", "compile_error"]
        assert told[5] == ("exited", 0, b"5\n")
        assert outcomes[1][0].stderr == b"no\n"
        with pytest.raises(UserError, match="no sandbox server runs c programs"):
            remote.run_all([Job("c", {"main.c": b""})])
        for unfit in (python("", b"\xff"), python("", argv=("x",))):
            with pytest.raises(UserError, match="SandboxFusion") as caught:
                remote.run_all([unfit])
            assert "serve-sandbox" in str(caught.value.hint)


def app(handle: Any, parallel: int = 2, languages: Sequence[str] = ("python",)) -> Starlette:
    """A server that claims to run Python, and does as it likes."""
    can = {"executor": "local", "level": "namespaces", "languages": languages, "parallel": parallel}

    async def capabilities(_: Request) -> Response:
        return JSONResponse(can)

    async def health(_: Request) -> Response:
        return JSONResponse({})

    routes = [Route("/v1/capabilities", capabilities), Route("/health", health)]
    return Starlette(routes=[*routes, Route("/v1/jobs", handle, methods=["POST"])])


def answering(outcome: Outcome, seconds: float = 0.0, seen: list[int] | None = None) -> Any:
    state = {"now": 0}

    async def handle(_: Request) -> Response:
        state["now"] += 1
        if seen is not None:
            seen.append(state["now"])
        await asyncio.sleep(seconds)
        state["now"] -= 1
        return JSONResponse(OutcomeForm.of(outcome))

    return handle


FINE = Outcome("exited", 0, stdout=b"fine")


async def broken(_: Request) -> Response:
    return PlainTextResponse("oh", 500)


async def nonsense(_: Request) -> Response:
    return JSONResponse({"status": "exited"})


async def no_json(_: Request) -> Response:
    return PlainTextResponse("[" * 100_000)


@pytest.mark.parametrize("handle", [broken, nonsense, no_json, answering(Outcome("infra_error", detail="no disk"))])
def test_what_one_server_fails_another_does(handle: Any) -> None:
    with serving(app(handle)) as bad, serving(app(answering(FINE))) as good, RemoteExecutor([bad, good]) as remote:
        outcomes = remote.run_all([python("") for _ in range(20)])
        assert {o.stdout for os in outcomes for o in os} == {b"fine"}
        assert any(bad in remark and "answers" not in remark for remark in remote.capabilities().remarks)


def test_only_when_all_fail_nobody_knows() -> None:
    with serving(app(broken)) as one, serving(app(no_json)) as two, RemoteExecutor([one, two]) as remote:
        outcome = remote.run_all([python("")])[0][0]
        assert outcome.status == "infra_error"
        assert one in outcome.detail and "HTTP 500" in outcome.detail and two in outcome.detail
        assert outcome.ok is False


def test_a_server_that_goes_is_replaced_and_one_that_comes_back_is_used() -> None:
    with serving(app(answering(FINE, 0.02))) as stays:
        with serving(app(answering(FINE, 0.02))) as goes:
            remote = RemoteExecutor([stays, goes], patience=1)
            assert {o.stdout for os in remote.run_all([python("")] * 20) for o in os} == {b"fine"}
        assert {o.status for os in remote.run_all([python("")] * 20) for o in os} == {"exited"}
        assert remote.health() is None
    assert {o.status for os in remote.run_all([python("")] * 2) for o in os} == {"infra_error"}
    assert "no sandbox server answers" in str(remote.health())
    remote.close()
    remote.close()


def test_no_more_programs_at_once_than_a_server_can_take() -> None:
    seen: list[int] = []
    with serving(app(answering(FINE, 0.02, seen), parallel=4)) as url, RemoteExecutor(url) as remote:
        remote.run_all([python("")] * 60)
    assert 2 <= max(seen) <= 6  # one and a half times as many, so that it need not wait


def test_a_full_server_is_asked_again_later() -> None:
    state = {"inside": 0, "sent away": 0}

    async def full(_: Request) -> Response:
        if state["inside"] >= 1:
            state["sent away"] += 1
            return JSONResponse({"error": "full"}, 429, headers={"retry-after": "0.1"})
        state["inside"] += 1
        await asyncio.sleep(0.01)
        state["inside"] -= 1
        return JSONResponse(OutcomeForm.of(FINE))

    with serving(app(full, parallel=8)) as url, RemoteExecutor(url) as remote:
        begun = time.monotonic()
        outcomes = remote.run_all([python("")] * 200)
        assert {o.status for os in outcomes for o in os} == {"exited"}
        assert time.monotonic() - begun < 30
    assert 0 < state["sent away"] < 200  # it learns how many are taken


def test_the_server_sends_away_what_may_not_wait(local: LocalExecutor) -> None:
    request = JobForm.of(python("import time; time.sleep(3)"), 0)
    with serving(make_app(local, waiting=1)) as url:

        async def ask_all() -> list[int]:
            async with httpx.AsyncClient(timeout=30) as client:
                answers = await asyncio.gather(*(client.post(f"{url}/v1/jobs", json=request) for _ in range(8)))
            assert all(a.headers.get("retry-after") for a in answers if a.status_code == 429)
            return sorted(a.status_code for a in answers)

        assert asyncio.run(ask_all()) == [200] * 3 + [429] * 5
        assert httpx.get(f"{url}/health").json() == {"status": "ok", "running": 0, "waiting": 0, "parallel": 2}


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "no JSON"),
        (b"[" * 200_000, 400, "no JSON"),
        (b"{}", 422, "language"),
        ({"language": "cobol"}, 422, "known are"),
        ({"files": {"../x": ""}}, 422, "work folder"),
        ({"limits": {"cpu": 1, "wall": 1, "memory": 1 << 50, "processes": 1, "output": 1, "disk": 1}}, 422, "memory"),
    ],
)
def test_requests_that_cannot_be_run_are_refused(url: str, body: Any, status: int, word: str) -> None:
    if isinstance(body, dict):
        answer = httpx.post(f"{url}/v1/jobs", json={**JobForm.of(python(""), 0), **body})
    else:
        answer = httpx.post(f"{url}/v1/jobs", content=body)
    assert answer.status_code == status
    assert word in answer.text


def test_a_token_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_sandbox("--arg", "slots=1", FLYWHEEL_SANDBOX_TOKEN="s3cret") as url:
        with pytest.raises(UserError, match="401"):
            RemoteExecutor(url, token="wrong")
        assert httpx.post(f"{url}/run_code", json={"code": "", "language": "python"}).status_code == 401
        monkeypatch.setenv("FLYWHEEL_SANDBOX_TOKEN", "s3cret")
        with RemoteExecutor(url) as remote:
            assert remote.run_all([python("print(1)")])[0][0].stdout == b"1\n"


def test_dead_servers_are_named_with_the_remedy() -> None:
    with RemoteExecutor(["http://127.0.0.1:1", "http://nowhere.invalid"]) as remote:
        with pytest.raises(UserError, match=r"127\.0\.0\.1:1: .*refused") as caught:
            remote.capabilities()
        assert "flywheel serve-sandbox" in str(caught.value.hint)
        assert "refused" in str(remote.health())
    with pytest.raises(UserError, match="no servers"):
        RemoteExecutor([])


def test_a_fusion_request_is_what_their_server_takes() -> None:
    job = python("print(1)", b"in", limits=Limits(wall=3, memory=100 * MIB), fetch=("out",))
    request = to_fusion(job, 0)
    assert request["code"] == "print(1)"
    assert request["language"] == "python"
    assert request["stdin"] == "in"
    assert request["run_timeout"] == 3
    assert request["memory_limit_MB"] == 100
    assert request["fetch_files"] == ["out"]


@pytest.mark.parametrize(
    ("arguments", "word", "remedy"),
    [
        (("--host", "0.0.0.0"), "anyone who reaches this machine", "FLYWHEEL_SANDBOX_TOKEN="),
        (("--executor", "cloud"), "no executor is called 'cloud'", "local, container, remote"),
        (("--arg", "slotz=2"), "no option 'slotz'", "slots"),
        (("--port", "TAKEN"), "cannot listen", "--port"),
    ],
)
def test_serving_mistakes_are_one_message(url: str, arguments: tuple[str, ...], word: str, remedy: str) -> None:
    taken = url.rsplit(":", 1)[1]
    done = flywheel("serve-sandbox", *("--port", "0"), *(a.replace("TAKEN", taken) for a in arguments))
    assert done.returncode == 1
    assert word in done.stderr and remedy in done.stderr and "Traceback" not in done.stderr


def test_an_empty_token_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a variable that is not set gives it to a compose file."""
    monkeypatch.setenv("FLYWHEEL_SANDBOX_TOKEN", "")
    done = flywheel("serve-sandbox", "--port", "0", "--host", "0.0.0.0")
    assert done.returncode == 1
    assert "anyone who reaches this machine" in done.stderr
