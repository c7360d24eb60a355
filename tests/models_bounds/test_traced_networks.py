"""Networks that are read, by what they compute, and networks that are refused, by one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from bounded_networks import shaken
from torch import Tensor, nn

from neurosym.errors import InputError
from neurosym.models.bounds import layers
from neurosym.models.bounds.graph import build_network
from neurosym.models.bounds.layers import evaluate
from neurosym.models.concept_net import ConceptNet
from neurosym.models.loading import PredicateNetwork
from neurosym.models.outputs import as_logits

SHAPE = (3, 8, 8)


class Forward(nn.Module):
    """A network whose forward is one function of (itself, x)."""

    def __init__(self, run: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.run = run
        self.conv, self.fc, self.norm = nn.Conv2d(3, 4, 3, groups=1), nn.Linear(4, 3), nn.BatchNorm1d(4)
        self.register_buffer("mean", torch.tensor([[[0.1]], [[0.2]], [[0.3]]]))

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x)


def pooled(m: Any, x: Tensor) -> Any:
    return F.relu(m.conv(x)).mean(dim=(2, 3))


READ: dict[str, Callable[[Any, Tensor], Any]] = {
    "mean": lambda m, x: m.fc(pooled(m, x)),
    "kept mean": lambda m, x: m.fc(torch.mean(m.conv(x), [-2, -1], keepdim=True).flatten(1)),
    "batch norm of features": lambda m, x: m.fc(m.norm(pooled(m, x))),
    "arithmetic": lambda m, x: m.fc(pooled(m, 1 - (2 * x - m.mean) / 3 + 0.5)),
    "two heads": lambda m, x: (m.fc(pooled(m, x)), pooled(m, x)),
    "names": lambda m, x: {"classes": m.fc(pooled(m, x)), "concepts": pooled(m, x)},
    "functions": lambda m, x: m.fc(F.adaptive_avg_pool2d(F.max_pool2d(m.conv(x), 2), 1).reshape(x.shape[0], -1)),
    "leaky": lambda m, x: m.fc(F.avg_pool2d(F.leaky_relu(m.conv(x), 0.2), 6).view(-1, 4)),
    "in place": lambda m, x: m.fc(pooled(m, x).clone().add_(1)),
    "subtracted branches": lambda m, x: m.fc(torch.sub(pooled(m, x), m.norm(pooled(m, x)))),
}


@pytest.mark.parametrize("name", READ)
def test_read(name: str) -> None:
    """The traced network computes what the module computes, on other images than those of the built-in comparison."""
    module = shaken(Forward(READ[name]), 1)
    traced = build_network(module, SHAPE)
    x = torch.rand((5, *SHAPE), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = module(x)
    assert torch.allclose(evaluate(traced, x).float(), as_logits(expected), atol=1e-5)


def test_concept_network_and_normalisation_around_it() -> None:
    inner = shaken(ConceptNet(["a", "b"], ["x", "y", "z"], image_size=16, width=4), 2)
    around = PredicateNetwork(inner, 2, inner.predicates, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
    x = torch.rand((2, 3, 16, 16), generator=torch.Generator().manual_seed(3))
    for module in (inner, around):
        with torch.no_grad():
            assert torch.allclose(evaluate(build_network(module, (3, 16, 16)), x).float(), module(x), atol=1e-4)


def test_a_single_layer() -> None:
    module = shaken(nn.Linear(4, 2), 0)
    assert isinstance(build_network(module, (4,)).nodes[1].layer, layers.Dense)


class Aliased(nn.Module):
    """ReLU in place on a value that is read again: the trace does not see that."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out, self.act = nn.Linear(4, 4), nn.Linear(4, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        return self.out(self.act(h) + h)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "sigmoid": (nn.Sequential(nn.Flatten(), nn.Linear(192, 2), nn.Sigmoid()), "no bound is known for Sigmoid"),
    "function": (Forward(lambda m, x: torch.tanh(m.fc(pooled(m, x)))), "no bound is known for tanh"),
    "product": (Forward(lambda m, x: pooled(m, x) * pooled(m, x)), "no bound is known for mul"),
    "reciprocal": (Forward(lambda m, x: 1 / pooled(m, x)), "no bound is known for truediv"),
    "image": (Forward(lambda m, x: m.conv(x)), "no table of logits"),
    "branch": (Forward(lambda m, x: m.fc(pooled(m, x)) if x.sum() > 0 else x), "cannot be traced"),
    "same": (nn.Conv2d(3, 3, 3, padding="same"), "padding must be numbers"),
    "circular": (nn.Conv2d(3, 3, 3, padding_mode="circular"), "padding must be numbers"),
    "slope": (nn.LeakyReLU(2.0), "LeakyReLU with slope 2.0"),
    "batch": (Forward(lambda m, x: pooled(m, x).flatten(0)), "leave the batch axis alone"),
    "adaptive": (nn.AdaptiveAvgPool2d(3), "sizes must divide"),
    "ceil": (nn.AvgPool2d(3, ceil_mode=True), "AvgPool2d"),
    "size": (nn.Sequential(nn.Flatten(), nn.Linear(100, 2)), "shapes do not fit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    module, text = REFUSED[name]
    with pytest.raises(InputError, match=text) as caught:
        build_network(shaken(module, 0) if name != "slope" else module, SHAPE)
    assert "\n" not in str(caught.value)


def test_a_step_in_place_that_the_trace_misreads_is_noticed() -> None:
    with pytest.raises(InputError, match="differs from the module"):
        build_network(shaken(Aliased(), 0), (4,))
