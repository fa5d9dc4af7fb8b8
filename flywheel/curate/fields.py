"""Looking into what a rollout knows of a sample: its ``data``, such as step scores or how far it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flywheel.curate import Drop


class DataField:
    """Keeps samples for which a number that the rollout found lies within bounds.

    Args:
        field: its name in ``Completion.data``: ``step_min`` (the lowest step score), ``belief`` (the policy's own
            checks), …; with dots, within another object.
        min: lowest number kept.
        max: highest number kept.
        missing: "drop" or "keep" samples of which it was not measured.
    """

    columns = ("data",)

    def __init__(self, field: str, min: float | None = None, max: float | None = None, missing: str = "drop") -> None:
        if missing not in ("drop", "keep"):
            raise ValueError("missing must be 'drop' or 'keep'")
        if min is None and max is None:
            raise ValueError("needs min, max or both")
        self._field, self._min, self._max, self._missing = field, min, max, missing

    def decide(self, rows: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], Drop | None]]:
        from flywheel.curate import Drop  # which imports this module

        for row in rows:
            why = outside(row["data"], self._field, self._min, self._max, self._missing)
            yield row, None if why is None else Drop(why)


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
