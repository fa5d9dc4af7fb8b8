"""In-process generation with transformers: the default engine, on CPU and GPU.

Concurrent requests are gathered until every rollout waits for an answer, grouped by sampling
settings, sorted by prompt length (little padding) and generated in batches. A batch's random stream
is seeded by the seeds of its requests: the same requests give the same completions.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import (
    BatchEncoding,
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from flywheel.engines.base import derive_seed
from flywheel.engines.checkpoint import end_tokens, load_tokenizer, load_weights, render_chat
from flywheel.types import Completion, Message, Sampling


@dataclass
class _Request:
    """One chat request: ``ids`` is the tokenized prompt."""

    ids: list[int]
    sampling: Sampling
    answer: asyncio.Future[list[Completion]]


class TransformersEngine:
    """A causal language model behind ``chat``. What is batched together shares one random stream.

    Args:
        model: checkpoint folder, PEFT adapter folder or hub id.
        dtype: "auto" is bfloat16 on a GPU and float32 on a CPU.
        batch_size: most sequences at once.
        chat_template: Jinja source that replaces the tokenizer's.
        device: such as "cuda:0"; None picks a GPU if there is one.
        threads: CPU threads; None is torch's default.
        attn_implementation: as transformers names it; None is its default.

    Raises:
        ModelError: the checkpoint cannot be loaded, or has no chat template.
    """

    continuous = False

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        batch_size: int = 512,
        chat_template: str | None = None,
        device: str | None = None,
        attn_implementation: str | None = None,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype == "auto":
            dtype = "float32" if self._device == "cpu" else "bfloat16"
        self._tokenizer: PreTrainedTokenizerBase = load_tokenizer(model, chat_template)
        self._tokenizer.padding_side = "left"
        loaded = load_weights(model, dtype=getattr(torch, dtype), attn_implementation=attn_implementation)
        self._model: Any = loaded.eval().to(torch.device(self._device))  # type: ignore[arg-type]
        self._eos = end_tokens(self._model.generation_config.eos_token_id, self._tokenizer.eos_token_id)
        # Recurrent and hybrid models keep a state that cannot be cut before the last token.
        self._can_share = not getattr(self._model, "_is_stateful", False)
        self._batch_size = batch_size
        self._pending: list[_Request] = []
        self._server: asyncio.Task[None] | None = None

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        text = render_chat(self._tokenizer, messages)
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        request = _Request(ids, sampling, asyncio.get_running_loop().create_future())
        self._pending.append(request)
        if self._server is None or self._server.done():
            self._server = asyncio.create_task(self._serve())
        return await request.answer

    def close(self) -> None:
        self._pending.clear()
        del self._model
        if self._device != "cpu":
            torch.cuda.empty_cache()

    async def _serve(self) -> None:
        """Answer until nothing is pending."""
        while self._pending:
            seen = -1
            while seen != len(self._pending):  # let every runnable rollout reach its next request
                seen = len(self._pending)
                await asyncio.sleep(0)
            requests, self._pending = self._pending, []
            try:
                for batch in self._batches(requests):
                    await self._answer(batch)
            except Exception as error:
                # Whoever waits must hear of it; the rollouts re-raise it.
                for request in requests:
                    if not request.answer.done():
                        request.answer.set_exception(error)

    def _batches(self, requests: list[_Request]) -> list[list[_Request]]:
        """Requests of equal settings and similar length; at most ``batch_size`` sequences each."""
        groups: dict[Sampling, list[_Request]] = {}
        for request in requests:
            groups.setdefault(replace(request.sampling, seed=0), []).append(request)
        batches = []
        for sampling, group in groups.items():
            group.sort(key=lambda r: len(r.ids))  # stable: equal lengths keep their order
            size = max(1, self._batch_size // sampling.n)
            batches += [group[i : i + size] for i in range(0, len(group), size)]
        return batches

    async def _answer(self, batch: list[_Request]) -> None:
        # In a thread, so that rollouts that wait for something else (a sandbox, a judge) go on.
        rows = await asyncio.to_thread(self._generate, batch)
        n = batch[0].sampling.n
        for i, request in enumerate(batch):
            if not request.answer.done():
                request.answer.set_result(rows[i * n : (i + 1) * n])

    @torch.inference_mode()
    def _generate(self, batch: list[_Request]) -> list[Completion]:
        sampling = batch[0].sampling
        prompts = self._tokenizer.pad({"input_ids": [request.ids for request in batch]}, return_tensors="pt")
        prompts = prompts.to(self._device)
        cache = self._shared_prefill(prompts, sampling.n)
        padded = {name: tensor.repeat_interleave(sampling.n, dim=0) for name, tensor in prompts.items()}
        torch.manual_seed(derive_seed(*(request.sampling.seed for request in batch)))
        output = self._model.generate(
            **padded,
            past_key_values=cache,
            generation_config=self._generation_config(sampling),
            tokenizer=self._tokenizer if sampling.stop else None,
        )
        new = output[:, padded["input_ids"].shape[1] :].tolist()
        return self._completions(new, sampling)

    def _shared_prefill(self, padded: BatchEncoding, n: int) -> DynamicCache | None:
        """Keys and values of all but the last prompt token, computed once for the n completions of a prompt."""
        if n == 1 or padded["input_ids"].shape[1] < 2 or not self._can_share:
            return None
        mask = padded["attention_mask"][:, :-1]
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = DynamicCache(config=self._model.config)
        self._model(
            input_ids=padded["input_ids"][:, :-1],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache.batch_repeat_interleave(n)
        return cache

    def _generation_config(self, sampling: Sampling) -> GenerationConfig:
        # Built from nothing: a checkpoint's own generation_config must not bend the samples.
        chosen: dict[str, Any] = {"do_sample": False}
        if sampling.temperature > 0:
            chosen = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
            }
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=sorted(self._eos),
            pad_token_id=self._tokenizer.pad_token_id,
            stop_strings=list(sampling.stop) or None,
            **chosen,
        )

    def _completions(self, rows: list[list[int]], sampling: Sampling) -> list[Completion]:
        cut = [_cut(row, self._eos) for row in rows]
        texts = self._tokenizer.batch_decode([ids for ids, _ in cut], skip_special_tokens=True)

        completions = []
        for (ids, ended), text in zip(cut, texts, strict=True):
            text, stopped = _trim_stop(text, sampling.stop)
            finish = "stop" if ended or stopped else "length"
            completions.append(Completion.of(text, tokens=len(ids) + ended, finish=finish))
        return completions


def _cut(row: list[int], eos: frozenset[int]) -> tuple[list[int], bool]:
    """The tokens before the first end token, and whether there was one."""
    for position, token in enumerate(row):
        if token in eos:
            return row[:position], True
    return row, False


def _trim_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    found = [text.index(stop) for stop in stops if stop in text]
    return (text[: min(found)], True) if found else (text, False)
