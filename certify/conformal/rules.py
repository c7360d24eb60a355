"""Which nonconformity score, with which constants; and the scores of true labels and of all labels.

The definitions, constants and tie rules are those of ``certify.scores``; with probabilities sorted in descending order
``p_(1) >= p_(2) >= ...`` and one uniform number u a row, the label at position j has the score

* lac: ``1 - p_(j)`` (Sadinle, Lei & Wasserman 2019);
* aps: ``p_(1) + ... + p_(j-1) + u p_(j)`` (Romano, Sesia & Candes 2020);
* raps: aps + ``penalty max(0, j - free)`` (Angelopoulos et al. 2021);
* saps: ``u p_(1)`` for j = 1, else ``p_(1) + (j - 2 + u) weight`` (Huang et al. 2024),

where labels of equal probability share the first position of their run. ``u = 1`` gives the non-randomised score, which
is at least as large as any randomised one. Sums are float64, one term after the other in descending order, whatever the
dtype of the probabilities: a row has the same scores at calibration and at prediction, in any block, on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurosym.certify.conformal import device
from neurosym.certify.conformal.arrays import (
    Array,
    blocks,
    check_range,
    host,
    labels_of,
    like,
    on_device,
    table,
    uniform_rows,
)
from neurosym.certify.scores import RAPS_FREE, RAPS_PENALTY, SAPS_WEIGHT
from neurosym.errors import InputError

KINDS = ("lac", "aps", "raps", "saps")


@dataclass(frozen=True)
class Score:
    """A score and its constants.

    Attributes:
        kind: lac, aps, raps or saps.
        penalty, free: of raps: what each position past ``free`` adds.
        weight: of saps: what each position adds.

    Raises:
        InputError: unknown kind, or constants with which the score would not increase from one position to the next.
    """

    kind: str = "aps"
    penalty: float = RAPS_PENALTY
    free: int = RAPS_FREE
    weight: float = SAPS_WEIGHT

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"score: {self.kind!r}; choose one of {', '.join(KINDS)}")
        if not 0.0 <= self.penalty < np.inf:
            raise InputError(f"penalty: {self.penalty} is not a finite number >= 0")
        if not 0.0 < self.weight < np.inf:
            raise InputError(f"weight: {self.weight} is not a finite number > 0")
        if self.free < 0:
            raise InputError(f"free: {self.free} is negative; give the positions without a penalty")

    @property
    def randomised(self) -> bool:
        """Whether the score uses ``u``."""
        return self.kind != "lac"

    def extra(self, classes: int) -> np.ndarray | None:
        """What raps adds at each position, float64 ``[classes]``; None for the other scores."""
        if self.kind != "raps":
            return None
        return self.penalty * np.maximum(np.arange(1, classes + 1) - self.free, 0)


def as_score(score: str | Score) -> Score:
    return score if isinstance(score, Score) else Score(score)


def descending(block: np.ndarray, start: int, zeros: int = 0) -> np.ndarray:
    """Rows sorted from the largest to the smallest value, *negated*: ``-p_(1) <= -p_(2) <= ...``.

    Sorting negated values in place is the quickest way to descending order; the signs come off where sums are formed.

    Args:
        start: number of the first row, for messages.
        zeros: columns of zeros behind the sorted ones.

    Raises:
        InputError: NaN or a value outside [0, 1], named by its row.
    """
    n, classes = block.shape
    minus = np.zeros((n, classes + zeros), dtype=np.float64 if block.dtype.itemsize >= 8 else np.float32)
    values = np.negative(block, out=minus[:, :classes])
    values.sort(axis=1)  # NaN goes last
    check_range(-values[:, -1], -values[:, 0], start)
    return minus


def positions(ranked: np.ndarray, u: np.ndarray, rule: Score) -> np.ndarray:
    """Scores at the positions of rows in descending order, float64 ``[b, K] -> [b, K]``, equal values not yet joined."""
    u = u[:, None]
    if rule.kind == "lac":
        return 1.0 - ranked
    if rule.kind == "saps":
        steps = np.arange(-1, ranked.shape[1] - 1) + u
        scores = ranked[:, :1] + steps * rule.weight
        scores[:, :1] = u * ranked[:, :1]
        return scores
    scores = np.cumsum(ranked, axis=1)
    scores -= ranked
    scores += u * ranked
    extra = rule.extra(ranked.shape[1])
    return scores if extra is None else scores + extra


def label_scores(probs: Array, labels: Array, score: str | Score = "aps", u: Array | float = 1.0) -> Array:
    """Scores of the true labels.

    Args:
        probs: floating-point ``[n, K]``, array or tensor.
        labels: int ``[n]``.
        u: uniform numbers ``[n]``, or 1.0 for the non-randomised score.

    Returns:
        float64 ``[n]`` of the same kind and on the same device as ``probs``.

    Raises:
        InputError: bad probabilities, labels or uniforms, named by row.
    """
    rule, probs = as_score(score), table(probs)
    n, classes = probs.shape
    truth, uniform = labels_of(labels, n, classes), uniform_rows(u, n)
    if on_device(probs):
        return device.label_scores(probs, truth, uniform, rule)
    p, out = host(probs), np.empty(n)
    for rows in blocks(n, classes):
        own = p[rows][np.arange(rows.stop - rows.start), truth[rows]].astype(np.float64)
        if rule.kind == "lac":
            block = p[rows]
            check_range(block.min(axis=1), block.max(axis=1), rows.start)
            out[rows] = 1.0 - own
            continue
        ranked = -descending(p[rows], rows.start).astype(np.float64)
        first = (ranked > own[:, None]).sum(axis=1)
        scores = positions(ranked, uniform[rows], rule)
        out[rows] = scores[np.arange(own.size), first]
    return like(out, probs)


def every_score(
    block: np.ndarray,
    u: np.ndarray,
    rule: Score,
    start: int = 0,
    then: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Scores of all labels of a block of rows, float64 ``[b, K]``.

    Args:
        then: applied to the scores while they still increase along each row, where look-ups are quickest.
    """
    if rule.kind == "lac":
        check_range(block.min(axis=1), block.max(axis=1), start)
        scores = 1.0 - block.astype(np.float64)
        return scores if then is None else then(scores)
    minus = np.negative(block, dtype=np.float64 if block.dtype.itemsize >= 8 else np.float32)
    order = np.argsort(minus, axis=1)
    minus = np.take_along_axis(minus, order, axis=1)
    check_range(-minus[:, -1], -minus[:, 0], start)
    scores = positions(-minus.astype(np.float64), u, rule)
    tied = np.zeros(minus.shape, dtype=bool)
    np.equal(minus[:, 1:], minus[:, :-1], out=tied[:, 1:])
    if tied.any():
        column = np.arange(minus.shape[1])
        first = np.maximum.accumulate(np.where(tied, 0, column), axis=1)
        scores = np.take_along_axis(scores, first, axis=1)
    result = scores if then is None else then(scores)
    out = np.empty_like(result)
    np.put_along_axis(out, order, result, axis=1)
    return out
