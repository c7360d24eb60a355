"""The smoothing certificate: exactness for half-spaces, rounding, and the level of RCP1."""

from __future__ import annotations

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy.special import ndtr

from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma, rcp1_level
from neurosym.errors import InputError


def exact_shift(p: float, shift: float) -> mpmath.mpf:
    with mpmath.workdps(60):
        z = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1)
        return mpmath.ncdf(z + mpmath.mpf(shift))


def test_half_space_attains_the_bound() -> None:
    """f(x) = 1[<v, x> >= c]: moving by R against v gives exactly the lower bound, along v the upper one."""
    rng = np.random.default_rng(0)
    v = rng.normal(size=5)
    v /= np.linalg.norm(v)
    x, c, sigma, radius = rng.normal(size=(50, 5)), 0.3, 0.5, 0.4
    before = ndtr((x @ v - c) / sigma)
    for sign in (-1, 1):
        after = ndtr(((x + sign * radius * v) @ v - c) / sigma)
        assert np.allclose(gaussian_shift(before, sign * radius / sigma), after, atol=1e-12)
    # every other direction does less
    d = rng.normal(size=(200, 5))
    d *= radius / np.linalg.norm(d, axis=1, keepdims=True)
    some = ndtr(((x[:, None] + d) @ v - c) / sigma)
    assert np.all(some >= gaussian_shift(before, -radius / sigma, "lower")[:, None])
    assert np.all(some <= gaussian_shift(before, radius / sigma, "upper")[:, None])


def test_two_sided_event_is_bounded() -> None:
    """A band, for which the bound is not attained, stays within it for every shift up to R."""
    sigma, x = 0.5, np.linspace(-2, 2, 41)
    g = ndtr((1 - x) / sigma) - ndtr((-1 - x) / sigma)
    for move in np.linspace(-0.3, 0.3, 13):
        moved = ndtr((1 - x - move) / sigma) - ndtr((-1 - x - move) / sigma)
        assert np.all(moved >= gaussian_shift(g, -0.3 / sigma, "lower") - 1e-15)


@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.25, 4.0])
def test_outward_rounding_against_mpmath(shift: float) -> None:
    p = np.array([1e-120, 1e-30, 1e-9, 0.001, 0.2, 0.5, 0.8, 0.999, 1 - 1e-12])
    low, high = gaussian_shift(p, shift, "lower"), gaussian_shift(p, shift, "upper")
    for value, a, b in zip(p, low, high, strict=True):
        with mpmath.workdps(200):
            exact = exact_shift_high(value, shift)
            assert mpmath.mpf(float(a)) <= exact <= mpmath.mpf(float(b))
            assert b - a <= 3e-12 * float(b) + 1e-180


def exact_shift_high(p: float, shift: float) -> mpmath.mpf:
    """Phi(Phi^-1(p) + shift) with enough digits for tiny p: the quantile by Newton steps on log Phi."""
    z = mpmath.findroot(lambda t: mpmath.log(mpmath.ncdf(t) / mpmath.mpf(p)), mpmath.mpf(float(_start(p))))
    return mpmath.ncdf(z + mpmath.mpf(shift))


def _start(p: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(p))


def test_exact_at_the_ends_and_at_zero_shift() -> None:
    ends = np.array([0.0, 1.0])
    for side in (None, "lower", "upper"):
        assert np.array_equal(gaussian_shift(ends, -2.0, side), ends)  # type: ignore[arg-type]
        p = np.random.default_rng(0).random(10)
        assert np.array_equal(gaussian_shift(p, 0.0, side), p)  # type: ignore[arg-type]


@pytest.mark.parametrize(("alpha", "ratio"), [("0.1", "0.5"), ("0.1", "2"), ("0.02", "1.5"), ("0.3", "8")])
def test_rcp1_level_never_exceeds_the_truth(alpha: str, ratio: str) -> None:
    with mpmath.workdps(60):
        exact = exact_shift_high(float(alpha), -float(ratio))
        # the start is the float nearest to alpha; its distance from alpha is part of the nudge
        z = mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(alpha) - 1)
        true = mpmath.ncdf(z - mpmath.mpf(ratio))
        found = rcp1_level(alpha, ratio, "1")
        assert mpmath.mpf(found.numerator) / found.denominator <= true
        assert mpmath.mpf(found.numerator) / found.denominator >= true * (1 - mpmath.mpf("1e-11"))
        assert mpmath.almosteq(exact, true, 1e-12)


def test_rcp1_level_at_radius_zero_is_alpha() -> None:
    assert rcp1_level("0.1", 0, "0.25") == Fraction(1, 10)
    assert rcp1_level("0.1", "0", 0) == Fraction(1, 10)


def test_known_sample_sizes() -> None:
    """1/a' - 1 for alpha = .1 and r = .5, 1, 1.5, 2."""
    from neurosym.certify.quantile import smallest_n

    assert [smallest_n(rcp1_level("0.1", r, 1)) for r in ("0.5", "1", "1.5", "2")] == [26, 88, 369, 1937]


def test_ratio_is_exact_and_refuses() -> None:
    assert radius_over_sigma(0.25, 0.5) == Fraction(1, 2)
    for bad in ((-1, 1), (1, -1), (1, 0)):
        with pytest.raises(InputError):
            radius_over_sigma(*bad)
    with pytest.raises(InputError, match="smaller radius"):
        rcp1_level("0.1", "50", "1")
    with pytest.raises(InputError, match=r"outside \[0, 1\]"):
        gaussian_shift(np.array([1.5]), 0.1)
