"""Evaluation of a circuit in a semiring: node by node for Python objects, level by level for tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, CircuitIR, check_properties
from neurosym.circuits.queries.joined import as_ir
from neurosym.circuits.queries.levels import blocks, literal_rows, require_all_variables
from neurosym.circuits.queries.semirings import Morphism, Op, Semiring
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

CHUNK_VALUES = 2_000_000
"""Elements held at once in a tensor evaluation: bounds the memory for long batches."""


def evaluate_semiring(
    target: KnowledgeBase | CompiledKnowledge | Component | Circuit | CircuitIR,
    semiring: Semiring | Morphism,
    pos: Any,
    neg: Any,
    *,
    constants: Sequence[Any] | None = None,
    verify: bool = False,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    part: str | int | None = None,
) -> Any:
    """Value of a circuit in a semiring.

    Args:
        target: a circuit over m variables, or a knowledge base (then m = V, all predicates).
        semiring: the semiring, or a morphism that takes the given weights into its target.
        pos, neg: weights of the positive and negative literals: sequences of m Python elements, or tensors [..., m]
            ([..., m, cell] for vector elements), both of one kind.
        constants: elements for the constant nodes in the circuit's order (through the morphism too); by default
            ``from_log`` of their logs.
        verify: check what the semiring needs (determinism by enumeration, up to 14 variables).
        circuit, class_kind, part: for a knowledge base, as in :func:`neurosym.circuits.log_wmc`.

    Returns:
        One element, or a tensor [...] ([..., cell]) of them. Tensor operations are recorded by autograd as they are;
        use :class:`Circuit` for fast gradients of the real and log semirings.

    Raises:
        InputError: wrong widths, a variable that does not occur, a constant without an image, or ``verify`` fails.
    """
    ir = as_ir(target, circuit, class_kind, part)
    require_all_variables(ir)
    pos, neg = _images(semiring, pos), _images(semiring, neg)
    if isinstance(semiring, Morphism):
        constants = None if constants is None else semiring(constants)
        semiring = semiring.target
    if verify:
        _verify(ir, semiring)
    logs = ir.log_constant[ir.kind == CONSTANT]
    if constants is None:
        constants = [semiring.constant(float(c)) for c in logs]
    elif len(constants) != len(logs):
        raise InputError(f"constants has {len(constants)} entries; the circuit has {len(logs)} constants")
    if isinstance(pos, Tensor):
        return _evaluate_tensor(ir, semiring, pos, torch.as_tensor(neg), constants)
    for name, weight in (("pos", pos), ("neg", neg)):
        if len(weight) != ir.num_variables:
            raise InputError(f"{name} has {len(weight)} weights; the circuit has {ir.num_variables} variables")
    return node_values(ir, semiring, pos, neg, constants)[-1]


def _images(semiring: Semiring | Morphism, weights: Any) -> Any:
    """Weights in the semiring, as tensors or Python elements as it can do."""
    target = semiring.target if isinstance(semiring, Morphism) else semiring
    if target.tensors == "none" and isinstance(weights, Tensor):
        if weights.ndim != 1:
            raise InputError(
                f"semiring {target.name!r} works on Python numbers, one row at a time; the weights have shape "
                f"{tuple(weights.shape)}"
            )
        weights = weights.tolist()
    if target.vector and not isinstance(weights, Tensor):
        weights = torch.tensor(weights, dtype=torch.float64)
    if isinstance(semiring, Morphism):
        weights = semiring(weights)
    if target.tensors == "float64" and isinstance(weights, Tensor):
        weights = weights.to(torch.float64)
    return weights


def _verify(ir: CircuitIR, semiring: Semiring) -> None:
    found = check_properties(ir)
    if not (found.decomposable and found.smooth):
        raise InputError(f"the circuit is not decomposable and smooth ({found}); no semiring can be used on it")
    if not semiring.idempotent and not found.deterministic:
        raise InputError(
            f"semiring {semiring.name!r} needs a deterministic circuit, which this one is not known to be ({found})"
        )


def node_values(
    ir: CircuitIR, semiring: Semiring, pos: Sequence[Any], neg: Sequence[Any], constants: Sequence[Any]
) -> list[Any]:
    """Value of every node, for weights that are Python objects."""
    given = iter(constants)
    values: list[Any] = []
    offsets, children = ir.offsets.tolist(), ir.children.tolist()
    for node, (kind, literal) in enumerate(zip(ir.kind.tolist(), ir.literal.tolist(), strict=True)):
        if kind == LITERAL:
            values.append(pos[literal - 1] if literal > 0 else neg[-literal - 1])
        elif kind == CONSTANT:
            values.append(next(given))
        else:
            op = semiring.mul if kind == PRODUCT else semiring.add
            total = semiring.one if kind == PRODUCT else semiring.zero
            for place, child in enumerate(children[offsets[node] : offsets[node + 1]]):
                total = op(total, values[child]) if place else values[child]
            values.append(total)
    return values


def _evaluate_tensor(ir: CircuitIR, semiring: Semiring, pos: Tensor, neg: Tensor, constants: Sequence[Any]) -> Tensor:
    cell = 1 if semiring.vector else 0
    shape = torch.broadcast_shapes(pos.shape, neg.shape)
    if len(shape) < 1 + cell or shape[len(shape) - 1 - cell] != ir.num_variables:
        raise InputError(f"weights have shape {tuple(shape)}; the dimension of variables must be {ir.num_variables}")
    batch, cells = shape[: len(shape) - 1 - cell], shape[len(shape) - cell :]
    flat = (math.prod(batch), ir.num_variables, *cells)
    rows = [weight.expand(shape).reshape(flat).transpose(0, 1) for weight in (pos, neg)]
    leaves = torch.cat(rows)
    step = max(1, CHUNK_VALUES // ((ir.num_nodes + 2) * math.prod(cells)))
    pieces = [_root(ir, semiring, piece, constants) for piece in leaves.split(step, dim=1)]
    return torch.cat(pieces).reshape((*batch, *cells))


def _root(ir: CircuitIR, semiring: Semiring, leaves: Tensor, constants: Sequence[Any]) -> Tensor:
    """[2m, B, *cell] -> [B, *cell]."""
    n = ir.num_nodes
    values = leaves.new_zeros((n + 2, *leaves.shape[1:]))
    nodes, rows = literal_rows(ir)
    values[torch.from_numpy(nodes).to(leaves.device)] = leaves[torch.from_numpy(rows).to(leaves.device)]
    for node, element in zip(np.flatnonzero(ir.kind == CONSTANT), constants, strict=True):
        values[int(node)] = _element(element, leaves)
    values[n], values[n + 1] = _element(semiring.zero, leaves), _element(semiring.one, leaves)
    for block in blocks(ir):
        below = values[torch.from_numpy(block.children).to(leaves.device)]
        op, fold = (semiring.mul, semiring.mul_all) if block.product else (semiring.add, semiring.add_all)
        value = fold(below) if fold is not None else fold_pairs(op, below)
        values[torch.from_numpy(block.nodes).to(leaves.device)] = value
    return values[n - 1]


def _element(element: Any, like: Tensor) -> Tensor:
    """An element as a tensor; a vector is filled up with zeros to the length of those in ``like``."""
    value = torch.as_tensor(element, dtype=like.dtype, device=like.device)
    if value.ndim and value.shape[-1] < like.shape[-1]:
        value = torch.cat([value, value.new_zeros(like.shape[-1] - value.shape[-1])])
    return value


def fold_pairs(op: Op, x: Tensor) -> Tensor:
    """Fold over dimension 1 in pairs: log2(width) calls of ``op``."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        x = torch.cat([op(x[:, 0 : 2 * half : 2], x[:, 1 : 2 * half : 2]), x[:, 2 * half :]], dim=1)
    return x[:, 0]
