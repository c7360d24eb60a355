"""Certified coverage of un-enlarged sets, empirical coverage, and set sizes."""

from __future__ import annotations

import numpy as np
import pytest
from gaussian_world import three_classes
from scipy import stats
from scipy.special import ndtr

from neurosym.certify import coverage
from neurosym.certify.evidence import BoxEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.reasoning import Reasoning
from neurosym.errors import InputError

NAMES = ("a", "b", "c", "left", "right")
SIGMA, RADIUS = 0.5, 0.2


def score_evidence(rng: np.random.Generator, t: np.ndarray, trials: int) -> ScoreEvidence:
    """One label whose nonconformity is ``-(t + sigma z)``."""
    return ScoreEvidence(-(t[:, None, None] + SIGMA * rng.normal(size=(t.size, 1, trials))), SIGMA, ("a",))


def test_bincp_bound_holds_and_is_not_idle() -> None:
    """Ideal set of a half-space score: kept at worst iff Phi((t + q - R)/sigma) >= p. Violated at most delta."""
    rng, bad, lowers, truths = np.random.default_rng(0), 0, [], []
    made = bincp.calibrate(
        score_evidence(rng, rng.normal(size=150), 80), np.zeros(150, int), alpha="0.2", radius=RADIUS, p="0.7"
    )
    # P over t ~ N(0, 1) of the event above, exactly
    edge = stats.norm.ppf(0.7) * SIGMA + RADIUS - made.threshold
    truth = stats.norm.sf(edge)
    runs = 400
    for _ in range(runs):
        seen = bincp.observe(score_evidence(rng, rng.normal(size=120), 80), made)
        bound = coverage.certified_coverage(made, seen, np.zeros(120, int), evaluation_failure="0.1")
        assert bound is not None
        bad += bound.lower > truth
        lowers.append(bound.lower)
        truths.append(truth)
    assert bad / runs <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / runs)
    assert np.mean(lowers) > truth - 0.35


def test_bincp_bound_at_a_point_mass_at_the_edge() -> None:
    """The worst case of the point failure: all points are just outside the ideal set."""
    rng, bad, runs = np.random.default_rng(1), 0, 300
    made = bincp.calibrate(score_evidence(rng, np.zeros(100), 60), np.zeros(100, int), alpha="0.2", radius=RADIUS)
    edge = stats.norm.ppf(0.7) * SIGMA + RADIUS - made.threshold - 1e-9  # worst-case share just below p
    for _ in range(runs):
        seen = bincp.observe(score_evidence(rng, np.full(100, edge), 60), made)
        bound = coverage.certified_coverage(
            made, seen, np.zeros(100, int), evaluation_failure="0.1", point_failure="0.2"
        )
        assert bound is not None
        bad += bound.lower > 0.0  # the truth is 0
    assert bad / runs <= 0.1 + 4 * np.sqrt(0.1 * 0.9 / runs)


def test_colep_points_are_worst_cases() -> None:
    """Every certified point keeps its label in the ideal set at every attack on a circle (b tiny)."""
    world, rules = three_classes()
    from neurosym.logic import KnowledgeBase

    rng, trials = np.random.default_rng(2), 3000
    for circuit in ("none", "rules", "exclusive"):
        reasoning = Reasoning(KnowledgeBase.from_text(rules), circuit)  # type: ignore[arg-type]
        x, y = world.sample(rng, 200)
        cal = VoteEvidence(world.votes(rng, x, SIGMA, trials), trials, SIGMA, NAMES, y, num_classes=3)
        made = colep.calibrate(cal, alpha="0.1", radius=RADIUS, reasoning=reasoning)
        test, truth = world.sample(rng, 300)
        votes = VoteEvidence(world.votes(rng, test, SIGMA, trials), trials, SIGMA, NAMES, num_classes=3)
        seen = colep.observe(votes, made, reasoning=reasoning)
        kept = coverage.certified_points(made, seen, truth, point_failure="1e-6", reasoning=reasoning)
        assert kept is not None
        assert 20 < kept.sum() < 300
        angle = np.linspace(0, 2 * np.pi, 90)
        ring = test + RADIUS * np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None, :]
        q = reasoning.class_probabilities(world.vote_probability(ring, SIGMA))
        worst = 1 - q[:, np.arange(300), truth].min(axis=0)
        assert np.all(worst[kept] <= made.threshold)
        larger = coverage.certified_points(made, seen, truth, radius="0.3", point_failure="1e-6", reasoning=reasoning)
        assert larger is not None
        assert np.all(larger <= kept)
        assert larger.sum() < kept.sum()


def test_boxes_are_exact_and_hold_for_one_radius() -> None:
    world, _ = three_classes()
    rng = np.random.default_rng(3)

    def boxes(x: np.ndarray, y: np.ndarray | None) -> BoxEvidence:
        t = world.project(x)
        low, high = ndtr((t - RADIUS) / world.softness), ndtr((t + RADIUS) / world.softness)
        return BoxEvidence(low, high, RADIUS, NAMES, y, num_classes=3)

    made = colep.calibrate(boxes(*world.sample(rng, 100)), alpha="0.1", radius=RADIUS)
    x, y = world.sample(rng, 200)
    seen = colep.observe(boxes(x, None), made)
    bound = coverage.certified_coverage(made, seen, y)
    assert bound is not None
    worst = 1 - ndtr((world.project(x)[np.arange(200), y] - RADIUS) / world.softness)
    assert bound.successes == int((worst <= made.threshold).sum())
    assert bound.point_failure == "0"
    with pytest.raises(InputError, match="make new boxes"):
        coverage.certified_coverage(made, seen, y, radius="0.5")


def test_not_defined_for_rcp1_and_plain_for_vanilla() -> None:
    rng = np.random.default_rng(4)
    ev = score_evidence(rng, rng.normal(size=60), 1)
    made = rcp1.calibrate(ev, np.zeros(60, int), alpha="0.2", radius=RADIUS)
    assert coverage.certified_coverage(made, rcp1.observe(ev, made), np.zeros(60, int)) is None
    plain = vanilla.calibrate(ev, np.zeros(60, int), alpha="0.2")
    seen = vanilla.observe(ev, plain)
    bound = coverage.certified_coverage(plain, seen, np.zeros(60, int))
    assert bound is not None
    assert bound.successes == int((ev.scores[:, 0, 0] <= plain.threshold).sum())
    with pytest.raises(InputError, match="only radius 0"):
        coverage.certified_coverage(plain, seen, np.zeros(60, int), radius="0.1")


def test_curve_falls_with_the_radius() -> None:
    rng = np.random.default_rng(5)
    made = bincp.calibrate(score_evidence(rng, rng.normal(size=150), 100), np.zeros(150, int), alpha="0.2", radius=0)
    seen = bincp.observe(score_evidence(rng, rng.normal(size=150), 100), made)
    curve = coverage.certified_curve(made, seen, np.zeros(150, int), ("0", "0.1", "0.3", "0.8"))
    assert [point.radius for point in curve] == ["0", "0.1", "0.3", "0.8"]
    lowers = [point.lower for point in curve]
    assert lowers == sorted(lowers, reverse=True)
    assert lowers[0] > lowers[-1]


def test_reusing_the_calibration_set_violates_more_often() -> None:
    """Why an evaluation split is asked for: the same estimate on the calibration points is biased upwards."""
    rng, own, fresh, runs = np.random.default_rng(6), 0, 0, 2000
    for _ in range(runs):
        cal, other = rng.random((2, 25))
        q = np.sort(cal)[19]  # un-enlarged threshold; the truth is q itself
        own += coverage.lower_bound(int((cal <= q).sum()), 25, "0.3") > q
        fresh += coverage.lower_bound(int((other <= q).sum()), 25, "0.3") > q
    assert fresh / runs <= 0.3 + 4 * np.sqrt(0.21 / runs)
    assert own > fresh


def test_empirical_coverage_sizes_and_classes() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=bool)
    y = np.array([0, 2, 1, 2])
    found = coverage.empirical_coverage(sets, y)
    assert (found.count, found.total, found.rate) == (2, 4, 0.5)
    assert found.lower == pytest.approx(stats.beta.ppf(0.025, 2, 3), rel=1e-9)
    assert found.upper == pytest.approx(stats.beta.ppf(0.975, 3, 2), rel=1e-9)
    sizes = coverage.set_sizes(sets)
    assert sizes.histogram.tolist() == [1, 1, 1, 1]
    assert (sizes.mean, sizes.median, sizes.empty, sizes.singletons, sizes.full) == (1.5, 1, 1, 1, 1)
    assert [(c.count, c.total) for c in coverage.per_class(sets, y)] == [(1, 1), (0, 1), (1, 2)]
    assert coverage.per_class(sets[:1], y[:1])[1].upper == 1.0
    with pytest.raises(InputError, match="boolean"):
        coverage.empirical_coverage(sets.astype(int), y)
