"""What an OpenAI-compatible server's answers and errors mean: completions, try again, give up, or stop."""

from __future__ import annotations

import json
import os
import time
from email.utils import parsedate_to_datetime
from itertools import accumulate, pairwise
from typing import Any

import httpx2  # what openai sends its requests with
import openai

from flywheel.errors import EngineFailed, FlywheelError, NoAnswer, RecipeError
from flywheel.types import Completion


class Failed(Exception):
    """An attempt without an answer, which may be repeated.

    Args:
        why: for people.
        down: the server was not reached, as opposed to: it failed at this request.
        retry_after: seconds that the server wants to be left alone.
    """

    def __init__(self, why: str, *, down: bool = False, retry_after: float = 0.0) -> None:
        super().__init__(why)
        self.down, self.retry_after = down, retry_after


def meaning_of(
    error: openai.APIError | TimeoutError, url: str, timeout: float, api_key_env: str
) -> FlywheelError | Failed:
    """What an error of the client says: try again, give this request up, or stop."""
    if not isinstance(error, openai.APIStatusError):
        cause = error.__cause__
        late = isinstance(error, TimeoutError | openai.APITimeoutError)
        if late and not isinstance(cause, httpx2.ConnectTimeout):
            return Failed(f"no answer within {timeout:g} s")
        return Failed(f"no connection ({cause or error!r})", down=True)
    status, said = error.status_code, _said(error)
    if status in (401, 403):
        lacking = "" if api_key_env in os.environ else f"; {api_key_env} is not set"
        hint = f"export {api_key_env}=…, or name another variable in sample.engine.extra.api_key_env"
        return RecipeError(f"{url} refuses the key ({status}): {said}{lacking}", hint)
    if status == 404:
        hint = "servers usually want URLs that end in /v1; URL/models lists what sample.engine.extra.model may be"
        return RecipeError(f"{url} has no such model or no such page (404): {said}", hint)
    if status == 402 or error.code == "insufficient_quota":
        return EngineFailed(f"{url}: {said}", "the account needs credit; then the same command resumes")
    if status >= 500 or status in (408, 409, 425, 429):
        retry_after = _retry_after(error.response.headers)
        return Failed(f"status {status}: {said}", down=status in (502, 503, 504), retry_after=retry_after)
    return NoAnswer(f"the server refused the request ({status}): {said}")


def read_answer(content: bytes) -> tuple[list[Completion], tuple[int, int] | None]:
    """The completions of an answer, and its tokens (prompt, all completions together) if it tells.

    Raises:
        Failed: it is not a chat completion.
    """
    try:
        answer = json.loads(content)
        choices = [(c["message"].get("content") or "", c.get("finish_reason")) for c in answer["choices"]]
        if not choices or not all(isinstance(text, str) for text, _ in choices):
            raise TypeError
        usage = answer.get("usage") or {}
        prompt, generated = usage.get("prompt_tokens"), usage.get("completion_tokens")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Failed(f"the answer is not a chat completion: {short(content)}") from None
    tokens = (prompt, generated) if isinstance(prompt, int) and isinstance(generated, int) else None
    shares = _shares(tokens[1] if tokens else 0, [text for text, _ in choices])
    completions = []
    for (text, finish), share in zip(choices, shares, strict=True):
        if finish == "content_filter":
            completions.append(Completion.missing("the server's content filter withheld it"))
        elif finish not in ("abort", "error"):  # what vLLM says when it is shut down or fails
            completions.append(Completion.of(text, share, "length" if finish == "length" else "stop"))
    return completions, tokens


def _shares(total: int, texts: list[str]) -> list[int]:
    """``total`` tokens divided among texts in proportion to their lengths; they sum to ``total``.

    Servers tell the tokens of all n completions together, so this is exact for one text and an estimate for more.
    """
    ends = list(accumulate(len(text) + 1 for text in texts))  # the end token counts as well
    return [after - before for before, after in pairwise([0, *(round(total * end / ends[-1]) for end in ends)])]


def _said(error: openai.APIStatusError) -> str:
    """The server's own words."""
    message = error.body.get("message") if isinstance(error.body, dict) else None
    return short(message if isinstance(message, str) else error.response.content)


def short(text: str | bytes, length: int = 300) -> str:
    line = " ".join((text if isinstance(text, str) else text.decode(errors="replace")).split())
    return line if len(line) <= length else line[:length] + "…"


def _retry_after(headers: Any) -> float:
    """Seconds, 0 if the header is missing or unreadable. It is a number or a date (RFC 9110 §10.2.3)."""
    value = headers.get("retry-after", "0")
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return 0.0
    return max(0.0, seconds)
