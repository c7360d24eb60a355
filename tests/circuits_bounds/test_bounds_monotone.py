"""The log-supermodularity test, and two-corner bounds on balanced graphs of any size."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.circuits import bounds, compile, marginals
from neurosym.circuits.boxes.monotone import implied_literals, is_log_supermodular, monotone_signs, pair_signs
from neurosym.logic.knowledge import Group, KnowledgeBase, Rule
from neurosym.logic.parser import parse

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1] / "oracles")]

import bounds_cases as cases  # noqa: E402
import box_extrema as oracle  # noqa: E402


def signs_of(kb: KnowledgeBase) -> list[np.ndarray | None]:
    return [monotone_signs(c.variables, c.factors) for part in compile(kb).parts for c in part.components]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("a -> b", [1, 1]),
        ("a -> ~b", [1, -1]),
        ("a <-> b", [1, 1]),
        ("a <-> ~b", [1, -1]),
        ("a -> b & ~c", [1, 1, -1]),
        ("a | b -> c", [1, 1, 1]),
        ("a & b & c", [1, 1, 1]),
        ("a & b -> c", None),
        ("a -> b | c", None),
        ("a <-> (b <-> c)", None),
    ],
)
@pytest.mark.parametrize("weight", [1.5, math.inf])
def test_signs_of_one_rule(rule: str, expected: list[int] | None, weight: float) -> None:
    kb = KnowledgeBase(("a",), ("b", "c"), (Rule(parse(rule), weight),))
    (found,) = signs_of(kb)
    if rule == "a & b & c" and weight == math.inf:
        # one world left: any signs are right
        assert found is not None
    elif expected is None:
        assert found is None
    else:
        assert found is not None
        assert (found * found[0]).tolist() == expected


def test_frustrated_triangle_is_refused_and_sound() -> None:
    kb = cases.knowledge("a", "b c", "a -> ~b", "b -> ~c", "c -> ~a")
    assert signs_of(kb) == [None]
    lower, upper = np.array([0.1, 0.2, 0.3]), np.array([0.7, 0.9, 0.6])
    found = bounds(kb, torch.tensor(lower), torch.tensor(upper))
    claim = (found.lower.numpy(), found.upper.numpy(), found.exact.numpy())
    assert oracle.disagreement(oracle.mixture(kb), (lower, upper), claim, np.random.default_rng(0)) == ""
    assert found.exact.all()


def test_groups_of_three_are_refused() -> None:
    for kind, size, fits in (
        ("exactly_one", 3, False),
        ("at_most_one", 3, False),
        ("exactly_one", 2, True),
        ("at_most_one", 2, True),
    ):
        names = ("a", "b", "c")[:size]
        (found,) = signs_of(KnowledgeBase(names, (), (), (Group("g", kind, names),)))
        assert (found is not None) == fits


def test_table_test_equals_all_pairs() -> None:
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        k = int(rng.integers(2, 5))
        held = rng.random((2,) * k) < rng.choice([0.3, 0.8])
        table = np.where(held, 0.0, rng.choice([-1.3, -np.inf]))
        signs = rng.choice([-1, 1], k)

        def value(x: tuple[int, ...], table: np.ndarray = table, signs: np.ndarray = signs) -> float:
            return math.exp(table[tuple(b if s > 0 else 1 - b for b, s in zip(x, signs, strict=True))])

        points = list(itertools.product((0, 1), repeat=k))
        truth = all(
            value(tuple(map(max, x, y))) * value(tuple(map(min, x, y))) >= value(x) * value(y) * (1 - 1e-12)
            for x in points
            for y in points
        )
        assert is_log_supermodular(table, signs.tolist()) == truth
        seen.add(truth)
    assert seen == {True, False}


def test_sparse_support_is_not_called_independent() -> None:
    # all pairwise conditional products vanish, yet the three are equal
    table = np.full((2, 2, 2), -np.inf)
    table[0, 0, 0] = table[1, 1, 1] = 0.0
    assert (pair_signs(table) == 1 - np.eye(3)).all()
    table = np.full((2, 2, 2), -np.inf)
    for odd in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (1, 1, 1)):
        table[odd] = 0.0
    assert not pair_signs(table).any()
    assert not is_log_supermodular(table, [1, 1, 1])


def test_long_conjunctions() -> None:
    names = tuple(f"q{i}" for i in range(30))
    body = " & ".join(f"~{n}" if i % 3 == 0 else n for i, n in enumerate(names))
    kb = KnowledgeBase(("c",), names, (Rule(parse(f"c -> {body}"), 2.0),))
    (found,) = signs_of(kb)
    assert found is not None
    assert found.tolist() == [1, *(-1 if i % 3 == 0 else 1 for i in range(30))]
    reverse = KnowledgeBase(("c",), names, (Rule(parse(f"{body} -> c"), 2.0),))
    assert signs_of(reverse) == [None]
    assert implied_literals(parse("a -> b & a")) is None
    assert implied_literals(parse("~a | ~b -> ~c")) == (("c", True), (("a", True), ("b", True)))


@pytest.mark.parametrize("seed", range(12))
def test_small_balanced_graphs_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(5):
        kb, signs = cases.random_balanced(rng, int(rng.integers(3, 10)), int(rng.integers(0, 4)))
        (found,) = signs_of(kb)
        assert found is not None
        assert (found == signs).all()
        lower, upper = cases.random_box(rng, kb.num_predicates)
        got = bounds(kb, torch.tensor(lower), torch.tensor(upper))
        mix = oracle.mixture(kb)
        if not np.isnan(oracle.probabilities(mix, oracle.box_corners(lower, upper))).any():
            assert got.exact.all()
        claim = (got.lower.numpy(), got.upper.numpy(), got.exact.numpy())
        assert oracle.disagreement(mix, (lower, upper), claim, rng) == ""


@pytest.mark.parametrize(("size", "extra"), [(60, 20), (200, 0), (200, 60)])
def test_large_balanced_graphs_are_exact(size: int, extra: int) -> None:
    rng = np.random.default_rng(size + extra)
    kb, signs = cases.random_balanced(rng, size, extra)
    compiled = compile(kb)
    ends = np.sort(rng.random((2, 3, size)), axis=0)
    lower, upper = torch.tensor(ends[0]), torch.tensor(ends[1])
    found = bounds(compiled, lower, upper)
    assert found.exact.all()
    up = torch.tensor(signs > 0)
    along = marginals(compiled, torch.where(up, upper, lower))
    against = marginals(compiled, torch.where(up, lower, upper))
    torch.testing.assert_close(found.upper, torch.where(up, along, against), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.lower, torch.where(up, against, along), rtol=0, atol=1e-12)
    inside = marginals(compiled, lower + torch.tensor(rng.random((200, 1, size))) * (upper - lower))
    corner = marginals(compiled, torch.where(torch.tensor(rng.random((200, 1, size)) < 0.5), lower, upper))
    for values in (inside, corner):
        assert (values >= found.lower - 1e-12).all()
        assert (values <= found.upper + 1e-12).all()


def test_long_chain_against_message_passing() -> None:
    """A chain p0 -> p1 -> ...: forward and backward sums, at the corners that the signs name."""
    size, rng = 150, np.random.default_rng(5)
    weights = rng.uniform(0.2, 3, size - 1)
    names = [f"p{i}" for i in range(size)]
    rules = tuple(Rule(parse(f"{a} -> {b}"), w) for a, b, w in zip(names, names[1:], weights, strict=False))
    kb = KnowledgeBase(tuple(names[:5]), tuple(names[5:]), rules)

    def chain(p: np.ndarray) -> np.ndarray:
        edge = np.array([[[1.0, 1.0], [math.exp(-w), 1.0]] for w in weights])
        node = np.stack([1 - p, p], axis=1)
        right, left = [np.ones(2)], [np.ones(2)]
        for i in range(size - 1):
            m = (right[-1] * node[i]) @ edge[i]
            right.append(m / m.sum())
            m = edge[size - 2 - i] @ (left[-1] * node[size - 1 - i])
            left.append(m / m.sum())
        belief = node * np.array(right) * np.array(left[::-1])
        return np.asarray(belief[:, 1] / belief.sum(axis=1))

    ends = np.sort(rng.random((2, size)), axis=0)
    found = bounds(kb, torch.tensor(ends[0]), torch.tensor(ends[1]))
    assert found.exact.all()
    np.testing.assert_allclose(found.lower.numpy(), chain(ends[0]), atol=1e-11)
    np.testing.assert_allclose(found.upper.numpy(), chain(ends[1]), atol=1e-11)
