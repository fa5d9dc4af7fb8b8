"""``docs/recipes.md``, made from the recipe's schema: python -m flywheel.cli.recipe_docs > docs/recipes.md

A test compares the two, so that they cannot drift apart.
"""

from __future__ import annotations

import inspect
import re
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from flywheel.curate import FILTERS
from flywheel.recipe import Recipe, Section, Training

INTRO = """\
# Recipes

<!-- Made by `python -m flywheel.cli.recipe_docs > docs/recipes.md` from flywheel/recipe.py: edit that, not this. -->

A recipe is one YAML file, and everything a run is. The smallest one:

```yaml
name: first
model: Qwen/Qwen3-0.6B
task: {use: countdown, args: {numbers: 3}}
```

An unknown key is an error with a suggestion, and all errors are told at once: `flywheel check RECIPE` finds
them, and much else, before any training. The run folder keeps the recipe as you wrote it (`recipe.yaml`) and with
every default filled in (`recipe.resolved.json`).

**Overrides.** `flywheel run RECIPE rounds=2 sft.learning_rate=1e-4 dpo=null 'curate=[finished]'`: dotted keys, YAML
values, for `run` and `check` alike. Resume with the same overrides: a value that a finished stage was made with
cannot change, and the error names the keys that differ (`--fork-from ROUND` starts a new folder instead).

**Several devices.** The same program under a launcher:
`accelerate launch --config_file CONFIG.yaml -m flywheel run RECIPE`. Your accelerate config decides on processes,
DeepSpeed and FSDP (`accelerate config` writes one; `accelerate_configs/` has examples). `batch_size` counts rows per
optimizer step of all devices together, so that more of them need no other recipe; `micro_batch` is what one
device takes at once.
"""

CHAT_TEMPLATE = """\
## A model without a chat template

Prompts are chat messages, so the tokenizer needs a chat template. Base models often have none, which `flywheel
check` says. Give one as a Jinja file beside the recipe, `chat_template: chat.jinja`:

```jinja
{% for message in messages %}
{{- message['role'] + ':\\n' + message['content'] }}
{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}
```

It is called with `messages`, each with a `role` and a `content`, and with `add_generation_prompt` (true when the model
is to answer). Two things matter: an assistant's message ends with the token at which sampling stops, and the prompt
with `add_generation_prompt` is how the same conversation continues with an answer. The checkpoints of the run
carry the template on.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRO, "## The recipe\n", _table(Recipe)]
    for section, keys in _sections().items():
        title = ", ".join(f"`{key}`" for key in keys)
        parts += [f"## {title}\n", f"{inspect.getdoc(section)}\n", _table(section, Training)]
    parts += ["## Keys that `warmup`, `sft` and `dpo` share\n", _table(Training)]
    return "\n".join([*parts, _filters(), CHAT_TEMPLATE])


def _sections() -> dict[type[BaseModel], list[str]]:
    """Every section with the dotted keys it is found under."""
    found: dict[type[BaseModel], list[str]] = {}

    def walk(owner: type[BaseModel], prefix: str) -> None:
        for name, field in owner.model_fields.items():
            section = _section_in(field.annotation)
            if section is not None:
                found.setdefault(section, []).append(f"{prefix}{name}")
                walk(section, f"{prefix}{name}.")

    walk(Recipe, "")
    return found


def _table(section: type[BaseModel], base: type[BaseModel] | None = None) -> str:
    """The fields of a section; of one that extends ``base``, only its own."""
    extends = base is not None and issubclass(section, base)
    names = [name for name in section.model_fields if not extends or name in section.__annotations__]
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        field = section.model_fields[name]
        cells = (f"`{name}`", _type(field.annotation), _default(field), field.description or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    also = "And the keys that `warmup`, `sft` and `dpo` share, below.\n" if extends else ""
    return "\n".join([*(lines if names else []), *([""] if names and also else []), also])


def _type(annotation: Any) -> str:
    """An annotation in a reader's words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join("null" if arg is NoneType else _type(arg) for arg in args)
    if origin is Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    if hasattr(annotation, "__metadata__"):  # Annotated, inside a union
        return _type(args[0])
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is dict or annotation is dict:
        return "mapping"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{_yaml(value)}`"


def _yaml(value: Any) -> str:
    """A value as it would be written in a recipe, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _filters() -> str:
    """The filters that ``curate:`` may list, from their docstrings and signatures."""
    lines = [
        "## The filters of `curate`\n",
        "A list, applied in order: `[exact_duplicates, {cap_per_problem: {keep: 4}}]`. What the verifier did not pass",
        "is dropped first, always; then what holds a held-out problem, unless `decontaminate` is listed with other",
        "options. Every dropped sample keeps its reason: `flywheel show RUN --dropped`. The guide is",
        "[curation.md](curation.md).\n",
    ]
    for name, filter in FILTERS.items():
        doc, _, options = (inspect.getdoc(filter) or "").partition("\n\nArgs:\n")
        lines += [f"### `{name}`\n", f"{doc}\n"]
        defaults = inspect.signature(filter).parameters
        meanings = _meanings(options)
        if meanings:
            lines += ["| option | default | meaning |", "| --- | --- | --- |"]
            for option, meaning in meanings.items():
                default = defaults[option].default
                shown = "required" if default is inspect.Parameter.empty else f"`{_yaml(default)}`"
                lines.append(f"| `{option}` | {shown} | {meaning} |")
            lines.append("")
    return "\n".join(lines)


def _meanings(options: str) -> dict[str, str]:
    """The entries of a docstring's Args section, continuation lines joined."""
    entries = re.split(r"\n\s{4}(?=\w+: )", "\n" + options.partition("\n\n")[0])[1:]
    pairs = (entry.partition(": ") for entry in entries)
    return {name.strip(): " ".join(meaning.split()) for name, _, meaning in pairs}


if __name__ == "__main__":
    print(render(), end="")
