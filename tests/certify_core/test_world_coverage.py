"""Coverage of every method in a world with known smoothing, under the worst attack; vanilla fails the same attack.

Sensors are linear, so vote probabilities are closed forms and noisy answers need no network. Each test runs the
real ``calibrate``, ``observe`` and ``predict`` in independent repetitions and compares the mean coverage with
1 - alpha, allowing four standard errors over the repetitions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from gaussian_world import GaussianWorld, three_classes
from scipy import integrate, stats

from neurosym.certify.evidence import ProbEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.quantile import conformal_rank
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.smoothing import gaussian_shift, rcp1_level
from neurosym.logic import KnowledgeBase

SIGMA, RADIUS = 0.5, 0.25
ALPHA = "0.2"
N, M, TESTS, REPETITIONS = 90, 24, 8, 1000
NAMES = ("a", "b", "c", "left", "right")


def layer(circuit: str) -> Reasoning:
    rules = three_classes()[1]
    return Reasoning(KnowledgeBase.from_text(rules), circuit, "binary", 1.0)  # type: ignore[arg-type]


def badness(world: GaussianWorld, reasoning: Reasoning, y: np.ndarray, sigma: float) -> object:
    """Minus the true label's reasoned probability at the exact vote probabilities: what the attacker pushes up."""

    def value(x: np.ndarray) -> np.ndarray:
        q = reasoning.class_probabilities(world.vote_probability(x, sigma))
        return -q[:, np.arange(y.size), y]

    return value


def verdict(covered: list[float], sizes: list[float], alpha: str = ALPHA) -> None:
    mean, error = float(np.mean(covered)), float(np.std(covered) / np.sqrt(len(covered)))
    assert mean >= 1 - float(alpha) - 4 * error
    assert float(np.mean(sizes)) < 3  # not by giving every label


@dataclass(frozen=True)
class Trials:
    """All repetitions at once: calibration ``x, y`` and attacked test points ``moved, truth``, ``[repetitions, n, ...]``."""

    x: np.ndarray
    y: np.ndarray
    clean: np.ndarray
    moved: np.ndarray
    truth: np.ndarray

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.x.shape[0]))


def attacked(world: GaussianWorld, reasoning: Reasoning, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Without rules the score depends on one projection: the worst attack is exact. With rules: the circle."""
    if reasoning.circuit == "none":
        return world.attack_along(x, y, RADIUS)
    return world.attack(x, RADIUS, badness(world, reasoning, y, SIGMA))  # type: ignore[arg-type]


def repetitions(reasoning: Reasoning, rng: np.random.Generator, count: int) -> Trials:
    world, _ = three_classes()
    x, y = world.sample(rng, count * N)
    test, truth = world.sample(rng, count * TESTS)
    moved = attacked(world, reasoning, test, truth)
    shape = (count, TESTS, 2)
    return Trials(
        x.reshape(count, N, 2),
        y.reshape(count, N),
        test.reshape(shape),
        moved.reshape(shape),
        truth.reshape(count, TESTS),
    )


def noisy_scores(reasoning: Reasoning, rng: np.random.Generator, x: np.ndarray, trials: int) -> np.ndarray:
    """LAC ``[..., n, K, trials]`` of reasoned noisy answers; stored scores stand for the model, no network is needed."""
    world, _ = three_classes()
    answers = world.noisy_soft(rng, x.reshape(-1, 2), SIGMA, trials)
    scores = (1.0 - reasoning.class_probabilities(answers)).swapaxes(1, 2)
    return scores.reshape(*x.shape[:-1], *scores.shape[1:])


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("method", [rcp1, bincp], ids=["rcp1", "bincp"])
def test_methods_on_draws(method: ModuleType, circuit: str) -> None:
    reasoning, rng = layer(circuit), np.random.default_rng(1)
    trials = 1 if method is rcp1 else M
    all_ = repetitions(reasoning, rng, REPETITIONS)
    covered, sizes = [], []
    for start in range(0, REPETITIONS, 100):
        block = slice(start, start + 100)
        cal = noisy_scores(reasoning, rng, all_.x[block], trials)
        test = noisy_scores(reasoning, rng, all_.moved[block], trials)
        for i in range(100):
            y, truth = all_.y[block][i], all_.truth[block][i]
            made = method.calibrate(ScoreEvidence(cal[i], SIGMA, NAMES[:3]), y, alpha=ALPHA, radius=RADIUS)
            sets = method.predict(made, method.observe(ScoreEvidence(test[i], SIGMA, NAMES[:3]), made))
            covered.append(sets[np.arange(TESTS), truth].mean())
            sizes.append(sets.sum(axis=1).mean())
    verdict(covered, sizes)


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
def test_colep_on_votes(circuit: str) -> None:
    world, _ = three_classes()
    reasoning, rng, trials = layer(circuit), np.random.default_rng(2), 400
    all_ = repetitions(reasoning, rng, REPETITIONS)
    covered, sizes = [], []
    for i in all_:
        cal = world.votes(rng, all_.x[i], SIGMA, trials)
        made = colep.calibrate(
            VoteEvidence(cal, trials, SIGMA, NAMES, all_.y[i], num_classes=3),
            alpha=ALPHA,
            radius=RADIUS,
            reasoning=reasoning,
        )
        counts = VoteEvidence(world.votes(rng, all_.moved[i], SIGMA, trials), trials, SIGMA, NAMES, num_classes=3)
        sets = colep.predict(made, colep.observe(counts, made, reasoning=reasoning), reasoning=reasoning)
        covered.append(sets[np.arange(TESTS), all_.truth[i]].mean())
        sizes.append(sets.sum(axis=1).mean())
    verdict(covered, sizes)


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
def test_vanilla_fails_the_same_attack(circuit: str) -> None:
    world, _ = three_classes()
    reasoning, rng = layer(circuit), np.random.default_rng(3)
    all_ = repetitions(reasoning, rng, 300)
    clean, covered = [], []
    for i in all_:
        cal = ProbEvidence(world.soft(all_.x[i]), NAMES, all_.y[i], num_classes=3)
        made = vanilla.calibrate(cal, alpha=ALPHA, reasoning=reasoning)
        for points, out in ((all_.clean[i], clean), (all_.moved[i], covered)):
            evidence = ProbEvidence(world.soft(points), NAMES, num_classes=3)
            sets = vanilla.predict(made, vanilla.observe(evidence, made, reasoning=reasoning))
            out.append(sets[np.arange(TESTS), all_.truth[i]].mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert np.mean(clean) >= 0.8 - 4 * error
    assert np.mean(covered) < 0.8 - 8 * error


def test_colep_on_boxes() -> None:
    """Exact boxes of the linear sensors over the ball, at both sides of the attack."""
    from scipy.special import ndtr

    from neurosym.certify.evidence import BoxEvidence

    world, _ = three_classes()
    reasoning, rng = layer("rules"), np.random.default_rng(4)

    def boxes(x: np.ndarray, y: np.ndarray | None = None) -> BoxEvidence:
        t = world.project(x)
        low, high = ndtr((t - RADIUS) / world.softness), ndtr((t + RADIUS) / world.softness)
        return BoxEvidence(low, high, RADIUS, NAMES, y, num_classes=3)

    covered, sizes = [], []
    all_ = repetitions(reasoning, rng, 300)
    for i in all_:
        made = colep.calibrate(boxes(all_.x[i], all_.y[i]), alpha=ALPHA, radius=RADIUS, reasoning=reasoning)
        seen = colep.observe(boxes(all_.moved[i]), made, reasoning=reasoning)
        sets = colep.predict(made, seen, reasoning=reasoning)
        covered.append(sets[np.arange(TESTS), all_.truth[i]].mean())
        sizes.append(sets.sum(axis=1).mean())
    verdict(covered, sizes)


def half_space_n(level: float, low: int, high: int) -> int:
    """The n for which (n+1)(1-a') is nearest below an integer: hardly any loss to the integer rank."""
    return min(range(low, high), key=lambda n: np.ceil((n + 1) * (1 - level)) - (n + 1) * (1 - level))


def test_rcp1_attains_its_level_in_a_half_space_world() -> None:
    """Every input has the same projection on w and the score is monotone in it: the certificate is attained.

    Given the calibration, clean coverage G of a noisy copy is the same for every point, so Jensen's inequality over
    points loses nothing. Two small losses remain, both computed here: the integer rank l >= (n+1)(1-a'), and
    Jensen over calibrations, since G follows Beta(l, n+1-l) and E h(G) >= h(E G) for h(b) = Phi(Phi^-1(b) - r). Exact
    coverage is the integral of h over that Beta law; it must lie in [1-alpha, 1-alpha + 1/(n+1)] up to the second
    loss, which is about h''/2 Var G = O(1/n), and the simulation must agree with it.
    """
    alpha, ratio = "0.1", 0.5
    level = float(rcp1_level(alpha, "0.25", "0.5"))
    n = half_space_n(level, 300, 600)
    rank = conformal_rank(n, rcp1_level(alpha, "0.25", "0.5"))
    law = stats.beta(rank, n + 1 - rank)
    exact, _ = integrate.quad(lambda g: float(gaussian_shift(g, -ratio)) * law.pdf(g), 0.5, 1.0, limit=200)
    plain = float(gaussian_shift(rank / (n + 1), -ratio))
    assert 0.9 <= plain <= exact
    jensen = exact - plain
    assert jensen < 0.002
    assert exact <= 0.9 + 1 / (n + 1) + jensen
    rng, covered, sizes = np.random.default_rng(5), [], []
    for _ in range(1000):
        scores = -0.5 * rng.normal(size=(n, 1, 1))  # -(t + sigma z) with t = 0
        full = np.concatenate([scores, scores + 9], axis=1)
        made = rcp1.calibrate(ScoreEvidence(full, 0.5, ("a", "b")), np.zeros(n, int), alpha=alpha, radius="0.25")
        moved = 0.25 - 0.5 * rng.normal(size=(200, 1, 1))  # the attack lowers t by exactly R
        test = ScoreEvidence(np.concatenate([moved, moved + 9], axis=1), 0.5, ("a", "b"))
        sets = rcp1.predict(made, rcp1.observe(test, made))
        covered.append(sets[:, 0].mean())
        sizes.append(sets.sum(axis=1).mean())
    mean, error = float(np.mean(covered)), float(np.std(covered) / np.sqrt(1000))
    assert abs(mean - exact) <= 4 * error
    assert mean >= 0.9 - 4 * error
    assert mean <= 0.9 + 1 / (n + 1) + jensen + 4 * error
    assert np.mean(sizes) < 2


@pytest.mark.parametrize("ratio", ["0.5", "1"])
def test_bincp_in_the_half_space_world(ratio: str) -> None:
    """The worst case of BinCP: every point has the same vote probability, moved by exactly the certificate."""
    n, trials, sigma = 60, 60, 1.0
    rng, covered = np.random.default_rng(6), []
    for _ in range(1000):
        cal = ScoreEvidence(-rng.normal(size=(n, 1, trials)), sigma, ("a",))
        made = bincp.calibrate(cal, np.zeros(n, int), alpha="0.2", radius=ratio, p="0.6")
        test = ScoreEvidence(float(ratio) - rng.normal(size=(10, 1, trials)), sigma, ("a",))
        covered.append(bincp.predict(made, bincp.observe(test, made)).mean())
    assert made.derived["votes_needed"] > 0
    assert np.mean(covered) >= 0.8 - 4 * np.std(covered) / np.sqrt(1000)


def test_larger_attacks_than_promised_break_rcp1() -> None:
    """The radius is not idle: twice the radius in the half-space world falls short of 1 - alpha."""
    rng, covered = np.random.default_rng(7), []
    for _ in range(300):
        cal = ScoreEvidence(-0.5 * rng.normal(size=(200, 1, 1)), 0.5, ("a",))
        made = rcp1.calibrate(cal, np.zeros(200, int), alpha="0.1", radius="0.25")
        test = ScoreEvidence(0.5 - 0.5 * rng.normal(size=(100, 1, 1)), 0.5, ("a",))
        covered.append(rcp1.predict(made, rcp1.observe(test, made)).mean())
    assert np.mean(covered) < 0.9 - 8 * np.std(covered) / np.sqrt(300)
