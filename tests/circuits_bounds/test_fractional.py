"""Linear-fractional programs over box and simplex: cvxpy (Charnes-Cooper) and vertices as judges."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import bounds, compile
from neurosym.circuits.boxes.exclusive_plan import exclusive_plan
from neurosym.circuits.boxes.fractional import largest_ratio
from neurosym.circuits.boxes.simplex import extreme_share, extreme_share_of

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402


def simplex_box(rng: np.random.Generator, k: int) -> tuple[np.ndarray, np.ndarray]:
    centre = rng.dirichlet(np.ones(k))
    return np.clip(centre - rng.random(k) * 0.4, 0, 1), np.clip(centre + rng.random(k) * 0.4, 0, 1)


def test_largest_ratio_against_cvxpy() -> None:
    cp = pytest.importorskip("cvxpy")
    rng = np.random.default_rng(0)
    for _ in range(12):
        k = int(rng.integers(2, 7))
        lower, upper = simplex_box(rng, k)
        on, off = rng.random(k) * (rng.random(k) < 0.8), rng.random(k) + 0.05
        # y = w t with sum (on + off) y = 1
        y, t = cp.Variable(k), cp.Variable(nonneg=True)
        limits = [cp.sum(y) == t, y >= lower * t, y <= upper * t, (on + off) @ y == 1]
        value = cp.Problem(cp.Maximize(on @ y), limits).solve(solver="CLARABEL")
        rows = [torch.tensor(x[None]) for x in (lower, upper, on, off)]
        outer, inner = largest_ratio(*rows)
        assert float(inner) == pytest.approx(value, abs=1e-6)
        assert float(outer) >= float(inner)
        assert float(outer) == pytest.approx(float(inner), abs=1e-10)


def test_largest_ratio_against_vertices_over_many_orders_of_magnitude() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        k = int(rng.integers(2, 6))
        lower, upper = simplex_box(rng, k)
        on, off = np.exp(rng.uniform(-30, 0, (2, k)))
        vertices = oracle.simplex_corners(lower, upper)
        values = (vertices @ on) / (vertices @ (on + off))
        outer, inner = largest_ratio(*(torch.tensor(x[None]) for x in (lower, upper, on, off)))
        assert float(outer) >= values.max() - 1e-13
        assert float(inner) == pytest.approx(values.max(), rel=1e-9)


def test_one_class_at_many_ratios_is_the_same_share() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        k = int(rng.integers(2, 6))
        box = [torch.tensor(x[None]) for x in simplex_box(rng, k)]
        log_t = rng.normal(0, 3, k)
        ratio = torch.tensor(log_t[None, None, :] - log_t[None, :, None])
        for largest in (False, True):
            whole = extreme_share(*box, ratio, largest)
            for c in range(k):
                one = extreme_share_of(c, *box, ratio[:, c : c + 1], largest)
                torch.testing.assert_close(one[:, 0], whole[:, c], rtol=1e-12, atol=1e-14)


def test_only_the_class_block_moves() -> None:
    """Everything but the softmax is known: classes and concepts are exact."""
    rng = np.random.default_rng(3)
    judged = 0
    while judged < 40:
        kb = cases.random_class_knowledge(rng)
        if any(len(rule.formula.right.args) for rule in kb.rules if hasattr(rule.formula.right, "args")):
            continue
        mix = oracle.mixture(kb, "exclusive", "categorical")
        lower, upper = cases.random_simplex_box(rng, kb)
        k = kb.num_classes
        lower[k:] = upper[k:] = rng.uniform(0.05, 0.95, kb.num_predicates - k)
        at = oracle.probabilities(mix, oracle.vertices(mix, lower, upper))
        if np.isnan(at).any():
            continue
        found = bounds(compile(kb, "exclusive", "categorical"), torch.tensor(lower), torch.tensor(upper))
        assert bool(found.exact.all())
        np.testing.assert_allclose(found.lower.numpy(), at.min(axis=0), atol=1e-9)
        np.testing.assert_allclose(found.upper.numpy(), at.max(axis=0), atol=1e-9)
        judged += 1


@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_conflicts_are_resolved_by_their_corners(kind: str) -> None:
    """Different weights, signs and conjunctions: rivals disagree about nearly every concept, classes are exact."""
    rng = np.random.default_rng(6)
    judged = resolved = 0
    while judged < 40:
        kb = cases.random_class_knowledge(rng)
        mix = oracle.mixture(kb, "exclusive", kind)
        if kb.num_classes < 3 or mix.tables[0].sum() == 0:
            continue
        compiled = compile(kb, "exclusive", kind)
        if exclusive_plan(compiled.parts[0].components[0], kb.num_classes) is None:
            continue
        lower, upper = cases.random_simplex_box(rng, kb)
        lower, upper = np.maximum(lower, 0.02), np.maximum(np.minimum(upper, 0.98), 0.02)
        lower, k = np.minimum(lower, upper), kb.num_classes
        if not lower[:k].sum() <= 1 <= upper[:k].sum():
            continue
        at = oracle.probabilities(mix, oracle.vertices(mix, lower, upper))[:, :k]
        if np.isnan(at).any():
            continue
        box = torch.tensor(lower), torch.tensor(upper)
        found = bounds(compiled, *box)
        assert bool(found.exact[:k].all())
        np.testing.assert_allclose(found.lower[:k].numpy(), at.min(axis=0), atol=1e-9)
        np.testing.assert_allclose(found.upper[:k].numpy(), at.max(axis=0), atol=1e-9)
        resolved += not bool(bounds(compiled, *box, budget=1).exact[:k].all())
        judged += 1
    assert resolved > 5


def test_a_gap_is_stated_and_holds() -> None:
    """bounds(): where not exact, neither end is farther than the gap from the true extremum."""
    rng = np.random.default_rng(8)
    loose = 0
    for _ in range(6):
        kb = cases.random_frustrated(rng, 10)
        mix = oracle.mixture(kb)
        if mix.tables[0].sum() == 0:
            continue
        lower = rng.uniform(0.05, 0.5, 10)
        upper = lower + 0.3
        at = oracle.probabilities(mix, oracle.box_corners(lower, upper))
        if np.isnan(at).any():
            continue
        for budget in (1, 16, 4096):
            found = bounds(kb, torch.tensor(lower), torch.tensor(upper), budget=budget)
            assert (at.min(axis=0) - found.lower.numpy() <= found.gap.numpy() + 1e-12).all()
            assert (found.upper.numpy() - at.max(axis=0) <= found.gap.numpy() + 1e-12).all()
            assert bool((found.gap[found.exact] < 1e-9).all())
            loose += int((found.gap > 1e-3).sum())
    assert loose > 0
