"""Thresholds for several classes at once, and what each kind of level promises.

``scores[i, j]`` is the nonconformity of label j at calibration point i (binary: of "the class is j"), labels ``y_i``.

* pooled: one conformal quantile of ``scores[i, y_i]``. ``P(s_Y <= q) >= 1 - alpha``: the default.
* mondrian: for each class j the quantile over points with ``y_i = j``. ``P(s_Y <= q_Y | Y = j) >= 1 - alpha`` for each j
  (Vovk 2012), hence on average. Here the level of the set is indeed the least of the levels of the classes.
* union: K binary problems "is it j?" at alpha/K each. The true label is dropped only if the binary set of problem
  j = Y fails, so ``P(Y not in C) <= sum_j alpha/K = alpha``.
* published: K binary problems at alpha each, as in the COLEP paper, whose theorem claims the least of the levels,
  ``min_j (1 - alpha_j)``. That does not follow: a binary problem may spend its whole alpha on the points of its own
  class. With K balanced classes and sensors that always say no, every binary problem covers 1 - 1/K while the set is
  always empty. Only ``1 - K alpha`` is proved.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from neurosym.certify.checks import check_labels, numbers, refuse_rows
from neurosym.certify.exact import Number
from neurosym.certify.quantile import conformal_quantile, conformal_rank, level
from neurosym.errors import InputError

LEVELS = ("pooled", "mondrian", "union", "published")
NOT_PROVED = (
    "level 'published' (min over classes) does not guarantee 1 - alpha for the class set: binary calibration at alpha "
    "for each of {k} classes proves only 1 - {k} alpha; use 'pooled', 'mondrian' or 'union'"
)


@dataclass(frozen=True)
class ClassThresholds:
    """Thresholds ``[K]`` and what holds for the set ``{j : s_j <= thresholds[j]}``.

    Attributes:
        level: one of ``LEVELS``.
        thresholds: float64 ``[K]``, ``inf`` where there are too few points.
        ranks, counts: int64 ``[K]``, conformal rank and number of calibration points of each class's quantile.
        proved: exact coverage that is proved (0 at least).
        claimed: coverage that the level's name stands for; above ``proved`` only for ``published``.
    """

    level: str
    thresholds: np.ndarray
    ranks: np.ndarray
    counts: np.ndarray
    proved: Fraction
    claimed: Fraction

    def sets(self, scores: np.ndarray) -> np.ndarray:
        """bool ``[n, K]`` from scores ``[n, K]``."""
        return np.asarray(np.asarray(scores) <= self.thresholds)


def _checked(scores: np.ndarray, labels: np.ndarray, name: str = "scores") -> tuple[np.ndarray, np.ndarray]:
    array = numbers(name, scores, "[n,K]")
    refuse_rows(name, array, np.isnan(array), "is not a number", "remove the row or mend the model")
    return array, check_labels(labels, *array.shape)


def pooled(scores: np.ndarray, labels: np.ndarray, alpha: Number) -> ClassThresholds:
    """One threshold for all classes from the true labels' scores."""
    array, truth = _checked(scores, labels)
    n, k = array.shape
    q = conformal_quantile(array[np.arange(n), truth], alpha)
    rank, proved = conformal_rank(n, alpha), 1 - level(alpha)
    return ClassThresholds("pooled", np.full(k, q), np.full(k, rank), np.full(k, n), proved, proved)


def mondrian(scores: np.ndarray, labels: np.ndarray, alpha: Number) -> ClassThresholds:
    """A threshold for each class from its own points."""
    array, truth = _checked(scores, labels)
    counts = np.bincount(truth, minlength=array.shape[1])
    thresholds = np.array([conformal_quantile(array[truth == j, j], alpha) for j in range(array.shape[1])])
    ranks = np.array([conformal_rank(int(n), alpha) for n in counts])
    proved = 1 - level(alpha)
    return ClassThresholds("mondrian", thresholds, ranks, counts, proved, proved)


def _binary(yes: np.ndarray, no: np.ndarray, labels: np.ndarray, each: Fraction) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles and ranks of the K binary problems; the score of the true answer at each point."""
    positive, truth = _checked(yes, labels, "yes")
    negative, _ = _checked(no, labels, "no")
    if positive.shape != negative.shape:
        raise InputError(f"field 'no': shape {negative.shape} differs from that of 'yes', {positive.shape}")
    n, k = positive.shape
    answers = np.where(truth[:, None] == np.arange(k), positive, negative)
    return np.array([conformal_quantile(answers[:, j], each) for j in range(k)]), np.full(k, conformal_rank(n, each))


def union(yes: np.ndarray, no: np.ndarray, labels: np.ndarray, alpha: Number) -> ClassThresholds:
    """Binary calibration at alpha/K. ``yes``, ``no``: scores ``[n, K]`` of "it is j" and "it is not j"."""
    k, n = np.shape(yes)[1], np.shape(yes)[0]
    thresholds, ranks = _binary(yes, no, labels, level(alpha) / k)
    proved = 1 - level(alpha)
    return ClassThresholds("union", thresholds, ranks, np.full(k, n), proved, proved)


def published(yes: np.ndarray, no: np.ndarray, labels: np.ndarray, alpha: Number) -> ClassThresholds:
    """Binary calibration at alpha for each class, under its own name and with a warning: see the module."""
    k, n = np.shape(yes)[1], np.shape(yes)[0]
    warnings.warn(NOT_PROVED.format(k=k), UserWarning, stacklevel=2)
    thresholds, ranks = _binary(yes, no, labels, level(alpha))
    proved = max(Fraction(0), 1 - k * level(alpha))
    return ClassThresholds("published", thresholds, ranks, np.full(k, n), proved, 1 - level(alpha))


def binary_answers(p: np.ndarray, kind: str = "lac", u: np.ndarray | float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Scores of "it is j" and "it is not j" from sensor probabilities ``[n, K]``; ``lac`` or ``binary_aps``."""
    from neurosym.certify.scores import score

    if kind not in ("lac", "binary_aps"):
        raise InputError(f"score: {kind!r} ranks all classes; binary problems take lac or binary_aps")
    return score(p, kind, u), score(1.0 - np.asarray(p, dtype=np.float64), kind, u)
