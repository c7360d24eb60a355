"""Thresholds against counting by hand, exhaustive permutation, and the law of coverage."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from conformal_cases import softmax_rows, threshold_by_search
from scipy import stats

from neurosym.certify.conformal import (
    class_thresholds,
    cluster_classes,
    clustered_thresholds,
    group_thresholds,
    label_weighted_thresholds,
    marginal_threshold,
    weighted_thresholds,
)
from neurosym.certify.conformal.weighted import effective_size
from neurosym.errors import InputError


@pytest.mark.parametrize("n", range(1, 7))
@pytest.mark.parametrize("alpha", ["0.1", "0.2", "0.25", "1/3", "0.5", "0.7"])
def test_every_permutation_of_few_points(n: int, alpha: str) -> None:
    """Of all orders of n + 1 distinct scores exactly ceil((n+1)(1-alpha)) / (n+1) cover the last one."""
    level = Fraction(alpha)
    orders = list(itertools.permutations(range(n + 1)))
    covered = sum(order[-1] <= marginal_threshold(np.array(order[:-1], dtype=float), level) for order in orders)
    assert Fraction(covered, len(orders)) == Fraction(math.ceil((n + 1) * (1 - level)), n + 1)
    assert Fraction(covered, len(orders)) >= 1 - level


@pytest.mark.parametrize("alpha", ["0.05", "0.18", "0.3"])
def test_groups_by_hand(alpha: str) -> None:
    generator = np.random.default_rng(3)
    scores, groups = generator.integers(0, 20, 400) / 20.0, generator.choice(6, 400, p=[0.5, 0.3, 0.1, 0.05, 0.05, 0])
    found = group_thresholds(scores, groups, 6, alpha)
    assert found.tolist() == [threshold_by_search(scores[groups == g], Fraction(alpha)) for g in range(6)]
    assert found[5] == np.inf
    assert np.array_equal(class_thresholds(scores, groups, 6, alpha), found)


def test_coverage_given_calibration_follows_its_beta_law() -> None:
    n, alpha, rounds = 30, "0.2", 3000
    generator = np.random.default_rng(11)
    coverage = np.array([marginal_threshold(row, alpha) for row in generator.random((rounds, n))])
    rank = math.ceil((n + 1) * 0.8)
    law = stats.beta(rank, n + 1 - rank)
    assert stats.kstest(coverage, law.cdf).pvalue > 1e-3
    assert stats.kstest(coverage, stats.beta(rank + 1, n - rank).cdf).pvalue < 1e-6  # the next rank is another law


def _weighted_by_hand(scores: list[float], weights: list[Fraction], own: Fraction, alpha: Fraction) -> float:
    total = sum(weights, Fraction(0)) + own
    for s in sorted(scores):
        if sum((w for t, w in zip(scores, weights, strict=True) if t <= s), Fraction(0)) >= (1 - alpha) * total:
            return s
    return math.inf


@pytest.mark.parametrize("seed", range(20))
def test_weighted_quantile_by_hand(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(1, 25))
    scores = generator.integers(0, 8, n) / 8.0
    weights = generator.integers(0, 5, n) / 4.0 if seed % 2 else generator.random(n)
    own = np.append(generator.integers(1, 5, 5) / 4.0, [1e9, 1e-9])
    alpha = Fraction(int(generator.integers(1, 10)), 10)
    found = weighted_thresholds(scores, weights, own, alpha)
    exact = [Fraction(float(w)) for w in weights]
    assert found.tolist() == [_weighted_by_hand(scores.tolist(), exact, Fraction(float(w)), alpha) for w in own]


@pytest.mark.parametrize("weight", [1.0, 0.1, 1e-12, 1 / 3])
def test_equal_weights_are_no_weights_for_every_level(weight: float) -> None:
    # 0.1 + 0.1 + ... is not a multiple of 0.1 in floating point, so the sums decide wrongly without exact arithmetic
    for n in (1, 9, 19, 49, 149):
        scores = np.arange(1.0, n + 1)
        for percent in range(1, 100):
            alpha = Fraction(percent, 100)
            found = weighted_thresholds(scores, np.full(n, weight), np.array([weight]), alpha)[0]
            assert found == threshold_by_search(scores, alpha), (n, alpha)


def test_weights_restore_coverage_under_covariate_shift() -> None:
    """X is uniform at calibration and has density 2x at test; scores grow with x, so that equal weights fail."""
    generator = np.random.default_rng(5)
    rounds, n, m, plain, mended = 400, 60, 5, [], []
    for _ in range(rounds):
        x, z = generator.random(n), np.sqrt(generator.random(m))
        s, t = x + 0.1 * generator.random(n), z + 0.1 * generator.random(m)
        plain.append(np.mean(t <= marginal_threshold(s, "0.2")))
        mended.append(np.mean(t <= weighted_thresholds(s, 2 * x, 2 * z, "0.2")))
    error = np.std(mended) / math.sqrt(rounds)
    assert np.mean(mended) >= 0.8 - 4 * error
    assert np.mean(plain) < 0.8 - 4 * error


def test_label_shift_by_hand() -> None:
    generator = np.random.default_rng(6)
    scores, labels, ratio = generator.random(40), generator.integers(0, 3, 40), np.array([0.5, 1.0, 3.0])
    found = label_weighted_thresholds(scores, labels, ratio, "0.1")
    exact = [Fraction(float(ratio[k])) for k in labels]
    expected = [_weighted_by_hand(scores.tolist(), exact, Fraction(float(w)), Fraction(1, 10)) for w in ratio]
    assert found.tolist() == expected


def test_effective_size() -> None:
    assert effective_size(np.full(7, 0.3)) == pytest.approx(7)
    assert effective_size(np.array([1.0, 0, 0])) == pytest.approx(1)


def test_clusters_join_alike_classes_and_leave_rare_ones_out() -> None:
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(6), 200), [6, 6]])
    scores = generator.random(labels.size) + np.where(np.isin(labels, [1, 3, 5]), 10.0, 0.0)
    clusters = cluster_classes(scores, labels, 8, 2, alpha="0.1", seed=1)
    assert clusters[6] == clusters[7] == -1
    assert len({*clusters[[0, 2, 4]]}) == len({*clusters[[1, 3, 5]]}) == 1
    assert clusters[0] != clusters[1]
    found = clustered_thresholds(scores, labels, clusters, "0.1")
    for k in range(8):
        rows = np.isin(labels, np.flatnonzero(clusters == clusters[k])) if clusters[k] >= 0 else labels >= 0
        assert found[k] == threshold_by_search(scores[rows], Fraction(1, 10))


def test_clusters_without_common_classes_use_the_marginal_threshold() -> None:
    scores, labels = softmax_rows(10, 2, 0)[:, 0], np.arange(10)
    clusters = cluster_classes(scores, labels, 10, 3, alpha="0.2")
    assert (clusters == -1).all()
    assert (clustered_thresholds(scores, labels, clusters, "0.2") == marginal_threshold(scores, "0.2")).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: marginal_threshold(np.array([0.1, np.nan]), "0.1"), "row 1 is NaN"),
        (lambda: marginal_threshold(np.array([0.1]), "1.5"), "strictly between"),
        (lambda: group_thresholds(np.ones(2), np.array([0, 3]), 2, "0.1"), "row 1: 3 is out of range"),
        (lambda: weighted_thresholds(np.ones(2), np.array([1.0, -1.0]), np.ones(1), "0.1"), "row 1: -1.0"),
        (lambda: weighted_thresholds(np.ones(2), np.ones(3), np.ones(1), "0.1"), "one weight for each row"),
        (lambda: weighted_thresholds(np.ones(2), np.zeros(2), np.zeros(1), "0.1"), "are 0"),
        (lambda: cluster_classes(np.ones(2), np.zeros(2, dtype=int), 2, 0, alpha="0.1"), "at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
