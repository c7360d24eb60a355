"""Knowledge bases: validation, parts, digests, and the YAML round trip."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neurosym.errors import InputError
from neurosym.logic import (
    CircuitSpec,
    Group,
    KnowledgeBase,
    Rule,
    evaluate,
    parse,
    truth_table,
)  # fmt: skip

EXAMPLE = """\
classes: [stop, yield, keep_right]
concepts: [octagon, triangle, circle, red]
rules:
  - stop -> octagon
  - {rule: "keep_right -> circle & ~red", weight: 4}
groups: {shape: {exactly_one: [octagon, triangle, circle]}}
circuits: {shape: {rules: [0], beta: 0.5}, colour: {rules: [1]}}
"""


def make(**changes: object) -> KnowledgeBase:
    base: dict = {"classes": ("x", "y"), "concepts": ("p", "q", "r", "s")}
    return KnowledgeBase(**(base | changes))


def rules(*texts: str) -> tuple[Rule, ...]:
    return tuple(map(Rule.from_text, texts))


def test_example_file() -> None:
    kb = KnowledgeBase.from_text(EXAMPLE)
    assert kb.predicates == ("stop", "yield", "keep_right", "octagon", "triangle", "circle", "red")
    assert (kb.num_classes, kb.num_predicates, kb.index("octagon")) == (3, 7, 3)
    assert [r.weight for r in kb.rules] == [1.5, 4.0]
    assert [r.line for r in kb.rules] == [4, 5]
    assert kb.rules[1].text == "keep_right -> circle & ~red"
    assert kb.groups == (Group("shape", "exactly_one", ("octagon", "triangle", "circle")),)
    assert [(p.name, p.rules, p.groups, p.beta) for p in kb.parts()] == [
        ("shape", (0,), (0,), 0.5),
        ("colour", (1,), (0,), 0.5),
    ]


def test_index_of_an_unknown_name_suggests_one() -> None:
    with pytest.raises(InputError, match="unknown predicate 'octogon'; did you mean 'octagon'"):
        KnowledgeBase.from_text(EXAMPLE).index("octogon")


@pytest.mark.parametrize("weight", [math.nan, -math.inf, -1, True, "4", None, 10**400])
def test_bad_weights_are_refused(weight: object) -> None:
    with pytest.raises(InputError, match="weight"):
        Rule(parse("a"), weight)  # type: ignore[arg-type]


def test_weights() -> None:
    assert Rule(parse("a"), math.inf).hard
    assert not Rule(parse("a"), 0).hard
    assert Rule(parse("a"), np.float32(2)).weight == 2.0  # type: ignore[arg-type]
    assert str(Rule(parse("a"), -0.0).weight) == "0.0"
    assert Rule(parse("a")).weight == 1.5
    with pytest.raises(InputError, match=r"~\(rule\) with weight 2"):
        Rule(parse("a"), -2)
    with pytest.raises(InputError, match="must be a formula"):
        Rule("a")  # type: ignore[arg-type]


def test_scaled_keeps_hard_rules_and_groups() -> None:
    kb = make(rules=(Rule(parse("p"), 2.0), Rule(parse("q"), math.inf)))
    assert [r.weight for r in kb.scaled(0.5).rules] == [1.0, math.inf]
    assert [r.weight for r in kb.scaled(0).rules] == [0.0, math.inf]
    assert kb.scaled(1) == kb
    for bad in (-1, math.nan, math.inf, "2"):
        with pytest.raises(InputError, match="scale"):
            kb.scaled(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ()}, "classes is empty"),
        ({"classes": "ab"}, "classes must be a list of names"),
        ({"classes": ("x", "x")}, "classes[1] 'x' repeats classes[0]"),
        ({"concepts": ("p", "x")}, "concepts[1] 'x' is also a class"),
        ({"concepts": ("true",)}, "reserved word"),
        ({"concepts": ("a b",)}, "letters, digits and _"),
        ({"concepts": (3,)}, "must be text"),
        ({"rules": rules("p -> zz")}, "rules[0] 'p -> zz': unknown predicate 'zz'"),
        ({"rules": ("p",)}, "rules[0] must be a Rule"),
        ({"groups": (Group("g", "exactly_one", ("p", "zz")),)}, "groups.g.exactly_one[1]: unknown predicate"),
        ({"groups": (Group("g", "exactly_one", ("p",)), Group("g", "at_most_one", ("q",)))}, "'g' repeats"),
        ({"rules": rules("p"), "circuits": (CircuitSpec("c", (1,)),)}, "rules[0] = 1 is not a rule"),
        ({"rules": rules("p"), "circuits": (CircuitSpec("c", (-1,)),)}, "= -1 is not a rule"),
        ({"rules": rules("p"), "circuits": (CircuitSpec("c", (0,)),) * 2}, "'c' repeats"),
        ({"rules": rules("p", "q"), "circuits": (CircuitSpec("c", (0,), 1.0),)}, "leave nothing for 'rest'"),
    ],
)
def test_bad_knowledge_is_refused(changes: dict, words: str) -> None:
    with pytest.raises(InputError) as caught:
        make(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_groups_and_circuits_are_refused() -> None:
    for build in (
        lambda: Group("g", "exactly_one", ()),
        lambda: Group("g", "exactly_one", ("p", "p")),
        lambda: Group("g", "one_of", ("p",)),  # type: ignore[arg-type]
        lambda: Group("true", "exactly_one", ("p",)),
        lambda: CircuitSpec("rest", (0,)),
        lambda: CircuitSpec("c", ()),
        lambda: CircuitSpec("c", (0, 0)),
        lambda: CircuitSpec("c", (True,)),
        lambda: CircuitSpec("c", (0.0,)),  # type: ignore[arg-type]
        lambda: CircuitSpec("c", (0,), 0.0),
        lambda: CircuitSpec("c", (0,), math.inf),
        lambda: CircuitSpec("c", (0,), math.nan),
    ):
        with pytest.raises(InputError):
            build()


def test_group_refuses_bad_worlds() -> None:
    with pytest.raises(InputError, match="no value for 'q'"):
        Group("g", "at_most_one", ("p", "q")).holds({"p": True})
    with pytest.raises(InputError, match="threshold"):
        Group("g", "at_most_one", ("p",)).holds({"p": 0.3})


@pytest.mark.parametrize("kind", ["exactly_one", "at_most_one"])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_group_formula_counts(kind: str, size: int) -> None:
    members = tuple("pqrs"[:size])
    group = Group("g", kind, members)  # type: ignore[arg-type]
    for bits in itertools.product([False, True], repeat=size):
        world = dict(zip(members, bits, strict=True))
        expected = sum(bits) == 1 or (kind == "at_most_one" and sum(bits) == 0)
        assert evaluate(group.formula, world) == expected
        assert group.holds(world) is expected
    table = truth_table(group.formula, members)
    grids = np.meshgrid(*([[False, True]] * size), indexing="ij")
    assert (group.holds(dict(zip(members, grids, strict=True))) == table).all()


class TestParts:
    def test_no_circuits_make_one_part(self) -> None:
        kb = make(rules=rules("p -> q", "r -> s"))
        assert [(p.name, p.rules, p.groups, p.beta) for p in kb.parts()] == [("rest", (0, 1), (), 1.0)]

    def test_nothing_known_makes_no_part(self) -> None:
        assert make().parts() == ()

    def test_rest_takes_an_equal_share(self) -> None:
        kb = make(rules=rules("p", "q", "r"), circuits=(CircuitSpec("c", (2,)), CircuitSpec("d", (1,))))
        assert [(p.name, p.rules) for p in kb.parts()] == [("c", (2,)), ("d", (1,)), ("rest", (0,))]
        assert [p.beta for p in kb.parts()] == [1 / 3] * 3

    def test_given_betas_are_normalised(self) -> None:
        kb = make(rules=rules("p", "q"), circuits=(CircuitSpec("c", (0,), 1), CircuitSpec("d", (1,), 3)))
        assert [p.beta for p in kb.parts()] == [0.25, 0.75]

    def test_a_missing_beta_gets_what_is_left(self) -> None:
        kb = make(rules=rules("p", "q"), circuits=(CircuitSpec("c", (0,), 0.8), CircuitSpec("d", (1,))))
        assert [p.beta for p in kb.parts()] == pytest.approx([0.8, 0.2])

    def test_circuits_may_share_rules(self) -> None:
        kb = make(rules=rules("p", "q"), circuits=(CircuitSpec("c", (0, 1)), CircuitSpec("d", (1,))))
        assert [p.rules for p in kb.parts()] == [(0, 1), (1,)]

    def test_a_group_joins_every_part_that_mentions_a_member_even_through_another_group(self) -> None:
        groups = (Group("g", "at_most_one", ("q", "r")), Group("h", "at_most_one", ("r", "s")))
        kb = make(
            rules=rules("p -> q", "x -> s", "y"),
            groups=groups,
            circuits=tuple(CircuitSpec(name, (i,)) for i, name in enumerate("abc")),
        )
        assert [p.groups for p in kb.parts()] == [(0, 1), (0, 1), ()]

    def test_a_group_that_no_part_mentions_joins_rest(self) -> None:
        group = (Group("g", "at_most_one", ("r", "s")),)
        kb = make(rules=rules("p", "q"), groups=group, circuits=(CircuitSpec("c", (0,)),))
        assert [(p.name, p.groups) for p in kb.parts()] == [("c", ()), ("rest", (0,))]
        circuits = (CircuitSpec("c", (0,), 0.75), CircuitSpec("d", (1,), 0.25))
        parts = make(rules=rules("p", "q"), groups=group, circuits=circuits).parts()
        assert [(p.name, p.rules, p.groups) for p in parts] == [
            ("c", (0,), ()),
            ("d", (1,), ()),
            ("rest", (), (0,)),
        ]
        assert [p.beta for p in parts] == pytest.approx([0.5, 1 / 6, 1 / 3])
        assert [p.name for p in make(groups=group).parts()] == ["rest"]
        assert make(groups=group).parts()[0].beta == 1.0

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_betas_sum_to_one_and_every_rule_and_group_is_somewhere(self, data: st.DataObject) -> None:
        names = ("x", "y", "p", "q", "r", "s")
        count = data.draw(st.integers(0, 4))
        pairs = st.permutations(names).map(lambda order: f"{order[0]} -> {order[1]}")
        some = tuple(Rule.from_text(data.draw(pairs)) for _ in range(count))
        members = st.lists(st.sampled_from(names), min_size=2, max_size=3, unique=True).map(tuple)
        groups = tuple(Group(f"g{i}", "at_most_one", data.draw(members)) for i in range(data.draw(st.integers(0, 2))))
        subset = st.lists(st.integers(0, max(count - 1, 0)), min_size=1, unique=True).map(tuple)
        beta = st.none() | st.floats(0.01, 0.3)
        size = data.draw(st.integers(0, 3)) if count else 0
        circuits = tuple(CircuitSpec(f"c{i}", data.draw(subset), data.draw(beta)) for i in range(size))
        parts = make(rules=some, groups=groups, circuits=circuits).parts()
        assert math.isclose(sum(p.beta for p in parts), 1.0) or not parts
        assert all(p.beta > 0 for p in parts)
        assert {i for p in parts for i in p.rules} == set(range(count))
        assert {i for p in parts for i in p.groups} == set(range(len(groups)))


class TestDigest:
    def test_canonical_is_json(self) -> None:
        kb = make(rules=(Rule(parse("p"), math.inf), Rule(parse("q -> r"), 0.1)))
        text = json.dumps(kb.canonical(), allow_nan=False)
        assert json.loads(text) == kb.canonical()
        assert kb.canonical()["rules"] == [
            {"rule": "p", "weight": "inf"},
            {"rule": "q -> r", "weight": 0.1},
        ]

    def test_order_of_keys_layout_and_lines_do_not_count(self) -> None:
        shuffled = """\
# the same, otherwise written
circuits:
  colour: {rules: [1]}
  shape: {beta: 0.50, rules: [0]}
groups:
  shape:
    exactly_one:
      - octagon
      - triangle
      - circle
rules:
  - {weight: 1.5, rule: (stop) -> octagon}
  - {weight: 4.0, rule: "keep_right->(circle&~red)"}
concepts: [octagon, triangle, circle, red]
classes: [stop, yield, keep_right]
"""
        digest = KnowledgeBase.from_text(EXAMPLE).digest()
        assert KnowledgeBase.from_text(shuffled).digest() == digest
        assert len(digest) == 64

    def test_every_field_counts(self) -> None:
        kb = make(
            rules=rules("p", "q"),
            groups=(Group("g", "at_most_one", ("r", "s")),),
            circuits=(CircuitSpec("c", (0,)),),
        )
        others = [
            dataclasses.replace(kb, classes=("y", "x")),
            dataclasses.replace(kb, concepts=("q", "p", "r", "s")),
            dataclasses.replace(kb, rules=(*kb.rules[:1], Rule(parse("q"), 1.25))),
            dataclasses.replace(kb, rules=kb.rules[::-1]),
            dataclasses.replace(kb, groups=(Group("g", "exactly_one", ("r", "s")),)),
            dataclasses.replace(kb, circuits=(CircuitSpec("c", (0,), 0.25),)),
        ]
        assert len({kb.digest(), *(other.digest() for other in others)}) == 7

    def test_known_value(self) -> None:
        """The digest is written into certificates: it must never change for the same knowledge."""
        kb = KnowledgeBase(("a",), ("b",), rules("a -> b"))
        assert kb.digest() == KNOWN_DIGEST


KNOWN_DIGEST = "35b3b6b19c2f0d46b3fa403adac3fc54ae23a0085402b62ef4d46ae77759de08"


def test_pickle_and_hash() -> None:
    kb = KnowledgeBase.from_text(EXAMPLE)
    assert pickle.loads(pickle.dumps(kb)) == kb
    assert hash(kb) == hash(KnowledgeBase.from_text(EXAMPLE))


def test_contradiction_is_found_on_request_for_python_objects() -> None:
    kb = make(rules=(Rule(parse("p"), math.inf), Rule(parse("~p"), math.inf)))
    with pytest.raises(InputError, match=r"rules\[0\] 'p', rules\[1\] '~p'"):
        kb.check_consistent()


NASTY = ("no", "yes", "null", "on", "_", "n", "y", "e1", "x_0", "Inf", "NaN")


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_yaml_round_trip(data: st.DataObject) -> None:
    names = data.draw(st.permutations(NASTY))
    cut = data.draw(st.integers(1, len(names) - 1))
    some = st.sampled_from(names)
    texts = st.builds("{} -> {} & ~{} | {}".format, some, some, some, some) | st.builds("~{}".format, some)
    weights = st.sampled_from([1.5, 0.0, 4.0, 1e17, 1e-9, 0.1]) | st.floats(0, 1e300)
    kb_rules = tuple(Rule.from_text(data.draw(texts), data.draw(weights)) for _ in range(data.draw(st.integers(0, 3))))
    groups = (Group("no", "at_most_one", tuple(names[:3])), Group("g", "exactly_one", tuple(names[3:6])))
    circuits = (CircuitSpec("null", (0,), data.draw(st.none() | st.floats(0.01, 0.5))),) if kb_rules else ()
    kb = KnowledgeBase(
        tuple(names[:cut]), tuple(names[cut:]), kb_rules, groups[: data.draw(st.integers(0, 2))], circuits
    )
    again = KnowledgeBase.from_text(kb.to_yaml())
    assert again == kb
    assert again.digest() == kb.digest()


def test_hard_weight_survives_yaml() -> None:
    kb = make(rules=(Rule(parse("p"), math.inf),))
    assert ".inf" in kb.to_yaml()
    assert KnowledgeBase.from_text(kb.to_yaml()) == kb
