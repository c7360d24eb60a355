"""``method="auto"``: the smallest sets on the tuning split, among the sound methods for the evidence at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gaussian_world import three_classes

from neurosym.certify import RobustConformalClassifier
from neurosym.certify.evidence import BoxEvidence, ProbEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.tuning import applicable, tune
from neurosym.errors import InputError

SIGMA, RADIUS, ALPHA, TRIALS = 0.5, 0.25, "0.2", 48
NAMES = ("a", "b", "c")


def scores(rng: np.random.Generator, x: np.ndarray, y: np.ndarray | None) -> ScoreEvidence:
    world, _ = three_classes()
    answers = world.noisy_soft(rng, x, SIGMA, TRIALS)[..., :3]
    return ScoreEvidence(1 - answers.swapaxes(1, 2), SIGMA, NAMES, y)


def drawn(rng: np.random.Generator, n: int) -> tuple[ScoreEvidence, np.ndarray, np.ndarray]:
    x, y = three_classes()[0].sample(rng, n)
    return scores(rng, x, y), x, y


def layers(evidence: Any) -> tuple[Reasoning, ...]:
    return (Reasoning(class_kind=evidence.class_kind, num_classes=3),)


def test_it_takes_the_smallest_of_the_separate_tunings() -> None:
    """Against tuning each method by itself on the same split."""
    rng = np.random.default_rng(0)
    tuning, calibration, test = (drawn(rng, n)[0] for n in (120, 150, 60))
    common: dict[str, Any] = {"layers": layers(tuning), "alpha": ALPHA, "radius": str(RADIUS)}
    sizes = {}
    for method in applicable(tuning, RADIUS):
        table = tune(tuning, method=method, **common).table
        assert {row.method for row in table} == {method}
        sizes[method] = min(row.mean_size for row in table)
    together = tune(tuning, method="auto", **common)
    assert {
        row.method: min(r.mean_size for r in together.table if r.method == row.method) for row in together.table
    } == sizes
    least = min(sizes.values())
    # the first method is the reference: another must be clearly better
    assert sizes[together.method] == least or together.method == "bincp"
    clf = RobustConformalClassifier("auto", ALPHA, str(RADIUS)).conformalize(calibration, tuning=tuning)
    assert clf.method == together.method
    assert clf.calibrated is not None
    assert clf.calibrated.method == together.method
    named = RobustConformalClassifier(together.method, ALPHA, str(RADIUS)).conformalize(calibration, tuning=tuning)
    np.testing.assert_array_equal(clf.predict_set(test), named.predict_set(test))
    assert clf.asked == "auto"


def test_coverage_under_the_worst_attack() -> None:
    """The choice is made before calibration, on data of its own: coverage stays what each theorem says."""
    world, _ = three_classes()
    rng, covered, sizes = np.random.default_rng(1), [], []
    for _ in range(250):
        tuning, calibration = drawn(rng, 40)[0], drawn(rng, 90)[0]
        x, y = world.sample(rng, 8)
        test = scores(rng, world.attack_along(x, y, RADIUS), None)
        clf = RobustConformalClassifier("auto", ALPHA, str(RADIUS)).conformalize(calibration, tuning=tuning)
        sets = clf.predict_set(test)
        covered.append(sets[np.arange(8), y].mean())
        sizes.append(sets.sum(axis=1).mean())
    error = float(np.std(covered) / np.sqrt(len(covered)))
    assert float(np.mean(covered)) >= 0.8 - 4 * error
    assert float(np.mean(sizes)) < 3


def test_what_each_kind_of_evidence_allows() -> None:
    ones = np.full((4, 3), 0.5)
    boxes = BoxEvidence(ones, ones, 0.1, NAMES)
    assert applicable(boxes, "0.1") == ("colep",)
    assert applicable(replace(boxes, probs=ones), "0.1")[0] == "vrcp_i"
    assert applicable(VoteEvidence(np.ones((4, 3), dtype=int), 2, 0.5, NAMES), "0.1") == ("colep",)
    assert applicable(ProbEvidence(ones, NAMES), 0) == ("vanilla",)
    assert "rscp" not in applicable(drawn(np.random.default_rng(2), 4)[0], "0.1")
    with pytest.raises(InputError, match="method auto"):
        applicable(ProbEvidence(ones, NAMES), "0.1")


def test_it_needs_data_of_its_own() -> None:
    evidence = drawn(np.random.default_rng(3), 30)[0]
    with pytest.raises(InputError, match="method auto: chooses on data of its own"):
        RobustConformalClassifier("auto", ALPHA, str(RADIUS)).conformalize(evidence)


def test_methods_that_need_more_points_are_not_taken() -> None:
    """RCP1 at radius 2 sigma and alpha .1 needs 1,937 points; its folds' largest scores would look small."""
    rng = np.random.default_rng(4)
    tuning = drawn(rng, 200)[0]
    common: dict[str, Any] = {"layers": layers(tuning), "alpha": "0.1", "radius": "1"}
    few, many = (tune(tuning, method="rcp1", points=points, **common).table[0].mean_size for points in (300, 3000))
    assert few == 3.0
    assert many < 3.0
    clf = RobustConformalClassifier("auto", "0.1", "1").conformalize(drawn(rng, 300)[0], tuning=tuning)
    assert clf.method != "rcp1"
