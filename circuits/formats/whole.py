"""Compiled rules as one circuit, for formats that hold one, and as panels of a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from neurosym.circuits.formats.graph import assemble
from neurosym.circuits.formats.picture import Panel
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitIR
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.circuits.component import CompiledKnowledge


def panels(compiled: CompiledKnowledge) -> tuple[Panel, ...]:
    """A panel for each part, with the circuits of its components."""
    names = compiled.kb.predicates
    return tuple(
        Panel(
            f"{part.name} (beta {part.beta:.3g})",
            tuple((c.ir, tuple(names[v] for v in c.variables)) for c in part.components),
        )
        for part in compiled.parts
    )


def one_circuit(compiled: CompiledKnowledge) -> CircuitIR:
    """The product of a part's components and of (x + not x) for every other predicate; variable j is predicate j.

    Raises:
        InputError: several parts, which are a mixture and not one circuit.
    """
    if len(compiled.parts) != 1:
        names = ", ".join(part.name for part in compiled.parts)
        raise InputError(
            f"the rules make {len(compiled.parts)} circuits ({names}) and this format holds one; "
            "take --circuit exclusive, or save .npz"
        )
    part, count = compiled.parts[0], compiled.kb.num_predicates
    kind = [np.array([CONSTANT], dtype=np.int8)]
    literal, log_constant = [np.zeros(1, dtype=np.int64)], [np.array([part.log_constant])]
    edges: list[np.ndarray] = []
    tops: list[int] = [0] if part.log_constant else []
    size = 1
    for component in part.components:
        ir = component.ir
        kind.append(ir.kind)
        ids = np.array(component.variables, dtype=np.int64)
        inside = ir.kind == LITERAL
        moved = np.zeros(ir.num_nodes, dtype=np.int64)
        moved[inside] = np.sign(ir.literal[inside]) * (ids[np.abs(ir.literal[inside]) - 1] + 1)
        literal.append(moved)
        log_constant.append(ir.log_constant)
        parents = np.repeat(np.arange(ir.num_nodes), np.diff(ir.offsets))
        edges.append(np.stack([parents, ir.children]) + size)
        size += ir.num_nodes
        tops.append(size - 1)
    unused = np.setdiff1d(np.arange(count), [v for component in part.components for v in component.variables])
    for v in unused:
        kind.append(np.array([LITERAL, LITERAL, SUM], dtype=np.int8))
        literal.append(np.array([v + 1, -v - 1, 0]))
        log_constant.append(np.zeros(3))
        edges.append(np.array([[size + 2, size + 2], [size, size + 1]]))
        size += 3
        tops.append(size - 1)
    root = tops[0] if len(tops) == 1 else size
    if len(tops) != 1:
        kind.append(np.array([PRODUCT if tops else CONSTANT], dtype=np.int8))
        literal.append(np.zeros(1, dtype=np.int64))
        log_constant.append(np.zeros(1))
        edges.append(np.stack([np.full(len(tops), size), np.array(tops, dtype=np.int64)]))
    joined = np.concatenate([np.zeros((2, 0), dtype=np.int64), *edges], axis=1)
    return assemble(
        np.concatenate(kind), np.concatenate(literal), np.concatenate(log_constant), joined, root, count
    )  # fmt: skip
