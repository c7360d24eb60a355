"""Sets of RSCP, RSCP+ and CAS at other radii, from the same recorded sums and counts."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from neurosym.certify.verifier.common import Refused, Run, array, budget, real
from neurosym.certify.verifier.means import SLACK, Plan, bounded_sets, flag, lower_tail, plan_of, upper_bounds
from neurosym.certify.verifier.numbers import WORK, as_decimal, shifted

MOST_CHOICES = 16


def _largest(plan: Plan, mean: Decimal, failure: Fraction | None, slack: Decimal) -> int:
    """Largest total that does not refute ``mean``; without a failure, whose mean is not above it."""
    most = plan.draws_test * plan.scale
    mean = min(mean * (1 + slack), Decimal(1))
    if failure is None:
        return math.floor(Fraction(mean) * most)
    allowed, low, high = as_decimal(failure) * (1 - slack), 0, most + 1
    while high - low > 1:  # a total of low does not refute; high does, or is out of reach
        middle = (low + high) // 2
        tail = lower_tail(plan.draws_test - Fraction(middle, plan.scale), plan.draws_test, 1 - mean)
        low, high = (low, middle) if tail <= allowed else (middle, high)
    return low


def _mean(run: Run, plan: Plan) -> Decimal:
    """Largest mean under attack at the radius of ``plan``."""
    certificate = run.certificate
    if certificate.method == "rscp_plus":
        return shifted(Decimal(real(run, "mean_clean")), plan.shift)
    if certificate.method == "rscp":
        return shifted(min(Decimal(certificate.threshold.value), Decimal(1)), plan.shift)
    bounds = sorted(upper_bounds(run, plan))
    return bounds[certificate.rank - 1] if certificate.rank <= certificate.n else Decimal(1)


def choices(run: Run, shift: Fraction) -> list[np.ndarray]:
    """The sets at radius / sigma = ``shift`` that outward rounding allows, bool ``[n, K]`` each."""
    certificate, plan = run.certificate, replace(plan_of(run), shift=shift)
    if certificate.method == "cas" and flag(run, "test_time"):
        return list(bounded_sets(run, plan))
    found = array(run, "observed_totals", len(certificate.classes), "i")
    if certificate.rank > certificate.n:
        return [np.ones(found.shape, dtype=bool)]
    failure = budget(run).get("attacked_draws")
    with localcontext(WORK):
        mean = _mean(run, plan)
        least, most = (_largest(plan, mean, failure, slack) for slack in (Decimal(0), SLACK))
    if most - least > MOST_CHOICES:
        raise Refused("the largest total at another radius is not determined")
    return [found <= total for total in range(least, most + 1)]
