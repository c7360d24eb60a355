"""Conformal ranks and quantiles: order statistics chosen by integers, never by interpolation.

Theorem (Vovk, Gammerman, Shafer 2005; Lei et al. 2018). Let ``S_1, ..., S_{n+1}`` be exchangeable and
``l = ceil((n+1)(1-alpha))``. With ``q`` the ``l``-th smallest of the first ``n`` (``+inf`` when ``l > n``),
``P(S_{n+1} <= q) >= l/(n+1) >= 1 - alpha``; without ties the probability is exactly ``l/(n+1)``, and given the
calibration scores the coverage follows Beta(l, n+1-l), so that the miscoverage follows Beta(n+1-l, l).

Proof sketch. ``S_{n+1} > q`` says that at least ``l`` of the other scores lie strictly below ``S_{n+1}``; among
``n+1`` values at most ``n+1-l`` can be in that place, and by exchangeability each index is equally likely to be there.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from neurosym.certify.exact import Number, decimal
from neurosym.errors import InputError


def level(alpha: Number, name: str = "alpha") -> Fraction:
    """Exact rational in (0, 1).

    Raises:
        InputError: not a number strictly between 0 and 1.
    """
    value = decimal(alpha, name)
    if not 0 < value < 1:
        raise InputError(f"{name}: {alpha} is not strictly between 0 and 1; write a level such as 0.1")
    return value


def conformal_rank(n: int, alpha: Number) -> int:
    """``ceil((n+1)(1-alpha))`` in rational arithmetic; a rank of ``n + 1`` stands for the threshold ``+inf``.

    The product is never formed in floating point: ``(149+1)*(1-0.18)`` is exactly 123, but rounds to
    123.00000000000001 in double precision, one rank too high.

    Raises:
        InputError: negative ``n`` or a level outside (0, 1).
    """
    if n < 0:
        raise InputError(f"n: {n} calibration points; the number must not be negative")
    return math.ceil((n + 1) * (1 - level(alpha)))


def kth_smallest(scores: np.ndarray, rank: int, axis: int = -1) -> np.ndarray:
    """``rank``-th smallest (1-based) along ``axis``; ``+inf`` where ``rank`` exceeds the number of entries."""
    scores = np.asarray(scores, dtype=np.float64)
    size = scores.shape[axis]
    if rank < 1:
        raise InputError(f"rank: {rank} is below 1; ranks count from the smallest score")
    if rank > size:
        return np.full(np.delete(scores.shape, axis), np.inf)
    return np.take(np.partition(scores, rank - 1, axis=axis), rank - 1, axis=axis)


def conformal_quantile(scores: np.ndarray, alpha: Number) -> float:
    """Threshold for nonconformity scores ``[n]``: an order statistic, or ``+inf`` when ``n`` is too small.

    Raises:
        InputError: a NaN score (named by row), a shape other than ``[n]``, or a level outside (0, 1).
    """
    scores = np.asarray(scores, dtype=np.float64)
    if scores.ndim != 1:
        raise InputError(f"scores: shape {scores.shape}; give one score for each calibration point, shape [n]")
    bad = np.flatnonzero(np.isnan(scores))
    if bad.size:
        raise InputError(f"scores: row {bad[0]} is NaN; remove the row or mend the model")
    return float(kth_smallest(scores, conformal_rank(scores.size, alpha)))


def smallest_n(alpha: Number) -> int:
    """Fewest calibration points with a finite threshold: ``ceil(1/alpha) - 1``.

    ``ceil((n+1)(1-alpha)) <= n`` holds iff ``(n+1) alpha >= 1``.
    """
    return math.ceil(1 / level(alpha)) - 1
