"""Certified arg-max against all corners of box (and simplex), and its use where posterior bounds overlap."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import bounds, compile
from neurosym.circuits.boxes.argmax import MARGIN_SLACK, certified_argmax
from neurosym.circuits.boxes.exclusive_plan import exclusive_plan
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402


def draw(rng: np.random.Generator, kind: str) -> tuple[KnowledgeBase, np.ndarray, np.ndarray]:
    while True:
        kb = cases.random_class_knowledge(rng)
        if kb.num_classes < 2 or oracle.mixture(kb, "exclusive", kind).tables[0].sum() == 0:
            continue
        if exclusive_plan(compile(kb, "exclusive", kind).parts[0].components[0], kb.num_classes) is None:
            continue
        if kind == "categorical":
            return kb, *cases.random_simplex_box(rng, kb)
        lower, upper = cases.random_box(rng, kb.num_predicates)
        return kb, lower, upper


@pytest.mark.parametrize("kind", ["binary", "categorical"])
@pytest.mark.parametrize("block", range(3))
def test_against_all_corners(kind: str, block: int) -> None:
    rng = np.random.default_rng(block)
    seen = {True: 0, False: 0}
    for _ in range(60):
        kb, lower, upper = draw(rng, kind)
        k = kb.num_classes
        found = certified_argmax(kb, torch.tensor(lower), torch.tensor(upper), kind)
        mix = oracle.mixture(kb, "exclusive", kind)
        posterior = oracle.probabilities(mix, oracle.vertices(mix, lower, upper))[:, :k]
        inside = oracle.probabilities(mix, oracle.interior(rng, mix, lower, upper, 32))[:, :k]
        winner = int(found.winner)
        others = np.delete(np.arange(k), winner)
        if bool(found.certified):
            for values in (posterior, inside):
                assert (values[:, [winner]] > values[:, others]).all()
        elif found.exact and not np.isnan(posterior).any():
            # no class wins at every corner by more than the slack
            lead = [np.min(posterior[:, [c]] - np.delete(posterior, c, axis=1)) for c in range(k)]
            assert max(lead) <= 1e-8
        seen[bool(found.certified)] += 1
    assert min(seen.values()) > 5


@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_margins_are_the_least_log_odds(kind: str) -> None:
    rng = np.random.default_rng(17)
    compared = 0
    for _ in range(60):
        kb, lower, upper = draw(rng, kind)
        lower, upper = np.maximum(lower, 0.01), np.minimum(np.maximum(upper, 0.01), 0.99)
        lower = np.minimum(lower, upper)
        k = kb.num_classes
        if kind == "categorical" and not (lower[:k].sum() <= 1 <= upper[:k].sum()):
            continue
        found = certified_argmax(kb, torch.tensor(lower), torch.tensor(upper), kind)
        mix = oracle.mixture(kb, "exclusive", kind)
        posterior = oracle.probabilities(mix, oracle.vertices(mix, lower, upper))[:, :k]
        if not found.exact or np.isnan(posterior).any() or (posterior == 0).any():
            continue
        for c in range(k):
            odds = np.log(posterior[:, [c]]) - np.log(np.delete(posterior, c, axis=1))
            assert float(found.margin[c]) == pytest.approx(odds.min() - MARGIN_SLACK, abs=1e-9)
        compared += 1
    assert compared > 20


def test_wins_where_posterior_bounds_overlap() -> None:
    """The posteriors of both classes swing with a third one, but a beats b at every point."""
    kb = cases.knowledge("a b c", "q", "a -> q @ 2", "b -> q @ 2", "c -> ~q @ 3")
    lower = torch.tensor([0.30, 0.20, 0.05, 0.1], dtype=torch.float64)
    upper = torch.tensor([0.35, 0.25, 0.15, 0.9], dtype=torch.float64)
    limits = bounds(kb, lower, upper, circuit="exclusive")
    assert float(limits.lower[0]) < float(limits.upper[1])
    found = certified_argmax(compile(kb, circuit="exclusive"), torch.stack([lower, lower]), torch.stack([upper, lower]))
    pair = np.log(0.30 / 0.70) - np.log(0.25 / 0.75)
    assert float(found.margin[0].amax()) <= pair
    small = certified_argmax(kb, lower[None], torch.cat([upper[:3], torch.tensor([0.2])])[None])
    assert small.certified.shape == (1,)
    # given c is out of the way, q does not separate a from b at all
    two = cases.knowledge("a b", "q", "a -> q @ 2", "b -> q @ 2")
    box = [x[[0, 1, 3]] for x in (lower, upper)]
    only = certified_argmax(two, *box)
    assert bool(only.certified)
    assert only.rival.tolist() == [1, 0]
    assert float(only.margin[0]) == pytest.approx(pair, abs=1e-9)
    limits = bounds(two, *box, circuit="exclusive")
    assert bool(limits.exact[:2].all())


def test_impossible_evidence_and_bad_input() -> None:
    kb = cases.knowledge("a b", "q r", "a -> q @ inf", "b -> q @ inf")
    lower = torch.tensor([0.6, 0.1, 0.0, 0.5], dtype=torch.float64)
    upper = torch.tensor([0.7, 0.2, 0.3, 0.6], dtype=torch.float64)
    assert not bool(certified_argmax(kb, lower, upper).certified)
    assert bool(certified_argmax(kb, lower + torch.tensor([0, 0, 0.1, 0]), upper).certified)
    with pytest.raises(InputError, match="one true class"):
        certified_argmax(compile(kb), lower, upper)
    with pytest.raises(InputError, match="lower: row 0, column 0 is -1"):
        certified_argmax(kb, lower - torch.tensor([1.6, 0, 0, 0]), upper)
    tied = cases.knowledge("a b", "q r", "a -> q @ 2", "q -> r @ 1")
    with pytest.raises(InputError, match="still tie concepts together"):
        certified_argmax(tied, lower, upper)
    assert certified_argmax(kb, torch.zeros(0, 4), torch.ones(0, 4)).margin.shape == (0, 2)
