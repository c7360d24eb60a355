"""Clauses for the tests of the compilers, and oracles: enumeration of all worlds, counts in Python integers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR

Clauses = list[list[int]]


def all_worlds(m: int) -> NDArray[np.bool_]:
    """Every world, bool[2^m, m]."""
    return (np.arange(2**m)[:, None] >> np.arange(m)) & 1 > 0


def truth(clauses: Sequence[Sequence[int]], m: int) -> NDArray[np.bool_]:
    """Which worlds satisfy the clauses, bool[2^m]."""
    worlds = all_worlds(m)
    holds = np.ones(len(worlds), dtype=bool)
    for clause in clauses:
        some = np.zeros(len(worlds), dtype=bool)
        for literal in clause:
            some |= worlds[:, abs(literal) - 1] == (literal > 0)
        holds &= some
    return holds


def world_values(ir: CircuitIR) -> NDArray[np.int64]:
    """Value of a circuit in every world with literals as 0/1: 1 where it holds; 2 or more where it is not deterministic."""
    worlds = all_worlds(ir.num_variables)
    values: list[NDArray[np.int64]] = []
    for node in range(ir.num_nodes):
        kids = [values[child] for child in ir.children_of(node)]
        if ir.kind[node] == LITERAL:
            literal = int(ir.literal[node])
            values.append((worlds[:, abs(literal) - 1] == (literal > 0)).astype(np.int64))
        elif ir.kind[node] == CONSTANT:
            assert ir.log_constant[node] in (0.0, -np.inf)
            values.append(np.full(len(worlds), int(ir.log_constant[node] == 0.0)))
        else:
            values.append(np.prod(kids, axis=0) if ir.kind[node] == PRODUCT else np.sum(kids, axis=0))
    return values[-1]


def count_models(ir: CircuitIR) -> int:
    """Models of a smooth circuit in exact integers."""
    values: list[int] = []
    for node in range(ir.num_nodes):
        kids = [values[child] for child in ir.children_of(node).tolist()]
        if ir.kind[node] == LITERAL:
            values.append(1)
        elif ir.kind[node] == CONSTANT:
            values.append(int(ir.log_constant[node] == 0.0))
        elif ir.kind[node] == PRODUCT:
            product = 1
            for value in kids:
                product *= value
            values.append(product)
        else:
            values.append(sum(kids))
    return values[-1]


def random_cnf(rng: random.Random, m: int, count: int, longest: int = 4) -> Clauses:
    """Clauses of 1 to ``longest`` literals, with repeated literals and tautologies now and then."""
    lengths = [max(2, rng.randint(1, longest)) if rng.random() < 0.95 else 1 for _ in range(count)]
    return [[rng.choice((-1, 1)) * rng.randint(1, m) for _ in range(n)] for n in lengths]


def three_cnf(rng: random.Random, m: int, ratio: float) -> Clauses:
    """Uniform random 3-CNF."""
    return [[rng.choice((-1, 1)) * v for v in rng.sample(range(1, m + 1), 3)] for _ in range(int(ratio * m))]


def exactly_one(members: Sequence[int]) -> Clauses:
    """Pairwise encoding."""
    return [list(members), *([-a, -b] for a, b in itertools.combinations(members, 2))]


def class_rules(matrix: NDArray[np.bool_], variant: str) -> Clauses:
    """Classes 1..K, exactly one, with attributes K+1..K+A.

    ``one_way``: a class implies its attributes; ``negative``: and excludes the others; ``both``: an attribute implies
    that one of its classes is true.
    """
    k, a = matrix.shape
    clauses = exactly_one(range(1, k + 1))
    clauses += [[-(i + 1), k + j + 1] for i, j in zip(*np.nonzero(matrix), strict=True)]
    if variant == "negative":
        clauses += [[-(i + 1), -(k + j + 1)] for i, j in zip(*np.nonzero(~matrix), strict=True)]
    if variant == "both":
        clauses += [[-(k + j + 1), *(int(i) + 1 for i in np.flatnonzero(matrix[:, j]))] for j in range(a)]
    return [[int(x) for x in clause] for clause in clauses]


def tree(rng: random.Random, n: int, covered: bool = False, chain: bool = False) -> Clauses:
    """A hierarchy: child => parent, siblings exclude each other; ``covered``: parent => one of its children."""
    parents = [-1] + [v - 1 if chain else rng.randrange(v) for v in range(1, n)]
    children: dict[int, list[int]] = {}
    for v, p in enumerate(parents):
        children.setdefault(p, []).append(v + 1)
    clauses = [[-(v + 1), p + 1] for v, p in enumerate(parents) if p >= 0]
    for p, kids in children.items():
        clauses += [[-a, -b] for a, b in itertools.combinations(kids, 2)]
        if covered and p >= 0:
            clauses.append([-(p + 1), *kids])
    return clauses


def mixture(rng: random.Random, m: int) -> Clauses:
    """A hierarchy or exclusive classes over some variables, and rules between them and the rest."""
    n = rng.randint(2, m - 1)
    clauses = tree(rng, n, covered=rng.random() < 0.5)
    if rng.random() < 0.5:
        clauses = exactly_one(range(1, n + 1)) if rng.random() < 0.7 else exactly_one(range(1, n + 1))[1:]
    for _ in range(rng.randint(1, 2 * m)):
        a, b = rng.randint(1, n), rng.randint(n + 1, m)
        clauses.append(rng.choice([[-a, b], [-a, -b], [-b, a], [-a, b, rng.randint(1, m)]]))
    if rng.random() < 0.3:
        clauses.append([rng.choice((-1, 1)) * rng.randint(1, m)])
    rng.shuffle(clauses)
    names = list(range(1, m + 1))
    rng.shuffle(names)
    return [[names[abs(x) - 1] * (1 if x > 0 else -1) for x in clause] for clause in clauses]
