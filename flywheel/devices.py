"""Accelerators of this host, counted without creating a CUDA context."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from typing import Any

from flywheel.errors import EngineFailed, RecipeError
from flywheel.session import Rank

RELEASE_LIMIT = 60.0
RELEASE_SLACK = 512 * 2**20
"""Bytes more than before that still count as given back: drivers and neighbours breathe."""

SCRUBBED = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK", "ROLE_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE",
    "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP",
)  # fmt: skip
"""What a launcher sets and a generation worker must not see: it is a world of its own."""


def visible_gpus() -> list[str]:
    """Ids of the GPUs this process may use, as ``CUDA_VISIBLE_DEVICES`` would name them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        named = [part.strip() for part in visible.split(",") if part.strip()]
        return list(takewhile(lambda part: not part.startswith("-"), named))  # as CUDA does: -1 hides what follows
    try:
        with _driver() as nvml:
            return [str(i) for i in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # not installed, or no driver
        return []


def replicas(rank: Rank, tensor_parallel: int, cpu_replicas: int) -> list[list[str]]:
    """The GPUs of each engine that this agent runs; an empty group means "on the CPU".

    Args:
        rank: this agent's place.
        tensor_parallel: GPUs per engine; local ranks are grouped, and the first of a group leads it.
        cpu_replicas: engines per agent where there is no GPU.

    Raises:
        RecipeError: ``tensor_parallel`` does not divide this host's GPUs, or more ranks were launched than it has.
    """
    gpus = visible_gpus()
    if not gpus:
        if tensor_parallel > 1:
            raise RecipeError(
                f"engine.tensor_parallel is {tensor_parallel}, but this host has no GPU",
                hint="set engine.tensor_parallel=1",
            )
        return [[] for _ in range(cpu_replicas)]
    if rank.local_world > len(gpus):
        raise RecipeError(
            f"{rank.local_world} processes were launched on this host, which has {len(gpus)} GPUs",
            hint=f"accelerate launch --num_processes {len(gpus)} …, or CUDA_VISIBLE_DEVICES= to train on its CPUs",
        )
    if len(gpus) % tensor_parallel:
        raise RecipeError(
            f"engine.tensor_parallel is {tensor_parallel}, which does not divide this host's {len(gpus)} GPUs",
            hint="choose a divisor, or set CUDA_VISIBLE_DEVICES",
        )
    groups = [gpus[i : i + tensor_parallel] for i in range(0, len(gpus), tensor_parallel)]
    return groups[rank.local :: rank.local_world]


def memory_in_use(gpus: list[str]) -> dict[str, int]:
    """Bytes in use on each GPU, by whomever. Asked of the driver: no CUDA context is made."""
    if not gpus:
        return {}
    with _driver() as nvml:
        return {gpu: int(nvml.nvmlDeviceGetMemoryInfo(_handle(nvml, gpu)).used) for gpu in gpus}


def await_release(before: dict[str, int], workers: Collection[int], limit: float = RELEASE_LIMIT) -> None:
    """Wait until ended workers have given back their GPU memory, which the driver may take seconds for.

    Args:
        before: ``memory_in_use`` when they started. What others have taken since is not held against them.
        workers: process groups of the workers.
        limit: seconds to wait.

    Raises:
        EngineFailed: naming the GPU and those of the workers' processes that still hold memory on it.
    """
    deadline = time.monotonic() + limit
    while fuller := [gpu for gpu, used in memory_in_use(list(before)).items() if used > before[gpu] + RELEASE_SLACK]:
        if time.monotonic() > deadline:
            if left := {gpu: holders for gpu in fuller if (holders := _holders(gpu, workers))}:
                told = "; ".join(f"GPU {gpu}: processes {', '.join(map(str, pids))}" for gpu, pids in left.items())
                raise EngineFailed(f"GPU memory was not given back within {limit:.0f} s: {told}", hint="kill them")
            return
        time.sleep(0.2)


def _holders(gpu: str, groups: Collection[int]) -> list[int]:
    with _driver() as nvml:
        pids = [process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, gpu))]
    ours = []
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            if os.getpgid(pid) in groups:
                ours.append(pid)
    return ours


@contextmanager
def _driver() -> Iterator[Any]:
    import pynvml

    pynvml.nvmlInit()
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _handle(nvml: Any, gpu: str) -> Any:
    return nvml.nvmlDeviceGetHandleByIndex(int(gpu)) if gpu.isdigit() else nvml.nvmlDeviceGetHandleByUUID(gpu)


def cpu_threads(rank: Rank, engines: int) -> int:
    """Threads for each of this agent's engines, so that together they do not exceed the cores."""
    return max(1, len(os.sched_getaffinity(0)) // (rank.local_world * engines))


def generation_env(gpus: list[str]) -> dict[str, str | None]:
    """Environment of a generation worker: its own GPUs, and no trace of the launcher."""
    return {**alone(), "CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def alone() -> dict[str, str | None]:
    """Environment of a worker that must not take part in the launcher's process group."""
    return dict.fromkeys(SCRUBBED, None)


def sharding() -> str:
    """How accelerate's config shards the training: "", "zero2", "zero3", "fsdp", the latter perhaps with "-offload"."""
    env = {key: value.lower() for key, value in os.environ.items()}
    if env.get("ACCELERATE_USE_DEEPSPEED") == "true":
        parked = {env.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{what}_DEVICE", "none") for what in ("OPTIMIZER", "PARAM")}
        return f"zero{env.get('ACCELERATE_DEEPSPEED_ZERO_STAGE', '')}" + ("-offload" if parked != {"none"} else "")
    if env.get("ACCELERATE_USE_FSDP") == "true":
        return "fsdp-offload" if env.get("FSDP_OFFLOAD_PARAMS") == "true" else "fsdp"
    return ""


def launch_findings() -> list[str]:
    """What in accelerate's config would only show when the first checkpoint is saved, after hours perhaps."""
    how = sharding()
    if how.startswith("zero3") and os.environ.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL", "").lower() != "true":
        return ["accelerate's config needs `zero3_save_16bit_model: true`: checkpoints would have no weights"]
    kind = os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    if how.startswith("fsdp") and kind != "FULL_STATE_DICT":
        return [f"accelerate's config needs `fsdp_state_dict_type: FULL_STATE_DICT`, not {kind}"]
    return []
