"""Reading checkpoints: one place that says what is wrong with one, and makes them from nothing."""

from __future__ import annotations

import json
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassError
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from flywheel.errors import ModelError, RecipeError
from flywheel.recipe import ScratchModel
from flywheel.types import Message

CHAT_TEMPLATE_HINT = "set `chat_template: FILE.jinja` in the recipe (docs/recipes.md shows one)"

CHARS_TEMPLATE = (
    "{% for m in messages %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@contextmanager
def loading_errors(model: str) -> Iterator[None]:
    """Turn what loaders raise about a checkpoint into one clear message.

    Raises:
        ModelError: missing, incomplete or unreadable.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        path = Path(model)
        if not path.exists() and (path.is_absolute() or model.startswith(".")):
            raise ModelError(f"there is no model folder {model}", hint="mend `model:` in the recipe") from error
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"the model {model} cannot be loaded: {first}",
            hint="`model:` takes a checkpoint folder or a hub id; offline, download it first: hf download ID",
        ) from error
    except Exception as error:
        # safetensors and tokenizers raise their own types, straight from Rust.
        if type(error).__module__.split(".")[0] not in ("safetensors", "tokenizers", "builtins", "huggingface_hub"):
            raise
        raise ModelError(f"the model {model} is unreadable: {error}", hint="restore or re-download it") from error


def load_tokenizer(model: str, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, with a pad token and a chat template.

    Args:
        model: checkpoint folder or hub id.
        chat_template: Jinja source that replaces the tokenizer's.

    Raises:
        ModelError: unreadable, or without chat template.
    """
    with loading_errors(model):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if tokenizer.chat_template is None:
        raise ModelError(f"the tokenizer of {model} has no chat template", hint=CHAT_TEMPLATE_HINT)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def adapter_of(model: str) -> tuple[str, int]:
    """The base model and the rank of a PEFT adapter folder; of anything else, itself and 0.

    Raises:
        ModelError: the adapter's config is unreadable.
    """
    file = Path(model) / "adapter_config.json"
    if not file.exists():
        return model, 0
    with loading_errors(model):
        config = json.loads(file.read_text())
        return config["base_model_name_or_path"], max([config["r"], *config.get("rank_pattern", {}).values()])


def load_weights(model: str, **options: Any) -> Any:
    """A checkpoint's causal language model; an adapter's, on its base and, in memory alone, merged with it.

    Args:
        model: checkpoint folder, adapter folder or hub id.
        options: of transformers' ``from_pretrained``.

    Raises:
        ModelError: missing, incomplete or unreadable.
    """
    base, rank = adapter_of(model)
    with loading_errors(base):
        loaded = AutoModelForCausalLM.from_pretrained(base, **options)
    if not rank:
        return loaded
    from peft import PeftModel  # seconds, for those who need it

    with loading_errors(model):
        return PeftModel.from_pretrained(loaded, model).merge_and_unload()


def render_chat(tokenizer: PreTrainedTokenizerBase, messages: list[Message]) -> str:
    """The text after which the assistant goes on: a new message, or the one that it has begun.

    Args:
        tokenizer: with a chat template.
        messages: the conversation; where it ends with the assistant's own message, that one is continued.

    Raises:
        ModelError: the chat template does not leave an answer as it is, so that nothing can continue it.
    """
    begun = bool(messages) and messages[-1]["role"] == "assistant"
    if not begun:
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)  # type: ignore[assignment]
        return text
    try:
        text = tokenizer.apply_chat_template(messages, continue_final_message=True, tokenize=False)  # type: ignore[assignment]
    except ValueError as error:
        raise ModelError(
            f"the chat template changes what the assistant has said, so its answer cannot be continued: {error}",
            hint="set `chat_template:` to one that keeps answers as they are, or leave out what continues them",
        ) from error
    return text


def end_tokens(*sources: int | list[int] | None) -> frozenset[int]:
    """All end-of-turn tokens that the checkpoint or its tokenizer names."""
    return frozenset(t for s in sources if s is not None for t in ([s] if isinstance(s, int) else s))


def make_model(spec: ScratchModel) -> tuple[transformers.PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with random weights, from the global torch seed, and its tokenizer.

    Raises:
        RecipeError: an unknown architecture or config field.
        ModelError: the tokenizer cannot be loaded.
    """
    tokenizer = chars_tokenizer() if spec.tokenizer == "chars" else load_tokenizer(spec.tokenizer)
    try:
        blank = AutoConfig.for_model(spec.architecture)
    except ValueError as error:
        raise RecipeError(f"model.architecture: transformers has no {spec.architecture!r}") from error
    unknown = sorted(key for key in spec.config if not hasattr(blank, key))
    if unknown:
        raise RecipeError(f"model.config: {spec.architecture} has no field {', '.join(unknown)}")
    values = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **spec.config,
    }
    try:
        config = AutoConfig.for_model(spec.architecture, **values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        said = " ".join(str(error).split())
        raise RecipeError(f"model.config: {spec.architecture} cannot be made so: {said}") from error
    return AutoModelForCausalLM.from_config(config), tokenizer


def chars_tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII, one token per character, and a chat template of role marks."""
    special = ["<|pad|>", "<|end|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
    characters = ["\n", *(c for c in string.printable if c.isprintable())]
    vocabulary = {token: i for i, token in enumerate([*special, *characters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unk|>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    raw.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        unk_token="<|unk|>",
        extra_special_tokens=["<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"],
    )
    tokenizer.chat_template = CHARS_TEMPLATE
    return tokenizer
