"""Formulas and their text: round trips, precedence, and errors that say where."""

from __future__ import annotations

import pickle
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import And, Const, Formula, Iff, Implies, Not, Or, Var, parse, substitute, to_text, variables
from neurosym.logic.formula import MAX_DEPTH, depth

NAMES = ("a", "b", "c", "_x1", "trueish", "And")
LEAVES = st.one_of(st.sampled_from(NAMES).map(Var), st.booleans().map(Const))


def _grow(inner: st.SearchStrategy[Formula]) -> st.SearchStrategy[Formula]:
    many = st.lists(inner, min_size=2, max_size=4).map(tuple)
    return st.one_of(
        inner.map(Not), many.map(And), many.map(Or), st.builds(Implies, inner, inner), st.builds(Iff, inner, inner)
    )


FORMULAS = st.recursive(LEAVES, _grow, max_leaves=25)
a, b, c, d = map(Var, "abcd")


@settings(max_examples=300, deadline=None)
@given(FORMULAS)
def test_text_parses_back_to_the_same_tree(formula: Formula) -> None:
    assert parse(to_text(formula)) == formula


@settings(max_examples=50, deadline=None)
@given(FORMULAS)
def test_spaces_and_extra_parentheses_do_not_count(formula: Formula) -> None:
    text = to_text(formula)
    assert parse(text.replace(" ", "")) == formula
    assert parse(f" \n( {text} )\t") == formula


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        ("a | b & c", Or((a, And((b, c))))),
        ("a & b | c", Or((And((a, b)), c))),
        ("~a & b", And((Not(a), b))),
        ("~(a & b)", Not(And((a, b)))),
        ("~~a", Not(Not(a))),
        ("a -> b | c", Implies(a, Or((b, c)))),
        ("a | b -> c", Implies(Or((a, b)), c)),
        ("a -> b -> c", Implies(a, Implies(b, c))),
        ("(a -> b) -> c", Implies(Implies(a, b), c)),
        ("a <-> b -> c", Iff(a, Implies(b, c))),
        ("a -> b <-> c", Iff(Implies(a, b), c)),
        ("a <-> b <-> c", Iff(Iff(a, b), c)),
        ("a <-> (b <-> c)", Iff(a, Iff(b, c))),
        ("a & b & c", And((a, b, c))),
        ("(a & b) & c", And((And((a, b)), c))),
        ("a & (b & c)", And((a, And((b, c))))),
        ("a | b | c | d", Or((a, b, c, d))),
        ("(a | b) | (c | d)", Or((Or((a, b)), Or((c, d))))),
        ("~a -> ~b & c <-> true | d", Iff(Implies(Not(a), And((Not(b), c))), Or((Const(True), d)))),
        ("true", Const(True)),
        ("false", Const(False)),
        ("truefalse", Var("truefalse")),
        ("((((a))))", a),
    ],
)
def test_precedence(text: str, formula: Formula) -> None:
    assert parse(text) == formula
    assert parse(to_text(formula)) == formula


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (And((And((a, b)), c)), "(a & b) & c"),
        (Or((a, And((b, c)), Not(d))), "a | b & c | ~d"),
        (Implies(Implies(a, b), Implies(c, d)), "(a -> b) -> c -> d"),
        (Iff(Iff(a, b), Iff(c, d)), "a <-> b <-> (c <-> d)"),
        (Not(Implies(a, b)), "~(a -> b)"),
        (Not(Not(Const(False))), "~~false"),
    ],
)
def test_text_has_only_the_parentheses_it_needs(formula: Formula, text: str) -> None:
    assert to_text(formula) == text


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("a b", 3, "expected an operator"),
        ("a & ", 4, "rule ends"),
        ("a -> ", 5, "rule ends"),
        ("(a | b", 7, "')', but the rule ends"),
        ("a)", 2, "unexpected ')'"),
        ("| a", 1, "expected a name"),
        ("a and b", 3, "write '&' instead of 'and'"),
        ("a or b", 3, "write '|' instead of 'or'"),
        ("not a", 5, "write '~' instead of 'not'"),
        ("!a", 1, "write '~' instead of '!'"),
        ("a && b", 4, "single '&'"),
        ("a || b", 4, "single '|'"),
        ("a => b", 3, "write '->' instead of '=>'"),
        ("a = b", 3, "write '<->' instead of '='"),
        ("a ∧ b", 3, "write '&' instead of '∧'"),
        ("a & 2b", 5, "do not start with a digit"),
        ("a $ b", 3, "unexpected '$'"),
        ("()", 2, "unexpected ')'"),
        ("é", 1, "unexpected"),
    ],
)
def test_errors_give_the_column_and_what_was_expected(text: str, column: int, words: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith(f"column {column}: ")
    assert words in message
    assert "\n" not in message


def test_error_in_a_text_of_several_lines_gives_the_line() -> None:
    with pytest.raises(InputError, match=r"^line 2, column 4: "):
        parse("a |\n b c")


@pytest.mark.parametrize("text", ["", "  \n", 3, None])
def test_empty_and_non_text_rules_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="a rule must"):
        parse(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab ~&|<->()\n1$é!=", max_size=30))
def test_any_text_gives_a_formula_or_a_one_line_error(text: str) -> None:
    try:
        formula = parse(text)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert parse(to_text(formula)) == formula


def test_nesting_is_limited_and_never_overflows_the_stack() -> None:
    for text in (
        "~" * 50_000 + "a",
        "a -> " * 50_000 + "a",
        "a <-> " * 50_000 + "a",
        "~(" * 20_000 + "a" + ")" * 20_000,
    ):
        with pytest.raises(InputError, match="nests deeper"):
            parse(text)
    assert parse("(" * 20_000 + "a" + ")" * 20_000) == a
    deepest = parse("~" * MAX_DEPTH + "a")
    assert depth(deepest) == MAX_DEPTH
    assert parse(to_text(deepest)) == deepest
    assert hash(deepest) == hash(parse(to_text(deepest)))
    assert pickle.loads(pickle.dumps(deepest)) == deepest
    assert "Not" in repr(deepest)
    with pytest.raises(InputError, match="nests deeper"):
        Not(deepest)


def test_wide_formulas_are_not_limited() -> None:
    formula = Or(tuple(Var(f"v{i}") for i in range(5000)))
    assert parse(to_text(formula)) == formula


@pytest.mark.parametrize("name", ["true", "false", "1a", "a b", "", "é", "a-b", "a\n"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InputError):
        Var(name)


@pytest.mark.parametrize("kind", [And, Or])
def test_connectives_refuse_what_has_no_text(kind: type) -> None:
    for args in ((), (a,), "ab", (a, "b")):
        with pytest.raises(InputError):
            kind(args)
    assert kind([a, b]) == kind((a, b))
    with pytest.raises(InputError):
        Const(1)  # type: ignore[arg-type]
    with pytest.raises(InputError):
        Not("a")  # type: ignore[arg-type]


def test_variables_come_in_first_seen_order() -> None:
    assert variables(parse("c & (a -> ~b) | a & c <-> d")) == ("c", "a", "b", "d")
    assert variables(Const(True)) == ()


def test_substitution_is_simultaneous() -> None:
    assert substitute(parse("a & (b -> a)"), {"a": b, "b": parse("a | c")}) == parse("b & ((a | c) -> b)")
    assert substitute(parse("a & b"), {"a": parse("c & d")}) == And((And((c, d)), b))
    assert substitute(Const(True), {"a": b}) == Const(True)


def test_parsing_a_thousand_rules_is_quick_and_exact() -> None:
    rng = random.Random(0)
    for _ in range(1000):
        names = [f"p{rng.randrange(50)}" for _ in range(4)]
        text = "{} -> {} & ~{} | {}".format(*names)
        p, q, r, s = map(Var, names)
        assert parse(text) == Implies(p, Or((And((q, Not(r))), s)))


def test_import_is_light() -> None:
    code = (
        "import sys, neurosym.logic, neurosym.logic.knowledge, neurosym.logic.rules_file, neurosym.logic.sat\n"
        "bad = {'torch', 'lark', 'pysdd', 'scipy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
