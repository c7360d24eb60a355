"""Split conformal prediction in three calls: calibrate on held-out probabilities, predict sets, measure them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify.conformal import pvalues, storage
from neurosym.certify.conformal.arrays import (
    CALIBRATION_STREAM,
    TEST_STREAM,
    Array,
    groups_of,
    host,
    labels_of,
    row_uniforms,
    table,
)
from neurosym.certify.conformal.calibrate import class_thresholds, group_thresholds, marginal_threshold
from neurosym.certify.conformal.rules import Score, as_score, label_scores
from neurosym.certify.conformal.sets import class_sets, prediction_sets
from neurosym.certify.conformal.temperature import apply_temperature
from neurosym.certify.conformal.weighted import check_weights, weighted_thresholds
from neurosym.certify.exact import Number, to_text
from neurosym.certify.quantile import level, smallest_n
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.conformal.metrics import SetReport

MODES = ("marginal", "class", "group")
_SMOOTH_STREAM = 3  # of tau in smoothed p-values; 2 belongs to tuning


@dataclass(frozen=True)
class Calibration:
    """What a calibrated classifier knows.

    Attributes:
        scores: float64 ``[n]``, true labels' scores.
        labels: int64 ``[n]``.
        classes: K.
        groups: int64 ``[n]``, or None.
        weights: float64 ``[n]``, or None.
        thresholds: float64 ``[1]``, ``[K]`` or ``[G]`` by mode; empty with weights (then each test point has its own).
    """

    scores: np.ndarray
    labels: np.ndarray
    classes: int
    groups: np.ndarray | None
    weights: np.ndarray | None
    thresholds: np.ndarray


class ConformalClassifier:
    """Prediction sets that hold the true label with probability at least ``1 - alpha``.

    >>> import numpy as np
    >>> generator = np.random.default_rng(0)
    >>> probs = generator.dirichlet(np.ones(4), size=1000)
    >>> y = (generator.random((1000, 1)) > probs.cumsum(axis=1)).sum(axis=1)
    >>> clf = ConformalClassifier(score="aps", alpha="0.1").conformalize(probs[:500], y[:500])
    >>> sets = clf.predict_set(probs[500:])
    >>> sets.shape, sets.dtype
    ((500, 4), dtype('bool'))

    Args:
        score: lac (smallest sets), aps, raps, saps (sizes that follow the difficulty), or a ``Score`` with its constants.
        alpha: miscoverage, a decimal; text such as "0.1" is read digit by digit.
        mode: "marginal"; "class" (coverage given each true class); "group" (coverage given each group).
        seed: of the uniforms of randomised scores; calibration and test rows use different streams.
        temperature: probabilities are taken to ``p^(1/T)`` first; fit T on other data (``fit_temperature``). None for 1.
        randomised: False for scores with u = 1: sets without chance in them, somewhat larger.
        allow_empty: False keeps the most probable labels in every set; coverage only grows.

    Raises:
        InputError: unknown score or mode, or a level outside (0, 1).
    """

    def __init__(
        self,
        score: str | Score = "aps",
        alpha: Number = "0.1",
        mode: str = "marginal",
        seed: int = 0,
        temperature: float | None = None,
        *,
        randomised: bool = True,
        allow_empty: bool = True,
    ) -> None:
        if mode not in MODES:
            raise InputError(f"mode: {mode!r}; choose one of {', '.join(MODES)}")
        if not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise InputError(f"seed: {seed!r} is not an integer from 0 to 2^64 - 1")
        if temperature is not None and not 0.0 < temperature < np.inf:
            raise InputError(f"temperature: {temperature} is not a finite number > 0")
        self.score, self.mode, self.seed, self.temperature = as_score(score), mode, seed, temperature
        self.alpha = to_text(level(alpha))
        self.randomised, self.allow_empty = bool(randomised), bool(allow_empty)
        self.calibration: Calibration | None = None

    def __repr__(self) -> str:
        state = "not calibrated" if self.calibration is None else f"n={self.calibration.scores.size}"
        return f"ConformalClassifier(score={self.score.kind!r}, alpha={self.alpha!r}, mode={self.mode!r}, {state})"

    def conformalize(
        self, probs: Array, y: Array, groups: Array | None = None, weights: Array | None = None
    ) -> ConformalClassifier:
        """Calibrate on labelled points that trained nothing; returns itself.

        Args:
            probs: floating-point ``[n, K]``, array or tensor.
            y: int ``[n]``.
            groups: int ``[n]``; needed by, and only by, mode "group".
            weights: density ratios ``dQ/dP`` of the rows for covariate shift (marginal mode): ``predict_set`` then
                needs those of the test rows.
        """
        probs = self._scaled(probs)
        n, classes = (int(size) for size in probs.shape)
        truth = labels_of(y, n, classes)
        scores = host(label_scores(probs, truth, self.score, self._uniforms(n, CALIBRATION_STREAM, 0)))
        self._fits(groups, "groups", self.mode == "group", "mode 'group'")
        if weights is not None and self.mode != "marginal":
            raise InputError(f"field 'weights': mode is {self.mode!r}; weights go with mode 'marginal'")
        member = None if groups is None else groups_of(groups, n)
        ratio = None if weights is None else check_weights(weights, n)
        if ratio is not None:
            found = np.empty(0)
        elif self.mode == "class":
            found = class_thresholds(scores, truth, classes, self.alpha)
        elif member is not None:
            found = group_thresholds(scores, member, int(member.max(initial=-1)) + 1, self.alpha)
        else:
            found = np.array([marginal_threshold(scores, self.alpha)])
        self.calibration = Calibration(scores, truth, classes, member, ratio, found)
        return self

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know: thresholds that are infinite because points are too few."""
        known = self._calibrated()
        endless = np.flatnonzero(np.isinf(known.thresholds))
        if endless.size == 0:
            return ()
        least, named = smallest_n(self.alpha), ", ".join(map(str, endless[:5]))
        if self.mode == "marginal":
            return (f"{known.scores.size} calibration points: every set is full; at least {least} are needed",)
        part = "classes" if self.mode == "class" else "groups"
        more = ", ..." if endless.size > 5 else ""
        return (f"{endless.size} {part} have fewer than {least} calibration points and exclude nothing: {named}{more}",)

    def predict_set(
        self, probs: Array, groups: Array | None = None, weights: Array | None = None, *, start: int = 0
    ) -> Array:
        """Prediction sets, bool ``[n, K]``: numpy for numpy, a tensor on the same device for a tensor.

        Args:
            groups, weights: of the test rows, as at calibration; a group without calibration points gets full sets.
            start: number of the first row among all test rows: batches then give the sets of the whole.
        """
        known, probs = self._calibrated(), self._matching(probs)
        n = int(probs.shape[0])
        self._fits(groups, "groups", known.groups is not None, "mode 'group'")
        self._fits(weights, "weights", known.weights is not None, "calibration with weights")
        options: dict[str, Any] = {
            "score": self.score,
            "u": self._uniforms(n, TEST_STREAM, start),
            "allow_empty": self.allow_empty,
        }
        if self.mode == "class":
            return class_sets(probs, known.thresholds, **options)
        limit: Any = known.thresholds[0] if known.thresholds.size == 1 else np.inf
        if known.weights is not None:
            limit = weighted_thresholds(known.scores, known.weights, check_weights(weights, n), self.alpha)
        elif known.groups is not None:
            member = groups_of(groups, n)
            limit = np.append(known.thresholds, np.inf)[np.minimum(member, known.thresholds.size)]
        return prediction_sets(probs, limit, **options)

    def predict_p(self, probs: Array, groups: Array | None = None, *, smoothed: bool = False, start: int = 0) -> Array:
        """Conformal p-values of every label, float64 ``[n, K]``; ``p > alpha`` is ``predict_set`` unless smoothed.

        Raises:
            InputError: calibrated with weights.
        """
        known, probs = self._calibrated(), self._matching(probs)
        if known.weights is not None:
            raise InputError("field 'weights': calibrated with weights; p-values are for calibration without them")
        self._fits(groups, "groups", known.groups is not None, "mode 'group'")
        n = int(probs.shape[0])
        options: dict[str, Any] = {
            "score": self.score,
            "u": self._uniforms(n, TEST_STREAM, start),
            "tau": row_uniforms(n, self.seed, _SMOOTH_STREAM, start) if smoothed else None,
        }
        if self.mode == "class":
            return pvalues.class_p_values(known.scores, known.labels, probs, **options)
        if known.groups is not None:
            return pvalues.group_p_values(known.scores, known.groups, probs, groups, **options)
        return pvalues.p_values(known.scores, probs, **options)

    def evaluate(self, probs: Array, y: Array, groups: Array | None = None, weights: Array | None = None) -> SetReport:
        """Coverage, sizes and gaps of the sets of labelled points that were used for nothing else.

        ``groups`` are also accepted without mode "group": coverage is then reported for each.
        """
        from neurosym.certify.conformal.metrics import report

        own = groups if self._calibrated().groups is not None else None
        sets = self.predict_set(probs, own, weights)
        return report(sets, y, alpha=self.alpha, groups=groups)

    def save(self, path: str | Path) -> None:
        """Write settings and calibration as JSON; numbers are hexadecimal floats, so nothing is rounded."""
        storage.save(Path(path), self)

    @classmethod
    def load(cls, path: str | Path) -> ConformalClassifier:
        """Read what ``save`` wrote.

        Raises:
            InputError: not such a file.
        """
        return storage.load(Path(path))

    def _uniforms(self, n: int, stream: int, start: int) -> np.ndarray | float:
        random = self.score.randomised and self.randomised
        return row_uniforms(n, self.seed, stream, start) if random else 1.0

    def _scaled(self, probs: Array) -> Array:
        probs = table(probs)
        return probs if self.temperature is None else apply_temperature(probs, self.temperature)

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise InputError("ConformalClassifier: not calibrated; call conformalize first")
        return self.calibration

    def _matching(self, probs: Array) -> Array:
        probs, classes = table(probs), self._calibrated().classes
        if probs.shape[1] != classes:
            raise InputError(f"field 'probs': {probs.shape[1]} classes, but calibration had {classes}")
        return self._scaled(probs)

    @staticmethod
    def _fits(value: Any, name: str, needed: bool, why: str) -> None:
        if needed and value is None:
            raise InputError(f"field '{name}' is missing; {why} needs one number a row")
        if not needed and value is not None:
            raise InputError(f"field '{name}' was given; it belongs to {why}")
