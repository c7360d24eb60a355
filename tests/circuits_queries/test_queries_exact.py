"""Exact counts, fractions and semirings against enumeration in fractions, pysdd, and closed forms."""

from __future__ import annotations

import math
import os
import random
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import (
    InconsistentEvidence,
    circuit_exact_marginals,
    circuit_exact_wmc,
    compile,
    exact_marginals,
    exact_wmc,
    log_wmc,
    model_count,
    part_circuit,
    semiring_derivatives,
)
from neurosym.circuits import marginals as float_marginals
from neurosym.circuits.ir import CircuitBuilder
from neurosym.circuits.queries.semirings import BOOLEAN, COUNTING, MAX_PRODUCT, exact_constant
from neurosym.errors import InputError
from neurosym.logic.formula import Implies, Or, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path.insert(0, str(Path(__file__).resolve().parent))

import query_cases as cases
from query_cases import fraction_worlds as oracle
from random_knowledge import random_knowledge


def _fractions(rng: random.Random, m: int) -> tuple[list[Fraction], list[Fraction]]:
    """Weights with odd denominators, some 0 and 1, some negative."""
    pos, neg = ([Fraction(rng.randint(-3, 20), rng.randint(1, 9)) for _ in range(m)] for _ in range(2))
    return pos, neg


@pytest.mark.parametrize("case", cases.EVERY, ids=lambda c: c.name)
def test_circuit_answers_are_exact(case: cases.Case) -> None:
    m = case.num_variables
    assert model_count(case.circuit) == model_count(case.circuit.ir) == sum(v > 0 for v in case.worlds)
    pos, neg = _fractions(random.Random(7), m)
    weights = case.weights(pos, neg)
    # e, the constant of one of the degenerate circuits, is taken as its double there and here
    values = exact_constant if case.name == "a world in two" else cases.power_of_two
    assert circuit_exact_wmc(case.circuit, pos, neg, values) == sum(weights)
    if sum(weights) == 0:
        with pytest.raises(InconsistentEvidence, match="the circuit"):
            circuit_exact_marginals(case.circuit, pos, neg, values)
    else:
        assert list(circuit_exact_marginals(case.circuit, pos, neg, values)) == oracle.marginals(weights, m)


@pytest.mark.parametrize("case", cases.CASES[:5] + cases.CASES[8:10], ids=lambda c: c.name)
def test_floats_count_with_their_exact_value(case: cases.Case) -> None:
    pos, neg = cases.random_weights(np.random.default_rng(3), 1, case.num_variables)
    weights = case.weights([Fraction(x) for x in pos[0].tolist()], [Fraction(x) for x in neg[0].tolist()])
    logs = [float(c) for c in case.circuit.log_constants]
    assert circuit_exact_wmc(case.circuit, pos[0], neg[0], [cases.power_of_two(c) for c in logs]) == sum(weights)
    # soft constants as doubles differ from powers of two by their rounding only
    rounded = circuit_exact_wmc(case.circuit, pos[0], neg[0])
    assert abs(rounded - sum(weights)) <= sum(weights) * Fraction(1, 10**14)


@pytest.mark.parametrize("seed", range(15))
def test_knowledge_bases(seed: int) -> None:
    """Counts and hard rules exactly; soft rules to the rounding of their constants."""
    rng = np.random.default_rng(900 + seed)
    kb = random_knowledge(rng, 6)
    p = [Fraction(int(n), 20) for n in rng.integers(0, 21, kb.num_predicates)]
    q = [1 - x for x in p]
    ones = [Fraction(1)] * kb.num_predicates
    for circuit, kind in (("rules", "binary"), ("exclusive", "binary"), ("exclusive", "categorical")):
        compiled = compile(kb, circuit, kind)
        for r in range(len(compiled.parts)):
            part = None if circuit == "exclusive" else r
            possible = oracle.part_weights(kb, ones, ones, part, lambda w: Fraction(1))
            assert model_count(compiled, part=r) == sum(w > 0 for w in possible)
            assert model_count(part_circuit(compiled, part=r)) == model_count(compiled, part=r)
            neg = [Fraction(1)] * kb.num_classes + q[kb.num_classes :] if kind == "categorical" else q
            weights = oracle.part_weights(kb, p, neg, part, lambda w: Fraction(math.exp(-w)))
            found = exact_wmc(compiled, p, part=r)
            assert abs(found - sum(weights)) <= sum(weights) * Fraction(1, 10**14)
            if sum(weights) == 0:
                with pytest.raises(InconsistentEvidence, match=compiled.parts[r].name):
                    exact_marginals(compiled, p, part=r)
                continue
            own = exact_marginals(compiled, p, part=r)
            expected = oracle.marginals(weights, kb.num_predicates)
            assert max(abs(a - b) for a, b in zip(own, expected, strict=True)) < Fraction(1, 10**13)


def test_pysdd_counts_the_same() -> None:
    """Eighteen variables, hard clauses: pysdd's model count and weighted count."""
    from pysdd.sdd import SddManager

    rng = np.random.default_rng(5)
    for m in (6, 12, 18):
        clauses = cases.random_clauses(rng, m, 2 * m)
        manager = SddManager(var_count=m, auto_gc_and_minimize=False)
        node = manager.true()
        for clause in clauses:
            either = manager.false()
            for x in clause:
                either |= manager.literal(x)
            node &= either
        kb = cases.clause_knowledge(clauses, m)
        assert model_count(kb) == manager.global_model_count(node)
        p = rng.random(m)
        counter = node.wmc(log_mode=False)
        for j in range(m):
            counter.set_literal_weight(manager.literal(j + 1), p[j])
            counter.set_literal_weight(-manager.literal(j + 1), 1 - p[j])
        assert float(exact_wmc(kb, torch.from_numpy(p))) == pytest.approx(counter.propagate(), rel=1e-13)


def test_counts_do_not_wrap() -> None:
    """Seventy free predicates, and one clause over the first two of them: past 2^64 both."""
    names = tuple(f"x{i}" for i in range(70))
    assert model_count(KnowledgeBase(names)) == 2**70
    kb = KnowledgeBase(names, (), (Rule(Or((Var("x0"), Var("x1"))), math.inf),))
    assert model_count(kb) == 3 * 2**68
    assert model_count(KnowledgeBase(("a",), (), (Rule(parse("a & ~a"), math.inf),))) == 0
    assert model_count(KnowledgeBase(("a",), (), (Rule(parse("a & ~a"), 1e9),))) == 2
    assert model_count(KnowledgeBase(("a",), (), (Rule(parse("false"), math.inf),))) == 0


@pytest.mark.data
def test_awa2_counts_exactly() -> None:
    """One class, and the attributes of that class: sum over classes of 2^(85 - number of its attributes)."""
    folder = os.environ.get("NEUROSYM_DATA")
    path = Path(folder or "") / "awa2" / "predicate-matrix-binary.txt"
    if not folder or not path.exists():
        pytest.skip("needs NEUROSYM_DATA with awa2/predicate-matrix-binary.txt")
    matrix = np.loadtxt(path, dtype=int)
    classes, attributes = ([f"{letter}{i}" for i in range(n)] for letter, n in zip("ca", matrix.shape, strict=True))
    rules = tuple(Rule(Implies(Var(classes[i]), Var(attributes[j])), math.inf) for i, j in np.argwhere(matrix))
    kb = KnowledgeBase(tuple(classes), tuple(attributes), rules)
    assert model_count(kb, "exclusive") == sum(2 ** (85 - int(n)) for n in matrix.sum(axis=1)) == 24813074728206991360
    p = torch.rand(135, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    compiled = compile(kb, "exclusive")
    exact = exact_marginals(compiled, p)
    got = float_marginals(compiled, p)
    assert max(abs(float(a) - b) for a, b in zip(exact, got.tolist(), strict=True)) < 1e-13
    total = exact_wmc(compiled, p)
    log_total = math.log(total.numerator) - math.log(total.denominator)
    assert log_wmc(compiled, p).item() == pytest.approx(log_total, abs=1e-11)


@pytest.mark.parametrize("case", cases.CASES[:4], ids=lambda c: c.name)
def test_semiring_derivatives(case: cases.Case) -> None:
    """Models with x_j true, whether there is one, and the best weight among them."""
    m = case.num_variables
    grid = case.grid()
    possible = np.array([v > 0 for v in case.worlds])
    ones, zeros = [1] * m, [1] * m
    counts = semiring_derivatives(case.circuit, COUNTING, ones, zeros)
    assert list(counts.on) == [int((possible & grid[:, j]).sum()) for j in range(m)]
    assert list(counts.off) == [int((possible & ~grid[:, j]).sum()) for j in range(m)]
    backbone = semiring_derivatives(case.circuit.ir, BOOLEAN, [True] * m, [True] * m)
    assert list(backbone.on) == [bool(c) for c in counts.on]
    rng = random.Random(2)
    pos, neg = ([Fraction(rng.randint(0, 9), rng.randint(1, 5)) for _ in range(m)] for _ in range(2))
    best = semiring_derivatives(case.circuit, MAX_PRODUCT, pos, neg)
    weights = case.weights(pos, neg)
    assert best.value == max(weights)
    for j in range(m):
        assert pos[j] * best.on[j] == max((w for w, x in zip(weights, grid[:, j], strict=True) if x), default=0)


def test_constants_never_vanish() -> None:
    assert exact_constant(-math.inf) == 0
    assert exact_constant(0.0) == 1
    assert exact_constant(-1.5) == Fraction(math.exp(-1.5))
    tiny = exact_constant(-2000.0)
    assert tiny > 0
    assert math.log(tiny.numerator) - math.log(tiny.denominator) == pytest.approx(-2000.0, abs=1e-12)
    kb = KnowledgeBase(("a",), (), (Rule(Var("a"), 2000.0),))
    assert exact_wmc(kb, [0]) == tiny
    assert exact_wmc(kb, [Fraction(1, 3)], constants=lambda c: Fraction(1, 7) if c else 1) == Fraction(3, 7)


def test_wrong_arguments() -> None:
    kb = KnowledgeBase(("a",), ("b",), (Rule(parse("a -> b"), math.inf),))
    circuit = part_circuit(kb)
    with pytest.raises(InputError, match="p has 1 entries; there are 2"):
        exact_wmc(kb, [0.5])
    with pytest.raises(InputError, match="column 1 is 3/2"):
        exact_wmc(kb, [0, Fraction(3, 2)])
    with pytest.raises(InputError, match="weight 1 is nan"):
        circuit_exact_wmc(circuit, [1.0, math.nan], [1.0, 1.0])
    with pytest.raises(InputError, match="several rows"):
        circuit_exact_wmc(circuit, torch.ones(2, 2), torch.ones(2, 2))
    with pytest.raises(InputError, match="neg has 1 weights"):
        circuit_exact_wmc(circuit, [1, 1], [1])
    with pytest.raises(InputError, match="constants has 3 entries"):
        circuit_exact_wmc(circuit, [1, 1], [1, 1], [1, 1, 1])
    builder = CircuitBuilder()
    with pytest.raises(InputError, match="variable 1 does not occur"):
        model_count(builder.finish(builder.lit(0, True), 2))
