"""Circuits in semirings: every instance against enumeration, laws, morphisms, intervals that enclose exact values."""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurosym.circuits import Morphism, Semiring, compile, evaluate_semiring, log_wmc
from neurosym.circuits.ir import CircuitBuilder
from neurosym.circuits.queries import semirings as s
from neurosym.errors import InputError
from neurosym.logic.formula import Implies, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule

sys.path.insert(0, str(Path(__file__).resolve().parent))

import query_cases as cases

HARD = [case for case in cases.EVERY if all(v in (0, 1) for v in case.worlds)]


def _by_enumeration(case: cases.Case, semiring: Semiring, pos: list[Any], neg: list[Any]) -> Any:
    """The definition: sum over worlds of the product of literals (for circuits of constants 0 and 1)."""
    total = semiring.zero
    for value, world in zip(case.worlds, case.grid(), strict=True):
        if value:
            literals = [a if true else b for true, a, b in zip(world, pos, neg, strict=True)]
            total = semiring.add(total, reduce(semiring.mul, literals, semiring.one))
    return total


def _draw(semiring: Semiring, rng: random.Random) -> Any:
    number = Fraction(rng.randint(0, 12), rng.randint(1, 7))
    if semiring is s.BOOLEAN:
        return rng.random() < 0.6
    if semiring is s.COUNTING:
        return rng.randint(0, 4)
    if semiring in (s.LOG, s.MAX_LOG):
        return s.REAL_TO_LOG(float(number))
    return number


@pytest.mark.parametrize("case", HARD, ids=lambda c: c.name)
def test_objects_and_tensors_against_enumeration(case: cases.Case) -> None:
    rng = random.Random(1)
    m = case.num_variables
    exact = (s.REAL, s.MAX_PRODUCT, s.MIN_PLUS, s.BOOLEAN, s.COUNTING, s.RATIONAL)
    for semiring in (*exact, s.LOG, s.MAX_LOG):
        rows = [[[_draw(semiring, rng) for _ in range(m)] for _ in range(2)] for _ in range(3)]
        expected = [_by_enumeration(case, semiring, pos, neg) for pos, neg in rows]
        got = [evaluate_semiring(case.circuit, semiring, pos, neg, verify=True) for pos, neg in rows]
        assert got == expected if semiring in exact else got == pytest.approx(expected, abs=1e-12)
        if semiring in (s.COUNTING, s.RATIONAL):
            continue
        dtype = torch.bool if semiring is s.BOOLEAN else torch.float64
        pos, neg = (torch.tensor([row[i] for row in rows], dtype=dtype).reshape(3, 1, m) for i in range(2))
        batched = evaluate_semiring(case.circuit.ir, semiring, pos, neg)
        assert batched.shape == (3, 1)
        assert batched.dtype == dtype
        assert batched[:, 0].tolist() == pytest.approx([float(x) for x in expected], rel=1e-12, abs=1e-12)


def test_laws() -> None:
    """Neutral elements, absorption, commutativity, associativity, distributivity, idempotence where claimed."""
    rng = random.Random(4)
    for semiring in (s.REAL, s.LOG, s.MAX_PRODUCT, s.MAX_LOG, s.MIN_PLUS, s.BOOLEAN, s.COUNTING, s.RATIONAL):
        add, mul, zero, one = semiring.add, semiring.mul, semiring.zero, semiring.one
        near: Callable[[Any], Any] = lambda x: pytest.approx(x, abs=1e-12)  # noqa: E731
        for _ in range(20):
            a, b, c = (_draw(semiring, rng) for _ in range(3))
            assert add(a, zero) == near(a)
            assert mul(a, one) == near(a)
            assert mul(a, zero) == near(zero)
            assert add(a, b) == near(add(b, a))
            assert mul(a, b) == near(mul(b, a))
            assert add(a, add(b, c)) == near(add(add(a, b), c))
            assert mul(a, mul(b, c)) == near(mul(mul(a, b), c))
            assert mul(a, add(b, c)) == near(add(mul(a, b), mul(a, c)))
            assert not semiring.idempotent or add(a, a) == near(a)


def test_morphisms_commute_where_they_say_so() -> None:
    rng = random.Random(5)
    to_log_best = s.REAL_TO_MAX_PRODUCT.then(s.MAX_PRODUCT_TO_MAX_LOG)
    for morphism in (
        s.REAL_TO_LOG,
        s.LOG_TO_REAL,
        s.MAX_PRODUCT_TO_MAX_LOG,
        s.REAL_TO_BOOLEAN,
        s.COUNTING_TO_RATIONAL,
        s.COUNTING_TO_BOOLEAN,
        s.RATIONAL_TO_REAL,
    ):
        assert morphism.homomorphism
        for _ in range(20):
            a, b = (_draw(morphism.source, rng) for _ in range(2))
            for op, image in ((morphism.source.add, morphism.target.add), (morphism.source.mul, morphism.target.mul)):
                assert morphism(op(a, b)) == pytest.approx(image(morphism(a), morphism(b)), rel=1e-12, abs=1e-12)
    assert not to_log_best.homomorphism
    assert to_log_best(2.0) == math.log(2.0)
    assert to_log_best([0.0, 1.0]) == [-math.inf, 0.0]
    with pytest.raises(InputError, match="cannot be followed by one from 'real'"):
        s.REAL_TO_LOG.then(s.REAL_TO_LOG)


@pytest.mark.parametrize("case", cases.CASES[::3], ids=lambda c: c.name)
def test_weights_travel_through_a_morphism(case: cases.Case) -> None:
    pos, neg = cases.random_weights(np.random.default_rng(8), 4, case.num_variables)
    mass = case.masses(pos, neg)
    for morphism, expected in (
        (s.REAL_TO_LOG, mass.sum(axis=1)),
        (s.REAL_TO_MAX_PRODUCT.then(s.MAX_PRODUCT_TO_MAX_LOG), mass.max(axis=1)),
    ):
        got = evaluate_semiring(case.circuit, morphism, pos, neg)
        np.testing.assert_allclose(got.exp().numpy(), expected, rtol=1e-12)
        objects = evaluate_semiring(case.circuit, morphism, pos[0].tolist(), neg[0].tolist())
        assert objects == pytest.approx(got[0].item(), abs=1e-12)
    found = evaluate_semiring(case.circuit, s.REAL_TO_BOOLEAN, pos, neg)
    assert found.tolist() == (mass.sum(axis=1) > 0).tolist()
    rational = evaluate_semiring(case.circuit, s.REAL_TO_RATIONAL, pos[1].tolist(), neg[1].tolist())
    assert float(rational) == pytest.approx(mass[1].sum(), rel=1e-13)


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
def test_intervals_enclose_the_exact_value(case: cases.Case) -> None:
    """Points: the exact count lies inside, and the interval is a few units in the last place wide. Boxes: corners do."""
    rng = np.random.default_rng(9)
    m = case.num_variables
    pos, neg = cases.random_weights(rng, 3, m)
    got = evaluate_semiring(case.circuit, s.REAL_TO_INTERVAL, pos, neg)
    for row, (low, high) in enumerate(got.tolist()):
        weights = [[Fraction(x) for x in w[row].tolist()] for w in (pos, neg)]
        if "a world in two" in case.name:
            continue
        exact = sum(case.weights(*weights))
        # e^-(n log 2) with log 2 a double is off 2^-n by a few units of relative size 1e-16
        slack = exact / 10**15 if "soft" in case.name else 0
        assert Fraction(low) - slack <= exact <= Fraction(high) + slack
        assert high - low <= 1e-14 * high
        assert (low == high == 0.0) == (exact == 0)
    width = torch.from_numpy(rng.random((2, m)) * 0.2)
    boxes = [torch.stack([w[0], w[0] + d], dim=-1) for w, d in zip((pos, neg), width, strict=True)]
    low, high = evaluate_semiring(case.circuit, s.INTERVAL, *boxes).tolist()
    for corner in itertools.islice(itertools.product((0, 1), repeat=2 * m), 64):
        ends = [
            [Fraction(boxes[i // m][i % m, e].item()) for i, e in enumerate(corner)][k * m : k * m + m] for k in (0, 1)
        ]
        assert low * (1 - 1e-12) <= float(sum(case.weights(*ends))) <= high * (1 + 1e-12)


def test_interval_arithmetic_rounds_outwards() -> None:
    rng = random.Random(6)
    numbers = [0.0, 1.0, 5e-324, 1e-310, 1e-200, 1.7e308] + [
        rng.random() * 10.0 ** rng.randint(-20, 20) for _ in range(60)
    ]
    for a, b in zip(numbers, reversed(numbers), strict=True):
        x, y = (s.REAL_TO_INTERVAL(torch.tensor(v, dtype=torch.float64)) for v in (a, b))
        for op, exact in ((s.INTERVAL.add, Fraction(a) + Fraction(b)), (s.INTERVAL.mul, Fraction(a) * Fraction(b))):
            low, high = op(x, y).tolist()
            assert Fraction(low) <= exact
            assert math.isinf(high) or exact <= Fraction(high)
    big = s.REAL_TO_INTERVAL(torch.tensor(1.7e308, dtype=torch.float64))
    for op in (s.INTERVAL.add, s.INTERVAL.mul):
        assert op(big, big).tolist() == [sys.float_info.max, math.inf]
    zero = s.REAL_TO_INTERVAL(torch.tensor(0.0, dtype=torch.float64))
    assert s.INTERVAL.mul(zero, s.INTERVAL.mul(big, big)).tolist() == [0.0, 0.0]
    for log_value in (-0.1, -1.5, -700.0, -740.0, -800.0, 3.0, 705.0, 800.0):
        low, high = s.INTERVAL.constant(log_value)
        assert 0 <= low < high
        with np.errstate(over="ignore"):
            near = float(np.exp(np.longdouble(log_value)))
        assert low <= near <= high
        assert abs(log_value) > 700 or high - low <= 3e-16 * near


@pytest.mark.parametrize("case", cases.CASES[::4], ids=lambda c: c.name)
def test_dual_numbers_differentiate(case: cases.Case) -> None:
    """Directional derivatives against exact differences: the count is linear in each weight."""
    m = case.num_variables
    pos, neg = cases.random_weights(np.random.default_rng(10), 2, m)
    tangents = torch.cat([torch.eye(m, dtype=torch.float64), torch.zeros(m, 1, dtype=torch.float64)], dim=1)
    zeros = torch.zeros(2, m, m + 1, dtype=torch.float64)
    off = zeros.clone()
    off[:, 0, m] = 1.0
    got = evaluate_semiring(case.circuit, s.DUAL, s.dual(pos, tangents.expand(2, m, m + 1)), s.dual(neg, off))
    for row in range(2):
        a, b = ([Fraction(x) for x in w[row].tolist()] for w in (pos, neg))
        value = sum(case.weights(a, b))
        assert got[row, 0].item() == pytest.approx(float(value), rel=1e-13, abs=1e-300)
        for j in range(m):
            raised = [x + (i == j) for i, x in enumerate(a)]
            assert got[row, 1 + j].item() == pytest.approx(float(sum(case.weights(raised, b)) - value), rel=1e-12)
        raised = [x + (i == 0) for i, x in enumerate(b)]
        assert got[row, 1 + m].item() == pytest.approx(float(sum(case.weights(a, raised)) - value), rel=1e-12)


def test_a_semiring_of_ones_own() -> None:
    """Polynomials in one variable as coefficient tuples: models by their number of true predicates."""

    def add(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x + y for x, y in itertools.zip_longest(a, b, fillvalue=0))

    def mul(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
        found = [0] * max(0, len(a) + len(b) - 1)
        for (i, x), (j, y) in itertools.product(enumerate(a), enumerate(b)):
            found[i + j] += x * y
        return tuple(found)

    polynomials = Semiring("polynomial", add, mul, (), (1,))
    case = cases.CASES[1]
    got = evaluate_semiring(case.circuit, polynomials, [(0, 1)] * case.num_variables, [(1,)] * case.num_variables)
    sizes = case.grid()[[v > 0 for v in case.worlds]].sum(axis=1)
    assert list(got) == np.bincount(sizes).tolist()
    soft = cases.CASES[-1]
    with pytest.raises(InputError, match="no image of the constant"):
        evaluate_semiring(soft.circuit, polynomials, [(0, 1)] * soft.num_variables, [(1,)] * soft.num_variables)
    mod7 = Semiring("mod 7", lambda a, b: (a + b) % 7, lambda a, b: a * b % 7, 0, 1)
    residues = Morphism(s.COUNTING, mod7, lambda a: a % 7, True)
    pos, neg = [10] * case.num_variables, [13] * case.num_variables
    assert (
        evaluate_semiring(case.circuit, residues, pos, neg) == evaluate_semiring(case.circuit, s.COUNTING, pos, neg) % 7
    )
    tensors = Semiring("minimum of maxima", torch.minimum, torch.maximum, math.inf, -math.inf, idempotent=True)
    rows = torch.from_numpy(np.random.default_rng(1).random((2, 5, case.num_variables)))
    expected = [
        min(np.where(world, a, b).max() for world, v in zip(case.grid(), case.worlds, strict=True) if v)
        for a, b in zip(*rows.numpy(), strict=True)
    ]
    assert evaluate_semiring(case.circuit, tensors, rows[0], rows[1]).tolist() == expected


def test_knowledge_bases_and_constants() -> None:
    kb = KnowledgeBase(("a", "b", "c"), (), (Rule(Implies(Var("a"), Var("b")), 1.5),))
    compiled = compile(kb)
    p = torch.tensor([[0.25, 0.5, 0.75], [0.5, 0.125, 1.0]], dtype=torch.float64)
    got = evaluate_semiring(compiled, s.REAL_TO_LOG, p, 1 - p)
    torch.testing.assert_close(got, log_wmc(compiled, p), rtol=0, atol=1e-14)
    # a and not b is the only violation
    share = Fraction(1, 4) * Fraction(1, 2)
    constants = [Fraction(1, 3) if c < 0 else Fraction(1) for c in _constant_logs(compiled)]
    exact = evaluate_semiring(
        compiled, s.RATIONAL, [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)], [Fraction(3, 4), Fraction(1, 2), Fraction(1, 4)],
        constants=constants,
    )  # fmt: skip
    assert exact == 1 - share + share / 3
    # fewest true predicates among the possible worlds of: a, and a -> b
    hard = KnowledgeBase(("a", "b", "c"), (), (Rule(Implies(Var("a"), Var("b")), math.inf), Rule(Var("a"), math.inf)))
    assert evaluate_semiring(hard, s.MIN_PLUS, [1, 1, 1], [0, 0, 0]) == 2


def _constant_logs(compiled: Any) -> list[float]:
    from neurosym.circuits import part_circuit

    return [float(c) for c in part_circuit(compiled).log_constants]


def test_numbers_are_neither_wrapped_nor_rounded() -> None:
    """Counts of tensors are Python ints; integer and float32 weights are worked on in float64."""
    free = KnowledgeBase(tuple(f"x{i}" for i in range(70)))
    ones = torch.ones(70, dtype=torch.int64)
    assert evaluate_semiring(free, s.COUNTING, ones, ones) == 2**70
    assert evaluate_semiring(free, s.REAL, ones, ones).item() == 2.0**70
    kb = KnowledgeBase(("a",), (), (Rule(Var("a"), 1.5),))
    assert evaluate_semiring(kb, s.REAL, ones[:1], ones[:1]).item() == pytest.approx(1 + math.exp(-1.5), rel=1e-15)
    third = torch.tensor([1 / 3], dtype=torch.float32)
    low, high = evaluate_semiring(kb, s.REAL_TO_INTERVAL, third, third).tolist()
    exact = Fraction(third.item()) * (1 + Fraction(math.exp(-1.5)))
    assert Fraction(low) < exact * (1 + Fraction(1, 10**15))
    assert exact * (1 - Fraction(1, 10**15)) < Fraction(high)
    assert high - low < 1e-15
    assert evaluate_semiring(kb, s.REAL_TO_INTERVAL, [0.5], [0.25]).tolist() == pytest.approx(
        [0.5 + math.exp(-1.5) / 4] * 2
    )
    assert evaluate_semiring(kb, s.INTERVAL, [(0.0, 1.0)], [(0.0, 0.0)]).tolist() == [0.0, 1.0]
    with pytest.raises(InputError, match="one row at a time"):
        evaluate_semiring(free, s.REAL_TO_RATIONAL, ones[None], ones[None])


def test_needs_are_checked() -> None:
    builder = CircuitBuilder()
    both = [
        builder.conj([builder.lit(0, True), builder.free(1)]),
        builder.conj([builder.free(0), builder.lit(1, True)]),
    ]
    either = builder.finish(builder.disj(both), 2)
    with pytest.raises(InputError, match="'real' needs a deterministic circuit"):
        evaluate_semiring(either, s.REAL, [1, 1], [1, 1], verify=True)
    assert evaluate_semiring(either, s.BOOLEAN, [True, False], [True, True], verify=True)
    rough = builder.finish(
        builder.disj([builder.lit(0, True), builder.conj([builder.lit(0, False), builder.lit(1, True)])]), 2
    )
    with pytest.raises(InputError, match="not decomposable and smooth"):
        evaluate_semiring(rough, s.BOOLEAN, [True, True], [True, True], verify=True)
    with pytest.raises(InputError, match="variable 1 does not occur"):
        evaluate_semiring(builder.finish(builder.lit(0, True), 2), s.REAL, [1, 1], [1, 1])
    with pytest.raises(InputError, match="pos has 3 weights; the circuit has 2"):
        evaluate_semiring(either, s.REAL, [1, 1, 1], [1, 1])
    with pytest.raises(InputError, match="dimension of variables must be 2"):
        evaluate_semiring(either, s.REAL, torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="constants has 1 entries; the circuit has 0"):
        evaluate_semiring(either, s.REAL, [1, 1], [1, 1], constants=[1])


def test_real_weights_of_many_rows_are_chunked(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.circuits.queries import algebraic

    case = cases.CASES[2]
    pos, neg = cases.random_weights(np.random.default_rng(3), 50, case.num_variables)
    whole = evaluate_semiring(case.circuit, s.REAL, pos, neg)
    monkeypatch.setattr(algebraic, "CHUNK_VALUES", 7 * (case.circuit.ir.num_nodes + 2))
    torch.testing.assert_close(evaluate_semiring(case.circuit, s.REAL, pos, neg), whole, rtol=0, atol=0)
