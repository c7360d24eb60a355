"""RCP1: robust conformal prediction from one noise draw a point (a single binary certificate).

Theorem. Let (X_i, Y_i), i = 1..n+1, be exchangeable, e_i ~ N(0, sigma^2 I) independent, r = R/sigma, and
``1 - a' = Phi(Phi^-1(1-alpha) + r)``. Let q be the conformal quantile (``quantile``) at level a' of
``S_i = s(X_i + e_i, Y_i)``. For every attack ``|x~ - X_{n+1}| <= R`` chosen before e_{n+1} is drawn (it may use X, Y,
the model, and all calibration data with their noise), ``P(s(x~ + e_{n+1}, Y_{n+1}) <= q) >= 1 - alpha``.

Proof sketch. Fix the calibration data and (x, y), and let ``g(x) = P_e(s(x + e, y) <= q)``. The event is a fixed set of
noisy inputs, so by Neyman-Pearson ``P_e(s(x~ + e, y) <= q) >= h(g(x))`` with ``h(b) = Phi(Phi^-1(b) - r)``: this needs
e independent of x~. h is nondecreasing and convex (``h'(b) = exp(r Phi^-1(b) - r^2/2)`` rises in b), so by Jensen
coverage >= E h(g(X)) >= h(E g(X)) = h(P(S_{n+1} <= q)) >= h(1 - a') = 1 - alpha, the clean step being split conformal
prediction for the exchangeable S_1..S_{n+1}.

No Monte-Carlo item is spent: S_i is itself exchangeable, whatever s is (any network, any rules). The price is the
level: at least ``ceil(1/a') - 1`` points. a' is rounded down (``smoothing.rcp1_level``), then the rank is exact.
A randomised score keeps its u for a row: the bound holds for each u.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify import draws
from neurosym.certify.budget import split
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, TEST_STREAM, predict, preference, too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.scores import uniforms
from neurosym.certify.smoothing import radius_over_sigma, rcp1_level
from neurosym.errors import InputError

__all__ = ["calibrate", "observe", "predict", "preference", "same_sigma"]


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    seed: int = 0,
) -> Calibrated:
    """Threshold at the enlarged level from the first noise draw of each point.

    Args:
        evidence: network samples or score samples; draws after the first are not used.
        radius: l2 radius in the units of sigma.

    Raises:
        InputError: evidence without single draws, bad labels, alpha, radius or sigma.
    """
    source = draws.drawn(evidence)
    reasoning = draws.reasoning_for(source, reasoning)
    truth = draws.labels_of(source, labels, reasoning)
    kind = draws.kind_of(source, reasoning, score)
    level = rcp1_level(alpha, radius, source.sigma)
    u = uniforms(source.n, seed, CALIBRATION_STREAM)
    scores = draws.one_score(source, reasoning, kind, u)[np.arange(source.n), truth]
    ratio = radius_over_sigma(radius, source.sigma)
    return Calibrated(
        method="rcp1",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(decimal(radius, "radius")),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=1,
        n=source.n,
        rank=conformal_rank(source.n, level),
        threshold=conformal_quantile(scores, level),
        budget=split(alpha, ()),
        derived={"conformal_alpha": float(level), "radius_over_sigma": float(ratio)},
        calibration={"labels": truth, "scores": scores, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=too_few(source.n, level, f" for radius/sigma = {float(ratio):.4g}"),
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``scores`` float64 ``[n, K]`` of one noisy copy of each test input, and their ``uniforms`` ``[n]``.

    Raises:
        InputError: evidence without single draws, or drawn with another sigma.
    """
    source = draws.drawn(evidence)
    same_sigma(source.sigma, calibrated)
    reasoning = draws.reasoning_for(source, reasoning)
    u = uniforms(source.n, seed, TEST_STREAM)
    return {"scores": draws.one_score(source, reasoning, calibrated.score, u), "uniforms": u}


def same_sigma(sigma: Number, calibrated: Calibrated) -> None:
    """Refuse test noise that differs from the calibration noise."""
    if decimal(sigma, "sigma") != decimal(calibrated.sigma, "sigma"):
        raise InputError(f"field 'sigma': {sigma}, but calibration used {calibrated.sigma}; use the same noise")
