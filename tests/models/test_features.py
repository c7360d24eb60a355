"""Features of animals: the published layout in small, the real components of AwA1, and a network on vectors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.errors import InputError
from neurosym.models.concept_net import ConceptNet
from neurosym.models.data import load_images
from neurosym.models.features import load_awa2
from neurosym.models.training import TrainConfig, train


def awa2_folder(root: Path, n: int = 200, width: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Small files in the layout of the published ones; features and labels (from 1)."""
    rng = np.random.default_rng(0)
    labels = rng.integers(1, 4, n)
    features = np.eye(3)[labels - 1].repeat(2, axis=1)[:, :width] * 3 + rng.normal(size=(n, width))
    folder = root / "Animals_with_Attributes2" / "Features" / "ResNet101"
    folder.mkdir(parents=True)
    np.savetxt(folder / "AwA2-features.txt", features, fmt="%.5f")
    np.savetxt(folder / "AwA2-labels.txt", labels, fmt="%d")
    return features, labels


def test_awa2_layout(tmp_path: Path) -> None:
    features, labels = awa2_folder(tmp_path)
    fit, test = (load_images("awa2", tmp_path, split) for split in ("train", "test"))
    assert len(fit) + len(test) == 200
    assert not fit.are_pixels
    assert float((fit.images.astype(np.float64) ** 2).mean()) == pytest.approx(1.0, rel=1e-5)
    scale = np.linalg.norm(features) / np.linalg.norm(np.concatenate([fit.images, test.images]))
    found = np.concatenate([fit.images, test.images])[:, :, 0, 0] * scale
    order, expected = np.argsort(found[:, 0]), np.argsort(features[:, 0])
    np.testing.assert_allclose(found[order], features[expected], atol=1e-4)
    np.testing.assert_array_equal(np.concatenate([fit.labels, test.labels])[order], labels[expected] - 1)
    for label in range(3):  # three of every ten of a class
        mine = int((labels - 1 == label).sum())
        assert int((test.labels == label).sum()) == sum(i % 10 in (2, 5, 8) for i in range(mine))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("AwA2-labels.txt", "1\n2\n", "200 rows of features but 2 labels"),
        ("AwA2-labels.txt", "0\n" * 200, "row 1 is 0; classes are 1 to 50"),
        ("AwA2-labels.txt", "cat\n", "not a table of numbers"),
        ("AwA2-features.txt", None, "no such file; put the published"),
        ("AwA2-features.txt", "0 0\n" * 200, "all zero"),
    ],
)
def test_awa2_faults(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    awa2_folder(tmp_path)
    place = tmp_path / "Animals_with_Attributes2" / "Features" / "ResNet101" / file
    if text is None:
        place.unlink()
    else:
        place.write_text(text)
    with pytest.raises(InputError, match=message):
        load_awa2(tmp_path, "train")


@pytest.mark.data
def test_awa1_components() -> None:
    root = os.environ.get("NEUROSYM_DATA")
    if not root or not (Path(root) / "awa1").is_dir():
        pytest.skip("needs the AwA1 features in NEUROSYM_DATA")
    fit, test = (load_images("awa1", root, split) for split in ("train", "test"))
    with np.load(Path(root) / "awa1" / "awa1_pca256_int8.npz") as archive:
        raw, train_rows, labels = archive["X_int8"] * archive["scale"], archive["train"], archive["y"]
    assert (len(fit), len(test)) == (int(train_rows.sum()), int((~train_rows).sum()))
    np.testing.assert_array_equal(test.labels, labels[~train_rows])
    scale = np.sqrt((raw[train_rows].astype(np.float64) ** 2).mean())
    np.testing.assert_allclose(test.images[:, :, 0, 0], raw[~train_rows] / scale, rtol=1e-5)


def test_awa1_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unpack the AwA1 features"):
        load_images("awa1", tmp_path, "test")
    with pytest.raises(InputError, match="split 'val' is unknown"):
        load_images("awa1", tmp_path, "val")


def test_training_on_features(tmp_path: Path) -> None:
    awa2_folder(tmp_path, n=400)
    rules = tmp_path / "rules.yaml"
    rules.write_text("classes: [a, b, c]\nconcepts: [x]\nrules: [a -> x, b -> x]\n")
    settings = {"data": "awa2", "root": str(tmp_path), "rules": str(rules), "sigma": 0.2, "epochs": 8, "batch": 32}
    config = TrainConfig.model_validate({**settings, "trunk": "vector", "views": "none", "width": 4, "device": "cpu"})
    card = train(config, tmp_path / "net", quiet=True)
    assert card["metrics"]["val_noisy"] > 0.75
    from neurosym.models.checkpoint import load_checkpoint

    net = load_checkpoint(tmp_path / "net")
    assert net(torch.zeros(2, 6, 1, 1)).shape == (2, 4)
    with pytest.raises(InputError, match="set trunk: vector and views: none"):
        train(TrainConfig.model_validate({**settings, "device": "cpu"}), tmp_path / "other", quiet=True)


def test_vector_network_without_concepts() -> None:
    net = ConceptNet(("a", "b"), (), trunk="vector", inputs=5, width=4).eval()
    assert net(torch.randn(3, 5, 1, 1)).shape == (3, 2)
