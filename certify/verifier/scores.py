"""Nonconformity scores of class probabilities in decimals: at a point, and their extremes over boxes.

LAC ``1 - p_y`` (Sadinle et al. 2019); APS (Romano et al. 2020), RAPS (Angelopoulos et al. 2021), SAPS (Huang et al.
2024) with a recorded uniform u; binary APS of one sensor: ``u p`` from p = 1/2 on, ``1 - (1-u) p`` below.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from neurosym.certify.verifier.common import Refused

K_ARY = ("aps", "raps", "saps")
KINDS = ("lac", "binary_aps", *K_ARY)
PENALTY, FREE = Decimal("0.01"), 5  # of RAPS
STEP = Decimal("0.2")  # of SAPS
HALF, ONE = Decimal("0.5"), Decimal(1)
TIE = Decimal("1e-12")  # probabilities closer than this may be ranked either way by double precision


def check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise Refused(f"score {kind!r} is not one this verifier knows")


def _ranked(p_y: Decimal, others: Sequence[Decimal], kind: str, u: Decimal, slack: Decimal) -> Decimal:
    ahead = [p for p in others if p > p_y + slack]
    if kind == "saps":
        top = max([p_y, *others])
        return u * top if not ahead else top + (len(ahead) - 1 + u) * STEP
    value = sum(ahead, Decimal(0)) + u * p_y
    return value + (PENALTY * max(len(ahead) + 1 - FREE, 0) if kind == "raps" else 0)


def at_point(kind: str, p: Sequence[Decimal], label: int, u: Decimal) -> tuple[Decimal, Decimal]:
    """Score of a label, as the range that ties within double precision allow (one value where there are none)."""
    if kind == "lac":
        return ONE - p[label], ONE - p[label]
    if kind == "binary_aps":
        low, high = (_binary(p[label] + step, u) for step in (-TIE, TIE))
        middle = _binary(p[label], u)
        return min(low, middle, high), max(low, middle, high)
    others = [value for c, value in enumerate(p) if c != label]
    values = [_ranked(p[label], others, kind, u, slack) for slack in (-TIE, Decimal(0), TIE)]
    return min(values), max(values)


def _binary(p: Decimal, u: Decimal) -> Decimal:
    return u * p if p >= HALF else ONE - (ONE - u) * p


def least(kind: str, low: Sequence[Decimal], high: Sequence[Decimal], label: int, u: Decimal) -> Decimal:
    """Infimum of the score of a label while each probability runs through its interval."""
    bottom, top = low[label], high[label]
    if kind == "lac":
        return ONE - top
    if kind == "binary_aps":
        return u * max(bottom, HALF) if top >= HALF else ONE - (ONE - u) * top
    others = [value for c, value in enumerate(low) if c != label]
    if kind == "saps":
        rest = max(others, default=Decimal(-1))
        forced = sum(value > top for value in others)
        return u * max(bottom, rest) if not forced else rest + (forced - 1 + u) * STEP
    # between the lower ends of the others the score grows with p_y, so the infimum is at one of them
    candidates = [bottom] + [value for value in others if bottom <= value <= top]
    return min(_ranked(value, others, kind, u, Decimal(0)) for value in candidates)


def greatest(kind: str, low: Sequence[Decimal], high: Sequence[Decimal], label: int, u: Decimal) -> Decimal:
    """Supremum of the score of a label while each probability runs through its interval."""
    if kind == "lac":
        return ONE - low[label]
    if kind == "binary_aps":
        return ONE - (ONE - u) * low[label] if low[label] < HALF else u * high[label]
    others, bottom, top = [value for c, value in enumerate(high) if c != label], low[label], high[label]
    if kind == "saps":
        behind = sum(value > bottom for value in others)
        worst = max(others) + (behind - 1 + u) * STEP if behind else u * top
        return max(u * top, worst)
    # between the upper ends of the others the score grows with p_y: the supremum is at its own upper end, or just
    # below the upper end of another, which then still counts as larger
    values = [_ranked(top, others, kind, u, Decimal(0))]
    for end in (value for value in others if bottom < value <= top):
        ahead = [value for value in others if value >= end]
        penalty = PENALTY * max(len(ahead) + 1 - FREE, 0) if kind == "raps" else 0
        values.append(u * end + sum(ahead, Decimal(0)) + penalty)
    return max(values)
