"""Bounds against points of the ball: random corners, gradient ascent, and closed forms for linear networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from bounded_networks import inside, networks, shaken
from torch import Tensor, nn

from neurosym.models.bounds.ball import Ball, ball
from neurosym.models.bounds.crown import PROPAGATIONS, Propagation, form_bounds, intervals_of
from neurosym.models.bounds.graph import build_network
from neurosym.models.bounds.layers import Network, evaluate
from neurosym.models.bounds.softmax_bounds import difference_forms, difference_tables, softmax_range

SHAPE = (3, 8, 8)


def images(count: int = 3, seed: int = 0) -> Tensor:
    return torch.rand((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def logit_bounds(network: Network, around: Ball, propagation: Propagation) -> tuple[Tensor, Tensor]:
    forms = torch.eye(network.outputs, dtype=torch.float64)
    found = intervals_of(network, around, propagation)
    return form_bounds(network, found, around, forms, linear=propagation != "ibp")


def ascent(module: nn.Module, x: Tensor, radius: float, norm: str, clip: bool, sign: float, column: int) -> Tensor:
    """Projected gradient steps that push one logit up (or down): ``[B]`` values reached inside the ball."""
    exact = module.double()
    start = x.double()
    point = start.clone().requires_grad_()
    best = torch.full((len(x),), -np.inf, dtype=torch.float64)
    for _ in range(12):
        value = sign * exact(point)[:, column]
        best = torch.maximum(best, value.detach())
        (slope,) = torch.autograd.grad(value.sum(), point)
        if norm == "linf":
            moved = start + (point.detach() - start + radius / 4 * slope.sign()).clamp(-radius, radius)
        else:
            step = point.detach() - start + radius / 4 * slope / slope.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
            length = step.flatten(1).norm(dim=1).clamp_min(1e-12).reshape(-1, 1, 1, 1)
            moved = start + step * (radius / length).clamp_max(1.0)
        point = (moved.clamp(0, 1) if clip else moved).requires_grad_()
    return torch.maximum(best, (sign * exact(point)[:, column]).detach())


@pytest.mark.parametrize(
    ("norm", "radius", "clip"), [("linf", 0.02, True), ("linf", 0.2, False), ("l2", 0.2, False), ("l2", 2.0, True)]
)
@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_no_point_of_the_ball_leaves_the_bounds(
    network: nn.Module, propagation: Propagation, norm: str, radius: float, clip: bool
) -> None:
    x = images()
    traced = build_network(network, SHAPE)
    low, high = logit_bounds(traced, ball(x, radius, norm, clip=clip), propagation)
    points = inside(x, radius, norm, 60, clip)
    values = evaluate(traced, points.flatten(0, 1)).reshape(60, len(x), -1)
    assert (values >= low).all()
    assert (values <= high).all()
    for column in (0, traced.outputs - 1):
        assert (ascent(network, x, radius, norm, clip, 1.0, column) <= high[:, column] + 1e-12).all()
        assert (-ascent(network, x, radius, norm, clip, -1.0, column) >= low[:, column] - 1e-12).all()


@pytest.mark.parametrize("propagation", PROPAGATIONS)
@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.7)])
def test_exact_for_linear_networks(propagation: Propagation, norm: str, radius: float) -> None:
    """One matrix and one vector say everything: ``W x + b`` moves by ``r`` times the dual norm of each row."""
    module = networks()["linear"].double()
    x = images(2)
    basis = torch.eye(192, dtype=torch.float64).reshape(192, *SHAPE)
    with torch.no_grad():
        offset = module(torch.zeros((1, *SHAPE), dtype=torch.float64))
        rows = (module(basis) - offset).T
        center = module(x.double())
    reach = radius * (rows.abs().sum(1) if norm == "linf" else rows.norm(dim=1))
    around = ball(x, radius, norm, clip=False)
    low, high = logit_bounds(build_network(module, SHAPE), around, propagation)
    if propagation == "ibp":  # intervals forget that neurons move together
        assert (low <= center - reach).all()
        assert (high >= center + reach).all()
        return
    assert torch.allclose(low, center - reach, atol=1e-9, rtol=0)
    assert torch.allclose(high, center + reach, atol=1e-9, rtol=0)
    assert (low <= center - reach + 1e-15).all()


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.03), ("l2", 0.5)])
def test_intervals_of_one_layer_are_exact(norm: str, radius: float) -> None:
    module = shaken(nn.Sequential(nn.Flatten(), nn.Linear(192, 6)), 7).double()
    x = images(2)
    weight = module[1].weight.detach()
    reach = radius * (weight.abs().sum(1) if norm == "linf" else weight.norm(dim=1))
    around = ball(x, radius, norm, clip=False)
    low, high = logit_bounds(build_network(module, SHAPE), around, "ibp")
    with torch.no_grad():
        assert torch.allclose((high - low) / 2, reach.expand(2, 6), atol=1e-9, rtol=0)
        assert torch.allclose((high + low) / 2, module(x.double()), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.05), ("l2", 0.5)])
def test_each_propagation_is_no_looser_than_the_one_before(network: nn.Module, norm: str, radius: float) -> None:
    traced, around = build_network(network, SHAPE), ball(images(), radius, norm)
    found = [logit_bounds(traced, around, name) for name in PROPAGATIONS]
    (low, high), (low1, high1), (low2, high2) = found
    assert (low1 >= low).all()
    assert (high1 <= high).all()
    widths = [float((h - lo).mean()) for lo, h in found]
    assert widths[0] > widths[1] >= widths[2] - 1e-9
    assert (high2 - low2).mean() < 0.9 * (high - low).mean()


def test_the_whole_range_of_a_tiny_network_is_found_by_its_pieces() -> None:
    """Two inputs, one hidden layer: the true range by a fine grid lies inside, and CROWN comes close."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    weights = [[[1.0, -2.0], [0.5, 1.0], [-1.0, 0.3]], [0.1, -0.4, 0.2], [[1.0, -1.5, 0.7]], [0.05]]
    for parameter, numbers in zip(module.parameters(), weights, strict=True):
        parameter.data = torch.tensor(numbers)
    x = torch.tensor([[[[0.5, 0.4]]]])
    steps = np.linspace(-0.3, 0.3, 201)
    grid = torch.tensor([[0.5 + a, 0.4 + b] for a, b in itertools.product(steps, steps)]).reshape(-1, 1, 1, 2)
    with torch.no_grad():
        values = module(grid.float())
    low, high = logit_bounds(build_network(module, (1, 1, 2)), ball(x, 0.3, "linf"), "crown")
    assert float(low) <= float(values.min()) + 1e-6
    assert float(high) >= float(values.max()) - 1e-6
    assert float(high - low) < 2.5 * float(values.max() - values.min())


def test_a_radius_of_zero_gives_the_value(network: nn.Module) -> None:
    x, traced = images(), build_network(network, SHAPE)
    for norm, propagation in itertools.product(("l2", "linf"), PROPAGATIONS):
        low, high = logit_bounds(traced, ball(x, 0.0, norm), propagation)
        value = evaluate(traced, x)
        assert (low <= value).all()
        assert (value <= high).all()
        assert float((high - low).max()) < 1e-10


@pytest.mark.parametrize("propagation", PROPAGATIONS)
def test_softmax_ranges(network: nn.Module, propagation: Propagation) -> None:
    x, radius = images(), 0.05
    traced, around = build_network(network, SHAPE), ball(images(), radius, "linf")
    found = intervals_of(traced, around, propagation)
    classes = traced.outputs
    forms = difference_forms(classes, classes)
    tables = difference_tables(*form_bounds(traced, found, around, forms, linear=propagation != "ibp"), classes)
    low, high = softmax_range(*tables, found[-1].reach.amax(1))
    points = inside(x, radius, "linf", 60, True)
    p = torch.softmax(evaluate(traced, points.flatten(0, 1)), dim=-1).reshape(60, len(x), -1)
    assert (p >= low).all()
    assert (p <= high).all()


def test_rounding_is_paid_for() -> None:
    """Cancellation at 1e12: another order of the same sums, in double precision, stays inside the bounds at radius 0."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    weight = rng.normal(size=(40, 300)) * 1e12
    module = nn.Sequential(nn.Flatten(), nn.Linear(300, 40), nn.ReLU(), nn.Linear(40, 2)).double()
    module[1].weight.data = torch.from_numpy(weight)
    x = torch.from_numpy(rng.random((1, 1, 1, 300)))
    traced = build_network(module, (1, 1, 300))
    last = module[3].weight.detach().numpy()
    values = []
    for _ in range(200):
        order = rng.permutation(300)
        hidden = np.array([np.add.reduce(weight[row][order] * x.numpy().ravel()[order]) for row in range(40)])
        hidden += module[1].bias.detach().numpy()
        mixed = rng.permutation(40)
        values.append(last[:, mixed] @ np.maximum(hidden, 0)[mixed] + module[3].bias.detach().numpy())
    spread = np.ptp(values, axis=0)
    assert (spread > 0).all()  # the orders do differ
    for propagation in PROPAGATIONS:
        low, high = logit_bounds(traced, ball(x, 0.0, "linf"), propagation)
        assert (np.array(values) >= low.numpy()).all()
        assert (np.array(values) <= high.numpy()).all()
        assert float((high - low).max()) < 1e5 * spread.max()  # worst case against chance, and still 1e-10 of a logit
