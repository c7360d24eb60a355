"""Bounds of a smoothed score under attack from its whole distribution (CAS), as a sort and one dot product.

Theorem (Kumar, Levine, Feizi & Goldstein 2020; CAS: Zargarbashi, Akhondzadeh & Bojchevski 2024). Let s be in [0, 1] and
``S(v) = P_e(s(x + e) >= v)``, e ~ N(0, sigma^2 I), r = R/sigma. For every ``|x~ - x| <= R``,

    integral of Phi(Phi^-1(S(v)) - r) dv  <=  E s(x~ + e)  <=  integral of Phi(Phi^-1(S(v)) + r) dv   over v in [0, 1].

Proof. ``E s(x~ + e)`` is the integral of ``P_e(s(x~ + e) >= v)``, and for each v that is the probability of a set.

From M draws, S is replaced by a band that holds for all v at once except with probability b ("none": b = 0 is claimed
and the bound is only asymptotic). With k draws >= v:

* dkw: ``k/M +- sqrt(ln(1/b) / (2M))`` (Massart 1990, one side, b <= 1/2);
* binomial: Clopper-Pearson limits at b/J where S matters at J values of v only (draws counted on a grid with J steps),
  or at b/M for the M order statistics of a continuous score. Wider than dkw in the middle, far narrower near 0 and 1,
  where the shift by r multiplies every error.

Either way the band is a function of k alone, so a bound is a sum of steps times a table ``[M+1]``: for sorted draws an
L-statistic with fixed weights. Tables are rounded outwards, and so are the sums.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from neurosym.certify.confidence import Side, clopper_pearson_lower, clopper_pearson_upper, dkw
from neurosym.certify.smoothing import gaussian_shift
from neurosym.errors import InputError

Band = Literal["binomial", "dkw", "none"]
BANDS = ("binomial", "dkw", "none")
EPSILON = 2.0**-52


def tail_table(trials: int, ratio: float, band: Band, failure: float | None, points: int, side: Side) -> np.ndarray:
    """Bound of ``P(s >= v)`` under attack by the number of draws >= v, increasing float64 ``[trials+1]``.

    Args:
        ratio: r = R / sigma.
        failure: b; not used by band "none".
        points: J, the values of v (not counting 0) at which the distribution matters.

    Raises:
        InputError: unknown band, no draws, or a failure probability out of range.
    """
    if band not in BANDS:
        raise InputError(f"band: {band!r}; choose one of {', '.join(BANDS)}")
    if trials < 1 or points < 1:
        raise InputError(f"trials: {trials} draws, {points} points; at least 1 of each is needed")
    if band == "none":
        limits = np.arange(trials + 1) / trials
    elif failure is None:
        raise InputError(
            f"band: {band!r} needs a failure probability; give one, or band 'none' for an asymptotic bound"
        )
    elif band == "dkw":
        width = dkw(trials, failure)
        moved = np.arange(trials + 1) / trials + (width if side == "upper" else -width)
        # the sum rounds by less than one unit in the last place of 1
        limits = np.clip(moved + (EPSILON if side == "upper" else -EPSILON), 0.0, 1.0)
    else:
        limit = clopper_pearson_upper if side == "upper" else clopper_pearson_lower
        limits = limit(trials, failure / points)
    table = gaussian_shift(limits, ratio if side == "upper" else -ratio, side)
    # outward rounding of single entries must not undo the order that the bounds rely on
    return np.maximum.accumulate(table) if side == "upper" else np.minimum.accumulate(table[::-1])[::-1]


def weights(table: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights ``[M]`` of the ascending order statistics and the constant of scores in [0, 1].

    The bound ``sum_i (X_i - X_(i-1)) table[M-i+1] + (1 - X_M) table[0]`` with ``X_0 = 0``, sorted by X_i.
    """
    return np.diff(table)[::-1].copy(), float(table[0])


def outwards(values: np.ndarray, terms: int, side: Side) -> np.ndarray:
    """``values`` in [0, 1], sums of ``terms`` rounded products with total at most 1, moved past their rounding error."""
    slack = (terms + 8) * EPSILON  # twice the error of any order of summation
    return np.clip(values + slack, 0.0, 1.0) if side == "upper" else np.clip(values - slack, 0.0, 1.0)


def cdf_bound(draws: np.ndarray, table: np.ndarray, side: Side) -> np.ndarray:
    """Bound of the attacked mean from draws in [0, 1], ``[..., M] -> [...]``.

    Args:
        table: ``tail_table`` for M trials; points = M for the binomial band.

    Raises:
        InputError: another number of draws, or a draw outside [0, 1].
    """
    draws = np.asarray(draws, dtype=np.float64)
    if draws.shape[-1] != table.size - 1:
        raise InputError(f"draws: {draws.shape[-1]} for a table of {table.size - 1}; make the table for these draws")
    ordered = np.sort(draws, axis=-1)
    if ordered.size and not (np.all(ordered[..., 0] >= 0.0) and np.all(ordered[..., -1] <= 1.0)):
        raise InputError("draws: a value is outside [0, 1]; scale the score to its range first")
    slope, constant = weights(table)
    return outwards(ordered @ slope + constant, table.size, side)


def counted_bound(counts: np.ndarray, steps: np.ndarray, table: np.ndarray, side: Side) -> np.ndarray:
    """The same from counts of draws on a grid, ``[..., J+1] -> [...]``.

    Args:
        counts: int, draws in each cell, M in all.
        steps: float64 ``[J]``, differences of the cells' values, which start at 0 and end at most at 1.
        table: ``tail_table`` for M trials and J points.
    """
    above = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1][..., 1:]
    return outwards(np.asarray(table[above] @ steps), steps.size, side)
