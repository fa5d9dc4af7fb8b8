"""All pairs on a GPU: whose vectors are near to whose, found in half precision and decided in single.

A product of half-precision unit vectors is off by less than ``MARGIN``, so what it calls too far is too far, and only
what is left is computed again in float32: the result is that of float32 alone, at the speed of the tensor cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Found = tuple[Ints, Ints, Floats]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]

MARGIN = 2e-3
"""Each factor is rounded by at most 2^-11 of itself, the result by 2^-12: 1.3e-3 together for vectors of norm 1."""
REFERENCES = 32_768
SCORES = 1 << 29
"""Half-precision cosines held at once."""
EXACT_SCORES = 1 << 26
SPARE = 6 << 30
"""Bytes beside the vectors: cosines and what is made of them."""


def room_for(rows: int, dimensions: int, device: str) -> bool:
    """Whether a device's memory takes these vectors, in both precisions."""
    if device == "cpu":
        return True
    if not torch.cuda.is_available():  # a GPU, but a torch that was built without CUDA
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return rows * dimensions * 6 + SPARE < free


class Neighbours:
    """Unit vectors, best first, on a device. The first ``filled`` places hold references; the others wait their turn.

    Args:
        vectors: (n, d), each of norm 1.
        limit: cosine from which two are near.
        device: such as "cuda:0", or "cpu".
    """

    @torch.inference_mode()
    def __init__(self, vectors: Floats, limit: float, device: str) -> None:
        self._limit = float(np.float32(limit))
        self._floor = self._limit - MARGIN
        self._device = device
        self._exact = torch.from_numpy(vectors).to(device, copy=device == "cpu")
        self._half = self._exact.half()
        self._rows = torch.arange(len(vectors), device=device)
        self.filled = 0

    @torch.inference_mode()
    def hits(self, rows: Ints) -> Found:
        """Of the rows that are near to a reference: the row, its nearest reference, and their cosine.

        The best references first: whoever is near to one of them is not compared with the others.
        """
        found: list[Tensors] = []
        queries = self._tensor(rows)
        with _float32():
            for base in range(0, self.filled, REFERENCES):
                here = slice(base, min(base + REFERENCES, self.filled))
                far = [queries[:0]]
                for asked in torch.split(queries, max(16, SCORES // (here.stop - here.start))):
                    maybe = ((self._half[asked] @ self._half[here].T).amax(1) >= self._floor).nonzero().squeeze(1)
                    near, nearest, cosine = self._nearest(asked[maybe], here)
                    found.append((asked[maybe][near], self._rows[here][nearest], cosine))
                    still = torch.ones_like(asked, dtype=torch.bool)
                    still[maybe[near]] = False
                    far.append(asked[still])
                queries = torch.cat(far)
        return _arrays(found)

    @torch.inference_mode()
    def pairs(self, rows: Ints, others: Ints, most: int) -> Found | None:
        """Which rows are near to which of the others before them, as (row, other, cosine).

        None if there may be more than ``most``.
        """
        found: list[Tensors] = []
        queries, targets = self._tensor(rows), self._tensor(others)
        half, count = self._half[targets], 0
        share = EXACT_SCORES // half.shape[1]
        for asked in torch.split(queries, max(16, SCORES // max(1, len(targets)))):
            near = (self._half[asked] @ half.T >= self._floor).logical_and_(targets < asked[:, None])
            count += int(near.count_nonzero())
            if count > most:
                return None
            later, earlier = near.nonzero(as_tuple=True)
            for one, other in zip(torch.split(asked[later], share), torch.split(targets[earlier], share), strict=True):
                cosine = (self._exact[one] * self._exact[other]).sum(1)
                good = cosine >= self._limit
                found.append((one[good], other[good], cosine[good]))
        return _arrays(found)

    @torch.inference_mode()
    def refer(self, rows: Ints) -> None:
        """Later rows are compared with these, too. Their places are behind those of all references."""
        places = self._tensor(rows)
        here = slice(self.filled, self.filled + len(rows))
        self._exact[here], self._half[here], self._rows[here] = self._exact[places], self._half[places], places
        self.filled += len(rows)

    def _nearest(self, queries: torch.Tensor, here: slice) -> Tensors:
        """Which queries are near to one of these references, the place of the nearest, and the cosine."""
        best = [
            (self._exact[part] @ self._exact[here].T).max(1)
            for part in torch.split(queries, max(1, EXACT_SCORES // (here.stop - here.start)))
        ]
        cosine, place = torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])
        near = cosine >= self._limit
        return near, place[near], cosine[near]

    def _tensor(self, rows: Ints) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self._device)


def _arrays(found: list[Tensors]) -> Found:
    if not found:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    row, by, cosine = (torch.cat([f[i] for f in found]).cpu().numpy() for i in range(3))
    return row, by, cosine


@contextmanager
def _float32() -> Iterator[None]:
    """float32 products are float32, and no shorter."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
