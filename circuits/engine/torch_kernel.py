"""Evaluation with torch on any device: each level in a few gather, multiply and add steps.

The rows of a table lie in the order in which they are computed, so that every step writes to neighbouring rows. A level
is done in one of two forms. For few columns all its rows go at once, as sums of different lengths (*ragged*). For many,
rows of nearly equal length are padded and summed as a *grid*: more steps, but each number costs less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program
from neurosym.circuits.engine.schedule import Step, buckets, downward_steps, longest_first, upward_steps

Ints = NDArray[np.int64]
Pairs = Sequence[tuple[Tensor, Tensor]]

TABLE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 30}
"""Size of the value table worked on at once: near the cache of a CPU core, a fraction of a GPU's memory."""
MIN_COLUMNS = 64
"""Columns worked on at once however large the circuit is: fewer would only add overhead."""
STEP = 8000
"""Numbers that ragged sums are slower by, compared with a grid, in the time that another step takes."""
RAGGED_DEVICES = ("cpu", "cuda")
"""Torch has ragged sums there."""


@dataclass(frozen=True)
class _Grid:
    """``rows`` sums of ``width`` products x[a] * y[b]."""

    rows: int
    width: int
    a: Tensor
    b: Tensor

    def to(self, device: torch.device) -> _Grid:
        return _Grid(self.rows, self.width, self.a.to(device), self.b.to(device))


@dataclass(frozen=True)
class _Level:
    """Rows that depend on earlier ones only, in both forms.

    Attributes:
        a, b, offsets: row i is the sum of x[a] * y[b] from offsets[i] up to offsets[i + 1].
        grids, sizes: the same as grids, and the rows of each.
        few: up to so many columns the ragged form is faster.
    """

    a: Tensor
    b: Tensor
    offsets: Tensor
    grids: tuple[_Grid, ...]
    sizes: tuple[int, ...]
    few: int

    def to(self, device: torch.device) -> _Level:
        a, b, offsets = (x.to(device) for x in (self.a, self.b, self.offsets))
        few = self.few if device.type in RAGGED_DEVICES else 0
        return _Level(a, b, offsets, tuple(grid.to(device) for grid in self.grids), self.sizes, few)


@dataclass(frozen=True)
class _Pass:
    """One direction. The rows of its table are those given, then those of each level, then zeros.

    Attributes:
        levels: in order.
        sizes: rows of each of these parts.
        place: int64[rows + 1], where the rows of the program lie; those it lacks, and the last, are zeros.
    """

    levels: tuple[_Level, ...]
    sizes: tuple[int, ...]
    place: Tensor

    def to(self, device: torch.device) -> _Pass:
        return _Pass(tuple(level.to(device) for level in self.levels), self.sizes, self.place.to(device))


def _narrow(x: Ints) -> Tensor:
    fits = x.max(initial=0) <= np.iinfo(np.int32).max
    return torch.from_numpy(x.astype(np.int32 if fits else np.int64))


def _lower(steps: Sequence[Step], given: Ints, num_rows: int, values: Ints | None) -> _Pass:
    """A pass whose factors a are rows of its own table, and b of that laid out by ``values`` (None: its own as well).

    Args:
        steps: of one direction.
        given: rows that are known at the start.
        num_rows: rows of the program; the one after the last holds zero.
        values: int64[rows + 1].
    """
    steps = [longest_first(step) for step in steps]
    rows = np.concatenate([given, *(step.target for step in steps)])
    place = np.full(num_rows + 1, rows.size)
    place[rows] = np.arange(rows.size)
    values = place if values is None else values
    levels = []
    for step in steps:
        grids = [_Grid(x.rows, x.width, _narrow(place[x.a]), _narrow(values[x.b])) for x in buckets(step, num_rows)]
        a, b, offsets = (_narrow(x) for x in (place[step.a], values[step.b], np.append(step.offsets, step.a.size)))
        # a single grid that only multiplies is never slower
        few = 0 if step.counts[0] == 1 else int(STEP * (len(grids) - 0.8)) // step.a.size
        levels.append(_Level(a, b, offsets, tuple(grids), tuple(grid.rows for grid in grids), few))
    sizes = (given.size, *(step.target.size for step in steps), num_rows + 1 - rows.size)
    return _Pass(tuple(levels), sizes, torch.from_numpy(place))


def _products(pairs: Pairs, a: Tensor, b: Tensor) -> Tensor:
    """Sum over (x, y) in ``pairs`` of x[a] * y[b]."""
    (x, y), *more = pairs
    total = x.index_select(0, a).mul_(y.index_select(0, b))
    for x, y in more:
        total.addcmul_(x.index_select(0, a), y.index_select(0, b))
    return total


def _run(levels: Sequence[_Level], parts: Sequence[Tensor], pairs: Pairs) -> None:
    """Fills the parts of a table that come after the given rows."""
    columns = parts[0].shape[1:]
    count = columns.numel()
    for level, out in zip(levels, parts[1:], strict=False):
        if count <= level.few:
            total = _products(pairs, level.a, level.b)
            out.copy_(torch.segment_reduce(total, "sum", offsets=level.offsets, unsafe=True))
            continue
        places = (out,) if len(level.grids) == 1 else out.split(level.sizes)
        for grid, place in zip(level.grids, places, strict=True):
            if grid.width == 1 and len(pairs) == 1:
                x, y = pairs[0]
                torch.mul(x.index_select(0, grid.a), y.index_select(0, grid.b), out=place)
            else:
                total = _products(pairs, grid.a, grid.b)
                torch.sum(total.view(grid.rows, grid.width, *columns), dim=1, out=place)


class TorchKernel:
    """See :class:`neurosym.circuits.engine.kernel.Kernel`. The reference for the kernels written for one device."""

    name = "torch"

    def __init__(self, program: Program) -> None:
        self.program = program
        self._passes: dict[tuple[str, torch.device], _Pass] = {}

    def _pass(self, which: str, device: torch.device) -> _Pass:
        if (which, device) not in self._passes:
            host = torch.device("cpu")
            if (which, host) not in self._passes:
                self._passes[which, host] = self._make(which)
            self._passes[which, device] = self._passes[which, host].to(device)
        return self._passes[which, device]

    def _make(self, which: str) -> _Pass:
        program = self.program
        if which == "up":
            return _lower(upward_steps(program), np.arange(program.first), program.num_rows, None)
        values = self._pass("up", torch.device("cpu")).place.numpy()
        return _lower(downward_steps(program), np.array([program.root]), program.num_rows, values)

    def _tiles(self, weights: Weights, count: int) -> Iterator[tuple[slice, Weights, tuple[Tensor, ...]]]:
        """Parts of the batch, and ``count`` tables [rows + 1, columns] for each; [rows + 1] for a single column."""
        size, rows = weights.pos.element_size(), self.program.num_rows + 1
        limit = TABLE_BYTES.get(weights.pos.device.type, TABLE_BYTES["cpu"])
        columns = min(max(MIN_COLUMNS, limit // (size * rows)), max(1, weights.batch))
        room = weights.pos.new_empty(count * rows * columns)
        for start in range(0, weights.batch, columns):
            index = slice(start, min(start + columns, weights.batch))
            width = index.stop - start
            shape = (count, rows, width) if width > 1 else (count, rows)
            tables = room[: count * rows * width].view(shape).unbind()
            yield index, weights if width == weights.batch else weights.rows(index), tables

    def _leaves(self, weights: Weights, given: Tensor, one: float) -> None:
        """Fills in what an upward pass starts from."""
        m, c = self.program.num_variables, self.program.num_constants
        pos, neg, constants, last = given.split((m, m, c, 1))
        pos.copy_(weights.pos.t().view_as(pos))
        neg.copy_(weights.neg.t().view_as(neg))
        if weights.constants.ndim == 2:
            constants.copy_(weights.constants.t().view_as(constants))
        else:
            constants.copy_(weights.constants[:, None].expand(c, weights.batch).view_as(constants))
        last.fill_(one)

    def _upward(self, weights: Weights, table: Tensor) -> _Pass:
        """Fills a table with values."""
        up = self._pass("up", table.device)
        parts = table.split(up.sizes)
        self._leaves(weights, parts[0], 1.0)
        parts[-1].zero_()
        _run(up.levels, parts, [(table, table)])
        return up

    def _downward(self, pairs: Pairs, start: float) -> None:
        """Fills the first table of the first pair with derivatives; the root's is ``start``."""
        table = pairs[0][0]
        down = self._pass("down", table.device)
        parts = table.split(down.sizes)
        parts[0].fill_(start)
        parts[-1].zero_()
        _run(down.levels, parts, pairs)

    def _collect(self, slopes: Tensor, table: Tensor) -> Tensor:
        """Derivatives of the leaves and, last, the value, [columns, 2m + C + 1]."""
        place = self._pass("down", table.device).place
        found = slopes.index_select(0, place[: self.program.first])
        # the root is alone in the last level, hence where the program has it
        found[self.program.one] = table[self.program.root]
        return found.view(self.program.first, -1).t()

    def _split(self, found: Tensor) -> Derivatives:
        m, c = self.program.num_variables, self.program.num_constants
        on, off, constants, value = found.split((m, m, c, 1), dim=1)
        return Derivatives(value[:, 0], on, off, constants)

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B]."""
        out = weights.pos.new_empty(weights.batch)
        for rows, part, (table,) in self._tiles(weights, 1):
            self._upward(part, table)
            out[rows] = table[self.program.root]
        return out

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each."""
        value, least = (weights.pos.new_empty(weights.batch) for _ in range(2))
        for rows, part, (table,) in self._tiles(weights, 1):
            self._upward(part, table)
            value[rows], least[rows] = table[self.program.root], table[self.program.one : -1].amin(dim=0)
        return value, least

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives."""
        out = weights.pos.new_empty((weights.batch, self.program.first))
        for rows, part, (table, slopes) in self._tiles(weights, 2):
            self._upward(part, table)
            self._downward([(slopes, table)], 1.0)
            out[rows] = self._collect(slopes, table)
        return self._split(out)

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """Derivatives and their change along a direction."""
        out, change = (weights.pos.new_empty((weights.batch, self.program.first)) for _ in range(2))
        for rows, part, (table, moved, slopes, turned) in self._tiles(weights, 4):
            up = self._upward(part, table)
            parts = moved.split(up.sizes)
            self._leaves(direction if part is weights else direction.rows(rows), parts[0], 0.0)
            parts[-1].zero_()
            _run(up.levels, parts, [(moved, table), (table, moved)])
            self._downward([(slopes, table)], 1.0)
            self._downward([(turned, table), (slopes, moved)], 0.0)
            out[rows], change[rows] = self._collect(slopes, table), self._collect(turned, moved)
        return self._split(out), self._split(change)
