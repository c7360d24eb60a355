"""The same calibration read at another radius: curves over the radius cost no new network or circuit evaluation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from neurosym.certify.exact import Number, to_text
from neurosym.certify.methods import MEANS, bincp, colep, method
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.certify.records import Calibrated
from neurosym.certify.smoothing import radius_over_sigma, rcp1_level
from neurosym.errors import InputError


def with_radius(calibrated: Calibrated, radius: Number) -> Calibrated:
    """The predictor that the same calibration data give at ``radius``, all else equal.

    RCP1 moves its level and so its threshold; BinCP its votes needed; COLEP from votes its tables of boxes; RSCP, RSCP+
    and CAS their bounds. Notes are left out: they speak of the radius of the calibration.

    Raises:
        InputError: boxes and noise-free methods, which hold for one radius only.
    """
    text = to_text(radius_over_sigma(radius, 1))
    if calibrated.method == "rcp1":
        level = rcp1_level(calibrated.alpha, radius, calibrated.sigma)
        derived: dict[str, Any] = {
            "conformal_alpha": float(level),
            "radius_over_sigma": float(radius_over_sigma(radius, calibrated.sigma)),
        }
        return replace(
            calibrated,
            radius=text,
            rank=conformal_rank(calibrated.n, level),
            threshold=conformal_quantile(calibrated.calibration["scores"], level),
            derived=derived,
            notes=(),
        )
    if calibrated.method in MEANS:
        return replace(method(calibrated.method).moved(calibrated, radius), notes=())
    shares = {item.name: item.amount for item in calibrated.budget}
    if calibrated.method == "bincp":
        trials_test, p = int(calibrated.derived["trials_test"]), float(calibrated.derived["p"])
        _, derived = bincp.votes_plan(
            calibrated.alpha,
            radius,
            calibrated.sigma,
            calibrated.trials,
            trials_test,
            p,
            shares[bincp.CLEAN],
            shares[bincp.ATTACKED],
        )
        return replace(calibrated, radius=text, derived=derived, notes=())
    if calibrated.method == "colep" and "votes" in calibrated.calibration:
        ratio = float(radius_over_sigma(radius, calibrated.sigma))
        lower, upper = colep.vote_tables(
            calibrated.trials,
            int(calibrated.derived["trials_test"]),
            ratio,
            float(calibrated.derived["attacked_failure_per_side"]),
            float(calibrated.derived["clean_failure_per_side"]),
        )
        moved: dict[str, Any] = {
            **calibrated.derived,
            "radius_over_sigma": ratio,
            "attacked_lower": tuple(lower.tolist()),
            "attacked_upper": tuple(upper.tolist()),
        }
        return replace(calibrated, radius=text, derived=moved, notes=())
    raise InputError(f"method {calibrated.method}: its evidence holds for radius {calibrated.radius} only")
