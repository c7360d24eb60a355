"""Constants given anew for every call."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from neurosym.circuits import Circuit
from neurosym.circuits.engine.choose import installed
from neurosym.circuits.ir import CircuitBuilder


def one_world() -> Circuit:
    """A true variable, with the constant exp(-1)."""
    b = CircuitBuilder()
    return Circuit(b.finish(b.conj([b.lit(0, True), b.constant(-1.0)]), 1))


@pytest.mark.skipif(not installed("numba"), reason="the compiled kernel needs numba")
def test_later_constants_are_bounded_anew() -> None:
    """The bound on the values of a circuit follows the constants of the call, not those of an earlier one."""
    circuit = one_world()
    half = torch.full((2, 1), 0.5, dtype=torch.float64)
    gains = []
    for log in (2.0, 20.0, 160.0):
        constants = torch.tensor([log], dtype=torch.float64)
        value = circuit.log_wmc(half, half, constants)
        torch.testing.assert_close(value, torch.full((2,), log + math.log(0.5), dtype=torch.float64))
        gains.append(circuit.evaluator.log_gain(circuit._weights(half, half, constants)[0]))
    assert gains == pytest.approx([2.0, 20.0, 160.0])


def test_copies_after_constants_with_gradients() -> None:
    """A copy of a circuit does not carry somebody's graph along."""
    circuit = one_world()
    constants = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    pos = torch.ones(1, dtype=torch.float64)
    circuit.log_wmc(pos, pos, constants * 2.0)
    assert copy.deepcopy(circuit).log_wmc(pos, pos).item() == pytest.approx(-1.0)
