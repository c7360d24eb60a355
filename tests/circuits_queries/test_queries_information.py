"""Entropies, divergences, joint tables and linear functions against sums over enumerated worlds."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosym.circuits import (
    InconsistentEvidence,
    circuit_covariance,
    circuit_cross_entropy,
    circuit_entropy,
    circuit_expectation,
    circuit_joint_distribution,
    circuit_kl_divergence,
    circuit_mutual_information,
    compile,
    covariance,
    cross_entropy,
    entropy,
    expectation,
    joint_distribution,
    kl_divergence,
    mutual_information,
    part_circuit,
    variance,
)
from neurosym.errors import InputError
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parent))

import query_cases as cases
import worlds as oracle
from random_knowledge import random_knowledge


def _xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x * np.log(np.where(x > 0, y, 1.0)), 0.0)


def _entropy(share: np.ndarray) -> np.ndarray:
    return -_xlogy(share, share).sum(axis=-1)


def _divergence(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return (_xlogy(p, p) - _xlogy(p, q)).sum(axis=-1)


def _normal(mass: np.ndarray) -> np.ndarray:
    """Rows of probabilities, NaN where there is no world."""
    with np.errstate(invalid="ignore"):
        return mass / mass.sum(axis=1, keepdims=True)


def _nan_rows(value: np.ndarray, *shares: np.ndarray) -> np.ndarray:
    empty = np.any([np.isnan(s).any(axis=1) for s in shares], axis=0)
    return np.where(empty, np.nan, value)


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
def test_circuits(case: cases.Case) -> None:
    """Un-normalised weights with zeros and ones: NaN without a world, inf where Q excludes a world of P."""
    rng = np.random.default_rng(31)
    m = case.num_variables
    pos, neg = cases.random_weights(rng, 8, m)
    other = [w + 0.25 * torch.from_numpy(rng.random((8, m)) < 0.8) for w in cases.random_weights(rng, 8, m)]
    evidence = cases.random_evidence(rng, 8, m)
    p, q = _normal(case.masses(pos, neg)), _normal(case.masses(*other))
    given = _normal(case.masses(pos, neg) * cases.allowed(case, evidence))
    np.testing.assert_allclose(circuit_entropy(case.circuit, pos, neg), _nan_rows(_entropy(p), p), atol=1e-12)
    got = circuit_entropy(case.circuit, pos, neg, evidence=evidence)
    np.testing.assert_allclose(got, _nan_rows(_entropy(given), given), atol=1e-12)
    kl = _nan_rows(_divergence(p, q), p, q)
    np.testing.assert_allclose(circuit_kl_divergence(case.circuit, pos, neg, *other), kl, atol=1e-12)
    found = circuit_cross_entropy(case.circuit, pos, neg, *other)
    np.testing.assert_allclose(found, kl + _entropy(p), atol=1e-12)
    same = circuit_kl_divergence(case.circuit, pos, neg, pos, neg)
    assert (same[~same.isnan()] == 0).all()
    grid = case.grid().astype(float)
    coefficients = rng.normal(size=(3, m))
    mean = circuit_expectation(case.circuit, pos, neg, torch.from_numpy(coefficients[0]))
    np.testing.assert_allclose(mean, p @ (grid @ coefficients[0]), atol=1e-12)
    spread = np.einsum("bw,wi,wj->bij", p, grid, grid) - np.einsum("bi,bj->bij", p @ grid, p @ grid)
    np.testing.assert_allclose(circuit_covariance(case.circuit, pos, neg), spread, atol=1e-12)
    got = circuit_covariance(case.circuit, pos, neg, torch.from_numpy(coefficients))
    # a product over no variables forgets the NaN of a row without a world
    lost = 0 * p.sum(axis=1)[:, None, None]
    np.testing.assert_allclose(got, coefficients @ spread @ coefficients.T + lost, atol=1e-11)


@pytest.mark.parametrize("case", cases.CASES[::2], ids=lambda c: c.name)
def test_joint_tables_and_mutual_information(case: cases.Case) -> None:
    rng = np.random.default_rng(32)
    m = case.num_variables
    pos, neg = (w + 0.1 for w in cases.random_weights(rng, 4, m))
    p = _normal(case.masses(pos, neg))
    chosen = [int(v) for v in rng.permutation(m)[:3]]
    table = circuit_joint_distribution(case.circuit, pos, neg, chosen)
    expected = np.zeros((4, 2, 2, 2))
    for w, world in enumerate(case.grid()):
        expected[(slice(None), *(int(world[v]) for v in chosen))] += p[:, w]
    np.testing.assert_allclose(table, expected, atol=1e-13)
    first, rest = chosen[:1], chosen[1:]
    outer = expected.sum(axis=(2, 3))[:, :, None, None] * expected.sum(axis=1)[:, None]
    value = _divergence(expected.reshape(4, -1), outer.reshape(4, -1))
    got = circuit_mutual_information(case.circuit, pos, neg, first, rest)
    np.testing.assert_allclose(got, value, atol=1e-12)
    own = circuit_mutual_information(case.circuit, pos, neg, first, first)
    np.testing.assert_allclose(own, _entropy(expected.sum(axis=(2, 3))), atol=1e-12)
    given = circuit_joint_distribution(case.circuit, pos, neg, [], evidence=torch.full((m,), -1))
    np.testing.assert_allclose(given, np.ones(4), atol=1e-13)


@pytest.mark.parametrize("seed", range(8))
def test_knowledge_bases(seed: int) -> None:
    rng = np.random.default_rng(600 + seed)
    kb = random_knowledge(rng, 7)
    v = kb.num_predicates
    p, q = (rng.uniform(0.02, 0.98, (3, v)) for _ in range(2))
    known = cases.random_evidence(rng, 3, v)
    grid = oracle.worlds(v).astype(float)
    agree = ((known.numpy()[:, None] == -1) | (grid == known.numpy()[:, None])).all(-1)
    rows = torch.from_numpy(p), torch.from_numpy(q)
    coefficients = rng.normal(size=(2, v))
    for circuit, kind in (("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical")):
        compiled = compile(kb, circuit, kind)
        for r in range(len(compiled.parts)):
            mass = [np.stack([oracle.part_weights(kb, x, circuit, kind)[r][2] for x in w]) * agree for w in (p, q)]
            empty = mass[0].sum(axis=1) == 0
            if empty.any():
                with pytest.raises(InconsistentEvidence, match=f"row {int(empty.argmax())}: "):
                    entropy(compiled, rows[0], part=r, evidence=known)
                with pytest.raises(InconsistentEvidence, match=f"row {int(empty.argmax())}: "):
                    covariance(compiled, rows[0], part=r, evidence=known)
                continue
            a, b = (_normal(x) for x in mass)
            np.testing.assert_allclose(entropy(compiled, rows[0], part=r, evidence=known), _entropy(a), atol=1e-11)
            got = kl_divergence(compiled, *rows, part=r, evidence=known)
            np.testing.assert_allclose(got, _divergence(a, b), atol=1e-11)
            got = cross_entropy(compiled, *rows, part=r, evidence=known)
            np.testing.assert_allclose(got, _divergence(a, b) + _entropy(a), atol=1e-11)
            mean = a @ grid
            spread = np.einsum("bw,wi,wj->bij", a, grid, grid) - np.einsum("bi,bj->bij", mean, mean)
            np.testing.assert_allclose(covariance(compiled, rows[0], part=r, evidence=known), spread, atol=1e-11)
            c = torch.from_numpy(coefficients)
            got = covariance(compiled, rows[0], c, part=r, evidence=known)
            np.testing.assert_allclose(got, coefficients @ spread @ coefficients.T, atol=1e-11)
            got = expectation(compiled, rows[0], c[0], part=r, evidence=known)
            np.testing.assert_allclose(got, mean @ coefficients[0], atol=1e-11)
            names = dict(zip(kb.predicates, coefficients[1].tolist(), strict=True))
            got = variance(compiled, rows[0], names, part=r, evidence=known)
            np.testing.assert_allclose(
                got, np.einsum("i,bij,j->b", coefficients[1], spread, coefficients[1]), atol=1e-11
            )
            table = np.zeros((3, 2, 2))
            for w, world in enumerate(grid):
                table[:, int(world[0]), int(world[-1])] += a[:, w]
            ends = (kb.predicates[0], kb.predicates[-1])
            np.testing.assert_allclose(
                joint_distribution(compiled, rows[0], ends, part=r, evidence=known), table, atol=1e-12
            )
            outer = table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None]
            got = mutual_information(compiled, rows[0], *ends, part=r, evidence=known)
            np.testing.assert_allclose(got, _divergence(table.reshape(3, 4), outer.reshape(3, 4)), atol=1e-11)


def _soft() -> KnowledgeBase:
    rules = (Rule(parse("a -> c & d"), 0.8), Rule(parse("b <-> ~c"), 1.7), Rule(parse("d | a"), math.inf))
    return KnowledgeBase(("a", "b"), ("c", "d", "e"), rules)


@pytest.mark.parametrize("seed", range(3))
def test_gradients(seed: int) -> None:
    """Against differences of the functions themselves, which the tests above hold to enumeration."""
    p, q = (
        torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (seed, 50 + seed)
    )
    p, q = (0.1 + 0.8 * x for x in (p, q))
    p.requires_grad_(), q.requires_grad_()
    compiled = compile(_soft())
    assert torch.autograd.gradcheck(lambda x: entropy(compiled, x), (p,))
    assert torch.autograd.gradcheck(lambda x: entropy(compiled, x, evidence={"a": True}), (p,))
    assert torch.autograd.gradcheck(lambda x, y: kl_divergence(compiled, x, y), (p, q))
    assert torch.autograd.gradcheck(lambda x, y: cross_entropy(compiled, x, y), (p, q))
    assert torch.autograd.gradcheck(lambda x: joint_distribution(compiled, x, ("a", "c", "e")), (p,))
    assert torch.autograd.gradcheck(lambda x: mutual_information(compiled, x, ("a", "e"), "c"), (p,))
    assert torch.autograd.gradcheck(lambda x, y: expectation(compiled, x, y), (p, q))


def test_gradients_by_constants() -> None:
    """Rule weights enter as logs of constants, one row of them for all or one for each."""
    circuit = part_circuit(_soft())
    generator = torch.Generator().manual_seed(1)
    pos, neg, other_pos, other_neg = (
        (0.2 + torch.rand(3, 5, dtype=torch.float64, generator=generator)).requires_grad_() for _ in range(4)
    )
    keep = circuit.log_constants > -math.inf
    for shape in ((circuit.num_constants,), (3, circuit.num_constants)):
        shift = [0.3 * torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(2)]
        logs = [torch.where(keep, circuit.log_constants - x, -1.0).requires_grad_() for x in shift]
        assert torch.autograd.gradcheck(lambda a, b, c: circuit_entropy(circuit, a, b, c), (pos, neg, logs[0]))
        for measure in (circuit_kl_divergence, circuit_cross_entropy):
            arguments = (pos, neg, other_pos, other_neg, *logs)
            assert torch.autograd.gradcheck(lambda *x, measure=measure: measure(circuit, *x), arguments)


def test_gradients_stay_finite_at_zero_and_one() -> None:
    """The expectation's derivative is exact there; the entropy's leaves out the infinite part and is finite."""
    compiled = compile(_soft())
    p = torch.tensor([[0.0, 1.0, 0.5, 0.3, 0.0]], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(entropy(compiled, p).sum(), p)
    assert slope.isfinite().all()
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(expectation(compiled, p, weights).sum(), p)
    step = 1e-6
    for j, inward in ((0, 1), (1, -1), (4, 1)):
        moved = p.detach().clone()
        moved[0, j] += inward * step
        rise = expectation(compiled, moved, weights) - expectation(compiled, p.detach(), weights)
        assert slope[0, j].item() == pytest.approx(inward * rise.item() / step, abs=1e-4)


def test_closed_forms() -> None:
    """Exactly one of n with odds r: the entropy of a softmax; free sensors: the sum of their binary entropies."""
    names = tuple(f"c{i}" for i in range(6))
    kb = KnowledgeBase(names, ("k",), (), (Group("one", "exactly_one", names),))
    p = torch.linspace(0.1, 0.7, 7, dtype=torch.float64)
    odds = p[:6] / (1 - p[:6])
    share = odds / odds.sum()
    coin = torch.stack([p[6], 1 - p[6]])
    expected = -(share * share.log()).sum() - (coin * coin.log()).sum()
    assert entropy(kb, p).item() == pytest.approx(expected.item(), abs=1e-13)
    assert mutual_information(kb, p, "c0", "k").item() == pytest.approx(0.0, abs=1e-14)
    assert entropy(KnowledgeBase(names), torch.full((6,), 0.5)).item() == pytest.approx(6 * math.log(2), rel=1e-6)
    # a long chain: far from underflow, and certain
    links = tuple(f"x{i}" for i in range(300))
    chain = KnowledgeBase(links, (), tuple(Rule(parse(f"x{i} <-> x{i + 1}"), math.inf) for i in range(299)))
    low = torch.full((300,), 0.01, dtype=torch.float64)
    assert entropy(chain, low).item() == pytest.approx(0.0, abs=1e-9)
    assert entropy(chain, torch.full((300,), 0.5, dtype=torch.float64)).item() == pytest.approx(math.log(2), abs=1e-9)
    assert variance(chain, torch.full((300,), 0.5, dtype=torch.float64), torch.ones(300)).item() == pytest.approx(
        150**2
    )


def test_infinite_and_impossible() -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), 1.0),))
    p, q = (torch.tensor(x, dtype=torch.float64) for x in ([0.5, 0.5], [0.5, 0.0]))
    assert kl_divergence(kb, p, q).item() == math.inf
    assert cross_entropy(kb, p, q).item() == math.inf
    assert kl_divergence(kb, q, p).item() < math.inf
    hard = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    impossible: Tensor = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    fine = torch.full((2, 2), 0.5)
    for query in (
        lambda: entropy(hard, impossible),
        lambda: kl_divergence(hard, impossible, fine),
        lambda: kl_divergence(hard, fine, impossible),
        lambda: joint_distribution(hard, impossible, ["a"]),
        lambda: expectation(hard, impossible, {"a": 1.0}),
        lambda: variance(hard, impossible, {"a": 1.0}),
    ):
        with pytest.raises(InconsistentEvidence, match="row 1: ") as caught:
            query()
        assert caught.value.row == 1
    # c is in no rule, and its evidence has probability 0
    kb, p = KnowledgeBase(("a",), ("b", "c"), kb.rules), torch.tensor([[0.5, 0.5, 0.5], [0.5, 0.5, 0.0]])
    for query, asked in ((joint_distribution, (["a"],)), (entropy, ()), (mutual_information, ("a", "b"))):
        with pytest.raises(InconsistentEvidence, match=r"row 1: .*under the given evidence"):
            query(kb, p, *asked, evidence={"c": True})
    wrong = KnowledgeBase(("a",), (), (Rule(parse("false"), math.inf),))
    with pytest.raises(InconsistentEvidence, match="row 0"):
        entropy(wrong, torch.tensor([0.5]))


def test_wrong_arguments() -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    circuit, p = part_circuit(kb), torch.tensor([0.5, 0.5])
    with pytest.raises(InputError, match="name up to 16 different predicates"):
        joint_distribution(kb, p, ["a", "a"])
    with pytest.raises(InputError, match="unknown predicate"):
        mutual_information(kb, p, "a", "z")
    with pytest.raises(InputError, match="different ones from 0 to 1"):
        circuit_joint_distribution(circuit, p, p, [2])
    with pytest.raises(InputError, match="coefficients have shape"):
        expectation(kb, p, torch.ones(3))
    with pytest.raises(InputError, match="one row for each function"):
        circuit_covariance(circuit, p, p, torch.ones(2))
    with pytest.raises(InputError, match="unknown predicate"):
        variance(kb, p, {"z": 1.0})
    with pytest.raises(InputError, match="neg has shape"):
        circuit_entropy(circuit, p, torch.ones(3))
    with pytest.raises(InputError, match="pos: row 0, column 1 is inf"):
        circuit_entropy(circuit, torch.tensor([1.0, math.inf]), p)
    assert entropy(kb, p).dtype == torch.float32
