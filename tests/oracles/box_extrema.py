"""Extrema of corrected probabilities over boxes, by enumeration of worlds and corners: numpy, no compiler, no circuit."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from neurosym.logic.formula import Formula, Iff, Implies, Not, Var
from neurosym.logic.knowledge import Group, KnowledgeBase
from neurosym.logic.semantics import truth_table


def names_of(formula: Formula) -> set[str]:
    if isinstance(formula, Var):
        return {formula.name}
    if isinstance(formula, Not):
        return names_of(formula.arg)
    if isinstance(formula, Implies | Iff):
        return names_of(formula.left) | names_of(formula.right)
    return set().union(*(names_of(a) for a in getattr(formula, "args", ())))


@dataclass(frozen=True)
class Mixture:
    """World tables (2,)*V of every part, predicate j on axis j."""

    betas: list[float]
    mentions: list[np.ndarray]
    tables: list[np.ndarray]
    categorical_classes: int


def _rule_table(formula: Formula, weight: float, names: tuple[str, ...]) -> np.ndarray:
    used = [n for n in names if n in names_of(formula)]
    holds = np.asarray(truth_table(formula, tuple(used))).reshape((2,) * len(used))
    return np.where(holds, 1.0, np.exp(-weight)).reshape([2 if n in used else 1 for n in names])


def mixture(kb: KnowledgeBase, circuit: str = "rules", class_kind: str = "binary") -> Mixture:
    names, v = kb.predicates, kb.num_predicates
    count = np.indices((2,) * v)
    if circuit == "exclusive":
        one = Group("one_class", "exactly_one", tuple(kb.classes))
        specs = [(1.0, range(len(kb.rules)), [*kb.groups, one])]
    else:
        specs = [(s.beta, s.rules, [kb.groups[g] for g in s.groups]) for s in kb.parts()]
    betas, mentions, tables = [], [], []
    for beta, rules, groups in specs:
        table, seen = np.ones((2,) * v), np.zeros(v, bool)
        for h in rules:
            table = table * _rule_table(kb.rules[h].formula, kb.rules[h].weight, names)
            seen |= [n in names_of(kb.rules[h].formula) for n in names]
        for group in groups:
            inside = [kb.index(n) for n in group.members]
            total = count[inside].sum(axis=0)
            table = table * (total == 1 if group.kind == "exactly_one" else total <= 1)
            seen[inside] = True
        betas, mentions, tables = [*betas, beta], [*mentions, seen], [*tables, table]
    categorical = kb.num_classes if circuit == "exclusive" and class_kind == "categorical" else 0
    return Mixture(betas, mentions, tables, categorical)


def probabilities(mix: Mixture, p: np.ndarray) -> np.ndarray:
    """Corrected probabilities [C, V] of sensor rows [C, V]; NaN where a part that counts has no world."""
    c, v = p.shape
    neg = 1 - p
    neg[:, : mix.categorical_classes] = 1.0
    mass = np.ones((c, 1))
    for j in range(v):
        mass = (mass[:, :, None] * np.stack([neg[:, j], p[:, j]], 1)[:, None, :]).reshape(c, -1)
    grid = np.indices((2,) * v).reshape(v, -1).T.astype(float)
    total, weight = np.zeros((c, v)), np.zeros(v)
    for beta, seen, table in zip(mix.betas, mix.mentions, mix.tables, strict=True):
        if beta == 0 or not seen.any():
            continue
        world = mass * table.reshape(1, -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            q = (world @ grid) / world.sum(axis=1, keepdims=True)
        total[:, seen] += beta * q[:, seen]
        weight[seen] += beta
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), p)


def box_corners(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """All corners, [2^f, V]."""
    ends = [(a,) if a == b else (a, b) for a, b in zip(lower, upper, strict=True)]
    return np.array(list(itertools.product(*ends)))


def simplex_corners(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Vertices of box and simplex: all coordinates but one at an end, the last fills up to 1."""
    k, found = len(lower), []
    for free in range(k):
        for ends in itertools.product((0, 1), repeat=k - 1):
            w = np.insert(np.where(ends, np.delete(upper, free), np.delete(lower, free)), free, 0.0)
            w[free] = 1 - w.sum()
            if lower[free] - 1e-12 <= w[free] <= upper[free] + 1e-12:
                found.append(np.clip(w, 0, 1))
    return np.unique(np.array(found), axis=0)


def vertices(mix: Mixture, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Corners of the box, or of box and simplex for categorical classes."""
    k = mix.categorical_classes
    if not k:
        return box_corners(lower, upper)
    classes, concepts = simplex_corners(lower[:k], upper[:k]), box_corners(lower[k:], upper[k:])
    return np.hstack([np.repeat(classes, len(concepts), axis=0), np.tile(concepts, (len(classes), 1))])


def interior(rng: np.random.Generator, mix: Mixture, lower: np.ndarray, upper: np.ndarray, n: int) -> np.ndarray:
    """Random points inside, [n, V]."""
    points = lower + rng.random((n, len(lower))) * (upper - lower)
    k = mix.categorical_classes
    if k:
        corners = simplex_corners(lower[:k], upper[:k])
        points[:, :k] = rng.dirichlet(np.full(len(corners), 0.5), n) @ corners
    return points


def disagreement(
    mix: Mixture,
    box: tuple[np.ndarray, np.ndarray],
    claim: tuple[np.ndarray, np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> str:
    """What is wrong with claimed (lower, upper, exact) [V] over ``box``; the empty text if nothing is."""
    lower, upper, exact = claim
    at_corners = probabilities(mix, vertices(mix, *box))
    inside = probabilities(mix, interior(rng, mix, *box, 64))
    values = np.concatenate([at_corners, inside])
    with np.errstate(invalid="ignore"):
        if (values < lower - 1e-12).any() or (values > upper + 1e-12).any():
            j = int(np.argmax(np.nanmax(np.maximum(lower - values, values - upper), axis=0)))
            return f"predicate {j}: [{lower[j]!r}, {upper[j]!r}] misses {np.nanmin(values[:, j])!r}..{np.nanmax(values[:, j])!r}"
    undefined = np.isnan(at_corners).any(axis=0)
    for j in np.flatnonzero(exact & ~undefined):
        gap = max(abs(lower[j] - at_corners[:, j].min()), abs(upper[j] - at_corners[:, j].max()))
        if gap > 1e-9:
            return f"predicate {j}: called exact but off by {gap}"
    return ""
