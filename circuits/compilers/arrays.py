"""Circuits from edge lists: vectorised building, without a Python object for each node.

:class:`Draft` collects nodes and edges in any order; :func:`assemble` drops what the root does not need, folds
constants and products or sums of one child, and sorts the rest into a :class:`CircuitIR`.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitBuilder, CircuitIR

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Ints = NDArray[np.int64]
ONE, ZERO = 0, 1
"""Nodes that every draft has: the constants 1 and 0."""
COUNTING_SORT = 200_000
"""Longer arrays are sorted by counting."""
MAX_ROUNDS = 1_000
"""Deeper circuits are walked node by node: a vector step costs as much as ten nodes or more."""
ORPHAN_ROUNDS = 4
"""So often nodes without parents are dropped before those below the root are sought one level after the other."""


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
    return _by_rows(keys, np.arange(keys.size), size, keys.size).indices.astype(np.int64)


def _by_rows(rows: Ints, columns: Ints, num_rows: int, num_columns: int) -> csr_array:
    """A sparse matrix, whose rows are filled by counting, each in the order of its entries."""
    from scipy.sparse import coo_array

    matrix = coo_array((np.ones(rows.size, dtype=np.int8), (rows, columns)), shape=(num_rows, num_columns))
    matrix.has_canonical_format = True  # entries that occur twice stay two
    return matrix.tocsr()


def grouped(owner: Ints, value: Ints, size: int) -> tuple[Ints, Ints]:
    """Offsets int64[size+1] and the values by owner 0..size-1, those of one owner in their order."""
    if owner.size >= COUNTING_SORT:
        matrix = _by_rows(owner, value, size, int(value.max()) + 1)
        return matrix.indptr.astype(np.int64), matrix.indices.astype(np.int64)
    counts = np.bincount(owner, minlength=size)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), value[stable_order(owner, size)]


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
    level = np.zeros(size, dtype=np.int64)
    level[parents] = -1
    inner = level[children] < 0  # most edges lead to leaves, which only say that their parents are none
    parents, children = parents[inner], children[inner]
    offsets, above = grouped(children, parents, size)
    left = np.bincount(parents, minlength=size)
    scratch = np.empty(size, dtype=np.int64)
    front, depth = np.flatnonzero((level < 0) & (left == 0)), 1
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


def _needed(root: int, parents: Ints, children: Ints, size: int) -> tuple[NDArray[np.bool_], Ints, Ints]:
    """Whether the root needs each node, bool[size], and the edges between those nodes; node ``size`` is nowhere."""
    for _ in range(ORPHAN_ROUNDS):
        held = np.zeros(size + 1, dtype=bool)
        held[children] = held[root] = True
        held[size] = False
        inside = held[parents]
        if inside.all():  # without cycles, whatever has a parent that has a parent ... is below the root
            return held[:size], parents, children
        parents, children = parents[inside], children[inside]
    seen = _reachable(root, parents, children, size)
    inside = seen[parents]
    return seen, parents[inside], children[inside]


def _reachable(root: int, parents: Ints, children: Ints, size: int) -> NDArray[np.bool_]:
    offsets, below = grouped(parents, children, size)
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
    """Fold constants 0 and 1 and nodes of one child; returns aliases, parents and children.

    Edges that fall away then join node ``kind.size``, which nothing needs, to itself. Each round settles at least one
    node; rounds follow each other only along chains of constants.
    """
    nowhere = kind.size
    kind, log = np.append(kind, np.int8(LITERAL)), np.append(log, 0.0)
    parents, children = parents.copy(), children.copy()
    alias = np.arange(kind.size, dtype=np.int64)
    product, open_ = kind == PRODUCT, (kind == PRODUCT) | (kind == SUM)
    one, zero = (kind == CONSTANT) & (log == 0), (kind == CONSTANT) & (log == -np.inf)
    while True:
        dead = np.zeros(kind.size, dtype=bool)
        at = np.flatnonzero((one | zero)[children])
        if at.size:
            above, below = parents[at], children[at]
            dead[above[product[above] & zero[below]]] = True
            gone = at[product[above] == one[below]]  # neutral: 1 in a product, 0 in a sum
            if dead.any():
                gone = np.append(gone, np.flatnonzero(dead[parents]))
            parents[gone] = children[gone] = nowhere
        count = np.bincount(parents, minlength=kind.size)
        settled = open_ & (count < 2)
        if not settled.any():
            return alias, parents, children
        alias[settled] = np.where(product[settled] & ~dead[settled], ONE, ZERO)
        sole = np.flatnonzero((settled & (count == 1))[parents])
        alias[parents[sole]] = children[sole]
        parents[sole] = children[sole] = nowhere
        open_ &= ~settled
        alias = _follow(alias)
        moved = np.flatnonzero(settled[children])
        children[moved] = alias[children[moved]]


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
    needed, parents, children = _needed(root, parents, children, kind.size)
    kept = np.flatnonzero(needed)
    new = np.full(kind.size, -1, dtype=np.int64)
    new[kept] = np.arange(kept.size)
    level = levels_of(new[parents], new[children], kept.size)
    kind, literal, log_constant = kind[kept], literal[kept], log_constant[kept]
    arity = np.bincount(new[parents], minlength=kept.size)
    width = np.ceil(np.log2(np.maximum(arity, 1))).astype(np.int64)
    group = (level * 4 + kind) * 64 + width
    order = stable_order(group, int(group.max()) + 1)
    new[kept[order]] = np.arange(order.size)
    offsets, children = grouped(new[parents], new[children], order.size)
    levels = level[order]
    return CircuitIR(
        num_variables=num_variables,
        kind=kind[order],
        literal=literal[order],
        log_constant=np.where(kind[order] == CONSTANT, log_constant[order], 0.0),
        offsets=offsets,
        children=children,
        level_offsets=np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int64),
    )
