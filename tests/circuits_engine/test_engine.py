"""Every evaluation path against exact sums over worlds in fractions."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from table_circuits import TableCircuit, random_circuit
from torch import Tensor

from neurosym.circuits import Circuit
from neurosym.circuits.engine.program import build_program
from neurosym.circuits.ir import CircuitBuilder
from neurosym.errors import InputError

HAS_NUMBA = importlib.util.find_spec("numba") is not None
PATHS = [
    "log",
    "numpy",
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")),
    "auto",
]


def cases(seed: int, count: int) -> list[TableCircuit]:
    rng = np.random.default_rng(seed)
    shapes = [(1,), (2,), (3, 1), (4,), (2, 2, 2), (5, 1), (1, 1, 1, 1)]
    values = [(0.0, 1.0), (0.0, 0.25, 1.0), (0.5, 1.0, 3.0)]
    found = [random_circuit(rng, shapes[i % len(shapes)], values[i % len(values)]) for i in range(count)]
    return [case for case in found if case.table.any()]


def weights(rng: np.random.Generator, m: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, unnormalised weights, and weights of 0 in turn."""
    pos, neg = rng.uniform(0.05, 1, (rows, m)), rng.uniform(0.05, 1, (rows, m))
    neg[0] = 1 - pos[0] * 0.9
    pos[0] *= 0.9
    pos[1] *= 50
    pos[2, 0], neg[3, -1] = 0.0, 0.0
    return pos, neg


def same(found: Tensor, exact: list[float], tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, torch.tensor(exact, dtype=torch.float64), rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("path", PATHS)
def test_values_and_derivatives_are_exact(path: str) -> None:
    rng = np.random.default_rng(1)
    for case in cases(2, 24):
        circuit, m = Circuit(case.ir, engine=path), case.table.ndim
        pos, neg = weights(rng, m, 4)
        found = circuit.wmc(*(torch.tensor(w) for w in (pos, neg)))
        exact = [case.total(p, n) for p, n in zip(pos, neg, strict=True)]
        same(found, [float(x) for x in exact])
        logs = circuit.log_derivatives(torch.tensor(pos), torch.tensor(neg))
        for row in range(4):
            for j in range(m):
                for side, out in ((True, logs.log_on), (False, logs.log_off)):
                    same(out[row, j].exp(), float(case.total(pos[row], neg[row], {j: side})))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS)
def test_marginals_and_their_gradient(path: str) -> None:
    rng = np.random.default_rng(3)
    for case in cases(4, 14):
        circuit, m = Circuit(case.ir, engine=path), case.table.ndim
        pos, neg = weights(rng, m, 4)
        found = circuit.marginals(torch.tensor(pos), torch.tensor(neg))
        for row in range(4):
            total = case.total(pos[row], neg[row])
            for j in range(m):
                if not total:
                    assert math.isnan(float(found[row, j]))
                    continue
                share = case.total(pos[row], neg[row], {j: True}) * float(pos[row, j]).as_integer_ratio()[0]
                share /= float(pos[row, j]).as_integer_ratio()[1]
                same(found[row, j], float(share / total))  # type: ignore[arg-type]
        good = [row for row in (0, 1) if case.total(pos[row], neg[row])]
        if good:
            inside = [torch.tensor(w[good], requires_grad=True) for w in (pos, neg)]
            assert torch.autograd.gradcheck(circuit.marginals, inside)
            assert torch.autograd.gradcheck(circuit.log_wmc, inside)


@pytest.mark.parametrize("path", PATHS)
def test_the_heaviest_world(path: str) -> None:
    rng = np.random.default_rng(13)
    for case in cases(14, 20):
        circuit, m = Circuit(case.ir, engine=path), case.table.ndim
        pos, neg = weights(rng, m, 4)
        world, log_weight = circuit.mpe(torch.tensor(pos), torch.tensor(neg))
        for row in range(4):
            products = {
                w: float(case.table[w]) * math.prod(pos[row, j] if b else neg[row, j] for j, b in enumerate(w))
                for w in np.ndindex(case.table.shape)
            }
            best = max(products.values())
            assert math.exp(log_weight[row]) == pytest.approx(best, rel=1e-12)
            if best:
                assert products[tuple(world[row].long().tolist())] == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("path", PATHS)
def test_gradient_at_weights_of_zero_and_one(path: str) -> None:
    """d log Z / dw = Z(literal) / Z, exactly, also for w = 0."""
    rng = np.random.default_rng(5)
    for case in cases(6, 14):
        circuit, m = Circuit(case.ir, engine=path), case.table.ndim
        p = rng.choice([0.0, 1.0, 0.3], (3, m))
        pos, neg = (torch.tensor(w, requires_grad=True) for w in (p, 1 - p))
        value = circuit.log_wmc(pos, neg)
        value.sum().backward()
        for row in range(3):
            total = case.total(p[row], 1 - p[row])
            if not total:
                assert value[row] == -torch.inf
                continue
            for j in range(m):
                for grad, side in ((pos.grad, True), (neg.grad, False)):
                    assert grad is not None
                    same(grad[row, j], float(case.total(p[row], 1 - p[row], {j: side}) / total))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", PATHS)
def test_constants_of_each_row(path: str) -> None:
    case = random_circuit(np.random.default_rng(7), (3, 2), (0.25, 0.5, 1.0))
    circuit = Circuit(case.ir, engine=path)
    pos, neg = (torch.rand(3, 5, dtype=torch.float64) for _ in range(2))
    own = circuit.log_constants.expand(3, -1).clone().requires_grad_(True)
    torch.testing.assert_close(circuit.log_wmc(pos, neg, own), circuit.log_wmc(pos, neg))
    torch.testing.assert_close(circuit.marginals(pos, neg, own), circuit.marginals(pos, neg))
    assert torch.autograd.gradcheck(lambda c: circuit.log_wmc(pos, neg, c), [own])
    assert torch.autograd.gradcheck(lambda c: circuit.marginals(pos, neg, c), [own])
    shared = circuit.log_constants.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda c: circuit.log_wmc(pos, neg, c), [shared])


def chain(length: int) -> Circuit:
    """x_0, and any values of the others: the value is pos_0 times the product of pos_j + neg_j."""
    builder = CircuitBuilder()
    node = builder.lit(0, True)
    for j in range(1, length):
        node = builder.conj([node, builder.disj([builder.lit(j, True), builder.conj([builder.lit(j, False)])])])
    return Circuit(builder.finish(node, length))


@pytest.mark.parametrize("path", PATHS)
def test_what_underflows_is_computed_again(path: str) -> None:
    """A product of 400 weights of 1e-3 is 1e-1200: the plain arithmetic cannot hold it."""
    builder = CircuitBuilder()
    ir = builder.finish(builder.conj([builder.lit(j, True) for j in range(400)]), 400)
    circuit = Circuit(ir, engine=path)
    p = torch.full((3, 400), 1e-3, dtype=torch.float64)
    p[1] = 0.9999
    p[2, 5] = 0.0
    pos = p.clone().requires_grad_(True)
    value = circuit.log_wmc(pos, 1 - p)
    same(value[:2].detach(), [400 * math.log(1e-3), 400 * math.log(0.9999)])
    assert value[2] == -torch.inf
    value[:2].sum().backward()
    torch.testing.assert_close(pos.grad[:2], 1 / p[:2])  # type: ignore[index]
    logs = circuit.log_derivatives(p, 1 - p)
    same(logs.log_on[0, 3], 399 * math.log(1e-3))  # type: ignore[arg-type]
    same(logs.log_on[2, 5], float(399 * math.log(1e-3)))  # type: ignore[arg-type]
    assert bool((logs.log_off == -torch.inf).all())


@pytest.mark.parametrize("path", PATHS)
def test_float32(path: str) -> None:
    rng = np.random.default_rng(8)
    for case in cases(9, 10):
        m = case.table.ndim
        pos, neg = (torch.tensor(rng.uniform(0.05, 1, (5, m)), dtype=torch.float32) for _ in range(2))
        fine, coarse = Circuit(case.ir, engine=path), Circuit(case.ir, torch.float32, engine=path)
        for name in ("log_wmc", "marginals"):
            found = getattr(coarse, name)(pos, neg)
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), getattr(fine, name)(pos, neg), rtol=2e-5, atol=2e-5)


def test_constants_above_one_do_not_spoil_the_floor() -> None:
    """Two disjoint worlds, one of weight exp(600): plain arithmetic would lose the other's derivative."""
    builder = CircuitBuilder()
    big = builder.conj([builder.lit(0, True), builder.constant(600.0)])
    ir = builder.finish(builder.disj([big, builder.lit(0, False)]), 1)
    pos, neg = torch.tensor([[1e-300]]).double(), torch.tensor([[1.0]]).double()
    exact = math.log(1.0 + math.exp(600.0) * 1e-300)
    for path in ("auto", "numpy", "torch", "log"):
        assert Circuit(ir, engine=path).log_wmc(pos, neg).item() == pytest.approx(exact, rel=1e-12)


@pytest.mark.parametrize("leaf", ["true", "false", "literal", "nothing"])
def test_circuits_without_inner_nodes(leaf: str) -> None:
    builder = CircuitBuilder()
    root = {"true": builder.one, "false": builder.zero}.get(leaf, builder.lit(0, False))
    m = 0 if leaf in ("true", "false", "nothing") else 1
    circuit = Circuit(builder.finish(builder.one if leaf == "nothing" else root, m))
    pos, neg = torch.full((2, m), 0.25).double(), torch.full((2, m), 0.75).double()
    expected = {"true": 0.0, "nothing": 0.0, "false": -math.inf, "literal": math.log(0.75)}[leaf]
    assert circuit.log_wmc(pos, neg).tolist() == pytest.approx([expected] * 2)
    assert circuit.marginals(pos, neg).shape == (2, m)


def test_programs_are_in_order() -> None:
    """Factors come from earlier levels, rows are in range, and every node has an element."""
    for case in cases(10, 20):
        program = build_program(case.ir)
        level = np.zeros(program.num_rows, dtype=int)
        level[program.first :] = np.repeat(np.arange(program.depth) + 1, np.diff(program.level_offsets))
        owner = program.first + np.repeat(np.arange(program.num_nodes), np.diff(program.offsets))
        assert (np.diff(program.offsets) > 0).all()
        for side in (program.left, program.right):
            assert side.size == owner.size
            assert (side >= 0).all()
            assert (level[side] < level[owner]).all()


def test_bad_arguments() -> None:
    circuit = chain(3)
    with pytest.raises(InputError, match="engine 'fast' is unknown"):
        Circuit(circuit.ir, engine="fast")
    with pytest.raises(InputError, match="dtype"):
        Circuit(circuit.ir, torch.float16)
    with pytest.raises(InputError, match="needs a circuit with few disjoint terms"):
        Circuit(circuit.ir, engine="terms")
    with pytest.raises(InputError, match="3 variables"):
        circuit.log_wmc(torch.rand(2, 4), torch.rand(2, 4))
    with pytest.raises(InputError, match="log_constants"):
        circuit.log_wmc(torch.rand(2, 3), torch.rand(2, 3), torch.zeros(7))


def test_any_leading_shape() -> None:
    circuit = chain(3)
    pos, neg = torch.rand(2, 4, 3).double(), torch.rand(3).double()
    assert circuit.log_wmc(pos, neg).shape == (2, 4)
    assert circuit.marginals(pos[0, 0], neg).shape == (3,)
    assert circuit.marginals(pos[:0], neg).shape == (0, 4, 3)
