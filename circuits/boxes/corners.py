"""Bounds by looking at every corner of the box.

With all sensors but one fixed, P(x_j = 1) is a quotient of two affine functions of the remaining one, hence monotone in
it: the extrema over a box are attained at corners. (This holds for one circuit, not for a mixture of circuits.)

For small components all corners cost little more than one: replacing each axis of the table of worlds by the sensor's
two ends is a product of m matrices of shape 2 x 2, like a Walsh-Hadamard transform. For larger components with few
free sensors the circuit is evaluated at the 2^f corners.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.rounding import SMALLEST_TOTAL
from neurosym.circuits.factors import MAX_TABLE_VARIABLES

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component

MAX_DENSE = 12
"""Largest number of variables for the transform of the table of worlds."""
MAX_FREE = 12
"""Largest number of free sensors for evaluation at every corner."""
CHUNK_VALUES = 1 << 21
"""Doubles in one intermediate tensor."""


def world_table(component: Component) -> Tensor:
    """Product of the factors for every world, float64[(2,)*m], axis i is variable i; the largest entry is 1.

    Raises:
        InputError: a factor over more than 16 predicates (never for components of at most 16 variables).
    """
    m = len(component.variables)
    place = {v: i for i, v in enumerate(component.variables)}
    total = np.zeros((2,) * m)
    for factor in component.factors:
        shape = [1] * m
        for v in factor.scope:
            shape[place[v]] = 2
        total = total + factor.log_table().reshape(shape)
    finite = total[np.isfinite(total)]
    return torch.from_numpy(np.exp(total - (finite.max() if finite.size else 0.0)))


def _ends(table: Tensor, box: WeightBox, axis: int) -> Tensor:
    """Replace an axis of worlds by an axis of the sensor's ends (0 lower, 1 upper): [b, 2^m] -> [b, 2^m]."""
    m = box.size
    view = table.reshape(-1, 1 << axis, 2, 1 << (m - axis - 1))
    off, on = view[:, :, 0], view[:, :, 1]

    def weigh(neg: Tensor, pos: Tensor) -> Tensor:
        return off * neg[:, axis, None, None] + on * pos[:, axis, None, None]

    return torch.stack([weigh(box.neg_lo, box.pos_lo), weigh(box.neg_hi, box.pos_hi)], dim=2)


def _all_but_one(table: Tensor, box: WeightBox, axes: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
    """For each axis of ``axes`` the table with all the others of them replaced (divide and conquer)."""
    if len(axes) == 1:
        yield axes[0], table
        return
    half = len(axes) // 2
    for keep, replace in ((axes[:half], axes[half:]), (axes[half:], axes[:half])):
        done = table
        for axis in replace:
            done = _ends(done, box, axis)
        yield from _all_but_one(done, box, keep)


def _chance(on: Tensor, off: Tensor, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities pos on / (pos on + neg off) at all corners, and the totals; [b, c] with weights [b]."""
    yes = on * pos[:, None]
    total = yes + off * neg[:, None]
    return yes / total, total


def dense_extrema(component: Component, box: WeightBox) -> ComponentBounds:
    """Exact bounds through the table of worlds; rows whose box contains impossible evidence are [0, 1], not exact.

    So are rows with worlds' sums so small that underflow may have cost them digits.

    Args:
        component: at most 16 variables (2^m doubles for each row).
        box: weights of its literals.
    """
    m = box.size
    if m > MAX_TABLE_VARIABLES:
        raise ValueError(f"{m} variables are too many for a table of worlds")
    device = box.pos_lo.device
    worlds = world_table(component).to(device).reshape(1, -1)
    lower, upper = torch.empty_like(box.pos_lo), torch.empty_like(box.pos_lo)
    possible = torch.ones(box.rows, dtype=torch.bool, device=device)
    for rows, part in box.chunks(CHUNK_VALUES >> m):
        start = worlds.expand(part.rows, -1)
        for j, table in _all_but_one(start, part, range(m)):
            view = table.reshape(part.rows, 1 << j, 2, -1)
            off, on = view[:, :, 0].reshape(part.rows, -1), view[:, :, 1].reshape(part.rows, -1)
            least, least_total = _chance(on, off, part.pos_lo[:, j], part.neg_lo[:, j])
            greatest, greatest_total = _chance(on, off, part.pos_hi[:, j], part.neg_hi[:, j])
            lower[rows, j], upper[rows, j] = least.amin(dim=1), greatest.amax(dim=1)
            # a NaN fails the comparison too
            possible[rows] &= (torch.minimum(least_total, greatest_total) >= SMALLEST_TOTAL).all(dim=1)
    exact = torch.ones_like(box.free)
    return ComponentBounds(lower, upper, exact).where_possible(possible)


def circuit_extrema(component: Component, box: WeightBox) -> ComponentBounds:
    """Exact bounds by evaluating the circuit at every corner; no row may contain impossible evidence.

    Cost 2^f evaluations for each row, where f is the largest number of free sensors of a row (<= MAX_FREE).
    """
    f = int(box.free.sum(dim=1).amax()) if box.rows else 0
    device = box.pos_lo.device
    # the first f columns of ``order`` hold every free sensor of the row (and harmless fixed ones)
    order = torch.argsort(box.free.to(torch.int8), dim=1, descending=True, stable=True)[:, :f]
    lower = torch.full_like(box.pos_lo, torch.inf)
    upper = torch.full_like(box.pos_lo, -torch.inf)
    step = max(1, CHUNK_VALUES // max(1, box.rows * box.size))
    for first in range(0, 1 << f, step):
        numbers = torch.arange(first, min(first + step, 1 << f), device=device)
        bits = (numbers[:, None] >> torch.arange(f, device=device)) & 1 == 1
        up = torch.zeros((numbers.numel(), *box.pos_lo.shape), dtype=torch.bool, device=device)
        up.scatter_(2, order.expand(numbers.numel(), -1, -1), bits[:, None, :].expand(-1, box.rows, -1))
        with torch.no_grad():
            value = component.marginals(*box.corner(up))
        lower = torch.minimum(lower, value.amin(dim=0))
        upper = torch.maximum(upper, value.amax(dim=0))
    return ComponentBounds(lower, upper, torch.ones_like(box.free))
