"""The verifier's numbers against scipy and mpmath, which it does not share code with."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import mpmath
import pytest
from scipy import stats

from neurosym.certify.verifier import numbers


@pytest.mark.parametrize("n", [1, 2, 50, 1000])
@pytest.mark.parametrize("failure", ["0.3", "0.01", "1/70000"])
def test_clopper_pearson_solves_its_equation(n: int, failure: str) -> None:
    for k in sorted({1, 2, n // 3, n // 2, n - 1, n} & set(range(1, n + 1))):
        p = numbers.limit_below(k, n, Fraction(failure))
        assert float(p) == pytest.approx(stats.beta.ppf(float(Fraction(failure)), k, n - k + 1), rel=1e-11)
        with mpmath.workdps(60):
            tail = mpmath.betainc(k, n - k + 1, 0, mpmath.mpf(str(p)), regularized=True)
            assert abs(tail * Fraction(failure).denominator / Fraction(failure).numerator - 1) < mpmath.mpf("1e-45")


def test_clopper_pearson_ends() -> None:
    assert numbers.limit_below(0, 10, Fraction(1, 100)) == 0
    assert numbers.limit_above(10, 10, Fraction(1, 100)) == 1


@pytest.mark.parametrize("p", ["1e-400", "1e-30", "0.01", "0.5", "0.75", "0.999999999999"])
@pytest.mark.parametrize("shift", ["-2", "0.5", "3"])
def test_shift_matches_mpmath(p: str, shift: str) -> None:
    found = numbers.shifted(Decimal(p), Fraction(shift))
    with mpmath.workdps(500):
        quantile = mpmath.findroot(
            lambda z: mpmath.log(mpmath.ncdf(z)) - mpmath.log(mpmath.mpf(p)),
            stats.norm.ppf(float(p)) if float(p) > 0 else -42.7,
        )
        truth = mpmath.ncdf(quantile + mpmath.mpf(shift))
        assert abs(mpmath.mpf(str(found)) / truth - 1) < mpmath.mpf("1e-45")


def test_shift_keeps_ends() -> None:
    assert numbers.shifted(Decimal(0), Fraction(3)) == 0
    assert numbers.shifted(Decimal(1), Fraction(-3)) == 1


@pytest.mark.parametrize("n", [1, 7, 300])
@pytest.mark.parametrize("p", [0.0, 0.001, 0.4, 0.97, 1.0])
@pytest.mark.parametrize("failure", [1e-6, 0.02, 0.4])
def test_quantiles_are_the_extreme_ones(n: int, p: float, failure: float) -> None:
    t = numbers.quantile_below(n, Decimal(p), Decimal(failure))
    assert t == max(t for t in range(n + 1) if stats.binom.cdf(t - 1, n, p) <= failure)
    u = numbers.quantile_above(n, Decimal(p), Decimal(failure))
    assert u == min(u for u in range(n + 1) if stats.binom.sf(u, n, p) <= failure)


def test_recorded_bound_must_be_on_the_safe_side() -> None:
    exact = Decimal("0.25")
    assert numbers.close_from_below(0.25, exact)
    assert numbers.close_from_below(0.25 * (1 - 1e-12), exact)
    assert not numbers.close_from_below(0.25 * (1 + 1e-12), exact)
    assert not numbers.close_from_below(0.25 * (1 - 1e-8), exact)


def test_verifier_shares_no_numeric_library_with_the_producer() -> None:
    code = (
        "import sys, neurosym.certify.verifier;"
        "print(*[m for m in sys.modules if m in ('torch', 'scipy') or m.startswith(('neurosym.cer', 'neurosym.cir'))])"
    )
    text = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # the schema describes the file; it computes nothing
    allowed = {"neurosym.certify", "neurosym.certify.schema"}
    assert {name for name in text.split() if not name.startswith("neurosym.certify.verifier")} <= allowed
