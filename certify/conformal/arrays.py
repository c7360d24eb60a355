"""Arrays in, arrays of the same kind out: numpy stays numpy, a tensor stays a tensor on its own device.

A CPU tensor shares its memory with a numpy view, so one numpy implementation serves both; tensors on another device are
computed there (``device``). Work goes through blocks of rows, and every result of a row depends on that row alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from neurosym.certify.checks import check_labels
from neurosym.errors import InputError

Array = Any  # np.ndarray or torch.Tensor
CALIBRATION_STREAM, TEST_STREAM = 0, 1  # streams of the uniforms of randomised scores
BLOCK_CELLS = 1 << 18  # numbers held at once on the CPU: one block of float32 stays in the second-level cache
ABOVE_ONE = 1e-2  # rounding in half precision may lift a probability above one; logits and percentages go further


def is_tensor(value: object) -> bool:
    """Whether ``value`` is a torch tensor; torch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def on_device(value: Any) -> bool:
    """Whether ``value`` is a tensor outside the CPU's memory."""
    return is_tensor(value) and value.device.type != "cpu"


def host(value: Any) -> np.ndarray:
    """Numpy view of an array or CPU tensor; half-precision brain floats are widened, other devices are copied."""
    if not is_tensor(value):
        return np.asarray(value)
    value = value.detach().cpu()
    if str(value.dtype) == "torch.bfloat16":
        value = value.float()
    return np.asarray(value.numpy())


def like(result: np.ndarray, model: Any) -> Array:
    """``result`` as the kind of array that ``model`` is."""
    if not is_tensor(model):
        return result
    import torch

    return torch.from_numpy(result).to(model.device)


def table(probs: Any, name: str = "probs") -> Array:
    """``probs`` as a floating-point array or tensor ``[n, K]``; values are checked where they are read.

    Raises:
        InputError: another shape, no class, or not floating-point numbers.
    """
    array: Array = probs if is_tensor(probs) else np.asarray(probs)
    real = array.is_floating_point() if is_tensor(array) else array.dtype.kind == "f"
    if not real:
        raise InputError(f"field '{name}': dtype {array.dtype} is not floating-point; give probabilities")
    if array.ndim != 2 or array.shape[1] < 1:
        raise InputError(f"field '{name}': shape {tuple(array.shape)}; the shape must be [n,K]")
    return array


def refuse(row: int, lowest: float, highest: float) -> None:
    """Raise for a row whose probabilities reach from ``lowest`` to ``highest`` (NaN where one is NaN)."""
    if np.isnan(lowest) or np.isnan(highest):
        raise InputError(f"field 'probs' row {row}: nan is not a number; remove the row or mend the model")
    bad = lowest if lowest < 0.0 else highest
    raise InputError(f"field 'probs' row {row}: {bad:g} is outside [0, 1]; give probabilities, not logits")


def check_range(lowest: np.ndarray, highest: np.ndarray, start: int) -> None:
    """Refuse rows whose smallest or largest probability (``[b]`` each) is NaN, negative or above one."""
    good = (lowest >= 0.0) & (highest <= 1.0 + ABOVE_ONE)
    if not good.all():
        row = int(np.argmin(good))
        refuse(start + row, float(lowest[row]), float(highest[row]))


def rows_of(values: Any, n: int, name: str) -> np.ndarray:
    """One number for each row as float64 ``[n]``, from a scalar or ``[n]``.

    Raises:
        InputError: another number of values, or NaN.
    """
    array = np.asarray(host(values), dtype=np.float64)
    if array.ndim > 1 or (array.ndim == 1 and array.shape != (n,)):
        raise InputError(f"field '{name}': shape {array.shape}; give one number, or one for each of {n} rows")
    if np.isnan(array).any():
        row = int(np.argmax(np.isnan(array).ravel()))
        raise InputError(f"field '{name}' row {row}: nan is not a number; give a finite one or inf")
    return np.broadcast_to(array, (n,))


def uniform_rows(values: Any, n: int) -> np.ndarray:
    """``u`` of randomised scores as float64 ``[n]``.

    Raises:
        InputError: outside [0, 1], or another number of values.
    """
    u = rows_of(values, n, "u")
    bad = (u < 0.0) | (u > 1.0)
    if bad.any():
        row = int(np.argmax(bad))
        raise InputError(f"field 'u' row {row}: {u[row]} is outside [0, 1]; give uniform numbers")
    return u


def labels_of(labels: Any, n: int, classes: int) -> np.ndarray:
    """Class indices as int64 ``[n]``; see ``check_labels``."""
    return check_labels(host(labels), n, classes)


def groups_of(groups: Any, n: int, count: int | None = None) -> np.ndarray:
    """Group numbers as int64 ``[n]``, ``0 .. count - 1``.

    Raises:
        InputError: another shape, not integers, negative or too large.
    """
    array = host(groups)
    if array.dtype.kind not in "iu" or array.shape != (n,):
        raise InputError(f"field 'groups': {array.dtype} {array.shape}; give one integer for each of {n} rows")
    bad = (array < 0) if count is None else (array < 0) | (array >= count)
    if bad.any():
        row = int(np.argmax(bad))
        allowed = "0, 1, 2, ..." if count is None else f"0..{count - 1}"
        raise InputError(f"field 'groups' row {row}: {array[row]} is out of range; groups are {allowed}")
    return array.astype(np.int64)


def blocks(n: int, width: int, cells: int | None = None) -> Iterator[slice]:
    """Consecutive slices of rows of about ``cells`` numbers each."""
    step = max(1, (BLOCK_CELLS if cells is None else cells) // max(1, width))
    for start in range(0, n, step):
        yield slice(start, min(n, start + step))


def row_uniforms(n: int, seed: int, stream: int = TEST_STREAM, start: int = 0) -> np.ndarray:
    """``u`` of rows ``start .. start + n - 1``, float64 ``[n]``: a function of (seed, stream, row).

    The same numbers as ``certify.scores.uniforms`` for ``start = 0``; a later ``start`` continues the sequence, so that
    rows predicted in batches get the numbers that they would get together.
    """
    if start < 0:
        raise InputError(f"start: {start} is negative; count rows from 0")
    skip = start % 4  # Philox makes four words at a time
    counter = np.array([start // 4, 1, 0, 0], dtype=np.uint64)
    generator = np.random.Philox(counter=counter, key=np.array([seed, stream], dtype=np.uint64))
    return np.random.Generator(generator).random(n + skip)[skip:]
