"""VRCP-I and VRCP-C: coverage in the known world, sets against brute force over the box, one-line refusals."""

from __future__ import annotations

import itertools
from types import ModuleType

import numpy as np
import pytest
from gaussian_world import GaussianWorld, three_classes
from scipy.special import ndtr

from neurosym.certify import RobustConformalClassifier, scores
from neurosym.certify.coverage import certified_points
from neurosym.certify.evidence import BoxEvidence, Evidence, ProbEvidence, VoteEvidence
from neurosym.certify.methods import vrcp_c, vrcp_i
from neurosym.certify.reasoning import Reasoning
from neurosym.errors import InputError
from neurosym.logic import KnowledgeBase

RADIUS, ALPHA, N, TESTS, REPETITIONS = 0.25, "0.2", 90, 8, 1000
NAMES = ("a", "b", "c", "left", "right")


def layer(circuit: str) -> Reasoning:
    return Reasoning(KnowledgeBase.from_text(three_classes()[1]), circuit, "binary", 1.0)  # type: ignore[arg-type]


def boxes(world: GaussianWorld, x: np.ndarray, y: np.ndarray | None = None, radius: float = RADIUS) -> BoxEvidence:
    """Exact ranges of the linear sensors over the ball around ``x``, and the answers at ``x``."""
    t = world.project(x)
    low, high = ndtr((t - radius) / world.softness), ndtr((t + radius) / world.softness)
    return BoxEvidence(low, high, radius, NAMES, y, num_classes=3, probs=world.soft(x))


def attacked(world: GaussianWorld, reasoning: Reasoning, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The point of the ball where the true label's reasoned probability is least."""
    if reasoning.circuit == "none":
        return world.attack_along(x, y, RADIUS)

    def badness(moved: np.ndarray) -> np.ndarray:
        return -reasoning.class_probabilities(world.soft(moved))[:, np.arange(y.size), y]

    return world.attack(x, RADIUS, badness)


def coverage(method: ModuleType, circuit: str, repetitions: int, claimed: float = RADIUS) -> tuple[np.ndarray, float]:
    """Share of attacked test points covered in each repetition, and the mean size; boxes of radius ``claimed``."""
    world, _ = three_classes()
    reasoning, rng = layer(circuit), np.random.default_rng(11)
    covered, sizes = [], []
    every, labels = world.sample(rng, repetitions * TESTS)
    targets = attacked(world, reasoning, every, labels).reshape(repetitions, TESTS, 2)
    for moved, truth in zip(targets, labels.reshape(repetitions, TESTS), strict=True):
        x, y = world.sample(rng, N)
        made = method.calibrate(boxes(world, x, y, claimed), alpha=ALPHA, radius=claimed, reasoning=reasoning)
        seen = method.observe(boxes(world, moved, None, claimed), made, reasoning=reasoning)
        sets = method.predict(made, seen, reasoning=reasoning)
        covered.append(sets[np.arange(TESTS), truth].mean())
        sizes.append(sets.sum(axis=1).mean())
    return np.array(covered), float(np.mean(sizes))


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("method", [vrcp_i, vrcp_c], ids=["vrcp_i", "vrcp_c"])
def test_world_coverage(method: ModuleType, circuit: str) -> None:
    covered, size = coverage(method, circuit, REPETITIONS)
    assert covered.mean() >= 1 - float(ALPHA) - 4 * covered.std() / np.sqrt(REPETITIONS)
    assert size < 2.9  # not by giving every label


@pytest.mark.parametrize("method", [vrcp_i, vrcp_c], ids=["vrcp_i", "vrcp_c"])
def test_boxes_of_a_smaller_radius_do_not_cover(method: ModuleType) -> None:
    """Bounds computed at the point itself (the clean input, in effect) fall short under the same attack."""
    covered, _ = coverage(method, "none", 300, claimed=0.0)
    assert covered.mean() < 1 - float(ALPHA) - 8 * covered.std() / np.sqrt(300)


def simplex_boxes(rng: np.random.Generator, n: int, k: int, width: float) -> BoxEvidence:
    p = rng.dirichlet(np.ones(k), n)
    names = tuple(f"c{i}" for i in range(k))
    low, high = np.clip(p - width * rng.random(p.shape), 0, 1), np.clip(p + width * rng.random(p.shape), 0, 1)
    return BoxEvidence(low, high, 0.5, names, rng.integers(0, k, n), "categorical", probs=p)


@pytest.mark.parametrize("score", ["lac", "aps", "raps", "saps"])
def test_sets_are_those_of_the_best_and_worst_points_of_the_boxes(score: str) -> None:
    """VRCP-I keeps what any point of the box would keep, VRCP-C calibrates on the worst: a grid and corners agree."""
    rng = np.random.default_rng(3)
    cal, test = simplex_boxes(rng, 40, 3, 0.2), simplex_boxes(rng, 30, 3, 0.2)
    made = vrcp_i.calibrate(cal, alpha="0.3", radius="0.5", score=score)
    seen = vrcp_i.observe(test, made)
    sets, u = vrcp_i.predict(made, seen), seen["uniforms"]
    reached = np.full(sets.shape, np.inf)
    steps = list(itertools.product(np.linspace(0, 1, 9), repeat=3))
    for weight in steps:
        point = test.lower + np.array(weight) * (test.upper - test.lower)
        reached = np.minimum(reached, scores.score(point, made.score, u))
    assert (sets >= (reached <= made.threshold)).all()  # no reachable label is lost
    gap = vrcp_i.preference(made, seen) - reached
    assert gap.max() <= 1e-9
    assert -gap.min() < 0.2  # one step of the grid, or a rank more
    robust = vrcp_c.calibrate(cal, alpha="0.3", radius="0.5", score=score)
    worst = np.full(cal.n, -np.inf)
    for weight in steps:
        point = cal.lower + np.array(weight) * (cal.upper - cal.lower)
        values = scores.score(point, robust.score, robust.calibration["uniforms"])
        worst = np.maximum(worst, values[np.arange(cal.n), cal.labels])
    assert (robust.calibration["scores"] >= worst - 1e-15).all()
    assert robust.threshold >= made.threshold


def test_degenerate_boxes_give_the_plain_sets() -> None:
    """Radius 0: both are split conformal prediction."""
    rng = np.random.default_rng(5)
    cal, test = (simplex_boxes(rng, 60, 4, 0.0) for _ in range(2))
    made = [method.calibrate(cal, alpha="0.2", radius="0.5") for method in (vrcp_i, vrcp_c)]
    assert made[0].threshold == made[1].threshold
    rows = np.arange(60)
    assert made[0].threshold == np.sort(1 - cal.probs[rows, cal.labels])[made[0].rank - 1]  # type: ignore[index]
    plain = 1 - test.probs <= made[0].threshold  # type: ignore[operator]
    for method, record in zip((vrcp_i, vrcp_c), made, strict=True):
        assert np.array_equal(method.predict(record, method.observe(test, record)), plain)


def test_sets_are_nested() -> None:
    """Larger boxes: larger sets of VRCP-I, larger thresholds of VRCP-C."""
    world, _ = three_classes()
    rng = np.random.default_rng(6)
    x, y = world.sample(rng, 80)
    test, _ = world.sample(rng, 40)
    kept, thresholds = [], []
    for radius in (0.0, 0.1, 0.2, 0.4):
        made = vrcp_i.calibrate(boxes(world, x, y, radius), alpha="0.1", radius=radius)
        kept.append(vrcp_i.predict(made, vrcp_i.observe(boxes(world, test, None, radius), made)))
        thresholds.append(vrcp_c.calibrate(boxes(world, x, y, radius), alpha="0.1", radius=radius).threshold)
    assert all((small <= large).all() for small, large in itertools.pairwise(kept))
    assert thresholds == sorted(thresholds)
    assert len(set(thresholds)) == 4


def test_certified_points_are_those_whose_worst_score_stays() -> None:
    rng = np.random.default_rng(8)
    cal, test = simplex_boxes(rng, 60, 3, 0.1), simplex_boxes(rng, 50, 3, 0.1)
    made = vrcp_i.calibrate(cal, alpha="0.3", radius="0.5")
    found = certified_points(made, vrcp_i.observe(test, made), test.labels)  # type: ignore[arg-type]
    assert np.array_equal(found, 1 - test.lower[np.arange(50), test.labels] <= made.threshold)  # type: ignore[index]
    assert 0 < found.sum() < 50  # type: ignore[union-attr]
    robust = vrcp_c.calibrate(cal, alpha="0.3", radius="0.5")
    assert certified_points(robust, vrcp_c.observe(test, robust), test.labels) is None  # type: ignore[arg-type]


def test_classifier_with_probabilities_at_calibration_and_boxes_at_test() -> None:
    world, _ = three_classes()
    rng = np.random.default_rng(9)
    x, y = world.sample(rng, 60)
    plain = ProbEvidence(world.soft(x), NAMES, y, num_classes=3)
    clf = RobustConformalClassifier("vrcp_i", "0.2", RADIUS, norm="l2").conformalize(plain)
    assert clf.predict_set(boxes(world, x)).shape == (60, 3)
    robust = RobustConformalClassifier("vrcp_c", "0.2", RADIUS).conformalize(boxes(world, x, y))
    assert np.array_equal(robust.predict_set(plain), robust.predict_set(boxes(world, x)))


def test_a_softmax_in_single_precision_needs_no_sum_of_one_without_rules() -> None:
    world, rules = three_classes()
    rng = np.random.default_rng(13)
    x, y = world.sample(rng, 20)
    p = np.c_[rng.dirichlet(np.ones(3), 20) * (1 - 1e-7), world.soft(x)[:, 3:]]
    evidence = ProbEvidence(p, NAMES, y, "categorical", 3)
    assert vrcp_i.calibrate(evidence, alpha="0.2", radius=RADIUS).n == 20
    exclusive = Reasoning(KnowledgeBase.from_text(rules), "exclusive", "categorical")
    refuse("field 'probs' row 0: the classes sum to 0.9999999", vrcp_i, evidence, reasoning=exclusive)


def refuse(text: str, method: ModuleType, evidence: Evidence, **options: object) -> None:
    with pytest.raises(InputError, match=text) as caught:
        method.calibrate(evidence, **{"alpha": "0.2", "radius": RADIUS, **options})
    assert "\n" not in str(caught.value)


def test_refusals() -> None:
    world, _ = three_classes()
    rng = np.random.default_rng(10)
    x, y = world.sample(rng, 20)
    full = boxes(world, x, y)
    bare = BoxEvidence(full.lower, full.upper, RADIUS, NAMES, y, num_classes=3)
    plain = ProbEvidence(world.soft(x), NAMES, y, num_classes=3)
    votes = VoteEvidence(np.ones((20, 5), dtype=int), 2, 0.25, NAMES, y, num_classes=3)
    refuse("field 'probs' is missing; vrcp_i needs", vrcp_i, bare)
    refuse("votes .* found; vrcp_i needs probabilities", vrcp_i, votes)
    refuse("probabilities .* found; vrcp_c needs boxes", vrcp_c, plain)
    refuse("radius: -1 is negative", vrcp_i, plain, radius="-1")
    refuse("the boxes hold for 0.25, but 0.3 is asked for", vrcp_c, full, radius="0.3")
    refuse("the boxes hold for l2, but linf is asked for", vrcp_c, full, norm="linf")
    refuse("field 'norm': 'l1'; write l2 or linf", vrcp_i, plain, norm="l1")
    made = vrcp_i.calibrate(plain, alpha="0.2", radius=RADIUS, norm="linf")
    with pytest.raises(InputError, match="field 'norm': the boxes hold for l2, but linf"):
        vrcp_i.observe(full, made)
    with pytest.raises(InputError, match=r"hold for 0\.1, but 0\.25"):
        vrcp_i.observe(boxes(world, x, None, 0.1), vrcp_i.calibrate(full, alpha="0.2", radius=RADIUS))
    with pytest.raises(InputError, match="found; vrcp_i needs boxes"):
        vrcp_i.observe(plain, vrcp_i.calibrate(full, alpha="0.2", radius=RADIUS))
    wrong = np.array(full.probs)
    wrong[2, 1] = full.upper[2, 1] + 1e-9
    with pytest.raises(InputError, match=r"field 'probs' row 2: .* is outside its bounds"):
        BoxEvidence(full.lower, full.upper, RADIUS, NAMES, y, num_classes=3, probs=wrong)
    with pytest.raises(InputError, match="method rcp1 is proved for l2 only"):
        RobustConformalClassifier("rcp1", "0.2", RADIUS, norm="linf")


def test_too_few_points_say_how_many_would_do() -> None:
    rng = np.random.default_rng(12)
    made = vrcp_c.calibrate(simplex_boxes(rng, 5, 3, 0.1), alpha="0.1", radius="0.5")
    assert made.trivial
    assert "at least 9 are needed" in made.notes[0]
