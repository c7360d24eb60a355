"""Circuits with edge parameters: what they stand for, against sums over worlds and node-by-node evaluation."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import Circuit, ParametricCircuit, compile, parametric_knowledge, with_edge_parameters
from neurosym.circuits.compilers.sdd import compile_sdd
from neurosym.circuits.engine import plan
from neurosym.circuits.ir import CONSTANT, LITERAL, PRODUCT, SUM, CircuitBuilder, CircuitIR, check_properties
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

sys.path.insert(0, str(Path(__file__).resolve().parent))

import learning_cases as cases
from learning_cases import HARD, INF, knowledge, oracle
from random_knowledge import random_knowledge

SOFT = knowledge([("a -> k", 1.3), ("b <-> k", 0.4), ("a | b", INF), ("c -> a", 2.0)], "a b c", "k l")


def distribution(kb: KnowledgeBase) -> np.ndarray:
    mass = np.exp(cases.log_weights(kb))
    return np.asarray(mass / mass.sum())


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("name", [*HARD, "soft"])
def test_start_is_the_distribution_of_the_rules(name: str, share: bool) -> None:
    kb = HARD.get(name, SOFT)
    made = parametric_knowledge(kb, share=share)
    found = check_properties(made.ir)
    assert found.smooth
    assert found.decomposable
    assert found.deterministic
    np.testing.assert_allclose(cases.table(made.ir, np.exp(made.initial)), distribution(kb), atol=1e-14)


@pytest.mark.parametrize("seed", range(12))
def test_any_parameters_make_a_distribution_over_the_legal_worlds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kb = random_knowledge(rng, 7)
    kb = KnowledgeBase(kb.classes, kb.concepts, kb.rules, kb.groups)
    legal = cases.log_weights(kb) > -INF
    if not legal.any():
        with pytest.raises(InputError, match="no world"):
            parametric_knowledge(kb)
        return
    made = parametric_knowledge(kb, share=bool(seed % 2))
    np.testing.assert_allclose(cases.table(made.ir, np.exp(made.initial)), distribution(kb), atol=1e-13)
    p = cases.table(made.ir, cases.random_parameters(made.groups, rng))
    assert p.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_array_equal(p > 0, legal)


def test_every_edge_below_a_sum_has_a_constant_of_its_own() -> None:
    made = parametric_knowledge(HARD["branch"])
    ir = made.ir
    assert int((ir.kind == CONSTANT).sum()) == made.num_parameters == made.initial.size
    constants = np.flatnonzero(ir.kind == CONSTANT)
    for node in np.flatnonzero(ir.kind == SUM):
        used = []
        for child in ir.children_of(node):
            assert ir.kind[child] == PRODUCT
            own = [k for k in ir.children_of(child) if ir.kind[k] == CONSTANT]
            assert len(own) == 1
            used += own
        group = made.groups[np.searchsorted(constants, used)]
        assert len(set(group.tolist())) == 1
        assert int((made.groups == group[0]).sum()) == len(used)
    literals = ir.literal[ir.kind == LITERAL]
    assert len(set(literals.tolist())) == literals.size


def test_sdd_circuits_and_unmentioned_variables() -> None:
    kb = HARD["cycle"]
    component = compile(kb).parts[0].components[0]
    ir = compile_sdd(component.factors, component.variables)
    wider = CircuitIR(6, ir.kind, ir.literal, ir.log_constant, ir.offsets, ir.children, ir.level_offsets)
    made = with_edge_parameters(wider)
    p = cases.table(made.ir, np.exp(made.initial)).reshape(4, 16)  # variables 4 and 5 are the highest bits
    np.testing.assert_allclose(p, np.broadcast_to(distribution(kb) / 4, (4, 16)), atol=1e-15)


def test_normalise_is_a_softmax_of_each_sum() -> None:
    made = parametric_knowledge(HARD["branch"])
    scores = torch.randn(3, 2, made.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = made.normalise(scores).exp()
    raw = scores.exp().numpy()
    for group in range(made.num_groups):
        columns = made.groups == group
        expected = raw[..., columns] / raw[..., columns].sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(found[..., columns], expected, rtol=1e-12)
        np.testing.assert_allclose(
            made.group_sums(scores)[..., columns],
            scores.numpy()[..., columns].sum(-1, keepdims=True).repeat(columns.sum(), -1),
            rtol=1e-12,
        )


def test_without_sharing_free_variables_differ_between_classes() -> None:
    kb = cases.MIXTURE
    shared, apart = parametric_knowledge(kb), parametric_knowledge(kb, share=False)
    assert (shared.num_parameters, apart.num_parameters) == (6 + 2 * 2, 6 + 2 * (1 + 4 * 2))
    with pytest.raises(InputError, match="share=True"):
        parametric_knowledge(kb, share=False, max_nodes=12)
    # with parameters for each class, any distribution in which concepts are independent given the class is reached
    rng = np.random.default_rng(0)
    legal = cases.legal_worlds(kb)
    prior, odds = rng.dirichlet(np.ones(6)), rng.uniform(0.1, 0.9, size=(6, 2))
    odds[0], odds[1, 1] = (1.0, 0.0), 1.0
    which = legal[:, :6].argmax(axis=1)
    target = prior[which] * np.where(legal[:, 6:], odds[which], 1 - odds[which]).prod(axis=1)
    model = ParametricCircuit(apart)
    flows = model.flows(torch.tensor(legal)).double()
    counts = torch.tensor(target) @ flows
    ratio = counts / apart.group_sums(counts)
    np.testing.assert_allclose(torch.where(flows > 0, ratio, 1.0).prod(dim=-1), target, rtol=1e-10)


@pytest.mark.parametrize("name", HARD)
def test_queries_match_enumeration_for_shared_and_row_parameters(name: str) -> None:
    kb = HARD[name]
    rng = np.random.default_rng(5)
    model = ParametricCircuit.build(kb)
    groups, ir = model.parametric.groups, model.parametric.ir
    grid, v = oracle.worlds(kb.num_predicates), kb.num_predicates
    theta = np.stack([cases.random_parameters(groups, rng) for _ in range(4)])
    tables = np.stack([cases.table(ir, row) for row in theta])
    world = cases.legal_worlds(kb)[rng.integers(len(cases.legal_worlds(kb)), size=4)].astype(int)
    known = np.where(rng.random((4, v)) < 0.4, world, -1)
    fits = np.stack([cases.matches(grid, row) for row in known])
    logs = torch.tensor(np.log(theta))
    evidence = torch.tensor(known)
    mass = tables * fits
    np.testing.assert_allclose(model.log_likelihood(logs, evidence), np.log(mass.sum(axis=1)), atol=1e-12)
    index = (world << np.arange(v)).sum(axis=1)
    np.testing.assert_allclose(
        model.log_likelihood(logs, torch.tensor(world)), np.log(tables[np.arange(4), index]), atol=1e-12
    )
    np.testing.assert_allclose(model.log_likelihood(logs[0], torch.tensor(world)), np.log(tables[0, index]), atol=1e-12)
    np.testing.assert_allclose(
        model.marginals(logs, evidence), mass @ grid / mass.sum(axis=1, keepdims=True), atol=1e-12
    )
    best = model.mpe(logs, evidence).numpy()
    np.testing.assert_array_equal((best << np.arange(v)).sum(axis=1), mass.argmax(axis=1))
    draws = model.sample(logs, 3000, evidence, torch.Generator().manual_seed(0)).numpy()
    assert draws.shape == (3000, 4, v)
    for row in range(4):
        counts = np.bincount((draws[:, row] << np.arange(v)).sum(axis=1), minlength=len(grid))
        q = mass[row] / mass[row].sum()
        assert (counts[q == 0] == 0).all()
        assert np.abs(counts / 3000 - q).max() < 5 * math.sqrt(0.25 / 3000)


def test_large_batches_are_traced_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ParametricCircuit.build(HARD["branch"])
    scores = torch.randn(100, model.num_parameters, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logs = model.normalise(scores)
    whole = model.mpe(logs)
    monkeypatch.setitem(plan.CHUNK_VALUES, "cpu", 1)
    assert model.circuit.plan.chunk_rows(100, logs.device) < 100
    torch.testing.assert_close(model.mpe(logs), whole)
    draws = model.sample(logs, 400, generator=torch.Generator().manual_seed(1)).double()
    assert draws.shape == (400, 100, 8)
    assert (draws.mean(dim=0) - model.marginals(logs)).abs().max() < 5 * math.sqrt(0.25 / 400)
    assert model.mpe(logs[:0]).shape == (0, 8)


@pytest.mark.parametrize("name", ["hierarchy", "classes", "blocks"])
def test_gradients_of_partial_likelihood_and_marginals(name: str) -> None:
    kb = HARD[name]
    rng = np.random.default_rng(6)
    model = ParametricCircuit.build(kb)
    ir, groups = model.parametric.ir, model.parametric.groups
    world = cases.legal_worlds(kb)[-1].astype(int)
    known = np.where(np.arange(kb.num_predicates) % 2, world, -1)
    rows = cases.matches(oracle.worlds(kb.num_predicates), known)
    theta = torch.tensor(cases.random_parameters(groups, rng)).log()
    first, second = theta.clone().requires_grad_(), theta.clone().requires_grad_()
    model.log_likelihood(first, torch.tensor(known)).backward()
    model.marginals(second)[1].backward()
    assert first.grad is not None
    assert second.grad is not None
    step = 1e-6
    for c in range(groups.size):
        ends = []
        for sign in (1, -1):
            shifted = theta.clone()
            shifted[c] += sign * step
            p = cases.table(ir, shifted.exp().numpy())
            ends.append((np.log(p[rows].sum()), p @ oracle.worlds(kb.num_predicates)[:, 1] / p.sum()))
        numeric = [(a - b) / (2 * step) for a, b in zip(*ends, strict=True)]
        assert first.grad[c].item() == pytest.approx(numeric[0], abs=1e-8)
        assert second.grad[c].item() == pytest.approx(numeric[1], abs=1e-8)


def test_bad_circuits_and_worlds_are_refused() -> None:
    builder = CircuitBuilder()
    loose = builder.finish(builder.disj([builder.lit(0, True), builder.lit(1, True)]), 2)
    with pytest.raises(InputError, match="smooth"):
        with_edge_parameters(loose)
    both = [
        builder.conj([builder.lit(0, True), builder.free(1)]),
        builder.conj([builder.free(0), builder.lit(1, True)]),
    ]
    twice = ParametricCircuit.build(Circuit(builder.finish(builder.disj(both), 2)))
    with pytest.raises(InputError, match="counts a world twice"):
        twice.flows(torch.tensor([[1, 1]]))
    model = ParametricCircuit.build(HARD["hierarchy"])
    good, bad = [1, 0, 0, 1, 1], [1, 0, 0, 0, 1]
    with pytest.raises(InputError, match="row 2"):
        model.log_likelihood(model.initial, torch.tensor([good, good, bad]))
    with pytest.raises(InputError, match="row 1"):
        model.log_likelihood(model.initial, torch.tensor([good, [1, -1, -1, 0, -1]]))
    with pytest.raises(InputError, match="row 1"):
        model.marginals(model.initial, torch.tensor([good, [1, -1, -1, 0, -1]]))
    with pytest.raises(InputError, match="5 predicates"):
        model.flows(torch.zeros(2, 4))
    with pytest.raises(InputError, match="column 3"):
        model.flows(torch.tensor([[0, 0, 0, 2, 0]]))
    with pytest.raises(InputError, match="unknown values"):
        model.flows(torch.tensor([[0, 0, 0, -1, 0]]))
