"""VRCP from evidence files on the command line: certificate, verification, prediction, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pipeline_world import CLASSES, CONCEPTS, RULES, decoded, samples

from neurosym.certify.certificate import load_certificate
from neurosym.certify.evidence import BoxEvidence, ProbEvidence, load_evidence, save_evidence
from neurosym.certify.pipeline import FileOptions, certify_files, predict_file
from neurosym.certify.verifier import verify
from neurosym.cli.app import main
from neurosym.errors import InputError


def boxes(n: int, seed: int, *, probs: bool = True, norm: str = "linf") -> BoxEvidence:
    drawn = samples(n, trials=64, seed=seed)
    mean = decoded(drawn).mean(axis=1)
    low, high = np.clip(mean - 0.03, 0, 1), np.clip(mean + 0.03, 0, 1)
    return BoxEvidence(low, high, 0.1, CLASSES + CONCEPTS, drawn.labels, probs=mean if probs else None, norm=norm)


def plain(n: int, seed: int) -> ProbEvidence:
    drawn = samples(n, trials=64, seed=seed)
    return ProbEvidence(decoded(drawn).mean(axis=1), CLASSES + CONCEPTS, drawn.labels)


def files(folder: Path, cal: Any, test: Any) -> tuple[Path, Path, Path]:
    save_evidence(folder / "cal.npz", cal)
    save_evidence(folder / "test.npz", test)
    (folder / "rules.yaml").write_text(RULES)
    return folder / "cal.npz", folder / "test.npz", folder / "rules.yaml"


def test_boxes_with_probabilities_survive_a_file(tmp_path: Path) -> None:
    before = boxes(6, 1)
    save_evidence(tmp_path / "e.npz", before)
    after = load_evidence(tmp_path / "e.npz")
    assert isinstance(after, BoxEvidence)
    assert after.norm == "linf"
    assert np.array_equal(after.probs, before.probs)  # type: ignore[arg-type]
    some = after.take(np.array([4, 1]))
    assert np.array_equal(some.probs, before.probs[[4, 1]])  # type: ignore[index, arg-type]
    with np.load(tmp_path / "e.npz") as archive:
        fields = {name: archive[name] for name in archive.files}
    for name, value, text in (
        ("norm", "l7", "field 'norm': 'l7'; write l2 or linf"),
        ("probs", fields["upper"] + 0.0, None),
        ("probs", np.zeros_like(fields["upper"]), "field 'probs' row 0: 0.0 is outside its bounds"),
        ("votes", np.ones((6, 5), dtype=int), "found 'probs' and 'votes' and 'lower'"),
    ):
        np.savez(tmp_path / "bad.npz", **(fields | {name: value}))
        if text is None:
            load_evidence(tmp_path / "bad.npz")
            continue
        with pytest.raises(InputError, match=text) as caught:
            load_evidence(tmp_path / "bad.npz")
        assert str(tmp_path / "bad.npz") in str(caught.value)


@pytest.mark.parametrize("circuit", ["none", "exclusive", "auto"])
@pytest.mark.parametrize("method", ["vrcp_i", "vrcp_c"])
def test_one_kind_or_two(method: str, circuit: str, tmp_path: Path) -> None:
    """Each side needs what it uses: VRCP-I boxes at test only, VRCP-C at calibration only (tuning needs both)."""
    mixed = circuit != "auto"
    cal = plain(120, 1) if mixed and method == "vrcp_i" else boxes(120, 1)
    test = plain(50, 2) if mixed and method == "vrcp_c" else boxes(50, 2)
    paths = files(tmp_path, cal, test)
    options = FileOptions(method, circuit=circuit, alpha="0.2", radius="0.1", norm="linf")  # type: ignore[arg-type]
    outcome = certify_files(*paths, options, tmp_path / "run")
    assert outcome.summary["norm"] == "linf"
    assert outcome.summary["coverage"] >= 0.7
    assert outcome.summary["mean_size"] < 3
    assert (outcome.summary["certified_coverage"] is None) == (method == "vrcp_c")
    result = verify(tmp_path / "run" / "certificate.json")
    assert result.ok, result.failed
    assert "L-infinity" in load_certificate(tmp_path / "run").guarantee.sentence
    again = predict_file(tmp_path / "run" / "certificate.json", paths[1])
    with np.load(tmp_path / "run" / "sets.npz") as archive:
        assert np.array_equal(again.sets, archive["sets"])


def test_one_file_for_both(tmp_path: Path) -> None:
    save_evidence(tmp_path / "cal.npz", boxes(120, 1))
    options = FileOptions("vrcp_i", alpha="0.2", radius="0.1")
    certify_files(tmp_path / "cal.npz", None, None, options, tmp_path / "run")
    assert verify(tmp_path / "run").ok


def test_refused(tmp_path: Path) -> None:
    cal, test, _ = files(tmp_path, boxes(60, 1), boxes(30, 2, norm="l2"))
    options = FileOptions("vrcp_i", alpha="0.2", radius="0.1")
    for changed, text in (
        (options, "field 'norm': the boxes hold for l2, but linf"),
        (replace(options, radius="0.2"), "the boxes hold for 0.1, but 0.2"),
        (replace(options, norm="l2"), "the boxes hold for linf, but l2"),
        (replace(options, method="rcp1", norm="linf"), "norm: 'linf'; method rcp1"),
        (replace(options, method="colep"), "field 'norm'"),
    ):
        with pytest.raises(InputError, match=text):
            certify_files(cal, test, None, changed, tmp_path / "run")
    certify_files(cal, None, None, options, tmp_path / "run")
    bare = boxes(30, 3, probs=False)
    save_evidence(tmp_path / "bare.npz", replace(bare, lower=bare.lower, radius=0.2))
    with pytest.raises(InputError, match=r"the boxes hold for 0\.2, but 0\.1"):
        predict_file(tmp_path / "run" / "certificate.json", tmp_path / "bare.npz")


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cal, test, _ = files(tmp_path, boxes(60, 1), boxes(30, 2))
    words = ["certify", "--evidence", str(cal), "--test", str(test), "--method", "vrcp_c", "--alpha", "0.2"]
    words += ["--radius", "0.1", "--norm", "linf", "--out", str(tmp_path / "run")]
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["norm"] == "linf"
    assert main(words) == 0
    assert "boxes of L-infinity radius 0.1" in " ".join(capsys.readouterr().out.split())
    assert main([*words[:-3], "l9", "--out", str(tmp_path / "run")]) == 2
    assert "--norm" in capsys.readouterr().err
