"""Compiled knowledge: parts (one distribution each), their independent components, and how they are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.columns import Columns
from neurosym.circuits.engine import logspace
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.factors import Factor
from neurosym.circuits.ir import CircuitIR
from neurosym.logic.knowledge import KnowledgeBase

CircuitName = Literal["rules", "exclusive"]
ClassKind = Literal["binary", "categorical"]


def working(x: Tensor) -> Tensor:
    """``x`` in the precision of all circuit arithmetic: float64, where the device has it."""
    return x if x.device.type == "mps" else x.to(torch.float64)


def _rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
    """Both tensors broadcast, flattened to [B, m] and in working precision; and their common shape."""
    shape = torch.broadcast_shapes(a.shape, b.shape)
    a, b = (working(x).reshape(-1, shape[-1]) for x in torch.broadcast_tensors(a, b))
    return a, b, shape


class FastKernel(Protocol):
    """A closed form for :meth:`Component.marginals` and :meth:`Component.log_partition`."""

    kind: str

    def marginals(self, pos: Tensor, neg: Tensor, general: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """P(x_j = 1), [B, m]; rows that the closed form cannot do are handed to ``general``."""
        ...


@dataclass(frozen=True)
class Component:
    """A connected component of a part's factor graph.

    Attributes:
        variables: global predicate ids, ascending (m of them).
        factors: the constraints over them.
        kind: how it was compiled or is evaluated: ``terms``, ``exactly_one``, ``star``, ``exclusive``, ``elimination``
            or ``sdd``.
        ir: the circuit; every kind has one.
        kernel: closed form of the marginals, or None.
        terms: the circuit as few disjoint terms, or None.
    """

    variables: tuple[int, ...]
    factors: tuple[Factor, ...]
    kind: str
    ir: CircuitIR
    kernel: FastKernel | None = None
    terms: TermMatrix | None = None
    circuit: Circuit = field(init=False, repr=False, compare=False)
    columns: Columns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "circuit", Circuit(self.ir, terms=self.terms))
        object.__setattr__(self, "columns", Columns(self.variables))

    @property
    def plan(self) -> Plan:
        """Index arrays of the log-space passes."""
        return self.circuit.plan

    def log_partition(self, log_pos: Tensor, log_neg: Tensor) -> Tensor:
        """log Z from the logs of the literal weights, [..., m] -> [...]; differentiable, -inf where no world is left.

        Violated soft rules count exp(-w) and satisfied ones 1. Like all methods here it computes and answers in
        float64.
        """
        log_pos, log_neg, shape = _rows(log_pos, log_neg)
        found = logspace.log_partition(self.plan, log_pos, log_neg)
        return found.reshape(shape[:-1])

    def log_count(self, pos: Tensor, neg: Tensor) -> Tensor:
        """log Z from the literal weights themselves: same as above, with right gradients at weight 0."""
        return self.circuit.log_wmc(pos, neg)

    def marginals(self, pos: Tensor, neg: Tensor) -> Tensor:
        """P(x_j = 1) from literal weights, [..., m] -> [..., m].

        Differentiable once, right at weights 0 and 1; NaN in rows without a world.
        """
        pos, neg, shape = _rows(pos, neg)
        if self.kernel is not None:
            return self.kernel.marginals(pos, neg, self.circuit_marginals).reshape(shape)
        return self.circuit_marginals(pos, neg).reshape(shape)

    def circuit_marginals(self, pos: Tensor, neg: Tensor) -> Tensor:
        """The same through the circuit, never the closed form; [B, m]."""
        return self.circuit.marginals(pos, neg)


@dataclass(frozen=True)
class Part:
    """One distribution of the mixture.

    Attributes:
        name: as in the rules file, or ``rest``.
        beta: mixture weight.
        components: independent blocks; predicates in none of them are independent of everything.
        mentions: bool[V], the predicate occurs in one of the part's rules or groups.
        log_constant: log factor of the rules without predicates.
    """

    name: str
    beta: float
    components: tuple[Component, ...]
    mentions: NDArray[np.bool_]
    log_constant: float = 0.0
    columns: Columns = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        members = [v for component in self.components for v in component.variables]
        object.__setattr__(self, "columns", Columns(members))


@dataclass(frozen=True)
class CompiledKnowledge:
    """A knowledge base with its circuits, ready for batched evaluation."""

    kb: KnowledgeBase
    circuit: CircuitName
    class_kind: ClassKind
    parts: tuple[Part, ...]

    def literal_weights(self, p: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the positive and negative literals, [..., V] each.

        A sensor probability p weighs (p, 1-p). In the exclusive circuit with ``categorical`` classes, the class
        probabilities belong to one variable with K values, so class c weighs (p, 1).
        """
        neg = 1.0 - p
        if self.circuit == "exclusive" and self.class_kind == "categorical":
            k = self.kb.num_classes
            neg = torch.cat([torch.ones_like(p[..., :k]), neg[..., k:]], dim=-1)
        return p, neg

    @property
    def size(self) -> dict[str, int]:
        """Nodes, edges and components of all circuits."""
        circuits = [component.ir for part in self.parts for component in part.components]
        return {
            "components": len(circuits),
            "nodes": sum(ir.num_nodes for ir in circuits),
            "edges": sum(ir.num_edges for ir in circuits),
            "depth": max((ir.depth for ir in circuits), default=0),
        }
