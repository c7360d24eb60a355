"""Values and derivatives of a circuit in log space: right for weights of any size, and slow."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from neurosym.circuits.engine import logspace
from neurosym.circuits.engine.kernel import Gradient, Weights, empty_gradient
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.ir import CircuitIR


class LogPasses:
    """See :class:`neurosym.circuits.engine.autograd.Engine`; the index arrays are made when first used."""

    def __init__(self, ir: CircuitIR) -> None:
        self.ir = ir

    @cached_property
    def plan(self) -> Plan:
        """Index arrays of the passes."""
        return Plan(self.ir)

    def upward(self, weights: Weights, maximise: bool = False) -> Tensor:
        """Log of the value of every node, [nodes, B]."""
        constants = weights.constants if weights.logs else weights.constants.log()
        constants = constants.t() if constants.ndim == 2 else constants[:, None]
        return logspace.upward(self.plan, weights.pos.t().log(), weights.neg.t().log(), maximise, constants)

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]; -inf where no world is left."""
        out = weights.pos.new_empty(weights.batch)
        for rows in logspace.chunks(self.plan, weights.batch, weights.pos.device):
            out[rows] = self.upward(weights.rows(rows))[self.plan.num_nodes - 1]
        return out

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and the derivatives of log Z; where there is no world, the derivatives of Z."""
        logs = self.log_derivatives(weights)
        base = torch.where(logs.log_value == -torch.inf, 0.0, logs.log_value)[:, None]
        # by the logs of the constants where those are given: a constant beyond floats has no derivative within them
        fixed = logs.constants + weights.constants if weights.logs else logs.constants
        return Gradient(logs.log_value, *(torch.exp(x - base) for x in (logs.on, logs.off, fixed)))

    def log_derivatives(self, weights: Weights) -> Gradient:
        """log Z and the logs of the derivatives of Z."""
        out = empty_gradient(weights)
        steps = self.plan.steps(weights.pos.device)
        for rows in logspace.chunks(self.plan, weights.batch, weights.pos.device):
            values = self.upward(weights.rows(rows))
            slopes = logspace.downward(self.plan, values)
            out.log_value[rows] = values[self.plan.num_nodes - 1]
            out.on[rows], out.off[rows] = slopes[steps.positive].t(), slopes[steps.negative].t()
            out.constants[rows] = slopes[steps.constant_nodes].t()
        return out

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]; NaN where no world is left."""
        out = torch.empty_like(weights.pos)
        for rows in logspace.chunks(self.plan, weights.batch, weights.pos.device):
            part = weights.rows(rows)
            slopes = logspace.downward(self.plan, self.upward(part))
            out[rows] = logspace.posterior(self.plan, slopes, part.pos.t().log(), part.neg.t().log()).t()
        return out

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j) with respect to pos, neg, [B, m] each, and the constants, [B, C]."""
        out = empty_gradient(weights)
        for rows in logspace.chunks(self.plan, weights.batch, weights.pos.device):
            values = self.upward(weights.rows(rows))
            own = gain[rows].to(values.dtype).t()
            on, off, fixed = logspace.marginals_gradient(self.plan, values, own, by_log=weights.logs)
            out.on[rows], out.off[rows], out.constants[rows] = on.t(), off.t(), fixed.t()
        return out.on, out.off, out.constants

    def best(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """log weight of the heaviest world, [B] (-inf where there is none), and the world, bool[B, m]."""
        out = weights.pos.new_empty(weights.batch)
        world = torch.empty(weights.pos.shape, dtype=torch.bool, device=out.device)
        for rows in logspace.chunks(self.plan, weights.batch, out.device):
            values = self.upward(weights.rows(rows), maximise=True)
            out[rows] = values[self.plan.num_nodes - 1]
            world[rows] = logspace.trace(self.plan, values, None)
        return out, world
