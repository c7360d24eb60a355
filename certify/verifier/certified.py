"""Certified coverage of the un-enlarged set: its counts from the observed statistics, its bound from the counts.

``lower = (L - b) / (1 - b)``: a point is certified by mistake with probability at most b, and L is the Clopper-Pearson
lower limit of the share of certified points.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

from neurosym.certify.verifier import colep
from neurosym.certify.verifier.circuit import Box
from neurosym.certify.verifier.common import Refused, Run, array, fraction, integer, ratio, real
from neurosym.certify.verifier.general import close
from neurosym.certify.verifier.numbers import WORK, as_decimal, limit_below, shifted

MARGIN = Decimal("1e-9")  # outward rounding of producers
TIE = Decimal("1e-13")  # rounding of a double


def certified_coverage(run: Run) -> str:
    """Bound and counts."""
    found = run.certificate.metrics.certified
    if found is None:
        return "none is claimed"
    delta, b = (
        fraction(found.delta, "delta of the certified coverage"),
        fraction(found.point_failure, "point_failure"),
    )
    if not 0 < delta < 1 or not 0 <= b < 1 or not 0 <= found.successes <= found.points:
        raise Refused("counts or failure probabilities are out of range")
    close(found.lower, bound_below(found.successes, found.points, delta, b), "the lower bound")
    if "labels" not in run.arrays or found.points != run.certificate.test.n:
        raise Refused(f"certified coverage is claimed of {found.points} points that are not recorded with labels here")
    least, most = _counts(run, b)
    if not least <= found.successes <= most:
        raise Refused(f"{found.successes} points are said to be certified, but the observed statistics give {most}")
    return f"{found.successes} of {found.points} points recomputed"


def _counts(run: Run, b: Fraction) -> tuple[int, int]:
    """Fewest and most certified points that rounding to the safe side allows."""
    method, labels = run.certificate.method, array(run, "labels", None, "i").tolist()
    if method in ("rcp1", "levy_prokhorov", "vrcp_c", "rscp", "rscp_plus", "cas"):
        raise Refused(f"{method} has no un-enlarged set with a certificate of its own, so no certified coverage")
    if method == "vanilla":
        scores = array(run, "observed_scores", len(run.certificate.classes), "f")
        count = sum(scores[row, label] <= run.certificate.threshold.value for row, label in enumerate(labels))
        return int(count), int(count)
    if not colep.by_boxes(run) and b == 0:
        raise Refused("votes cannot certify a point with failure probability 0")
    if method == "bincp":
        return _bincp(run, labels, b)
    return _colep(run, labels, b)


def _bincp(run: Run, labels: list[int], b: Fraction) -> tuple[int, int]:
    votes = array(run, "observed_votes", len(run.certificate.classes), "i")
    mine = [int(votes[row, label]) for row, label in enumerate(labels)]
    return certified_votes(mine, integer(run, "trials_test"), ratio(run), Decimal(real(run, "p")), b)


def certified_votes(votes: Sequence[int], draws: int, shift: Fraction, share: Decimal, b: Fraction) -> tuple[int, int]:
    """How many of some vote counts certify a probability of ``share`` after the shift: fewest and most."""

    def needed(factor: Decimal) -> int:
        low, high = 0, draws + 1  # the limit grows with the votes
        while low < high:
            middle = (low + high) // 2
            with localcontext(WORK):
                enough = shifted(limit_below(middle, draws, b), -shift) * factor >= share
            low, high = (low, middle) if enough else (middle + 1, high)
        return low

    ends = [needed(factor) for factor in (1 - MARGIN, Decimal(1))]
    counts = [sum(count >= end for count in votes) for end in ends]
    return counts[0], counts[1]


def bound_below(successes: int, points: int, delta: Fraction, b: Fraction) -> Decimal:
    """``(L - b) / (1 - b)``, at least 0."""
    limit = limit_below(successes, points, delta) if points else Decimal(0)
    with localcontext(WORK):
        return max(Decimal(0), (limit - as_decimal(b)) / (1 - as_decimal(b)))


def _colep(run: Run, labels: list[int], b: Fraction) -> tuple[int, int]:
    circuits, kind = colep.circuits_of(run), run.certificate.score
    threshold, uniforms = Decimal(run.certificate.threshold.value), colep.observed_uniforms_of(run)
    boxes = colep.observed_boxes(run) if colep.by_boxes(run) else _clean_boxes(run, b)
    least = most = 0
    with localcontext(WORK):
        for row, (box, label) in enumerate(zip(boxes, labels, strict=True)):
            value, _, closed = colep.greatest_score(circuits, kind, box, label, uniforms[row])
            sure = closed and not circuits.hard and run.certificate.reasoning.bound == "exact"
            least += sure and value <= threshold - MARGIN
            most += value <= threshold + TIE  # what is not confirmed here is not counted
    return least, most


def _clean_boxes(run: Run, b: Fraction) -> list[Box]:
    """Intervals of the vote probabilities over the ball around each point."""
    votes, draws = array(run, "observed_votes", len(run.certificate.predicates), "i"), integer(run, "trials_test")
    each, shift = b / integer(run, "sensor_sides"), ratio(run)
    with localcontext(WORK):
        low = {int(k): shifted(limit_below(int(k), draws, each), -shift) for k in set(votes.ravel().tolist())}
        high = {k: 1 - shifted(limit_below(draws - k, draws, each), -shift) for k in low}
    return [Box([low[k] for k in row], [high[k] for k in row]) for row in votes.tolist()]
