"""Weighted conformal thresholds: covariate shift and label shift.

Theorem (Tibshirani, Barber, Candes & Ramdas 2019, Corollary 1). Calibration points from P_X x P_{Y|X}, a test point from
Q_X x P_{Y|X}, ``w = dQ_X/dP_X``. With ``p_i = w(x_i) / (w(x) + sum_j w(x_j))`` and q(x) the (1-alpha)-quantile of
``sum_i p_i delta_{S_i} + p(x) delta_inf``, ``P(S <= q(X)) >= 1 - alpha``. The test point's own weight is part of the
quantile: each test point has a threshold of its own. Weights may be known up to a factor only.

Label shift (Podkopaev & Ramdas 2021): with weights ``w(y) = q(y)/p(y)`` of labels the hypothetical label's weight stands
in for ``w(x)``: one threshold for each class.

Exactness. q is the first sorted score at which ``W_j >= (1-alpha)(W_n + w)``. Sums are formed in floating point; where
they come within their rounding error of the target, they are formed again in rational arithmetic. Equal weights
therefore give the unweighted rank for every n and alpha.
"""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from itertools import accumulate

import numpy as np

from neurosym.certify.conformal.arrays import Array, host, labels_of
from neurosym.certify.conformal.calibrate import true_scores
from neurosym.certify.exact import Number
from neurosym.certify.quantile import level
from neurosym.errors import InputError


def check_weights(weights: Array, n: int | None, name: str = "weights") -> np.ndarray:
    """Weights as float64 ``[n]``.

    Raises:
        InputError: another shape, or a weight that is negative or not finite (named by row).
    """
    values = np.asarray(host(weights), dtype=np.float64)
    if values.ndim != 1 or (n is not None and values.size != n):
        raise InputError(f"field '{name}': shape {values.shape}; give one weight for each row")
    bad = ~((values >= 0.0) & np.isfinite(values))
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"field '{name}' row {row}: {values[row]} is not a finite number >= 0; give density ratios")
    return values


def weighted_thresholds(scores: Array, weights: Array, test_weights: Array, alpha: Number) -> np.ndarray:
    """Threshold of each test point, float64 ``[m]``; +inf where the test point's own weight is too large.

    Args:
        scores, weights: of calibration points, ``[n]``.
        test_weights: ``[m]``.

    Raises:
        InputError: bad scores or weights, or all weights zero.
    """
    values = true_scores(scores)
    order = np.argsort(values, kind="stable")
    ranked = check_weights(weights, values.size)[order]
    own, inverse = np.unique(check_weights(test_weights, None, "test_weights"), return_inverse=True)
    keep = 1 - level(alpha)
    sums = np.cumsum(ranked)
    total = (sums[-1] if sums.size else 0.0) + own
    if own.size and total[0] == 0.0:
        raise InputError("field 'weights': the weights of all calibration points and of a test point are 0")
    target = float(keep) * total
    first = np.searchsorted(sums, target, side="left")
    slack = 4.0 * (values.size + 4) * np.finfo(np.float64).eps * total
    around = np.concatenate([[-np.inf], sums, [np.inf]])
    near = (target - around[first] <= slack) | (around[first + 1] - target <= slack)
    if near.any():
        exact = list(accumulate(Fraction(w) for w in ranked))
        for i in np.flatnonzero(near):
            whole = (exact[-1] if exact else Fraction(0)) + Fraction(own[i])
            first[i] = bisect_left(exact, keep * whole)
    return np.append(values[order], np.inf)[first][inverse]


def label_weighted_thresholds(scores: Array, labels: Array, class_weights: Array, alpha: Number) -> np.ndarray:
    """Threshold of each class under label shift, float64 ``[K]``.

    Args:
        class_weights: ``q(y)/p(y)``, up to a factor, ``[K]``.
    """
    values, ratio = true_scores(scores), check_weights(class_weights, None, "class_weights")
    truth = labels_of(labels, values.size, ratio.size)
    return weighted_thresholds(values, ratio[truth], ratio, alpha)


def effective_size(weights: Array) -> float:
    """``(sum w)^2 / sum w^2``: how many equally weighted points the weighted ones are worth."""
    values = check_weights(weights, None)
    return float(values.sum() ** 2 / (values**2).sum()) if values.any() else 0.0
