"""Constants beyond the range of floats, copies, inference mode, autocast, threads, and errors of use."""

from __future__ import annotations

import copy
import importlib.util
import math
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from neurosym.circuits import Circuit, CircuitLayer
from neurosym.circuits import compile as compile_knowledge
from neurosym.circuits.compilers.runs import runs_of_terms, runs_to_ir
from neurosym.circuits.engine.terms import TermMatrix
from neurosym.circuits.ir import CircuitBuilder
from neurosym.errors import InputError
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule

HAS_NUMBA = importlib.util.find_spec("numba") is not None
PATHS = [
    "log",
    "numpy",
    "torch",
    pytest.param("numba", marks=pytest.mark.skipif(not HAS_NUMBA, reason="numba is not installed")),
    "auto",
]


def two_worlds(first: float, second: float) -> Circuit:
    """x with a constant, or not x with another, given by their logs; the constants are in this order."""
    builder = CircuitBuilder()
    on = builder.conj((builder.lit(0, True), builder.constant(first)))
    off = builder.conj((builder.lit(0, False), builder.constant(second)))
    return Circuit(builder.finish(builder.disj((on, off)), 1))


def hierarchy(classes: int, groups: int) -> tuple[np.ndarray, Circuit]:
    """One of many classes, each in a group: terms int8[K, m], sparse enough for masses by complement."""
    terms = np.zeros((classes, classes + groups), dtype=np.int8)
    terms[np.arange(classes), np.arange(classes)] = 1
    terms[np.arange(classes), classes + np.arange(classes) % groups] = 1
    ir = runs_to_ir(runs_of_terms(terms, np.zeros(classes)))
    return terms, Circuit(ir, terms=TermMatrix(terms))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("size", [-5000.0, -800.0, -740.0, -100.0, 100.0, 800.0])
@pytest.mark.parametrize("rows", [1, 17])
def test_constants_outside_the_range_of_floats(path: str, dtype: torch.dtype, size: float, rows: int) -> None:
    circuit = two_worlds(size, size - 1.0).with_engine(path, dtype)
    half = torch.full((rows, 1), 0.5, dtype=dtype)
    tolerance = 1e-13 if dtype == torch.float64 else 1e-6
    log_z = size + math.log(0.5) + math.log1p(math.exp(-1.0))
    share = 1 / (1 + math.exp(-1.0))
    assert circuit.log_wmc(half, half)[0].item() == pytest.approx(log_z, rel=tolerance)
    assert circuit.marginals(half, half)[-1].item() == pytest.approx(share, rel=10 * tolerance)
    world, weight = circuit.mpe(half, half)
    assert world.all()
    assert weight[0].item() == pytest.approx(size + math.log(0.5), rel=tolerance)
    logs = circuit.log_derivatives(half, half)
    assert logs.log_on[0].item() == pytest.approx(size, rel=tolerance)
    assert logs.log_constant.exp().sum(dim=1) == pytest.approx([1.0] * rows, rel=tolerance)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("dtype", "size"), [(torch.float64, -800.0), (torch.float32, -100.0), (torch.float32, 100.0)])
def test_gradient_by_constants_outside_the_range(path: str, own: bool, dtype: torch.dtype, size: float) -> None:
    circuit = two_worlds(1.0, 2.0).with_engine(path, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6
    first = int(circuit.log_constants.argmin())
    logs = torch.full((3, 2) if own else (2,), size - 1, dtype=torch.float64)
    logs[..., first] = size
    logs.requires_grad_()
    half = torch.full((3, 1), 0.5, dtype=torch.float64)
    share = 1 / (1 + math.exp(-1.0))
    rows = 1 if own else 3
    (by_value,) = torch.autograd.grad(circuit.log_wmc(half, half, logs).sum(), logs)
    assert by_value[..., first].flatten()[0].item() == pytest.approx(rows * share, rel=tolerance)
    (by_share,) = torch.autograd.grad(circuit.marginals(half, half, logs).sum(), logs)
    assert abs(by_share[..., first].flatten()[0].item()) == pytest.approx(rows * share * (1 - share), rel=tolerance)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_used_circuits_can_be_copied(copied: Callable[[Circuit], Circuit]) -> None:
    _, circuit = hierarchy(6, 2)
    p = torch.rand(20, 8, dtype=torch.float64)
    for path in ("auto", "terms", "torch", "numpy", "log"):
        used = circuit.with_engine(path)
        before = used.marginals(p, 1 - p)
        assert torch.equal(copied(used).marginals(p, 1 - p), before)


@pytest.mark.parametrize("path", [*PATHS, "terms"])
def test_training_after_inference_mode(path: str) -> None:
    circuit = hierarchy(6, 2)[1].with_engine(path)
    p = torch.rand(20, 8, dtype=torch.float64)
    with torch.inference_mode():
        first = circuit.marginals(p, 1 - p) + circuit.log_wmc(p, 1 - p)[:, None]
    leaf = p.clone().requires_grad_()
    again = circuit.marginals(leaf, 1 - leaf) + circuit.log_wmc(leaf, 1 - leaf)[:, None]
    again.sum().backward()
    assert torch.allclose(first, again.detach(), rtol=1e-12)
    assert leaf.grad is not None
    assert leaf.grad.isfinite().all()


def test_a_layer_trains_after_inference_mode() -> None:
    rules = (Rule.from_text("a -> d", math.inf), Rule.from_text("b -> e"), Rule.from_text("c -> ~d", 2.0))
    groups = (Group("one", "exactly_one", ("a", "b", "c")),)
    layer = CircuitLayer(compile_knowledge(KnowledgeBase(("a", "b", "c"), ("d", "e"), rules, groups)))
    p = torch.rand(4, 5)
    with torch.inference_mode():
        first = layer(p)
    leaf = p.clone().requires_grad_()
    again = layer(leaf)
    again.sum().backward()
    assert torch.equal(first, again.detach())
    assert leaf.grad is not None
    assert torch.equal(copy.deepcopy(layer)(p), first)


def test_autocast_leaves_the_precision_alone() -> None:
    circuit = hierarchy(300, 20)[1].with_engine("terms", torch.float32)
    p = torch.rand(10, 320, generator=torch.Generator().manual_seed(0))
    plain = circuit.marginals(p, 1 - p), circuit.log_wmc(p, 1 - p)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = circuit.marginals(p, 1 - p), circuit.log_wmc(p, 1 - p)
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


def _by_definition(terms: np.ndarray, p: Tensor, gain: Tensor) -> np.ndarray:
    """Gradient of sum_j gain_j P(x_j) by the weights of false literals, in extended precision."""
    pos, gains = (x.numpy().astype(np.longdouble) for x in (p, gain))
    neg = (1 - p).numpy().astype(np.longdouble)
    true, false = ((terms == side).astype(np.longdouble) for side in (1, 0))
    weight = np.exp(np.log(pos) @ true.T + np.log(neg) @ false.T)
    share = weight / weight.sum(axis=1, keepdims=True)
    given = gains @ true.T
    moved = share * (given - (share * given).sum(axis=1, keepdims=True))
    return (moved @ false) / neg


def test_gradient_by_a_small_weight_of_false_through_the_term_matrix() -> None:
    terms, circuit = hierarchy(300, 20)
    generator = torch.Generator().manual_seed(0)
    p = torch.full((10, 320), 0.5, dtype=torch.float64)
    p[:, [5, 305]] = 1 - 2.0**-40
    gain = torch.randn(10, 320, generator=generator, dtype=torch.float64)
    neg = (1 - p).requires_grad_()
    (circuit.with_engine("terms").marginals(p, neg) * gain).sum().backward()
    assert neg.grad is not None
    np.testing.assert_allclose(neg.grad.numpy(), _by_definition(terms, p, gain).astype(float), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("middle", [[1e-160, 1e-163, 1e300], [1e-160, 1e300, 1e-163], [1e300, 1e-160, 1e-163]])
@pytest.mark.parametrize("odd", [0, 1, 3, 5])
def test_products_that_pass_the_range_on_the_way(middle: list[float], odd: int) -> None:
    # all false: the weights of false are multiplied in pairs, 1e-323 has few digits left
    m = len(middle) + odd
    terms = np.zeros((1, m), dtype=np.int8)
    ir = runs_to_ir(runs_of_terms(terms, np.zeros(1)))
    neg = torch.tensor([middle + [0.75] * odd], dtype=torch.float64).expand(4, m)
    found = Circuit(ir, engine="terms", terms=TermMatrix(terms)).log_wmc(torch.ones(4, m), neg)
    exact = math.fsum(map(math.log, neg[0].tolist()))
    assert found.tolist() == pytest.approx([exact] * 4, rel=1e-13)


def test_a_second_derivative_is_an_error_not_zero() -> None:
    circuit = two_worlds(0.0, 1.0)
    p = torch.full((3, 1), 0.5, dtype=torch.float64, requires_grad=True)
    for value in (circuit.log_wmc(p, 1 - p), circuit.marginals(p, 1 - p)):
        (grad,) = torch.autograd.grad(value.sum(), p, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            grad.sum().backward()


def test_shapes_that_do_not_broadcast_are_named() -> None:
    circuit = two_worlds(0.0, 1.0)
    with pytest.raises(InputError, match=r"\(4, 1\) and \(5, 1\)"):
        circuit.log_wmc(torch.ones(4, 1), torch.ones(5, 1))
    with pytest.raises(InputError, match=r"\(4,\) and \(5,\)"):
        circuit.log_wmc(torch.ones(4, 1), torch.ones(4, 1), torch.zeros(5, 1))


@pytest.mark.parametrize("rows", [1, 17])
@pytest.mark.parametrize("path", PATHS)
def test_gradients_at_subnormal_weights_are_numbers(path: str, rows: int) -> None:
    builder = CircuitBuilder()
    circuit = Circuit(builder.finish(builder.conj((builder.free(0), builder.lit(1, True))), 2), engine=path)
    pos = torch.full((rows, 2), 5e-324, dtype=torch.float64, requires_grad=True)
    circuit.marginals(pos, pos.detach())[:, 1].sum().backward()
    assert pos.grad is not None
    assert (pos.grad == 0).all()


@pytest.mark.parametrize("rows", [2, 17])
@pytest.mark.parametrize("path", PATHS)
def test_masked_rows_without_a_world_leave_the_gradients_of_shared_weights_alone(path: str, rows: int) -> None:
    builder = CircuitBuilder()
    circuit = Circuit(builder.finish(builder.conj((builder.free(0), builder.lit(1, True))), 2), engine=path)
    pos = torch.full((rows, 2), 0.25, dtype=torch.float64)
    pos[0, 1] = 0.0
    shared = torch.tensor([0.75, 0.75], dtype=torch.float64, requires_grad=True)
    found = circuit.marginals(pos, shared)
    assert found[0].isnan().all()
    torch.where(found.isnan(), 0.0, found).sum().backward()
    # P(x_0) = pos / (pos + neg) in all rows but the first
    expected = torch.tensor([-(rows - 1) * 0.25, 0.0], dtype=torch.float64)
    torch.testing.assert_close(shared.grad, expected, rtol=1e-12, atol=0.0)


def test_several_threads_at_once() -> None:
    _, circuit = hierarchy(40, 5)
    p = torch.rand(200, 45, dtype=torch.float64)
    expected = circuit.with_engine("log").marginals(p, 1 - p)
    found: list[bool] = []

    def work(own: Circuit) -> None:
        leaf = p.clone().requires_grad_()
        out = own.marginals(leaf, 1 - leaf)
        out.sum().backward()
        found.append(torch.allclose(out.detach(), expected, rtol=1e-9))

    shared = [circuit.with_engine(path) for path in ("auto", "torch", "numpy", "terms")]
    threads = [threading.Thread(target=work, args=(own,)) for own in shared * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * len(threads)
