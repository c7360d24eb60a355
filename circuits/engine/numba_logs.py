"""log Z, its derivatives and marginals in one visit, for the kernel of :mod:`neurosym.circuits.engine.numba_kernel`.

Importing this needs numba. Rows are scaled to pos + neg = 1 where they are not nearly so, and their values and derivatives
scaled back. Rows whose value is not above ``floor`` get the log value NaN, and nothing else of theirs is of use; every
function returns their number. Other arguments as in :mod:`neurosym.circuits.engine.numba_loops`.
"""

from __future__ import annotations

import math

import numpy as np

from neurosym.circuits.engine.evaluate import SLACK
from neurosym.circuits.engine.numba_loops import Array, _downward, _jit, _upward
from neurosym.circuits.engine.term_loops import aligned


@_jit
def _fill(
    c: int, table: Array, pos: Array, neg: Array, constants: Array, start: int, width: int,
    totals: Array, scaled: Array, log_scale: Array,
) -> None:  # fmt: skip
    """Leaves of the table; ``totals`` [tile, m] are what weights were divided by, in the rows that are ``scaled``."""
    m = pos.shape[1]
    for t in range(width):
        p, n, total = pos[start + t], neg[start + t], totals[t]
        odd = 0
        for j in range(p.size):
            odd |= not 0.5 <= p[j] + n[j] <= 1.0 + SLACK
        scaled[t], log_scale[t] = odd != 0, 0.0
        if odd == 0:
            for j in range(p.size):
                table[j, t] = p[j]
            for j in range(n.size):
                table[m + j, t] = n[j]
        else:
            kept = 1.0
            for j in range(m):
                # a variable of which both literals weigh nothing leaves no world, whatever it is divided by
                x = np.float64(p[j]) + np.float64(n[j])
                total[j] = x if x > 0.0 else 1.0
                table[j, t], table[m + j, t] = p[j] / total[j], n[j] / total[j]
                if 1e-140 < total[j] < 1e140:
                    kept *= total[j]
                else:
                    log_scale[t] += math.log(total[j])
                if not 1e-140 < kept < 1e140:
                    log_scale[t] += math.log(kept)
                    kept = 1.0
            log_scale[t] += math.log(kept)
        row = start + t if constants.shape[0] > 1 else 0
        for j in range(c):
            table[2 * m + j, t] = constants[row, j]


@_jit
def _finish(values: Array, floor: float, log_scale: Array, start: int, width: int, out: Array) -> int:
    """Logs of the values; the number of NaN."""
    lost = 0
    for t in range(width):
        good = floor < values[t] < math.inf
        out[start + t] = math.log(values[t]) + log_scale[t] if good else math.nan
        lost += not good
    return lost


@_jit
def log_values(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, floor: float, out: Array,
) -> int:  # fmt: skip
    """log Z into ``out`` [B]."""
    first, lost = 2 * m + c + 1, 0
    table, totals = aligned(rows, tile), np.empty((tile, m))
    scaled, log_scale = np.empty(tile, np.bool_), np.empty(tile)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(c, table, pos, neg, constants, start, width, totals, scaled, log_scale)
        _upward(first, offsets, left, right, table, width)
        lost += _finish(table[root], floor, log_scale, start, width, out)
    return lost


@_jit
def gradients(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, floor: float,
    out: Array, on: Array, off: Array, along: Array,
) -> int:  # fmt: skip
    """log Z and its derivatives with respect to the leaves."""
    first, lost = 2 * m + c + 1, 0
    table, slopes, totals = aligned(rows, tile), aligned(rows, tile), np.empty((tile, m))
    scaled, log_scale, inverse = np.empty(tile, np.bool_), np.empty(tile), np.empty(tile)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(c, table, pos, neg, constants, start, width, totals, scaled, log_scale)
        _upward(first, offsets, left, right, table, width)
        lost += _finish(table[root], floor, log_scale, start, width, out)
        slopes[:] = 0.0
        slopes[root] = 1.0
        _downward(first, offsets, left, right, table, slopes, width)
        for t in range(width):
            inverse[t] = 1.0 / table[root, t]
        for t in range(width):
            a, b = on[start + t], off[start + t]
            if scaled[t]:
                # at once: what comes before the division may be beyond float32
                for j in range(m):
                    a[j] = slopes[j, t] * inverse[t] / totals[t, j]
                    b[j] = slopes[m + j, t] * inverse[t] / totals[t, j]
            else:
                for j in range(a.size):
                    a[j] = slopes[j, t] * inverse[t]
                for j in range(b.size):
                    b[j] = slopes[m + j, t] * inverse[t]
            for j in range(c):
                along[start + t, j] = slopes[2 * m + j, t] * inverse[t]
    return lost


@_jit
def marginals(
    m: int, c: int, rows: int, root: int, offsets: Array, left: Array, right: Array,
    pos: Array, neg: Array, constants: Array, begin: int, end: int, tile: int, floor: float, out: Array, on: Array,
) -> int:  # fmt: skip
    """log Z, and P(x_j = 1) into ``on`` [B, m]."""
    first, lost = 2 * m + c + 1, 0
    table, slopes, totals = aligned(rows, tile), aligned(rows, tile), np.empty((tile, m))
    scaled, log_scale = np.empty(tile, np.bool_), np.empty(tile)
    table[first - 1] = 1.0
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(c, table, pos, neg, constants, start, width, totals, scaled, log_scale)
        _upward(first, offsets, left, right, table, width)
        lost += _finish(table[root], floor, log_scale, start, width, out)
        slopes[:] = 0.0
        slopes[root] = 1.0
        _downward(first, offsets, left, right, table, slopes, width)
        for j in range(m):
            p, n, high, low = table[j], table[m + j], slopes[j], slopes[m + j]
            for t in range(width):
                high[t] *= p[t]
            for t in range(width):
                low[t] *= n[t]
            for t in range(width):
                high[t] /= high[t] + low[t]
        for t in range(width):
            to = on[start + t]
            for j in range(to.size):
                to[j] = slopes[j, t]
    return lost
