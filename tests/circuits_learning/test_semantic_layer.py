"""Semantic probabilistic layer: predictions that obey the rules, likelihoods against sums over worlds, training."""

from __future__ import annotations

import copy
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from neurosym.circuits import SemanticLayer, parametric_knowledge
from neurosym.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent))

import learning_cases as cases
from learning_cases import HARD, oracle

KINDS = ("edges", "literals", "both")


def layer_of(name: str, features: int = 6, seed: int = 0, parameters: str = "edges") -> SemanticLayer:
    torch.manual_seed(seed)
    return SemanticLayer(HARD[name], features, parameters=parameters)  # type: ignore[arg-type]


def table_of(layer: SemanticLayer, x: torch.Tensor) -> np.ndarray:
    """p(world | x) of every world, [n, 2^V], node by node and world by world."""
    edges, logits = layer.weights(x)
    theta = edges.exp().detach().expand(len(x), -1).numpy()
    p = np.stack([cases.table(layer.model.parametric.ir, row) for row in theta])
    if logits is not None:
        on = torch.sigmoid(logits.detach()).numpy()[:, None]
        p = p * np.where(oracle.worlds(on.shape[2]), on, 1 - on).prod(axis=2)
        p = p / p.sum(axis=1, keepdims=True)
    return p


@pytest.mark.parametrize("parameters", KINDS)
@pytest.mark.parametrize("name", HARD)
def test_likelihood_marginals_and_mpe_match_enumeration(name: str, parameters: str) -> None:
    layer = layer_of(name, parameters=parameters).double()
    x = 3 * torch.randn(5, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    p = table_of(layer, x)
    grid = oracle.worlds(HARD[name].num_predicates)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)
    for world in cases.legal_worlds(HARD[name])[:4]:
        index = cases.matches(grid, world.astype(int)).argmax()
        labels = torch.tensor(world).expand(5, -1)
        np.testing.assert_allclose(layer.log_likelihood(x, labels).exp().detach(), p[:, index], rtol=1e-10)
    np.testing.assert_allclose(layer(x).detach(), p @ grid, atol=1e-12)
    best = layer.predict(x).numpy()
    np.testing.assert_array_equal(best, grid[p.argmax(axis=1)])
    known = np.where(np.arange(grid.shape[1]) < 2, cases.legal_worlds(HARD[name])[0].astype(int), -1)
    rows = cases.matches(grid, known)
    partial = layer.log_likelihood(x, torch.tensor(known))
    np.testing.assert_allclose(partial.exp().detach(), p[:, rows].sum(axis=1), rtol=1e-10)
    np.testing.assert_array_equal(layer.predict(x, torch.tensor(known)).numpy(), grid[(p * rows).argmax(axis=1)])


@pytest.mark.parametrize("parameters", KINDS)
@pytest.mark.parametrize("name", HARD)
def test_every_prediction_and_sample_obeys_the_rules(name: str, parameters: str) -> None:
    layer = layer_of(name, parameters=parameters)
    x = 2000 * torch.randn(300, 6, generator=torch.Generator().manual_seed(2))
    legal = {world.tobytes() for world in cases.legal_worlds(HARD[name])}
    worlds = torch.cat([layer.predict(x), layer.sample(x, 2).flatten(0, 1)]).numpy()
    assert all(world.tobytes() in legal for world in worlds)


@pytest.mark.parametrize("parameters", KINDS)
def test_before_training_zero_features_give_the_uniform_distribution(parameters: str) -> None:
    layer = layer_of("cycle", parameters=parameters)
    legal = torch.tensor(cases.legal_worlds(HARD["cycle"]))
    found = layer.log_likelihood(torch.zeros(len(legal), 6), legal)
    torch.testing.assert_close(found.exp(), torch.full((len(legal),), 1 / len(legal)))


@pytest.mark.parametrize(("hidden", "parameters"), [(0.0, "edges"), (0.5, "edges"), (0.0, "literals"), (0.5, "both")])
def test_learns_a_conditional_distribution(hidden: float, parameters: str) -> None:
    """Labels are a legal world chosen by the quadrant of the input; half of the values may be unknown in training."""
    kb = HARD["branch"]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(400, 2, generator=generator)
    legal = torch.tensor(cases.legal_worlds(kb)).long()
    chosen = legal[torch.tensor([0, 5, 9, 13])]
    labels = chosen[(x[:, 0] > 0).long() * 2 + (x[:, 1] > 0).long()]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
    layer = SemanticLayer(kb, 32, parameters=parameters)  # type: ignore[arg-type]
    optimiser = torch.optim.Adam([*net.parameters(), *layer.parameters()], lr=0.02)
    before = layer.loss(net(x), labels).item()
    for _ in range(120):
        mask = torch.rand(labels.shape, generator=generator) < hidden
        optimiser.zero_grad()
        layer.loss(net(x), torch.where(mask, -1, labels)).backward()
        optimiser.step()
    assert layer.loss(net(x), labels).item() < 0.2 * before
    assert (layer.predict(net(x)) == labels.bool()).all(dim=1).float().mean() > 0.93


@pytest.mark.parametrize("parameters", KINDS)
def test_gradient_reaches_the_features_exactly(parameters: str) -> None:
    layer = layer_of("classes", parameters=parameters).double()
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    worlds = torch.tensor(cases.legal_worlds(HARD["classes"])[:3])
    partial = torch.where(torch.arange(6) % 2 == 0, worlds.long(), -1)
    assert torch.autograd.gradcheck(lambda z: layer.log_likelihood(z, worlds), (x,))
    assert torch.autograd.gradcheck(lambda z: layer.log_likelihood(z, partial), (x,))
    assert torch.autograd.gradcheck(lambda z: layer(z), (x,))


def test_autocast_keeps_the_distribution_normalised() -> None:
    layer = layer_of("branch")
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(5))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logs, _ = layer.weights(x)
    assert logs.dtype == torch.float32
    sums = layer.model.parametric.group_sums(logs.exp())
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)


def test_copies_and_pickles_predict_alike_after_use() -> None:
    layer = layer_of("classes")
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(6))
    expected = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
        other.gate.bias.data += torch.randn_like(other.gate.bias)
        assert not torch.equal(other(x), expected)
        torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


def test_state_dict_holds_the_gate_alone_and_a_gate_may_be_given() -> None:
    layer = layer_of("hierarchy")
    assert sorted(layer.state_dict()) == ["gate.bias", "gate.weight"]
    other = layer_of("hierarchy", seed=9)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(4, 6)
    torch.testing.assert_close(other(x), layer(x))
    made = parametric_knowledge(HARD["hierarchy"], share=False)
    deep = SemanticLayer(made, gate=nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, made.num_parameters)))
    assert deep(x.reshape(2, 2, 6)).shape == (2, 2, 5)
    assert deep.half().offset.dtype == torch.float16
    with pytest.raises(InputError, match="its last dimension must be"):
        SemanticLayer(made, gate=nn.Linear(6, 3))(x)
    with pytest.raises(InputError, match="in_features or a gate"):
        SemanticLayer(made)
    with pytest.raises(InputError, match="'edges', 'literals' or 'both'"):
        SemanticLayer(made, 6, parameters="nodes")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="row 1"):
        layer.loss(x[:2], torch.tensor([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]))
