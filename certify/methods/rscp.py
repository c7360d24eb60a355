"""RSCP, randomised smoothed conformal prediction (Gendler, Weng, Daniel & Romano 2022): an **asymptotic** guarantee.

Let s be a score in [0, 1], ``mu(x, y) = E s(x + e, y)`` with ``e ~ N(0, sigma^2 I)``, and r = R/sigma.

Theorem. Let q be the conformal quantile (``quantile``) at level alpha of ``mu(X_i, Y_i)``. For every attack
``|x~ - X| <= R``, ``{y : Phi(Phi^-1(mu(x~, y)) - r) <= q}`` contains Y with probability at least 1 - alpha.

Proof. The means are exchangeable, so ``mu(X, Y) <= q`` with probability at least 1 - alpha; and the left side is at most
``mu(X, y)``, since ``mu(x, y) >= Phi(Phi^-1(mu(x~, y)) - r)`` (Neyman-Pearson for functions in [0, 1]; Salman et al. 2019).

What is computed replaces every mu by a mean of M draws. The error of that is paid nowhere, so nothing is proved for the M
at hand: the certificate says so in its sentence and its caveats. ``rscp_plus`` pays for it. The order matters:
``Phi^-1`` of the mean, not the mean of ``Phi^-1``; and the shift is applied to the attacked input, not the threshold's.

A label stays while its total over the test draws is at most ``largest_total``, the largest integer whose mean is at most
``Phi(Phi^-1(q) + r)`` (rounded outwards). Scores are counted on a grid (``counting``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from neurosym.certify import mean_steps as steps
from neurosym.certify.budget import split
from neurosym.certify.counting import CELLS, totals, true_totals
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods.vanilla import too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma

ASYMPTOTIC = "asymptotic: the error of finitely many noise draws is not paid for; rscp_plus, cas, bincp and rcp1 pay it"


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    trials_test: int | None = None,
    cells: int = CELLS,
    seed: int = 0,
) -> Calibrated:
    """Threshold of the calibration means, and the largest total that stays.

    Args:
        evidence: network samples or score samples with M = ``evidence.trials`` draws.
        trials_test: draws at test, M by default.
        cells: of the grid on which scores are counted.

    Raises:
        InputError: evidence without single draws, bad labels, levels, radius, sigma or cells, scores out of range.
    """
    ready = steps.prepare(evidence, labels, reasoning, score, seed, cells)
    source, n = ready.source, ready.source.n
    mine = true_totals(source, ready.truth, ready.reasoning, ready.kind, ready.uniforms, ready.grid)
    scores = steps.means(mine, source.trials, ready.grid.scale)
    base = Calibrated(
        method="rscp",
        score=ready.kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(radius_over_sigma(radius, 1)),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=source.trials,
        n=n,
        rank=conformal_rank(n, alpha),
        threshold=conformal_quantile(scores, alpha),
        budget=split(alpha, ()),
        derived={"trials_test": steps.test_draws(trials_test, source.trials), **steps.grid_record(ready.grid)},
        calibration={"labels": ready.truth, "scores": scores, "votes": mine[:, None], "uniforms": ready.uniforms},
        reasoning=ready.reasoning.describe(),
        notes=(ASYMPTOTIC, *too_few(n, alpha)),
    )
    return moved(base, radius)


def moved(calibrated: Calibrated, radius: Number) -> Calibrated:
    """The same calibration at ``radius``."""
    ratio = steps.shift_of(radius, calibrated.sigma)
    derived: dict[str, Any] = dict(calibrated.derived)
    trials, scale = int(derived["trials_test"]), steps.grid_of(calibrated).scale
    mean = float(gaussian_shift(min(calibrated.threshold, 1.0), ratio, "upper"))
    most = math.floor(Fraction(mean) * trials * scale)
    derived |= {"radius_over_sigma": ratio, "mean_attacked": mean, "largest_total": most}
    derived["keeps_all"] = most >= trials * scale
    return replace(calibrated, radius=to_text(radius_over_sigma(radius, 1)), derived=derived)


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """``totals`` int64 ``[n, K]`` of the counted scores over the test draws; and ``uniforms`` ``[n]``.

    Raises:
        InputError: evidence without single draws, or another sigma or number of draws than planned.
    """
    seen = steps.watch(evidence, calibrated, reasoning, seed)
    found = totals(seen.source, seen.reasoning, calibrated.score, seen.uniforms, seen.grid)
    return {"totals": found, "uniforms": seen.uniforms}


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels with a total of at most ``largest_total``, bool ``[n, K]``; everything without a finite threshold."""
    found = observation["totals"]
    if calibrated.trivial:
        return np.ones(found.shape, dtype=bool)
    return np.asarray(found <= int(calibrated.derived["largest_total"]))


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``: its total."""
    return np.asarray(observation["totals"], dtype=np.float64)
