"""Evaluation with numpy: least overhead for a few rows at a time."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program
from neurosym.circuits.engine.schedule import Step, downward_steps, upward_steps

Table = NDArray[np.floating]


class NumpyKernel:
    """See :class:`neurosym.circuits.engine.kernel.Kernel`; on the host only, always in float64."""

    name = "numpy"

    def __init__(self, program: Program) -> None:
        self.program = program
        self.up = upward_steps(program)
        self._down: list[Step] | None = None

    @property
    def down(self) -> list[Step]:
        """Steps of the downward pass, made when first needed."""
        if self._down is None:
            self._down = downward_steps(self.program)
        return self._down

    def _leaves(self, weights: Weights, last: float) -> Table:
        """Value table with the leaves filled in: [rows, B], or [rows] for a single row."""
        m, batch = self.program.num_variables, weights.batch
        table = np.empty((self.program.num_rows, batch))
        table[:m], table[m : 2 * m] = weights.pos.numpy().T, weights.neg.numpy().T
        constants = weights.constants.numpy()
        table[2 * m : self.program.one] = constants.T if constants.ndim == 2 else constants[:, None]
        table[self.program.one] = last
        return table[:, 0] if batch == 1 else table

    def _upward(self, weights: Weights) -> Table:
        table = self._leaves(weights, 1.0)
        for step in self.up:
            low = step.target[0]
            np.add.reduceat(table[step.a] * table[step.b], step.offsets, out=table[low : low + step.target.size])
        return table

    def _split(self, table: Table) -> Derivatives:
        """Derivative table as tensors."""
        m, one = self.program.num_variables, self.program.one
        grid = torch.from_numpy(np.ascontiguousarray(table.reshape(table.shape[0], -1)[: one + 1].T))
        return Derivatives(grid[:, one], grid[:, :m], grid[:, m : 2 * m], grid[:, 2 * m : one])

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B]."""
        return torch.from_numpy(self._upward(weights)[self.program.root].reshape(-1).copy())

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each."""
        table = self._upward(weights).reshape(self.program.num_rows, -1)
        return torch.from_numpy(table[self.program.root].copy()), torch.from_numpy(
            table[self.program.one :].min(axis=0)
        )

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives."""
        table = self._upward(weights)
        slopes = np.zeros_like(table)
        slopes[self.program.root] = 1.0
        for step in self.down:
            slopes[step.target] = np.add.reduceat(slopes[step.a] * table[step.b], step.offsets)
        slopes[self.program.one] = table[self.program.root]
        return self._split(slopes)

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """Derivatives and their change along a direction."""
        table, moved = self._upward(weights), self._leaves(direction, 0.0)
        for step in self.up:
            low = step.target[0]
            change = moved[step.a] * table[step.b] + table[step.a] * moved[step.b]
            np.add.reduceat(change, step.offsets, out=moved[low : low + step.target.size])
        slopes, turned = np.zeros_like(table), np.zeros_like(table)
        slopes[self.program.root] = 1.0
        for step in self.down:
            slopes[step.target] = np.add.reduceat(slopes[step.a] * table[step.b], step.offsets)
            change = turned[step.a] * table[step.b] + slopes[step.a] * moved[step.b]
            turned[step.target] = np.add.reduceat(change, step.offsets)
        slopes[self.program.one], turned[self.program.one] = table[self.program.root], moved[self.program.root]
        return self._split(slopes), self._split(turned)
