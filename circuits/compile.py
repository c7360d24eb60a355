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
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.compilers.eliminate import compile_elimination
from neurosym.circuits.compilers.sdd import compile_sdd
from neurosym.circuits.compilers.terms import DisjointTerms, hard_terms, terms_to_ir
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, FastKernel, Part, working
from neurosym.circuits.engine.closed_forms import Mixture, find_mixture, find_star
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.factors import Factor, connected_components, group_factor, rule_factor
from neurosym.circuits.ir import CircuitIR, CircuitTooLarge
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
    parts = []
    for spec in part_specs(kb, circuit):
        components = (compile_component(*block, deadline, max_nodes) for block in spec.blocks)
        parts.append(spec.part(tuple(components)))
    return CompiledKnowledge(kb=kb, circuit=circuit, class_kind=class_kind, parts=tuple(parts))


@dataclass(frozen=True)
class FactoredPart:
    """A part before compilation: its factors, and their connected blocks (factors, members)."""

    name: str
    beta: float
    factors: tuple[Factor, ...]
    num_predicates: int

    @property
    def blocks(self) -> list[tuple[tuple[Factor, ...], tuple[int, ...]]]:
        """Connected components of the factor graph, by their smallest predicate."""
        found = connected_components([factor.scope for factor in self.factors])
        return [(tuple(self.factors[i] for i in numbers), members) for members, numbers in found]

    def part(self, components: tuple[Component, ...]) -> Part:
        """The compiled part."""
        mentions = np.zeros(self.num_predicates, dtype=bool)
        for factor in self.factors:
            mentions[list(factor.scope)] = True
        constant = sum(float(f.log_table()) for f in self.factors if not f.scope)
        return Part(self.name, self.beta, components, mentions, constant)


def part_specs(kb: KnowledgeBase, circuit: CircuitName) -> list[FactoredPart]:
    """The parts of a knowledge base as factors.

    Raises:
        InputError: no class for the exclusive circuit.
    """
    if circuit == "exclusive":
        if kb.num_classes == 0:
            raise InputError("the exclusive circuit needs classes; list them under 'classes' or use circuit='rules'")
        classes = Group("classes", "exactly_one", tuple(kb.classes))
        factors = [rule_factor(kb, h) for h in range(len(kb.rules))]
        # a group over all classes says nothing new beside exactly-one
        groups = [group for group in kb.groups if set(group.members) != set(kb.classes)]
        factors += [group_factor(kb, group) for group in (*groups, classes)]
        return [FactoredPart("exclusive", 1.0, tuple(factors), kb.num_predicates)]
    return [
        FactoredPart(
            part.name,
            part.beta,
            (*(rule_factor(kb, h) for h in part.rules), *(group_factor(kb, kb.groups[g]) for g in part.groups)),
            kb.num_predicates,
        )
        for part in kb.parts()
    ]


def compile_component(
    factors: tuple[Factor, ...], members: tuple[int, ...], deadline: float, max_nodes: int
) -> Component:
    """Compile one connected block: variable elimination, or an SDD where that is too large.

    Raises:
        CompileLimit: a limit was reached.
    """
    terms = hard_terms(factors, members)
    if terms is not None and terms.num_terms:
        return _term_component(factors, members, terms, terms_to_ir(terms))
    try:
        ir, kind = compile_elimination(factors, members, min(max_nodes, ELIMINATION_NODES), deadline), "elimination"
    except CircuitTooLarge:
        left = deadline - time.monotonic()
        ir, kind = compile_sdd(factors, members, max_seconds=left, max_nodes=max_nodes), "sdd"
    return component_from_circuit(factors, members, ir, kind)


def component_from_circuit(
    factors: tuple[Factor, ...], members: tuple[int, ...], ir: CircuitIR, kind: str
) -> Component:
    """The component, with a closed form if its factors have one."""
    found = hard_terms(factors, members) if kind == "terms" else None
    if found is not None and found.num_terms:
        return _term_component(factors, members, found, ir)
    kernel: FastKernel | None = None
    terms = find_mixture(factors, members)
    kernel = Mixture(len(members), terms) if terms is not None else find_star(factors, members)
    kind = kind if kernel is None else kernel.kind
    return Component(variables=members, factors=factors, kind=kind, ir=ir, kernel=kernel)


def _term_component(
    factors: tuple[Factor, ...], members: tuple[int, ...], terms: DisjointTerms, ir: CircuitIR
) -> Component:
    matrix = TermMatrix(terms.terms, terms.log_constants)
    return Component(variables=members, factors=factors, kind="terms", ir=ir, terms=matrix)


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
    work = working(p)
    pos, neg = compiled.literal_weights(work)
    return weighted_marginals(compiled, work, pos, neg).to(p.dtype)


def mixing_weights(compiled: CompiledKnowledge) -> NDArray[np.float64]:
    """Weight of each part for each predicate, float64[R, V]; columns sum to 1, or are 0 where no part mentions it."""
    betas = [part.beta * part.mentions for part in compiled.parts]
    shares = np.array(betas, dtype=np.float64).reshape(len(betas), compiled.kb.num_predicates)
    total = shares.sum(axis=0)
    return shares / np.where(total > 0, total, 1.0)


def weighted_marginals(
    compiled: CompiledKnowledge, p: Tensor, pos: Tensor, neg: Tensor, shares: Tensor | None = None
) -> Tensor:
    """The mixture for given literal weights [..., V].

    Args:
        p: what unmentioned predicates keep.
        shares: :func:`mixing_weights` on the device and in the dtype of ``p``, if at hand.
    """
    if shares is None:
        shares = torch.as_tensor(mixing_weights(compiled), dtype=p.dtype, device=p.device)
    parts = [part_marginals(part, p, pos, neg) for part in compiled.parts]
    if len(parts) == 1:
        return parts[0]
    total = torch.zeros_like(p)
    for share, own in zip(shares, parts, strict=True):
        total = total + share * own
    return torch.where(shares.sum(dim=0) > 0, total, p)


def part_marginals(part: Part, p: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Marginals of one part, [..., V]; ``p`` where no factor applies.

    Raises:
        InconsistentEvidence: a row without a world.
    """
    if not part.components:
        return p
    if part.log_constant == -math.inf:
        raise InconsistentEvidence(0, f"circuit {part.name!r}")
    pieces = [
        component.marginals(component.columns.take(pos), component.columns.take(neg)) for component in part.components
    ]
    found = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)
    bad = found.detach().isnan()
    if bool(bad.any()):
        row = int(bad.reshape(-1, bad.shape[-1]).any(dim=-1).nonzero()[0])
        raise InconsistentEvidence(row, f"circuit {part.name!r}")
    return part.columns.put(p, found)
