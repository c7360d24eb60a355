"""Batched evaluation of a circuit: an upward pass for the partition function, a downward pass for all marginals.

Upward, every node gets the log of its value. Downward, every node gets the log of the derivative of the root with
respect to it (Darwiche 2003); at the literal x_j that is log A_j, the weight of all worlds with x_j true without the
literal's own weight. So P(x_j) = pos_j A_j / (pos_j A_j + neg_j B_j), which is right for weights 0 and 1 as well.

Gradients are written out, because automatic differentiation through logs gives 0 * inf at weight 0. With an upstream
gradient g, S = sum_j g_j x_j and the posterior distribution P over worlds,

    d(sum_j g_j P(x_j)) / d pos_k = (A_k / Z) (E[S | x_k] - E[S]),

and the same with B_k and not-x_k for neg_k: every quantity is finite. The conditional means come from a second pair of
passes that carries means beside log values (the expectation semiring).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from neurosym.circuits.engine.plan import DownStep, Plan


def _log_sum(x: Tensor) -> Tensor:
    """log-sum-exp over dim 1; -inf where all entries are."""
    if x.shape[1] == 1:
        return x[:, 0]
    if x.shape[1] == 2:
        return torch.logaddexp(x[:, 0], x[:, 1])
    return torch.logsumexp(x, dim=1)


def _finite(x: Tensor) -> Tensor:
    """Copy with -inf replaced by 0."""
    return torch.where(x == -torch.inf, torch.zeros_like(x), x)


def _shares(x: Tensor, total: Tensor) -> Tensor:
    """exp(x - total) where both are finite, 0 elsewhere; ``total`` has one dimension (1) less."""
    return torch.exp(x - _finite(total)[:, None])


def upward(
    plan: Plan, log_pos: Tensor, log_neg: Tensor, maximise: bool = False, constants: Tensor | None = None
) -> Tensor:
    """Log value of every node: [m, B] twice -> [N+2, B]; the last rows are the constants log 0 and log 1.

    With ``maximise`` sums become maxima, and the root gets the log weight of the best world. ``constants`` [C, 1 or B]
    are logs that replace the circuit's own.
    """
    steps = plan.steps(log_pos.device)
    n, batch = plan.num_nodes, log_pos.shape[1]
    values = log_pos.new_empty((n + 2, batch))
    values[n], values[n + 1] = -torch.inf, 0.0
    values[steps.literal_nodes] = torch.cat([log_pos, log_neg])[steps.literal_rows]
    own = steps.constant_values.to(values.dtype)[:, None] if constants is None else constants.to(values.dtype)
    values[steps.constant_nodes] = own.expand(-1, batch)
    for step in steps.up:
        below = values.index_select(0, step.children).view(step.stop - step.start, step.width, batch)
        if step.product:
            values[step.start : step.stop] = below.sum(dim=1)
        else:
            values[step.start : step.stop] = below.amax(dim=1) if maximise else _log_sum(below)
    return values


def trace(plan: Plan, values: Tensor, generator: torch.Generator | None, repeats: int = 0) -> Tensor:
    """Follow one child of every sum from the root down: the world it leads to.

    Args:
        values: from :func:`upward`, [N+2, B].
        generator: source of randomness when ``repeats`` > 0.
        repeats: 0 takes the child of largest value (with maximised values: the best world); otherwise that many
            independent traces are made, with children drawn in proportion to their values.

    Returns:
        bool[max(repeats, 1) * B, m], traces of one row far apart (repeat-major).
    """
    batch = values.shape[1]
    rows = max(1, plan.chunk_rows(repeats * batch, values.device) // max(1, batch))
    pieces = [min(rows, repeats - done) for done in range(0, repeats, rows)] or [0]
    return torch.cat([_trace(plan, values, generator, piece) for piece in pieces])


def _trace(plan: Plan, values: Tensor, generator: torch.Generator | None, repeats: int) -> Tensor:
    steps = plan.steps(values.device)
    if repeats:
        values = values.repeat(1, repeats)
    batch = values.shape[1]
    active = torch.zeros(values.shape, dtype=torch.int32, device=values.device)
    active[plan.num_nodes - 1] = 1
    for step in reversed(steps.up):
        shape = (step.stop - step.start, step.width, batch)
        here = active[step.start : step.stop, None]
        if not step.product:
            score = values.index_select(0, step.children).view(shape)
            if repeats:
                uniform = torch.rand(shape, generator=generator, dtype=values.dtype, device=values.device)
                # Gumbel's trick: the arg-max of log weight + noise is a draw in proportion to the weights
                score = score - torch.log(-torch.log(uniform.clamp_min(torch.finfo(values.dtype).tiny)))
            chosen = torch.zeros(shape, dtype=torch.int32, device=values.device)
            here = here * chosen.scatter_(1, score.argmax(dim=1, keepdim=True), 1)
        active.index_add_(0, step.children, here.expand(shape).reshape(-1, batch))
    world = active[steps.positive.clamp_max(plan.num_nodes + 1)] > 0
    return world.t()


def upward_mean(plan: Plan, values: Tensor, gain: Tensor) -> Tensor:
    """Mean of sum_j gain_j x_j under each node's distribution: [N+2, B]; 0 at nodes of value 0."""
    steps = plan.steps(values.device)
    batch = values.shape[1]
    means = torch.zeros_like(values)
    means[steps.literal_nodes] = torch.cat([gain, torch.zeros_like(gain)])[steps.literal_rows]
    for step in steps.up:
        shape = (step.stop - step.start, step.width, batch)
        below = means.index_select(0, step.children).view(shape)
        if step.product:
            means[step.start : step.stop] = below.sum(dim=1)
        else:
            share = _shares(values.index_select(0, step.children).view(shape), values[step.start : step.stop])
            means[step.start : step.stop] = (share * below).sum(dim=1)
    return means


class _Downward:
    """Edge messages of the downward pass. ``zeros`` is None in the usual case that no value is 0."""

    def __init__(self, plan: Plan, values: Tensor) -> None:
        self.steps = plan.steps(values.device)
        self.plan = plan
        self.values = values
        self.zeros: Tensor | None = None
        self.finite = values
        is_zero = values[:-2] == -torch.inf
        if bool(is_zero.any()):
            self._count_zeros()

    def _count_zeros(self) -> None:
        """Number of zero children and sum of the finite ones for each product."""
        values, batch = self.values, self.values.shape[1]
        self.own = (values == -torch.inf).to(values.dtype)
        self.finite = _finite(values)
        self.zeros = torch.zeros_like(values)
        self.totals = torch.zeros_like(values)
        for step in self.steps.up:
            if step.product:
                shape = (step.stop - step.start, step.width, batch)
                self.zeros[step.start : step.stop] = self.own.index_select(0, step.children).view(shape).sum(1)
                below = self.finite.index_select(0, step.children).view(shape)
                self.totals[step.start : step.stop] = below.sum(1)

    def siblings(self, step: DownStep) -> Tensor:
        """Log of the product of a child's siblings under each parent, [nodes, width, B]; 0 below sums."""
        shape = (step.nodes.numel(), step.width, self.values.shape[1])
        if step.all_sum:
            return self.values.new_zeros((1, 1, 1))
        if self.zeros is None:
            rest = self.values.index_select(0, step.parents).view(shape) - self.values[step.nodes][:, None]
        else:
            rest = self.totals.index_select(0, step.parents).view(shape) - self.finite[step.nodes][:, None]
            blocked = self.zeros.index_select(0, step.parents).view(shape) > self.own[step.nodes][:, None]
            rest = rest.masked_fill(blocked, -torch.inf)
        return rest if step.all_product else torch.where(step.product, rest, torch.zeros_like(rest))

    def messages(self, step: DownStep, slopes: Tensor) -> Tensor:
        """Log derivative that each parent hands down, [nodes, width, B]."""
        shape = (step.nodes.numel(), step.width, self.values.shape[1])
        return slopes.index_select(0, step.parents).view(shape) + self.siblings(step)


def downward(plan: Plan, values: Tensor) -> Tensor:
    """Log derivative of the root with respect to every node, [N+1, B]; the last row is -inf."""
    work = _Downward(plan, values)
    slopes = values.new_full((plan.num_nodes + 1, values.shape[1]), -torch.inf)
    slopes[plan.num_nodes - 1] = 0.0
    for step in work.steps.down:
        slopes[step.nodes] = _log_sum(work.messages(step, slopes))
    return slopes


def downward_mean(plan: Plan, values: Tensor, slopes: Tensor, means: Tensor) -> Tensor:
    """Mean of the part of sum_j gain_j x_j outside each node, given that node, [N+1, B]."""
    work = _Downward(plan, values)
    outside = torch.zeros_like(slopes)
    for step in work.steps.down:
        shape = (step.nodes.numel(), step.width, values.shape[1])
        share = _shares(work.messages(step, slopes), slopes[step.nodes])
        above = outside.index_select(0, step.parents).view(shape)
        if not step.all_sum:
            rest = means.index_select(0, step.parents).view(shape) - means[step.nodes][:, None]
            above = above + (rest if step.all_product else torch.where(step.product, rest, torch.zeros_like(rest)))
        outside[step.nodes] = (share * above).sum(dim=1)
    return outside


def posterior(plan: Plan, slopes: Tensor, log_pos: Tensor, log_neg: Tensor) -> Tensor:
    """P(x_j = 1) of each variable, [m, B]; NaN where there is no world."""
    steps = plan.steps(slopes.device)
    high = log_pos + slopes[steps.positive]
    low = log_neg + slopes[steps.negative]
    return torch.sigmoid(high - low)


def chunks(plan: Plan, batch: int, device: torch.device) -> Iterator[slice]:
    """Slices of a batch that fit the size of the value table."""
    rows = plan.chunk_rows(batch, device)
    return (slice(i, min(i + rows, batch)) for i in range(0, batch, rows))


def marginals_gradient(
    plan: Plan, values: Tensor, gain: Tensor, slopes: Tensor | None = None, by_log: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of sum_j gain_j P(x_j) with respect to pos, neg ([m, B] each) and the constants [C, B].

    Args:
        values: from :func:`upward`, [N+2, B].
        gain: [m, B].
        slopes: from :func:`downward`, if at hand.
        by_log: with respect to the logs of the constants instead.
    """
    steps = plan.steps(values.device)
    slopes = downward(plan, values) if slopes is None else slopes
    means = upward_mean(plan, values, gain)
    outside = downward_mean(plan, values, slopes, means)
    root = plan.num_nodes - 1
    if by_log:
        slopes = slopes.clone()
        slopes[steps.constant_nodes] += values[steps.constant_nodes]
    # a subnormal weight's derivative may pass the largest number; times a covariance of 0 it must stay 0
    # and where there is no world the gradient is 0: a caller who masks such rows must not get NaN from them
    base = torch.where(values[root] == -torch.inf, torch.inf, values[root])
    weight = torch.exp(slopes - base).clamp_max(torch.finfo(values.dtype).max)
    on, off, fixed = (
        weight[places] * (outside[places] + own - means[root])
        for places, own in ((steps.positive, gain), (steps.negative, 0.0), (steps.constant_nodes, 0.0))
    )
    return on, off, fixed


class _LogPartition(torch.autograd.Function):
    """(log_pos, log_neg) [m, B] -> log Z [B]."""

    @staticmethod
    def forward(ctx: Any, log_pos: Tensor, log_neg: Tensor, plan: Plan) -> Tensor:
        ctx.plan = plan
        ctx.save_for_backward(log_pos, log_neg)
        out = log_pos.new_empty(log_pos.shape[1])
        for rows in chunks(plan, log_pos.shape[1], log_pos.device):
            out[rows] = upward(plan, log_pos[:, rows], log_neg[:, rows])[plan.num_nodes - 1]
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gain: Tensor) -> tuple[Tensor, Tensor, None]:
        plan: Plan = ctx.plan
        logs = ctx.saved_tensors
        grads = (torch.empty_like(logs[0]), torch.empty_like(logs[1]))
        steps = plan.steps(gain.device)
        for rows in chunks(plan, gain.numel(), gain.device):
            values = upward(plan, logs[0][:, rows], logs[1][:, rows])
            slopes = downward(plan, values) - _finite(values[plan.num_nodes - 1])
            for places, log_weight, grad in zip((steps.positive, steps.negative), logs, grads, strict=True):
                grad[:, rows] = torch.exp(slopes[places] + log_weight[:, rows]) * gain[rows]
        return grads[0], grads[1], None


def log_partition(plan: Plan, log_pos: Tensor, log_neg: Tensor) -> Tensor:
    """log Z for the logs of literal weights, of any size, [B, m] -> [B]; differentiable."""
    return _LogPartition.apply(log_pos.t(), log_neg.t(), plan)
