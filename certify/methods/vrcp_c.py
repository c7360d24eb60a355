"""VRCP-C: verified bounds at calibration (verifiably robust conformal prediction, Jeary et al., NeurIPS 2024).

Theorem. Let (X_i, Y_i), i = 1..n+1, be exchangeable, s a score of the probabilities p(x), and B_i a box with
``p(x~) in B_i`` for every x~ with ``|x~ - X_i| <= R``. With q the conformal quantile (``quantile``) of the greatest
scores ``T_i = sup_{b in B_i} s(b, Y_i)`` at level alpha, for every attack with ``|x~ - X_{n+1}| <= R``

    C(x~) = {y : s(p(x~), y) <= q}   holds Y_{n+1} with probability >= 1 - alpha.

Proof. x~ is in the ball around X_{n+1}, so ``s(p(x~), Y) <= T_{n+1}``, and T_1..T_{n+1} are exchangeable.

No bound is computed at inference: one forward pass gives the set. The price is that a few loose boxes among the calibration
points can set the threshold for all. Nothing is spent besides alpha.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neurosym.certify import draws, scores
from neurosym.certify.budget import split
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods import intervals
from neurosym.certify.methods.colep import layer_of
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, TEST_STREAM, too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    seed: int = 0,
    norm: str | None = None,
) -> Calibrated:
    """Threshold of the greatest scores of the true labels over the boxes of the calibration points.

    Args:
        evidence: boxes made for ``radius``.
        norm: must be that of the boxes if given.

    Raises:
        InputError: other evidence, boxes of another radius or norm, bad labels or alpha.
    """
    source = intervals.boxes_of(evidence, radius, "vrcp_c")
    reasoning = draws.reasoning_for(source, reasoning)
    truth = draws.labels_of(source, labels, reasoning)
    kind = scores.resolve(score, reasoning.simplex)
    u = scores.uniforms(source.n, seed, CALIBRATION_STREAM)
    lower, upper = intervals.box_sides(source, reasoning)
    mine = intervals.box_scores(reasoning, lower, upper, kind, u, top=True)[np.arange(source.n), truth]
    return Calibrated(
        method="vrcp_c",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(decimal(radius, "radius")),
        sigma="0",
        trials=0,
        n=source.n,
        rank=conformal_rank(source.n, alpha),
        threshold=conformal_quantile(mine, alpha),
        budget=split(alpha, ()),
        derived={},
        calibration={"labels": truth, "scores": mine, "lower": lower, "upper": upper, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=too_few(source.n, alpha),
        norm=intervals.norm_of(source, norm),
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``probs`` float64 ``[n, V]`` of the inputs as they come, columns as the rules number them; ``uniforms`` ``[n]``.

    Boxes beside the probabilities are not used, so any radius of theirs will do.

    Raises:
        InputError: evidence without probabilities.
    """
    reasoning = draws.reasoning_for(evidence, reasoning)
    probs = intervals.clean_answers(evidence, reasoning, "vrcp_c")
    u = scores.uniforms(evidence.n, seed, TEST_STREAM)
    return {"probs": probs, "uniforms": u}


def label_scores(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], reasoning: Reasoning | None
) -> np.ndarray:
    """Score of each label at the test point, lowered by what rounding can do, ``[n, K]``."""
    layer = layer_of(calibrated, observation, reasoning)
    return intervals.least_clean_scores(layer, observation["probs"], calibrated.score, observation["uniforms"])


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels whose score is at most the threshold, bool ``[n, K]``."""
    return np.asarray(label_scores(calibrated, observation, reasoning) <= calibrated.threshold)


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``."""
    return label_scores(calibrated, observation, reasoning)
