"""Small synthetic runs of RSCP, RSCP+ and CAS, from scipy's distributions and plain loops over order statistics."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from builders import CLASSES, PLAIN_LAYER, items, threshold_of
from scipy import optimize, stats

from neurosym.certify.records import Calibrated

DRAWS, CELLS, SHIFT, EACH = 60, 20, 0.5, 0.01
OUT = 1 + 1e-12  # producers round outwards by a little


def _cells(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and grid cells ``[n, K, DRAWS]``."""
    labels = rng.integers(0, len(CLASSES), n)
    scores = rng.beta(5, 2, (n, len(CLASSES), DRAWS))
    scores[np.arange(n), labels] = rng.beta(1.2, 8, (n, DRAWS))
    return labels, np.rint(scores * CELLS).astype(int)


def tail(total: float, mean: float) -> float:
    """The tail bound by its definition: over all integers above the total."""
    law = stats.binom(DRAWS, mean)
    mass = law.pmf(np.arange(DRAWS + 1))
    best = 1.0
    for h in range(math.floor(total + 1e-12) + 1, DRAWS + 1):
        best = min(best, float(sum((h - k) * mass[k] for k in range(h))) / (h - total))
    return best


def clean_limit(total: float) -> float:
    found = optimize.brentq(lambda p: tail(total, p) - EACH, 1e-6, 1 - 1e-9, xtol=1e-15, rtol=1e-14)
    return float(found * OUT)


def most_total(mean: float) -> int:
    return max(t for t in range(DRAWS * CELLS + 1) if tail(DRAWS - t / CELLS, 1 - mean) > EACH)


def moved(mean: float) -> float:
    return float(min(1.0, stats.norm.cdf(stats.norm.ppf(mean) + SHIFT) * OUT))


def cdf_bound(cells: np.ndarray, sign: int, band: str) -> float:
    """Sum over the steps of the grid of the shifted band."""
    total = 0.0
    for step in range(1, CELLS + 1):
        above = int((cells >= step).sum())
        if band == "none":
            share = above / DRAWS
        elif band == "dkw":
            share = above / DRAWS + sign * math.sqrt(math.log(1 / EACH) / (2 * DRAWS))
        elif sign > 0:
            share = 1.0 if above == DRAWS else stats.beta.isf(EACH / CELLS, above + 1, DRAWS - above)
        else:
            share = 0.0 if above == 0 else stats.beta.ppf(EACH / CELLS, above, DRAWS - above + 1)
        share = min(1.0, max(0.0, share))
        total += float(stats.norm.cdf(stats.norm.ppf(share) + sign * SHIFT)) / CELLS
    return total + sign * 1e-12


def _run(
    calibrated: Calibrated, observation: dict[str, np.ndarray], sets: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    return {
        "calibrated": calibrated, "observation": observation, "sets": sets, "test_labels": labels, "classes": CLASSES,
        "predicates": CLASSES, "knowledge": None,
    }  # fmt: skip


def mean_run(method: str, seed: int = 0, n: int = 60, n_test: int = 40) -> dict[str, Any]:
    """RSCP or RSCP+."""
    rng = np.random.default_rng(seed)
    labels, cells = _cells(rng, n)
    truth, seen = _cells(rng, n_test)
    mine = cells[np.arange(n), labels].sum(axis=1)
    paid = method == "rscp_plus"
    rank, threshold = threshold_of(mine / (DRAWS * CELLS), Fraction("0.18" if paid else "0.2"))
    clean = clean_limit(round(threshold * DRAWS * CELLS) / CELLS) if paid else threshold
    mean = moved(clean)
    most = most_total(mean) if paid else math.floor(mean * DRAWS * CELLS)
    derived: dict[str, Any] = {
        "trials_test": DRAWS, "cells": CELLS, "radius_over_sigma": SHIFT, "mean_attacked": mean, "largest_total": most,
        "keeps_all": False,
    }  # fmt: skip
    if paid:
        derived["mean_clean"] = clean
    spent = {"clean_draws": "0.01", "attacked_draws": "0.01"} if paid else {}
    calibrated = Calibrated(
        method=method, score="lac", alpha="0.2", radius="0.125", sigma="0.25", trials=DRAWS, n=n, rank=rank,
        threshold=threshold, budget=items("0.2", **spent), derived=derived,
        calibration={"labels": labels, "scores": mine / (DRAWS * CELLS), "votes": mine[:, None]}, reasoning=PLAIN_LAYER,
    )  # fmt: skip
    totals = seen.sum(axis=2)
    return _run(calibrated, {"totals": totals}, totals <= most, truth)


def cas_run(
    at: str = "calibration", band: str = "binomial", seed: int = 0, n: int = 40, n_test: int = 20
) -> dict[str, Any]:
    """CAS; band ``none`` is the asymptotic form."""
    rng = np.random.default_rng(seed)
    labels, cells = _cells(rng, n)
    truth, seen = _cells(rng, n_test)
    mine, paid = cells[np.arange(n), labels], band != "none"
    derived: dict[str, Any] = {
        "trials_test": DRAWS, "cells": CELLS, "radius_over_sigma": SHIFT, "test_time": at == "test",
        "binomial_band": band == "binomial", "asymptotic": not paid, "keeps_all": False,
    }  # fmt: skip
    level = Fraction("0.18" if paid else "0.2")
    if at == "test":
        scores = mine.sum(axis=1) / (DRAWS * CELLS)
        rank, threshold = threshold_of(scores, level)
        limit = clean_limit(round(threshold * DRAWS * CELLS) / CELLS) if paid else threshold
        derived["mean_clean"] = limit
        lower = np.array([[cdf_bound(label, -1, band) for label in row] for row in seen])
        votes, sets = mine.sum(axis=1)[:, None], lower <= limit
        counts = np.array([[np.bincount(label, minlength=CELLS + 1) for label in row] for row in seen])
        observation = {"counts": counts}
    else:
        scores = np.array([cdf_bound(row, 1, band) for row in mine])
        rank, threshold = threshold_of(scores, level)
        most = most_total(threshold) if paid else math.floor(threshold * DRAWS * CELLS)
        derived["largest_total"] = most
        votes = np.array([np.bincount(row, minlength=CELLS + 1) for row in mine])
        totals = seen.sum(axis=2)
        observation, sets = {"totals": totals}, totals <= most
    spent = {"clean_draws": "0.01", "attacked_draws": "0.01"} if paid else {}
    calibrated = Calibrated(
        method="cas", score="lac", alpha="0.2", radius="0.125", sigma="0.25", trials=DRAWS, n=n, rank=rank,
        threshold=threshold, budget=items("0.2", **spent), derived=derived,
        calibration={"labels": labels, "scores": scores, "votes": votes}, reasoning=PLAIN_LAYER,
    )  # fmt: skip
    return _run(calibrated, observation, sets, truth)
