"""One circuit from the circuits of independent parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neurosym.circuits.compilers.arrays import ONE, ZERO, Draft, Ints
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR


def combine(num_variables: int, forced: Ints, parts: Sequence[tuple[CircuitIR, Ints]]) -> CircuitIR:
    """Product of circuits over disjoint variables, of literals, and of the remaining variables, which are free.

    Args:
        forced: literals (DIMACS), each of another variable.
        parts: circuits, each with the variables it is used for, int64[R, m] from 0, ascending: R copies, row by row.
    """
    if len(parts) == 1 and parts[0][0].num_variables == num_variables and len(parts[0][1]) == 1:
        return parts[0][0]  # its variables ascend, so they are all of them, in order
    draft = Draft(num_variables)
    factors = [draft.literal(np.abs(forced) - 1, (forced > 0).astype(np.int64))]
    free = np.ones(num_variables, dtype=bool)
    free[np.abs(forced) - 1] = False
    for ir, variables in parts:
        free[variables] = False
        factors.append(_place(draft, ir, variables))
    rest = np.flatnonzero(free)
    factors.append(draft.literal(rest, np.full(rest.size, -1)))
    children = np.concatenate(factors)
    root = draft.nodes(PRODUCT, 1)
    draft.edges(np.repeat(root, children.size), children)
    return draft.finish(int(root[0]))


def _place(draft: Draft, ir: CircuitIR, variables: Ints) -> Ints:
    """Copies of a circuit over other variables, int64[R, m]; returns their roots, int64[R]."""
    copies = variables.shape[0]
    place = np.full((copies, ir.num_nodes), ONE, dtype=np.int64)
    leaf = ir.literal[ir.kind == LITERAL]
    place[:, ir.kind == LITERAL] = draft.literal(
        variables[:, np.abs(leaf) - 1], np.broadcast_to((leaf > 0).astype(np.int64), (copies, leaf.size))
    )
    place[:, (ir.kind == CONSTANT) & (ir.log_constant == -np.inf)] = ZERO
    given = np.flatnonzero((ir.kind == CONSTANT) & np.isfinite(ir.log_constant) & (ir.log_constant != 0))
    for node in given:
        place[:, node] = draft.constants(ir.log_constant[[node]])
    for kind in (PRODUCT, SUM):
        inner = np.flatnonzero(ir.kind == kind)
        place[:, inner] = draft.nodes(kind, copies * inner.size).reshape(copies, inner.size)
    owner = np.repeat(np.arange(ir.num_nodes), np.diff(ir.offsets))
    draft.edges(place[:, owner].ravel(), place[:, ir.children].ravel())
    return np.ascontiguousarray(place[:, -1])
