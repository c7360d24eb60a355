"""Tables over all assignments of a few variables: worlds, and all corners of a box at once.

The worlds' sum is multilinear in the sensors. Its values at all 2^k corners come from its table of 2^m worlds by one
2 x 2 matrix for each axis, the rows being the two ends of the sensor and the columns the two truth values: a
Walsh-Hadamard transform with other matrices, O(m 2^m) instead of one evaluation for each corner. Several axes are
taken together as one Kronecker product, so the work is done by matrix products.

Where a circuit has many variables but few that move, each node gets the table over the corners of the moving
variables *below it*: literals are vectors of length 2, decomposable products are outer products, smooth sums are sums.
All arithmetic is float64 on non-negative numbers; literal weights are scaled to at most 1, which no probability feels.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.rounding import operations
from neurosym.circuits.circuit import Circuit
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, scopes

MAX_WORLDS = 20
"""Largest number of variables for a table of all worlds (8 MB)."""
MAX_WORLD_WORK = 1 << 27
"""Largest work for that table, in entries of node tables."""
BLOCK_AXES = 6
"""Axes transformed by one matrix product (64 x 64)."""


@dataclass(frozen=True)
class Structure:
    """What the tables need of a circuit, in Python's own types.

    Attributes:
        kind, literal, constant: of each node (``constant`` not as a log).
        children: of each node.
        scope: variables of each node as bit sets.
        last_use: the last node that has a node as its child.
        operations: roundings on the way to the root.
    """

    kind: list[int]
    literal: list[int]
    constant: list[float]
    children: list[list[int]]
    scope: list[int]
    last_use: list[int]
    operations: int

    def work(self, moving: int) -> int:
        """Entries of all node tables for a bit set of moving variables, counted once for each edge."""
        return sum(len(kids) << (s & moving).bit_count() for s, kids in zip(self.scope, self.children, strict=True))


_structures: weakref.WeakKeyDictionary[Circuit, Structure] = weakref.WeakKeyDictionary()
_worlds: weakref.WeakKeyDictionary[Circuit, Tensor] = weakref.WeakKeyDictionary()


def structure(circuit: Circuit) -> Structure:
    """The structure of a circuit, made once."""
    found = _structures.get(circuit)
    if found is None:
        ir = circuit.ir
        children = [ir.children_of(node).tolist() for node in range(ir.num_nodes)]
        last_use = list(range(ir.num_nodes))
        for node, kids in enumerate(children):
            for kid in kids:
                last_use[kid] = node
        with np.errstate(over="ignore"):
            constants = np.where(ir.kind == CONSTANT, np.exp(ir.log_constant), 1.0)
        found = Structure(
            kind=ir.kind.tolist(),
            literal=ir.literal.tolist(),
            constant=constants.tolist(),
            children=children,
            scope=scopes(ir),
            last_use=last_use,
            operations=operations(ir),
        )
        _structures[circuit] = found
    return found


def _node_tables(
    circuit: Circuit, literals: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> NDArray[np.float64]:
    """Value of the root; literals[v] = (positive, negative) are arrays that broadcast against each other."""
    shape = structure(circuit)
    values: list[NDArray[np.float64] | None] = [None] * len(shape.kind)
    ends: dict[int, list[int]] = {}
    for node, last in enumerate(shape.last_use):
        ends.setdefault(last, []).append(node)
    for node, kids in enumerate(shape.children):
        if shape.kind[node] == LITERAL:
            sign = shape.literal[node]
            values[node] = literals[abs(sign) - 1][0 if sign > 0 else 1]
        elif shape.kind[node] == CONSTANT:
            values[node] = np.asarray(shape.constant[node])
        else:
            inputs = sorted((v for v in (values[kid] for kid in kids) if v is not None), key=lambda v: v.size)
            combine = np.multiply if shape.kind[node] == PRODUCT else np.add
            total = inputs[0]
            for value in inputs[1:]:
                total = combine(total, value)
            values[node] = total
        for done in ends.get(node, ()):
            if done != node:
                values[done] = None
    root = values[-1]
    assert root is not None
    return root


def world_table(circuit: Circuit) -> Tensor | None:
    """Weight of every world without its literal weights, float64[(2,)*m], axis i is variable i; None if too large."""
    m = circuit.num_variables
    found = _worlds.get(circuit)
    if found is not None:
        return found
    if m > MAX_WORLDS or structure(circuit).work((1 << m) - 1) > MAX_WORLD_WORK:
        return None
    literals = []
    for v in range(m):
        shape = [2 if i == v else 1 for i in range(m)]
        literals.append((np.array([0.0, 1.0]).reshape(shape), np.array([1.0, 0.0]).reshape(shape)))
    with np.errstate(over="ignore", invalid="ignore"):
        table = np.broadcast_to(_node_tables(circuit, literals), (2,) * m)
    found = torch.from_numpy(np.array(table, dtype=np.float64))
    _worlds[circuit] = found
    return found


@dataclass(frozen=True)
class CornerSums:
    """Sums over worlds at all corners of boxes, the target held.

    Attributes:
        on, off: float64[b, s, 2^k / s] for some s, target true and false, without the target's own weight.
        columns: the k moving variables; bit k-1-i of a corner's number says that ``columns[i]`` is at its upper end.
        steps: roundings that each sum took, at most.
    """

    on: Tensor
    off: Tensor
    columns: tuple[int, ...]
    steps: int

    def corner(self, number: Tensor) -> Tensor:
        """The ends that a corner's number names, bool[..., k]."""
        shift = torch.arange(len(self.columns) - 1, -1, -1, device=number.device)
        return ((number[..., None] >> shift) & 1).bool()


def scaled(pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
    """The weights of each pair divided by the larger one; no probability changes."""
    largest = torch.maximum(pos, neg)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    return pos / largest, neg / largest


class Workspace:
    """Memory that is used again from chunk to chunk: fresh pages cost more than the arithmetic on them."""

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """An uninitialised tensor; the one taken before under this name is overwritten."""
        size = math.prod(shape)
        held = self._held.get(name)
        if held is None or held.numel() < size or held.device != like.device:
            held = self._held[name] = torch.empty(size, dtype=torch.float64, device=like.device)
        return held[:size].view(shape)


def _kernel(
    box: WeightBox, low: Sequence[Tensor], high: Sequence[Tensor], block: Sequence[int], moving: set[int]
) -> Tensor:
    """Kronecker product of the 2 x 2 (1 x 2 where a variable does not move) matrices of a block, [b, d', d]."""
    kernel = box.pos_lo.new_ones((box.rows, 1, 1))
    for v in block:
        ends = [torch.stack([low[1][:, v], low[0][:, v]], dim=-1)]
        if v in moving:
            ends.append(torch.stack([high[1][:, v], high[0][:, v]], dim=-1))
        pair = torch.stack(ends, dim=1)
        kernel = kernel[:, :, None, :, None] * pair[:, None, :, None, :]
        kernel = kernel.reshape(box.rows, kernel.shape[1] * kernel.shape[2], -1)
    return kernel


def sums_from_worlds(
    circuit: Circuit, worlds: Tensor, target: int, box: WeightBox, columns: Sequence[int], space: Workspace
) -> CornerSums:
    """:class:`CornerSums` of all rows by the transform of the table of worlds.

    Args:
        worlds: the table, see :func:`world_table`.
        target: the variable held.
        box: b rows; all variables but ``columns`` (and the target) are taken at their lower end.
        columns: the variables that move, ascending, without the target.
        space: the result lies there until the next call.
    """
    b, m = box.rows, box.size
    moving = set(columns)
    others = [v for v in range(m) if v != target]
    low, high = scaled(box.pos_lo, box.neg_lo), scaled(box.pos_hi, box.neg_hi)
    count = max(1, -(-len(others) // BLOCK_AXES))
    blocks = [part.tolist() for part in np.array_split(np.array(others, dtype=np.int64), count)]
    steps = structure(circuit).operations + 2 * m
    # axes: first block, target, other blocks; every product then works on long contiguous rows
    first = len(blocks[0])
    table = space.take("worlds", worlds, 1 << first, 2, 1 << (m - 1 - first))
    order = [*blocks[0], target, *(v for block in blocks[1:] for v in block)]
    table.view((2,) * m).copy_(worlds.permute(order))
    left, right = 1, table.numel()
    current = table
    for i, block in enumerate(blocks):
        kernel = _kernel(box, low, high, block, moving)
        new, old = kernel.shape[1:]
        steps += len(block) + old
        right //= old
        result = space.take(f"sums{i % 2}", worlds, b, left * new * right)
        if i == 0:
            torch.mm(kernel.reshape(b * new, old), current.reshape(old, right), out=result.view(b * new, right))
            left = 2 * new
            right //= 2
        else:
            source, into = current.view(b, left, old, right), result.view(b, left, new, right)
            if right == 1:
                flipped = kernel.transpose(1, 2).contiguous()
                torch.bmm(source[..., 0], flipped, out=into[..., 0])
            else:
                for row in range(b):
                    torch.bmm(kernel[row].expand(left, new, old), source[row], out=into[row])
            left *= new
        current = result
    pairs = current.view(b, 1 << len([v for v in blocks[0] if v in moving]), 2, -1)
    return CornerSums(pairs[:, :, 1], pairs[:, :, 0], tuple(v for v in others if v in moving), steps)


def sums_from_circuit(circuit: Circuit, target: int, box: WeightBox, columns: Sequence[int]) -> CornerSums:
    """The same by tables over the corners below each node; ``columns`` ascending, without the target."""
    k, b = len(columns), box.rows
    pos_lo, neg_lo = (x.t().cpu().numpy() for x in scaled(box.pos_lo, box.neg_lo))
    pos_hi, neg_hi = (x.t().cpu().numpy() for x in scaled(box.pos_hi, box.neg_hi))
    place = {v: i + 1 for i, v in enumerate(columns)}
    literals = []
    for v in range(box.size):
        if v == target:
            shape = (2, *(1,) * (k + 1))
            literals.append((np.array([0.0, 1.0]).reshape(shape), np.array([1.0, 0.0]).reshape(shape)))
        elif v in place:
            shape = (*(2 if i == place[v] else 1 for i in range(k + 1)), b)
            literals.append(
                (np.stack([pos_lo[v], pos_hi[v]]).reshape(shape), np.stack([neg_lo[v], neg_hi[v]]).reshape(shape))
            )
        else:
            shape = (1,) * (k + 1) + (b,)
            literals.append((pos_lo[v].reshape(shape), neg_lo[v].reshape(shape)))
    with np.errstate(over="ignore", invalid="ignore"):
        root = np.broadcast_to(_node_tables(circuit, literals), (2,) * (k + 1) + (b,))
    table = torch.from_numpy(np.array(np.moveaxis(root, -1, 0))).to(box.pos_lo.device)
    pairs = table.reshape(b, 2, 1, -1)
    return CornerSums(pairs[:, 1], pairs[:, 0], tuple(columns), structure(circuit).operations)
