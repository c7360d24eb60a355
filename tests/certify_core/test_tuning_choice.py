"""Rules are chosen only where they clearly help: one paired standard error, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from neurosym.certify.reasoning import Reasoning
from neurosym.certify.tuning import TuningRow, _choose, _folds, _Trial
from neurosym.logic.knowledge import KnowledgeBase

KB = KnowledgeBase.from_text("classes: [a, b]\nconcepts: [x]\nrules: ['a -> x']\n")
NONE, RULES = Reasoning(KB, "none"), Reasoning(KB, "rules")


def trial(reasoning: Reasoning, sizes: list[float]) -> tuple[Reasoning, _Trial]:
    row = TuningRow("bincp", reasoning.circuit, reasoning.scale, None, float(np.mean(sizes)), 1.0)
    return reasoning, _Trial(row, np.array(sizes))


@pytest.mark.parametrize(
    ("informed", "winner"),
    [
        ([1.0, 1.0, 1.0, 1.0], "rules"),  # differences 1, 0, 1, 0: mean 1/2, standard error 0.289
        ([2.0, 1.0, 1.0, 1.0], "none"),  # differences 0, 0, 1, 0: mean 1/4, standard error 1/4: not more than it
        ([2.0, 1.0, 2.0, 1.0], "none"),  # equal
        ([3.0, 1.0, 2.0, 1.0], "none"),  # worse
    ],
)
def test_reference_stays_unless_clearly_beaten(informed: list[float], winner: str) -> None:
    pairs = [trial(NONE, [2.0, 1.0, 2.0, 1.0]), trial(RULES, informed)]
    assert _choose(pairs)[0].circuit == winner


def test_reference_is_the_best_trial_of_the_first_layer() -> None:
    pairs = [trial(NONE, [5.0, 5.0, 5.0, 4.0]), trial(NONE, [1.0, 1.0, 1.0, 2.0]), trial(RULES, [2.0, 2.0, 1.0, 1.0])]
    reasoning, chosen = _choose(pairs)
    assert reasoning.circuit == "none"
    assert chosen.row.mean_size == 1.25


@pytest.mark.parametrize("n", [4, 9, 20, 101])
def test_folds_are_as_equal_as_can_be(n: int) -> None:
    fold = _folds(n, 3)
    sizes = np.bincount(fold)
    assert len(sizes) == min(10, n // 2)
    assert sizes.max() - sizes.min() <= 1
    assert np.array_equal(fold, _folds(n, 3))
