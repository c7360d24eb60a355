"""Linear and linear-fractional programmes over {w : lo <= w <= hi, sum w = s}: a softmax row known up to a box.

The class probability of the exclusive circuit, pi_c G_c / sum_c' pi_c' G_c', is linear-fractional in pi (Charnes and
Cooper, 1962). It rises with pi_c and falls with every rival's share, so no linear programme has to be solved: give c
all the mass that the box allows, and the rest to the rivals in order of G, a fractional knapsack (Dantzig, 1957).

Heavy rules make G span many orders of magnitude, so that a mass of 1e-16 left by rounding where there is none could
decide a bound. Masses are therefore moved outwards by more than the rounding error of their sums.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurosym.errors import InputError

SUM_TOLERANCE = 1e-5
"""How far a box may miss the simplex: rows of a float32 softmax sum to 1 only up to rounding."""


def simplex_margin(classes: int) -> float:
    """More than the rounding error of a sum of ``classes`` probabilities that is about 1."""
    return classes * 2.0**-51


def _others(x: Tensor) -> Tensor:
    """Sum of the other entries of each row, [n, K]; added up, since a difference of sums loses the last places."""
    return x @ (1.0 - torch.eye(x.shape[1], dtype=x.dtype, device=x.device))


def simplex_total(lower: Tensor, upper: Tensor) -> Tensor:
    """The sum that the box allows nearest to 1, [n]; class posteriors do not depend on the scale of pi.

    Args:
        lower, upper: float64[n, K].

    Raises:
        InputError: a row whose box holds no probability vector; names it.
    """
    least, most = lower.sum(dim=1), upper.sum(dim=1)
    wrong = (least > 1 + SUM_TOLERANCE) | (most < 1 - SUM_TOLERANCE)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(
            f"bounds: row {row}: the class intervals sum to [{float(least[row]):.6g}, {float(most[row]):.6g}] and hold "
            "no probability vector; widen them, or use class_kind='binary' if every class has its own sensor"
        )
    return torch.minimum(torch.maximum(torch.ones_like(least), least), most)


def tighten(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest box around box and simplex, [n, K] twice."""
    total = simplex_total(lower, upper)[:, None]
    margin = simplex_margin(lower.shape[1])
    low = torch.maximum(lower, (total - _others(upper) - margin).clamp_max(1.0))
    high = torch.minimum(upper, (total - _others(lower) + margin).clamp_min(0.0))
    # rounding may cross two ends that coincide
    return torch.minimum(low, upper), torch.maximum(high, lower)


def fill(lower: Tensor, upper: Tensor, mass: Tensor, cost: Tensor) -> Tensor:
    """Shares w in [lower, upper] with sum ``mass`` that minimise sum cost w; all [..., K], ``mass`` [...].

    ``mass`` is brought into [sum lower, sum upper] first.
    """
    order = torch.argsort(cost, dim=-1, stable=True)
    room = (upper - lower).gather(-1, order)
    spare = (mass - lower.sum(dim=-1)).clamp_min(0.0)[..., None]
    before = torch.cumsum(room, dim=-1).roll(1, dims=-1)
    before[..., 0] = 0.0
    extra = torch.minimum((spare - before).clamp_min(0.0), room)
    return lower + torch.zeros_like(lower).scatter(-1, order, extra)


def largest_mean(lower: Tensor, upper: Tensor, value: Tensor) -> Tensor:
    """max of sum w value over box and simplex; [..., K] each -> [...]; the box should meet the simplex."""
    ones = torch.ones_like(lower[..., 0])
    return (fill(lower, upper, ones, -value) * value).sum(dim=-1)


def extreme_share(lower: Tensor, upper: Tensor, log_ratio: Tensor, largest: bool) -> Tensor:
    """Extremum of 1 / (1 + sum_{d != c} (pi_d / pi_c) exp(log_ratio[c, d])) over box and simplex, for every class c.

    Args:
        lower, upper: box of pi, float64[n, K], meeting the simplex (up to SUM_TOLERANCE).
        log_ratio: log of T_d / T_c, float64[n, K, K], the diagonal is not used; may be infinite.
        largest: maximum, else minimum.

    Returns:
        float64[n, K].
    """
    n, k = lower.shape
    total = simplex_total(lower, upper)[:, None]
    margin = simplex_margin(k) if largest else -simplex_margin(k)
    own = total - _others(lower if largest else upper) + margin
    own = (torch.minimum(upper, own) if largest else torch.maximum(lower, own)).clamp(0.0, 1.0)
    diagonal = torch.eye(k, dtype=torch.bool, device=lower.device)
    low = lower[:, None, :].expand(n, k, k).masked_fill(diagonal, 0.0)
    high = upper[:, None, :].expand(n, k, k).masked_fill(diagonal, 0.0)
    rest = fill(low, high, total - own - margin, log_ratio if largest else -log_ratio)
    terms = torch.where(rest > 0, rest.log() + log_ratio, -torch.inf).masked_fill(diagonal, -torch.inf)
    return torch.sigmoid(own.log() - torch.logsumexp(terms, dim=-1))


def extreme_share_of(c: int, lower: Tensor, upper: Tensor, log_ratio: Tensor, largest: bool) -> Tensor:
    """:func:`extreme_share` of one class for several vectors of ratios.

    Args:
        c: the class.
        lower, upper: box of pi, float64[n, K], meeting the simplex (up to SUM_TOLERANCE).
        log_ratio: log of T_d / T_c, float64[n, A, K].
        largest: maximum, else minimum.

    Returns:
        float64[n, A].
    """
    k = lower.shape[1]
    total = simplex_total(lower, upper)
    margin = simplex_margin(k) if largest else -simplex_margin(k)
    skip = torch.arange(k, device=lower.device) == c
    low, high = lower.masked_fill(skip, 0.0), upper.masked_fill(skip, 0.0)
    own = total - (low if largest else high).sum(dim=1) + margin
    own = (torch.minimum(upper[:, c], own) if largest else torch.maximum(lower[:, c], own)).clamp(0.0, 1.0)
    mass = (total - own - margin)[:, None].expand(log_ratio.shape[:2])
    low, high = (x[:, None].expand(log_ratio.shape) for x in (low, high))
    rest = fill(low, high, mass, log_ratio if largest else -log_ratio)
    terms = torch.where(rest > 0, rest.log() + log_ratio, -torch.inf).masked_fill(skip, -torch.inf)
    # a class of weight 0 at this corner has no share, whatever its rivals weigh
    nothing = log_ratio[..., c] == torch.inf
    return torch.where(nothing, 0.0, torch.sigmoid(own.log()[:, None] - torch.logsumexp(terms, dim=-1)))
