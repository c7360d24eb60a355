"""One clause of any length: a circuit of linear size and logarithmic depth.

The clause x1 | ... | xn is the sum of the disjoint terms x1; ~x1, x2; ~x1, ~x2, x3; ... Halving the clause shares their
common parts: some literal of both halves holds where one of the first half does, whatever the second is, or none of
the first and one of the second.
"""

from __future__ import annotations

import numpy as np

from neurosym.circuits.compilers.arrays import Draft, Ints
from neurosym.circuits.ir import PRODUCT, SUM, CircuitIR


def disjunction_ir(literals: Ints, num_variables: int) -> CircuitIR:
    """Smooth, deterministic, decomposable circuit of one clause over its variables: 8n nodes, 12n edges, depth 2 log2 n.

    Args:
        literals: int64[n] (DIMACS), each of the variables 1..num_variables = n once.
    """
    draft = Draft(num_variables)
    variable, positive = np.abs(literals) - 1, literals > 0
    some, none = draft.literal(variable, positive.astype(np.int8)), draft.literal(variable, (~positive).astype(np.int8))
    free = draft.literal(variable, np.full(variable.size, -1))

    def product(left: Ints, right: Ints) -> Ints:
        made = draft.nodes(PRODUCT, left.size)
        draft.edges(made, left)
        draft.edges(made, right)
        return made

    while some.size > 1:
        even = some.size // 2 * 2
        left, right = slice(0, even, 2), slice(1, even, 2)
        either = draft.nodes(SUM, even // 2)
        draft.edges(either, product(some[left], free[right]))
        draft.edges(either, product(none[left], some[right]))
        some = np.append(either, some[even:])
        none = np.append(product(none[left], none[right]), none[even:])
        free = np.append(product(free[left], free[right]), free[even:])
    return draft.finish(int(some[0]))
