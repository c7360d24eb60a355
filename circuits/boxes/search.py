"""Best-first branch and bound over the corners of a box, for components that have no closed form.

For a target j write N and M for the worlds' sums with x_j true and false, without j's own sensor. P(x_j) rises with its
own sensor, so its upper bound is pos_hi R / (pos_hi R + neg_hi) where R = max N / M over the other sensors; the lower
bound is the same with the roles of N and M exchanged. A node fixes some sensors at one end. For each node

* N and M are enclosed by evaluating the circuit at the least and greatest literal weights, and so are the derivatives
  N_i1, N_i0 (sums with x_i fixed), which are gradients of the same two evaluations;
* where fixing a few variables makes the rest monotone, N_i1 / N_i0 and M_i1 / M_i0 are enclosed more tightly
  (:mod:`neurosym.circuits.boxes.cutset`);
* a sensor in whose direction N_i1 M_i0 - N_i0 M_i1 has one sign is set to its better end;
* from the centre c of the node, changing one sensor at a time changes log N - log M by at most the difference of
  log(rho pos + neg) - log(rho pos_c + neg_c), rho = N_i1 / N_i0, at the two ends of rho's enclosure, for N and for M;
  the sum over the sensors bounds the whole node with an error of second order in the width;
* the corner that this suggests is evaluated and becomes the incumbent if it is better.

The node splits into the two *points* at the ends of one sensor, which is legal because some corner is optimal. Stopping
early leaves a sound bound. All nodes of all rows, targets and sides are rows of one batch.

Rounding: log Z comes from sums of non-negative terms, so its error is a few ulps of the largest logarithm for each
level of the circuit; ``SLACK`` covers logarithms up to 2^10 and 2^9 operations on a path, and is added to every bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.cutset import CutPlan, cut_plan

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component

SLACK = 2.0**-33
"""Added to bounds of log(N / M), 1.2e-10: changes a probability by at most 3e-11."""
LOW, HIGH, FREE = 0, 1, 2
CHUNK_NODES = 4096
WIDTH = 16
"""Open nodes of one problem that are worked on in the same round."""


@dataclass(frozen=True)
class _Weights:
    """Log literal weights of one kind (least, greatest, centre, corner) for a batch of nodes, [b, m]."""

    pos: Tensor
    neg: Tensor


@dataclass(frozen=True)
class _Sums:
    """log N or log M of a batch of nodes, [b], and logs of the sums with x_i true or false, [b, m]."""

    total: Tensor
    on: Tensor
    off: Tensor


@dataclass(frozen=True)
class _Problems:
    """Maximise log N - log M for each problem: its row, its target variable, and the value of x_target in N, [p]."""

    row: Tensor
    target: Tensor
    side: Tensor


def _clamp(weights: _Weights, target: Tensor, value: Tensor) -> _Weights:
    """Literal weights that hold variable ``target`` at ``value`` (bool[b])."""
    index = target[:, None]
    zero = torch.zeros_like(value, dtype=weights.pos.dtype)
    gone = torch.full_like(zero, -torch.inf)
    return _Weights(
        weights.pos.scatter(1, index, torch.where(value, zero, gone)[:, None]),
        weights.neg.scatter(1, index, torch.where(value, gone, zero)[:, None]),
    )


def _log_sum(component: Component, weights: _Weights) -> Tensor:
    with torch.no_grad():
        return component.log_partition(weights.pos, weights.neg)


def _sums(component: Component, weights: _Weights, unknown: float) -> _Sums:
    """Worlds' sum and its derivatives; what the gradient does not tell (weight 0, no world) becomes ``unknown``."""
    with torch.enable_grad():
        pos = weights.pos.detach().clone().requires_grad_(True)
        neg = weights.neg.detach().clone().requires_grad_(True)
        total = component.log_partition(pos, neg)
        grad_pos, grad_neg = torch.autograd.grad(total.sum(), (pos, neg))
    total = total.detach()

    def derivative(grad: Tensor, weight: Tensor) -> Tensor:
        value = total[:, None] + grad.clamp_min(0.0).log() - weight
        known = torch.isfinite(weight) & torch.isfinite(total)[:, None] & torch.isfinite(grad)
        return torch.where(known, value, unknown)

    return _Sums(total, derivative(grad_pos, weights.pos), derivative(grad_neg, weights.neg))


def _difference(a: Tensor, b: Tensor, default: float) -> Tensor:
    """a - b for extended reals, ``default`` where that is undefined."""
    value = a - b
    return torch.where(value.isnan(), default, value)


def _gain(ratio: Tensor, end: _Weights, centre: _Weights) -> Tensor:
    """Change of log(rho pos + neg) from the centre to an end, [b, m]; ``ratio`` is log rho, possibly infinite."""
    finite = ratio.clamp(-1e300, 1e300)
    value = torch.logaddexp(finite + end.pos, end.neg) - torch.logaddexp(finite + centre.pos, centre.neg)
    value = torch.where(ratio == torch.inf, end.pos - centre.pos, value)
    return torch.where(ratio == -torch.inf, end.neg - centre.neg, value)


class _Search:
    def __init__(self, component: Component, box: WeightBox, limit: int) -> None:
        self.component, self.box = component, box
        m, device = box.size, box.pos_lo.device
        plan = cut_plan(component)
        self.plan = plan if plan is None else plan.to(device)
        # a node with A cutset assignments costs 1 + A times as much
        self.limit = max(1, limit if plan is None else limit // (1 + plan.held.shape[2]))
        grid = torch.cartesian_prod(torch.arange(box.rows), torch.arange(m), torch.arange(2)).to(device)
        grid = grid.reshape(-1, 3)
        self.problems = _Problems(grid[:, 0], grid[:, 1], grid[:, 2] == 1)
        count = grid.shape[0]
        self.incumbent = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.spent = torch.zeros(count, dtype=torch.long, device=device)
        self.open_item = torch.arange(count, device=device)
        self.open_bound = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        state = torch.where(box.free[self.problems.row], FREE, LOW).to(torch.int8)
        self.open_state = state.scatter(1, self.problems.target[:, None], LOW)

    def corner(self, row: Tensor, state: Tensor) -> _Weights:
        """Weights of a corner; ``state`` has no FREE entries."""
        pos, neg = self.box.take(row).corner(state == HIGH)
        return _Weights(pos.log(), neg.log())

    def extremes(self, row: Tensor, state: Tensor) -> tuple[_Weights, _Weights, _Weights]:
        """Least, greatest and central weights of nodes."""
        box = self.box.take(row)
        up, free = state == HIGH, state == FREE
        pos, neg = box.corner(up)
        least = _Weights(torch.where(free, box.pos_lo, pos).log(), torch.where(free, box.neg_hi, neg).log())
        most = _Weights(torch.where(free, box.pos_hi, pos).log(), torch.where(free, box.neg_lo, neg).log())
        centre = _Weights(
            torch.where(free, (box.pos_lo + box.pos_hi) / 2, pos).log(),
            torch.where(free, (box.neg_lo + box.neg_hi) / 2, neg).log(),
        )
        return least, most, centre

    def value(self, item: Tensor, weights: _Weights) -> Tensor:
        """log N - log M, [b]."""
        target, side = self.problems.target[item], self.problems.side[item]
        top = _log_sum(self.component, _clamp(weights, target, side))
        bottom = _log_sum(self.component, _clamp(weights, target, ~side))
        return _difference(top, bottom, -torch.inf)

    def tighten(self, item: Tensor, state: Tensor, value: Tensor, high: Tensor, low: Tensor) -> tuple[Tensor, Tensor]:
        """Intersect an enclosure of log N_i1 / N_i0, target held at ``value``, with the cutset's; NaN is unknown."""
        if self.plan is not None:
            cut_high, cut_low = self.cut_ratios(self.plan, item, state, value)
            high, low = torch.fmin(high, cut_high), torch.fmax(low, cut_low)
        return torch.where(high.isnan(), torch.inf, high), torch.where(low.isnan(), -torch.inf, low)

    def cut_ratios(self, plan: CutPlan, item: Tensor, state: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(high, low) of log N_i1 / N_i0 from two corners for each assignment of the cutset, [b, m]."""
        row, target = self.problems.row[item], self.problems.target[item]
        at = (value.long(), target)
        held, signs, alive = plan.held[at], plan.signs[at], plan.alive[at]
        box, free, up = self.box.take(row), state == FREE, state == HIGH
        high = torch.full_like(box.pos_lo, -torch.inf)
        low = torch.full_like(box.pos_lo, torch.inf)
        for a in range(held.shape[1]):
            ends = []
            for direction in (1, -1):
                pos, neg = box.corner(torch.where(free, signs[:, a] * direction > 0, up))
                pos = torch.where(held[:, a] >= 0, (held[:, a] == 1).to(pos.dtype), pos)
                neg = torch.where(held[:, a] >= 0, (held[:, a] == 0).to(neg.dtype), neg)
                sums = _sums(self.component, _Weights(pos.log(), neg.log()), torch.nan)
                ends.append(sums.on - sums.off)
            rises = signs[:, a] > 0
            own_high = torch.where(rises, ends[0], ends[1])
            own_low = torch.where(rises, ends[1], ends[0])
            count = alive[:, a, None]
            own_high = torch.where(own_high.isnan(), torch.inf, own_high)
            own_low = torch.where(own_low.isnan(), -torch.inf, own_low)
            high = torch.where(count, torch.maximum(high, own_high), high)
            low = torch.where(count, torch.minimum(low, own_low), low)
        useless = (held >= 0).any(dim=1) | ~(alive.any(dim=1) & plan.known[target])[:, None]
        return high.masked_fill(useless, torch.inf), low.masked_fill(useless, -torch.inf)

    def expand(self, item: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bound, state with decided sensors fixed, and best sensor to branch on (-1: none left)."""
        row, target, side = self.problems.row[item], self.problems.target[item], self.problems.side[item]
        least, most, centre = self.extremes(row, state)
        n_least, n_most = (
            _sums(self.component, _clamp(w, target, side), g) for w, g in ((least, -torch.inf), (most, torch.inf))
        )
        m_least, m_most = (
            _sums(self.component, _clamp(w, target, ~side), g) for w, g in ((least, -torch.inf), (most, torch.inf))
        )
        free = state == FREE
        n_up, n_down = n_most.on - n_least.off, n_least.on - n_most.off
        m_up, m_down = m_most.on - m_least.off, m_least.on - m_most.off
        n_up, n_down = self.tighten(item, state, side, n_up, n_down)
        m_up, m_down = self.tighten(item, state, ~side, m_up, m_down)
        rising = (n_least.on + m_least.off >= n_most.off + m_most.on) | (n_down >= m_up)
        falling = (n_most.on + m_most.off <= n_least.off + m_least.on) | (n_up <= m_down)
        fixed = torch.where(free & falling, LOW, torch.where(free & rising, HIGH, state)).to(torch.int8)
        plain = _difference(n_most.total, m_least.total, torch.inf)
        plain = torch.where(n_most.total == -torch.inf, -torch.inf, plain)

        box = self.box.take(row)
        low = _Weights(box.pos_lo.log(), box.neg_lo.log())
        high = _Weights(box.pos_hi.log(), box.neg_hi.log())
        rise = _gain(n_up, high, centre) - _gain(m_down, high, centre)
        drop = _gain(n_down, low, centre) - _gain(m_up, low, centre)
        rise, drop = (torch.where(x.isnan(), torch.inf, x) for x in (rise, drop))
        best = torch.where(falling, drop, torch.where(rising, rise, torch.maximum(rise, drop)))
        middle = self.value(item, centre)
        path = middle + torch.where(free, best, 0.0).sum(dim=1)
        bound = torch.minimum(plain, torch.where(path.isnan(), torch.inf, path))

        corner = torch.where(fixed == FREE, (rise >= drop).to(torch.int8), fixed)
        self.incumbent.scatter_reduce_(0, item, self.value(item, self.corner(row, corner)), "amax")
        doubt = torch.where(fixed == FREE, rise + drop, -torch.inf)
        doubt = torch.where(doubt.isnan(), torch.inf, doubt)
        branch = torch.where((fixed == FREE).any(dim=1), doubt.argmax(dim=1), -1)
        return bound, fixed, branch

    def choose(self) -> Tensor:
        """Open nodes of this round, bool: of each problem the WIDTH best that its budget allows."""
        order = torch.argsort(self.open_bound, descending=True, stable=True)
        order = order[torch.argsort(self.open_item[order], stable=True)]
        sorted_item = self.open_item[order]
        place = torch.arange(order.numel(), device=order.device)
        start = torch.ones_like(sorted_item, dtype=torch.bool)
        start[1:] = sorted_item[1:] != sorted_item[:-1]
        rank = place - torch.cummax(torch.where(start, place, 0), dim=0).values
        allowed = (self.limit - self.spent[sorted_item]).clamp(0, WIDTH)
        chosen = torch.zeros_like(start)
        chosen[order] = rank < allowed
        return chosen

    def round(self) -> bool:
        """Work on the best open nodes; False when nothing is left to do."""
        chosen = self.choose()
        if not bool(chosen.any()):
            return False
        item, state, parent = self.open_item[chosen], self.open_state[chosen], self.open_bound[chosen]
        found = [
            self.expand(item[k : k + CHUNK_NODES], state[k : k + CHUNK_NODES])
            for k in range(0, item.numel(), CHUNK_NODES)
        ]
        bound, fixed, branch = (torch.cat(column) for column in zip(*found, strict=True))
        self.spent.scatter_add_(0, item, torch.ones_like(item))
        bound = torch.minimum(bound, parent)
        split = branch >= 0
        item, fixed, bound, index = item[split], fixed[split], bound[split], branch[split][:, None]
        states = [fixed.scatter(1, index, end) for end in (LOW, HIGH)]
        keep = ~chosen
        self.open_item = torch.cat([self.open_item[keep], item, item])
        self.open_state = torch.cat([self.open_state[keep], *states])
        self.open_bound = torch.cat([self.open_bound[keep], bound, bound])
        live = self.open_bound > self.incumbent[self.open_item] + SLACK
        self.open_item, self.open_state = self.open_item[live], self.open_state[live]
        self.open_bound = self.open_bound[live]
        return True

    def result(self) -> ComponentBounds:
        """Bounds of the probabilities from the incumbents and what is still open."""
        while self.round():
            pass
        best = self.incumbent.scatter_reduce(0, self.open_item, self.open_bound, "amax")
        closed = torch.ones_like(self.problems.side).scatter(0, self.open_item, False)
        odds = (best + 2 * SLACK).reshape(self.box.rows, self.box.size, 2)
        exact = closed.reshape(odds.shape).all(dim=2)
        upper = torch.sigmoid(odds[..., 1] + self.box.pos_hi.log() - self.box.neg_hi.log())
        lower = torch.sigmoid(self.box.pos_lo.log() - self.box.neg_lo.log() - odds[..., 0])
        # infinite odds against infinite odds: only [0, 1] is known
        known = ~(upper.isnan() | lower.isnan())
        return ComponentBounds(torch.where(known, lower, 0.0), torch.where(known, upper, 1.0), exact & known)


def search_extrema(component: Component, box: WeightBox, budget: int) -> ComponentBounds:
    """Sound bounds within a budget of nodes, exact where the search finished.

    Args:
        component: any component; no row may contain impossible evidence.
        box: weights of its literals.
        budget: work for each row, shared equally by its 2 m problems: one unit for a node, and one for each cutset
            assignment at that node; one node at least for each problem.
    """
    if box.rows == 0:
        return ComponentBounds(box.pos_lo, box.pos_hi, torch.ones_like(box.free))
    limit = max(1, budget // (2 * box.size))
    return _Search(component, box, limit).result()
