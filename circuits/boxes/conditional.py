"""Exact extrema of P(x_target = 1 | circuit) over a box of literal weights, with a witness for each.

With all sensors but one fixed the probability is a quotient of two affine functions of that sensor, hence monotone in
it: some corner of the box is optimal. Where few sensors move, all corners are looked at in one table
(:mod:`neurosym.circuits.boxes.tables`); elsewhere sensors are fixed one by one where the sign of a derivative is certain,
and branch and bound closes the rest (:mod:`neurosym.circuits.boxes.search`). Finding the extremum is NP-hard in general,
so the search has a budget; stopped early, it leaves a sound interval and its gap. The answer names a corner for each
end, so that one pass over the circuit re-checks the claim without any of this code (:func:`check_witness`).

Only the odds pos / neg of a literal's weights matter. A box of both weights is therefore the segment between
(pos_lower, neg_upper) and (pos_upper, neg_lower).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.cutset import CutPlan
from neurosym.circuits.boxes.rounding import SMALLEST_TOTAL, probability_slack
from neurosym.circuits.boxes.search import EXACT_GAP, TABLE_ENTRIES, Problems, search
from neurosym.circuits.boxes.tables import (
    CornerSums,
    Workspace,
    scaled,
    structure,
    sums_from_circuit,
    sums_from_worlds,
    world_table,
)
from neurosym.circuits.circuit import Circuit
from neurosym.errors import InputError

MAX_DIRECT_WORK = 1 << 22
"""Largest work for a table before any sensor is fixed, in entries of node tables for each row."""
CHUNK_VALUES = 1 << 21
"""Doubles in one table of corners."""
FEW = 10
"""With at most so many moving sensors, tables below each node beat the transform of the table of worlds."""
MAX_SPLIT = 10
"""Sensors over the whole of [0, 1] for which the existence of a world is decided by trying both ends."""


@dataclass(frozen=True)
class ConditionalBounds:
    """Bounds of P(x_target = 1) over a box, target by target; T is absent where one target was given as a number.

    Attributes:
        lower, upper: float64[..., T]; sound, widened by more than the rounding error of their computation.
        exact: bool[..., T]; both ends are within the tolerance of an attained value.
        witness_lower, witness_upper: bool[..., T, m]; the corner (True: upper end) that attains the end, up to ``gap``.
        nodes: int64[..., T]; corners and search nodes looked at.
        gap: float64[..., T]; the larger distance from an end to the value at its witness; infinite where the box may
            contain impossible evidence (then the bounds are [0, 1]).
    """

    lower: Tensor
    upper: Tensor
    exact: Tensor
    witness_lower: Tensor
    witness_upper: Tensor
    nodes: Tensor
    gap: Tensor


def _empty(rows: int, targets: int, m: int, device: torch.device) -> ConditionalBounds:
    shape = (rows, targets)
    return ConditionalBounds(
        lower=torch.zeros(shape, dtype=torch.float64, device=device),
        upper=torch.ones(shape, dtype=torch.float64, device=device),
        exact=torch.zeros(shape, dtype=torch.bool, device=device),
        witness_lower=torch.zeros((*shape, m), dtype=torch.bool, device=device),
        witness_upper=torch.zeros((*shape, m), dtype=torch.bool, device=device),
        nodes=torch.zeros(shape, dtype=torch.long, device=device),
        gap=torch.full(shape, torch.inf, dtype=torch.float64, device=device),
    )


def weight_box(
    num_variables: int, lower: Tensor, upper: Tensor, neg_lower: Tensor | None = None, neg_upper: Tensor | None = None
) -> tuple[WeightBox, torch.Size]:
    """The box [n, m] of literal weights, checked, and the leading shape.

    Raises:
        InputError: wrong shape, NaN, a negative or infinite weight, a probability above 1, lower above upper.
    """
    if (neg_lower is None) != (neg_upper is None):
        raise InputError("conditional_bounds: give both neg_lower and neg_upper, or neither")
    given = {"lower": lower, "upper": upper, "neg_lower": neg_lower, "neg_upper": neg_upper}
    ends = {k: torch.as_tensor(v).detach().to(torch.float64) for k, v in given.items() if v is not None}
    most = 1.0 if neg_lower is None else torch.finfo(torch.float64).max
    shapes = {x.shape for x in ends.values()}
    shape = ends["lower"].shape
    if len(shapes) > 1 or not shape or shape[-1] != num_variables:
        seen = ", ".join(f"{k} {tuple(x.shape)}" for k, x in ends.items())
        raise InputError(
            f"conditional_bounds: all ends must have one shape whose last dimension are the {num_variables} variables, "
            f"not {seen}"
        )
    flat = {k: x.reshape(-1, num_variables) for k, x in ends.items()}
    for name, x in flat.items():
        wrong = ~((x >= 0) & (x <= most))
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.nonzero()[0])
            limits = "[0, 1]" if most == 1.0 else "[0, inf)"
            raise InputError(
                f"conditional_bounds: {name}: row {row}, column {column} is {float(x[row, column])}; it must lie in {limits}"
            )
    for first, second in (("lower", "upper"), ("neg_lower", "neg_upper")):
        if first in flat and bool((flat[first] > flat[second]).any()):
            row, column = (int(i) for i in (flat[first] > flat[second]).nonzero()[0])
            raise InputError(f"conditional_bounds: row {row}, column {column}: {first} is above {second}; swap them")
    low, high = flat["lower"], flat["upper"]
    neg_at_low, neg_at_high = flat.get("neg_upper", 1.0 - low), flat.get("neg_lower", 1.0 - high)
    free = (low < high) | (neg_at_low > neg_at_high)
    return WeightBox(low, neg_at_low, high, neg_at_high, free), shape[:-1]


def surely_possible(circuit: Circuit, box: WeightBox) -> Tensor:
    """Rows in which Z > 0 everywhere in the box, bool[n]; True is a proof, False is one unless many sensors span [0, 1].

    Z is multilinear and >= 0, so if it vanishes in the box it does so where every sensor that can reach 0 or 1 does.
    The other sensors do not matter then, and only those that can reach both ends leave a choice.
    """
    pinned_off, pinned_on = box.pos_lo == 0, box.neg_hi == 0
    both = pinned_off & pinned_on
    pos, neg = (~pinned_off).to(torch.float64), (~pinned_on).to(torch.float64)
    possible = torch.zeros(box.rows, dtype=torch.bool, device=box.pos_lo.device)
    # a pair of weights that vanishes together leaves no world
    possible |= ~((box.pos_lo == 0) & (box.neg_lo == 0) | (box.pos_hi == 0) & (box.neg_hi == 0)).any(dim=1)
    count = both.sum(dim=1)
    possible &= count <= MAX_SPLIT
    for size in torch.unique(count[possible]).tolist():
        rows = ((count == size) & possible).nonzero()[:, 0]
        columns = both[rows].nonzero()[:, 1].reshape(rows.numel(), size)
        numbers = torch.arange(1 << size, device=rows.device)
        bits = ((numbers[:, None] >> torch.arange(size, device=rows.device)) & 1).to(torch.float64)
        at = columns.expand(numbers.numel(), -1, -1)
        ends = bits[:, None, :].expand(-1, rows.numel(), -1)
        shape = (numbers.numel(), rows.numel(), box.size)
        on, off = (x[rows].expand(shape).contiguous() for x in (pos, neg))
        with torch.no_grad():
            log_z = circuit.log_wmc(on.scatter(2, at, ends), off.scatter(2, at, 1.0 - ends))
        possible[rows] = (log_z > -torch.inf).all(dim=0)
    return possible


def _sums(circuit: Circuit, target: int, box: WeightBox, columns: Sequence[int], space: Workspace) -> CornerSums:
    if len(columns) > FEW or box.size <= FEW:
        worlds = world_table(circuit)
        if worlds is not None:
            return sums_from_worlds(circuit, worlds.to(box.pos_lo.device), target, box, columns, space)
    return sums_from_circuit(circuit, target, box, columns)


def _fits(circuit: Circuit, target: int, columns: Sequence[int], budget: int) -> bool:
    """Whether all corners are looked at in a table at once."""
    if 1 << len(columns) > TABLE_ENTRIES * budget:
        return False
    moving = sum(1 << v for v in columns) | 1 << target
    if structure(circuit).work(moving) <= MAX_DIRECT_WORK:
        return True
    return world_table(circuit) is not None


def _end(sums: CornerSums, weights: tuple[Tensor, Tensor], largest: bool, space: Workspace) -> tuple[Tensor, ...]:
    """Extremum of P over all corners for one end of the target's own sensor: (value, corner's number, right), [b]."""
    b = sums.on.shape[0]
    pos, neg = (x[:, None, None] for x in scaled(*weights))
    yes, total = (space.take(name, sums.on, *sums.on.shape) for name in ("yes", "total"))
    torch.mul(sums.off, neg, out=total)
    torch.mul(sums.on, pos, out=yes)
    total += yes
    flat = total.view(b, -1)
    right = (flat.amin(dim=1) >= SMALLEST_TOTAL) & torch.isfinite(flat.amax(dim=1))
    yes /= total
    value, number = yes.view(b, -1).max(dim=1) if largest else yes.view(b, -1).min(dim=1)
    return value, number, right


def _by_tables(
    circuit: Circuit,
    place: tuple[int, int],
    box: WeightBox,
    rows: Tensor,
    columns: list[int],
    out: ConditionalBounds,
    space: Workspace,
) -> Tensor:
    """Fill a column of ``out``; ``place`` is (target, column). bool[rows], False where digits were lost."""
    target, at = place
    part = box.take(rows)
    sums = _sums(circuit, target, part, columns, space)
    slack = probability_slack(sums.steps)
    lower, low_number, right = _end(sums, (part.pos_lo[:, target], part.neg_lo[:, target]), False, space)
    upper, high_number, also = _end(sums, (part.pos_hi[:, target], part.neg_hi[:, target]), True, space)
    right = right & also
    good = rows[right]
    out.lower[good, at] = (lower[right] - slack).clamp_min(0.0)
    out.upper[good, at] = (upper[right] + slack).clamp_max(1.0)
    for number, witness, top in ((low_number, out.witness_lower, False), (high_number, out.witness_upper, True)):
        corner = torch.zeros((rows.numel(), box.size), dtype=torch.bool, device=rows.device)
        corner[:, columns] = sums.corner(number)
        corner[:, target] = top
        witness[good, at] = corner[right]
    out.nodes[good, at] = 1 << len(columns)
    out.gap[good, at] = 2 * slack
    out.exact[good, at] = True
    return right


def _by_search(
    circuit: Circuit,
    targets: Tensor,
    box: WeightBox,
    left: Tensor,
    budget: int,
    tolerance: float,
    plan: CutPlan | None,
    out: ConditionalBounds,
) -> None:
    """Fill the entries ``left`` (pairs (row, position in targets), int64[q, 2]) of ``out``."""
    rows, at = left.unbind(dim=1)
    problems = Problems(
        rows.repeat_interleave(2),
        targets[at].repeat_interleave(2),
        torch.arange(2, device=rows.device).repeat(rows.numel()) == 1,
    )
    found = search(circuit, box, problems, budget, plan, tolerance)
    ends, gap = found.end.reshape(-1, 2), found.gap.reshape(-1, 2)
    gap = torch.where(gap.isnan(), torch.inf, gap).amax(dim=1)
    corner = found.corner.scatter(1, problems.target[:, None], problems.side[:, None]).reshape(-1, 2, box.size)
    out.lower[rows, at], out.upper[rows, at] = ends[:, 0], ends[:, 1]
    out.witness_lower[rows, at], out.witness_upper[rows, at] = corner[:, 0], corner[:, 1]
    out.nodes[rows, at] = found.spent.reshape(-1, 2).sum(dim=1)
    out.gap[rows, at], out.exact[rows, at] = gap, gap <= max(tolerance, EXACT_GAP)


def box_extrema(
    circuit: Circuit,
    targets: Sequence[int],
    box: WeightBox,
    possible: Tensor,
    budget: int,
    tolerance: float,
    cuts: Callable[[], CutPlan | None] | None = None,
    table_budget: int | None = None,
) -> ConditionalBounds:
    """:func:`conditional_bounds` on a checked box [n, m]; rows that are not ``possible`` (bool[n]) become [0, 1].

    ``cuts`` makes the cutsets that the search may use; it is called when there is something to search. ``table_budget``
    (``budget`` if it is None) limits the tables that are tried before any search.
    """
    device = box.pos_lo.device
    out = _empty(box.rows, len(targets), box.size, device)
    rows = possible.nonzero()[:, 0]
    if rows.numel() == 0:
        return out
    left = [torch.zeros((0, 2), dtype=torch.long, device=device)]
    space = Workspace()
    for at, target in enumerate(targets):
        free = box.free[rows].clone()
        free[:, target] = False
        union = free.any(dim=0)
        if int(union.sum()) <= FEW:
            # one table for all rows: a sensor that does not move in some of them has two equal ends there
            masks, member = union[None], torch.zeros_like(rows)
        else:
            masks, member = torch.unique(free, dim=0, return_inverse=True)
        for g in range(masks.shape[0]):
            columns, own = masks[g].nonzero()[:, 0].tolist(), rows[member == g]
            if _fits(circuit, target, columns, budget if table_budget is None else table_budget):
                pieces = own.split(max(1, CHUNK_VALUES >> (len(columns) + 1)))
                right = [_by_tables(circuit, (target, at), box, piece, columns, out, space) for piece in pieces]
                own = own[~torch.cat(right)]
            left.append(torch.stack([own, torch.full_like(own, at)], dim=1))
    rest = torch.cat(left)
    if rest.numel():
        numbers = torch.tensor(list(targets), device=device)
        _by_search(circuit, numbers, box, rest, budget, tolerance, None if cuts is None else cuts(), out)
    return out


def conditional_bounds(
    circuit: Circuit,
    target: int | Sequence[int] | None,
    lower: Tensor,
    upper: Tensor,
    *,
    neg_lower: Tensor | None = None,
    neg_upper: Tensor | None = None,
    budget: int = 4096,
    tolerance: float = 1e-6,
) -> ConditionalBounds:
    """Minimum and maximum of P(x_target = 1 | circuit) over a box, each with a corner that attains it.

    Args:
        circuit: a circuit over m variables.
        target: a variable, several (T of them), or None for all.
        lower, upper: ends of the probabilities p_i of independent variables (weights p and 1 - p), float[..., m]; with
            ``neg_lower`` and ``neg_upper``, ends of the weights of the positive literals.
        neg_lower, neg_upper: ends of the weights of the negative literals, float[..., m].
        budget: search nodes for each row, target and side; up to 256 corners of a table count as one node, so tables
            of 2^20 corners fit the default.
        tolerance: the search stops where the gap is no larger.

    Returns:
        Sound bounds; ``exact`` where the gap is within the tolerance. [0, 1] and not exact where the box contains (or
        may contain) evidence without a world.

    Raises:
        InputError: a target that is no variable, or a box that is none; names row and column.
    """
    m = circuit.num_variables
    targets = list(range(m)) if target is None else [target] if isinstance(target, int) else list(target)
    for t in targets:
        if not 0 <= t < m:
            raise InputError(f"conditional_bounds: target {t} is no variable; the circuit has variables 0 to {m - 1}")
    box, shape = weight_box(m, lower, upper, neg_lower, neg_upper)
    found = box_extrema(circuit, targets, box, surely_possible(circuit, box), budget, tolerance)
    parts = {}
    for f in fields(found):
        value = getattr(found, f.name)
        value = value.reshape(*shape, *value.shape[1:])
        if isinstance(target, int):
            value = value.squeeze(len(shape))
        parts[f.name] = value
    return ConditionalBounds(**parts)
