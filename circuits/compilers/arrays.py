"""Circuits from edge lists: vectorised building, without a Python object for each node.

:class:`Draft` collects nodes and edges in any order; :func:`assemble` drops what the root does not need, folds
constants and products or sums of one child, and sorts the rest into a :class:`CircuitIR`.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitBuilder, CircuitIR

Ints = NDArray[np.int64]
ONE, ZERO = 0, 1
"""Nodes that every draft has: the constants 1 and 0."""
COUNTING_SORT = 200_000
"""Longer arrays are sorted by counting."""
MAX_ROUNDS = 1_000
"""Deeper circuits are walked node by node: a vector step costs as much as ten nodes or more."""


class Draft:
    """A circuit in the making over local variables 0..num_variables-1.

    Nodes 0 and 1 are the constants one and zero; then come, for every variable v, its positive literal, its negative
    literal and the sum of both (v is free): see :meth:`literal`.
    """

    def __init__(self, num_variables: int) -> None:
        m = self.num_variables = num_variables
        variable = np.arange(m, dtype=np.int64)
        self.size = 2 + 3 * m
        self._kinds: list[NDArray[np.int8]] = [
            np.array([CONSTANT] * 2, dtype=np.int8),
            np.repeat(np.array([LITERAL, LITERAL, SUM], dtype=np.int8), m),
        ]
        self._literals = np.concatenate([np.zeros(2, dtype=np.int64), variable + 1, -variable - 1])
        self._logs: list[NDArray[np.float64]] = [np.array([0.0, -math.inf])]
        self._log_nodes: list[Ints] = [np.array([ONE, ZERO], dtype=np.int64)]
        self._parents: list[Ints] = []
        self._children: list[Ints] = []
        free = self.literal(variable, np.full(m, -1))
        self.edges(free, self.literal(variable, np.ones(m, dtype=np.int64)))
        self.edges(free, self.literal(variable, np.zeros(m, dtype=np.int64)))

    def literal(self, variable: Ints, value: NDArray[np.integer]) -> Ints:
        """Nodes of literals: value 1 true, 0 false, -1 free (the sum of both)."""
        shift = np.where(value == 1, 0, np.where(value == 0, 1, 2))
        return 2 + shift * self.num_variables + variable

    def nodes(self, kind: int, count: int) -> Ints:
        """New nodes of one kind (PRODUCT or SUM), int64[count]."""
        made = np.arange(self.size, self.size + count, dtype=np.int64)
        self._kinds.append(np.full(count, kind, dtype=np.int8))
        self.size += count
        return made

    def constants(self, logs: NDArray[np.float64]) -> Ints:
        """New constant nodes with these logs."""
        made = self.nodes(CONSTANT, logs.size)
        self._log_nodes.append(made)
        self._logs.append(np.asarray(logs, dtype=np.float64))
        return made

    def edges(self, parents: Ints, children: Ints) -> None:
        """Children of nodes, one pair an edge."""
        self._parents.append(np.asarray(parents, dtype=np.int64))
        self._children.append(np.asarray(children, dtype=np.int64))

    def finish(self, root: int) -> CircuitIR:
        """The circuit of ``root``; see :func:`assemble`."""
        literal = np.zeros(self.size, dtype=np.int64)
        literal[: self._literals.size] = self._literals
        log = np.zeros(self.size)
        log[np.concatenate(self._log_nodes)] = np.concatenate(self._logs)
        return assemble(
            self.num_variables,
            np.concatenate(self._kinds),
            literal,
            log,
            np.concatenate(self._parents),
            np.concatenate(self._children),
            root,
        )


def finish_builder(builder: CircuitBuilder, root: int, num_variables: int) -> CircuitIR:
    """The nodes that ``root`` needs, like :meth:`CircuitBuilder.finish` but for large circuits."""
    counts = np.fromiter(map(len, builder.children), dtype=np.int64, count=len(builder.children))
    children = np.fromiter(itertools.chain.from_iterable(builder.children), dtype=np.int64, count=int(counts.sum()))
    return assemble(
        num_variables,
        np.concatenate([[CONSTANT] * 2, builder.kind]).astype(np.int8),
        np.concatenate([[0, 0], builder.literals]).astype(np.int64),
        np.concatenate([[0.0, -math.inf], builder.constants]),
        np.repeat(np.arange(counts.size), counts) + 2,
        children + 2,
        root + 2,
    )


def ranges(starts: Ints, counts: Ints) -> Ints:
    """starts[0], starts[0]+1, ... (counts[0] of them), starts[1], ..."""
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    return np.arange(total, dtype=np.int64) + np.repeat(starts - before, counts)


def stable_order(keys: Ints, size: int) -> Ints:
    """The stable order of keys 0..size-1; in linear time where that pays."""
    if size <= 1 << 16:
        return np.argsort(keys.astype(np.uint16), kind="stable")  # a radix sort
    if keys.size < COUNTING_SORT:
        return np.argsort(keys, kind="stable")
    from scipy.sparse import coo_array

    # rows of a sparse matrix are filled by counting, each in the order of its entries
    ones = np.ones(keys.size, dtype=np.int8)
    matrix = coo_array((ones, (keys, np.arange(keys.size))), shape=(size, keys.size))
    return matrix.tocsr().indices.astype(np.int64)


def csr(owner: Ints, size: int) -> tuple[Ints, Ints]:
    """Offsets int64[size+1] and the order that sorts the entries by owner (stable)."""
    order = stable_order(owner, size)
    counts = np.bincount(owner, minlength=size)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), order.astype(np.int64)


def _distinct(nodes: Ints, scratch: Ints) -> Ints:
    """Each node once, in linear time; ``scratch`` has a place for every node."""
    places = np.arange(nodes.size)
    scratch[nodes] = places
    return nodes[scratch[nodes] == places]


def levels_of(parents: Ints, children: Ints, size: int) -> Ints:
    """Longest distance to a node without children, int64[size]; time linear in the edges.

    Raises:
        ValueError: the edges have a cycle.
    """
    offsets, order = csr(children, size)
    above = parents[order]
    left = np.bincount(parents, minlength=size)
    level = np.full(size, -1, dtype=np.int64)
    scratch = np.empty(size, dtype=np.int64)
    front, depth = np.flatnonzero(left == 0), 0
    while front.size:
        if depth == MAX_ROUNDS:
            _deep_levels(level, left, above, offsets, front.tolist(), depth)
            break
        level[front] = depth
        reached = above[ranges(offsets[front], offsets[front + 1] - offsets[front])]
        np.subtract.at(left, reached, 1)
        front, depth = _distinct(reached[left[reached] == 0], scratch), depth + 1
    if (level < 0).any():
        raise ValueError("the edges have a cycle")
    return level


def _deep_levels(level: Ints, left: Ints, above: Ints, offsets: Ints, front: list[int], depth: int) -> None:
    """The rest of :func:`levels_of`, node by node."""
    count, parents, ends = left.tolist(), above.tolist(), offsets.tolist()
    while front:
        level[front] = depth
        following = []
        for node in front:
            for parent in parents[ends[node] : ends[node + 1]]:
                count[parent] -= 1
                if not count[parent]:
                    following.append(parent)
        front, depth = following, depth + 1


def _reachable(root: int, parents: Ints, children: Ints, size: int) -> NDArray[np.bool_]:
    offsets, order = csr(parents, size)
    below = children[order]
    seen = np.zeros(size, dtype=bool)
    scratch = np.empty(size, dtype=np.int64)
    front = np.array([root], dtype=np.int64)
    for _ in range(MAX_ROUNDS):
        seen[front] = True
        reached = below[ranges(offsets[front], offsets[front + 1] - offsets[front])]
        front = _distinct(reached[~seen[reached]], scratch)
        if not front.size:
            return seen
    seen[front] = True
    stack, ends, kids = front.tolist(), offsets.tolist(), below.tolist()
    while stack:
        node = stack.pop()
        for child in kids[ends[node] : ends[node + 1]]:
            if not seen[child]:
                seen[child] = True
                stack.append(child)
    return seen


def _follow(alias: Ints) -> Ints:
    """Where chains of aliases end."""
    while True:
        further = alias[alias]
        if (further == alias).all():
            return alias
        alias = further


def _fold(kind: NDArray[np.int8], log: NDArray[np.float64], parents: Ints, children: Ints) -> tuple[Ints, Ints, Ints]:
    """Fold constants 0 and 1 and nodes of one child; returns aliases and the edges between what is left.

    Each round settles at least one node; rounds follow each other only along chains of constants.
    """
    size = kind.size
    alias = np.arange(size, dtype=np.int64)
    inner = (kind == PRODUCT) | (kind == SUM)
    one, zero = (kind == CONSTANT) & (log == 0), (kind == CONSTANT) & (log == -np.inf)
    while True:
        product = kind[parents] == PRODUCT
        dead = np.zeros(size, dtype=bool)
        dead[parents[product & zero[children]]] = True
        drop = (product & one[children]) | (~product & zero[children]) | dead[parents]
        parents, children = parents[~drop], children[~drop]
        count = np.bincount(parents, minlength=size)
        open_ = inner & (alias == np.arange(size))
        dead |= open_ & (kind == SUM) & (count == 0)
        full = open_ & (kind == PRODUCT) & (count == 0) & ~dead
        single = open_ & (count == 1)
        alias[dead & open_], alias[full] = ZERO, ONE
        sole = single[parents]
        alias[parents[sole]] = children[sole]
        if not (drop.any() or sole.any() or full.any() or (dead & open_).any()):
            return _follow(alias), parents, children
        alias = _follow(alias)
        parents, children = parents[~sole], alias[children[~sole]]


def assemble(
    num_variables: int,
    kind: NDArray[np.int8],
    literal: Ints,
    log_constant: NDArray[np.float64],
    parents: Ints,
    children: Ints,
    root: int,
) -> CircuitIR:
    """Circuit of node ``root``; node 0 must be the constant one and node 1 the constant zero.

    Args:
        kind, literal, log_constant: as in :class:`CircuitIR`, in any order.
        parents, children: int64[E], one pair an edge, in any order, without cycles.

    Raises:
        ValueError: the edges have a cycle.
    """
    alias, parents, children = _fold(kind, log_constant, parents, children)
    root = int(alias[root])
    needed = _reachable(root, parents, children, kind.size)
    kept = np.flatnonzero(needed)
    new = np.full(kind.size, -1, dtype=np.int64)
    new[kept] = np.arange(kept.size)
    inside = needed[parents]
    parents, children = new[parents[inside]], new[children[inside]]
    kind, literal, log_constant = kind[kept], literal[kept], log_constant[kept]
    level = levels_of(parents, children, kept.size)
    arity = np.bincount(parents, minlength=kept.size)
    width = np.ceil(np.log2(np.maximum(arity, 1))).astype(np.int64)
    group = (level * 4 + kind) * 64 + width
    order = stable_order(group, int(group.max()) + 1)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    parents, children = place[parents], place[children]
    sequence = stable_order(children, order.size)
    sequence = sequence[stable_order(parents[sequence], order.size)]
    levels = level[order]
    return CircuitIR(
        num_variables=num_variables,
        kind=kind[order],
        literal=literal[order],
        log_constant=np.where(kind[order] == CONSTANT, log_constant[order], 0.0),
        offsets=np.concatenate([[0], np.cumsum(arity[order])]).astype(np.int64),
        children=children[sequence],
        level_offsets=np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int64),
    )
