"""What can be known of a model and of TRL's options before any of them is used."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from flywheel.engines.checkpoint import adapter_of, load_tokenizer, loading_errors, make_model
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


def check_model(
    recipe: Recipe, model: str | dict[str, Any], chat_template: str | None, world: int, sharding: str
) -> tuple[list[str], list[str]]:
    """Whether the model can be loaded, talked to and trained here.

    Args:
        recipe: all of it.
        model: folder, hub id or scratch spec.
        chat_template: the recipe's, or None.
        world: training processes.
        sharding: as ``devices.sharding`` says.

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
            base, _ = adapter_of(model)
            with loading_errors(base):
                config = AutoConfig.from_pretrained(base)
                with init_empty_weights():
                    made = AutoModelForCausalLM.from_config(config)
            parameters = sum(p.numel() for p in made.parameters())
            _weights_are_readable(model)
        tokenizer.apply_chat_template([{"role": "user", "content": "1"}], add_generation_prompt=True, tokenize=False)
    except UserError as error:
        return [error.message + (f" ({error.hint})" if error.hint else "")], []
    return _memory(recipe, parameters, world, sharding)


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


def _memory(recipe: Recipe, parameters: int, world: int, sharding: str) -> tuple[list[str], list[str]]:
    sections: list[Training] = [s for s in (recipe.warmup, recipe.sft, recipe.dpo) if s is not None]
    need = max((training_bytes(parameters, s, world, sharding) for s in sections), default=0.0)
    gpu = torch.cuda.is_available()
    have = torch.cuda.get_device_properties(0).total_memory if gpu else psutil.virtual_memory().available
    where = "GPU memory" if gpu else "memory"
    each = f" on each of {world} processes" if world > 1 else ""
    asked = f"{need / 2**30:.1f} GiB{each} of {have / 2**30:.1f} GiB {where}"
    told = f"{parameters:,} parameters; training needs at least {asked}"
    findings = []
    if need > have:
        findings.append(f"the model does not fit: {told} (use `lora`, DeepSpeed ZeRO-3, or a smaller model)")
    engine = recipe.engine
    weights, room = 2 * parameters / engine.tensor_parallel, engine.memory * have
    if gpu and weights > room:
        findings.append(
            f"the model does not fit for sampling: {weights / 2**30:.1f} GiB of weights on each of "
            f"{engine.tensor_parallel} GPUs, with room for {room / 2**30:.1f} GiB (raise engine.tensor_parallel)"
        )
    return findings, [told]


def training_bytes(parameters: int, section: Training, world: int, sharding: str) -> float:
    """Bytes on each device: weights, gradients, AdamW's moments, DPO's reference; activations come on top.

    ZeRO-2 shards gradients and moments, ZeRO-3 and FSDP the weights as well (Rajbhandari et al. 2020, figure 1).
    Offloaded states are not counted as if they were: they may fit where this says no, so it says nothing then.
    """
    if sharding.endswith("offload"):
        return 0.0
    adapters = section.lora is not None
    weights = (2 if adapters else 4) * parameters
    state = 0 if adapters else 12 * parameters
    reference = weights if isinstance(section, Dpo) else 0
    if sharding in ("zero3", "fsdp"):
        return (weights + state + reference) / world
    return weights + reference + (state / world if sharding == "zero2" else state)
