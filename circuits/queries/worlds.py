"""Queries beside the marginals: weighted model count, conditionals, most probable world, samples, probabilities.

A mixture of circuits is not one distribution over worlds. Conditionals are mixed like marginals; the other queries are
about one part, named by ``part`` when there are several.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neurosym.circuits.compile import as_compiled, check_probabilities, weighted_marginals
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, working
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.queries.evidence import (
    Evidence,
    Selection,
    as_rows,
    clamp,
    evidence_tensor,
    prepare,
    select_part,
)
from neurosym.circuits.queries.sampling import best_rows, check_count, draw_rows
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

__all__ = [
    "MostProbable",
    "conditionals",
    "evidence_tensor",
    "log_evidence",
    "log_probability",
    "log_wmc",
    "mpe",
    "sample",
    "select_part",
]


@dataclass(frozen=True)
class MostProbable:
    """Worlds of largest weight.

    Attributes:
        world: bool[..., V].
        log_weight: float[...], log of the world's weight, in the convention of :func:`log_wmc`.
    """

    world: Tensor
    log_weight: Tensor


def log_wmc(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> Tensor:
    """Log weighted model count, float[...]: log of the sum over worlds of likelihood times factors.

    A satisfied rule counts 1 and a violated one exp(-w), so that hard rules give log P(rules hold) and -inf when no
    world is left; add the sum of the finite weights for the count with factors exp(w [satisfied]). Differentiable.

    Raises:
        InputError: see :func:`neurosym.circuits.compile.check_probabilities`; several parts and none named.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part)
    return _log_count(chosen).to(chosen.dtype)


def conditionals(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    evidence: Evidence,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
) -> Tensor:
    """P(predicate | evidence), float[..., V]; differentiable in ``p``.

    Args:
        evidence: predicate names and truth values for all rows, or an integer or bool tensor [..., V] (broadcast
            against ``p``) with 1 true, 0 false and -1 unknown.

    Raises:
        InputError: unknown predicate, or a tensor with other values or another width.
        InconsistentEvidence: the evidence has probability 0; names the row.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    p = check_probabilities(p, compiled.kb.num_predicates)
    known = evidence_tensor(compiled.kb, evidence).to(p.device)
    work = working(p)
    work = work.expand(torch.broadcast_shapes(work.shape, known.shape))
    known = known.expand(work.shape)
    pos, neg = compiled.literal_weights(work)
    ruled_out = ((known == 1) & (pos <= 0)) | ((known == 0) & (neg <= 0))
    if bool(ruled_out.any()):
        row = int(ruled_out.reshape(-1, known.shape[-1]).any(dim=-1).nonzero()[0])
        raise InconsistentEvidence(row, "the knowledge base under the given evidence")
    pos, neg = clamp(pos, neg, known)
    clamped = torch.where(known >= 0, known.to(work.dtype), work)
    return weighted_marginals(compiled, clamped, pos, neg).to(p.dtype)


def mpe(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> MostProbable:
    """Most probable world of each row, by a max-product pass and a trace back.

    Args:
        evidence: as for :func:`conditionals`; the world agrees with it.

    Raises:
        InputError: as for :func:`log_wmc` and :func:`conditionals`.
        InconsistentEvidence: no world of positive probability.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)

    def pick(component: Component, pos: Tensor, neg: Tensor) -> Tensor:
        return best_rows(component.circuit, pos, neg, chosen.where)[0][None]

    with torch.no_grad():
        world = _assemble(chosen, pick, lambda a, b: (a > b)[None])[0]
        weight = joint_log_count(chosen.given(world.to(torch.int64)))
    return MostProbable(world=world, log_weight=weight.to(chosen.dtype))


def sample(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    num_samples: int,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent exact samples of worlds, bool[num_samples, ..., V].

    Args:
        evidence: as for :func:`conditionals`: samples are drawn given it, every row with its own. For other evidence
            or probabilities in every sample, give them a row each and draw one sample.
        generator: source of randomness, on the device of ``p``.

    Raises:
        InputError: as for :func:`log_wmc` and :func:`conditionals`, or ``num_samples`` < 1.
        InconsistentEvidence: no world of positive probability.
    """
    check_count(num_samples)
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)

    def pick(component: Component, pos: Tensor, neg: Tensor) -> Tensor:
        return draw_rows(component.circuit, pos, neg, num_samples, generator, chosen.where)

    def coin(a: Tensor, b: Tensor) -> Tensor:
        draw = torch.rand((num_samples, *a.shape), generator=generator, dtype=a.dtype, device=a.device)
        return draw * (a + b) < a

    with torch.no_grad():
        return _assemble(chosen, pick, coin)


def log_evidence(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    evidence: Evidence,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> Tensor:
    """Log probability of the evidence given the rules, float[...]; -inf where it is impossible. Differentiable.

    Args:
        evidence: as for :func:`conditionals`; a row of truth values for all predicates is a world.

    Raises:
        InputError: as for :func:`log_wmc` and :func:`conditionals`.
        InconsistentEvidence: no world of positive probability even without the evidence.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part)
    total = joint_log_count(chosen)
    chosen.refuse(total == -torch.inf)
    known = evidence_tensor(chosen.kb, evidence).to(p.device)
    return (joint_log_count(chosen.given(known)) - total).to(chosen.dtype)


def log_probability(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    worlds: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> Tensor:
    """Log probability of whole worlds, float[...]; -inf for impossible ones. Differentiable in ``p``.

    Args:
        worlds: bool (or 0 and 1) [..., V], broadcast against ``p``.

    Raises:
        InputError: as for :func:`log_wmc`; worlds of another width or with other values.
        InconsistentEvidence: no world of positive probability.
    """
    if worlds.dtype != torch.bool and bool(((worlds != 0) & (worlds != 1)).any()):
        raise InputError("worlds: values must be 1 (true) or 0 (false); use log_evidence for partial knowledge")
    return log_evidence(knowledge, p, worlds, circuit, class_kind, part=part)


def _assemble(
    chosen: Selection,
    pick: Callable[[Component, Tensor, Tensor], Tensor],
    single: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Worlds [S, ..., V] from a chooser for components (weights [B, m] -> bool[S, B, m]) and one for free predicates."""
    pos, neg = chosen.pos, chosen.neg
    v = pos.shape[-1]
    world = single(pos, neg)
    chosen.require_free()
    shape = world.shape
    flat = world.reshape(shape[0], math.prod(shape[1:-1]), v)
    for component, on, off in chosen.components():
        flat = component.columns.put(flat, pick(component, as_rows(on), as_rows(off)))
    if chosen.part.log_constant == -torch.inf:
        raise InconsistentEvidence(0, chosen.where)
    return flat.reshape(shape)


def _log_count(chosen: Selection) -> Tensor:
    """Log weighted count of a part over the predicates in its rules, [...]; differentiable."""
    total = chosen.pos.new_full(chosen.batch, chosen.part.log_constant)
    for component, pos, neg in chosen.components():
        total = total + component.log_count(pos, neg)
    return total


def joint_log_count(chosen: Selection) -> Tensor:
    """Log weighted count of a part over all predicates, free ones too, [...]; differentiable."""
    free = chosen.free
    return _log_count(chosen) + (free.take(chosen.pos) + free.take(chosen.neg)).log().sum(dim=-1)
