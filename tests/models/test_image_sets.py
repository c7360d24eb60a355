"""Images in memory: splits by track, files and their faults, mosaics, and the GTSRB loader on the real files."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from neurosym.certify.sources import demo_folder
from neurosym.errors import InputError
from neurosym.models.data import GTSRB12_IDS, ImageSet, load_gtsrb, load_images, load_mosaic, load_npz
from neurosym.models.training import split_by_group


def pixels(n: int = 6, height: int = 5, width: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_tracks_stay_together(share: float) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 400)
    groups = labels * 100 + rng.integers(0, 7, 400)
    train, held = split_by_group(groups, labels, share, seed=3)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(400))
    assert not set(groups[train]) & set(groups[held])
    assert set(labels[train]) == set(labels[held]) == set(range(5))
    for label in range(5):
        tracks = len(set(groups[labels == label]))
        expected = min(max(1, round(share * tracks)), tracks - 1)
        assert len(set(groups[held][labels[held] == label])) == expected
    again = split_by_group(groups, labels, share, seed=3)
    np.testing.assert_array_equal(held, again[1])
    if share == 0.5:
        assert not np.array_equal(held, split_by_group(groups, labels, share, seed=4)[1])


def test_single_tracks_train() -> None:
    labels, groups = np.array([0, 0, 1, 1, 1]), np.array([7, 7, 8, 9, 9])
    train, held = split_by_group(groups, labels, 0.5, seed=0)
    assert set(labels[train]) == {0, 1}
    assert set(labels[held]) == {1}


def test_groups_of_several_classes_are_refused() -> None:
    with pytest.raises(InputError, match="label 1 holds another"):
        split_by_group(np.array([7, 7, 8]), np.array([0, 1, 1]), 0.5, seed=0)


def test_digest_sees_every_change() -> None:
    images, labels = pixels().transpose(0, 3, 1, 2), np.arange(6)
    base = ImageSet(np.ascontiguousarray(images), labels, labels, "a")
    state = hashlib.sha256(b"((6, 3, 5, 4), '|u1')" + base.images.tobytes() + labels.astype("<i8").tobytes())
    assert base.digest() == state.hexdigest()
    # neither the memory layout nor the name, the groups or the width of the labels matter
    assert ImageSet(images, labels.astype(np.int32), labels + 1, "b").digest() == base.digest()
    other = base.images.copy()
    other[3, 1, 2, 2] ^= 1
    swapped = ImageSet(base.images.reshape(6, 3, 4, 5), labels, labels, "a")
    changed = [ImageSet(other, labels, labels, "a"), ImageSet(base.images, labels[::-1], labels, "a"), swapped]
    changed += [base.take(np.arange(5)), base.take(np.arange(6)[::-1])]
    assert len({base.digest(), *(item.digest() for item in changed)}) == 6


def test_rows() -> None:
    base = ImageSet(np.ascontiguousarray(pixels().transpose(0, 3, 1, 2)), np.arange(6), np.arange(6) * 10, "a")
    part = base.take(np.array([4, 1]))
    assert (len(part), part.labels.tolist(), part.groups.tolist()) == (2, [4, 1], [40, 10])
    image, label = part[1]
    assert (image.dtype, label) == (torch.float32, 1)
    np.testing.assert_array_equal(image.numpy(), base.images[1].astype(np.float32) / np.float32(255))


def test_npz_layouts(tmp_path: Path) -> None:
    images, labels = pixels(), np.array([0, 1, 2, 0, 1, 2], dtype=np.uint8)
    np.savez(tmp_path / "last.npz", images=images, labels=labels)
    np.savez_compressed(tmp_path / "first.npz", images=images.transpose(0, 3, 1, 2), labels=labels)
    np.savez(tmp_path / "bare.npz", images=images)
    last, first, bare = (load_npz(tmp_path / f"{name}.npz") for name in ("last", "first", "bare"))
    assert last.images.shape == (6, 3, 5, 4)
    assert last.images.flags.c_contiguous
    np.testing.assert_array_equal(last.images[2, 1], images[2, :, :, 1])
    assert last.digest() == first.digest()
    assert (last.labels.dtype, last.labels.tolist()) == (np.int64, [0, 1, 2, 0, 1, 2])
    assert bare.labels.tolist() == [-1] * 6
    assert len(set(last.groups)) == 6


class Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


GOOD = {"images": pixels(), "labels": np.arange(6)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pictures": GOOD["images"]}, "field images is missing"),
        ({**GOOD, "images": GOOD["images"].astype(np.float32)}, r"images is float32\[6, 5, 4, 3\]; it must be uint8"),
        ({**GOOD, "images": GOOD["images"][0]}, r"images is uint8\[5, 4, 3\]"),
        ({**GOOD, "images": GOOD["images"][..., :2]}, "no axis of 3 colour channels"),
        ({**GOOD, "images": GOOD["images"][:0], "labels": np.arange(0)}, "images is empty"),
        ({**GOOD, "labels": np.arange(5)}, r"labels has shape \[5\]; it must be \[6\]"),
        ({**GOOD, "labels": np.arange(6)[:, None]}, r"labels has shape \[6, 1\]"),
        ({**GOOD, "labels": np.linspace(0, 1, 6)}, "labels is float64; class numbers must be integers"),
        ({**GOOD, "labels": np.array(list("abcdef"))}, "class numbers must be integers"),
        ({**GOOD, "labels": np.array([None] * 6)}, "not a plain .npz file"),
    ],
)
def test_npz_faults(tmp_path: Path, fields: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **fields)
    with pytest.raises(InputError, match=message) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "good.npz", **GOOD)
    np.save(tmp_path / "array.npy", GOOD["images"])
    content = (tmp_path / "good.npz").read_bytes()
    damaged = bytearray(content)
    damaged[200:260] = bytes(60)
    sprung = tmp_path / "sprung"
    cases = {
        "cut": content[: len(content) // 2],
        "damaged": bytes(damaged),
        "empty": b"",
        "text": b"hello",
        "array": (tmp_path / "array.npy").read_bytes(),
        "pickle": pickle.dumps(Trap(sprung)),
    }
    for name, data in cases.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(InputError, match=f"{name}.npz: not a plain .npz file") as caught:
            load_npz(tmp_path / f"{name}.npz")
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "object.npz", images=np.array([Trap(sprung)], dtype=object), labels=np.arange(1))
    sprung.unlink(missing_ok=True)
    with pytest.raises(InputError, match="not a plain"):
        load_npz(tmp_path / "object.npz")
    assert not sprung.exists()
    with pytest.raises(InputError, match=r"gone.npz: no such file"):
        load_npz(tmp_path / "gone.npz")
    with pytest.raises(InputError, match="not a plain"):
        load_npz(tmp_path)


def test_mosaic_round_trip(tmp_path: Path) -> None:
    tiles = pixels(6, 8, 8)
    picture = np.concatenate([np.concatenate(list(tiles[row : row + 3]), axis=1) for row in (0, 3)], axis=0)
    Image.fromarray(picture).save(tmp_path / "tiles.png")
    Image.fromarray(picture).save(tmp_path / "tiles.webp", lossless=True, exact=True)
    labels = np.array([3, 1, 4, 1, 5])  # the last tile is padding
    for name in ("tiles.png", "tiles.webp"):
        found = load_mosaic(tmp_path / name, labels, size=8)
        np.testing.assert_array_equal(found.images, tiles[:5].transpose(0, 3, 1, 2))
        assert found.labels.tolist() == labels.tolist()
    with pytest.raises(InputError, match="do not hold 7 tiles"):
        load_mosaic(tmp_path / "tiles.png", np.arange(7), size=8)
    with pytest.raises(InputError, match="24 x 16 pixels"):
        load_mosaic(tmp_path / "tiles.png", labels, size=7)
    with pytest.raises(InputError, match="cannot be read"):
        load_mosaic(tmp_path / "gone.png", labels)


def test_demo_images() -> None:
    with np.load(demo_folder() / "labels.npz", allow_pickle=False) as archive:
        labels = archive["labels"]
    found = load_mosaic(demo_folder() / "images.webp", labels)
    assert found.images.shape == (720, 3, 32, 32)
    assert set(found.labels) == set(range(12))
    assert len({image.tobytes() for image in found.images}) > 700  # real images, not one tile over and over


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'mnist' is unknown; write gtsrb12"):
        load_images("mnist", tmp_path, "test")
    with pytest.raises(InputError, match="split 'val' is unknown"):
        load_gtsrb(tmp_path, "val")
    with pytest.raises(InputError, match="no GTSRB test images there") as caught:
        load_images("gtsrb43", tmp_path, "test")
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def root() -> Path:
    """The folder of the data sets, or the reason to skip."""
    place = os.environ.get("NEUROSYM_DATA")
    if not place:
        pytest.skip("needs NEUROSYM_DATA, the folder of the data sets")
    if not (Path(place) / "gtsrb" / "GTSRB" / "Final_Test").is_dir():
        pytest.skip(f"NEUROSYM_DATA = {place} holds no GTSRB test images")
    return Path(place)


@pytest.mark.data
def test_gtsrb_test_images(root: Path) -> None:
    full, twelve = load_images("gtsrb43", root, "test"), load_images("gtsrb12", root, "test")
    assert full.images.shape == (6315, 3, 32, 32)
    with open(root / "gtsrb" / "GT-final_test.csv", newline="") as file:
        truth = {row["Filename"]: int(row["ClassId"]) for row in csv.DictReader(file, delimiter=";")}
    assert set(full.labels) == set(range(43))
    names = sorted(path.name for path in (root / "gtsrb" / "GTSRB" / "Final_Test" / "Images").glob("*.ppm"))
    assert len(names) == len(full)
    counts = np.bincount([truth[name] for name in names], minlength=43)
    np.testing.assert_array_equal(np.bincount(full.labels, minlength=43), counts)
    assert len(twelve) == counts[list(GTSRB12_IDS)].sum() == 2446
    np.testing.assert_array_equal(np.bincount(twelve.labels, minlength=12), counts[list(GTSRB12_IDS)])
    # the same pixels under the new labels, in the same order
    kept = np.flatnonzero(np.isin(full.labels, GTSRB12_IDS))
    np.testing.assert_array_equal(full.images[kept], twelve.images)
    np.testing.assert_array_equal(full.labels[kept], np.array(GTSRB12_IDS)[twelve.labels])
    with open(root / "gtsrb" / "signnames.csv", newline="") as file:
        signs = [row["SignName"].lower() for row in csv.DictReader(file)]
    words = ("stop", "priority road", "yield", "work", "keep right", "left", "no entry", "no vehicles")
    words += ("50km/h", "end of all", "20km/h", "120km/h")
    assert all(word in signs[number] for word, number in zip(words, GTSRB12_IDS, strict=True))


@pytest.mark.data
def test_gtsrb_tracks(root: Path) -> None:
    twelve = load_images("gtsrb12", root, "train")
    folders = root / "gtsrb" / "GTSRB" / "Training"
    files = [path for number in GTSRB12_IDS for path in (folders / f"{number:05d}").glob("*.ppm")]
    assert len(twelve) == len(files)
    tracks = {(path.parent.name, path.stem.split("_")[0]) for path in files}
    assert len(set(twelve.groups)) == len(tracks)
    assert np.unique(twelve.groups).size == np.unique(np.stack([twelve.groups, twelve.labels]), axis=1).shape[1]


@pytest.mark.data
def test_cifar10_images(root: Path) -> None:
    """Against the files read by their published layout: rows of 3072 bytes, red, green, blue planes."""
    if not (root / "cifar-10-batches-py").is_dir():
        pytest.skip(f"NEUROSYM_DATA = {root} holds no CIFAR-10")
    images = load_images("cifar10", root, "test")
    with open(root / "cifar-10-batches-py" / "test_batch", "rb") as file:
        batch = pickle.load(file, encoding="bytes")  # the data set's own format, with the checksum verified above
    np.testing.assert_array_equal(images.images.reshape(10_000, 3072), batch[b"data"])
    np.testing.assert_array_equal(images.labels, batch[b"labels"])
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert len(np.unique(images.groups)) == 10_000


def test_cifar10_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no CIFAR-10 there.*neurosym data cifar10"):
        load_images("cifar10", tmp_path, "test")
    with pytest.raises(InputError, match="split 'val' is unknown"):
        load_images("cifar10", tmp_path, "val")
