"""A circuit as straight-line code: every step is a sum of products of two earlier values.

    value[n] = sum over e of value[left[e]] * value[right[e]]

Products of more than two factors become balanced trees of such steps, equal pairs are shared, and a product of two that
feeds a single sum is folded into it, so that a sentential decision diagram costs one multiplication and one addition for
each of its elements and only node values are stored. No division and no logarithm is needed in either direction: with
d[n] the derivative of the root,

    d[left[e]] += d[n] * value[right[e]],    d[right[e]] += d[n] * value[left[e]],

which is right for weights of 0 as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Program:
    """Rows of the value table: positive literals 0..m-1, negative m..2m-1, C constants, the number one, then the nodes.

    Attributes:
        num_variables, num_constants: m and C.
        num_rows: 2m + C + 1 + N.
        root: row of the result.
        offsets: int64[N+1], elements of each node.
        left, right: int64[E], rows of the two factors; ``right`` is ``one`` where there is only one factor.
        level_offsets: int64[L+1] over nodes; nodes of a level use rows of earlier levels only and are sorted by the
            number of their elements.
    """

    num_variables: int
    num_constants: int
    num_rows: int
    root: int
    offsets: Ints
    left: Ints
    right: Ints
    level_offsets: Ints

    @property
    def one(self) -> int:
        """Row that holds the number one."""
        return 2 * self.num_variables + self.num_constants

    @property
    def first(self) -> int:
        """Row of the first node."""
        return self.one + 1

    @property
    def num_nodes(self) -> int:
        """Number of steps N."""
        return self.num_rows - self.first

    @property
    def num_elements(self) -> int:
        """Number of products E."""
        return int(self.left.size)

    @property
    def depth(self) -> int:
        """Number of levels."""
        return int(self.level_offsets.size) - 1


def build_program(ir: CircuitIR) -> Program:
    """The straight-line code of a circuit."""
    m = ir.num_variables
    constants = np.flatnonzero(ir.kind == CONSTANT)
    first = 2 * m + constants.size + 1
    row = np.full(ir.num_nodes, -1, dtype=np.int64)
    literals = np.flatnonzero(ir.kind == LITERAL)
    signed = ir.literal[literals]
    row[literals] = np.where(signed > 0, signed - 1, m - signed - 1)
    row[constants] = 2 * m + np.arange(constants.size)
    inner = np.flatnonzero((ir.kind == PRODUCT) | (ir.kind == SUM))
    row[inner] = first + np.arange(inner.size)
    one = first - 1
    arity = np.diff(ir.offsets)
    parent = np.repeat(np.arange(ir.num_nodes), arity)
    is_product = ir.kind == PRODUCT
    products = _pair_up(ir, row, parent, is_product, next_row=first + inner.size)
    owner, left, right = products.owner, products.left, products.right
    # a product used by one sum alone is folded into it
    uses = np.bincount(ir.children, minlength=ir.num_nodes)
    below_sum = ~is_product[parent]
    child, above = ir.children[below_sum], parent[below_sum]
    folded = is_product[child] & (uses[child] == 1)
    place = np.full(products.num_rows, -1, dtype=np.int64)
    place[owner] = np.arange(owner.size)
    at = place[row[child[folded]]]
    sum_left, sum_right = row[child], np.full(child.size, one)
    sum_left[folded], sum_right[folded] = left[at], right[at]
    keep = np.ones(owner.size, dtype=bool)
    keep[at] = False
    all_owner = np.concatenate([owner[keep], row[above]])
    all_left = np.concatenate([left[keep], sum_left])
    all_right = np.concatenate([right[keep], sum_right])
    return _levelled(m, constants.size, int(row[-1]), products.num_rows, all_owner, all_left, all_right)


@dataclass(frozen=True)
class _Pairs:
    """One product of two for each owner row."""

    owner: Ints
    left: Ints
    right: Ints
    num_rows: int


def _pair_up(ir: CircuitIR, row: Ints, parent: Ints, is_product: NDArray[np.bool_], next_row: int) -> _Pairs:
    """All products as products of two, by rounds that join neighbours; low levels first, to keep the depth small."""
    one = int(2 * ir.num_variables + (ir.kind == CONSTANT).sum())
    level = np.searchsorted(ir.level_offsets, np.arange(ir.num_nodes), side="right")
    edges = np.flatnonzero(is_product[parent])
    edges = edges[np.lexsort((ir.children[edges], level[ir.children[edges]], parent[edges]))]
    group, item = row[parent[edges]], row[ir.children[edges]]
    owners, lefts, rights = [], [], []
    while group.size:
        counts = np.diff(np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1], [True]])))
        start = np.cumsum(counts) - counts
        place = np.arange(group.size) - np.repeat(start, counts)
        count = np.repeat(counts, counts)
        small = count <= 2
        heads = np.flatnonzero(small & (place == 0))
        has_two = count[heads] == 2
        owners.append(group[heads])
        lefts.append(item[heads])
        rights.append(np.where(has_two, item[np.minimum(heads + 1, item.size - 1)], one))
        joins = np.flatnonzero(~small & (place % 2 == 0) & (place + 1 < count))
        if not joins.size:
            break
        # equal pairs are computed once
        a, b = np.minimum(item[joins], item[joins + 1]), np.maximum(item[joins], item[joins + 1])
        keys, which = np.unique(a * np.int64(1 << 31) + b, return_inverse=True)
        owners.append(next_row + np.arange(keys.size))
        lefts.append(keys >> 31)
        rights.append(keys & ((1 << 31) - 1))
        item = item.copy()
        item[joins] = next_row + which.ravel()
        next_row += keys.size
        kept = ~small & (place % 2 == 0)
        group, item = group[kept], item[kept]
    none = np.zeros(0, dtype=np.int64)
    return _Pairs(
        np.concatenate([none, *owners]), np.concatenate([none, *lefts]), np.concatenate([none, *rights]), next_row
    )


def _levelled(m: int, constants: int, root: int, num_rows: int, owner: Ints, left: Ints, right: Ints) -> Program:
    """Sort by level and number of elements, drop what the root does not need, renumber."""
    first = 2 * m + constants + 1
    order = np.argsort(owner, kind="stable")
    owner, left, right = owner[order], left[order], right[order]
    bounds = np.searchsorted(owner, np.arange(num_rows + 1))
    level = _levels(num_rows, first, owner, left, right, bounds)
    needed = _needed(num_rows, root, left, right, bounds, level)
    nodes = first + np.flatnonzero(needed[first:] & (level[first:] > 0))
    count = bounds[nodes + 1] - bounds[nodes]
    nodes = nodes[np.lexsort((nodes, count, level[nodes]))]
    new = np.full(num_rows, -1, dtype=np.int64)
    new[:first] = np.arange(first)
    new[nodes] = first + np.arange(nodes.size)
    count = bounds[nodes + 1] - bounds[nodes]
    offsets = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    gather = np.repeat(bounds[nodes] - offsets[:-1], count) + np.arange(int(offsets[-1]))
    depth = int(level[nodes].max(initial=0))
    return Program(
        num_variables=m,
        num_constants=constants,
        num_rows=first + nodes.size,
        root=int(new[root]),
        offsets=offsets,
        left=new[left[gather]],
        right=new[right[gather]],
        level_offsets=np.searchsorted(level[nodes], np.arange(1, depth + 2)).astype(np.int64),
    )


def _ranges(starts: Ints, counts: Ints) -> Ints:
    """Concatenated ranges start..start+count."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(int(ends[-1]) if ends.size else 0)


def _levels(num_rows: int, first: int, owner: Ints, left: Ints, right: Ints, bounds: Ints) -> Ints:
    """Longest path from the leaves (level 0), wave by wave."""
    operand = np.concatenate([left, right])
    user = np.concatenate([owner, owner])
    inside = operand >= first
    operand, user = operand[inside], user[inside]
    waiting = np.bincount(user, minlength=num_rows)
    order = np.argsort(operand, kind="stable")
    user = user[order]
    start = np.searchsorted(operand[order], np.arange(num_rows + 1))
    level = np.zeros(num_rows, dtype=np.int64)
    wave = np.flatnonzero((bounds[1:] > bounds[:-1]) & (waiting == 0))
    depth = 1
    while wave.size:
        level[wave] = depth
        reached = user[_ranges(start[wave], start[wave + 1] - start[wave])]
        np.subtract.at(waiting, reached, 1)
        reached = np.unique(reached)
        wave = reached[waiting[reached] == 0]
        depth += 1
    return level


def _needed(num_rows: int, root: int, left: Ints, right: Ints, bounds: Ints, level: Ints) -> NDArray[np.bool_]:
    """Rows below the root."""
    needed = np.zeros(num_rows, dtype=bool)
    wave = np.array([root])
    needed[root] = True
    while wave.size:
        elements = _ranges(bounds[wave], bounds[wave + 1] - bounds[wave])
        below = np.unique(np.concatenate([left[elements], right[elements]]))
        wave = below[~needed[below]]
        needed[wave] = True
    return needed
