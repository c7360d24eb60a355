"""A part of a knowledge base as one circuit over all predicates.

The components of a part are independent, so their product, times (x + not x) for every predicate in none of them, is
decomposable, deterministic and smooth. Queries that need whole worlds in one order (the k best), or another number type
than floats, work on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.compile import as_compiled
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, Part
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.circuits.queries.evidence import select_part
from neurosym.logic.knowledge import KnowledgeBase

Knowledge = KnowledgeBase | CompiledKnowledge


def join(part: Part, num_predicates: int) -> CircuitIR:
    """One circuit over variables 0..num_predicates-1 for all components, free predicates and the part's constant."""
    pieces = [_renumbered(component, num_predicates) for component in part.components]
    # a component without a world is the constant 0, which mentions none of its variables
    inside = {v for component in part.components if component.ir.kind[-1] != CONSTANT for v in component.variables}
    pieces += [_free(v, num_predicates) for v in range(num_predicates) if v not in inside]
    if part.log_constant != 0.0:
        pieces.append(_leaf(CONSTANT, 0, part.log_constant, num_predicates))
    return _product(pieces, num_predicates)


def part_circuit(
    knowledge: Knowledge,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> Circuit:
    """A part of a knowledge base as one circuit over all V predicates: every circuit query applies to it.

    Args:
        circuit, class_kind: as in :func:`neurosym.circuits.compile`; ignored when compiled already.
        part: name or number, where there are several.

    Raises:
        InputError: no such part, or several and none named.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    return Circuit(join(select_part(compiled, part), compiled.kb.num_predicates))


def as_ir(
    target: Knowledge | Circuit | CircuitIR | Component,
    circuit: CircuitName,
    class_kind: ClassKind,
    part: str | int | None,
) -> CircuitIR:
    """The flat circuit of whatever a query was handed."""
    if isinstance(target, CircuitIR):
        return target
    if isinstance(target, Circuit | Component):
        return target.ir
    compiled = as_compiled(target, circuit, class_kind)
    return join(select_part(compiled, part), compiled.kb.num_predicates)


def _renumbered(component: Component, num_predicates: int) -> CircuitIR:
    ir = component.ir
    literal = ir.literal.copy()
    where = ir.kind == LITERAL
    ids = np.asarray(component.variables, dtype=np.int64)
    literal[where] = np.sign(ir.literal[where]) * (ids[np.abs(ir.literal[where]) - 1] + 1)
    return CircuitIR(num_predicates, ir.kind, literal, ir.log_constant, ir.offsets, ir.children, ir.level_offsets)


def _leaf(kind: int, literal: int, log_constant: float, num_variables: int) -> CircuitIR:
    return CircuitIR(
        num_variables,
        np.array([kind], dtype=np.int8),
        np.array([literal], dtype=np.int64),
        np.array([log_constant]),
        np.zeros(2, dtype=np.int64),
        np.zeros(0, dtype=np.int64),
        np.array([0, 1], dtype=np.int64),
    )


def _free(variable: int, num_variables: int) -> CircuitIR:
    return CircuitIR(
        num_variables,
        np.array([LITERAL, LITERAL, SUM], dtype=np.int8),
        np.array([variable + 1, -(variable + 1), 0], dtype=np.int64),
        np.zeros(3),
        np.array([0, 0, 0, 2], dtype=np.int64),
        np.array([0, 1], dtype=np.int64),
        np.array([0, 2, 3], dtype=np.int64),
    )


def _levels(ir: CircuitIR) -> NDArray[np.int64]:
    return np.searchsorted(ir.level_offsets, np.arange(ir.num_nodes), side="right") - 1


def _product(pieces: list[CircuitIR], num_variables: int) -> CircuitIR:
    """The product of circuits over different variables, levels merged; one constant 1 if there are none."""
    if not pieces:
        return _leaf(CONSTANT, 0, 0.0, num_variables)
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(ir.num_nodes for ir in pieces)])
    level = np.concatenate([_levels(ir) for ir in pieces])
    kind = np.concatenate([ir.kind for ir in pieces])
    arity = np.concatenate([np.diff(ir.offsets) for ir in pieces])
    width_bits = np.frexp(np.maximum(arity, 1) - 0.5)[1]
    order = np.lexsort((np.arange(level.size), width_bits, kind, level))
    new = np.empty_like(order)
    new[order] = np.arange(order.size)
    shifted = np.concatenate([ir.children + start for ir, start in zip(pieces, starts, strict=False)]).astype(np.int64)
    old_offsets = np.concatenate([[0], np.cumsum(arity)])
    roots = new[starts[1:] - 1]
    counts = np.append(arity[order], len(pieces))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    # edge e of the new order is edge e - (start of its node now) + (start of its node before)
    moved = np.repeat(old_offsets[order] - offsets[:-2], arity[order]) + np.arange(int(arity.sum()))
    levels = np.append(level[order], int(level.max()) + 1)
    return CircuitIR(
        num_variables=num_variables,
        kind=np.append(kind[order], np.int8(PRODUCT)).astype(np.int8),
        literal=np.append(np.concatenate([ir.literal for ir in pieces])[order], 0),
        log_constant=np.append(np.concatenate([ir.log_constant for ir in pieces])[order], 0.0),
        offsets=offsets,
        children=np.concatenate([new[shifted[moved]], np.sort(roots)]).astype(np.int64),
        level_offsets=np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int64),
    )
