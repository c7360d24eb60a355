"""Prediction sets ``{y : score_y <= threshold}`` of large probability tables ``[n, K]``.

Fact. With one uniform number a row, the APS, RAPS and SAPS scores never decrease from a label to a less probable one
(``S_{j+1} - S_j = (1-u) p_(j) + u p_(j+1) + penalty step >= 0``), and labels of equal probability share one score. Each
set is therefore ``{y : p_y >= p_(m)}`` with m the number of positions whose score is at most the threshold: it is
enough to sort the *values* of a row, to find m and to compare. No permutation is formed.

m without all partial sums: sums of runs of ``RUN`` sorted values locate the run in which the scores pass the threshold,
and only that run is summed term by term. The scores are defined by sums taken term by term in descending order; the
sums of runs differ from those by less than ``slack``. Rows with a score within ``slack`` of the threshold are summed
again in the defining order, so that the result is that of the definition, bit by bit.

Memory: the result, and blocks of a few MB.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify.conformal import device
from neurosym.certify.conformal.arrays import (
    Array,
    blocks,
    check_range,
    host,
    like,
    on_device,
    rows_of,
    table,
    uniform_rows,
)
from neurosym.certify.conformal.rules import Score, as_score, descending, every_score, positions
from neurosym.errors import InputError

RUN = 64
LAC_CELLS = 1 << 19  # comparing is so quick that smaller blocks would only cost calls


def prediction_sets(
    probs: Array,
    threshold: Array | float,
    *,
    score: str | Score = "aps",
    u: Array | float = 1.0,
    allow_empty: bool = True,
) -> Array:
    """Labels whose score is at most the threshold.

    Args:
        probs: floating-point ``[n, K]``, array or tensor on any device.
        threshold: one number, or one for each row ``[n]`` (groups, weights); inf gives every label.
        u: uniform numbers ``[n]`` of the rows (``arrays.row_uniforms``), or 1.0 for the non-randomised score.
        allow_empty: if False, the most probable labels stay in every set; coverage only grows.

    Returns:
        bool ``[n, K]`` of the same kind and on the same device as ``probs``.

    Raises:
        InputError: bad probabilities, thresholds or uniforms, named by row.
    """
    rule, probs = as_score(score), table(probs)
    n, classes = probs.shape
    limit, uniform = rows_of(threshold, n, "threshold"), uniform_rows(u, n)
    if on_device(probs):
        return device.prediction_sets(probs, limit, uniform, rule, allow_empty, lac_cut)
    p, out = host(probs), np.empty((n, classes), dtype=bool)
    cut = lac_cut(limit, p.dtype) if rule.kind == "lac" else None
    for rows in blocks(n, classes, LAC_CELLS if cut is not None else None):
        block = p[rows]
        if cut is not None:
            _at_least(block, cut if cut.size == 1 else cut[rows], out[rows], rows.start, allow_empty)
            continue
        minus = descending(block, rows.start, -classes % RUN)
        count = kept(minus, classes, uniform[rows], limit[rows], rule)
        if not allow_empty:
            count = np.maximum(count, 1)
        last = -minus[np.arange(count.size), np.maximum(count, 1) - 1]
        np.greater_equal(block, np.where(count > 0, last, np.inf).astype(last.dtype)[:, None], out=out[rows])
    return like(out, probs)


def class_sets(
    probs: Array,
    thresholds: Array,
    *,
    score: str | Score = "aps",
    u: Array | float = 1.0,
    allow_empty: bool = True,
) -> Array:
    """Labels whose score is at most the threshold of their own class.

    The set is no longer one of the most probable labels, so (R)APS and SAPS need every label's own score: about three
    times the time of ``prediction_sets``.

    Args:
        thresholds: ``[K]``.

    Returns, raises: as ``prediction_sets``.
    """
    rule, probs = as_score(score), table(probs)
    n, classes = probs.shape
    limit, uniform = np.asarray(host(thresholds), dtype=np.float64), uniform_rows(u, n)
    if limit.shape != (classes,) or np.isnan(limit).any():
        raise InputError(f"thresholds: shape {limit.shape}; give one number (or inf) for each of {classes} classes")
    if on_device(probs):
        return device.class_sets(probs, limit, uniform, rule, allow_empty)
    p, out = host(probs), np.empty((n, classes), dtype=bool)
    for rows in blocks(n, classes):
        np.less_equal(every_score(p[rows], uniform[rows], rule, rows.start), limit, out=out[rows])
        if not allow_empty:
            empty = ~out[rows].any(axis=1)
            out[rows][empty] = p[rows][empty] == p[rows][empty].max(axis=1, keepdims=True)
    return like(out, probs)


def lac_cut(threshold: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Smallest probability of ``dtype`` (half precision: of float32) whose LAC score is at most the threshold.

    ``1 - p`` rounds, so ``p >= 1 - threshold`` would be another question. The score decreases in p and non-negative
    floats are ordered as their bits are: bisection over the bits answers the question asked. inf where none would do.

    Args:
        threshold: float64 ``[n]``.

    Returns:
        ``[n]``, or ``[1]`` where one number was broadcast to all rows.
    """
    real, bits = (np.float64, np.int64) if dtype.itemsize >= 8 else (np.float32, np.int32)
    if threshold.strides == (0,):  # one number for all rows
        threshold = threshold[:1]
    values, inverse = np.unique(threshold, return_inverse=True)
    low = np.full(values.shape, -1, dtype=bits)  # the bits below every float: known not to do
    high = np.full(values.shape, np.array(2.0, dtype=real).view(bits) + 1, dtype=bits)
    while np.any(high - low > 1):
        middle = low + (high - low) // 2
        enough = 1.0 - middle.view(real).astype(np.float64) <= values
        high, low = np.where(enough, middle, high).astype(bits), np.where(enough, low, middle).astype(bits)
    cut: np.ndarray = high.view(real)
    return np.where(cut > 2.0, np.inf, cut).astype(real)[inverse.reshape(threshold.shape)]


def _at_least(block: np.ndarray, cut: np.ndarray, out: np.ndarray, start: int, allow_empty: bool) -> None:
    """``out = block >= cut``, with the range checked in one more pass.

    Seen as unsigned integers, floats in [0, 1] are at most the bits of 1.0; negative ones and NaN are above.
    """
    bits = np.dtype(f"u{block.dtype.itemsize}")
    if int(block.view(bits).max()) > int(np.ones(1, dtype=block.dtype).view(bits)[0]):
        check_range(block.min(axis=1), block.max(axis=1), start)
    if not allow_empty:
        cut = np.minimum(cut, block.max(axis=1))
    np.greater_equal(block, cut[:, None], out=out)


def kept(minus: np.ndarray, classes: int, u: np.ndarray, threshold: np.ndarray, rule: Score) -> np.ndarray:
    """How many of the sorted labels have a score of at most the threshold, int ``[b]``.

    Args:
        minus: negated probabilities in descending order of probability, then zeros, ``[b, R * RUN]``.
        u, threshold: float64 ``[b]``.
    """
    if rule.kind == "saps":
        return _kept_steps(-minus[:, 0].astype(np.float64), u, threshold, rule.weight, classes)
    count, near = _kept_runs(minus, u, threshold, rule.extra(minus.shape[1]))
    count = np.minimum(count, classes)
    if near.any():
        scores = positions(-minus[near, :classes].astype(np.float64), u[near], rule)
        count[near] = _last(scores <= threshold[near, None])
    return count


def _last(good: np.ndarray) -> np.ndarray:
    """One more than the last true position of each row, 0 without one."""
    return np.where(good.any(axis=1), good.shape[1] - good[:, ::-1].argmax(axis=1), 0)


def _kept_runs(
    minus: np.ndarray, u: np.ndarray, threshold: np.ndarray, extra: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of (R)APS from sums of runs, and the rows in which rounding could matter; see the module.

    Args:
        minus: as in ``kept``, filled with zeros to whole runs, ``[b, R * RUN]``.
        extra: penalties at the positions, or None.
    """
    b, width = minus.shape
    runs = minus.reshape(b, width // RUN, RUN)
    before = np.zeros((b, width // RUN + 1))
    np.cumsum(-runs.sum(axis=2, dtype=np.float64), axis=1, out=before[:, 1:])
    lead = before[:, :-1] - u[:, None] * runs[:, :, 0]
    if extra is not None:
        lead += extra[::RUN]
    run = np.maximum((lead <= threshold[:, None]).sum(axis=1) - 1, 0)
    row = np.arange(b)
    inside = np.negative(runs[row, run], dtype=np.float64)
    scores = np.cumsum(inside, axis=1)
    inside *= 1.0 - u[:, None]
    scores -= inside
    if extra is not None:
        scores += extra.reshape(-1, RUN)[run]
    rest = threshold - before[row, run]
    count = (scores <= rest[:, None]).sum(axis=1)
    # the scores increase, so those next to the threshold are the last one kept and the first one not kept
    last = scores[row, np.maximum(count, 1) - 1] - rest
    following = lead[row, np.minimum(run + 1, lead.shape[1] - 1)] - threshold
    first = np.where(count < RUN, scores[row, np.minimum(count, RUN - 1)] - rest, following)
    size = before[:, -1] + 1.0 if extra is None else before[:, -1] + 1.0 + extra[-1]
    slack = 8.0 * (width + RUN) * np.finfo(np.float64).eps * size
    return run * RUN + count, np.minimum(np.abs(last), np.abs(first)) <= slack


def _kept_steps(top: np.ndarray, u: np.ndarray, threshold: np.ndarray, weight: float, classes: int) -> np.ndarray:
    """Counts of SAPS: the scores past the first are known without any sum, and the guess is corrected to the float."""

    def score(j: np.ndarray) -> np.ndarray:
        return np.where(j == 1, u * top, top + (j - 2 + u) * weight)

    guess = np.nan_to_num((threshold - top) / weight - u, nan=0.0) + 2.0
    count = np.clip(np.floor(guess), 0, classes).astype(np.int64)
    while np.any(over := (count > 0) & (score(count) > threshold)):
        count = count - over
    while np.any(more := (count < classes) & (score(count + 1) <= threshold)):
        count = count + more
    return count
