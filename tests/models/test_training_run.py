"""A real, small training: coloured shapes that are made here, from configuration to checkpoint."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models import training
from neurosym.models.checkpoint import load_card, load_checkpoint
from neurosym.models.data import load_npz
from neurosym.models.training import TrainConfig, load_train_config, resolve_device, train

RULES = """\
classes: [red_square, red_disc, blue_square, blue_disc]
concepts: [red, square]
rules: [red_square -> red & square, red_disc -> red, blue_square -> square]
"""
SIZE = 10


def shapes(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squares and discs, red and blue, anywhere on a grey image; uint8 [n, SIZE, SIZE, 3] and labels [n]."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 4
    images = rng.integers(90, 130, (n, SIZE, SIZE, 3))
    y, x = np.mgrid[:SIZE, :SIZE]
    for image, label in zip(images, labels, strict=True):
        row, column = rng.integers(4, 6, 2)
        disc = label % 2 == 1
        inside = (y - row) ** 2 + (x - column) ** 2 <= 3 if disc else np.maximum(abs(y - row), abs(x - column)) <= 3
        image[inside] = (230, 30, 30) if label < 2 else (30, 30, 230)
    return images.astype(np.uint8), labels


def write(folder: Path, **changed: Any) -> Path:
    """A configuration with its images and rules; returns its path."""
    images, labels = shapes(240, seed=0)
    np.savez(folder / "shapes.npz", images=images, labels=labels)
    (folder / "rules.yaml").write_text(RULES)
    content = {
        "data": "shapes.npz",
        "rules": "rules.yaml",
        "sigma": 0.1,
        "epochs": 3,
        "batch": 12,
        "width": 4,
        "learning_rate": 0.02,
        "validation": 0.2,
        "device": "cpu",
        **changed,
    }
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in content.items() if value is not None]
    (folder / "train.yaml").write_text("".join(lines))
    return folder / "train.yaml"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One finished training."""
    folder = tmp_path_factory.mktemp("training")
    return folder, train(load_train_config(write(folder)), folder / "net", quiet=True)


def test_accuracy_on_fresh_images(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, card = trained
    net = load_checkpoint(folder / "net")
    images, labels = shapes(200, seed=1)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        logits = net(pixels)
    accuracy = float((logits[:, :4].argmax(dim=1).numpy() == labels).mean())
    assert accuracy > 0.7  # chance is 0.25
    assert card["metrics"]["val_clean"] > 0.7
    truth = np.array([[1, 1], [1, 0], [0, 1], [0, 0]], dtype=bool)[labels]
    assert float(((logits[:, 4:] > 0).numpy() == truth).mean()) > 0.75


def test_card(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, card = trained
    assert sorted(path.name for path in (folder / "net").iterdir()) == ["card.json", "model.safetensors"]
    stored = load_card(folder / "net")
    assert stored.items() >= json.loads(json.dumps(card)).items()
    assert stored["data"] == {
        "name": "shapes.npz",
        "sha256": load_npz(folder / "shapes.npz").digest(),
        "train_images": 192,
        "validation_images": 48,
    }
    assert stored["rules_sha256"] == KnowledgeBase.from_text(RULES).digest()
    assert (stored["seed"], stored["sigma"], stored["device"]) == (0, 0.1, "cpu")
    assert set(stored["metrics"]) == {"val_clean", "val_noisy", "val_concepts"}
    assert all(0 <= value <= 1 for value in stored["metrics"].values())
    assert [row["epoch"] for row in stored["history"]] == [0, 1, 2, 3]
    # a card travels with its weights: no folders of the machine it was made on
    assert str(folder) not in (folder / "net" / "card.json").read_text()


def test_same_seed_same_weights(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, card = trained
    torch.manual_seed(99)
    config = load_train_config(folder / "train.yaml")
    again = train(config, tmp_path / "again", quiet=True)
    first, second = load_card(folder / "net"), load_card(tmp_path / "again")
    assert first["weights_sha256"] == second["weights_sha256"]
    assert (again["metrics"], again["history"]) == (card["metrics"], card["history"])
    train(config.model_copy(update={"seed": 1, "epochs": 1}), tmp_path / "other", quiet=True)
    assert load_card(tmp_path / "other")["weights_sha256"] != first["weights_sha256"]


def test_one_calm_line_for_each_validation(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = load_train_config(write(tmp_path, epochs=2))
    levels = {name: logging.getLogger(name).level for name in training.QUIET}
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    train(config, tmp_path / "net")
    out, err = capfd.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("val_clean" in line and "val_noisy" in line for line in lines)
    assert (torch.get_num_threads(), list(warnings.filters)) == (threads, filters)
    assert {name: logging.getLogger(name).level for name in training.QUIET} == levels
    train(config, tmp_path / "net", quiet=True)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epoch": 3}, "field epoch: is unknown; did you mean .epochs."),
        ({"sigma": -0.1}, "field sigma"),
        ({"sigma": None}, "field sigma: is missing"),
        ({"sigma": "wide"}, "field sigma"),
        ({"epochs": 0}, "field epochs"),
        ({"validation": 1.0}, "field validation"),
        ({"seed": -1}, "field seed"),
        ({"seed": 2**32}, "field seed"),
        ({"learning_rate": 0}, "field learning_rate"),
        ({"device": "tpu"}, "field device"),
        ({"rules": None}, "field rules"),
        ({"data": None}, "field data"),
    ],
)
def test_bad_fields(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **changed)
    with pytest.raises(InputError, match=message) as caught:
        load_train_config(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", ["", "3", "[a]", "{", "data: .nan\nsigma: 2026-13-45\n", "sigma: !!python/name:os.x"]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    path = tmp_path / "train.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"train.yaml") as caught:
        load_train_config(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"gone.yaml: no such file"):
        load_train_config(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="not a YAML file"):
        load_train_config(tmp_path)


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_infinite_noise(tmp_path: Path, value: str) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text().replace("sigma: 0.1", f"sigma: {value}"))
    with pytest.raises(InputError, match="field sigma"):
        load_train_config(path)


def tampered(folder: Path, images: np.ndarray, labels: np.ndarray | None) -> None:
    fields = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(folder / "shapes.npz", **fields)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("labels beyond classes", r"labels reach 4 but .*rules.yaml has 4 classes"),
        ("no labels", "image 0 has no label"),
        ("negative label", "image 2 has no label"),
        ("not square", "images are 10 x 8; crop or resize"),
        ("one image a class", "leaves none for validation"),
        ("too few", "9 training images do not fill one batch of 12; lower batch"),
        ("gone", r"shapes.npz: no such file"),
        ("one class", "1 classes; at least 2"),
        ("bad rules", "rules.yaml:"),
        ("trunk", "write sign, object, vector, torchvision:NAME"),
    ],
)
def test_data_that_does_not_fit(tmp_path: Path, case: str, message: str) -> None:
    path = write(tmp_path, trunk="hub:x" if case == "trunk" else "sign")
    images, labels = shapes(12, seed=0)
    if case == "labels beyond classes":
        tampered(tmp_path, images, labels + 1)
    elif case == "no labels":
        tampered(tmp_path, images, None)
    elif case == "negative label":
        tampered(tmp_path, images, np.where(np.arange(12) == 2, -1, labels))
    elif case == "not square":
        tampered(tmp_path, images[:, :, :8], labels)
    elif case == "one image a class":
        tampered(tmp_path, images[:4], labels[:4])
    elif case == "too few":
        tampered(tmp_path, images, np.arange(12) % 3)
    elif case == "gone":
        (tmp_path / "shapes.npz").unlink()
    elif case == "one class":
        (tmp_path / "rules.yaml").write_text("classes: [a]\nconcepts: [b]\nrules: [a -> b]\n")
        tampered(tmp_path, np.concatenate([images] * 3), np.zeros(36, dtype=np.int64))
    elif case == "bad rules":
        (tmp_path / "rules.yaml").write_text("classes: [a, b]\nconcepts: [c]\nrules: [a -> d]\n")
    with pytest.raises(InputError, match=message) as caught:
        train(load_train_config(path), tmp_path / "net", quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "net").exists()


def test_missing_root_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEUROSYM_DATA", raising=False)
    (tmp_path / "rules.yaml").write_text(RULES)
    named = TrainConfig(data="gtsrb12", rules=str(tmp_path / "rules.yaml"), sigma=0.1)
    with pytest.raises(InputError, match="set root in the configuration or the NEUROSYM_DATA"):
        train(named, tmp_path / "net", quiet=True)
    with pytest.raises(InputError, match="no GTSRB train images there"):
        train(named.model_copy(update={"root": str(tmp_path)}), tmp_path / "net", quiet=True)
    monkeypatch.setenv("NEUROSYM_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="no GTSRB train images there"):
        train(named, tmp_path / "net", quiet=True)
    assert not (tmp_path / "net").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is not a folder"):
        train(load_train_config(write(tmp_path)), tmp_path / "file", quiet=True)


def test_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("cpu") == resolve_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match="no usable CUDA device; use --device cpu or auto"):
        resolve_device("cuda")
    with pytest.raises(InputError, match="no usable CUDA device"):
        train(load_train_config(write(tmp_path, device="cuda")), tmp_path / "net", quiet=True)
    assert not (tmp_path / "net").exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("cuda") == resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cpu") == torch.device("cpu")
