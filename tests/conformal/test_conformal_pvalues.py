"""p-values against counting by hand, and against thresholds."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from conformal_cases import draw_labels, softmax_rows, tied_rows
from scipy import stats

from neurosym.certify import scores as reference
from neurosym.certify.conformal import (
    class_p_values,
    class_sets,
    class_thresholds,
    group_p_values,
    label_scores,
    marginal_threshold,
    p_value_sets,
    p_values,
    prediction_sets,
)
from neurosym.certify.conformal import device as device_module
from neurosym.certify.conformal import pvalues as module
from neurosym.certify.conformal.rules import KINDS, Score
from neurosym.errors import InputError


def _by_hand(calibration: np.ndarray, s: float, tau: float | None) -> float:
    greater, equal = int((calibration > s).sum()), int((calibration == s).sum())
    count = 1 + greater + equal if tau is None else greater + tau * (1 + equal)
    return count / (len(calibration) + 1)


def _table(full: np.ndarray, tau: np.ndarray | None, of: object) -> np.ndarray:
    out = np.empty(full.shape)
    for i, k in np.ndindex(full.shape):
        out[i, k] = _by_hand(of(i, k), full[i, k], None if tau is None else tau[i])  # type: ignore[operator]
    return out


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothed", [False, True])
def test_counts_by_hand(kind: str, smoothed: bool) -> None:
    generator = np.random.default_rng(1)
    p, test = tied_rows(60, 6, 1), tied_rows(25, 6, 2)
    y, groups = generator.integers(0, 5, 60), generator.integers(0, 3, 60)  # class 5 never occurs
    u, v = generator.choice([0.0, 0.5], 60), generator.choice([0.0, 0.5], 25)
    tau, own = (generator.random(25) if smoothed else None), generator.integers(0, 4, 25)  # group 3 neither
    cal, full = label_scores(p, y, kind, u), reference.score(test, kind, v)
    options = {"score": kind, "u": v, "tau": tau}
    assert np.allclose(p_values(cal, test, **options), _table(full, tau, lambda i, k: cal), rtol=1e-15)
    found = class_p_values(cal, y, test, **options)
    assert np.allclose(found, _table(full, tau, lambda i, k: cal[y == k]), rtol=1e-15)
    found = group_p_values(cal, groups, test, own, **options)
    assert np.allclose(found, _table(full, tau, lambda i, k: cal[groups == own[i]]), rtol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 9, 19, 50, 149, 199])
def test_p_value_sets_are_threshold_sets(kind: str, n: int) -> None:
    p, test = tied_rows(n, 12, n), np.concatenate([tied_rows(30, 12, 5), softmax_rows(30, 12, 5)])
    u, v = np.random.default_rng(0).random(n), np.random.default_rng(1).random(60)
    y = draw_labels(p + 1e-9, 4)
    cal = label_scores(p, y, kind, u)
    found, by_class = p_values(cal, test, score=kind, u=v), class_p_values(cal, y, test, score=kind, u=v)
    for percent in (1, 5, 10, 18, 20, 30, 33, 50, 82, 99):
        alpha = Fraction(percent, 100)
        sets = prediction_sets(test, marginal_threshold(cal, alpha), score=kind, u=v)
        assert np.array_equal(p_value_sets(found, alpha), sets)
        sets = class_sets(test, class_thresholds(cal, y, 12, alpha), score=kind, u=v)
        assert np.array_equal(p_value_sets(by_class, alpha), sets)


def test_quotients_at_alpha_itself_are_left_out() -> None:
    """p = alpha as rationals for many n: p > alpha must say no for every decimal alpha."""
    for n in range(1, 400):
        for percent in range(1, 100):
            count = Fraction(percent * (n + 1), 100)
            if count.denominator == 1 and 1 <= count <= n + 1:
                p = np.array([[int(count) / (n + 1)]])
                assert not p_value_sets(p, f"0.{percent:02d}")[0, 0]
                assert p_value_sets(p + 0.5 / (n + 1), f"0.{percent:02d}")[0, 0]


def test_smoothed_p_values_are_uniform_and_conservative_ones_are_not_below() -> None:
    generator = np.random.default_rng(8)
    smooth, plain = [], []
    for _ in range(2000):
        s = generator.integers(0, 4, 12) / 8.0  # many ties
        probs = np.array([[1.0 - s[-1]]])
        smooth.append(p_values(s[:-1], probs, score="lac", tau=generator.random(1))[0, 0])
        plain.append(p_values(s[:-1], probs, score="lac")[0, 0])
    assert stats.kstest(smooth, "uniform").pvalue > 1e-3
    for alpha in (0.1, 0.3, 0.5):
        assert np.mean(np.array(plain) <= alpha) <= alpha + 4 * np.sqrt(alpha / 2000)
    assert stats.kstest(plain, "uniform").pvalue < 1e-6


@pytest.mark.parametrize("smoothed", [False, True])
def test_tensors(smoothed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    test = np.concatenate([tied_rows(20, 8, 3), softmax_rows(20, 8, 3)])
    cal, y = np.round(np.random.default_rng(0).random(50), 1), np.arange(50) % 8
    groups, own = np.arange(50) % 3, np.arange(40) % 3
    tau, tensor = (np.random.default_rng(2).random(40) if smoothed else None), torch.from_numpy(test)
    calls = (
        lambda x: p_values(cal, x, score="aps", tau=tau),
        lambda x: class_p_values(cal, y, x, score="saps", tau=tau),
        lambda x: group_p_values(cal, groups, x, own, score="lac", tau=tau),
    )
    expected = [call(test) for call in calls]
    assert all(np.array_equal(call(tensor).numpy(), e) for call, e in zip(calls, expected, strict=True))
    monkeypatch.setattr(module, "on_device", lambda x: True)  # the code for devices, on the CPU
    assert all(np.allclose(call(tensor).numpy(), e, rtol=1e-15) for call, e in zip(calls, expected, strict=True))
    assert device_module.searched(tensor, np.ones(40), Score("aps"), lambda s, rows: s).dtype == torch.float64


def test_rounded_p_values_are_refused() -> None:
    with pytest.raises(InputError, match="float64"):
        p_value_sets(np.ones((1, 1), dtype=np.float32), "0.1")
