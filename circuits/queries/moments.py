"""Expected values of sums of literals and constants, differentiable in the weights and in the summands.

With n_l(x) the number of times that world x uses leaf l (a literal or a constant node) and a gain g_l for each,

    E[S] = sum_l E[n_l] g_l,    E[n_l] = w_l (dZ/dw_l) / Z,
    dE[S]/dw_l = (dZ/dw_l / Z) (E[S | l] - E[S]),

so one upward and downward pass gives the value and a second pair, which carries means beside log weights (Li and
Eisner, "First- and second-order expectation semirings", 2009), its gradient. Every quantity is finite for weights 0 and 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neurosym.circuits.circuit import Circuit, LogDerivatives
from neurosym.circuits.engine.logspace import downward, downward_mean, upward
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.queries.evidence import as_rows


def _finite(x: Tensor) -> Tensor:
    return torch.where(x == -torch.inf, torch.zeros_like(x), x)


def usage(found: LogDerivatives, pos: Tensor, neg: Tensor, log_constants: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """E[n_l] of the positive literals, the negative ones and the constants: [..., m] twice and [..., C].

    NaN in rows without a world.
    """
    total = found.log_value[..., None]
    on = torch.exp(pos.log() + found.log_on - total)
    off = torch.exp(neg.log() + found.log_off - total)
    return on, off, torch.exp(log_constants + found.log_constant - total)


class _Expected(torch.autograd.Function):
    """(pos, neg [B, m], log_constants [B, C] or None, gains [B, m], [B, m], [B, C]) -> log Z [B], E[S] [B]."""

    @staticmethod
    def forward(
        ctx: Any,
        pos: Tensor,
        neg: Tensor,
        log_constants: Tensor | None,
        on: Tensor,
        off: Tensor,
        const: Tensor,
        circuit: Circuit,
    ) -> tuple[Tensor, Tensor]:
        found = circuit.log_derivatives(pos, neg, log_constants)
        logs = circuit.log_constants.to(pos) if log_constants is None else log_constants
        used = usage(found, pos, neg, logs)
        value = sum((u * gain).sum(dim=-1) for u, gain in zip(used, (on, off, const), strict=True))
        ctx.circuit = circuit
        ctx.save_for_backward(pos, neg, log_constants, on, off, const, *used)
        return found.log_value, torch.as_tensor(value)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_log: Tensor, by_mean: Tensor) -> tuple[Tensor | None, ...]:
        pos, neg, log_constants, on, off, const, *used = ctx.saved_tensors
        gains = [u * by_mean[:, None] for u in used]
        if not any(ctx.needs_input_grad[:3]):
            return None, None, None, gains[0], gains[1], gains[2], None
        circuit: Circuit = ctx.circuit
        grads = [torch.empty_like(x) for x in (pos, neg, const)]
        rows = circuit.plan.chunk_rows(pos.shape[0], pos.device)
        for start in range(0, pos.shape[0], rows):
            here = slice(start, start + rows)
            logs = None if log_constants is None else log_constants[here]
            pieces = _slopes(
                circuit, (pos[here], neg[here], logs), (on[here], off[here], const[here]), by_log[here], by_mean[here]
            )
            for grad, piece in zip(grads, pieces, strict=True):
                grad[here] = piece
        by_constants = grads[2] if log_constants is not None else None
        return grads[0], grads[1], by_constants, gains[0], gains[1], gains[2], None


def _slopes(
    circuit: Circuit,
    weights: tuple[Tensor, Tensor, Tensor | None],
    gains: tuple[Tensor, Tensor, Tensor],
    by_log: Tensor,
    by_mean: Tensor,
) -> list[Tensor]:
    """Gradients of ``by_log`` log Z + ``by_mean`` E[S] by pos, neg and log constants, [B, m] twice and [B, C]."""
    plan = circuit.plan
    pos, neg, log_constants = weights
    steps = plan.steps(pos.device)
    constants = None if log_constants is None else log_constants.t()
    values = upward(plan, pos.t().log(), neg.t().log(), constants=constants)
    slopes = downward(plan, values)
    means = node_means(plan, values, *(gain.t() for gain in gains))
    outside = downward_mean(plan, values, slopes, means)
    root = plan.num_nodes - 1
    logs = (circuit.log_constants.to(pos) if log_constants is None else log_constants).expand(pos.shape[0], -1).t()
    places = (steps.positive, steps.negative, steps.constant_nodes)
    found = []
    zero = torch.zeros_like(values[root])
    for place, own, scale in zip(places, gains, (zero, zero, logs), strict=True):
        share = torch.exp(slopes[place] + scale - _finite(values[root]))
        found.append((share * (by_log + by_mean * (outside[place] + own.t() - means[root]))).t())
    return found


def node_means(plan: Plan, values: Tensor, on: Tensor, off: Tensor, const: Tensor) -> Tensor:
    """Mean of S under each node's distribution, [N+2, B]; gains [m, B] twice and [C, B]."""
    steps = plan.steps(values.device)
    batch = values.shape[1]
    means = torch.zeros_like(values)
    means[steps.literal_nodes] = torch.cat([on, off])[steps.literal_rows]
    means[steps.constant_nodes] = const.expand(-1, batch)
    for step in steps.up:
        shape = (step.stop - step.start, step.width, batch)
        below = means.index_select(0, step.children).view(shape)
        if not step.product:
            own = _finite(values[step.start : step.stop])[:, None]
            below = below * torch.exp(values.index_select(0, step.children).view(shape) - own)
        means[step.start : step.stop] = below.sum(dim=1)
    return means


def expected(
    circuit: Circuit,
    pos: Tensor,
    neg: Tensor,
    on: Tensor,
    off: Tensor,
    const: Tensor | None,
    log_constants: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """log Z and E[S] under literal weights, differentiable once in all tensors.

    Args:
        pos, neg: weights [..., m], float64, of one shape.
        on, off, const: finite gains of the positive and negative literals [..., m] and of the constants [..., C]; None
            where constants gain nothing, which takes the fast path of the marginals.
        log_constants: logs of the constants [..., C] instead of the circuit's own.

    Returns:
        Two float64[...]; E[S] is NaN in rows without a world.
    """
    if const is None or circuit.num_constants == 0:
        mean = (off + (on - off) * circuit.marginals(pos, neg, log_constants)).sum(dim=-1)
        return circuit.log_wmc(pos, neg, log_constants), mean
    batch, m, c = pos.shape[:-1], pos.shape[-1], circuit.num_constants
    if log_constants is not None:
        batch = torch.broadcast_shapes(batch, log_constants.shape[:-1])
        log_constants = as_rows(log_constants.to(pos).expand(*batch, c))
    wide = [as_rows(x.expand(*batch, m)) for x in (pos, neg, on, off)]
    gain = as_rows(const.expand(*batch, c))
    log_z, mean = _Expected.apply(wide[0], wide[1], log_constants, wide[2], wide[3], gain, circuit)
    return log_z.reshape(batch), mean.reshape(batch)
