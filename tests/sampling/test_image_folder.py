"""Folders of images: what is read, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from neurosym.certify.images import ImageFolder, read_image
from neurosym.certify.sampling import ModelEvidence
from neurosym.errors import InputError


def _save(path: Path, pixels: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _pixels(seed: int, height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pixels_are_exact(tmp_path: Path) -> None:
    pixels = _pixels(0)
    image = read_image(_save(tmp_path / "a.png", pixels))
    assert image.dtype == torch.float32
    assert np.array_equal(image.numpy(), pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_resize_grey_palette_transparency_orientation(tmp_path: Path) -> None:
    assert read_image(_save(tmp_path / "a.png", _pixels(0)), (3, 5)).shape == (3, 3, 5)
    grey = read_image(_save(tmp_path / "g.png", _pixels(1)[..., 0]))
    assert torch.equal(grey[0], grey[2])
    Image.fromarray(_pixels(2)).convert("P").save(tmp_path / "p.png")
    Image.fromarray(np.full((2, 2, 4), 128, np.uint8)).save(tmp_path / "t.png")
    assert read_image(tmp_path / "p.png").shape == read_image(tmp_path / "a.png").shape
    assert read_image(tmp_path / "t.png").shape == (3, 2, 2)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    _save(tmp_path / "r.jpg", _pixels(3), exif=exif)
    assert read_image(tmp_path / "r.jpg").shape == (3, 4, 6)


def test_folder_order_and_labels(tmp_path: Path) -> None:
    for name in ("yield/b.PNG", "stop/z.png", "stop/deep/a.jpg", "stop/.hidden.png", ".trash/x.png"):
        _save(tmp_path / name, _pixels(4))
    (tmp_path / "notes.txt").write_text("no image")
    plain = ImageFolder(tmp_path, 8)
    found = [str(path.relative_to(tmp_path)) for path in plain.files]
    assert found == ["stop/deep/a.jpg", "stop/z.png", "yield/b.PNG"]
    assert plain[0].shape == (3, 8, 8)
    assert ImageFolder(tmp_path, (8, 8), classes=("yield", "stop"))[0][1] == 1
    with pytest.raises(InputError, match="'yield' is not one of the 1 classes"):
        ImageFolder(tmp_path, 8, classes=("stop",))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    evidence = ModelEvidence(net, plain, 0.1, 3, 0, predicates="ab", num_classes=2, progress=False)
    assert evidence.labels is None
    assert sum(len(rows) for rows, _ in evidence.chunks()) == 3


def test_refusals_are_one_line_with_the_name(tmp_path: Path) -> None:
    good = _save(tmp_path / "good.png", _pixels(5, 40, 40))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:900])
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((3, 3), np.uint16)).save(tmp_path / "deep.png")
    for name in ("cut.png", "text.png", "empty.jpg", "deep.png", "gone.png"):
        with pytest.raises(InputError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="holds no images"):
        ImageFolder(tmp_path / "nothing", 8)
    with pytest.raises(InputError, match="no such folder"):
        ImageFolder(tmp_path / "gone", 8)
    with pytest.raises(InputError, match="size"):
        ImageFolder(tmp_path, 0)


def test_huge_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _save(tmp_path / "big.png", _pixels(6, 40, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="scale the image down"):
        read_image(path)
