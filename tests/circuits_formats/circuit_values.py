"""Values of circuits node by node in plain Python, and random formulas; independent of every engine."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR

Clauses = list[list[int]]


def value(ir: CircuitIR, pos: Sequence[Any], neg: Sequence[Any]) -> Any:
    """The circuit's value; exact when the weights are fractions and it has no constants but 0 and 1."""
    found: list[Any] = []
    for node in range(ir.num_nodes):
        kids = [found[child] for child in ir.children_of(node)]
        signed = int(ir.literal[node])
        if ir.kind[node] == LITERAL:
            found.append(pos[signed - 1] if signed > 0 else neg[-signed - 1])
        elif ir.kind[node] == CONSTANT:
            log = float(ir.log_constant[node])
            found.append({0.0: 1, -math.inf: 0}.get(log, math.exp(log)))
        else:
            found.append(math.prod(kids) if ir.kind[node] == PRODUCT else sum(kids))
    return found[-1]


def count(clauses: Clauses, pos: Sequence[Any], neg: Sequence[Any]) -> Any:
    """Weighted model count by trying every world."""
    total: Any = 0
    for world in itertools.product((False, True), repeat=len(pos)):
        if all(any(world[abs(x) - 1] == (x > 0) for x in clause) for clause in clauses):
            total += math.prod(p if on else q for on, p, q in zip(world, pos, neg, strict=True))
    return total


def random_clauses(rng: np.random.Generator, variables: int, clauses: int, width: int = 3) -> Clauses:
    """Clauses of distinct random variables."""
    found = []
    for _ in range(clauses):
        chosen = rng.choice(variables, size=min(width, variables), replace=False)
        found.append([int(x + 1) * (1 if rng.random() < 0.5 else -1) for x in chosen])
    return found
