"""Directions of reasoned probabilities in each sensor, and the number of sensor sides, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest

from neurosym.certify.directions import BOTH, balanced_signs, pair_signs, sides, supermodular
from neurosym.certify.methods import colep
from neurosym.certify.reasoning import Reasoning
from neurosym.logic import KnowledgeBase

HEAD = "classes: [a, b, c]\nconcepts: [u, v, w]\n"
CASES = {
    "implications": "rules: [a -> u, b -> u, c -> v, {rule: 'b -> v', weight: 3}]",
    "exclusion": "rules: [a -> ~u, b -> u]",
    "frustrated": "rules: [a -> ~b, b -> ~c, c -> ~a]",
    "body": "rules: ['u & v -> a', b -> w]",
    "disjunction": "rules: ['u | v -> a', 'a -> u | w']",
    "clash": "rules: [a -> u, a -> ~u, b -> v]\ncircuits: {one: {rules: [0]}, two: {rules: [1, 2]}}",
    "hard": "rules: [{rule: a -> u, weight: .inf}, {rule: b -> v, weight: .inf}, c -> w]",
    "group": "rules: [a -> u, b -> v, c -> w]\ngroups: {shape: {exactly_one: [u, v, w]}}",
    "weights": "rules: [{rule: a -> u, weight: 3}, {rule: b -> u, weight: 1}, {rule: 'c -> ~u', weight: 2}]",
    "none": "rules: [u -> v]",
}


def layer(name: str, circuit: str, kind: str) -> Reasoning:
    return Reasoning(KnowledgeBase.from_text(HEAD + CASES[name]), circuit, kind, 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["binary", "categorical"])
@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_directions_are_never_contradicted(name: str, circuit: str, kind: str) -> None:
    """Moving one sensor up, from random points, never moves a class against its claimed direction."""
    reasoning = layer(name, circuit, kind)
    directions = reasoning.directions
    assert directions is not None
    rng = np.random.default_rng(0)
    for j in range(6):
        low, high = rng.random((2, 300, 6))
        high[:] = np.where(np.arange(6) == j, np.maximum(low, high), low)
        low[:, j] = np.minimum(low[:, j], rng.random(300))
        change = reasoning.class_probabilities(high) - reasoning.class_probabilities(low)
        for c in range(3):
            claim = directions[c, j]
            if claim == 0:
                assert np.all(np.abs(change[:, c]) < 1e-12), (c, j)
            elif claim != BOTH:
                assert np.all(change[:, c] * claim > -1e-12), (c, j)


@pytest.mark.parametrize(
    ("name", "circuit", "lac"),
    [
        ("implications", "rules", 5),  # a, b, c hang together through u and v
        ("implications", "exclusive", 10),  # unlike weights on v: c may gain or lose from it: two sides each
        ("exclusion", "exclusive", 8),  # u speaks for b and against a, so c has no direction in it; v and w are idle
        ("none", "exclusive", 3),
        ("clash", "rules", 4),  # a and u with both sides
        ("exclusion", "rules", 3),
        ("frustrated", "rules", 6),  # three classes, both sides
        ("group", "exclusive", 12),
        ("none", "rules", 1),
    ],
)
def test_sides(name: str, circuit: str, lac: int) -> None:
    reasoning = layer(name, circuit, "binary")
    assert colep.sensor_sides(reasoning, "lac", 3) == lac


def test_sides_without_rules() -> None:
    plain = Reasoning(num_classes=7)
    assert [colep.sensor_sides(plain, kind, 7) for kind in ("lac", "binary_aps", "aps", "saps")] == [1, 2, 8, 8]


def test_two_sided_scores_pay_twice() -> None:
    reasoning = layer("implications", "rules", "binary")
    assert colep.sensor_sides(reasoning, "binary_aps", 3) == 10
    assert colep.sensor_sides(reasoning, "lac", 3, "decoupled") == 10


def test_factor_tables() -> None:
    implies = np.array([[0.0, 0.0], [-1.5, 0.0]])  # a -> c, violated at (1, 0)
    excludes = np.array([[0.0, 0.0], [0.0, -2.0]])
    assert pair_signs(implies)[0, 1] == 1  # type: ignore[index]
    assert pair_signs(excludes)[0, 1] == -1  # type: ignore[index]
    assert supermodular(implies, [1, 1])
    assert supermodular(excludes, [1, -1])
    assert not supermodular(excludes, [1, 1])
    hard = np.where(implies < 0, -np.inf, 0.0)
    assert supermodular(hard, [1, 1])
    body = np.zeros((2, 2, 2))
    body[1, 1, 0] = -1.0  # a & b -> c
    assert balanced_signs([(0, 1, 2)], [body]) is None
    both = np.zeros((2, 2, 2))
    both[1] = -1.0
    both[1, 1, 0] = 0.0  # a -> c & ~d
    assert balanced_signs([(0, 1, 2)], [both]) is not None
    assert balanced_signs([(0, 1)], [None]) is None


def test_sides_count_unknown_directions_twice() -> None:
    assert sides(np.array([[1, -1, 0, BOTH], [0, 0, 0, 1]])).tolist() == [4, 1]


@pytest.mark.parametrize("kind", ["binary", "categorical"])
@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("score", ["lac", "aps"])
def test_ranges_contain_random_interior_points(name: str, circuit: str, kind: str, score: str) -> None:
    """The score bounds that COLEP uses, over random boxes, against random points in them."""
    from neurosym.certify.scores import resolve
    from neurosym.certify.scores import score as score_of

    reasoning = layer(name, circuit, kind)
    resolved = resolve(score, reasoning.simplex)
    rng = np.random.default_rng(7)
    a, b = 0.02 + 0.96 * rng.random((2, 12, 6))
    if kind == "categorical":  # boxes around a probability vector
        a[:, :3] /= a[:, :3].sum(axis=1, keepdims=True)
        b[:, :3] = a[:, :3] * 1.2
        a[:, :3] *= 0.8
    low, high = np.minimum(a, b), np.minimum(np.maximum(a, b), 1.0)
    u = rng.random(12)
    view = colep.as_columns(reasoning)
    least = colep.score_bound(view, low, high, resolved, u, "exact", top=False)
    most = colep.score_bound(view, low, high, resolved, u, "exact", top=True)
    for _ in range(150):
        p = low + rng.random(low.shape) * (high - low)
        if kind == "categorical":  # the class votes of one draw are one-hot, so their fractions sum to one
            p[:, :3] = low[:, :3] / 0.8 + 0.2 * low[:, :3] / 0.8 * _sum_free(rng, low[:, :3] / 0.8)
        values = score_of(view.class_probabilities(p), resolved, u)
        assert np.all(values >= least - 1e-9)
        assert np.all(values <= most + 1e-9)


def _sum_free(rng: np.random.Generator, weights: np.ndarray) -> np.ndarray:
    """Relative moves in [-1, 1] that keep the weighted sum at zero."""
    move = rng.uniform(-0.5, 0.5, weights.shape)
    return move - (weights * move).sum(axis=1, keepdims=True)
