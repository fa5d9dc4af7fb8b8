"""TRL's ``GRPOTrainer`` on a flywheel task for a fixed time: the child process of ``countdown_vs_grpo.py``.

    python benchmarks/grpo_run.py SPEC.json

The reward is the task's own verifier. What would only cost time is off (bfloat16 and gradient
checkpointing on a CPU, logging, TRL's own checkpoints). The rest of GRPO is as TRL 1.16 ships it:
token-level DAPO loss, rewards scaled within the group, no KL term. The clock starts when the trainer
takes its first step, after all imports and loading, and stands still while a checkpoint is written.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as flywheel's workers: before torch is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from flywheel.engines.checkpoint import load_tokenizer
from flywheel.files import write_json
from flywheel.stages.verifier import judge
from flywheel.tasks import Task, load_task
from flywheel.types import Completion, Problem

FOREVER = 10**9


@dataclass(frozen=True)
class Spec:
    """One GRPO run.

    Attributes:
        model: the checkpoint to start from.
        out: folder for the checkpoints and ``result.json``.
        task: ``use``, ``args`` and ``base`` (folder of the recipe), as ``load_task`` takes them.
        seed: of sampling.
        budget: seconds of training.
        marks: seconds at which a checkpoint is kept; the last is kept in any case.
        learning_rate: peak.
        schedule: "constant", or "linear": to 0 at the end of the budget.
        prompts: per step.
        generations: completions per prompt.
        updates: optimizer steps on each step's completions, on equal shares of them.
        max_tokens: of a completion.
        temperature: of sampling.
        problems: most training problems to draw from. They come in the split's own order, as flywheel draws
            them (a task's early problems may be easier than its late ones), and again only after all others.
        threads: CPU threads; None is torch's default.
    """

    model: str
    out: str
    task: dict[str, Any]
    seed: int
    budget: float
    marks: list[float]
    learning_rate: float
    schedule: str
    prompts: int
    generations: int
    updates: int
    max_tokens: int
    temperature: float
    problems: int
    threads: int | None


class Clock(TrainerCallback):
    """Ends the training with its time, keeps checkpoints on the way, and lets the learning rate follow the clock."""

    def __init__(self, spec: Spec, save: Callable[[Path], None]) -> None:
        self._spec = spec
        self._save = save
        self._marks = sorted(mark for mark in spec.marks if mark < spec.budget)
        self._paused = 0.0
        self.kept: list[dict[str, Any]] = []

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._begun - self._paused

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._begun = time.monotonic()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any
    ) -> None:
        if self._spec.schedule == "linear":
            left = max(0.0, 1 - self.elapsed / self._spec.budget)
            for group in optimizer.param_groups:
                group["lr"] = self._spec.learning_rate * left

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        elapsed = self.elapsed
        if elapsed >= self._spec.budget:
            self._keep(state.global_step, elapsed)
            control.should_training_stop = True
        elif self._marks and elapsed >= self._marks[0]:
            self._marks = [mark for mark in self._marks if mark > elapsed]
            self._keep(state.global_step, elapsed)

    def _keep(self, step: int, elapsed: float) -> None:
        begun = time.monotonic()
        folder = Path(self._spec.out) / f"step-{step:06d}"
        self._save(folder)
        self.kept.append({"seconds": elapsed, "step": step, "model": str(folder)})
        self._paused += time.monotonic() - begun


def verifier_reward(task: Task) -> Callable[..., list[float | None]]:
    """The task's verifier as a TRL reward: its score, or None where it is undecided."""

    def verified(completions: list[list[dict[str, str]]], problem: list[str], **_: Any) -> list[float | None]:
        asked = (Problem.from_row(json.loads(row)) for row in problem)
        answers = (Completion.of(messages[-1]["content"]) for messages in completions)
        return [judge(task, p, answer, timeout=10.0).score for p, answer in zip(asked, answers, strict=True)]

    return verified


def config(spec: Spec) -> GRPOConfig:
    """One batch of ``prompts x generations`` is sampled, and trained on in ``updates`` steps."""
    completions = spec.prompts * spec.generations
    if completions % spec.updates:
        raise ValueError(f"{completions} completions cannot be split into {spec.updates} equal updates")
    gpu = torch.cuda.is_available()
    return GRPOConfig(
        output_dir=str(Path(spec.out) / "trainer"),
        learning_rate=spec.learning_rate,
        lr_scheduler_type="constant",
        max_steps=FOREVER,
        per_device_train_batch_size=completions // spec.updates,
        steps_per_generation=spec.updates,
        num_generations=spec.generations,
        max_completion_length=spec.max_tokens,
        shuffle_dataset=False,
        temperature=spec.temperature,
        bf16=gpu,
        use_cpu=not gpu,
        gradient_checkpointing=False,
        dataloader_pin_memory=gpu,
        save_strategy="no",
        logging_steps=10,
        report_to="none",
        disable_tqdm=True,
        seed=spec.seed,
        data_seed=spec.seed,
    )


def train(spec: Spec) -> dict[str, Any]:
    """Train until the budget is used up.

    Returns:
        ``checkpoints`` (``seconds``, ``step``, ``model``), ``seconds`` of training, ``cpu_seconds``, ``steps`` (of the
        optimizer), ``prompts_per_second``, and ``log``, the trainer's history.
    """
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    task = load_task(spec.task["use"], spec.task["args"], Path(spec.task["base"]))
    drawn = list(islice(task.problems("train"), spec.problems))
    rows = [{"prompt": list(p.prompt), "problem": json.dumps(p.to_row())} for p in drawn]
    tokenizer = load_tokenizer(spec.model)
    model = AutoModelForCausalLM.from_pretrained(spec.model, dtype=torch.float32)

    def save(folder: Path) -> None:
        trainer.save_model(str(folder))
        tokenizer.save_pretrained(folder)

    clock = Clock(spec, save)
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=verifier_reward(task),
        args=config(spec),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    cpu = time.process_time()
    trainer.train()
    seconds, steps = clock.kept[-1]["seconds"], clock.kept[-1]["step"]
    return {
        "checkpoints": clock.kept,
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "steps": steps,
        "prompts_per_second": steps / spec.updates * spec.prompts / seconds,
        "log": trainer.state.log_history,
    }


def main() -> None:
    spec = Spec(**json.loads(Path(sys.argv[1]).read_text()))
    result = train(spec)
    write_json(Path(spec.out) / "result.json", result)


if __name__ == "__main__":
    main()
