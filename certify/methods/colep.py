"""COLEP from predicate votes or boxes: certify the sensors, carry the box through the rules (Kang et al., ICLR 2024).

All in nonconformity form; pi(x) in [0,1]^V are vote probabilities under noise, A(p) the class probabilities of the
reasoning layer, s_y a score of them. M draws at calibration, M' at test, alpha = a_c + b_1 + b_2, r = R/sigma.

Theorem (votes). Let ``S_i = s_{Y_i}(A(N_i / M))`` for calibration counts N_i, q their conformal quantile at a_c, and Sg the
number of one-sided sensor events that the score of one label can depend on. At a test input x~ with counts N~ let

    up_j = BinQ_upper(M, Phi(Phi^-1(CP_upper(N~_j; M', b_1/Sg)) + r); b_2/Sg) / M,     low_j likewise,

CP one-sided Clopper-Pearson, BinQ_upper(M, c; b) the least t with P(Bin(M, c) > t) <= b. For every attack |x~ - X| <= R
chosen before the test noise, ``{y : inf_{[low, up]} s_y(A(.)) <= q}`` contains Y with probability >= 1 - alpha.

Proof sketch. Give the clean test point hypothetical counts N of M fresh draws: S_1..S_{n+1} are exchangeable, so
``s_Y(A(N/M)) <= q`` except with probability a_c. For each side needed: pi_j(x~) obeys its Clopper-Pearson limit except
b_1/Sg (the test noise is independent of x~); then pi_j(x) obeys the shifted limit c (Cohen et al. 2019); N_j exceeds
the quantile at its *true* pi_j(x) with probability at most b_2/Sg, and quantiles are monotone, so it obeys the one at c. By the
union bound N/M satisfies all needed sides of the box and the infimum is at most s_Y(A(N/M)) <= q. Only the true label's
events count, so there is no union over candidates; draws may be shared by all sensors.

Sides Sg: with directions known (``directions``), LAC needs for label y the upper bound of A_y only, hence one side
for each sensor it depends on, and that bound is A_y at one corner. Otherwise two sides for each. Without rules: 1 for LAC, 2
for binary APS, K+1 for K-ary scores (their infimum uses every lower end and the label's own upper end).

Theorem (boxes). Given deterministic boxes that hold over the ball, ``sup`` of the score over the box at calibration
and ``inf`` at test: sup >= S_i and x is in the ball around x~, so P(inf <= q) >= P(S <= quantile of S) >= 1 - alpha.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from neurosym.certify import draws, scores
from neurosym.certify.budget import Spend, amount, split
from neurosym.certify.confidence import binomial_lower, binomial_upper, clopper_pearson
from neurosym.certify.directions import BOTH
from neurosym.certify.evidence import BoxEvidence, Evidence, SampleEvidence, VoteEvidence, votes_from_samples
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods.rcp1 import same_sigma
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, TEST_STREAM, too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import SLACK, Bound, Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma
from neurosym.errors import InputError

CLEAN, ATTACKED = "clean_votes", "attacked_votes"


def sensor_sides(reasoning: Reasoning, kind: str, classes: int, bound: Bound = "exact") -> int:
    """One-sided sensor events that the score range of one label can depend on, the most over the labels."""
    directions = reasoning.directions
    if directions is None:
        return {"lac": 1, "binary_aps": 2}.get(kind, classes + 1)
    used = directions != 0
    if kind in scores.K_ARY:
        return 2 * int(used.any(axis=0).sum())
    one_sided = kind == "lac" and bound == "exact" and not (directions == BOTH).any()
    return max(1, int(used.sum(axis=1).max())) * (1 if one_sided else 2)


@lru_cache(maxsize=32)
def vote_tables(
    trials: int, trials_test: int, ratio: float, attacked_failure: float, clean_failure: float
) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the hypothetical clean vote fraction by attacked count, two float64 ``[trials_test + 1]``.

    Args:
        ratio: radius over sigma.
        attacked_failure, clean_failure: b_1/Sg and b_2/Sg, for each side.
    """
    low, high = clopper_pearson(trials_test, attacked_failure)
    low, high = gaussian_shift(low, -ratio, "lower"), gaussian_shift(high, ratio, "upper")
    lower = binomial_lower(trials, low, clean_failure) / trials
    upper = binomial_upper(trials, high, clean_failure) / trials
    lower.setflags(write=False)
    upper.setflags(write=False)
    return lower, upper


def _check_one_hot(reasoning: Reasoning, evidence: VoteEvidence | BoxEvidence) -> None:
    """Refuse votes of a categorical class that are not one a draw."""
    if isinstance(evidence, BoxEvidence) or reasoning.class_kind == "binary":
        return
    classes = reasoning.num_classes or evidence.num_classes
    wrong = np.flatnonzero(evidence.votes[:, :classes].sum(axis=1) != evidence.trials)
    if wrong.size:
        raise InputError(
            f"field 'votes' row {wrong[0]}: class votes do not sum to trials = {evidence.trials}; give one vote a "
            "draw, or class_kind 'binary'"
        )


def _votes(evidence: Evidence) -> VoteEvidence | BoxEvidence:
    if isinstance(evidence, VoteEvidence | BoxEvidence):
        return evidence
    if isinstance(evidence, SampleEvidence):
        return votes_from_samples(evidence)
    raise InputError(
        f"{type(evidence).__name__} holds neither votes nor boxes; colep needs votes, lower and upper, or the model"
    )


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    bound: Bound = "exact",
    trials_test: int | None = None,
    clean: Number | None = None,
    attacked: Number | None = None,
    seed: int = 0,
) -> Calibrated:
    """Threshold, and for votes the tables that turn attacked counts into boxes.

    Args:
        evidence: votes, network samples (hard votes are taken) or boxes.
        bound: ``"exact"``, or ``"decoupled"`` for COLEP's Theorem 1 (sound where every predicate is only on one
            side of the implications; wider).
        clean, attacked: budget items b_2 and b_1; a twentieth of alpha each by default.

    Raises:
        InputError: other evidence, bad labels, levels, radius or sigma; boxes of another radius.
    """
    source = _votes(evidence)
    reasoning = draws.reasoning_for(source, reasoning)
    _check_one_hot(reasoning, source)
    truth = draws.labels_of(source, labels, reasoning)
    kind = scores.resolve(score, reasoning.simplex)
    u = scores.uniforms(source.n, seed, CALIBRATION_STREAM)
    if isinstance(source, BoxEvidence):
        return _calibrate_boxes(source, truth, alpha, radius, reasoning, kind, bound, u)
    classes = reasoning.num_classes or source.num_classes
    votes = aligned(reasoning, source.predicates, source.votes)
    values = scores.score(as_columns(reasoning).class_probabilities(votes / source.trials), kind, u)
    mine = values[np.arange(source.n), truth]
    sides = sensor_sides(reasoning, kind, classes, bound)
    spread = f"spread evenly over {sides} one-sided sensor events of the true label"
    budget = split(
        alpha,
        (
            Spend(ATTACKED, f"votes at the attacked input against their probabilities, {spread}", attacked),
            Spend(CLEAN, f"hypothetical clean votes against their probabilities, {spread}", clean),
        ),
    )
    conformal = amount(budget, "conformal")
    derived: dict[str, Any] = {
        "trials_test": source.trials if trials_test is None else trials_test,
        "sensor_sides": sides,
        "attacked_failure_per_side": float(amount(budget, ATTACKED) / sides),
        "clean_failure_per_side": float(amount(budget, CLEAN) / sides),
        "radius_over_sigma": float(radius_over_sigma(radius, source.sigma)),
    }
    lower, upper = _tables(source.trials, derived)
    derived |= {"attacked_lower": tuple(lower.tolist()), "attacked_upper": tuple(upper.tolist())}
    return Calibrated(
        method="colep",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(decimal(radius, "radius")),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=source.trials,
        n=source.n,
        rank=conformal_rank(source.n, conformal),
        threshold=conformal_quantile(mine, conformal),
        budget=budget,
        derived=derived,
        calibration={"labels": truth, "scores": mine, "votes": votes, "uniforms": u},
        reasoning=reasoning.describe(bound),
        notes=too_few(source.n, conformal),
    )


def _calibrate_boxes(
    source: BoxEvidence,
    truth: np.ndarray,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning,
    kind: str,
    bound: Bound,
    u: np.ndarray,
) -> Calibrated:
    same_radius(source.radius, radius)
    lower = aligned(reasoning, source.predicates, source.lower)
    upper = aligned(reasoning, source.predicates, source.upper)
    mine = score_bound(reasoning, lower, upper, kind, u, bound, top=True)[np.arange(source.n), truth]
    return Calibrated(
        method="colep",
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
        reasoning=reasoning.describe(bound),
        notes=too_few(source.n, alpha),
        norm=source.norm,
    )


def same_norm(boxes: str, norm: str) -> None:
    """Refuse boxes that were made for another distance."""
    if boxes != norm:
        raise InputError(f"field 'norm': the boxes hold for {boxes}, but {norm} is asked for; make new boxes")


def same_radius(boxes: Number, radius: Number) -> None:
    """Refuse boxes that were made for another radius."""
    if decimal(boxes, "radius") != decimal(radius, "radius"):
        raise InputError(f"field 'radius': the boxes hold for {boxes}, but {radius} is asked for; make new boxes")


def aligned(reasoning: Reasoning, predicates: tuple[str, ...], array: np.ndarray) -> np.ndarray:
    """Columns of the evidence as the rules number them."""
    columns = reasoning.columns(predicates)
    return array if columns is None else array[:, columns]


def _tables(trials: int, derived: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    return vote_tables(
        trials,
        int(derived["trials_test"]),
        float(derived["radius_over_sigma"]),
        float(derived["attacked_failure_per_side"]),
        float(derived["clean_failure_per_side"]),
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``votes`` int64 ``[n, V]`` (or ``lower``, ``upper`` for boxes), columns as the rules number them; ``uniforms``.

    Raises:
        InputError: not the kind of evidence of the calibration, or other noise, draws or radius.
    """
    source = _votes(evidence)
    reasoning = draws.reasoning_for(source, reasoning)
    _check_one_hot(reasoning, source)
    u = scores.uniforms(source.n, seed, TEST_STREAM)
    if isinstance(source, BoxEvidence) != ("lower" in calibrated.calibration):
        raise InputError(f"{type(source).__name__} at test, but not at calibration; give the same kind of evidence")
    if isinstance(source, BoxEvidence):
        same_radius(source.radius, calibrated.radius)
        same_norm(source.norm, calibrated.norm)
        lower, upper = (aligned(reasoning, source.predicates, a) for a in (source.lower, source.upper))
        return {"lower": lower, "upper": upper, "uniforms": u}
    same_sigma(source.sigma, calibrated)
    planned = int(calibrated.derived["trials_test"])
    if source.trials != planned:
        raise InputError(f"field 'trials': {source.trials} draws, but the calibration planned {planned} at test")
    return {"votes": aligned(reasoning, source.predicates, source.votes), "uniforms": u}


def _or_nan(reasoning: Reasoning, corner: np.ndarray) -> np.ndarray:
    """Class probabilities ``[n, K]``; NaN in rows where hard rules leave no world."""
    from neurosym.circuits.errors import InconsistentEvidence

    try:
        return reasoning.class_probabilities(corner)
    except InconsistentEvidence:
        if corner.shape[0] == 1:
            return np.full((1, reasoning.num_classes), np.nan)
        half = corner.shape[0] // 2
        return np.concatenate([_or_nan(reasoning, corner[:half]), _or_nan(reasoning, corner[half:])])


def _corner(reasoning: Reasoning, lower: np.ndarray, upper: np.ndarray, top: bool) -> np.ndarray:
    """Least or greatest class probabilities where every direction is known: each at one corner of the box.

    Corners without a world say nothing: their bound is 0 or 1.
    """
    directions = reasoning.directions
    assert directions is not None
    signs = np.where(directions == 0, 1, directions)
    out = np.empty((lower.shape[0], signs.shape[0]))
    patterns, which = np.unique(signs, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        mine = np.flatnonzero(which.ravel() == number)
        corner = np.where((pattern > 0) == top, upper, lower)
        out[:, mine] = _or_nan(reasoning, corner)[:, mine]
    if top:
        return np.where(np.isnan(out), 1.0, np.minimum(out + SLACK, 1.0))
    return np.where(np.isnan(out), 0.0, np.maximum(out - SLACK, 0.0))


def score_bound(
    reasoning: Reasoning, lower: np.ndarray, upper: np.ndarray, kind: str, u: np.ndarray, bound: Bound, *, top: bool
) -> np.ndarray:
    """Infimum, or supremum if ``top``, of every label's score over boxes of sensors ``[n, V]``: ``[n, K]``.

    Uses no more sensor sides than ``sensor_sides`` counts.
    """
    directions = reasoning.directions
    if directions is not None and kind == "lac" and bound == "exact" and not (directions == BOTH).any():
        return 1.0 - _corner(reasoning, lower, upper, not top)
    low, high, _ = reasoning.class_bounds(lower, upper, bound)
    found = scores.score_bounds(low, high, kind, u, simplex=reasoning.simplex)
    return found.upper if top else found.lower


def layer_of(calibrated: Calibrated, observation: Mapping[str, np.ndarray], reasoning: Reasoning | None) -> Reasoning:
    """The reasoning layer of a calibration; for votes without rules the class columns as they are.

    Raises:
        InputError: rules were used and are not given, or another layer than the calibration's.
    """
    width = next(observation[name] for name in ("votes", "lower", "probs") if name in observation).shape[1]
    if reasoning is None:
        reasoning = Reasoning.from_description(calibrated.reasoning, None, width)
    for name, value in reasoning.describe().items():
        if name != "bound" and value != calibrated.reasoning[name]:
            raise InputError(f"reasoning: {name} is {value!r}, but calibration used {calibrated.reasoning[name]!r}")
    return reasoning


def bound_of(calibrated: Calibrated) -> Bound:
    """The kind of circuit bound of a calibration."""
    return "decoupled" if calibrated.reasoning["bound"] == "decoupled" else "exact"


def label_scores(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], reasoning: Reasoning | None
) -> np.ndarray:
    """Least score of each label over the test boxes, ``[n, K]``."""
    reasoning = layer_of(calibrated, observation, reasoning)
    u, bound = observation["uniforms"], bound_of(calibrated)
    if "votes" not in observation:
        lower, upper = observation["lower"], observation["upper"]
        return score_bound(reasoning, lower, upper, calibrated.score, u, bound, top=False)
    lower, upper = (table[observation["votes"]] for table in _tables(calibrated.trials, calibrated.derived))
    return score_bound(as_columns(reasoning), lower, upper, calibrated.score, u, bound, top=False)


def as_columns(reasoning: Reasoning) -> Reasoning:
    """Vote fractions of one-hot draws sum to one by themselves, so no normalisation (and none of its sensor sides)."""
    return reasoning if reasoning.circuit != "none" else replace(reasoning, class_kind="binary")


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
