"""One certification on evidence at hand, step by step and against plain numpy."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from pipeline_world import CLASSES, decoded, knowledge, samples
from scipy.stats import beta as beta_law
from scipy.stats import binom, norm

from neurosym.certify.coverage import certified_coverage
from neurosym.certify.evidence import BoxEvidence, ProbEvidence, ScoreEvidence, VoteEvidence, votes_from_samples
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.radii import with_radius
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.study import (
    Finding,
    Settings,
    advice,
    certify_split,
    measurable,
    radius_curve,
    says_nothing,
    split_rows,
)
from neurosym.certify.tuning import candidates, tune
from neurosym.errors import InputError


@pytest.mark.parametrize(
    ("n", "tune_share", "calibrate"), [(20, 0.2, 0.4), (101, 0.2, 0.4), (720, 0.1, 0.7), (50, 0.0, 0.5)]
)
def test_splits_cover_everything_once(n: int, tune_share: float, calibrate: float) -> None:
    split = split_rows(n, 5, tune_share, calibrate)
    np.testing.assert_array_equal(np.sort(np.concatenate([split.tune, split.calibrate, split.test])), np.arange(n))
    assert (len(split.tune), len(split.calibrate)) == (round(n * tune_share), round(n * calibrate))
    again, other = split_rows(n, 5, tune_share, calibrate), split_rows(n, 6, tune_share, calibrate)
    np.testing.assert_array_equal(split.test, again.test)
    np.testing.assert_array_equal(split.calibrate, again.calibrate)
    assert not np.array_equal(split.test, other.test)


def test_splits_are_uniform() -> None:
    """Each row falls into each part about as often as its share says (6 standard errors)."""
    counts = np.zeros(20)
    for seed in range(600):
        counts[split_rows(20, seed, 0.25, 0.4).calibrate] += 1
    assert np.abs(counts - 240).max() < 6 * math.sqrt(600 * 0.4 * 0.6)


@pytest.mark.parametrize(
    ("n", "tune_share", "calibrate"), [(0, 0.2, 0.4), (9, 0.2, 0.4), (15, 0.2, 0.4), (100, 0.0, 0.02), (100, 0.5, 0.49)]
)
def test_too_few_rows(n: int, tune_share: float, calibrate: float) -> None:
    with pytest.raises(InputError, match=f"{n} images are too few"):
        split_rows(n, 0, tune_share, calibrate)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_bad_seed(seed: int) -> None:
    with pytest.raises(InputError, match="out of range"):
        split_rows(100, seed)


@pytest.mark.parametrize("circuit", ["none", "exclusive"])
def test_bincp_by_hand(circuit: Any) -> None:
    """Threshold, votes and sets of BinCP from probabilities in plain numpy, without tuning."""
    kb, calibration, test = knowledge(), samples(60, seed=1), samples(40, seed=2)
    finding = certify_split(None, calibration, test, kb, Settings("bincp", "0.2", "0.1", circuit=circuit))
    layer = Reasoning(kb, circuit, "categorical")
    scores = 1 - layer.class_probabilities(decoded(calibration))
    mine = np.sort(scores[np.arange(60), :, calibration.labels], axis=1)
    k = math.ceil(Fraction(7, 10) * 24)
    alpha = Fraction(2, 10) * Fraction(18, 20)  # two items of a twentieth each
    rank = math.ceil(61 * (1 - alpha))
    threshold = np.sort(mine[:, k - 1])[rank - 1]
    assert finding.calibrated.threshold == threshold
    votes = (1 - layer.class_probabilities(decoded(test)) <= threshold).sum(axis=1)
    np.testing.assert_array_equal(finding.observation["votes"], votes)
    spent = 0.2 / 20
    p_lower = beta_law.ppf(spent, k, 24 - k + 1)
    shifted = norm.cdf(norm.ppf(p_lower) - 0.1 / 0.5)
    needed = max(t for t in range(25) if binom.cdf(t - 1, 24, shifted) <= spent)
    np.testing.assert_array_equal(finding.sets, votes >= needed)
    assert finding.mean_size == pytest.approx((votes >= needed).sum(axis=1).mean())
    assert finding.coverage == (votes >= needed)[np.arange(40), test.labels].mean()
    assert finding.tuned is None
    assert finding.certified is not None
    assert finding.certified.points == 40


@pytest.mark.parametrize("method", ["vanilla", "rcp1", "bincp", "colep"])
def test_the_same_as_its_steps(method: str) -> None:
    kb, alpha = knowledge(), "0.2"
    radius = "0" if method == "vanilla" else "0.05"
    parts: list[Any] = [samples(40, seed=0), samples(60, seed=1), samples(40, seed=2)]
    if method == "colep":
        parts = [votes_from_samples(part) for part in parts]
    finding = certify_split(parts[0], parts[1], parts[2], kb, Settings(method, alpha, radius, seed=3))
    layers = candidates(kb, "categorical", "lac")
    tuned = tune(parts[0], method=method, layers=layers, alpha=alpha, radius=radius, seed=3)
    module: Any = {"vanilla": vanilla, "rcp1": rcp1, "bincp": bincp, "colep": colep}[method]
    options: dict[str, Any] = {"p": tuned.p} if method == "bincp" else {}
    made = module.calibrate(parts[1], alpha=alpha, radius=radius, reasoning=tuned.reasoning, seed=3, **options)
    seen = module.observe(parts[2], made, reasoning=tuned.reasoning, seed=3)
    np.testing.assert_array_equal(finding.sets, module.predict(made, seen, reasoning=tuned.reasoning))
    assert finding.calibrated.threshold == made.threshold
    assert finding.tuned is not None
    assert finding.tuned.table == tuned.table
    expected = certified_coverage(made, seen, parts[2].labels, reasoning=tuned.reasoning)
    assert finding.certified == expected
    assert (expected is None) == (method == "rcp1")
    assert measurable(made) == (method != "rcp1")


def test_tuning_rows_do_not_touch_the_rest() -> None:
    """With the layer fixed, other tuning rows leave threshold and sets alone."""
    kb, calibration, test = knowledge(), samples(60, seed=1), samples(40, seed=2)
    settings = Settings("rcp1", "0.2", "0.05", circuit="exclusive")
    one, two = (certify_split(samples(40, seed=s), calibration, test, kb, settings) for s in (5, 6))
    assert one.calibrated.threshold == two.calibrated.threshold
    np.testing.assert_array_equal(one.sets, two.sets)


def test_unlabelled_rows_have_sets_but_no_coverage() -> None:
    test = replace(samples(12, seed=2), labels=None)
    finding = certify_split(None, samples(60, seed=1), test, knowledge(), Settings("rcp1", "0.2", "0.05"))
    assert finding.sets.shape == (12, 3)
    assert (finding.coverage, finding.certified) == (None, None)
    assert all(point.coverage is None for point in radius_curve(finding))


def calibrated(method: str, n: int, alpha: str, radius: str = "0.05") -> Any:
    evidence: Any = samples(n, seed=1, trials=16)
    if method == "colep":
        evidence = votes_from_samples(evidence)
    module: Any = {"vanilla": vanilla, "rcp1": rcp1, "bincp": bincp, "colep": colep}[method]
    return module.calibrate(evidence, alpha=alpha, radius="0" if method == "vanilla" else radius)


def found(record: Any, sets: np.ndarray) -> Finding:
    return Finding(Settings().classifier(None), record, {}, sets, None, None, None)


SMALL = np.eye(3, dtype=bool)


@pytest.mark.parametrize("method", ["vanilla", "rcp1", "bincp", "colep"])
@pytest.mark.parametrize("alpha", ["0.1", "0.25"])
def test_advised_number_is_the_smallest(method: str, alpha: str) -> None:
    record = calibrated(method, 2, alpha)
    text = advice(found(record, SMALL))
    assert text is not None
    needed = int(text.split("n = ")[1].split()[0])
    assert "(there are 2)" in text
    finite = [n for n in range(1, needed + 3) if np.isfinite(calibrated(method, n, alpha).threshold)]
    assert finite[0] == needed  # by trying every number
    assert finite == list(range(needed, needed + 3))
    assert advice(found(calibrated(method, needed, alpha), SMALL)) is None


def test_advice_when_the_noise_is_what_lacks() -> None:
    record = bincp.calibrate(samples(60, trials=4), alpha="0.1", radius="1", p="0.7")
    assert record.trivial
    assert record.rank <= record.n
    assert "noise draws" in str(advice(found(record, SMALL)))


def test_advice_when_every_set_is_full_although_the_plan_is_not_trivial() -> None:
    record = calibrated("colep", 60, "0.25")
    assert not record.trivial
    assert advice(found(record, SMALL)) is None
    assert "noise draws" in str(advice(found(record, np.ones((4, 3), dtype=bool))))
    assert says_nothing(found(record, np.ones((4, 3), dtype=bool)))


def same(one: Any, two: Any) -> None:
    """Two calibrations agree in all that predicts (notes speak to people)."""
    assert (one.method, one.score, one.alpha, one.radius, one.sigma) == (
        two.method,
        two.score,
        two.alpha,
        two.radius,
        two.sigma,
    )
    assert (one.n, one.rank, one.threshold, one.trials) == (two.n, two.rank, two.threshold, two.trials)
    assert one.budget == two.budget
    assert dict(one.derived) == dict(two.derived)
    for name, array in two.calibration.items():
        np.testing.assert_array_equal(one.calibration[name], array)


@pytest.mark.parametrize("method", ["rcp1", "bincp", "colep"])
@pytest.mark.parametrize("radius", ["0", "0.1", "1/3", "0.9"])
def test_moving_the_radius_is_calibrating_there(method: str, radius: str) -> None:
    evidence: Any = samples(60, seed=1)
    if method == "colep":
        evidence = votes_from_samples(evidence)
    module: Any = {"rcp1": rcp1, "bincp": bincp, "colep": colep}[method]
    asked = Fraction(radius)
    record = module.calibrate(evidence, alpha="0.2", radius="0.25")
    fresh = module.calibrate(evidence, alpha="0.2", radius=asked)
    moved = with_radius(record, asked)
    same(moved, fresh)
    assert moved.notes == ()
    same(with_radius(moved, "0.25"), record)
    seen = module.observe(evidence, record)
    np.testing.assert_array_equal(module.predict(moved, seen), module.predict(fresh, module.observe(evidence, fresh)))


def test_what_holds_at_one_radius_only() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0.1, 0.5, (20, 3))
    boxes = BoxEvidence(low, low + 0.1, 0.25, CLASSES, rng.integers(0, 3, 20))
    record = colep.calibrate(boxes, alpha="0.2", radius="0.25")
    with pytest.raises(InputError, match=r"method colep: its evidence holds for radius 0.25 only"):
        with_radius(record, "0.1")
    clean = vanilla.calibrate(ProbEvidence(low, CLASSES, rng.integers(0, 3, 20)), alpha="0.2")
    with pytest.raises(InputError, match="holds for radius 0 only"):
        with_radius(clean, "0.1")
    with pytest.raises(InputError, match="negative"):
        with_radius(rcp1.calibrate(samples(60), alpha="0.2", radius="0.1"), "-0.1")


@pytest.mark.parametrize("method", ["rcp1", "bincp", "colep"])
def test_curves(method: str) -> None:
    parts: list[Any] = [samples(n, 200, seed, strength=4.0) for n, seed in ((120, 1), (60, 2))]
    if method == "colep":
        parts = [votes_from_samples(part) for part in parts]
    finding = certify_split(None, parts[0], parts[1], knowledge(), Settings(method, "0.2", "0.125"))
    points = radius_curve(finding)
    radii = [Fraction(point.radius) for point in points]
    assert radii == [Fraction(step) / 8 for step in ("0", "1/4", "1/2", "3/4", "1", "3/2", "2")]
    sizes = [point.mean_size.value for point in points if point.mean_size is not None]
    coverage = [point.coverage.value for point in points if point.coverage is not None]
    assert len(sizes) == len(coverage) == 7
    assert sizes == sorted(sizes)
    assert coverage == sorted(coverage)
    assert (sizes[4], coverage[4]) == (finding.mean_size, finding.coverage)
    assert sizes[0] < 3
    bounds = [point.certified.value for point in points if point.certified is not None]
    assert bounds == sorted(bounds, reverse=True)
    assert len(bounds) == (0 if method == "rcp1" else 7)
    if finding.certified is not None:
        assert bounds[4] == finding.certified.lower
        assert bounds[0] > 0.2


def test_radii_beyond_all_certificates_are_left_out() -> None:
    finding = certify_split(None, samples(60, seed=1), samples(20, seed=2), None, Settings("rcp1", "0.2", "1.5"))
    assert [point.radius for point in radius_curve(finding)] == ["0", "0.375", "0.75", "1.125", "1.5"]  # sigma is 0.5
    still = certify_split(None, samples(60, seed=1), samples(20, seed=2), None, Settings("bincp", "0.2", "0"))
    assert radius_curve(still) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings("vanilla", "0.1", "0.1"), "radius 0.1 cannot be certified; use bincp"),
        (Settings("bincp", "0.1", "0.1", bound="decoupled"), "bound decoupled: only method colep"),
        (Settings("rcp1", "0.1", "0.1", circuit="rules"), "'rules' needs rules"),
        (Settings("none", "0.1", "0.1"), "method: 'none'"),
        (Settings("rcp1", "1", "0.1"), "alpha"),
        (Settings("rcp1", "0.1", "-1"), "negative"),
        (Settings("rcp1", "0.1", "0.1", score="best"), "score: 'best'"),
    ],
)
def test_settings_that_contradict_each_other(settings: Settings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        certify_split(None, samples(30, seed=1), samples(20, seed=2), None, settings)


def test_zero_written_otherwise_is_no_radius() -> None:
    for text in ("0", "0.0", "0e3"):
        assert Settings("vanilla", "0.1", text).classifier(None).method == "vanilla"


def test_evidence_of_the_wrong_kind() -> None:
    probs = ProbEvidence(np.full((20, 3), 1 / 3), CLASSES, np.zeros(20, dtype=np.int64))
    votes = VoteEvidence(np.full((20, 3), 5), 10, 0.5, CLASSES, np.zeros(20, dtype=np.int64))
    scores = ScoreEvidence(np.zeros((20, 3, 4)), 0.5, CLASSES, np.zeros(20, dtype=np.int64))
    wrong: list[tuple[str, Any]] = [("rcp1", probs), ("bincp", votes), ("colep", probs), ("colep", scores)]
    for method, evidence in wrong:
        with pytest.raises(InputError):
            certify_split(None, evidence, evidence, None, Settings(method, "0.2", "0.1"))
