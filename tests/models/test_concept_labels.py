"""Concept labels of classes: COLEP's published table, closures, and the satisfiable part of the rules as oracle."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from neurosym.certify.sources import demo_folder
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.targets import class_concept_matrix

# COLEP (Kang et al., ICLR 2024), GTSRB: the classes that carry each of the thirteen concepts.
POSITIVES = {
    "octagon": {0},
    "diamond": {1},
    "triangle": {2, 3},
    "circle": set(range(4, 12)),
    "blank": {2, 7},
    "red": {0, 2, 3, 6, 7, 8, 10, 11},
    "blue": {4, 5},
    "grey": {9},
    "digits_50": {8},
    "digits_20": {10},
    "digits_120": {11},
    "arrow_keep_right": {4},
    "arrow_left": {5},
}


def labels(rules: str, classes: str = "a, b, c", concepts: str = "p, q, r") -> np.ndarray:
    kb = KnowledgeBase.from_text(f"classes: [{classes}]\nconcepts: [{concepts}]\nrules:\n{rules}")
    return class_concept_matrix(kb)


def test_published_table() -> None:
    kb = KnowledgeBase.from_yaml(demo_folder() / "rules.yaml")
    assert (len(kb.rules), kb.concepts) == (30, tuple(POSITIVES))
    expected = np.zeros((12, 13), dtype=bool)
    for column, rows in enumerate(POSITIVES.values()):
        expected[sorted(rows), column] = True
    assert expected.sum() == len(kb.rules)
    matrix = class_concept_matrix(kb)
    assert matrix.dtype == bool
    np.testing.assert_array_equal(matrix, expected)


def test_chains_conjunctions_and_negative_heads() -> None:
    found = labels(
        """
  - a -> p
  - p -> q            # reached through p, written before and after it is known
  - q & p -> r
  - b -> q & ~p
  - b & ~p -> r       # a negative literal in a body
  - c -> ~q
  - p & c -> q        # never fires: nothing says p of c
"""
    )
    np.testing.assert_array_equal(found, [[1, 1, 1], [0, 1, 1], [0, 0, 0]])


def test_order_of_rules_does_not_matter() -> None:
    rules = ["a -> p", "p -> q", "q & p -> r", "b -> q"]
    expected = [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    for order in itertools.permutations(rules):
        np.testing.assert_array_equal(labels("".join(f"  - {rule}\n" for rule in order)), expected)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ("  - a <-> p & q\n", [[1, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ("  - p & q <-> a\n", [[1, 1, 0], [0, 0, 0], [0, 0, 0]]),
        ("  - ~a -> p\n", [[0, 0, 0], [1, 0, 0], [1, 0, 0]]),  # labels exclude each other
        ("  - {rule: a -> p, weight: 0}\n", [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),  # labels know no weights
        ("  - {rule: a -> p, weight: .inf}\n", [[1, 0, 0], [0, 0, 0], [0, 0, 0]]),
        ("  - a -> p | q\n  - p | r\n  - a | b -> r\n", [[0, 0, 0]] * 3),  # no conjunctions: no labels
    ],
)
def test_other_forms(rules: str, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(labels(rules), expected)


def test_least_world_of_random_definite_rules() -> None:
    """For definite rules the labels are the least model: the intersection of all worlds with that class alone."""
    rng = np.random.default_rng(0)
    names = ["a", "b", "p", "q", "r", "s"]
    for _ in range(20):
        rules = []
        for _ in range(5):
            body = rng.choice(6, size=rng.integers(1, 3), replace=False)
            head = 2 + int(rng.integers(4))
            rules.append((body.tolist(), head))
        text = "".join(f"  - {' & '.join(names[i] for i in body)} -> {names[head]}\n" for body, head in rules)
        found = labels(text, "a, b", "p, q, r, s")
        worlds = np.array(list(itertools.product([False, True], repeat=4)))
        for row in range(2):
            full = np.hstack([np.tile([row == 0, row == 1], (16, 1)), worlds])
            holds = np.all([~full[:, body].all(axis=1) | full[:, head] for body, head in rules], axis=0)
            np.testing.assert_array_equal(found[row], worlds[holds].all(axis=0))


def test_no_concepts() -> None:
    assert class_concept_matrix(KnowledgeBase.from_text("classes: [a, b]\nconcepts: []\nrules: []")).shape == (2, 0)
