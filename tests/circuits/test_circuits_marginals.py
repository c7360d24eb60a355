"""Marginals against enumeration of all worlds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import CompiledKnowledge, InconsistentEvidence, compile, marginals
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))

import worlds as oracle
from random_knowledge import random_knowledge, random_mixture, random_star


def _check(compiled: CompiledKnowledge, p: np.ndarray) -> None:
    """Every row against enumeration; rows without a world must be refused."""
    for row in p:
        expected = oracle.marginals(compiled.kb, row, compiled.circuit, compiled.class_kind)
        if np.isnan(expected).any():
            with pytest.raises(InconsistentEvidence):
                marginals(compiled, torch.tensor(row[None]))
            continue
        got = marginals(compiled, torch.tensor(row[None]))[0].numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12, err_msg=str(compiled.kb))


def _faces(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """Some probabilities exactly 0 or 1 in all rows but the first."""
    sharp = np.where(rng.random(p.shape) < 0.25, rng.integers(0, 2, p.shape), p)
    sharp[0] = p[0]
    return sharp


@pytest.mark.parametrize("seed", range(40))
def test_mixtures_equal_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kb, exclusive = random_mixture(rng)
    p = _faces(rng, rng.random((5, kb.num_predicates)))
    for kind in ("binary", "categorical") if exclusive else ("binary",):
        compiled = compile(kb, "exclusive" if exclusive else "rules", kind)
        _check(compiled, p)


@pytest.mark.parametrize("seed", range(25))
def test_stars_equal_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kb = random_star(rng)
    compiled = compile(kb)
    _check(compiled, _faces(rng, rng.random((5, kb.num_predicates))))


def test_these_have_closed_forms() -> None:
    """The two tests above are about closed forms only if those are chosen."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(40):
        kb, exclusive = random_mixture(rng)
        for base, circuit in ((kb, "exclusive" if exclusive else "rules"), (random_star(rng), "rules")):
            found += [c.kind for part in compile(base, circuit).parts for c in part.components]
    assert found.count("exclusive") > 10
    assert found.count("star") > 20


@pytest.mark.parametrize("seed", range(25))
def test_closed_forms_and_circuits_have_the_same_gradients(seed: int) -> None:
    """With rows on the faces of the box, where the closed form hands over to the circuit."""
    rng = np.random.default_rng(seed)
    kb, exclusive = random_mixture(rng)
    for base, circuit in ((kb, "exclusive" if exclusive else "rules"), (random_star(rng), "rules")):
        for component in (c for part in compile(base, circuit).parts for c in part.components):
            p = torch.tensor(_faces(rng, rng.random((6, len(component.variables)))))
            gain = torch.tensor(rng.standard_normal(p.shape))
            results = []
            for evaluate in (component.marginals, component.circuit_marginals):
                x = p.clone().requires_grad_()
                q = evaluate(x, 1 - x)
                possible = ~q.detach().isnan().any(dim=1)
                (gain * q)[possible].sum().backward()
                assert x.grad is not None
                results.append((q.detach(), x.grad[possible]))
            torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11, equal_nan=True)


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
            _check(compiled, p)
        checked += 1


@pytest.mark.parametrize("w", [0.0, 1.5, 20.0, math.inf])
def test_stop_sign(w: float) -> None:
    """One rule stop -> octagon with p = (0.9, 0): the class drops to 0.9 / (0.1 e^w + 0.9)."""
    kb = KnowledgeBase(("stop",), ("octagon",), (Rule(parse("stop -> octagon"), w),))
    q = marginals(kb, torch.tensor([0.9, -0.0], dtype=torch.float64))
    assert q[0].item() == pytest.approx(0.9 / (0.1 * math.exp(w) + 0.9) if w < 700 else 0.0, abs=1e-15)
    assert q[1].item() == 0.0
