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


def write_predictions(
    out: Path, prediction: Prediction, images: Path | None, *, with_sets: bool = True
) -> dict[str, str]:
    """Write the files; all contents are made in memory first, and each file appears whole or not at all.

    Args:
        images: folder that the row names are relative to; draws the contact sheet when given.
        with_sets: False when no certificate stands behind the sets: then only labels are written.

    Returns:
        The path of each file by what it is.

    Raises:
        InputError: ``out`` cannot be written.
    """
    contents = {"sets.npz": _archive(prediction)} if with_sets else {}
    contents["predictions.csv"] = _table(prediction, with_sets)
    if images is not None and len(prediction.rows):
        contents["predictions.png"] = contact_sheet(prediction, images, with_sets)
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


def _table(prediction: Prediction, with_sets: bool) -> bytes:
    """Columns ``row, label`` and, with sets, ``size, set``; the labels of a set are separated by semicolons."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("row", "label", "size", "set") if with_sets else ("row", "label"))
    for i, (row, label) in enumerate(zip(prediction.rows, prediction.labels, strict=True)):
        names = members(prediction, i)
        facts = (row, prediction.classes[int(label)])
        writer.writerow((*facts, len(names), ";".join(names)) if with_sets else facts)
    return text.getvalue().encode("utf-8")


def contact_sheet(prediction: Prediction, folder: Path, with_sets: bool = True) -> bytes:
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
        axes.set_title(_caption(prediction, i, with_sets), fontsize=6.5, loc="left", parse_math=False)
    packed = io.BytesIO()
    figure.savefig(packed, format="png")
    return packed.getvalue()


def _pixels(folder: Path, row: str) -> np.ndarray:
    """RGB uint8 ``[H, W, 3]`` of the image a row is named after; the name may be relative to ``folder`` or not."""
    from PIL import Image, ImageOps

    path = folder / row
    with Image.open(path if path.exists() else Path(row)) as picture:
        return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))


def _caption(prediction: Prediction, row: int, with_sets: bool, width: int = 30, most: int = 4) -> str:
    import textwrap

    label = prediction.classes[int(prediction.labels[row])]
    if not with_sets:
        return label
    names = members(prediction, row)
    shown = ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
    return "\n".join([label, *textwrap.wrap("{" + (shown or "empty set") + "}", width)])
