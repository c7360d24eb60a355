"""The rules of CIFAR-10: every class has one concept of each kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.targets import class_concept_matrix

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "cifar10"


def test_thirty_rules_in_three_circuits() -> None:
    kb = KnowledgeBase.from_yaml(FOLDER / "cifar10.yaml")
    matrix = class_concept_matrix(kb)
    assert (len(kb.classes), len(kb.concepts), len(kb.rules)) == (10, 9, 30)
    kinds = np.split(matrix, [2, 5], axis=1)
    assert all((kind.sum(axis=1) == 1).all() for kind in kinds)
    names = np.array(kb.concepts)
    assert names[matrix[kb.classes.index("ship")]].tolist() == ["transportation", "water", "no_legs_or_wheels"]
    assert names[matrix[kb.classes.index("bird")]].tolist() == ["animal", "sky_or_land", "two_legs"]
    assert matrix.sum(axis=0).tolist() == [6, 4, 2, 1, 7, 5, 1, 3, 1]
