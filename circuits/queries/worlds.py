"""Queries beside the marginals: weighted model count, conditionals, most probable world, samples.

A mixture of circuits is not one distribution over worlds. Conditionals are mixed like marginals; the other queries are
about one part, named by ``part`` when there are several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.columns import Columns
from neurosym.circuits.compile import as_compiled, check_probabilities, weighted_marginals
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, Part, working
from neurosym.circuits.engine.logspace import trace, upward
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase


@dataclass(frozen=True)
class MostProbable:
    """Worlds of largest weight.

    Attributes:
        world: bool[..., V].
        log_weight: float[...], log of the world's weight, in the convention of :func:`log_wmc`.
    """

    world: Tensor
    log_weight: Tensor


def select_part(compiled: CompiledKnowledge, part: str | int | None) -> Part:
    """The part of that name or number; None means the only one.

    Raises:
        InputError: no such part, or several and none named.
    """
    names = [item.name for item in compiled.parts]
    if part is None and len(names) == 1:
        return compiled.parts[0]
    if part is None and not names:
        return Part("rest", 1.0, (), np.zeros(compiled.kb.num_predicates, dtype=bool))
    if isinstance(part, int) and 0 <= part < len(names):
        return compiled.parts[part]
    if isinstance(part, str) and part in names:
        return compiled.parts[names.index(part)]
    raise InputError(f"this query is about one circuit; give part= one of {names} or its number")


def _free_variables(part: Part, num_predicates: int) -> list[int]:
    inside = {v for component in part.components for v in component.variables}
    return [v for v in range(num_predicates) if v not in inside]


def _prepare(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName,
    class_kind: ClassKind,
    part: str | int | None,
) -> tuple[Part, Tensor, Tensor, Tensor]:
    compiled = as_compiled(knowledge, circuit, class_kind)
    p = check_probabilities(p, compiled.kb.num_predicates)
    work = working(p)
    pos, neg = compiled.literal_weights(work)
    return select_part(compiled, part), p, pos, neg


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
    chosen, p, pos, neg = _prepare(knowledge, p, circuit, class_kind, part)
    total = torch.full(p.shape[:-1], chosen.log_constant, dtype=pos.dtype, device=p.device)
    for component in chosen.components:
        total = total + component.log_count(component.columns.take(pos), component.columns.take(neg))
    return total.to(p.dtype)


def conditionals(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    evidence: Mapping[str, bool] | Tensor,
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
        raise InconsistentEvidence(row, "the evidence: it contradicts a probability of 0 or 1, and the rules")
    zero = torch.zeros_like(work)
    pos, neg = torch.where(known == 0, zero, pos), torch.where(known == 1, zero, neg)
    clamped = torch.where(known >= 0, known.to(work.dtype), work)
    return weighted_marginals(compiled, clamped, pos, neg).to(p.dtype)


def evidence_tensor(kb: KnowledgeBase, evidence: Mapping[str, bool] | Tensor) -> Tensor:
    """Evidence as int64[..., V] with -1 for unknown.

    Raises:
        InputError: see :func:`conditionals`.
    """
    if isinstance(evidence, Mapping):
        known = torch.full((kb.num_predicates,), -1, dtype=torch.int64)
        for name, value in evidence.items():
            known[kb.index(name)] = int(bool(value))
        return known
    if evidence.ndim == 0 or evidence.shape[-1] != kb.num_predicates:
        raise InputError(
            f"evidence has shape {tuple(evidence.shape)}; its last dimension must be the {kb.num_predicates} predicates"
        )
    known = evidence.to(torch.int64)
    if bool(((known < -1) | (known > 1) | (known != evidence)).any()):
        raise InputError("evidence: values must be 1 (true), 0 (false) or -1 (unknown)")
    return known


def mpe(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
) -> MostProbable:
    """Most probable world of each row, by a max-product pass and a trace back.

    Raises:
        InputError: as for :func:`log_wmc`.
        InconsistentEvidence: no world of positive probability.
    """
    chosen, p, pos, neg = _prepare(knowledge, p, circuit, class_kind, part)

    def pick(component: Component, log_pos: Tensor, log_neg: Tensor) -> Tensor:
        values = upward(component.plan, log_pos, log_neg, maximise=True)
        _refuse_empty(values[component.plan.num_nodes - 1], chosen)
        return trace(component.plan, values, None)

    with torch.no_grad():
        world = _assemble(chosen, pos, neg, pick, lambda a, b: a > b)
        weight = _log_weight(chosen, world, pos, neg)
    return MostProbable(world=world, log_weight=weight.to(p.dtype))


def sample(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    num_samples: int,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent exact samples of worlds, bool[num_samples, ..., V].

    Args:
        generator: source of randomness, on the device of ``p``.

    Raises:
        InputError: as for :func:`log_wmc`, or ``num_samples`` < 1.
        InconsistentEvidence: no world of positive probability.
    """
    if num_samples < 1:
        raise InputError(f"num_samples is {num_samples}; it must be at least 1")
    chosen, p, pos, neg = _prepare(knowledge, p, circuit, class_kind, part)

    def pick(component: Component, log_pos: Tensor, log_neg: Tensor) -> Tensor:
        values = upward(component.plan, log_pos, log_neg)
        _refuse_empty(values[component.plan.num_nodes - 1], chosen)
        return trace(component.plan, values, generator, repeats=num_samples)

    def coin(a: Tensor, b: Tensor) -> Tensor:
        draw = torch.rand((num_samples, *a.shape), generator=generator, dtype=a.dtype, device=a.device)
        return draw * (a + b) < a

    with torch.no_grad():
        return _assemble(chosen, pos, neg, pick, coin)


def _refuse_empty(log_total: Tensor, part: Part) -> None:
    empty = log_total == -torch.inf
    if bool(empty.any()):
        raise InconsistentEvidence(int(empty.nonzero()[0]), f"circuit {part.name!r}")


def _assemble(
    part: Part,
    pos: Tensor,
    neg: Tensor,
    pick: Callable[[Component, Tensor, Tensor], Tensor],
    single: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """World from a chooser for components ([m, B] logs -> bool[S*B, m]) and one for free predicates."""
    v = pos.shape[-1]
    free = single(pos, neg)
    flat = free.reshape(-1, v)
    for component in part.components:
        m = len(component.variables)
        weights = (component.columns.take(w).reshape(-1, m).t().log() for w in (pos, neg))
        flat = component.columns.put(flat, pick(component, *weights))
    if part.log_constant == -torch.inf:
        raise InconsistentEvidence(0, f"circuit {part.name!r}")
    return flat.reshape(free.shape)


def _log_weight(part: Part, world: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Log weight of a world, [...]: the count of a circuit whose other literals weigh 0."""
    zero = torch.zeros_like(pos)
    on, off = torch.where(world, pos, zero), torch.where(world, zero, neg)
    total = torch.full(world.shape[:-1], part.log_constant, dtype=pos.dtype, device=pos.device)
    for component in part.components:
        total = total + component.log_count(component.columns.take(on), component.columns.take(off))
    free = _free_variables(part, world.shape[-1])
    return total + Columns(free).take(on + off).log().sum(dim=-1)
