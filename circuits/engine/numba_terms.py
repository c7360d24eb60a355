"""Disjoint terms with numba on the CPU: products of few ratios, a tile of rows at a time while it is in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.kernel import Weights
from neurosym.circuits.engine.numba_kernel import each_share
from neurosym.circuits.engine.term_program import TermProgram

TILE_BYTES = 1 << 18
"""Tables of one tile: within the second-level cache of a core."""
TILES = (112, 48, 24)
"""Rows in a tile: no powers of two, whose rows would fall into few sets of the cache."""
SAFE = {torch.float64: 2.0**-12, torch.float32: 2.0**-28}
"""Part of a sum that may be left by a subtraction, so that the digits lost are beyond the precision asked for."""


class NumbaTerms:
    """Values and derivatives of log Z and marginals, for weights of ordinary size; one thread for each of torch's.

    All arithmetic is float64. Rows that it cannot do have the log value NaN and undefined derivatives; each method
    returns their number last.
    """

    def __init__(self, program: TermProgram) -> None:
        from neurosym.circuits.engine import term_loops, term_slopes

        self.loops, self.slopes, self.program = term_loops, term_slopes, program
        self.arrays = (
            program.runs, program.blocks, program.uses_free, program.num_rows, program.parent, program.offsets,
            program.entries, program.constants, program.shift,
        )  # fmt: skip
        self.back = (program.row_offsets, program.row_terms, program.states)
        size = 8 * (program.num_rows + 2 * program.constants.size)
        self.tile = next((tile for tile in TILES if tile * size <= TILE_BYTES), TILES[-1])

    def _run(self, batch: int, work: Any) -> int:
        return sum(each_share(batch, self.tile, work))

    def log_value(self, weights: Weights) -> tuple[Tensor, int]:
        """log Z, [B]."""
        out, pos, neg = torch.empty_like(weights.pos[:, 0]), weights.pos.numpy(), weights.neg.numpy()
        filled = out.numpy()
        lost = self._run(
            weights.batch, lambda a, b, tile: self.loops.log_values(*self.arrays, pos, neg, a, b, tile, filled)
        )
        return out, lost

    def gradient(self, weights: Weights) -> tuple[Tensor, Tensor, Tensor, int]:
        """log Z, [B], and its derivatives with respect to pos and neg, [B, m]."""
        on, off = torch.empty_like(weights.pos), torch.empty_like(weights.neg)
        return self._slopes(weights, on, off.numpy(), off)

    def marginals(self, weights: Weights) -> tuple[Tensor, Tensor, int]:
        """log Z, [B], and P(x_j = 1), [B, m]."""
        on = torch.empty_like(weights.pos)
        out, on, _, lost = self._slopes(weights, on, np.empty((0, on.shape[1]), dtype=on.numpy().dtype), on)
        return out, on, lost

    def _slopes(
        self, weights: Weights, on: Tensor, into: NDArray[Any], off: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, int]:
        out, pos, neg = weights.pos.new_empty(weights.batch), weights.pos.numpy(), weights.neg.numpy()
        value, first, safe = out.numpy(), on.numpy(), SAFE[on.dtype]
        lost = self._run(
            weights.batch,
            lambda a, b, tile: self.slopes.derivatives(
                *self.arrays, *self.back, pos, neg, a, b, tile, safe, value, first, into
            ),
        )
        return out, on, off, lost

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
        """log Z, [B], and the gradient of sum_j gain_j P(x_j) with respect to pos and neg, [B, m]."""
        out, on, off = (
            weights.pos.new_empty(weights.batch),
            torch.empty_like(weights.pos),
            torch.empty_like(weights.neg),
        )
        host = [x.numpy() for x in (weights.pos, weights.neg, gain.to(weights.pos.dtype).contiguous())]
        filled, safe = [x.numpy() for x in (out, on, off)], SAFE[on.dtype]
        lost = self._run(
            weights.batch,
            lambda a, b, tile: self.slopes.marginal_slopes(*self.arrays, *self.back, *host, a, b, tile, safe, *filled),
        )
        return out, on, off, lost

    def best(self, weights: Weights) -> tuple[Tensor, Tensor, int]:
        """log weight of the heaviest world, [B], and the world, bool[B, m]."""
        out = weights.pos.new_empty(weights.batch)
        world = torch.empty(weights.pos.shape, dtype=torch.bool)
        host, filled = [x.numpy() for x in (weights.pos, weights.neg)], [x.numpy() for x in (out, world)]
        lost = self._run(
            weights.batch,
            lambda a, b, tile: self.slopes.best(*self.arrays, self.program.states, *host, a, b, tile, *filled),
        )
        return out, world, lost
