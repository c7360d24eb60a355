"""Interval bound propagation (Gowal et al. 2018), sound for every double-precision evaluation of the network.

Claim. For every image x of the ball and every order of summation, the value of each node computed in double precision
lies in the node's interval.

Proof, node by node. Let the parent's computed value obey ``l <= v <= h``, ``m = max(|l|, |h|)``. A linear layer computes
``fl(W v + b)``, off by at most ``gamma_{n+1} (|W| m + |b|)`` (``rounding``). With centre c and half width r such that
``[l, h]`` is inside ``[c - r, c + r]``, ``W v + b`` lies within ``|W| r`` of ``W c + b``; computing these two costs
``gamma`` times the same magnitude each, and their sum a few units more. ``4 gamma_{n+8} M``, M the computed magnitude
(itself good to ``gamma_{n+1}``), pays for all. ReLU, leaky ReLU, maxima and sums of two nodes are monotone in floating point as well, so they need nothing.

For an L2 ball the box around it is far too large (its corners are sqrt(d) r away). Where a linear layer reads the image
itself, or the image scaled element by element (``Anchor``), each row w of it moves by at most ``r |w D|_2`` instead, D
the scaling; the roundings of the scaling are carried along.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurosym.models.bounds.ball import Ball
from neurosym.models.bounds.layers import Add, Conv, Dense, Linear, Network, Node, Reshape, Scale, value
from neurosym.models.bounds.rounding import TINY, UNIT, gamma


@dataclass(frozen=True, eq=False)
class Anchor:
    """A node that is the image, scaled: its value is ``center + factor (x - x0)`` up to ``error``, all ``[B or 1, *shape]``."""

    center: Tensor
    factor: Tensor
    error: Tensor


@dataclass(frozen=True, eq=False)
class Interval:
    """Bounds ``[B, *shape]`` of one node.

    Attributes:
        size: for linear layers and sums the magnitude ``|W| m + |b|`` that rounding errors are measured by.
        anchor: set where the node is the image, scaled.
        exact: the bounds are attained up to rounding, so that nothing tighter is worth looking for.
    """

    lower: Tensor
    upper: Tensor
    size: Tensor | None = None
    anchor: Anchor | None = None
    exact: bool = False

    @property
    def reach(self) -> Tensor:
        """``max(|l|, |h|)``."""
        return torch.maximum(self.lower.abs(), self.upper.abs())

    def cut(self, lower: Tensor, upper: Tensor) -> Interval:
        """Intersection with other bounds of the same node."""
        return replace(self, lower=torch.maximum(self.lower, lower), upper=torch.minimum(self.upper, upper))


Refine = Callable[[list[Interval], int], Interval]


def propagate(network: Network, ball: Ball, refine: Refine | None = None) -> list[Interval]:
    """Intervals of all nodes.

    Args:
        refine: called with the intervals so far and the number of the newest node; returns tighter bounds of it, which
            all later nodes build upon.
    """
    center = ball.center
    anchor = Anchor(center, torch.ones_like(center[:1]), torch.zeros_like(center[:1]))
    found = [Interval(ball.lower, ball.upper, None, anchor, True)]
    for number, node in enumerate(network.nodes[1:], start=1):
        found.append(_step(node, [found[i] for i in node.inputs], ball))
        if refine is not None:
            found[number] = refine(found, number)
    return found


def _step(node: Node, parents: list[Interval], ball: Ball) -> Interval:
    layer = node.layer
    if isinstance(layer, Dense | Conv | Scale):
        return _linear(layer, parents[0], ball)
    low = value(layer, [parent.lower for parent in parents])
    high = value(layer, [parent.upper for parent in parents])
    size = parents[0].reach + parents[1].reach if isinstance(layer, Add) else None
    if not isinstance(layer, Reshape):
        return Interval(low, high, size)
    anchor = parents[0].anchor
    if anchor is not None:
        anchor = Anchor(*(layer.apply(item) for item in (anchor.center, anchor.factor, anchor.error)))
    return Interval(low, high, None, anchor, parents[0].exact)


def _linear(layer: Linear, parent: Interval, ball: Ball) -> Interval:
    unit = 4 * gamma(layer.terms[0] + 8)
    size = layer.magnitude(parent.reach)
    slack = unit * size + TINY
    center = 0.5 * (parent.lower + parent.upper)
    half = torch.maximum(parent.upper - center, center - parent.lower) * (1 + 8 * UNIT) + TINY
    middle, spread = layer.apply(center), layer.spread(half)
    box = Interval(middle - spread - slack, middle + spread + slack, size)
    anchor = parent.anchor
    if anchor is None:
        return replace(box, exact=parent.exact and isinstance(layer, Scale))
    error = layer.spread(anchor.error) * (1 + unit) + 4 * slack
    if isinstance(layer, Scale):
        moved = Anchor(layer.apply(anchor.center), anchor.factor * layer.factor, error)
        return replace(box, anchor=moved, exact=True)
    if ball.radius is not None:  # row norms: each output moves by at most r |w D|_2 around its value at the centre
        length = layer.squares(anchor.factor.square()).sqrt() * ball.radius * (1 + unit)
        middle = layer.apply(anchor.center)
        box = box.cut(middle - length - error, middle + length + error)
    return replace(box, exact=True)
