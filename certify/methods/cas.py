"""CAS, CDF-aware smoothed prediction sets (Zargarbashi, Akhondzadeh & Bojchevski 2024), paid for event by event.

All in nonconformity form. M draws at calibration, M' at test, alpha = a_c + b_1 + b_2, r = R/sigma, scores in [0, 1],
``mu(x, y) = E s(x + e, y)``. ``U`` and ``L`` are the CDF bounds of ``cdf_bound`` from M draws at x: for a fixed input,
except with probability b, ``mu(x~, y) <= U`` (``>= L``) at **all** x~ with ``|x~ - x| <= R`` together.

Theorem (calibration time). Let ``T_i = U(draws at X_i, Y_i)`` at failure b_1, q their conformal quantile at level a_c, and t
the largest total of M' draws that does not refute "the mean is at most q" at level b_2 (``mean_bound``). For every attack
``|x~ - X| <= R`` chosen before the test noise is drawn, ``{y : sum_m s(x~ + e_m, y) <= t}`` contains Y with probability at
least 1 - alpha.

Proof. Give the clean test point M hypothetical fresh draws: T_1..T_{n+1} are exchangeable and
``P(T_{n+1} <= q) >= 1 - a_c``. (1) Except with probability b_1, ``mu(x~, Y) <= T_{n+1}`` at every x~ of the ball, whatever x~
depends on besides those draws. (2) Given mu(x~, Y) <= q the test draws, independent of x~ and of the calibration data,
exceed t with probability at most b_2.

Theorem (test time). Let q be the quantile at level a_c of the means ``T_i`` of the calibration draws and m the smallest mean
that q refutes at level b_1, as in ``rscp_plus``. Then ``{y : L(draws at x~, y) <= m}``, L at failure b_2, contains Y with
probability at least 1 - alpha.

Proof. ``mu(X, Y) <= m`` except with probability a_c + b_1 (``rscp_plus``, step 1). X lies in the ball around x~, so
``L <= mu(X, Y)`` except with probability b_2 over the test draws, which are independent of x~ and the calibration data.

No union over calibration rows or labels is paid: every event is one of the true label at the test point. The published form
takes eta/(n + K) for each row and label. Its second use, coverage of un-enlarged sets read off the calibration points that set
the threshold, is not valid (the threshold depends on them) and is not offered.

``asymptotic=True`` claims b_1 = b_2 = 0 (no band, means taken for expectations), as the published evaluation does: valid
for infinitely many draws only, and the certificate says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from neurosym.certify import mean_steps as steps
from neurosym.certify.budget import amount, split
from neurosym.certify.cdf_bound import BANDS, Band, counted_bound, tail_table
from neurosym.certify.counting import CELLS, Grid, all_counts, totals, true_counts, true_totals
from neurosym.certify.evidence import Evidence
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.mean_bound import largest_total, mean_upper
from neurosym.certify.methods.rscp import ASYMPTOTIC
from neurosym.certify.methods.rscp_plus import clean_total, spends
from neurosym.certify.methods.vanilla import too_few
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import Calibrated
from neurosym.certify.smoothing import radius_over_sigma
from neurosym.errors import InputError

At = Literal["calibration", "test"]
ASYMPTOTIC_CAS = ASYMPTOTIC.replace("cas, ", "cas without asymptotic=True, ")


def _checked(at: str, band: str) -> None:
    if at not in ("calibration", "test"):
        raise InputError(f"at: {at!r}; choose calibration or test")
    if band not in BANDS[:2]:
        raise InputError(f"band: {band!r}; choose one of {', '.join(BANDS[:2])}, or asymptotic=True for none")


def calibrate(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    alpha: Number,
    radius: Number,
    reasoning: Reasoning | None = None,
    score: str = "lac",
    at: At = "calibration",
    band: Band = "binomial",
    asymptotic: bool = False,
    trials_test: int | None = None,
    clean: Number | None = None,
    attacked: Number | None = None,
    cells: int = CELLS,
    seed: int = 0,
) -> Calibrated:
    """Threshold of the CDF bounds (or means) of the calibration points, and what prediction needs.

    Args:
        evidence: network samples or score samples with M = ``evidence.trials`` draws.
        at: where the CDF bound is taken: of the true labels of the calibration points, or of every label at test.
        band: ``binomial`` or ``dkw``, see ``cdf_bound``.
        asymptotic: pay for no Monte-Carlo error.
        trials_test: draws at test, M by default.
        clean, attacked: budget items b_1 and b_2; a twentieth of alpha each by default.
        cells: of the grid on which scores are counted.

    Raises:
        InputError: evidence without single draws, bad labels, options, levels, radius, sigma or cells, scores out of range.
    """
    _checked(at, band)
    ready = steps.prepare(evidence, labels, reasoning, score, seed, cells)
    budget = split(alpha, () if asymptotic else spends(clean, attacked))
    conformal = amount(budget, "conformal")
    source, n, scale = ready.source, ready.source.n, ready.grid.scale
    if at == "test":
        counted = true_totals(source, ready.truth, ready.reasoning, ready.kind, ready.uniforms, ready.grid)[:, None]
    else:
        counted = true_counts(source, ready.truth, ready.reasoning, ready.kind, ready.uniforms, ready.grid)
    derived: dict[str, Any] = {
        "trials_test": steps.test_draws(trials_test, source.trials),
        "test_time": at == "test",
        "binomial_band": band == "binomial" and not asymptotic,
        "asymptotic": asymptotic,
        **steps.grid_record(ready.grid),
    }
    base = Calibrated(
        method="cas",
        score=ready.kind,
        alpha=to_text(decimal(alpha, "alpha")),
        radius=to_text(radius_over_sigma(radius, 1)),
        sigma=to_text(decimal(source.sigma, "sigma")),
        trials=source.trials,
        n=n,
        rank=conformal_rank(n, conformal),
        threshold=math.inf,
        budget=budget,
        derived=derived,
        calibration={
            "labels": ready.truth,
            "scores": steps.means(counted[:, 0], source.trials, scale),
            "votes": counted,
            "uniforms": ready.uniforms,
        },
        reasoning=ready.reasoning.describe(),
        notes=(ASYMPTOTIC_CAS,) * asymptotic + too_few(n, conformal),
    )
    made = moved(base, radius)
    return replace(made, notes=made.notes + steps.keeps_all_note(made))


def band_of(calibrated: Calibrated) -> Band:
    """Name of the band that a calibration uses."""
    if calibrated.derived["asymptotic"]:
        return "none"
    return "binomial" if calibrated.derived["binomial_band"] else "dkw"


def moved(calibrated: Calibrated, radius: Number) -> Calibrated:
    """The same calibration at ``radius``: the CDF bounds are taken anew from the counts."""
    ratio = steps.shift_of(radius, calibrated.sigma)
    at_radius = replace(calibrated, radius=to_text(radius_over_sigma(radius, 1)))
    derived: dict[str, Any] = {**calibrated.derived, "radius_over_sigma": ratio}
    finish = _test_time if derived["test_time"] else _calibration_time
    return finish(at_radius, derived)


def _test_time(calibrated: Calibrated, derived: dict[str, Any]) -> Calibrated:
    """The clean limit m."""
    scores, item = calibrated.calibration["scores"], calibrated.budget[0]
    made = replace(calibrated, threshold=conformal_quantile(scores, item.amount))
    limit = min(made.threshold, 1.0)
    if not derived["asymptotic"]:
        scale = steps.grid_of(made).scale
        failure = steps.shares(made.budget)[steps.CLEAN]
        limit = mean_upper(Fraction(clean_total(made, scale), scale), made.trials, failure)
    return replace(made, derived={**derived, "mean_clean": limit, "keeps_all": limit >= 1.0})


def _calibration_time(calibrated: Calibrated, derived: dict[str, Any]) -> Calibrated:
    """Upper CDF bounds of the true labels, their threshold, and the largest total that stays."""
    paid, grid = steps.shares(calibrated.budget), steps.grid_of(calibrated)
    table = tail_table(
        calibrated.trials,
        derived["radius_over_sigma"],
        band_of(calibrated),
        paid.get(steps.CLEAN),
        grid.cells,
        "upper",
    )
    scores = counted_bound(calibrated.calibration["votes"], grid.steps, table, "upper")
    threshold = conformal_quantile(scores, calibrated.budget[0].amount)
    trials, mean = int(derived["trials_test"]), min(threshold, 1.0)
    if derived["asymptotic"]:
        most = math.floor(Fraction(mean) * trials * grid.scale)
    else:
        most = largest_total(trials, mean, paid[steps.ATTACKED], grid.scale)
    derived |= {"largest_total": most, "keeps_all": most >= trials * grid.scale}
    calibration = {**calibrated.calibration, "scores": scores}
    return replace(calibrated, threshold=threshold, derived=derived, calibration=calibration)


def observe(
    evidence: Evidence, calibrated: Calibrated, *, reasoning: Reasoning | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Counted scores of the test draws: ``totals`` int64 ``[n, K]``, or at test time ``counts`` ``[n, K, cells + 1]``.

    Raises:
        InputError: evidence without single draws, or another sigma or number of draws than planned.
    """
    seen = steps.watch(evidence, calibrated, reasoning, seed)
    count, name = (all_counts, "counts") if calibrated.derived["test_time"] else (totals, "totals")
    found = count(seen.source, seen.reasoning, calibrated.score, seen.uniforms, seen.grid)
    return {name: found, "uniforms": seen.uniforms}


def lower_bounds(calibrated: Calibrated, counts: np.ndarray) -> np.ndarray:
    """Lower CDF bounds ``[n, K]`` of the clean mean scores from counts at the attacked input."""
    grid: Grid = steps.grid_of(calibrated)
    table = tail_table(
        int(calibrated.derived["trials_test"]),
        float(calibrated.derived["radius_over_sigma"]),
        band_of(calibrated),
        steps.shares(calibrated.budget).get(steps.ATTACKED),
        grid.cells,
        "lower",
    )
    return counted_bound(counts, grid.steps, table, "lower")


def predict(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """Labels that stay, bool ``[n, K]``; everything without a finite threshold."""
    found = observation["counts" if calibrated.derived["test_time"] else "totals"]
    if calibrated.trivial:
        return np.ones(found.shape[:2], dtype=bool)
    if calibrated.derived["test_time"]:
        return np.asarray(lower_bounds(calibrated, found) <= float(calibrated.derived["mean_clean"]))
    return np.asarray(found <= int(calibrated.derived["largest_total"]))


def preference(
    calibrated: Calibrated, observation: Mapping[str, np.ndarray], *, reasoning: Reasoning | None = None
) -> np.ndarray:
    """How implausible each label is, ``[n, K]``: its total."""
    if "totals" in observation:
        return np.asarray(observation["totals"], dtype=np.float64)
    return np.asarray(observation["counts"] @ np.arange(observation["counts"].shape[2]), dtype=np.float64)
