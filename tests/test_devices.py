"""GPU memory after a stage. The driver is played here: what is tested is the waiting and the blame."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from flywheel import devices
from flywheel.errors import EngineFailed

GIB = 2**30


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU whose memory readings and processes the test sets."""
    state: dict[str, Any] = {"used": iter([GIB]), "pids": []}
    nvml = SimpleNamespace(
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
