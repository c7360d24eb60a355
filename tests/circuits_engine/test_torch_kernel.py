"""The torch kernel in both of its forms and over several tiles, against the definition of a program in fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosym.circuits.engine import torch_kernel
from neurosym.circuits.engine.kernel import Derivatives, Weights
from neurosym.circuits.engine.program import Program
from neurosym.circuits.engine.schedule import Step, buckets, downward_steps, longest_first, upward_steps
from neurosym.circuits.engine.torch_kernel import TorchKernel

Table = list[Fraction]
M, C = 4, 2
FIRST = 2 * M + C + 1


def layered_program(rng: np.random.Generator, widths: tuple[int, ...], most: int) -> Program:
    """Levels of so many nodes of 1 to ``most`` elements, in any order; the root sums all that nobody else uses."""
    left, right, start = [], [], FIRST
    for width in widths:
        for _ in range(width):
            size = int(rng.integers(1, most + 1))
            left.append(rng.integers(0, start, size=size))
            right.append(rng.integers(0, start, size=size))
        start += width
    used = set(np.concatenate([*left, *right]).tolist())
    rest = np.array([row for row in range(FIRST, start) if row not in used])
    left.append(rest)
    right.append(rng.integers(0, FIRST, size=rest.size))
    sizes = np.cumsum([0, *(x.size for x in left)])
    levels = np.cumsum([0, *widths, 1])
    return Program(M, C, start + 1, start, sizes, np.concatenate(left), np.concatenate(right), levels)


def visit(program: Program, leaves: Table, moved: Table) -> tuple[Table, Table]:
    """Derivatives of the root by every leaf, the value last, and the same for their change along ``moved``."""
    value, change = [*leaves, Fraction(1)], [*moved, Fraction(0)]
    for node in range(program.num_nodes):
        elements = range(program.offsets[node], program.offsets[node + 1])
        pairs = [(program.left[e], program.right[e]) for e in elements]
        value.append(sum((value[a] * value[b] for a, b in pairs), Fraction(0)))
        change.append(sum((change[a] * value[b] + value[a] * change[b] for a, b in pairs), Fraction(0)))
    slope, turn = [Fraction(0)] * program.num_rows, [Fraction(0)] * program.num_rows
    slope[program.root] = Fraction(1)
    for node in reversed(range(program.num_nodes)):
        row = FIRST + node
        for e in range(program.offsets[node], program.offsets[node + 1]):
            for child, other in ((program.left[e], program.right[e]), (program.right[e], program.left[e])):
                slope[child] += slope[row] * value[other]
                turn[child] += turn[row] * value[other] + slope[row] * change[other]
    return [*slope[: FIRST - 1], value[program.root]], [*turn[: FIRST - 1], change[program.root]]


def small_numbers(rng: np.random.Generator, batch: int, own: bool) -> Weights:
    """Multiples of 1/8, so that short sums of products are exact."""
    pos, neg, constants = (torch.tensor(rng.integers(0, 9, (batch, n)) / 8) for n in (M, M, C))
    return Weights(pos, neg, constants if own else constants[0])


def rows(weights: Weights) -> list[Table]:
    constants = weights.constants.expand(weights.batch, -1)
    grid = torch.cat([weights.pos, weights.neg, constants], dim=1)
    return [[Fraction(x) for x in row] for row in grid.tolist()]


def flat(found: Derivatives) -> Tensor:
    return torch.cat([found.on, found.off, found.constants, found.value[:, None]], dim=1)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("ragged", [0, 8000, 10**9])
@pytest.mark.parametrize("batch", [1, 2, 17])
def test_definition(monkeypatch: pytest.MonkeyPatch, batch: int, ragged: int, own: bool) -> None:
    """``ragged`` chooses the form; 17 rows are tiles of 8, 8 and 1."""
    monkeypatch.setattr(torch_kernel, "STEP", ragged)
    monkeypatch.setattr(torch_kernel, "TABLE_BYTES", {"cpu": 0})
    monkeypatch.setattr(torch_kernel, "MIN_COLUMNS", 8)
    rng = np.random.default_rng(batch)
    for widths, most in (((5, 3), 1), ((9, 6, 4), 3), ((30, 2), 40)):
        program = layered_program(rng, widths, most)
        weights, direction = small_numbers(rng, batch, own), small_numbers(rng, batch, own)
        exact = [visit(program, a, b) for a, b in zip(rows(weights), rows(direction), strict=True)]
        slopes, turns = (
            torch.tensor([[float(x) for x in row[i]] for row in exact], dtype=torch.float64) for i in (0, 1)
        )
        kernel = TorchKernel(program)
        close = {"rtol": 1e-13, "atol": 0.0}
        torch.testing.assert_close(kernel.value(weights), slopes[:, -1], **close)
        torch.testing.assert_close(flat(kernel.derivatives(weights)), slopes, **close)
        found, change = kernel.tangents(weights, direction)
        torch.testing.assert_close(flat(found), slopes, **close)
        torch.testing.assert_close(flat(change), turns, **close)


@pytest.mark.parametrize("batch", [1, 3, 300])
def test_least_value_of_any_node(batch: int) -> None:
    program = layered_program(np.random.default_rng(0), (6, 4), 3)
    weights = small_numbers(np.random.default_rng(batch), batch, False)
    value, least = TorchKernel(program).least(weights)
    for row, leaves in enumerate(rows(weights)):
        table = [*leaves, Fraction(1)]
        for node in range(program.num_nodes):
            elements = range(program.offsets[node], program.offsets[node + 1])
            table.append(sum((table[program.left[e]] * table[program.right[e]] for e in elements), Fraction(0)))
        assert float(value[row]) == pytest.approx(float(table[-1]), rel=1e-14)
        assert float(least[row]) == pytest.approx(float(min(table[FIRST - 1 :])), rel=1e-14)


def test_the_same_numbers_in_every_run_and_tile() -> None:
    rng = np.random.default_rng(4)
    program = layered_program(rng, (40, 30, 5), 9)
    pos, neg, constants = (torch.tensor(rng.random((900, n))) for n in (M, M, C))
    weights = Weights(pos, neg, constants)
    kernel = TorchKernel(program)
    first = flat(kernel.derivatives(weights))
    assert torch.equal(first, flat(kernel.derivatives(weights)))
    assert torch.equal(first, flat(TorchKernel(program).derivatives(weights)))


def test_no_rows() -> None:
    kernel = TorchKernel(layered_program(np.random.default_rng(0), (2,), 2))
    weights = small_numbers(np.random.default_rng(0), 1, False).rows(slice(0, 0))
    assert kernel.value(weights).shape == (0,)
    assert kernel.derivatives(weights).on.shape == (0, M)


@pytest.mark.parametrize("seed", range(4))
def test_buckets_hold_every_element_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = rng.geometric(0.2, size=50)
    total = int(counts.sum())
    step = Step(np.arange(50) + 100, np.cumsum(counts) - counts, np.arange(total), np.arange(total) + 1000)
    ordered = longest_first(step)
    assert (np.diff(ordered.counts) <= 0).all()
    held = dict(zip(step.target.tolist(), np.split(step.a, step.offsets[1:]), strict=True))
    found, padded = {}, 0
    targets = iter(ordered.target.tolist())
    for bucket in buckets(ordered, -1):
        a, b = (x.reshape(bucket.rows, bucket.width) for x in (bucket.a, bucket.b))
        assert ((b == a + 1000) | ((a == -1) & (b == -1))).all()
        padded += int((a == -1).sum())
        for row in a:
            found[next(targets)] = row[row >= 0]
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in held.items()}
    assert padded <= total / 2


def test_every_row_is_filled_once_in_each_direction() -> None:
    program = layered_program(np.random.default_rng(5), (12, 7, 3), 5)
    up = np.concatenate([step.target for step in upward_steps(program)])
    down = np.concatenate([step.target for step in downward_steps(program)])
    assert sorted(up) == list(range(FIRST, program.num_rows))
    assert np.unique(down).size == down.size
    assert program.root not in down
