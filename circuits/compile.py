"""From a knowledge base to circuits, and the marginals of the mixture.

Each part of the knowledge base is one distribution over worlds,

    P_r(mu) proportional to prod_j p_j^mu_j (1-p_j)^(1-mu_j) prod_h exp(w_h [mu |= rule h]) prod_g [mu |= group g],

and the corrected marginal of predicate j is the beta-weighted mean of P_r(mu_j = 1) over the parts that mention j
(Kang, Guerel, Li, Li, "COLEP: Certifiably robust learning-reasoning conformal prediction via probabilistic circuits",
2024).
"""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.closed_forms import Mixture, find_mixture, find_star
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, FastKernel, Part
from neurosym.circuits.eliminate import compile_elimination
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.factors import Factor, connected_components, group_factor, rule_factor
from neurosym.circuits.ir import CircuitTooLarge
from neurosym.circuits.sdd import compile_sdd
from neurosym.errors import InputError
from neurosym.logic.knowledge import Group, KnowledgeBase

__all__ = [
    "CompiledKnowledge",
    "Component",
    "Factor",
    "Part",
    "as_compiled",
    "compile",
    "marginals",
]

ELIMINATION_NODES = 200_000
"""Node budget of variable elimination; past it the rules are left to the SDD compiler."""


def compile(
    kb: KnowledgeBase,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    max_seconds: float = 60.0,
    max_nodes: int = 2_000_000,
) -> CompiledKnowledge:
    """Compile a knowledge base.

    Args:
        kb: the knowledge base.
        circuit: ``rules`` makes one circuit for each part of the knowledge base; ``exclusive`` makes a single one from
            all rules and groups in which, besides, exactly one class is true.
        class_kind: what the class probabilities are in the exclusive circuit: one sensor each (``binary``), or a
            row of a softmax (``categorical``).
        max_seconds: wall-clock limit.
        max_nodes: limit on the nodes of one circuit.

    Raises:
        InputError: unknown ``circuit`` or ``class_kind``, or no class for the exclusive circuit.
        CompileLimit: a limit was reached.
    """
    if circuit not in ("rules", "exclusive"):
        raise InputError(f"circuit {circuit!r} is unknown; use 'rules' or 'exclusive'")
    if class_kind not in ("binary", "categorical"):
        raise InputError(f"class_kind {class_kind!r} is unknown; use 'binary' or 'categorical'")
    deadline = time.monotonic() + max_seconds
    if circuit == "exclusive":
        specs = [_exclusive_factors(kb)]
    else:
        specs = [
            (
                part.name,
                part.beta,
                [rule_factor(kb, h) for h in part.rules] + [group_factor(kb, kb.groups[g]) for g in part.groups],
            )
            for part in kb.parts()
        ]
    parts = tuple(_part(kb, name, beta, factors, deadline, max_nodes) for name, beta, factors in specs)
    return CompiledKnowledge(kb=kb, circuit=circuit, class_kind=class_kind, parts=parts)


def _exclusive_factors(kb: KnowledgeBase) -> tuple[str, float, list[Factor]]:
    if kb.num_classes == 0:
        raise InputError("the exclusive circuit needs classes; list them under 'classes' or use circuit='rules'")
    classes = Group("classes", "exactly_one", tuple(kb.classes))
    groups = [group for group in kb.groups if set(group.members) != set(kb.classes)]
    groups += [g for g in kb.groups if set(g.members) == set(kb.classes) and g.kind == "at_most_one"]
    factors = [rule_factor(kb, h) for h in range(len(kb.rules))]
    return "exclusive", 1.0, [*factors, *(group_factor(kb, g) for g in groups), group_factor(kb, classes)]


def _part(
    kb: KnowledgeBase, name: str, beta: float, factors: list[Factor], deadline: float, max_nodes: int
) -> Part:
    mentions = np.zeros(kb.num_predicates, dtype=bool)
    for factor in factors:
        mentions[list(factor.scope)] = True
    constant = sum(float(f.log_table()) for f in factors if not f.scope)
    components = tuple(
        _component(tuple(factors[i] for i in numbers), members, deadline, max_nodes)
        for members, numbers in connected_components([factor.scope for factor in factors])
    )
    return Part(name=name, beta=beta, components=components, mentions=mentions, log_constant=constant)


def _component(
    factors: tuple[Factor, ...], members: tuple[int, ...], deadline: float, max_nodes: int
) -> Component:
    kernel = _kernel(factors, members)
    kind = "elimination" if kernel is None else kernel.kind
    try:
        ir = compile_elimination(factors, members, min(max_nodes, ELIMINATION_NODES), deadline)
    except CircuitTooLarge:
        kind = "sdd" if kernel is None else kind
        ir = compile_sdd(factors, members, max_seconds=deadline - time.monotonic(), max_nodes=max_nodes)
    return Component(variables=members, factors=factors, kind=kind, ir=ir, kernel=kernel)


def _kernel(factors: tuple[Factor, ...], members: tuple[int, ...]) -> FastKernel | None:
    terms = find_mixture(factors, members)
    if terms is not None:
        return Mixture(len(members), terms)
    return find_star(factors, members)


def as_compiled(
    knowledge: KnowledgeBase | CompiledKnowledge, circuit: CircuitName = "rules", class_kind: ClassKind = "binary"
) -> CompiledKnowledge:
    """Compile unless it is compiled already (then ``circuit`` and ``class_kind`` are the ones it was compiled for)."""
    if isinstance(knowledge, CompiledKnowledge):
        return knowledge
    return compile(knowledge, circuit, class_kind)


def check_probabilities(p: Tensor, num_predicates: int, what: str = "p") -> Tensor:
    """The probabilities as a floating tensor, checked: last dimension V, no NaN, within [0, 1].

    Raises:
        InputError: names the first row and column at fault.
    """
    if not isinstance(p, Tensor):
        p = torch.as_tensor(p)
    if p.ndim == 0 or p.shape[-1] != num_predicates:
        raise InputError(
            f"{what} has shape {tuple(p.shape)}; its last dimension must be the {num_predicates} predicates"
        )
    if not p.is_floating_point():
        p = p.to(torch.get_default_dtype())
    wrong = ~((p >= 0) & (p <= 1))
    if bool(wrong.any()):
        row, column = (int(i) for i in wrong.reshape(-1, num_predicates).nonzero()[0])
        value = float(p.detach().reshape(-1, num_predicates)[row, column])
        raise InputError(f"{what}: row {row}, column {column} is {value}; probabilities lie in [0, 1]")
    return p


def marginals(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
) -> Tensor:
    """Corrected probability of every predicate.

    Args:
        knowledge: knowledge base, or the result of :func:`compile` (faster when called often).
        p: sensor probabilities, float[..., V].
        circuit, class_kind: as in :func:`compile`; ignored when compiled already.

    Returns:
        float[..., V] of the dtype and device of ``p``; differentiable (once). Predicates that no rule mentions keep
        their probability. The arithmetic is float64 whatever the dtype of ``p``.

    Raises:
        InputError: wrong shape, NaN, or a value outside [0, 1].
        InconsistentEvidence: the hard rules leave no world; names the row.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    p = check_probabilities(p, compiled.kb.num_predicates)
    return mix(compiled, p)


def mix(compiled: CompiledKnowledge, p: Tensor) -> Tensor:
    """:func:`marginals` without the check of ``p``."""
    work = p if p.dtype == torch.float64 or p.device.type == "mps" else p.to(torch.float64)
    pos, neg = compiled.literal_weights(work)
    return weighted_marginals(compiled, work, pos, neg).to(p.dtype)


def weighted_marginals(compiled: CompiledKnowledge, p: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """The mixture for given literal weights [..., V]; ``p`` is what unmentioned predicates keep."""
    total, weight = torch.zeros_like(p), np.zeros(p.shape[-1])
    for part in compiled.parts:
        if part.beta > 0:
            own = part_marginals(part, p, pos, neg)
            share = part.beta * part.mentions
            total = total + own * torch.as_tensor(share, dtype=p.dtype, device=p.device)
            weight += share
    inside = weight > 0
    scale = torch.as_tensor(1.0 / np.where(inside, weight, 1.0), dtype=p.dtype, device=p.device)
    return torch.where(torch.as_tensor(inside, device=p.device), total * scale, p)


def part_marginals(part: Part, p: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Marginals of one part, [..., V]; ``p`` where no factor applies.

    Raises:
        InconsistentEvidence: a row without a world.
    """
    if not part.components:
        return p
    if part.log_constant == -math.inf:
        raise InconsistentEvidence(0, f"circuit {part.name!r}")
    columns = torch.tensor([v for c in part.components for v in c.variables], device=p.device)
    pieces = []
    for component in part.components:
        index = torch.tensor(component.variables, device=p.device)
        pieces.append(component.marginals(pos.index_select(-1, index), neg.index_select(-1, index)))
    found = torch.cat(pieces, dim=-1)
    bad = found.detach().isnan()
    if bool(bad.any()):
        row = int(bad.reshape(-1, bad.shape[-1]).any(dim=-1).nonzero()[0])
        raise InconsistentEvidence(row, f"circuit {part.name!r}")
    return p.index_copy(-1, columns, found)
