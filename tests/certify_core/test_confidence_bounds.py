"""Confidence bounds against mpmath, exact binomial sums, and each other."""

from __future__ import annotations

from collections.abc import Iterator

import mpmath
import numpy as np
import pytest
from scipy import stats

from neurosym.certify.confidence import (
    bernstein,
    binomial_lower,
    binomial_upper,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    dkw,
    hoeffding,
)
from neurosym.errors import InputError


@pytest.fixture(autouse=True)
def _fifty_digits() -> Iterator[None]:
    with mpmath.workdps(50):
        yield


def tail(n: int, p: mpmath.mpf, k: int) -> mpmath.mpf:
    """P(Bin(n, p) >= k) as an exact sum at 50 digits."""
    return mpmath.fsum(mpmath.binomial(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("n", "failure"), [(1, 0.05), (7, 0.005), (40, 1e-3), (40, 1e-8)])
def test_limits_are_sound_and_sharp(n: int, failure: float) -> None:
    lower, upper = clopper_pearson(n, failure)
    assert lower[0] == 0.0
    assert upper[n] == 1.0
    for k in range(1, n + 1):
        at = tail(n, mpmath.mpf(float(lower[k])), k)
        assert at <= mpmath.mpf(failure)  # outward: never optimistic
        assert at >= mpmath.mpf(failure) * (1 - 1e-8)  # and no looser than rounding
    for k in range(n):
        below = 1 - tail(n, mpmath.mpf(float(upper[k])), k + 1)
        assert mpmath.mpf(failure) * (1 - 1e-6) <= below <= mpmath.mpf(failure)


@pytest.mark.parametrize("failure", [0.05, 0.005])
@pytest.mark.parametrize("n", [5, 33])
def test_coverage_by_exact_sums(n: int, failure: float) -> None:
    lower, upper = clopper_pearson_lower(n, failure), clopper_pearson_upper(n, failure)
    for p in np.linspace(0.0, 1.0, 101):
        mass = stats.binom.pmf(np.arange(n + 1), n, p)
        assert mass[lower > p].sum() <= failure * (1 + 1e-9)
        assert mass[upper < p].sum() <= failure * (1 + 1e-9)


def test_two_sided_halves_the_failure() -> None:
    both, one = clopper_pearson(20, 0.1, two_sided=True), clopper_pearson(20, 0.05)
    assert np.array_equal(both[0], one[0])
    assert np.array_equal(both[1], one[1])
    assert np.allclose(both[0][1:], stats.beta.ppf(0.05, np.arange(1, 21), 20 - np.arange(1, 21) + 1), rtol=1e-9)


@pytest.mark.parametrize("failure", [0.2, 1e-3, 1e-7])
@pytest.mark.parametrize("n", [1, 13, 60])
def test_binomial_quantiles_against_sums(n: int, failure: float) -> None:
    probs = np.concatenate([[0.0, 1.0, 1e-12, 1 - 1e-12], np.linspace(0.01, 0.99, 25)])
    low, high = binomial_lower(n, probs, failure), binomial_upper(n, probs, failure)
    for p, t, top in zip(probs, low, high, strict=True):
        exact = mpmath.mpf(float(p))
        mass = [mpmath.binomial(n, i) * exact**i * (1 - exact) ** (n - i) for i in range(n + 1)]
        under = [mpmath.fsum(mass[:t_]) for t_ in range(n + 1)]  # P(Bin < t)
        assert t == max(t_ for t_ in range(n + 1) if under[t_] <= mpmath.mpf(failure))
        over = [mpmath.fsum(mass[t_ + 1 :]) for t_ in range(n + 1)]  # P(Bin > t)
        assert top == min(t_ for t_ in range(n + 1) if over[t_] <= mpmath.mpf(failure))


def test_binomial_quantiles_rise_with_the_probability() -> None:
    grid = np.linspace(0, 1, 400)
    assert np.all(np.diff(binomial_lower(50, grid, 1e-3)) >= 0)
    assert np.all(np.diff(binomial_upper(50, grid, 1e-3)) >= 0)


def test_mean_bounds_hold() -> None:
    rng = np.random.default_rng(0)
    n, failure, runs = 60, 0.1, 3000
    x = rng.beta(0.5, 2.0, size=(runs, n))
    mean, var = x.mean(axis=1), x.var(axis=1, ddof=1)
    assert np.mean(mean - hoeffding(n, failure) > 0.2) <= failure
    assert np.mean(mean - bernstein(var, n, failure) > 0.2) <= failure
    assert hoeffding(n, failure) == pytest.approx(np.sqrt(np.log(1 / failure) / (2 * n)))
    assert bernstein(0.0, n, failure) == pytest.approx(7 * np.log(2 / failure) / (3 * (n - 1)))


def test_dkw_one_and_two_sided() -> None:
    rng = np.random.default_rng(3)
    n, failure = 50, 0.2
    x = np.sort(rng.random((4000, n)), axis=1)
    above = (np.arange(1, n + 1) / n - x).max(axis=1)  # sup of F_n - F
    below = (x - np.arange(n) / n).max(axis=1)
    assert np.mean(above > dkw(n, failure)) <= failure + 0.02
    assert np.mean(np.maximum(above, below) > dkw(n, failure, two_sided=True)) <= failure + 0.02
    with pytest.raises(InputError, match="above 1/2"):
        dkw(n, 0.7)


@pytest.mark.parametrize(("trials", "failure"), [(0, 0.1), (5, 0.0), (5, 1.0)])
def test_bad_input(trials: int, failure: float) -> None:
    with pytest.raises(InputError):
        clopper_pearson_lower(trials, failure)
