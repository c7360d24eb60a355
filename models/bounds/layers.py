"""The operations that bounds are known for, in double precision: their values, their magnitudes and their adjoints.

A linear layer ``y = W x + b`` offers ``apply`` (W x + b), ``magnitude`` (|W| m + |b|, which bounds rounding errors), ``spread``
(|W| r), ``squares`` (W^2 d, for row norms) and ``adjoint`` (A W for rows of coefficients A). Shapes are without the batch axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Input:
    """The image."""


@dataclass(frozen=True, eq=False)
class Dense:
    """``weight`` ``[o, i]``, ``bias`` ``[o]``."""

    weight: Tensor
    bias: Tensor

    @property
    def terms(self) -> tuple[int, int]:
        """Terms of one sum of ``apply`` and of ``adjoint``."""
        return int(self.weight.shape[1]), int(self.weight.shape[0])

    def apply(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def magnitude(self, m: Tensor) -> Tensor:
        return F.linear(m, self.weight.abs(), self.bias.abs())

    def spread(self, r: Tensor) -> Tensor:
        return F.linear(r, self.weight.abs())

    def squares(self, d: Tensor) -> Tensor:
        return F.linear(d, self.weight.square())

    def adjoint(self, a: Tensor) -> Tensor:
        return a @ self.weight

    def constant(self, a: Tensor) -> Tensor:
        """``A b`` for each row of coefficients."""
        return a @ self.bias


@dataclass(frozen=True, eq=False)
class Conv:
    """Convolution with zero padding; average pooling is one with a constant kernel in each channel."""

    weight: Tensor
    bias: Tensor
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    inputs: Shape

    @property
    def terms(self) -> tuple[int, int]:
        """Terms of one sum of ``apply`` and of ``adjoint``."""
        kernel = int(self.weight.shape[2] * self.weight.shape[3])
        return kernel * int(self.weight.shape[1]), kernel * int(self.weight.shape[0]) // self.groups

    def _conv(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def apply(self, x: Tensor) -> Tensor:
        return self._conv(x, self.weight, self.bias)

    def magnitude(self, m: Tensor) -> Tensor:
        return self._conv(m, self.weight.abs(), self.bias.abs())

    def spread(self, r: Tensor) -> Tensor:
        return self._conv(r, self.weight.abs(), None)

    def squares(self, d: Tensor) -> Tensor:
        return self._conv(d, self.weight.square(), None)

    def adjoint(self, a: Tensor) -> Tensor:
        size = (a.shape[0], *self.inputs)
        return conv2d_input(size, self.weight, a, self.stride, self.padding, self.dilation, self.groups)

    def constant(self, a: Tensor) -> Tensor:
        """``A b`` for each row of coefficients."""
        return a.sum(dim=(2, 3)) @ self.bias


@dataclass(frozen=True, eq=False)
class Scale:
    """``factor * x + shift`` element by element; both broadcast against the input. Normalisation and batch norm."""

    factor: Tensor
    shift: Tensor

    terms = (1, 1)

    def apply(self, x: Tensor) -> Tensor:
        return x * self.factor + self.shift

    def magnitude(self, m: Tensor) -> Tensor:
        return m * self.factor.abs() + self.shift.abs()

    def spread(self, r: Tensor) -> Tensor:
        return r * self.factor.abs()

    def squares(self, d: Tensor) -> Tensor:
        return d * self.factor.square()

    def adjoint(self, a: Tensor) -> Tensor:
        return a * self.factor

    def constant(self, a: Tensor) -> Tensor:
        """``A b`` for each row of coefficients."""
        return (a * self.shift).flatten(1).sum(dim=1)


Linear = Dense | Conv | Scale


@dataclass(frozen=True, eq=False)
class Leaky:
    """``max(x, slope x)`` with ``0 <= slope <= 1``; ReLU for slope 0."""

    slope: float = 0.0

    def apply(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, self.slope) if self.slope else x.clamp_min(0.0)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Maximum over windows; padding counts for nothing."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    ceil_mode: bool

    def apply(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil_mode)


@dataclass(frozen=True, eq=False)
class Reshape:
    """The same numbers in row-major order in another shape."""

    shape: Shape

    def apply(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0], *self.shape)


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of two nodes of one shape."""


@dataclass(frozen=True, eq=False)
class Cat:
    """Concatenation along the first axis (channels or features)."""


Layer = Input | Dense | Conv | Scale | Leaky | MaxPool | Reshape | Add | Cat


@dataclass(frozen=True, eq=False)
class Node:
    """One step: its layer, the numbers of the nodes it reads, and the shape of its value without the batch axis."""

    layer: Layer
    inputs: tuple[int, ...]
    shape: Shape

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Network:
    """Nodes in topological order; node 0 is the image, the last one the logits ``[V]``."""

    nodes: tuple[Node, ...]

    @property
    def inputs(self) -> Shape:
        return self.nodes[0].shape

    @property
    def outputs(self) -> int:
        return self.nodes[-1].size

    @property
    def device(self) -> torch.device:
        for node in self.nodes:
            if isinstance(node.layer, Dense | Conv):
                return node.layer.weight.device
        return torch.device("cpu")

    @property
    def largest(self) -> int:
        """Numbers in the largest node."""
        return max(node.size for node in self.nodes)


def value(layer: Layer, parents: list[Tensor]) -> Tensor:
    """Value of a node from those of the nodes it reads, ``[B, *shape]``."""
    if isinstance(layer, Add):
        return parents[0] + parents[1]
    if isinstance(layer, Cat):
        return torch.cat(parents, dim=1)
    if isinstance(layer, Input):
        raise AssertionError("the image has no parents")
    return layer.apply(parents[0])


def evaluate(network: Network, images: Tensor) -> Tensor:
    """Logits float64 ``[B, V]`` of images ``[B, C, H, W]``: the function that the bounds are bounds of."""
    from neurosym.models.bounds.rounding import plain_sums

    with plain_sums():
        values = [images.to(network.device, torch.float64)]
        for node in network.nodes[1:]:
            values.append(value(node.layer, [values[i] for i in node.inputs]))
    return values[-1]
