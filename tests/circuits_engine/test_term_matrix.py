"""The term matrix against direct sums over its terms, and against the circuit of the same terms."""

from __future__ import annotations

import importlib.util
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from neurosym.circuits import Circuit
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.ir import CircuitBuilder, CircuitIR


def circuit_of(terms: np.ndarray, constants: np.ndarray) -> CircuitIR:
    builder, rows = CircuitBuilder(), []
    for term, constant in zip(terms, constants, strict=True):
        literals = [builder.free(v) if s < 0 else builder.lit(v, bool(s)) for v, s in enumerate(term)]
        rows.append(builder.conj([*literals, builder.constant(float(constant))]))
    return builder.finish(builder.disj(rows), terms.shape[1])


def random_terms(rng: np.random.Generator, kind: str) -> np.ndarray:
    """Disjoint terms: with a block of classes first, last or none, with and without free variables."""
    k, a = int(rng.integers(2, 6)), int(rng.integers(1, 5))
    states = [0, 1] if kind.startswith("full") else [-1, 0, 1]
    rest = rng.choice(states, size=(k, a))
    if kind.endswith("none"):
        codes = rng.permutation(8)[:k]
        block = (codes[:, None] >> np.arange(3)) & 1
        return np.concatenate([block, rest], axis=1).astype(np.int8)
    block = np.eye(k, dtype=int)[rng.permutation(k)]
    if rng.random() < 0.5:
        block = block[:, :-1]  # the last term: none of the classes
    parts = [rest, block] if kind.endswith("last") else [block, rest]
    return np.concatenate(parts, axis=1).astype(np.int8)


KINDS = [f"{states}-{place}" for states in ("full", "free") for place in ("first", "last", "none")]


PATHS = ["terms", "matrix"]
HAS_NUMBA = importlib.util.find_spec("numba") is not None


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_against_the_circuit(kind: str, path: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    for trial in range(6):
        terms = random_terms(rng, kind)
        constants = rng.uniform(-1, 0.5, terms.shape[0]) if trial % 2 else np.zeros(terms.shape[0])
        matrix = TermMatrix(terms, constants)
        ir = circuit_of(terms, constants)
        fast, exact = Circuit(ir, engine=path, terms=matrix), Circuit(ir, engine="log")
        m = terms.shape[1]
        p = rng.uniform(0.02, 0.98, (6, m))
        pos, neg = p.copy(), (1 - p if trial % 3 else rng.uniform(0.1, 2, (6, m)))
        pos[4, rng.integers(m)] = 0.0
        neg[5, rng.integers(m)] = 0.0
        gain = torch.tensor(rng.standard_normal((6, m)))
        results = []
        for circuit in (fast, exact):
            x, y = (torch.tensor(w, requires_grad=True) for w in (pos, neg))
            value, q = circuit.log_wmc(x, y), circuit.marginals(x, y)
            alive = value.detach().isfinite()
            grads = [*torch.autograd.grad(value[alive].sum(), (x, y))]
            grads += torch.autograd.grad((q[alive] * gain[alive]).sum(), (x, y))
            results.append([value.detach(), q.detach(), *(g[alive] for g in grads)])
        best = [circuit.mpe(torch.tensor(pos), torch.tensor(neg)) for circuit in (fast, exact)]
        torch.testing.assert_close(best[0][1], best[1][1], rtol=1e-12, atol=1e-13)
        lives = best[1][1] > -torch.inf
        assert bool((best[0][0] == best[1][0])[lives].all())
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("path", PATHS)
def test_values_are_sums_over_terms(path: str) -> None:
    """An oracle without any circuit."""
    rng = np.random.default_rng(11)
    for kind in KINDS:
        terms = random_terms(rng, kind)
        matrix = TermMatrix(terms)
        pos, neg = rng.uniform(0.1, 1, (3, terms.shape[1])), rng.uniform(0.1, 1, (3, terms.shape[1]))
        by_state = {1: pos, 0: neg, -1: pos + neg}
        expected = np.zeros(3)
        for term in terms:
            expected += np.prod([by_state[int(s)][:, v] for v, s in enumerate(term)], axis=0)
        circuit = Circuit(circuit_of(terms, np.zeros(terms.shape[0])), engine=path, terms=matrix)
        np.testing.assert_allclose(circuit.wmc(torch.tensor(pos), torch.tensor(neg)), expected, rtol=1e-12)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_weights(dtype: torch.dtype, path: str) -> None:
    """Partial products and quotients that leave the range of the dtype."""
    k, a = 4, 60
    rng = np.random.default_rng(12)
    terms = np.concatenate([np.eye(k), rng.choice([0, 1], size=(k, a))], axis=1).astype(np.int8)
    ir = circuit_of(terms, np.zeros(k))
    p = torch.tensor(rng.choice([1e-30, 1e-8, 0.5, 1 - 1e-7], size=(50, k + a)))
    fast = Circuit(ir, dtype, engine=path, terms=TermMatrix(terms))
    low = p.to(dtype)
    exact = Circuit(ir, engine="log").log_wmc(low.double(), (1 - low).double())
    found = fast.log_wmc(low, 1 - low)
    assert bool(exact.isfinite().all()) == bool(found.isfinite().all())
    torch.testing.assert_close(found.double(), exact, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0.0)


@pytest.mark.parametrize("path", PATHS)
def test_large_sparse_terms(path: str) -> None:
    """A tree of 240 variables: a node is true with all above it; the indicators are kept sparse."""
    rng = np.random.default_rng(15)
    n = 240
    parent = [-1, *(int(rng.integers(max(0, i - 9), i)) for i in range(1, n - 1)), -1]
    terms = np.zeros((n, n), dtype=np.int8)  # the last variable is never true, the last term has none true
    for v in range(n - 1):
        at = v
        while at >= 0:
            terms[v, at], at = 1, parent[at]
    ir = circuit_of(terms, np.zeros(n))
    fast, exact = Circuit(ir, engine=path, terms=TermMatrix(terms)), Circuit(ir, engine="log")
    p = rng.uniform(0.001, 0.3, (40, n))
    p[:, 0] = rng.uniform(0.99, 1 - 1e-9, 40)
    gain = torch.tensor(rng.standard_normal((40, n)))
    results = []
    for circuit in (fast, exact):
        x, y = (torch.tensor(w, requires_grad=True) for w in (p, 1 - p))
        value, q = circuit.log_wmc(x, y), circuit.marginals(x, y)
        grads = torch.autograd.grad(value.sum(), (x, y)) + torch.autograd.grad((q * gain).sum(), (x, y))
        results.append([value.detach(), q.detach(), *grads])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def exact_slopes(
    terms: np.ndarray, pos: list[Fraction], neg: list[Fraction]
) -> tuple[Fraction, list[Fraction], list[Fraction]]:
    """Z and its derivatives, term by term, divided by Z."""
    by_state = {1: pos, 0: neg, -1: [a + b for a, b in zip(pos, neg, strict=True)]}
    on, off, total = [Fraction(0)] * len(pos), [Fraction(0)] * len(pos), Fraction(0)
    for term in terms.tolist():
        weight = math.prod(by_state[s][v] for v, s in enumerate(term))
        total += weight
        for v, s in enumerate(term):
            share = weight / by_state[s][v]
            on[v] += share if s in (1, -1) else 0
            off[v] += share if s in (0, -1) else 0
    return total, [x / total for x in on], [x / total for x in off]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_sure_sensors_in_fractions(kind: str, path: str) -> None:
    """Derivatives where one term has nearly everything, and a second nearly all of the rest: nothing cancels."""
    rng = np.random.default_rng(20 + KINDS.index(kind))
    for _ in range(8):
        terms = random_terms(rng, kind)
        m = terms.shape[1]
        p = rng.choice([1e-12, 1e-7, 1e-3, 0.4, 1 - 1e-4, 1 - 1e-9], size=(3, m))
        circuit = Circuit(circuit_of(terms, np.zeros(terms.shape[0])), engine=path, terms=TermMatrix(terms))
        x, y = torch.tensor(p, requires_grad=True), torch.tensor(1 - p, requires_grad=True)
        value = circuit.log_wmc(x, y)
        value.sum().backward()
        q = circuit.marginals(x, y).detach()
        for row in range(3):
            pos, neg = ([Fraction(v) for v in w[row].tolist()] for w in (p, 1 - p))
            total, on, off = exact_slopes(terms, pos, neg)
            assert value[row].item() == pytest.approx(float(math.log(total)), rel=1e-12, abs=1e-12)
            assert x.grad is not None
            assert y.grad is not None
            np.testing.assert_allclose(x.grad[row], [float(v) for v in on], rtol=1e-10, atol=1e-300)
            np.testing.assert_allclose(y.grad[row], [float(v) for v in off], rtol=1e-10, atol=1e-300)
            expected = [float(a * b) for a, b in zip(on, pos, strict=True)]
            np.testing.assert_allclose(q[row], expected, rtol=1e-10, atol=1e-300)


@pytest.mark.parametrize("path", PATHS)
def test_float32_is_right_to_float32(path: str) -> None:
    """Many variables: what the terms have in common costs the gradient of the marginals no digits."""
    rng = np.random.default_rng(31)
    terms = np.concatenate([np.eye(20), rng.choice([0, 1], size=(20, 300))], axis=1).astype(np.int8)
    ir = circuit_of(terms, np.zeros(20))
    fast = Circuit(ir, torch.float32, engine=path, terms=TermMatrix(terms))
    exact = Circuit(ir, torch.float64, engine="log")
    p, gain = rng.uniform(0.3, 0.7, (8, 320)).astype(np.float32), torch.tensor(rng.standard_normal((8, 320)))
    grads = []
    for circuit, dtype in ((fast, torch.float32), (exact, torch.float64)):
        x = torch.tensor(p, dtype=dtype, requires_grad=True)
        q = circuit.marginals(x, 1 - x)
        (q * gain.to(dtype)).sum().backward()
        assert x.grad is not None
        grads.append((q.detach().double(), x.grad.double()))
    # the matrix product rounds sums of 300 logs, of size up to ten
    digits = 3e-7 if path == "terms" and HAS_NUMBA else 2e-5
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=digits, atol=digits)
    torch.testing.assert_close(grads[0][1], grads[1][1], rtol=10 * digits, atol=10 * digits)
