"""BinCP with exchangeable Monte-Carlo scores: binarised smoothing certificates, no correction on calibration rows.

All in nonconformity form. M draws at calibration, M' at test, alpha = a_c + b_1 + b_2, r = R/sigma, 1 <= k <= M.

Theorem. Let ``lambda_i`` be the k-th smallest of the M scores ``s(X_i + e_im, Y_i)``, and q their conformal quantile at
level a_c. Let p_lo be the one-sided Clopper-Pearson limit of k successes in M at b_1, ``c = Phi(Phi^-1(p_lo) - r)``, and
t the largest integer with ``P(Bin(M', c) < t) <= b_2``. For every attack ``|x~ - X| <= R`` chosen before the test noise
is drawn, ``{y : #{m <= M' : s(x~ + e_m, y) <= q} >= t}`` contains Y with probability at least 1 - alpha.

Proof sketch. Let the clean test point have M hypothetical fresh draws. Then lambda_1..lambda_{n+1} are exchangeable and
``P(lambda_{n+1} <= q) >= 1 - a_c``; the event says that at least k hypothetical draws have s <= q. (1) Given the
calibration data and (x, y), that count N is Bin(M, p(x)), p(x) = P_e(s(x + e, y) <= q). Where p(x) < p_lo,
``P(N >= k) <= b_1`` by the definition of p_lo, so ``P(p(X) < p_lo) <= a_c + b_1``. (2) Elsewhere Neyman-Pearson gives
p(x~) >= c; the test draws are independent of x~ and of the calibration data, so fewer than t votes have probability at
most b_2. The hypothetical draws are never made. If t = 0 the set is everything.

Remark. (1) even shows ``P(p(X) < p_lo) <= a_c / (1 - b_1)``; the sum is used because it adds up item by item.
``M = M' = 1`` without items is RCP1. Tables are rounded outwards (``confidence``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from neurosym.certify import draws
from neurosym.certify.budget import Spend, amount, split
from neurosym.certify.confidence import binomial_lower, clopper_pearson_lower
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods.rcp1 import same_sigma
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, TEST_STREAM, too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank, kth_smallest, level
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import BudgetItem, Calibrated
from neurosym.certify.scores import uniforms
from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma
from neurosym.errors import InputError

CLEAN, ATTACKED = "clean_votes", "attacked_votes"
DEFAULT_P = "0.7"  # middle of the range 0.6 to 0.9 that works well; `tuning` chooses it on data of its own


def votes_plan(
    alpha: Number,
    radius: Number,
    sigma: Number,
    trials: int,
    trials_test: int,
    p: Number,
    clean: Number | None = None,
    attacked: Number | None = None,
) -> tuple[tuple[BudgetItem, ...], dict[str, int | float]]:
    """Budget and derived numbers, which depend on no data.

    Returns:
        the items ``conformal``, ``clean_votes`` (b_1), ``attacked_votes`` (b_2); and ``k``, ``trials_test``, ``p``,
        ``p_lower``, ``radius_over_sigma``, ``p_shifted``, ``votes_needed``.
    """
    if trials < 1 or trials_test < 1:
        raise InputError(f"trials: {trials} and {trials_test}; at least 1 noise draw is needed")
    share = level(p, "p")
    budget = split(
        alpha,
        (
            Spend(
                CLEAN,
                "hypothetical clean votes against the clean vote probability, one side, one event",
                clean,
            ),
            Spend(
                ATTACKED,
                "votes at the attacked input against their probability, one side, one event",
                attacked,
            ),
        ),
    )
    k = math.ceil(share * trials)
    p_lower = float(clopper_pearson_lower(trials, float(amount(budget, CLEAN)))[k])
    ratio = float(radius_over_sigma(radius, sigma))
    p_shifted = float(gaussian_shift(p_lower, -ratio, "lower"))
    needed = int(binomial_lower(trials_test, p_shifted, float(amount(budget, ATTACKED))))
    derived: dict[str, int | float] = {
        "k": k,
        "trials_test": trials_test,
        "p": float(share),
        "p_lower": p_lower,
        "radius_over_sigma": ratio,
        "p_shifted": p_shifted,
        "votes_needed": needed,
    }
    return budget, derived


def calibration_lambdas(
    evidence: Evidence,
    labels: np.ndarray,
    reasoning: Reasoning,
    kind: str,
    u: np.ndarray,
    ks: tuple[int, ...],
) -> np.ndarray:
    """k-th smallest true-label scores for each k, float64 ``[n, len(ks)]``; streamed, one block of draws at a time."""
    out = np.empty((evidence.n, len(ks)))
    for rows, scores in draws.score_draws(evidence, reasoning, kind, u):
        mine = scores[np.arange(rows.size), :, labels[rows]]
        for column, k in enumerate(ks):
            out[rows, column] = kth_smallest(mine, k)
    return out


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    p: Number = DEFAULT_P,
    trials_test: int | None = None,
    clean: Number | None = None,
    attacked: Number | None = None,
    seed: int = 0,
) -> Calibrated:
    """Threshold, votes needed and the numbers behind them.

    Args:
        evidence: network samples or score samples with M = ``evidence.trials`` draws.
        p: share of draws that must fall below the threshold at a clean point, k = ceil(p M); fixed before seeing
            the calibration data.
        trials_test: draws at test, M by default.
        clean, attacked: budget items b_1 and b_2; a twentieth of alpha each by default.

    Raises:
        InputError: evidence without single draws, bad labels, levels, radius or sigma.
    """
    source = draws.drawn(evidence)
    reasoning = draws.reasoning_for(source, reasoning)
    truth = draws.labels_of(source, labels, reasoning)
    kind = draws.kind_of(source, reasoning, score)
    at_test = source.trials if trials_test is None else trials_test
    budget, derived = votes_plan(alpha, radius, source.sigma, source.trials, at_test, p, clean, attacked)
    conformal = amount(budget, "conformal")
    u = uniforms(source.n, seed, CALIBRATION_STREAM)
    lambdas = calibration_lambdas(source, truth, reasoning, kind, u, (int(derived["k"]),))[:, 0]
    notes = too_few(source.n, conformal)
    if derived["votes_needed"] == 0:
        notes += (
            f"{at_test} test draws cannot certify radius/sigma = {derived['radius_over_sigma']:.4g} at p = "
            f"{derived['p']:.4g}: every set is full; draw more, raise p or sigma, or lower the radius",
        )
    return Calibrated(
        method="bincp",
        score=kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(decimal(radius, "radius")),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=source.trials,
        n=source.n,
        rank=conformal_rank(source.n, conformal),
        threshold=conformal_quantile(lambdas, conformal),
        budget=budget,
        derived=derived,
        calibration={"labels": truth, "scores": lambdas, "uniforms": u},
        reasoning=reasoning.describe(),
        notes=notes,
    )


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``votes`` int64 ``[n, K]``: draws whose score is at most the threshold; and ``uniforms`` ``[n]``.

    Raises:
        InputError: evidence without single draws, or another sigma or number of draws than planned.
    """
    source = draws.drawn(evidence)
    same_sigma(source.sigma, calibrated)
    planned = int(calibrated.derived["trials_test"])
    if source.trials != planned:
        raise InputError(f"field 'trials': {source.trials} draws, but the calibration planned {planned} at test")
    reasoning = draws.reasoning_for(source, reasoning)
    u = uniforms(source.n, seed, TEST_STREAM)
    votes: np.ndarray | None = None
    for rows, scores in draws.score_draws(source, reasoning, calibrated.score, u):
        if votes is None:
            votes = np.zeros((source.n, scores.shape[2]), dtype=np.int64)
        votes[rows] = (scores <= calibrated.threshold).sum(axis=1)
    if votes is None:
        votes = np.zeros((0, reasoning.num_classes or source.num_classes), dtype=np.int64)
    return {"votes": votes, "uniforms": u}


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels with at least ``votes_needed`` votes, bool ``[n, K]``; everything without a finite threshold."""
    votes = observation["votes"]
    if calibrated.trivial:
        return np.ones(votes.shape, dtype=bool)
    return np.asarray(votes >= int(calibrated.derived["votes_needed"]))


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``: minus its votes."""
    return -np.asarray(observation["votes"], dtype=np.float64)
