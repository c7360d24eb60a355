"""CROWN: linear bounds carried backwards (Zhang et al. 2018), sound for every double-precision evaluation of the network.

To bound ``<a, z>`` for a node z from below, the pair (coefficients, constant) moves from each node to those it reads. A
linear layer turns ``a`` into ``W^T a``. A ReLU of a value in ``[l, h]`` with ``l < 0 < h`` lies below its chord and above
every line through 0 of slope 0..1: the chord is taken where the coefficient is negative, else the slope 0 or 1, whichever
leaves less room (``1`` if ``h > -l``). At the image the ball gives the minimum (``Ball.least``).

With ``intermediate="ibp"`` the values of the ReLUs are bounded by intervals alone (CROWN-IBP, Zhang et al. 2020); with
``"crown"`` each value that intervals leave undecided is bounded by CROWN first. Either way bounds are cut by the
intervals, so they are never looser than those.

Rounding. ``a`` is a table of doubles at every step, exact by definition; what is lost between steps is added to ``slack``.
For a linear layer with magnitude M (``Interval.size``), the network's own rounding is at most ``gamma_{n+1} M``, that of the
new coefficients ``gamma_k |a| |W|`` times the parent's magnitude, in all ``|a| . M`` times a few ``gamma``; for a ReLU,
``fl(a s)`` costs ``u |a| |z|``, and the chord's intercept is rounded upwards where it is made. Two coefficients of one node
that are added cost ``u |a| |z|`` as well. Sums over a whole node are inner products of as many terms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from neurosym.models.bounds.ball import Ball
from neurosym.models.bounds.ibp import Interval, propagate
from neurosym.models.bounds.layers import Add, Cat, Conv, Dense, Leaky, MaxPool, Network, Node, Reshape, Scale
from neurosym.models.bounds.rounding import TINY, UNIT, gamma, plain_sums

Propagation = Literal["ibp", "crown_ibp", "crown"]
PROPAGATIONS: tuple[Propagation, ...] = ("ibp", "crown_ibp", "crown")
CELLS = 1 << 23  # coefficients of one node held at once (64 MiB)


@dataclass(eq=False)
class _Rows:
    """Running lower bounds of S linear forms: ``sum over nodes <a, z> + constant - slack``.

    ``images`` ``[S]`` names the image of each form; ``a`` maps node numbers to coefficients ``[S, *shape]``.
    """

    images: Tensor
    a: dict[int, Tensor]
    constant: Tensor
    slack: Tensor

    def give(self, number: int, a: Tensor, interval: Interval) -> None:
        """Add coefficients to a node."""
        if number in self.a:
            a = self.a[number] + a
            self.lose(2 * UNIT, a, interval.reach)
        self.a[number] = a

    def lose(self, unit: float, a: Tensor, size: Tensor) -> None:
        """Pay ``unit <|a|, size>``; ``size`` ``[B, *shape]``."""
        self.slack += 1.01 * unit * (a.abs() * size[self.images]).flatten(1).sum(1) + TINY

    def shift(self, amount: Tensor) -> None:
        """Add to the constant, paying for the rounding of the sum."""
        self.constant += amount
        self.slack += 2 * UNIT * self.constant.abs()


def lower_bounds(
    network: Network, intervals: list[Interval], ball: Ball, number: int, a: Tensor, images: Tensor
) -> Tensor:
    """Lower bounds ``[S]`` of ``<a_s, z>`` for node ``number`` and image ``images[s]``; ``a`` ``[S, *shape]``."""
    zero = torch.zeros(a.shape[0], dtype=torch.float64, device=a.device)
    rows = _Rows(images, {number: a}, zero, zero.clone())
    for index in range(number, 0, -1):
        if index in rows.a:
            _back(network.nodes[index], intervals, index, rows.a.pop(index), rows)
    at_image = ball.least(rows.a.pop(0), images) if 0 in rows.a else zero.clone()
    total = rows.constant + at_image
    return total - 1.000001 * rows.slack - 4 * UNIT * (rows.constant.abs() + at_image.abs()) - TINY


def _back(node: Node, intervals: list[Interval], index: int, a: Tensor, rows: _Rows) -> None:
    """Move the coefficients of one node to those that it reads."""
    layer, inputs = node.layer, node.inputs
    if isinstance(layer, Dense | Conv | Scale):
        size = intervals[index].size
        assert size is not None
        forward, backward = layer.terms
        rows.lose(4 * gamma(forward + backward + node.size + 16), a, size)
        rows.shift(layer.constant(a))
        rows.give(inputs[0], layer.adjoint(a), intervals[inputs[0]])
    elif isinstance(layer, Leaky):
        _relu(layer.slope, intervals[inputs[0]], inputs[0], a, rows)
    elif isinstance(layer, MaxPool):  # no line is drawn: its interval ends the road here
        found = intervals[index]
        low, high = found.lower[rows.images], found.upper[rows.images]
        rows.lose(4 * gamma(node.size + 4), a, found.reach)
        rows.shift(torch.where(a >= 0, a * low, a * high).flatten(1).sum(1))
    elif isinstance(layer, Reshape):
        rows.give(inputs[0], a.reshape(a.shape[0], *intervals[inputs[0]].lower.shape[1:]), intervals[inputs[0]])
    elif isinstance(layer, Add):
        size = intervals[index].size
        assert size is not None
        rows.lose(4 * UNIT, a, size)
        for parent in inputs:
            rows.give(parent, a, intervals[parent])
    elif isinstance(layer, Cat):
        widths = [intervals[parent].lower.shape[1] for parent in inputs]
        for parent, part in zip(inputs, a.split(widths, dim=1), strict=True):
            rows.give(parent, part, intervals[parent])
    else:
        raise AssertionError(f"{type(layer).__name__} is no step between nodes")


def _relu(slope: float, before: Interval, parent: int, a: Tensor, rows: _Rows) -> None:
    """Lines around ``max(z, slope z)``: below for positive coefficients, the chord above for negative ones."""
    low, high = before.lower, before.upper
    unstable = (low < 0) & (high > 0)
    one = torch.ones_like(low)  # two plain numbers in torch.where would make a float32 table
    fixed = torch.where(low >= 0, one, slope)
    chord = torch.where(unstable, (high - slope * low) / (high - low).clamp_min(TINY), fixed)
    # the line must not lie below the function at either end; between them the function is convex
    room = torch.maximum(high - chord * high, slope * low - chord * low) + 8 * UNIT * before.reach
    intercept = torch.where(unstable, room, 0.0)
    below = torch.where(unstable, torch.where(high > -low, one, slope), fixed)
    images = rows.images
    moved = torch.where(a >= 0, a * below[images], a * chord[images])
    rows.lose(4 * gamma(a[0].numel() + 8), a, before.reach)
    rows.shift((a.clamp_max(0.0) * intercept[images]).flatten(1).sum(1))
    rows.give(parent, moved, before)


def _undecided(network: Network, intervals: list[Interval], number: int) -> Tensor | None:
    """Numbers ``[S, 2]`` (image, neuron) whose sign intervals leave open, if a ReLU reads the node."""
    if intervals[number].exact or not any(
        number in node.inputs and isinstance(node.layer, Leaky) for node in network.nodes[number + 1 :]
    ):
        return None
    found = intervals[number]
    open_ = ((found.lower < 0) & (found.upper > 0)).flatten(1).nonzero()
    return open_ if len(open_) else None


def _refined(network: Network, intervals: list[Interval], ball: Ball, number: int) -> Interval:
    """The newest node's interval, cut by CROWN where its sign was open."""
    open_ = _undecided(network, intervals, number)
    found = intervals[number]
    if open_ is None:
        return found
    low, high = found.lower.flatten(1).clone(), found.upper.flatten(1).clone()
    shape, block = found.lower.shape[1:], max(1, CELLS // (2 * network.largest))
    for part in open_.split(block):
        images, neurons = part[:, 0], part[:, 1]
        a = torch.zeros((len(part), low.shape[1]), dtype=torch.float64, device=low.device)
        a[torch.arange(len(part), device=low.device), neurons] = 1.0
        both = torch.cat([a, -a]).reshape(-1, *shape)
        bound = lower_bounds(network, intervals, ball, number, both, torch.cat([images, images]))
        least, most = bound[: len(part)], -bound[len(part) :]
        low[images, neurons] = torch.maximum(low[images, neurons], least)
        high[images, neurons] = torch.minimum(high[images, neurons], most)
    return found.cut(low.reshape(found.lower.shape), high.reshape(found.upper.shape))


def intervals_of(network: Network, ball: Ball, propagation: Propagation = "crown") -> list[Interval]:
    """Intervals of all nodes; with ``crown`` the undecided values before each ReLU are cut by CROWN."""
    with plain_sums():
        if propagation != "crown":
            return propagate(network, ball)
        return propagate(network, ball, lambda found, number: _refined(network, found, ball, number))


def form_bounds(
    network: Network, intervals: list[Interval], ball: Ball, forms: Tensor, *, linear: bool = True
) -> tuple[Tensor, Tensor]:
    """Bounds ``[B, R]`` of linear forms of the logits, ``forms`` float64 ``[R, V]`` with entries -1, 0, 1.

    Interval arithmetic on the logits, cut by CROWN if ``linear``.
    """
    last, count = intervals[-1], len(ball.center)
    with plain_sums():
        unit = 4 * gamma(network.outputs + 8)
        up, down = forms.clamp_min(0.0), forms.clamp_max(0.0)
        slack = unit * last.reach @ forms.abs().T + TINY
        low = last.lower @ up.T + last.upper @ down.T - slack
        high = last.upper @ up.T + last.lower @ down.T + slack
        if not linear:
            return low, high
        images = torch.arange(count, device=forms.device).repeat_interleave(len(forms))
        every, block = forms.repeat(count, 1), max(1, CELLS // (2 * network.largest))
        least, most = [], []
        for rows, mine in zip(every.split(block), images.split(block), strict=True):
            both = torch.cat([rows, -rows])
            bound = lower_bounds(network, intervals, ball, len(network.nodes) - 1, both, torch.cat([mine, mine]))
            least.append(bound[: len(rows)])
            most.append(-bound[len(rows) :])
        shape = (count, len(forms))
        return torch.maximum(low, torch.cat(least).reshape(shape)), torch.minimum(high, torch.cat(most).reshape(shape))


__all__ = ["PROPAGATIONS", "Propagation", "form_bounds", "intervals_of", "lower_bounds"]
