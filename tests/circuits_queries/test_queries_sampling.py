"""Samples against enumerated distributions, best worlds under evidence, log probabilities."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from neurosym.circuits import (
    InconsistentEvidence,
    circuit_log_evidence,
    circuit_log_probability,
    circuit_log_weight,
    circuit_mpe,
    circuit_sample,
    compile,
    log_evidence,
    log_probability,
    mpe,
    sample,
)
from neurosym.circuits.queries import sampling
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parent))

import query_cases as cases
import worlds as oracle
from random_knowledge import random_knowledge

DRAWS = 4000


def _fits(counts: np.ndarray, mass: np.ndarray) -> bool:
    """Pearson's chi-square at level 1e-4, worlds of expectation below 5 pooled; no draw of an impossible world."""
    if counts[mass == 0].any():
        return False
    expected = mass / mass.sum() * counts.sum()
    rare = expected < 5
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, expected))
    keep = expected > 1e-9
    statistic = ((observed[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    return bool(keep.sum() == 1 or chi2.sf(statistic, keep.sum() - 1) > 1e-4)


def _index(worlds: torch.Tensor) -> np.ndarray:
    return (worlds.numpy() * (1 << np.arange(worlds.shape[-1]))).sum(axis=-1)


def _possible(mass: np.ndarray, *tensors: torch.Tensor) -> tuple[np.ndarray, list[torch.Tensor]]:
    """Rows that have a world."""
    rows = mass.sum(axis=1) > 0
    return mass[rows], [t[torch.from_numpy(rows)] for t in tensors]


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
def test_frequencies_with_and_without_evidence(case: cases.Case) -> None:
    """Every row has its own weights and its own evidence."""
    rng = np.random.default_rng(21)
    m = case.num_variables
    pos, neg = cases.random_weights(rng, 6, m)
    evidence = cases.random_evidence(rng, 6, m)
    for known in (torch.full_like(evidence, -1), evidence):
        mass = case.masses(pos, neg) * cases.allowed(case, known)
        if (mass.sum(axis=1) == 0).any():
            row = int((mass.sum(axis=1) == 0).argmax())
            with pytest.raises(InconsistentEvidence, match=f"row {row}: ") as caught:
                circuit_sample(case.circuit, pos, neg, 3, evidence=known)
            assert caught.value.row == row
            with pytest.raises(InconsistentEvidence, match=f"row {row}: "):
                circuit_mpe(case.circuit, pos, neg, evidence=known)
        mass, (a, b, e) = _possible(mass, pos, neg, known)
        if not len(mass):
            continue
        draws = circuit_sample(case.circuit, a, b, DRAWS, evidence=e, generator=torch.Generator().manual_seed(1))
        assert draws.shape == (DRAWS, len(mass), m)
        for row in range(len(mass)):
            counts = np.bincount(_index(draws[:, row]), minlength=2**m).astype(float)
            assert _fits(counts, mass[row])
        world, weight = circuit_mpe(case.circuit, a, b, evidence=e)
        np.testing.assert_allclose(weight.exp().numpy(), mass.max(axis=1), rtol=1e-12)
        np.testing.assert_allclose(mass[np.arange(len(mass)), _index(world)], mass.max(axis=1), rtol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_knowledge_bases(seed: int) -> None:
    rng = np.random.default_rng(700 + seed)
    kb = random_knowledge(rng, 6)
    v = kb.num_predicates
    p = rng.random((3, v))
    known = cases.random_evidence(rng, 3, v)
    grid = torch.from_numpy(oracle.worlds(v))
    for circuit, kind in (("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical")):
        compiled = compile(kb, circuit, kind)
        for r in range(len(compiled.parts)):
            full = np.stack([oracle.part_weights(kb, row, circuit, kind)[r][2] for row in p])
            if (full.sum(axis=1) == 0).any():
                continue
            mass = full * ((known[:, None] == -1) | (grid == known[:, None])).all(-1).numpy()
            got = log_evidence(compiled, torch.from_numpy(p), known, part=r).exp()
            np.testing.assert_allclose(got, mass.sum(axis=1) / full.sum(axis=1), atol=1e-12)
            every = log_probability(compiled, torch.from_numpy(p), grid[:, None], part=r).exp()
            np.testing.assert_allclose(every.t(), full / full.sum(axis=1, keepdims=True), atol=1e-12)
            mass, (q, e) = _possible(mass, torch.from_numpy(p), known)
            if not len(mass):
                continue
            draws = sample(compiled, q, DRAWS, part=r, evidence=e, generator=torch.Generator().manual_seed(seed))
            for row in range(len(mass)):
                assert _fits(np.bincount(_index(draws[:, row]), minlength=2**v).astype(float), mass[row])
            best = mpe(compiled, q, part=r, evidence=e)
            np.testing.assert_allclose(best.log_weight.exp(), mass.max(axis=1), rtol=1e-11)
            np.testing.assert_allclose(mass[np.arange(len(mass)), _index(best.world)], mass.max(axis=1), rtol=1e-11)


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
def test_log_probabilities_of_circuits(case: cases.Case) -> None:
    rng = np.random.default_rng(22)
    m = case.num_variables
    pos, neg = cases.random_weights(rng, 5, m)
    mass, (pos, neg) = _possible(case.masses(pos, neg), pos, neg)
    if not len(mass):
        with pytest.raises(InconsistentEvidence, match="row 0"):
            circuit_log_evidence(case.circuit, torch.full((m,), -1), torch.ones(m), torch.ones(m))
        return
    grid = torch.from_numpy(case.grid())[:, None]
    np.testing.assert_allclose(circuit_log_weight(case.circuit, grid, pos, neg).exp().t(), mass, rtol=1e-12)
    share = mass / mass.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(circuit_log_probability(case.circuit, grid, pos, neg).exp().t(), share, rtol=1e-12)
    known = cases.random_evidence(rng, len(mass), m)
    expected = (share * cases.allowed(case, known)).sum(axis=1)
    np.testing.assert_allclose(circuit_log_evidence(case.circuit, known, pos, neg).exp(), expected, atol=1e-12)


def test_log_probability_is_differentiable() -> None:
    kb = KnowledgeBase(("a", "b"), ("c",), (Rule(parse("a -> b"), 1.2),))
    p = torch.tensor([[0.3, 0.6, 0.5], [0.7, 0.2, 0.9]], dtype=torch.float64, requires_grad=True)
    worlds = torch.tensor([[True, False, True], [True, True, False]])
    assert torch.autograd.gradcheck(lambda x: log_probability(kb, x, worlds), (p,))
    assert torch.autograd.gradcheck(lambda x: log_evidence(kb, x, {"b": True}), (p,))


def test_draws_are_reproducible_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces draw other numbers, from the same distribution; the same pieces draw the same."""
    kb = KnowledgeBase(("a", "b"), ("c",), (Rule(parse("a -> b & c"), math.inf), Rule(parse("b | c"), 1.0)))
    p = torch.tensor([[0.6, 0.3, 0.5], [0.2, 0.9, 0.4]], dtype=torch.float64)
    monkeypatch.setattr(sampling, "CHUNK_DRAWS", 5000)
    first, second = (sample(kb, p, DRAWS, generator=torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)
    for row in range(2):
        mass = oracle.part_weights(kb, p[row].numpy(), "rules", "binary")[0][2]
        assert _fits(np.bincount(_index(first[:, row]), minlength=8).astype(float), mass)


def test_weights_far_below_one() -> None:
    """Two worlds of weight 1e-600 and 3e-600: draws and best world do not underflow."""
    n = 200
    names = tuple(f"x{i}" for i in range(n))
    rules = [Rule(parse(f"x0 <-> x{i}"), math.inf) for i in range(1, n)]
    kb = KnowledgeBase(names, (), tuple(rules))
    p = torch.full((n,), 1e-3, dtype=torch.float64)
    q = p.clone()
    q[0] = 0.75
    pos, neg = q, torch.cat([1 - q[:1], p[1:]])
    from neurosym.circuits import part_circuit

    circuit = part_circuit(kb)
    draws = circuit_sample(circuit, pos, neg, 2000, generator=torch.Generator().manual_seed(0))
    assert (draws == draws[:, :1]).all()
    assert abs(draws[:, 0].double().mean().item() - 0.75) < 0.04
    world, weight = circuit_mpe(circuit, pos, neg)
    assert world.all()
    assert weight.item() == pytest.approx(math.log(0.75) + 199 * math.log(1e-3), rel=1e-13)


def test_the_weight_of_the_best_world_is_differentiable() -> None:
    case = cases.clause_case(3)
    rng = np.random.default_rng(3)
    pos, neg = (torch.tensor(rng.uniform(0.1, 1.0, (4, case.num_variables)), requires_grad=True) for _ in range(2))
    world, weight = circuit_mpe(case.circuit, pos, neg)
    on, off = torch.autograd.grad(weight.sum(), (pos, neg))
    zero = torch.zeros_like(pos)
    torch.testing.assert_close(on, torch.where(world, 1 / pos.detach(), zero))
    torch.testing.assert_close(off, torch.where(world, zero, 1 / neg.detach()))


def test_wrong_arguments() -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    bad = torch.tensor([[-1, -1], [1, 0]])
    for query in (lambda: sample(kb, p, 2, evidence=bad), lambda: mpe(kb, p, evidence=bad)):
        with pytest.raises(InconsistentEvidence, match=r"row 1: .*under the given evidence") as caught:
            query()
        assert caught.value.row == 1
    assert log_evidence(kb, p, bad).tolist() == [0.0, -math.inf]
    with pytest.raises(InputError, match="worlds: values must be 1"):
        log_probability(kb, p, torch.tensor([2, 0]))
    with pytest.raises(InputError, match="evidence has shape"):
        log_probability(kb, p, torch.ones(3, dtype=torch.bool))
    with pytest.raises(InputError, match="unknown predicate"):
        sample(kb, p, 2, evidence={"z": True})
    with pytest.raises(InputError, match="num_samples is 0"):
        circuit_sample(cases.CASES[0].circuit, p, p, 0)
    wrong = KnowledgeBase(("a",), (), (Rule(parse("false"), math.inf),))
    for query in (lambda: sample(wrong, p[:, :1], 2), lambda: mpe(wrong, p[:, :1])):
        with pytest.raises(InconsistentEvidence, match="row 0"):
            query()
    with pytest.raises(InconsistentEvidence, match="row 0"):
        log_evidence(wrong, p[:, :1], {"a": True})
