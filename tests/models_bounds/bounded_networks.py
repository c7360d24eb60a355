"""Small networks of every supported kind, and sampling inside attack balls."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """Normalisation, strided convolution, batch norm, a residual block, two pools, a concatenation and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.tensor([0.4, 0.5, 0.3]).reshape(1, 3, 1, 1))
        self.spread = 0.28
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.short = nn.Conv2d(6, 6, 1)
        self.act = nn.LeakyReLU(0.1)
        self.pool, self.mean = nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)
        self.head, self.more = nn.Linear(6 * 4 + 6, 4), nn.Linear(6 * 4 + 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first((x - self.center) / self.spread)
        x = self.act(self.body(x) + self.short(x))
        flat = self.pool(x).view(x.size(0), -1)
        features = torch.cat([flat, self.mean(x).flatten(1)], dim=1)
        return torch.cat([self.head(features), self.more(torch.relu(features))], dim=1)


def shaken(network: nn.Module, seed: int) -> nn.Module:
    """Random weights and batch statistics, evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features, generator=generator) * 0.3
            module.running_var = torch.rand(module.num_features, generator=generator) + 0.5
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) / max(1, parameter[0].numel()) ** 0.5
    return network.eval()


def networks() -> dict[str, nn.Module]:
    """By name; all read ``[B, 3, 8, 8]`` except the fully connected ones, which flatten it."""
    conv = nn.Sequential(
        nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(5, 8, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    dense = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    linear = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16, 3))
    made = {"conv": conv, "dense": dense, "linear": linear, "residual": Residual()}
    return {name: shaken(network, number) for number, (name, network) in enumerate(made.items())}


def inside(images: Tensor, radius: float, norm: str, count: int, clip: bool, seed: int = 0) -> Tensor:
    """``[count, B, C, H, W]`` points of the balls: corners for L-infinity, the sphere for L2, and some interior ones."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(count, *images.shape))
    if norm == "linf":
        move = np.sign(noise) * np.where(rng.random(noise.shape) < 0.9, 1.0, rng.random(noise.shape))
    else:
        length = np.sqrt((noise**2).sum(axis=(2, 3, 4), keepdims=True))
        move = noise / length * rng.choice([1.0, 0.5], (count, len(images), 1, 1, 1))
    points = images.double() + radius * torch.from_numpy(move)
    return points.clamp(0, 1) if clip else points
