"""Clauses against truth tables; the DIMACS format."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import (
    And,
    Cnf,
    Const,
    Formula,
    Iff,
    Implies,
    Not,
    Or,
    Var,
    parse,
    read_dimacs,
    to_cnf_direct,
    to_cnf_tseitin,
    truth_table,
    write_dimacs,
)  # fmt: skip
from neurosym.logic.cnf import simplify
from neurosym.logic.dimacs import from_dimacs, to_dimacs

NAMES = ("a", "b", "c")
LEAVES = st.one_of(st.sampled_from(NAMES).map(Var), st.sampled_from(NAMES).map(Var), st.booleans().map(Const))


def _grow(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    many = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        inner.map(Not), many.map(And), many.map(Or), st.builds(Implies, inner, inner), st.builds(Iff, inner, inner)
    )


FORMULAS = st.recursive(LEAVES, _grow, max_leaves=7)


def models(cnf: Cnf) -> list[tuple[bool, ...]]:
    """All satisfying assignments by enumeration."""
    worlds = itertools.product([False, True], repeat=cnf.num_variables)
    return [w for w in worlds if all(any(w[abs(x) - 1] == (x > 0) for x in c) for c in cnf.clauses)]


def worlds_of(formula: Formula) -> list[tuple[bool, ...]]:
    table = truth_table(formula, NAMES)
    return [w for w in itertools.product([False, True], repeat=3) if table[tuple(map(int, w))]]


@settings(max_examples=150, deadline=None)
@given(FORMULAS)
def test_direct_form_is_equivalent(formula: Formula) -> None:
    cnf = to_cnf_direct(formula, NAMES)
    assert cnf.num_auxiliary == 0
    assert models(cnf) == worlds_of(formula)
    assert len(set(cnf.clauses)) == len(cnf.clauses)


@settings(max_examples=100, deadline=None)
@given(FORMULAS)
def test_each_world_extends_to_exactly_one_model_of_the_tseitin_form(formula: Formula) -> None:
    cnf = to_cnf_tseitin(formula, NAMES)
    if cnf.num_auxiliary > 8:
        return
    assert sorted(model[:3] for model in models(cnf)) == worlds_of(formula)


@settings(max_examples=150, deadline=None)
@given(FORMULAS)
def test_simplify_removes_constants(formula: Formula) -> None:
    simple = simplify(formula)
    assert worlds_of(simple) == worlds_of(formula)
    assert isinstance(simple, Const) or "true" not in str(simple)
    if not isinstance(simple, Const):
        assert "Const" not in repr(simple)


def test_direct_form_of_a_rule() -> None:
    cnf = to_cnf_direct(parse("stop -> octagon & red"))
    assert cnf.names == ("stop", "octagon", "red")
    assert sorted(cnf.clauses) == [(-1, 2), (-1, 3)]


def test_constants_as_whole_formulas() -> None:
    for transform in (to_cnf_direct, to_cnf_tseitin):
        assert transform(Const(True)).clauses == ()
        assert transform(Const(False)).clauses == ((),)


def test_direct_form_refuses_to_explode_and_tseitin_stays_small() -> None:
    formula = Or(tuple(And((Var(f"a{i}"), Var(f"b{i}"))) for i in range(30)))
    with pytest.raises(InputError, match="more than 10000 clauses; use to_cnf_tseitin"):
        to_cnf_direct(formula)
    cnf = to_cnf_tseitin(formula)
    assert cnf.num_variables == 90
    assert len(cnf.clauses) == 91
    with pytest.raises(InputError, match="more than 3 clauses"):
        to_cnf_direct(parse("a & b & c & d"), max_clauses=3)


def test_parity_has_exponentially_many_clauses() -> None:
    parity = parse(" <-> ".join(f"x{i}" for i in range(8)))
    assert len(to_cnf_direct(parity).clauses) == 2**7


@pytest.mark.parametrize("names", [("a",), ("a", "a", "b")])
def test_bad_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        to_cnf_direct(parse("a & b"), names)


def test_literals_out_of_range_are_refused() -> None:
    for literal in (0, 3, -3):
        with pytest.raises(InputError):
            Cnf(2, ((literal,),))
    with pytest.raises(InputError):
        Cnf(1, (), ("a", "b"))


CLAUSES = st.lists(st.lists(st.integers(1, 5).flatmap(lambda v: st.sampled_from([v, -v])), max_size=4).map(tuple))


@settings(max_examples=100, deadline=None)
@given(CLAUSES, st.integers(0, 5))
def test_dimacs_round_trip(clauses: list[tuple[int, ...]], named: int) -> None:
    cnf = Cnf(5, tuple(clauses), tuple(f"n{i}" for i in range(named)))
    assert from_dimacs(to_dimacs(cnf)) == cnf


def test_dimacs_file_round_trip(tmp_path: Path) -> None:
    cnf = to_cnf_tseitin(parse("a & b | ~c & (a <-> d)"))
    path = tmp_path / "rules.cnf"
    write_dimacs(cnf, path)
    assert read_dimacs(path) == cnf
    assert [p.name for p in tmp_path.iterdir()] == ["rules.cnf"]


def test_dimacs_layout_is_free() -> None:
    text = "c a comment\n\nc\np  cnf 3   2\n1 -3\nc between\n 0 2\t3 -1 0\n"
    assert from_dimacs(text) == Cnf(3, ((1, -3), (2, 3, -1)))
    assert from_dimacs("p cnf 0 1\n0\n") == Cnf(0, ((),))


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "no header"),
        ("c only\nc comments\n", 2, "no header"),
        ("1 2 0\np cnf 2 1\n", 1, "before the header"),
        ("p cnf 2\n1 0\n", 1, "bad header"),
        ("p cnf -2 1\n", 1, "bad header"),
        ("p wcnf 2 1\n1 0\n", 1, "bad header"),
        ("p cnf 2 1\np cnf 2 1\n1 0\n", 2, "second 'p' line"),
        ("p cnf 2 1\n\n1 x 0\n", 3, "'x' is not an integer"),
        ("p cnf 2 1\n1.0 0\n", 2, "not an integer"),
        ("p cnf 2 1\n1 3 0\n", 2, "literal 3 is outside the declared variables 1..2"),
        ("p cnf 2 2\n1 0\n\n1 2\n", 4, "does not end with 0"),
        ("p cnf 2 2\n1 0\n", 2, "declares 2 clauses, but there are 1"),
        ("p cnf 2 1\n1 0\n2 0\n", 3, "more clauses than the 1"),
        ("p cnf 2 1\n1 0\n%\n0\n", 3, "'%'"),
        ("c var 1 a\nc var 1 b\np cnf 2 0\n", 2, "second time"),
        ("c var 2 a\np cnf 2 0\n", 2, "without gaps"),
    ],
)
def test_dimacs_errors_name_the_line(text: str, line: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        from_dimacs(text, "x.cnf")
    assert str(caught.value).startswith(f"x.cnf:{line}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_dimacs_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_dimacs(tmp_path / "none.cnf")
    (tmp_path / "bad.cnf").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        read_dimacs(tmp_path / "bad.cnf")
