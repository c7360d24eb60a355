"""Tiny networks and data for the sampling tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


class TinyNet(nn.Module):
    """Three classes and two concepts on 8x8 images, with a batch norm to fold."""

    num_classes, num_concepts = 3, 2
    predicates = ("a", "b", "c", "red", "round")

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(6 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.conv(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(features, 2).flatten(1))


@pytest.fixture
def tiny() -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-0.3, 0.3)
        net.norm.running_var.uniform_(0.3, 2)
        net.norm.weight.uniform_(0.5, 2)
        net.norm.bias.normal_()
        net.head.weight.mul_(4)
    return net.eval()


@pytest.fixture
def data() -> Callable[[int], TensorDataset]:
    def make(n: int) -> TensorDataset:
        generator = torch.Generator().manual_seed(1)
        return TensorDataset(torch.rand(n, 3, 8, 8, generator=generator), torch.arange(n) % 3)

    return make
