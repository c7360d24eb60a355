"""Disjoint terms read off clauses: never wrong, found for the families they are made for."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from cnf_cases import class_rules, count_models, exactly_one, mixture, random_cnf, tree, truth, world_values

from neurosym.circuits.compilers import runs as runs_module
from neurosym.circuits.compilers.clauses import Cnf
from neurosym.circuits.compilers.forest import find_forest
from neurosym.circuits.compilers.runs import TermRuns, runs_of_terms, runs_to_ir
from neurosym.circuits.compilers.terms import DisjointTerms, find_runs, find_terms, terms_to_ir
from neurosym.circuits.ir import check_properties
from neurosym.errors import InputError


def holds_by_terms(terms: DisjointTerms) -> np.ndarray:
    m = terms.num_variables
    worlds = ((np.arange(2**m)[:, None] >> np.arange(m)) & 1).astype(np.int8)
    hits = [((row == -1) | (worlds == row)).all(axis=1) for row in terms.terms]
    total = np.sum(hits, axis=0) if hits else np.zeros(2**m, dtype=int)
    assert total.max(initial=0) <= 1, "two terms hold in one world"
    return total == 1


@pytest.mark.parametrize("seed", range(300))
def test_terms_of_mixtures_are_right(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    m = rng.randint(3, 9)
    clauses = mixture(rng, m) if seed % 3 else random_cnf(rng, m, rng.randint(1, 2 * m), 3)
    cnf = Cnf.from_clauses(clauses, m)
    terms = find_terms(cnf)
    if terms is None:
        assert find_runs(cnf) is None
        return
    expected = truth(clauses, m)
    assert (holds_by_terms(terms) == expected).all()
    assert terms.are_disjoint()
    for entries in (0, runs_module.FLAT_ENTRIES):
        monkeypatch.setattr(runs_module, "FLAT_ENTRIES", entries)
        ir = terms_to_ir(terms)
        assert (world_values(ir) == expected).all()
        properties = check_properties(ir)
        assert properties.decomposable
        assert properties.smooth
        assert properties.deterministic


def test_mixtures_are_mostly_found() -> None:
    found = 0
    for seed in range(200):
        rng = random.Random(seed)
        m = rng.randint(3, 9)
        clauses = exactly_one(range(1, m - 1)) + [
            [-rng.randint(1, m - 2), rng.choice((-1, 1)) * rng.randint(m - 1, m)] for _ in range(m)
        ]
        found += find_terms(Cnf.from_clauses(clauses, m)) is not None
    assert found == 200  # classes and literals: always of this form


@pytest.mark.parametrize("shape", [(43, 40), (50, 85)])
@pytest.mark.parametrize("variant", ["one_way", "negative", "both"])
def test_class_rules_are_found_fast(shape: tuple[int, int], variant: str) -> None:
    matrix = np.random.default_rng(0).random(shape) < 0.35
    cnf = Cnf.from_clauses(class_rules(matrix, variant), sum(shape))
    start = time.process_time()
    terms = find_terms(cnf)
    assert terms is not None
    ir = terms_to_ir(terms)
    assert time.process_time() - start < 2.0  # 0.01 s on an idle machine
    expected = sum(2 ** int(n) for n in (~matrix).sum(axis=1)) if variant == "one_way" else shape[0]
    assert count_models(ir) == expected
    assert terms.num_terms == shape[0]


@pytest.mark.parametrize(("n", "covered"), [(400, False), (400, True), (2500, False)])
def test_hierarchies_are_found(n: int, covered: bool) -> None:
    clauses = tree(random.Random(n), n, covered)
    cnf = Cnf.from_clauses(clauses, n)
    runs = find_runs(cnf)
    assert runs is not None
    ir = runs_to_ir(runs)
    parents = {-c[0]: c[1] for c in clauses if len(c) == 2 and c[0] < 0 < c[1] and -c[0] > c[1]}
    leaves = n - len(set(parents.values()))
    assert count_models(ir) == (leaves + 1 if covered else n + 1)
    assert ir.depth <= 2 * (n.bit_length() + 2)
    assert ir.num_edges < 14 * n


def test_a_deep_chain_is_shallow() -> None:
    n = 5000
    runs = find_runs(Cnf.from_clauses(tree(random.Random(0), n, chain=True), n))
    assert runs is not None
    ir = runs_to_ir(runs)
    assert count_models(ir) == n + 1
    assert ir.depth <= 30


def test_forest_agrees_with_the_general_detection() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        m = rng.randint(2, 9)
        clauses = tree(rng, m, covered=seed % 2 == 1)
        if seed % 5 == 0 and m > 3:
            clauses.pop(rng.randrange(len(clauses)))  # mostly no hierarchy any more
        cnf = Cnf.from_clauses(clauses, m)
        runs = find_forest(cnf)
        if runs is not None:
            assert (holds_by_terms(DisjointTerms(runs.dense(), runs.log_constants)) == truth(clauses, m)).all()


def test_equivalent_variables_and_cycles() -> None:
    for clauses in ([[-1, 2], [-2, 1]], [[-1, 2], [-2, 3], [-3, 1], [-3, -4]], [[-1, 2], [-2, 1], [-1, -2]]):
        m = max(abs(x) for c in clauses for x in c)
        terms = find_terms(Cnf.from_clauses(clauses, m))
        assert terms is not None
        assert (holds_by_terms(terms) == truth(clauses, m)).all()


def test_contradictions_have_no_terms() -> None:
    for clauses in ([[]], [[1], [-1]], [[1, 2], [-1, 2], [1, -2], [-1, -2]]):
        terms = find_terms(Cnf.from_clauses(clauses, 2))
        assert terms is not None
        assert terms.num_terms == 0
        assert count_models(terms_to_ir(terms)) == 0


def test_no_clause_at_all_is_one_free_term() -> None:
    terms = find_terms(Cnf.from_clauses([], 3))
    assert terms is not None
    assert count_models(terms_to_ir(terms)) == 8


def test_what_is_not_of_the_form_is_refused() -> None:
    assert find_terms(Cnf.from_clauses([[1, 2, 3], [-1, 4, 5]], 5)) is None


def test_terms_with_constants_weigh_them() -> None:
    terms = np.array([[1, 0, -1], [0, 1, 1], [0, 0, 0]], dtype=np.int8)
    logs = np.log(np.array([2.0, 3.0, 5.0]))
    for ir in (terms_to_ir(DisjointTerms(terms, logs)), runs_to_ir(runs_of_terms(terms, logs))):
        value: list[float] = []
        for node in range(ir.num_nodes):
            kids = [value[c] for c in ir.children_of(node)]
            value.append((1.0, np.exp(ir.log_constant[node]), np.prod(kids), np.sum(kids))[ir.kind[node]])
        assert value[-1] == pytest.approx(2 * 2 + 3 + 5)


def test_overlapping_terms_are_an_error() -> None:
    with pytest.raises(InputError, match="not disjoint"):
        terms_to_ir(DisjointTerms(np.array([[1, -1], [-1, 1]], dtype=np.int8), np.zeros(2)))


def test_runs_round_trip() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        terms = rng.integers(-1, 2, size=(rng.integers(1, 9), 6)).astype(np.int8)
        back = runs_of_terms(terms, np.zeros(len(terms)))
        assert isinstance(back, TermRuns)
        assert sorted(map(tuple, back.dense().tolist())) == sorted(map(tuple, terms.tolist()))
