"""Whole certifications of the bundled network on a part of its images: what is written, verified, repeated, resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neurosym.certify import pipeline
from neurosym.certify.certificate import load_certificate
from neurosym.certify.config import CertifyConfig, config_from_mapping
from neurosym.certify.pipeline import Outcome, certify_config, demo_config, predict_images
from neurosym.certify.sampling import ModelEvidence
from neurosym.certify.sources import demo_folder, load_network, load_source
from neurosym.certify.verifier import verify
from neurosym.errors import InputError
from neurosym.models.checkpoint import load_checkpoint, save_checkpoint

FILES = ["certificate.json", "report.html", "sets.npz"]


def config(**changed: Any) -> CertifyConfig:
    content = demo_config().model_dump()
    content |= {
        "alpha": "0.1",
        "radius": "0.1",
        "trials": 24,
        "device": "cpu",
        "workers": 1,
        "seed": 1,
        "circuit": "auto",
    }
    content["data"] |= {"limit": 160}
    content["attack"] = {"images": 4, "steps": 2, "draws": 2}
    return config_from_mapping(content | changed, "here")


def arrays(out: Path) -> dict[str, np.ndarray]:
    with np.load(out / "sets.npz", allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def same(one: Path, two: Path) -> None:
    first, second = arrays(one), arrays(two)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """One finished run of BinCP."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, certify_config(config(), out, progress=False)


def test_what_is_written(run: tuple[Path, Outcome]) -> None:
    out, outcome = run
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert sorted(Path(path).name for path in outcome.files.values()) == FILES
    found, summary = arrays(out), outcome.summary
    document = json.loads((out / "certificate.json").read_text())
    sets, labels = found["sets"], found["labels"]
    assert sets.shape == (64, 12)
    assert (summary["n_tune"], summary["n_calibration"], summary["n_test"]) == (32, 64, 64)
    assert summary["coverage"] == sets[np.arange(64), labels].mean()
    assert summary["mean_size"] == sets.sum(axis=1).mean()
    assert summary["coverage_lower"] < summary["coverage"] <= summary["coverage_upper"]
    assert (summary["attacked_images"], document["provenance"]["attack"]["images"]) == (4, 4)
    assert summary["attacked_coverage"] == document["provenance"]["attack"]["covered"] / 4
    assert json.loads(json.dumps(summary)) == summary
    rows = document["provenance"]["rows"]
    used = [*rows["tune"], *rows["calibrate"], *found["index"].tolist()]
    assert sorted(used) == list(range(160))
    images = load_source(config()).images
    np.testing.assert_array_equal(labels, images.labels[found["index"]])
    assert document["provenance"]["data"]["sha256"] == images.digest()
    assert document["calibration"]["labels"] == images.labels[rows["calibrate"]].tolist()
    assert (
        document["provenance"]["weights_sha256"]
        == json.loads((demo_folder() / "model" / "card.json").read_text())["weights_sha256"]
    )


def test_it_verifies(run: tuple[Path, Outcome]) -> None:
    result = verify(run[0] / "certificate.json")
    assert result.ok, [check for check in result.checks if not check.ok]


@pytest.mark.parametrize(("method", "radius"), [("rcp1", "0.1"), ("colep", "0.05"), ("vanilla", "0")])
def test_other_methods_verify(tmp_path: Path, method: str, radius: str) -> None:
    score = "aps" if method == "rcp1" else "lac"
    asked = config(method=method, radius=radius, score=score, circuit="exclusive" if method == "colep" else "auto")
    outcome = certify_config(asked, tmp_path / "out", progress=False)
    result = verify(tmp_path / "out" / "certificate.json")
    assert result.ok, [check for check in result.checks if not check.ok]
    assert outcome.summary["trials"] == (24 if method == "colep" else 1)
    assert (outcome.summary["attacked_coverage"] is None) == (method == "vanilla")
    assert 0.7 <= outcome.summary["coverage"] <= 1


def test_the_same_seed_gives_the_same_files(run: tuple[Path, Outcome], tmp_path: Path) -> None:
    certify_config(config(), tmp_path / "again", progress=False)
    same(run[0], tmp_path / "again")
    one, two = (json.loads((out / "certificate.json").read_text()) for out in (run[0], tmp_path / "again"))
    for document in (one, two):
        del document["provenance"]["date"], document["digests"]
    assert one == two


def finished_rows(out: Path) -> int:
    return sum(len(line.split()) for line in (out / ".work" / "samples.journal").read_text().splitlines())


def test_killed_and_resumed(run: tuple[Path, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "out", config()
    script = Path(__file__).with_name("killed_certification.py")
    died = subprocess.run(
        [sys.executable, str(script), asked.model_dump_json(), str(out)], capture_output=True, timeout=300
    )
    assert died.returncode == -9, died.stderr.decode()
    assert not any((out / name).exists() for name in FILES)
    before = finished_rows(out)
    assert 0 < before < 160
    asked_for: list[int] = []
    whole = ModelEvidence.chunks

    def spy(self: ModelEvidence, rows: Any = None) -> Iterator[Any]:
        asked_for.append(self.n if rows is None else len(rows))
        return whole(self, rows)

    monkeypatch.setattr(ModelEvidence, "chunks", spy)
    certify_config(asked, out, resume=True, progress=False)
    assert asked_for[0] == 160 - before  # only what was missing
    assert sorted(path.name for path in out.iterdir()) == FILES
    same(run[0], out)


def stopped(out: Path, asked: CertifyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt a run after its first block of images."""

    def chunks(self: ModelEvidence, rows: Any = None) -> Iterator[Any]:
        yield next(iter(whole(self, rows)))
        raise KeyboardInterrupt

    whole = ModelEvidence.chunks
    with monkeypatch.context() as patch:
        patch.setattr(ModelEvidence, "chunks", chunks)
        with pytest.raises(KeyboardInterrupt):
            certify_config(asked, out, progress=False)


def test_resuming_with_other_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "out", config(method="rcp1", attack={"images": 0})
    stopped(out, asked, monkeypatch)
    assert finished_rows(out) > 0
    for changed, word in (
        ({"seed": 2}, "seed"),
        ({"sigma": "0.2"}, "sigma"),
        ({"data": {"name": "demo", "limit": 150}}, "n: 160"),
    ):
        other = config(method="rcp1", attack={"images": 0}, **changed)
        with pytest.raises(InputError, match="made with other settings") as caught:
            certify_config(other, out, resume=True, progress=False)
        assert word in str(caught.value)
    # radius and alpha do not touch the noise, so the same samples serve
    certify_config(config(method="rcp1", attack={"images": 0}, radius="0.05"), out, resume=True, progress=False)
    assert sorted(path.name for path in out.iterdir()) == FILES


def test_without_resume_everything_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, asked = tmp_path / "out", config(method="rcp1", attack={"images": 0})
    stopped(out, config(method="rcp1", seed=9), monkeypatch)
    certify_config(asked, out, progress=False)
    certify_config(asked, tmp_path / "straight", resume=True, progress=False)  # nothing there to resume
    same(out, tmp_path / "straight")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """Twelve demo images that the run did not see, as PNG files in sub-folders, and their labels."""
    folder = tmp_path_factory.mktemp("photos")
    content = demo_config().model_dump()
    images = load_source(config_from_mapping(content, "demo")).images
    seen = {image.tobytes() for image in load_source(config()).images.images}
    fresh = [row for row in range(len(images)) if images.images[row].tobytes() not in seen][:12]
    for place, row in enumerate(fresh):
        (folder / f"part{place % 2}").mkdir(exist_ok=True)
        Image.fromarray(images.images[row].transpose(1, 2, 0)).save(folder / f"part{place % 2}" / f"{place:02d}.png")
    order = sorted(range(12), key=lambda place: (place % 2, place))
    return folder, images.labels[[fresh[place] for place in order]]


def test_predicting_images(run: tuple[Path, Outcome], photos: tuple[Path, np.ndarray]) -> None:
    folder, labels = photos
    found = predict_images(config(), folder, run[0] / "certificate.json", progress=False)
    assert found.rows == tuple(f"part{p % 2}/{p:02d}.png" for p in sorted(range(12), key=lambda p: (p % 2, p)))
    assert found.sets.shape == (12, 12)
    assert found.classes == load_network(config()).predicates[:12]
    assert found.sets[np.arange(12), labels].sum() >= 9
    assert (found.labels == labels).sum() >= 8
    assert found.sets[np.arange(12), found.labels].sum() >= 10  # the most plausible label has the most votes
    bare = predict_images(config(), folder, None, progress=False)
    assert bare.sets.all()
    assert (bare.labels == labels).sum() >= 8
    # a configuration without rules is enough: the certificate brings its own
    assert predict_images(config(rules=None), folder, run[0], progress=False).sets.shape == (12, 12)


def test_fresh_noise_for_each_prediction(
    run: tuple[Path, Outcome], photos: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int]] = []
    start = ModelEvidence.__init__

    def spy(self: ModelEvidence, *words: Any, **options: Any) -> None:
        start(self, *words, **options)
        seeds.append((self.seed, self.stream))

    monkeypatch.setattr(ModelEvidence, "__init__", spy)
    for _ in range(2):
        predict_images(config(), photos[0], run[0], progress=False)
    assert seeds[0][0] != seeds[1][0]
    assert config().seed not in (seeds[0][0], seeds[1][0])


def test_certificates_of_other_networks_and_rules(
    run: tuple[Path, Outcome], photos: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    net = load_checkpoint(demo_folder() / "model")
    with torch.no_grad():
        next(net.parameters()).mul_(1.01)
    save_checkpoint(tmp_path / "other", net, {})
    rules = (demo_folder() / "rules.yaml").read_text()
    (tmp_path / "rules.yaml").write_text(rules.replace("- stop -> octagon", "- stop -> red", 1))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"model": str(tmp_path / "other")}, "made for a network with other weights"),
        ({"rules": str(tmp_path / "rules.yaml")}, "made with other rules"),
        ({"class_kind": "binary"}, "class_kind"),
    ]
    for changed, message in cases:
        with pytest.raises(InputError, match=message) as caught:
            predict_images(config(**changed), photos[0], run[0] / "certificate.json", progress=False)
        assert "\n" not in str(caught.value)
    document = json.loads((run[0] / "certificate.json").read_text())
    del document["provenance"]["weights_sha256"]
    (tmp_path / "certificate.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="made from evidence files, not from a network"):
        predict_images(config(), photos[0], tmp_path / "certificate.json", progress=False)


RULELESS: dict[str, Any] = {"rules": None}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "vanilla"}, "method vanilla: radius 0.1 cannot be certified"),
        ({"bound": "decoupled"}, "only method colep"),
        ({**RULELESS, "circuit": "rules"}, "'rules' needs rules"),
        ({"circuit": "rules", "score": "raps"}, "score: 'raps' needs class probabilities that sum to one"),
        ({**RULELESS, "circuit": "auto", "class_kind": "binary", "score": "saps"}, "fits no candidate"),
        ({"method": "rcp1", "radius": "20"}, "needs a level below 1e-190"),
        ({"model": "gone"}, "gone"),
        ({"rules": "gone.yaml"}, "gone.yaml"),
        ({"data": {"name": "gtsrb99", "root": "."}}, "'gtsrb99' is unknown"),
        ({"data": {"name": "gone.npz"}}, "gone.npz: no such file"),
        ({"data": {"name": "demo", "limit": 12}}, "12 images are too few"),
        ({"weights": "more.pt"}, "has its own weights"),
    ],
)
def test_refused_before_anything_is_written(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message) as caught:
        certify_config(config(**changed), out, progress=False)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def images(kind: str) -> dict[str, np.ndarray]:
    pixels = np.zeros((40, 32, 32, 3), dtype=np.uint8)
    if kind == "unlabelled":
        return {"images": pixels}
    return {"images": pixels, "labels": np.full(40, 12 if kind == "beyond" else 0)}


@pytest.mark.parametrize(
    ("kind", "message"), [("unlabelled", "image 0 has no label"), ("beyond", "label 12 but the model has 12 classes")]
)
def test_labels_that_do_not_fit(tmp_path: Path, kind: str, message: str) -> None:
    np.savez(tmp_path / "set.npz", **images(kind))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        certify_config(config(data={"name": str(tmp_path / "set.npz")}), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    drawn: list[int] = []
    monkeypatch.setattr(pipeline, "noise_samples", lambda *_, **__: drawn.append(1))
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="cannot write here") as caught:
            certify_config(config(), out, progress=False)
        assert "--out" in str(caught.value)
    refuse: Callable[..., Any] = lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device"))  # noqa: E731
    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(InputError, match="No space left"):
        certify_config(config(), tmp_path / "full", progress=False)
    assert drawn == []
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    """Pixels and labels of a folder are those of the arrays they were made of."""
    origin = load_source(config()).images
    names = load_network(config()).predicates[:12]
    for row in range(20):
        place = tmp_path / "photos" / names[origin.labels[row]]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(origin.images[row].transpose(1, 2, 0)).save(place / f"{row:02d}.png")
    found = load_source(config(data={"name": str(tmp_path / "photos")})).images
    order = sorted(range(20), key=lambda row: (names[origin.labels[row]], row))
    np.testing.assert_array_equal(found.images, origin.images[order])
    np.testing.assert_array_equal(found.labels, origin.labels[order])


def test_demo_says_that_it_is_one(run: tuple[Path, Outcome]) -> None:
    out, _ = run
    assert any("demonstration" in note for note in load_certificate(out / "certificate.json").notes)
    assert "calibrate on fresh images" in (out / "report.html").read_text()
