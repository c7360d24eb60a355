"""Images in memory: the data sets that training and certification read, by name."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from neurosym.errors import InputError

# GTSRB class ids of the twelve classes of COLEP's experiment, in its order (stop, priority road, ..., limit 120).
GTSRB12_IDS = (14, 12, 13, 25, 38, 34, 17, 15, 2, 32, 0, 8)


@dataclass(frozen=True)
class ImageSet(Dataset[tuple[Tensor, int]]):
    """Equally sized RGB images with class labels, or vectors of features in their place.

    Attributes:
        images: uint8 ``[n, 3, H, W]``, or features float32 ``[n, D, 1, 1]``.
        labels: int64 ``[n]``; -1 where unknown.
        groups: int64 ``[n]``; images of one group (a video track) must stay on one side of a split.
        name: where the images come from.
    """

    images: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.tensors(index), int(self.labels[index])

    def tensors(self, rows: int | list[int] | np.ndarray | slice) -> Tensor:
        """What networks take: pixels in [0, 1], features as they are; float32."""
        found = torch.from_numpy(self.images[rows])
        return found.float().div_(255.0) if self.are_pixels else found.float()

    @property
    def are_pixels(self) -> bool:
        """Images, not features."""
        return bool(self.images.dtype == np.uint8)

    def take(self, rows: np.ndarray) -> ImageSet:
        return ImageSet(self.images[rows], self.labels[rows], self.groups[rows], self.name)

    def digest(self) -> str:
        """SHA-256 over shape, pixels and labels."""
        state = hashlib.sha256(repr((self.images.shape, self.images.dtype.str)).encode())
        state.update(np.ascontiguousarray(self.images).tobytes())
        state.update(np.ascontiguousarray(self.labels.astype("<i8")).tobytes())
        return state.hexdigest()


def load_gtsrb(root: str | Path, split: str, *, class_ids: Sequence[int] | None = None, size: int = 32) -> ImageSet:
    """GTSRB in torchvision's layout, ``split`` = ``train`` or ``test``, resized to ``size`` x ``size``.

    ``class_ids`` keeps these classes and relabels them by their position. Training groups are video tracks (file
    names are ``track_frame``), so that near-identical frames never fall on both sides of a split.

    Raises:
        InputError: the folder is not there.
    """
    from neurosym.models.backbones import import_torchvision

    if split not in ("train", "test"):
        raise InputError(f"gtsrb: split {split!r} is unknown; write train or test")
    torchvision = import_torchvision()
    try:
        dataset = torchvision.datasets.GTSRB(str(root), split=split)
    except RuntimeError as error:
        raise InputError(
            f"{root}: no GTSRB {split} images there ({error}); run: neurosym data gtsrb --root {root} --download"
        ) from None
    wanted = {c: i for i, c in enumerate(class_ids)} if class_ids is not None else {c: c for c in range(43)}
    images: list[np.ndarray] = []
    labels: list[int] = []
    groups: list[int] = []
    for path, label in dataset._samples:
        if label not in wanted:
            continue
        with torchvision.datasets.folder.default_loader(path) as image:
            resized = image if image.size == (size, size) else image.resize((size, size), 2)
            images.append(np.asarray(resized, dtype=np.uint8).transpose(2, 0, 1))
        labels.append(wanted[label])
        track = int(Path(path).stem.split("_")[0])
        groups.append(label * 100_000 + track if split == "train" else len(groups))
    return ImageSet(np.stack(images), np.array(labels), np.array(groups), f"gtsrb-{split}")


def load_cifar10(root: str | Path, split: str) -> ImageSet:
    """CIFAR-10 in torchvision's layout (its files are known by their checksums), ``split`` = ``train`` or ``test``.

    Raises:
        InputError: the files are not there, or are not those of CIFAR-10.
    """
    from neurosym.models.backbones import import_torchvision

    if split not in ("train", "test"):
        raise InputError(f"cifar10: split {split!r} is unknown; write train or test")
    torchvision = import_torchvision()
    try:
        dataset = torchvision.datasets.CIFAR10(str(root), train=split == "train")
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{root}: no CIFAR-10 there ({reason}); run: neurosym data cifar10 --root {root} --download"
        ) from None
    images = np.ascontiguousarray(np.asarray(dataset.data, dtype=np.uint8).transpose(0, 3, 1, 2))
    labels = np.asarray(dataset.targets, dtype=np.int64)
    return ImageSet(images, labels, np.arange(len(labels)), f"cifar10-{split}")


def load_images(name: str, root: str | Path, split: str) -> ImageSet:
    """A data set by name: ``gtsrb12``, ``gtsrb43``, ``cifar10``, or features: ``awa1``, ``awa2``.

    Raises:
        InputError: unknown name.
    """
    if name == "gtsrb12":
        return load_gtsrb(root, split, class_ids=GTSRB12_IDS)
    if name == "gtsrb43":
        return load_gtsrb(root, split)
    if name == "cifar10":
        return load_cifar10(root, split)
    if name in ("awa1", "awa2"):
        from neurosym.models.features import load_awa1, load_awa2

        return load_awa1(root, split) if name == "awa1" else load_awa2(root, split)
    raise InputError(
        f"data set {name!r} is unknown; write gtsrb12, gtsrb43, cifar10, awa1, awa2, demo or an .npz file with images and labels"
    )


def load_npz(path: str | Path) -> ImageSet:
    """Images from an ``.npz`` file with ``images`` uint8 ``[n, H, W, 3]`` or ``[n, 3, H, W]`` and ``labels`` int ``[n]``.

    Raises:
        InputError: missing file or field, wrong shape or type; pickled content is refused.
    """
    path = Path(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
            labels = archive["labels"] if "labels" in archive else np.full(len(images), -1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except KeyError:
        raise InputError(
            f"{path}: field images is missing; save it with np.savez(path, images=..., labels=...)"
        ) from None
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        # TypeError, AttributeError: np.load of an .npy file gives an array, which is no archive
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: not a plain .npz file ({reason}); save it again with np.savez") from None
    if images.dtype != np.uint8 or images.ndim != 4:
        raise InputError(f"{path}: images is {images.dtype}{list(images.shape)}; it must be uint8 [n, H, W, 3]")
    if images.shape[1] != 3:
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1] != 3:
        raise InputError(f"{path}: images has no axis of 3 colour channels; shape {list(images.shape)}")
    if labels.shape != (len(images),):
        raise InputError(f"{path}: labels has shape {list(labels.shape)}; it must be [{len(images)}]")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: labels is {labels.dtype}; class numbers must be integers")
    if not len(images):
        raise InputError(f"{path}: images is empty; give at least one image")
    return ImageSet(np.ascontiguousarray(images), labels.astype(np.int64), np.arange(len(images)), str(path))


def load_mosaic(path: str | Path, labels: np.ndarray, *, size: int = 32) -> ImageSet:
    """Images stored as tiles of one lossless picture, row by row (how the demo images ship).

    Raises:
        InputError: no such picture, or one with fewer tiles than labels.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{path}: the picture of tiles cannot be read ({error}); install neurosym again") from None
    if pixels.shape[0] % size or pixels.shape[1] % size or pixels.shape[0] * pixels.shape[1] < len(labels) * size**2:
        raise InputError(f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels do not hold {len(labels)} tiles")
    rows, columns = pixels.shape[0] // size, pixels.shape[1] // size
    tiles = pixels.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)[: len(labels)]
    return ImageSet(
        np.ascontiguousarray(tiles.transpose(0, 3, 1, 2)),
        labels.astype(np.int64),
        np.arange(len(labels)),
        str(path),
    )
