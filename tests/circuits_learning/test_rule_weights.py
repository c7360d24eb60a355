"""Learnable rule weights: marginals, likelihoods, gradients and optima against sums over worlds."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import InconsistentEvidence, LearnableRules
from neurosym.errors import InputError
from neurosym.logic.knowledge import CircuitSpec, KnowledgeBase
from neurosym.logic.semantics import evaluate

sys.path.insert(0, str(Path(__file__).resolve().parent))

import learning_cases as cases
from learning_cases import HARD, INF, knowledge, oracle

RULES = [("a -> k", 1.2), ("b -> k & ~l", 0.6), ("a | b | l", INF), ("k <-> m", 2.0), ("~a", 0.3)]
KB = knowledge(RULES, "a b", "k l m n")
SOFT = (0, 1, 3, 4)


def satisfied(kb: KnowledgeBase, rules: tuple[int, ...]) -> np.ndarray:
    """Truth of the rules in every world, float[2^V, H]."""
    grid = oracle.worlds(kb.num_predicates)
    columns = {name: grid[:, kb.index(name)] for name in kb.predicates}
    return np.stack([np.asarray(evaluate(kb.rules[h].formula, columns), dtype=float) for h in rules], axis=1)


def log_mass(p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Log weight of every world for the given weights of the soft rules, [2^V]."""
    grid = oracle.worlds(KB.num_predicates)
    literal = np.log(np.where(grid, p, 1 - p)).sum(axis=1)
    hard = np.where(satisfied(KB, (2,))[:, 0] > 0, 0.0, -INF)
    return literal + hard + satisfied(KB, SOFT) @ weights


def test_forward_is_the_correction_with_these_weights() -> None:
    model = LearnableRules(KB)
    weights = torch.tensor([0.1, 3.0, 0.0, 1.7], dtype=torch.float64)
    model.set_weights(weights)
    torch.testing.assert_close(model.weights.detach(), weights, atol=1e-12, rtol=1e-12)
    p = np.random.default_rng(0).random((4, 6))
    mass = np.stack([np.exp(log_mass(row, weights.numpy())) for row in p])
    expected = mass @ oracle.worlds(6) / mass.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model(torch.tensor(p)).detach(), expected, rtol=1e-10)
    np.testing.assert_allclose(oracle.marginals(model.to_knowledge(), p[0]), expected[0], rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_likelihood_and_gradient_match_enumeration(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = LearnableRules(KB, nonnegative=False)
    weights = rng.normal(size=4)
    model.set_weights(torch.tensor(weights))
    grid, holds = oracle.worlds(6), satisfied(KB, SOFT)
    p = rng.uniform(0.1, 0.9, size=6)
    world = grid[rng.choice(np.flatnonzero(satisfied(KB, (2,))[:, 0]))].astype(int)
    given = np.where(rng.random(6) < 0.3, world, -1)
    seen = np.where(rng.random(6) < 0.6, world, -1)
    mass = np.exp(log_mass(p, weights))
    for observed, evidence in ((world, None), (seen, None), (seen, given)):
        below = np.ones(64, bool) if evidence is None else cases.matches(grid, evidence)
        above = below & cases.matches(grid, observed)
        expected = np.log(mass[above].sum() / mass[below].sum())
        means = [(mass[rows, None] * holds[rows]).sum(axis=0) / mass[rows].sum() for rows in (above, below)]
        evidence_t = None if evidence is None else torch.tensor(evidence)
        found = model.log_likelihood(torch.tensor(p), torch.tensor(observed), evidence_t)
        (slope,) = torch.autograd.grad(found, model.raw)
        assert found.item() == pytest.approx(expected, abs=1e-12)
        np.testing.assert_allclose(slope, means[0] - means[1], atol=1e-12)


def drawn(weights: np.ndarray, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sensor rows [n, V] of three kinds and one world each from the exact distribution."""
    rng = np.random.default_rng(seed)
    kinds = rng.uniform(0.2, 0.8, size=(3, 6))
    which = rng.integers(3, size=n)
    rows = np.empty((n, 6))
    for kind in range(3):
        mass = np.exp(log_mass(kinds[kind], weights))
        places = which == kind
        rows[places] = oracle.worlds(6)[rng.choice(64, size=int(places.sum()), p=mass / mass.sum())]
    return torch.tensor(kinds[which]), torch.tensor(rows).long()


def test_known_weights_are_recovered_and_moments_match() -> None:
    truth = np.array([1.5, 0.8, 2.0, 0.4])
    p, worlds = drawn(truth, 6000, 1)
    model = LearnableRules(KB)
    report = model.fit(p, worlds)
    found = model.weights.detach().numpy()
    assert report.converged
    assert report.at_limit == ()
    assert list(report.log_likelihood) == sorted(report.log_likelihood)
    np.testing.assert_allclose(found, truth, atol=0.2)
    # at the maximum the share of rows that satisfy a rule equals its expectation
    holds = satisfied(KB, SOFT)
    index = (worlds.numpy() << np.arange(6)).sum(axis=1)
    expected = np.zeros(4)
    for row in np.unique(p.numpy(), axis=0):
        mass = np.exp(log_mass(row, found))
        expected += (p.numpy() == row).all(axis=1).mean() * (mass @ holds) / mass.sum()
    np.testing.assert_allclose(holds[index].mean(axis=0), expected, atol=1e-5)


def test_unobserved_values_still_teach() -> None:
    truth = np.array([1.5, 0.8, 2.0, 0.4])
    p, worlds = drawn(truth, 6000, 2)
    hidden = torch.rand(worlds.shape, generator=torch.Generator().manual_seed(0)) < 0.2
    model = LearnableRules(KB)
    report = model.fit(p, torch.where(hidden, -1, worlds))
    assert report.gradient_norm < 1e-4
    np.testing.assert_allclose(model.weights.detach(), truth, atol=0.3)


def test_bounds_and_prior_of_the_weights() -> None:
    kb = knowledge([("a -> b", 1.0), ("a", 1.0)], "a b")
    rows = torch.tensor([[1, 0]] * 7 + [[1, 1]] * 3)  # a always holds; a -> b mostly fails
    p = torch.full((10, 2), 0.5, dtype=torch.float64)
    model = LearnableRules(kb)
    report = model.fit(p, rows)
    assert model.weights[0].item() == pytest.approx(0.0, abs=1e-9)
    assert report.at_limit == (1,)
    free = LearnableRules(kb, nonnegative=False)
    free.fit(p, rows)
    assert free.weights[0].item() == pytest.approx(np.log(3 / 7), abs=1e-4)  # odds of a -> b given a
    negated = free.to_knowledge().rules[0]
    assert (negated.text, negated.weight) == ("~(a -> b)", pytest.approx(np.log(7 / 3), abs=1e-4))
    shrunk = LearnableRules(kb)
    shrunk.fit(p, rows, l2=0.1)
    w = shrunk.weights.detach().numpy()
    odds = np.exp(w[1]) * (1 + np.exp(-w[0])) / 2  # weight of worlds with a over those without
    assert 1 - odds / (1 + odds) == pytest.approx(0.1 * w[1], abs=1e-5)


def test_weights_train_beside_a_network_and_survive_a_checkpoint() -> None:
    split = KnowledgeBase(KB.classes, KB.concepts, KB.rules, (), (CircuitSpec("s", (0, 1), 0.4),))
    model = LearnableRules(split)
    p = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    out = model(p)
    out.sum().backward()
    assert out.dtype == torch.float32
    assert model.raw.grad is not None
    assert p.grad is not None
    eps = 1e-6
    for h in range(4):
        shifted = []
        for sign in (1, -1):
            other = LearnableRules(split)
            with torch.no_grad():
                other.raw[h] += sign * eps
            shifted.append(other(p.detach().double()).sum().item())
        assert model.raw.grad[h].item() == pytest.approx((shifted[0] - shifted[1]) / (2 * eps), abs=1e-6)
    model.set_weights(torch.tensor([0.5, 0.0, 1.0, 2.0]))
    copy = LearnableRules(split)
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy(p), model(p))
    np.testing.assert_allclose(
        oracle.marginals(copy.to_knowledge(), p.detach().double().numpy()[0]), copy(p)[0].detach(), rtol=1e-5
    )
    with pytest.raises(InputError, match="one circuit"):
        model.log_likelihood(p, torch.zeros(5, 6))


def test_a_weight_of_zero_can_be_trained() -> None:
    model = LearnableRules(knowledge([("a -> b", 0.0)], "a b"))
    optimiser = torch.optim.SGD(model.parameters(), lr=50.0)
    rows = torch.tensor([[0, 1], [1, 1], [0, 0], [1, 1]])
    for _ in range(30):
        optimiser.zero_grad()
        (-model.log_likelihood(torch.full((4, 2), 0.5), rows).mean()).backward()
        optimiser.step()
    assert model.weights.item() > 1.0


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="every rule is hard"):
        LearnableRules(HARD["cycle"])
    model = LearnableRules(KB)
    p = torch.full((2, 6), 0.5)
    worlds = torch.tensor([[1, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0]])  # the second violates a | b | l
    with pytest.raises(InconsistentEvidence, match="row 1"):
        model.log_likelihood(p, worlds)
    with pytest.raises(InputError, match="column 0: worlds and evidence differ"):
        model.log_likelihood(p[:1], worlds[:1], torch.tensor([0, -1, -1, -1, -1, -1]))
    with pytest.raises(InputError, match="4 soft rules"):
        model.set_weights(torch.ones(3))
    with pytest.raises(InputError, match=">= 0"):
        model.set_weights(-torch.ones(4))
