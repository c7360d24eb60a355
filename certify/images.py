"""A folder of image files as a map-style dataset of tensors in ``[0, 1]``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurosym.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")


def read_image(path: str | Path, size: tuple[int, int] | None = None) -> Tensor:
    """One image file as float32 ``[3, H, W]`` in ``[0, 1]``.

    Camera orientation tags are obeyed, grey and palette images become RGB, transparency is dropped.

    Args:
        size: ``(height, width)`` to resize to (bilinear, antialiased); None keeps the file's own.

    Raises:
        InputError: the file is missing, is not an image, is cut short, or has more than 8 bits a channel.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                if file.mode[0] in "IF":
                    raise InputError(f"{path}: {file.mode} pixels have more than 8 bits; convert it to 8-bit RGB")
                picture = ImageOps.exif_transpose(file).convert("RGB")
        if size is not None and picture.size != (size[1], size[0]):
            picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise InputError(f"{path}: no such image file") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read; use png or jpg") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise InputError(f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels; scale the image down") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: cannot be read ({error}); it may be cut short") from None
    pixels = np.array(picture, dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


class ImageFolder:
    """Image files below a folder, in the order of their paths.

    Rows are ``image`` (float32 ``[3, H, W]`` in ``[0, 1]``), or ``(image, label)`` when ``classes`` are given: then
    each file must lie in a sub-folder named after its class.

    Args:
        root: folder, searched with all its sub-folders; hidden files are left out.
        size: ``(height, width)`` that all images are resized to.
        classes: class names in the order of the labels.

    Raises:
        InputError: no folder, no images, a file in no class folder, or (while reading) a bad file.
    """

    def __init__(self, root: str | Path, size: tuple[int, int] | int, *, classes: Sequence[str] | None = None) -> None:
        self.root = Path(root)
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise InputError(f"image size: {self.size} is not positive; give (height, width)")
        if not self.root.is_dir():
            raise InputError(f"{self.root}: no such folder; give a folder of {', '.join(SUFFIXES)} files")
        self.files = sorted(
            path
            for path in self.root.rglob("*")
            if path.suffix.lower() in SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
        )
        if not self.files:
            raise InputError(f"{self.root}: holds no images; put {', '.join(SUFFIXES)} files there")
        self.classes = None if classes is None else tuple(classes)
        self.labels = None if self.classes is None else [self._label(path) for path in self.files]

    def _label(self, path: Path) -> int:
        assert self.classes is not None
        name = path.relative_to(self.root).parts[0]
        if name not in self.classes:
            raise InputError(f"{path}: {name!r} is not one of the {len(self.classes)} classes; name its folder so")
        return self.classes.index(name)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Any:
        image = read_image(self.files[row], self.size)
        return image if self.labels is None else (image, self.labels[row])
