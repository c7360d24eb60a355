"""The inner nodes of a circuit in blocks that can be worked on at once, children before parents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR
from neurosym.errors import InputError


@dataclass(frozen=True)
class Block:
    """Nodes of one level, one kind and about the same number of children.

    Attributes:
        product: products (else sums).
        nodes: int64[n].
        children: int64[n, width], filled up with node N in sums and node N+1 in products, the places of the semiring's
            zero and one.
    """

    product: bool
    nodes: NDArray[np.int64]
    children: NDArray[np.int64]


def blocks(ir: CircuitIR) -> list[Block]:
    """All inner nodes, by level; within a block the widths differ by less than a factor of 2."""
    inner = np.flatnonzero((ir.kind != LITERAL) & (ir.kind != CONSTANT))
    if inner.size == 0:
        return []
    arity = np.diff(ir.offsets)[inner]
    level = np.searchsorted(ir.level_offsets, inner, side="right")
    width_bits = np.frexp(np.maximum(arity, 1).astype(np.float64) - 0.5)[1]
    product = ir.kind[inner] == PRODUCT
    order = np.lexsort((inner, width_bits, product, level))
    keys = np.stack([level, product, width_bits])[:, order]
    starts = np.flatnonzero(np.r_[True, (np.diff(keys, axis=1) != 0).any(axis=0)])
    return [_block(ir, inner[order[a:b]]) for a, b in zip(starts, [*starts[1:], inner.size], strict=True)]


def _block(ir: CircuitIR, nodes: NDArray[np.int64]) -> Block:
    product = bool(ir.kind[nodes[0]] == PRODUCT)
    arity = np.diff(ir.offsets)[nodes]
    place = np.arange(max(1, int(arity.max())))
    present = place < arity[:, None]
    children = np.full(present.shape, ir.num_nodes + product, dtype=np.int64)
    children[present] = ir.children[(ir.offsets[nodes][:, None] + place)[present]]
    return Block(product, nodes, children)


def literal_rows(ir: CircuitIR) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Literal nodes, and the row of each in the stacked weights [pos; neg]."""
    nodes = np.flatnonzero(ir.kind == LITERAL)
    signed = ir.literal[nodes]
    return nodes, np.where(signed > 0, signed - 1, ir.num_variables - signed - 1)


def require_all_variables(ir: CircuitIR) -> None:
    """A count is over all variables of a circuit, so each must occur in it (unless it has no world at all).

    Raises:
        InputError: names the first variable that does not occur.
    """
    if ir.num_nodes == 1 and ir.kind[0] == CONSTANT and ir.log_constant[0] == -np.inf:
        return
    seen = np.zeros(ir.num_variables, dtype=bool)
    seen[np.abs(ir.literal[ir.kind == LITERAL]) - 1] = True
    if not seen.all():
        raise InputError(
            f"variable {int(np.flatnonzero(~seen)[0])} does not occur in the circuit, so it is not smooth; "
            "multiply the root by the sum of both literals of the variable"
        )
