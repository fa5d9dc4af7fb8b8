"""What makes training faster, above all on a GPU, and leaves its result as it is."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from datasets import Dataset
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from flywheel.devices import sharding
from flywheel.recipe import Dpo, Training
from flywheel.training.preflight import training_bytes

RIGHT_PADDED = "sdpa_right_padded"
ROOM = 0.75
"""Share of a device's memory that may be planned for."""


def _all_but_padding(**asked: Any) -> torch.Tensor | None:
    return sdpa_mask(**{**asked, "attention_mask": None})


AttentionInterface.register(RIGHT_PADDED, sdpa_attention_forward)
AttentionMaskInterface.register(RIGHT_PADDED, _all_but_padding)


def forget_padding(model: Any) -> None:
    """Attend as if rows had no padding: they have it on the right, where a causal model's tokens do not look.

    With a mask that says so all the same, PyTorch may use neither its flash kernels nor grouped heads. What else a
    mask says (a sliding window, packed rows) stays.
    """
    if model.config._attn_implementation == "sdpa" and model._supports_attention_backend:
        model.set_attn_implementation(RIGHT_PADDED)


class PaddingCollator(DataCollatorForLanguageModeling):
    """TRL's batch, made at once and not row by row: a thousand short rows take it longer than a small model."""

    @classmethod
    def instead_of(cls, theirs: Any) -> Any:
        """For a collator of TRL's that does nothing but pad; any other as it is."""
        plain = type(theirs) is DataCollatorForLanguageModeling and not theirs.padding_free
        if not plain or theirs.return_position_ids or theirs.pad_to_multiple_of is not None:
            return theirs
        return cls(**{field.name: getattr(theirs, field.name) for field in fields(theirs)})

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        lengths = np.array([len(example["input_ids"]) for example in examples])
        there = np.arange(lengths.max()) < lengths[:, None]

        def padded(name: str, value: int) -> torch.Tensor:
            batch = np.full(there.shape, value, np.int64)
            batch[there] = np.fromiter(chain.from_iterable(e[name] for e in examples), np.int64, int(lengths.sum()))
            return torch.from_numpy(batch)

        return {
            "input_ids": padded("input_ids", self.pad_token_id),
            "labels": padded("labels", -100),
            "attention_mask": torch.from_numpy(there.astype(np.int64)),
        }


def recomputes(section: Training, model: Any, data: Dataset, micro_batch: int, world: int) -> bool:
    """Whether activations must be computed again in the backward pass, because a GPU would not hold them all.

    Args:
        section: what it says counts.
        model: to be trained.
        data: tokenized rows or pairs.
        micro_batch: of them, per forward pass.
        world: training processes.
    """
    if section.gradient_checkpointing is not None or not torch.cuda.is_available():
        return bool(section.gradient_checkpointing)
    how = sharding()
    each = activation_bytes(model.config)
    if each is None or how.startswith(("zero3", "fsdp")):  # there all ranks must do the same, and memory is short
        return True
    longest = {name: _longest(data, name) for name in data.column_names}
    if isinstance(section, Dpo):
        tokens = 2 * (longest["prompt_ids"] + max(longest["chosen_ids"], longest["rejected_ids"]))
    else:
        tokens = longest["input_ids"]
    parameters = sum(p.numel() for p in model.parameters())
    needed = training_bytes(parameters, section, world, how) + each * tokens * micro_batch
    return needed > ROOM * torch.cuda.get_device_properties(0).total_memory


def _longest(data: Dataset, column: str) -> int:
    longest: int = pc.max(pc.list_value_length(data.data.column(column))).as_py()
    return longest


def activation_bytes(config: Any) -> float | None:
    """At most so many bytes of activations per token; None for models of which this is not known.

    Per layer: the feed-forward's four tensors in bfloat16, the norms and the residual stream in float32, queries, keys
    and values in both. Measured with Qwen3-0.6B's shape (which normalizes queries and keys, too): two thirds of this.
    """
    text = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes: list[Any] = [getattr(text, name, None) for name in names]
    experts = any(getattr(text, name, None) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
    if experts or not all(isinstance(size, int) for size in sizes):
        return None
    layers, hidden, inner, heads = sizes
    head = getattr(text, "head_dim", None) or hidden // heads
    attended = head * (heads + 2 * (getattr(text, "num_key_value_heads", None) or heads))
    return float(layers * (10 * inner + 32 * hidden + 16 * attended))
