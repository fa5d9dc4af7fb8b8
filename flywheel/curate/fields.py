"""Looking into what a rollout knows of a sample: its ``data``, such as step scores or how far it is believed."""

from __future__ import annotations

import json


def outside(data: str | None, field: str, least: float | None, most: float | None, missing: str) -> str | None:
    """Why a sample is not within bounds, or None if it is.

    Args:
        data: JSON, as the ``data`` column has it.
        field: a number in it; with dots, one within another object (``claim.agreed``).
        least: lowest number kept, or None.
        most: highest number kept, or None.
        missing: "drop" or "keep" samples that do not have the field; what was measured and undecided (null) is dropped.
    """
    value = json.loads(data) if data else {}
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            return f"no {field}" if missing == "drop" else None
        value = value[name]
    if value is None:
        return f"{field} is undecided"
    if not isinstance(value, int | float):
        return f"{field} is not a number"
    if least is not None and value < least:
        return f"{field} below {least:g}"
    if most is not None and value > most:
        return f"{field} above {most:g}"
    return None
