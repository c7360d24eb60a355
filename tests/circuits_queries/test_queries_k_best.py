"""The k best worlds against sorted enumeration."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import (
    InconsistentEvidence,
    circuit_k_best,
    compile,
    k_best,
    log_wmc,
    model_count,
    mpe,
    part_circuit,
)
from neurosym.circuits.queries import kbest
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parent))

import query_cases as cases
from random_knowledge import random_knowledge


def _index(worlds: torch.Tensor) -> np.ndarray:
    """Number of each world, [..., m] -> [...]."""
    return (worlds.numpy() * (1 << np.arange(worlds.shape[-1]))).sum(axis=-1)


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
@pytest.mark.parametrize("k", [1, 3, 10, 200])
def test_against_sorted_enumeration(case: cases.Case, k: int) -> None:
    rng = np.random.default_rng(11)
    m = case.num_variables
    pos, neg = cases.random_weights(rng, 4, m)
    evidence = cases.random_evidence(rng, 4, m)
    for known in (None, evidence):
        mass = case.masses(pos, neg) * (1 if known is None else cases.allowed(case, known))
        got = circuit_k_best(case.circuit, pos, neg, k, evidence=known)
        assert got.worlds.shape == (4, k, m)
        for row in range(4):
            n = min(k, int((mass[row] > 0).sum()))
            assert got.found[row] == n
            assert (got.log_weight[row, n:] == -torch.inf).all()
            assert not got.worlds[row, n:].any()
            chosen = _index(got.worlds[row, :n])
            assert len(set(chosen.tolist())) == n
            weight = got.log_weight[row, :n].exp().numpy()
            np.testing.assert_allclose(weight, mass[row][chosen], rtol=1e-12)
            np.testing.assert_allclose(weight, np.sort(mass[row])[::-1][:n], rtol=1e-12)


@pytest.mark.parametrize("seed", range(10))
def test_knowledge_bases(seed: int) -> None:
    import worlds as oracle

    rng = np.random.default_rng(300 + seed)
    kb = random_knowledge(rng, 8)
    v = kb.num_predicates
    p = rng.random((3, v))
    evidence = cases.random_evidence(rng, 3, v)
    for circuit, kind in (("rules", "binary"), ("exclusive", "categorical")):
        compiled = compile(kb, circuit, kind)
        for r in range(len(compiled.parts)):
            mass = np.stack([oracle.part_weights(kb, row, circuit, kind)[r][2] for row in p])
            mass *= (
                ((evidence[:, None] == -1) | (torch.from_numpy(oracle.worlds(v)) == evidence[:, None])).all(-1).numpy()
            )
            if (mass.sum(axis=1) == 0).any():
                with pytest.raises(InconsistentEvidence, match=f"row {int((mass.sum(axis=1) == 0).argmax())}:"):
                    k_best(compiled, torch.from_numpy(p), 6, part=r, evidence=evidence)
                continue
            got = k_best(compiled, torch.from_numpy(p), 6, part=r, evidence=evidence)
            top = np.sort(mass, axis=1)[:, ::-1][:, :6]
            np.testing.assert_allclose(got.log_weight.exp().numpy()[:, : top.shape[1]], top, rtol=1e-11)
            picked = np.take_along_axis(mass, _index(got.worlds), axis=1)
            np.testing.assert_allclose(
                np.where(got.log_weight > -math.inf, picked, 0)[:, : top.shape[1]], top, rtol=1e-11
            )
            best = mpe(compiled, torch.from_numpy(p), part=r, evidence=evidence)
            torch.testing.assert_close(best.log_weight, got.log_weight[:, 0], rtol=0, atol=1e-12)


def test_many_free_predicates_and_ties() -> None:
    """Forty sensors at 1/2 and one at 0.9: all worlds tie in two blocks; the answer is distinct and repeatable."""
    names = tuple(f"x{i}" for i in range(41))
    kb = KnowledgeBase(names, (), (Rule(parse("x0 | x1"), math.inf),))
    p = torch.full((2, 41), 0.5, dtype=torch.float64)
    p[1, 40] = 0.9
    first, second = (k_best(kb, p, 50) for _ in range(2))
    assert torch.equal(first.worlds, second.worlds)
    assert len({tuple(w.tolist()) for w in first.worlds[0]}) == 50
    assert bool((first.worlds[..., 0] | first.worlds[..., 1]).all())
    assert first.worlds[1, :, 40].all()
    np.testing.assert_allclose(first.log_weight[0].numpy(), 41 * math.log(0.5), rtol=1e-13)
    np.testing.assert_allclose(first.log_weight[1].numpy(), 40 * math.log(0.5) + math.log(0.9), rtol=1e-13)


def test_all_worlds_add_up_to_the_count() -> None:
    kb = KnowledgeBase(("a", "b"), ("c", "d"), (Rule(parse("a -> c"), 0.7), Rule(parse("b <-> d"), math.inf)))
    p = torch.tensor([0.2, 0.6, 0.7, 0.4], dtype=torch.float64)
    got = k_best(kb, p, 16)
    assert got.found == 8
    assert torch.logsumexp(got.log_weight, dim=-1).item() == pytest.approx(log_wmc(kb, p).item(), abs=1e-13)
    assert (got.log_weight.diff()[:7] <= 0).all()


def test_a_component_without_a_world_among_others() -> None:
    rules = (Rule(parse("a & false"), math.inf), Rule(parse("b -> c"), math.inf))
    kb = KnowledgeBase(("a", "b"), ("c", "d"), rules)
    with pytest.raises(InconsistentEvidence, match="row 0: "):
        k_best(kb, torch.full((2, 4), 0.5), 3)
    assert model_count(kb) == 0
    half = torch.full((4,), 0.5, dtype=torch.float64)
    circuit = part_circuit(kb)
    assert circuit.log_wmc(half, half).item() == -math.inf
    assert circuit_k_best(circuit, half, half, 3).found.item() == 0


def test_shapes_dtypes_chunks_and_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    p = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    whole = k_best(kb, p, 2)
    assert whole.worlds.shape == (2, 3, 2, 2)
    assert whole.log_weight.dtype == torch.float32
    monkeypatch.setattr(kbest, "CHUNK_RANKS", 1)
    chunked = k_best(kb, p, 2)
    assert torch.equal(whole.worlds, chunked.worlds)
    assert torch.equal(whole.log_weight, chunked.log_weight)
    assert k_best(kb, p[:0], 2).worlds.shape == (0, 3, 2, 2)
    with pytest.raises(InputError, match="k is 0"):
        k_best(kb, p, 0)
    with pytest.raises(InconsistentEvidence, match=r"row 0: .* under the given evidence"):
        k_best(kb, p, 2, evidence={"a": True, "b": False})
    circuit = cases.CASES[0].circuit
    with pytest.raises(InputError, match="pos: row 0, column 0 is -1"):
        circuit_k_best(circuit, -torch.ones(circuit.num_variables), torch.ones(circuit.num_variables), 2)
