"""Steps that RSCP, RSCP+ and CAS share: counted evidence in, one largest total (or one clean limit) out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurosym.certify import draws
from neurosym.certify.counting import CELLS, Grid, classes_of, largest_score, plain_grid
from neurosym.certify.evidence import Evidence, SampleEvidence, ScoreEvidence
from neurosym.certify.methods.rcp1 import same_sigma
from neurosym.certify.methods.vanilla import CALIBRATION_STREAM, TEST_STREAM
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.records import BudgetItem, Calibrated
from neurosym.certify.scores import uniforms
from neurosym.certify.smoothing import radius_over_sigma
from neurosym.errors import InputError

CLEAN, ATTACKED = "clean_draws", "attacked_draws"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Calibration evidence with everything that scoring it needs."""

    source: SampleEvidence | ScoreEvidence
    reasoning: Reasoning
    truth: np.ndarray
    kind: str
    uniforms: np.ndarray
    grid: Grid


def prepare(
    evidence: Evidence,
    labels: np.ndarray | None,
    reasoning: Reasoning | None,
    score: str,
    seed: int,
    cells: int = CELLS,
) -> Prepared:
    """Check the evidence and lay the grid.

    Raises:
        InputError: evidence without single draws or without any, bad labels, score or number of cells.
    """
    source = draws.drawn(evidence)
    if source.trials < 1:
        raise InputError("field 'scores': no noise draws; give at least 1 for each label")
    reasoning = draws.reasoning_for(source, reasoning)
    truth = draws.labels_of(source, labels, reasoning)
    kind = draws.kind_of(source, reasoning, score)
    grid = plain_grid(kind, classes_of(source, reasoning), cells)
    return Prepared(source, reasoning, truth, kind, uniforms(source.n, seed, CALIBRATION_STREAM), grid)


def test_draws(asked: int | None, trials: int) -> int:
    """Draws planned at test: those of the calibration unless told otherwise."""
    planned = trials if asked is None else asked
    if planned < 1:
        raise InputError(f"trials_test: {planned}; at least 1 noise draw is needed")
    return planned


def grid_record(grid: Grid) -> dict[str, Any]:
    """What ``derived`` holds of a grid; equal cells need no list."""
    plain = grid.scale == grid.cells and bool((grid.levels == np.arange(grid.cells + 1)).all())
    if plain:
        return {"cells": grid.cells}
    return {"cells": grid.cells, "scale": grid.scale, "levels": tuple(int(level) for level in grid.levels)}


def grid_of(calibrated: Calibrated, classes: int = 1) -> Grid:
    """Inverse of :func:`grid_record`."""
    derived: Mapping[str, Any] = calibrated.derived
    cells = int(derived["cells"])
    levels = np.asarray(derived.get("levels", range(cells + 1)), dtype=np.int64)
    return Grid(largest_score(calibrated.score, classes), levels, int(derived.get("scale", cells)))


def shift_of(radius: Any, sigma: Any) -> float:
    """radius / sigma as a double."""
    return float(radius_over_sigma(radius, sigma))


def means(totals: np.ndarray, trials: int, scale: int) -> np.ndarray:
    """Mean scores of exact totals; equal totals give equal means and larger ones larger."""
    return np.asarray(totals, dtype=np.float64) / (trials * scale)


@dataclass(frozen=True, eq=False)
class Watched:
    """Test evidence with everything that scoring it needs."""

    source: SampleEvidence | ScoreEvidence
    reasoning: Reasoning
    uniforms: np.ndarray
    grid: Grid


def watch(evidence: Evidence, calibrated: Calibrated, reasoning: Reasoning | None, seed: int) -> Watched:
    """Check test evidence against the calibration.

    Raises:
        InputError: evidence without single draws, or another sigma or number of draws than planned.
    """
    source = draws.drawn(evidence)
    same_sigma(source.sigma, calibrated)
    planned = int(calibrated.derived["trials_test"])
    if source.trials != planned:
        raise InputError(f"field 'trials': {source.trials} draws, but the calibration planned {planned} at test")
    reasoning = draws.reasoning_for(source, reasoning)
    grid = grid_of(calibrated, classes_of(source, reasoning))
    return Watched(source, reasoning, uniforms(source.n, seed, TEST_STREAM), grid)


def keeps_all_note(made: Calibrated) -> tuple[str, ...]:
    """The note that the draws, not the number of points, make every set full, with how many would do if that is known."""
    derived: Mapping[str, Any] = made.derived
    if not derived["keeps_all"] or made.rank > made.n:
        return ()
    mean, failure = float(derived.get("mean_attacked", made.threshold)), shares(made.budget).get(ATTACKED)
    needed = "draw more"
    if failure is not None and mean < 1.0 - 1e-9:
        # all scores at their largest refute the mean m at M' draws iff m^M' <= b
        needed = f"draw at least {math.ceil(math.log(failure) / math.log(mean))} at test"
    return (
        f"{derived['trials_test']} test draws cannot certify radius/sigma = {derived['radius_over_sigma']:.4g} at this "
        f"threshold: every set is full; {needed}, raise sigma, or lower the radius",
    )


def shares(budget: tuple[BudgetItem, ...]) -> dict[str, float]:
    """Budget items as doubles, by name."""
    return {item.name: float(item.amount) for item in budget}
