"""Online error rates: the deterministic bounds on hostile streams, and exact recomputation by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.certify.conformal import AdaptiveLevel, QuantileTracker, adaptive_run, tracking_run
from neurosym.errors import InputError


def _hostile(length: int, seed: int) -> np.ndarray:
    """Scores that jump between regimes, with long stretches of extremes and ties."""
    generator = np.random.default_rng(seed)
    parts = []
    while sum(map(len, parts)) < length:
        size, kind = int(generator.integers(1, 60)), int(generator.integers(0, 5))
        parts.append(
            [np.zeros(size), np.ones(size), generator.random(size), np.linspace(0, 1, size), np.full(size, 0.5)][kind]
        )
    return np.concatenate(parts)[:length]


def _adaptive_by_hand(scores: list[float], alpha: Fraction, step: Fraction) -> list[bool]:
    a, missed = alpha, []
    for t, s in enumerate(scores):
        past = scores[:t]
        # the set keeps the label iff its conservative p-value exceeds the level; at levels <= 0 always, >= 1 never
        p = Fraction(1 + sum(x >= s for x in past), t + 1)
        miss = a > 0 and (a >= 1 or p <= a)
        missed.append(miss)
        a += step * (alpha - miss)
    return missed


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("alpha", "step"), [("0.1", "0.05"), ("0.3", "0.5"), ("0.2", "0.01")])
def test_adaptive_inference_by_hand_and_its_bound_at_every_time(seed: int, alpha: str, step: str) -> None:
    scores = _hostile(150, seed)
    run = adaptive_run(scores, alpha, step=step)
    assert run.missed.tolist() == _adaptive_by_hand(scores.tolist(), Fraction(alpha), Fraction(step))
    level, gamma = Fraction(alpha), Fraction(step)
    for t in range(1, 151):
        gap = abs(Fraction(int(run.missed[:t].sum()), t) - level)
        assert gap <= (max(level, 1 - level) + gamma) / (gamma * t)
    assert run.bound == pytest.approx(float((1 - level + gamma) / (gamma * 150)))


def _worst_adaptive(alpha: str, step: str, length: int) -> float:
    """An adversary that misses whenever the level lets it."""
    state = AdaptiveLevel.begin(alpha, step)
    for _ in range(length):
        state = state.update(state.level > 0)
    return float(abs(Fraction(state.errors, length) - state.alpha)) / state.bound


def test_adaptive_bound_is_nearly_reached() -> None:
    assert 0.1 < _worst_adaptive("0.1", "0.05", 40) <= 1.0


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.999, 1.0]) | st.floats(0, 1), min_size=1, max_size=120),
    st.sampled_from(["0.05", "0.1", "0.5", "0.9"]),
    st.sampled_from([0.001, 0.05, 0.7, 3.0]),
    st.sampled_from([0.0, 0.3, 0.6, 0.9]),
)
@settings(max_examples=150, deadline=None)
def test_tracking_bound_for_every_sequence(scores: list[float], alpha: str, step: float, decay: float) -> None:
    run = tracking_run(np.array(scores), alpha, step=step, decay=decay)
    n, target = len(scores), float(alpha)
    eta = step * np.arange(1, n + 1) ** -decay
    for t in range(1, n + 1):
        assert abs(run.missed[:t].mean() - target) <= (1.0 + step) / (eta[t - 1] * t) * (1 + 1e-9)
    assert (run.thresholds >= -target * step - 1e-12).all()
    assert (run.thresholds <= 1 + (1 - target) * step + 1e-12).all()
    moved = 1.0 + np.concatenate([[0.0], np.cumsum(eta * (run.missed - target))])
    assert np.allclose(run.thresholds, moved[:-1], atol=1e-12)
    assert run.missed.tolist() == (np.array(scores) > run.thresholds).tolist()
    assert run.bound == pytest.approx((1.0 + step) / (eta[-1] * n))


def test_error_rates_return_after_a_shift_where_a_fixed_threshold_fails() -> None:
    generator = np.random.default_rng(0)
    scores = np.concatenate([generator.random(2000) * 0.5, 0.5 + generator.random(2000) * 0.5])
    fixed = (scores > np.quantile(scores[:2000], 0.9))[2000:].mean()
    assert fixed > 0.95
    assert abs(tracking_run(scores, "0.1").missed[2000:].mean() - 0.1) < 0.02
    assert abs(adaptive_run(scores, "0.1", step="0.02").missed[2000:].mean() - 0.1) < 0.03


def test_decaying_steps_converge_to_the_quantile() -> None:
    scores = np.random.default_rng(1).random(20_000)
    run = tracking_run(scores, "0.1", step=0.5, decay=0.6)
    assert abs(run.thresholds[-5000:] - 0.9).max() < 0.02
    steady = tracking_run(scores, "0.1", step=0.5)
    assert abs(steady.thresholds[-5000:] - 0.9).max() > 0.1


def test_earlier_scores_and_extreme_levels() -> None:
    run = adaptive_run(np.array([0.5]), "0.5", earlier=[0.1, 0.2, 0.9])
    assert run.thresholds.tolist() == [0.2]  # rank ceil(4 * 0.5) = 2
    state = AdaptiveLevel.begin("0.1", "1", "0.1")
    assert state.update(True).threshold([0.0]) == math.inf
    assert AdaptiveLevel(Fraction(1, 2), Fraction(1), Fraction(1, 2), steps=2).threshold([0.0]) == -math.inf
    assert math.isinf(state.bound)
    assert math.isinf(QuantileTracker.begin("0.1").bound)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: adaptive_run(np.ones(3), "0"), "strictly between"),
        (lambda: adaptive_run(np.ones(3), "0.1", step="0"), "step"),
        (lambda: adaptive_run(np.array([0.1, np.nan]), "0.1"), "row 1 is NaN"),
        (lambda: tracking_run(np.array([0.1, 1.5]), "0.1"), "step 1: 1.5 is outside"),
        (lambda: tracking_run(np.ones(3), "0.1", decay=1.0), "decay"),
        (lambda: tracking_run(np.ones(3), "0.1", step=0.0), "step"),
        (lambda: QuantileTracker.begin("0.1", start=2.0), "start"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
