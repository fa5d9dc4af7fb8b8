"""Recipes read from YAML: unknown keys fail with "did you mean", and all errors are told at once."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from flywheel.errors import RecipeError
from flywheel.recipe import Recipe


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe file and apply ``key=value`` overrides (dotted keys, YAML values).

    Raises:
        RecipeError: the file is missing or not YAML, or any key or value is wrong; all at once.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"there is no recipe {path}", hint="ls recipes/, or make one with `flywheel new NAME`")
    raw = _yaml(path)
    if not isinstance(raw, dict):
        raise RecipeError(f"{path} is not a mapping of keys to values")
    for override in overrides or []:
        _apply_override(raw, override)
    return parse_recipe(raw, str(path))


def load_filters(path: str | Path) -> list[dict[str, dict[str, Any]]]:
    """The ``curate:`` list of a YAML file, which may be a whole recipe, or have nothing else.

    Raises:
        RecipeError: the file is missing or not YAML, or has no such list.
    """
    path = Path(path)
    try:
        raw = _yaml(path)
    except OSError as error:
        raise RecipeError(f"there is no recipe {path}") from error
    found = raw.get("curate") if isinstance(raw, dict) else raw
    if not isinstance(found, list):
        raise RecipeError(f"{path} has no list of filters", hint="curate: [exact_duplicates, {length: {max: 512}}]")
    entries = _normal_filters(found)
    if wrong := [e for e in entries if not (isinstance(e, dict) and all(isinstance(v, dict) for v in e.values()))]:
        raise RecipeError(f"{path}: {wrong[0]!r} is not a filter", hint="a filter is NAME or {NAME: {OPTION: VALUE}}")
    return entries


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error


def parse_recipe(raw: dict[str, Any], source: str = "recipe") -> Recipe:
    """Validate a recipe given as plain data.

    Raises:
        RecipeError: naming every wrong key and value, with suggestions.
    """
    raw = {**raw, "curate": _normal_filters(raw["curate"])} if isinstance(raw.get("curate"), list) else raw
    try:
        return Recipe.model_validate(raw)
    except ValidationError as error:
        # `model` is a name or a mapping: report only the branch that the user took.
        taken = [e for e in error.errors() if not (e["loc"][-1:] == ("str",) and isinstance(e["input"], dict))]
        lines = [_explain(raw, dict(e)) for e in taken]
        raise RecipeError(
            f"{source} has {len(lines)} error{'s' if len(lines) > 1 else ''}:\n" + "\n".join(f"  {x}" for x in lines),
            hint="the keys and their meanings are in docs/recipes.md",
        ) from error


def _normal_filters(filters: list[Any]) -> list[Any]:
    """`[a, {b: null}, {c: {…}}]` -> `[{a: {}}, {b: {}}, {c: {…}}]`; anything else is left to the schema."""
    return [
        {f: {}} if isinstance(f, str) else {k: v or {} for k, v in f.items()} if isinstance(f, dict) else f
        for f in filters
    ]


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"{override!r} is not KEY=VALUE", hint="for example: rounds=2 sft.learning_rate=1e-4")
    *parents, leaf = key.split(".")
    node = raw
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    try:
        node[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"the value in {override!r} is not YAML: {error}") from error


def _explain(raw: dict[str, Any], error: dict[str, Any]) -> str:
    location = [part for part in error["loc"] if not (isinstance(part, str) and part in ("ScratchModel", "str"))]
    where = ".".join(str(part) for part in location) or "recipe"
    if error["type"] == "extra_forbidden":
        known = list(_fields_at(location[:-1]))
        near = get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        suggestion = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        return f"{where}: unknown key{suggestion}"
    if error["type"] == "missing":
        return f"{where}: required"
    message = error["msg"].removeprefix("Value error, ")
    shown = error.get("input")
    return f"{where}: {message}" + ("" if isinstance(shown, dict) else f" (got {shown!r})")


def _fields_at(location: list[Any]) -> list[str]:
    """Names of the fields of the section at a location such as ("sft", "lora")."""
    section: type[BaseModel] = Recipe
    for part in location:
        found = _section_of(section.model_fields[part].annotation) if part in section.model_fields else None
        if found is None:
            return []
        section = found
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The Section class inside an annotation such as ``Lora | None``, if there is one."""
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
