"""Best-first branch and bound over the corners of a box, for circuits that no shortcut covers.

A problem is a row, a target variable and a side: maximise N / M, where N and M are the worlds' sums with the target at
the side's value and at the other, without its own sensor. P(x_j) rises with its own sensor, so its upper bound is
pos_hi R / (pos_hi R + neg_hi) with R = max N / M over the other sensors; the lower bound swaps N and M.

A node fixes some sensors (:mod:`neurosym.circuits.boxes.enclosure` bounds it and fixes more). When few sensors are left,
all of its corners are looked at in one table (:mod:`neurosym.circuits.boxes.tables`); otherwise it splits into the two
*points* at the ends of one sensor, which is legal because some corner is optimal. Every evaluated corner may become the
incumbent, which is kept as a witness. Stopping early leaves a sound bound. All nodes of all problems are rows of one batch.

Rounding: ``SLACK`` covers logarithms up to 2^10 with a relative error of 2^-44 for log Z, and is added to every bound.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.cutset import CutPlan, cut_plan
from neurosym.circuits.boxes.enclosure import FREE, HIGH, LOW, Expanded, Nodes, expand
from neurosym.circuits.boxes.rounding import SMALLEST_TOTAL
from neurosym.circuits.boxes.tables import structure, sums_from_circuit
from neurosym.circuits.circuit import Circuit

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component

SLACK = 2.0**-33
"""Added to bounds of log(N / M), 1.2e-10: changes a probability by at most 3e-11."""
EXACT_GAP = 2e-10
"""Bounds no farther than this from an attained value are called exact; what SLACK leaves is below it."""
CHUNK_NODES = 4096
WIDTH = 16
"""Open nodes of one problem that are worked on in the same round."""
TABLE_ENTRIES = 256
"""Corners in a table that cost about as much as one node of the search."""
MAX_TABLE_WORK = 1 << 26
"""Largest work for the table of one node, in entries of node tables (a quarter of a second)."""
MAX_TABLE_FREE = 20


@dataclass(frozen=True)
class Problems:
    """Maximise log N - log M for each problem.

    Attributes:
        row, target: int64[p].
        side: bool[p], value of the target in N.
    """

    row: Tensor
    target: Tensor
    side: Tensor


@dataclass(frozen=True)
class Found:
    """Result of a search, one entry for each problem.

    Attributes:
        best: log N - log M at the best corner found, [p].
        bound: no corner is above it (rounding included), [p].
        corner: bool[p, m], the best corner (True: upper end); the target's own entry is False.
        spent: int64[p], nodes worked on.
        own: log-odds of the side's value by the target's own sensor at its better end, [p].
        side: as in :class:`Problems`.
    """

    best: Tensor
    bound: Tensor
    corner: Tensor
    spent: Tensor
    own: Tensor
    side: Tensor

    @property
    def reached(self) -> Tensor:
        """Probability of the side's value at the best corner, [p]; NaN where infinite odds meet."""
        return torch.sigmoid(self.best + self.own)

    @property
    def end(self) -> Tensor:
        """Bound of P(target true), [p]: upper for side True, lower for side False; 1 or 0 where infinite odds meet."""
        odds = self.bound + self.own
        value = torch.sigmoid(torch.where(self.side, odds, -odds))
        return torch.where(value.isnan(), self.side.to(value.dtype), value)

    @property
    def gap(self) -> Tensor:
        """How far the bound may be from the extremum, [p]; NaN where nothing is known."""
        return torch.sigmoid(self.bound + self.own) - self.reached


class _Search:
    def __init__(
        self, circuit: Circuit, plan: CutPlan | None, box: WeightBox, problems: Problems, limit: int, tolerance: float
    ) -> None:
        device = box.pos_lo.device
        self.circuit, self.box, self.problems, self.tolerance = circuit, box, problems, tolerance
        self.plan = plan if plan is None else plan.to(device)
        # a node with A cutset assignments costs 1 + A times as much
        self.limit = max(1, limit if plan is None else limit // (1 + plan.held.shape[2]))
        count = problems.row.numel()
        state = torch.where(box.free[problems.row], FREE, LOW).to(torch.int8)
        self.open_state = state.scatter(1, problems.target[:, None], LOW)
        self.open_item = torch.arange(count, device=device)
        self.open_bound = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self.incumbent = torch.full((count,), -torch.inf, dtype=torch.float64, device=device)
        self.corner = torch.zeros_like(self.open_state)
        self.spent = torch.zeros(count, dtype=torch.long, device=device)
        self.closed_bound = torch.full_like(self.incumbent, -torch.inf)
        own = box.take(problems.row)
        high, low = (
            x.gather(1, problems.target[:, None])[:, 0]
            for x in (own.pos_hi.log() - own.neg_hi.log(), own.neg_lo.log() - own.pos_lo.log())
        )
        self.own = torch.where(problems.side, high, low)

    def offer(self, item: Tensor, value: Tensor, corner: Tensor) -> None:
        """Make corners incumbents where they are better."""
        best = self.incumbent.scatter_reduce(0, item, value, "amax")
        better = (value == best[item]) & (value > self.incumbent[item])
        self.incumbent = best
        self.corner[item[better]] = corner[better]

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

    def work(self, item: Tensor, state: Tensor) -> Expanded:
        """Expand nodes in chunks."""
        pieces = []
        for k in range(0, item.numel(), CHUNK_NODES):
            some = item[k : k + CHUNK_NODES]
            row = self.problems.row[some]
            nodes = Nodes(
                self.box.take(row), self.problems.target[some], self.problems.side[some], state[k : k + CHUNK_NODES]
            )
            pieces.append(expand(self.circuit, self.plan, nodes))
        names = ("bound", "fixed", "branch", "corner", "value")
        return Expanded(*(torch.cat([getattr(piece, name) for piece in pieces]) for name in names))

    def affordable(self, item: Tensor, free: Tensor) -> Tensor:
        """Nodes whose corners fit what is left of their problem's budget, first come first served; int64[s]."""
        count = free.sum(dim=1)
        chosen: list[int] = []
        left: dict[int, int] = {}
        for b in (count <= MAX_TABLE_FREE).nonzero()[:, 0].tolist():
            problem, cost = int(item[b]), -(-(1 << int(count[b])) // TABLE_ENTRIES)
            budget = left.get(problem, self.limit - int(self.spent[problem]))
            if cost <= budget:
                left[problem] = budget - cost
                chosen.append(b)
        return torch.tensor(chosen, dtype=torch.long, device=item.device)

    def tables(self, item: Tensor, state: Tensor) -> Tensor:
        """Look at all corners of the nodes that are small enough; bool[b], those that are done with."""
        done = torch.zeros_like(item, dtype=torch.bool)
        free = state == FREE
        index = self.affordable(item, free)
        if index.numel() == 0:
            return done
        keys = torch.cat([self.problems.target[item[index], None], free[index].long()], dim=1)
        groups, member = torch.unique(keys, dim=0, return_inverse=True)
        for g in range(groups.shape[0]):
            target, columns = int(groups[g, 0]), groups[g, 1:].nonzero()[:, 0]
            moving = sum(1 << v for v in columns.tolist()) | 1 << target
            cost = structure(self.circuit).work(moving)
            if cost > MAX_TABLE_WORK:
                continue
            for rows in index[member == g].split(max(1, (1 << 21) // cost)):
                done[rows] = self.table(item[rows], state[rows], target, columns)
                units = torch.full_like(rows, -(-(1 << columns.numel()) // TABLE_ENTRIES))
                self.spent.scatter_add_(0, item[rows], units)
        return done

    def table(self, item: Tensor, state: Tensor, target: int, columns: Tensor) -> Tensor:
        """One group of nodes with the same target and free sensors; bool[b], False where digits were lost."""
        box, up = self.box.take(self.problems.row[item]), state == HIGH
        free = state == FREE
        pos, neg = box.corner(up)
        part = WeightBox(pos, neg, torch.where(free, box.pos_hi, pos), torch.where(free, box.neg_hi, neg), free=free)
        sums = sums_from_circuit(self.circuit, target, part, columns.tolist())
        side = self.problems.side[item][:, None]
        on, off = sums.on.flatten(1), sums.off.flatten(1)
        top, bottom = torch.where(side, on, off), torch.where(side, off, on)
        right = ((top + bottom >= SMALLEST_TOTAL) & torch.isfinite(top + bottom)).all(dim=1)
        value, number = (top.log() - bottom.log()).max(dim=1)
        corner = torch.where(free, LOW, state).to(torch.int8)
        corner[:, columns] = sums.corner(number).to(torch.int8)
        value = torch.where(right, value, -torch.inf)
        self.offer(item, value, corner)
        return right

    def round(self) -> bool:
        """Work on the best open nodes; False when nothing is left to do."""
        chosen = self.choose()
        if not bool(chosen.any()):
            return False
        item, state, parent = self.open_item[chosen], self.open_state[chosen], self.open_bound[chosen]
        found = self.work(item, state)
        self.offer(item, found.value, found.corner)
        self.spent.scatter_add_(0, item, torch.ones_like(item))
        bound = torch.minimum(found.bound, parent)
        # what is left of a node without free sensors is the corner that was offered
        split = (found.branch >= 0) & self.live(item, bound)
        index = split.nonzero()[:, 0]
        index = index[~self.tables(item[index], found.fixed[index])]
        item, fixed, bound, branch = item[index], found.fixed[index], bound[index], found.branch[index][:, None]
        states = [fixed.scatter(1, branch, end) for end in (LOW, HIGH)]
        keep = ~chosen
        self.open_item = torch.cat([self.open_item[keep], item, item])
        self.open_state = torch.cat([self.open_state[keep], *states])
        self.open_bound = torch.cat([self.open_bound[keep], bound, bound])
        live = self.live(self.open_item, self.open_bound)
        self.open_item, self.open_state = self.open_item[live], self.open_state[live]
        self.open_bound = self.open_bound[live]
        return True

    def live(self, item: Tensor, bound: Tensor) -> Tensor:
        """Nodes that may still raise the answer by more than the tolerance, bool; what is dropped is remembered."""
        best, own = self.incumbent[item], self.own[item]
        near = torch.sigmoid(bound + own) <= torch.sigmoid(best + own) + self.tolerance
        dropped = (bound <= best + SLACK) | near
        lost = torch.where(dropped & (bound > best + SLACK), bound, -torch.inf)
        self.closed_bound = self.closed_bound.scatter_reduce(0, item, lost, "amax")
        return ~dropped

    def result(self) -> Found:
        while self.round():
            pass
        left = self.incumbent.scatter_reduce(0, self.open_item, self.open_bound, "amax")
        bound = torch.maximum(left, self.closed_bound) + 2 * SLACK
        return Found(self.incumbent, bound, self.corner == HIGH, self.spent, self.own, self.problems.side)


def search(
    circuit: Circuit,
    box: WeightBox,
    problems: Problems,
    limit: int,
    plan: CutPlan | None = None,
    tolerance: float = 0.0,
) -> Found:
    """Solve problems within a budget.

    Args:
        circuit: any circuit; no row of ``box`` may contain impossible evidence.
        box: weights of its literals, [n, m].
        problems: what to maximise.
        limit: nodes for each problem, one at least; a table of corners counts one for each TABLE_ENTRIES of them, and a
            node counts one more for each cutset assignment.
        plan: cutsets, see :func:`neurosym.circuits.boxes.cutset.cut_plan`.
        tolerance: gap of the probability that may stay.
    """
    return _Search(circuit, plan, box, problems, limit, tolerance).result()


def all_problems(rows: int, targets: Tensor) -> Problems:
    """Both sides of every (row, target), side fastest."""
    grid = torch.cartesian_prod(
        torch.arange(rows, device=targets.device), targets, torch.arange(2, device=targets.device)
    )
    grid = grid.reshape(-1, 3)
    return Problems(grid[:, 0], grid[:, 1], grid[:, 2] == 1)


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
    problems = all_problems(box.rows, torch.arange(box.size, device=box.pos_lo.device))
    found = search(component.circuit, box, problems, limit, cut_plan(component))
    shape = (box.rows, box.size, 2)
    ends, exact = found.end.reshape(shape), (found.gap <= EXACT_GAP).reshape(shape).all(dim=2)
    return ComponentBounds(ends[..., 0], ends[..., 1], exact)
