"""The satisfiability check against enumeration, and its reach."""

from __future__ import annotations

import itertools
import math
import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import Group, KnowledgeBase, Rule, evaluate, parse, sat
from neurosym.logic.satisfiable import check_some_class, find_conflict, hard_constraints

HARD = math.inf
CLAUSES = st.lists(
    st.lists(st.integers(1, 6).flatmap(lambda v: st.sampled_from([v, -v])), max_size=3).map(tuple), max_size=30
)


def brute_force(clauses: list[tuple[int, ...]]) -> bool:
    worlds = itertools.product([False, True], repeat=6)
    return any(all(any(w[abs(x) - 1] == (x > 0) for x in c) for c in clauses) for w in worlds)


@settings(max_examples=300, deadline=None)
@given(CLAUSES)
def test_search_agrees_with_enumeration(clauses: list[tuple[int, ...]]) -> None:
    model = sat.find_model(clauses)
    assert (model is not None) == brute_force(clauses)
    if model is not None:
        assert all(any(x in model for x in clause) for clause in clauses)
        assert not any(-x in model for x in model)


@settings(max_examples=60, deadline=None)
@given(CLAUSES)
def test_diagram_agrees_with_enumeration(clauses: list[tuple[int, ...]]) -> None:
    assert sat.satisfiable(clauses, max_steps=0) == brute_force(clauses)


@pytest.mark.parametrize("seed", range(4))
def test_random_clauses_near_the_threshold(seed: int) -> None:
    """3-SAT at 4.26 clauses a variable is where search is hardest; the two deciders must agree."""
    rng = random.Random(seed)
    clauses = [tuple(rng.choice([v, -v]) for v in rng.sample(range(1, 26), 3)) for _ in range(106)]
    assert sat.satisfiable(clauses) == sat.satisfiable(clauses, max_steps=0)


def pigeons(count: int) -> list[tuple[int, ...]]:
    """``count`` pigeons in one hole less: unsatisfiable and hard for resolution (Haken 1985)."""
    holes = count - 1
    number = [[p * holes + h + 1 for h in range(holes)] for p in range(count)]
    clauses = [tuple(row) for row in number]
    for h in range(holes):
        clauses += [(-p[h], -q[h]) for p, q in itertools.combinations(number, 2)]
    return clauses


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sat.find_model(pigeons(5)) is None
    with pytest.raises(sat.StepLimit):
        sat.find_model(pigeons(9), max_steps=500)
    assert sat.satisfiable(pigeons(6), max_steps=10) is False
    monkeypatch.setattr(sat, "MAX_NODES", 10)
    assert sat.satisfiable(pigeons(6), max_steps=10) is None


FORMULAS = [
    "a", "~a", "a -> b", "b -> c", "c -> d", "~d", "a | b", "~(a & b)", "a <-> ~b", "c <-> d & e", "e | f", "~f",
    "(a <-> b) <-> (c <-> d)", "a & b | c & d | e & f", "true",
]  # fmt: skip


def obeys_all(kb: KnowledgeBase) -> bool:
    for bits in itertools.product([False, True], repeat=kb.num_predicates):
        world = dict(zip(kb.predicates, bits, strict=True))
        if all(evaluate(r.formula, world) for r in kb.rules if r.hard) and all(g.holds(world) for g in kb.groups):
            return True
    return False


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from(FORMULAS), max_size=8, unique=True), st.integers(0, 2), st.randoms())
def test_conflicts_are_real_and_irreducible(texts: list[str], groups: int, rng: random.Random) -> None:
    kb = KnowledgeBase(
        ("a", "b"),
        ("c", "d", "e", "f"),
        (*(Rule(parse(text), HARD) for text in texts), Rule(parse("a & ~a"), 3.0)),
        tuple(
            Group(f"g{i}", rng.choice(["exactly_one", "at_most_one"]), tuple(rng.sample("abcdef", 3)))
            for i in range(groups)
        ),
    )
    conflict = find_conflict(kb)
    assert (not conflict) == obeys_all(kb)
    if not conflict:
        kb.check_consistent()
        return
    paths = [item.path for item in conflict]
    for left_out in [None, *paths]:
        kept = [path for path in paths if path != left_out]
        part = KnowledgeBase(
            kb.classes,
            kb.concepts,
            tuple(rule for i, rule in enumerate(kb.rules) if ("rules", i) in kept),
            tuple(g for g in kb.groups if ("groups", g.name) in kept),
        )
        assert obeys_all(part) == (left_out is not None)


@pytest.mark.parametrize("kind", ["exactly_one", "at_most_one"])
@pytest.mark.parametrize("size", [1, 3, 8, 9, 12])
def test_group_clauses_count_members(kind: str, size: int) -> None:
    names = tuple(f"p{i}" for i in range(size))
    kb = KnowledgeBase(names, groups=(Group("g", kind, names),))  # type: ignore[arg-type]
    clauses = list(hard_constraints(kb)[0].clauses)
    rng = random.Random(size)
    for true in [(), (0,), (size - 1,), *(tuple(rng.sample(range(size), min(2, size))) for _ in range(20))]:
        units: list[tuple[int, ...]] = [(i + 1,) if i in true else (-i - 1,) for i in range(size)]
        expected = len(set(true)) == 1 or (kind == "at_most_one" and not true)
        assert (sat.find_model(clauses + units) is not None) == expected


def test_extra_groups() -> None:
    kb = KnowledgeBase(("a", "b"), (), (Rule(parse("a"), HARD), Rule(parse("b"), HARD)))
    assert find_conflict(kb) == ()
    conflict = find_conflict(kb, [Group("classes", "exactly_one", ("a", "b"))])
    assert len(conflict) == 3


def big(count: int) -> KnowledgeBase:
    """An implication from each class to attributes, as for animals with attributes, all hard."""
    rng = random.Random(1)
    classes = tuple(f"c{i}" for i in range(50))
    concepts = tuple(f"p{i}" for i in range(85))
    lines = [f"{rng.choice(classes)} -> {rng.choice(['', '~'])}{rng.choice(concepts)}" for _ in range(count)]
    return KnowledgeBase(
        classes,
        concepts,
        tuple(Rule(parse(line), HARD) for line in lines),
        (Group("all", "at_most_one", classes), Group("some", "exactly_one", concepts[:40])),
    )


def test_a_thousand_rules_take_seconds() -> None:
    kb = big(1000)
    start = time.perf_counter()
    kb.check_consistent()
    again = KnowledgeBase.from_text(kb.to_yaml())
    assert again == kb
    assert time.perf_counter() - start < 30


def test_a_conflict_among_a_thousand_rules_is_isolated() -> None:
    kb = big(1000)
    extra = (Rule(parse("c0 & c1"), HARD),)
    broken = KnowledgeBase(kb.classes, kb.concepts, kb.rules + extra, kb.groups)
    with pytest.raises(InputError) as caught:
        broken.check_consistent()
    assert "rules[1000] 'c0 & c1'" in str(caught.value)
    assert len(find_conflict(broken)) <= 4


def test_a_long_conflict_is_shortened_in_the_message() -> None:
    names = tuple(f"p{i}" for i in range(20))
    chain = [f"{x} -> {y}" for x, y in itertools.pairwise(names)]
    kb = KnowledgeBase(names, (), tuple(Rule(parse(t), HARD) for t in ["p0", *chain, "~p19"]))
    with pytest.raises(InputError, match="and 15 more; correct one"):
        kb.check_consistent()
    assert len(find_conflict(kb)) == 21


def test_undecided_constraints_are_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neurosym.logic.satisfiable.satisfiable", lambda clauses: None)
    KnowledgeBase(("a",), (), (Rule(parse("a & ~a"), HARD),)).check_consistent()


def test_some_class_can_be_true() -> None:
    hard = float("inf")
    rules = [Rule.from_text(text, hard) for text in ("a -> c", "a -> ~c", "~b")]
    impossible = KnowledgeBase(("a", "b"), ("c",), tuple(rules))
    impossible.check_consistent()  # the world without a class is left
    with pytest.raises(InputError, match=r"no world has exactly one true class .*'~b'"):
        check_some_class(impossible)
    check_some_class(KnowledgeBase(("a", "b"), ("c",), tuple(rules[:2])))
