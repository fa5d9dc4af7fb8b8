"""Which keys of a recipe a stage depends on, and which of them differ: how a resumed run notices an edit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

OPERATIONAL = frozenset({"cpu_replicas", "tensor_parallel", "memory", "micro_batch", "save_steps", "threads"})
"""Keys that say how to run, not what comes out: they may change at any time, also on another machine."""
OPERATIONAL_OPENAI = frozenset(
    {"servers", "api_key_env", "concurrency", "timeout", "retries", "patience", "prices", "budget"}
)
"""The same among the openai engine's ``extra``."""
OPERATIONAL_SANDBOX = frozenset({"servers", "parallel", "token", "patience", "slots"})
"""The same among a sandbox's ``extra``: where programs run, and how many at once."""


def select(resolved: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """The parts of a resolved recipe that a stage depends on, by dotted keys, without operational ones."""
    chosen: dict[str, Any] = {}
    for key in keys:
        *parents, leaf = key.split(".")
        source, target = resolved, chosen
        for parent in parents:
            source, target = source[parent], target.setdefault(parent, {})
        target[leaf] = _without_operational(source[leaf])
    return chosen


def _without_operational(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_operational(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("use") == "openai":
        value = _without_extra(value, OPERATIONAL_OPENAI)
    if isinstance(value.get("sandbox"), dict):
        value = {**value, "sandbox": _without_extra(value["sandbox"], OPERATIONAL_SANDBOX)}
    return {k: _without_operational(v) for k, v in value.items() if k not in OPERATIONAL}


def _without_extra(section: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    if not isinstance(section.get("extra"), dict):
        return section
    return {**section, "extra": {k: v for k, v in section["extra"].items() if k not in names}}


def differing_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the leaves of ``old`` that have another value in ``new``."""
    keys: list[str] = []
    for key, before in sorted(old.items()):
        after = new.get(key)
        if isinstance(before, dict) and isinstance(after, dict) and before.keys() <= after.keys():
            keys += differing_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            keys.append(f"{prefix}{key}")
    return keys
