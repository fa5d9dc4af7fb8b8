"""Vectors out of Arrow columns: checked, scaled to norm 1, and laid where a caller wants them."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from flywheel.errors import DataError

Floats = NDArray[np.float32]
IN_MEMORY = 0.6
"""Share of the free memory that vectors may take; more of them lie in a scratch file."""


def allocate(rows: int, dimensions: int) -> Floats:
    """Room for vectors: in memory if it has it, else in a scratch file without a name, which ends with the process."""
    needed = rows * dimensions * 4
    if needed <= IN_MEMORY * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        return np.empty((rows, dimensions), np.float32)
    with tempfile.TemporaryFile() as scratch:
        scratch.truncate(needed)
        return np.memmap(scratch, np.float32, "r+", shape=(rows, dimensions))


def dimensions_of(array: pa.Array) -> int | None:
    """The length of the first vector of a column that has one; None if none has.

    Raises:
        DataError: the column does not hold lists of numbers.
    """
    lengths = pc.drop_null(_lengths(array))
    return int(lengths[0].as_py()) if len(lengths) else None


def unit_vectors(array: pa.Array, dimensions: int, first: int = 0) -> tuple[Floats, NDArray[np.bool_], Counter[str]]:
    """A batch's vectors, each divided by its norm.

    Args:
        array: lists of numbers.
        dimensions: of every vector.
        first: the batch's first row, for messages.

    Returns:
        The vectors, which of them can be compared, and why the others cannot: "missing" (null, empty or with a null in
        it), "not finite", or "zero". Those are filled with zeros.

    Raises:
        DataError: not lists of numbers, or a vector of another length.
    """
    lengths = _lengths(array).fill_null(0).to_numpy(zero_copy_only=False)
    there = lengths > 0
    if (odd := np.flatnonzero(there & (lengths != dimensions))).size:
        raise DataError(
            f"vectors differ in length: {dimensions} numbers in the first, {lengths[odd[0]]} in row {first + odd[0]}",
            hint="vectors that are compared must come from one encoder; mend or leave out the others",
        )
    values = np.zeros((len(array), dimensions), np.float32)
    flat = array.filter(pa.array(there)).flatten()
    numbers = flat.cast(pa.float32(), safe=False)
    holes = np.zeros(len(array), bool)
    if numbers.null_count:
        holes[there] = numbers.is_null().to_numpy(zero_copy_only=False).reshape(-1, dimensions).any(axis=1)
        numbers = numbers.fill_null(0.0)
    values[there] = numbers.to_numpy().reshape(-1, dimensions)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(values).all(axis=1)
        values[~finite | holes] = 0
        largest = np.abs(values).max(axis=1, initial=0)
        values /= np.where(largest > 0, largest, 1)[:, None]  # else the squares of tiny or huge numbers vanish
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
    values /= np.where(norms > 0, norms, 1)[:, None]
    missing = ~there | holes
    why = Counter({"missing": int(missing.sum()), "not finite": int((~finite & ~missing).sum())})
    why["zero"] = int((finite & ~missing & (norms == 0)).sum())
    return values, norms > 0, +why


def _lengths(array: pa.Array) -> Any:
    kind = array.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    numeric = lists and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type))
    if not numeric:
        raise DataError(f"a column of vectors holds {kind}", hint="it needs lists of numbers, one list per row")
    return pc.list_value_length(array)
