"""One certification on evidence that is at hand: tune, calibrate, predict, measure. The road every caller takes.

The command line, the README example and the benchmark tables all call :func:`certify_split`, so that no table shows a
path that a user cannot run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np

from neurosym.certify import exact
from neurosym.certify.classifier import RobustConformalClassifier
from neurosym.certify.coverage import UNCERTIFIED, CoverageBound, certified_coverage
from neurosym.certify.methods import AUTO, BOXED
from neurosym.certify.quantile import smallest_n
from neurosym.certify.radii import with_radius
from neurosym.certify.records import Calibrated
from neurosym.certify.schema import CurvePoint, Real
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.evidence import Evidence
    from neurosym.certify.tuning import Tuned
    from neurosym.logic.knowledge import KnowledgeBase

TUNE_STREAM = 3  # of the permutation that splits the rows
CURVE_STEPS = ("0", "1/4", "1/2", "3/4", "1", "3/2", "2")  # multiples of the certified radius
LARGEST_RATIO = Fraction(4)  # radius / sigma beyond which nothing can be certified in practice


class Sliceable(Protocol):
    """Evidence of which rows can be taken."""

    def take(self, rows: np.ndarray) -> Self: ...


@dataclass(frozen=True)
class Split:
    """Disjoint row numbers: ``tune`` chooses, ``calibrate`` sets the threshold, ``test`` is used for nothing else."""

    tune: np.ndarray
    calibrate: np.ndarray
    test: np.ndarray


def split_rows(n: int, seed: int, tune: float = 0.2, calibrate: float = 0.4) -> Split:
    """A uniformly random split of ``n`` rows by shares; the rest is for testing.

    Raises:
        InputError: too few rows to give each part at least 4, or a seed out of range.
    """
    if not 0 <= seed < 1 << 64:
        raise InputError(f"seed: {seed} is out of range; use an integer from 0 to 2^64 - 1")
    order = np.random.Generator(np.random.Philox(key=np.array([seed, TUNE_STREAM], dtype=np.uint64))).permutation(n)
    first = round(n * tune)
    second = first + round(n * calibrate)
    if min(second - first, n - second) < 4 or (tune > 0 and first < 4):
        raise InputError(f"{n} images are too few to split; give more images or other shares")
    return Split(np.sort(order[:first]), np.sort(order[first:second]), np.sort(order[second:]))


@dataclass(frozen=True)
class Settings:
    """What is certified and how; numbers as exact decimal text. See :class:`RobustConformalClassifier`."""

    method: str = "bincp"
    alpha: str = "0.1"
    radius: str = "0.25"
    score: str = "lac"
    circuit: Literal["auto", "none", "rules", "exclusive"] = "auto"
    bound: Literal["exact", "decoupled"] = "exact"
    seed: int = 0
    norm: str | None = None
    rho: str = "0"

    def classifier(self, kb: KnowledgeBase | None) -> RobustConformalClassifier:
        """What these settings ask for, not calibrated yet.

        Raises:
            InputError: unknown names, or settings that contradict each other.
        """
        if self.method == "vanilla" and exact.decimal(self.radius, "radius") != 0:
            raise InputError(f"method vanilla: radius {self.radius} cannot be certified; use bincp, rcp1 or colep")
        if self.bound != "exact" and self.method not in ("colep", AUTO):
            raise InputError(f"bound {self.bound}: only method colep bounds circuits, not {self.method}; leave it out")
        shift = self.method == "levy_prokhorov"
        if exact.decimal(self.rho, "rho") != 0 and not shift:
            raise InputError(f"rho {self.rho}: only method levy_prokhorov knows it, not {self.method}; leave it out")
        return RobustConformalClassifier(
            self.method,
            self.alpha,
            self.radius,
            kb,
            self.score,
            self.circuit,
            seed=self.seed,
            bound=self.bound,
            norm=None if shift else self.norm,
            options={"rho": self.rho} if shift else None,
        )


@dataclass(frozen=True)
class Finding:
    """A finished certification.

    Attributes:
        classifier: calibrated; predicts further sets.
        calibrated: its record.
        observation: test statistics, ``n_test`` rows each.
        sets: bool ``[n_test, K]``.
        labels: int ``[n_test]`` or None.
        tuned: how circuit and p were chosen, None if they were given.
        certified: bound of the certified coverage of un-enlarged sets, None where not defined.
    """

    classifier: RobustConformalClassifier
    calibrated: Calibrated
    observation: dict[str, np.ndarray]
    sets: np.ndarray
    labels: np.ndarray | None
    tuned: Tuned | None
    certified: CoverageBound | None

    @property
    def mean_size(self) -> float:
        return float(self.sets.sum(axis=1).mean()) if len(self.sets) else 0.0

    @property
    def coverage(self) -> float | None:
        if self.labels is None or not len(self.sets):
            return None
        return float(self.sets[np.arange(len(self.sets)), self.labels].mean())


def certify_split(
    tuning: Evidence | None,
    calibration: Evidence,
    test: Evidence,
    kb: KnowledgeBase | None,
    settings: Settings,
) -> Finding:
    """Tune on ``tuning``, calibrate on ``calibration``, predict and measure on ``test``; three disjoint samples.

    Raises:
        InputError: what the method refuses.
    """
    classifier = settings.classifier(kb).conformalize(calibration, tuning=tuning)
    calibrated = classifier.calibrated
    if calibrated is None:
        raise InputError("calibration left no record; this is a bug")
    observation = classifier.observe(test)
    sets = predicted(classifier, calibrated, observation)
    labels = test.labels
    certified = None
    if labels is not None and len(labels) and measurable(calibrated):
        certified = certified_coverage(calibrated, observation, labels, reasoning=classifier.reasoning)
    return Finding(classifier, calibrated, observation, sets, labels, classifier.tuned, certified)


def measurable(calibrated: Calibrated) -> bool:
    """Whether un-enlarged sets have a certified coverage: not RCP1 or VRCP-C; vanilla only without an attacker."""
    return calibrated.method not in UNCERTIFIED and not (
        calibrated.method == "vanilla" and exact.from_text(calibrated.radius, "radius") != 0
    )


def predicted(
    classifier: RobustConformalClassifier, calibrated: Calibrated, observation: dict[str, np.ndarray]
) -> np.ndarray:
    """Sets of an observation under ``calibrated`` (which may stand at another radius), bool ``[n, K]``."""
    from neurosym.certify.methods import method

    sets: np.ndarray = method(calibrated.method).predict(calibrated, observation, reasoning=classifier.reasoning)
    return sets


def radius_curve(finding: Finding, steps: Sequence[str] = CURVE_STEPS) -> list[CurvePoint]:
    """Coverage, mean set size and certified coverage on the test rows at multiples of the certified radius."""
    record = finding.calibrated
    radius = exact.from_text(record.radius, "radius")
    boxes = record.method in BOXED or (record.method == "colep" and "votes" not in record.calibration)
    if radius == 0 or record.method in ("vanilla", "levy_prokhorov") or boxes:
        return []
    labels = finding.labels
    points = []
    for step in steps:
        asked = radius * exact.from_text(step)
        if asked > LARGEST_RATIO * exact.from_text(record.sigma, "sigma"):
            continue
        moved = with_radius(record, asked)
        sets = predicted(finding.classifier, moved, finding.observation)
        facts: dict[str, Any] = {"mean_size": Real.of(float(sets.sum(axis=1).mean()))}
        if labels is not None and len(labels):
            facts["coverage"] = Real.of(float(sets[np.arange(len(sets)), labels].mean()))
            bound = certified_coverage(moved, finding.observation, labels, reasoning=finding.classifier.reasoning)
            if bound is not None:
                facts["certified"] = Real.of(bound.lower)
        points.append(CurvePoint(radius=exact.to_text(asked), **facts))
    return points


def says_nothing(finding: Finding) -> bool:
    """Whether every set holds every label, by the plan (``trivial``) or in fact."""
    return finding.calibrated.trivial or bool(len(finding.sets) and finding.sets.all())


def advice(finding: Finding) -> str | None:
    """What would make a certificate that says nothing say something; None when it already does."""
    calibrated = finding.calibrated
    if not says_nothing(finding):
        return None
    if calibrated.rank > calibrated.n:
        if calibrated.method == "rcp1":
            from neurosym.certify.smoothing import rcp1_level

            needed = smallest_n(rcp1_level(calibrated.alpha, calibrated.radius, calibrated.sigma))
        else:
            conformal = next(item.amount for item in calibrated.budget if item.name == "conformal")
            needed = smallest_n(conformal)
        return f"needs n = {needed} calibration images (there are {calibrated.n})"
    if calibrated.method in BOXED:
        return "needs tighter bounds, a network trained for them, or a smaller radius"
    return "needs more noise draws, a larger sigma or a smaller radius"
