"""Checks of the methods whose sets follow from scores or votes of labels: vanilla, RCP1, BinCP."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np

from neurosym.certify.verifier.common import Refused, Run, array, budget, compare_sets, fraction, integer, ratio, real
from neurosym.certify.verifier.general import shifted_down
from neurosym.certify.verifier.numbers import (
    as_decimal,
    close_from_below,
    limit_below,
    safe_range_below,
)


def same_ratio(run: Run) -> Fraction:
    exact = ratio(run)
    recorded = real(run, "radius_over_sigma")
    if abs(Fraction(recorded) - exact) > exact * Fraction(1, 10**15):
        raise Refused(f"radius_over_sigma is {recorded!r}, but radius / sigma is {float(exact)!r}")
    return exact


def vanilla_numbers(run: Run) -> str:
    """Nothing is promised under attack."""
    if fraction(run.certificate.radius, "radius") != 0:
        raise Refused("vanilla promises nothing under attack, yet a radius is claimed")
    if run.certificate.derived:
        raise Refused("vanilla has no derived numbers")
    return "radius 0, nothing derived"


def only_derived(run: Run, *names: str) -> None:
    extra = sorted(run.certificate.derived.keys() - set(names))
    if extra:
        raise Refused(f"derived.{extra[0]} does not belong to this method")


def rcp1_numbers(run: Run) -> str:
    """The enlarged level: ``a' = Phi(Phi^-1(alpha) - r)``, never larger than the true value."""
    if run.certificate.trials != 1:
        raise Refused(f"RCP1 uses one noise draw for each point, not {run.certificate.trials}")
    only_derived(run, "conformal_alpha", "radius_over_sigma")
    shift, alpha = same_ratio(run), fraction(run.certificate.alpha, "alpha")
    exact = shifted_down(as_decimal(alpha), shift)
    recorded = real(run, "conformal_alpha")
    if not close_from_below(recorded, exact):
        raise Refused(f"conformal_alpha is {recorded!r}, but alpha and radius / sigma give {float(exact)!r}")
    return f"conformal level {recorded!r}"


def score_sets(run: Run) -> str:
    """A label stays when its score is at most the threshold."""
    scores = array(run, "observed_scores", len(run.certificate.classes), "f")
    return compare_sets(run, scores <= run.certificate.threshold.value)


def check_limit(name: str, recorded: float, exact: Decimal) -> None:
    """A recorded lower bound against its 50-digit value."""
    if not close_from_below(recorded, exact):
        raise Refused(f"{name} is {recorded!r}, but the recorded draws, budget and radius give {float(exact)!r}")


def bincp_numbers(run: Run) -> str:
    """p_lower from (k, draws, clean item), p_shifted from radius / sigma, votes_needed from the binomial tail."""
    only_derived(run, "k", "trials_test", "p", "p_lower", "radius_over_sigma", "p_shifted", "votes_needed")
    items, draws = budget(run), run.certificate.trials
    k, draws_test = integer(run, "k"), integer(run, "trials_test")
    if draws < 1 or draws_test < 1 or not 1 <= k <= draws:
        raise Refused(f"k = {k} of {draws} draws, {draws_test} at test: out of range")
    share = real(run, "p")
    # the decimal that the double stands for may lie on either side of it
    ranks = {math.ceil(Fraction(end) * draws) for end in (math.nextafter(share, 0), share, math.nextafter(share, 1))}
    if k not in ranks or not 0 < share < 1:
        raise Refused(f"k = {k} is not the share p = {share!r} of {draws} draws")
    shift = same_ratio(run)
    clean, attacked = (items.get(name, Fraction(0)) for name in ("clean_votes", "attacked_votes"))
    if not (0 < clean < 1 and 0 < attacked < 1):
        raise Refused("a budget item of the votes is missing or out of range")
    lower = limit_below(k, draws, clean)
    check_limit("p_lower", real(run, "p_lower"), lower)
    moved = shifted_down(lower, shift)
    check_limit("p_shifted", real(run, "p_shifted"), moved)
    least, most = safe_range_below(draws_test, moved, as_decimal(attacked))
    needed = integer(run, "votes_needed")
    if not least <= needed <= most:
        raise Refused(f"votes_needed is {needed}, but the binomial tail gives {most}")
    return f"p_lower {float(lower):.12g}, p_shifted {float(moved):.12g}, votes_needed {needed}"


def bincp_sets(run: Run) -> str:
    """A label stays when it has enough votes; without a finite threshold or with none needed every label stays."""
    votes = array(run, "observed_votes", len(run.certificate.classes), "i")
    draws = integer(run, "trials_test")
    bad = np.argwhere((votes < 0) | (votes > draws))
    if len(bad):
        raise Refused(f"row {int(bad[0][0])}: {int(votes[tuple(bad[0])])} votes of {draws} draws")
    needed = integer(run, "votes_needed")
    everything = run.certificate.rank > run.certificate.n or needed == 0
    expected = np.ones(votes.shape, dtype=bool) if everything else votes >= needed
    return compare_sets(run, expected)
