"""Conformal prediction under a Levy-Prokhorov shift of the scores (Aolaritei et al. 2025): another threat, no images.

Threat. The calibration scores ``S_i = s(X_i, Y_i)`` are independent draws from P; the score S~ of the new point's true label
is drawn independently of them from some Q with ``inf over couplings of (P, Q) of Pr(|S~ - S| > eps) <= rho``: every score may move
by up to eps (``radius``), and a share rho of the points anywhere. Nothing is said about how images change.

Theorem. With q the conformal quantile (``quantile``) of the S_i at level ``alpha - rho``, for every such Q

    C = {y : s(x~, y) <= q + eps}   holds the new label with probability >= 1 - alpha.

Proof. Take the optimal coupling (it is attained: couplings of two laws are tight and the event is open) with S drawn
independently of the calibration. ``S~ > q + eps`` implies ``S > q`` or ``|S~ - S| > eps``; the first has probability at
most ``alpha - rho`` by exchangeability of S_1..S_n, S, the second at most rho. The bound is attained up to the integer
rank when Q moves every score up by eps and a share rho to the top.

``q + eps`` is rounded upwards. rho is an item of the error budget ("shifted_mass").
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from neurosym.certify import draws
from neurosym.certify.budget import Spend, amount, split
from neurosym.certify.evidence import Evidence, ProbEvidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, observe, preference, too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.scores import uniforms
from neurosym.errors import InputError

__all__ = ["calibrate", "enlarged", "observe", "predict", "preference"]

MASS = "shifted_mass"


def enlarged(threshold: float, radius: Number) -> float:
    """``threshold + radius``, rounded upwards; ``inf`` stays."""
    if math.isinf(threshold):
        return threshold
    exact = Fraction(threshold) + decimal(radius, "radius")
    near = float(exact)
    return near if Fraction(near) >= exact else math.nextafter(near, math.inf)


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    seed: int = 0,
    rho: Number = 0,
) -> Calibrated:
    """Threshold of the true labels' scores at level ``alpha - rho``, enlarged by ``radius``.

    Args:
        evidence: as for vanilla: one score a point, of probabilities, votes or the first noise draw.
        radius: eps, how far every score may move, in units of the score.
        rho: share of the points whose score may move without limit, below alpha.

    Raises:
        InputError: a negative radius or rho, rho not below alpha, box evidence, or bad labels.
    """
    eps, mass = decimal(radius, "radius"), decimal(rho, "rho")
    if eps < 0:
        raise InputError(f"radius: {radius} is negative; give how far every score may move, 0 or more")
    if mass < 0:
        raise InputError(f"rho: {rho} is negative; give the share of points that may move anywhere, 0 or more")
    if mass >= decimal(alpha, "alpha"):
        raise InputError(f"rho: {rho} is not below alpha = {alpha}; no set smaller than all labels can be valid")
    reasoning = draws.reasoning_for(evidence, reasoning)
    truth = draws.labels_of(evidence, labels, reasoning)
    kind = draws.kind_of(evidence, reasoning, score)
    u = uniforms(evidence.n, seed, CALIBRATION_STREAM)
    scores = draws.one_score(evidence, reasoning, kind, u)[np.arange(evidence.n), truth]
    spend = (Spend(MASS, "points whose score moves further than the radius", mass),) if mass else ()
    budget = split(alpha, spend)
    level = amount(budget, "conformal")
    threshold = conformal_quantile(scores, level)
    noisy = not isinstance(evidence, ProbEvidence)
    return Calibrated(
        method="levy_prokhorov",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(eps),
        sigma=to_text(decimal(getattr(evidence, "sigma", 0.0), "sigma")),
        trials=int(getattr(evidence, "trials", 0)) if noisy else 0,
        n=evidence.n,
        rank=conformal_rank(evidence.n, level),
        threshold=threshold,
        budget=budget,
        derived={"enlarged_threshold": enlarged(threshold, eps)},
        calibration={"labels": truth, "scores": scores, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=too_few(evidence.n, level),
        norm="score",
    )


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels whose score is at most the enlarged threshold, bool ``[n, K]``."""
    return np.asarray(observation["scores"] <= float(calibrated.derived["enlarged_threshold"]))
