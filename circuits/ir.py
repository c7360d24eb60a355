"""Circuits as flat arrays: sums (OR) and products (AND) of literals and constants, children before parents.

The value of a circuit is the sum over worlds of the product of literal weights and factor values, that is the weighted
model count. The builders here only make circuits that are

* decomposable: the children of a product mention different variables,
* deterministic: at most one child of a sum is non-zero in any world,
* smooth: the children of a sum mention the same variables,

(Darwiche and Marquis, "A Knowledge Compilation Map", 2002). :func:`check_properties` verifies the claim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LITERAL, CONSTANT, PRODUCT, SUM = 0, 1, 2, 3
KIND_NAMES = ("literal", "constant", "product", "sum")


class CircuitTooLarge(Exception):
    """A builder ran over its node budget; the caller picks another compiler or reports the limit."""


@dataclass(frozen=True)
class CircuitIR:
    """A circuit over local variables 0..num_variables-1; nodes sorted by level, the root last.

    Attributes:
        num_variables: number of variables m.
        kind: int8[N], one of LITERAL, CONSTANT, PRODUCT, SUM.
        literal: int64[N], +(v+1) or -(v+1) for literals, otherwise 0.
        log_constant: float64[N], the log of a constant, otherwise 0.
        offsets, children: CSR of the children, int64[N+1] and int64[E]; children have smaller numbers.
        level_offsets: int64[L+1]; level i is nodes level_offsets[i]..level_offsets[i+1], level 0 holds all leaves.
    """

    num_variables: int
    kind: NDArray[np.int8]
    literal: NDArray[np.int64]
    log_constant: NDArray[np.float64]
    offsets: NDArray[np.int64]
    children: NDArray[np.int64]
    level_offsets: NDArray[np.int64]

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return int(self.kind.size)

    @property
    def num_edges(self) -> int:
        """Number of edges E."""
        return int(self.children.size)

    @property
    def depth(self) -> int:
        """Number of levels above the leaves."""
        return int(self.level_offsets.size) - 2

    def children_of(self, node: int) -> NDArray[np.int64]:
        """Children of one node."""
        return self.children[self.offsets[node] : self.offsets[node + 1]]


@dataclass(frozen=True)
class Properties:
    """Structural facts of a circuit. ``deterministic`` is None when it was not checked (too many variables)."""

    decomposable: bool
    smooth: bool
    deterministic: bool | None


class CircuitBuilder:
    """Makes nodes bottom-up with structural sharing and constant folding; a node is an int."""

    def __init__(self, max_nodes: int = 2_000_000) -> None:
        self.kind: list[int] = []
        self.literals: list[int] = []
        self.constants: list[float] = []
        self.children: list[tuple[int, ...]] = []
        self.max_nodes = max_nodes
        self._known: dict[tuple[int, object], int] = {}
        self.zero = self.constant(-math.inf)
        self.one = self.constant(0.0)

    def _node(self, kind: int, payload: object, literal: int, constant: float, children: tuple[int, ...]) -> int:
        key = (kind, payload)
        found = self._known.get(key)
        if found is not None:
            return found
        if len(self.kind) >= self.max_nodes:
            raise CircuitTooLarge
        self._known[key] = number = len(self.kind)
        self.kind.append(kind)
        self.literals.append(literal)
        self.constants.append(constant)
        self.children.append(children)
        return number

    def constant(self, log_value: float) -> int:
        """A constant given by its log."""
        return self._node(CONSTANT, log_value, 0, log_value, ())

    def lit(self, variable: int, positive: bool) -> int:
        """A literal of a local variable."""
        signed = variable + 1 if positive else -(variable + 1)
        return self._node(LITERAL, signed, signed, 0.0, ())

    def free(self, variable: int) -> int:
        """The sum of both literals: a variable on which nothing depends (smoothing)."""
        return self.disj((self.lit(variable, True), self.lit(variable, False)))

    def conj(self, parts: Sequence[int]) -> int:
        """Product; the parts must mention different variables."""
        log_constant, kept = 0.0, []
        for part in parts:
            if part == self.zero:
                return self.zero
            if self.kind[part] == CONSTANT:
                log_constant += self.constants[part]
            else:
                kept.append(part)
        if log_constant != 0.0:
            kept.append(self.constant(log_constant))
        if not kept:
            return self.one
        if len(kept) == 1:
            return kept[0]
        children = tuple(sorted(kept))
        return self._node(PRODUCT, children, 0, 0.0, children)

    def disj(self, parts: Sequence[int]) -> int:
        """Sum; the parts must exclude each other and mention the same variables."""
        kept = [part for part in parts if part != self.zero]
        if not kept:
            return self.zero
        if len(kept) == 1:
            return kept[0]
        if all(self.kind[part] == CONSTANT for part in kept):
            return self.constant(float(np.logaddexp.reduce([self.constants[part] for part in kept])))
        children = tuple(sorted(kept))
        return self._node(SUM, children, 0, 0.0, children)

    def finish(self, root: int, num_variables: int) -> CircuitIR:
        """The nodes that the root needs, as arrays sorted by level (then kind and arity, for long vector steps)."""
        level: dict[int, int] = {}
        needed = np.zeros(len(self.kind), dtype=bool)
        needed[root] = True
        for node in range(root, -1, -1):
            if needed[node]:
                for child in self.children[node]:
                    needed[child] = True
        for node in map(int, np.flatnonzero(needed)):
            kids = self.children[node]
            level[node] = 1 + max(level[kid] for kid in kids) if kids else 0
        order = sorted(level, key=lambda n: (level[n], self.kind[n], width_class(len(self.children[n])), n))
        new = {node: place for place, node in enumerate(order)}
        counts = [len(self.children[node]) for node in order]
        levels = np.array([level[node] for node in order], dtype=np.int64)
        return CircuitIR(
            num_variables=num_variables,
            kind=np.array([self.kind[node] for node in order], dtype=np.int8),
            literal=np.array([self.literals[node] for node in order], dtype=np.int64),
            log_constant=np.array([self.constants[node] for node in order], dtype=np.float64),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            children=np.array([new[kid] for node in order for kid in self.children[node]], dtype=np.int64),
            level_offsets=np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int64),
        )


def width_class(arity: int) -> int:
    """Smallest power of two that holds ``arity`` children: nodes of one class are evaluated as one padded block."""
    return 1 << max(arity - 1, 0).bit_length()


def scopes(ir: CircuitIR) -> list[int]:
    """Variables of each node as bit sets (Python ints)."""
    found: list[int] = []
    for node in range(ir.num_nodes):
        if ir.kind[node] == LITERAL:
            found.append(1 << (abs(int(ir.literal[node])) - 1))
        else:
            bits = 0
            for child in ir.children_of(node):
                bits |= found[child]
            found.append(bits)
    return found


def check_properties(ir: CircuitIR, max_variables: int = 14) -> Properties:
    """Verify decomposability and smoothness; determinism by enumeration when there are few variables."""
    bits = scopes(ir)
    decomposable = smooth = True
    for node in range(ir.num_nodes):
        kids = [bits[child] for child in ir.children_of(node)]
        if ir.kind[node] == PRODUCT:
            decomposable &= sum(b.bit_count() for b in kids) == bits[node].bit_count()
        elif ir.kind[node] == SUM:
            smooth &= all(b == bits[node] for b in kids)
    deterministic = _deterministic(ir) if ir.num_variables <= max_variables else None
    return Properties(bool(decomposable), bool(smooth), deterministic)


def _deterministic(ir: CircuitIR) -> bool:
    worlds = (np.arange(2**ir.num_variables)[:, None] >> np.arange(ir.num_variables)) & 1 > 0
    support = np.ones((ir.num_nodes, worlds.shape[0]), dtype=bool)
    for node in range(ir.num_nodes):
        kids = ir.children_of(node)
        if ir.kind[node] == LITERAL:
            value = int(ir.literal[node])
            support[node] = worlds[:, abs(value) - 1] == (value > 0)
        elif ir.kind[node] == CONSTANT:
            support[node] = ir.log_constant[node] > -np.inf
        elif ir.kind[node] == PRODUCT:
            support[node] = support[kids].all(axis=0)
        else:
            active = support[kids].sum(axis=0)
            if (active > 1).any():
                return False
            support[node] = active > 0
    return True
