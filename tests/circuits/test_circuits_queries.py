"""Counts, conditionals, most probable worlds and samples against enumeration; a second oracle for counts is pysdd."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from neurosym.circuits import InconsistentEvidence, compile, conditionals, log_wmc, mpe, sample
from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracles"))

import worlds as oracle
from random_knowledge import random_knowledge

SETTINGS = (("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical"))


def _probabilities(rng: np.random.Generator, rows: int, v: int) -> np.ndarray:
    p = rng.random((rows, v))
    return np.where(rng.random((rows, v)) < 0.1, rng.integers(0, 2, (rows, v)), p)


@pytest.mark.parametrize("seed", range(12))
def test_count_and_best_world(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kb = random_knowledge(rng, 10)
    p = _probabilities(rng, 4, kb.num_predicates)
    grid = oracle.worlds(kb.num_predicates)
    for circuit, kind in SETTINGS:
        compiled = compile(kb, circuit, kind)
        for r, part in enumerate(compiled.parts):
            for row in p:
                mass = oracle.part_weights(kb, row, circuit, kind)[r][2]
                got = log_wmc(compiled, torch.tensor(row), part=part.name)
                if mass.sum() == 0:
                    assert got.item() == -math.inf
                    with pytest.raises(InconsistentEvidence):
                        mpe(compiled, torch.tensor(row), part=r)
                    continue
                assert got.item() == pytest.approx(math.log(mass.sum()), abs=1e-11)
                best = mpe(compiled, torch.tensor(row), part=r)
                assert best.log_weight.item() == pytest.approx(math.log(mass.max()), abs=1e-11)
                found = np.flatnonzero((grid == best.world.numpy()).all(axis=1))[0]
                assert mass[found] == pytest.approx(mass.max(), rel=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_conditionals(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    kb = random_knowledge(rng, 9)
    v = kb.num_predicates
    p = _probabilities(rng, 5, v)
    known = np.where(rng.random((5, v)) < 0.3, rng.integers(0, 2, (5, v)), -1)
    for circuit, kind in SETTINGS:
        compiled = compile(kb, circuit, kind)
        for row, evidence in zip(p, known, strict=True):
            expected = _conditional(kb, row, evidence, circuit, kind)
            if expected is None:
                with pytest.raises(InconsistentEvidence):
                    conditionals(compiled, torch.tensor(row), torch.tensor(evidence))
                continue
            got = conditionals(compiled, torch.tensor(row), torch.tensor(evidence))
            np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-12)
            named = {kb.predicates[j]: bool(e) for j, e in enumerate(evidence) if e >= 0}
            assert torch.equal(conditionals(compiled, torch.tensor(row), named), got)


def _conditional(kb: KnowledgeBase, p: np.ndarray, evidence: np.ndarray, circuit: str, kind: str) -> np.ndarray | None:
    pos, neg = oracle.literal_weights(kb, p, circuit, kind)
    if ((evidence == 1) & (pos == 0)).any() or ((evidence == 0) & (neg == 0)).any():
        return None
    grid = oracle.worlds(kb.num_predicates)
    allowed = ((evidence == -1) | (grid == evidence)).all(axis=1)
    total, weight = np.zeros(len(p)), np.zeros(len(p))
    for beta, mentioned, mass in oracle.part_weights(kb, p, circuit, kind):
        kept = mass * allowed
        if kept.sum() == 0:
            return None
        q = (kept[:, None] * grid).sum(axis=0) / kept.sum()
        for j in mentioned:
            total[j] += beta * q[j]
            weight[j] += beta
    free = np.where(evidence >= 0, evidence, p)
    return np.where(weight > 0, total / np.where(weight > 0, weight, 1), free)


def test_samples_have_the_right_frequencies() -> None:
    rules = ("a -> b", "b & c -> d", "c <-> ~a", "d -> a | c")
    weights = (1.5, math.inf, 0.7, 2.0)
    kb = KnowledgeBase(("a", "b"), ("c", "d"), tuple(Rule(parse(r), w) for r, w in zip(rules, weights, strict=True)))
    p = np.array([0.3, 0.6, 0.5, 0.8])
    draws = sample(kb, torch.tensor(np.stack([p, 1 - p])), 20_000, generator=torch.Generator().manual_seed(3))
    assert draws.shape == (20_000, 2, 4)
    assert draws.dtype == torch.bool
    for row, probabilities in enumerate((p, 1 - p)):
        mass = oracle.part_weights(kb, probabilities, "rules", "binary")[0][2]
        counts = np.bincount(draws[:, row].numpy() @ (1 << np.arange(4)), minlength=16)
        assert (counts[mass == 0] == 0).all()
        expected = mass[mass > 0] / mass.sum() * 20_000
        assert chisquare(counts[mass > 0], expected).pvalue > 1e-3


def test_samples_of_free_and_exclusive_predicates() -> None:
    kb = KnowledgeBase(("a", "b", "c"), ("d", "e"), (Rule(parse("a -> d"), math.inf),))
    p = torch.tensor([0.2, 0.5, 0.5, 0.9, 0.25], dtype=torch.float64)
    draws = sample(kb, p, 20_000, "exclusive", generator=torch.Generator().manual_seed(5))
    assert (draws[:, :3].sum(dim=1) == 1).all()
    assert not (draws[:, 0] & ~draws[:, 3]).any()
    mass = oracle.part_weights(kb, p.numpy(), "exclusive", "binary")[0][2]
    counts = np.bincount(draws.numpy() @ (1 << np.arange(5)), minlength=32)
    assert chisquare(counts[mass > 0], mass[mass > 0] / mass.sum() * 20_000).pvalue > 1e-3


def _sdd(manager: object, formula: Formula, ids: dict[str, int]) -> object:
    def go(f: Formula) -> object:
        return _sdd(manager, f, ids)

    if isinstance(formula, Var):
        return manager.literal(ids[formula.name])  # type: ignore[attr-defined]
    if isinstance(formula, Const):
        return manager.true() if formula.value else manager.false()  # type: ignore[attr-defined]
    if isinstance(formula, Not):
        return manager.negate(go(formula.arg))  # type: ignore[attr-defined]
    if isinstance(formula, Implies):
        return manager.disjoin(manager.negate(go(formula.left)), go(formula.right))  # type: ignore[attr-defined]
    if isinstance(formula, Iff):
        return go(Or((And((formula.left, formula.right)), And((Not(formula.left), Not(formula.right))))))
    join = manager.conjoin if isinstance(formula, And) else manager.disjoin  # type: ignore[attr-defined]
    result = go(formula.args[0])
    for arg in formula.args[1:]:
        result = join(result, go(arg))
    return result


def test_pysdd_counts_the_same() -> None:
    """Fourteen predicates, soft rules through indicator variables, pysdd's own weighted model counter."""
    from pysdd.sdd import SddManager

    rng = np.random.default_rng(11)
    names = [f"a{i}" for i in range(14)]
    rules = []
    for _ in range(12):
        a, b, c = (Var(str(n)) for n in rng.choice(names, 3, replace=False))
        formula = [Implies(And((a, b)), c), Iff(a, Or((b, Not(c)))), Implies(a, And((b, c)))][rng.integers(3)]
        rules.append(Rule(formula, float(rng.choice([0.5, 1.5, math.inf], p=[0.45, 0.45, 0.1]))))
    kb = KnowledgeBase(tuple(names), (), tuple(rules))
    p = rng.random(14)
    manager = SddManager(var_count=14 + len(rules), auto_gc_and_minimize=False)
    ids = {name: i + 1 for i, name in enumerate(names)}
    total = manager.true()
    for h, rule in enumerate(rules):
        node, theta = _sdd(manager, rule.formula, ids), manager.literal(15 + h)
        total &= (node & theta) | (~node & ~theta)
    counter = total.wmc(log_mode=False)
    for j in range(14):
        counter.set_literal_weight(manager.literal(j + 1), p[j])
        counter.set_literal_weight(-manager.literal(j + 1), 1 - p[j])
    for h, rule in enumerate(rules):
        counter.set_literal_weight(manager.literal(15 + h), 1.0)
        counter.set_literal_weight(-manager.literal(15 + h), math.exp(-rule.weight))
    expected = math.log(counter.propagate())
    assert log_wmc(kb, torch.tensor(p)).item() == pytest.approx(expected, abs=1e-12)


def test_wrong_arguments() -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    p = torch.tensor([0.5, 0.5])
    with pytest.raises(InputError, match="part="):
        log_wmc(kb, p, part="nowhere")
    with pytest.raises(InputError, match="num_samples"):
        sample(kb, p, 0)
    with pytest.raises(InputError, match="unknown predicate"):
        conditionals(kb, p, {"z": True})
    with pytest.raises(InputError, match="evidence has shape"):
        conditionals(kb, p, torch.zeros(3))
    with pytest.raises(InputError, match="-1"):
        conditionals(kb, p, torch.tensor([2, 0]))
    with pytest.raises(InconsistentEvidence, match="row 0"):
        conditionals(kb, p, {"a": True, "b": False})
