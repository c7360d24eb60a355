"""Fifty-digit numbers: normal distribution, binomial tails, Clopper-Pearson limits, binomial quantiles.

The normal distribution comes from mpmath, the binomial sums from exact coefficients and the standard library's
``decimal``. Nothing here is shared with the producer, which uses double precision special functions.
"""

from __future__ import annotations

import math
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache
from statistics import NormalDist

import mpmath

DIGITS = 50
GUARD = 15  # extra digits carried inside, lost to cancellation
WORK = Context(prec=DIGITS + GUARD, Emax=10**12, Emin=-(10**12))
ROUGH = Context(prec=20, Emax=10**12, Emin=-(10**12))
RELATIVE = Decimal("1e-10")
"""Largest relative difference between a recorded double and its 50-digit value.

A double is good to 1e-16; producers move bounds outwards by about 1e-12, and a chain of such bounds amplifies that by
the slope of the normal quantile, at most a few dozen in practice.
"""


def as_decimal(value: Fraction | float | int) -> Decimal:
    """Nearest 65-digit decimal of an exact number (a double is exact)."""
    exact = Fraction(value)
    return WORK.divide(Decimal(exact.numerator), Decimal(exact.denominator))


def _to_mp(value: Decimal) -> mpmath.mpf:
    return mpmath.mpf(str(value))


def _from_mp(value: mpmath.mpf) -> Decimal:
    return Decimal(mpmath.nstr(value, DIGITS + GUARD - 2, strip_zeros=False))


def normal_cdf(z: mpmath.mpf) -> mpmath.mpf:
    """Phi(z), with full relative precision in the lower tail."""
    return mpmath.erfc(-z / mpmath.sqrt(2)) / 2


def normal_quantile(p: mpmath.mpf) -> mpmath.mpf:
    """Phi^-1(p) for 0 < p < 1, by Newton's method on log Phi (concave, so it converges from the left)."""
    if p > 0.5:
        return -normal_quantile(1 - p)
    tiny = p < mpmath.mpf("1e-300")
    z = -mpmath.sqrt(-2 * mpmath.log(p)) if tiny else mpmath.mpf(NormalDist().inv_cdf(float(p)))
    for _ in range(60):
        value = normal_cdf(z)
        step = value * mpmath.log(value / p) / mpmath.npdf(z)
        z -= step
        if abs(step) < mpmath.mpf(10) ** (-(DIGITS // 2 + 5)):  # quadratic: the next error is its square
            return z
    return z


@cache
def shifted(p: Decimal, shift: Fraction) -> Decimal:
    """``Phi(Phi^-1(p) + shift)``; 0 and 1 stay what they are, and so does everything at shift 0."""
    if p <= 0 or p >= 1 or shift == 0:
        return p
    with mpmath.workdps(DIGITS + GUARD):
        moved = normal_quantile(_to_mp(p)) + mpmath.mpf(shift.numerator) / shift.denominator
        return _from_mp(normal_cdf(moved))


def _first_term(k: int, n: int, p: Decimal, context: Context) -> Decimal:
    """``C(n,k) p^k (1-p)^(n-k)`` for 0 < p < 1."""
    with localcontext(context):
        return Decimal(math.comb(n, k)) * p**k * (1 - p) ** (n - k)


def upper_tail(k: int, n: int, p: Decimal, context: Context = WORK) -> Decimal:
    """``P(Bin(n, p) >= k)`` by summing the shorter side until the terms no longer count."""
    if k <= 0:
        return Decimal(1)
    if k > n or p <= 0:
        return Decimal(0)
    if p >= 1:
        return Decimal(1)
    with localcontext(context):
        if k <= n * p:  # the complement P(Bin <= k-1) is the shorter side
            return 1 - upper_tail(n - k + 1, n, 1 - p, context)
        term = _first_term(k, n, p, context)
        ratio, total, j = p / (1 - p), term, k
        negligible = Decimal(10) ** (-context.prec - 2)
        while j < n:
            term *= ratio * (n - j) / (j + 1)
            total += term
            j += 1
            if term < total * negligible:
                break
        return +total


def lower_tail(k: int, n: int, p: Decimal) -> Decimal:
    """``P(Bin(n, p) <= k)``."""
    with localcontext(WORK):
        return upper_tail(n - k, n, 1 - p)


def _newton_step(k: int, n: int, p: Decimal, failure: Decimal, context: Context) -> Decimal:
    """One Newton step for ``log P(Bin(n,p) >= k) = log failure``; the derivative of the tail is a Beta density."""
    with localcontext(context):
        tail = upper_tail(k, n, p, context)
        density = _first_term(k, n, p, context) * k / p
        return p - tail * (tail / failure).ln() / density


@cache
def limit_below(k: int, n: int, failure: Fraction) -> Decimal:
    """One-sided Clopper-Pearson lower limit: the p with ``P(Bin(n, p) >= k) = failure``; 0 for ``k = 0``.

    The log of the tail is concave in p, so Newton's method rises to the root from the left without overshooting.
    """
    if k <= 0:
        return Decimal(0)
    target = as_decimal(failure)
    if k == n:
        with localcontext(WORK):
            return (target.ln() / n).exp()
    z = -NormalDist().inv_cdf(min(max(float(failure), 1e-300), 0.5))
    guess = max((k / n) - z * math.sqrt(k / n * (1 - k / n) / n), 0.02 * k / n)
    p = Decimal(guess)
    for context, close in ((ROUGH, Decimal("1e-12")), (WORK, Decimal(10) ** (-(DIGITS // 2 + 3)))):
        for _ in range(100):
            with localcontext(context):
                after = _newton_step(k, n, p, target, context)
                if after <= 0:  # started too far to the right
                    after = p / 4
                done = abs(after - p) <= close * after
            p = after
            if done:
                break
    return p


def limit_above(k: int, n: int, failure: Fraction) -> Decimal:
    """One-sided Clopper-Pearson upper limit, by symmetry."""
    with localcontext(WORK):
        return 1 - limit_below(n - k, n, failure)


def quantile_below(n: int, p: Decimal, failure: Decimal) -> int:
    """Largest ``t`` with ``P(Bin(n, p) < t) <= failure``."""
    if p <= 0:
        return 0
    if p >= 1:
        return n
    with localcontext(WORK):
        z = NormalDist().inv_cdf(min(max(float(failure), 1e-300), 0.999))
        centre = float(p)
        j = min(max(int(n * centre + z * math.sqrt(n * centre * (1 - centre))), 0), n - 1)
        below, term, odds = lower_tail(j, n, p), _first_term(j, n, p, WORK), p / (1 - p)
        while j >= 0 and below > failure:  # P(Bin <= j) too large: go down
            below -= term
            term = term * j / ((n - j + 1) * odds)
            j -= 1
            if j < 0:
                return 0
        while j < n - 1:  # P(Bin <= j) <= failure: go up while that stays so
            term = term * (n - j) * odds / (j + 1)
            if below + term > failure:
                break
            below += term
            j += 1
        return j + 1


def quantile_above(n: int, p: Decimal, failure: Decimal) -> int:
    """Smallest ``t`` with ``P(Bin(n, p) > t) <= failure``, by symmetry."""
    with localcontext(WORK):
        return n - quantile_below(n, 1 - p, failure)


def safe_range_below(n: int, p: Decimal, failure: Decimal) -> tuple[int, int]:
    """Thresholds that a producer with outward rounding may write: the exact one, or one rounded to the safe side."""
    with localcontext(WORK):
        slack = 1 - 10 * RELATIVE
        return quantile_below(n, p * slack, failure * slack), quantile_below(n, p, failure)


def close_from_below(recorded: float, exact: Decimal) -> bool:
    """A lower bound must not exceed the true value, nor fall short of it by more than rounding."""
    with localcontext(WORK):
        value = Decimal(recorded)
        # one unit in the last place above is what correct rounding to a double may give
        return exact * (1 - RELATIVE) <= value <= exact * (1 + Decimal("3e-16"))
