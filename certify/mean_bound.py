"""Exact tails for means of draws in [0, 1] of unknown distribution: Bentkus' bound in its sharpest linear form.

Theorem (Hoeffding 1963, section 5; Bentkus 2004). Let ``X_1, ..., X_n`` be independent, in [0, 1], of mean p, with sum
S, and ``B ~ Bin(n, p)``. For every real t,

    P(S <= t)  <=  beta(t, n, p) = min(1, min over integers h in (t, n] of E(h - B)_+ / (h - t)).

Proof. A chord lies above a convex function, so ``E f(X_m) <= (1-p) f(0) + p f(1)`` for convex f; replacing one X_m after
the other by a Bernoulli(p) gives ``E f(S) <= E f(B)``. Take ``f(s) = (h - s)_+`` and ``1{S <= t} <= f(S) / (h - t)``
for h > t. As a function of h the ratio is monotone between integers (linear over linear) and rises beyond n.

beta falls in p (B grows with p), so "mean at least p" is refuted at level b as soon as ``beta(S, n, p) <= b``. Every
falling convex f is a mixture of those above, so beta is never worse than Chernoff's ``exp(-n kl(t/n, p))``, hence
never worse than Hoeffding's bound. For upper tails apply it to ``1 - X_m``.

Tails are raised by ``confidence.TAIL_NUDGE`` (relative) before they are compared; limits are rounded outwards.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy import special

from neurosym.certify.confidence import TAIL_NUDGE
from neurosym.errors import InputError

Total = Fraction | int | float


def lower_tail(total: Total, trials: int, mean: float) -> float:
    """``beta(total, trials, mean)``, a bound of the probability of a sum of at most ``total``."""
    if total >= trials or mean <= 0.0:
        return 1.0
    if total < 0 or mean >= 1.0:
        return 0.0
    # E(h - B)_+ = sum of P(B <= j) over j < h
    excess = np.cumsum(special.bdtr(np.arange(trials, dtype=np.float64), trials, mean))
    first = int(total) + 1  # smallest integer above the total
    gaps = float(first - Fraction(total)) + np.arange(trials + 1 - first)  # no cancellation: both are positive
    return min(1.0, float((excess[first - 1 :] / gaps).min()))


def _refuted(total: Total, trials: int, mean: float, failure: float) -> bool:
    return lower_tail(total, trials, mean) * (1.0 + TAIL_NUDGE) <= failure


def _check(trials: int, failure: float) -> None:
    if trials < 1:
        raise InputError(f"trials: {trials}; at least 1 draw is needed")
    if not 0.0 < failure < 1.0:
        raise InputError(f"failure probability: {failure} is not strictly between 0 and 1")


def mean_upper(total: Total, trials: int, failure: float) -> float:
    """Upper confidence limit of the mean: every larger mean gives a sum of at most ``total`` rarely.

    For each true mean p, ``P(mean_upper(S) < p) <= failure``. 1 where ``total >= trials``.
    """
    _check(trials, failure)
    low, high = 0.0, 1.0
    if total >= trials:
        return 1.0
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (low, middle) if _refuted(total, trials, middle, failure) else (middle, high)
    return high


def largest_total(trials: int, mean: float, failure: float, scale: int) -> int:
    """Largest sum, in units of 1/scale, that does not refute "the mean is at most ``mean``" at level ``failure``.

    For every true mean up to ``mean`` a sum above ``largest_total / scale`` has probability at most ``failure``.
    """
    _check(trials, failure)
    rest = float(np.nextafter(1.0 - mean, 0.0))  # rounding of the subtraction, outwards

    def refutes(total: int) -> bool:
        return _refuted(trials - Fraction(total, scale), trials, rest, failure)

    low, high = 0, trials * scale + 1  # the smallest total that refutes lies in (low, high]; high stands for none
    if refutes(0):  # cannot happen for failure < 1: a sum of at least 0 is certain
        return 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if refutes(middle) else (middle, high)
    return high - 1
