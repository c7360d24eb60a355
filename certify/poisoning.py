"""Quantiles that hold although some calibration points were poisoned: at most k of them, each within its own range.

An attacker changed at most k calibration points before they were recorded. ``s_i`` is the recorded nonconformity score of point
i and ``u_i >= s_i`` the largest score that the untouched point may have had:

* features moved within a ball: ``u_i`` is an upper bound of the score over the ball around the recorded input
  (``scores.score_bounds`` over a box of probabilities);
* labels changed: ``u_i`` is the largest score over all labels (``label_range``);
* points replaced by anything: ``u_i = inf``.

Theorem. Let l be the conformal rank (``quantile``). The largest l-th smallest clean score that is consistent with the records is

    q = min( s_(l+k), u_(l) ),          s_(j), u_(j): j-th smallest, +inf for j > n.

Hence q is at least the clean threshold, and the sets ``{y : s(x, y) <= q}`` cover with probability at least 1 - alpha.

Proof. Clean scores equal s_i except on a set J of at most k points, where they are at most u_i. Fix q. The fewest clean
scores that can be <= q are ``#(s <= q) - min(k, #(s <= q < u))``: only points of the last kind can leave, and each counts
once. With u >= s this is ``max(#(s <= q) - k, #(u <= q))``, which reaches l exactly where ``s_(l+k) <= q`` or
``u_(l) <= q``. No mixed-integer program is needed (Zargarbashi, Akhondzadeh & Bojchevski 2024 solve one).

For conformity scores (large = plausible) pass their negatives. The counting above with the roles of recorded and worst scores
exchanged, which is right for conformity scores, is not for nonconformity scores.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify.checks import check_labels
from neurosym.certify.exact import Number
from neurosym.certify.quantile import conformal_rank, kth_smallest
from neurosym.errors import InputError


def poisoned_quantile(scores: np.ndarray, worst: np.ndarray, poisoned: int, alpha: Number) -> float:
    """Threshold at level alpha that at most ``poisoned`` changed points cannot have lowered.

    Args:
        scores: recorded nonconformity scores, ``[n]``.
        worst: largest clean score of each point, ``[n]``, at least ``scores``; ``inf`` is allowed.
        poisoned: k, how many points may have been changed.

    Returns:
        ``min(s_(l+k), u_(l))``; ``+inf`` where there are too few points.

    Raises:
        InputError: NaN, shapes that differ, a worst score below the recorded one (named by row), or a negative budget.
    """
    recorded, upper = np.asarray(scores, dtype=np.float64), np.asarray(worst, dtype=np.float64)
    if recorded.ndim != 1 or upper.shape != recorded.shape:
        raise InputError(f"worst: shape {upper.shape} for scores of shape {recorded.shape}; give one number a point")
    if poisoned < 0 or poisoned != int(poisoned):
        raise InputError(f"poisoned: {poisoned}; give the number of points that may have been changed, 0 or more")
    bad = np.flatnonzero(~(upper >= recorded))  # NaN too
    if bad.size:
        row = int(bad[0])
        raise InputError(
            f"worst: row {row} is {upper[row]}, below the score {recorded[row]}; give the largest score it may have had"
        )
    rank = conformal_rank(recorded.size, alpha)
    return min(float(kth_smallest(recorded, rank + int(poisoned))), float(kth_smallest(upper, rank)))


def label_range(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recorded and worst scores, each ``[n]``, when labels may have been changed.

    Args:
        scores: nonconformity of every label, ``[n, K]``; labels: int ``[n]``, as recorded.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2:
        raise InputError(f"scores: shape {table.shape}; give the score of every label, shape [n,K]")
    truth = check_labels(labels, *table.shape)
    return table[np.arange(truth.size), truth], table.max(axis=1)


def largest_budget(scores: np.ndarray, worst: np.ndarray, alpha: Number, limit: float) -> int:
    """The most poisoned points with which the threshold still does not exceed ``limit``; -1 if none does.

    n where even the worst scores of all points stay below.
    """
    if poisoned_quantile(scores, worst, 0, alpha) > limit:
        return -1
    n = int(np.asarray(scores).size)
    rank = conformal_rank(n, alpha)
    if float(kth_smallest(np.asarray(worst, dtype=np.float64), rank)) <= limit:
        return n
    return int((np.asarray(scores, dtype=np.float64) <= limit).sum()) - rank
