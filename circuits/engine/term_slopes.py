"""Derivatives of log Z and of marginals by the loops of :mod:`neurosym.circuits.engine.term_loops`.

The share of a term in Z is c_k prod r / sum; a state's mass is the sum of the shares of its terms, and the derivative of
log Z with respect to a weight the mass of its states over their weights. The mass of a base state is what the other
states of the variable leave. Without the largest term, whose share is added afterwards, that difference loses few
digits; where it still would (``SAFE``), the shares are summed.
"""

from __future__ import annotations

import math

import numpy as np

from neurosym.circuits.engine.term_loops import LEAST, Array, _fill, _jit, _load, _multiply, _sum, aligned


@_jit
def _shares(constants: Array, total: Array, values: Array, rest: Array, largest: Array, top: Array, width: int) -> None:
    """Shares in place of the products, 0 in place of the largest one, which goes to ``largest``; ``rest``: their sum."""
    for t in range(width):
        rest[t] = 1.0 / total[t]
        largest[t] = -1.0
    for k in range(constants.size):
        c, row = constants[k], values[k]
        for t in range(width):
            row[t] *= c * rest[t]
        for t in range(width):
            if row[t] > largest[t]:
                largest[t] = row[t]
                top[t] = k
    for t in range(width):
        if largest[t] >= 0.0:
            values[top[t], t] = 0.0
        rest[t] = 0.0
    for k in range(constants.size):
        row = values[k]
        for t in range(width):
            rest[t] += row[t]


@_jit
def _gather(offsets: Array, terms: Array, values: Array, masses: Array, width: int) -> None:
    """For every row of ``masses`` the sum of the values of its terms."""
    for r in range(masses.shape[0]):
        row, e, stop = masses[r], offsets[r], offsets[r + 1]
        for t in range(width):
            row[t] = 0.0
        while e + 3 <= stop:
            x, y, z = values[terms[e]], values[terms[e + 1]], values[terms[e + 2]]
            for t in range(width):
                row[t] += x[t] + (y[t] + z[t])
            e += 3
        while e < stop:
            x = values[terms[e]]
            for t in range(width):
                row[t] += x[t]
            e += 1


@_jit
def _collect(parent: Array, values: Array, sums: Array, width: int) -> None:
    """Values of each term and all that continue it."""
    for k in range(parent.size):
        row, own = sums[k], values[k]
        for t in range(width):
            row[t] = own[t]
    for k in range(parent.size - 1, -1, -1):
        if parent[k] >= 0:
            row, up = sums[k], sums[parent[k]]
            for t in range(width):
                up[t] += row[t]


@_jit
def _spread(runs: Array, blocks: Array, masses: Array, t: int, rest: float, mass: Array) -> float:
    """Masses [3, m] of the states in row ``t`` of the tile, without the largest term; the least of the base states."""
    low = math.inf
    for i in range(runs.shape[0]):
        mass[runs[i, 2]][runs[i, 0] : runs[i, 1]] = rest
    for i in range(blocks.shape[0]):
        lo, hi, first = blocks[i, 0], blocks[i, 1], blocks[i, 4]
        into, base, rows = mass[blocks[i, 2]][lo:hi], mass[blocks[i, 3]][lo:hi], masses[first : first + hi - lo]
        for j in range(into.size):
            into[j] = rows[j, t]
        for j in range(into.size):
            base[j] -= into[j]
        for j in range(into.size):
            low = base[j] if base[j] < low else low
    return low


@_jit
def _repair(runs: Array, states: Array, values: Array, t: int, bound: float, plain: Array, mass: Array) -> None:
    """Masses of base states of which, by ``plain``, less than ``bound`` is left: summed over the terms."""
    for i in range(runs.shape[0]):
        own = runs[i, 2]
        for j in range(runs[i, 0], runs[i, 1]):
            if plain[own, j] < bound:
                total = 0.0
                for k in range(states.shape[0]):
                    if states[k, j] == own:
                        total += values[k, t]
                mass[own, j] = total


@_jit
def _add(states: Array, largest: float, free: bool, mass: Array) -> None:
    """The largest term in the given states as well."""
    for s in range(3 if free else 2):
        row = mass[s]
        for j in range(row.size):
            row[j] += largest if states[j] == s else 0.0


@_jit
def _divide(mass: Array, weights: Array, free: bool, shared: Array, on: Array, off: Array) -> None:
    """Derivatives with respect to one row of weights, from the masses of its states; ``shared`` [m] is room to work."""
    true, false, both = mass[0], mass[1], mass[2]
    pos, neg, total = weights[0], weights[1], weights[2]
    if not free:
        for j in range(on.size):
            on[j] = true[j] / pos[j]
        for j in range(off.size):
            off[j] = false[j] / neg[j]
        return
    for j in range(shared.size):
        shared[j] = both[j] / total[j]
    for j in range(on.size):
        on[j] = true[j] / pos[j] + shared[j]
    for j in range(off.size):
        off[j] = false[j] / neg[j] + shared[j]


@_jit
def derivatives(
    runs: Array, blocks: Array, free: bool, rows: int, parent: Array, offsets: Array, entries: Array,
    constants: Array, shift: float, row_offsets: Array, row_terms: Array, states: Array,
    pos: Array, neg: Array, begin: int, end: int, tile: int, safe: float, out: Array, on: Array, off: Array,
) -> int:  # fmt: skip
    """log Z, and its derivatives or, where ``off`` has no rows, marginals into ``on``; the number of rows lost."""
    lost, m, linked = 0, pos.shape[1], parent.max() >= 0
    ratios, values = aligned(rows, tile), aligned(constants.size, tile)
    sums = aligned(constants.size, tile) if linked else values
    log_base, least, total, rest, largest = (
        np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile)
    )  # fmt: skip
    top, weights, mass, shared = np.zeros(tile, np.int64), np.empty((3, m)), np.zeros((3, m)), np.empty(m)
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(runs, blocks, free, pos, neg, False, start, width, ratios, log_base)
        _multiply(parent, offsets, entries, ratios, values, least, width)
        _sum(constants, values, least, total, width)
        _shares(constants, total, values, rest, largest, top, width)
        if linked:
            _collect(parent, values, sums, width)
        _gather(row_offsets, row_terms, sums, ratios, width)
        for t in range(width):
            row = start + t
            value = math.log(total[t]) + log_base[t] + shift
            out[row] = value
            if value != value:
                lost += 1
                continue
            low = _spread(runs, blocks, ratios, t, rest[t], mass)
            if low < safe * rest[t]:
                _repair(runs, states, values, t, safe * rest[t], mass, mass)
            _add(states[top[t]], largest[t], free, mass)
            _load(pos[row], neg[row], free, False, weights)
            if off.shape[0]:
                _divide(mass, weights, free, shared, on[row], off[row])
            else:
                for j in range(m):
                    on[row, j] = mass[0, j] + (mass[2, j] * (weights[0, j] / weights[2, j]) if free else 0.0)
    return lost


@_jit
def _fill_gains(
    blocks: Array, free: bool, pos: Array, neg: Array, gain: Array, start: int, width: int, gains: Array
) -> None:
    """By how much a state changes E[sum_j gain_j x_j] against the base state, in the rows of the ratios."""
    m = pos.shape[1]
    truth, weights, change = np.zeros((3, m)), np.empty((3, m)), np.empty(m)
    truth[0] = 1.0
    for t in range(width):
        row = start + t
        if free:
            _load(pos[row], neg[row], free, False, weights)
            truth[2] = weights[0] / weights[2]
        for i in range(blocks.shape[0]):
            lo, hi, first = blocks[i, 0], blocks[i, 1], blocks[i, 4]
            above, below, into = truth[blocks[i, 2]][lo:hi], truth[blocks[i, 3]][lo:hi], change[lo:hi]
            own, to = gain[row, lo:hi], gains[first : first + hi - lo]
            for j in range(into.size):
                into[j] = own[j] * (above[j] - below[j])
            for j in range(into.size):
                to[j, t] = into[j]


@_jit
def _accumulate(parent: Array, offsets: Array, entries: Array, gains: Array, expected: Array, width: int) -> None:
    """Sum of the gains of every term."""
    for k in range(parent.size):
        row = expected[k]
        if parent[k] >= 0:
            source = expected[parent[k]]
            for t in range(width):
                row[t] = source[t]
        else:
            for t in range(width):
                row[t] = 0.0
        for e in range(offsets[k], offsets[k + 1]):
            x = gains[entries[e]]
            for t in range(width):
                row[t] += x[t]


@_jit
def _deviate(values: Array, expected: Array, largest: Array, top: Array, mean: Array, rest: Array, width: int) -> None:
    """Shares times deviations from the mean in place of ``expected``; ``rest``: their sum without the largest term."""
    for t in range(width):
        mean[t] = largest[t] * expected[top[t], t]
        rest[t] = 0.0
    for k in range(values.shape[0]):
        share, row = values[k], expected[k]
        for t in range(width):
            mean[t] += share[t] * row[t]
    for k in range(values.shape[0]):
        share, row = values[k], expected[k]
        for t in range(width):
            row[t] = share[t] * (row[t] - mean[t])
        for t in range(width):
            rest[t] += row[t]


@_jit
def marginal_slopes(
    runs: Array, blocks: Array, free: bool, rows: int, parent: Array, offsets: Array, entries: Array,
    constants: Array, shift: float, row_offsets: Array, row_terms: Array, states: Array,
    pos: Array, neg: Array, gain: Array, begin: int, end: int, tile: int, safe: float,
    out: Array, on: Array, off: Array,
) -> int:  # fmt: skip
    """log Z, and the gradient of sum_j gain_j P(x_j): the covariance of sum_j gain_j x_j with the terms' states."""
    lost, m, count, linked = 0, pos.shape[1], constants.size, parent.max() >= 0
    ratios, moved, values, expected = (
        aligned(rows, tile),
        aligned(rows, tile),
        aligned(count, tile),
        aligned(count, tile),
    )
    sums, moved_sums = (aligned(count, tile), aligned(count, tile)) if linked else (values, expected)
    log_base, least, total, rest, largest, mean, moved_rest = (
        np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile), np.empty(tile)
    )  # fmt: skip
    top, weights, shared = np.zeros(tile, np.int64), np.empty((3, m)), np.empty(m)
    mass, change = np.zeros((3, m)), np.zeros((3, m))
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(runs, blocks, free, pos, neg, False, start, width, ratios, log_base)
        _multiply(parent, offsets, entries, ratios, values, least, width)
        _sum(constants, values, least, total, width)
        _shares(constants, total, values, rest, largest, top, width)
        _fill_gains(blocks, free, pos, neg, gain, start, width, ratios)
        _accumulate(parent, offsets, entries, ratios, expected, width)
        _deviate(values, expected, largest, top, mean, moved_rest, width)
        if linked:
            _collect(parent, values, sums, width)
            _collect(parent, expected, moved_sums, width)
        _gather(row_offsets, row_terms, sums, ratios, width)
        _gather(row_offsets, row_terms, moved_sums, moved, width)
        for t in range(width):
            row = start + t
            out[row] = math.log(total[t]) + log_base[t] + shift
            if out[row] != out[row]:
                lost += 1
                continue
            low, bound = _spread(runs, blocks, ratios, t, rest[t], mass), safe * rest[t]
            _spread(runs, blocks, moved, t, moved_rest[t], change)
            if low < bound:
                _repair(runs, states, expected, t, bound, mass, change)
                _repair(runs, states, values, t, bound, mass, mass)
            _add(states[top[t]], largest[t], free, mass)
            _add(states[top[t]], -moved_rest[t], free, change)
            _load(pos[row], neg[row], free, False, weights)
            _divide(change, weights, free, shared, on[row], off[row])
            if free:
                for j in range(m):
                    rho, own = weights[0, j] / weights[2, j], gain[row, j] * (mass[2, j] / weights[2, j])
                    on[row, j] += (1.0 - rho) * own
                    off[row, j] -= rho * own
    return lost


@_jit
def best(
    runs: Array, blocks: Array, free: bool, rows: int, parent: Array, offsets: Array, entries: Array,
    constants: Array, shift: float, states: Array,
    pos: Array, neg: Array, begin: int, end: int, tile: int, out: Array, world: Array,
) -> int:  # fmt: skip
    """log weight of the heaviest world into ``out`` [B], the world into bool[B, m]; the number of rows lost."""
    lost, m = 0, pos.shape[1]
    ratios, values = aligned(rows, tile), aligned(constants.size, tile)
    log_base, least, largest = np.empty(tile), np.empty(tile), np.empty(tile)
    top = np.zeros(tile, np.int64)
    for start in range(begin, end, tile):
        width = min(tile, end - start)
        _fill(runs, blocks, free, pos, neg, True, start, width, ratios, log_base)
        _multiply(parent, offsets, entries, ratios, values, least, width)
        for t in range(width):
            largest[t] = 0.0
        for k in range(constants.size):
            c, row = constants[k], values[k]
            for t in range(width):
                if c * row[t] > largest[t]:
                    largest[t] = c * row[t]
                    top[t] = k
        for t in range(width):
            row = start + t
            good = least[t] > LEAST and LEAST < largest[t] < 1 / LEAST
            out[row] = math.log(largest[t]) + log_base[t] + shift if good else math.nan
            lost += out[row] != out[row]
            chosen = states[top[t]]
            for j in range(m):
                world[row, j] = chosen[j] == 0 or (chosen[j] == 2 and pos[row, j] > neg[row, j])
    return lost
