"""Entropy, cross-entropy and divergence of the distributions of a circuit, and mutual information of predicates.

A world's weight is a product of literal weights and constants, so with E[n_l] from one pass over the circuit,

    H = log Z - sum_l E[n_l] log w_l

over literals and constants l, and likewise for two weightings P and Q of one circuit, in closed form: KL(P, Q) =
E_P[log w_P - log w_Q] - log Z_P + log Z_Q. All results are in nats and differentiable once in all weights. Where a
weight is exactly 0 the derivative of its own log is left out of the gradient (the true derivative is infinite there).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge
from neurosym.circuits.ir import CircuitBuilder
from neurosym.circuits.queries.evidence import Evidence, Selection, circuit_weights, clamp, prepare
from neurosym.circuits.queries.moments import expected
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

MAX_JOINT = 16
"""Most predicates of which a joint table of 2^k entries is made."""

Weights = tuple[Tensor, Tensor, Tensor | None]
"""Literal weights [..., m] twice, and logs of the constants [..., C] or None for the circuit's own."""


def _log_or_zero(weight: Tensor) -> Tensor:
    """log, and 0 with derivative 0 at weight 0."""
    positive = weight > 0
    return torch.where(positive, torch.where(positive, weight, torch.ones_like(weight)).log(), torch.zeros_like(weight))


def _gains(circuit: Circuit, weights: Weights) -> tuple[Tensor, Tensor, Tensor]:
    pos, neg, constants = weights
    logs = circuit.log_constants.to(pos) if constants is None else constants
    return _log_or_zero(pos), _log_or_zero(neg), torch.where(logs == -torch.inf, torch.zeros_like(logs), logs)


def _entropy(circuit: Circuit, weights: Weights) -> Tensor:
    log_z, mean = expected(circuit, weights[0], weights[1], *_gains(circuit, weights), weights[2])
    return (log_z - mean).clamp_min(0.0)


def _cross_entropy(circuit: Circuit, of: Weights, under: Weights) -> Tensor:
    _, mean = expected(circuit, of[0], of[1], *_gains(circuit, under), of[2])
    found = circuit.log_wmc(under[0], under[1], under[2]) - mean
    return _infinite_where_excluded(circuit, of, under, found)


def _divergence(circuit: Circuit, of: Weights, under: Weights) -> Tensor:
    on, off, const = (a - b for a, b in zip(_gains(circuit, of), _gains(circuit, under), strict=True))
    # one expectation of the difference: the circuit's own constants drop out, and equal weightings give exactly 0
    own = of[2] is None and under[2] is None
    log_z, mean = expected(circuit, of[0], of[1], on, off, None if own else const, of[2])
    found = mean - (log_z - circuit.log_wmc(under[0], under[1], under[2]))
    return _infinite_where_excluded(circuit, of, under, found.clamp_min(0.0))


@torch.no_grad()
def _excluded(circuit: Circuit, of: Weights, under: Weights) -> Tensor | None:
    """Positive where P uses a leaf that weighs 0 in Q, NaN where P has no world; None when no leaf of Q weighs 0."""
    constants = circuit.log_constants.to(of[0]) if under[2] is None else under[2]
    zero = [(under[0] == 0), (under[1] == 0), constants == -torch.inf]
    if not any(bool(where.any()) for where in zero):
        return None
    on, off, const = (where.to(of[0].dtype) for where in zero)
    found = expected(circuit, of[0], of[1], on, off, const, of[2])[1]
    # with all positive weights alike as well: a world of P may be too improbable for its float to be positive
    own = circuit.log_constants.to(of[0]) if of[2] is None else of[2]
    alike = torch.where(own == -torch.inf, own, 0.0)
    pos, neg = ((w > 0).to(of[0].dtype) for w in of[:2])
    return found + expected(circuit, pos, neg, on, off, const, alike)[1]


def _infinite_where_excluded(circuit: Circuit, of: Weights, under: Weights, found: Tensor) -> Tensor:
    """``found``, or inf where Q gives probability 0 to a world of P; NaN where either has no world."""
    count = _excluded(circuit, of, under)
    if count is None:
        return found
    found = torch.where(count > 0, torch.full_like(found, torch.inf), found)
    empty = circuit.log_wmc(under[0].detach(), under[1].detach(), under[2]) == -torch.inf
    return torch.where(empty | count.isnan(), torch.full_like(found, torch.nan), found)


def _pair(circuit: Circuit, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Literal weights of two weightings, checked and broadcast to one shape."""
    checked = [
        weight
        for pos, neg in (weights[:2], weights[2:])
        for weight in circuit_weights(pos, neg, circuit.num_variables, None)
    ]
    return torch.broadcast_tensors(*checked)


def circuit_entropy(
    circuit: Circuit, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None, *, evidence: Tensor | None = None
) -> Tensor:
    """Shannon entropy of the circuit's distribution in nats, float64[...]; NaN in rows without a world.

    Args:
        pos, neg: literal weights [..., m].
        log_constants: logs of the constants, [..., C], instead of the circuit's own.
        evidence: [..., m]: the entropy given it (1 true, 0 false, -1 unknown).

    Raises:
        InputError: wrong weights or evidence.
    """
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, evidence)
    return _entropy(circuit, (pos, neg, log_constants))


def circuit_cross_entropy(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    other_pos: Tensor,
    other_neg: Tensor,
    log_constants: Tensor | None = None,
    other_log_constants: Tensor | None = None,
) -> Tensor:
    """-E_P[log Q] of two weightings of one circuit in nats, float64[...].

    P has weights ``pos``, ``neg``, ``log_constants`` and Q the others; inf where Q excludes a world of P, NaN in rows
    where either has no world.

    Raises:
        InputError: wrong weights.
    """
    a, b, c, d = _pair(circuit, (pos, neg, other_pos, other_neg))
    return _cross_entropy(circuit, (a, b, log_constants), (c, d, other_log_constants))


def circuit_kl_divergence(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    other_pos: Tensor,
    other_neg: Tensor,
    log_constants: Tensor | None = None,
    other_log_constants: Tensor | None = None,
) -> Tensor:
    """KL(P, Q) = E_P[log P - log Q] in nats, float64[...]; arguments, inf and NaN as in :func:`circuit_cross_entropy`."""
    a, b, c, d = _pair(circuit, (pos, neg, other_pos, other_neg))
    return _divergence(circuit, (a, b, log_constants), (c, d, other_log_constants))


def circuit_joint_distribution(
    circuit: Circuit, pos: Tensor, neg: Tensor, variables: Sequence[int], *, evidence: Tensor | None = None
) -> Tensor:
    """Joint probabilities of k variables, float64[..., 2, ..., 2]: index 1 of axis i means variables[i] is true.

    Differentiable (entries of probability 0 have gradient 0); NaN in rows without a world.

    Raises:
        InputError: wrong weights or evidence, a variable twice or out of range, more than 16 variables.
    """
    k = len(variables)
    if k > MAX_JOINT or len(set(variables)) < k or not all(0 <= v < circuit.num_variables for v in variables):
        raise InputError(
            f"joint distribution of variables {list(variables)}: name up to {MAX_JOINT} different ones "
            f"from 0 to {circuit.num_variables - 1}"
        )
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, evidence)
    states = torch.tensor(list(product((0, 1), repeat=k)), dtype=torch.int64, device=pos.device).reshape(2**k, k)
    known = states.new_full((2**k, circuit.num_variables), -1)
    known[:, list(variables)] = states
    log_joint = circuit.log_wmc(*clamp(pos[..., None, :], neg[..., None, :], known))
    return torch.exp(log_joint - circuit.log_wmc(pos, neg)[..., None]).reshape(*pos.shape[:-1], *(2,) * k)


def circuit_mutual_information(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    first: Sequence[int],
    second: Sequence[int],
    *,
    evidence: Tensor | None = None,
) -> Tensor:
    """Mutual information of two sets of variables in nats, float64[...]; differentiable; 2^k evaluations for k in all.

    A variable in both sets counts with its entropy. Arguments and errors as for :func:`circuit_joint_distribution`.
    """
    every = list(dict.fromkeys([*first, *second]))
    table = circuit_joint_distribution(circuit, pos, neg, every, evidence=evidence)
    first_axes, second_axes = ([every.index(v) for v in side] for side in (first, second))
    return table_information(table, first_axes, second_axes, len(every))


@lru_cache(maxsize=1)
def single_variable() -> Circuit:
    """x + not x over one variable: what a predicate in no rule is."""
    builder = CircuitBuilder()
    return Circuit(builder.finish(builder.free(0), 1))


Take = Callable[[Tensor], Tensor]


def pieces(chosen: Selection) -> Iterator[tuple[Circuit, Take, Take]]:
    """The independent circuits of a part: (circuit, its columns of a tensor [..., V], sum back to [...]).

    Free predicates come last, as a batch [..., F] of circuits over one variable.
    """
    for component in chosen.part.components:
        yield component.circuit, component.columns.take, lambda x: x
    free = chosen.free
    if len(free):
        yield single_variable(), lambda x: free.take(x)[..., None], lambda x: x.sum(dim=-1)


def entropy(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Shannon entropy over worlds of all V predicates given the rules, nats, float[...]; differentiable in ``p``.

    Args:
        p: sensor probabilities, float[..., V].
        evidence: as for :func:`neurosym.circuits.conditionals`: the entropy given it.

    Raises:
        InputError: as for :func:`neurosym.circuits.mpe`.
        InconsistentEvidence: no world of positive probability.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)
    total = chosen.pos.new_full(chosen.batch, chosen.void)
    for unit, take, add in pieces(chosen):
        total = total + add(_entropy(unit, (take(chosen.pos), take(chosen.neg), None)))
    return chosen.answer(total)


def cross_entropy(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    q: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """-E_P[log Q] where P and Q are the rules with sensor probabilities ``p`` and ``q``, nats, float[...].

    Differentiable in both; inf where Q excludes a world of P. Arguments and errors as for :func:`entropy`.
    """
    return _compare(_cross_entropy, knowledge, (p, q), circuit, class_kind, part, evidence)


def kl_divergence(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    q: Tensor,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """KL(P, Q) where P and Q are the rules with sensor probabilities ``p`` and ``q``, nats, float[...].

    Differentiable in both; inf where Q excludes a world of P. Arguments and errors as for :func:`entropy`.
    """
    return _compare(_divergence, knowledge, (p, q), circuit, class_kind, part, evidence)


def _compare(
    measure: Callable[[Circuit, Weights, Weights], Tensor],
    knowledge: KnowledgeBase | CompiledKnowledge,
    weightings: tuple[Tensor, Tensor],
    circuit: CircuitName,
    class_kind: ClassKind,
    part: str | int | None,
    evidence: Evidence | None,
) -> Tensor:
    of, under = (prepare(knowledge, p, circuit, class_kind, part, evidence) for p in weightings)
    shape = torch.broadcast_shapes(of.pos.shape, under.pos.shape)
    a, b = ([w.expand(shape) for w in (s.pos, s.neg)] for s in (of, under))
    total = a[0].new_full(shape[:-1], of.void)
    for unit, take, add in pieces(of):
        total = total + add(measure(unit, (take(a[0]), take(a[1]), None), (take(b[0]), take(b[1]), None)))
    return of.answer(total)


def joint_distribution(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    predicates: Sequence[str],
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Joint probabilities of k predicates given the rules, float[..., 2, ..., 2]; axis i is predicates[i].

    Differentiable in ``p`` (entries of probability 0 have gradient 0).

    Raises:
        InputError: as for :func:`entropy`; a predicate that is unknown or named twice, more than 16 of them.
        InconsistentEvidence: no world of positive probability.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)
    ids = [chosen.kb.index(name) for name in predicates]
    if len(ids) > MAX_JOINT or len(set(ids)) < len(ids):
        raise InputError(f"joint distribution of {list(predicates)}: name up to {MAX_JOINT} different predicates")
    chosen.require_free()
    batch, k = chosen.batch, len(ids)
    table = chosen.pos.new_full((*batch, *(1,) * k), 1.0 + chosen.void)
    for component, pos, neg in chosen.components():
        own = [i for i, v in enumerate(ids) if v in component.variables]
        places = [component.variables.index(ids[i]) for i in own]
        found = circuit_joint_distribution(component.circuit, pos, neg, places)
        table = table * found.reshape(*batch, *(2 if i in own else 1 for i in range(k)))
    free = set(chosen.free.ids)
    for i, v in enumerate(ids):
        if v in free:
            both = torch.stack([chosen.neg[..., v], chosen.pos[..., v]], dim=-1)
            share = both / both.sum(dim=-1, keepdim=True)
            table = table * share.reshape(*batch, *(2 if j == i else 1 for j in range(k)))
    return chosen.answer(table, k)


def mutual_information(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    first: str | Sequence[str],
    second: str | Sequence[str],
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Mutual information of two predicates, or sets of them, given the rules: nats, float[...]; differentiable.

    Costs 2^k evaluations for k predicates in all (16 at most). A predicate in both sets counts with its entropy.

    Raises:
        InputError: as for :func:`joint_distribution`.
        InconsistentEvidence: no world of positive probability.
    """
    sides = [[side] if isinstance(side, str) else list(side) for side in (first, second)]
    names = list(dict.fromkeys([*sides[0], *sides[1]]))
    table = joint_distribution(knowledge, p, names, circuit, class_kind, part=part, evidence=evidence)
    first_axes, second_axes = ([names.index(name) for name in side] for side in sides)
    return table_information(table, first_axes, second_axes, len(names))


def table_information(table: Tensor, first: Sequence[int], second: Sequence[int], k: int) -> Tensor:
    """Mutual information of two sets of axes of a joint table [..., 2, ..., 2] with k axes: sum P log P/(P_a P_b)."""
    logs = _log_or_zero(table)
    for side in (first, second):
        rest = [axis - k for axis in range(k) if axis not in side]
        logs = logs - _log_or_zero(table.sum(dim=rest, keepdim=True) if rest else table)
    value = (table * logs).reshape(*table.shape[: table.ndim - k], -1).sum(dim=-1)
    return value.clamp_min(0.0)
