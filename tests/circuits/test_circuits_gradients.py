"""Gradients: against finite differences inside the box and at its faces, for every kind of component."""

from __future__ import annotations

import math

import pytest
import torch

from neurosym.circuits import CompiledKnowledge, Component, compile, log_wmc, marginals
from neurosym.circuits.compilers.sdd import compile_sdd
from neurosym.circuits.factors import Factor
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse

INF = math.inf


def _knowledge(
    rules: list[tuple[str, float]], classes: str, concepts: str, groups: tuple[Group, ...] = ()
) -> KnowledgeBase:
    items = tuple(Rule(parse(text), weight) for text, weight in rules)
    return KnowledgeBase(tuple(classes.split()), tuple(concepts.split()), items, groups)


def _cases() -> dict[str, tuple[KnowledgeBase, str, str]]:
    star = [("a -> k", 1.5), ("b -> k", 0.7), ("c -> ~k", 2.0)]
    hard_star = [("a -> k", INF), ("b -> k", 1.5), ("c", 0.3)]
    mixture = [("a -> k", 1.5), ("b -> ~k & l", 2.0), ("c -> k & l & m", 1.0), ("c -> n", 3.0), ("b -> m", 0.5)]
    hard_mixture = [("a -> k", INF), ("b -> ~k & l", INF), ("c -> l", 1.0), ("a -> ~l", 0.5)]
    cycle = [("a -> b", 1.5), ("b -> c", 1.0), ("c -> a", 0.5), ("a & b -> k", INF), ("k <-> l | c", 2.0)]
    one = (Group("g", "exactly_one", ("a", "b", "c")),)
    most = (Group("g", "at_most_one", ("a", "b", "c")),)
    return {
        "star": (_knowledge(star, "a b c", "k"), "rules", "star"),
        "hard star": (_knowledge(hard_star, "a b", "c k"), "rules", "star"),
        "exclusive": (_knowledge(mixture, "a b c", "k l m n"), "exclusive", "exclusive"),
        "hard exclusive": (_knowledge(hard_mixture, "a b c", "k l"), "exclusive", "exclusive"),
        "exactly one": (_knowledge([], "a b c", "", one), "rules", "terms"),
        "at most one": (_knowledge([("a -> k", 1.0)], "a b c", "k", most), "rules", "exclusive"),
        "elimination": (_knowledge(cycle, "a b c", "k l"), "rules", "elimination"),
        "exclusive general": (
            _knowledge([("a -> k | l", 1.5), ("k -> b", INF)], "a b c", "k l"),
            "exclusive",
            "elimination",
        ),
    }


CASES = _cases()


def _kinds(kb: KnowledgeBase, circuit: str) -> set[str]:
    return {component.kind for part in compile(kb, circuit).parts for component in part.components}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("class_kind", ["binary", "categorical"])
def test_gradcheck(name: str, class_kind: str) -> None:
    kb, circuit, kind = CASES[name]
    compiled = compile(kb, circuit, class_kind)
    assert kind in _kinds(kb, circuit)
    p = torch.rand((3, kb.num_predicates), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = (0.05 + 0.9 * p).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: marginals(compiled, x), (p,), atol=1e-7)
    assert torch.autograd.gradcheck(lambda x: log_wmc(compiled, x), (p,), atol=1e-7)


def test_gradcheck_of_an_sdd() -> None:
    kb, _, _ = CASES["elimination"]
    component = compile(kb).parts[0].components[0]
    sdd = Component(component.variables, component.factors, "sdd", compile_sdd(component.factors, component.variables))
    m = len(sdd.variables)
    pos, neg = (
        torch.rand((2, m), dtype=torch.float64, generator=torch.Generator().manual_seed(i)).add(0.1).requires_grad_()
        for i in (0, 1)
    )
    assert torch.autograd.gradcheck(sdd.marginals, (pos, neg))
    assert torch.autograd.gradcheck(sdd.log_partition, (pos, neg))
    assert torch.autograd.gradcheck(sdd.log_count, (pos, neg))
    torch.testing.assert_close(sdd.marginals(pos, neg), component.marginals(pos, neg), rtol=0, atol=1e-13)


def _differences(compiled: CompiledKnowledge, p: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """Second-order one-sided differences of sum(gain * q) in every p_j, staying inside [0, 1]."""
    h = torch.where(p < 0.5, 1e-5, -1e-5)
    points = torch.stack([p + factor * torch.diag(h) for factor in (0, 1, 2)])
    value = (marginals(compiled, points) * gain).sum(dim=-1)
    return (-3 * value[0] + 4 * value[1] - value[2]) / (2 * h)


@pytest.mark.parametrize("name", CASES)
def test_faces_of_the_box(name: str) -> None:
    """Probabilities that are exactly 0 or 1: finite and right, alone and beside ordinary rows."""
    kb, circuit, _ = CASES[name]
    v = kb.num_predicates
    rng = torch.Generator().manual_seed(7)
    checked = 0
    for class_kind in ("binary", "categorical"):
        compiled = compile(kb, circuit, class_kind)
        for j in range(v):
            for value in (0.0, -0.0, 1.0):
                p = 0.1 + 0.8 * torch.rand((3, v), dtype=torch.float64, generator=rng)
                p[1, j] = value
                if v > 2 and circuit == "rules":
                    p[1, (j + 1) % v] = 0.0
                gain = torch.randn(v, dtype=torch.float64, generator=rng)
                p.requires_grad_()
                q = marginals(compiled, p)
                (q * gain).sum().backward()
                assert p.grad is not None
                assert bool(p.grad.isfinite().all())
                expected = _differences(compiled, p[1].detach(), gain)
                torch.testing.assert_close(p.grad[1], expected, atol=3e-7, rtol=1e-6)
                checked += v
    assert checked > 20


@pytest.mark.parametrize("name", CASES)
def test_closed_form_equals_circuit(name: str) -> None:
    """The same values and gradients by both routes, for general literal weights as well."""
    kb, circuit, _ = CASES[name]
    for component in compile(kb, circuit).parts[0].components:
        m = len(component.variables)
        weights = 3 * torch.rand((2, 5, m), dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        gain = torch.randn((5, m), dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        results = []
        for evaluate in (component.marginals, component.circuit_marginals):
            w = weights.clone().requires_grad_()
            q = evaluate(w[0], w[1])
            (gain * q).sum().backward()
            assert w.grad is not None
            results.append((q.detach(), w.grad))
        torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_soft_rule_gradient_at_zero_in_closed_form() -> None:
    """q = p / (p + (1-p) e^w) for octagon 0: its derivative at p = 0 is e^-w."""
    kb = _knowledge([("stop -> octagon", 1.5)], "stop", "octagon")
    p = torch.tensor([0.0, 0.0], dtype=torch.float64, requires_grad=True)
    marginals(kb, p)[0].backward()
    assert p.grad is not None
    assert p.grad[0].item() == pytest.approx(math.exp(-1.5), abs=1e-15)


def test_factor_tables_have_the_documented_axes() -> None:
    kb = _knowledge([("b -> a", 1.5)], "a b", "")
    factor = compile(kb).parts[0].components[0].factors[0]
    assert isinstance(factor, Factor)
    assert factor.scope == (0, 1)
    assert factor.log_table().tolist() == [[0.0, -1.5], [0.0, 0.0]]
