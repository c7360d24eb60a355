"""The benchmark's own code: its tasks' worlds, its check of rules, and one short training of every method."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "semantic_layer"))

import layer_tasks as tasks
import layer_training as training
import learning_cases as cases

from neurosym.logic.knowledge import KnowledgeBase

FOLDER = Path(tasks.__file__).parent


def script() -> Any:
    """run.py under a name of its own: other folders have one too."""
    spec = importlib.util.spec_from_file_location("semantic_layer_run", FOLDER / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny(kb: KnowledgeBase) -> tasks.Task:
    """Noise images with random legal worlds."""
    rng = np.random.default_rng(0)
    legal = cases.legal_worlds(kb)
    worlds = torch.tensor(legal[rng.integers(len(legal), size=300)])
    images = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    parts = [tasks.Split(images[rows], worlds[rows]) for rows in (slice(256), slice(200, 300), slice(200, 300))]
    return tasks.Task("tiny", kb, (tuple(range(6)),), False, *parts)


def test_rules_are_checked_without_a_circuit() -> None:
    kb = cases.MIXTURE
    grid = cases.oracle.worlds(kb.num_predicates)
    np.testing.assert_array_equal(training.legal(tiny(kb), grid), cases.log_weights(kb) > -cases.INF)


def test_cifar_tree_leaves_one_world_for_each_class() -> None:
    kb = KnowledgeBase.from_yaml(FOLDER / "cifar10.yaml")
    grid = np.random.default_rng(0).random((1, kb.num_predicates)) < 0.5
    assert not training.legal(
        tasks.Task("x", kb, (), False, *[tasks.Split(torch.zeros(0), torch.zeros(0))] * 3), grid
    ).any()
    truth = {
        "animal": "bird cat deer dog frog horse", "vehicle": "airplane automobile ship truck", "pet": "cat dog",
        "mammal": "cat deer dog horse", "hoofed": "deer horse", "road_vehicle": "automobile truck", "flying": "airplane bird",
    }  # fmt: skip
    legal = np.array(
        [[name == c for name in kb.classes] + [c in truth[k].split() for k in kb.concepts] for c in kb.classes]
    )
    assert cases.legal_worlds(kb).shape == (10, 17)
    assert {tuple(w) for w in cases.legal_worlds(kb)} == {tuple(w) for w in legal}


@pytest.mark.parametrize("method", [*training.METHODS, training.LITERALS])
def test_every_method_trains_and_is_measured(method: str) -> None:
    task = tiny(cases.MIXTURE)
    model, seconds = training.train(task, method, 1, 0.1, seed=0)
    again, _ = training.train(task, method, 1, 0.1, seed=0)
    assert seconds > 0
    found = training.measure(model, task.test)
    assert training.measure(again, task.test) == found
    for reading, figures in found.items():
        if method.startswith("semantic layer") or reading:
            assert figures.legal == 1.0
            assert figures.exact <= figures.leaf
        assert 0 <= figures.exact <= 1


def test_table_shows_means_and_deviations() -> None:
    row = [{"exact": 0.5, "leaf": 0.6, "legal": 1.0}, {"exact": 0.6, "leaf": 0.7, "legal": 1.0}]
    base = [{"exact": 0.1, "leaf": 0.5, "legal": 0.2}, {"exact": 0.2, "leaf": 0.7, "legal": 0.4}]
    found = {
        "chosen": {"epochs": 2, "strength": 0.3}, "seeds": 2, "predicates": 3, "rows": {"sigmoids": base, "layer": row},
        "images": {"train": 1, "validation": 2, "test": 3},
    }  # fmt: skip
    text = script().markdown({"demo": found})
    assert "| layer | 55.00 ± 7.07 | 65.00 ± 7.07 | 100.00 ± 0.00 | +5.00 ± 7.07 |" in text
