"""A linear-fractional program over {w : lower <= w <= upper, sum w = 1}, for many rows at once.

max sum_c w_c on_c / sum_c w_c (on_c + off_c) with on, off >= 0. For a fixed value t the program
F(t) = max sum_c w_c ((1 - t) on_c - t off_c) is a continuous knapsack, solved by sorting (Dantzig, 1957), and t is the
maximum iff F(t) = 0. Dinkelbach ("On nonlinear fractional programming", 1967): start at any t, replace it by the ratio at
the knapsack's solution; t rises and converges superlinearly, in as many steps as there are vertices at most. This gives
what the transformation of Charnes and Cooper (1962) gives with a general solver, in a few sorts.

The box meets the simplex only up to rounding, and classes may differ by many orders of magnitude, so that a mass of 1e-16
left by rounding could decide. The program is therefore solved twice: on the simplex, and on a slightly wider set that
certainly holds the true one. The wider one is the bound; where both agree, it is exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurosym.circuits.boxes.simplex import fill, simplex_margin, simplex_total

MAX_STEPS = 60
"""Steps of Dinkelbach's method; where that is not enough, F(t) still bounds the maximum."""


def _knapsack(lower: Tensor, upper: Tensor, gain: Tensor, least: Tensor, most: Tensor) -> Tensor:
    """w in the box with sum in [least, most] ([n] each) that maximises sum gain w."""
    wish = torch.where(gain > 0, upper, lower).sum(dim=1)
    return fill(lower, upper, torch.minimum(torch.maximum(wish, least), most), -gain)


def _dinkelbach(lower: Tensor, upper: Tensor, on: Tensor, off: Tensor, slack: Tensor) -> Tensor:
    """An upper bound of the maximum (tight when the method has converged), [n]; sums in [total - slack, total + slack]."""
    total = simplex_total(lower, upper)
    least, most = total - slack, total + slack
    smallest = _knapsack(lower, upper, -(on + off), least, most)
    smallest = (smallest * (on + off)).sum(dim=1)
    t = torch.zeros_like(total)
    excess = torch.full_like(total, torch.inf)
    for _ in range(MAX_STEPS):
        share = _knapsack(lower, upper, (1.0 - t)[:, None] * on - t[:, None] * off, least, most)
        yes, no = (share * on).sum(dim=1), (share * off).sum(dim=1)
        excess = (1.0 - t) * yes - t * no
        new = torch.maximum(t, yes / (yes + no))
        done = ~(new > t)
        t = torch.where(new.isnan(), t, new)
        if bool(done.all()):
            return t
    return torch.where(done, t, (t + excess.clamp_min(0.0) / smallest).clamp_max(1.0))


def largest_ratio(lower: Tensor, upper: Tensor, on: Tensor, off: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum of sum w on / sum w (on + off) over box and simplex.

    Args:
        lower, upper: the box, float64[n, K], meeting the simplex (up to rounding).
        on, off: float64[n, K], >= 0.

    Returns:
        A bound that allows for rounding of the sum, and the value without that allowance; [n] each, NaN where all
        weights vanish.
    """
    margin = torch.full_like(lower[:, 0], simplex_margin(lower.shape[1]))
    return _dinkelbach(lower, upper, on, off, margin), _dinkelbach(lower, upper, on, off, torch.zeros_like(margin))
