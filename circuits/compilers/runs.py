"""Disjoint terms in an order, run-length encoded by variable, and the circuit that shares their common parts.

The terms are the leaves of a balanced binary tree of blocks. A block stands for the sum of its terms, restricted to the
variables that vary within it; a variable constant in one half of a block but not in the block is a literal beside that
half. Variables at their usual value in a half because they leave it only within the other half come as one shared product
for that other half. A hierarchy of n nodes in depth-first order so becomes a circuit of depth 2 log2 n with a few
edges a node, however deep it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.arrays import Draft, Ints
from neurosym.circuits.compilers.clauses import distinct
from neurosym.circuits.ir import PRODUCT, SUM, CircuitIR

FLAT_ENTRIES = 20_000
"""Up to this many literals the terms are one sum of products: three levels, whatever the sharing would save."""


@dataclass(frozen=True, eq=False)
class TermRuns:
    """K disjoint terms over m variables; runs sorted by variable, then by start.

    Attributes:
        variable: int64[R], from 0; every variable has a run at row 0 (where K > 0).
        start: int64[R], the first row of the run; it ends where the next run of the variable starts.
        value: int8[R]: 1 true, 0 false, -1 free; different from that of the run before.
        log_constants: float64[K].
    """

    num_variables: int
    variable: Ints
    start: Ints
    value: NDArray[np.int8]
    log_constants: NDArray[np.float64]

    @property
    def num_terms(self) -> int:
        """K."""
        return int(self.log_constants.size)

    @property
    def ends(self) -> Ints:
        """First row after each run, int64[R]."""
        last = np.append(self.variable[1:] != self.variable[:-1], True)
        return np.where(last, self.num_terms, np.append(self.start[1:], 0))

    def dense(self) -> NDArray[np.int8]:
        """The terms, int8[K, m]."""
        columns = np.repeat(self.value, self.ends - self.start).reshape(self.num_variables, self.num_terms)
        return np.ascontiguousarray(columns.T)

    @staticmethod
    def from_intervals(begin: Ints, end: Ints, num_terms: int) -> TermRuns:
        """Variable v is true in rows begin[v]..end[v]-1 (at least one) and false in the others."""
        m = begin.size
        ids = np.arange(m)
        zero = np.zeros(m, dtype=np.int64)
        variable, start = np.concatenate([ids, ids, ids]), np.concatenate([zero, begin, end])
        value = np.repeat(np.array([0, 1, 0], dtype=np.int8), m)
        keep = np.concatenate([begin > 0, end > begin, end < num_terms])
        variable, start, value = variable[keep], start[keep], value[keep]
        order = np.lexsort((start, variable))
        return TermRuns(m, variable[order], start[order], value[order], np.zeros(num_terms))


def runs_of_terms(terms: NDArray[np.int8], log_constants: NDArray[np.float64]) -> TermRuns:
    """Encode a matrix int8[K, m]; the rows are reordered so that similar terms are neighbours."""
    count, m = terms.shape
    if count > 2:
        popular = np.argsort(-(terms == 1).sum(axis=0), kind="stable")
        keys = np.ascontiguousarray(255 - (terms[:, popular] + 1).astype(np.uint8))
        order = np.argsort(keys.view(f"V{m}").ravel(), kind="stable") if m else np.arange(count)
        terms, log_constants = terms[order], log_constants[order]
    columns = np.ascontiguousarray(terms.T)
    changes = np.ones((m, count), dtype=bool)
    np.not_equal(columns[:, 1:], columns[:, :-1], out=changes[:, 1:])
    variable, start = np.nonzero(changes)
    return TermRuns(m, variable, start, columns[changes], np.asarray(log_constants, dtype=np.float64))


def runs_to_ir(runs: TermRuns) -> CircuitIR:
    """Smooth, decomposable circuit of the terms; deterministic as the terms are disjoint."""
    draft = Draft(runs.num_variables)
    if runs.num_terms * runs.num_variables <= FLAT_ENTRIES:
        return draft.finish(_flat(draft, runs))
    return draft.finish(_Blocks(draft, runs).root())


def _rows(draft: Draft, log_constants: NDArray[np.float64]) -> Ints:
    """A node for the constant of each row, or -1 where it is one."""
    nodes = np.full(log_constants.size, -1, dtype=np.int64)
    given = np.flatnonzero(log_constants != 0)
    if given.size:
        nodes[given] = draft.constants(log_constants[given])
    return nodes


def _flat(draft: Draft, runs: TermRuns) -> int:
    products = draft.nodes(PRODUCT, runs.num_terms)
    total = draft.nodes(SUM, 1)
    draft.edges(np.repeat(total, products.size), products)
    constants = _rows(draft, runs.log_constants)
    draft.edges(products[constants >= 0], constants[constants >= 0])
    row, variable = np.nonzero(np.ones((runs.num_terms, runs.num_variables), dtype=bool))
    draft.edges(products[row], draft.literal(variable, runs.dense().ravel()))
    return int(total[0])


class _Blocks:
    """The tree of blocks; block b of level l holds rows b * 2^l to (b + 1) * 2^l - 1."""

    def __init__(self, draft: Draft, runs: TermRuns) -> None:
        self.draft, self.runs = draft, runs
        m, count = runs.num_variables, runs.num_terms
        lengths = runs.ends - runs.start
        held = np.bincount(runs.variable * 3 + runs.value + 1, weights=lengths, minlength=3 * m).reshape(m, 3)
        self.usual = held.argmax(axis=1) - 1
        unusual = runs.value != self.usual[runs.variable]
        self.low, self.high = np.full(m, count, dtype=np.int64), np.full(m, -1, dtype=np.int64)
        np.minimum.at(self.low, runs.variable[unusual], runs.start[unusual])
        np.maximum.at(self.high, runs.variable[unusual], runs.ends[unusual] - 1)
        self.varies = np.bincount(runs.variable, minlength=m) > 1
        # level of the smallest block outside of which the variable has its usual value
        spread = np.where(self.varies, self.low ^ self.high, 0)
        self.home = np.where(self.varies, np.frexp(spread.astype(np.float64))[1], 1 << 30).astype(np.int64)
        self.inner = runs.start > 0
        self.keys = runs.variable * (count + 1) + runs.start

    def root(self) -> int:
        draft, runs = self.draft, self.runs
        nodes = _rows(draft, runs.log_constants)
        shared = self._shared(0, np.full(nodes.size, -1, dtype=np.int64))
        varying = np.zeros(0, dtype=np.int64)
        level = 0
        while nodes.size > 1:
            level += 1
            nodes, shared, varying = self._level(level, nodes, shared, varying)
        root = draft.nodes(PRODUCT, 1)
        constant = np.flatnonzero(~self.varies)
        draft.edges(np.repeat(root, constant.size), draft.literal(constant, self._value(constant, constant * 0)))
        draft.edges(root[nodes >= 0], nodes[nodes >= 0])
        return int(root[0])

    def _value(self, variable: Ints, row: Ints) -> NDArray[np.int8]:
        at = np.searchsorted(self.keys, variable * (self.runs.num_terms + 1) + row, side="right") - 1
        return self.runs.value[at]

    def _level(self, level: int, nodes: Ints, shared: Ints, varying: Ints) -> tuple[Ints, Ints, Ints]:
        """Sums, shared products and varying (block, variable) pairs of one level from those of the level below."""
        draft, m = self.draft, self.runs.num_variables
        pairs = nodes.size // 2
        sums = draft.nodes(SUM, pairs)
        halves = draft.nodes(PRODUCT, 2 * pairs)
        draft.edges(np.repeat(sums, 2), halves)
        below, beside = nodes[: 2 * pairs], shared[: 2 * pairs].reshape(-1, 2)[:, ::-1].ravel()
        draft.edges(halves[below >= 0], below[below >= 0])
        draft.edges(halves[beside >= 0], beside[beside >= 0])
        start, variable = self.runs.start[self.inner], self.runs.variable[self.inner]
        crossing = start & ((1 << level) - 1) != 0
        now = distinct((start[crossing] >> level) * m + variable[crossing])
        block, v = now // m, now % m
        for side in (0, 1):
            half = 2 * block + side
            # a block without a second half is its first half
            constant = (half ^ 1 < nodes.size) & (half < nodes.size) & ~np.isin(half * m + v, varying)
            elsewhere = (self.home[v] <= level - 1) & (self.low[v] >> (level - 1) == half ^ 1)
            take = constant & ~elsewhere
            draft.edges(halves[half[take]], draft.literal(v[take], self._value(v[take], half[take] << (level - 1))))
        merged = np.concatenate([sums, nodes[2 * pairs :]])
        return merged, self._shared(level, shared), now

    def _shared(self, level: int, below: Ints) -> Ints:
        """Products of the usual literals of the variables at home in each block, -1 where there are none."""
        draft = self.draft
        v = np.flatnonzero(self.home == level)
        block = self.low[v] >> level
        if level:
            padded = np.append(below, -1) if below.size % 2 else below
            half = np.flatnonzero(padded >= 0)
            owner, child = np.concatenate([half >> 1, block]), np.concatenate([padded[half], np.zeros_like(v)])
            size = padded.size // 2
        else:
            half, owner, child, size = v[:0], block, np.zeros_like(v), below.size
        child[half.size :] = draft.literal(v, self.usual[v])
        made = np.full(size, -1, dtype=np.int64)
        used = np.unique(owner)
        made[used] = draft.nodes(PRODUCT, used.size)
        draft.edges(made[owner], child)
        return made
