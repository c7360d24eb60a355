"""The exclusive circuit as a mixture over classes: recognising components in which classes factorise the rules.

Given that class c is the true one, every rule becomes a constraint on concepts alone. If each of these is constant, a
conjunction or a disjunction of literals, and those of one class share no concept (except single literals), the worlds'
sum is

    Z = sum_c w_c T_c,     T_c = e^(base_c) prod_k (alpha_ck q_k + beta_ck (1 - q_k)) prod_blocks (a (1 - u) + b u),

with u the product of the block's literals. ``ell_ck = log(alpha_ck / beta_ck)`` tells how class c responds to q_k:
T_d / T_c is nondecreasing in q_k iff ell_dk >= ell_ck. A block's response lies between 0 and its literals' ``log b/a``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.boxes.monotone import MAX_SCOPE, implied_literals

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component, Factor


@dataclass(frozen=True)
class Block:
    """Factor a (1 - u) + b u of one class; u is the product of the literals of ``members``.

    Attributes:
        owner: class (position in the form).
        members: concepts (positions in the form), all different.
        positive: polarity of each literal.
        log_off, log_on: log a (u = 0) and log b (u = 1).
    """

    owner: int
    members: tuple[int, ...]
    positive: tuple[bool, ...]
    log_off: float
    log_on: float


@dataclass(frozen=True)
class ExclusiveForm:
    """T_c in factors.

    Attributes:
        classes, concepts: positions in the component of its K classes and L concepts.
        base: float64[K].
        log_on, log_off: log alpha, log beta, float64[K, L].
        blocks: soft conjunctions and disjunctions of several literals.
        ell_low, ell_high: enclosure of the response of log T_c to q_k, float64[K, L]; equal where there is no block.
    """

    classes: tuple[int, ...]
    concepts: tuple[int, ...]
    base: NDArray[np.float64]
    log_on: NDArray[np.float64]
    log_off: NDArray[np.float64]
    blocks: tuple[Block, ...]
    ell_low: NDArray[np.float64]
    ell_high: NDArray[np.float64]

    @property
    def dead(self) -> NDArray[np.bool_]:
        """Classes that the hard rules forbid whatever the evidence, bool[K]."""
        none = (self.log_on == -np.inf) & (self.log_off == -np.inf)
        return np.asarray((self.base == -np.inf) | none.any(axis=1))


_Term = tuple[tuple[int, ...], tuple[bool, ...], float, float]
"""Scope, polarity, log a, log b."""


def _describe(log_table: NDArray[np.float64], scope: tuple[int, ...]) -> _Term | None:
    """A two-valued table as a constant or as a block, None if it is neither."""
    values = np.unique(log_table)
    if values.size == 1:
        return (), (), float(values[0]), float(values[0])
    for inside, outside in ((values[0], values[1]), (values[1], values[0])):
        points = np.argwhere(log_table == inside)
        fixed = (points == points[0]).all(axis=0)
        if len(points) == 1 << int((~fixed).sum()):
            keep = np.flatnonzero(fixed)
            members = tuple(scope[i] for i in keep)
            return members, tuple(bool(points[0, i]) for i in keep), float(outside), float(inside)
    return None


def _terms(factor: Factor, classes: tuple[int, ...]) -> list[tuple[int | None, _Term]] | None:
    """The factor given each class: pairs (class, term), class None for all classes outside the scope."""
    inside = [v for v in factor.scope if v in set(classes)]
    if len(factor.scope) > MAX_SCOPE:
        form = implied_literals(factor.formula) if factor.formula is not None else None
        if form is None:
            return None
        (head, positive), body = form
        place = dict(zip(factor.names, factor.scope, strict=True))
        if not positive or inside != [place[head]]:
            return None
        scope, polarity = tuple(place[n] for n, _ in body), tuple(p for _, p in body)
        return [(place[head], (scope, polarity, factor.log_violation, 0.0))]
    table = factor.log_table()
    rest = tuple(v for v in factor.scope if v not in inside)
    found: list[tuple[int | None, _Term]] = []
    for c in [*inside, None]:
        index = tuple(int(v == c) if v in inside else slice(None) for v in factor.scope)
        term = _describe(np.asarray(table[index]), rest)
        if term is None:
            return None
        found.append((c, term))
    return found


class _Builder:
    def __init__(self, classes: tuple[int, ...], concepts: tuple[int, ...]) -> None:
        self.classes, self.concepts = classes, concepts
        self.class_at = {v: i for i, v in enumerate(classes)}
        self.concept_at = {v: i for i, v in enumerate(concepts)}
        self.base = np.zeros(len(classes))
        self.log_on = np.zeros((len(classes), len(concepts)))
        self.log_off = np.zeros_like(self.log_on)
        self.single = np.zeros(self.log_on.shape, dtype=bool)
        self.blocked = np.zeros(self.log_on.shape, dtype=bool)
        self.blocks: list[Block] = []

    def add(self, c: int, term: _Term) -> bool:
        """Multiply T_c by a term; False if it shares a concept with another one of the class."""
        scope, polarity, log_off, log_on = term
        at = [self.concept_at[v] for v in scope]
        if not at:
            self.base[c] += log_on
        elif len(at) == 1 or log_off == -np.inf:
            # one literal, or a hard conjunction: every literal holds
            for k, positive in zip(at, polarity, strict=True):
                self.single[c, k] = True
                self.log_on[c, k] += log_on if positive else log_off
                self.log_off[c, k] += log_off if positive else log_on
                if len(at) > 1:
                    log_on = 0.0
        else:
            if self.blocked[c, at].any():
                return False
            self.blocked[c, at] = True
            self.blocks.append(Block(c, tuple(at), polarity, log_off, log_on))
        return True

    def build(self, class_places: tuple[int, ...], concept_places: tuple[int, ...]) -> ExclusiveForm | None:
        if bool((self.single & self.blocked).any()):
            return None
        with np.errstate(invalid="ignore"):
            ell = self.log_on - self.log_off
        low, high = np.where(np.isnan(ell), 0.0, ell), np.where(np.isnan(ell), 0.0, ell)
        for block in self.blocks:
            for k, positive in zip(block.members, block.positive, strict=True):
                response = (block.log_on - block.log_off) * (1 if positive else -1)
                low[block.owner, k], high[block.owner, k] = min(0.0, response), max(0.0, response)
        return ExclusiveForm(
            classes=class_places,
            concepts=concept_places,
            base=self.base,
            log_on=self.log_on,
            log_off=self.log_off,
            blocks=tuple(self.blocks),
            ell_low=low,
            ell_high=high,
        )


def exclusive_form(component: Component, num_classes: int) -> ExclusiveForm | None:
    """The component as a mixture over all classes, or None if its rules do not factorise.

    Args:
        component: of the exclusive circuit.
        num_classes: K; the classes are predicates 0..K-1.
    """
    classes = tuple(range(num_classes))
    if component.variables[:num_classes] != classes:
        return None
    concepts = component.variables[num_classes:]

    def one_true(factor: Factor) -> bool:
        group = factor.group
        return group is not None and group.kind == "exactly_one" and factor.scope == classes

    if not any(one_true(factor) for factor in component.factors):
        return None
    builder = _Builder(classes, concepts)
    for factor in component.factors:
        if one_true(factor):
            continue
        terms = _terms(factor, classes)
        if terms is None:
            return None
        own = dict(terms)
        for c in classes:
            term = own.get(c, own.get(None))
            if term is not None and not builder.add(c, term):
                return None
    places = tuple(range(num_classes, len(component.variables)))
    return builder.build(tuple(range(num_classes)), places)
