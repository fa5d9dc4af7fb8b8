"""What the Trainer tells its agent, and how its checkpoints become trustworthy."""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from flywheel.files import fsync_path, write_atomic
from flywheel.workers import Report


class Progress(TrainerCallback):
    """Steps and metrics, as messages to the agent."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._last = 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._report("progress", done=state.global_step, total=state.max_steps)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        now = time.monotonic()
        if now - self._last > 0.2 or state.global_step == state.max_steps:
            self._last = now
            self._report("progress", done=state.global_step, total=state.max_steps)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            self._report("log", step=state.global_step, values=dict(logs))


class CompleteCheckpoints(TrainerCallback):
    """Mark a checkpoint once all of it is on disk; the Trainer itself does not write atomically."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            # transformers would write one here, three times the model, that the stage's own result makes useless.
            control.should_save = False

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        assert args.output_dir is not None
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        for file in checkpoint.rglob("*"):
            if file.is_file():
                fsync_path(file)
        write_atomic(checkpoint / f"complete.{self._rank}", b"")


def newest_checkpoint(output: Path, world: int, rank: int) -> str | None:
    """The last checkpoint that every rank finished; incomplete ones are deleted by rank 0."""
    found = []
    for folder in output.glob("checkpoint-*"):
        complete = all((folder / f"complete.{r}").exists() for r in range(world))
        if complete and (match := re.fullmatch(r"checkpoint-(\d+)", folder.name)):
            found.append((int(match[1]), str(folder)))
        elif rank == 0:
            shutil.rmtree(folder)
    return max(found)[1] if found else None


def peak_memory() -> dict[str, float]:
    """Peak device memory of this process in GiB; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"peak_gpu_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
