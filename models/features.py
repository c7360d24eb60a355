"""Features in place of images: Animals with Attributes, whose pictures are not always at hand.

Features are scaled so that the mean squared length of a training vector is its dimension: noise of standard deviation
sigma then is sigma times as strong as the features, whatever they were measured in.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from neurosym.errors import InputError
from neurosym.models.data import ImageSet

TRAIN_SHARE = 0.7
AWA2_FOLDER = "Animals_with_Attributes2"
NUM_CLASSES = 50


def _split(split: str) -> bool:
    if split not in ("train", "test"):
        raise InputError(f"awa: split {split!r} is unknown; write train or test")
    return split == "train"


def _scaled(features: np.ndarray, train: np.ndarray) -> np.ndarray:
    """float32 ``[n, D, 1, 1]`` with unit mean square on the training rows."""
    rows = features[train].astype(np.float64)
    scale = float(np.sqrt((rows**2).mean()))
    if not np.isfinite(scale) or scale <= 0:
        raise InputError("awa: the training features are all zero or not finite; unpack the data set again")
    return np.asarray(features / np.float32(scale), dtype=np.float32)[:, :, None, None]


def load_awa1(root: str | Path, split: str) -> ImageSet:
    """256 principal components of the features of AwA1 (Lampert et al. 2009), 30,475 images, its 70/30 split.

    Reads ``awa1/awa1_pca256_int8.npz`` with ``X_int8`` int8[n, 256], ``scale`` float32[256], ``y`` uint8[n], ``train``
    bool[n].

    Raises:
        InputError: no such file, or other content.
    """
    wanted, path = _split(split), Path(root) / "awa1" / "awa1_pca256_int8.npz"
    try:
        with np.load(path, allow_pickle=False) as archive:
            numbers, scale, labels, train = (archive[name] for name in ("X_int8", "scale", "y", "train"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; unpack the AwA1 features there") from None
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: not the file of AwA1 features ({str(error).splitlines()[0]})") from None
    features = _scaled(numbers.astype(np.float32) * scale, train)
    rows = np.flatnonzero(train == wanted)
    return ImageSet(features[rows], labels[rows].astype(np.int64), np.arange(len(rows)), f"awa1-{split}")


def load_awa2(root: str | Path, split: str) -> ImageSet:
    """ResNet-101 features of AwA2 (Xian et al. 2018) in their published layout, split 70/30 within each class.

    Reads ``AwA2-features.txt`` (a row of numbers for each image) and ``AwA2-labels.txt`` (classes from 1) in
    ``Animals_with_Attributes2/Features/ResNet101``. Images in the order of the file: of every ten of a class the 3rd, 6th
    and 9th test.

    Raises:
        InputError: no such files, or rows that do not fit.
    """
    wanted = _split(split)
    folder = Path(root) / AWA2_FOLDER / "Features" / "ResNet101"
    features = _table(folder / "AwA2-features.txt", np.float32)
    labels = _table(folder / "AwA2-labels.txt", np.int64)[:, 0] - 1
    if len(labels) != len(features):
        raise InputError(f"{folder}: {len(features)} rows of features but {len(labels)} labels; fetch the files again")
    if labels.min() < 0 or labels.max() >= NUM_CLASSES:
        row = int(np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))[0])
        raise InputError(f"{folder / 'AwA2-labels.txt'}: row {row + 1} is {labels[row] + 1}; classes are 1 to 50")
    place = np.zeros(len(labels), dtype=np.int64)
    for label in np.unique(labels):
        mine = labels == label
        place[mine] = np.arange(int(mine.sum()))
    train = ~np.isin(place % 10, (2, 5, 8))
    rows = np.flatnonzero(train == wanted)
    scaled = _scaled(features, train)
    return ImageSet(scaled[rows], labels[rows], np.arange(len(rows)), f"awa2-{split}")


def _table(path: Path, dtype: type) -> np.ndarray:
    """Numbers of a text file, ``[n, columns]``."""
    try:
        found: np.ndarray = np.loadtxt(path, dtype=dtype, ndmin=2)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; put the published ResNet-101 features of AwA2 there (AwA2-features.zip)"
        ) from None
    except (ValueError, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a table of numbers ({str(error).splitlines()[0]}); fetch it again") from None
    if not found.size:
        raise InputError(f"{path}: is empty; fetch it again")
    return np.asarray(found)
