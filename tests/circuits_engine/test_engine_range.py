"""Weights of very different size in float32, and circuits without variables."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch

from neurosym.circuits import Circuit
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.ir import CircuitBuilder, CircuitIR

HAS_NUMBA = importlib.util.find_spec("numba") is not None
PATHS = [
    "log",
    "numpy",
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")),
    "auto",
]


def equal_pair() -> CircuitIR:
    """x_0 and x_1, or neither."""
    builder = CircuitBuilder()
    both, neither = (builder.conj((builder.lit(0, on), builder.lit(1, on))) for on in (True, False))
    return builder.finish(builder.disj((both, neither)), 2)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("rows", [1, 20])
def test_quotients_beyond_float32(path: str, rows: int) -> None:
    """The weights are normal numbers of float32; one over the other is not."""
    circuit = Circuit(equal_pair(), torch.float32, engine=path)
    small, large = 3.1e-25, 2.9e17
    pos = torch.tensor([[small, large]] * rows, requires_grad=True)
    neg = torch.tensor([[large, 0.5 * small]] * rows, requires_grad=True)
    # Z = small * large + large * small / 2
    value = circuit.log_wmc(pos, neg)
    assert value.tolist() == pytest.approx([math.log(small) + math.log(large) + math.log(1.5)] * rows, rel=1e-6)
    on, off = torch.autograd.grad(value.sum(), (pos, neg))
    assert on[-1].tolist() == pytest.approx([1 / 1.5 / small, 1 / 1.5 / large], rel=1e-5)
    assert off[-1].tolist() == pytest.approx([0.5 / 1.5 / large, 1 / 1.5 / small], rel=1e-5)
    q = circuit.marginals(pos, neg)
    assert q[-1].tolist() == pytest.approx([1 / 1.5] * 2, rel=1e-5)
    on, off = torch.autograd.grad(q[:, 0].sum(), (pos, neg))
    # d(u / (u + v)) = (v du - u dv) / (u + v)^2 with u, v the weights of the two worlds
    assert on[-1].tolist() == pytest.approx([0.5 / 2.25 / small, 0.5 / 2.25 / large], rel=1e-5)
    assert off[-1].tolist() == pytest.approx([-0.5 / 2.25 / large, -1 / 2.25 / small], rel=1e-5)
    world, weight = circuit.mpe(pos, neg)
    assert world.all()
    assert weight.tolist() == pytest.approx([math.log(small) + math.log(large)] * rows, rel=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_derivatives_that_float32_holds_only_after_scaling(path: str) -> None:
    builder = CircuitBuilder()
    circuit = Circuit(builder.finish(builder.lit(0, True), 1), torch.float32, engine=path)
    pos = torch.tensor([[2e-25]], requires_grad=True)
    circuit.log_wmc(pos, torch.tensor([[1e20]])).sum().backward()
    assert pos.grad is not None
    assert pos.grad.item() == pytest.approx(1 / 2e-25, rel=1e-6)


@pytest.mark.parametrize("path", ["terms", "matrix"])
@pytest.mark.parametrize("rows", [0, 1, 20])
def test_terms_without_variables(path: str, rows: int) -> None:
    builder = CircuitBuilder()
    terms = TermMatrix(np.zeros((1, 0), dtype=np.int8), np.array([2.5]))
    circuit = Circuit(builder.finish(builder.constant(2.5), 0), engine=path, terms=terms)
    nothing = torch.zeros(rows, 0, dtype=torch.float64, requires_grad=True)
    value, q = circuit.log_wmc(nothing, nothing), circuit.marginals(nothing, nothing)
    assert value.tolist() == [2.5] * rows
    assert q.shape == (rows, 0)
    (value.sum() + q.sum()).backward()
    world, weight = circuit.mpe(nothing, nothing)
    assert world.shape == (rows, 0)
    assert weight.tolist() == [2.5] * rows
