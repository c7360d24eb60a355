"""Predictions on disk: ``sets.npz``, ``predictions.csv`` and, for images, one contact sheet."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from neurosym.cli.picture import write_whole
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.pipeline import Prediction

SHEET_IMAGES, SHEET_COLUMNS = 48, 6


def members(prediction: Prediction, row: int) -> list[str]:
    """Names of the labels in one set, in class order."""
    return [prediction.classes[int(k)] for k in np.flatnonzero(prediction.sets[row])]


def write_predictions(out: Path, prediction: Prediction, images: Path | None) -> dict[str, str]:
    """Write the files; all contents are made in memory first, and each file appears whole or not at all.

    Args:
        images: folder that the row names are relative to; draws the contact sheet when given.

    Returns:
        The path of each file by what it is.

    Raises:
        InputError: ``out`` cannot be written.
    """
    contents = {"sets.npz": _archive(prediction), "predictions.csv": _table(prediction)}
    if images is not None and len(prediction.rows):
        contents["predictions.png"] = contact_sheet(prediction, images)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_whole(out / name, content)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written ({error.strerror}); give another place") from None
    return {Path(name).suffix[1:]: str(out / name) for name in contents}


def _archive(prediction: Prediction) -> bytes:
    packed = io.BytesIO()
    np.savez_compressed(
        packed,
        sets=np.asarray(prediction.sets, dtype=bool),
        labels=np.asarray(prediction.labels, dtype=np.int64),
        classes=np.array(prediction.classes, dtype=str),
        rows=np.array([str(row) for row in prediction.rows], dtype=str),
    )
    return packed.getvalue()


def _table(prediction: Prediction) -> bytes:
    """Columns ``row, label, size, set``; the labels of a set are separated by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "label", "size", "set"))
    for i, (row, label) in enumerate(zip(prediction.rows, prediction.labels, strict=True)):
        names = members(prediction, i)
        writer.writerow((row, prediction.classes[int(label)], len(names), ";".join(names)))
    return text.getvalue().encode("utf-8")


def contact_sheet(prediction: Prediction, folder: Path) -> bytes:
    """The first images with their label and set below each, as one PNG.

    Drawn on a figure of its own, without pyplot: no display is needed and no global state is left behind.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = min(SHEET_IMAGES, len(prediction.rows))
    columns = min(SHEET_COLUMNS, count)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(2.1 * columns, 2.5 * lines), dpi=100, layout="tight")
    FigureCanvasAgg(figure)
    for i in range(count):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.imshow(_pixels(folder, str(prediction.rows[i])))
        axes.set_axis_off()
        others = members(prediction, i)
        shown = ", ".join(others[:4]) + (f" and {len(others) - 4} more" if len(others) > 4 else "")
        label = prediction.classes[int(prediction.labels[i])]
        axes.set_title(_wrapped(label, shown or "empty set"), fontsize=6.5, loc="left", parse_math=False)
    packed = io.BytesIO()
    figure.savefig(packed, format="png")
    return packed.getvalue()


def _pixels(folder: Path, row: str) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` of the image a row is named after; the name may be relative to ``folder`` or not."""
    from PIL import Image, ImageOps

    path = folder / row
    with Image.open(path if path.exists() else Path(row)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _wrapped(label: str, names: str, width: int = 30) -> str:
    import textwrap

    return "\n".join([label, *textwrap.wrap("{" + names + "}", width)])
