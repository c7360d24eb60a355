"""Evaluation with torch on any device: each level in a few gather, multiply and add steps over rows of equal size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program
from neurosym.circuits.engine.schedule import Step, buckets, downward_steps, upward_steps

TABLE_BYTES = {"cpu": 1 << 21, "cuda": 1 << 30}
"""Size of the value table worked on at once: near the cache of a CPU core, a fraction of a GPU's memory."""
MIN_COLUMNS = 64
"""Columns worked on at once however large the circuit is: fewer would only add overhead."""


@dataclass(frozen=True)
class _Bucket:
    """See :class:`neurosym.circuits.engine.schedule.Bucket`; ``start`` is -1 where the rows are not neighbours."""

    target: Tensor
    start: int
    count: int
    width: int
    a: Tensor
    b: Tensor


class TorchKernel:
    """See :class:`neurosym.circuits.engine.kernel.Kernel`. The reference for the kernels written for one device."""

    name = "torch"

    def __init__(self, program: Program) -> None:
        self.program = program
        self._host: dict[str, list[_Bucket]] = {}
        self._schedules: dict[tuple[str, torch.device], list[_Bucket]] = {}

    def _steps(self, which: str, device: torch.device) -> list[_Bucket]:
        if which not in self._host:
            make = upward_steps if which == "up" else downward_steps
            self._host[which] = [bucket for step in make(self.program) for bucket in self._lower(step)]
        if (which, device) not in self._schedules:
            self._schedules[which, device] = [
                replace(bucket, target=bucket.target.to(device), a=bucket.a.to(device), b=bucket.b.to(device))
                for bucket in self._host[which]
            ]
        return self._schedules[which, device]

    def _lower(self, step: Step) -> Iterator[_Bucket]:
        # the row after the last holds zero
        for bucket in buckets(step, self.program.num_rows):
            start = int(bucket.target[0]) if bucket.contiguous else -1
            target, a, b = (torch.from_numpy(x) for x in (bucket.target, bucket.a, bucket.b))
            yield _Bucket(target, start, bucket.target.size, bucket.width, a, b)

    def _columns(self, weights: Weights) -> Iterator[slice]:
        """Slices of the batch that fit the table size."""
        limit = TABLE_BYTES.get(weights.pos.device.type, TABLE_BYTES["cpu"])
        columns = max(MIN_COLUMNS, limit // (weights.pos.element_size() * (self.program.num_rows + 1)))
        for start in range(0, weights.batch, columns):
            yield slice(start, min(start + columns, weights.batch))

    def _leaves(self, weights: Weights, last: float) -> Tensor:
        """Value table [rows + 1, B] with the leaves filled in."""
        m, one = self.program.num_variables, self.program.one
        table = weights.pos.new_empty((self.program.num_rows + 1, weights.batch))
        table[:m], table[m : 2 * m] = weights.pos.t(), weights.neg.t()
        table[2 * m : one] = weights.constants.t() if weights.constants.ndim == 2 else weights.constants[:, None]
        table[one], table[-1] = last, 0.0
        return table

    def _run(self, steps: list[_Bucket], out: Tensor, terms: list[tuple[Tensor, Tensor]]) -> None:
        """out[target] = sum over elements and over (x, y) in ``terms`` of x[a] * y[b]."""
        batch = out.shape[1]
        for step in steps:
            total = None
            for x, y in terms:
                product = x.index_select(0, step.a).mul_(y.index_select(0, step.b))
                total = product if total is None else total.add_(product)
            assert total is not None
            grid = total.view(step.count, step.width, batch)
            if step.start >= 0:
                if step.width == 1:
                    out[step.start : step.start + step.count] = total
                else:
                    torch.sum(grid, dim=1, out=out[step.start : step.start + step.count])
            else:
                out.index_copy_(0, step.target, total if step.width == 1 else grid.sum(dim=1))

    def _upward(self, weights: Weights) -> Tensor:
        table = self._leaves(weights, 1.0)
        self._run(self._steps("up", table.device), table, [(table, table)])
        return table

    def _split(self, table: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        m, one = self.program.num_variables, self.program.one
        return table[one], table[:m].t(), table[m : 2 * m].t(), table[2 * m : one].t()

    def value(self, weights: Weights) -> Tensor:
        """The circuit's value, [B]."""
        out = weights.pos.new_empty(weights.batch)
        for rows in self._columns(weights):
            out[rows] = self._upward(weights.rows(rows))[self.program.root]
        return out

    def least(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """The circuit's value and the smallest value of any of its nodes, [B] each."""
        value, least = (weights.pos.new_empty(weights.batch) for _ in range(2))
        for rows in self._columns(weights):
            table = self._upward(weights.rows(rows))
            value[rows], least[rows] = table[self.program.root], table[self.program.one : -1].amin(dim=0)
        return value, least

    def derivatives(self, weights: Weights) -> Derivatives:
        """The value and its derivatives."""
        out = self._empty(weights)
        for rows in self._columns(weights):
            table = self._upward(weights.rows(rows))
            slopes = torch.zeros_like(table)
            slopes[self.program.root] = 1.0
            self._run(self._steps("down", table.device), slopes, [(slopes, table)])
            slopes[self.program.one] = table[self.program.root]
            self._store(out, rows, slopes)
        return out

    def tangents(self, weights: Weights, direction: Weights) -> tuple[Derivatives, Derivatives]:
        """Derivatives and their change along a direction."""
        out, change = self._empty(weights), self._empty(weights)
        for rows in self._columns(weights):
            table = self._upward(weights.rows(rows))
            up, down = (self._steps(which, table.device) for which in ("up", "down"))
            moved = self._leaves(direction.rows(rows), 0.0)
            self._run(up, moved, [(moved, table), (table, moved)])
            slopes, turned = torch.zeros_like(table), torch.zeros_like(table)
            slopes[self.program.root] = 1.0
            self._run(down, slopes, [(slopes, table)])
            self._run(down, turned, [(turned, table), (slopes, moved)])
            slopes[self.program.one], turned[self.program.one] = table[self.program.root], moved[self.program.root]
            self._store(out, rows, slopes)
            self._store(change, rows, turned)
        return out, change

    def _empty(self, weights: Weights) -> Derivatives:
        new, batch = weights.pos.new_empty, weights.batch
        m = self.program.num_variables
        return Derivatives(new(batch), new((batch, m)), new((batch, m)), new((batch, self.program.num_constants)))

    def _store(self, out: Derivatives, rows: slice, table: Tensor) -> None:
        value, on, off, constants = self._split(table)
        out.value[rows], out.on[rows], out.off[rows], out.constants[rows] = value, on, off, constants
