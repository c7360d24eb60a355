"""Accidents: flipped digits, damaged files, malformed content. No checksum is recomputed here."""

from __future__ import annotations

import json
import random
from pathlib import Path

import builders
import numpy as np
import pytest

from neurosym.certify.certificate import load_certificate, to_calibrated, write_run
from neurosym.certify.verifier import verify
from neurosym.certify.verifier.common import Check
from neurosym.errors import InputError


def why_not(path: Path) -> str:
    """One line that says why the certificate is refused; empty if it is accepted."""
    try:
        result = verify(path)
    except InputError as error:
        return str(error)
    return "" if result.ok else result.failed[0].detail


@pytest.mark.parametrize("method", ["bincp", "colep"])
def test_every_flipped_digit_is_noticed(method: str, tmp_path: Path) -> None:
    run = builders.bincp_run(n=20, n_test=10) if method == "bincp" else builders.colep_run("rules", n=8, n_test=2)
    path = builders.write(tmp_path, run)
    text = path.read_text()
    assert verify(path).ok
    digits = [i for i, letter in enumerate(text) if letter.isdigit()]
    rng = random.Random(4)
    for position in rng.sample(digits, 200 if method == "bincp" else 100):
        other = rng.choice([digit for digit in "0123456789" if digit != text[position]])
        path.write_text(text[:position] + other + text[position + 1 :])
        reason = why_not(path)
        assert reason, text[position - 40 : position + 20]


def test_a_digit_that_changes_no_value_is_noticed(tmp_path: Path) -> None:
    """1.50 instead of 1.5, or a longer spelling of the same double: same values, other text."""
    path = builders.write(tmp_path, builders.colep_run("rules", n=8, n_test=2))
    text = path.read_text()
    assert '"weight": 1.5' in text
    path.write_text(text.replace('"weight": 1.5', '"weight": 1.50', 1))
    assert [check.name for check in verify(path).failed] == ["checksums"]


def test_damaged_arrays(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.bincp_run(n=20, n_test=10))
    sets = tmp_path / "sets.npz"
    whole = sets.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"not a zip"):
        sets.write_bytes(damage)
        result = verify(path)
        assert not result.ok
        assert result.failed[0].detail
    sets.unlink()
    assert "cannot be read" in verify(path).failed[0].detail


def test_objects_in_arrays_are_never_loaded(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.bincp_run(n=20, n_test=10))
    np.savez(tmp_path / "sets.npz", sets=np.array([{"a": 1}], dtype=object))
    assert not verify(path).ok


def test_exchanged_rows_of_arrays(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.bincp_run(n=20, n_test=10))
    with np.load(tmp_path / "sets.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    arrays["labels"] = arrays["labels"][::-1]
    np.savez_compressed(tmp_path / "sets.npz", **arrays)
    assert "labels" in verify(path).failed[0].detail


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", '{"kind": "x"}', '{"n": 1e999}'])
def test_malformed_documents(content: str, tmp_path: Path) -> None:
    path = tmp_path / "certificate.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        load_certificate(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert why_not(path)
    assert "\n" not in why_not(path)


def test_missing_file(tmp_path: Path) -> None:
    for read in (load_certificate, verify):
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / "nothing.json")


def test_wrong_types_are_refused_with_the_field(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.bincp_run(n=20, n_test=10))
    document = json.loads(path.read_text())
    for field, value in (("n", "20"), ("n", 20.0), ("trials", True), ("budget", {}), ("surprise", 1)):
        path.write_text(json.dumps({**document, field: value}))
        with pytest.raises(InputError, match=field):
            load_certificate(path)
        assert verify(path).failed[0].name == "shape"


def test_a_path_outside_the_folder_is_refused(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.bincp_run(n=20, n_test=10))
    document = json.loads(path.read_text())
    document["test"]["file"] = "../sets.npz"
    path.write_text(json.dumps(document))
    assert verify(path).checks == (Check("shape", False, "test.file '../sets.npz' is not a plain file name"),)


def test_round_trip_of_the_calibration(tmp_path: Path) -> None:
    run = builders.colep_run("rules", n=12, n_test=3)
    certificate = load_certificate(builders.write(tmp_path, run))
    back, first = to_calibrated(certificate), run["calibrated"]
    for name in ("method", "score", "alpha", "radius", "sigma", "trials", "n", "rank", "threshold", "budget"):
        assert getattr(back, name) == getattr(first, name)
    assert back.derived == first.derived
    for name, array in first.calibration.items():
        np.testing.assert_array_equal(back.calibration[name], array)


def test_infinite_threshold(tmp_path: Path) -> None:
    """Too few points: everything is in every set, and the certificate says so."""
    run = builders.score_run("vanilla", n=3, n_test=5)
    path = builders.write(tmp_path, run)
    document = json.loads(path.read_text())
    assert document["threshold"]["hex"] == "inf"
    assert any("every set holds every label" in line for line in document["guarantee"]["caveats"])
    assert verify(path).ok


def test_without_test_labels(tmp_path: Path) -> None:
    path = builders.write(tmp_path, builders.score_run("rcp1") | {"test_labels": None})
    assert verify(path).ok
    assert json.loads(path.read_text())["metrics"]["covered"] is None


def test_nothing_is_written_when_arrays_disagree(tmp_path: Path) -> None:
    run = builders.score_run("rcp1")
    certificate = load_certificate(builders.write(tmp_path / "good", run))
    flipped = ~run["sets"]
    with pytest.raises(InputError, match="sets"):
        write_run(tmp_path / "bad", certificate, run["observation"], flipped, run["test_labels"])
    assert not (tmp_path / "bad").exists()
    assert sorted(item.name for item in (tmp_path / "good").iterdir()) == [
        "certificate.json", "report.html", "sets.npz",
    ]  # fmt: skip


def test_a_failing_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import neurosym.certify.report as report

    run = builders.score_run("rcp1")
    path = builders.write(tmp_path, run)
    before = {item.name: item.read_bytes() for item in tmp_path.iterdir()}

    def fail(*_: object) -> str:
        raise RuntimeError("no report")

    monkeypatch.setattr(report, "render_report", fail)
    with pytest.raises(RuntimeError):
        write_run(tmp_path, load_certificate(path), run["observation"], run["sets"], run["test_labels"])
    assert {item.name: item.read_bytes() for item in tmp_path.iterdir()} == before
