"""Whether a box contains evidence that the hard rules leave no world for.

The worlds' sum Z is multilinear and >= 0 in the sensors, so if it vanishes anywhere in the box it vanishes at a corner
where every sensor that can reach 0 or 1 does. What matters is then only which literals the box can *pin*.

If every hard factor is the conjunction of its projections on pairs (implications, exclusions, every set closed under
minimum and maximum; Baker and Pixley, 1975), this is a 2-SAT question: the pins are consistent iff unit propagation
from them meets no contradiction, so it is enough to look at pairs of pins in the transitive closure (Aspvall, Plass,
Tarjan, 1979). Otherwise Z at the least literal weights decides; when that is 0 too, the answer is "perhaps".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.monotone import MAX_SCOPE, implied_literals

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component, Factor


def _pair_clauses(factor: Factor, place: dict[int, int]) -> list[tuple[int, int]] | None:
    """Forbidden pairs of literals (2 v + value) whose absence is equivalent to the hard factor; None if there are none.

    A pair (l, l) forbids the literal l itself.
    """
    at = [place[v] for v in factor.scope]
    if factor.group is not None and factor.group.kind == "at_most_one":
        return [(2 * a + 1, 2 * b + 1) for i, a in enumerate(at) for b in at[i + 1 :]]
    if len(at) > MAX_SCOPE:
        form = implied_literals(factor.formula) if factor.formula is not None else None
        if form is None:
            return None
        local = dict(zip(factor.names, at, strict=True))
        (head, positive), body = form
        first = 2 * local[head] + int(positive)
        return [(first, 2 * local[name] + int(not p)) for name, p in body]
    allowed = np.isfinite(factor.log_table())
    implied = np.ones_like(allowed)
    k, clauses = len(at), []
    for i in range(k):
        for j in range(i, k):
            others = tuple(a for a in range(k) if a not in (i, j))
            shadow = np.asarray(allowed.any(axis=others))
            shape = tuple(2 if a in (i, j) else 1 for a in range(k))
            implied &= shadow.reshape(shape)
            if i == j:
                clauses += [(2 * at[i] + b, 2 * at[i] + b) for b in (0, 1) if not shadow[b]]
            else:
                clauses += [(2 * at[i] + a, 2 * at[j] + b) for a in (0, 1) for b in (0, 1) if not shadow[a, b]]
    return clauses if bool((implied == allowed).all()) else None


def conflicts(component: Component) -> NDArray[np.bool_] | None:
    """Pairs of literals (2 v + value) that no world of the hard factors has together, bool[2m, 2m].

    None if some hard factor says more than its pairs do.
    """
    place = {v: i for i, v in enumerate(component.variables)}
    m = len(place)
    follows = np.eye(2 * m, dtype=bool)
    for factor in component.factors:
        if factor.log_violation != -np.inf:
            continue
        clauses = _pair_clauses(factor, place)
        if clauses is None:
            return None
        for a, b in clauses:
            follows[a, b ^ 1] = follows[b, a ^ 1] = True
    for middle in range(2 * m):
        follows[follows[:, middle]] |= follows[middle]
    negated = np.arange(2 * m) ^ 1
    clash = follows[:, negated]
    # l follows from l: (l, not l) clash trivially, but one sensor pins one of them at a time
    clash[np.arange(2 * m), negated] = False
    return clash


def surely_possible(component: Component, box: WeightBox) -> Tensor:
    """Rows in which Z > 0 everywhere in the box, bool[n]; True is a proof, False is not."""
    if not any(f.log_violation == -np.inf for f in component.factors):
        # no hard factor: weights of a sensor never vanish together unless a categorical class does, which has neg = 1
        return torch.ones(box.rows, dtype=torch.bool, device=box.pos_lo.device)
    pinned = torch.stack([box.pos_lo == 0, box.neg_hi == 0], dim=-1).reshape(box.rows, -1)
    clash = conflicts(component)
    if clash is not None:
        table = torch.as_tensor(clash, dtype=torch.float64, device=box.pos_lo.device)
        flags = pinned.to(torch.float64)
        return ((flags @ table) * flags).sum(dim=1) == 0
    possible = ~pinned.any(dim=1)
    rest = torch.nonzero(~possible)[:, 0]
    if rest.numel():
        part = box.take(rest)
        with torch.no_grad():
            log_z = component.log_partition(part.pos_lo.log(), part.neg_hi.log())
        possible[rest] = log_z > -torch.inf
    return possible
