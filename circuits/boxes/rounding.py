"""How far sums and products of non-negative numbers can be off: a certificate without directed rounding.

With no cancellation every operation multiplies the exact result by 1 + e, |e| <= u = 2^-53, so a value that took D
operations on its longest way is fl(F) = F (1 + e) with |e| <= (1 + u)^D - 1 (Higham, "Accuracy and stability of
numerical algorithms", 2002, section 3.1). A product of k children adds up the counts of its children and k - 1; a sum
takes the largest count of its children and k - 1. Underflow is the exception: what it loses is at most the smallest
normal number for each operation, so totals above ``SMALLEST_TOTAL`` do not feel it and others are not relied upon.
"""

from __future__ import annotations

import numpy as np

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR

UNIT = 2.0**-53
"""Unit roundoff of float64."""
SMALLEST_TOTAL = 2.0**-800
"""Worlds' sums below this (weights scaled to at most 1) may have lost digits to underflow."""
LEAF_OPERATIONS = 3
"""A weight may be 1 - p (one rounding) and is divided by the larger of its pair (the other two)."""


def operations(ir: CircuitIR) -> int:
    """Roundings on the way to the root, D above; the exponential of a constant c counts 2 + |c|."""
    count = np.zeros(ir.num_nodes)
    for node in range(ir.num_nodes):
        kids = ir.children_of(node)
        if ir.kind[node] == LITERAL:
            count[node] = LEAF_OPERATIONS
        elif ir.kind[node] == CONSTANT:
            size = abs(float(ir.log_constant[node]))
            count[node] = 2 + size if np.isfinite(size) else 0
        else:
            inner = count[kids]
            count[node] = (inner.sum() if ir.kind[node] == PRODUCT else inner.max(initial=0)) + max(len(kids) - 1, 0)
    return int(np.ceil(count[-1]))


def relative_error(steps: int) -> float:
    """(1 + u)^steps - 1, rounded up."""
    return float(np.expm1(steps * np.log1p(UNIT))) * (1 + 2.0**-40) + UNIT


def probability_slack(steps: int) -> float:
    """Error of A / (A + B) when A and B took ``steps`` operations each.

    The odds are off by a factor of at most (1 + e) / (1 - e), which moves a probability by at most a quarter of its
    logarithm, hence by e / 2 (1 + e); three more roundings follow.
    """
    return 0.5 * relative_error(steps) * 1.01 + 4 * UNIT
