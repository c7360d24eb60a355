"""The verifier's circuits against sums over all worlds and searches over boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from neurosym.certify.verifier.circuit import FALLS, RISES, Box, Circuits, balance
from neurosym.certify.verifier.rules import Unreadable, read_formula, read_knowledge

NAMES = ["a", "b", "c", "x", "y", "z"]
FORMULAS: list[tuple[str, Callable[..., bool]]] = [
    ("a -> x", lambda a, b, c, x, y, z: not a or x),
    ("b -> ~x", lambda a, b, c, x, y, z: not b or not x),
    ("a & y -> z", lambda a, b, c, x, y, z: not (a and y) or z),
    ("x <-> y | c", lambda a, b, c, x, y, z: x == (y or c)),
    ("b -> y -> ~(z & x)", lambda a, b, c, x, y, z: not b or not y or not (z and x)),
    ("c | ~z | false", lambda a, b, c, x, y, z: c or not z),
    ("a <-> b <-> c", lambda a, b, c, x, y, z: (a == b) == c),
]


def oracle(p: np.ndarray, doc: Mapping[str, Any], circuit: str, kind: str, target: int) -> float | None:
    """P(target) by enumeration, mixture over the named circuits and the rest."""
    truth = dict(FORMULAS)
    named = [spec["rules"] for spec in doc["circuits"]]
    rest = [h for h in range(len(doc["rules"])) if not any(h in rules for rules in named)]
    parts = [*named, rest] if rest else named
    if circuit == "exclusive":
        parts = [list(range(len(doc["rules"])))]
    values = []
    for rules in parts:
        texts = [doc["rules"][h] for h in rules]
        used = {n for item in texts for n in NAMES if n in item["rule"].replace("false", "")}
        groups, grew = [], True
        while grew:
            grew = False
            for group in doc["groups"]:
                if group not in groups and (circuit == "exclusive" or used & set(group["members"])):
                    groups.append(group)
                    used |= set(group["members"])
                    grew = True
        if circuit != "exclusive" and NAMES[target] not in used:
            continue
        mass = total = 0.0
        for bits in itertools.product((False, True), repeat=6):
            if circuit == "exclusive" and sum(bits[:3]) != 1:
                continue
            value = 1.0
            for j, bit in enumerate(bits):
                false = 1.0 if circuit == "exclusive" and kind == "categorical" and j < 3 else 1 - p[j]
                value *= p[j] if bit else false
            for item in texts:
                if not truth[item["rule"]](*bits):
                    value *= 0.0 if item["weight"] == "inf" else math.exp(-item["weight"])
            for group in groups:
                count = sum(bits[NAMES.index(m)] for m in group["members"])
                value *= count == 1 if group["kind"] == "exactly_one" else count <= 1
            total += value
            mass += value * bits[target]
        if total == 0:
            return None
        values.append(mass / total)
    return sum(values) / len(values) if values else float(p[target])


def random_document(rng: np.random.Generator, formulas: int) -> dict[str, Any]:
    chosen = rng.choice(len(FORMULAS), formulas, replace=False)
    rules = [{"rule": FORMULAS[i][0], "weight": float(rng.uniform(0.2, 3))} for i in chosen]
    split = [{"name": "one", "rules": [0], "beta": None}] if rng.random() < 0.5 and formulas > 1 else []
    groups = [{"name": "g", "kind": "exactly_one", "members": ["x", "y", "z"]}] if rng.random() < 0.3 else []
    if rng.random() < 0.2:
        groups.append({"name": "h", "kind": "at_most_one", "members": ["a", "b", "c", "z"]})
    return {"classes": NAMES[:3], "concepts": NAMES[3:], "rules": rules, "groups": groups, "circuits": split}


def decimals(values: np.ndarray) -> list[Decimal]:
    return [Decimal(float(value)) for value in values]


@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_probability_equals_sum_over_worlds(circuit: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    for trial in range(25):
        doc = random_document(rng, 1 + trial % 4)
        layer = Circuits(read_knowledge(doc, circuit, Fraction(1)), circuit, kind, 3)
        p = rng.uniform(0.02, 0.98, 6)
        if trial % 5 == 0:
            p[int(rng.integers(3, 6))] = 0.0
        for target in range(3):
            found, truth = (
                layer.bound(target, Box(decimals(p), decimals(p)), RISES),
                oracle(p, doc, circuit, kind, target),
            )
            assert (found is None) == (truth is None)
            if found is not None:
                assert float(found.value) == pytest.approx(truth, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
def test_bounds_hold_and_are_attained(circuit: str) -> None:
    """Every corner and random points are inside; for one circuit the exact bound is some corner's value."""
    rng = np.random.default_rng(5)
    for trial in range(12):
        doc = random_document(rng, 1 + trial % 4) | {"circuits": []}
        layer = Circuits(read_knowledge(doc, circuit, Fraction(1)), circuit, "binary", 3)
        low = rng.uniform(0.05, 0.6, 6)
        high = low + rng.uniform(0.05, 0.35, 6)
        box = Box(decimals(low), decimals(high))
        for target in range(3):
            up, down = layer.bound(target, box, RISES), layer.bound(target, box, FALLS)
            assert up is not None
            assert down is not None
            assert up.exact
            corners = [
                oracle(np.where(ends, high, low), doc, circuit, "binary", target)
                for ends in itertools.product((False, True), repeat=6)
            ]
            corners = [value for value in corners if value is not None]
            assert float(up.value) == pytest.approx(max(corners), rel=1e-10)
            assert float(down.value) == pytest.approx(min(corners), rel=1e-10)


def test_loose_bound_is_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.certify.verifier import circuit as module

    monkeypatch.setattr(module, "MAX_VERTICES", 1)
    rng = np.random.default_rng(8)
    loose = 0
    for trial in range(15):
        doc = random_document(rng, 2 + trial % 3)
        layer = Circuits(read_knowledge(doc, "rules", Fraction(1)), "rules", "binary", 3)
        low = rng.uniform(0.05, 0.6, 6)
        high = low + 0.3
        for target in range(3):
            up = layer.bound(target, Box(decimals(low), decimals(high)), RISES)
            assert up is not None
            loose += not up.exact
            for _ in range(10):
                value = oracle(rng.uniform(low, high), doc, "rules", "binary", target)
                assert value is not None
                assert value <= float(up.value) + 1e-12
    assert loose > 0


def test_simplex_bound_against_random_points_of_the_simplex() -> None:
    rng = np.random.default_rng(2)
    doc = {
        "classes": NAMES[:3], "concepts": NAMES[3:], "groups": [], "circuits": [],
        "rules": [{"rule": "a -> x", "weight": 1.0}, {"rule": "b -> ~x", "weight": 2.0},
                  {"rule": "a & y -> z", "weight": 1.0}],
    }  # fmt: skip
    layer = Circuits(read_knowledge(doc, "exclusive", Fraction(1)), "exclusive", "categorical", 3)
    assert not layer.one_corner
    gaps = []
    for _ in range(6):
        centre = rng.dirichlet([2, 2, 2])
        low = np.r_[np.maximum(centre - 0.15, 0), rng.uniform(0.1, 0.5, 3)]
        high = np.r_[np.minimum(centre + 0.15, 1), low[3:] + 0.3]
        box = Box(decimals(low), decimals(high))
        for target in range(3):
            up, down = layer.bound(target, box, RISES), layer.bound(target, box, FALLS)
            assert up is not None
            assert down is not None
            best, worst = 0.0, 1.0
            for _ in range(150):
                pi = rng.dirichlet([1, 1, 1])
                if (pi < low[:3]).any() or (pi > high[:3]).any():
                    continue
                q = np.where(rng.random(3) < 0.5, low[3:], high[3:])
                value = oracle(np.r_[pi, q], doc, "exclusive", "categorical", target)
                assert value is not None
                best, worst = max(best, value), min(worst, value)
            assert worst >= float(down.value) - 1e-12
            assert best <= float(up.value) + 1e-12
            gaps.append(float(up.value) - best)
    assert min(gaps) < 0.05  # close to attained where the search was lucky


def test_balance_finds_flips_and_refuses_frustration() -> None:
    def factors(rules: list[str]) -> Any:
        doc = {"classes": ["a", "b", "c"], "concepts": [], "groups": [], "circuits": [],
               "rules": [{"rule": rule, "weight": 1.0} for rule in rules]}  # fmt: skip
        return read_knowledge(doc, "rules", Fraction(1)).parts[0].factors

    assert balance(factors(["a -> b", "b -> c", "a -> c"]), [0, 1, 2]) == {0: 1, 1: 1, 2: 1}
    signs = balance(factors(["a -> ~b", "b -> ~c"]), [0, 1, 2])
    assert signs is not None
    assert signs[0] == -signs[1] == signs[2]
    assert balance(factors(["a -> ~b", "b -> ~c", "a -> ~c"]), [0, 1, 2]) is None
    assert balance(factors(["a & b -> c"]), [0, 1, 2]) is None


def test_parser_agrees_with_python_on_all_worlds() -> None:
    for text, truth in FORMULAS:
        found, _ = read_formula(text)
        for bits in itertools.product((False, True), repeat=6):
            assert found(dict(zip(NAMES, bits, strict=True))) == truth(*bits), text


def test_parser_agrees_with_the_packages_own() -> None:
    from neurosym.logic.formula import to_text
    from neurosym.logic.parser import parse
    from neurosym.logic.semantics import evaluate

    for text in ["a->b->c", "a<->b<->c", "~(a|b)&c", "a|b&c", "~~a -> true", "(a->b)->c", "a & (b | ~c) <-> false"]:
        found, _ = read_formula(to_text(parse(text)))
        for bits in itertools.product((False, True), repeat=3):
            world = dict(zip("abc", bits, strict=True))
            assert found(world) == bool(evaluate(parse(text), world)), text


@pytest.mark.parametrize("text", ["", "a ->", "(a", "a b", "a & & b", "1a", "a -> b)", "a # b"])
def test_malformed_rules_are_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read_formula(text)
