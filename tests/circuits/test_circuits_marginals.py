"""Marginals against enumeration of all worlds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import InconsistentEvidence, compile, marginals
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))

import worlds as oracle
from random_knowledge import random_knowledge


@pytest.mark.parametrize("block", range(10))
def test_equals_enumeration(block: int) -> None:
    rng = np.random.default_rng(1000 + block)
    checked = 0
    while checked < 20:
        kb = random_knowledge(rng)
        p = rng.random((3, kb.num_predicates))
        p[1] = np.where(rng.random(p.shape[1]) < 0.3, rng.integers(0, 2, p.shape[1]), p[1])
        for circuit, kind in (("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical")):
            compiled = compile(kb, circuit, kind)
            for row in p:
                expected = oracle.marginals(kb, row, circuit, kind)
                if np.isnan(expected).any():
                    with pytest.raises(InconsistentEvidence):
                        marginals(compiled, torch.tensor(row[None]))
                    continue
                got = marginals(compiled, torch.tensor(row[None]))[0].numpy()
                np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=str(kb))
        checked += 1


@pytest.mark.parametrize("w", [0.0, 1.5, 20.0, math.inf])
def test_stop_sign(w: float) -> None:
    """One rule stop -> octagon with p = (0.9, 0): the class drops to 0.9 / (0.1 e^w + 0.9)."""
    kb = KnowledgeBase(("stop",), ("octagon",), (Rule(parse("stop -> octagon"), w),))
    q = marginals(kb, torch.tensor([0.9, -0.0], dtype=torch.float64))
    assert q[0].item() == pytest.approx(0.9 / (0.1 * math.exp(w) + 0.9) if w < 700 else 0.0, abs=1e-15)
    assert q[1].item() == 0.0
