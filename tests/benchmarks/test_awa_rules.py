"""The rules of Animals with Attributes against the tables they come from."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from neurosym.circuits import compile
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.targets import class_concept_matrix

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "awa"


def test_sizes_and_some_animals() -> None:
    kb = KnowledgeBase.from_yaml(FOLDER / "awa.yaml")
    assert (len(kb.classes), len(kb.rules)) == (50, 1628)
    matrix = class_concept_matrix(kb)
    names = np.array(kb.concepts)

    def kinds(animal: str) -> set[str]:
        return set(names[85:][matrix[kb.classes.index(animal), 85:]])

    assert matrix[:, :85].sum() == 1562
    assert kinds("lion") == {"big_cat", "feline", "carnivore"}
    assert kinds("killer_whale") == {"toothed_whale", "whale", "aquatic_mammal"}
    assert kinds("sheep") == {"bovid", "ruminant", "even_toed_ungulate", "ungulate"}
    assert compile(kb, "exclusive", "categorical").size["components"] == 1


@pytest.mark.data
def test_the_file_is_what_the_tables_say() -> None:
    root = Path(os.environ.get("NEUROSYM_DATA", "/nowhere")) / "awa2"
    if not root.is_dir():
        pytest.skip("needs the AwA2 tables in NEUROSYM_DATA")
    spec = importlib.util.spec_from_file_location("make_rules", FOLDER / "make_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.rules(root) == (FOLDER / "awa.yaml").read_text()
    kb = KnowledgeBase.from_yaml(FOLDER / "awa.yaml")
    table = np.loadtxt(root / "predicate-matrix-binary.txt", dtype=bool)
    np.testing.assert_array_equal(class_concept_matrix(kb)[:, :85], table)
