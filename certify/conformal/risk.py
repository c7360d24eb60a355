"""Control of risks other than miscoverage: Learn then Test, and conformal risk control.

Learn then Test (Angelopoulos, Bates, Candes, Jordan & Lei 2021/2025). For each candidate j the null hypothesis is
"risk_j > alpha"; with p-values of the nulls and a test that makes any false rejection with probability at most delta,
``P(all chosen candidates have risk <= alpha) >= 1 - delta`` over the calibration points. Losses need not be monotone.

p-values for the mean of n independent losses in [0, 1], with sum S and mean m:

* binomial, for losses 0 and 1: ``P(Bin(n, alpha) <= S)``, exact;
* Hoeffding-Bentkus (Bates et al. 2021, Proposition 5 and eq. 6 there):
  ``min(exp(-n h(min(m, alpha), alpha)), e P(Bin(n, alpha) <= ceil(S)))``, ``h(a, b) = a ln(a/b) + (1-a) ln((1-a)/(1-b))``.

Conformal risk control (Angelopoulos, Bates, Fisch, Lei & Schuster 2024, Theorem 1). Losses that do not increase from
one candidate to the next and are at most B: the first candidate with ``(S + B) / (n + 1) <= alpha`` has expected loss at
most alpha on a new exchangeable point, provided that the last candidate's loss is at most alpha for sure. For
the loss 1{S_i > threshold} it is the conformal quantile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from neurosym.certify.checks import refuse_rows
from neurosym.certify.conformal.arrays import Array, host
from neurosym.certify.exact import Number, decimal
from neurosym.certify.quantile import level
from neurosym.errors import InputError

PValue = Literal["auto", "binomial", "hoeffding_bentkus"]
Control = Literal["fixed_sequence", "bonferroni"]
_NUDGE = 1e-10  # relative; p-values are moved up by more than the error of the special functions


@dataclass(frozen=True)
class RiskControl:
    """What was tested.

    Attributes:
        p_values: of "risk > alpha" for each candidate, float64 ``[L]``.
        valid: candidates whose risk is at most alpha, all at once with probability ``1 - delta``; bool ``[L]``.
        risks: mean losses, float64 ``[L]``.
        alpha, delta: levels.
    """

    p_values: np.ndarray
    valid: np.ndarray
    risks: np.ndarray
    alpha: float
    delta: float


def check_losses(losses: Array, largest: float = 1.0) -> np.ndarray:
    """Losses as float64 ``[n, L]``.

    Raises:
        InputError: another shape, no rows, or a loss outside ``[0, largest]`` or NaN (named by row).
    """
    table = np.asarray(host(losses), dtype=np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise InputError(f"field 'losses': shape {table.shape}; give one row a point, one column a candidate, [n,L]")
    outside = ~((table >= 0.0) & (table <= largest))
    refuse_rows("losses", table, outside, f"is outside [0, {largest}]", "scale the losses")
    return table


def binomial_p(failures: int | np.ndarray, n: int, alpha: Number) -> np.ndarray:
    """``P(Bin(n, alpha) <= failures)``: exact p-value of "risk > alpha" for losses 0 and 1."""
    from scipy import special

    tail = special.bdtr(np.asarray(failures, dtype=np.float64), n, float(level(alpha)))
    return np.minimum(tail * (1.0 + _NUDGE), 1.0)


def hoeffding_bentkus_p(total: float | np.ndarray, n: int, alpha: Number) -> np.ndarray:
    """p-value of "risk > alpha" from the sum of n independent losses in [0, 1]; see the module.

    The sum is taken to be exact; ``learn_then_test`` rounds it up to the next integer exactly.
    """
    total = np.asarray(total, dtype=np.float64)
    return _hoeffding_bentkus(total, np.ceil(total), n, alpha)


def _hoeffding_bentkus(total: np.ndarray, ceiling: np.ndarray, n: int, alpha: Number) -> np.ndarray:
    from scipy import special

    b = float(level(alpha))
    mean = np.minimum(total / n, b)
    divergence = special.rel_entr(mean, b) + special.rel_entr(1.0 - mean, 1.0 - b)
    hoeffding = np.exp(-n * np.maximum(divergence, 0.0) * (1.0 - _NUDGE)) * (1.0 + _NUDGE)
    return np.minimum(np.minimum(hoeffding, math.e * binomial_p(ceiling, n, alpha)), 1.0)


def _ceiling(column: np.ndarray) -> float:
    """Exact ``ceil`` of a sum: ``fsum`` rounds correctly, so that the sign of its result is that of the sum."""
    values = column.tolist()
    near = round(math.fsum(values))
    return float(near + (math.fsum([*values, -near]) > 0.0))


def loss_p_values(losses: Array, alpha: Number, kind: PValue = "auto") -> np.ndarray:
    """p-value of "risk > alpha" for each candidate, float64 ``[L]``.

    Args:
        losses: ``[n, L]`` in [0, 1], rows independent.
        kind: "auto" is binomial where all losses are 0 or 1.

    Raises:
        InputError: bad losses, or other losses than 0 and 1 with "binomial".
    """
    table = check_losses(losses)
    binary = bool(np.isin(table, (0.0, 1.0)).all())
    if kind not in ("auto", "binomial", "hoeffding_bentkus"):
        raise InputError(f"p-value: {kind!r}; choose auto, binomial or hoeffding_bentkus")
    if kind == "binomial" and not binary:
        raise InputError("field 'losses': binomial p-values need losses 0 and 1; use hoeffding_bentkus")
    total = np.array([math.fsum(column) for column in table.T.tolist()])
    if binary and kind != "hoeffding_bentkus":
        return binomial_p(total, len(table), alpha)
    ceiling = np.array([_ceiling(column) for column in table.T])
    return _hoeffding_bentkus(total, ceiling, len(table), alpha)


def rejected(p_values: np.ndarray, delta: Number, control: Control = "fixed_sequence", starts: int = 1) -> np.ndarray:
    """Nulls rejected with any false rejection having probability at most ``delta``; bool ``[L]``.

    Args:
        control: "bonferroni" compares every p-value with ``delta / L``. "fixed_sequence" goes through the candidates in
            order, comparing with ``delta / starts``, from ``starts`` evenly spaced places, each until its first failure.
    """
    p, limit = np.asarray(p_values, dtype=np.float64), level(delta, "delta")
    if control == "bonferroni":
        return p <= float(limit / max(1, p.size))
    if control != "fixed_sequence":
        raise InputError(f"control: {control!r}; choose fixed_sequence or bonferroni")
    if not 1 <= starts <= max(1, p.size):
        raise InputError(f"starts: {starts} is not between 1 and the number of candidates, {p.size}")
    good, out = p <= float(limit / starts), np.zeros(p.size, dtype=bool)
    for k in range(starts):
        first = k * p.size // starts
        failures = np.flatnonzero(~good[first:])
        out[first : first + int(failures[0]) if failures.size else p.size] = True
    return out


def learn_then_test(
    losses: Array,
    alpha: Number,
    delta: Number,
    *,
    p_value: PValue = "auto",
    control: Control = "fixed_sequence",
    starts: int = 1,
) -> RiskControl:
    """Candidates whose risk is at most alpha, with probability at least ``1 - delta`` all of them.

    Args:
        losses: ``[n, L]`` in [0, 1] on points that chose nothing; for "fixed_sequence" the candidates (columns) are in the
            order of testing, the most promising first, fixed before the losses were seen.
    """
    table = check_losses(losses)
    p = loss_p_values(table, alpha, p_value)
    valid = rejected(p, delta, control, starts)
    return RiskControl(p, valid, table.mean(axis=0), float(level(alpha)), float(level(delta, "delta")))


def conformal_risk_control(losses: Array, alpha: Number, *, largest: Number = 1) -> int | None:
    """First candidate with ``(sum of losses + B) / (n + 1) <= alpha``, compared exactly.

    None if there is no such candidate: then only a last candidate whose loss never exceeds alpha keeps the promise.

    Args:
        losses: ``[n, L]`` in ``[0, B]``, from the least to the most cautious candidate: no row may increase.
        largest: B.

    Raises:
        InputError: a loss out of range, or a row that increases (named).
    """
    top, limit = decimal(largest, "largest"), level(alpha)
    if top <= 0:
        raise InputError(f"largest: {largest} is not above 0")
    table = check_losses(losses, float(top))
    rising = np.zeros(table.shape, dtype=bool)
    rising[:, 1:] = table[:, 1:] > table[:, :-1]
    refuse_rows("losses", table, rising, "is above the loss before it", "order candidates from least to most cautious")
    low, high = 0, table.shape[1]
    while low < high:
        middle = (low + high) // 2
        values, counts = np.unique(table[:, middle], return_counts=True)
        total = sum((Fraction(v) * int(c) for v, c in zip(values.tolist(), counts, strict=True)), Fraction(0))
        if total + top <= limit * (len(table) + 1):
            high = middle
        else:
            low = middle + 1
    return low if low < table.shape[1] else None
