"""Ranges of predicate probabilities from bounds of logits.

Softmax: ``p_y = 1 / (1 + sum_{k != y} exp(z_k - z_y))`` falls in every difference, so bounds of the differences give bounds
of p_y. Differences that are bounded by themselves (as linear forms) are tighter than differences of bounds of logits; for
a box of logits the bounds are the exact range. Every exponent is a difference, so nothing overflows that matters:
``exp(+inf)`` makes the probability 0, which is right. Sigmoids are monotone.

Rounding. exp is taken to be good to 4 units in the last place. The bounds must hold for probabilities that were computed
elsewhere from the rounded logits, by a softmax shifted by the largest logit, so they are widened by
``(K + 16 + 4 max|z|) 2^-51``: the sums, and the rounding of the shifted exponents.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurosym.models.bounds.rounding import TINY

ULP = 2.0**-51


def difference_forms(classes: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Forms ``z_k - z_y`` for all pairs ``y < k`` of classes, float64 ``[K (K-1) / 2, V]``."""
    pairs = torch.combinations(torch.arange(classes, device=device), 2)
    forms = torch.zeros((len(pairs), width), dtype=torch.float64, device=device)
    rows = torch.arange(len(pairs), device=device)
    forms[rows, pairs[:, 1]], forms[rows, pairs[:, 0]] = 1.0, -1.0
    return forms


def difference_tables(lower: Tensor, upper: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Bounds ``[B, K, K]`` of ``z_k - z_y`` (row y, column k) from those of the pairs ``y < k``, ``[B, K (K-1) / 2]``."""
    pairs = torch.combinations(torch.arange(classes, device=lower.device), 2)
    low = torch.zeros((len(lower), classes, classes), dtype=torch.float64, device=lower.device)
    high = low.clone()
    low[:, pairs[:, 0], pairs[:, 1]], high[:, pairs[:, 0], pairs[:, 1]] = lower, upper
    low[:, pairs[:, 1], pairs[:, 0]], high[:, pairs[:, 1], pairs[:, 0]] = -upper, -lower
    return low, high


def box_tables(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds ``[B, K, K]`` of ``z_k - z_y`` over boxes of logits ``[B, K]``, rounded outwards."""
    low, high = lower[:, None, :] - upper[:, :, None], upper[:, None, :] - lower[:, :, None]
    room = ULP * torch.maximum(low.abs(), high.abs())
    low, high = low - room, high + room
    own = torch.eye(lower.shape[1], dtype=torch.bool, device=lower.device)
    return low.masked_fill(own, 0.0), high.masked_fill(own, 0.0)


def softmax_range(low: Tensor, high: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds ``[B, K]`` of a softmax from bounds ``[B, K, K]`` of the differences (diagonal 0).

    Args:
        largest: ``[B]``, largest absolute value that a logit can have, for the rounding.
    """
    room = ((low.shape[-1] + 16 + 4 * largest) * ULP)[:, None]
    least, most = 1.0 / high.exp().sum(dim=-1), 1.0 / low.exp().sum(dim=-1)
    return (least * (1 - room) - TINY).clamp(0.0, 1.0), (most * (1 + room) + TINY).clamp(0.0, 1.0)


def sigmoid_range(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of sigmoids of logits, any shape."""
    room = (17 + 4 * torch.maximum(lower.abs(), upper.abs())) * ULP
    least, most = torch.sigmoid(lower) * (1 - room) - TINY, torch.sigmoid(upper) * (1 + room) + TINY
    return least.clamp(0.0, 1.0), most.clamp(0.0, 1.0)
