"""One circuit, evaluated in batches for literal weights of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosym.circuits.engine.logspace import circuit_log_partition, circuit_marginals, downward, upward
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.ir import CONSTANT, CircuitIR


@dataclass(frozen=True)
class LogDerivatives:
    """Logs of the value of a circuit and of its derivatives.

    Attributes:
        log_value: log Z, [...].
        log_on, log_off: log of dZ/dpos_j and dZ/dneg_j, [..., m]: the weight of all worlds with x_j true (false)
            without the weight of that literal itself.
        log_constant: log of dZ/dc for every constant node c in the order of the circuit, [..., C].
    """

    log_value: Tensor
    log_on: Tensor
    log_off: Tensor
    log_constant: Tensor


class Circuit:
    """A circuit with everything that its evaluation needs."""

    def __init__(self, ir: CircuitIR, dtype: torch.dtype = torch.float64) -> None:
        self.ir = ir
        self.dtype = dtype
        self.plan = Plan(ir)
        self.num_variables = ir.num_variables
        self.constant_nodes = torch.from_numpy((ir.kind == CONSTANT).nonzero()[0])
        self.num_constants = int(self.constant_nodes.numel())
        self.log_constants = torch.from_numpy(ir.log_constant[ir.kind == CONSTANT].copy())

    def log_wmc(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> Tensor:
        if log_constants is not None:
            raise NotImplementedError
        shape = torch.broadcast_shapes(pos.shape, neg.shape)
        rows = [x.to(self.dtype).expand(shape).reshape(-1, shape[-1]) for x in (pos, neg)]
        return circuit_log_partition(self.plan, rows[0], rows[1], logs=False).reshape(shape[:-1])

    def marginals(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> Tensor:
        if log_constants is not None:
            raise NotImplementedError
        shape = torch.broadcast_shapes(pos.shape, neg.shape)
        rows = [x.to(self.dtype).expand(shape).reshape(-1, shape[-1]) for x in (pos, neg)]
        return circuit_marginals(self.plan, rows[0], rows[1]).reshape(shape)

    def log_derivatives(self, pos: Tensor, neg: Tensor) -> LogDerivatives:
        shape = torch.broadcast_shapes(pos.shape, neg.shape)
        rows = [x.detach().to(self.dtype).expand(shape).reshape(-1, shape[-1]).t().log() for x in (pos, neg)]
        values = upward(self.plan, rows[0], rows[1])
        slopes = downward(self.plan, values)
        steps = self.plan.steps(values.device)
        return LogDerivatives(
            values[self.plan.num_nodes - 1].reshape(shape[:-1]),
            slopes[steps.positive].t().reshape(shape),
            slopes[steps.negative].t().reshape(shape),
            slopes[self.constant_nodes].t().reshape(*shape[:-1], self.num_constants),
        )
