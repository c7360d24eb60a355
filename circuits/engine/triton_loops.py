"""The GPU code of :mod:`neurosym.circuits.engine.triton_kernel`; importing this needs triton.

The batch is cut into tiles of COLUMNS columns. A tile in work has a slab [rows, COLUMNS] in each of four tables: the
values of all rows, the derivatives of the root with respect to them, and how both change along a direction. Columns
never meet, so whoever works on a tile waits for nobody else.

Arguments common to all:

    tables: (values, slopes, moved, turned), pointers to [slabs, rows, COLUMNS].
    weights, direction: (pos, neg, constants), pointers to [batch, m], [batch, m] and [C], or [batch, C] with OWN.
    up, down: (levels, offsets, target, a, b), see :class:`neurosym.circuits.engine.triton_kernel.Flat`.
    out, change: (value, on, off, constants), pointers to [batch], [batch, m], [batch, m], [batch, C]. With LEAST, the
        value of ``change`` is instead the smallest value of any node, and at most 1.
    batch, m, c, rows, root: sizes, and the row of the result.
    ORDER: 0 values, 1 also derivatives, 2 also the change of both along ``direction``.
    NODES, COLUMNS: nodes and columns worked on at once; LEAVES: leaves moved at once; all powers of two.
    UNROLL: elements of a node read at once.
    part, parts: programs that share the leaves of a tile, and which one this is.
"""

from __future__ import annotations

import triton
import triton.language as tl

# sizes must not become part of the machine code, or every other circuit and batch would be compiled anew
_SIZES = ["batch", "m", "c", "rows", "root", "up_levels", "down_levels", "level", "tiles", "first_tile"]


@triton.jit
def _load_leaves(
    slab: tl.tensor, source: tl.tensor, stride: tl.tensor, first: tl.tensor, count: tl.tensor, tile: tl.tensor,
    batch: tl.tensor, part: tl.tensor, parts: tl.tensor,
    COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """slab[first + j, t] = source[tile's t, j]; 0 in columns beyond the batch."""
    lane = tl.arange(0, COLUMNS)[None, :]
    column = tl.cast(tile, tl.int64) * COLUMNS + lane
    for start in range(part * LEAVES, count, parts * LEAVES):
        j = start + tl.arange(0, LEAVES)[:, None]
        x = tl.load(source + column * stride + j, mask=(j < count) & (column < batch), other=0.0)
        tl.store(slab + (first + j).to(tl.int64) * COLUMNS + lane, x, mask=j < count)


@triton.jit
def _store_leaves(
    slab: tl.tensor, sink: tl.tensor, first: tl.tensor, count: tl.tensor, tile: tl.tensor, batch: tl.tensor,
    part: tl.tensor, parts: tl.tensor,
    COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """sink[tile's t, j] = slab[first + j, t]."""
    lane = tl.arange(0, COLUMNS)[None, :]
    column = tl.cast(tile, tl.int64) * COLUMNS + lane
    for start in range(part * LEAVES, count, parts * LEAVES):
        j = start + tl.arange(0, LEAVES)[:, None]
        x = tl.load(slab + (first + j).to(tl.int64) * COLUMNS + lane, mask=j < count)
        tl.store(sink + column * count + j, x, mask=(j < count) & (column < batch))


@triton.jit
def _set_row(slab: tl.tensor, row: tl.tensor, NUMBER: tl.constexpr, COLUMNS: tl.constexpr) -> None:
    x = tl.full([COLUMNS], NUMBER, slab.dtype.element_ty)
    tl.store(slab + row.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS), x)


@triton.jit
def _weights(
    slab: tl.tensor, weights: tl.tuple, tile: tl.tensor, batch: tl.tensor, m: tl.tensor, c: tl.tensor,
    part: tl.tensor, parts: tl.tensor,
    ONE: tl.constexpr, OWN: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """All leaves, and ``ONE`` in the row after them."""
    pos, neg, constants = weights
    _load_leaves(slab, pos, m, 0, m, tile, batch, part, parts, COLUMNS, LEAVES)
    _load_leaves(slab, neg, m, m, m, tile, batch, part, parts, COLUMNS, LEAVES)
    _load_leaves(slab, constants, c if OWN else 0, 2 * m, c, tile, batch, part, parts, COLUMNS, LEAVES)
    _set_row(slab, 2 * m + c, ONE, COLUMNS)


@triton.jit
def _seed(
    slab: tl.tensor, m: tl.tensor, c: tl.tensor, root: tl.tensor, part: tl.tensor, parts: tl.tensor,
    NUMBER: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """``NUMBER`` for the root, 0 for the leaves (some are never used); other rows are written before they are read."""
    lane = tl.arange(0, COLUMNS)[None, :]
    for start in range(part * LEAVES, 2 * m + c, parts * LEAVES):
        j = start + tl.arange(0, LEAVES)[:, None]
        # the root may be a leaf
        x = tl.where((j == root) & (lane >= 0), NUMBER, 0.0).to(slab.dtype.element_ty)
        tl.store(slab + j.to(tl.int64) * COLUMNS + lane, x, mask=j < 2 * m + c)
    _set_row(slab, root, NUMBER, COLUMNS)


@triton.jit
def _fill(
    slabs: tl.tuple, weights: tl.tuple, direction: tl.tuple, tile: tl.tensor, batch: tl.tensor, m: tl.tensor,
    c: tl.tensor, root: tl.tensor, part: tl.tensor, parts: tl.tensor,
    ORDER: tl.constexpr, OWN: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """What the passes start from."""
    values, slopes, moved, turned = slabs
    _weights(values, weights, tile, batch, m, c, part, parts, 1.0, OWN, COLUMNS, LEAVES)
    if ORDER >= 1:
        _seed(slopes, m, c, root, part, parts, 1.0, COLUMNS, LEAVES)
    if ORDER == 2:
        _weights(moved, direction, tile, batch, m, c, part, parts, 0.0, OWN, COLUMNS, LEAVES)
        _seed(turned, m, c, root, part, parts, 0.0, COLUMNS, LEAVES)


@triton.jit
def _sums(
    x: tl.tensor, y: tl.tensor, dx: tl.tensor, dy: tl.tensor, steps: tl.tuple, start: tl.tensor, stop: tl.tensor,
    CHANGE: tl.constexpr, NODES: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """Up to NODES nodes from ``start`` on, those before ``stop``, all of one level: x[target] = sum of x[a] * y[b].

    With CHANGE also dx[target] = sum of dx[a] * y[b] + x[a] * dy[b].
    """
    _, offsets, target, left, right = steps
    lane = tl.arange(0, COLUMNS)[None, :]
    node = start + tl.arange(0, NODES)
    inside = node < stop
    begin = tl.load(offsets + node, mask=inside, other=0)
    end = tl.load(offsets + node + 1, mask=inside, other=0)
    # the nodes of a level are sorted by size
    last = tl.minimum(start + NODES, stop)
    longest = tl.load(offsets + last) - tl.load(offsets + last - 1)
    total = tl.zeros([NODES, COLUMNS], x.dtype.element_ty)
    change = tl.zeros([NODES, COLUMNS], x.dtype.element_ty)
    for k in range(0, longest, UNROLL):
        # all loads of a round before their first use, and all indices before the rest: so they overlap
        has: tl.tuple = ()
        i: tl.tuple = ()
        j: tl.tuple = ()
        for u in tl.static_range(UNROLL):
            e = begin + k + u
            has += (e < end,)
            i += (tl.load(left + e, mask=e < end, other=0).to(tl.int64)[:, None] * COLUMNS + lane,)
            j += (tl.load(right + e, mask=e < end, other=0).to(tl.int64)[:, None] * COLUMNS + lane,)
        a: tl.tuple = ()
        b: tl.tuple = ()
        da: tl.tuple = ()
        db: tl.tuple = ()
        for u in tl.static_range(UNROLL):
            a += (tl.load(x + i[u], mask=has[u][:, None], other=0.0),)
            b += (tl.load(y + j[u], mask=has[u][:, None], other=0.0),)
            if CHANGE:
                da += (tl.load(dx + i[u], mask=has[u][:, None], other=0.0),)
                db += (tl.load(dy + j[u], mask=has[u][:, None], other=0.0),)
        for u in tl.static_range(UNROLL):
            total += a[u] * b[u]
            if CHANGE:
                change += da[u] * b[u] + a[u] * db[u]
    row = tl.load(target + node, mask=inside, other=0).to(tl.int64)[:, None] * COLUMNS + lane
    tl.store(x + row, total, mask=inside[:, None])
    if CHANGE:
        tl.store(dx + row, change, mask=inside[:, None])


@triton.jit
def _collect(
    slab: tl.tensor, slopes: tl.tensor, out: tl.tuple, tile: tl.tensor, batch: tl.tensor, m: tl.tensor, c: tl.tensor,
    root: tl.tensor, part: tl.tensor, parts: tl.tensor,
    ORDER: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """The results of one tile."""
    value, on, off, constants = out
    lane = tl.arange(0, COLUMNS)
    column = tl.cast(tile, tl.int64) * COLUMNS + lane
    tl.store(value + column, tl.load(slab + root.to(tl.int64) * COLUMNS + lane), mask=column < batch)
    if ORDER >= 1:
        _store_leaves(slopes, on, 0, m, tile, batch, part, parts, COLUMNS, LEAVES)
        _store_leaves(slopes, off, m, m, tile, batch, part, parts, COLUMNS, LEAVES)
        _store_leaves(slopes, constants, 2 * m, c, tile, batch, part, parts, COLUMNS, LEAVES)


@triton.jit
def _smallest(
    slab: tl.tensor, sink: tl.tensor, tile: tl.tensor, batch: tl.tensor, first: tl.tensor, root: tl.tensor,
    COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """The smallest value of the rows ``first`` to ``root``, and at most 1. The root is the last node or a leaf."""
    lane = tl.arange(0, COLUMNS)
    least = tl.full([LEAVES, COLUMNS], 1.0, slab.dtype.element_ty)
    for start in range(first, root + 1, LEAVES):
        j = start + tl.arange(0, LEAVES)[:, None]
        least = tl.minimum(least, tl.load(slab + j.to(tl.int64) * COLUMNS + lane[None, :], mask=j <= root, other=1.0))
    column = tl.cast(tile, tl.int64) * COLUMNS + lane
    tl.store(sink + column, tl.min(least, axis=0), mask=column < batch)


@triton.jit
def _slabs(tables: tl.tuple, number: tl.tensor, rows: tl.tensor, COLUMNS: tl.constexpr) -> tl.tuple:
    """The place of one tile in each table."""
    values, slopes, moved, turned = tables
    skip = number.to(tl.int64) * rows * COLUMNS
    return values + skip, slopes + skip, moved + skip, turned + skip


@triton.jit
def _all_levels(
    x: tl.tensor, y: tl.tensor, dx: tl.tensor, dy: tl.tensor, steps: tl.tuple, levels: tl.tensor,
    CHANGE: tl.constexpr, NODES: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    for level in range(0, levels):
        stop = tl.load(steps[0] + level + 1)
        for start in range(tl.load(steps[0] + level), stop, NODES):
            _sums(x, y, dx, dy, steps, start, stop, CHANGE, NODES, COLUMNS, UNROLL)
        # the next level reads what other threads of this program have written
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
def whole(
    tables: tl.tuple, weights: tl.tuple, direction: tl.tuple, up: tl.tuple, down: tl.tuple, out: tl.tuple,
    change: tl.tuple,
    batch: tl.tensor, m: tl.tensor, c: tl.tensor, rows: tl.tensor, root: tl.tensor, up_levels: tl.tensor,
    down_levels: tl.tensor, tiles: tl.tensor,
    ORDER: tl.constexpr, LEAST: tl.constexpr, OWN: tl.constexpr,
    NODES: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """Whole tiles, one after the other in the slab of the program: everything in a single launch."""
    program = tl.program_id(0)
    slabs = _slabs(tables, program, rows, COLUMNS)
    values, slopes, moved, turned = slabs
    for tile in range(program, tiles, tl.num_programs(0)):
        _fill(slabs, weights, direction, tile, batch, m, c, root, 0, 1, ORDER, OWN, COLUMNS, LEAVES)
        tl.debug_barrier()
        _all_levels(values, values, moved, moved, up, up_levels, ORDER == 2, NODES, COLUMNS, UNROLL)
        if ORDER >= 1:
            _all_levels(slopes, values, turned, moved, down, down_levels, ORDER == 2, NODES, COLUMNS, UNROLL)
        _collect(values, slopes, out, tile, batch, m, c, root, 0, 1, ORDER, COLUMNS, LEAVES)
        if ORDER == 2:
            _collect(moved, turned, change, tile, batch, m, c, root, 0, 1, ORDER, COLUMNS, LEAVES)
        if LEAST:
            _smallest(values, change[0], tile, batch, 2 * m + c + 1, root, COLUMNS, LEAVES)
        # the next tile goes into the same slab
        tl.debug_barrier()


@triton.jit(do_not_specialize=_SIZES)
def fill(
    tables: tl.tuple, weights: tl.tuple, direction: tl.tuple,
    batch: tl.tensor, m: tl.tensor, c: tl.tensor, rows: tl.tensor, root: tl.tensor, first_tile: tl.tensor,
    ORDER: tl.constexpr, OWN: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """Start one tile in each slab, from ``first_tile`` on; ``part`` of the ``parts`` programs for each."""
    slab, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    slabs = _slabs(tables, slab, rows, COLUMNS)
    _fill(slabs, weights, direction, first_tile + slab, batch, m, c, root, part, parts, ORDER, OWN, COLUMNS, LEAVES)


@triton.jit(do_not_specialize=_SIZES)
def one_level(
    tables: tl.tuple, steps: tl.tuple, rows: tl.tensor, level: tl.tensor,
    DOWN: tl.constexpr, CHANGE: tl.constexpr, NODES: tl.constexpr, COLUMNS: tl.constexpr, UNROLL: tl.constexpr,
) -> None:  # fmt: skip
    """One level in all slabs; a program for every NODES nodes (first axis) and slab (second axis)."""
    values, slopes, moved, turned = _slabs(tables, tl.program_id(1), rows, COLUMNS)
    start = tl.load(steps[0] + level) + tl.program_id(0) * NODES
    stop = tl.load(steps[0] + level + 1)
    if DOWN:
        _sums(slopes, values, turned, moved, steps, start, stop, CHANGE, NODES, COLUMNS, UNROLL)
    else:
        _sums(values, values, moved, moved, steps, start, stop, CHANGE, NODES, COLUMNS, UNROLL)


@triton.jit(do_not_specialize=_SIZES)
def collect(
    tables: tl.tuple, out: tl.tuple, change: tl.tuple,
    batch: tl.tensor, m: tl.tensor, c: tl.tensor, rows: tl.tensor, root: tl.tensor, first_tile: tl.tensor,
    ORDER: tl.constexpr, COLUMNS: tl.constexpr, LEAVES: tl.constexpr,
) -> None:  # fmt: skip
    """The results of the tiles in all slabs; one program for each."""
    slab, part, parts = tl.program_id(0), tl.program_id(1), tl.num_programs(1)
    values, slopes, moved, turned = _slabs(tables, slab, rows, COLUMNS)
    _collect(values, slopes, out, first_tile + slab, batch, m, c, root, part, parts, ORDER, COLUMNS, LEAVES)
    if ORDER == 2:
        _collect(moved, turned, change, first_tile + slab, batch, m, c, root, part, parts, ORDER, COLUMNS, LEAVES)


INTERPRETED = not isinstance(whole, triton.JITFunction)
"""Triton's interpreter runs all this on the host (for tests)."""
