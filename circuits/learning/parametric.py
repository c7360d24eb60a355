"""Circuits whose sums carry parameters: the structure of a probabilistic sentential decision diagram.

Each child of a sum gets a factor of its own, theta >= 0, and the factors of one sum add up to 1. On a smooth, deterministic,
decomposable circuit that makes a distribution over the worlds of the circuit, with partition function 1 (Kisa, Van den
Broeck, Choi, Darwiche, "Probabilistic sentential decision diagrams", KR 2014). Smoothing sums x + not x carry parameters
like all others: they are the distribution of a variable that no constraint ties.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.compile import compile
from neurosym.circuits.component import CircuitName, CompiledKnowledge
from neurosym.circuits.ir import (
    CONSTANT,
    LITERAL,
    PRODUCT,
    SUM,
    CircuitIR,
    check_properties,
    width_class,
)
from neurosym.circuits.queries.worlds import select_part
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

_ONE, _EMPTY = -1, -2
"""Places of the constant one and of the empty sum among the nodes of a draft."""


@dataclass(frozen=True)
class ParametricIR:
    """A circuit with one constant leaf for every edge below a sum.

    Attributes:
        ir: the circuit; its constants are the parameters, all with log value 0 here.
        groups: int64[C], the sum that each parameter belongs to; ascending, so the parameters of one sum are
            neighbours, and sums of equal width are too.
        initial: float64[C], log parameters with which the circuit is the distribution of the circuit it was made from,
            all literals weighing 1 (hard rules: uniform over their worlds; soft rules: as their weights say).
    """

    ir: CircuitIR
    groups: NDArray[np.int64]
    initial: NDArray[np.float64]

    @property
    def num_parameters(self) -> int:
        """Number of parameters C."""
        return int(self.groups.size)

    @property
    def num_groups(self) -> int:
        """Number of sums G."""
        return int(self.groups[-1]) + 1 if self.groups.size else 0

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """Runs of groups of one width: (number of groups, width), in the order of the parameters."""
        found: list[tuple[int, int]] = []
        for width in np.bincount(self.groups).tolist() if self.groups.size else []:
            if found and found[-1][1] == width:
                found[-1] = (found[-1][0] + 1, width)
            else:
                found.append((1, width))
        return tuple(found)

    def normalise(self, scores: Tensor) -> Tensor:
        """Log parameters from any scores: log-softmax in each group, [..., C] -> [..., C]; differentiable."""
        if not self.blocks:
            return scores
        pieces = scores.split([count * width for count, width in self.blocks], dim=-1)
        return torch.cat(
            [
                piece.unflatten(-1, shape).log_softmax(dim=-1).flatten(-2)
                for piece, shape in zip(pieces, self.blocks, strict=True)
            ],
            dim=-1,
        )

    def group_sums(self, values: Tensor) -> Tensor:
        """Sum over the group of each parameter, [..., C] -> [..., C]."""
        if not self.blocks:
            return values
        pieces = values.split([count * width for count, width in self.blocks], dim=-1)
        return torch.cat(
            [
                piece.unflatten(-1, shape).sum(dim=-1, keepdim=True).expand(*piece.shape[:-1], *shape).flatten(-2)
                for piece, shape in zip(pieces, self.blocks, strict=True)
            ],
            dim=-1,
        )


@dataclass
class _Draft:
    """Nodes in topological order (children first), before they are sorted into levels.

    ``edge_value`` holds, for each sum, the log values of its children in the circuit it comes from.
    """

    num_variables: int
    kind: list[int] = field(default_factory=list)
    literal: list[int] = field(default_factory=list)
    children: list[tuple[int, ...]] = field(default_factory=list)
    edge_value: dict[int, tuple[float, ...]] = field(default_factory=dict)
    literals: dict[int, int] = field(default_factory=dict)

    def add(self, kind: int, children: Sequence[int] = (), literal: int = 0) -> int:
        self.kind.append(kind)
        self.literal.append(literal)
        self.children.append(tuple(children))
        return len(self.kind) - 1

    def lit(self, signed: int) -> int:
        if signed not in self.literals:
            self.literals[signed] = self.add(LITERAL, literal=signed)
        return self.literals[signed]

    def product(self, parts: Sequence[int]) -> int:
        kept = [part for part in parts if part != _ONE]
        if _EMPTY in kept:
            return _EMPTY
        if not kept:
            return _ONE
        return kept[0] if len(kept) == 1 else self.add(PRODUCT, kept)

    def sum(self, parts: Sequence[tuple[int, float]]) -> int:
        kept = [(part, value) for part, value in parts if part != _EMPTY]
        if not kept:
            return _EMPTY
        if len(kept) == 1 or all(part == _ONE for part, _ in kept):
            return kept[0][0]
        node = self.add(SUM, [part for part, _ in kept])
        self.edge_value[node] = tuple(value for _, value in kept)
        return node

    def free(self, variable: int) -> int:
        return self.sum([(self.lit(variable + 1), 0.0), (self.lit(-variable - 1), 0.0)])


def _log_values(ir: CircuitIR) -> NDArray[np.float64]:
    """Log value of every node with all literals weighing 1."""
    values = ir.log_constant.copy()
    for node in range(int(ir.level_offsets[1]), ir.num_nodes):
        below = values[ir.children_of(node)]
        values[node] = below.sum() if ir.kind[node] == PRODUCT else np.logaddexp.reduce(below)
    return values


def _without_constants(draft: _Draft, ir: CircuitIR, variables: Sequence[int]) -> int:
    """Copy ``ir`` into the draft, without constants and empty branches; local variable i becomes ``variables[i]``."""
    values = _log_values(ir)
    place: list[int] = []
    for node in range(ir.num_nodes):
        kind = ir.kind[node]
        kids = [int(child) for child in ir.children_of(node)]
        if kind == LITERAL:
            signed = int(ir.literal[node])
            place.append(draft.lit((variables[abs(signed) - 1] + 1) * (1 if signed > 0 else -1)))
        elif kind == CONSTANT:
            place.append(_EMPTY if values[node] == -math.inf else _ONE)
        elif kind == PRODUCT:
            place.append(draft.product([place[child] for child in kids]))
        else:
            place.append(draft.sum([(place[child], float(values[child])) for child in kids]))
    return place[-1]


def _reachable(draft: _Draft, root: int) -> list[int]:
    needed = {root}
    for node in range(root, -1, -1):
        if node in needed:
            needed.update(draft.children[node])
    return sorted(needed)


def _unfold(draft: _Draft, root: int, max_nodes: int) -> tuple[_Draft, int]:
    """One copy of each node for every path from the root to it; parts without sums stay shared."""
    nodes = _reachable(draft, root)
    has_sum: dict[int, bool] = {}
    for node in nodes:
        has_sum[node] = draft.kind[node] == SUM or any(has_sum[child] for child in draft.children[node])
    copies = dict.fromkeys(nodes, 0)
    copies[root] = 1
    for node in reversed(nodes):
        copies[node] = copies[node] if has_sum[node] else min(copies[node], 1)
        for child in draft.children[node]:
            copies[child] += copies[node]
    total = sum(copies.values())
    if total > max_nodes:
        raise InputError(f"without sharing the circuit has {total} nodes, more than {max_nodes}; use share=True")
    out = _Draft(draft.num_variables)
    ready: dict[int, list[int]] = {}
    for node in nodes:
        made = []
        for _ in range(copies[node]):
            # a copy with sums below has one parent, so it is taken; the others are looked at
            kids = [ready[child].pop() if has_sum[child] else ready[child][0] for child in draft.children[node]]
            if draft.kind[node] == LITERAL:
                made.append(out.lit(draft.literal[node]))
            else:
                made.append(out.add(draft.kind[node], kids))
                if node in draft.edge_value:
                    out.edge_value[made[-1]] = draft.edge_value[node]
        ready[node] = made
    return out, ready[root][0]


def _finish(draft: _Draft, root: int, max_nodes: int) -> ParametricIR:
    """Attach a parameter to every edge below a sum and sort into levels."""
    nodes = _reachable(draft, root)
    uses = Counter(child for node in nodes for child in draft.children[node])
    sums = sorted((n for n in nodes if draft.kind[n] == SUM), key=lambda n: (len(draft.children[n]), n))
    kind, literal, children = list(draft.kind), list(draft.literal), [list(kids) for kids in draft.children]
    groups: list[int] = []
    initial: list[float] = []
    parameters: dict[int, int] = {}
    for group, node in enumerate(sums):
        value = np.array(draft.edge_value[node])
        initial.extend((value - np.logaddexp.reduce(value)).tolist())
        for slot, child in enumerate(draft.children[node]):
            parameter = len(kind)
            parameters[parameter] = len(groups)
            groups.append(group)
            kind.append(CONSTANT)
            literal.append(0)
            children.append([])
            if kind[child] == PRODUCT and uses[child] == 1:
                children[child].append(parameter)
            else:
                kind.append(PRODUCT)
                literal.append(0)
                children.append([parameter, child])
                children[node][slot] = len(kind) - 1
            if len(kind) > max_nodes:
                raise InputError(f"with parameters the circuit has more than {max_nodes} nodes; raise max_nodes")
    ir = _sorted_ir(draft.num_variables, kind, literal, children, root, parameters)
    return ParametricIR(ir, np.array(groups, dtype=np.int64), np.array(initial, dtype=np.float64))


def _sorted_ir(
    num_variables: int,
    kind: list[int],
    literal: list[int],
    children: list[list[int]],
    root: int,
    parameters: dict[int, int],
) -> CircuitIR:
    """Nodes that the root needs by level, kind and arity; constants in the order of their ``parameters``."""
    level: dict[int, int] = {}
    stack = [root]
    while stack:
        node = stack[-1]
        waiting = [child for child in children[node] if child not in level]
        if waiting:
            stack.extend(waiting)
        else:
            stack.pop()
            level[node] = 1 + max(level[child] for child in children[node]) if children[node] else 0
    order = sorted(level, key=lambda n: (level[n], kind[n], width_class(len(children[n])), parameters.get(n, 0), n))
    new = {node: place for place, node in enumerate(order)}
    levels = np.array([level[node] for node in order], dtype=np.int64)
    counts = [len(children[node]) for node in order]
    return CircuitIR(
        num_variables=num_variables,
        kind=np.array([kind[node] for node in order], dtype=np.int8),
        literal=np.array([literal[node] for node in order], dtype=np.int64),
        log_constant=np.zeros(len(order)),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        children=np.array([new[child] for node in order for child in sorted(children[node])], dtype=np.int64),
        level_offsets=np.searchsorted(levels, np.arange(int(levels[-1]) + 2)).astype(np.int64),
    )


def _make(
    parts: Sequence[tuple[CircuitIR, Sequence[int]]], num_variables: int, share: bool, max_nodes: int
) -> ParametricIR:
    """One parametric circuit from circuits over disjoint variables; the other variables are free."""
    draft = _Draft(num_variables)
    tops = [_without_constants(draft, ir, variables) for ir, variables in parts]
    if _EMPTY in tops:
        raise InputError("the hard rules leave no world, so there is no distribution to learn; change a rule")
    inside = {abs(signed) - 1 for signed in draft.literals}
    tops.extend(draft.free(v) for v in range(num_variables) if v not in inside)
    root = draft.product(tops)
    if root == _ONE:
        raise InputError("the circuit has no variables, so there is nothing to learn")
    if not share:
        draft, root = _unfold(draft, root, max_nodes)
    return _finish(draft, root, max_nodes)


def with_edge_parameters(ir: CircuitIR, *, share: bool = True, max_nodes: int = 2_000_000) -> ParametricIR:
    """The circuit with a parameter on each edge below a sum; its own constants only say where the parameters start.

    Args:
        ir: smooth, decomposable and deterministic (what the compilers here make). Variables that it does not mention get
            a sum x + not x of their own.
        share: False gives each path from the root its own copy of everything below it: more parameters, and
            distributions that a shared node cannot tell apart (the free variables of different classes, say).
        max_nodes: limit on the nodes of the result.

    Raises:
        InputError: a circuit that is not smooth or not decomposable, or without a world; too many nodes.
    """
    found = check_properties(ir, max_variables=0)
    if not (found.smooth and found.decomposable):
        raise InputError("parameters need a smooth and decomposable circuit; make it with neurosym.circuits.compile")
    return _make([(ir, range(ir.num_variables))], ir.num_variables, share, max_nodes)


def parametric_knowledge(
    knowledge: KnowledgeBase | CompiledKnowledge,
    circuit: CircuitName = "rules",
    *,
    share: bool = True,
    max_nodes: int = 2_000_000,
) -> ParametricIR:
    """A knowledge base as one parametric circuit over all its V predicates, those without a rule included.

    All rules and groups belong to the one distribution: named circuits of a knowledge base are joined. Hard rules and
    groups set its worlds; soft rules only where the parameters start.

    Args:
        knowledge: knowledge base, or one compiled as a single circuit.
        circuit: as in ``compile``; ignored when compiled already.
        share, max_nodes: as in :func:`with_edge_parameters`.

    Raises:
        InputError: no world, too many nodes, or compiled as several circuits.
        CompileLimit: a limit of the compilation was reached.
    """
    if isinstance(knowledge, KnowledgeBase):
        knowledge = compile(replace(knowledge, circuits=()), circuit)
    part = select_part(knowledge, None)
    if part.log_constant == -math.inf:
        raise InputError("the hard rules leave no world, so there is no distribution to learn; change a rule")
    parts = [(component.ir, component.variables) for component in part.components]
    return _make(parts, knowledge.kb.num_predicates, share, max_nodes)
