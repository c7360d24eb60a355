"""RSCP+ (Yan, Romano & Weng 2024): smoothed mean scores with every Monte-Carlo error paid for, and PTT.

All in nonconformity form. M draws at calibration, M' at test, alpha = a_c + b_1 + b_2, r = R/sigma, scores in [0, 1],
``mu(x, y) = E s(x + e, y)``. beta is the tail bound of ``mean_bound``.

Theorem. Let ``T_i`` be the mean of the M scores ``s(X_i + e_im, Y_i)`` and q their conformal quantile at level a_c. Let
``m`` be the smallest mean that q refutes, ``beta(M q, M, m) <= b_1``, ``m~ = Phi(Phi^-1(m) + r)``, and t the largest total of
M' draws that does not refute "the mean is at most m~" at level b_2. For every attack ``|x~ - X| <= R`` chosen before
the test noise is drawn, ``{y : sum_m s(x~ + e_m, y) <= t}`` contains Y with probability at least 1 - alpha.

Proof. Let the clean test point have M hypothetical fresh draws with mean ``T_{n+1}``. Then T_1..T_{n+1} are exchangeable
and ``P(T_{n+1} <= q) >= 1 - a_c``: calibration rows need no correction. (1) Fix the calibration data and (x, y). Where
``mu(x, y) > m``, ``P(T_{n+1} <= q) <= beta(M q, M, m) <= b_1``, hence ``P(mu(X, Y) > m) <= a_c + b_1``. (2) Elsewhere
``mu(x~, y) <= m~`` (Neyman-Pearson for functions in [0, 1]; Salman et al. 2019), and the test draws are independent of x~
and of the calibration data, so their total exceeds t with probability at most b_2.

Which events are paid for: only those of the true label. A wrong label that is kept or dropped by mistake changes no
coverage, so there is no union over labels; and (1) is one event at the test point, so there is none over calibration rows.
The published bounds (Hoeffding at calibration, empirical Bernstein at test, two-sided) are replaced by one-sided beta.

PTT (post-training transformation): with ``holdout`` points of their own the score becomes
``sigmoid((F(s) - b) / T)`` with F the empirical distribution function of the holdout's true-label scores, b = 1 - alpha
and T = 1/400. It is a fixed function of the score, so the theorem holds as it stands.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from neurosym.certify import draws
from neurosym.certify import mean_steps as steps
from neurosym.certify.budget import Spend, amount, split
from neurosym.certify.counting import CELLS, Grid, true_counts, true_totals
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.mean_bound import largest_total, mean_upper
from neurosym.certify.methods.rscp import observe, predict, preference
from neurosym.certify.methods.vanilla import too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank, level
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.scores import uniforms
from neurosym.certify.smoothing import gaussian_shift, radius_over_sigma
from neurosym.errors import InputError

__all__ = ["calibrate", "moved", "observe", "predict", "preference", "ptt_grid", "spends"]

PTT_CELLS = 1000  # the ranking resolves small scores, so the grid below it must
PTT_SCALE = 1000
TEMPERATURE = 400.0  # 1/T (Yan et al. 2024, section 5)
HOLDOUT_STREAM = 3  # of the uniforms of randomised scores


def spends(clean: Number | None, attacked: Number | None) -> tuple[Spend, Spend]:
    """The two Monte-Carlo items of the true label at the test point."""
    return (
        Spend(steps.CLEAN, "hypothetical clean draws against the clean expectation, one side, one event", clean),
        Spend(steps.ATTACKED, "draws at the attacked input against their expectation, one side, one event", attacked),
    )


def ptt_grid(plain: Grid, counts: np.ndarray, alpha: Number) -> Grid:
    """The levels of PTT on a grid.

    Args:
        counts: int ``[cells + 1]``, holdout scores of true labels in each cell.
    """
    rank = np.cumsum(counts) / counts.sum()
    # exact at the ends of the range would waste the sigmoid: levels run over all of 0..scale
    raised = 1.0 / (1.0 + np.exp(-np.clip((rank - float(1 - level(alpha))) * TEMPERATURE, -700, 700)))
    levels = np.floor(raised * PTT_SCALE + 0.5).astype(np.int64)
    levels[0] = 0
    return Grid(plain.top, np.maximum.accumulate(levels), PTT_SCALE)


def _transformed(ready: steps.Prepared, holdout: Evidence, alpha: Number, seed: int) -> Grid:
    source = draws.drawn(holdout)
    if source.n < 1 or source.trials < 1:
        raise InputError("holdout: no draws; give labelled points that are used for nothing else")
    if decimal(source.sigma, "sigma") != decimal(ready.source.sigma, "sigma"):
        raise InputError(f"holdout: sigma {source.sigma} differs from {ready.source.sigma}; use the same noise")
    truth = draws.labels_of(source, None, ready.reasoning)
    u = uniforms(source.n, seed, HOLDOUT_STREAM)
    counts = true_counts(source, truth, ready.reasoning, ready.kind, u, ready.grid)
    return ptt_grid(ready.grid, counts.sum(axis=0), alpha)


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    holdout: Evidence | None = None,
    trials_test: int | None = None,
    clean: Number | None = None,
    attacked: Number | None = None,
    cells: int | None = None,
    seed: int = 0,
) -> Calibrated:
    """Threshold of the calibration means, the limits behind it, and the largest total that stays.

    Args:
        evidence: network samples or score samples with M = ``evidence.trials`` draws.
        holdout: labelled evidence used for nothing else turns PTT on.
        trials_test: draws at test, M by default.
        clean, attacked: budget items b_1 and b_2; a twentieth of alpha each by default.
        cells: of the grid on which scores are counted; more by default with PTT.

    Raises:
        InputError: evidence without single draws, bad labels, levels, radius, sigma or cells, scores out of range.
    """
    fine = CELLS if holdout is None else PTT_CELLS
    ready = steps.prepare(evidence, labels, reasoning, score, seed, fine if cells is None else cells)
    budget = split(alpha, spends(clean, attacked))
    conformal = amount(budget, "conformal")
    grid = ready.grid if holdout is None else _transformed(ready, holdout, alpha, seed)
    source, n = ready.source, ready.source.n
    mine = true_totals(source, ready.truth, ready.reasoning, ready.kind, ready.uniforms, grid)
    scores = steps.means(mine, source.trials, grid.scale)
    base = Calibrated(
        method="rscp_plus",
        score=ready.kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(radius_over_sigma(radius, 1)),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=source.trials,
        n=n,
        rank=conformal_rank(n, conformal),
        threshold=conformal_quantile(scores, conformal),
        budget=budget,
        derived={"trials_test": steps.test_draws(trials_test, source.trials), **steps.grid_record(grid)},
        calibration={"labels": ready.truth, "scores": scores, "votes": mine[:, None], "uniforms": ready.uniforms},
        reasoning=ready.reasoning.describe(),
        notes=too_few(n, conformal),
    )
    made = moved(base, radius)
    return replace(made, notes=made.notes + steps.keeps_all_note(made))


def moved(calibrated: Calibrated, radius: Number) -> Calibrated:
    """The same calibration at ``radius``."""
    ratio, paid = steps.shift_of(radius, calibrated.sigma), steps.shares(calibrated.budget)
    derived: dict[str, Any] = dict(calibrated.derived)
    trials, scale = int(derived["trials_test"]), steps.grid_of(calibrated).scale
    total = clean_total(calibrated, scale)
    clean = mean_upper(Fraction(total, scale), calibrated.trials, paid[steps.CLEAN])
    mean = float(gaussian_shift(clean, ratio, "upper"))
    most = largest_total(trials, mean, paid[steps.ATTACKED], scale)
    derived |= {"radius_over_sigma": ratio, "mean_clean": clean, "mean_attacked": mean, "largest_total": most}
    derived["keeps_all"] = most >= trials * scale
    return replace(calibrated, radius=to_text(radius_over_sigma(radius, 1)), derived=derived)


def clean_total(calibrated: Calibrated, scale: int) -> int:
    """The exact total behind the threshold; the largest possible one where there is no finite threshold."""
    return round(min(calibrated.threshold, 1.0) * calibrated.trials * scale)
