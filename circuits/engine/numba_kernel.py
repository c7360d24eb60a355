"""Evaluation with numba on the CPU: a tile of rows goes through the whole circuit while it is in the cache.

Install the extra ``numba`` to have it. The machine code is made on first use (some seconds) and kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program

Result = TypeVar("Result")
TILE_BYTES = 1 << 20
"""Value table of one tile: within the second-level cache of a core."""
TILES = (112, 48, 24)
"""Rows in a tile: no powers of two, whose rows would fall into few sets of the cache."""


def each_share(batch: int, tile: int, work: Callable[[int, int, int], Result]) -> list[Result]:
    """``work(begin, end, tile)`` on a share of the rows for every thread of torch's."""
    tile = max(1, min(tile, batch))
    threads = min(torch.get_num_threads(), -(-batch // tile))
    if threads <= 1:
        return [work(0, batch, tile)]
    share = -(-batch // threads)
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda begin: work(begin, min(begin + share, batch), tile), range(0, batch, share)))


class NumbaKernel:
    """See :class:`neurosym.circuits.engine.kernel.Kernel`; on the host only, one thread for each of torch's.

    All arithmetic and results are float64: a tile in the cache gains little from less."""

    name = "numba"

    def __init__(self, program: Program) -> None:
        from neurosym.circuits.engine import numba_logs, numba_loops

        self.program = program
        self.loops, self.logs = numba_loops, numba_logs
        self.arrays = (
            program.offsets.astype(np.int64),
            program.left.astype(np.int32),
            program.right.astype(np.int32),
        )
        self.sizes = (program.num_variables, program.num_constants, program.num_rows, program.root)

    def _tile(self) -> int:
        fitting = (tile for tile in TILES if tile * 8 * self.program.num_rows <= TILE_BYTES)
        return next(fitting, TILES[-1])

    def _each(self, batch: int, work: Callable[[int, int, int], None]) -> None:
        each_share(batch, self._tile(), work)

    @staticmethod
    def _host(weights: Weights) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        constants = weights.constants if weights.constants.ndim == 2 else weights.constants[None]
        return weights.pos.numpy(), weights.neg.numpy(), constants.contiguous().numpy()

    def _empty(self, weights: Weights) -> Derivatives:
        m, c, batch = self.program.num_variables, self.program.num_constants, weights.batch
        return Derivatives(
            *(torch.empty(size, dtype=torch.float64) for size in ((batch,), (batch, m), (batch, m), (batch, c)))
        )

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B]."""
        host, out = self._host(weights), torch.empty(weights.batch, dtype=torch.float64)
        filled = out.numpy()
        self._each(
            weights.batch,
            lambda a, b, tile: self.loops.values(*self.sizes, *self.arrays, *host, a, b, tile, filled),
        )
        return out

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each."""
        host, out = self._host(weights), torch.empty((2, weights.batch), dtype=torch.float64)
        filled = [x.numpy() for x in out]
        self._each(
            weights.batch, lambda a, b, tile: self.loops.least(*self.sizes, *self.arrays, *host, a, b, tile, *filled)
        )
        return out[0], out[1]

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives."""
        host, out = self._host(weights), self._empty(weights)
        filled = [x.numpy() for x in (out.value, out.on, out.off, out.constants)]
        self._each(
            weights.batch,
            lambda a, b, tile: self.loops.derivatives(*self.sizes, *self.arrays, *host, a, b, tile, *filled),
        )
        return out

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """Derivatives and their change along a direction."""
        host, moved = self._host(weights), self._host(direction)
        out, change = self._empty(weights), self._empty(weights)
        filled = [x.numpy() for d in (out, change) for x in (d.value, d.on, d.off, d.constants)]
        self._each(
            weights.batch,
            lambda a, b, tile: self.loops.tangents(*self.sizes, *self.arrays, *host, *moved, a, b, tile, *filled),
        )
        return out, change

    def best(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """Weight of the heaviest world, [B], and the world, bool[B, m]."""
        host = self._host(weights)
        value = torch.empty(weights.batch, dtype=torch.float64)
        world = torch.empty((weights.batch, self.program.num_variables), dtype=torch.bool)
        filled = value.numpy(), world.numpy()
        self._each(
            weights.batch,
            lambda a, b, tile: self.loops.best(*self.sizes, *self.arrays, *host, a, b, tile, *filled),
        )
        return value, world

    # -- logs, at once: rows that it cannot do have the log value NaN, and the last result is their number ------------

    def log_value(self, weights: Weights, floor: float) -> tuple[Tensor, int]:
        """log Z, [B], for weights of any size, where the value of the weights scaled to 1 is above ``floor``."""
        host, out = self._host(weights), weights.pos.new_empty(weights.batch)
        filled = out.numpy()
        lost = each_share(
            weights.batch,
            self._tile(),
            lambda a, b, tile: self.logs.log_values(*self.sizes, *self.arrays, *host, a, b, tile, floor, filled),
        )
        return out, sum(lost)

    def gradient(self, weights: Weights, floor: float) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """log Z, [B], and its derivatives with respect to pos and neg, [B, m], and constants, [B, C]."""
        host, new, batch = self._host(weights), weights.pos.new_empty, weights.batch
        found = new(batch), new(weights.pos.shape), new(weights.pos.shape), new((batch, self.program.num_constants))
        filled = [x.numpy() for x in found]
        lost = each_share(
            batch,
            self._tile(),
            lambda a, b, tile: self.logs.gradients(*self.sizes, *self.arrays, *host, a, b, tile, floor, *filled),
        )
        return *found, sum(lost)

    def marginals(self, weights: Weights, floor: float) -> tuple[Tensor, Tensor, int]:
        """log Z, [B], and P(x_j = 1), [B, m]."""
        host, out, on = self._host(weights), weights.pos.new_empty(weights.batch), torch.empty_like(weights.pos)
        filled = out.numpy(), on.numpy()
        lost = each_share(
            weights.batch,
            self._tile(),
            lambda a, b, tile: self.logs.marginals(*self.sizes, *self.arrays, *host, a, b, tile, floor, *filled),
        )
        return out, on, sum(lost)
