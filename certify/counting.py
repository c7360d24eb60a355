"""Noise draws of bounded scores, counted on a grid: what the mean and CDF methods calibrate on and certificates hold.

A score of known range is scaled to [0, 1] and rounded to one of ``cells + 1`` values; cell c then has the value
``levels[c] / scale``. Ordinarily ``levels[c] = c`` and ``scale = cells``; a monotone transform of the score, such as
the ranking of PTT, only changes the levels. The rounded score is itself a fixed function of the noisy input, used alike
at calibration and at test: every theorem speaks of it, and rounding costs no guarantee. In return sums are exact
integers, and a verifier can redo what a float could hide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from neurosym.certify import draws
from neurosym.certify.evidence import Evidence, ScoreEvidence
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.scores import RAPS_FREE, RAPS_PENALTY, SAPS_WEIGHT
from neurosym.errors import InputError

CELLS = 100
MOST_CELLS = 10_000
LARGEST_TABLE = 1 << 28  # counts [n, K, cells + 1] held at once
_ROUNDING = 1e-9  # a score may leave its range by this much through rounding


@dataclass(frozen=True, eq=False)
class Grid:
    """A grid of score values.

    Attributes:
        top: largest possible raw score (the smallest is 0).
        levels: int64 ``[cells + 1]``, values of the cells in units of 1/scale, from 0 up to at most ``scale``.
        scale: int.
    """

    top: float
    levels: np.ndarray
    scale: int

    @property
    def cells(self) -> int:
        return int(self.levels.size) - 1

    @property
    def steps(self) -> np.ndarray:
        """Differences of the cells' values, float64 ``[cells]``."""
        return np.diff(self.levels) / self.scale

    def cell_of(self, scores: np.ndarray) -> np.ndarray:
        """Nearest cell of each raw score, int32 of any shape.

        Raises:
            InputError: a score outside its range.
        """
        if scores.size and not (scores.min() >= -_ROUNDING and scores.max() <= self.top + _ROUNDING):
            bad = scores[~((scores >= -_ROUNDING) & (scores <= self.top + _ROUNDING))].flat[0]
            raise InputError(
                f"field 'scores': {bad:.6g} is outside [0, {self.top:g}]; mean and CDF bounds need the score's range, "
                "scale the scores or use bincp"
            )
        scaled = scores * (self.cells / self.top)
        scaled += 0.5
        return scaled.astype(np.int32)  # rounds down; _ROUNDING is too small to leave the first or the last cell


def largest_score(kind: str, classes: int) -> float:
    """Supremum of a score of ``scores`` over all class probabilities: 1, and more for scores that penalise ranks."""
    if kind == "raps":
        return 1.0 + RAPS_PENALTY * max(classes - RAPS_FREE, 0)
    if kind == "saps":
        return 1.0 + SAPS_WEIGHT * max(classes - 1, 0)
    return 1.0


def plain_grid(kind: str, classes: int, cells: int = CELLS) -> Grid:
    """Equal cells over the range of a score.

    Raises:
        InputError: a number of cells out of range.
    """
    if not 1 <= cells <= MOST_CELLS:
        raise InputError(f"cells: {cells} is not between 1 and {MOST_CELLS}; {CELLS} is a good choice")
    return Grid(largest_score(kind, classes), np.arange(cells + 1, dtype=np.int64), cells)


def totals(evidence: Evidence, reasoning: Reasoning, kind: str, u: np.ndarray, grid: Grid) -> np.ndarray:
    """Sum of the levels of all draws for each label, int64 ``[n, K]``; streamed."""
    out = np.zeros((evidence.n, classes_of(evidence, reasoning)), dtype=np.int64)
    for rows, scores in draws.score_draws(evidence, reasoning, kind, u):
        out[rows] = grid.levels[grid.cell_of(scores)].sum(axis=1)
    return out


def true_totals(
    evidence: Evidence, labels: np.ndarray, reasoning: Reasoning, kind: str, u: np.ndarray, grid: Grid
) -> np.ndarray:
    """``totals`` of the true labels, int64 ``[n]``."""
    out = np.zeros(evidence.n, dtype=np.int64)
    for rows, scores in draws.score_draws(evidence, reasoning, kind, u):
        mine = scores[np.arange(rows.size), :, labels[rows]]
        out[rows] = grid.levels[grid.cell_of(mine)].sum(axis=1)
    return out


def _counted(cells: np.ndarray, width: int) -> np.ndarray:
    """Counts ``[..., width]`` of the values of int ``[..., M]``."""
    flat = cells.reshape(-1, cells.shape[-1])
    place = flat + np.int64(width) * np.arange(flat.shape[0])[:, None]
    return np.bincount(place.ravel(), minlength=width * flat.shape[0]).reshape(*cells.shape[:-1], width)


def true_counts(
    evidence: Evidence, labels: np.ndarray, reasoning: Reasoning, kind: str, u: np.ndarray, grid: Grid
) -> np.ndarray:
    """Draws of the true label's score in each cell, int64 ``[n, cells + 1]``; streamed."""
    out = np.zeros((evidence.n, grid.cells + 1), dtype=np.int64)
    for rows, scores in draws.score_draws(evidence, reasoning, kind, u):
        mine = scores[np.arange(rows.size), :, labels[rows]]
        out[rows] = _counted(grid.cell_of(mine), grid.cells + 1)
    return out


def all_counts(evidence: Evidence, reasoning: Reasoning, kind: str, u: np.ndarray, grid: Grid) -> np.ndarray:
    """Draws of every label's score in each cell, int64 ``[n, K, cells + 1]``; streamed.

    Raises:
        InputError: more counts than fit in memory.
    """
    shape = (evidence.n, classes_of(evidence, reasoning), grid.cells + 1)
    if math.prod(shape) > LARGEST_TABLE:
        size = " x ".join(map(str, shape))
        raise InputError(f"cells: {size} counts do not fit into memory; use fewer cells, or bounds at calibration time")
    out = np.zeros(shape, dtype=np.int64)
    for rows, scores in draws.score_draws(evidence, reasoning, kind, u):
        out[rows] = _counted(grid.cell_of(scores.swapaxes(1, 2)), grid.cells + 1)
    return out


def classes_of(evidence: Evidence, reasoning: Reasoning) -> int:
    """Number of labels that are scored."""
    if isinstance(evidence, ScoreEvidence):
        return int(evidence.scores.shape[1])
    return int(reasoning.num_classes or evidence.num_classes)
