"""The curve over the radius: the same scores or votes read at other radii.

RCP1, BinCP, RSCP, RSCP+ and CAS are recomputed. COLEP's other radii would need every box anew: there only the
certificate's own radius is compared, and the check says so.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np

from neurosym.certify.schema import CurvePoint, Real
from neurosym.certify.verifier import means_curve
from neurosym.certify.verifier.certified import bound_below, certified_votes
from neurosym.certify.verifier.common import Refused, Run, array, budget, fraction, integer, real
from neurosym.certify.verifier.general import close, shifted_down
from neurosym.certify.verifier.numbers import as_decimal, limit_below, safe_range_below

MEANS = ("rscp", "rscp_plus", "cas")


def curve(run: Run) -> str:
    """Every point of the curve that the recorded statistics determine."""
    points, method = run.certificate.metrics.curve, run.certificate.method
    if not points:
        return "no curve"
    for point in points:
        _own_radius(run, point)
        if method == "rcp1":
            _rcp1(run, point)
        elif method == "bincp":
            _bincp(run, point)
        elif method in MEANS:
            _means(run, point)
        elif method != "colep":
            raise Refused(f"{method} has no curve over the radius")
    if method == "colep":
        return "compared at the certificate's radius only; the other points are not re-derived"
    return f"{len(points)} radii recomputed"


def _own_radius(run: Run, point: CurvePoint) -> None:
    found = run.certificate.metrics
    if fraction(point.radius, "curve radius") != fraction(run.certificate.radius, "radius"):
        return
    certified = None if found.certified is None else found.certified.lower
    pairs = (
        ("mean set size", point.mean_size, found.mean_size),
        ("coverage", point.coverage, found.coverage),
        ("certified coverage", point.certified, certified),
    )
    for name, drawn, measured in pairs:
        if drawn is not None and (measured is None or drawn.value != measured.value):
            raise Refused(f"the curve's {name} at the certificate's radius is not the measured one")


def _ratio(run: Run, point: CurvePoint) -> Fraction:
    radius, sigma = fraction(point.radius, "curve radius"), fraction(run.certificate.sigma, "sigma")
    if radius < 0 or sigma <= 0:
        raise Refused(f"curve radius {point.radius} without noise, or negative")
    return radius / sigma


def _facts(run: Run, point: CurvePoint, choices: list[np.ndarray]) -> None:
    """Mean size and coverage of one of the sets that outward rounding allows."""
    labels = array(run, "labels", None, "i") if "labels" in run.arrays else None
    error: Refused | None = None
    for sets in choices:
        n = len(sets)
        try:
            _agree(point.mean_size, Fraction(int(sets.sum()), max(n, 1)), f"mean set size at radius {point.radius}")
            if labels is None or not n:
                _agree(point.coverage, None, f"coverage at radius {point.radius}")
            else:
                hit = int(sets[np.arange(n), labels].sum())
                _agree(point.coverage, Fraction(hit, n), f"coverage at radius {point.radius}")
            return
        except Refused as found:
            error = error or found
    if error is not None:
        raise error


def _agree(recorded: Real | None, exact: Fraction | None, what: str) -> None:
    if recorded is None:
        return
    if exact is None:
        raise Refused(f"the curve's {what} is recorded, but there are no test labels")
    close(recorded, as_decimal(exact), f"the curve's {what}")


def _rcp1(run: Run, point: CurvePoint) -> None:
    certificate, shift = run.certificate, _ratio(run, point)
    if point.certified is not None:
        raise Refused("RCP1 has no un-enlarged set, so no certified coverage on the curve")
    alpha, n = fraction(certificate.alpha, "alpha"), certificate.n
    level = Fraction(shifted_down(as_decimal(alpha), shift)) if shift else alpha
    ranks = {math.ceil((n + 1) * (1 - level * factor)) for factor in (1, 1 - Fraction(1, 10**10))}
    scores = sorted(map(float.fromhex, certificate.calibration.scores))
    observed = array(run, "observed_scores", len(certificate.classes), "f")
    _facts(run, point, [observed <= (scores[rank - 1] if rank <= n else math.inf) for rank in sorted(ranks)])


def _means(run: Run, point: CurvePoint) -> None:
    if point.certified is not None:
        raise Refused(f"{run.certificate.method} claims no certified coverage, so none on the curve")
    _facts(run, point, means_curve.choices(run, _ratio(run, point)))


def _bincp(run: Run, point: CurvePoint) -> None:
    certificate, shift, items = run.certificate, _ratio(run, point), budget(run)
    draws, votes = integer(run, "trials_test"), array(run, "observed_votes", len(run.certificate.classes), "i")
    moved = shifted_down(limit_below(integer(run, "k"), certificate.trials, items["clean_votes"]), shift)
    least, most = safe_range_below(draws, moved, as_decimal(items["attacked_votes"]))
    full = certificate.rank > certificate.n
    _facts(run, point, [np.full(votes.shape, True) if full else votes >= t for t in range(least, most + 1)])
    if point.certified is None:
        return
    claim = certificate.metrics.certified
    if claim is None or "labels" not in run.arrays:
        raise Refused("the curve claims certified coverage, the certificate none")
    labels = array(run, "labels", None, "i")
    mine = [int(votes[row, label]) for row, label in enumerate(labels)]
    b, delta = fraction(claim.point_failure, "point_failure"), fraction(claim.delta, "delta")
    counts = certified_votes(mine, draws, shift, Decimal(real(run, "p")), b)
    error: Refused | None = None
    for count in range(counts[0], counts[1] + 1):
        try:
            close(
                point.certified, bound_below(count, len(mine), delta, b), f"the curve's bound at radius {point.radius}"
            )
            return
        except Refused as found:
            error = found
    if error is not None:
        raise error
