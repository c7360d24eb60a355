"""Bentkus' bound against exact rational arithmetic, exact worst cases, and the bounds that it must beat."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

from neurosym.certify.confidence import hoeffding
from neurosym.certify.mean_bound import largest_total, lower_tail, mean_upper
from neurosym.errors import InputError


def exact_bound(total: Fraction, n: int, p: Fraction) -> Fraction:
    """The definition, in rational numbers: the minimum over all integers above the total."""
    masses = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    ratios = [
        sum(((h - k) * mass for k, mass in enumerate(masses) if k < h), Fraction(0)) / (h - total)
        for h in range(math.floor(total) + 1, n + 1)
    ]
    return min([Fraction(1), *ratios])


@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_against_rational_numbers(n: int) -> None:
    for total, p in itertools.product(
        (Fraction(0), Fraction(1, 3), Fraction(3, 2), Fraction(n) - Fraction(1, 7)), (1, 3, 6)
    ):
        mean = Fraction(p, 8)  # exact in binary
        found = lower_tail(total, n, float(mean))
        assert found == pytest.approx(float(exact_bound(total, n, mean)), rel=1e-12)


def exact_tail(law: dict[Fraction, Fraction], n: int, total: Fraction) -> Fraction:
    """P(sum of n independent draws <= total), by convolution."""
    sums = {Fraction(0): Fraction(1)}
    for _ in range(n):
        after: dict[Fraction, Fraction] = {}
        for (s, a), (x, b) in itertools.product(sums.items(), law.items()):
            after[s + x] = after.get(s + x, Fraction(0)) + a * b
        sums = after
    return sum((mass for s, mass in sums.items() if s <= total), Fraction(0))


def laws(p: Fraction) -> list[dict[Fraction, Fraction]]:
    """Distributions on [0, 1] with mean p: Bernoulli, two and three points, a constant."""
    found = [{Fraction(0): 1 - p, Fraction(1): p}, {p: Fraction(1)}]
    for low, high in ((Fraction(0), Fraction(3, 4)), (Fraction(1, 4), Fraction(1))):
        if low < p < high:
            found.append({low: (high - p) / (high - low), high: (p - low) / (high - low)})
    half = min(p, 1 - p)
    found.append({Fraction(0): 1 - p - half / 2, Fraction(1, 2): half, Fraction(1): p - half / 2})
    return found


@pytest.mark.parametrize("p", [Fraction(1, 8), Fraction(1, 2), Fraction(11, 16)])
def test_no_distribution_breaks_the_bound(p: Fraction) -> None:
    n = 7
    for law in laws(p):
        assert sum(law.values()) == 1
        assert sum(x * mass for x, mass in law.items()) == p
        for twelfths in range(0, 12 * n):
            total = Fraction(twelfths, 12)
            assert float(exact_tail(law, n, total)) <= lower_tail(total, n, float(p)) * (1 + 1e-12)


@pytest.mark.parametrize("n", [3, 40, 500])
def test_never_worse_than_chernoff_and_hoeffding(n: int) -> None:
    for share, p in itertools.product((0.0, 0.1, 0.33, 0.6), (0.2, 0.5, 0.9)):
        if share >= p:
            continue
        found = lower_tail(Fraction(share) * n, n, p)
        divergence = (share * math.log(share / p) if share else 0.0) + (1 - share) * math.log((1 - share) / (1 - p))
        assert found <= math.exp(-n * divergence) * (1 + 1e-12)
        assert found <= math.exp(-2 * n * (p - share) ** 2) * (1 + 1e-12)
    assert mean_upper(0.3 * n, n, 0.01) <= 0.3 + hoeffding(n, 0.01) or n == 3


@pytest.mark.parametrize(("n", "share", "failure"), [(60, 0.1, 0.005), (1000, 0.4, 0.01), (20_000, 0.02, 1e-4)])
def test_limit_at_many_digits(n: int, share: float, failure: float) -> None:
    """The limit refutes (checked at 40 digits), and a mean smaller by a billionth does not."""
    total = Fraction(share).limit_denominator(100) * n
    limit = mean_upper(total, n, failure)

    def tail(p: float) -> mpmath.mpf:
        with mpmath.workdps(40):
            q = mpmath.mpf(p)
            term, below, excess, best = (1 - q) ** n, mpmath.mpf(0), mpmath.mpf(0), mpmath.mpf(1)
            for h in range(1, n + 1):
                below += term
                excess += below
                term *= q / (1 - q) * (n - h + 1) / h
                if h > total:
                    best = min(best, excess / (h - mpmath.mpf(total.numerator) / total.denominator))
            return best

    assert tail(limit) <= failure
    assert tail(limit * (1 - 1e-9)) > failure


@pytest.mark.parametrize("p", [0.1, 0.4, 0.85])
def test_limit_fails_rarely_for_bernoulli_draws(p: float) -> None:
    """Exact probability, by enumeration of all counts, that the limit falls below the true mean."""
    n, failure = 50, 0.05
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    missed = sum(mass[k] for k in range(n + 1) if mean_upper(k, n, failure) < p)
    assert missed <= failure
    assert missed > 0  # the bound is not idle


@pytest.mark.parametrize("mean", [0.0, 0.1, 0.5, 0.93, 1.0])
@pytest.mark.parametrize("scale", [1, 10])
def test_largest_total_is_the_largest(mean: float, scale: int) -> None:
    n, failure = 40, 0.01
    found = largest_total(n, mean, failure, scale)

    def refutes(total: int) -> bool:  # by symmetry, on the complement
        return float(exact_bound(n - Fraction(total, scale), n, 1 - Fraction(mean))) <= failure

    assert found == n * scale or refutes(found + 1)
    assert not refutes(found)


@pytest.mark.parametrize("mean", [0.05, 0.5, 0.9])
def test_largest_total_is_exceeded_rarely(mean: float) -> None:
    """Bernoulli draws of exactly the allowed mean, by enumeration."""
    n, failure = 60, 0.02
    most = largest_total(n, mean, failure, 1)
    mass = [math.comb(n, k) * mean**k * (1 - mean) ** (n - k) for k in range(n + 1)]
    assert sum(mass[most + 1 :]) <= failure


def test_limits_are_monotone_and_closed() -> None:
    limits = [mean_upper(Fraction(k, 4), 20, 0.01) for k in range(81)]
    assert all(np.diff(limits) >= 0)
    assert limits[-1] == 1.0
    assert mean_upper(0, 20, 0.01) == pytest.approx(1 - 0.01 ** (1 / 20), rel=1e-9)  # h = 1: (1-p)^n
    assert largest_total(3, 0.9, 0.01, 1) == 3  # three ones refute only means below 0.01^(1/3)
    assert lower_tail(-1, 5, 0.5) == 0.0


@pytest.mark.parametrize(("trials", "failure"), [(0, 0.1), (5, 0.0), (5, 1.0)])
def test_refusals(trials: int, failure: float) -> None:
    with pytest.raises(InputError):
        mean_upper(0, trials, failure)
    with pytest.raises(InputError):
        largest_total(trials, 0.5, failure, 10)
