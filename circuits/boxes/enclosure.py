"""What one pass over a circuit says about a part of a box: a bound, sensors that can be fixed, a promising corner.

N and M are the worlds' sums with the target held at the one value and at the other, without its own sensor. A node
fixes some sensors at one end. For each node

* N and M are enclosed by evaluating the circuit at the least and greatest literal weights, and so are the derivatives
  N_i1, N_i0 (sums with x_i fixed), which the same evaluations give;
* where fixing a few variables makes the rest monotone, N_i1 / N_i0 and M_i1 / M_i0 are enclosed more tightly
  (:mod:`neurosym.circuits.boxes.cutset`);
* a sensor in whose direction N_i1 M_i0 - N_i0 M_i1 has one sign is set to its better end;
* from the centre c of the node, changing one sensor at a time changes log N - log M by at most the difference of
  log(rho pos + neg) - log(rho pos_c + neg_c), rho = N_i1 / N_i0, at the two ends of rho's enclosure, for N and for M;
  the sum over the sensors bounds the whole node with an error of second order in the width;
* the corner that this suggests is evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.cutset import CutPlan
from neurosym.circuits.circuit import Circuit

LOW, HIGH, FREE = 0, 1, 2
Weights = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Nodes:
    """b nodes: their boxes, targets [b], the value bool[b] of the target in N, and the state int8[b, m] of sensors."""

    box: WeightBox
    target: Tensor
    side: Tensor
    state: Tensor


@dataclass(frozen=True)
class Expanded:
    """Bound of log N - log M [b], state with more sensors fixed, sensor to branch on (-1: none), a corner and its value."""

    bound: Tensor
    fixed: Tensor
    branch: Tensor
    corner: Tensor
    value: Tensor


@dataclass(frozen=True)
class _Sums:
    """log N or log M, [b], and logs of the sums with x_i true or false, [b, m]."""

    total: Tensor
    on: Tensor
    off: Tensor


def _hold(weights: Weights, target: Tensor, value: Tensor) -> Weights:
    """Literal weights that hold variable ``target`` at ``value`` (bool[b])."""
    index = target[:, None]
    one = value.to(weights[0].dtype)[:, None]
    return weights[0].scatter(1, index, one), weights[1].scatter(1, index, 1.0 - one)


def _sums(circuit: Circuit, weights: list[Weights]) -> list[_Sums]:
    """Worlds' sums and derivatives of several batches in one pass."""
    pos, neg = (torch.cat(column) for column in zip(*weights, strict=True))
    found = circuit.log_derivatives(pos, neg)
    count = weights[0][0].shape[0]
    pieces = (x.split(count) for x in (found.log_value, found.log_on, found.log_off))
    return [_Sums(*piece) for piece in zip(*pieces, strict=True)]


def log_odds(circuit: Circuit, target: Tensor, side: Tensor, weights: Weights) -> Tensor:
    """log N - log M at given weights, [b]; -inf where both vanish."""
    held = [_hold(weights, target, value) for value in (side, ~side)]
    pos, neg = (torch.cat(column) for column in zip(*held, strict=True))
    with torch.no_grad():
        top, bottom = circuit.log_wmc(pos, neg).chunk(2)
    return _difference(top, bottom, -torch.inf)


def _difference(a: Tensor, b: Tensor, default: float) -> Tensor:
    """a - b for extended reals, ``default`` where that is undefined."""
    value = a - b
    return torch.where(value.isnan(), default, value)


def _gain(ratio: Tensor, end: Weights, centre: Weights) -> Tensor:
    """Change of log(rho pos + neg) from the centre to an end, [b, m]; ``ratio`` is log rho, all weights are logs."""
    finite = ratio.clamp(-1e300, 1e300)
    value = torch.logaddexp(finite + end[0], end[1]) - torch.logaddexp(finite + centre[0], centre[1])
    value = torch.where(ratio == torch.inf, end[0] - centre[0], value)
    return torch.where(ratio == -torch.inf, end[1] - centre[1], value)


def _cut_ratios(circuit: Circuit, plan: CutPlan, nodes: Nodes, value: Tensor) -> tuple[Tensor, Tensor]:
    """(high, low) of log N_i1 / N_i0, the target at ``value``: two corners for each assignment of the cutset, [b, m]."""
    at = (value.long(), nodes.target)
    held, signs, alive = plan.held[at], plan.signs[at], plan.alive[at]
    box, free, up = nodes.box, nodes.state == FREE, nodes.state == HIGH
    weights = []
    for a in range(held.shape[1]):
        for direction in (1, -1):
            pos, neg = box.corner(torch.where(free, signs[:, a] * direction > 0, up))
            pos = torch.where(held[:, a] >= 0, (held[:, a] == 1).to(pos.dtype), pos)
            neg = torch.where(held[:, a] >= 0, (held[:, a] == 0).to(neg.dtype), neg)
            weights.append((pos, neg))
    sums = _sums(circuit, weights)
    high = torch.full_like(box.pos_lo, -torch.inf)
    low = torch.full_like(box.pos_lo, torch.inf)
    for a in range(held.shape[1]):
        ends = [sums[2 * a + i].on - sums[2 * a + i].off for i in (0, 1)]
        rises, count = signs[:, a] > 0, alive[:, a, None]
        own_high, own_low = torch.where(rises, ends[0], ends[1]), torch.where(rises, ends[1], ends[0])
        own_high = torch.where(own_high.isnan(), torch.inf, own_high)
        own_low = torch.where(own_low.isnan(), -torch.inf, own_low)
        high = torch.where(count, torch.maximum(high, own_high), high)
        low = torch.where(count, torch.minimum(low, own_low), low)
    # of the sensors of the cutset itself nothing is learnt
    useless = (held >= 0).any(dim=1) | ~(alive.any(dim=1) & plan.known[nodes.target])[:, None]
    return high.masked_fill(useless, torch.inf), low.masked_fill(useless, -torch.inf)


def _ratios(circuit: Circuit, plan: CutPlan | None, nodes: Nodes, value: Tensor, most: _Sums, least: _Sums) -> Weights:
    """(high, low) of log N_i1 / N_i0 from the enclosures and, if there is one, the cutset."""
    high, low = most.on - least.off, least.on - most.off
    if plan is not None:
        cut_high, cut_low = _cut_ratios(circuit, plan, nodes, value)
        high, low = torch.fmin(high, cut_high), torch.fmax(low, cut_low)
    return torch.where(high.isnan(), torch.inf, high), torch.where(low.isnan(), -torch.inf, low)


def expand(circuit: Circuit, plan: CutPlan | None, nodes: Nodes) -> Expanded:
    """Work on nodes, all of them in one batch."""
    box, target, side, state = nodes.box, nodes.target, nodes.side, nodes.state
    free, up = state == FREE, state == HIGH
    pos, neg = box.corner(up)
    least = torch.where(free, box.pos_lo, pos), torch.where(free, box.neg_hi, neg)
    most = torch.where(free, box.pos_hi, pos), torch.where(free, box.neg_lo, neg)
    centre = (
        torch.where(free, (box.pos_lo + box.pos_hi) / 2, pos),
        torch.where(free, (box.neg_lo + box.neg_hi) / 2, neg),
    )
    n_least, n_most, m_least, m_most = _sums(
        circuit, [_hold(w, target, value) for value in (side, ~side) for w in (least, most)]
    )
    n_up, n_down = _ratios(circuit, plan, nodes, side, n_most, n_least)
    m_up, m_down = _ratios(circuit, plan, nodes, ~side, m_most, m_least)
    rising = (n_least.on + m_least.off >= n_most.off + m_most.on) | (n_down >= m_up)
    falling = (n_most.on + m_most.off <= n_least.off + m_least.on) | (n_up <= m_down)
    fixed = torch.where(free & falling, LOW, torch.where(free & rising, HIGH, state)).to(torch.int8)
    plain = _difference(n_most.total, m_least.total, torch.inf)
    plain = torch.where(n_most.total == -torch.inf, -torch.inf, plain)

    low, high = (box.pos_lo.log(), box.neg_lo.log()), (box.pos_hi.log(), box.neg_hi.log())
    middle = centre[0].log(), centre[1].log()
    rise = _gain(n_up, high, middle) - _gain(m_down, high, middle)
    drop = _gain(n_down, low, middle) - _gain(m_up, low, middle)
    rise, drop = (torch.where(x.isnan(), torch.inf, x) for x in (rise, drop))
    best = torch.where(falling, drop, torch.where(rising, rise, torch.maximum(rise, drop)))
    path = log_odds(circuit, target, side, centre) + torch.where(free, best, 0.0).sum(dim=1)
    bound = torch.minimum(plain, torch.where(path.isnan(), torch.inf, path))

    corner = torch.where(fixed == FREE, (rise >= drop).to(torch.int8), fixed)
    value = log_odds(circuit, target, side, box.corner(corner == HIGH))
    doubt = torch.where(fixed == FREE, rise + drop, -torch.inf)
    doubt = torch.where(doubt.isnan(), torch.inf, doubt)
    branch = torch.where((fixed == FREE).any(dim=1), doubt.argmax(dim=1), -1)
    return Expanded(bound, fixed, branch, corner, value)
