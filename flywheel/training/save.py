"""From a trainer, however its weights are sharded, to a checked Hugging Face folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, Trainer
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from flywheel.engines.checkpoint import adapter_of, load_weights
from flywheel.errors import StageFailed
from flywheel.recipe import Training


def save_checkpoint(
    trainer: Trainer, section: Training, payload: dict[str, Any], tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write ``WORK/model``. Every rank calls it (shards are gathered); rank 0 merges, checks and completes it.

    Raises:
        StageFailed: the folder is not a whole model.
    """
    target = Path(payload["work"]) / "model"
    merge = section.lora is not None and section.lora.merge
    gathered = target.with_name(".adapter") if merge else target
    trainer.save_model(str(gathered))
    if payload["rank"] != 0:
        return
    unset_hf_deepspeed_config()  # under ZeRO-3 it would shard what this rank loads alone
    if merge:
        _merge(gathered, target)
    tokenizer.save_pretrained(target)
    (target / "training_args.bin").unlink(missing_ok=True)  # a pickle of this machine's paths
    if adapter_of(str(target))[1]:
        check_adapter(target)
    else:
        check_weights(target)
        _inherit_dtype(payload["model"], target)


def check_weights(folder: Path) -> None:
    """Whether every weight of the model is there, in its shape, without reading the weights.

    Raises:
        StageFailed: naming what is missing or misshapen: under ZeRO-3, weights that were not gathered are empty.
    """
    if not [*folder.glob("*.safetensors")]:
        wrong = ["no weights (*.safetensors)"]
    else:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, device_map={"": "meta"}, output_loading_info=True, ignore_mismatched_sizes=True
        )
        info = loaded[1]
        wrong = [f"{key} is missing" for key in sorted(info["missing_keys"])]
        wrong += [f"{key} has shape {list(a)}, not {list(b)}" for key, a, b in sorted(info["mismatched_keys"])]
    if wrong:
        listed = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise StageFailed(
            f"the checkpoint in {folder} is incomplete: {listed}",
            hint="under ZeRO-3 the accelerate config needs zero3_save_16bit_model: true",
        )


def check_adapter(folder: Path) -> None:
    """Whether an adapter's weights were gathered: under ZeRO-3 those that were not are empty.

    Raises:
        StageFailed: naming what is empty.
    """
    with safe_open(folder / "adapter_model.safetensors", "pt") as weights:
        empty = [name for name in weights.keys() if 0 in weights.get_slice(name).get_shape()]  # noqa: SIM118
    if empty:
        raise StageFailed(
            f"the adapter in {folder} is incomplete: {empty[0]} and {len(empty) - 1} more are empty",
            hint="under ZeRO-3 the accelerate config needs zero3_save_16bit_model: true",
        )


def _merge(adapter: Path, target: Path) -> None:
    """Fold the adapter into the model that it was trained on."""
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    load_weights(str(adapter), dtype=dtype).save_pretrained(target)
    shutil.rmtree(adapter)


def _inherit_dtype(source: str | dict[str, Any], target: Path) -> None:
    """Store the weights in the type of the checkpoint that they came from (bfloat16 stays bfloat16)."""
    if isinstance(source, dict) or not torch.cuda.is_available():
        return
    config = Path(source) / "config.json"
    dtype = json.loads(config.read_text()).get("dtype") if config.exists() else "bfloat16"
    if dtype in (None, "float32"):
        return
    AutoModelForCausalLM.from_pretrained(target, dtype=getattr(torch, dtype)).save_pretrained(target)
