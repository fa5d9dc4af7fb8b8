"""What can be known of a model and of TRL's options before any of them is used."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from flywheel.engines.checkpoint import load_tokenizer, loading_errors, make_model
from flywheel.errors import ModelError, UserError
from flywheel.recipe import Dpo, Recipe, ScratchModel, Training
from flywheel.training.config import dpo_config, sft_config


def check_training(recipe: Recipe, world: int) -> list[str]:
    """Wrong or misspelt training options, all at once."""
    findings = []
    for name in ("warmup", "sft", "dpo"):
        section = getattr(recipe, name)
        if section is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                build: Any = dpo_config if isinstance(section, Dpo) else sft_config
                build(section, Path(folder), recipe.seed, world)
            except UserError as error:
                findings += [
                    line if line.startswith(name) else f"{name}: {line}" for line in error.message.splitlines()
                ]
    return findings


def check_launch() -> list[str]:
    """What in accelerate's config would only show when the first checkpoint is saved, after hours perhaps."""
    env = {key: value.lower() for key, value in os.environ.items()}
    findings = []
    stage, gathers = env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE"), env.get("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL")
    if stage == "3" and gathers != "true":
        findings.append("accelerate's config needs `zero3_save_16bit_model: true`: checkpoints would have no weights")
    kind = env.get("FSDP_STATE_DICT_TYPE", "sharded_state_dict")
    if env.get("ACCELERATE_USE_FSDP") == "true" and kind != "full_state_dict":
        findings.append(f"accelerate's config needs `fsdp_state_dict_type: FULL_STATE_DICT`, not {kind.upper()}")
    return findings


def check_model(recipe: Recipe, model: str | dict[str, Any], chat_template: str | None) -> tuple[list[str], list[str]]:
    """Whether the model can be loaded, talked to and trained here.

    Returns:
        findings: what is wrong.
        notes: size and memory estimate.
    """
    try:
        if isinstance(model, dict):
            set_seed(0)
            made, tokenizer = make_model(ScratchModel.model_validate(model))
            parameters = sum(p.numel() for p in made.parameters())
        else:
            tokenizer = load_tokenizer(model, chat_template)
            with loading_errors(model):
                config = AutoConfig.from_pretrained(model)
                with init_empty_weights():
                    made = AutoModelForCausalLM.from_config(config)
            parameters = sum(p.numel() for p in made.parameters())
            _weights_are_readable(model)
        tokenizer.apply_chat_template([{"role": "user", "content": "1"}], add_generation_prompt=True, tokenize=False)
    except UserError as error:
        return [error.message + (f" ({error.hint})" if error.hint else "")], []
    return _memory(recipe, parameters)


def _weights_are_readable(model: str) -> None:
    folder = Path(model)
    if not folder.is_dir():
        return
    files = sorted(folder.glob("*.safetensors"))
    if not files and not [*folder.glob("pytorch_model*.bin")]:
        raise ModelError(f"the model folder {model} has no weights (*.safetensors)", hint="re-download it")
    for file in files:
        # The header names every tensor and its extent: a damaged or truncated file is found without reading it.
        with loading_errors(str(file)), safe_open(file, "pt"):
            pass


def _memory(recipe: Recipe, parameters: int) -> tuple[list[str], list[str]]:
    sections: list[Training] = [s for s in (recipe.warmup, recipe.sft, recipe.dpo) if s is not None]
    need = max((_training_bytes(parameters, s) for s in sections), default=0)
    gpu = torch.cuda.is_available()
    have = torch.cuda.get_device_properties(0).total_memory if gpu else psutil.virtual_memory().available
    where = "GPU memory" if gpu else "memory"
    told = (
        f"{parameters:,} parameters; training needs at least {need / 2**30:.1f} GiB of {have / 2**30:.1f} GiB {where}"
    )
    if need > have:
        return [f"the model does not fit: {told} (use `lora`, DeepSpeed ZeRO-3, or a smaller model)"], [told]
    return [], [told]


def _training_bytes(parameters: int, section: Training) -> int:
    """Weights, gradients and AdamW's two moments in float32; a frozen bfloat16 base under LoRA; DPO's reference."""
    state = 2 * parameters if section.lora is not None else 16 * parameters
    reference = (2 if section.lora is not None else 4) * parameters if isinstance(section, Dpo) else 0
    return state + reference
