"""Build what ``neurosym certify --demo`` uses: a trained GTSRB-12 network and a few hundred real test images.

The images are a class-stratified random sample of the official GTSRB test images of the twelve classes, 32x32, stored
as tiles of one lossless WebP picture; their labels and their row numbers in the test set lie beside them.

Usage: NEUROSYM_DATA=DIR python benchmarks/gtsrb/make_demo.py runs/gtsrb12_0.25 [--images 720] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from neurosym.models.checkpoint import load_checkpoint
from neurosym.models.data import ImageSet, load_images, load_mosaic

DEMO = Path(__file__).resolve().parents[2] / "neurosym" / "demo"
COLUMNS = 30


def sample(images: ImageSet, count: int, seed: int) -> np.ndarray:
    """Row numbers of a simple random sample without replacement: exchangeable, as conformal prediction needs."""
    return np.sort(np.random.default_rng(seed).choice(len(images), min(count, len(images)), replace=False))


def mosaic(images: np.ndarray) -> Image.Image:
    """uint8 ``[n, 3, H, W]`` to one picture, row by row."""
    n, _, height, width = images.shape
    rows = -(-n // COLUMNS)
    tiles = np.zeros((rows * COLUMNS, height, width, 3), dtype=np.uint8)
    tiles[:n] = images.transpose(0, 2, 3, 1)
    return Image.fromarray(
        tiles.reshape(rows, COLUMNS, height, width, 3).swapaxes(1, 2).reshape(rows * height, COLUMNS * width, 3)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--images", type=int, default=720)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    test = load_images("gtsrb12", os.environ["NEUROSYM_DATA"], "test")
    rows = sample(test, options.images, options.seed)
    chosen = test.take(rows)
    mosaic(chosen.images).save(DEMO / "images.webp", lossless=True, quality=100, method=6)
    np.savez_compressed(DEMO / "labels.npz", labels=chosen.labels, row=rows)
    again = load_mosaic(DEMO / "images.webp", chosen.labels)
    if not np.array_equal(again.images, chosen.images):
        raise SystemExit("the stored mosaic does not give the images back")
    load_checkpoint(options.checkpoint)
    (DEMO / "model").mkdir(exist_ok=True)
    for name in ("model.safetensors", "card.json"):
        shutil.copy(Path(options.checkpoint) / name, DEMO / "model" / name)
    size = sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file())
    print(f"{len(rows)} images, {size / 1e6:.2f} MB in {DEMO}")


if __name__ == "__main__":
    main()
