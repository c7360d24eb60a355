"""Checks of arrays that come from outside: one line that names the field, the row and the mend."""

from __future__ import annotations

from typing import Any

import numpy as np

from neurosym.errors import InputError


def refuse_rows(name: str, array: np.ndarray, bad: np.ndarray, problem: str, mend: str) -> None:
    """Raise for the first row of ``bad`` (bool, same shape as ``array``) that has a true entry."""
    if bad.any():
        where = np.unravel_index(int(np.argmax(bad)), bad.shape)
        raise InputError(f"field '{name}' row {where[0]}: {array[where]} {problem}; {mend}")


def numbers(name: str, value: Any, shape: str, integer: bool = False) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in ("iu" if integer else "iuf"):
        kind = "integers" if integer else "numbers"
        raise InputError(f"field '{name}': dtype {array.dtype} is not {kind}; convert it first")
    if array.ndim != shape.count(",") + 1:
        raise InputError(f"field '{name}': shape {array.shape}; the shape must be {shape}")
    return array.astype(np.int64 if integer else np.float64)


def probabilities(name: str, value: Any) -> np.ndarray:
    array = numbers(name, value, "[n,V]")
    refuse_rows(name, array, np.isnan(array), "is not a number", "remove the row or mend the model")
    outside = (array < 0.0) | (array > 1.0)
    refuse_rows(name, array, outside, "is outside [0, 1]", "give probabilities, not logits")
    return array


def check_labels(labels: Any, n: int, classes: int) -> np.ndarray:
    """``int64[n]`` class indices in ``0..classes-1``.

    Raises:
        InputError: wrong shape or dtype, or a label out of range (named by row).
    """
    array = numbers("labels", labels, "[n]", integer=True)
    if array.shape != (n,):
        raise InputError(f"field 'labels': {array.size} labels for {n} rows; give one label a row")
    refuse_rows("labels", array, (array < 0) | (array >= classes), "is out of range", f"classes are 0..{classes - 1}")
    return array
