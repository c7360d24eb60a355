"""Bounds of corrected probabilities when every sensor is only known up to an interval.

For each circuit of the mixture and each independent component, the first of these that applies:

1. *monotone*: after flips of sign every factor is log-supermodular, so two corners are exact for all predicates
   (:mod:`neurosym.circuits.boxes.monotone`);
2. *exclusive*: the closed form of the circuit with exactly one true class (:mod:`neurosym.circuits.boxes.exclusive_bounds`);
3. *corners*: every corner of the box, exact (:mod:`neurosym.circuits.boxes.corners`);
   or a table of them for each target (:mod:`neurosym.circuits.boxes.tables`);
4. *search*: branch and bound with a budget, exact if it finishes (:mod:`neurosym.circuits.boxes.search`).

A mixture of circuits has no vertex property: an interior point of the box can beat every corner. Its bounds are the
weighted sums of the circuits' bounds, and are called exact only where all circuits reach theirs at a common corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.conditional import box_extrema
from neurosym.circuits.boxes.corners import MAX_DENSE, MAX_FREE, circuit_extrema, dense_extrema
from neurosym.circuits.boxes.cutset import cut_plan
from neurosym.circuits.boxes.decoupled import antecedent_signs, decoupled_extrema
from neurosym.circuits.boxes.exclusive_bounds import exclusive_extrema
from neurosym.circuits.boxes.exclusive_plan import exclusive_plan
from neurosym.circuits.boxes.monotone import monotone_signs
from neurosym.circuits.boxes.simplex import tighten
from neurosym.circuits.boxes.support import surely_possible
from neurosym.circuits.boxes.tables import MAX_WORLDS
from neurosym.circuits.compile import CompiledKnowledge, Component, Part, as_compiled
from neurosym.circuits.component import CircuitName, ClassKind
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase

BoundName = Literal["exact", "decoupled"]
UNKNOWN = 2
"""Direction of a marginal in a sensor when it is neither known to rise nor known to fall."""
CHUNK_VALUES = 1 << 22
"""Circuit nodes times rows worked on at once."""


@dataclass(frozen=True)
class Bounds:
    """Sound bounds of the corrected probabilities over a box of sensor probabilities.

    Attributes:
        lower, upper: float64[..., V].
        exact: bool[..., V]; both ends are the true extrema (to 1e-9). Ends are rounded to nearest where exact, and
            widened by more than the rounding error of their computation where not.
        gap: float64[..., V]; neither end is farther than this from the true extremum (up to rounding). 0 where exact
            without search; never above the width.
    """

    lower: Tensor
    upper: Tensor
    exact: Tensor
    gap: Tensor | None = None


def _check_box(lower: object, upper: object, num_predicates: int) -> tuple[Tensor, Tensor]:
    """Both ends as float64 tensors [..., V]; raises InputError naming the row and column at fault."""
    ends = [torch.as_tensor(x).detach().to(torch.float64) for x in (lower, upper)]
    for name, end in zip(("lower", "upper"), ends, strict=True):
        if end.ndim == 0 or end.shape[-1] != num_predicates:
            raise InputError(
                f"bounds: {name} has shape {tuple(end.shape)}; its last dimension must be the {num_predicates} predicates"
            )
    low, high = ends
    if low.shape != high.shape:
        raise InputError(
            f"bounds: lower has shape {tuple(low.shape)} and upper {tuple(high.shape)}; give both ends of the same boxes"
        )
    flat = [end.reshape(-1, num_predicates) for end in ends]
    for name, end in zip(("lower", "upper"), flat, strict=True):
        wrong = ~((end >= 0) & (end <= 1))
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.nonzero()[0])
            raise InputError(
                f"bounds: {name}: row {row}, column {column} is {float(end[row, column])}; probabilities lie in [0, 1]"
            )
    crossed = flat[0] > flat[1]
    if bool(crossed.any()):
        row, column = (int(i) for i in crossed.nonzero()[0])
        raise InputError(
            f"bounds: row {row}, column {column}: lower {float(flat[0][row, column])} is above upper "
            f"{float(flat[1][row, column])}; swap them"
        )
    return low, high


def prepare_box(compiled: CompiledKnowledge, lower: Tensor, upper: Tensor) -> tuple[WeightBox, torch.Size]:
    """Literal weights [n, V] of a checked box of sensors, and the shape [..., V] of its ends.

    Categorical classes get the smallest box around their intervals and the simplex.
    """
    size = compiled.kb.num_predicates
    low, high = _check_box(lower, upper, size)
    shape = low.shape
    low, high = low.reshape(-1, size), high.reshape(-1, size)
    if compiled.circuit == "exclusive" and compiled.class_kind == "categorical":
        k = compiled.kb.num_classes
        class_low, class_high = tighten(low[:, :k], high[:, :k])
        low, high = torch.cat([class_low, low[:, k:]], dim=1), torch.cat([class_high, high[:, k:]], dim=1)
    return WeightBox(*compiled.literal_weights(low), *compiled.literal_weights(high), free=low < high), shape


def _monotone_extrema(component: Component, box: WeightBox, signs: NDArray[np.int8]) -> ComponentBounds:
    """Two evaluations: all sensors pushed along the signs, and against them."""
    up = torch.as_tensor(signs > 0, device=box.pos_lo.device)
    possible = surely_possible(component, box)
    with torch.no_grad():
        along = component.marginals(*box.corner(up))
        against = component.marginals(*box.corner(~up))
    lower, upper = torch.where(up, against, along), torch.where(up, along, against)
    # the two circuit passes may cross by an ulp when the box is a point
    return ComponentBounds(
        torch.minimum(lower, upper), torch.maximum(lower, upper), torch.ones_like(box.free), signs
    ).where_possible(possible)


def _general_extrema(component: Component, box: WeightBox, budget: int) -> ComponentBounds:
    """Corners where they are few enough, else tables and search."""
    if box.size <= MAX_DENSE and 1 << box.size <= max(budget, 2):
        return dense_extrema(component, box)
    possible = surely_possible(component, box)
    if box.size <= MAX_WORLDS:
        rows = torch.zeros_like(possible)
    else:
        # many variables of which few move: one evaluation answers for all targets
        free = box.free.sum(dim=1)
        rows = possible & (free <= MAX_FREE) & (2.0**free <= budget)
    found = box_extrema(
        component.circuit,
        range(box.size),
        box,
        possible & ~rows,
        max(1, budget // (2 * box.size)),
        0.0,
        lambda: cut_plan(component),
        table_budget=budget,
    )
    lower, upper, exact, gap = found.lower, found.upper, found.exact, found.gap
    for some in rows.nonzero()[:, 0].split(max(1, CHUNK_VALUES // component.ir.num_nodes)):
        corners = circuit_extrema(component, box.take(some))
        lower[some], upper[some], exact[some] = corners.lower, corners.upper, corners.exact
        gap[some] = 0.0
    return ComponentBounds(lower, upper, exact, gap=gap).where_possible(possible)


def _component_extrema(
    compiled: CompiledKnowledge, component: Component, box: WeightBox, budget: int
) -> ComponentBounds:
    exclusive = compiled.circuit == "exclusive" and component.variables[0] < compiled.kb.num_classes
    categorical = exclusive and compiled.class_kind == "categorical"
    if exclusive:
        plan = exclusive_plan(component, compiled.kb.num_classes)
        if plan is not None:
            found = exclusive_extrema(plan, box, categorical, budget)
            small = box.size <= MAX_DENSE and 1 << box.size <= budget
            if categorical or not small or bool(found.exact.all()):
                return found
    signs = monotone_signs(component.variables, component.factors)
    found = _general_extrema(component, box, budget) if signs is None else _monotone_extrema(component, box, signs)
    if categorical:
        # the box, not the simplex, was searched: exact only if the classes do not move
        fixed = ~box.free[:, : compiled.kb.num_classes].any(dim=1, keepdim=True)
        return ComponentBounds(found.lower, found.upper, found.exact & fixed)
    return found


@dataclass(frozen=True)
class _PartBounds:
    """Bounds of one circuit for all predicates, [n, V], and the direction int8[V, V] of P(j) (row) in sensor i."""

    lower: Tensor
    upper: Tensor
    exact: Tensor
    gap: Tensor
    directions: NDArray[np.int8]


def _part_extrema(
    compiled: CompiledKnowledge, part: Part, box: WeightBox, low: Tensor, high: Tensor, budget: int | None
) -> _PartBounds:
    """``budget`` None asks for the decoupled bounds. Predicates in no component keep their interval."""
    lower, upper, exact, gap = low.clone(), high.clone(), torch.ones_like(box.free), torch.zeros_like(low)
    directions = np.eye(box.size, dtype=np.int8)
    for component in part.components:
        index = torch.tensor(component.variables, device=low.device)
        own = box.columns(index)
        if budget is None:
            found = decoupled_extrema(component, own, compiled.kb.num_classes, range(own.size))
        else:
            found = _component_extrema(compiled, component, own, budget)
        lower[:, index], upper[:, index], exact[:, index] = found.lower, found.upper, found.exact
        gap[:, index] = found.looseness
        at = np.ix_(component.variables, component.variables)
        directions[at] = UNKNOWN if found.signs is None else np.multiply.outer(found.signs, found.signs)
    np.fill_diagonal(directions, 1)
    if part.log_constant == -np.inf:
        inside = torch.as_tensor(part.mentions, device=low.device)
        lower, upper, exact, gap = (
            torch.where(inside, 0.0, lower),
            torch.where(inside, 1.0, upper),
            exact & ~inside,
            torch.where(inside, 1.0, gap),
        )
    return _PartBounds(lower, upper, exact, gap, directions)


def _conflicts(parts: list[tuple[Part, _PartBounds]]) -> NDArray[np.bool_]:
    """Pairs (j, i) for which two circuits that mention j do not agree on the direction of P(j) in sensor i; bool[V, V]."""
    size = parts[0][0].mentions.size
    seen = np.zeros((size, size), dtype=np.int8)
    clash = np.zeros((size, size), dtype=bool)
    for part, found in parts:
        own = np.where(part.mentions[:, None], found.directions, 0).astype(np.int8)
        both = (own != 0) & (seen != 0)
        clash |= both & ((own != seen) | (own == UNKNOWN))
        seen = np.where(own == 0, seen, own).astype(np.int8)
    return clash


def _mix(parts: list[tuple[Part, _PartBounds]], box: WeightBox, low: Tensor, high: Tensor) -> Bounds:
    """Beta-weighted sums over the circuits that mention a predicate."""
    lower, upper, exact = torch.zeros_like(low), torch.zeros_like(high), torch.ones_like(box.free)
    total = sum((part.beta * part.mentions for part, _ in parts), np.zeros(box.size))
    scale = torch.as_tensor(np.where(total > 0, total, 1.0), device=low.device)
    for part, found in parts:
        share = torch.as_tensor(part.beta * part.mentions, device=low.device) / scale
        lower, upper = lower + share * found.lower, upper + share * found.upper
        exact &= found.exact | torch.as_tensor(~part.mentions, device=low.device)
    clash = torch.as_tensor(_conflicts(parts), dtype=torch.float64, device=low.device)
    exact &= box.free.to(torch.float64) @ clash.T == 0
    # of a sum of circuits nothing is known beside its interval; where one circuit speaks, its gap is the answer
    gap = torch.where(exact, 0.0, upper - lower)
    for part, found in parts:
        alone = torch.as_tensor(part.mentions & (total == part.beta), device=low.device)
        gap = torch.where(alone, torch.minimum(found.gap, upper - lower), gap)
    inside = torch.as_tensor(total > 0, device=low.device)
    # sums of a few products: widened by some ulps where they are only bounds
    slack = 2.0**-48 * len(parts)
    lower = torch.where(exact, lower, lower - slack).clamp(0.0, 1.0)
    upper = torch.where(exact, upper, upper + slack).clamp(0.0, 1.0)
    return Bounds(
        torch.where(inside, lower, low),
        torch.where(inside, upper, high),
        torch.where(inside, exact, True),
        torch.where(inside, gap, 0.0),
    )


def bounds(
    knowledge: KnowledgeBase | CompiledKnowledge,
    lower: Tensor,
    upper: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    bound: BoundName = "exact",
    budget: int = 4096,
) -> Bounds:
    """Range of the corrected probability of every predicate over a box of sensor probabilities.

    Args:
        knowledge: knowledge base, or the result of :func:`neurosym.circuits.compile`.
        lower, upper: ends of the sensors' intervals, float[..., V].
        circuit, class_kind: as in :func:`neurosym.circuits.compile`; ignored when compiled already. With categorical
            classes in the exclusive circuit, the range is over the probability vectors inside the class intervals.
        bound: ``exact``, or ``decoupled`` for the published bound (COLEP, Theorem 1): sound for rules class -> concept
            only, and looser.
        budget: largest number of evaluated corners or search nodes for each row and component. In a table of corners,
            which costs far less than as many evaluations, 256 corners of each target count as one.

    Returns:
        float64 bounds on the device of ``lower``. A predicate that no rule mentions keeps its interval, exactly.
        Where the box contains (or may contain) evidence that the hard rules leave no world for: [0, 1], not exact.

    Raises:
        InputError: wrong shape, NaN, a value outside [0, 1], lower above upper, class intervals that hold no
            probability vector (categorical), rules that the decoupled bound is not valid for.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    if bound not in ("exact", "decoupled"):
        raise InputError(f"bound {bound!r} is unknown; use 'exact' or 'decoupled'")
    box, shape = prepare_box(compiled, lower, upper)
    low, high = box.pos_lo, box.pos_hi
    if bound == "decoupled":
        antecedent_signs(compiled)
    parts = [
        (part, _part_extrema(compiled, part, box, low, high, None if bound == "decoupled" else budget))
        for part in compiled.parts
        if part.beta > 0
    ]
    if not parts or low.shape[0] == 0:
        zero = torch.zeros(shape, dtype=torch.float64, device=low.device)
        return Bounds(low.reshape(shape), high.reshape(shape), zero == 0, zero)
    result = _mix(parts, box, low, high)
    gap = torch.zeros_like(result.lower) if result.gap is None else result.gap
    return Bounds(*(x.reshape(shape) for x in (result.lower, result.upper, result.exact, gap)))
