"""What all queries share: the part they are about, literal weights, and evidence put into those weights.

Evidence is exact conditioning: the weight of the literal that contradicts it becomes 0, nothing else changes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.columns import Columns
from neurosym.circuits.compile import as_compiled, check_probabilities
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, Component, Part, working
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

Evidence = Mapping[str, bool] | Tensor
"""Predicate names and truth values for all rows, or an int or bool tensor [..., V]: 1 true, 0 false, -1 unknown."""


@dataclass(frozen=True)
class Selection:
    """A part with the literal weights of a batch.

    Attributes:
        kb: the rules.
        part: the distribution that the query is about.
        pos, neg: weights with the evidence in them, working precision, [..., V].
        dtype: of the probabilities that came in, and of real-valued answers.
        evidence: whether there was any (for messages).
    """

    kb: KnowledgeBase
    part: Part
    pos: Tensor
    neg: Tensor
    dtype: torch.dtype
    evidence: bool

    @property
    def free(self) -> Columns:
        """Predicates in no component: independent of everything."""
        inside = {v for component in self.part.components for v in component.variables}
        return Columns([v for v in range(self.pos.shape[-1]) if v not in inside])

    @property
    def where(self) -> str:
        """The circuit in words."""
        return f"circuit {self.part.name!r}" + (" under the given evidence" if self.evidence else "")

    @property
    def void(self) -> float:
        """NaN if a rule without predicates rules out every world, otherwise 0: added to answers."""
        return math.nan if self.part.log_constant == -math.inf else 0.0

    @property
    def batch(self) -> torch.Size:
        """Shape of the rows."""
        return self.pos.shape[:-1]

    def components(self) -> Iterator[tuple[Component, Tensor, Tensor]]:
        """The components with their literal weights, [..., m] each."""
        for component in self.part.components:
            yield component, component.columns.take(self.pos), component.columns.take(self.neg)

    def given(self, known: Tensor) -> Selection:
        """The same under evidence [..., V], int64 as in :func:`evidence_tensor`."""
        pos, neg = clamp(self.pos, self.neg, known)
        return replace(self, pos=pos, neg=neg, evidence=True)

    def answer(self, found: Tensor, entries: int = 0) -> Tensor:
        """An answer in the precision that came in.

        Args:
            found: [...] and ``entries`` more dimensions; NaN in rows without a world.

        Raises:
            InconsistentEvidence: such a row; names it.
        """
        empty = found.isnan()
        self.refuse(empty.flatten(-entries).any(dim=-1) if entries else empty)
        return found.to(self.dtype)

    def require_free(self) -> None:
        """Raise where neither literal of a free predicate has weight: the evidence contradicts a probability of 0 or 1.

        Raises:
            InconsistentEvidence: names the row.
        """
        free = self.free
        self.refuse((free.take(self.pos) + free.take(self.neg) <= 0).any(dim=-1))

    def refuse(self, empty: Tensor) -> None:
        """Raise for the first true entry of ``empty`` (bool[...], rows without a world).

        Raises:
            InconsistentEvidence: names the row.
        """
        if bool(empty.any()):
            raise InconsistentEvidence(int(empty.reshape(-1).nonzero()[0]), self.where)


def base_of(knowledge: KnowledgeBase | CompiledKnowledge) -> KnowledgeBase:
    """The rules, compiled or not."""
    return knowledge.kb if isinstance(knowledge, CompiledKnowledge) else knowledge


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


def prepare(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName,
    class_kind: ClassKind,
    part: str | int | None,
    evidence: Evidence | None = None,
) -> Selection:
    """Checked arguments of a query; the batch is that of ``p`` and ``evidence`` broadcast.

    Raises:
        InputError: wrong probabilities or evidence; several parts and none named.
    """
    compiled = as_compiled(knowledge, circuit, class_kind)
    p = check_probabilities(p, compiled.kb.num_predicates)
    pos, neg = compiled.literal_weights(working(p))
    chosen = Selection(compiled.kb, select_part(compiled, part), pos, neg, p.dtype, False)
    return chosen if evidence is None else chosen.given(evidence_tensor(compiled.kb, evidence).to(p.device))


def clamp(pos: Tensor, neg: Tensor, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Literal weights [..., m] under evidence [..., m] (1 true, 0 false, -1 unknown), all broadcast."""
    if known is None:
        return pos, neg
    shape = torch.broadcast_shapes(pos.shape, neg.shape, known.shape)
    pos, neg, known = pos.expand(shape), neg.expand(shape), known.expand(shape)
    return pos.masked_fill(known == 0, 0.0), neg.masked_fill(known == 1, 0.0)


def evidence_tensor(kb: KnowledgeBase, evidence: Evidence) -> Tensor:
    """Evidence as int64[..., V] with -1 for unknown.

    Raises:
        InputError: unknown predicate, or a tensor with other values or another width.
    """
    if isinstance(evidence, Mapping):
        known = torch.full((kb.num_predicates,), -1, dtype=torch.int64)
        for name, value in evidence.items():
            known[kb.index(name)] = int(bool(value))
        return known
    return check_evidence(evidence, kb.num_predicates, "predicates")


def check_evidence(evidence: Tensor, width: int, what: str = "variables") -> Tensor:
    """An evidence tensor as int64[..., width].

    Raises:
        InputError: values other than -1, 0 and 1, or another width.
    """
    if evidence.ndim == 0 or evidence.shape[-1] != width:
        raise InputError(f"evidence has shape {tuple(evidence.shape)}; its last dimension must be the {width} {what}")
    known = evidence.to(torch.int64)
    if bool(((known < -1) | (known > 1) | (known != evidence)).any()):
        raise InputError("evidence: values must be 1 (true), 0 (false) or -1 (unknown)")
    return known


def check_weights(pos: Tensor, neg: Tensor, num_variables: int) -> tuple[Tensor, Tensor]:
    """Literal weights of a circuit in working precision, broadcast to one shape [..., m].

    Raises:
        InputError: another width, NaN, negative or infinite weights.
    """
    pos, neg = working(torch.as_tensor(pos)), working(torch.as_tensor(neg))
    for name, weight in (("pos", pos), ("neg", neg)):
        if weight.ndim == 0 or weight.shape[-1] != num_variables:
            raise InputError(
                f"{name} has shape {tuple(weight.shape)}; its last dimension must be the {num_variables} variables"
            )
        wrong = ~((weight >= 0) & (weight < torch.inf))
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.reshape(-1, num_variables).nonzero()[0])
            value = float(weight.detach().reshape(-1, num_variables)[row, column])
            raise InputError(f"{name}: row {row}, column {column} is {value}; weights are finite and not negative")
    shape = torch.broadcast_shapes(pos.shape, neg.shape)
    return pos.expand(shape), neg.expand(shape)


def circuit_weights(pos: Tensor, neg: Tensor, num_variables: int, evidence: Tensor | None) -> tuple[Tensor, Tensor]:
    """:func:`check_weights` and :func:`clamp` for a query about one circuit."""
    pos, neg = check_weights(pos, neg, num_variables)
    known = None if evidence is None else check_evidence(evidence, num_variables).to(pos.device)
    return clamp(pos, neg, known)


def as_rows(x: Tensor) -> Tensor:
    """[..., n] -> [B, n], also where n is 0."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
