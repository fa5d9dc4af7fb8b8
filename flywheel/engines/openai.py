"""Any OpenAI-compatible server, or a fleet of them, as an engine: hosted APIs, vLLM, SGLang, llama.cpp, …

What becomes of an attempt that brings no answer:

- A server that cannot be reached (no connection, or 502, 503, 504 from what stands before it) is waited for.
  That costs no retry unless the fleet answered somebody else meanwhile: then the request is at fault.
- 408, 409, 425, 429, other 5xx, a timeout, and an answer that is no chat completion each cost a retry. A request
  without retries left is ``NoAnswer``: it is recorded as undecided.
- Before every retry there is a pause that doubles and is partly random, and the request goes to another server
  if there is one. A ``Retry-After`` holds for all requests to that server.
- If no server answers any request for ``patience`` seconds, that is ``EngineFailed``. A request that outlives its
  retries while others are answered does not bring the engine down.
- Other 4xx are not repeated: 401, 403 and 404 end the run with what to mend, the rest is ``NoAnswer``.

A seed is sent (31 bits: many servers keep no more), but how far it reproduces an answer is the server's to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import httpx2  # what openai sends its requests with
import openai

from flywheel.engines.base import derive_seed
from flywheel.engines.openai_answers import Failed, meaning_of, read_answer, short
from flywheel.engines.openai_settings import checked
from flywheel.engines.usage import Bill, Usage
from flywheel.errors import BudgetSpent, EngineFailed, FlywheelError, NoAnswer, RecipeError
from flywheel.types import Completion, Message, Sampling

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 20.0
"""Seconds before the first retry, and at most before a later one."""
_CONNECT_SECONDS = 10.0
_SHUN_SECONDS = 30.0


class OpenAIEngine:
    """Chat requests over HTTP.

    Args:
        servers: base URLs, such as ``http://host:8000/v1``; one, or several that serve the same model.
        model: the name that they serve it under; None takes the only model of the first server that answers.
        api_key_env: environment variable with the key. Local servers need none.
        concurrency: most requests in flight, all servers together.
        timeout: seconds for one attempt, from sending to the whole answer.
        retries: attempts after the first that one request may cost.
        patience: seconds without any answer from any server until the engine gives up.
        prices: USD per million tokens, ``{"input": …, "output": …}``.
        budget: USD, for all answers in ``usage_file``. It can be passed by the price of an answer, and by what other
            processes have in flight when it is reached.
        extra_body: further fields of every request, such as ``{"min_p": 0.1}``. It wins over what the engine
            sends, and null leaves a field out: ``{"max_tokens": None, "max_completion_tokens": 512}``.
        usage_file: JSONL, a line per answered request, shared by all processes of a run.

    Raises:
        RecipeError: wrong arguments (all at once), a refused key, or a model that is not served.
        EngineFailed: no server answers. If ``usage_file`` shows that some did before, only after ``patience``.
    """

    continuous = True

    def __init__(
        self,
        *,
        servers: str | list[str],
        model: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        concurrency: int = 512,
        timeout: float = 600.0,
        retries: int = 5,
        patience: float = 600.0,
        prices: dict[str, float] | None = None,
        budget: float | None = None,
        extra_body: dict[str, Any] | None = None,
        usage_file: str | None = None,
    ) -> None:
        self._set = checked(
            servers=servers,
            model=model,
            api_key_env=api_key_env,
            concurrency=concurrency,
            timeout=timeout,
            retries=retries,
            patience=patience,
            prices=prices,
            budget=budget,
            extra_body=extra_body,
        )
        self._urls = [str(url) for url in self._set.servers]
        self._key = os.environ.get(api_key_env) or "none"
        self._bill = Bill(usage_file, self._set.prices)
        self._jitter = random.Random()  # a task's own random numbers must not depend on ours
        # Monotonic seconds: the last answer, the last failure, the first failure after that answer.
        self._answered = self._failed = 0.0
        self._silent_since: float | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lifetime: AsyncGenerator[None, None] | None = None
        self._slots: asyncio.Semaphore
        self._sent: int  # requests that a server is working on, and the event that one of them ended
        self._landed: asyncio.Event
        self._fleet: list[_Server]
        self._model = self._find_model()

    @property
    def usage(self) -> Usage:
        """What this engine got answered; not what other processes did."""
        return self._bill.own

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        """See ``Engine``. The tokens of one completion are exact, those of several an estimate.

        Where a server gives fewer than n, the others are asked for one by one; those that fail are "abort".
        """
        await self._connect()
        # Greedy answers are all the same, and vLLM refuses to repeat itself.
        first = replace(sampling, n=sampling.n if sampling.temperature > 0 else 1)
        done = await self._ask(messages, first)
        singles = (replace(sampling, n=1, seed=derive_seed(sampling.seed, i)) for i in range(len(done), sampling.n))
        done += await asyncio.gather(*(self._ask_one(messages, single) for single in singles))
        return done[: sampling.n]

    def close(self) -> None:
        self._lifetime = None  # the connections went with their event loop; if it still runs, they go now
        self._bill.close()

    # -- requests -------------------------------------------------------------------------------------

    async def _ask_one(self, messages: list[Message], sampling: Sampling) -> Completion:
        try:
            return (await self._ask(messages, sampling))[0]
        except NoAnswer as error:
            return Completion.missing(error.message)

    async def _ask(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        """One request, repeated until it is answered: at least one completion, perhaps fewer than n."""
        body = self._body(messages, sampling)
        server: _Server | None = None
        first_sent: float | None = None
        attempts = failures = 0
        while True:
            async with self._slots:
                with self._one_of_the_fleet(server) as server:
                    await asyncio.sleep(max(0.0, server.rest_until - time.monotonic()))
                    await self._wait_for_budget()
                    sent = time.monotonic()
                    first_sent = first_sent or sent
                    try:
                        return await self._attempt(server, messages, body)
                    except Failed as error:
                        failure = error
            silent = self._note_failure(server, failure, sent)
            # Where others were answered since, the silence is this request's own, and its retries end it.
            if silent >= self._set.patience and (failure.down or self._answered < first_sent):
                raise self._nobody_answers(silent) from failure
            attempts += 1
            failures += not failure.down or self._answered > sent
            if failures > self._set.retries:
                raise NoAnswer(f"no answer in {attempts} attempts; the last: {failure}") from failure
            await asyncio.sleep(self._pause(attempts))

    def _body(self, messages: list[Message], sampling: Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            **_continuing(messages),
            "n": sampling.n,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
            "seed": sampling.seed % 2**31,
            "stop": list(sampling.stop) or None,
            "top_k": sampling.top_k or None,  # not OpenAI's own: only servers that know it get it
            **(self._set.extra_body or {}),
        }
        return {key: value for key, value in body.items() if value is not None}

    async def _attempt(self, server: _Server, messages: list[Message], body: dict[str, Any]) -> list[Completion]:
        self._sent += 1
        try:
            # The client's own timeout is for each read: a server that trickles bytes would never meet it.
            async with asyncio.timeout(self._set.timeout):
                answer = await server.client.chat.completions.with_raw_response.create(
                    model=self._model,
                    messages=messages,  # type: ignore[arg-type]
                    extra_body=body,
                )
            completions, tokens = read_answer(answer.content)
            self._note_answer(server)
            self._charge(server, tokens)
        except (openai.APIError, TimeoutError) as error:
            raise self._meaning(error, server.url) from error
        finally:
            self._sent -= 1
            self._landed.set()
        if not completions:
            raise Failed("the server broke off every completion")
        return completions

    def _charge(self, server: _Server, tokens: tuple[int, int] | None) -> None:
        if tokens is None and self._set.prices:
            message = f"{server.url} does not say how many tokens it used: what it costs is unknown"
            raise RecipeError(message, hint="leave sample.engine.extra.prices and budget out")
        self._bill.add(server.url, self._model, *(tokens or (0, 0)))

    async def _wait_for_budget(self) -> None:
        """Return when one more request fits; what is in flight is expected to cost what answers cost so far.

        The very first request of a run therefore goes alone.

        Raises:
            BudgetSpent: it does not fit, and nothing is in flight whose answer would be lost.
        """
        budget, total = self._set.budget, self._bill.total
        while budget is not None:
            self._bill.refresh()
            each = total.cost / total.requests if total.requests else budget
            if total.cost + self._sent * each < budget:
                return
            if not self._sent:
                raise BudgetSpent(
                    f"the budget is spent: {total.cost:.4f} of {budget:g} USD for {total.requests:,} answers",
                    hint="raise sample.engine.extra.budget; the same command resumes",
                )
            self._landed.clear()
            await self._landed.wait()

    # -- servers --------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        """Clients for the running event loop: connections cannot outlive it."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self._slots = asyncio.Semaphore(self._set.concurrency)
            self._landed = asyncio.Event()
            self._sent = 0
            self._lifetime = self._connections()
            await anext(self._lifetime)

    async def _connections(self) -> AsyncGenerator[None, None]:
        # Closing a connection takes its loop, and close() comes when that is over. An async generator that is
        # still open is what asyncio.run closes just before the end of the loop.
        limits = httpx2.Limits(max_connections=self._set.concurrency, max_keepalive_connections=self._set.concurrency)
        timeout = openai.Timeout(self._set.timeout, connect=min(self._set.timeout, _CONNECT_SECONDS))
        self._fleet = [
            _Server(
                url,
                openai.AsyncOpenAI(
                    base_url=url,
                    api_key=self._key,
                    max_retries=0,
                    timeout=timeout,
                    http_client=openai.DefaultAsyncHttpxClient(limits=limits),
                ),
            )
            for url in self._urls
        ]
        try:
            yield
        finally:
            for server in self._fleet:
                await server.client.close()

    @contextmanager
    def _one_of_the_fleet(self, last: _Server | None) -> Iterator[_Server]:
        """The server with the least to do, rather not the one that just failed, nor one that failed lately."""
        now = time.monotonic()

        def badness(server: _Server) -> tuple[float, bool, bool, int]:
            rest = max(0.0, server.rest_until - now)
            return rest, server.shunned_until > now, server is last, server.in_flight

        server = min(self._fleet, key=badness)
        if server.error:
            # One request at a time finds out whether it is back; the others stay with those that answer.
            server.shunned_until = now + _SHUN_SECONDS
        server.in_flight += 1
        try:
            yield server
        finally:
            server.in_flight -= 1

    def _note_answer(self, server: _Server) -> None:
        server.error, server.shunned_until = "", 0.0
        self._answered, self._silent_since = time.monotonic(), None

    def _note_failure(self, server: _Server, failure: Failed, sent: float) -> float:
        """Remember it; returns for how many seconds nobody has been answered."""
        now = time.monotonic()
        # Time in which nobody asked is no silence.
        if self._silent_since is None or sent - self._failed > self._set.patience:
            self._silent_since = now
            print(f"{server.url}: {failure}; trying again", flush=True)
        self._failed = now
        server.error, server.shunned_until = str(failure), now + _SHUN_SECONDS
        server.rest_until = max(server.rest_until, now + min(failure.retry_after, self._set.patience))
        return now - self._silent_since

    def _nobody_answers(self, silent: float) -> EngineFailed:
        lines = "\n".join(f"  {server.url}: {server.error or 'not asked lately'}" for server in self._fleet)
        return EngineFailed(
            f"no server has answered for {silent:.0f} s:\n{lines}",
            hint="start them again; the same command resumes (sample.engine.extra.patience says how long to wait)",
        )

    def _pause(self, attempts: int) -> float:
        """Seconds after a number of attempts; random, so that those who failed together do not return together."""
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(attempts - 1, 30))
        return float(longest * self._jitter.uniform(0.5, 1.0))

    def _meaning(self, error: openai.APIError | TimeoutError, url: str) -> FlywheelError | Failed:
        return meaning_of(error, url, self._set.timeout, self._set.api_key_env)

    # -- the first look -------------------------------------------------------------------------------

    def _find_model(self) -> str:
        # A run that has been answered before has the right URL: its servers are being started again.
        deadline = time.monotonic() + (self._set.patience if self._bill.total.requests else 0.0)
        while True:
            try:
                return self._look()
            except EngineFailed:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(FIRST_PAUSE)

    def _look(self) -> str:
        """The model's name, once a server answers and none that answers lacks the model."""
        with ThreadPoolExecutor(len(self._urls)) as pool:
            found = list(zip(self._urls, pool.map(self._models, self._urls), strict=True))
        lists = [(url, models) for url, models in found if isinstance(models, list)]
        if not lists:
            lines = "\n".join(f"  {url}: {why}" for url, why in found)
            raise EngineFailed(f"no server answers:\n{lines}", hint="start one, or mend sample.engine.extra.servers")
        url, models = lists[0]
        model = self._set.model or (models[0] if len(models) == 1 else None)
        if model is None:
            said = f"serves {', '.join(models)}" if models else f"does not list its models at {url}/models"
            raise RecipeError(f"{url} {said}", hint="name one in sample.engine.extra.model; is the URL right?")
        # A server without a list may serve it all the same; the first request will tell.
        lacking = [f"{url} serves {', '.join(models)}" for url, models in lists if models and model not in models]
        if lacking:
            raise RecipeError(f"{model!r} is not served: {'; '.join(lacking)}", hint="mend sample.engine.extra.model")
        return model

    def _models(self, url: str) -> list[str] | FlywheelError | Failed:
        """What a server lists, nothing if it has no list; or why it does not answer.

        Raises:
            RecipeError: it refuses the key.
        """
        timeout = min(self._set.timeout, _CONNECT_SECONDS)
        with openai.OpenAI(base_url=url, api_key=self._key, max_retries=0, timeout=timeout) as client:
            try:
                answer = client.models.with_raw_response.list().content
                return [str(model["id"]) for model in json.loads(answer)["data"]]
            except (ValueError, KeyError, TypeError):
                return Failed(f"not a list of models: {short(answer)}")
            except openai.APIError as error:
                if isinstance(error, openai.APIStatusError) and error.status_code in (404, 405):
                    return []
                meaning = self._meaning(error, url)
        if isinstance(meaning, RecipeError):
            raise meaning
        return meaning


def _continuing(messages: list[Message]) -> dict[str, Any]:
    """Fields that vLLM and SGLang need to go on with a message; others' servers do so, or do not, unasked."""
    if messages[-1]["role"] != "assistant":
        return {}
    return {"add_generation_prompt": False, "continue_final_message": True}


@dataclass(eq=False)
class _Server:
    """One server of the fleet. Times are monotonic seconds.

    Attributes:
        in_flight: requests that it is working on for us.
        rest_until: it asked not to be sent anything until then.
        shunned_until: it failed; until then others are preferred.
        error: why it last failed; empty as soon as it answers.
    """

    url: str
    client: openai.AsyncOpenAI
    in_flight: int = 0
    rest_until: float = 0.0
    shunned_until: float = 0.0
    error: str = ""
