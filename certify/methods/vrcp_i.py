"""VRCP-I: verified bounds at inference (verifiably robust conformal prediction, Jeary et al., NeurIPS 2024).

Theorem. Let (X_i, Y_i), i = 1..n+1, be exchangeable, s a score of the probabilities p(x), q the conformal quantile
(``quantile``) of the clean scores ``S_i = s(p(X_i), Y_i)`` at level alpha. At a test input x~ let B be a box with
``p(x) in B`` for every x with ``|x - x~| <= R``. Then for every attack with ``|x~ - X_{n+1}| <= R``

    C(x~) = {y : inf_{b in B} s(b, y) <= q}   holds Y_{n+1} with probability >= 1 - alpha.

Proof. The clean point is in the ball around x~, so ``inf_B s(., Y) <= s(p(X), Y) = S_{n+1}``, and ``S_{n+1} <= q``
with probability >= 1 - alpha. The attacker may know everything, the uniform u of a randomised score included.

The bounds are those of the attacked input, never of the clean one, which nobody has at inference. The ball may have
any norm; the infimum is exact for one score of a box (``scores``), and goes through the rules where there are some
(``Reasoning.class_bounds``). Nothing is spent besides alpha.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neurosym.certify import draws, scores
from neurosym.certify.budget import split
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods import intervals
from neurosym.certify.methods.colep import layer_of, same_norm
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
    """Threshold of the true labels' clean scores.

    Args:
        evidence: probabilities, alone or beside their boxes (which are not used here).
        norm: of the boxes at test; that of the evidence by default, and ``l2`` if it names none.

    Raises:
        InputError: evidence without probabilities, boxes of another radius or norm, bad labels, alpha or radius.
    """
    intervals.not_negative(radius)
    reasoning = draws.reasoning_for(evidence, reasoning)
    probs = intervals.clean_answers(evidence, reasoning, "vrcp_i")
    truth = draws.labels_of(evidence, labels, reasoning)
    kind = scores.resolve(score, reasoning.simplex)
    u = scores.uniforms(evidence.n, seed, CALIBRATION_STREAM)
    mine = intervals.clean_scores(reasoning, probs, kind, u)[np.arange(evidence.n), truth]
    return Calibrated(
        method="vrcp_i",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(decimal(radius, "radius")),
        sigma="0",
        trials=0,
        n=evidence.n,
        rank=conformal_rank(evidence.n, alpha),
        threshold=conformal_quantile(mine, alpha),
        budget=split(alpha, ()),
        derived={},
        calibration={"labels": truth, "scores": mine, "probs": probs, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=too_few(evidence.n, alpha),
        norm=intervals.norm_of(evidence, norm),
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``lower``, ``upper`` float64 ``[n, V]``, columns as the rules number them, and ``uniforms`` ``[n]``.

    Raises:
        InputError: no boxes, or boxes of another radius or norm than the calibration's.
    """
    source = intervals.boxes_of(evidence, calibrated.radius, "vrcp_i")
    same_norm(source.norm, calibrated.norm)
    reasoning = draws.reasoning_for(source, reasoning)
    lower, upper = intervals.box_sides(source, reasoning)
    return {"lower": lower, "upper": upper, "uniforms": scores.uniforms(source.n, seed, TEST_STREAM)}


def label_scores(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], reasoning: Reasoning | None, *, top: bool = False
) -> np.ndarray:
    """Least (or, for certified coverage, greatest) score of each label over the test boxes, ``[n, K]``."""
    layer = layer_of(calibrated, observation, reasoning)
    lower, upper, u = (observation[name] for name in ("lower", "upper", "uniforms"))
    return intervals.box_scores(layer, lower, upper, calibrated.score, u, top=top)


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels whose least score over the box is at most the threshold, bool ``[n, K]``."""
    return np.asarray(label_scores(calibrated, observation, reasoning) <= calibrated.threshold)


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``: its least score."""
    return label_scores(calibrated, observation, reasoning)
