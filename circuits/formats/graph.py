"""A graph of ANDs and ORs from a file, checked and made a smooth circuit, in array operations.

A d-DNNF from elsewhere is rarely smooth: a child of an OR may leave out variables that its siblings mention, and then
counts only one of their two values. Here it is multiplied by the sums (x + not x) of the variables left out (Darwiche,
"On the tractable counting of theory models", 2001). Equal sets of left-out variables share one node, and different
sets share their parts: a set is a product over a fixed binary tree of the variables, made once for each subset.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Graph:
    """Nodes in any order; a node's number is its row.

    Attributes:
        kind: int8[N], as in :class:`CircuitIR`; inner nodes without children are true (products) or false (sums).
        literal: int64[N], signed variable of a literal, from 1.
        log_constant: float64[N].
        offsets, children: CSR of the children.
        root: number of the root.
        line: int64[N], where the node stands in its file.
    """

    kind: NDArray[np.int8]
    literal: Ints
    log_constant: NDArray[np.float64]
    offsets: Ints
    children: Ints
    root: int
    line: Ints


def spans(offsets: Ints, nodes: Ints) -> tuple[Ints, Ints]:
    """Places of the CSR entries of some nodes, node after node, and where each node's entries start among them."""
    counts = offsets[nodes + 1] - offsets[nodes]
    starts = np.cumsum(counts) - counts
    return np.repeat(offsets[nodes] - starts, counts) + np.arange(int(counts.sum())), starts


def csr(parents: Ints, children: Ints, nodes: int) -> tuple[Ints, Ints]:
    """Offsets and children from edges in any order; the order of a node's children is kept."""
    order = np.argsort(parents, kind="stable")
    counts = np.bincount(parents, minlength=nodes)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), children[order]


def levels(offsets: Ints, children: Ints) -> Ints:
    """Longest way down to a leaf, int64[N]; -1 for nodes on or above a cycle."""
    n = offsets.size - 1
    arity = np.diff(offsets)
    up_offsets, up = csr(children, np.repeat(np.arange(n), arity), n)
    level, pending = np.full(n, -1, dtype=np.int64), arity.copy()
    ready, height = np.flatnonzero(arity == 0), 0
    while ready.size:
        level[ready] = height
        above, times = np.unique(up[spans(up_offsets, ready)[0]], return_counts=True)
        pending[above] -= times
        ready, height = above[pending[above] == 0], height + 1
    return level


def _by_level(level: Ints) -> list[Ints]:
    order = np.argsort(level, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(level[order])) + 1)


@dataclass(frozen=True)
class _Facts:
    """Of every node: its variables as bits uint64[N, W], and whether it is the constant 0 or 1."""

    scope: NDArray[np.uint64]
    zero: Flags
    one: Flags


def _facts(graph: Graph, num_variables: int, fail: Callable[[int, str], Exception]) -> _Facts:
    n = graph.kind.size
    level = levels(graph.offsets, graph.children)
    if (level < 0).any():
        raise fail(int(np.flatnonzero(level < 0)[0]), "the node is part of a cycle, or stands above one")
    scope = np.zeros((n, max(1, -(-num_variables // 64))), dtype=np.uint64)
    leaves = np.flatnonzero(graph.kind == LITERAL)
    variable = np.abs(graph.literal[leaves]) - 1
    scope[leaves, variable // 64] = np.uint64(1) << (variable % 64).astype(np.uint64)
    empty = np.diff(graph.offsets) == 0
    constant = graph.kind == CONSTANT
    zero = (constant & (graph.log_constant == -np.inf)) | (empty & (graph.kind == SUM))
    one = (constant & (graph.log_constant == 0.0)) | (empty & (graph.kind == PRODUCT))
    for nodes in _by_level(level)[1:]:
        places, starts = spans(graph.offsets, nodes)
        kids, product = graph.children[places], graph.kind[nodes] == PRODUCT
        below = scope[kids]
        scope[nodes] = np.bitwise_or.reduceat(below, starts, axis=0)
        sizes = np.add.reduceat(np.bitwise_count(below).sum(axis=1, dtype=np.int64), starts)
        shared = product & (sizes != np.bitwise_count(scope[nodes]).sum(axis=1))
        if shared.any():
            raise fail(int(nodes[shared][0]), "the product is not decomposable: two children share a variable")
        any_zero, all_zero = (f.reduceat(zero[kids], starts) for f in (np.logical_or, np.logical_and))
        zero[nodes] = np.where(product, any_zero, all_zero)
        one[nodes] = product & np.logical_and.reduceat(one[kids], starts)
    return _Facts(scope, zero, one)


def find_misfit(ir: CircuitIR) -> str | None:
    """Why a circuit of sound arrays is not smooth and decomposable, or None."""
    graph = Graph(
        ir.kind, ir.literal, ir.log_constant, ir.offsets, ir.children, ir.num_nodes - 1, np.arange(ir.num_nodes)
    )
    try:
        scope = _facts(graph, ir.num_variables, lambda node, why: ValueError(f"node {node}: {why}")).scope
    except ValueError as misfit:
        return str(misfit)
    parents = np.repeat(np.arange(ir.num_nodes), np.diff(ir.offsets))
    rough = (ir.kind[parents] == SUM) & (scope[parents] != scope[ir.children]).any(axis=1)
    return f"node {int(parents[rough][0])}: the sum is not smooth" if rough.any() else None


class _Pool:
    """Nodes and edges that grow by whole arrays."""

    def __init__(self, graph: Graph, num_variables: int) -> None:
        self.kind, self.literal, self.log_constant = [graph.kind], [graph.literal], [graph.log_constant]
        self.size = graph.kind.size
        self.parents: list[Ints] = []
        self.children: list[Ints] = []
        # one node for each literal
        self.literal_node = np.full(2 * num_variables, -1, dtype=np.int64)
        leaves = np.flatnonzero(graph.kind == LITERAL)[::-1]
        self.literal_node[self.place(graph.literal[leaves])] = leaves

    @staticmethod
    def place(literal: Ints) -> Ints:
        """Row of a signed literal in ``literal_node``."""
        return 2 * np.abs(literal) - 2 + (literal < 0)

    def add(self, kind: int, counts: Ints, children: Ints, literal: Ints | None = None) -> Ints:
        """New nodes with the given numbers of children; returns their numbers."""
        new = np.arange(self.size, self.size + counts.size)
        self.size += counts.size
        self.kind.append(np.full(counts.size, kind, dtype=np.int8))
        self.literal.append(np.zeros(counts.size, dtype=np.int64) if literal is None else literal)
        self.log_constant.append(np.zeros(counts.size))
        self.parents.append(np.repeat(new, counts))
        self.children.append(children)
        return new

    def free(self, variables: Ints) -> Ints:
        """Sums of both literals of distinct variables (from 0)."""
        literals = np.stack([variables + 1, -(variables + 1)], axis=1).ravel()
        missing = literals[self.literal_node[self.place(literals)] < 0]
        self.literal_node[self.place(missing)] = self.add(LITERAL, np.zeros_like(missing), missing[:0], missing)
        return self.add(SUM, np.full(variables.size, 2), self.literal_node[self.place(literals)])

    def gaps(self, sets: NDArray[np.uint64]) -> Ints:
        """A product of free variables for each row of bits; -1 for an empty row."""
        table = np.empty(sets.shape, dtype=np.int64)
        for word in range(sets.shape[1]):
            found, back = np.unique(sets[:, word], return_inverse=True)
            bits = (found[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1) > 0
            used = np.flatnonzero(bits.any(axis=0))
            free = self.free(used + 64 * word)
            table[:, word] = self._products(np.where(bits[:, used], free, -1))[back.ravel()]
        return self._products(table)

    def _products(self, table: Ints) -> Ints:
        """The product of the nodes in each row (-1: none), over a binary tree of the columns; equal parts are shared."""
        if table.shape[1] == 0:
            return np.full(len(table), -1, dtype=np.int64)
        while table.shape[1] > 1:
            if table.shape[1] % 2:
                table = np.concatenate([table, np.full((len(table), 1), -1)], axis=1)
            left, right = table[:, 0::2].copy(), table[:, 1::2]
            both = (left >= 0) & (right >= 0)
            kids, back = self.pairs(left[both], right[both])
            left[left < 0] = right[left < 0]
            left[both] = self.add(PRODUCT, np.full(kids.size // 2, 2), kids)[back]
            table = left
        return table[:, 0]

    def pairs(self, left: Ints, right: Ints) -> tuple[Ints, Ints]:
        """Distinct pairs of nodes, one after the other, and the pair number of each entry."""
        codes, back = np.unique(left * self.size + right, return_inverse=True)
        return np.stack(np.divmod(codes, self.size), axis=1).ravel(), back.ravel()


def smooth_circuit(graph: Graph, num_variables: int, fail: Callable[[int, str], Exception]) -> CircuitIR:
    """The circuit of a graph, smooth over all ``num_variables`` variables.

    Args:
        fail: makes the error for a node and a reason.

    Raises:
        what ``fail`` returns: a cycle, or a product whose children share a variable.
    """
    facts = _facts(graph, num_variables, fail)
    pool = _Pool(graph, num_variables)
    if facts.zero[graph.root]:
        return constant_circuit(-np.inf, num_variables)
    parents = np.repeat(np.arange(graph.kind.size), np.diff(graph.offsets))
    # a zero child kills a product (such products are zero themselves) and adds nothing to a sum; ones change no product
    of_sum = graph.kind[parents] == SUM
    kept = ~facts.zero[parents] & np.where(of_sum, ~facts.zero[graph.children], ~facts.one[graph.children])
    parents, children, of_sum = parents[kept], graph.children[kept], of_sum[kept]
    edge = np.flatnonzero(of_sum)
    gap = facts.scope[parents[edge]] & ~facts.scope[children[edge]]
    edge, gap = edge[gap.any(axis=1)], gap[gap.any(axis=1)]
    everything = np.zeros(facts.scope.shape[1] * 64, dtype=np.uint8)
    everything[:num_variables] = 1
    missing = np.packbits(everything, bitorder="little").view("<u8") & ~facts.scope[graph.root]
    node = pool.gaps(np.concatenate([gap, missing[None]]))
    if edge.size:
        kids, back = pool.pairs(children[edge], node[:-1])
        children[edge] = pool.add(PRODUCT, np.full(kids.size // 2, 2), kids)[back]
    root = graph.root
    if node[-1] >= 0:
        root = int(pool.add(PRODUCT, np.array([2]), np.array([root, node[-1]]))[0])
    one = np.concatenate([facts.one, np.zeros(pool.size - facts.one.size, dtype=bool)])
    pool.parents.append(parents)
    pool.children.append(children)
    return _simplified(pool, one, root, num_variables)


def constant_circuit(log_value: float, num_variables: int) -> CircuitIR:
    """A circuit that is one constant."""
    no_edges = np.zeros((2, 0), dtype=np.int64)
    kind, literal = np.array([CONSTANT], dtype=np.int8), np.zeros(1, dtype=np.int64)
    return assemble(kind, literal, np.array([log_value]), no_edges, 0, num_variables)


def _simplified(pool: _Pool, one: Flags, root: int, num_variables: int) -> CircuitIR:
    """Without ones in products, nodes of one child and products of products that nothing else uses."""
    kind, literal = np.concatenate(pool.kind), np.concatenate(pool.literal)
    log_constant = np.concatenate(pool.log_constant)
    edges = np.stack([np.concatenate(pool.parents), np.concatenate(pool.children)]).astype(np.int64)
    edges = edges[:, ~((kind[edges[0]] == PRODUCT) & one[edges[1]])]
    inner = (kind == PRODUCT) | (kind == SUM)
    # what is left of a constant one is one node; likewise of each literal and each constant
    alias = np.arange(kind.size)
    leaves = np.flatnonzero(kind == LITERAL)
    alias[leaves] = pool.literal_node[pool.place(literal[leaves])]
    log_constant[one], kind[one], inner[one] = 0.0, CONSTANT, False
    constants = np.flatnonzero(kind == CONSTANT)
    _, first, back = np.unique(log_constant[constants], return_index=True, return_inverse=True)
    alias[constants] = constants[first][back.ravel()]
    edges = edges[:, inner[edges[0]]]
    counts = np.bincount(edges[0], minlength=kind.size)
    single = (counts == 1)[edges[0]]
    alias[edges[0][single]] = edges[1][single]
    while True:
        further = alias[alias]
        if np.array_equal(further, alias):
            break
        alias = further
    root = int(alias[root])
    edges[1] = alias[edges[1]]
    edges = edges[:, ~single]
    edges = edges[:, reachable(edges, root, kind.size)[edges[0]]]
    uses = np.bincount(edges[1], minlength=kind.size)
    owner = np.arange(kind.size)
    inline = (kind[edges[0]] == PRODUCT) & (kind[edges[1]] == PRODUCT) & (uses[edges[1]] == 1)
    owner[edges[1][inline]] = edges[0][inline]
    while not np.array_equal(owner, owner[owner]):
        owner = owner[owner]
    edges = np.stack([owner[edges[0]], edges[1]])[:, ~inline]
    return assemble(kind, literal, log_constant, edges, root, num_variables)


def reachable(edges: NDArray[np.int64], root: int, nodes: int) -> Flags:
    """Nodes that the root needs."""
    offsets, children = csr(edges[0], edges[1], nodes)
    seen = np.zeros(nodes, dtype=bool)
    seen[root] = True
    front = np.array([root])
    while front.size:
        front = np.unique(children[spans(offsets, front)[0]])
        front = front[~seen[front]]
        seen[front] = True
    return seen


def assemble(
    kind: NDArray[np.int8],
    literal: Ints,
    log_constant: NDArray[np.float64],
    edges: NDArray[np.int64],
    root: int,
    num_variables: int,
) -> CircuitIR:
    """The nodes that the root needs, as a circuit sorted by level, kind and number of children."""
    edges = edges.astype(np.int64)
    seen = reachable(edges, root, kind.size)
    old = np.flatnonzero(seen)
    new = np.full(kind.size, -1, dtype=np.int64)
    new[old] = np.arange(old.size)
    edges = new[edges[:, seen[edges[0]]]]
    offsets, children = csr(edges[0], edges[1], old.size)
    level, arity = levels(offsets, children), np.diff(offsets)
    width = np.frexp(np.maximum(arity - 1, 0).astype(np.float64))[1]
    order = np.lexsort((np.arange(old.size), width, kind[old], level))
    place = np.empty(old.size, dtype=np.int64)
    place[order] = np.arange(old.size)
    return CircuitIR(
        num_variables=num_variables,
        kind=kind[old][order].astype(np.int8),
        literal=literal[old][order],
        log_constant=log_constant[old][order],
        offsets=np.concatenate([[0], np.cumsum(arity[order])]).astype(np.int64),
        children=place[children[spans(offsets, order)[0]]],
        level_offsets=np.searchsorted(level[order], np.arange(int(level.max()) + 2)).astype(np.int64),
    )
