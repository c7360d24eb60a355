"""RSCP, RSCP+ and CAS on the roads users take: evidence files, network samples with rules, a curve over the radius."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_world import CLASSES, decoded, knowledge, samples

from neurosym.certify.certificate import build_certificate, write_run
from neurosym.certify.classifier import RobustConformalClassifier
from neurosym.certify.evidence import ProbEvidence, ScoreEvidence, save_evidence
from neurosym.certify.pipeline import FileOptions, certify_files, predict_file
from neurosym.certify.study import Finding, Settings, certify_split, radius_curve
from neurosym.certify.verifier import verify
from neurosym.errors import InputError

METHODS = ("rscp", "rscp_plus", "cas")


def scores(n: int, seed: int) -> ScoreEvidence:
    """LAC of noisy answers, as an evidence file holds it."""
    drawn = samples(n, trials=128, seed=seed)
    return ScoreEvidence(1 - decoded(drawn)[..., :3].swapaxes(1, 2), 0.5, CLASSES, drawn.labels)


@pytest.mark.parametrize("method", METHODS)
def test_evidence_files(method: str, tmp_path: Path) -> None:
    cal, test, out = tmp_path / "cal.npz", tmp_path / "test.npz", tmp_path / "out"
    save_evidence(cal, scores(120, 1))
    save_evidence(test, scores(50, 2))
    outcome = certify_files(cal, test, None, FileOptions(method, circuit="none", alpha="0.2", radius="0.05"), out)
    result = verify(out)
    assert result.ok, result.failed
    with np.load(out / "sets.npz") as archive:
        sets = archive["sets"]
    np.testing.assert_array_equal(predict_file(out / "certificate.json", test).sets, sets)
    assert not outcome.summary["trivial"]
    assert outcome.summary["coverage"] >= 0.8
    assert outcome.summary["certified_coverage"] is None
    content = json.loads((out / "certificate.json").read_text())
    assert content["guarantee"]["sentence"].startswith("In the limit" if method == "rscp" else "With probability")
    # the curve: larger sets at larger radii, and the certificate's own radius as measured
    curve = content["metrics"]["curve"]
    sizes = [float(point["mean_size"]["decimal"]) for point in curve]
    assert sizes == sorted(sizes)
    assert len(sizes) == 7
    assert sizes[4] == outcome.summary["mean_size"]


@pytest.mark.parametrize("method", METHODS)
def test_other_evidence_is_refused(method: str, tmp_path: Path) -> None:
    cal = tmp_path / "cal.npz"
    drawn = samples(60, trials=4, seed=1)
    mean = decoded(drawn).mean(axis=1)[:, :3]
    save_evidence(cal, ProbEvidence(mean, CLASSES, drawn.labels))
    with pytest.raises(InputError, match="holds no noise draws"):
        certify_files(cal, None, None, FileOptions(method, alpha="0.2", radius="0.05"), tmp_path / "out")
    assert not (tmp_path / "out" / "certificate.json").exists()


def written(finding: Finding, folder: Path) -> Path:
    knowledge_ = knowledge()
    certificate = build_certificate(
        finding.calibrated,
        classes=CLASSES,
        predicates=knowledge_.predicates,
        observation=finding.observation,
        sets=finding.sets,
        test_labels=finding.labels,
        knowledge=knowledge_.canonical(),
        curve=radius_curve(finding),
    )
    write_run(folder, certificate, finding.observation, finding.sets, finding.labels)
    return folder


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("method", METHODS)
def test_rules_act_on_each_draw(method: str, circuit: Any, tmp_path: Path) -> None:
    """Sets through rules are those of the scores of each reasoned draw, stored as evidence."""
    kb, parts = knowledge(), [samples(60, trials=96, seed=1), samples(30, trials=96, seed=2)]
    finding = certify_split(None, parts[0], parts[1], kb, Settings(method, "0.2", "0.05", circuit=circuit))
    layer = finding.classifier.reasoning
    assert layer is not None
    stored = [
        ScoreEvidence(1 - layer.class_probabilities(decoded(p)).swapaxes(1, 2), 0.5, CLASSES, p.labels) for p in parts
    ]
    plain = RobustConformalClassifier(method, "0.2", "0.05").conformalize(stored[0])
    np.testing.assert_array_equal(plain.predict_set(stored[1]), finding.sets)
    result = verify(written(finding, tmp_path))
    assert result.ok, result.failed


@pytest.mark.parametrize("method", METHODS)
def test_the_circuit_is_chosen_on_tuning_points(method: str) -> None:
    parts = [samples(n, trials=96, seed=seed) for n, seed in ((40, 0), (60, 1), (30, 2))]
    finding = certify_split(parts[0], parts[1], parts[2], knowledge(), Settings(method, "0.2", "0.05"))
    assert finding.tuned is not None
    assert {row.circuit for row in finding.tuned.table} == {"none", "rules", "exclusive"}
    assert finding.coverage is not None
    assert finding.coverage >= 0.8


def test_options_reach_the_method() -> None:
    calibration, test = scores(120, 1), scores(50, 2)
    sets = {}
    for at in ("calibration", "test"):
        made = RobustConformalClassifier("cas", "0.2", "0.05", options={"at": at, "band": "dkw"})
        sets[at] = made.conformalize(calibration).predict_set(test)
        assert made.calibrated is not None
        assert made.calibrated.derived["test_time"] is (at == "test")
        assert made.calibrated.derived["binomial_band"] is False
    assert sets["test"].mean() < 0.9
