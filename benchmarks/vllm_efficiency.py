"""What flywheel's vllm engine adds to vLLM: the same prompts to it and to ``vllm.LLM.generate``.

    python benchmarks/vllm_efficiency.py [--threads N] [--repeats 3] [--json]

The two sides take turns, in processes of their own; of several repeats the best of each side counts, because whatever
else the machine does only adds to a time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from apart import apart
from rich import box
from rich.console import Console
from rich.table import Table

from flywheel.agent import PRELOAD
from flywheel.devices import cpu_threads
from flywheel.engines import Engine, EngineSpec, make_engine, modules
from flywheel.errors import FlywheelError
from flywheel.session import Rank
from flywheel.tasks import load_task
from flywheel.types import Completion, Sampling
from flywheel.workers import Report, run_all, spawn, start_forkserver, tail

TARGET = 0.95
"""Least throughput of the vllm engine, in units of bare vLLM's."""
MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,  # 64 wide: vLLM's CPU kernels know no head narrower than 32
    "num_key_value_heads": 4,
    "intermediate_size": 768,
    "max_position_embeddings": 512,
}
"""5M parameters: small enough for a CPU, and so for what surrounds the model to show."""


def make_checkpoint(payload: dict[str, Any], report: Report) -> None:
    """Worker: a model with random weights in ``folder``."""
    import torch

    from flywheel.engines.checkpoint import make_model
    from flywheel.recipe import ScratchModel

    torch.manual_seed(0)
    spec = {"architecture": "llama", "config": payload["config"]}
    for part in make_model(ScratchModel.model_validate(spec)):
        part.save_pretrained(payload["folder"])


def flywheels_vllm(job: dict[str, Any], report: Report) -> dict[str, float]:
    """Worker: ``VllmEngine.chat``, asked for everything at once, as the sampler does."""
    own = {"kv_cache_memory_bytes": job["cache_bytes"], "seeded": job["seeded"]}
    spec = EngineSpec("vllm", job["model"], "float32", job["batch_size"], threads=job["threads"], extra=own)
    engine = make_engine(spec)
    sampling = Sampling(n=job["completions"], max_tokens=job["max_tokens"])

    async def both() -> dict[str, float]:
        await _chat(engine, job["warmup"], sampling)
        started = time.perf_counter()
        answers = await _chat(engine, job["chats"], sampling)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "tokens": sum(c.tokens for group in answers for c in group)}

    try:
        return asyncio.run(both())
    finally:
        engine.close()


async def _chat(engine: Engine, chats: list[Any], sampling: Sampling) -> list[list[Completion]]:
    return await asyncio.gather(*(engine.chat(chat, replace(sampling, seed=i)) for i, chat in enumerate(chats)))


def bare_vllm(job: dict[str, Any]) -> dict[str, float]:
    """``vllm.LLM.generate`` on the same prompts, as texts, with the same settings."""
    os.environ |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    os.environ["OMP_NUM_THREADS"] = str(job["threads"])
    from vllm import LLM, SamplingParams

    model = LLM(
        job["model"],
        dtype="float32",
        max_num_seqs=job["batch_size"],
        kv_cache_memory_bytes=job["cache_bytes"],
        enforce_eager=True,
        generation_config="vllm",
        disable_log_stats=True,
    )
    tokenizer = model.get_tokenizer()
    warmup, prompts = (
        [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in job[key]]
        for key in ("warmup", "chats")
    )
    sampling = SamplingParams(n=job["completions"], max_tokens=job["max_tokens"], temperature=1.0)
    model.generate(warmup, sampling, use_tqdm=False)
    started = time.perf_counter()
    answers = model.generate(prompts, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    model.llm_engine.engine_core.shutdown(timeout=10)  # without one, its shared memory would stay
    return {"seconds": seconds, "tokens": sum(len(o.token_ids) for answer in answers for o in answer.outputs)}


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Tokens per second of ``flywheel``, ``flywheel, seeded`` and ``bare``: each repeat, and the best."""
    start_forkserver(PRELOAD, also=modules(["vllm"]))
    rates: dict[str, list[dict[str, float]]] = {"flywheel": [], "bare": [], "flywheel, seeded": []}
    with tempfile.TemporaryDirectory(prefix="flywheel-efficiency-") as scratch:
        folder, log = str(Path(scratch) / "model"), Path(scratch) / "log"

        def worker(target: str, payload: dict[str, Any]) -> Any:
            try:
                return run_all([spawn(f"vllm_efficiency:{target}", payload, name=target, log=log)])[0]
            except FlywheelError:
                print(tail(log, 2000), file=sys.stderr)
                raise

        worker("make_checkpoint", {"folder": folder, "config": MODEL})
        problems = load_task("countdown", {"style": args.style}).problems("train")
        chats = [list(problem.prompt) for problem, _ in zip(problems, range(args.prompts + 8), strict=False)]
        job = {"model": folder, "chats": chats[8:], "warmup": chats[:8], "cache_bytes": 2**31, "seeded": False}
        job |= {key: getattr(args, key) for key in ("completions", "max_tokens", "batch_size", "threads")}
        run: dict[str, Callable[[], dict[str, float]]] = {
            "flywheel": lambda: worker("flywheels_vllm", job),
            "bare": lambda: apart(bare_vllm, [job], log)[0],
            "flywheel, seeded": lambda: worker("flywheels_vllm", {**job, "seeded": True}),
        }
        for i in range(args.repeats):
            for name in list(run)[:: 1 - 2 * (i % 2)]:
                rates[name].append(run[name]())
    best = {name: max(r["tokens"] / r["seconds"] for r in found) for name, found in rates.items()}
    settings = {key: getattr(args, key) for key in ("style", "prompts", "completions", "max_tokens", "threads")}
    return {"tokens_per_second": best, "target": TARGET, "settings": settings, "repeats": rates}


def show(result: dict[str, Any], console: Console) -> None:
    table = Table(title="vllm engine", title_justify="left", box=box.SIMPLE)
    for column in ("", "tokens/s", "of bare", "repeats"):
        table.add_column(column, justify="right" if column else "left")
    best = result["tokens_per_second"]
    for name, rate in best.items():
        every = ", ".join(f"{r['tokens'] / r['seconds']:.0f} ({r['seconds']:.0f} s)" for r in result["repeats"][name])
        table.add_row(name, f"{rate:.0f}", f"{rate / best['bare']:.3f}", every)
    console.print(table)
    ratio = best["flywheel"] / best["bare"]
    verdict = "meets" if ratio >= TARGET else "misses"
    console.print(f"ratio {ratio:.3f}: {verdict} the target of at least {TARGET:.2f}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--style", choices=("chat", "terse"), default="chat", help="of the countdown prompts")
    add("--prompts", type=int, default=128, help="(default: %(default)s)")
    add("--completions", type=int, default=8, help="for each prompt (default: %(default)s)")
    add("--max-tokens", type=int, default=64, help="of a completion (default: %(default)s)")
    add("--batch-size", type=int, default=512, help="most sequences at once (default: %(default)s)")
    add("--threads", type=int, default=cpu_threads(Rank(), 1), help="of OpenMP (default: all cores)")
    add("--repeats", type=int, default=2, help="of each side (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    if args.repeats < 1:
        parser.error("--repeats starts at 1")
    return args


def main() -> int:
    args = arguments()
    # The same for both sides as for flywheel's own workers (workers.start_forkserver).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        result = measure(args)
    except FlywheelError as error:
        print(error, file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result, indent=2))
    else:
        show(result, Console(highlight=False, width=max(110, Console().width)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
