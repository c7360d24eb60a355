"""Which sensors a reasoned class probability depends on, and in which direction, decided from factor tables.

COLEP pays one failure probability for each sensor *side* that the score of the true label can use. A side is saved
where the direction is known beforehand:

* ``rules``: Theorem (Holley 1974; Fortuin, Kasteleyn, Ginibre 1971). If every factor of a circuit is log-supermodular
  after flipping the predicates with sign -1, the product with the independent sensors is MTP2, so P(mu_c = 1) is
  nondecreasing in p_j where ``sign_c sign_j = +1`` and nonincreasing where it is -1, for c, j in one component of the
  factor graph; it does not depend on sensors of other components. A mixture inherits a direction that all its
  circuits share.
* ``exclusive`` with every factor on classes and at most one concept: given the class, the concepts are independent,
  so P(c) is proportional to ``odds_c * prod_k ((1-q_k) F_ck0 + q_k F_ck1)`` with F the product of the factors of k in
  the world "class c". d log P(c) / d q_k is an average over c' of terms with the signs of
  ``F_ck1 F_c'k0 - F_ck0 F_c'k1``, so one sign over all c' is a direction.

Tables are tested, not syntax. Where no direction is found both sides are paid for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_SCOPE = 8  # the lattice condition of a factor is checked on all pairs of 2^k assignments
BOTH = 2  # depends, direction unknown
TOLERANCE = 1e-12


def pair_signs(log_table: np.ndarray) -> np.ndarray | None:
    """Interaction signs ``int8[k, k]`` of a factor (+1 attract, -1 repel, 0 none); None if a pair has both."""
    k = log_table.ndim
    signs = np.zeros((k, k), dtype=np.int8)
    for a in range(k):
        for b in range(a + 1, k):
            t = np.moveaxis(log_table, (a, b), (0, 1)).reshape(2, 2, -1)
            same, cross = t[0, 0] + t[1, 1], t[0, 1] + t[1, 0]
            with np.errstate(invalid="ignore"):  # -inf against -inf: no interaction there
                gap = np.where(same == cross, 0.0, same - cross)
            up, down = bool((gap > TOLERANCE).any()), bool((gap < -TOLERANCE).any())
            if up and down:
                return None
            signs[a, b] = signs[b, a] = int(up) - int(down)
    return signs


def supermodular(log_table: np.ndarray, flips: Sequence[int]) -> bool:
    """Whether ``f(x|y) + f(x&y) >= f(x) + f(y)`` for all x, y after reversing the axes with sign -1."""
    axes = tuple(i for i, s in enumerate(flips) if s < 0)
    flat = np.flip(log_table, axes).ravel()
    index = np.arange(flat.size)
    left = flat[index[:, None] | index] + flat[index[:, None] & index]
    right = flat[:, None] + flat
    return bool(((left >= right - TOLERANCE) | (right == -np.inf)).all())


def balanced_signs(scopes: Sequence[Sequence[int]], tables: Sequence[np.ndarray | None]) -> dict[int, int] | None:
    """Signs (+1/-1) of the variables of one component that make every factor log-supermodular, or None."""
    known = [table for table in tables if table is not None]
    if len(known) < len(tables):
        return None
    edges: dict[int, list[tuple[int, int]]] = {v: [] for scope in scopes for v in scope}
    for scope, table in zip(scopes, known, strict=True):
        signs = pair_signs(table)
        if signs is None:
            return None
        for a, b in np.argwhere(signs != 0):
            edges[scope[a]].append((scope[b], int(signs[a, b])))
    colour: dict[int, int] = {}
    for start in edges:
        if start in colour:
            continue
        colour[start], stack = 1, [start]
        while stack:
            v = stack.pop()
            for w, sign in edges[v]:
                if w not in colour:
                    colour[w] = colour[v] * sign
                    stack.append(w)
                elif colour[w] != colour[v] * sign:
                    return None
    ok = all(supermodular(t, [colour[v] for v in s]) for s, t in zip(scopes, known, strict=True))
    return colour if ok else None


def merge(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Direction of a mixture: 0 yields, equal directions stay, others become ``BOTH``."""
    return np.where(first == 0, second, np.where((second == 0) | (first == second), first, BOTH))


def rules_directions(
    parts: Sequence[tuple[Sequence[Sequence[int]], Sequence[np.ndarray | None]]], classes: int, width: int
) -> np.ndarray:
    """Directions ``int8[classes, width]`` for a mixture of circuits.

    Args:
        parts: for each circuit the scopes (global predicate numbers) and the log tables of its factors, None for a
            factor with more than ``MAX_SCOPE`` predicates.
        classes, width: K and V.

    Returns:
        +1 / -1 where the probability of class c never falls / never rises in sensor j, 0 where it does not depend on
        it, ``BOTH`` otherwise. A class that no circuit mentions keeps its own sensor.
    """
    from neurosym.circuits.factors import connected_components

    total = np.zeros((classes, width), dtype=np.int8)
    mentioned = np.zeros(width, dtype=bool)
    for scopes, tables in parts:
        for variables, members in connected_components(scopes):
            mentioned[list(variables)] = True
            colour = balanced_signs([scopes[i] for i in members], [tables[i] for i in members])
            for c in (v for v in variables if v < classes):
                row = np.zeros(width, dtype=np.int8)
                row[list(variables)] = [BOTH if colour is None else colour[c] * colour[v] for v in variables]
                row[c] = 1  # a marginal never falls in its own sensor: odds_c multiplies only the numerator
                total[c] = merge(total[c], row)
    alone = np.flatnonzero(~mentioned[:classes])
    total[alone, alone] = 1
    return total


def exclusive_directions(
    scopes: Sequence[Sequence[int]], tables: Sequence[np.ndarray | None], classes: int, width: int
) -> np.ndarray:
    """Directions ``int8[classes, width]`` when exactly one class is true; shapes and values as above.

    Concepts that meet another concept in a factor get ``BOTH``; so do those of a factor without a table. Given the
    class, the others are independent of them, and factors on classes alone only rescale the odds. Concepts that are
    linked to no class, not even through other concepts, say nothing about it.
    """
    from neurosym.circuits.factors import connected_components

    idle: set[int] = set()
    inner = [[v for v in scope if v >= classes] for scope in scopes]
    for variables, members in connected_components(inner):
        if all(len(inner[i]) == len(scopes[i]) for i in members):
            idle.update(variables)
    result = np.full((classes, classes), -1, dtype=np.int8)
    np.fill_diagonal(result, 1)
    result = np.concatenate([result, np.zeros((classes, width - classes), dtype=np.int8)], axis=1)
    # log F[c, k, b]: factors of concept k in the world where class c alone is true and the concept has value b
    log_f = np.zeros((classes, width, 2))
    joint: set[int] = set()
    for scope, table in zip(scopes, tables, strict=True):
        concepts = [v for v in scope if v >= classes and v not in idle]
        if len(concepts) > 1 or table is None:
            joint.update(concepts)
        elif concepts:
            k = concepts[0]
            for c in range(classes):
                for b in (0, 1):
                    world = tuple(b if v == k else int(v == c) for v in scope)
                    log_f[c, k, b] += table[world]
    for k in range(classes, width):
        if k in joint:
            result[:, k] = BOTH
            continue
        f = log_f[:, k]
        first, second = f[:, None, 1] + f[None, :, 0], f[:, None, 0] + f[None, :, 1]
        # in logs, so that factors of any size compare; -inf on both sides is no dependence
        up, down = (first > second + TOLERANCE).any(axis=1), (second > first + TOLERANCE).any(axis=1)
        result[:, k] = np.where(up & down, BOTH, up.astype(np.int8) - down.astype(np.int8))
    return result


def sides(directions: np.ndarray) -> np.ndarray:
    """Number of sensor sides for each class, ``int64[K]``."""
    return np.where(directions == BOTH, 2, np.abs(directions)).sum(axis=1)
