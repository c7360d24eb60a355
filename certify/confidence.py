"""Finite-sample confidence bounds for means, proportions and distribution functions.

Every bound is rounded outwards: results of floating-point special functions are moved away from the optimistic side
by a relative ``NUDGE`` that exceeds their error (a few units in the last place) by three orders of magnitude, so
rounding never makes a bound too good.

Sources: Clopper & Pearson (1934); Hoeffding (1963); Maurer & Pontil (2009), Theorem 4 (empirical Bernstein);
Massart (1990) (Dvoretzky-Kiefer-Wolfowitz with the tight constant).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from scipy import special, stats

from neurosym.errors import InputError

Side = Literal["lower", "upper"]
NUDGE = 1e-12
TAIL_NUDGE = 1e-10  # relative, on binomial tail probabilities before they are compared with a failure probability


def _check(trials: int, failure: float) -> None:
    if trials < 1:
        raise InputError(f"trials: {trials}; at least 1 draw is needed")
    if not 0.0 < failure < 1.0:
        raise InputError(f"failure probability: {failure} is not strictly between 0 and 1")


def clopper_pearson_lower(trials: int, failure: float) -> np.ndarray:
    """One-sided lower confidence limits of a proportion, ``float64[trials+1]`` indexed by the count.

    Entry ``k`` is the ``p`` with ``P(Bin(trials, p) >= k) = failure`` (0 for ``k = 0``), so for every true ``p`` the
    limit exceeds ``p`` with probability at most ``failure``: the limit exceeds ``p`` iff the count reaches the smallest
    ``k`` with ``P(Bin(trials, p) >= k) <= failure``.
    """
    _check(trials, failure)
    count = np.arange(1, trials + 1, dtype=np.float64)
    limit = special.betaincinv(count, trials - count + 1.0, failure)
    return np.concatenate([[0.0], limit * (1.0 - NUDGE)])


def clopper_pearson_upper(trials: int, failure: float) -> np.ndarray:
    """One-sided upper confidence limits, ``float64[trials+1]``: ``1 - lower(trials - k)``, 1 for ``k = trials``."""
    # near 1 the subtraction itself rounds by more than the nudge: one more step outwards
    return np.minimum(np.nextafter(1.0 - clopper_pearson_lower(trials, failure)[::-1], 2.0), 1.0)


def clopper_pearson(trials: int, failure: float, *, two_sided: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Tables of lower and upper limits; ``failure`` is for each side, or shared by both if ``two_sided``."""
    each = failure / 2.0 if two_sided else failure
    return clopper_pearson_lower(trials, each), clopper_pearson_upper(trials, each)


def hoeffding(trials: int, failure: float) -> float:
    """One-sided half width for the mean of ``trials`` values in [0, 1]: ``sqrt(ln(1/failure) / (2 trials))``."""
    _check(trials, failure)
    return math.sqrt(-math.log(failure) / (2.0 * trials)) * (1.0 + NUDGE)


def bernstein(variance: float | np.ndarray, trials: int, failure: float) -> np.ndarray:
    """One-sided empirical-Bernstein half width for values in [0, 1] with (unbiased) sample ``variance``.

    ``sqrt(2 V ln(2/failure) / n) + 7 ln(2/failure) / (3 (n-1))``.
    """
    _check(trials, failure)
    if trials < 2:
        raise InputError(f"trials: {trials}; the sample variance needs at least 2 draws")
    log = math.log(2.0 / failure)
    spread = np.sqrt(2.0 * np.asarray(variance, dtype=np.float64) * log / trials)
    return (spread + 7.0 * log / (3.0 * (trials - 1))) * (1.0 + NUDGE)


def dkw(trials: int, failure: float, *, two_sided: bool = False) -> float:
    """Uniform half width for an empirical distribution function (one-sided form needs ``failure <= 1/2``)."""
    _check(trials, failure)
    if not two_sided and failure > 0.5:
        raise InputError(f"failure probability: {failure} is above 1/2, where the one-sided bound is not proved")
    return math.sqrt(math.log((2.0 if two_sided else 1.0) / failure) / (2.0 * trials)) * (1.0 + NUDGE)


def binomial_lower(trials: int, prob: float | np.ndarray, failure: float) -> np.ndarray:
    """Largest ``t`` with ``P(Bin(trials, prob) < t) <= failure``, ``int64`` of the shape of ``prob``.

    A count drawn with success probability at least ``prob`` is at least ``t`` except with probability ``failure``.
    """
    _check(trials, failure)
    prob = np.asarray(prob, dtype=np.float64)

    def allowed(t: np.ndarray) -> np.ndarray:
        # P(Bin < t) = bdtr(t-1); t = 0 always holds
        tail = special.bdtr(np.maximum(t - 1, 0).astype(np.float64), trials, prob)
        return (t <= 0) | (tail * (1.0 + TAIL_NUDGE) <= failure)

    t = np.clip(np.nan_to_num(stats.binom.ppf(failure, trials, prob)), 0, trials).astype(np.int64)
    while np.any(low := ~allowed(t)):
        t = np.where(low, t - 1, t)
    while np.any(more := (t < trials) & allowed(t + 1)):
        t = np.where(more, t + 1, t)
    return t


def binomial_upper(trials: int, prob: float | np.ndarray, failure: float) -> np.ndarray:
    """Smallest ``t`` with ``P(Bin(trials, prob) > t) <= failure``, ``int64`` of the shape of ``prob``."""
    _check(trials, failure)
    prob = np.asarray(prob, dtype=np.float64)

    def allowed(t: np.ndarray) -> np.ndarray:
        tail = special.bdtrc(np.minimum(t, trials).astype(np.float64), trials, prob)
        return (t >= trials) | (tail * (1.0 + TAIL_NUDGE) <= failure)

    t = np.clip(np.nan_to_num(stats.binom.isf(failure, trials, prob)), 0, trials).astype(np.int64)
    while np.any(high := ~allowed(t)):
        t = np.where(high, t + 1, t)
    while np.any(less := (t > 0) & allowed(t - 1)):
        t = np.where(less, t - 1, t)
    return t
