"""``neurosym predict``: both forms, what is printed and what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neurosym.certify.predicting import Prediction


def made(n: int = 3, rows: tuple[str, ...] | None = None) -> Prediction:
    sets = np.zeros((n, 4), dtype=bool)
    for i in range(n):
        sets[i, : i % 5] = True
    classes = ("stop", "give way, now", "left", "$x$")
    return Prediction(sets, classes, rows or tuple(str(i) for i in range(n)), np.arange(n) % 4)


@pytest.fixture
def places(tmp_path: Path, pipeline: Any) -> dict[str, Path]:
    pipeline.prediction = made()
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    found = {"cert": run_folder / "certificate.json", "x": tmp_path / "x.npz", "config": tmp_path / "config.yaml"}
    found["cert"].write_text("{}")
    found["x"].write_text("")
    found["config"].write_text("model: m\ndata: {name: demo}\n")
    found["images"] = tmp_path / "images"
    (found["images"] / "a").mkdir(parents=True)
    for i, name in enumerate(("a/0.png", "a/1.png", "2.jpg")):
        Image.new("RGB", (9, 7), (80 * i, 10, 20)).save(found["images"] / name)
    return found


def test_evidence_printed(run: Any, pipeline: Any, places: dict[str, Path]) -> None:
    for source in (places["cert"], places["cert"].parent):
        ran = run("predict", source, "--evidence", places["x"])
        assert ran.code == 0, ran.err
        assert pipeline.calls.pop()[1] == (places["cert"], places["x"])
        assert "stop, give way, now" in ran.out
        assert "3 rows, 1.00 labels in a set" in ran.out


def test_evidence_json(run: Any, places: dict[str, Path]) -> None:
    content = json.loads(run("predict", places["cert"], "--evidence", places["x"], "--json").out)
    assert content["n"] == 3
    assert content["mean_size"] == 1.0
    assert content["rows"][2] == {"row": "2", "label": "left", "set": ["stop", "give way, now"]}
    assert content["rows"][0]["set"] == []


def test_long_predictions_are_cut_with_a_word(run: Any, pipeline: Any, places: dict[str, Path]) -> None:
    pipeline.prediction = made(100)
    ran = run("predict", places["cert"], "--evidence", places["x"])
    assert "... and 80 more; write them all with --out DIR, or use --json" in ran.out
    assert len(json.loads(run("predict", places["cert"], "--evidence", places["x"], "--json").out)["rows"]) == 100


def test_no_rows(run: Any, pipeline: Any, places: dict[str, Path], tmp_path: Path) -> None:
    pipeline.prediction = Prediction(np.zeros((0, 4), dtype=bool), ("a", "b", "c", "d"), (), np.zeros(0, dtype=int))
    assert run("predict", places["cert"], "--evidence", places["x"], "--out", tmp_path / "o").code == 0
    assert run("predict", places["cert"], "--evidence", places["x"], "--json").code == 0


def test_written(run: Any, pipeline: Any, places: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "deep" / "o"
    ran = run("predict", places["cert"], "--evidence", places["x"], "--out", out)
    assert ran.code == 0
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "sets.npz"]
    with np.load(out / "sets.npz", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["sets"], pipeline.prediction.sets)
        np.testing.assert_array_equal(archive["labels"], pipeline.prediction.labels)
        assert tuple(archive["classes"]) == pipeline.prediction.classes
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[2] == {"row": "2", "label": "left", "size": "2", "set": "stop;give way, now"}
    assert rows[0]["set"] == ""


def test_images(run: Any, pipeline: Any, places: dict[str, Path], tmp_path: Path) -> None:
    pipeline.prediction = made(3, ("a/0.png", "a/1.png", str(places["images"] / "2.jpg")))
    out = tmp_path / "o"
    ran = run("predict", places["config"], "--images", places["images"], "--certificate", places["cert"], "--out", out,
              "--device", "cpu")  # fmt: skip
    assert ran.code == 0, ran.err
    name, (config, images, certificate), named = pipeline.calls[0]
    assert (name, images, certificate) == ("predict_images", places["images"], places["cert"])
    assert (config.model, config.device, named) == ("m", "cpu", {"progress": False})
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.png", "sets.npz"]
    with Image.open(out / "predictions.png") as sheet:
        assert min(sheet.size) > 100
        assert sheet.convert("RGB").getcolors(1 << 20) is not None


def test_images_without_a_certificate(run: Any, pipeline: Any, places: dict[str, Path], tmp_path: Path) -> None:
    pipeline.prediction = made(3, ("a/0.png", "a/1.png", "2.jpg"))
    out = tmp_path / "o"
    ran = run("predict", places["config"], "--images", places["images"], "--out", out)
    assert ran.code == 0, ran.err
    assert pipeline.calls[0][1][2] is None
    assert "for guaranteed sets give --certificate" in ran.out
    assert "labels in a set" not in ran.out
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "predictions.png"]
    assert (out / "predictions.csv").read_text().splitlines()[:2] == ["row,label", "a/0.png,stop"]
    ran = run("predict", places["config"], "--images", places["images"], "--json")
    assert json.loads(ran.out)["rows"][0] == {"row": "a/0.png", "label": "stop"}


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("cert",), ("neither --evidence and --images",)),
        (("cert", "--evidence", "x", "--images", "images"), ("both --evidence and --images",)),
        (("cert", "--evidence", "no.npz"), ("no.npz: no such file",)),
        (("no.json", "--evidence", "x"), ("no.json: no such file",)),
        (("config", "--evidence", "x"), ("config.yaml", "needs a certificate")),
        (("cert", "--images", "images"), ("certificate.json", "need the configuration")),
        (("config", "--images", "no"), ("no: no such folder",)),
        (("config", "--images", "x"), ("x.npz: not a folder",)),
        (("config", "--images", "images", "--certificate", "no.json"), ("no.json: no such file",)),
        (("config", "--images", "images", "--device", "tpu"), ("--device",)),
        (("cert", "--evidence", "x", "--certificate", "cert"), ("--certificate: has an effect only with --images",)),
        (("cert", "--evidence", "x", "--out", "run"), ("belongs to the certificate there",)),
        (("cert", "--evidence", "x", "--out", "x"), ("--out", "not a folder")),
    ],
)
def test_refused(
    run: Any, refused: Any, pipeline: Any, places: dict[str, Path], words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    known = {**places, "run": places["cert"].parent}
    refused(run("predict", *(known.get(word, word) for word in words)), *parts)
    assert not pipeline.calls


def test_a_full_disk_leaves_no_scraps(
    run: Any, pipeline: Any, places: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    out = tmp_path / "o"
    ran = run("predict", places["cert"], "--evidence", places["x"], "--out", out)
    assert ran.code == 2
    assert "No space left" in ran.err
    assert list(out.iterdir()) == []
