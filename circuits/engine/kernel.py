"""What an evaluation path offers: values, first derivatives and directional second derivatives, in plain arithmetic.

All weights are non-negative and of ordinary size; scaling, underflow and gradients are taken care of one floor above
(:mod:`neurosym.circuits.engine.evaluate`).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Weights:
    """Weights of the leaves.

    Attributes:
        pos, neg: weights of x_j and not x_j, [B, m], contiguous.
        constants: [C], or [B, C] where every row has its own. Float64 even beside float32 weights on a CPU.
        logs: ``constants`` are logs, because some are outside the range of floats; only log space can do that.
    """

    pos: Tensor
    neg: Tensor
    constants: Tensor
    logs: bool = False

    @property
    def batch(self) -> int:
        """Number of rows B."""
        return int(self.pos.shape[0])

    def rows(self, index: Tensor | slice) -> Weights:
        """Some of the rows."""
        constants = self.constants if self.constants.ndim == 1 else self.constants[index]
        return Weights(self.pos[index], self.neg[index], constants, self.logs)


@dataclass(frozen=True)
class Derivatives:
    """Value [B] and its derivatives with respect to the leaves: ``on``, ``off`` [B, m] and ``constants`` [B, C]."""

    value: Tensor
    on: Tensor
    off: Tensor
    constants: Tensor


@dataclass(frozen=True)
class Gradient:
    """log Z, [B], and derivatives with respect to the weights of the leaves: [B, m] twice and [B, C]."""

    log_value: Tensor
    on: Tensor
    off: Tensor
    constants: Tensor

    def to(self, dtype: torch.dtype) -> Gradient:
        """In another precision."""
        return Gradient(*(x.to(dtype) for x in vars(self).values()))

    def put(self, index: Tensor, other: Gradient) -> None:
        """Overwrite some rows."""
        for field in fields(self):
            value = getattr(self, field.name)
            value[index] = getattr(other, field.name).to(value.dtype)


def empty_gradient(weights: Weights) -> Gradient:
    """Room for a gradient."""
    new, shape = weights.pos.new_empty, weights.pos.shape
    return Gradient(new(shape[0]), new(shape), new(shape), new((shape[0], weights.constants.shape[-1])))


class Kernel(Protocol):
    """One evaluation path of one circuit."""

    name: str

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B]."""
        ...

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each."""
        ...

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives."""
        ...

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """The derivatives, and their own derivatives along ``direction`` (directional second derivatives)."""
        ...
