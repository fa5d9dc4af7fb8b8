"""From a recipe's section to TRL's own config."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.sft_config import SFTConfig

from flywheel.errors import RecipeError
from flywheel.recipe import Dpo, Lora, Sft, Training


def sft_config(section: Sft, output: Path, seed: int, world: int) -> SFTConfig:
    """TRL's ``SFTConfig``. Raises RecipeError for a wrong ``extra`` or batch size."""
    own: dict[str, Any] = {"completion_only_loss": True}
    if not section.extra.get("packing"):
        own["max_length"] = None  # ``sft_dataset`` has cut the rows; TRL need not map over them again
    return _build(SFTConfig, "sft", section, {**_common(section, output, seed, world), **own})


def dpo_config(section: Dpo, output: Path, seed: int, world: int) -> DPOConfig:
    """TRL's ``DPOConfig``: the preference loss plus ``sft_weight`` times the chosen's NLL."""
    losses, weights = [section.loss], [1.0]
    if section.sft_weight > 0:
        losses, weights = [section.loss, "sft"], [1.0, section.sft_weight]
    own = {"beta": section.beta, "loss_type": losses, "loss_weights": weights}
    return _build(DPOConfig, "dpo", section, {**_common(section, output, seed, world), **own})


def lora_config(lora: Lora | None) -> LoraConfig | None:
    """PEFT's config, or None for full fine-tuning."""
    if lora is None:
        return None
    return LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        task_type="CAUSAL_LM",
    )


def _common(section: Training, output: Path, seed: int, world: int) -> dict[str, Any]:
    if section.batch_size % world:
        raise RecipeError(
            f"batch_size {section.batch_size} is not a multiple of the {world} training processes",
            hint="choose a multiple",
        )
    per_device = section.batch_size // world
    micro = min(section.micro_batch or per_device, per_device)
    if per_device % micro:
        raise RecipeError(
            f"micro_batch {micro} does not divide the {per_device} rows that each of {world} processes gets per step"
        )
    gpu = torch.cuda.is_available()
    precision = section.precision
    if precision == "auto":
        precision = "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp32"
    checkpointing = section.gradient_checkpointing
    return {
        "output_dir": str(output),
        "learning_rate": section.learning_rate,
        "lr_scheduler_type": section.scheduler,
        "warmup_steps": section.lr_warmup,  # below 1, transformers takes it as a share of all steps
        "num_train_epochs": section.epochs,
        "max_steps": section.max_steps or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_device // micro,
        "max_length": section.max_length,
        "weight_decay": section.weight_decay,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": not gpu,
        "gradient_checkpointing": gpu if checkpointing is None else checkpointing,  # until the rows are known
        "save_strategy": "steps",
        "save_steps": section.save_steps,
        "save_total_limit": 2,  # the newest may be half-written when the power goes
        "logging_steps": 10,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
    }


def _build(cls: Any, name: str, section: Training, values: dict[str, Any]) -> Any:
    fields = {field.name for field in dataclasses.fields(cls)}
    problems = []
    for key in section.extra:
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            problems.append(
                f"{name}.extra.{key}: {cls.__name__} has no such field"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        elif key in values and key not in ("logging_steps", "use_cpu", "report_to"):
            problems.append(f"{name}.extra.{key}: flywheel sets this from the recipe's own `{name}` keys")
    if problems:
        raise RecipeError("\n".join(problems), hint="`extra` takes TRL's own field names")
    try:
        return cls(**{**values, **section.extra})
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{name}: {error}") from error
