"""Terms read off circuits, and hard factors as terms."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from cnf_cases import all_worlds, mixture, random_cnf, three_cnf, truth

from neurosym import circuits
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.eliminate import compile_elimination
from neurosym.circuits.compilers.expand import terms_of_ir
from neurosym.circuits.compilers.portfolio import compile_cnf
from neurosym.circuits.compilers.terms import DisjointTerms, hard_terms
from neurosym.circuits.factors import group_factor, rule_factor
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule


def weights(terms: DisjointTerms) -> np.ndarray:
    """Total factor in every world, float64[2^m]."""
    worlds = all_worlds(terms.num_variables).astype(np.int8)
    total = np.zeros(len(worlds))
    for row, log in zip(terms.terms, terms.log_constants, strict=True):
        total += np.where(((row == -1) | (worlds == row)).all(axis=1), np.exp(log), 0.0)
    return total


def test_terms_of_circuits_of_clauses() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        m = rng.randint(3, 8)
        clauses = mixture(rng, m) if seed % 2 else random_cnf(rng, m, m)
        terms = terms_of_ir(compile_cnf(Cnf.from_clauses(clauses, m), compiler="elimination").ir)
        assert terms is not None
        assert terms.are_disjoint()
        assert (weights(terms) == truth(clauses, m)).all()


def test_soft_rules_give_constants() -> None:
    kb = KnowledgeBase(
        classes=("a", "b", "c"),
        rules=(Rule.from_text("a -> b", 1.5), Rule.from_text("b & c", 0.5), Rule.from_text("a | c", math.inf)),
    )
    factors = [rule_factor(kb, i) for i in range(3)]
    terms = terms_of_ir(compile_elimination(factors, range(3), 1000))
    assert terms is not None
    a, b, c = all_worlds(3).T
    expected = np.exp(-1.5 * ~(~a | b)) * np.exp(-0.5 * ~(b & c)) * (a | c)
    assert weights(terms) == pytest.approx(expected, rel=1e-12)


def test_too_many_terms_are_refused_at_once() -> None:
    ir = compile_cnf([[i, i + 1] for i in range(1, 200)]).ir
    assert terms_of_ir(ir) is None
    small = compile_cnf(three_cnf(random.Random(0), 8, 2.0)).ir
    assert terms_of_ir(small, max_terms=2) is None
    assert terms_of_ir(small, max_entries=16) is None


def test_hard_factors_as_terms() -> None:
    names = tuple("abcdefg")
    kb = KnowledgeBase(
        classes=names[:4],
        concepts=names[4:],
        rules=(
            Rule.from_text("a -> e & ~f", math.inf),
            Rule.from_text("b -> f", math.inf),
            Rule.from_text("g -> a | b", math.inf),
            Rule.from_text("g -> a", 2.0),
        ),
        groups=(Group("kind", "exactly_one", names[:4]),),
    )
    factors = [rule_factor(kb, i) for i in range(3)] + [group_factor(kb, kb.groups[0])]
    terms = hard_terms(factors, range(7))
    assert terms is not None
    a, b, c, d, e, f, g = all_worlds(7).T
    one = a.astype(int) + b + c + d == 1
    expected = one & (~a | (e & ~f)) & (~b | f) & (~g | a | b)
    assert (weights(terms) == expected).all()
    assert hard_terms([*factors, rule_factor(kb, 3)], range(7)) is None


@pytest.mark.parametrize("name", ["Cnf", "CompiledCnf", "DisjointTerms", "compile_cnf", "find_terms", "terms_of_ir"])
def test_public_names(name: str) -> None:
    assert getattr(circuits, name).__name__ == name
