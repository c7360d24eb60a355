"""Checks of the Levy-Prokhorov method: the enlarged threshold, and sets from it."""

from __future__ import annotations

import math
from fractions import Fraction

from neurosym.certify.schema import Real
from neurosym.certify.verifier.common import Refused, Run, array, compare_sets, fraction
from neurosym.certify.verifier.votes import only_derived


def _enlarged(run: Run) -> float:
    value = run.certificate.derived.get("enlarged_threshold")
    if not isinstance(value, Real):
        raise Refused("derived.enlarged_threshold is missing")
    return value.value


def numbers(run: Run) -> str:
    """The threshold plus the radius, never below their exact sum and at most one double above the nearest."""
    only_derived(run, "enlarged_threshold")
    threshold, recorded = run.certificate.threshold.value, _enlarged(run)
    if math.isinf(threshold):
        if recorded != threshold:
            raise Refused(f"enlarged_threshold is {recorded!r}, but no threshold is finite")
        return "no finite threshold"
    exact = Fraction(threshold) + fraction(run.certificate.radius, "radius")
    highest = math.nextafter(float(exact), math.inf)
    if math.isinf(recorded) or not exact <= Fraction(recorded) <= max(Fraction(highest), exact):
        raise Refused(f"enlarged_threshold is {recorded!r}, but threshold + radius is {float(exact)!r}")
    return f"enlarged threshold {recorded!r}"


def sets(run: Run) -> str:
    """A label stays when its score is at most the enlarged threshold."""
    scores = array(run, "observed_scores", len(run.certificate.classes), "f")
    return compare_sets(run, scores <= _enlarged(run))
