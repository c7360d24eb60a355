"""The loops of :mod:`neurosym.circuits.engine.numba_terms`; importing this needs numba.

Tables are float64[rows, tile], so that the innermost loops run over neighbouring numbers: ``ratios`` [R, tile],
``values`` [K, tile]. Common arguments: the arrays of :class:`neurosym.circuits.engine.term_program.TermProgram`; weights
pos, neg [B, m]; the rows ``begin`` to ``end`` to do, ``tile`` at a time. Rows in which a number may have left the range of
floats get the log value NaN, and nothing else of theirs is of use.

Loops over the tile touch few arrays and never the same one under two names: only then does the compiler use vector
instructions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = Any
# fused multiply-add only: it rounds once instead of twice, and the order of operations stays as written
_jit = njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
_jit_any_order = njit(cache=True, nogil=True, fastmath={"contract", "reassoc"}, error_model="numpy")
SMALLEST, LARGEST = 1e-45, 1e45
"""Weights between them (all positive float32 numbers up to 1e38 are): products of three ratios are ordinary numbers."""
LEAST = 1e-280
"""Smaller partial products count as lost."""
BLOCK = 64
"""Variables whose base weights are multiplied at once."""
HIGHEST = 1.01
LINE = 8
"""float64 numbers in a line of the cache."""


@_jit
def aligned(rows: int, tile: int) -> Array:
    """Table of zeros [rows, tile] that starts with a line of the cache."""
    room = np.zeros(rows * tile + LINE)
    start = (-(room.ctypes.data // 8)) % LINE
    return room[start : start + rows * tile].reshape(rows, tile)


@_jit
def _ordinary(p: Array, n: Array) -> bool:
    """All weights of a row are of ordinary size."""
    odd = 0
    for j in range(p.size):
        odd |= (not SMALLEST <= p[j] <= LARGEST) | (not SMALLEST <= n[j] <= LARGEST)
    return odd == 0


@_jit
def _load(p: Array, n: Array, free: bool, heaviest: bool, weights: Array) -> None:
    """Weights [3, m] of the states in one row."""
    on, off, both = weights[0], weights[1], weights[2]
    for j in range(p.size):
        on[j] = p[j]
    for j in range(n.size):
        off[j] = n[j]
    if not free:
        return
    if heaviest:
        for j in range(on.size):
            both[j] = on[j] if on[j] > off[j] else off[j]
    else:
        for j in range(on.size):
            both[j] = on[j] + off[j]


@_jit_any_order
def _product(x: Array) -> float:
    """Product of all; 0 where one is above ``HIGHEST``, or where it may have lost digits."""
    out, most = 1.0, 0
    for j in range(x.size):
        most |= x[j] > HIGHEST
        out *= x[j]
    return out if most == 0 and out > LEAST else 0.0


@_jit
def _log_product(runs: Array, weights: Array) -> float:
    """log of the product of the base weights."""
    total, kept = 0.0, 1.0
    for i in range(runs.shape[0]):
        own = weights[runs[i, 2]][runs[i, 0] : runs[i, 1]]
        for start in range(0, own.size, BLOCK):
            part = own[start : min(start + BLOCK, own.size)]
            x = _product(part)
            if x > 0.0 and kept * x > LEAST:
                kept *= x
                continue
            if x > 0.0:
                total += math.log(x)
                continue
            for j in range(part.size):
                total += math.log(part[j])
    return total + math.log(kept)


@_jit
def _fill(
    runs: Array, blocks: Array, free: bool, pos: Array, neg: Array, heaviest: bool, start: int, width: int,
    ratios: Array, log_base: Array,
) -> None:  # fmt: skip
    """Ratios, and logs of the base products; a free variable weighs as much as its heavier literal if ``heaviest``."""
    m = pos.shape[1]
    weights, ratio = np.empty((3, m)), np.empty(m)
    for t in range(width):
        p, n = pos[start + t], neg[start + t]
        if not _ordinary(p, n):
            log_base[t] = math.nan
            ratios[:, t] = 1.0
            continue
        _load(p, n, free, heaviest, weights)
        log_base[t] = _log_product(runs, weights)
        for i in range(blocks.shape[0]):
            lo, hi, first = blocks[i, 0], blocks[i, 1], blocks[i, 4]
            above, below, into = weights[blocks[i, 2]][lo:hi], weights[blocks[i, 3]][lo:hi], ratio[lo:hi]
            for j in range(into.size):
                into[j] = above[j] / below[j]
            to = ratios[first : first + hi - lo]
            for j in range(into.size):
                to[j, t] = into[j]


@_jit
def _multiply(
    parent: Array, offsets: Array, entries: Array, ratios: Array, values: Array, least: Array, width: int
) -> None:
    """Product of the ratios of every term, and the least of the partial products."""
    for t in range(width):
        least[t] = 1.0
    for k in range(parent.size):
        row, e, stop = values[k], offsets[k], offsets[k + 1]
        if parent[k] >= 0:
            source = values[parent[k]]
            for t in range(width):
                row[t] = source[t]
        else:
            for t in range(width):
                row[t] = 1.0
        while e + 3 <= stop:
            x, y, z = ratios[entries[e]], ratios[entries[e + 1]], ratios[entries[e + 2]]
            for t in range(width):
                v = row[t] * (x[t] * y[t] * z[t])
                row[t] = v
                if v < least[t]:
                    least[t] = v
            e += 3
        while e < stop:
            x = ratios[entries[e]]
            for t in range(width):
                v = row[t] * x[t]
                row[t] = v
                if v < least[t]:
                    least[t] = v
            e += 1


@_jit
def _sum(constants: Array, values: Array, least: Array, total: Array, width: int) -> None:
    """Sum of the weighted products; NaN where a number was lost."""
    for t in range(width):
        total[t] = 0.0
    for k in range(constants.size):
        c, row = constants[k], values[k]
        for t in range(width):
            total[t] += c * row[t]
    for t in range(width):
        if not (least[t] > LEAST and LEAST < total[t] < 1 / LEAST):
            total[t] = math.nan


@_jit
def log_values(
    runs: Array, blocks: Array, free: bool, rows: int, parent: Array, offsets: Array, entries: Array, constants: Array, shift: float,
    pos: Array, neg: Array, begin: int, end: int, tile: int, out: Array,
) -> int:  # fmt: skip
    """log Z into ``out`` [B]; returns the number of rows that are NaN."""
    lost = 0
    ratios, values = aligned(rows, tile), aligned(constants.size, tile)
    log_base, least, total = np.empty(tile), np.empty(tile), np.empty(tile)
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(runs, blocks, free, pos, neg, False, start, width, ratios, log_base)
        _multiply(parent, offsets, entries, ratios, values, least, width)
        _sum(constants, values, least, total, width)
        for t in range(width):
            value = math.log(total[t]) + log_base[t] + shift
            out[start + t] = value
            lost += value != value
    return lost
