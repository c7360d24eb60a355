"""Factors of a knowledge base: one soft or hard constraint each, with its table over worlds.

A world is mu in {0,1}^V. The rule h with weight w_h contributes exp(w_h [mu |= h]); dividing by the constant exp(w_h)
leaves 1 where the rule holds and exp(-w_h) where it is violated. That normalised form is used throughout, because it
stays finite for hard rules (w = inf gives the indicator).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var, variables
from neurosym.logic.knowledge import Group, KnowledgeBase
from neurosym.logic.semantics import truth_table

MAX_TABLE_VARIABLES = 16
"""Largest scope for which a table of 2^k entries is made."""


@dataclass(frozen=True)
class Factor:
    """One constraint over a few predicates.

    Attributes:
        scope: global predicate ids, ascending.
        formula: the rule's formula, or None for a group.
        group: the group, or None for a rule.
        log_violation: log of the factor where the constraint is violated (minus the weight; -inf when hard). The log
            factor is 0 where it holds.
        names: predicate names of ``scope``, in that order.
    """

    scope: tuple[int, ...]
    formula: Formula | None
    group: Group | None
    log_violation: float
    names: tuple[str, ...] = ()

    @property
    def hard(self) -> bool:
        """The constraint may not be violated."""
        return self.log_violation == -np.inf

    def satisfied(self) -> NDArray[np.bool_]:
        """Truth of the constraint, shape ``(2,)*k``; axis i is ``scope[i]``, index 1 means true.

        Raises:
            InputError: more than 16 predicates in the scope.
        """
        k = len(self.scope)
        if k > MAX_TABLE_VARIABLES:
            raise InputError(
                f"a constraint over {k} predicates has no table (at most {MAX_TABLE_VARIABLES}); compile it instead"
            )
        if self.group is not None:
            count = np.zeros((2,) * k, dtype=np.int64)
            for axis in range(k):
                count = count + np.arange(2).reshape((2,) + (1,) * (k - axis - 1))
            return count == 1 if self.group.kind == "exactly_one" else count <= 1
        if self.formula is None:
            raise InputError("a factor needs a formula or a group")
        return np.asarray(truth_table(self.formula, self.names), dtype=bool).reshape((2,) * k)

    def log_table(self) -> NDArray[np.float64]:
        """Log factor for every assignment, float64 of shape ``(2,)*k``; axes as in :meth:`satisfied`.

        Raises:
            InputError: more than 16 predicates in the scope.
        """
        return np.where(self.satisfied(), 0.0, self.log_violation)


def rule_factor(kb: KnowledgeBase, rule: int) -> Factor:
    """Factor of rule number ``rule``."""
    item = kb.rules[rule]
    ids = sorted(kb.index(name) for name in variables(item.formula))
    return Factor(
        scope=tuple(ids),
        formula=item.formula,
        group=None,
        log_violation=-float(item.weight),
        names=tuple(kb.predicates[i] for i in ids),
    )


def group_factor(kb: KnowledgeBase, group: Group) -> Factor:
    """Factor of an exactly-one or at-most-one group (always hard)."""
    ids = sorted(kb.index(name) for name in group.members)
    return Factor(
        scope=tuple(ids),
        formula=None,
        group=group,
        log_violation=-np.inf,
        names=tuple(kb.predicates[i] for i in ids),
    )


def connected_components(scopes: Sequence[Sequence[int]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Connected components of a factor graph.

    Args:
        scopes: the variables of each factor; empty scopes belong to no component.

    Returns:
        Pairs (variables ascending, factor numbers ascending), ordered by their smallest variable.
    """
    parent: dict[int, int] = {}

    def root(v: int) -> int:
        while parent[v] != v:
            parent[v] = parent[parent[v]]
            v = parent[v]
        return v

    for scope in scopes:
        for v in scope:
            parent.setdefault(v, v)
            parent[root(v)] = root(scope[0])
    members: dict[int, list[int]] = {}
    for v in sorted(parent):
        members.setdefault(root(v), []).append(v)
    factors: dict[int, list[int]] = {r: [] for r in members}
    for number, scope in enumerate(scopes):
        if scope:
            factors[root(scope[0])].append(number)
    return [(tuple(vs), tuple(factors[r])) for r, vs in members.items()]


def restrict(formula: Formula, values: Mapping[str, bool]) -> Formula:
    """The formula with some predicates fixed and constants folded away; a pure function."""
    if isinstance(formula, Var):
        return Const(values[formula.name]) if formula.name in values else formula
    if isinstance(formula, Const):
        return formula
    if isinstance(formula, Not):
        return _negate(restrict(formula.arg, values))
    if isinstance(formula, And | Or):
        return _fold(isinstance(formula, And), [restrict(arg, values) for arg in formula.args])
    left, right = restrict(formula.left, values), restrict(formula.right, values)
    if isinstance(formula, Implies):
        return _fold(False, [_negate(left), right])
    if isinstance(left, Const):
        return right if left.value else _negate(right)
    if isinstance(right, Const):
        return left if right.value else _negate(left)
    return Iff(left, right)


def _negate(formula: Formula) -> Formula:
    if isinstance(formula, Const):
        return Const(not formula.value)
    return formula.arg if isinstance(formula, Not) else Not(formula)


def _fold(conjunction: bool, args: list[Formula]) -> Formula:
    kept = []
    for arg in args:
        if not isinstance(arg, Const):
            kept.append(arg)
        elif arg.value != conjunction:
            return arg
    if not kept:
        return Const(conjunction)
    if len(kept) == 1:
        return kept[0]
    return And(tuple(kept)) if conjunction else Or(tuple(kept))
