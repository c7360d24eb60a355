"""Closed forms of the marginals for the two shapes that rule sets of classifiers have.

*Star*: every constraint mentions at most one predicate besides a common centre q (a concept and the classes that imply
it). With T_i the 2x2 factor of leaf i and S_i(b) = sum_a w_i(a) T_i[a, b],

    P(q=b) proportional to w_q(b) u(b) prod_i S_i(b),      P(x_i=1) = sum_b P(q=b) w_i(1) T_i[1, b] / S_i(b),

which for rules ``class_i -> q`` of one weight is the product form of COLEP's star components.

*Mixture*: exactly one (or at most one) member c of a group is true, and given c every constraint is a cube (a literal
or a conjunction of literals) with a factor t = exp(-w) off the cube, no two cubes of a class sharing a variable. With
r = prod of the literal probabilities of a cube and D = t + (1-t) r,

    P(c) proportional to (pos_c / neg_c) prod_cubes D,

two matrix products for the whole batch. For ``class -> concept`` rules D = q_k + (1-q_k) e^-w.

Both are plain differentiable expressions without logarithms of weights that may be 0. Rows where a hard rule makes a
divisor 0 (or the sum underflows) go to the general circuit, which is right everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.columns import Columns
from neurosym.circuits.compilers.eliminate import condition, split_hard_conjunction
from neurosym.circuits.factors import MAX_TABLE_VARIABLES, Factor
from neurosym.logic.formula import And, Not, Var

SMALLEST = {torch.float64: 1e-150, torch.float32: 1e-15}
"""Weights and sums below this go to the general circuit; well above the smallest number of the type, so that products
of two such numbers and their derivatives do not underflow."""
ROWS = 4096
"""Rows worked on at once: keeps temporaries of a wide mixture in tens of megabytes."""

General = Callable[[Tensor, Tensor], Tensor]
Fast = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def split_rows(pos: Tensor, neg: Tensor, ok: Tensor, fast: Fast, general: General) -> Tensor:
    """Closed form where it applies, circuit elsewhere.

    Args:
        pos, neg: literal weights [B, m].
        ok: bool[B], rows the closed form may try.
        fast: returns marginals [B, m] and a bool[B] that says which rows came out right.
    """
    while True:
        every = bool(ok.all())
        good = None if every else ok.nonzero()[:, 0]
        out, fine = fast(pos, neg) if good is None else fast(pos[good], neg[good])
        if bool(fine.all()):
            break
        ok = ok.clone()
        ok[(~fine).nonzero()[:, 0] if good is None else good[~fine]] = False
    if good is None:
        return out
    bad = (~ok).nonzero()[:, 0]
    return torch.zeros_like(pos).index_copy(0, good, out).index_copy(0, bad, general(pos[bad], neg[bad]))


@dataclass
class _Constants:
    """Host arrays, copied to a device and dtype on first use there."""

    host: dict[str, NDArray[np.generic]]
    _made: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = field(default_factory=dict)

    def at(self, like: Tensor) -> dict[str, Tensor]:
        key = (like.device, like.dtype)
        if key not in self._made:
            # tensors made in inference mode could not be saved for a later backward pass
            with torch.inference_mode(False):
                self._made[key] = {
                    name: torch.as_tensor(
                        array, device=like.device, dtype=like.dtype if array.dtype == np.float64 else None
                    )
                    for name, array in self.host.items()
                }
        return self._made[key]


class Star:
    """Closed form of a star component."""

    kind = "star"

    def __init__(self, num_variables: int, centre: int, pairs: NDArray[np.float64], own: NDArray[np.float64]) -> None:
        """``pairs`` float64[m-1, 2, 2]: factor of (leaf, centre); ``own`` float64[2]: factor of the centre alone."""
        self.centre = centre
        self.leaves = Columns([i for i in range(num_variables) if i != centre])
        self.constants = _Constants({"pairs": pairs, "own": own})

    def marginals(self, pos: Tensor, neg: Tensor, general: General) -> Tensor:
        """See :class:`neurosym.circuits.component.FastKernel`."""
        ok = torch.ones(pos.shape[0], dtype=torch.bool, device=pos.device)
        return split_rows(pos, neg, ok, self._fast, general)

    def _fast(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        fixed = self.constants.at(pos)
        t = fixed["pairs"]
        on, off = self.leaves.take(pos), self.leaves.take(neg)
        sums = [off * t[:, 0, b] + on * t[:, 1, b] for b in (0, 1)]
        fine = (torch.minimum(sums[0], sums[1]) > SMALLEST[pos.dtype]).all(dim=1)
        ratio = (sums[1].clamp_min(SMALLEST[pos.dtype]) / sums[0].clamp_min(SMALLEST[pos.dtype])).log().sum(dim=1)
        shift = ratio.detach().clamp_min(0.0)
        high = pos[:, self.centre] * fixed["own"][1] * torch.exp(ratio - shift)
        low = neg[:, self.centre] * fixed["own"][0] * torch.exp(-shift)
        total = high + low
        fine = fine & (total > SMALLEST[pos.dtype]) & (total < 1 / SMALLEST[pos.dtype])
        q = high / total
        leaf = on * (t[:, 1, 0] * (low / total)[:, None] / sums[0] + t[:, 1, 1] * q[:, None] / sums[1])
        out = torch.cat([leaf[:, : self.centre], q[:, None], leaf[:, self.centre :]], dim=1)
        return out, fine


def find_star(factors: Sequence[Factor], members: Sequence[int]) -> Star | None:
    """The star over ``members`` (two or more), or None if the factors do not form one."""
    if len(members) < 2 or any(len(f.scope) > 2 for f in factors):
        return None
    scopes = [set(f.scope) for f in factors if len(f.scope) == 2]
    common = set(members).intersection(*scopes)
    if not common:
        return None
    centre = max(common)
    place = {v: i for i, v in enumerate(v for v in members if v != centre)}
    pairs, own = np.zeros((len(place), 2, 2)), np.zeros(2)
    for factor in factors:
        table = factor.log_table()
        if factor.scope == (centre,):
            own += table
        elif len(factor.scope) == 1:
            pairs[place[factor.scope[0]]] += table[:, None]
        else:
            leaf = factor.scope[0] if factor.scope[1] == centre else factor.scope[1]
            pairs[place[leaf]] += table if factor.scope[1] == centre else table.T
    if (pairs.max(axis=1) == -np.inf).any():
        return None
    return Star(len(members), list(members).index(centre), np.exp(pairs), np.exp(own))


@dataclass(frozen=True)
class _Cube:
    """Literals (local variable, sign), ascending, with log factor ``log_off`` outside the cube and 0 inside."""

    literals: tuple[tuple[int, bool], ...]
    log_off: float


@dataclass(frozen=True)
class MixtureTerms:
    """The structure of a mixture, over local variables.

    Attributes:
        classes: members of the group.
        none: no member may be true (at-most-one groups); then there is one more term, the last.
        constants: log factor of each term.
        cubes: the cubes of each term, disjoint in variables.
    """

    classes: tuple[int, ...]
    none: bool
    constants: tuple[float, ...]
    cubes: tuple[tuple[_Cube, ...], ...]


class Mixture:
    """Closed form of an exclusive component."""

    def __init__(self, num_variables: int, terms: MixtureTerms) -> None:
        self.kind = "exclusive" if any(terms.cubes) else "exactly_one" if not terms.none else "at_most_one"
        unique = sorted({cube for term in terms.cubes for cube in term}, key=lambda c: (c.literals, c.log_off))
        column = {cube: i for i, cube in enumerate(unique)}
        incidence = np.zeros((len(terms.cubes), len(unique)))
        for row, cubes in enumerate(terms.cubes):
            incidence[row, [column[cube] for cube in cubes]] = 1.0
        pairs = [(u, v, sign) for u, cube in enumerate(unique) for v, sign in cube.literals]
        others = [v for v in range(num_variables) if v not in terms.classes]
        spread = np.zeros((len(pairs), len(others)))
        spread[np.arange(len(pairs)), [others.index(v) for _, v, _ in pairs]] = 1.0
        self.none = terms.none
        self.classes = Columns(terms.classes)
        self.others = Columns(others)
        self.pair_cube = Columns([u for u, _, _ in pairs])
        self.pair_variable = Columns([v for _, v, _ in pairs])
        self.hard_pairs = Columns([i for i, (u, _, _) in enumerate(pairs) if unique[u].log_off == -math.inf])
        self.all_positive = all(sign for _, _, sign in pairs)
        self.single = all(len(cube.literals) == 1 for cube in unique)
        self.num_cubes = len(unique)
        off = np.exp([cube.log_off for cube in unique]) if unique else np.zeros(0)
        signs = np.array([sign for _, _, sign in pairs], dtype=bool)
        cube_of_pair = np.array([u for u, _, _ in pairs], dtype=np.int64)
        self.positions = _positions(cube_of_pair)
        self.constants = _Constants(
            {
                "incidence": incidence.T.copy(),
                "log_constant": np.array(terms.constants),
                "off": off,
                "pair_sign": signs,
                "certain": (1.0 - off[cube_of_pair]) * signs,
                "spread": spread,
            }
        )

    def marginals(self, pos: Tensor, neg: Tensor, general: General) -> Tensor:
        """See :class:`neurosym.circuits.component.FastKernel`."""
        pieces = []
        for p, n in zip(pos.split(ROWS), neg.split(ROWS), strict=True):
            pieces.append(split_rows(p, n, self._applies(p, n), self._fast, general))
        return torch.cat(pieces) if len(pieces) != 1 else pieces[0]

    def _applies(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Rows without a divisor near 0, bool[B]."""
        with torch.no_grad():
            ok = (self.classes.take(neg) > SMALLEST[pos.dtype]).all(dim=1)
            if len(self.others):
                ok &= (self.others.take(pos) + self.others.take(neg) > SMALLEST[pos.dtype]).all(dim=1)
            if len(self.hard_pairs):
                ok &= (self.hard_pairs.take(self._literals(pos, neg)) > SMALLEST[pos.dtype]).all(dim=1)
        return ok

    def _literals(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Weights of the literals of all cubes, [B, pairs]."""
        on = self.pair_variable.take(pos)
        if self.all_positive:
            return on
        return torch.where(self.constants.at(pos)["pair_sign"], on, self.pair_variable.take(neg))

    def _fast(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        fixed = self.constants.at(pos)
        total = pos + neg
        rho = pos / total
        log_term = fixed["log_constant"].expand(pos.shape[0], -1)
        cubes = None
        if self.num_cubes:
            cubes = self._cubes(rho, neg / total)
            log_term = log_term + cubes[1].log() @ fixed["incidence"]
        scale = torch.exp(log_term - log_term.detach().amax(dim=1, keepdim=True))
        odds = self.classes.take(pos) / self.classes.take(neg)
        if self.none:
            odds = torch.cat([odds, torch.ones_like(odds[:, :1])], dim=1)
        weight = odds * scale
        mass = weight.sum(dim=1)
        fine = (mass > SMALLEST[pos.dtype]) & (mass < 1 / SMALLEST[pos.dtype])
        share = weight / mass[:, None]
        out = rho
        if cubes is not None:
            inside, d = cubes
            off = self.pair_cube.take(fixed["off"])
            on = self.pair_variable.take(rho)
            # P(x=1 | cube's class): a literal x is certain inside the cube, a literal not-x excludes it there
            given = (self.pair_cube.take(inside) * fixed["certain"] + off * on) / self.pair_cube.take(d)
            carried = share @ fixed["incidence"].t()
            moved = (self.pair_cube.take(carried) * (given - on)) @ fixed["spread"]
            out = self.others.put(rho, self.others.take(rho) + moved)
        return self.classes.put(out, share[:, : len(self.classes)]), fine

    def _cubes(self, rho: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Probability of each cube (``sigma`` is one minus ``rho``) and D = t + (1-t) times it, [B, U] each."""
        literal = self._literals(rho, sigma)
        if self.single:
            inside = literal
        else:
            inside = torch.ones_like(rho[:, :1]).expand(-1, self.num_cubes)
            for pairs, cubes in self.positions:
                inside = cubes.put(inside, cubes.take(inside) * pairs.take(literal))
        off = self.constants.at(rho)["off"]
        return inside, off + (1.0 - off) * inside


def _positions(cube_of_pair: NDArray[np.int64]) -> list[tuple[Columns, Columns]]:
    """For i = 0, 1, ...: the pairs that are the i-th literal of their cube, and those cubes."""
    place = np.arange(cube_of_pair.size) - np.searchsorted(cube_of_pair, cube_of_pair)
    rounds = [np.flatnonzero(place == i) for i in range(int(place.max(initial=-1)) + 1)]
    return [(Columns(pairs.tolist()), Columns(cube_of_pair[pairs].tolist())) for pairs in rounds]


def find_mixture(factors: Sequence[Factor], members: Sequence[int]) -> MixtureTerms | None:
    """The mixture structure of a component, or None if it has none."""
    groups = [f for f in factors if f.group is not None]
    if not groups:
        return None
    group = max(groups, key=lambda f: len(f.scope))
    assert group.group is not None
    local = {v: i for i, v in enumerate(members)}
    none = group.group.kind == "at_most_one"
    count = len(group.scope) + none
    constants = [0.0] * count
    cubes: list[list[_Cube]] = [[] for _ in range(count)]
    for factor in (piece for f in factors if f is not group for piece in split_hard_conjunction(f)):
        inside = [i for i, v in enumerate(group.scope) if v in factor.scope]
        none_true = {v: False for v in group.scope}
        base = _as_cubes(condition(factor, none_true), local)
        for term in range(count):
            got = base
            if term in inside:
                got = _as_cubes(condition(factor, {**none_true, group.scope[term]: True}), local)
            if got is None:
                return None
            constants[term] += got[0]
            cubes[term].extend(got[1])
    merged = [_merge(items) for items in cubes]
    if any(item is None for item in merged):
        return None
    return MixtureTerms(
        classes=tuple(local[v] for v in group.scope),
        none=none,
        constants=tuple(c + item[0] for c, item in zip(constants, merged, strict=True) if item is not None),
        cubes=tuple(item[1] for item in merged if item is not None),
    )


def _as_cubes(factor: Factor, local: dict[int, int]) -> tuple[float, tuple[_Cube, ...]] | None:
    """The factor as a log constant and cubes, or None."""
    literals = _literals_of(factor, local)
    if literals is not None:
        if factor.hard:
            return 0.0, tuple(_Cube((literal,), factor.log_violation) for literal in literals)
        return 0.0, (_Cube(literals, factor.log_violation),)
    if len(factor.scope) > MAX_TABLE_VARIABLES:
        return None
    holds = factor.satisfied()
    if holds.all() or not holds.any():
        return (0.0 if holds.all() else factor.log_violation), ()
    if holds.sum() != 1:
        return None
    place = np.argwhere(holds)[0]
    literals = tuple((local[v], bool(b)) for v, b in zip(factor.scope, place, strict=True))
    pieces = [(literal,) for literal in literals] if factor.hard else [literals]
    return 0.0, tuple(_Cube(piece, factor.log_violation) for piece in pieces)


def _literals_of(factor: Factor, local: dict[int, int]) -> tuple[tuple[int, bool], ...] | None:
    """Literals of a conjunction of literals over different predicates, by its syntax."""
    formula = factor.formula
    by_name = dict(zip(factor.names, factor.scope, strict=True))
    found: dict[int, bool] = {}
    parts = formula.args if isinstance(formula, And) else (formula,)
    for part in parts:
        inner = part.arg if isinstance(part, Not) else part
        if not isinstance(inner, Var) or local[by_name[inner.name]] in found:
            return None
        found[local[by_name[inner.name]]] = inner is part
    return tuple(sorted(found.items()))


def _merge(cubes: Sequence[_Cube]) -> tuple[float, tuple[_Cube, ...]] | None:
    """Join cubes over the same variables; None if two different ones overlap."""
    weight: dict[tuple[tuple[int, bool], ...], float] = {}
    for cube in cubes:
        weight[cube.literals] = weight.get(cube.literals, 0.0) + cube.log_off
    constant, kept = 0.0, []
    for literals, log_off in weight.items():
        if len(literals) == 1:
            variable, sign = literals[0]
            opposite = weight.get(((variable, not sign),))
            if opposite is not None:
                # both polarities: take out the smaller violation, keep the difference on the other literal
                if log_off > opposite or (log_off == opposite and not sign):
                    continue
                constant += opposite
                if opposite == -math.inf:
                    continue
                log_off -= opposite
        kept.append(_Cube(literals, log_off))
    used = [v for cube in kept for v, _ in cube.literals]
    if len(used) != len(set(used)):
        return None
    return constant, tuple(sorted(kept, key=lambda c: c.literals))
