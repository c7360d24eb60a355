"""Bounds over a softmax must not rest on the mass that rounding leaves where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neurosym.circuits import bounds, marginals
from neurosym.circuits import compile as compile_circuit
from neurosym.circuits.boxes.simplex import extreme_share
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse


def test_a_class_that_may_have_no_mass() -> None:
    """The class a obeys every rule and b breaks one of weight 50: with any mass at all a takes everything."""
    kb = KnowledgeBase(
        ("b", "a"), ("k",), (Rule(parse("~a -> k"), 50.0),), (Group("g", "exactly_one", ("a", "b", "k")),)
    )
    compiled = compile_circuit(kb, circuit="exclusive", class_kind="categorical")
    lower = torch.tensor([[0.12487453910194757, 0.0, 0.04]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 0.9059598320008473, 0.04]], dtype=torch.float64)
    found = bounds(compiled, lower, upper)
    at = marginals(compiled, torch.tensor([[1.0, 0.0, 0.04]], dtype=torch.float64))
    assert float(at[0, 1]) == 0.0
    assert float(found.lower[0, 1]) == 0.0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_extreme_shares_enclose_their_vertices(classes: int) -> None:
    """Vertices of dyadic boxes, whose sums are exact; ratios from e^-60 to e^60."""
    rng = np.random.default_rng(classes)
    for _ in range(150):
        centre = rng.multinomial(64, rng.dirichlet(np.full(classes, 0.5))) / 64
        lower = np.where(rng.random(classes) < 0.5, 0.0, centre * 0.5)
        upper = np.where(rng.random(classes) < 0.5, 1.0, np.minimum(1.0, centre + rng.random(classes) * 0.9))
        log_t = rng.uniform(-60, 60, classes)
        ratio = torch.from_numpy(log_t[None, None, :] - log_t[None, :, None])
        box = torch.from_numpy(lower[None]), torch.from_numpy(upper[None])
        low, high = (extreme_share(*box, ratio, largest)[0].numpy() for largest in (False, True))
        for free in range(classes):
            for bits in range(1 << classes):
                pi = np.where([bits >> c & 1 for c in range(classes)], upper, lower)
                pi[free] = 0.0
                pi[free] = 1.0 - pi.sum()
                # beyond doubt inside the box
                if not lower[free] <= pi[free] <= upper[free]:
                    continue
                if pi[free] and pi[free] < 1e-12:
                    pi[free] = 0.0
                weight = pi * np.exp(log_t - log_t.max())
                share = weight / weight.sum()
                assert (share >= low - 1e-9).all()
                assert (share <= high + 1e-9).all()
