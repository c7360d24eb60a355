"""Semantic loss against sums over worlds, its gradients at the faces of the cube, and contradictory rows."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import Circuit, InconsistentEvidence, SemanticLoss, compile, semantic_loss
from neurosym.errors import InputError
from neurosym.logic.knowledge import CircuitSpec, KnowledgeBase

sys.path.insert(0, str(Path(__file__).resolve().parent))

import learning_cases as cases
from learning_cases import HARD, INF, knowledge, oracle

SOFT = knowledge([("a -> k", 1.3), ("b <-> k", 0.4), ("a | b", INF)], "a b", "k l")


def enumerated(kb: KnowledgeBase, p: np.ndarray, off: np.ndarray | None = None) -> tuple[float, np.ndarray]:
    """-log Z and its gradient [V] from all worlds; the derivative of a product of literals leaves one out."""
    grid, factor = oracle.worlds(kb.num_predicates), np.exp(cases.log_weights(kb))
    literal = np.where(grid, p, 1 - p if off is None else off)
    total = (literal.prod(axis=1) * factor).sum()
    slope = np.zeros(kb.num_predicates)
    for j in range(kb.num_predicates):
        rest = np.delete(literal, j, axis=1).prod(axis=1) * factor
        slope[j] = (np.where(grid[:, j], 1, -1) * rest).sum()
    return -np.log(total), -slope / total


@pytest.mark.parametrize("name", [*HARD, "soft"])
def test_value_and_gradient_inside_and_at_faces(name: str) -> None:
    kb = HARD.get(name, SOFT)
    rng = np.random.default_rng(3)
    for _ in range(6):
        p = rng.random(kb.num_predicates)
        allowed = cases.legal_worlds(kb)
        world = allowed[rng.integers(len(allowed))]
        fixed = rng.random(kb.num_predicates) < 0.5
        p[fixed] = world[fixed]  # zeros and ones that a legal world agrees with
        x = torch.tensor(p, requires_grad=True)
        loss = semantic_loss(kb, x)
        loss.backward()
        expected, slope = enumerated(kb, p)
        assert loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-12)
        np.testing.assert_allclose(x.grad, slope, rtol=1e-10, atol=1e-10)


def test_saturated_logits_keep_their_gradient() -> None:
    kb = HARD["hierarchy"]
    z = torch.tensor([30.0, -1.0, 0.5, -25.0, 2.0], requires_grad=True)  # a is sure, k is surely false
    assert float(torch.sigmoid(z.detach())[0]) == 1.0
    loss = semantic_loss(kb, z, logits=True)
    loss.backward()
    p, off = (torch.sigmoid(sign * z.detach().double()).numpy() for sign in (1, -1))
    expected, slope = enumerated(kb, p, off)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    assert loss.dtype == torch.float32
    np.testing.assert_allclose(z.grad, slope * p * off, rtol=1e-4)
    assert z.grad is not None
    assert z.grad[3] < -0.5  # the pull out of saturation: k has to be true


def test_categorical_logits_are_one_softmax() -> None:
    kb = knowledge([("a -> k", INF), ("b -> ~k", INF)], "a b c", "k")
    z = torch.tensor([[0.3, -1.0, 2.0, 0.7]])
    found = semantic_loss(kb, z, "exclusive", "categorical", logits=True)
    q, k = torch.softmax(z[0, :3].double(), 0), torch.sigmoid(z[0, 3].double())
    expected = -torch.log(q[0] * k + q[1] * (1 - k) + q[2])
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_contradictory_row_raises_or_is_left_alone() -> None:
    kb = HARD["hierarchy"]
    rows = torch.full((3, 5), 0.5, dtype=torch.float64)
    rows[1] = torch.tensor([1.0, 0.5, 0.5, 0.0, 0.5])  # a without k
    with pytest.raises(InconsistentEvidence, match="row 1") as caught:
        semantic_loss(kb, rows)
    assert caught.value.row == 1
    others = rows[[0, 2]].clone().requires_grad_()
    semantic_loss(kb, others, reduction="sum").backward()
    for impossible in ("inf", "skip"):
        x = rows.clone().requires_grad_()
        loss = semantic_loss(kb, x, reduction="sum", impossible=impossible)
        loss.backward()
        assert x.grad is not None
        assert loss.item() == (INF if impossible == "inf" else pytest.approx(2 * semantic_loss(kb, rows[0]).item()))
        torch.testing.assert_close(x.grad[1], torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(x.grad[[0, 2]], others.grad)
    skipped = semantic_loss(kb, rows, impossible="skip")
    assert skipped.item() == pytest.approx(semantic_loss(kb, rows[0]).item())
    torch.testing.assert_close(
        semantic_loss(kb, rows, reduction="none", impossible="inf").isinf(), torch.tensor([False, True, False])
    )


def test_mixture_is_the_weighted_sum_of_its_circuits() -> None:
    kb = knowledge([("a -> k", INF), ("b -> l", INF)], "a b", "k l")
    split = KnowledgeBase(kb.classes, kb.concepts, kb.rules, (), (CircuitSpec("s", (0,), 0.3),))
    p = torch.tensor([0.9, 0.6, 0.2, 0.4], dtype=torch.float64)
    each = -torch.log(torch.stack([1 - p[0] * (1 - p[2]), 1 - p[1] * (1 - p[3])]))
    assert semantic_loss(split, p).item() == pytest.approx((0.3 * each[0] + 0.7 * each[1]).item(), rel=1e-12)
    assert semantic_loss(kb, p).item() == pytest.approx(each.sum().item(), rel=1e-12)


def test_circuit_and_module_agree_with_the_function() -> None:
    kb = HARD["cycle"]
    circuit = Circuit(compile(kb).parts[0].components[0].ir)
    p = torch.rand(7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.tensor([enumerated(kb, row)[0] for row in p.numpy()])
    torch.testing.assert_close(semantic_loss(circuit, p, reduction="none"), expected)
    module = SemanticLoss(kb)
    assert not module.state_dict()
    torch.testing.assert_close(module(p), expected.mean())
    assert semantic_loss(kb, p[:0]).item() == 0.0


def test_descent_makes_the_rules_hold() -> None:
    kb = HARD["classes"]
    z = torch.zeros(1, kb.num_predicates, requires_grad=True)
    optimiser = torch.optim.Adam([z], lr=0.3)
    loss_of = SemanticLoss(kb, logits=True)
    for _ in range(150):
        optimiser.zero_grad()
        loss_of(z).backward()
        optimiser.step()
    world = (z.detach() > 0).numpy()[0]
    assert any((world == legal).all() for legal in cases.legal_worlds(kb))


def test_bad_input_is_named() -> None:
    kb = HARD["cycle"]
    for wrong, message in ((torch.rand(2, 3), "4 predicates"), (torch.full((1, 4), 1.5), "column 0")):
        with pytest.raises(InputError, match=message):
            semantic_loss(kb, wrong)
    with pytest.raises(InputError, match="NaN"):
        semantic_loss(kb, torch.tensor([[0.0, torch.nan, 0.0, 0.0]]), logits=True)
    with pytest.raises(InputError, match="reduction"):
        semantic_loss(kb, torch.rand(1, 4), reduction="median")  # type: ignore[arg-type]
