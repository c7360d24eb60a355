"""Split conformal prediction without an attacker: the baseline, and the method for radius 0.

Theorem (``quantile``): with exchangeable points and any fixed score, ``P(s(X, Y) <= q) >= 1 - alpha``. Scores may be
of clean probabilities, of vote frequencies, or of one noise draw: each is one exchangeable score a point. Nothing is
promised about inputs that an attacker has changed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neurosym.certify import draws
from neurosym.certify.budget import split
from neurosym.certify.evidence import Evidence, ProbEvidence, VoteEvidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.quantile import conformal_quantile, conformal_rank, smallest_n
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.scores import uniforms
from neurosym.errors import InputError

CALIBRATION_STREAM, TEST_STREAM = 0, 1  # streams of the uniforms of randomised scores


def too_few(n: int, level: Number, why: str = "") -> tuple[str, ...]:
    """The note that every set is full, with the smallest number of points that would do."""
    if conformal_rank(n, level) <= n:
        return ()
    return (f"{n} calibration points are too few{why}: every set is full; at least {smallest_n(level)} are needed",)


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number = 0,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    seed: int = 0,
) -> Calibrated:
    """Threshold of the true labels' scores.

    Args:
        evidence: probabilities, votes, score samples or network samples (of the last two the first draw is used).
        labels: int ``[n]``; those of the evidence if None.
        radius: must be 0.

    Raises:
        InputError: a positive radius, box evidence, or bad labels.
    """
    if decimal(radius, "radius") != 0:
        raise InputError(f"radius: {radius}; vanilla promises nothing under attack, use 0 or rcp1, bincp, colep")
    reasoning = draws.reasoning_for(evidence, reasoning)
    truth = draws.labels_of(evidence, labels, reasoning)
    kind = draws.kind_of(evidence, reasoning, score)
    u = uniforms(evidence.n, seed, CALIBRATION_STREAM)
    scores = draws.one_score(evidence, reasoning, kind, u)[np.arange(evidence.n), truth]
    budget = split(alpha, ())
    noisy = not isinstance(evidence, ProbEvidence)
    return Calibrated(
        method="vanilla",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius="0",
        sigma=to_text(decimal(getattr(evidence, "sigma", 0.0), "sigma")),
        trials=int(getattr(evidence, "trials", 0)) if noisy else 0,
        n=evidence.n,
        rank=conformal_rank(evidence.n, alpha),
        threshold=conformal_quantile(scores, alpha),
        budget=budget,
        derived={},
        calibration={"labels": truth, "scores": scores, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=too_few(evidence.n, alpha),
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``scores`` float64 ``[n, K]`` and the ``uniforms`` ``[n]`` that they used.

    Raises:
        InputError: other noise than at calibration, or votes out of another number of draws: not exchangeable.
    """
    sigma = getattr(evidence, "sigma", 0.0)
    if decimal(sigma, "sigma") != decimal(calibrated.sigma, "sigma"):
        raise InputError(f"field 'sigma': {sigma}, but calibration used {calibrated.sigma}; use the same noise")
    if isinstance(evidence, VoteEvidence) and evidence.trials != calibrated.trials:
        raise InputError(f"field 'trials': {evidence.trials} draws, but calibration used {calibrated.trials}")
    reasoning = draws.reasoning_for(evidence, reasoning)
    u = uniforms(evidence.n, seed, TEST_STREAM)
    return {"scores": draws.one_score(evidence, reasoning, calibrated.score, u), "uniforms": u}


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels whose score is at most the threshold, bool ``[n, K]``."""
    return np.asarray(observation["scores"] <= calibrated.threshold)


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``, for choosing one label where a set is empty."""
    return np.asarray(observation["scores"])
