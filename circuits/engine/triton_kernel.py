"""Evaluation with triton on a GPU: no padding, no atomics, and for large batches everything in a single launch.

The columns of a batch never meet, so a program can take a tile of them through the whole circuit, up and down, with no
more than a barrier of its own between levels ("whole"). Its tables are used again for the next tile: memory does not
grow with the batch, and small circuits stay in the cache. A batch that makes fewer tiles than the GPU has
multiprocessors takes one launch for each level instead ("levels"), unless the levels are so narrow that launching would
take longer.

Downward, nodes pull from their parents (:func:`neurosym.circuits.engine.schedule.downward_steps`), hence results are
the same in every run. Nodes with many elements are summed in parts, so that no thread goes through long sums.

The sizes below are derived from what GPUs are like, not from measurements: the code has been checked in triton's
interpreter and compiled for several GPUs, but neither run nor timed on one yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program
from neurosym.circuits.engine.schedule import Step, downward_steps, upward_steps
from neurosym.errors import InputError

Form = Literal["auto", "whole", "levels"]
Ints = NDArray[np.int64]

TILE = 512
"""Numbers a program works on at once: nodes x columns."""
WARP = 32
"""Columns that are read in one go; fewer only where the batch has no more."""
FEWEST = 4
"""Columns of a tile at least, so that few variants of the code are compiled."""
MOST_NODES = 16
"""Nodes at once for large batches: wider tiles of columns need fewer index reads, narrower ones smaller tables."""
UNROLL = 2
"""Elements of a node that are read ahead."""
LONGEST = 64
"""Elements summed one after the other; longer sums are cut into parts."""
MOVED = 512
"""Numbers of the leaves moved at once."""
REGISTERS = 128
"""Of a thread at most. Without a bound the compiler saves registers by reading one element after the other."""
RESIDENT = 4
"""Programs that a multiprocessor holds at once, with 128 threads of that many registers each."""
PARTS = 16
"""Programs that share the leaves of a tile where there is one launch for each step."""
NARROW = 16
"""Up to so many blocks of nodes in a level, one program does them faster than they are launched."""
MEMORY_SHARE = 0.125
"""Share of the GPU's memory for the tables."""
MOST_SLABS = 65535
"""Largest second axis of a grid."""
INTERPRETER = (4, 1 << 26)
"""Multiprocessors and memory to assume where triton's interpreter stands in for the GPU."""


@dataclass(frozen=True)
class Flat:
    """All steps of one direction, in the order of their levels: row target[i] = sum of x[a[e]] * y[b[e]].

    Attributes:
        levels: int[L+1], level l is i = levels[l] up to levels[l+1]; sorted by the number of elements.
        offsets: int[n+1], i owns the elements offsets[i] up to offsets[i+1].
        target, a, b: int[n], int[E], int[E]; rows.
        sizes: rows in each level.
        num_rows: rows of the table, those for parts of sums included.
    """

    levels: Tensor
    offsets: Tensor
    target: Tensor
    a: Tensor
    b: Tensor
    sizes: tuple[int, ...]
    num_rows: int

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """In the order in which the GPU code takes them."""
        return self.levels, self.offsets, self.target, self.a, self.b

    def to(self, device: torch.device) -> Flat:
        """On a device."""
        levels, offsets, target, a, b = (x.to(device) for x in self.arrays)
        return Flat(levels, offsets, target, a, b, self.sizes, self.num_rows)


def flatten(steps: Sequence[Step], num_rows: int, one: int, longest: int = LONGEST) -> Flat:
    """Levels of at most ``longest`` elements a row.

    Args:
        steps: the levels of one direction.
        num_rows: rows of the program; the parts of long sums come after them.
        one: row of the number one.
        longest: at least 2.
    """
    parts: list[Step] = []
    for step in steps:
        rest = step
        while rest.counts.max(initial=0) > longest:
            part, rest = _cut(rest, num_rows, one, longest)
            num_rows = max(num_rows, int(part.target.max()) + 1)
            parts.append(part)
        parts.append(rest)
    parts = [_sorted(part) for part in parts]
    sizes = [part.target.size for part in parts]
    counts = np.concatenate([np.zeros(1, np.int64), *(part.counts for part in parts)])
    none = np.zeros(0, np.int64)
    return Flat(
        levels=_narrow(np.cumsum([0, *sizes])),
        offsets=_narrow(np.cumsum(counts)),
        target=_narrow(np.concatenate([none, *(part.target for part in parts)])),
        a=_narrow(np.concatenate([none, *(part.a for part in parts)])),
        b=_narrow(np.concatenate([none, *(part.b for part in parts)])),
        sizes=tuple(sizes),
        num_rows=num_rows,
    )


def _cut(step: Step, free: int, one: int, longest: int) -> tuple[Step, Step]:
    """Short rows and parts of long rows, the latter into rows from ``free`` on; and the sums of those parts."""
    counts = step.counts
    pieces = np.maximum(1, -(-counts // longest))
    owner = np.repeat(np.arange(counts.size), pieces)
    place = np.arange(owner.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    size = np.minimum(longest, counts[owner] - place * longest)
    is_part = pieces[owner] > 1
    target = np.where(is_part, free + np.cumsum(is_part) - 1, step.target[owner])
    # the pieces of a row lie one behind the other, hence the elements keep their order
    first = Step(target, np.cumsum(size) - size, step.a, step.b)
    cut = pieces > 1
    then = Step(
        step.target[cut], np.cumsum(pieces[cut]) - pieces[cut], target[is_part], np.full(int(is_part.sum()), one)
    )
    return first, then


def _sorted(step: Step) -> Step:
    """The same rows by the number of their elements."""
    counts = step.counts
    order = np.argsort(counts, kind="stable")
    count = counts[order]
    offsets = np.cumsum(count) - count
    gather = np.repeat(step.offsets[order] - offsets, count) + np.arange(int(count.sum()))
    return Step(step.target[order], offsets, step.a[gather], step.b[gather])


def _narrow(x: Ints) -> Tensor:
    # the code goes a few places past the end before it notices
    fits = x.size == 0 or int(x.max()) <= np.iinfo(np.int32).max - TILE
    return torch.from_numpy(x.astype(np.int32 if fits else np.int64))


@dataclass(frozen=True)
class Shape:
    """How a batch is worked on: ``nodes`` x ``columns`` at once, in one launch (``whole``) or one for each level."""

    nodes: int
    columns: int
    whole: bool


def choose_shape(width: int, batch: int, processors: int, form: Form = "auto") -> Shape:
    """The shape for levels of ``width`` nodes, ``batch`` >= 1 columns and so many multiprocessors."""
    widest = 1 << (max(width, 1).bit_length() - 1)
    columns = TILE // min(MOST_NODES, widest)
    while columns > WARP and batch < columns * processors * RESIDENT:
        columns //= 2
    if batch <= FEWEST:
        columns = FEWEST
    nodes = min(TILE // columns, widest)
    whole = -(-batch // columns) >= processors or width <= NARROW * nodes
    return Shape(nodes, columns, whole if form == "auto" else form == "whole")


def _device_limits(device: torch.device) -> tuple[int, int]:
    """Multiprocessors, and bytes of memory for the tables."""
    if device.type != "cuda":
        return INTERPRETER
    properties = torch.cuda.get_device_properties(device)
    return properties.multi_processor_count, int(MEMORY_SHARE * properties.total_memory)


class TritonKernel:
    """See :class:`neurosym.circuits.engine.kernel.Kernel`; on CUDA devices, in float32 and float64.

    Args:
        program: the circuit.
        form: ``whole`` or ``levels`` where the choice should not be left to the kernel.
    """

    name = "triton"

    def __init__(self, program: Program, form: Form = "auto") -> None:
        from neurosym.circuits.engine import triton_loops

        self.program, self.form, self.loops = program, form, triton_loops
        self._flat: dict[tuple[str, torch.device], Flat] = {}

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B].

        Raises:
            InputError: the weights are not on a CUDA device.
        """
        return self._run(weights, weights, 0)[0].value

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each; raises as :meth:`value` does."""
        out, least = self._run(weights, weights, 0, least=True)
        return out.value, least.value

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives; raises as :meth:`value` does."""
        return self._run(weights, weights, 1)[0]

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """Derivatives and their change along a direction; raises as :meth:`value` does."""
        return self._run(weights, direction, 2)

    def _steps(self, which: str, device: torch.device) -> Flat:
        if (which, device) not in self._flat:
            host = torch.device("cpu")
            if (which, host) not in self._flat:
                make = upward_steps if which == "up" else downward_steps
                self._flat[which, host] = flatten(make(self.program), self.program.num_rows, self.program.one)
            self._flat[which, device] = self._flat[which, host].to(device)
        return self._flat[which, device]

    def _run(
        self, weights: Weights, direction: Weights, order: int, least: bool = False
    ) -> tuple[Derivatives, Derivatives]:
        """Results and, for order 2, their change; with ``least`` (order 0) the smallest node value as its value.

        Parts that are not asked for are left out.
        """
        device = weights.pos.device
        if device.type != "cuda" and not self.loops.INTERPRETED:
            raise InputError(
                f"engine 'triton' needs weights on a CUDA device but they are on {device}; "
                "move them there or use engine='auto'"
            )
        out = self._empty(weights, order >= 1)
        change = self._empty(weights, order == 2) if order == 2 or least else out
        if weights.batch:
            # launches go to the current device
            with torch.cuda.device_of(weights.pos):
                _Call(self, weights, direction, out, change, order, least).run()
        return out, change

    def _empty(self, weights: Weights, everything: bool) -> Derivatives:
        new, batch = weights.pos.new_empty, weights.batch
        m, c = (self.program.num_variables, self.program.num_constants) if everything else (0, 0)
        return Derivatives(new(batch), new((batch, m)), new((batch, m)), new((batch, c)))


class _Call:
    """One evaluation: everything that the launches have in common."""

    def __init__(
        self,
        kernel: TritonKernel,
        weights: Weights,
        direction: Weights,
        out: Derivatives,
        change: Derivatives,
        order: int,
        least: bool,
    ) -> None:
        program, device, batch = kernel.program, weights.pos.device, weights.batch
        self.loops, self.order, self.least = kernel.loops, order, least
        self.nodes = slice(program.one, program.num_rows)
        self.up = kernel._steps("up", device)
        self.down = kernel._steps("down", device) if order else self.up
        processors, memory = _device_limits(device)
        width = sum(self.up.sizes) // max(1, len(self.up.sizes))
        self.shape = choose_shape(width, batch, processors, kernel.form)
        self.tiles = -(-batch // self.shape.columns)
        self.rows = max(self.up.num_rows, self.down.num_rows)
        count = (1, 2, 4)[order]
        slab = count * self.rows * self.shape.columns * weights.pos.element_size()
        most = processors * RESIDENT if self.shape.whole else MOST_SLABS
        self.slabs = max(1, min(self.tiles, most, memory // slab))
        tables = weights.pos.new_empty((count, self.slabs, self.rows, self.shape.columns))
        self.tables = tuple(tables[i if i < count else 0] for i in range(4))
        self.weights, self.direction, self.own = _pointers(weights, direction)
        self.out, self.change = tuple(vars(out).values()), tuple(vars(change).values())
        self.sizes = (batch, program.num_variables, program.num_constants, self.rows, program.root)
        self.leaves = max(1, MOVED // self.shape.columns)
        self.options = {"num_warps": max(1, min(4, self.shape.nodes * self.shape.columns // 128))}
        # rounds once instead of twice
        self.options["enable_fp_fusion"] = True
        if torch.version.hip is None:
            self.options["maxnreg"] = REGISTERS

    def run(self) -> None:
        """All launches."""
        if self.shape.whole:
            self._whole()
        else:
            for first in range(0, self.tiles, self.slabs):
                self._levels(first, min(self.slabs, self.tiles - first))

    def _whole(self) -> None:
        self.loops.whole[(self.slabs,)](
            self.tables, self.weights, self.direction, self.up.arrays, self.down.arrays, self.out, self.change,
            *self.sizes, len(self.up.sizes), len(self.down.sizes), self.tiles,
            ORDER=self.order, LEAST=self.least, OWN=self.own, NODES=self.shape.nodes, COLUMNS=self.shape.columns,
            LEAVES=self.leaves, UNROLL=UNROLL, **self.options,
        )  # fmt: skip

    def _levels(self, first: int, slabs: int) -> None:
        """Tiles ``first`` to ``first + slabs``, level by level."""
        shared = {"ORDER": self.order, "COLUMNS": self.shape.columns, "LEAVES": self.leaves, **self.options}
        grid = (slabs, max(1, min(PARTS, -(-self.sizes[1] // self.leaves))))
        self.loops.fill[grid](self.tables, self.weights, self.direction, *self.sizes, first, OWN=self.own, **shared)
        for steps, down in ((self.up, False), (self.down, True))[: 2 if self.order else 1]:
            for level, size in enumerate(steps.sizes):
                self.loops.one_level[-(-size // self.shape.nodes), slabs](
                    self.tables, steps.arrays, self.rows, level, DOWN=down, CHANGE=self.order == 2,
                    NODES=self.shape.nodes, COLUMNS=self.shape.columns, UNROLL=UNROLL, **self.options,
                )  # fmt: skip
        self.loops.collect[grid](self.tables, self.out, self.change, *self.sizes, first, **shared)
        if self.least:
            least = self.change[0][first * self.shape.columns :]
            found = self.tables[0][:slabs, self.nodes].amin(dim=1).view(-1)
            least[: found.numel()] = found[: least.numel()]


def _pointers(weights: Weights, direction: Weights) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], bool]:
    """The weights as the GPU code takes them, and whether every row has constants of its own."""
    own = weights.constants.ndim == 2 or direction.constants.ndim == 2
    given = []
    for w in (weights, direction):
        constants = w.constants.expand(w.batch, -1) if own else w.constants
        given.append(tuple(x.detach().contiguous() for x in (w.pos, w.neg, constants)))
    return given[0], given[1], own
