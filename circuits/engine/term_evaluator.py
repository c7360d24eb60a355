"""Evaluation of disjoint terms: compiled products on the CPU where numba is installed, else a matrix product."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosym.circuits.engine.choose import installed
from neurosym.circuits.engine.evaluate import Evaluator
from neurosym.circuits.engine.kernel import Gradient, Weights
from neurosym.circuits.engine.matrix_terms import MatrixTerms
from neurosym.circuits.engine.terms import TermMatrix

if TYPE_CHECKING:
    from neurosym.circuits.engine.numba_terms import NumbaTerms


class TermEvaluator:
    """See :class:`neurosym.circuits.engine.autograd.Engine`.

    Args:
        matrix: the terms.
        general: the circuit, for rows that the matrix product cannot do.
        compiled: whether compiled products may be used.
    """

    def __init__(self, matrix: TermMatrix, general: Evaluator, compiled: bool = True) -> None:
        self.matrix, self.general, self.compiled = matrix, general, compiled
        self.product = MatrixTerms(matrix, general)

    def __getstate__(self) -> dict[str, object]:
        """Without the loops, which are machine code and are found again when they are needed."""
        return {name: value for name, value in vars(self).items() if name != "loops"}

    @cached_property
    def loops(self) -> NumbaTerms | None:
        """The compiled products; None where they are not to be had."""
        if not self.compiled or not installed("numba") or self.matrix.program is None:
            return None
        from neurosym.circuits.engine.numba_terms import NumbaTerms

        return NumbaTerms(self.matrix.program)

    def compiles(self, device: torch.device) -> bool:
        """Compiled products are used on that device."""
        return self._loops(device) is not None

    def _loops(self, device: torch.device) -> NumbaTerms | None:
        return self.loops if device.type == "cpu" else None

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]."""
        loops = self._loops(weights.pos.device)
        if loops is None:
            return self.product.log_value(weights)
        out, lost = loops.log_value(weights)
        if lost:
            index = _nan(out)
            out[index] = self.product.log_value(weights.rows(index))
        return out

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and its derivatives."""
        loops = self._loops(weights.pos.device)
        if loops is None:
            return self.product.gradient(weights)
        value, on, off, lost = loops.gradient(weights)
        out = Gradient(value, on, off, weights.pos.new_zeros((weights.batch, weights.constants.shape[-1])))
        if lost:
            index = _nan(value)
            out.put(index, self.product.gradient(weights.rows(index)))
        return out

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]; NaN where no world is left."""
        loops = self._loops(weights.pos.device)
        if loops is None:
            return self.product.marginals(weights)
        value, out, lost = loops.marginals(weights)
        if lost:
            index = _nan(value)
            out[index] = self.product.marginals(weights.rows(index))
        return out

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j)."""
        loops = self._loops(weights.pos.device)
        if loops is None:
            return self.product.marginals_gradient(weights, gain)
        value, on, off, lost = loops.marginals_gradient(weights, gain)
        if lost:
            index = _nan(value)
            on[index], off[index], _ = self.product.marginals_gradient(weights.rows(index), gain[index])
        return on, off, weights.pos.new_zeros((weights.batch, weights.constants.shape[-1]))

    def best(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """log weight of the heaviest world, [B] (-inf where there is none), and the world, bool[B, m]."""
        loops = self._loops(weights.pos.device)
        if loops is None:
            return self.product.best(weights)
        value, world, lost = loops.best(weights)
        if lost:
            index = _nan(value)
            value[index], world[index] = self.product.best(weights.rows(index))
        return value, world


def _nan(value: Tensor) -> Tensor:
    return value.isnan().nonzero()[:, 0]
