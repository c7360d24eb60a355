"""The k most probable worlds: every node keeps the k best weights of its own worlds.

A sum merges the lists of its children, a product merges them two by two: with both lists in order, the pair (i, j) can
be among the k best only if (i+1)(j+1) <= k, so k log k sums are enough (the k-best semiring; Huang and Chiang, "Better
k-best parsing", 2005). Ranks are kept instead of worlds; k passes from the root down, all at once, read the worlds off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CircuitName, ClassKind, CompiledKnowledge
from neurosym.circuits.ir import CONSTANT, CircuitIR
from neurosym.circuits.queries.evidence import Evidence, as_rows, circuit_weights, prepare
from neurosym.circuits.queries.joined import join
from neurosym.circuits.queries.levels import Block, blocks, literal_rows, require_all_variables
from neurosym.circuits.queries.sampling import check_count
from neurosym.logic.knowledge import KnowledgeBase

CHUNK_RANKS = 8_000_000
"""Ranks (edges x rows x k) kept at once."""


@dataclass(frozen=True)
class KBest:
    """The k worlds of largest weight of each row, best first.

    Worlds of equal weight come in an order that depends on the circuit only, the same on every run.

    Attributes:
        worlds: bool[..., k, m]; false where there are fewer worlds.
        log_weight: float[..., k], -inf where there are fewer worlds.
        found: int64[...], number of worlds found: k, or all possible ones if fewer.
    """

    worlds: Tensor
    log_weight: Tensor
    found: Tensor


@dataclass(frozen=True)
class _Merge:
    """One merge of pairs of children: for each result the place of its left and right rank, coded left * k + right."""

    code: Tensor


@torch.no_grad()
def circuit_k_best(
    target: Circuit | CircuitIR, pos: Tensor, neg: Tensor, k: int, *, evidence: Tensor | None = None
) -> KBest:
    """The k worlds of largest weight under literal weights [..., m].

    Args:
        evidence: int or bool [..., m], broadcast: 1 true, 0 false, -1 unknown; the worlds agree with it.

    Raises:
        InputError: wrong weights or evidence, k < 1, a variable that does not occur in the circuit.
    """
    check_count(k, "k")
    ir = target.ir if isinstance(target, Circuit) else target
    require_all_variables(ir)
    pos, neg = circuit_weights(pos, neg, ir.num_variables, evidence)
    batch = pos.shape[:-1]
    m = ir.num_variables
    leaves = torch.cat([as_rows(pos), as_rows(neg)], dim=1).log()
    most = min(k, 1 << min(m, 62))  # a larger k only pads the result
    rows = max(1, CHUNK_RANKS // ((ir.num_edges + ir.num_nodes) * most))
    pieces = [_k_best(ir, piece, most) for piece in leaves.split(rows)]
    missing = (0, k - most)
    worlds = pad(torch.cat([world for world, _ in pieces]), (0, 0, *missing)).reshape(*batch, k, m)
    weight = pad(torch.cat([weight for _, weight in pieces]), missing, value=-torch.inf).reshape(*batch, k)
    return KBest(worlds, weight, (weight > -torch.inf).sum(dim=-1))


def k_best(
    knowledge: KnowledgeBase | CompiledKnowledge,
    p: Tensor,
    k: int,
    circuit: CircuitName = "rules",
    class_kind: ClassKind = "binary",
    *,
    part: str | int | None = None,
    evidence: Evidence | None = None,
) -> KBest:
    """The k most probable worlds of each row, all V predicates, weights in the convention of ``log_wmc``.

    Args:
        p: sensor probabilities, float[..., V].
        evidence: as for :func:`neurosym.circuits.conditionals`; the worlds agree with it.

    Raises:
        InputError: as for :func:`neurosym.circuits.mpe`, or k < 1.
        InconsistentEvidence: no world of positive probability.
    """
    chosen = prepare(knowledge, p, circuit, class_kind, part, evidence)
    found = circuit_k_best(join(chosen.part, chosen.pos.shape[-1]), chosen.pos, chosen.neg, k)
    chosen.refuse(found.found == 0)
    return KBest(found.worlds, found.log_weight.to(chosen.dtype), found.found)


def _k_best(ir: CircuitIR, leaves: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Logs of the weights [B, 2m] -> worlds bool[B, k, m] and log weights [B, k]."""
    steps = blocks(ir)
    n, batch, device = ir.num_nodes, leaves.shape[0], leaves.device
    best = leaves.new_full((n + 2, batch, k), -torch.inf)
    nodes, rows = (torch.from_numpy(a).to(device) for a in literal_rows(ir))
    best[nodes, :, 0] = leaves.t()[rows]
    constant = torch.from_numpy((ir.kind == CONSTANT).nonzero()[0]).to(device)
    logs = torch.from_numpy(ir.log_constant).to(leaves)
    best[constant, :, 0] = logs[constant, None]
    best[n + 1, :, 0] = 0.0
    pairs = _pairs(k, device)
    kept = []
    for step in steps:
        below = best[torch.from_numpy(step.children).to(device)]
        values, merges = _merge_products(below, pairs, k) if step.product else _merge_sums(below, k)
        best[torch.from_numpy(step.nodes).to(device)] = values
        kept.append(merges)
    weight = best[n - 1]
    ranks = torch.full((n + 2, batch * k), -1, dtype=torch.int64, device=device)
    ranks[n - 1] = torch.where(weight > -torch.inf, torch.arange(k, device=device), -1).reshape(-1)
    del best
    for step, merges in zip(reversed(steps), reversed(kept), strict=True):
        _hand_down(step, merges, ranks, k)
    worlds = torch.zeros((2 * ir.num_variables, batch * k), dtype=torch.bool, device=device)
    worlds[rows] = ranks[nodes] >= 0
    return worlds[: ir.num_variables].t().reshape(batch, k, ir.num_variables), weight


def _pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Places (i, j) that can be among the k best of two lists in order, by i + j."""
    found = [(i, j) for i in range(k) for j in range(k // (i + 1))]
    found.sort(key=lambda pair: (pair[0] + pair[1], pair[0]))
    both = torch.tensor(found, dtype=torch.int64, device=device)
    return both[:, 0], both[:, 1]


def _merge_sums(below: Tensor, k: int) -> tuple[Tensor, list[_Merge]]:
    """[n, width, B, k] -> the k best [n, B, k]; the code is child * k + rank."""
    every = below.transpose(1, 2).flatten(2)
    values, code = every.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], [_Merge(code[..., :k].contiguous())]


def _merge_products(below: Tensor, pairs: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, list[_Merge]]:
    """[n, width, B, k] -> the k best [n, B, k], children merged in pairs until one list is left."""
    left, right = pairs
    merges = []
    while below.shape[1] > 1:
        half = below.shape[1] // 2
        total = below[:, 0 : 2 * half : 2][..., left] + below[:, 1 : 2 * half : 2][..., right]
        values, order = total.sort(dim=-1, descending=True, stable=True)
        order = order[..., :k]
        merges.append(_Merge((left[order] * k + right[order]).to(torch.int32)))
        below = torch.cat([values[..., :k], below[:, 2 * half :]], dim=1)
    return below[:, 0], merges


def _hand_down(step: Block, merges: list[_Merge], ranks: Tensor, k: int) -> None:
    """Ranks of the children of the nodes that are in use, from the nodes' own; ranks int64[N+2, B*k], -1 unused."""
    device = ranks.device
    nodes, children = (torch.from_numpy(a).to(device) for a in (step.nodes, step.children))
    place, column = (ranks[nodes] >= 0).nonzero(as_tuple=True)
    row, rank = column // k, ranks[nodes[place], column]
    if not step.product:
        code = merges[0].code[place, row, rank]
        ranks[children[place, code // k], column] = code % k
        return
    own = rank[:, None]
    for merge in reversed(merges):
        half = merge.code.shape[1]
        pair = torch.arange(half, device=device)
        code = merge.code[place[:, None], pair, row[:, None], own[:, :half]].to(torch.int64)
        both = torch.stack([code // k, code % k], dim=-1).flatten(1)
        own = torch.cat([both, own[:, half:]], dim=1)
    ranks[children[place], column[:, None]] = own
