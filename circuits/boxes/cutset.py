"""Tight enclosures of derivatives: fix a few variables so that the rest becomes monotone.

Let N be the worlds' sum with the target held, N_i1 and N_i0 the sums with x_i held too. If fixing the variables of a
set S (a *cutset*; Pearl, "Probabilistic reasoning in intelligent systems", 1988, section 4.4.2) at s leaves factors that
are log-supermodular after flips, N_i1,s / N_i0,s is monotone in every other sensor and two corners give its exact range.
N_i1 / N_i0 = sum_s N_i1,s / sum_s N_i0,s lies between the least and the greatest of these ratios. Unlike the quotient of
separate bounds of N_i1 and N_i0, this range does not grow with sensors that are far from i.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.monotone import MAX_SCOPE, table_signs

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component

MAX_CUTSET = 3
"""Largest cutset besides the target: 2^3 assignments, two corners each."""
MAX_TRIALS = 40
"""Sets tried for each target."""
NOT_HELD = -1

Table = tuple[tuple[int, ...], NDArray[np.float64]]


@dataclass(frozen=True)
class CutPlan:
    """Assignments of cutsets for each value of each target, over the m variables of a component.

    Attributes:
        held: int8[2, m, A, m]; value at which a variable is held (target and cutset), or NOT_HELD.
        signs: int8[2, m, A, m]; flips that make the remaining factors log-supermodular.
        alive: bool[2, m, A]; the hard rules leave a world (padding counts as not alive).
        known: bool[m]; a cutset was found for the target.
    """

    held: Tensor
    signs: Tensor
    alive: Tensor
    known: Tensor

    def to(self, device: torch.device) -> CutPlan:
        """The plan on a device."""
        return CutPlan(*(x.to(device) for x in (self.held, self.signs, self.alive, self.known)))


def _restrict(tables: Sequence[Table], held: Mapping[int, int]) -> list[Table]:
    found = []
    for scope, table in tables:
        index = tuple(held.get(v, slice(None)) for v in scope)
        rest = tuple(v for v in scope if v not in held)
        if rest:
            found.append((rest, np.asarray(table[index])))
    return found


def _signs(tables: Sequence[Table], size: int, held: Mapping[int, int]) -> NDArray[np.int8] | None:
    """Signs of the factors restricted to ``held``; None if not monotone."""
    return table_signs(range(size), _restrict(tables, held))


def _cuts(tables: Sequence[Table], target: int) -> list[tuple[int, ...]]:
    """Sets to try, small ones first, made of the variables with the most neighbours in large or frustrated factors."""
    weight: dict[int, int] = {}
    for scope, _ in tables:
        for v in scope:
            weight[v] = weight.get(v, 0) + len(scope) - 1
    order = sorted((v for v in weight if v != target), key=lambda v: (-weight[v], v))[:6]
    sets: list[tuple[int, ...]] = []
    for size in range(MAX_CUTSET + 1):
        sets += itertools.combinations(order, size)
    return sets[:MAX_TRIALS]


def _assignments(
    tables: Sequence[Table], size: int, target: int
) -> list[tuple[dict[int, int], NDArray[np.int8]]] | None:
    """All (held, signs) of the first cutset that works for both values of the target."""
    for cut in _cuts(tables, target):
        found = []
        for values in itertools.product((0, 1), repeat=len(cut) + 1):
            held = dict(zip((target, *cut), values, strict=True))
            signs = _signs(tables, size, held)
            if signs is None:
                break
            found.append((held, signs))
        else:
            return found
    return None


def cut_plan(component: Component) -> CutPlan | None:
    """Cutsets for all targets of a component; None if there are none, or a factor is too large for a table."""
    m = len(component.variables)
    place = {v: i for i, v in enumerate(component.variables)}
    if any(len(f.scope) > MAX_SCOPE for f in component.factors):
        return None
    tables = [(tuple(place[v] for v in f.scope), f.log_table()) for f in component.factors]
    plans = [_assignments(tables, m, j) for j in range(m)]
    most = max((len(p) // 2 for p in plans if p is not None), default=0)
    if most == 0:
        return None
    held = torch.full((2, m, most, m), NOT_HELD, dtype=torch.int8)
    signs = torch.ones((2, m, most, m), dtype=torch.int8)
    alive = torch.zeros((2, m, most), dtype=torch.bool)
    for j, plan in enumerate(plans):
        count = [0, 0]
        for values, flips in plan or []:
            t = values[j]
            a, count[t] = count[t], count[t] + 1
            for v, value in values.items():
                held[t, j, a, v] = value
            signs[t, j, a] = torch.from_numpy(flips)
            alive[t, j, a] = True
    pos = torch.where(held == 0, 0.0, 1.0).to(torch.float64)
    neg = torch.where(held == 1, 0.0, 1.0).to(torch.float64)
    with torch.no_grad():
        alive &= component.log_partition(pos.log(), neg.log()) > -torch.inf
    return CutPlan(held, signs, alive, torch.tensor([p is not None for p in plans]))
