"""Counts that are no counts, more worlds than there are, and worlds too improbable for a float."""

from __future__ import annotations

import math

import pytest
import torch

from neurosym.circuits import (
    Circuit,
    circuit_cross_entropy,
    circuit_k_best,
    circuit_kl_divergence,
    circuit_sample,
)
from neurosym.circuits.ir import CircuitBuilder
from neurosym.errors import InputError


def free(count: int) -> Circuit:
    """All worlds of so many variables."""
    builder = CircuitBuilder()
    return Circuit(builder.finish(builder.conj([builder.free(v) for v in range(count)]), count))


@pytest.mark.parametrize("count", [1.5, True, "2", None])
def test_counts_are_whole_numbers(count: object) -> None:
    half = torch.full((2,), 0.5, dtype=torch.float64)
    with pytest.raises(InputError, match="must be a whole number"):
        circuit_k_best(free(2), half, half, count)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be a whole number"):
        circuit_sample(free(2), half, half, count)  # type: ignore[arg-type]


def test_k_far_above_the_number_of_worlds_only_pads() -> None:
    pos = torch.tensor([[0.5, 0.25], [1.0, 0.75]], dtype=torch.float64)
    found = circuit_k_best(free(2), pos, 1 - pos, 1_000_000)
    assert found.worlds.shape == (2, 1_000_000, 2)
    assert found.found.tolist() == [4, 2]
    assert found.log_weight[0, :4].exp().tolist() == pytest.approx([0.375, 0.375, 0.125, 0.125], rel=1e-14)
    assert (found.log_weight[0, 4:] == -math.inf).all()
    assert not found.worlds[:, 4:].any()


def test_an_excluded_world_counts_however_improbable_it_is() -> None:
    # P(x_0 and x_1) is 1e-400 or so, which no float64 holds; Q rules x_0 out
    pos = torch.tensor([1e-200, 1.0], dtype=torch.float64)
    neg = torch.tensor([1e200, 1.0], dtype=torch.float64)
    other = torch.tensor([0.0, 0.5], dtype=torch.float64)
    assert circuit_kl_divergence(free(2), pos, neg, other, 1 - other).item() == math.inf
    assert circuit_cross_entropy(free(2), pos, neg, other, 1 - other).item() == math.inf
    # the other way round there is nothing that P uses and Q rules out
    found = circuit_kl_divergence(free(2), other, 1 - other, pos, neg).item()
    assert found == pytest.approx(0.0, abs=1e-12)
