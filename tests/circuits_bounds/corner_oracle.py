"""Extrema over all corners of a box from a table of worlds: both halves of the variables enumerated, numpy only."""

from __future__ import annotations

import itertools

import numpy as np


def _half(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weight of every assignment (columns) at every corner (rows) of some variables, and the corners, bool."""
    corners = np.array(list(itertools.product((False, True), repeat=len(lower)))).reshape(-1, len(lower))
    worlds = corners
    weights = np.ones((len(corners), len(worlds)))
    for i in range(len(lower)):
        p = np.where(corners[:, i], upper[i], lower[i])[:, None]
        weights = weights * np.where(worlds[:, i], p, 1 - p)
    return weights, corners


def corner_values(
    table: np.ndarray, target: int, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(P at the target's lower end, P at its upper end, corners bool[C, V-1] of the other variables), [C] each."""
    others = [i for i in range(table.ndim) if i != target]
    cut = len(others) // 2
    (left, a), (right, b) = (_half(lower[part], upper[part]) for part in (others[:cut], others[cut:]))
    off, on = (np.moveaxis(table, target, 0)[i].reshape(left.shape[1], right.shape[1]) for i in (0, 1))
    yes, no = (left @ x @ right.T for x in (on, off))
    corners = np.hstack([np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))])
    values = []
    for p in (lower[target], upper[target]):
        with np.errstate(invalid="ignore"):
            values.append((p * yes / (p * yes + (1 - p) * no)).ravel())
    return values[0], values[1], corners


def extrema(table: np.ndarray, target: int, lower: np.ndarray, upper: np.ndarray) -> tuple[float, float]:
    """Least and greatest P(target) over all corners; NaN if some corner has no world."""
    low, high, _ = corner_values(table, target, lower, upper)
    return float(low.min()), float(high.max())


def value_at(table: np.ndarray, target: int, p: np.ndarray) -> float:
    """P(target) at a point, world by world."""
    mass = table
    for i in range(table.ndim):
        shape = [2 if j == i else 1 for j in range(table.ndim)]
        mass = mass * np.array([1 - p[i], p[i]]).reshape(shape)
    return float(np.moveaxis(mass, target, 0)[1].sum() / mass.sum())
