"""Learning the parameters: closed form against counts, expectation maximisation, checkpoints."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import PSDD, parametric_knowledge
from neurosym.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parent))

import learning_cases as cases
from learning_cases import HARD, INF, knowledge, oracle


def drawn(name: str, n: int, seed: int) -> torch.Tensor:
    """Rows from a skewed distribution over the legal worlds, all of them present."""
    rng = np.random.default_rng(seed)
    legal = cases.legal_worlds(HARD[name])
    rows = np.concatenate([legal, legal[rng.choice(len(legal), size=n, p=rng.dirichlet(np.ones(len(legal))))]])
    return torch.tensor(rows).long()


def test_closed_form_equals_counts_of_a_class_mixture() -> None:
    """P(class) and, shared between the classes that leave it free, P(concept)."""
    kb = cases.MIXTURE
    rng = np.random.default_rng(0)
    grid = cases.legal_worlds(kb)
    rows = np.concatenate([grid, grid[rng.choice(len(grid), size=200, p=rng.dirichlet(np.ones(len(grid))))]])
    model = PSDD(kb).fit(torch.tensor(rows), smoothing=0.0)
    prior, label, which = rows[:, :6].mean(axis=0), rows[:, :6].argmax(axis=1), grid[:, :6].argmax(axis=1)
    k, l = rows[label > 0, 6].mean(), rows[label > 1, 7].mean()  # noqa: E741
    coins = [np.where(grid[:, 6], k, 1 - k), np.where(grid[:, 7], l, 1 - l)]
    expected = prior[which] * np.where(which > 0, coins[0], 1) * np.where(which > 1, coins[1], 1)
    np.testing.assert_allclose(model.log_likelihood(torch.tensor(grid)).exp().detach(), expected, rtol=1e-12)
    smooth = PSDD(kb).fit(torch.tensor(rows), smoothing=2.0)
    found = smooth.log_likelihood(torch.tensor(grid[which == 2])).exp().sum().item()
    assert found == pytest.approx(((label == 2).sum() + 2) / (len(rows) + 12), rel=1e-12)


@pytest.mark.parametrize("name", HARD)
def test_closed_form_is_the_maximum(name: str) -> None:
    rows = drawn(name, 60, 1)
    model = PSDD(HARD[name]).fit(rows, smoothing=0.0)
    loss = -model.log_likelihood(rows).mean()
    loss.backward()
    assert model.scores.grad is not None
    np.testing.assert_allclose(
        model.scores.grad, 0.0, atol=1e-14
    )  # a concave problem in each sum: slope 0 is the maximum
    weights = torch.rand(len(rows), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    repeated = PSDD(HARD[name]).fit(rows, 0.0, row_weights=weights)
    (slope,) = torch.autograd.grad((repeated.log_likelihood(rows) * weights).sum(), repeated.scores)
    np.testing.assert_allclose(slope, 0.0, atol=1e-12)


def test_without_sharing_all_worlds_of_a_tree_get_their_frequency() -> None:
    """One path per world in the unshared circuit of exclusive classes without concepts: the table of frequencies."""
    kb = knowledge([], "a b c d e f g", "", (cases.Group("g", "exactly_one", tuple("abcdefg")),))
    rows = torch.eye(7, dtype=torch.long)[torch.tensor([0, 0, 0, 1, 1, 2, 3, 4, 5, 6])]
    model = PSDD(parametric_knowledge(kb, share=False)).fit(rows, 0.0)
    found = model.log_likelihood(torch.eye(7)).exp().detach().numpy()
    np.testing.assert_allclose(found, np.array([3, 2, 1, 1, 1, 1, 1]) / 10, rtol=1e-12)


@pytest.mark.parametrize("name", HARD)
def test_em_on_complete_data_is_the_closed_form_in_one_step(name: str) -> None:
    rows = drawn(name, 60, 2)
    for smoothing in (0.0, 0.5):
        fitted, em = PSDD(HARD[name]).fit(rows, smoothing), PSDD(HARD[name])
        report = em.fit_em(rows, smoothing, tolerance=1e-9)
        assert report.converged
        assert len(report.log_likelihood) <= 3
        torch.testing.assert_close(em.log_parameters, fitted.log_parameters, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", HARD)
def test_em_raises_the_likelihood_and_stops_where_it_is_flat(name: str) -> None:
    rows = drawn(name, 80, 3)
    hidden = torch.rand(rows.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    seen = torch.where(hidden, -1, rows)
    model = PSDD(HARD[name])
    report = model.fit_em(seen, max_iterations=400, tolerance=1e-10)
    trail = np.array(report.log_likelihood)
    assert (np.diff(trail) > -1e-12).all()
    assert trail[-1] > trail[0] + 1e-3
    grid = oracle.worlds(rows.shape[1])
    p = cases.table(model.model.parametric.ir, model.log_parameters.exp().detach().numpy())
    expected = np.mean([np.log(p[cases.matches(grid, row)].sum()) for row in seen.numpy()])
    assert trail[-1] == pytest.approx(expected, abs=1e-10)
    slope = torch.autograd.grad(model.log_likelihood(seen).mean(), model.scores)[0]
    assert slope.abs().max() < 1e-3


def test_em_with_smoothing_raises_the_penalised_likelihood() -> None:
    rows = drawn("classes", 60, 4)
    seen = torch.where(torch.rand(rows.shape, generator=torch.Generator().manual_seed(2)) < 0.5, -1, rows)
    objective = []
    model = PSDD(HARD["classes"])
    for _ in range(12):
        objective.append(float((model.log_likelihood(seen).sum() + 0.7 * model.log_parameters.sum()).detach()))
        model.fit_em(seen, 0.7, max_iterations=1)
    assert (np.diff(objective) > -1e-10).all()


def test_learnt_dependence_shows_in_conditionals_samples_and_mpe() -> None:
    kb = HARD["cycle"]
    rows = drawn("cycle", 300, 5)
    model = PSDD(kb).fit(rows, 0.0)
    p = cases.table(model.model.parametric.ir, model.log_parameters.exp().detach().numpy())
    grid = oracle.worlds(4)
    given = grid[:, 0]
    expected = (p[given] @ grid[given]) / p[given].sum()
    np.testing.assert_allclose(model.marginals(torch.tensor([1, -1, -1, -1])).detach(), expected, atol=1e-12)
    assert (model.mpe().numpy() == grid[p.argmax()]).all()
    draws = model.sample(5000, generator=torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_allclose(draws.mean(axis=0), p @ grid, atol=0.04)


def test_a_sum_without_data_keeps_its_start_and_zeros_are_allowed() -> None:
    kb = HARD["hierarchy"]
    rows = torch.tensor([[1, 0, 0, 1, 1]] * 4)
    model = PSDD(kb).fit(rows, smoothing=0.0)
    assert model.log_likelihood(rows[0]).item() == pytest.approx(0.0, abs=1e-12)
    other = torch.tensor([0, 1, 0, 1, 1])
    assert model.log_likelihood(other).item() == -INF
    assert bool(model.log_parameters.isfinite().any())
    assert not bool(model.log_parameters.isnan().any())
    assert PSDD(kb).fit(rows).log_likelihood(other).item() > -INF


def test_state_dict_round_trip_and_errors() -> None:
    kb = HARD["branch"]
    rows = drawn("branch", 30, 6)
    model, copy = PSDD(kb).fit(rows), PSDD(kb)
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(copy.log_likelihood(rows), model.log_likelihood(rows), rtol=0, atol=0)
    bad = rows.clone()
    bad[3] = 0  # exactly one class
    for fit in (model.fit, model.fit_em):
        with pytest.raises(InputError, match="row 3"):
            fit(bad)
        with pytest.raises(InputError, match="must be"):
            fit(rows[0])
        with pytest.raises(InputError, match="row_weights"):
            fit(rows, row_weights=torch.zeros(len(rows)))
    with pytest.raises(InputError, match="unknown"):
        model.fit(torch.where(rows == 0, -1, rows))
    with pytest.raises(InputError, match="smoothing"):
        model.fit(rows, smoothing=-1.0)


def test_rules_with_one_world_and_no_rules_at_all() -> None:
    one = PSDD(knowledge([("a", INF), ("~b", INF)], "a", "b"))
    world = torch.tensor([[1, 0]])
    assert one.scores.numel() == 0
    assert one.fit(world).log_likelihood(world).item() == 0.0
    assert one.fit_em(torch.tensor([[-1, 0]])).converged
    assert one.mpe().tolist() == [True, False]
    assert one.sample(2).tolist() == [[True, False]] * 2
    assert one.marginals().tolist() == [1.0, 0.0]
    free = PSDD(knowledge([], "a", "b")).fit(torch.tensor([[1, 0], [1, 1], [0, 1]]), smoothing=0.0)
    assert free.marginals().tolist() == pytest.approx([2 / 3, 2 / 3])
