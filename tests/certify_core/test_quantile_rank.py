"""Conformal ranks and quantiles against brute force and their exact laws."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from neurosym.certify.quantile import conformal_quantile, conformal_rank, kth_smallest, smallest_n
from neurosym.errors import InputError


def brute_rank(n: int, alpha: str) -> int:
    """Smallest integer l with l >= (n+1)(1-alpha), by counting up in exact arithmetic."""
    rank = 0
    while Decimal(rank) < (n + 1) * (1 - Decimal(alpha)):
        rank += 1
    return rank


def test_rank_is_exact_where_floats_are_not() -> None:
    assert math.ceil((149 + 1) * (1 - 0.18)) == 124  # the trap: floats give one rank too many
    assert conformal_rank(149, 0.18) == conformal_rank(149, "0.18") == 123
    assert conformal_rank(9, "0.1") == 9
    assert conformal_rank(8, "0.1") == 9  # +inf: beyond n
    assert conformal_rank(2, Fraction(1, 3)) == 2


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 400), st.integers(1, 999))
def test_rank_brute_force(n: int, thousandths: int) -> None:
    text = str(Decimal(thousandths) / 1000)
    assert conformal_rank(n, text) == conformal_rank(n, float(text)) == brute_rank(n, text)


def test_rank_where_the_product_is_an_integer() -> None:
    """Every n < 300 and level in thousandths whose exact product is whole: there rounding would show."""
    wrong_in_floats = 0
    for n in range(1, 300):
        for thousandths in range(1, 1000):
            product = (n + 1) * (1000 - thousandths)
            if product % 1000 == 0:
                assert conformal_rank(n, Fraction(thousandths, 1000)) == product // 1000
                wrong_in_floats += math.ceil((n + 1) * (1 - thousandths / 1000)) != product // 1000
    assert wrong_in_floats > 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=0, max_size=30), st.integers(1, 99))
def test_quantile_is_an_order_statistic(scores: list[float], percent: int) -> None:
    alpha = Fraction(percent, 100)
    found = conformal_quantile(np.array(scores), alpha)
    need = (len(scores) + 1) * (1 - alpha)
    enough = [q for q in sorted(scores) if sum(s <= q for s in scores) >= need]
    assert found == (enough[0] if enough else np.inf)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("alpha", ["0.1", "0.2", "0.25", "0.34", "0.5"])
def test_every_permutation(n: int, alpha: str) -> None:
    """Exhaustive exchangeability: over all orders of n+1 <= 6 distinct scores coverage is exactly rank/(n+1)."""
    orders = list(itertools.permutations(range(n + 1)))
    covered = sum(p[-1] <= conformal_quantile(np.array(p[:-1], dtype=float), alpha) for p in orders)
    assert Fraction(covered, len(orders)) == Fraction(min(conformal_rank(n, alpha), n + 1), n + 1)
    assert Fraction(covered, len(orders)) >= 1 - Fraction(Decimal(alpha))


def test_permutations_with_ties_cover_at_least() -> None:
    scores = (0.0, 0.0, 1.0, 1.0, 1.0, 2.0)
    orders = list(itertools.permutations(scores))
    for alpha in ("0.2", "0.35", "0.5"):
        covered = sum(p[-1] <= conformal_quantile(np.array(p[:-1]), alpha) for p in orders)
        assert Fraction(covered, len(orders)) >= 1 - Fraction(Decimal(alpha))


def test_conditional_miscoverage_follows_the_beta_law() -> None:
    n, alpha = 40, "0.15"
    rank = conformal_rank(n, alpha)
    rng = np.random.default_rng(1)
    miss = np.array([1.0 - conformal_quantile(row, alpha) for row in rng.random((4000, n))])  # scores are uniform
    assert stats.kstest(miss, stats.beta(n + 1 - rank, rank).cdf).pvalue > 1e-3


def test_smallest_n() -> None:
    for text in ("0.1", "0.18", "0.05", "0.3", "0.0374", "0.5"):
        n = smallest_n(text)
        assert conformal_rank(n, text) <= n
        assert n == 0 or conformal_rank(n - 1, text) > n - 1


def test_kth_smallest_axis_and_infinity() -> None:
    table = np.random.default_rng(0).random((5, 7))
    assert np.array_equal(kth_smallest(table, 3), np.sort(table, axis=-1)[:, 2])
    assert np.array_equal(kth_smallest(table, 3, axis=0), np.sort(table, axis=0)[2])
    assert np.all(np.isinf(kth_smallest(table, 8)))


@pytest.mark.parametrize("alpha", [0, 1, -0.1, "1.5", "ten", float("nan")])
def test_bad_levels(alpha: object) -> None:
    with pytest.raises(InputError) as error:
        conformal_rank(10, alpha)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_nan_score_is_named() -> None:
    with pytest.raises(InputError, match="row 2 is NaN"):
        conformal_quantile(np.array([0.1, 0.2, np.nan]), "0.5")
