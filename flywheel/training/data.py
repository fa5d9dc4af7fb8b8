"""From committed Parquet rows to what TRL's trainers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

IGNORED = -100


def sft_dataset(rows: Path, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """Tokenized SFT rows; the loss is on the completion only.

    TRL would tokenize row by row, which on small models takes as long as the training; this renders
    the same chat template and tokenizes in one batch (a test compares the two).

    Args:
        rows: Parquet file with conversational ``prompt`` and ``completion`` columns.
        tokenizer: with a chat template.
        max_length: rows are cut to this many tokens; rows without a completion token left are dropped.

    Returns:
        ``input_ids`` and ``labels`` (``IGNORED`` on the prompt), one list of ints each.
    """
    table = pq.ParquetFile(rows).read(columns=["prompt", "completion"]).to_pylist()
    prompts = [_render(tokenizer, row["prompt"], generation=True) for row in table]
    wholes = [_render(tokenizer, row["prompt"] + row["completion"], generation=False) for row in table]
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"] if prompts else []
    whole_ids = tokenizer(wholes, add_special_tokens=False)["input_ids"] if wholes else []
    examples: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for start, ids in zip(prompt_ids, whole_ids, strict=True):
        split = _common_prefix(start, ids)
        labels = ([IGNORED] * split + ids[split:])[:max_length]
        if any(label != IGNORED for label in labels):
            examples["input_ids"].append(ids[:max_length])
            examples["labels"].append(labels)
    return Dataset.from_dict(examples)


def dpo_dataset(pairs: Path) -> Dataset:
    """Preference pairs in TRL's conversational form; TRL tokenizes them."""
    table = pq.ParquetFile(pairs).read(columns=["prompt", "chosen", "rejected"])
    return Dataset(table)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], *, generation: bool) -> str:
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
    assert isinstance(text, str)
    return text


def _common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens agree; templates and merges may blur the boundary."""
    for position, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return position
    return min(len(a), len(b))
