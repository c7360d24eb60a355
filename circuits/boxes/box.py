"""Boxes of literal weights: what a component sees of sensor intervals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class WeightBox:
    """Weights of the literals of m variables at both ends of their sensors, float64[n, m] each.

    Raising a sensor raises the positive weight and does not raise the negative one. A worlds' sum is multilinear with
    coefficients >= 0 in all weights, hence least at (``pos_lo``, ``neg_hi``) and greatest at (``pos_hi``, ``neg_lo``)
    even though these pairs belong to no single sensor value.

    Attributes:
        pos_lo, neg_lo: weights of (x, not x) at the sensor's lower end.
        pos_hi, neg_hi: the same at its upper end.
        free: bool[n, m], the two ends differ.
    """

    pos_lo: Tensor
    neg_lo: Tensor
    pos_hi: Tensor
    neg_hi: Tensor
    free: Tensor

    @property
    def rows(self) -> int:
        return int(self.pos_lo.shape[0])

    @property
    def size(self) -> int:
        return int(self.pos_lo.shape[1])

    def take(self, rows: Tensor | slice) -> WeightBox:
        """The box restricted to some rows."""
        return WeightBox(self.pos_lo[rows], self.neg_lo[rows], self.pos_hi[rows], self.neg_hi[rows], self.free[rows])

    def columns(self, index: Tensor) -> WeightBox:
        """The box restricted to some variables."""
        return WeightBox(
            self.pos_lo[:, index],
            self.neg_lo[:, index],
            self.pos_hi[:, index],
            self.neg_hi[:, index],
            self.free[:, index],
        )

    def corner(self, up: Tensor) -> tuple[Tensor, Tensor]:
        """Literal weights (pos, neg) with the sensors at their upper end where ``up`` (bool, broadcast to [n, m])."""
        return torch.where(up, self.pos_hi, self.pos_lo), torch.where(up, self.neg_hi, self.neg_lo)

    def chunks(self, rows: int) -> Iterator[tuple[slice, WeightBox]]:
        """Consecutive pieces of at most ``rows`` rows."""
        for start in range(0, self.rows, max(1, rows)):
            piece = slice(start, start + max(1, rows))
            yield piece, self.take(piece)


@dataclass(frozen=True)
class ComponentBounds:
    """Bounds of P(x_j = 1) over a box.

    Attributes:
        lower, upper: float64[n, m].
        exact: bool[n, m], both are attained.
        signs: int8[m] of +-1 if P(x_j) moves with sensor i in the direction signs[i] * signs[j] for all i, j; else None.
        gap: float64[n, m], largest distance of an end from the true extremum, if it is known.
    """

    lower: Tensor
    upper: Tensor
    exact: Tensor
    signs: NDArray[np.int8] | None = None
    gap: Tensor | None = None

    @property
    def looseness(self) -> Tensor:
        """How far an end may be from the true extremum, [n, m]: ``gap`` or, where that is not known, the width."""
        width = self.upper - self.lower
        if self.gap is not None:
            return torch.minimum(self.gap, width)
        return torch.where(self.exact, 0.0, width)

    def where_possible(self, possible: Tensor) -> ComponentBounds:
        """[0, 1] and not exact in the rows whose box may contain evidence that no world explains (bool[n])."""
        keep = possible[:, None]
        return ComponentBounds(
            lower=torch.where(keep, self.lower, 0.0).clamp(0.0, 1.0),
            upper=torch.where(keep, self.upper, 1.0).clamp(0.0, 1.0),
            exact=self.exact & keep,
            signs=self.signs,
            gap=None if self.gap is None else torch.where(keep, self.gap, 1.0),
        )
