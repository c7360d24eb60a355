"""Poisoned calibration: brute force over every subset and every clean score, coverage, and the wrong form's failure."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import ndtr

from neurosym.certify.poisoning import label_range, largest_budget, poisoned_quantile
from neurosym.certify.quantile import conformal_quantile, conformal_rank
from neurosym.errors import InputError


def brute_force(scores: np.ndarray, worst: np.ndarray, k: int, alpha: str) -> float:
    """The largest quantile over all sets of at most k points raised to their worst score."""
    n = scores.size
    best = -np.inf
    for size in range(min(k, n) + 1):
        for chosen in itertools.combinations(range(n), size):
            clean = scores.copy()
            clean[list(chosen)] = worst[list(chosen)]
            best = max(best, conformal_quantile(clean, alpha))
    return best


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("alpha", ["0.1", "0.3", "0.5"])
def test_against_all_subsets(ties: bool, alpha: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(150):
        n = int(rng.integers(1, 8))
        scores = rng.integers(0, 5, n).astype(float) if ties else rng.random(n)
        worst = scores + (rng.integers(0, 4, n) if ties else rng.exponential(0.4, n))
        worst[rng.random(n) < 0.1] = np.inf
        for k in range(n + 2):
            assert poisoned_quantile(scores, worst, k, alpha) == brute_force(scores, worst, k, alpha)


def test_no_clean_scores_beat_it() -> None:
    """Clean scores below the worst ones (not only at them) never give a larger quantile: all of a grid."""
    rng = np.random.default_rng(1)
    for _ in range(40):
        scores = rng.integers(0, 4, 4).astype(float)
        worst = scores + rng.integers(0, 3, 4)
        bound = poisoned_quantile(scores, worst, 2, "0.4")
        for clean in itertools.product(range(7), repeat=4):
            values = np.array(clean, dtype=float)
            if (values != scores).sum() <= 2 and np.all((values == scores) | (values <= worst)):
                assert conformal_quantile(values, "0.4") <= bound


def counting_form(scores: np.ndarray, worst: np.ndarray, k: int, alpha: str) -> float:
    """Smallest candidate with enough clean scores below it, as counted in the proof."""
    rank = conformal_rank(scores.size, alpha)
    for q in np.sort(np.concatenate([scores, worst])):
        below = scores <= q
        if below.sum() - min(k, int((below & (worst > q)).sum())) >= rank:
            return float(q)
    return np.inf


def test_closed_form_is_the_count() -> None:
    rng = np.random.default_rng(2)
    for _ in range(300):
        n = int(rng.integers(5, 60))
        scores = np.round(rng.random(n), 1)
        worst = scores + np.round(rng.random(n), 1)
        k = int(rng.integers(0, n))
        assert poisoned_quantile(scores, worst, k, "0.2") == counting_form(scores, worst, k, "0.2")


def test_ends_of_the_budget() -> None:
    rng = np.random.default_rng(3)
    scores, worst = rng.random(50), rng.random(50) + 1
    assert poisoned_quantile(scores, worst, 0, "0.1") == conformal_quantile(scores, "0.1")
    assert poisoned_quantile(scores, worst, 50, "0.1") == conformal_quantile(worst, "0.1")
    assert poisoned_quantile(scores, np.full(50, np.inf), 4, "0.1") == np.sort(scores)[conformal_rank(50, "0.1") + 3]
    assert poisoned_quantile(scores, np.full(50, np.inf), 5, "0.1") == np.inf
    assert poisoned_quantile(scores[:5], worst[:5], 1, "0.1") == np.inf


def test_largest_budget() -> None:
    rng = np.random.default_rng(4)
    for _ in range(50):
        scores = rng.random(30)
        worst = scores + rng.random(30)
        limit = float(rng.random() * 1.6)
        found = largest_budget(scores, worst, "0.2", limit)
        kept = [k for k in range(31) if poisoned_quantile(scores, worst, k, "0.2") <= limit]
        assert found == (max(kept) if kept else -1)


def wrong_form(scores: np.ndarray, worst: np.ndarray, k: int, alpha: str) -> float:
    """The count for conformity scores, used for nonconformity scores: poisoned points are taken to enter, not to leave."""
    rank = conformal_rank(scores.size, alpha)
    for q in np.sort(np.concatenate([scores, worst])):
        if (scores <= q).sum() + min(k, int(((scores > q) & (2 * scores - worst <= q)).sum())) >= rank:
            return float(q)
    return np.inf


def test_coverage_when_features_were_poisoned() -> None:
    """A linear score: the attacker lowers the k largest scores by the radius. Vanilla and the wrong form fall short."""
    rng, n, k, radius = np.random.default_rng(5), 60, 8, 1.5
    covered: dict[str, list[float]] = {"vanilla": [], "robust": [], "wrong": []}
    for _ in range(1000):
        clean = rng.normal(size=n)
        scores = clean.copy()
        top = np.argsort(clean)[-k:]
        scores[top] -= radius  # moved inputs, recorded as they are
        worst = scores + radius
        for name, q in (
            ("vanilla", conformal_quantile(scores, "0.1")),
            ("robust", poisoned_quantile(scores, worst, k, "0.1")),
            ("wrong", wrong_form(scores, worst, k, "0.1")),
        ):
            covered[name].append(float(ndtr(q)))
    error = 4 * np.std(covered["robust"]) / np.sqrt(1000)
    assert np.mean(covered["robust"]) >= 0.9 - error
    assert np.mean(covered["robust"]) < 0.99  # not by giving everything
    assert np.mean(covered["vanilla"]) < 0.9 - 2 * error
    assert np.mean(covered["wrong"]) < 0.9 - 2 * error


def test_coverage_when_labels_were_poisoned() -> None:
    """Two classes; the attacker turns the labels of the points with the largest scores."""
    rng, n, k = np.random.default_rng(6), 80, 5
    covered: dict[str, list[float]] = {"vanilla": [], "robust": []}

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 2, count)
        p = ndtr((2 * y - 1) * 0.8 + rng.normal(size=count))  # probability of class 1
        return np.stack([p, 1 - p], axis=1), y  # nonconformity of the classes 0 and 1

    for _ in range(1000):
        scores, y = draw(n)
        top = np.argsort(scores[np.arange(n), y])[-k:]
        y[top] = 1 - y[top]
        recorded, worst = label_range(scores, y)
        test, truth = draw(50)
        mine = test[np.arange(50), truth]
        for name, q in (
            ("vanilla", conformal_quantile(recorded, "0.2")),
            ("robust", poisoned_quantile(recorded, worst, k, "0.2")),
        ):
            covered[name].append(float((mine <= q).mean()))
    error = 4 * np.std(covered["robust"]) / np.sqrt(1000)
    assert np.mean(covered["robust"]) >= 0.8 - error
    assert np.mean(covered["robust"]) < 0.95
    assert np.mean(covered["vanilla"]) < 0.8 - 2 * error


def test_refusals() -> None:
    scores = np.array([0.1, 0.2, 0.3])
    with pytest.raises(InputError, match=r"row 1 is 0\.1, below the score 0\.2"):
        poisoned_quantile(scores, np.array([0.1, 0.1, 0.4]), 1, "0.5")
    with pytest.raises(InputError, match="row 2 is nan"):
        poisoned_quantile(scores, np.array([0.1, 0.3, np.nan]), 1, "0.5")
    with pytest.raises(InputError, match="poisoned: -1"):
        poisoned_quantile(scores, scores, -1, "0.5")
    with pytest.raises(InputError, match="one number a point"):
        poisoned_quantile(scores, scores[:2], 1, "0.5")
    with pytest.raises(InputError, match=r"shape \[n,K\]"):
        label_range(scores, np.zeros(3, int))
