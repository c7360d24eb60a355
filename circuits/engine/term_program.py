"""Disjoint terms as few multiplications: each term is its difference from a base assignment, and from another term.

Every variable has a base state (true, false or free), mostly its most common one. With B the product of the weights of
the base states and r = w(state) / w(base state),

    Z = B sum_k c_k prod_{(v, state) in D_k} r_(v, state),

where D_k is what term k has other than the base. A term whose D contains that of another (a path in a hierarchy)
continues the other's product.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STATES = (1, 0, -1)
"""True, false, free: state 0, 1, 2 of a program."""
SWITCH_COST = 50.0
"""A change of the base state between neighbouring variables costs as much time as so many factors."""
LARGEST_INCLUSION = 1 << 22
"""Pairs of terms up to which it is worth looking for terms contained in others."""
LARGEST_SPREAD = 400.0
"""Largest difference of the logs of two constants for which their quotient is an ordinary float64."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TermProgram:
    """Terms in an order in which each comes after the one that it continues.

    Attributes:
        runs: int32[*, 3]; lo, hi, base state of neighbouring variables with the same base, in order.
        blocks: int32[*, 5]; lo, hi, state, base state, first row: variables lo..hi have ratios of that state to the base
            in neighbouring ratio rows.
        num_rows: number R of ratio rows.
        parent: int32[K], the term that is continued, or -1.
        offsets, entries: int32[K + 1], int32[*]; the ratio rows by which a term extends its parent.
        row_offsets, row_terms: int32[R + 1], int32[*]; the same by ratio row.
        constants: float64[K], c_k over the largest, and ``shift``, its log.
        states: int8[K, m], the states 0, 1, 2 of the terms in this order.
    """

    runs: Ints
    blocks: Ints
    num_rows: int
    parent: Ints
    offsets: Ints
    entries: Ints
    row_offsets: Ints
    row_terms: Ints
    constants: Floats
    shift: float
    states: NDArray[np.int8]

    @property
    def uses_free(self) -> bool:
        """Some term leaves some variable free."""
        return bool((self.states == 2).any())


def build_term_program(terms: NDArray[np.int8], log_constants: Floats) -> TermProgram | None:
    """From int8[K, m] (1 true, 0 false, -1 free) and float64[K]; None where constants differ too much, or no terms."""
    if not terms.size or not np.ptp(log_constants) <= LARGEST_SPREAD:
        return None
    states = np.select([terms == state for state in STATES], range(3)).astype(np.int8)
    base = _base_states(np.stack([(states == s).sum(axis=0) for s in range(3)]))
    cuts = [0, *(np.flatnonzero(np.diff(base)) + 1).tolist(), base.size]
    runs = np.array([(lo, hi, base[lo]) for lo, hi in itertools.pairwise(cuts)], dtype=np.int32)
    blocks: list[tuple[int, int, int, int, int]] = []
    columns: list[NDArray[np.bool_]] = []
    for lo, hi, own in runs.tolist():
        for state in range(3):
            used = np.flatnonzero((states[:, lo:hi] == state).any(axis=0))
            if state != own and used.size:
                a, b = lo + int(used[0]), lo + int(used[-1]) + 1
                blocks.append((a, b, state, own, sum(c.shape[1] for c in columns)))
                columns.append(states[:, a:b] == state)
    has = np.concatenate(columns, axis=1) if columns else np.zeros((terms.shape[0], 0), dtype=bool)
    order = np.argsort(has.sum(axis=1), kind="stable")
    has, shift = has[order], float(log_constants.max())
    parent = _parents(has)
    own_rows = has & ~np.where(parent[:, None] >= 0, has[parent], False)
    return TermProgram(
        runs=runs,
        blocks=np.array(blocks, dtype=np.int32).reshape(-1, 5),
        num_rows=has.shape[1],
        parent=parent,
        offsets=_offsets(own_rows),
        entries=np.nonzero(own_rows)[1].astype(np.int32),
        row_offsets=_offsets(own_rows.T),
        row_terms=np.nonzero(own_rows.T)[1].astype(np.int32),
        constants=np.exp(log_constants[order] - shift),
        shift=shift,
        states=np.ascontiguousarray(states[order]),
    )


def _offsets(table: NDArray[np.bool_]) -> Ints:
    return np.concatenate([[0], np.cumsum(table.sum(axis=1))]).astype(np.int32)


def _base_states(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """State of each variable that leaves the fewest factors, with a price on changes; from counts [3, m] (Viterbi)."""
    missing = (counts.sum(axis=0) - counts).astype(np.float64)
    m = counts.shape[1]
    cost, before = missing[:, 0].copy(), np.zeros((3, m), dtype=np.int64)
    for v in range(1, m):
        least = int(cost.argmin())
        moved = cost[least] + SWITCH_COST < cost
        before[:, v] = np.where(moved, least, np.arange(3))
        cost = np.where(moved, cost[least] + SWITCH_COST, cost) + missing[:, v]
    base = np.empty(m, dtype=np.int64)
    base[-1] = cost.argmin()
    for v in range(m - 1, 0, -1):
        base[v - 1] = before[base[v], v]
    return base


def _parents(has: NDArray[np.bool_]) -> Ints:
    """For each row the last earlier one contained in it that is not empty, or -1; rows by increasing size."""
    count = has.shape[0]
    none = np.full(count, -1, dtype=np.int32)
    if count * count > LARGEST_INCLUSION or not has.size:
        return none
    numbers = has.astype(np.float32)
    size = numbers.sum(axis=1)
    contained = (numbers @ numbers.T == size[None, :]) & (size > 0)[None, :]
    contained &= np.tri(count, k=-1, dtype=bool)
    last = count - 1 - contained[:, ::-1].argmax(axis=1)
    return np.where(contained.any(axis=1), last, none).astype(np.int32)
