"""Claims about boxes checked by one evaluation, and gradients of bounds with respect to the box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosym.circuits.boxes.conditional import ConditionalBounds, conditional_bounds, weight_box
from neurosym.circuits.circuit import Circuit
from neurosym.errors import InputError

CHECK_TOLERANCE = 1e-9
"""Allowed between a bound and the value at its witness beyond the stated gap: rounding of an evaluation through logs."""


@dataclass(frozen=True)
class WitnessCheck:
    """What an evaluation at the witnesses says.

    Attributes:
        lower, upper: float64[..., T], P(x_target = 1) at the witnesses.
        holds: bool[..., T]; both values lie within the bounds, and within the stated gap (and rounding) of their ends.
            False where the gap is infinite.
    """

    lower: Tensor
    upper: Tensor
    holds: Tensor


def _targets(circuit: Circuit, target: int | Sequence[int] | None) -> list[int]:
    if target is None:
        return list(range(circuit.num_variables))
    return [target] if isinstance(target, int) else list(target)


def _at(circuit: Circuit, targets: list[int], pos: Tensor, neg: Tensor) -> Tensor:
    """P(x_t = 1) with weights [..., T, m], one row for each target; [..., T]."""
    index = torch.tensor(targets, device=pos.device).expand(pos.shape[:-1])[..., None]
    return circuit.marginals(pos, neg).gather(-1, index)[..., 0]


def check_witness(
    circuit: Circuit,
    target: int | Sequence[int] | None,
    lower: Tensor,
    upper: Tensor,
    found: ConditionalBounds,
    *,
    neg_lower: Tensor | None = None,
    neg_upper: Tensor | None = None,
) -> WitnessCheck:
    """Evaluate the circuit once at all witnesses of :func:`conditional_bounds`; shares no code with the search.

    That the value is attained proves the inner side of each bound: no tighter interval is sound, up to the gap.

    Args:
        circuit, target, lower, upper, neg_lower, neg_upper: as given to :func:`conditional_bounds`.
        found: its answer.

    Raises:
        InputError: ends of the wrong shape.
    """
    box, shape = weight_box(circuit.num_variables, lower, upper, neg_lower, neg_upper)
    single = isinstance(target, int)
    targets = _targets(circuit, target)
    ends = [x.reshape(*shape, 1, -1) for x in (box.pos_lo, box.neg_lo, box.pos_hi, box.neg_hi)]
    values = []
    for witness in (found.witness_lower, found.witness_upper):
        at = witness[..., None, :] if single else witness
        pos, neg = torch.where(at, ends[2], ends[0]), torch.where(at, ends[3], ends[1])
        with torch.no_grad():
            value = _at(circuit, targets, pos, neg)
        values.append(value.squeeze(-1) if single else value)
    low, high = values
    inside = (low >= found.lower - CHECK_TOLERANCE) & (high <= found.upper + CHECK_TOLERANCE)
    near = (low - found.lower <= found.gap + CHECK_TOLERANCE) & (found.upper - high <= found.gap + CHECK_TOLERANCE)
    return WitnessCheck(low, high, inside & near & torch.isfinite(found.gap))


def differentiable_bounds(
    circuit: Circuit,
    target: int | Sequence[int] | None,
    lower: Tensor,
    upper: Tensor,
    *,
    budget: int = 4096,
    tolerance: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """Lower and upper end of P(x_target = 1) over a box, with gradients with respect to both ends of the box.

    The extremum is attained at a corner. While that corner stays the best one, the extremum is P at the corner, so its
    gradient is that of one evaluation there (the envelope theorem; Milgrom and Segal, 2002). Where two corners tie, the
    gradient is that of one of them.

    Args:
        circuit: a circuit over m variables.
        target: a variable, several (T of them), or None for all.
        lower, upper: ends of the probabilities, float[..., m].
        budget, tolerance: as for :func:`conditional_bounds`; where the search stops early the values are those at its
            best corners, within the gap of the bounds.

    Returns:
        Two tensors [..., T] (or [...] for one target): P at the witnesses, attained, so not widened for rounding. They
        do not carry the certificate; :func:`conditional_bounds` does.

    Raises:
        InputError: as :func:`conditional_bounds`; a box that may contain evidence without a world, for which there is
            no witness (names the row).
    """
    found = conditional_bounds(circuit, target, lower, upper, budget=budget, tolerance=tolerance)
    none = ~torch.isfinite(found.gap)
    if bool(none.any()):
        row = int(none.reshape(lower.shape[:-1].numel(), -1).any(dim=1).nonzero()[0])
        raise InputError(
            f"differentiable_bounds: row {row}: the box may contain evidence that no world explains; keep hard sensors "
            "away from 0 and 1"
        )
    single = isinstance(target, int)
    targets = _targets(circuit, target)
    values = []
    for witness in (found.witness_lower, found.witness_upper):
        at = witness[..., None, :] if single else witness
        p = torch.where(at, upper[..., None, :], lower[..., None, :])
        value = _at(circuit, targets, p, 1.0 - p)
        values.append(value.squeeze(-1) if single else value)
    return values[0], values[1]
