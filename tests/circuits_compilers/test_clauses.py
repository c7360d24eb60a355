"""The clause type: normal form, errors that name the clause, unit propagation, components, rules as clauses."""

from __future__ import annotations

import math
import random
from pathlib import Path

import numpy as np
import pytest
from cnf_cases import all_worlds, random_cnf, truth

from neurosym.circuits.compilers.clauses import Cnf, components, propagate_units
from neurosym.circuits.factors import rule_factor
from neurosym.errors import InputError
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule
from neurosym.logic.semantics import evaluate


def test_normal_form() -> None:
    cnf = Cnf.from_clauses([[3, -2, 3], [1, 2, -1], [], [-2]])
    assert cnf.clauses() == [(-2, 3), (), (-2,)]
    assert cnf.num_variables == 3
    assert cnf.canonical().clauses() == [(), (-2,), (-2, 3)]
    assert Cnf.from_clauses([(np.int64(2), -1)]).clauses() == [(-1, 2)]


@pytest.mark.parametrize(
    ("clauses", "words"),
    [
        ([[1], [2, 0]], "clause 1: literal 0 "),
        ([[1, 9]], "clause 0: literal 9 "),
        ([[1], [], [-9]], "clause 2: literal -9 "),
        ([[1.0]], "clause 0: literal 1.0 "),
        ([[1], [True]], "clause 1: literal True "),
        ([["1"]], "clause 0: literal '1' "),
        ([[None]], "clause 0: literal None "),
        ([[10**30]], "clause 0: literal 10000"),
        ([5], "clause 0: 5 is not a list"),
    ],
)
def test_bad_literals_are_named(clauses: list[list[int]], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        Cnf.from_clauses(clauses, 5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [-1, 1.5, True, 10**9, "3"])
def test_bad_numbers_of_variables(count: object) -> None:
    with pytest.raises(InputError, match="num_variables"):
        Cnf.from_clauses([], count)  # type: ignore[arg-type]


def test_dimacs(tmp_path: Path) -> None:
    text = "c two rules\np cnf 4 2\n1 -2 0\n3\n2 0\n"
    assert Cnf.from_dimacs(text).clauses() == [(1, -2), (2, 3)]
    (tmp_path / "a.cnf").write_text(text)
    assert Cnf.from_file(tmp_path / "a.cnf").num_variables == 4
    with pytest.raises(InputError, match=r"<dimacs>:2: literal 7"):
        Cnf.from_dimacs("p cnf 3 1\n7 0\n")


def test_unit_propagation_keeps_the_models() -> None:
    for seed in range(150):
        rng = random.Random(seed)
        m = rng.randint(1, 7)
        clauses = random_cnf(rng, m, rng.randint(1, 12), 3)
        for _ in range(2):
            clauses.append([rng.choice((-1, 1)) * rng.randint(1, m)])
        done = propagate_units(Cnf.from_clauses(clauses, m))
        if not done.consistent:
            assert not truth(clauses, m).any()
            continue
        assert (done.rest.lengths >= 2).all()
        assert not np.isin(np.abs(done.rest.literals), np.abs(done.forced)).any()
        after = [[int(x)] for x in done.forced] + [list(c) for c in done.rest.clauses()]
        assert (truth(after, m) == truth(clauses, m)).all()


def test_a_long_chain_of_units() -> None:
    n = 100_000
    done = propagate_units(Cnf.from_clauses([[1], *([-i, i + 1] for i in range(1, n))]))
    assert done.consistent
    assert sorted(done.forced.tolist()) == list(range(1, n + 1))


def test_components() -> None:
    cnf = Cnf.from_clauses([[7, 2], [-3, 5], [5, 9], [2, -7]], 10)
    found = [(block.tolist(), part.num_variables, sorted(part.clauses())) for block, part in components(cnf)]
    assert found == [([2, 7], 2, [(1, -2), (1, 2)]), ([3, 5, 9], 3, [(-1, 2), (2, 3)])]
    assert components(Cnf.from_clauses([], 3)) == []


def test_components_of_random_clauses_partition_them() -> None:
    networkx = pytest.importorskip("networkx")
    for seed in range(40):
        rng = random.Random(seed)
        clauses = [c for c in random_cnf(rng, 30, 15, 3) if not any(-x in c for x in c)]
        graph = networkx.Graph()
        for clause in clauses:
            networkx.add_path(graph, [abs(x) for x in clause])
            graph.add_node(abs(clause[0]))
        expected = sorted(sorted(c) for c in networkx.connected_components(graph))
        assert [block.tolist() for block, _ in components(Cnf.from_clauses(clauses, 30))] == expected


NAMES = ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    "text",
    [
        "a -> b & ~c",
        "a & b -> d | e",
        "d <-> e",
        "(a | b) & ~(c & d)",
        "a",
        "~(a & ~b) | c",
        "a | ~b | c",
        "~e -> ~a",
        "true",
    ],
)
def test_rules_as_clauses(text: str) -> None:
    kb = KnowledgeBase(classes=NAMES, concepts=(), rules=(Rule.from_text(text, math.inf),))
    worlds = all_worlds(5)
    columns = {name: worlds[:, i] for i, name in enumerate(NAMES)}
    expected = np.broadcast_to(np.asarray(evaluate(kb.rules[0].formula, columns)), (32,))
    assert (truth(Cnf.from_knowledge(kb).clauses(), 5) == expected).all()


@pytest.mark.parametrize("kind", ["exactly_one", "at_most_one"])
def test_groups_as_clauses(kind: str) -> None:
    kb = KnowledgeBase(classes=NAMES, concepts=(), rules=(), groups=(Group("g", kind, ("a", "c", "e")),))  # type: ignore[arg-type]
    counts = all_worlds(5)[:, [0, 2, 4]].sum(axis=1)
    expected = counts == 1 if kind == "exactly_one" else counts <= 1
    assert (truth(Cnf.from_knowledge(kb).clauses(), 5) == expected).all()


def test_soft_rules_have_no_clauses() -> None:
    kb = KnowledgeBase(classes=("a", "b"), concepts=(), rules=(Rule.from_text("a -> b", 1.5),))
    assert Cnf.from_knowledge(kb).num_clauses == 0
    with pytest.raises(InputError, match="finite weight"):
        Cnf.from_factors([rule_factor(kb, 0)], range(2))


def test_a_huge_group_is_refused() -> None:
    names = tuple(f"v{i}" for i in range(4000))
    kb = KnowledgeBase(classes=names, concepts=(), rules=(), groups=(Group("g", "exactly_one", names),))
    with pytest.raises(InputError, match="group of 4000"):
        Cnf.from_knowledge(kb)
