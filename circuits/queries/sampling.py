"""Worlds drawn from a circuit, and its best world: from the values of all nodes, one pass from the root down.

A draw visits one child of every sum it comes by, with probability in proportion to the children's values, which is an
exact draw from the circuit's distribution because the circuit is deterministic and decomposable. Only the nodes that a
draw comes by cost anything: a block of sums is worked on as the list of its (node, draw) pairs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.engine.logspace import upward
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.queries.evidence import as_rows, circuit_weights
from neurosym.circuits.queries.levels import blocks
from neurosym.errors import InputError

CHUNK_DRAWS = 20_000_000
"""(node, draw) pairs held at once."""


def check_count(num_samples: int, what: str = "num_samples") -> None:
    """Raise InputError unless there is at least one."""
    if isinstance(num_samples, bool) or not isinstance(num_samples, int | np.integer):
        raise InputError(f"{what} is {num_samples!r:.40}; it must be a whole number")
    if num_samples < 1:
        raise InputError(f"{what} is {num_samples}; it must be at least 1")


def refuse_empty(log_total: Tensor, where: str) -> None:
    """Raise InconsistentEvidence for the first row of log count -inf."""
    empty = log_total == -torch.inf
    if bool(empty.any()):
        raise InconsistentEvidence(int(empty.reshape(-1).nonzero()[0]), where)


def draw_rows(
    circuit: Circuit, pos: Tensor, neg: Tensor, repeats: int, generator: torch.Generator | None, where: str
) -> Tensor:
    """``repeats`` draws for each row: weights [B, m] -> bool[repeats, B, m].

    Raises:
        InconsistentEvidence: a row without a world.
    """
    batch = pos.shape[0]
    # all rows are checked before any is drawn, so that a failure uses up no randomness
    refuse_empty(circuit.log_wmc(pos, neg), where)
    rows = max(1, CHUNK_DRAWS // (circuit.ir.num_nodes * max(1, min(repeats, 1024))))
    found = pos.new_empty((repeats, batch, circuit.num_variables), dtype=torch.bool)
    for start in range(0, batch, rows):
        here = slice(start, min(start + rows, batch))
        values = upward(circuit.plan, pos[here].t().log(), neg[here].t().log())
        step = max(1, CHUNK_DRAWS // (circuit.ir.num_nodes * (here.stop - here.start)))
        for first in range(0, repeats, step):
            found[first : first + step, here] = _descend(circuit, values, min(step, repeats - first), generator)
    return found


def _descend(circuit: Circuit, values: Tensor, repeats: int, generator: torch.Generator | None) -> Tensor:
    """Draws from node values [N+2, B] -> bool[repeats, B, m]."""
    batch, device = values.shape[1], values.device
    active = torch.zeros((values.shape[0], repeats * batch), dtype=torch.bool, device=device)
    active[circuit.ir.num_nodes - 1] = True
    for block in reversed(blocks(circuit.ir)):
        children = torch.from_numpy(block.children).to(device)
        place, draw = active[torch.from_numpy(block.nodes).to(device)].nonzero(as_tuple=True)
        below = children[place]
        if block.product:
            active[below, draw[:, None]] = True
        else:
            choice = _choose(values[below, (draw % batch)[:, None]], generator)
            active[below.gather(1, choice)[:, 0], draw] = True
    positive = circuit.plan.steps(device).positive
    return active[positive.clamp_max(values.shape[0] - 1)].t().reshape(repeats, batch, circuit.num_variables)


def _choose(log_values: Tensor, generator: torch.Generator | None) -> Tensor:
    """One child for each row in proportion to its value: [n, width] -> int64[n, 1]; never a child of value 0."""
    share = torch.exp(log_values - log_values.amax(dim=1, keepdim=True))
    below = share.cumsum(dim=1)
    total = below[:, -1:]
    uniform = torch.rand(total.shape, generator=generator, dtype=total.dtype, device=total.device)
    # the product may round up to the total, past the last child
    point = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return (below <= point).sum(dim=1, keepdim=True)


def best_rows(circuit: Circuit, pos: Tensor, neg: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """The best world of each row, bool[B, m], and the log of its weight, [B], from weights [B, m].

    Raises:
        InconsistentEvidence: a row without a world.
    """
    if pos.shape[0] == 0:
        return torch.zeros(pos.shape, dtype=torch.bool, device=pos.device), pos.new_zeros(0)
    world, log_weight = circuit.mpe(pos, neg)
    refuse_empty(log_weight, where)
    return world, log_weight


@torch.no_grad()
def circuit_sample(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    num_samples: int,
    *,
    evidence: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Independent exact samples of worlds, bool[num_samples, ..., m].

    Args:
        pos, neg: literal weights [..., m], every row its own.
        evidence: int or bool [..., m], broadcast against the weights: 1 true, 0 false, -1 unknown; every row its own.
        generator: source of randomness, on the device of the weights.

    Raises:
        InputError: wrong weights or evidence, ``num_samples`` < 1.
        InconsistentEvidence: a row without a world; names it.
    """
    check_count(num_samples)
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, evidence)
    shape = pos.shape
    drawn = draw_rows(circuit, as_rows(pos), as_rows(neg), num_samples, generator, "the circuit")
    return drawn.reshape(num_samples, *shape)


def circuit_mpe(circuit: Circuit, pos: Tensor, neg: Tensor, *, evidence: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """World of largest weight, bool[..., m], and the log of its weight, float64[...], differentiable for that world.

    Args and errors as for :func:`circuit_sample`.
    """
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, evidence)
    shape = pos.shape
    best, log_weight = best_rows(circuit, as_rows(pos), as_rows(neg), "the circuit")
    world = best.reshape(shape)
    if torch.is_grad_enabled() and (pos.requires_grad or neg.requires_grad):
        return world, circuit_log_weight(circuit, world, pos, neg)
    return world, log_weight.to(pos.dtype).reshape(shape[:-1])


def circuit_log_weight(circuit: Circuit, worlds: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Log weight of worlds bool[..., m] (broadcast against the weights): the count with their other literals at 0.

    Differentiable; -inf for a world that is impossible.
    """
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, worlds)
    return circuit.log_wmc(pos, neg)


def circuit_log_probability(circuit: Circuit, worlds: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Log probability of worlds bool[..., m] under weights [..., m], broadcast; differentiable.

    Raises:
        InconsistentEvidence: a row of weights without a world.
    """
    return circuit_log_evidence(circuit, worlds, pos, neg)


def circuit_log_evidence(circuit: Circuit, evidence: Tensor, pos: Tensor, neg: Tensor) -> Tensor:
    """Log probability of evidence (1 true, 0 false, -1 unknown), [..., m] -> [...]; differentiable.

    Raises:
        InconsistentEvidence: a row of weights without a world (impossible evidence has log probability -inf).
    """
    pos, neg = circuit_weights(pos, neg, circuit.num_variables, None)
    total = circuit.log_wmc(pos, neg)
    refuse_empty(total, "the circuit")
    return circuit.log_wmc(*circuit_weights(pos, neg, circuit.num_variables, evidence)) - total
