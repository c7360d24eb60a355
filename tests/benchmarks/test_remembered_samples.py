"""The benchmark's memory of reasoned probabilities changes no number: it is the road the command line takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurosym.certify.evidence import CachedSamples, SampleEvidence, encode, votes_from_samples
from neurosym.certify.study import Settings, certify_split, split_rows
from neurosym.logic.knowledge import KnowledgeBase

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gtsrb"


@pytest.fixture(scope="module")
def remembered() -> Any:
    spec = importlib.util.spec_from_file_location("gtsrb_memory", FOLDER / "memory.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.Remembered


@pytest.fixture(scope="module")
def kb() -> KnowledgeBase:
    return KnowledgeBase.from_text(
        "classes: [a, b, c]\nconcepts: [x, y]\nrules: ['a -> x', 'b -> x', 'c -> y', 'b -> y']\n"
    )


@pytest.fixture(scope="module")
def samples(kb: KnowledgeBase) -> CachedSamples:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(0, 1.2, (90, 12, 3)) + 2.0 * (np.arange(3) == labels[:, None])[:, None]
    classes = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    shown = np.array([[1, 0], [1, 1], [0, 1]])[labels]
    concepts = 1 / (1 + np.exp(-rng.normal(0, 1, (90, 12, 2)) - 2.0 * (2 * shown - 1)[:, None]))
    codes = encode(np.concatenate([classes, concepts], -1))
    return CachedSamples(codes, 0.25, kb.predicates, labels, "categorical", 3)


@pytest.mark.parametrize("method", ["bincp", "rcp1", "colep"])
def test_same_numbers_as_plain_samples(remembered: Any, samples: CachedSamples, kb: KnowledgeBase, method: str) -> None:
    split = split_rows(samples.n, 1)
    rows = (split.tune, split.calibrate, split.test)
    settings = Settings(method, "0.2", "0.05")
    view = remembered.of(samples)
    assert isinstance(view, SampleEvidence)
    plain = certify_split(*(samples.take(part) for part in rows), kb, settings)
    again = certify_split(*(view.take(part) for part in rows), kb, settings)
    assert again.calibrated.threshold == plain.calibrated.threshold
    assert again.calibrated.reasoning == plain.calibrated.reasoning
    assert np.array_equal(again.sets, plain.sets)


def test_views_of_views_and_votes(remembered: Any, samples: CachedSamples) -> None:
    rows = np.array([7, 3, 50, 11])
    view = remembered.of(samples).take(rows).take(np.array([2, 0]))
    assert np.array_equal(view.labels, samples.labels[[50, 7]])  # type: ignore[index]
    assert np.array_equal(votes_from_samples(view).votes, votes_from_samples(samples).votes[[50, 7]])


def test_rules_files_are_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("gtsrb_make_rules", FOLDER / "make_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (FOLDER / "gtsrb12.yaml").read_text() == module.gtsrb12()
    assert (FOLDER / "gtsrb43.yaml").read_text() == module.gtsrb43()
    small, large = (KnowledgeBase.from_yaml(FOLDER / f"gtsrb{n}.yaml") for n in (12, 43))
    assert (len(small.classes), len(small.concepts), len(small.rules)) == (12, 13, 30)
    assert len(large.classes) == 43
    described = {
        name: frozenset(r.text for r in large.rules if r.text.startswith(f"{name} ")) for name in large.classes
    }
    shown = [frozenset(text.split(" -> ")[1] for text in rules) for rules in described.values()]
    assert len(set(shown)) == 43, "two signs share all their concepts"
