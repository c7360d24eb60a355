"""Scores against plain loops, and their ranges over boxes against grids and random search."""

from __future__ import annotations

import numpy as np
import pytest

from neurosym.certify.scores import (
    RAPS_FREE,
    RAPS_PENALTY,
    SAPS_WEIGHT,
    resolve,
    score,
    score_bounds,
    uniforms,
)
from neurosym.errors import InputError

K_ARY = ["aps", "raps", "saps"]


def slow_score(p: np.ndarray, y: int, kind: str, u: float) -> float:
    """The definitions, one label at a time."""
    ahead = [float(v) for k, v in enumerate(p) if k != y and v > p[y]]
    rank = 1 + len(ahead)
    if kind == "saps":
        return float(u * p.max() if rank == 1 else p.max() + (rank - 2 + u) * SAPS_WEIGHT)
    total = sum(ahead) + u * float(p[y])
    return total + (RAPS_PENALTY * max(0, rank - RAPS_FREE) if kind == "raps" else 0.0)


@pytest.mark.parametrize("kind", K_ARY)
def test_points_against_definitions(kind: str) -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(8, 0.5), size=60)
    p[:10] = np.round(p[:10], 1)  # ties
    u = rng.random(60)
    found = score(p, kind, u)
    for i in range(60):
        for y in range(8):
            assert found[i, y] == pytest.approx(slow_score(p[i], y, kind, u[i]), abs=1e-12)


@pytest.mark.parametrize("kind", ["lac", "binary_aps", *K_ARY])
def test_a_point_box_is_the_point(kind: str) -> None:
    rng = np.random.default_rng(1)
    p, u = rng.dirichlet(np.ones(6), size=(4, 5)), rng.random((4, 5))
    box = score_bounds(p, p, kind, u)
    assert box.exact
    assert np.allclose(box.lower, score(p, kind, u), atol=1e-12)
    assert np.allclose(box.upper, score(p, kind, u), atol=1e-12)


@pytest.mark.parametrize("kind", ["lac", "binary_aps", *K_ARY])
def test_classes_can_be_permuted(kind: str) -> None:
    rng = np.random.default_rng(2)
    p, order = rng.dirichlet(np.ones(6), size=30), rng.permutation(6)
    u = rng.random(30)
    assert np.allclose(score(p[:, order], kind, u), score(p, kind, u)[:, order])


def test_binary_aps_against_a_dense_grid() -> None:
    rng = np.random.default_rng(3)
    low = rng.random(300)
    high = low + rng.random(300) * (1 - low)
    u = rng.random(300)
    box = score_bounds(low[:, None], high[:, None], "binary_aps", u)
    grid = low[:, None] + np.linspace(0, 1, 4001) * (high - low)[:, None]
    values = score(grid, "binary_aps", u)  # each grid point as if it were a class
    assert np.all(box.lower[:, 0] <= values.min(axis=1) + 1e-12)
    assert np.all(box.upper[:, 0] >= values.max(axis=1) - 1e-12)
    assert np.allclose(box.lower[:, 0], values.min(axis=1), atol=2e-3)
    assert np.allclose(box.upper[:, 0], values.max(axis=1), atol=2e-3)


def test_binary_aps_is_not_monotone() -> None:
    """u = .9: the score rises from .54 at .6 to .891 at .99, so the lower end of a box is not its worst case."""
    assert score(np.array([0.6, 0.99]), "binary_aps", 0.9) == pytest.approx([0.54, 0.891])
    box = score_bounds(np.array([0.6]), np.array([0.99]), "binary_aps", 0.9)
    assert box.upper[0] == pytest.approx(0.891)
    assert box.lower[0] == pytest.approx(0.54)
    wide = score_bounds(np.array([0.3]), np.array([0.99]), "binary_aps", 0.9)
    assert (wide.lower[0], wide.upper[0]) == (pytest.approx(0.45), pytest.approx(0.97))


def vertices_and_limits(low: np.ndarray, high: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Random interior points, corners, and points just around the ends of other coordinates: where ranks change."""
    shape = (count, low.size)
    points = low + rng.random(shape) * (high - low)
    corners = np.where(rng.random(shape) < 0.5, low, high)
    ends = np.concatenate([low, high])
    near = rng.choice(ends, size=shape) + rng.choice([-1e-9, 0.0, 1e-9], size=shape)
    pick = rng.integers(0, 3, size=shape)
    mixed = np.where(pick == 0, points, np.where(pick == 1, corners, near))
    return np.clip(np.concatenate([points, corners, mixed, near]), low, high)


@pytest.mark.parametrize("kind", K_ARY)
@pytest.mark.parametrize("k", [1, 2, 3, 5, 8])
def test_k_ary_ranges_against_search(kind: str, k: int) -> None:
    """No point of the box beats the range, and (few coordinates) some point reaches it."""
    rng = np.random.default_rng(10 * k)
    for case in range(25):
        low = rng.random(k) * 0.6
        high = np.minimum(low + rng.random(k) * rng.choice([0.05, 0.4]), 1.0)
        if case % 4 == 0:  # shared ends
            low, high = np.round(low, 1), np.round(high + 0.05, 1)
        u = float(rng.choice([0.0, 1.0, rng.random()]))
        box = score_bounds(low, high, kind, u)
        assert box.exact
        values = score(vertices_and_limits(low, high, rng, 3000), kind, u)
        assert np.all(values.min(axis=0) >= box.lower - 1e-12)
        assert np.all(values.max(axis=0) <= box.upper + 1e-12)
        if k <= 3:
            assert np.allclose(values.min(axis=0), box.lower, atol=1e-7)
            assert np.allclose(values.max(axis=0), box.upper, atol=1e-7)


def test_simplex_makes_ranges_sound_only() -> None:
    rng = np.random.default_rng(4)
    p = rng.dirichlet(np.ones(4), size=20)
    for kind in K_ARY:
        assert not score_bounds(p * 0.9, p, kind, 0.5, simplex=True).exact
    assert score_bounds(p * 0.9, p, "lac", simplex=True).exact


def test_ranges_widen_with_the_box_and_in_blocks() -> None:
    rng = np.random.default_rng(5)
    p = rng.dirichlet(np.ones(120), size=400)  # large enough to be split into blocks
    small = score_bounds(p * 0.99, np.minimum(p * 1.01, 1), "aps", 0.3)
    large = score_bounds(p * 0.9, np.minimum(p * 1.1, 1), "aps", 0.3)
    assert np.all(large.lower <= small.lower + 1e-12)
    assert np.all(large.upper >= small.upper - 1e-12)
    one = score_bounds(p[7] * 0.9, np.minimum(p[7] * 1.1, 1), "aps", 0.3)
    assert np.array_equal(one.lower, large.lower[7])


def test_resolution_of_names() -> None:
    assert resolve("aps", simplex=True) == "aps"
    assert resolve("aps", simplex=False) == "binary_aps"
    assert resolve("lac", simplex=False) == "lac"
    for name, simplex in (("raps", False), ("saps", False), ("hps", True)):
        with pytest.raises(InputError):
            resolve(name, simplex)


def test_uniforms_depend_on_seed_and_stream_only() -> None:
    assert np.array_equal(uniforms(5, 1, 0), uniforms(9, 1, 0)[:5])
    assert not np.array_equal(uniforms(5, 1, 0), uniforms(5, 1, 1))
    assert not np.array_equal(uniforms(5, 1, 0), uniforms(5, 2, 0))
