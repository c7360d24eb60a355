"""Bounds of random knowledge bases against all corners and random interior points."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import CompiledKnowledge, bounds, compile
from neurosym.logic.knowledge import KnowledgeBase

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402

Claim = tuple[np.ndarray, np.ndarray, np.ndarray]


def claims(compiled: CompiledKnowledge, lower: np.ndarray, upper: np.ndarray, budget: int = 4096) -> list[Claim]:
    found = bounds(compiled, torch.tensor(lower), torch.tensor(upper), budget=budget)
    return list(zip(found.lower.numpy(), found.upper.numpy(), found.exact.numpy(), strict=True))


def assert_right(kb: KnowledgeBase, circuit: str, kind: str, seed: int, budget: int = 4096) -> tuple[int, int]:
    """Two boxes; returns (bounds called exact, all bounds)."""
    rng = np.random.default_rng(seed)
    if kind == "categorical":
        boxes = [cases.random_simplex_box(rng, kb) for _ in range(2)]
    else:
        boxes = [cases.random_box(rng, kb.num_predicates) for _ in range(2)]
    compiled = compile(kb, circuit, kind)
    mix = oracle.mixture(kb, circuit, kind)
    found = claims(compiled, *(np.array(x) for x in zip(*boxes, strict=True)), budget=budget)
    for box, claim in zip(boxes, found, strict=True):
        wrong = oracle.disagreement(mix, box, claim, rng)
        assert not wrong, f"{wrong}\n{kb.to_yaml()}\n{circuit} {kind} seed {seed}\n{box}"
    return sum(int(c[2].sum()) for c in found), sum(c[2].size for c in found)


def consistent(make, rng: np.random.Generator) -> KnowledgeBase:  # type: ignore[no-untyped-def]
    while True:
        kb = make(rng)
        if all(t.sum() > 0 for t in oracle.mixture(kb, "exclusive").tables + oracle.mixture(kb).tables):
            return kb


@pytest.mark.parametrize("block", range(6))
@pytest.mark.parametrize(
    ("circuit", "kind"), [("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical")]
)
def test_any_knowledge(circuit: str, kind: str, block: int) -> None:
    rng = np.random.default_rng(block)
    exact = total = 0
    for i in range(20):
        kb = consistent(cases.random_knowledge, rng)
        e, t = assert_right(kb, circuit, kind, seed=1000 * block + i)
        exact, total = exact + e, total + t
    # a bound that never claims anything would pass the rest
    assert exact > 0.2 * total


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_class_to_concept_rules(kind: str, block: int) -> None:
    rng = np.random.default_rng(100 + block)
    for i in range(25):
        kb = consistent(cases.random_class_knowledge, rng)
        assert_right(kb, "exclusive", kind, seed=5000 * block + i)


@pytest.mark.parametrize("budget", [1, 40, 400])
def test_small_budgets_stay_sound(budget: int) -> None:
    rng = np.random.default_rng(budget)
    for i in range(12):
        kb = consistent(lambda r: cases.random_knowledge(r, 7), rng)
        assert_right(kb, "rules" if i % 2 else "exclusive", "binary", seed=i, budget=budget)


def test_planted_faults_are_seen() -> None:
    kb = cases.knowledge("a", "b c", "a -> b", "b -> ~c @ 2")
    mix, box = oracle.mixture(kb), (np.array([0.2, 0.3, 0.1]), np.array([0.6, 0.5, 0.4]))
    rng = np.random.default_rng(0)
    (right,) = claims(compile(kb), *(x[None] for x in box))
    lower, upper, exact = right
    assert exact.all()
    assert oracle.disagreement(mix, box, right, rng) == ""
    # the corner of a wrong sign for c: all sensors at their lower end
    wrong_corner = oracle.probabilities(mix, np.stack(box))
    assert "misses" in oracle.disagreement(mix, box, (wrong_corner[0], wrong_corner[1], exact), rng)
    assert "called exact" in oracle.disagreement(mix, box, (lower - 1e-6, upper, exact), rng)
    assert oracle.disagreement(mix, box, (lower - 1e-6, upper, ~exact), rng) == ""
    assert "misses" in oracle.disagreement(mix, box, (lower, upper - 1e-9, ~exact), rng)
