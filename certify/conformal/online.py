"""Sets for a stream of points that need not be exchangeable: error rates that are right in the long run, always.

Adaptive conformal inference (Gibbs & Candes 2021). The level of step t+1 is ``a_{t+1} = a_t + gamma (alpha - err_t)``,
with ``err_t = 1`` if the set of level a_t missed; levels <= 0 give full sets, levels >= 1 empty ones. For *every* sequence

    |err_1 + ... + err_T - alpha T| <= (max(a_1, 1 - a_1) + gamma) / gamma.            (their Proposition 4.1)

Proof. A level <= 0 cannot miss and rises, one >= 1 must miss and falls, and one step moves by less than gamma, so all
levels lie in [-gamma, 1 + gamma]; and ``a_{T+1} - a_1 = gamma (alpha T - sum err)``.

Quantile tracking (Angelopoulos, Candes & Tibshirani 2023; with decaying steps Angelopoulos, Barber & Bates 2024). For
scores in [0, B] the threshold itself moves: ``q_{t+1} = q_t + eta_t (err_t - alpha)``, ``err_t = 1{S_t > q_t}``. With
steps that never increase,

    |err_1 + ... + err_T - alpha T| <= (B + eta_1) / eta_T.

Proof. A threshold below 0 misses and rises, one of B or more does not and falls, so all lie in
``[-alpha eta_1, B + (1-alpha) eta_1]``. With ``d_1 = 1/eta_1``, ``d_t = 1/eta_t - 1/eta_{t-1} >= 0``, summation by parts gives
``sum_t (q_{t+1} - q_t)/eta_t = sum_r d_r (q_{T+1} - q_r)``, and the d_r add up to ``1/eta_T``.

Improvement over the first: no calibration window to choose, no infinite sets, and with ``eta_t = eta t^-decay``,
1/2 < decay < 1, the threshold also converges to the quantile when the points are independent.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from neurosym.certify.conformal.arrays import Array
from neurosym.certify.conformal.calibrate import true_scores
from neurosym.certify.exact import Number, decimal
from neurosym.certify.quantile import level
from neurosym.errors import InputError


@dataclass(frozen=True)
class AdaptiveLevel:
    """State of adaptive conformal inference, exact: levels are rational numbers.

    Attributes:
        alpha: target error rate.
        step: gamma > 0.
        start: the first level.
        steps, errors: counts so far.
    """

    alpha: Fraction
    step: Fraction
    start: Fraction
    steps: int = 0
    errors: int = 0

    @staticmethod
    def begin(alpha: Number, step: Number = "0.01", start: Number | None = None) -> AdaptiveLevel:
        """First state; ``start`` is alpha unless given.

        Raises:
            InputError: a level outside (0, 1) or a step that is not positive.
        """
        target, gamma = level(alpha), decimal(step, "step")
        if gamma <= 0:
            raise InputError(f"step: {step} is not above 0")
        return AdaptiveLevel(target, gamma, target if start is None else level(start, "start"))

    @property
    def level(self) -> Fraction:
        """Level of the next set; may lie outside [0, 1]."""
        return self.start + self.step * (self.alpha * self.steps - self.errors)

    def threshold(self, ranked: list[float]) -> float:
        """Threshold of the next set from earlier scores in increasing order; inf keeps all labels, -inf none."""
        rank = math.ceil((len(ranked) + 1) * (1 - self.level))
        if rank > len(ranked):
            return math.inf
        return ranked[rank - 1] if rank >= 1 else -math.inf

    def update(self, missed: bool) -> AdaptiveLevel:
        return replace(self, steps=self.steps + 1, errors=self.errors + bool(missed))

    @property
    def bound(self) -> float:
        """Bound of ``|error rate - alpha|`` after the steps so far; inf before the first."""
        if self.steps == 0:
            return math.inf
        return float((max(self.start, 1 - self.start) + self.step) / (self.step * self.steps))


@dataclass(frozen=True)
class QuantileTracker:
    """State of quantile tracking for scores in ``[0, largest]``.

    Attributes:
        alpha: target error rate.
        largest: B.
        step, decay: ``eta_t = step t^-decay``; decay 0 keeps the step.
        threshold: of the next set.
        steps, errors: counts so far.
    """

    alpha: float
    largest: float
    step: float
    decay: float
    threshold: float
    steps: int = 0
    errors: int = 0

    @staticmethod
    def begin(
        alpha: Number, *, largest: float = 1.0, step: float = 0.05, decay: float = 0.0, start: float | None = None
    ) -> QuantileTracker:
        """First state; ``start`` is ``largest`` (full sets) unless given.

        Raises:
            InputError: a level outside (0, 1), or numbers for which the bound is not proved.
        """
        first = largest if start is None else start
        for name, value, good in (
            ("largest", largest, 0.0 < largest < math.inf),
            ("step", step, 0.0 < step < math.inf),
            ("decay", decay, 0.0 <= decay < 1.0),
            ("start", first, 0.0 <= first <= largest),
        ):
            if not good:
                raise InputError(f"{name}: {value} is out of range; see QuantileTracker")
        return QuantileTracker(float(level(alpha)), float(largest), float(step), float(decay), float(first))

    def eta(self, t: int) -> float:
        """Step number ``t``, from 1."""
        return self.step * t**-self.decay

    def update(self, score: float) -> QuantileTracker:
        """Next state after the true label's score.

        Raises:
            InputError: a score outside ``[0, largest]``, for which the bound does not hold.
        """
        if not 0.0 <= score <= self.largest:
            raise InputError(
                f"scores: step {self.steps}: {score} is outside [0, {self.largest}]; give a larger 'largest'"
            )
        missed, t = score > self.threshold, self.steps + 1
        moved = self.threshold + self.eta(t) * (missed - self.alpha)
        return replace(self, threshold=moved, steps=t, errors=self.errors + int(missed))

    @property
    def bound(self) -> float:
        """Bound of ``|error rate - alpha|`` after the steps so far; inf before the first."""
        return (self.largest + self.step) / (self.eta(self.steps) * self.steps) if self.steps else math.inf


@dataclass(frozen=True)
class OnlineRun:
    """A stream of T points.

    Attributes:
        thresholds: before each point, float64 ``[T]``.
        missed: bool ``[T]``.
        bound: of ``|mean(missed) - alpha|``.
        last: the state after the last point.
    """

    thresholds: np.ndarray
    missed: np.ndarray
    bound: float
    last: AdaptiveLevel | QuantileTracker


def adaptive_run(scores: Array, alpha: Number, *, step: Number = "0.01", earlier: Iterable[float] = ()) -> OnlineRun:
    """Adaptive conformal inference over true-label scores ``[T]``; each set uses all scores before it.

    Args:
        earlier: scores of points before the stream.
    """
    values, state = true_scores(scores), AdaptiveLevel.begin(alpha, step)
    ranked = sorted(float(s) for s in true_scores(np.array([*earlier], dtype=np.float64)))
    thresholds, missed = np.empty(values.size), np.empty(values.size, dtype=bool)
    for t, s in enumerate(values.tolist()):
        # compare with +-inf exactly: full sets never miss and empty ones always do, whatever the score
        thresholds[t] = q = state.threshold(ranked)
        missed[t] = s > q if math.isfinite(q) else q < 0
        state = state.update(bool(missed[t]))
        insort(ranked, s)
    return OnlineRun(thresholds, missed, state.bound, state)


def tracking_run(
    scores: Array, alpha: Number, *, largest: float = 1.0, step: float = 0.05, decay: float = 0.0
) -> OnlineRun:
    """Quantile tracking over true-label scores ``[T]`` in ``[0, largest]``."""
    values = true_scores(scores)
    state = QuantileTracker.begin(alpha, largest=largest, step=step, decay=decay)
    thresholds, missed = np.empty(values.size), np.empty(values.size, dtype=bool)
    for t, s in enumerate(values.tolist()):
        thresholds[t], missed[t] = state.threshold, s > state.threshold
        state = state.update(s)
    return OnlineRun(thresholds, missed, state.bound, state)
