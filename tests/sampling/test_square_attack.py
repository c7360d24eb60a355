"""The Square attack on linear networks with a known optimum, and where there are no gradients to follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from neurosym.certify.attacks import lac, pgd, square
from neurosym.certify.attacks.square import _bump
from neurosym.errors import InputError


class Plane(nn.Module):
    """Two classes by the sign of a sum with smooth weights; ``coarse`` hides the gradient in steps."""

    def __init__(self, coarse: bool = False) -> None:
        super().__init__()
        row = torch.linspace(-1, 1, 8)
        self.w = nn.Parameter((row[:, None] + 0.5 * row[None, :]).expand(3, 8, 8).clone())
        self.coarse = coarse

    def forward(self, x: Tensor) -> Tensor:
        value = ((x - 0.5) * self.w).flatten(1).sum(1)
        if self.coarse:
            value = (8 * value).round() / 8
        return torch.stack([value, -value], 1)


def drop(net: Plane, images: Tensor, attacked: Tensor) -> Tensor:
    """By how much the value of the first class fell."""
    with torch.no_grad():
        return ((images - attacked) * net.w).flatten(1).sum(1)


@pytest.fixture
def images() -> Tensor:
    return 0.3 + 0.4 * torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("norm", "radius", "part"), [("linf", 0.05, 0.9), ("l2", 0.5, 0.6)])
def test_most_of_the_optimum_is_found(images: Tensor, norm: Any, radius: float, part: float) -> None:
    """On a linear network the largest drop is ``radius |w|_1`` in L-infinity, ``radius |w|_2`` in L2."""
    net, labels = Plane(), torch.zeros(3, dtype=torch.long)
    attacked = square(net, images, labels, radius, None, 0.0, norm=norm, moves=1500, draws=1, num_classes=2)
    best = radius * float(net.w.detach().abs().sum() if norm == "linf" else net.w.detach().norm())
    found = drop(net, images, attacked)
    assert (found > part * best).all()
    assert (found <= best * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_needs_no_gradient(images: Tensor, norm: Any) -> None:
    """Rounding has gradient 0 everywhere: following it goes nowhere, the search does not mind."""
    net, labels = Plane(coarse=True), torch.zeros(3, dtype=torch.long)
    options: dict[str, Any] = {"norm": norm, "draws": 1, "num_classes": 2}
    radius = 0.05 if norm == "linf" else 0.5
    stuck = pgd(net, images, labels, radius, None, 0.0, steps=10, **options)
    assert torch.equal(stuck, images)
    moved = square(net, images, labels, radius, None, 0.0, moves=200, **options)
    with torch.no_grad():
        before, after = (lac(net(x).softmax(1), labels) for x in (images, moved))
    assert (after > before).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_ball_range_and_batches(images: Tensor, norm: Any) -> None:
    net, labels = Plane(), torch.tensor([0, 1, 0])
    edge = images.clone()
    edge[0], edge[1] = 0.0, 1.0
    for radius in (0.0, 1e-4, 0.2, 3.0):
        attacked = square(net, edge, labels, radius, None, 0.1, norm=norm, moves=12, draws=3, num_classes=2)
        delta = (attacked.double() - edge.double()).flatten(1)
        assert ((delta.norm(dim=1) if norm == "l2" else delta.abs().amax(dim=1)) <= radius).all()
        assert attacked.min() >= 0
        assert attacked.max() <= 1
    options: dict[str, Any] = {"norm": norm, "moves": 20, "draws": 4, "num_classes": 2}
    whole = square(net, images, labels, 0.1, None, 0.1, **options)
    split = square(net, images, labels, 0.1, None, 0.1, batch=4, **options)
    rows = np.array([2, 0])
    part = square(net, images[rows], labels[rows], 0.1, None, 0.1, indices=rows, **options)
    assert (whole - split).abs().max() < 1e-5
    assert (whole[rows] - part).abs().max() < 1e-5


@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 8])
def test_bumps_have_norm_one_and_two_signs(side: int) -> None:
    bump = _bump(np.random.default_rng(side), side)
    assert bump.shape == (side, side)
    assert np.isclose(np.linalg.norm(bump), 1.0)
    assert ((bump > 0).any(), (bump < 0).any()) == (True, side > 1)


@pytest.mark.parametrize("change", [{"moves": 0}, {"share": 0.0}, {"share": 1.5}])
def test_bad_settings(images: Tensor, change: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        square(Plane(), images, torch.zeros(3, dtype=torch.long), 0.1, None, 0.1, num_classes=2, **change)
