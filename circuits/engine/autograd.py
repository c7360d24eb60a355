"""Evaluation as differentiable torch functions, with gradients written out.

Automatic differentiation through logarithms gives 0 * inf at weights of 0, and would keep every intermediate value;
here the derivatives come from the downward pass, which needs neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from neurosym.circuits.engine.kernel import Gradient, Weights


class Engine(Protocol):
    """What these functions need of an evaluator."""

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]."""
        ...

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and its derivatives."""
        ...

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]."""
        ...

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j)."""
        ...


def _once_differentiable(
    backward: Callable[[Any, Tensor], tuple[Any, ...]],
) -> Callable[[Any, Tensor], tuple[Any, ...]]:
    """Makes a second derivative an error, also where only the weights would give one and torch would take 0 for it."""
    once = torch.autograd.function.once_differentiable(backward)

    def guarded(ctx: Any, gain: Tensor) -> tuple[Any, ...]:
        if not torch.is_grad_enabled():
            return backward(ctx, gain)
        return tuple(once(ctx, gain if gain.requires_grad else gain.detach().requires_grad_()))

    return guarded


def _constants_gradient(needed: bool, constants: Tensor, found: Tensor) -> Tensor | None:
    """Gradient in the shape of the constants, [C] or [B, C]."""
    if not needed:
        return None
    return found if constants.ndim == 2 else found.sum(dim=0)


class _LogValue(torch.autograd.Function):
    """(pos, neg [B, m], constants or their logs [C] or [B, C]) -> log Z [B]."""

    @staticmethod
    def forward(ctx: Any, pos: Tensor, neg: Tensor, constants: Tensor, engine: Engine, logs: bool) -> Tensor:
        weights = Weights(pos, neg, constants, logs)
        if not any(ctx.needs_input_grad):
            return engine.log_value(weights)
        # one visit of the circuit gives both, while its values are in the cache
        found = engine.gradient(weights)
        ctx.shared = constants
        ctx.save_for_backward(found.on, found.off, found.constants)
        return found.log_value

    @staticmethod
    @_once_differentiable
    def backward(ctx: Any, gain: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        on, off, fixed = ctx.saved_tensors
        gain, needed = gain[:, None], ctx.needs_input_grad
        constants = _constants_gradient(needed[2], ctx.shared, fixed * gain) if needed[2] else None
        return on * gain if needed[0] else None, off * gain if needed[1] else None, constants, None, None


class _Marginals(torch.autograd.Function):
    """(pos, neg [B, m], constants or their logs [C] or [B, C]) -> P(x_j = 1) [B, m]."""

    @staticmethod
    def forward(ctx: Any, pos: Tensor, neg: Tensor, constants: Tensor, engine: Engine, logs: bool) -> Tensor:
        ctx.engine, ctx.logs = engine, logs
        ctx.save_for_backward(pos, neg, constants)
        return engine.marginals(Weights(pos, neg, constants, logs))

    @staticmethod
    @_once_differentiable
    def backward(ctx: Any, gain: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None, None]:
        pos, neg, constants = ctx.saved_tensors
        weights = Weights(pos, neg, constants, ctx.logs)
        on, off, fixed = ctx.engine.marginals_gradient(weights, gain.contiguous())
        return on, off, _constants_gradient(ctx.needs_input_grad[2], weights.constants, fixed), None, None


def log_value(engine: Engine, weights: Weights) -> Tensor:
    """log Z, [B]; differentiable once."""
    return _LogValue.apply(weights.pos, weights.neg, weights.constants, engine, weights.logs)


def marginals(engine: Engine, weights: Weights) -> Tensor:
    """P(x_j = 1), [B, m]; differentiable once, right at weights 0 and 1."""
    return _Marginals.apply(weights.pos, weights.neg, weights.constants, engine, weights.logs)
