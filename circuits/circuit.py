"""One circuit, evaluated in batches for literal weights of any size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neurosym.circuits.engine import autograd
from neurosym.circuits.engine.choose import ENGINES
from neurosym.circuits.engine.evaluate import Evaluator
from neurosym.circuits.engine.kernel import Weights
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.engine.term_evaluator import TermEvaluator
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.ir import CONSTANT, CircuitIR
from neurosym.errors import InputError

LARGEST_LOG = {torch.float64: 700.0, torch.float32: 80.0}
"""Logs of constants within this of 0 have exponentials, and gradients by these, that are normal numbers."""
MANY_ENTRIES = 1 << 17
"""Rows x terms x variables from which a matrix product over the terms beats the circuit."""


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
    """A smooth, deterministic, decomposable circuit over m variables, ready to be evaluated.

    Literal weights ``pos`` and ``neg`` are non-negative tensors [..., m] (broadcast against each other) and need not
    sum to one. Their values are not checked: NaN gives NaN, an infinite weight NaN or inf, and negative weights have no
    meaning. ``log_constants`` replaces the circuit's own constants, for all rows ([C]) or for each ([..., C]).

    Args:
        ir: the circuit.
        dtype: precision of weights and results, float64 or float32. Rows whose value float32 cannot hold are computed in
            float64; weights below its range are rounded to 0 before.
        engine: evaluation path, one of ``neurosym.circuits.engine.choose.ENGINES``.
        terms: the circuit as a sum of disjoint terms, where it has few; used for large batches.

    Raises:
        InputError: another dtype, an unknown engine, engine ``terms`` without terms.
    """

    def __init__(
        self,
        ir: CircuitIR,
        dtype: torch.dtype = torch.float64,
        engine: str = "auto",
        terms: TermMatrix | None = None,
    ) -> None:
        if engine not in ENGINES:
            raise InputError(f"engine {engine!r} is unknown; use one of {', '.join(ENGINES)}")
        if engine in ("terms", "matrix") and terms is None:
            raise InputError(f"engine {engine!r} needs a circuit with few disjoint terms; use engine='auto'")
        if dtype not in (torch.float64, torch.float32):
            raise InputError(
                f"dtype {dtype} is not supported for circuit arithmetic; use torch.float64 or torch.float32"
            )
        self.ir, self.dtype, self.engine, self.terms = ir, dtype, engine, terms
        self.num_variables = ir.num_variables
        self.log_constants = torch.from_numpy(ir.log_constant[ir.kind == CONSTANT].copy())
        self.num_constants = int(self.log_constants.numel())
        self.evaluator = Evaluator(ir, engine)
        self._term_evaluator = (
            None if terms is None else TermEvaluator(terms, self.evaluator, compiled=engine != "matrix")
        )
        self._constants: dict[torch.device, Tensor] = {}
        self._far = _beyond_range(self.log_constants, dtype)

    @property
    def plan(self) -> Plan:
        """Index arrays of the log-space passes."""
        return self.evaluator.plan

    def with_engine(self, engine: str, dtype: torch.dtype | None = None) -> Circuit:
        """The same circuit on another evaluation path or in another precision."""
        return Circuit(self.ir, self.dtype if dtype is None else dtype, engine, self.terms)

    def log_wmc(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> Tensor:
        """Log weighted model count, [...]; -inf where no world is left. Differentiable once.

        Raises:
            InputError: wrong shapes.
        """
        weights, shape = self._weights(pos, neg, log_constants)
        return autograd.log_value(self._engine(weights, log_constants), weights).reshape(shape[:-1])

    def wmc(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> Tensor:
        """Weighted model count, [...]; the exponential of :meth:`log_wmc`."""
        return self.log_wmc(pos, neg, log_constants).exp()

    def marginals(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> Tensor:
        """P(x_j = 1), [..., m]; NaN where no world is left. Differentiable once, right at weights 0 and 1.

        Raises:
            InputError: wrong shapes.
        """
        weights, shape = self._weights(pos, neg, log_constants)
        return autograd.marginals(self._engine(weights, log_constants), weights).reshape(shape)

    @torch.no_grad()
    def mpe(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The heaviest world, bool[..., m], and the log of its weight, [...]; -inf where no world is left.

        Raises:
            InputError: wrong shapes.
        """
        weights, shape = self._weights(pos.detach(), neg.detach(), log_constants)
        value, world = self._engine(weights, log_constants).best(weights)
        return world.reshape(shape), value.reshape(shape[:-1])

    @torch.no_grad()
    def log_derivatives(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None = None) -> LogDerivatives:
        """log Z and the log of its derivative with respect to every leaf; not differentiable.

        Raises:
            InputError: wrong shapes.
        """
        weights, shape = self._weights(pos.detach(), neg.detach(), log_constants)
        found = self.evaluator.log_derivatives(weights)
        return LogDerivatives(
            found.log_value.reshape(shape[:-1]),
            found.on.reshape(shape),
            found.off.reshape(shape),
            found.constants.reshape(*shape[:-1], self.num_constants),
        )

    def _engine(self, weights: Weights, log_constants: Tensor | None) -> Evaluator | TermEvaluator:
        """The terms where they apply and pay, else the circuit."""
        terms = self._term_evaluator
        if terms is None or log_constants is not None or self.engine not in ("auto", "terms", "matrix"):
            return self.evaluator
        if self.engine != "auto" or terms.compiles(weights.pos.device):
            return terms
        large = weights.batch * terms.matrix.num_terms * terms.matrix.num_variables >= MANY_ENTRIES
        return terms if large else self.evaluator

    def _weights(self, pos: Tensor, neg: Tensor, log_constants: Tensor | None) -> tuple[Weights, torch.Size]:
        """Weights as rows [B, m] in the working precision, and the shape to give results back in."""
        m = self.num_variables
        if pos.ndim == 0 or neg.ndim == 0 or pos.shape[-1] != m or neg.shape[-1] != m:
            raise InputError(
                f"weights have shapes {tuple(pos.shape)} and {tuple(neg.shape)}; the last dimension must be the "
                f"{m} variables of the circuit"
            )
        shape = pos.shape if pos.shape == neg.shape else _common("weights", pos.shape, neg.shape)
        if log_constants is None:
            constants, far = self._own_constants(pos.device), self._far
        elif log_constants.ndim == 0 or log_constants.shape[-1] != self.num_constants:
            raise InputError(
                f"log_constants has shape {tuple(log_constants.shape)}; its last dimension must be the "
                f"{self.num_constants} constants of the circuit"
            )
        else:
            constants = log_constants if pos.device.type == "mps" else log_constants.to(torch.float64)
            far = _beyond_range(constants, self.dtype)
            constants = constants if far else constants.exp()
            if constants.ndim > 1:
                rows = _common("rows of weights and log_constants", shape[:-1], constants.shape[:-1])
                shape = torch.Size((*rows, m))
                constants = (
                    constants.expand(*rows, self.num_constants).reshape(rows.numel(), self.num_constants).contiguous()
                )
        return Weights(self._rows(pos, shape), self._rows(neg, shape), constants, far), shape

    def _rows(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """Literal weights [B, m] in the working precision, one row after the other."""
        precision = self._precision(weight.device)
        if weight.dtype == precision and weight.ndim == 2 and weight.shape == shape and weight.is_contiguous():
            return weight
        return weight.to(precision).expand(shape).reshape(shape[:-1].numel(), self.num_variables).contiguous()

    def _own_constants(self, device: torch.device) -> Tensor:
        """The constants, or their logs where floats do not hold them; float64 where the device has it."""
        if device not in self._constants:
            # a tensor made in inference mode could not be saved for a later backward pass
            with torch.inference_mode(False):
                constants = self.log_constants.clone() if self._far else self.log_constants.exp()
                dtype = torch.float32 if device.type == "mps" else torch.float64
                self._constants[device] = constants.to(device=device, dtype=dtype)
        return self._constants[device]

    def _precision(self, device: torch.device) -> torch.dtype:
        """The working precision; Apple's GPUs have no float64."""
        return torch.float32 if device.type == "mps" else self.dtype


def _common(name: str, a: torch.Size, b: torch.Size) -> torch.Size:
    """The shape to broadcast to."""
    try:
        return torch.broadcast_shapes(a, b)
    except RuntimeError:
        raise InputError(f"{name} have shapes {tuple(a)} and {tuple(b)}, which do not broadcast") from None


def _beyond_range(logs: Tensor, dtype: torch.dtype) -> bool:
    """Some finite log is too far from 0 for that precision."""
    return bool(((logs.detach().abs() > LARGEST_LOG[dtype]) & (logs != -torch.inf)).any())
