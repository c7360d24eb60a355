"""Attack balls around images, with everything rounded outwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurosym.errors import InputError
from neurosym.models.bounds.rounding import TINY, UNIT, gamma

NORMS = ("l2", "linf")


@dataclass(frozen=True, eq=False)
class Ball:
    """All images within ``radius`` of ``center`` ``[B, C, H, W]``, and inside the box ``lower <= x <= upper``.

    Attributes:
        radius: rounded upwards; of the L2 ball, or None where the box says all (L-infinity).
        lower, upper: the box, float64, rounded outwards.
    """

    center: Tensor
    radius: float | None
    lower: Tensor
    upper: Tensor

    def least(self, a: Tensor, rows: Tensor) -> Tensor:
        """Lower bounds of ``<a_s, x>`` over the ball of image ``rows[s]``; ``a`` ``[S, C, H, W]`` -> ``[S]``.

        L-infinity: the corner of the box that a points away from. L2: ``<a, x0> - r |a|_2`` (dual norm), or the corner
        where that is larger, since both hold.
        """
        terms = gamma(a[0].numel() + 8)
        low, high = self.lower[rows], self.upper[rows]
        size = (a.abs() * torch.maximum(low.abs(), high.abs())).flatten(1).sum(1)
        corner = torch.where(a >= 0, a * low, a * high).flatten(1).sum(1) - 4 * terms * size - TINY
        if self.radius is None:
            return corner
        center = self.center[rows]
        length = a.flatten(1).square().sum(1).sqrt() * self.radius * (1 + 4 * terms)
        size = (a.abs() * center.abs()).flatten(1).sum(1) + length
        return torch.maximum(corner, (a * center).flatten(1).sum(1) - length - 4 * terms * size - TINY)


def ball(images: Tensor, radius: float, norm: str, *, clip: bool = True) -> Ball:
    """The ball of ``norm`` ``l2`` or ``linf`` around images ``[B, C, H, W]``.

    Args:
        clip: keep only what lies in ``[0, 1]``; sound where images outside are refused.

    Raises:
        InputError: unknown norm, negative radius, or images outside [0, 1] although ``clip`` is set.
    """
    if norm not in NORMS:
        raise InputError(f"norm: {norm!r}; bounds are known for {' and '.join(NORMS)}")
    if not (np.isfinite(radius) and radius >= 0):
        raise InputError(f"radius: {radius} is not a finite number >= 0")
    center = images.to(torch.float64)
    if not bool(torch.isfinite(center).all()):
        raise InputError("images: a pixel is not a finite number")
    # the nearest double of a decimal radius may lie below it
    wide = float(np.nextafter(radius, np.inf)) if radius > 0 else 0.0
    reach = wide + 4 * UNIT * (1.0 + wide) if radius > 0 else 0.0
    lower, upper = center - reach * (1 + 4 * UNIT), center + reach * (1 + 4 * UNIT)
    size = 2 * UNIT * center.abs()
    lower, upper = (lower - size, upper + size) if radius > 0 else (center, center)
    if clip:
        if bool(((center < 0) | (center > 1)).any()):
            raise InputError("images: pixels lie outside [0, 1]; normalise inside the network")
        lower, upper = lower.clamp_min(0.0), upper.clamp_max(1.0)
    return Ball(center, wide if norm == "l2" else None, lower, upper)
