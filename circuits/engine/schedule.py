"""The levels of a program as gather, multiply and add steps, upward and downward.

Both directions have the same shape: row ``target[i]`` becomes the sum over its elements of a[e] * b[e], where upward a
and b are values, and downward a is the derivative of the parent and b the value of the other factor. Pulling from the
parents keeps the downward pass free of scattered additions, hence deterministic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.engine.program import Program

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """Rows ``target`` (int64[n]) from elements a, b (int64[e]); row i owns ``offsets[i]`` up to the next."""

    target: Ints
    offsets: Ints
    a: Ints
    b: Ints

    @property
    def counts(self) -> Ints:
        """Number of elements of each row."""
        return np.diff(np.append(self.offsets, self.a.size))


def upward_steps(program: Program) -> list[Step]:
    """One step for each level, lowest first."""
    steps = []
    for low, high in zip(program.level_offsets[:-1], program.level_offsets[1:], strict=True):
        begin, end = program.offsets[low], program.offsets[high]
        steps.append(
            Step(
                target=program.first + np.arange(low, high),
                offsets=program.offsets[low:high] - begin,
                a=program.left[begin:end],
                b=program.right[begin:end],
            )
        )
    return steps


def downward_steps(program: Program) -> list[Step]:
    """One step for each level, highest first, the leaves last; the root (derivative 1) is left out."""
    owner = program.first + np.repeat(np.arange(program.num_nodes), np.diff(program.offsets))
    child = np.concatenate([program.left, program.right])
    parent = np.concatenate([owner, owner])
    other = np.concatenate([program.right, program.left])
    used = child != program.one
    child, parent, other = child[used], parent[used], other[used]
    level = np.zeros(program.num_rows, dtype=np.int64)
    level[program.first :] = np.repeat(np.arange(program.depth) + 1, np.diff(program.level_offsets))
    count = np.bincount(child, minlength=program.num_rows)
    order = np.lexsort((parent, child, count[child], -level[child]))
    child, parent, other = child[order], parent[order], other[order]
    if not child.size:
        return []
    heads = np.flatnonzero(np.concatenate([[True], child[1:] != child[:-1]]))
    target = child[heads]
    cuts = np.flatnonzero(np.concatenate([[True], np.diff(level[target]) != 0]))
    steps = []
    for low, high in zip(cuts, [*cuts[1:], target.size], strict=True):
        begin, end = heads[low], heads[high] if high < target.size else child.size
        steps.append(Step(target[low:high], heads[low:high] - begin, parent[begin:end], other[begin:end]))
    return steps


def longest_first(step: Step) -> Step:
    """The same rows by falling number of elements; rows of one length, and the elements of a row, keep their order."""
    counts = step.counts
    order = np.argsort(-counts, kind="stable")
    count = counts[order]
    offsets = np.cumsum(count) - count
    gather = np.repeat(step.offsets[order] - offsets, count) + np.arange(step.a.size)
    return Step(step.target[order], offsets, step.a[gather], step.b[gather])


@dataclass(frozen=True)
class Bucket:
    """The next ``rows`` rows of a step with ``width`` elements each, int64[rows * width]; short rows are padded."""

    rows: int
    width: int
    a: Ints
    b: Ints


WASTE = 0.125
"""Largest share of padded elements in a bucket, beyond ``SMALL``: fewer, longer steps for a little idle work."""
SMALL = 16


def buckets(step: Step, padding: int) -> list[Bucket]:
    """Neighbouring rows of nearly equal size.

    Args:
        step: its rows are sorted, longest first.
        padding: what padded elements point at, on both sides; a row that holds zero.
    """
    counts = step.counts
    found, start = [], 0
    while start < counts.size:
        width = int(counts[start])
        real = np.cumsum(counts[start:])
        rows = np.arange(1, real.size + 1)
        good = rows * width - real <= np.maximum(WASTE * real, SMALL)
        # the first row that would waste too much starts the next bucket
        stop = start + (int(np.argmin(good)) if not good.all() else good.size)
        place = np.arange(width)[None, :]
        inside = place < counts[start:stop, None]
        at = np.where(inside, step.offsets[start:stop, None] + place, 0)
        a, b = np.where(inside, step.a[at], padding), np.where(inside, step.b[at], padding)
        found.append(Bucket(stop - start, width, a.ravel(), b.ravel()))
        start = stop
    return found
