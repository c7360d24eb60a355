"""Brute force over all worlds, independent of every compiler: numpy, formulas evaluated one world at a time.

World i of 2^V has predicate j true iff bit j of i is set.
"""

from __future__ import annotations

import math

import numpy as np

from neurosym.logic.knowledge import Group, KnowledgeBase
from neurosym.logic.semantics import evaluate


def worlds(num_predicates: int) -> np.ndarray:
    """bool[2^V, V]."""
    return (np.arange(2**num_predicates)[:, None] >> np.arange(num_predicates)) & 1 > 0


def _group_holds(group: Group, kb: KnowledgeBase, grid: np.ndarray) -> np.ndarray:
    count = sum(grid[:, kb.index(name)].astype(int) for name in group.members)
    return count == 1 if group.kind == "exactly_one" else count <= 1


def log_factor(kb: KnowledgeBase, rules: tuple[int, ...], groups: tuple[Group, ...]) -> np.ndarray:
    """Log weight of the rules in every world, float64[2^V]; a violated rule counts -w, a satisfied one 0."""
    grid = worlds(kb.num_predicates)
    columns = {name: grid[:, kb.index(name)] for name in kb.predicates}
    total = np.zeros(len(grid))
    for h in rules:
        holds = np.broadcast_to(np.asarray(evaluate(kb.rules[h].formula, columns)), (len(grid),))
        total += np.where(holds, 0.0, -kb.rules[h].weight)
    for group in groups:
        total += np.where(_group_holds(group, kb, grid), 0.0, -math.inf)
    return total


def literal_weights(kb: KnowledgeBase, p: np.ndarray, circuit: str, class_kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(positive, negative) weights, [V] each."""
    neg = 1 - p
    if circuit == "exclusive" and class_kind == "categorical":
        neg = neg.copy()
        neg[: kb.num_classes] = 1.0
    return p, neg


def part_weights(
    kb: KnowledgeBase, p: np.ndarray, circuit: str, class_kind: str
) -> list[tuple[float, set[int], np.ndarray]]:
    """(beta, mentioned predicates, unnormalised weight of every world) of each part of the mixture."""
    grid = worlds(kb.num_predicates)
    pos, neg = literal_weights(kb, p, circuit, class_kind)
    likelihood = np.where(grid, pos, neg).prod(axis=1)
    if circuit == "exclusive":
        one = Group("classes", "exactly_one", tuple(kb.classes))
        specs = [(1.0, tuple(range(len(kb.rules))), (*kb.groups, one))]
    else:
        specs = [(s.beta, s.rules, tuple(kb.groups[g] for g in s.groups)) for s in kb.parts()]
    found = []
    for beta, rules, groups in specs:
        mentioned = {kb.index(n) for h in rules for n in _names(kb.rules[h].formula)}
        mentioned |= {kb.index(n) for g in groups for n in g.members}
        found.append((beta, mentioned, likelihood * np.exp(log_factor(kb, rules, groups))))
    return found


def _names(formula: object) -> set[str]:
    """Names in a formula, by walking its fields."""
    if type(formula).__name__ == "Var":
        return {formula.name}  # type: ignore[attr-defined]
    names: set[str] = set()
    for value in vars(formula).values():
        for item in value if isinstance(value, tuple) else (value,):
            if hasattr(item, "__dataclass_fields__"):
                names |= _names(item)
    return names


def marginals(kb: KnowledgeBase, p: np.ndarray, circuit: str = "rules", class_kind: str = "binary") -> np.ndarray:
    """Corrected probabilities, [V]; NaN everywhere when a part has no world."""
    grid = worlds(kb.num_predicates)
    total, weight = np.zeros(kb.num_predicates), np.zeros(kb.num_predicates)
    for beta, mentioned, mass in part_weights(kb, p, circuit, class_kind):
        if mass.sum() == 0:
            return np.full(kb.num_predicates, np.nan)
        q = (mass[:, None] * grid).sum(axis=0) / mass.sum()
        for j in mentioned:
            total[j] += beta * q[j]
            weight[j] += beta
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), p)
