"""Certificates of the package's own methods: the verifier must reach the same sets by its own road."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest

from neurosym.certify.coverage import certified_coverage
from neurosym.certify.evidence import BoxEvidence, ProbEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.schema import CertifiedCoverage, Real
from neurosym.certify.verifier import verify
from neurosym.logic import KnowledgeBase

RULES = """
classes: [a, b, c]
concepts: [x, y, z]
rules: [a -> x, {rule: b -> ~x, weight: 2}, {rule: c -> y & z, weight: 1}, {rule: x -> ~y, weight: 0.5}]
circuits: {one: {rules: [0, 1]}, two: {rules: [2, 3], beta: 0.4}}
"""
GROUPED = RULES.replace("circuits:", "groups: {shape: {exactly_one: [x, y, z]}}\ncircuits:")
NAMES = ("a", "b", "c", "x", "y", "z")


def evidence(seed: int, n: int, kind: str, draws: int = 60) -> VoteEvidence:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    p = rng.dirichlet([0.3, 0.3, 0.3], n) * 0.3
    p[np.arange(n), labels] += 0.7
    classes = np.array([rng.multinomial(draws, row / row.sum()) for row in p])
    truth = np.stack([labels == 0, labels == 2, labels == 2], axis=1)
    concepts = rng.binomial(draws, np.where(truth, 0.9, 0.1))
    return VoteEvidence(np.c_[classes, concepts], draws, 0.25, NAMES, labels, kind, 3)  # type: ignore[arg-type]


def check(
    tmp_path: Path, record: Any, observed: Any, sets: np.ndarray, labels: np.ndarray, kb: Any, names: Any, bound: Any
) -> None:
    run = {"calibrated": record, "observation": observed, "sets": sets, "test_labels": labels, "classes": NAMES[:3],
           "predicates": names, "knowledge": None if kb is None else kb.canonical()}  # fmt: skip
    certified = bound and CertifiedCoverage(
        points=bound.points, successes=bound.successes, delta=bound.evaluation_failure,
        point_failure=bound.point_failure, lower=Real.of(bound.lower),
    )  # fmt: skip
    result = verify(builders.write(tmp_path, run, certified=certified))
    assert result.ok, result.failed


@pytest.mark.parametrize("text", [RULES, GROUPED], ids=["rules", "groups"])
@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize(("kind", "score"), [("binary", "lac"), ("binary", "aps"), ("categorical", "lac")])
def test_colep_votes(text: str, circuit: Any, kind: Any, score: str, tmp_path: Path) -> None:
    kb = KnowledgeBase.from_text(text)
    layer = Reasoning(None if circuit == "none" else kb, circuit, kind, 1.5, 3)
    record = colep.calibrate(evidence(1, 50, kind), alpha="0.2", radius="0.05", reasoning=layer, score=score)
    test = evidence(2, 8, kind)
    observed = colep.observe(test, record, reasoning=layer)
    sets = colep.predict(record, observed, reasoning=layer)
    assert test.labels is not None
    bound = certified_coverage(record, observed, test.labels, reasoning=layer)
    check(tmp_path, record, observed, sets, test.labels, layer.kb, NAMES, bound)


@pytest.mark.parametrize("score", ["aps", "raps", "saps"])
def test_colep_k_ary_scores(score: str, tmp_path: Path) -> None:
    kb = KnowledgeBase.from_text(RULES)
    layer = Reasoning(kb, "exclusive", "categorical", 1.0, 3)
    record = colep.calibrate(evidence(1, 50, "categorical"), alpha="0.3", radius="0.02", reasoning=layer, score=score)
    test = evidence(2, 8, "categorical")
    observed = colep.observe(test, record, reasoning=layer)
    sets = colep.predict(record, observed, reasoning=layer)
    assert test.labels is not None
    bound = certified_coverage(record, observed, test.labels, reasoning=layer)
    check(tmp_path, record, observed, sets, test.labels, kb, NAMES, bound)


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("score", ["lac", "aps"])
def test_colep_boxes(circuit: Any, score: str, tmp_path: Path) -> None:
    kb = KnowledgeBase.from_text(RULES)
    layer = Reasoning(None if circuit == "none" else kb, circuit, "binary", 1.0, 3)

    def boxes(seed: int, n: int) -> BoxEvidence:
        votes = evidence(seed, n, "binary")
        p = votes.votes / votes.trials
        return BoxEvidence(np.maximum(p - 0.1, 0), np.minimum(p + 0.1, 1), 0.5, NAMES, votes.labels, "binary", 3)

    record = colep.calibrate(boxes(1, 30), alpha="0.2", radius="0.5", reasoning=layer, score=score)
    test = boxes(2, 8)
    observed = colep.observe(test, record, reasoning=layer)
    sets = colep.predict(record, observed, reasoning=layer)
    assert test.labels is not None
    bound = certified_coverage(record, observed, test.labels, reasoning=layer)
    check(tmp_path, record, observed, sets, test.labels, layer.kb, NAMES, bound)


@pytest.mark.parametrize("method", [rcp1, bincp, vanilla], ids=["rcp1", "bincp", "vanilla"])
@pytest.mark.parametrize("radius", ["0", "0.1"])
def test_score_methods(method: Any, radius: str, tmp_path: Path) -> None:
    if method is vanilla and radius != "0":
        return
    rng = np.random.default_rng(0)

    def scored(n: int) -> ScoreEvidence:
        labels = rng.integers(0, 3, n)
        scores = rng.beta(5, 2, (n, 3, 80))
        scores[np.arange(n), labels] = rng.beta(2, 6, (n, 80))
        return ScoreEvidence(scores, 0.25, NAMES[:3], labels, "categorical", 3)

    record = method.calibrate(scored(80), alpha="0.1", radius=radius)
    test = scored(12)
    observed = method.observe(test, record)
    assert test.labels is not None
    bound = certified_coverage(record, observed, test.labels) if method is not rcp1 else None
    check(tmp_path, record, observed, method.predict(record, observed), test.labels, None, NAMES[:3], bound)


def test_vanilla_from_probabilities(tmp_path: Path) -> None:
    kb = KnowledgeBase.from_text(RULES)
    layer = Reasoning(kb, "exclusive", "categorical", 1.0, 3)
    votes, test = evidence(3, 40, "categorical"), evidence(4, 9, "categorical")
    made = [ProbEvidence(e.votes / e.trials, NAMES, e.labels, "categorical", 3) for e in (votes, test)]
    record = vanilla.calibrate(made[0], alpha="0.1", reasoning=layer, score="aps")
    observed = vanilla.observe(made[1], record, reasoning=layer)
    assert test.labels is not None
    check(tmp_path, record, observed, vanilla.predict(record, observed), test.labels, kb, NAMES, None)
