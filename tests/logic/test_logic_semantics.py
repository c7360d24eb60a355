"""Truth values against Python's own evaluation of a translated text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import And, Const, Formula, Iff, Implies, Not, Or, Var, evaluate, parse, truth_table, variables

NAMES = ("a", "b", "c", "d")
LEAVES = st.one_of(st.sampled_from(NAMES).map(Var), st.booleans().map(Const))


def _grow(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    many = st.lists(inner, min_size=2, max_size=3).map(tuple)
    return st.one_of(
        inner.map(Not), many.map(And), many.map(Or), st.builds(Implies, inner, inner), st.builds(Iff, inner, inner)
    )


FORMULAS = st.recursive(LEAVES, _grow, max_leaves=12)


def python_text(formula: Formula) -> str:
    """The formula as a fully parenthesised Python expression."""
    match formula:
        case Var(name):
            return name
        case Const(value):
            return str(value)
        case Not(arg):
            return f"(not {python_text(arg)})"
        case And(args):
            return "(" + " and ".join(map(python_text, args)) + ")"
        case Or(args):
            return "(" + " or ".join(map(python_text, args)) + ")"
        case Implies(left, right):
            return f"({python_text(right)} if {python_text(left)} else True)"
        case Iff(left, right):
            return f"({python_text(left)} is {python_text(right)})"


def python_truth(formula: Formula, world: dict[str, bool]) -> bool:
    return eval(python_text(formula), {}, dict(world))


@settings(max_examples=150, deadline=None)
@given(FORMULAS)
def test_evaluate_agrees_with_python(formula: Formula) -> None:
    worlds = [dict(zip(NAMES, bits, strict=True)) for bits in itertools.product([False, True], repeat=4)]
    expected = [python_truth(formula, world) for world in worlds]
    got = [evaluate(formula, world) for world in worlds]
    assert got == expected
    assert all(type(value) is bool for value in got)
    arrays = {name: np.array([world[name] for world in worlds]) for name in NAMES}
    batch = evaluate(formula, arrays)
    assert batch.dtype == bool
    assert batch.tolist() == expected
    assert truth_table(formula, NAMES).reshape(-1).tolist() == expected


def test_arrays_broadcast_and_keep_the_shape_of_the_world() -> None:
    world = {"a": np.array([[True], [False]]), "b": np.array([True, False, True]), "c": True}
    assert evaluate(parse("a & b"), world).tolist() == [[True, False, True], [False, False, False]]
    assert evaluate(parse("c"), world).shape == (2, 3)
    assert evaluate(parse("true"), world).all()
    assert evaluate(parse("a"), {"a": np.zeros(0, dtype=bool)}).shape == (0,)


def test_zero_and_one_are_truth_values() -> None:
    assert evaluate(parse("a & ~b"), {"a": 1, "b": 0}) is True
    assert evaluate(parse("a"), {"a": np.array([0, 1], dtype=np.uint8)}).tolist() == [False, True]


@pytest.mark.parametrize(
    ("world", "words"),
    [
        ({}, "no value for 'a'"),
        ({"a": 0.3}, "threshold"),
        ({"a": 2}, "0 / 1"),
        ({"a": "yes"}, "0 / 1"),
        ({"a": np.zeros(2, bool), "b": np.zeros(3, bool)}, "share a shape"),
    ],
)
def test_bad_worlds_are_refused(world: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(parse("a"), world)


def test_truth_table_axes() -> None:
    table = truth_table(parse("b -> a"))
    assert table.shape == (2, 2)  # first seen: b, then a
    assert table.tolist() == [[True, True], [False, True]]
    assert truth_table(parse("b -> a"), ("a", "b")).tolist() == [[True, False], [True, True]]
    assert truth_table(parse("a"), ("z", "a")).tolist() == [[False, True], [False, True]]
    assert truth_table(Const(True)).shape == ()
    assert bool(truth_table(Const(True)))
    assert variables(parse("b -> a")) == ("b", "a")


@pytest.mark.parametrize("names", [("a", "a"), ("b",), [f"v{i}" for i in range(25)]])
def test_truth_table_refuses_bad_names(names: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        truth_table(parse("a"), names)
