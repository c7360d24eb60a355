"""Measures of sets, counted by hand; exact intervals against scipy; temperature against a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conformal_cases import draw_labels, softmax_rows
from scipy import optimize, special, stats

from neurosym.certify.conformal import apply_temperature, fit_temperature, report
from neurosym.errors import InputError


def test_measures_by_hand() -> None:
    sets = np.array(
        [[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]], dtype=bool
    )
    y, groups = np.array([0, 1, 0, 1, 0, 2, 2, 1]), np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = report(sets, y, alpha="0.25", groups=groups, strata=(0, 1, 2, 3))
    assert (found.n, found.coverage.count, found.coverage.rate) == (8, 5, 5 / 8)
    assert found.mean_size == 11 / 8
    assert (found.empty_rate, found.singleton_rate) == (1 / 8, 4 / 8)
    assert (found.singleton_hits.count, found.singleton_hits.total) == (3, 4)
    assert [(part.count, part.total) for part in found.classes] == [(1, 3), (2, 3), (2, 2)]
    assert [(part.count, part.total) for part in found.groups] == [(2, 4), (3, 4)]
    assert found.class_gap == pytest.approx((5 / 12 + 1 / 12 + 1 / 4) / 3)
    assert found.worst_class == 0
    strata = [(s.smallest, s.largest, s.coverage.count, s.coverage.total) for s in found.strata]
    assert strata == [(0, 0, 0, 1), (1, 1, 3, 4), (2, 2, 1, 2), (3, None, 1, 1)]
    assert found.size_violation == 0.75
    assert "coverage 0.6250" in found.describe()
    there = report(torch.from_numpy(sets), torch.from_numpy(y), alpha="0.25", groups=groups, strata=(0, 1, 2, 3))
    assert there.coverage == found.coverage
    assert there.strata == found.strata


@pytest.mark.parametrize(("hits", "n"), [(0, 9), (9, 9), (5, 9), (40, 60)])
def test_interval_is_clopper_pearson(hits: int, n: int) -> None:
    sets = np.zeros((n, 2), dtype=bool)
    sets[:hits, 0] = True
    found = report(sets, np.zeros(n, dtype=int), alpha="0.1", failure="0.1").coverage
    exact = stats.binomtest(hits, n).proportion_ci(0.9, method="exact")
    assert (found.lower, found.upper) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_measures_without_points_and_bad_input() -> None:
    empty = report(np.zeros((0, 3), dtype=bool), np.zeros(0, dtype=int), alpha="0.1")
    assert (empty.coverage.lower, empty.coverage.upper, empty.worst_class) == (0.0, 1.0, -1)
    with pytest.raises(InputError, match="boolean"):
        report(np.zeros((2, 3)), np.zeros(2, dtype=int), alpha="0.1")
    with pytest.raises(InputError, match="row 1: 3 is out of range"):
        report(np.zeros((2, 3), dtype=bool), np.array([0, 3]), alpha="0.1")
    with pytest.raises(InputError, match="strata"):
        report(np.zeros((2, 3), dtype=bool), np.array([0, 1]), alpha="0.1", strata=(1, 2))


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_the_likelihood_s(true: float) -> None:
    p = softmax_rows(3000, 5, seed=1)
    y = draw_labels(softmax_rows(3000, 5, seed=1, spread=2.0 / true), seed=2)
    found = fit_temperature(p, y)
    logs = np.log(p)

    def loss(log_t: float) -> float:
        z = logs / np.exp(log_t)
        return float((special.logsumexp(z, axis=1) - z[np.arange(len(y)), y]).mean())

    assert np.log(found) == pytest.approx(optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded").x, abs=1e-4)
    assert found == pytest.approx(true, rel=0.1)
    assert fit_temperature(logs + 3.0, y, logits=True) == pytest.approx(found, rel=1e-9)
    assert fit_temperature(torch.from_numpy(p), torch.from_numpy(y)) == found


def test_temperature_at_its_limits() -> None:
    sure = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert fit_temperature(sure, np.array([0, 1])) == 0.01
    assert fit_temperature(sure, np.array([1, 0])) == 100.0
    assert fit_temperature(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), np.array([0, 1, 1])) > 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scaled_probabilities(dtype: type) -> None:
    p = softmax_rows(40, 7, seed=3, dtype=dtype)
    p[0] = [0, 0, 0.5, 0, 0.5, 0, 0]
    found = apply_temperature(p, 2.0)
    expected = np.sqrt(p.astype(np.float64))
    assert found.dtype == dtype
    assert np.allclose(
        found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-6 if dtype is np.float32 else 1e-13
    )
    assert torch.equal(apply_temperature(torch.from_numpy(p), 2.0), torch.from_numpy(found))
    assert apply_temperature(torch.from_numpy(p).bfloat16(), 2.0).dtype == torch.bfloat16
    with pytest.raises(InputError, match="temperature"):
        apply_temperature(p, 0.0)
