"""Values and derivatives of a circuit for any literal weights: fast in plain arithmetic, exact where that is not enough.

The plain path works with weights scaled to pos + neg = 1, which is exact for a smooth circuit (every world has one
literal of each variable). Then no intermediate value exceeds G, the largest product of constants above 1, and what is
lost to underflow is at most ``tiny`` for each element times G. Rows whose value is not far above that (``floor``) are
computed again: in float64 if they were not, then relative to one world, in the end in log space
(:mod:`neurosym.circuits.engine.exact`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.choose import make_kernel, pick
from neurosym.circuits.engine.exact import LogPasses
from neurosym.circuits.engine.kernel import Derivatives, Gradient, Kernel, Weights
from neurosym.circuits.engine.numba_kernel import NumbaKernel
from neurosym.circuits.engine.plan import Plan
from neurosym.circuits.engine.program import Program, build_program
from neurosym.circuits.engine.schedule import upward_steps
from neurosym.circuits.ir import CircuitIR

LARGEST_GAIN = 200.0
"""Largest log of G for the plain path."""
LARGEST_GAIN_32 = 40.0
"""... in float32."""
MOST_VARIABLES = 900
"""Up to so many variables the number of worlds is a float64."""
SLACK = 2.0**-20
"""Sums of two weights within 1/2 and 1 + SLACK, as p and 1 - p in float32, need no scaling: values grow by a factor of
(1 + SLACK)^m at most."""
FEW_ROWS = 16
"""So few rows go to log space at once when the plain range does not hold them, unless the kernel is compiled."""


Results = tuple[Tensor, ...]
Plain = Callable[[Weights, Tensor | None, Tensor | None], tuple[Tensor, Results]]
"""(scaled weights, what they were divided by, more rows) -> (value of the scaled circuit, results)"""
Exact = Callable[[Weights, Tensor | None], Results]


class Evaluator:
    """One circuit with its evaluation paths, each made when first used.

    Args:
        ir: the circuit, smooth and decomposable; deterministic for the bound on underflow to hold.
        engine: one of :data:`neurosym.circuits.engine.choose.ENGINES`.
    """

    def __init__(self, ir: CircuitIR, engine: str = "auto") -> None:
        self.ir, self.engine = ir, engine
        self.exact = LogPasses(ir)
        self._program: Program | None = None
        self._known: tuple[Tensor, float] | None = None
        self._reference: Tensor | None = None
        self._kernels: dict[str, Kernel] = {}

    def __getstate__(self) -> dict[str, object]:
        """Without the kernels, which hold machine code, and somebody's constants: found again when they are needed."""
        return {**vars(self), "_kernels": {}, "_known": None}

    @property
    def plan(self) -> Plan:
        """Index arrays of the log-space path."""
        return self.exact.plan

    @property
    def program(self) -> Program:
        """Straight-line code of the plain path."""
        if self._program is None:
            self._program = build_program(self.ir)
        return self._program

    def kernel(self, like: Weights) -> Kernel:
        """The kernel for so many rows on that device."""
        name = self._path(like)
        if name not in self._kernels:
            self._kernels[name] = make_kernel(name, self.program)
        return self._kernels[name]

    def _path(self, like: Weights) -> str:
        return pick(like.pos.device, like.batch) if self.engine in ("auto", "terms", "matrix") else self.engine

    def log_gain(self, weights: Weights) -> float:
        """log G: bounds every value and derivative when pos + neg = 1; inf where only log space will do."""
        constants = weights.constants
        if self.engine == "log" or weights.logs:
            return math.inf
        known = self._known
        if known is None or known[0] is not constants:
            known = self._known = constants, self._gain_of(constants)
        return known[1]

    def _gain_of(self, constants: Tensor) -> float:
        if not constants.numel() or float(constants.max()) <= 1.0:
            return 0.0
        largest = constants.amax(dim=0) if constants.ndim == 2 else constants
        return _largest_product(self.program, largest.cpu().double().numpy())

    def floor(self, dtype: torch.dtype, log_gain: float) -> float:
        """Values above it have lost less than a small part of a unit in the last place to underflow."""
        info = torch.finfo(dtype)
        return info.tiny / info.eps * 16 * (self.program.num_elements + 1) * math.exp(log_gain)

    # -- which arithmetic --------------------------------------------------------------------------------------------

    def _run(self, weights: Weights, plain: Plain, exact: Exact, extra: Tensor | None = None) -> Results:
        """``plain`` in the arithmetic of the kernels where that is sound, ``exact`` for the rows where it is not.

        On a CPU the plain arithmetic is float64: a product of a few dozen probabilities is already too small for
        float32. (The compiled kernel widens by itself.)
        """
        gain = self.log_gain(weights)
        if gain > LARGEST_GAIN:
            return tuple(x.to(weights.pos.dtype) for x in exact(_widen(weights), extra))
        widens = self._path(weights) == "numba"
        work = weights if widens else _fitting(weights, gain)
        scaled, scale = normalise(work)
        value, found = plain(scaled, scale, extra)
        results = tuple(x.to(weights.pos.dtype) for x in found)
        bad = ~(value > self.floor(value.dtype, gain))
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            rows, more = weights.rows(index), None if extra is None else extra[index]
            widen = _can_widen(rows) and value.dtype != torch.float64
            again = (
                self._run(_widen(rows), plain, exact, more) if widen else self._far(_widen(rows), plain, exact, more)
            )
            for result, new in zip(results, again, strict=True):
                result[index] = new.to(result.dtype)
        return results

    def _far(self, weights: Weights, plain: Plain, exact: Exact, extra: Tensor | None) -> Results:
        """Rows far below the range: relative to one world of the circuit, which then weighs its constants only.

        That is right to rounding if no node came near the smallest numbers, which is checked, so that at every node
        the lost terms are small beside its value. Where it is not, log space.
        """
        if weights.batch < FEW_ROWS and self._path(weights) != "numba":
            return exact(weights, extra)
        scaled, scale = self._relative(weights)
        kernel, tiny = self.kernel(weights), torch.finfo(scaled.pos.dtype).tiny
        value, least = kernel.least(scaled)
        good = value.isfinite() & (least > tiny * 2.0**64) & scale.isfinite().all(dim=1) & (scale > tiny).all(dim=1)
        index, rest = good.nonzero()[:, 0], (~good).nonzero()[:, 0]

        def pick_rows(at: Tensor) -> Tensor | None:
            return None if extra is None else extra[at]

        if not index.numel():
            return exact(weights, extra)
        _, found = plain(scaled.rows(index), scale[index], pick_rows(index))
        if not rest.numel():
            return found
        other = exact(weights.rows(rest), pick_rows(rest))
        place = torch.cat([index, rest]).argsort()
        return tuple(torch.cat([a, b.to(a.dtype)])[place] for a, b in zip(found, other, strict=True))

    def _relative(self, weights: Weights) -> tuple[Weights, Tensor]:
        """Weights divided by those of the literals of a reference world, and these, [B, m]."""
        if self._reference is None:
            pos, neg = (w.mean(dim=0, keepdim=True) for w in (weights.pos, weights.neg))
            mean = Weights(pos, neg, weights.constants)
            if mean.constants.ndim == 2:
                mean = Weights(mean.pos, mean.neg, mean.constants.mean(dim=0))
            self._reference = self.exact.best(mean)[1][0]
        scale = torch.where(self._reference.to(weights.pos.device), weights.pos, weights.neg)
        return Weights(weights.pos / scale, weights.neg / scale, weights.constants), scale

    # -- value -------------------------------------------------------------------------------------------------------

    def _compiled(self, weights: Weights) -> tuple[NumbaKernel, float] | None:
        """The kernel that does all at once, and the floor of its values."""
        if self._path(weights) != "numba":
            return None
        gain, kernel = self.log_gain(weights), self.kernel(weights)
        assert isinstance(kernel, NumbaKernel)
        return (kernel, self.floor(torch.float64, gain)) if gain <= LARGEST_GAIN else None

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]; -inf where no world is left."""
        if compiled := self._compiled(weights):
            kernel, floor = compiled
            out, lost = kernel.log_value(weights, floor)
            if lost:
                index = out.isnan().nonzero()[:, 0]
                out[index] = self._log_value(weights.rows(index))
            return out
        return self._log_value(weights)

    def _log_value(self, weights: Weights) -> Tensor:
        def plain(scaled: Weights, scale: Tensor | None, _: Tensor | None) -> tuple[Tensor, Results]:
            value = self.kernel(scaled).value(scaled)
            return value, (_unscaled(value, scale),)

        return self._run(weights, plain, lambda rows, _: (self.exact.log_value(rows),))[0]

    # -- first derivatives -------------------------------------------------------------------------------------------

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and the derivatives of log Z; where there is no world, the derivatives of Z."""
        if compiled := self._compiled(weights):
            kernel, floor = compiled
            *found, lost = kernel.gradient(weights, floor)
            out = Gradient(*found)
            if lost:
                index = out.log_value.isnan().nonzero()[:, 0]
                out.put(index, self._gradient(weights.rows(index)))
            return out
        return self._gradient(weights)

    def _gradient(self, weights: Weights) -> Gradient:
        def plain(scaled: Weights, scale: Tensor | None, _: Tensor | None) -> tuple[Tensor, Results]:
            found = self.kernel(scaled).derivatives(scaled)
            value = found.value[:, None]
            on, off, fixed = found.on / value, found.off / value, found.constants / value
            if scale is not None:
                on, off = on / scale, off / scale
            return found.value, (_unscaled(found.value, scale), on, off, fixed)

        def exact(rows: Weights, _: Tensor | None) -> Results:
            found = self.exact.gradient(rows)
            return found.log_value, found.on, found.off, found.constants

        return Gradient(*self._run(weights, plain, exact))

    def log_derivatives(self, weights: Weights) -> Gradient:
        """log Z and the *logs* of the derivatives of Z, each to full relative accuracy (computed in float64)."""
        dtype, weights = weights.pos.dtype, _widen(weights)
        gain = self.log_gain(weights)
        if gain > LARGEST_GAIN:
            return self.exact.log_derivatives(weights).to(dtype)
        scaled, scale = normalise(weights)
        kernel = self.kernel(weights)
        found = kernel.derivatives(scaled)
        bad = self._underflowed(kernel, weights, found, self.floor(found.value.dtype, gain))
        out = Gradient(*(x.log() for x in (found.value, found.on, found.off, found.constants)))
        if scale is not None:
            logs = scale.log()
            total = logs.sum(dim=1)
            shift = total[:, None] - logs
            out = Gradient(out.log_value + total, out.on + shift, out.off + shift, out.constants + total[:, None])
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            out.put(index, self.exact.log_derivatives(weights.rows(index)))
        return out.to(dtype)

    @staticmethod
    def _underflowed(kernel: Kernel, weights: Weights, found: Derivatives, floor: float) -> Tensor:
        """Rows in which a value or derivative is small but not a true zero, bool[B]."""

        def table(d: Derivatives) -> Tensor:
            return torch.cat([d.value[:, None], d.on, d.off, d.constants], dim=1)

        small = table(found) <= floor
        bad = small.any(dim=1)
        if weights.pos.shape[1] <= MOST_VARIABLES and bool(bad.any()):
            index = bad.nonzero()[:, 0]
            some = weights.rows(index)
            # zeros of the structure and of the evidence are zero for weights of 0 and 1 as well; those only count worlds
            pos, neg, constants = ((w > 0).to(torch.float64) for w in (some.pos, some.neg, some.constants))
            support = Weights(pos, neg, constants)
            able = table(kernel.derivatives(support)) > 0
            bad[index] = (small[index] & able).any(dim=1)
        return bad

    # -- marginals ---------------------------------------------------------------------------------------------------

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]; NaN where no world is left."""
        if compiled := self._compiled(weights):
            kernel, floor = compiled
            value, out, lost = kernel.marginals(weights, floor)
            if lost:
                index = value.isnan().nonzero()[:, 0]
                out[index] = self._marginals(weights.rows(index))
            return out
        return self._marginals(weights)

    def _marginals(self, weights: Weights) -> Tensor:
        def plain(scaled: Weights, scale: Tensor | None, _: Tensor | None) -> tuple[Tensor, Results]:
            found = self.kernel(scaled).derivatives(scaled)
            high, low = scaled.pos * found.on, scaled.neg * found.off
            return found.value, (high / (high + low),)

        return self._run(weights, plain, lambda rows, _: (self.exact.marginals(rows),))[0]

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j) with respect to pos, neg, [B, m] each, and the constants, [B, C].

        With S = sum_j gain_j x_j and D the derivative of Z at a leaf, it is (D / Z) (E[S | leaf] - E[S]). Moving every
        positive weight along gain_j pos_j changes Z at the rate Z E[S], and D at the rate D (E[S | leaf] - gain_j)
        for a positive literal, D E[S | leaf] for the others.
        """

        def plain(scaled: Weights, scale: Tensor | None, extra: Tensor | None) -> tuple[Tensor, Results]:
            assert extra is not None
            own = extra.to(scaled.pos.dtype)
            zero = torch.zeros_like(scaled.neg)
            direction = Weights(own * scaled.pos, zero, torch.zeros_like(scaled.constants))
            d, turned = self.kernel(scaled).tangents(scaled, direction)
            value, mean = d.value[:, None], (turned.value / d.value)[:, None]
            on = (turned.on + own * d.on - mean * d.on) / value
            off = (turned.off - mean * d.off) / value
            fixed = (turned.constants - mean * d.constants) / value
            if scale is not None:
                on, off = on / scale, off / scale
            return d.value, (on, off, fixed)

        def exact(rows: Weights, extra: Tensor | None) -> Results:
            assert extra is not None
            return self.exact.marginals_gradient(rows, extra)

        on, off, fixed = self._run(weights, plain, exact, gain)
        return on, off, fixed

    # -- the heaviest world ------------------------------------------------------------------------------------------

    def best(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """log weight of the heaviest world, [B] (-inf where there is none), and the world, bool[B, m]."""
        gain = self.log_gain(weights)
        if gain > LARGEST_GAIN or self._path(weights) != "numba":
            value, world = self.exact.best(_widen(weights))
            return value.to(weights.pos.dtype), world
        scaled, scale = normalise(weights)
        kernel = self.kernel(weights)
        assert isinstance(kernel, NumbaKernel)
        value, world = kernel.best(scaled)
        bad = ~(value > self.floor(value.dtype, gain))
        out = _unscaled(value, scale).to(weights.pos.dtype)
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            again, world[index] = self.exact.best(_widen(weights.rows(index)))
            out[index] = again.to(out.dtype)
        return out, world


def normalise(weights: Weights) -> tuple[Weights, Tensor | None]:
    """Weights with pos + neg = 1, and what they were divided by, [B, m]; None if they nearly were so before."""
    total = weights.pos + weights.neg
    if not total.numel():
        return weights, None
    least, most = torch.aminmax(total)
    if float(most) <= 1 + SLACK and float(least) >= 0.5:
        return weights, None
    if total.device.type == "cpu" and _can_widen(weights):
        # kernels on the host compute in float64, whose range the quotients need as well
        weights = _widen(weights)
        total = weights.pos + weights.neg
    # a variable of which both literals weigh nothing leaves no world, whatever it is divided by
    total = torch.where(total > 0, total, 1.0)
    return Weights(weights.pos / total, weights.neg / total, weights.constants), total


def _unscaled(value: Tensor, scale: Tensor | None) -> Tensor:
    """log of the value times all that the weights were divided by."""
    return value.log() if scale is None else value.log() + scale.to(value.dtype).log().sum(dim=1)


def _fitting(weights: Weights, gain: float) -> Weights:
    """In float64 on a CPU, or where float32 could overflow; otherwise constants in the precision of the weights."""
    if weights.pos.device.type == "cpu" or gain > LARGEST_GAIN_32:
        return _widen(weights)
    return Weights(weights.pos, weights.neg, weights.constants.to(weights.pos.dtype))


def _can_widen(weights: Weights) -> bool:
    return weights.pos.dtype != torch.float64 and weights.pos.device.type != "mps"


def _widen(weights: Weights) -> Weights:
    if not _can_widen(weights):
        return weights
    pos, neg, constants = (w.to(torch.float64) for w in (weights.pos, weights.neg, weights.constants))
    return Weights(pos, neg, constants, weights.logs)


def _largest_product(program: Program, constants: NDArray[np.float64]) -> float:
    """log of the largest product of constants (each at least 1) in any world."""
    logs = np.zeros(program.num_rows)
    with np.errstate(divide="ignore"):
        logs[2 * program.num_variables : program.one] = np.log(np.maximum(constants, 1.0))
    for step in upward_steps(program):
        logs[step.target] = np.maximum.reduceat(logs[step.a] + logs[step.b], step.offsets)
    return float(logs[program.root])
