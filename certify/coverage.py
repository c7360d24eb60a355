"""Coverage: certified for un-enlarged sets, empirical for given sets, and the sizes of sets.

Certified coverage asks how often the *ordinary* set, as if there were no attacker, would still hold the true label in
the worst case within the radius. It needs evaluation points that were used for nothing else: evaluated on the
calibration points themselves the answer is biased, since the threshold depends on them.

Theorem. Fix the calibration. For an evaluation point let Z = 1 if the ideal un-enlarged set keeps the true label for every
attack in the radius, and W = 1 if this is certified from noise draws, with ``P(W = 1 | Z = 0) <= b`` for each point. With L
the Clopper-Pearson lower limit at delta from the number of W = 1 among m independent points, with probability at least
1 - delta over the evaluation split ``P(Z = 1) >= (L - b) / (1 - b)``.

Proof. ``P(W = 1) <= P(Z = 1) + b (1 - P(Z = 1))``, and L <= P(W = 1) except with probability delta.

Ideal sets. BinCP: ``{y : P_e(s(x + e, y) <= q) >= p}`` with the p of ``k = ceil(p M)``; W = 1 if the Clopper-Pearson lower
limit at b of the true label's votes, shifted by -r, is >= p. COLEP from votes: ``{y : s_y(A(pi(x))) <= q}`` with the vote
probabilities pi; W = 1 if the supremum of the true label's score over the box from Clopper-Pearson limits at b/Sg a side,
shifted by -+r, is <= q. COLEP from boxes: the set of the point itself; W is exact (b = 0). VRCP-I: the ordinary set
``{y : s_y(p(x)) <= q}``, whose worst case is the supremum over the box (b = 0). Vanilla: radius 0 only, b = 0.
RCP1 predicts from one random draw, and VRCP-C has no bounds at test: None.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from neurosym.certify.checks import check_labels
from neurosym.certify.confidence import NUDGE, clopper_pearson, clopper_pearson_lower, clopper_pearson_upper
from neurosym.certify.exact import Number, to_text
from neurosym.certify.methods import colep, vrcp_i
from neurosym.certify.quantile import level
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma
from neurosym.errors import InputError

EVALUATION_FAILURE = "0.05"
POINT_FAILURE = "0.001"
UNCERTIFIED = (
    "rcp1",
    "levy_prokhorov",
    "vrcp_c",
    "rscp",
    "rscp_plus",
    "cas",
)  # no certificate of a set that is not enlarged


@dataclass(frozen=True)
class CoverageBound:
    """A Clopper-Pearson lower bound of certified coverage.

    Attributes:
        points, successes: evaluation points, and those certified.
        radius: exact text.
        evaluation_failure: delta, the item "evaluation": the bound fails with at most this probability.
        point_failure: b, failure probability of the certificate of one point ("0" if it is deterministic).
        lower: the bound.
        note: what is bounded.
    """

    points: int
    successes: int
    radius: str
    evaluation_failure: str
    point_failure: str
    lower: float
    note: str


@dataclass(frozen=True)
class Proportion:
    """A count out of a total with its two-sided Clopper-Pearson interval."""

    count: int
    total: int
    lower: float
    upper: float
    failure: str

    @property
    def rate(self) -> float:
        return self.count / self.total if self.total else float("nan")


@dataclass(frozen=True)
class SetSizes:
    """Sizes of prediction sets: ``histogram[s]`` counts the sets of size s, int64 ``[K+1]``."""

    histogram: np.ndarray

    @property
    def mean(self) -> float:
        total = int(self.histogram.sum())
        return float(self.histogram @ np.arange(self.histogram.size)) / total if total else float("nan")

    @property
    def median(self) -> int:
        """Smallest size that at least half of the sets do not exceed."""
        reached = 2 * np.cumsum(self.histogram) >= self.histogram.sum()
        return int(np.argmax(reached))

    @property
    def empty(self) -> int:
        return int(self.histogram[0])

    @property
    def singletons(self) -> int:
        return int(self.histogram[1]) if self.histogram.size > 1 else 0

    @property
    def full(self) -> int:
        return int(self.histogram[-1])


def proportion(count: int, total: int, failure: Number = EVALUATION_FAILURE) -> Proportion:
    """Exact two-sided interval, ``failure/2`` a side; [0, 1] without points."""
    text = to_text(level(failure, "failure"))
    if total == 0:
        return Proportion(0, 0, 0.0, 1.0, text)
    low, high = clopper_pearson(total, float(level(failure, "failure")), two_sided=True)
    return Proportion(count, total, float(low[count]), float(high[count]), text)


def _checked(sets: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sets = np.asarray(sets)
    if sets.ndim != 2 or sets.dtype != bool:
        raise InputError(f"sets: {sets.dtype} {sets.shape}; give a boolean array of shape [n,K]")
    return sets, check_labels(labels, *sets.shape)


def empirical_coverage(sets: np.ndarray, labels: np.ndarray, failure: Number = EVALUATION_FAILURE) -> Proportion:
    """How many sets ``bool[n, K]`` hold their label, with an interval."""
    sets, truth = _checked(sets, labels)
    return proportion(int(sets[np.arange(truth.size), truth].sum()), truth.size, failure)


def per_class(sets: np.ndarray, labels: np.ndarray, failure: Number = EVALUATION_FAILURE) -> tuple[Proportion, ...]:
    """Coverage of the points of each class; each interval holds by itself, not all of them together."""
    sets, truth = _checked(sets, labels)
    hit = sets[np.arange(truth.size), truth]
    return tuple(proportion(int(hit[truth == j].sum()), int((truth == j).sum()), failure) for j in range(sets.shape[1]))


def set_sizes(sets: np.ndarray) -> SetSizes:
    """Histogram of the sizes of sets ``bool[n, K]``."""
    sets = np.asarray(sets, dtype=bool)
    return SetSizes(np.bincount(sets.sum(axis=1), minlength=sets.shape[1] + 1))


def lower_bound(successes: int, points: int, evaluation: Number, point: Number = 0) -> float:
    """``(L - b) / (1 - b)``, at least 0; see the module."""
    if points == 0:
        return 0.0
    limit = float(clopper_pearson_lower(points, float(level(evaluation, "evaluation failure")))[successes])
    b = 0.0 if point == 0 else float(level(point, "point failure"))
    return max(0.0, (limit - b) / (1.0 - b) * (1.0 - NUDGE))


def certified_points(
    calibrated: Calibrated,
    observation: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    radius: Number | None = None,
    point_failure: Number = POINT_FAILURE,
    reasoning: Reasoning | None = None,
) -> np.ndarray | None:
    """W for each point, bool ``[n]``; None for RCP1 and VRCP-C.

    Args:
        observation: of *clean* evaluation points, as ``observe`` of the method returns it.
        radius: another radius than the calibration's (not for boxes, which hold for one radius).
    """
    asked = calibrated.radius if radius is None else radius
    if calibrated.method in UNCERTIFIED:
        return None
    if calibrated.method == "vanilla":
        if radius_over_sigma(asked, 1) != 0:
            raise InputError(f"radius: {asked}; vanilla has no certificate, only radius 0 can be evaluated")
        worst = observation["scores"]
    elif calibrated.method == "bincp":
        return _bincp_points(calibrated, observation, labels, asked, point_failure)
    elif calibrated.method == "vrcp_i":
        colep.same_radius(calibrated.radius, asked)
        worst = vrcp_i.label_scores(calibrated, observation, reasoning, top=True)
    else:
        worst = _colep_worst(calibrated, observation, asked, point_failure, reasoning)
    truth = check_labels(labels, *worst.shape)
    return np.asarray(worst[np.arange(truth.size), truth] <= calibrated.threshold)


def _bincp_points(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], labels: np.ndarray, radius: Number, b: Number
) -> np.ndarray:
    votes = observation["votes"]
    truth = check_labels(labels, *votes.shape)
    ratio = float(radius_over_sigma(radius, calibrated.sigma))
    table = clopper_pearson_lower(int(calibrated.derived["trials_test"]), float(level(b, "point failure")))
    kept = gaussian_shift(table, -ratio, "lower") >= float(calibrated.derived["p"])
    return np.asarray(kept[votes[np.arange(truth.size), truth]])


def _colep_worst(
    calibrated: Calibrated,
    observation: Mapping[str, np.ndarray],
    radius: Number,
    b: Number,
    reasoning: Reasoning | None,
) -> np.ndarray:
    layer = colep.layer_of(calibrated, observation, reasoning)
    bound, u = colep.bound_of(calibrated), observation["uniforms"]
    if "votes" not in observation:
        colep.same_radius(calibrated.radius, radius)
        lower, upper = observation["lower"], observation["upper"]
        return colep.score_bound(layer, lower, upper, calibrated.score, u, bound, top=True)
    each = float(level(b, "point failure") / int(calibrated.derived["sensor_sides"]))
    ratio = float(radius_over_sigma(radius, calibrated.sigma))
    trials = int(calibrated.derived["trials_test"])
    low = gaussian_shift(clopper_pearson_lower(trials, each), -ratio, "lower")[observation["votes"]]
    high = gaussian_shift(clopper_pearson_upper(trials, each), ratio, "upper")[observation["votes"]]
    return colep.score_bound(colep.as_columns(layer), low, high, calibrated.score, u, bound, top=True)


def certified_coverage(
    calibrated: Calibrated,
    observation: Mapping[str, np.ndarray],
    labels: np.ndarray,
    *,
    radius: Number | None = None,
    evaluation_failure: Number = EVALUATION_FAILURE,
    point_failure: Number = POINT_FAILURE,
    reasoning: Reasoning | None = None,
) -> CoverageBound | None:
    """Lower bound of the worst-case coverage of the un-enlarged set; None for RCP1. See the module."""
    kept = certified_points(
        calibrated, observation, labels, radius=radius, point_failure=point_failure, reasoning=reasoning
    )
    if kept is None:
        return None
    deterministic = calibrated.method in ("vanilla", "vrcp_i") or "lower" in calibrated.calibration
    b: Number = 0 if deterministic else point_failure
    asked = calibrated.radius if radius is None else radius
    return CoverageBound(
        points=int(kept.size),
        successes=int(kept.sum()),
        radius=to_text(radius_over_sigma(asked, 1)),
        evaluation_failure=to_text(level(evaluation_failure, "evaluation failure")),
        point_failure="0" if deterministic else to_text(level(point_failure, "point failure")),
        lower=lower_bound(int(kept.sum()), int(kept.size), evaluation_failure, b),
        note="worst-case coverage of the set that is not enlarged, on points used for nothing else",
    )


def certified_curve(
    calibrated: Calibrated,
    observation: Mapping[str, np.ndarray],
    labels: np.ndarray,
    radii: Sequence[Number],
    **options: Number | Reasoning | None,
) -> tuple[CoverageBound, ...]:
    """``certified_coverage`` at several radii (votes only); each bound holds by itself."""
    found = (certified_coverage(calibrated, observation, labels, radius=r, **options) for r in radii)  # type: ignore[arg-type]
    return tuple(item for item in found if item is not None)
