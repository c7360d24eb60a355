"""Disjoint terms read off a compiled circuit, when they are few."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.terms import MAX_ENTRIES, DisjointTerms
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR

MAX_TERMS = 4_096
"""Default limit on the number of terms."""

_Rows = tuple[NDArray[np.int8], NDArray[np.float64]]


def terms_of_ir(ir: CircuitIR, max_terms: int = MAX_TERMS, max_entries: int = MAX_ENTRIES) -> DisjointTerms | None:
    """The terms of a smooth, deterministic, decomposable circuit; None if there are too many.

    A literal is one term, the sum of both literals of a variable one term without it, a product has the unions of one
    term of each factor, and a sum the terms of all its children. Terms over the same literals become one, with the sum
    of their constants. Terms that are zero are left out.

    Args:
        max_terms: limit on the terms of any node.
        max_entries: limit on terms times variables.
    """
    limit = min(max_terms, max_entries // max(ir.num_variables, 1))
    if not _few(ir, limit):
        return None
    uses = np.bincount(ir.children, minlength=ir.num_nodes)
    rows: dict[int, _Rows] = {}
    for node in range(ir.num_nodes):
        kids = ir.children_of(node).tolist()
        parts = [rows[kid] for kid in kids]
        if ir.kind[node] == LITERAL:
            row = np.full((1, ir.num_variables), -1, dtype=np.int8)
            row[0, abs(int(ir.literal[node])) - 1] = ir.literal[node] > 0
            rows[node] = row, np.zeros(1)
        elif ir.kind[node] == CONSTANT:
            count = int(ir.log_constant[node] > -np.inf)
            blank = np.full((count, ir.num_variables), -1, dtype=np.int8)
            rows[node] = blank, np.full(count, ir.log_constant[node])
        elif _is_free(ir, kids):
            rows[node] = np.full((1, ir.num_variables), -1, dtype=np.int8), np.zeros(1)
        else:
            rows[node] = _product(parts) if ir.kind[node] == PRODUCT else _sum(parts)
        for kid in kids:
            uses[kid] -= 1
            if not uses[kid]:
                del rows[kid]
    terms = DisjointTerms(*rows[ir.num_nodes - 1])
    return terms if terms.are_disjoint() else None


def _is_free(ir: CircuitIR, kids: list[int]) -> bool:
    """Whether a sum of these children is that of both literals of one variable (no product is)."""
    return (
        len(kids) == 2
        and ir.kind[kids[0]] == LITERAL == ir.kind[kids[1]]
        and int(ir.literal[kids[0]]) == -int(ir.literal[kids[1]])
    )


def _few(ir: CircuitIR, limit: int) -> bool:
    """Whether no node has more than ``limit`` terms; counts in Python integers, before anything is made."""
    counts: list[int] = []
    for node in range(ir.num_nodes):
        kids = ir.children_of(node).tolist()
        count = 1
        if ir.kind[node] == PRODUCT:
            for kid in kids:
                count = min(count * counts[kid], limit + 1)
        elif kids and not _is_free(ir, kids):
            count = sum(counts[kid] for kid in kids)
        if count > limit:
            return False
        counts.append(count)
    return True


def _product(parts: list[_Rows]) -> _Rows:
    terms, logs = parts[0]
    for more, constants in parts[1:]:
        # the factors mention different variables, so at most one of the two values is not -1
        terms = np.maximum(terms[:, None], more[None]).reshape(len(terms) * len(more), terms.shape[1])
        logs = (logs[:, None] + constants[None]).ravel()
    return terms, logs


def _sum(parts: list[_Rows]) -> _Rows:
    terms = np.concatenate([rows for rows, _ in parts])
    logs = np.concatenate([constants for _, constants in parts])
    distinct, which = np.unique(terms, axis=0, return_inverse=True)
    if len(distinct) == len(terms):
        return terms, logs
    total = np.full(len(distinct), -np.inf)
    np.logaddexp.at(total, which.ravel(), logs)
    return distinct, total
