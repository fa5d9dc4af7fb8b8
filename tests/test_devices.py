"""Who gets which GPU, and their memory after a stage. The driver is played here: the waiting and the blame are ours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel import devices
from flywheel.errors import EngineFailed, RecipeError
from flywheel.session import Rank

GIB = 2**30


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU whose memory readings and processes the test sets."""
    state: dict[str, Any] = {"used": iter([GIB]), "pids": []}
    nvml = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=next(state["used"])),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in state["pids"]],
    )

    @contextmanager
    def play() -> Iterator[Any]:
        yield nvml

    monkeypatch.setattr(devices, "_driver", play)
    return state


def forever(value: int) -> Iterator[int]:
    while True:
        yield value


def test_memory_that_comes_back_late_is_waited_for(driver: dict[str, Any]) -> None:
    driver["used"] = iter([GIB, 40 * GIB, 20 * GIB, GIB + 1])
    before = devices.memory_in_use(["0"])
    devices.await_release(before, {1}, limit=30)
    assert next(driver["used"], None) is None


def test_a_worker_that_keeps_memory_is_named_and_a_neighbour_is_not_blamed(driver: dict[str, Any]) -> None:
    driver["used"], driver["pids"] = forever(40 * GIB), [os.getpid()]
    with pytest.raises(EngineFailed, match=rf"GPU 0: processes {os.getpid()}"):
        devices.await_release({"0": GIB}, {os.getpgid(0)}, limit=0.1)
    devices.await_release({"0": GIB}, {1}, limit=0.1)


def test_without_a_gpu_there_is_nothing_to_wait_for() -> None:
    assert devices.memory_in_use([]) == {}
    devices.await_release({}, {1})


def test_gpus_are_those_of_the_driver_or_those_that_the_user_names(
    driver: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.visible_gpus() == ["0", "1"]
    for named, seen in {"1": ["1"], "": [], "-1": [], "0,-1,1": ["0"], " 0, GPU-ab": ["0", "GPU-ab"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
        assert devices.visible_gpus() == seen


def test_each_rank_leads_its_own_groups_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    two = [Rank(index=i, world=2, local=i, local_world=2) for i in range(2)]
    assert [devices.replicas(rank, 1, 1) for rank in two] == [[["0"], ["2"]], [["1"], ["3"]]]
    assert [devices.replicas(rank, 2, 1) for rank in two] == [[["0", "1"]], [["2", "3"]]]
    assert [devices.replicas(rank, 4, 1) for rank in two] == [[["0", "1", "2", "3"]], []]
    with pytest.raises(RecipeError, match="3, which does not divide this host's 4 GPUs"):
        devices.replicas(two[0], 3, 1)
    with pytest.raises(RecipeError, match="8 processes were launched on this host, which has 4 GPUs"):
        devices.replicas(Rank(index=0, world=8, local=0, local_world=8), 1, 1)
