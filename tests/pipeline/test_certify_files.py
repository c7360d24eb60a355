"""Certifications from evidence files: every kind, one file or two, and what predicts with them afterwards."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_world import CLASSES, CONCEPTS, RULES, decoded, knowledge, samples

from neurosym.certify.evidence import (
    BoxEvidence,
    ProbEvidence,
    ScoreEvidence,
    VoteEvidence,
    save_evidence,
    votes_from_samples,
)
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.pipeline import FileOptions, certify_files, predict_file
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.study import split_rows
from neurosym.certify.verifier import verify
from neurosym.errors import InputError

NAMES = CLASSES + CONCEPTS


def evidence(kind: str, n: int, seed: int) -> Any:
    """One kind of evidence on the same points."""
    drawn = samples(n, trials=64, seed=seed)
    probs, labels = decoded(drawn), drawn.labels
    mean = probs.mean(axis=1)
    if kind == "votes":
        return votes_from_samples(drawn)
    if kind == "probs":
        return ProbEvidence(mean, NAMES, labels, "categorical")
    if kind == "boxes":
        return BoxEvidence(np.clip(mean - 0.03, 0, 1), np.clip(mean + 0.03, 0, 1), 0.1, NAMES, labels)
    return ScoreEvidence(1 - probs[..., :3].swapaxes(1, 2), 0.5, CLASSES, labels)


def write(folder: Path, kind: str) -> tuple[Path, Path, Path]:
    """Calibration, test and rules files."""
    cal, test, rules = folder / "cal.npz", folder / "test.npz", folder / "rules.yaml"
    save_evidence(cal, evidence(kind, 120, 1))
    save_evidence(test, evidence(kind, 50, 2))
    rules.write_text(RULES)
    return cal, test, rules


CASES = [
    ("votes", "colep", "0.05", "exclusive"),
    ("votes", "colep", "0.05", "none"),
    ("probs", "vanilla", "0.0", "exclusive"),
    ("boxes", "colep", "0.1", "exclusive"),
    ("scores", "bincp", "0.05", "none"),
    ("scores", "rcp1", "0.05", "none"),
]


@pytest.mark.parametrize(("kind", "method", "radius", "circuit"), CASES)
def test_two_files(tmp_path: Path, kind: str, method: str, radius: str, circuit: Any) -> None:
    cal, test, rules = write(tmp_path, kind)
    out = tmp_path / "out"
    options = FileOptions(method, circuit=circuit, alpha="0.2", radius=radius, seed=4)
    outcome = certify_files(cal, test, rules if circuit != "none" else None, options, out)
    result = verify(out / "certificate.json")
    assert result.ok, [check for check in result.checks if not check.ok]
    with np.load(out / "sets.npz") as archive:
        sets, index = archive["sets"], archive["index"]
    np.testing.assert_array_equal(index, np.arange(50))
    # by hand: the method's own steps on the same rows
    kb = knowledge() if circuit != "none" else None
    calibration, evaluated = evidence(kind, 120, 1), evidence(kind, 50, 2)
    if kind != "scores":
        classes = 3 if kb is not None else 5
        calibration, evaluated = (
            (replace(part, num_classes=classes) for part in (calibration, evaluated))
            if kb
            else (calibration, evaluated)
        )
    rows = np.arange(120)
    module: Any = {"vanilla": vanilla, "rcp1": rcp1, "bincp": bincp, "colep": colep}[method]
    options_by_hand: dict[str, Any] = {}
    if method == "bincp":
        rows = np.setdiff1d(rows, split_rows(120, 4, 0.2, 0.4).tune)
        options_by_hand["p"] = json.loads((out / "certificate.json").read_text())["tuning"]["chosen"]["p"]
    layer = Reasoning(kb, circuit, calibration.class_kind, num_classes=calibration.num_classes)
    made = module.calibrate(
        calibration.take(rows), alpha="0.2", radius=radius, reasoning=layer, seed=4, **options_by_hand
    )
    seen = module.observe(evaluated, made, reasoning=layer, seed=4)
    np.testing.assert_array_equal(sets, module.predict(made, seen, reasoning=layer))
    assert outcome.summary["n_calibration"] == len(rows)
    assert outcome.summary["coverage"] == pytest.approx(sets[np.arange(50), evaluated.labels].mean())
    found = predict_file(out / "certificate.json", test)
    np.testing.assert_array_equal(found.sets, sets)
    assert found.classes == tuple(json.loads((out / "certificate.json").read_text())["classes"])
    assert found.rows == tuple(str(row) for row in range(50))
    hashes = json.loads((out / "certificate.json").read_text())["provenance"]["evidence_sha256"]
    assert hashes == {
        "calibration": hashlib.sha256(cal.read_bytes()).hexdigest(),
        "test": hashlib.sha256(test.read_bytes()).hexdigest(),
    }


@pytest.mark.parametrize(("kind", "method", "radius", "circuit"), CASES[:4])
def test_one_file_is_split(tmp_path: Path, kind: str, method: str, radius: str, circuit: Any) -> None:
    cal, _, rules = write(tmp_path, kind)
    options = FileOptions(method, circuit="auto" if circuit == "none" else circuit, alpha="0.2", radius=radius)
    outcome = certify_files(cal, None, rules, options, tmp_path / "out")
    result = verify(tmp_path / "out" / "certificate.json")
    assert result.ok, [check for check in result.checks if not check.ok]
    with np.load(tmp_path / "out" / "sets.npz") as archive:
        index = archive["index"]
    rows = json.loads((tmp_path / "out" / "certificate.json").read_text())["provenance"]["rows"]
    assert sorted([*rows["tune"], *rows["calibrate"], *index.tolist()]) == list(range(120))
    assert outcome.summary["n_tune"] == (24 if circuit == "none" else 0)  # nothing is chosen, so nothing is set aside


def test_no_rules_leave_nothing_to_tune(tmp_path: Path) -> None:
    cal, test, _ = write(tmp_path, "votes")
    outcome = certify_files(cal, test, None, FileOptions("colep", alpha="0.2", radius="0.05"), tmp_path / "out")
    assert (outcome.summary["n_tune"], outcome.summary["n_calibration"]) == (0, 120)


def test_few_calibration_rows_need_no_split(tmp_path: Path) -> None:
    """With a test file and nothing to choose, seven calibration rows are seven calibration rows."""
    save_evidence(tmp_path / "cal.npz", evidence("scores", 7, 1))
    save_evidence(tmp_path / "test.npz", evidence("scores", 20, 2))
    options = FileOptions("rcp1", circuit="none", alpha="0.4", radius="0")
    outcome = certify_files(tmp_path / "cal.npz", tmp_path / "test.npz", None, options, tmp_path / "out")
    assert outcome.summary["n_calibration"] == 7
    assert not outcome.summary["trivial"]


def test_columns_in_another_order(tmp_path: Path) -> None:
    """The rules find their concepts by name: a permuted file with a column more gives the same sets."""
    cal, test, rules = write(tmp_path, "votes")
    options = FileOptions("colep", circuit="exclusive", alpha="0.2", radius="0.05")
    certify_files(cal, test, rules, options, tmp_path / "plain")
    order = [0, 1, 2, 4, 3, 3]
    for place, n, seed in ((cal, 120, 1), (test, 50, 2)):
        found: VoteEvidence = evidence("votes", n, seed)
        names = (*CLASSES, "red", "octagon", "shiny")
        save_evidence(place, replace(found, votes=found.votes[:, order], predicates=names))
    certify_files(cal, test, rules, options, tmp_path / "permuted")
    with np.load(tmp_path / "plain" / "sets.npz") as one, np.load(tmp_path / "permuted" / "sets.npz") as other:
        np.testing.assert_array_equal(one["sets"], other["sets"])
        expected = one["sets"]
    assert verify(tmp_path / "permuted" / "certificate.json").ok
    for run in ("plain", "permuted"):
        np.testing.assert_array_equal(predict_file(tmp_path / run / "certificate.json", test).sets, expected)


def test_scores_beside_rules_that_are_not_used(tmp_path: Path) -> None:
    cal, test, rules = write(tmp_path, "scores")
    certify_files(cal, test, rules, FileOptions("rcp1", circuit="none", alpha="0.2", radius="0.05"), tmp_path / "out")
    assert verify(tmp_path / "out" / "certificate.json").ok
    with np.load(tmp_path / "out" / "sets.npz") as archive:
        np.testing.assert_array_equal(predict_file(tmp_path / "out" / "certificate.json", test).sets, archive["sets"])


def test_unlabelled_test_rows(tmp_path: Path) -> None:
    cal, test, rules = write(tmp_path, "votes")
    save_evidence(test, replace(evidence("votes", 50, 2), labels=None))
    options = FileOptions("colep", circuit="exclusive", alpha="0.2", radius="0.05")
    outcome = certify_files(cal, test, rules, options, tmp_path / "out")
    assert (outcome.summary["coverage"], outcome.summary["certified_coverage"]) == (None, None)
    assert verify(tmp_path / "out" / "certificate.json").ok


GONE = "gone.npz"


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("votes", {"method": "vanilla", "radius": "0.1"}, "vanilla: radius 0.1 cannot be certified"),
        ("votes", {"method": "bincp", "radius": "0.1"}, "holds no noise draws"),
        ("probs", {"method": "colep", "radius": "0"}, "cannot use probabilities"),
        ("boxes", {"method": "colep", "radius": "0.2"}, "the boxes hold for 0.1, but 0.2 is asked for"),
        ("scores", {"method": "rcp1", "circuit": "exclusive"}, "rules cannot act on stored scores"),
        ("votes", {"method": "colep", "circuit": "rules", "score": "raps"}, "score: 'raps'"),
        ("votes", {"method": "best"}, "method: 'best'"),
        ("votes", {"method": "colep", "alpha": "1.5"}, "alpha"),
        ("votes", {"method": "colep", "alpha": "x"}, "alpha"),
        ("votes", {"method": "colep", "radius": "-1"}, "radius"),
        ("votes", {"method": "colep", "seed": -1}, "seed"),
        ("votes", {"method": "vanilla", "radius": "0", "bound": "decoupled"}, "only method colep"),
    ],
)
def test_refused_and_nothing_written(tmp_path: Path, kind: str, options: dict[str, Any], message: str) -> None:
    cal, test, rules = write(tmp_path, kind)
    with pytest.raises(InputError, match=message) as caught:
        certify_files(cal, test, rules, FileOptions(**options), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    cal, test, rules = write(tmp_path, "votes")
    out, options = tmp_path / "out", FileOptions("colep", circuit="exclusive", alpha="0.2", radius="0.05")
    bare, other, swapped = tmp_path / "bare.npz", tmp_path / "other.npz", tmp_path / "swapped.npz"
    save_evidence(bare, replace(evidence("votes", 50, 3), labels=None))
    save_evidence(other, replace(evidence("votes", 50, 3), predicates=(*CLASSES, "octagon", "blue")))
    save_evidence(swapped, replace(evidence("votes", 50, 3), predicates=("yield", "stop", *NAMES[2:])))
    save_evidence(tmp_path / "boxes.npz", evidence("boxes", 50, 3))
    cases = [
        (tmp_path / GONE, test, GONE),
        (bare, test, "bare.npz: field 'labels' is missing"),
        (cal, tmp_path / "boxes.npz", "boxes.npz: holds boxes"),
        (cal, other, "other.npz: field 'predicates' differs"),
        (other, None, "no column for 'red'"),
        (swapped, None, "classes of the rules"),
        (cal, cal, "the same content as"),
    ]
    for first, second, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            certify_files(first, second, rules, options, out)
        assert "\n" not in str(caught.value)
        assert not out.exists()
    certify_files(cal, test, rules, options, out)
    for place, message in (
        (other, "other.npz: field 'predicates'"),
        (swapped, "swapped.npz"),
        (tmp_path / "boxes.npz", "boxes.npz"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            predict_file(out / "certificate.json", place)
        assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write here"):
        certify_files(cal, test, rules, options, tmp_path / "file")


def test_class_votes_that_are_not_one_a_draw(tmp_path: Path) -> None:
    cal, test, rules = write(tmp_path, "votes")
    broken = evidence("votes", 120, 1)
    votes = broken.votes.copy()
    votes[7, 0] += 1 if votes[7, 0] < 64 else -1
    save_evidence(cal, replace(broken, votes=votes))
    options = FileOptions("colep", circuit="exclusive", alpha="0.2", radius="0.05")
    with pytest.raises(InputError, match="class votes do not sum to trials"):
        certify_files(cal, test, rules, options, tmp_path / "out")


def test_automatic_method(tmp_path: Path) -> None:
    """Chosen on the tuning rows, named in the certificate; a certificate that names another is refused."""
    cal, test, _ = write(tmp_path, "scores")
    out = tmp_path / "out"
    outcome = certify_files(cal, test, None, FileOptions("auto", alpha="0.2", radius="0.05", seed=4), out)
    result = verify(out / "certificate.json")
    assert result.ok, [check for check in result.checks if not check.ok]
    content = json.loads((out / "certificate.json").read_text())
    assert content["tuning"]["chosen"]["method"] == content["method"] == outcome.summary["method"]
    assert {row["method"] for row in content["tuning"]["table"]} == {"bincp", "cas", "rscp_plus", "rcp1"}
    content["tuning"]["chosen"]["method"] = "cas" if content["method"] != "cas" else "bincp"
    (out / "certificate.json").write_text(json.dumps(content))
    assert "provenance" in {check.name for check in verify(out / "certificate.json").failed}
