"""Brute force over worlds in exact fractions: no floats, no compiler, formulas evaluated one world at a time.

World i of 2^V has predicate j true iff bit j of i is set.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var
from neurosym.logic.knowledge import Group, KnowledgeBase

World = tuple[bool, ...]


def all_worlds(num_variables: int) -> list[World]:
    """Every world."""
    return [tuple(bool(i >> j & 1) for j in range(num_variables)) for i in range(2**num_variables)]


def holds(formula: Formula, world: dict[str, bool]) -> bool:
    """Truth of a formula in a world, by its definition."""
    if isinstance(formula, Var):
        return world[formula.name]
    if isinstance(formula, Const):
        return formula.value
    if isinstance(formula, Not):
        return not holds(formula.arg, world)
    if isinstance(formula, And):
        return all(holds(arg, world) for arg in formula.args)
    if isinstance(formula, Or):
        return any(holds(arg, world) for arg in formula.args)
    left, right = holds(formula.left, world), holds(formula.right, world)
    if isinstance(formula, Implies):
        return right or not left
    assert isinstance(formula, Iff)
    return left == right


def literal_product(world: World, pos: Sequence[Fraction], neg: Sequence[Fraction]) -> Fraction:
    """Product of the literal weights of a world."""
    return math.prod((a if true else b for true, a, b in zip(world, pos, neg, strict=True)), start=Fraction(1))


def part_weights(
    kb: KnowledgeBase,
    pos: Sequence[Fraction],
    neg: Sequence[Fraction],
    part: int | None,
    penalty: Callable[[float], Fraction],
) -> list[Fraction]:
    """Weight of every world; ``part`` None is the exclusive circuit; ``penalty`` of a finite rule weight."""
    if part is None:
        rules, groups = range(len(kb.rules)), [*kb.groups, Group("one", "exactly_one", tuple(kb.classes))]
    else:
        spec = kb.parts()[part]
        rules, groups = spec.rules, [kb.groups[g] for g in spec.groups]
    found = []
    for world in all_worlds(kb.num_predicates):
        named = dict(zip(kb.predicates, world, strict=True))
        weight = literal_product(world, pos, neg)
        for h in rules:
            if not holds(kb.rules[h].formula, named):
                weight *= 0 if math.isinf(kb.rules[h].weight) else penalty(kb.rules[h].weight)
        for group in groups:
            count = sum(named[name] for name in group.members)
            weight *= count == 1 or (count == 0 and group.kind == "at_most_one")
        found.append(weight)
    return found


def marginals(weights: Sequence[Fraction], num_variables: int) -> list[Fraction]:
    """P(x_j = 1) from the weights of all worlds."""
    total = sum(weights)
    return [Fraction(sum(w for i, w in enumerate(weights) if i >> j & 1)) / total for j in range(num_variables)]
