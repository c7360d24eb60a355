"""The loops of :mod:`neurosym.circuits.engine.numba_kernel`; importing this needs numba.

Tables are [rows, tile] so that the innermost loop runs over neighbouring numbers. Arguments common to all: m, C, number
of rows, root row; offsets, left, right of the program; weights pos, neg [B, m] and constants [1 or B, C]; the rows
``begin`` to ``end`` to do, ``tile`` at a time. Tables are float64 whatever the dtype of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = Any
# fused multiply-add only: it rounds once instead of twice, and the order of operations stays as written
_jit = njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")


@_jit
def _fill(m: int, c: int, table: Array, pos: Array, neg: Array, constants: Array, begin: int, width: int) -> None:
    for t in range(width):
        for j in range(m):
            table[j, t] = pos[begin + t, j]
            table[m + j, t] = neg[begin + t, j]
        row = begin + t if constants.shape[0] > 1 else 0
        for j in range(c):
            table[2 * m + j, t] = constants[row, j]


@_jit
def _upward(first: int, offsets: Array, left: Array, right: Array, table: Array, width: int) -> None:
    one = first - 1
    for n in range(offsets.size - 1):
        row = table[first + n]
        for e in range(offsets[n], offsets[n + 1]):
            a, b = table[left[e]], table[right[e]]
            if e == offsets[n]:
                if right[e] == one:
                    for t in range(width):
                        row[t] = a[t]
                else:
                    for t in range(width):
                        row[t] = a[t] * b[t]
            elif right[e] == one:
                for t in range(width):
                    row[t] += a[t]
            else:
                for t in range(width):
                    row[t] += a[t] * b[t]


@_jit
def _downward(first: int, offsets: Array, left: Array, right: Array, table: Array, slopes: Array, width: int) -> None:
    one = first - 1
    for n in range(offsets.size - 2, -1, -1):
        row = slopes[first + n]
        for e in range(offsets[n], offsets[n + 1]):
            i, j = left[e], right[e]
            if j == one:
                x = slopes[i]
                for t in range(width):
                    x[t] += row[t]
            else:
                x, y, a, b = slopes[i], slopes[j], table[i], table[j]
                for t in range(width):
                    x[t] += row[t] * b[t]
                for t in range(width):
                    y[t] += row[t] * a[t]


@_jit
def _store(m: int, c: int, slopes: Array, on: Array, off: Array, constants: Array, begin: int, width: int) -> None:
    for t in range(width):
        for j in range(m):
            on[begin + t, j] = slopes[j, t]
            off[begin + t, j] = slopes[m + j, t]
        for j in range(c):
            constants[begin + t, j] = slopes[2 * m + j, t]


@_jit
def values(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, value: Array,
) -> None:  # fmt: skip
    """Values of the circuit into ``value`` [B]."""
    first = 2 * m + c + 1
    table = np.empty((rows, tile), np.float64)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(m, c, table, pos, neg, constants, start, width)
        _upward(first, offsets, left, right, table, width)
        for t in range(width):
            value[start + t] = table[root, t]


@_jit
def least(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, value: Array, smallest: Array,
) -> None:  # fmt: skip
    """Values of the circuit into ``value`` [B], the smallest of all node values into ``smallest`` [B]."""
    first = 2 * m + c + 1
    table = np.empty((rows, tile), np.float64)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(m, c, table, pos, neg, constants, start, width)
        _upward(first, offsets, left, right, table, width)
        for t in range(width):
            value[start + t] = table[root, t]
            smallest[start + t] = 1.0
        for n in range(first, rows):
            for t in range(width):
                smallest[start + t] = min(smallest[start + t], table[n, t])


@_jit
def derivatives(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int,
    value: Array, on: Array, off: Array, along: Array,
) -> None:  # fmt: skip
    """Values, and derivatives with respect to the leaves."""
    first = 2 * m + c + 1
    table = np.empty((rows, tile), np.float64)
    slopes = np.empty((rows, tile), np.float64)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(m, c, table, pos, neg, constants, start, width)
        _upward(first, offsets, left, right, table, width)
        slopes[:] = 0.0
        slopes[root] = 1.0
        _downward(first, offsets, left, right, table, slopes, width)
        _store(m, c, slopes, on, off, along, start, width)
        for t in range(width):
            value[start + t] = table[root, t]


@_jit
def _upward_change(
    first: int, offsets: Array, left: Array, right: Array, table: Array, moved: Array, width: int
) -> None:
    for n in range(offsets.size - 1):
        row = moved[first + n]
        for t in range(width):
            row[t] = 0.0
        for e in range(offsets[n], offsets[n + 1]):
            a, b, da, db = table[left[e]], table[right[e]], moved[left[e]], moved[right[e]]
            for t in range(width):
                row[t] += da[t] * b[t] + a[t] * db[t]


@_jit
def _downward_change(
    first: int, offsets: Array, left: Array, right: Array,
    table: Array, moved: Array, slopes: Array, turned: Array, width: int,
) -> None:  # fmt: skip
    for n in range(offsets.size - 2, -1, -1):
        row, change = slopes[first + n], turned[first + n]
        for e in range(offsets[n], offsets[n + 1]):
            i, j = left[e], right[e]
            a, b, da, db = table[i], table[j], moved[i], moved[j]
            x, dx, y, dy = slopes[i], turned[i], slopes[j], turned[j]
            for t in range(width):
                x[t] += row[t] * b[t]
                dx[t] += change[t] * b[t] + row[t] * db[t]
            for t in range(width):
                y[t] += row[t] * a[t]
                dy[t] += change[t] * a[t] + row[t] * da[t]


@_jit
def tangents(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, dpos: Array, dneg: Array, dconstants: Array,
    begin: int, end: int, tile: int,
    value: Array, on: Array, off: Array, along: Array, dvalue: Array, don: Array, doff: Array, dalong: Array,
) -> None:  # fmt: skip
    """Values and derivatives, and their change along a direction."""
    first = 2 * m + c + 1
    table = np.empty((rows, tile), np.float64)
    moved = np.empty((rows, tile), np.float64)
    slopes = np.empty((rows, tile), np.float64)
    turned = np.empty((rows, tile), np.float64)
    table[first - 1], moved[first - 1] = 1.0, 0.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(m, c, table, pos, neg, constants, start, width)
        _fill(m, c, moved, dpos, dneg, dconstants, start, width)
        _upward(first, offsets, left, right, table, width)
        _upward_change(first, offsets, left, right, table, moved, width)
        slopes[:] = 0.0
        turned[:] = 0.0
        slopes[root] = 1.0
        _downward_change(first, offsets, left, right, table, moved, slopes, turned, width)
        _store(m, c, slopes, on, off, along, start, width)
        _store(m, c, turned, don, doff, dalong, start, width)
        for t in range(width):
            value[start + t] = table[root, t]
            dvalue[start + t] = moved[root, t]


@_jit
def best(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, value: Array, world: Array,
) -> None:  # fmt: skip
    """Weight of the heaviest world, and the world, bool [B, m]; of equal elements the first."""
    first = 2 * m + c + 1
    table = np.empty((rows, tile), np.float64)
    active = np.empty((rows, tile), np.bool_)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(m, c, table, pos, neg, constants, start, width)
        for n in range(offsets.size - 1):
            row = table[first + n]
            for t in range(width):
                row[t] = 0.0
            for e in range(offsets[n], offsets[n + 1]):
                a, b = table[left[e]], table[right[e]]
                for t in range(width):
                    row[t] = max(row[t], a[t] * b[t])
        active[:] = False
        active[root] = True
        for n in range(offsets.size - 2, -1, -1):
            for t in range(width):
                if active[first + n, t]:
                    for e in range(offsets[n], offsets[n + 1]):
                        if table[left[e], t] * table[right[e], t] == table[first + n, t]:
                            active[left[e], t] = True
                            active[right[e], t] = True
                            break
        for t in range(width):
            value[start + t] = table[root, t]
            for j in range(m):
                world[start + t, j] = active[j, t]
