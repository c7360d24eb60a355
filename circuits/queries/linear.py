"""Expectation, variance and covariance of linear functions sum_j c_j x_j of the predicates.

The covariance of a linear function S with a predicate is a derivative: with A_k the weight of the worlds where x_k is
true without x_k's own weight, dE[S]/dpos_k = (A_k / Z) (E[S | x_k] - E[S]), hence Cov(x_k, S) = pos_k dE[S]/dpos_k. One
backward pass of the marginals gives the covariances of S with all predicates.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge, working
from neurosym.circuits.queries.evidence import Evidence, base_of, circuit_weights, prepare
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

Coefficients = Mapping[str, float] | Tensor
"""Predicate names and their coefficients (others 0), or a tensor whose last dimension is V."""


def circuit_expectation(
    circuit: Circuit, pos: Tensor, neg: Tensor, coefficients: Tensor, *, evidence: Tensor | None = None
) -> Tensor:
    """E[sum_j c_j x_j], float64[...]; differentiable in weights and coefficients; NaN in rows without a world.

    Args:
        pos, neg: literal weights [..., m].
        coefficients: c, [..., m], broadcast.
        evidence: [..., m]: the expectation given it (1 true, 0 false, -1 unknown).

    Raises:
        InputError: wrong weights, coefficients or evidence.
    """
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, evidence)
    coefficients = _check_width(coefficients, circuit.num_variables)
    mean = (circuit.marginals(pos, neg) * coefficients.to(pos)).sum(dim=-1)
    # without variables no marginal can tell that there is no world; 0 * log 0 is NaN
    return mean if circuit.num_variables else mean + 0.0 * circuit.log_wmc(pos, neg)


def circuit_covariance(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    coefficients: Tensor | None = None,
    *,
    evidence: Tensor | None = None,
) -> Tensor:
    """Covariances of K linear functions, float64[..., K, K]; NaN in rows without a world. Not differentiable.

    Args:
        pos, neg: literal weights [..., m].
        coefficients: [K, m]; None for the variables themselves (K = m).
        evidence: [..., m]: the covariance given it.

    Raises:
        InputError: wrong weights, coefficients or evidence.
    """
    m = circuit.num_variables
    pos, neg = (w.detach() for w in circuit_weights(pos, neg, m, evidence))
    rows = torch.eye(m) if coefficients is None else _check_width(coefficients, m)
    if rows.ndim != 2:
        raise InputError(f"coefficients have shape {tuple(rows.shape)}; covariances need one row for each function")
    rows = rows.detach().to(pos)
    shape = (*pos.shape[:-1], *rows.shape)
    with torch.enable_grad():
        wide = pos[..., None, :].expand(shape).clone().requires_grad_()
        mean = (circuit.marginals(wide, neg[..., None, :].expand(shape)) * rows).sum()
        (slope,) = torch.autograd.grad(mean, wide)
    found = (wide.detach() * slope) @ rows.t()
    found = (found + found.transpose(-1, -2)) / 2
    empty = circuit.log_wmc(pos, neg) == -torch.inf
    return found.masked_fill(empty[..., None, None], torch.nan)


def _check_width(coefficients: Tensor, width: int) -> Tensor:
    if coefficients.ndim == 0 or coefficients.shape[-1] != width:
        raise InputError(f"coefficients have shape {tuple(coefficients.shape)}; their last dimension must be {width}")
    return working(coefficients)


def _coefficients(kb: KnowledgeBase, given: Coefficients) -> Tensor:
    if isinstance(given, Tensor):
        return _check_width(given, kb.num_predicates)
    row = torch.zeros(kb.num_predicates, dtype=torch.float64)
    for name, value in given.items():
        row[kb.index(name)] = float(value)
    return row


def expectation(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    coefficients: Coefficients,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Expected value of a linear function of the predicates given the rules, float[...]; differentiable.

    Args:
        p: sensor probabilities, float[..., V].
        coefficients: by name, or a tensor [..., V].
        evidence: as for :func:`neurosym.circuits.conditionals`.

    Raises:
        InputError: as for :func:`neurosym.circuits.mpe`; coefficients of another width or for an unknown predicate.
        InconsistentEvidence: no world of positive probability.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)
    given = _coefficients(chosen.kb, coefficients).to(chosen.pos)
    total = chosen.pos.new_full(chosen.batch, chosen.void)
    for component, pos, neg in chosen.components():
        total = total + (component.marginals(pos, neg) * component.columns.take(given)).sum(dim=-1)
    free = chosen.free
    on, off = free.take(chosen.pos), free.take(chosen.neg)
    return chosen.answer(total + (on / (on + off) * free.take(given)).sum(dim=-1))


@torch.no_grad()
def covariance(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    coefficients: Tensor | None = None,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Covariances of K linear functions of the predicates given the rules, float[..., K, K]. Not differentiable.

    Args:
        coefficients: [K, V]; None for the predicates themselves (K = V). Others and errors as for :func:`expectation`.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)
    v = chosen.kb.num_predicates
    rows = None if coefficients is None else _check_width(coefficients, v).to(chosen.pos)
    k = v if rows is None else rows.shape[0]
    total = chosen.pos.new_full((*chosen.batch, k, k), chosen.void)
    for component, pos, neg in chosen.components():
        own = circuit_covariance(component.circuit, pos, neg, None if rows is None else component.columns.take(rows))
        if rows is None:
            ids = torch.tensor(component.variables, device=pos.device)
            total[..., ids[:, None], ids] = own
        else:
            total = total + own
    free = chosen.free
    on, off = free.take(chosen.pos), free.take(chosen.neg)
    spread = on * off / (on + off) ** 2
    if rows is None:
        ids = torch.tensor(free.ids, dtype=torch.int64, device=total.device)
        total[..., ids, ids] = spread
    else:
        total = total + (free.take(rows) * spread[..., None, :]) @ free.take(rows).t()
    return chosen.answer(total, 2)


def variance(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    coefficients: Coefficients,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> Tensor:
    """Variance of a linear function of the predicates given the rules, float[...]. Not differentiable.

    Args:
        coefficients: by name, or a tensor [V]. Others and errors as for :func:`expectation`.
    """
    row = _coefficients(base_of(knowledge), coefficients)
    found = covariance(knowledge, p, row.reshape(1, -1), circuit, class_kind, part=part, evidence=evidence)
    return found[..., 0, 0].clamp_min(0.0)
