"""Conformal p-values of every label, ``[n, K]``, by sorted calibration scores and binary search.

With m calibration scores S_i and the score s of a label (Vovk, Gammerman & Shafer 2005)

    conservative  p = (1 + #{S_i >= s}) / (m + 1),
    smoothed      p = (#{S_i > s} + tau (1 + #{S_i = s})) / (m + 1),    tau uniform.

For the true label ``P(p <= alpha) <= alpha``, with equality for every alpha if smoothed. The set ``{y : p_y > alpha}`` of
conservative p-values is that of the threshold ``S_(l)``, ``l = ceil((m+1)(1-alpha))``: s <= S_(l) iff at least m+1-l scores
are >= s iff ``1 + #{S_i >= s} > (m+1) alpha``. In floating point too: the quotient of two integers and a decimal alpha that
are equal rationals round to the same double, so ``p > float(alpha)`` asks the exact question.

No table of test scores times calibration scores is formed, and scores are looked up while they are still sorted along
their row, which is two to three times as quick as in label order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from neurosym.certify.conformal import device
from neurosym.certify.conformal.arrays import (
    Array,
    blocks,
    groups_of,
    host,
    labels_of,
    like,
    on_device,
    table,
    uniform_rows,
)
from neurosym.certify.conformal.calibrate import true_scores
from neurosym.certify.conformal.rules import Score, as_score, every_score
from neurosym.certify.exact import Number
from neurosym.certify.quantile import level
from neurosym.errors import InputError


class _Ladder:
    """Sorted calibration scores and the p-value at each place between them."""

    def __init__(self, scores: np.ndarray) -> None:
        self.scores = np.sort(scores)
        m = self.scores.size
        place = np.arange(m + 1)
        self.conservative = (1 + m - place) / (m + 1)
        right = np.append(np.searchsorted(self.scores, self.scores, side="right"), m)
        self.greater, self.equal = m - right, right - place
        self.above = m - place
        self.padded = np.append(self.scores, np.nan)  # equal to nothing

    def look_up(self, scores: np.ndarray, tau: np.ndarray | None) -> np.ndarray:
        """p-values of scores of any shape; ``tau`` broadcasts against it."""
        place = np.searchsorted(self.scores, scores)  # the first score >= s
        if tau is None:
            return self.conservative[place]
        tie = self.padded[place] == scores
        greater = np.where(tie, self.greater[place], self.above[place])
        equal = np.where(tie, self.equal[place], 0)
        return (greater + tau * (1 + equal)) / (self.scores.size + 1)

    def look_up_there(self, scores: Any, tau: np.ndarray | None) -> Any:
        """The same for tensors on their device."""
        import torch

        def there(values: np.ndarray) -> Any:
            return torch.as_tensor(values, device=scores.device)

        place = torch.searchsorted(there(self.scores), scores.contiguous())
        if tau is None:
            return there(self.conservative)[place]
        tie = there(self.padded)[place] == scores
        greater = torch.where(tie, there(self.greater)[place], there(self.above)[place])
        equal = torch.where(tie, there(self.equal)[place], torch.zeros_like(place))
        return (greater + there(tau) * (1 + equal)) / (self.scores.size + 1)


def _tau(tau: Array | None, n: int) -> np.ndarray | None:
    return None if tau is None else uniform_rows(tau, n).copy()


def p_values(
    calibration: Array,
    probs: Array,
    *,
    score: str | Score = "aps",
    u: Array | float = 1.0,
    tau: Array | None = None,
) -> Array:
    """p-values of all labels from one set of calibration scores.

    Args:
        calibration: scores of the true labels of calibration points, ``[m]``.
        probs: floating-point ``[n, K]``.
        u: as in ``prediction_sets``; the calibration scores used uniforms of another stream.
        tau: uniform numbers ``[n]`` for smoothed p-values; None for conservative ones.

    Returns:
        float64 ``[n, K]`` of the same kind and on the same device as ``probs``.
    """
    ladder = _Ladder(true_scores(calibration))
    return _by_rows([ladder], np.zeros(len(probs), dtype=np.int64), probs, as_score(score), u, tau)


def group_p_values(
    calibration: Array,
    calibration_groups: Array,
    probs: Array,
    groups: Array,
    *,
    score: str | Score = "aps",
    u: Array | float = 1.0,
    tau: Array | None = None,
) -> Array:
    """p-values against the calibration points of the row's own group; 1 (tau if smoothed) for a group without any.

    Args:
        calibration_groups: int ``[m]``; groups: int ``[n]``.
    """
    values = true_scores(calibration)
    own = groups_of(groups, len(probs))
    member = groups_of(calibration_groups, values.size)
    count = int(max(own.max(initial=-1), member.max(initial=-1))) + 1
    ladders = [_Ladder(values[member == g]) for g in range(count)]
    return _by_rows(ladders, own, probs, as_score(score), u, tau)


def _by_rows(
    ladders: Sequence[_Ladder], group: np.ndarray, probs: Array, rule: Score, u: Array | float, tau: Array | None
) -> Array:
    """One ladder for each row."""
    probs = table(probs)
    uniform, smooth = uniform_rows(u, len(probs)), _tau(tau, len(probs))

    def look(find: Callable[..., Any], scores: Any, rows: slice) -> Any:
        members = group[rows]
        if members.size and (members == members[0]).all():
            return find(ladders[members[0]], scores, None if smooth is None else smooth[rows, None])
        out = scores + 0.0
        for g in np.unique(members):
            mine = np.flatnonzero(members == g)
            out[mine] = find(ladders[g], scores[mine], None if smooth is None else smooth[rows][mine, None])
        return out

    if on_device(probs):
        return device.searched(probs, uniform, rule, lambda scores, rows: look(_Ladder.look_up_there, scores, rows))
    p, out = host(probs), np.empty(probs.shape)
    for rows in blocks(*probs.shape):
        out[rows] = every_score(p[rows], uniform[rows], rule, rows.start, lambda s, r=rows: look(_Ladder.look_up, s, r))  # type: ignore[misc]
    return like(out, probs)


def class_p_values(
    calibration: Array,
    calibration_labels: Array,
    probs: Array,
    *,
    score: str | Score = "aps",
    u: Array | float = 1.0,
    tau: Array | None = None,
) -> Array:
    """p-values of each label against the calibration points of that class; 1 (tau if smoothed) for a class without any.

    Args:
        calibration_labels: int ``[m]``.
    """
    rule, probs = as_score(score), table(probs)
    values = true_scores(calibration)
    truth = labels_of(calibration_labels, values.size, probs.shape[1])
    ladders = [_Ladder(values[truth == k]) for k in range(probs.shape[1])]
    uniform, smooth = uniform_rows(u, len(probs)), _tau(tau, len(probs))

    def columns(find: Callable[..., Any], scores: Any, rows: slice) -> Any:
        out = scores + 0.0
        for k, ladder in enumerate(ladders):
            out[:, k] = find(ladder, scores[:, k], None if smooth is None else smooth[rows])
        return out

    if on_device(probs):
        return device.searched(probs, uniform, rule, lambda scores, rows: columns(_Ladder.look_up_there, scores, rows))
    p, out = host(probs), np.empty(probs.shape)
    for rows in blocks(len(probs), probs.shape[1], 1 << 21):  # one search for each class and block: larger blocks
        out[rows] = columns(_Ladder.look_up, every_score(p[rows], uniform[rows], rule, rows.start), rows)
    return like(out, probs)


def p_value_sets(p: Array, alpha: Number) -> Array:
    """``{y : p_y > alpha}``, bool ``[n, K]``; agrees with the threshold's set, see the module.

    Raises:
        InputError: a level outside (0, 1), or p-values that are not float64.
    """
    if str(p.dtype) not in ("float64", "torch.float64"):
        raise InputError(f"field 'p': dtype {p.dtype}; p-values are float64, rounding would move them across alpha")
    return p > float(level(alpha))
