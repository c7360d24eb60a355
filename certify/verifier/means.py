"""Checks of the methods on mean scores and score distributions: RSCP, RSCP+, CAS.

Draws are recorded as counts on a grid or as sums of grid levels, so every number follows from integers: Bentkus' tail
bound from exact binomial sums, bands from Clopper-Pearson limits or the DKW inequality, and the shift by radius / sigma.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache, cached_property

import numpy as np

from neurosym.certify.verifier.common import Refused, Run, array, budget, compare_sets, hex_value, integer, real
from neurosym.certify.verifier.numbers import RELATIVE, WORK, as_decimal, limit_above, limit_below, shifted
from neurosym.certify.verifier.votes import only_derived, same_ratio

MOST_CELLS = 10_000
ULP = Decimal("3e-16")
SLACK = Decimal("1e-9")
"""How far producers move tails, limits and bounds outwards at most (relative)."""


@dataclass(frozen=True)
class Plan:
    """The recorded grid and draws.

    Attributes:
        draws, draws_test: M and M'; levels: of the cells, in units of 1/scale; shift: radius / sigma.
    """

    draws: int
    draws_test: int
    levels: tuple[int, ...]
    scale: int
    shift: Fraction

    @property
    def cells(self) -> int:
        return len(self.levels) - 1

    @cached_property
    def steps(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in itertools.pairwise(self.levels))


def plan_of(run: Run) -> Plan:
    """Grid, draws and ratio, all within their ranges."""
    derived, cells = run.certificate.derived, integer(run, "cells")
    if not 1 <= cells <= MOST_CELLS:
        raise Refused(f"cells is {cells}, not between 1 and {MOST_CELLS}")
    levels, scale = tuple(range(cells + 1)), cells
    if "levels" in derived or "scale" in derived:
        found, scale = derived.get("levels"), integer(run, "scale")
        if not isinstance(found, list) or not all(type(level) is int for level in found):
            raise Refused("derived.levels is no list of integers")
        levels = tuple(level for level in found if type(level) is int)
    ordered = all(a <= b for a, b in itertools.pairwise(levels))
    if len(levels) != cells + 1 or levels[0] != 0 or levels[-1] > scale or not ordered:
        raise Refused(f"the levels do not rise from 0 to at most {scale} in {cells} steps")
    plan = Plan(run.certificate.trials, integer(run, "trials_test"), levels, scale, same_ratio(run))
    if plan.draws < 1 or plan.draws_test < 1:
        raise Refused(f"{plan.draws} draws, {plan.draws_test} at test: at least 1 is needed")
    return plan


@cache
def lower_tail(total: Fraction, trials: int, mean: Decimal) -> Decimal:
    """``min over integers h in (total, trials] of E(h - B)_+ / (h - total)``, B binomial; at most 1 (Bentkus 2004)."""
    if total >= trials or mean <= 0:
        return Decimal(1)
    if total < 0 or mean >= 1:
        return Decimal(0)
    with localcontext(WORK):
        odds, term = mean / (1 - mean), (1 - mean) ** trials
        below, excess, best, gap = Decimal(0), Decimal(0), Decimal(1), -as_decimal(total)
        for h in range(1, trials + 1):
            below += term  # P(B <= h - 1)
            excess += below  # E(h - B)_+
            if h > total:
                ratio = excess / (h + gap)
                if ratio > best and best < 1:  # quasi-convex in h: past the minimum
                    break
                best = min(best, ratio)
            term *= odds * (trials - h + 1) / h
        return best


def _same_limit(recorded: float, plan: Plan, total: int, failure: Fraction) -> None:
    """``recorded`` is the smallest mean that a sum of at most ``total`` refutes."""
    sums, value = Fraction(total, plan.scale), Decimal(recorded)
    if total >= plan.draws * plan.scale:
        if recorded != 1.0:
            raise Refused(f"mean_clean is {recorded!r}, but these draws refute no mean below 1")
        return
    with localcontext(WORK):
        allowed = as_decimal(failure)
        tight = lower_tail(sums, plan.draws, value * (1 - SLACK)) >= allowed * (1 - SLACK)
        if not 0 < value <= 1 or lower_tail(sums, plan.draws, value) > allowed or not tight:
            raise Refused(f"mean_clean is {recorded!r}, which is not the smallest mean that the threshold refutes")


def _same_shift(recorded: float, clean: Decimal, shift: Fraction) -> Decimal:
    with localcontext(WORK):
        exact, value = min(shifted(clean, shift), Decimal(1)), Decimal(recorded)
        if not exact * (1 - ULP) <= value <= exact * (1 + RELATIVE) + Decimal("1e-180"):
            raise Refused(f"mean_attacked is {recorded!r}, but the shift by radius / sigma gives {float(exact)!r}")
        return value


def _largest_total(run: Run, plan: Plan, mean: Decimal, failure: Fraction | None) -> int:
    """``largest_total`` is the largest sum that does not refute ``mean``; without a failure, whose mean is not above it."""
    recorded, most = integer(run, "largest_total"), plan.draws_test * plan.scale
    if not 0 <= recorded <= most:
        raise Refused(f"largest_total is {recorded}, not between 0 and {most}")
    with localcontext(WORK):
        if failure is None:
            right = recorded == math.floor(Fraction(mean) * most)
        else:
            allowed = as_decimal(failure)

            def tail(total: int) -> Decimal:
                return lower_tail(plan.draws_test - Fraction(total, plan.scale), plan.draws_test, 1 - mean)

            loose = recorded < most and tail(recorded + 1) > allowed
            right = not loose and tail(recorded) >= allowed * (1 - SLACK)
    if not right:
        raise Refused(f"largest_total is {recorded}, which is not what the draws, the budget and the radius give")
    return recorded


def _keeps_all(run: Run, truth: bool) -> None:
    if run.certificate.derived.get("keeps_all") is not truth:
        raise Refused(f"derived.keeps_all must be {truth}")


def _clean_total(run: Run, plan: Plan) -> int:
    """The exact total behind the threshold."""
    value, most = run.certificate.threshold.value, plan.draws * plan.scale
    if math.isinf(value):
        return most
    total = round(Fraction(value) * most)
    if total / most != value:
        raise Refused(f"threshold {value!r} is no mean of {plan.draws} draws")
    return total


def mean_numbers(run: Run) -> str:
    """RSCP and RSCP+: the clean limit (RSCP+), its shift, and the largest total that stays."""
    plus = run.certificate.method == "rscp_plus"
    only_derived(
        run, "trials_test", "cells", "scale", "levels", "radius_over_sigma", "mean_attacked", "largest_total", "keeps_all",
        *(("mean_clean",) if plus else ()),
    )  # fmt: skip
    plan, items, total = plan_of(run), budget(run), _clean_total(run, plan_of(run))
    if plus:
        clean = real(run, "mean_clean")
        _same_limit(clean, plan, total, items["clean_draws"])
        start = Decimal(clean)
    else:
        start = min(Decimal(run.certificate.threshold.value), Decimal(1))
    mean = _same_shift(real(run, "mean_attacked"), start, plan.shift)
    most = _largest_total(run, plan, mean, items["attacked_draws"] if plus else None)
    _keeps_all(run, most >= plan.draws_test * plan.scale)
    return f"mean at most {float(mean):.6g} under attack, totals up to {most} of {plan.draws_test * plan.scale}"


def _rows(run: Run, width: int) -> list[list[int]]:
    rows = run.certificate.calibration.votes
    if rows is None:
        raise Refused("calibration.votes is missing")
    for row, counts in enumerate(rows):
        if len(counts) != width or min(counts) < 0:
            raise Refused(f"calibration.votes row {row} is not {width} counts")
    return rows


def mean_scores(run: Run) -> str:
    """Every calibration score is the mean of its total."""
    plan = plan_of(run)
    most = plan.draws * plan.scale
    for row, (counts, text) in enumerate(zip(_rows(run, 1), run.certificate.calibration.scores, strict=True)):
        if counts[0] > most:
            raise Refused(f"calibration.votes row {row}: a total of {counts[0]} out of {most}")
        if counts[0] / most != hex_value(text, "score"):
            raise Refused(f"calibration.scores row {row} is not the mean of the total {counts[0]} over {most}")
    return f"{run.certificate.n} scores recomputed from totals"


def total_sets(run: Run) -> str:
    """A label stays when its total is small enough; without a finite threshold every label stays."""
    plan, found = plan_of(run), array(run, "observed_totals", len(run.certificate.classes), "i")
    bad = np.argwhere((found < 0) | (found > plan.draws_test * plan.scale))
    if len(bad):
        raise Refused(f"row {int(bad[0][0])}: a total of {int(found[tuple(bad[0])])} is out of range")
    full = run.certificate.rank > run.certificate.n
    return compare_sets(run, np.ones(found.shape, dtype=bool) if full else found <= integer(run, "largest_total"))


def flag(run: Run, name: str) -> bool:
    value = run.certificate.derived.get(name)
    if not isinstance(value, bool):
        raise Refused(f"derived.{name} is neither true nor false")
    return value


def _band(run: Run, plan: Plan, draws: int, item: str, upper: bool) -> Callable[[int], Decimal]:
    """Bound of ``P(score >= v)`` under attack by the number of draws >= v."""
    failure, shift = budget(run).get(item), plan.shift if upper else -plan.shift
    binomial = flag(run, "binomial_band")
    width = Decimal(0)
    with localcontext(WORK):
        if failure is not None and not binomial:
            if failure > Fraction(1, 2):
                raise Refused(f"{item} is above 1/2, where the one-sided band is not proved")
            width = (-as_decimal(failure).ln() / (2 * draws)).sqrt()

    @cache
    def bound(count: int) -> Decimal:
        with localcontext(WORK):
            if failure is None or not binomial:
                moved = as_decimal(Fraction(count, draws)) + (width if upper else -width)
                limit = max(Decimal(0), min(Decimal(1), moved))
            else:
                each = failure / plan.cells
                limit = limit_above(count, draws, each) if upper else limit_below(count, draws, each)
            return shifted(limit, shift)

    return bound


def cas_numbers(run: Run) -> str:
    """Flags, and the largest total (calibration time) or the clean limit (test time)."""
    at_test, asymptotic = flag(run, "test_time"), flag(run, "asymptotic")
    only_derived(
        run, "trials_test", "cells", "scale", "levels", "radius_over_sigma", "test_time", "binomial_band", "asymptotic",
        "keeps_all", "mean_clean" if at_test else "largest_total",
    )  # fmt: skip
    plan, items = plan_of(run), budget(run)
    if asymptotic and flag(run, "binomial_band"):
        raise Refused("an asymptotic bound has no band")
    threshold = min(Decimal(run.certificate.threshold.value), Decimal(1))
    if not at_test:
        most = _largest_total(run, plan, threshold, None if asymptotic else items["attacked_draws"])
        _keeps_all(run, most >= plan.draws_test * plan.scale)
        return f"totals up to {most} of {plan.draws_test * plan.scale}"
    limit, total = real(run, "mean_clean"), _clean_total(run, plan)
    if not asymptotic:
        _same_limit(limit, plan, total, items["clean_draws"])
    elif limit != float(threshold):
        raise Refused(f"mean_clean is {limit!r}, but the threshold is {float(threshold)!r}")
    _keeps_all(run, limit >= 1)
    return f"clean mean at most {limit!r}"


def upper_bounds(run: Run, plan: Plan) -> Iterator[Decimal]:
    """Upper CDF bound of each calibration row's counts."""
    bound = _band(run, plan, plan.draws, "clean_draws", True)
    for row, counts in enumerate(_rows(run, plan.cells + 1)):
        if sum(counts) != plan.draws:
            raise Refused(f"calibration.votes row {row} counts {sum(counts)} of {plan.draws} draws")
        above, value = plan.draws, Decimal(0)
        for count, step in zip(counts, plan.steps, strict=False):
            above -= count
            value += step * bound(above)
        yield value / plan.scale


def cas_scores(run: Run) -> str:
    """Calibration scores: means (test time), or upper CDF bounds from the counts of each row."""
    if flag(run, "test_time"):
        return mean_scores(run)
    worst = Decimal(0)
    with localcontext(WORK):
        for row, value in enumerate(upper_bounds(run, plan_of(run))):
            excess = Decimal(hex_value(run.certificate.calibration.scores[row], "score")) - value
            if not -ULP <= excess <= SLACK:
                raise Refused(f"calibration.scores row {row} is not the CDF bound {float(value)!r} of its counts")
            worst = max(worst, excess)
    return f"{run.certificate.n} CDF bounds recomputed, at most {float(worst):.1e} too large (safe)"


def bounded_sets(run: Run, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Labels whose lower CDF bound is at most the clean limit, bool ``[n, K]``: exactly, and up to outward rounding."""
    certificate = run.certificate
    shape = (certificate.test.n, len(certificate.classes), plan.cells + 1)
    found = run.arrays.get("observed_counts")
    if found is None or found.shape != shape or found.dtype.kind != "i":
        raise Refused(f"sets.npz: observed_counts are not integers of shape {shape}")
    if found.size and (found.min() < 0 or not (found.sum(axis=2) == plan.draws_test).all()):
        raise Refused(f"sets.npz: observed_counts do not sum to {plan.draws_test} draws")
    if certificate.rank > certificate.n:
        return np.ones(shape[:2], dtype=bool), np.ones(shape[:2], dtype=bool)
    above = np.cumsum(found[..., ::-1], axis=2)[..., ::-1][..., 1:]
    bound, limit = _band(run, plan, plan.draws_test, "attacked_draws", False), Decimal(real(run, "mean_clean"))
    unit = 1 << (61 - plan.scale.bit_length())  # sums of steps times table entries stay below 2^61
    table = np.zeros(plan.draws_test + 1, dtype=np.int64)
    with localcontext(WORK):
        for count in np.unique(above).tolist():
            table[count] = math.floor(bound(count) * unit)
        value = table[above] @ np.array(plan.steps, dtype=np.int64)
        edge = math.floor(limit * unit * plan.scale)
        margin = math.ceil(SLACK * unit * plan.scale)
    return value <= edge, value <= edge + margin


def cas_sets(run: Run) -> str:
    """Test time: a label stays when the lower CDF bound of its clean mean is at most the clean limit."""
    return compare_sets(run, *bounded_sets(run, plan_of(run))) if flag(run, "test_time") else total_sets(run)
