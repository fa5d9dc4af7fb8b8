"""From committed Parquet rows to the token ids that TRL's trainers read.

TRL would map over the rows one by one, which on small models takes as long as the training. Here the
same chat template is rendered and all texts are tokenized in one batch; tests compare the ids with TRL's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

IGNORED = -100

Chat = list[dict[str, Any]]


def sft_dataset(rows: Path, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """Tokenized SFT rows; the loss is on what the assistant says in the completion, all its turns.

    Args:
        rows: Parquet file with conversational ``prompt`` and ``completion`` columns.
        tokenizer: with a chat template.
        max_length: rows are cut to this many tokens; rows without a completion token left are dropped.

    Returns:
        ``input_ids`` and ``labels`` (``IGNORED`` on the prompt and on the other side's later turns), one list of
        ints each.
    """
    table = pq.ParquetFile(rows).read(columns=["prompt", "completion"]).to_pylist()
    starts = _prompt_ids(tokenizer, [row["prompt"] for row in table])
    wholes = _ids(tokenizer, [row["prompt"] + row["completion"] for row in table])
    replies = _replies(tokenizer, table)
    examples: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for number, (start, ids) in enumerate(zip(starts, wholes, strict=True)):
        split = _common_prefix(start, ids)
        if max_length is None or split < max_length:
            labels = [IGNORED] * split + ids[split:]
            for before, after in replies.get(number, []):
                begin, end = _common_prefix(before, ids), _common_prefix(after, ids)
                labels[begin:end] = [IGNORED] * (end - begin)
            examples["input_ids"].append(ids[:max_length])
            examples["labels"].append(labels[:max_length])
    return Dataset.from_dict(examples)


def _replies(
    tokenizer: PreTrainedTokenizerBase, table: list[dict[str, Any]]
) -> dict[int, list[tuple[list[int], list[int]]]]:
    """Of rows with several turns: ids up to each turn of the other side, and up to the assistant's answer to it."""
    spots = [
        (number, row["prompt"] + row["completion"][:i], row["prompt"] + row["completion"][: i + 1])
        for number, row in enumerate(table)
        for i, message in enumerate(row["completion"])
        if message["role"] != "assistant"
    ]
    before = _ids(tokenizer, [chat for _, chat, _ in spots])
    after = _ids(tokenizer, [chat for _, _, chat in spots], generation=True)
    found: dict[int, list[tuple[list[int], list[int]]]] = {}
    for (number, _, _), *ids in zip(spots, before, after, strict=True):
        found.setdefault(number, []).append((ids[0], ids[1]))
    return found


def dpo_dataset(pairs: Path, tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> Dataset:
    """Tokenized preference pairs.

    Args:
        pairs: Parquet file with conversational ``prompt``, ``chosen`` and ``rejected`` columns.
        tokenizer: with a chat template.
        max_length: pairs whose prompt alone is this long are dropped.

    Returns:
        ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``, one list of ints each.
    """
    table = pq.ParquetFile(pairs).read(columns=["prompt", "chosen", "rejected"]).to_pylist()
    starts = _prompt_ids(tokenizer, [row["prompt"] for row in table])
    chosen = _ids(tokenizer, [row["prompt"] + row["chosen"] for row in table])
    rejected = _ids(tokenizer, [row["prompt"] + row["rejected"] for row in table])
    examples: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for start, good, bad in zip(starts, chosen, rejected, strict=True):
        split = min(_common_prefix(start, good), _common_prefix(start, bad))
        if max_length is None or split < max_length:
            examples["prompt_ids"].append(start[:split])
            examples["chosen_ids"].append(good[split:])
            examples["rejected_ids"].append(bad[split:])
    return Dataset.from_dict(examples)


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: list[Chat]) -> list[list[int]]:
    """Ids of the prompts, up to where the assistant begins. A prompt has several completions: each is done once."""
    keys = [json.dumps(prompt) for prompt in prompts]
    unique = dict(zip(keys, prompts, strict=True))
    ids = _ids(tokenizer, list(unique.values()), generation=True)
    by_key = dict(zip(unique, ids, strict=True))
    return [by_key[key] for key in keys]


def _ids(tokenizer: PreTrainedTokenizerBase, chats: list[Chat], *, generation: bool = False) -> list[list[int]]:
    """Ids of whole conversations; with ``generation``, up to where the assistant's next message begins."""
    if not chats:
        return []
    texts: Any = tokenizer.apply_chat_template(chats, add_generation_prompt=generation, tokenize=False)
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def _common_prefix(a: list[int], b: list[int]) -> int:
    """How many leading tokens agree; templates and merges may blur the boundary."""
    if b[: len(a)] == a:
        return len(a)
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
