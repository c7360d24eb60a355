"""Thresholds from the scores of calibration points: marginal, for each group or class, and for clusters of classes.

Every threshold is an order statistic chosen by an exact rank (``certify.quantile``); +inf where a group has too few
points for the level, so that its sets hold every label that is asked about.

Conditional guarantee (Vovk 2012, Mondrian). Among the points of one group (a function of (x, y)) calibration and test
points are exchangeable; with the rank of that group's size, coverage is at least 1 - alpha within the group. For
``class_thresholds`` the group is the label: label k is in the set iff its score is at most the threshold of class k.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify.conformal.arrays import Array, groups_of, host, labels_of
from neurosym.certify.exact import Number
from neurosym.certify.quantile import conformal_quantile, conformal_rank, level, smallest_n
from neurosym.errors import InputError

NO_CLUSTER = -1
EMBEDDING_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)  # Ding et al. 2023, section 2.2; 1 - alpha is added
_ROUNDS = 100  # of Lloyd's iteration, which ends when nothing moves


def true_scores(scores: Array) -> np.ndarray:
    """Scores of calibration points as float64 ``[n]``.

    Raises:
        InputError: another shape, or NaN (named by row).
    """
    values = np.asarray(host(scores), dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"scores: shape {values.shape}; give one score for each calibration point, shape [n]")
    bad = np.flatnonzero(np.isnan(values))
    if bad.size:
        raise InputError(f"scores: row {bad[0]} is NaN; remove the row or mend the model")
    return values


def marginal_threshold(scores: Array, alpha: Number) -> float:
    """The ``ceil((n+1)(1-alpha))``-th smallest score, +inf when n is too small; see ``conformal_quantile``."""
    return conformal_quantile(true_scores(scores), alpha)


def group_thresholds(scores: Array, groups: Array, count: int, alpha: Number) -> np.ndarray:
    """Threshold of each group, float64 ``[count]``; +inf for a group with fewer than ``1/alpha - 1`` points.

    Args:
        groups: int ``[n]`` in ``0 .. count - 1``.
    """
    values = true_scores(scores)
    member = groups_of(groups, values.size, count)
    order = np.lexsort((values, member))
    sizes = np.bincount(member, minlength=count)
    start = np.cumsum(sizes) - sizes
    ranks = {int(n): conformal_rank(int(n), alpha) for n in np.unique(sizes)}
    rank = np.array([ranks[int(n)] for n in sizes], dtype=np.int64)
    out = np.full(count, np.inf)
    enough = rank <= sizes
    out[enough] = values[order][start[enough] + rank[enough] - 1]
    return out


def class_thresholds(scores: Array, labels: Array, classes: int, alpha: Number) -> np.ndarray:
    """Threshold of each class from its own points, float64 ``[K]``: coverage 1 - alpha given the true class."""
    values = true_scores(scores)
    return group_thresholds(values, labels_of(labels, values.size, classes), classes, alpha)


def cluster_classes(
    scores: Array, labels: Array, classes: int, clusters: int, *, alpha: Number, seed: int = 0
) -> np.ndarray:
    """Clusters of classes with alike score distributions (Ding et al. 2023), int ``[K]``; -1 for a class too rare.

    Each class is represented by quantiles of its scores and clustered by k-means with weights ``sqrt(n_k)``. A class
    with fewer points than a finite threshold needs has no usable quantile at 1 - alpha and joins no cluster.

    Args:
        scores, labels: of points used for nothing else: thresholds must come from other points.
        clusters: how many; fewer if fewer classes can be clustered.
    """
    values = true_scores(scores)
    truth = labels_of(labels, values.size, classes)
    if clusters < 1:
        raise InputError(f"clusters: {clusters}; give at least 1")
    sizes = np.bincount(truth, minlength=classes)
    common = np.flatnonzero(sizes >= smallest_n(alpha))
    out = np.full(classes, NO_CLUSTER, dtype=np.int64)
    if common.size == 0:
        return out
    levels = [*EMBEDDING_LEVELS, float(1 - level(alpha))]
    points = np.stack([np.quantile(values[truth == k], levels) for k in common])
    out[common] = _weighted_means(points, np.sqrt(sizes[common]), min(clusters, common.size), seed)
    return out


def _weighted_means(points: np.ndarray, weights: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Lloyd's k-means with weighted points, from centres drawn far apart (k-means++); labels int ``[n]``."""
    generator = np.random.default_rng(seed)
    centres = points[generator.choice(len(points), 1, p=weights / weights.sum())]
    while len(centres) < clusters:
        far = weights * ((points[:, None] - centres) ** 2).sum(axis=2).min(axis=1)
        chance = far / far.sum() if far.sum() > 0 else weights / weights.sum()
        centres = np.concatenate([centres, points[generator.choice(len(points), 1, p=chance)]])
    label = np.full(len(points), -1)
    for _ in range(_ROUNDS):
        nearest = ((points[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
        if np.array_equal(nearest, label):
            break
        label = nearest
        for k in np.unique(label):
            centres[k] = np.average(points[label == k], axis=0, weights=weights[label == k])
    return label


def clustered_thresholds(scores: Array, labels: Array, clusters: np.ndarray, alpha: Number) -> np.ndarray:
    """Threshold of each class from all points of its cluster, float64 ``[K]``.

    Coverage is 1 - alpha given the cluster of the true class, and about that given the class where the classes of a
    cluster have alike scores. A class without a cluster gets the marginal threshold of all points.

    Args:
        clusters: int ``[K]`` from ``cluster_classes`` on *other* points; -1 for none.
    """
    values, clusters = true_scores(scores), np.asarray(clusters)
    truth = labels_of(labels, values.size, clusters.size)
    count = int(clusters.max(initial=NO_CLUSTER)) + 1
    own = clusters[truth] != NO_CLUSTER
    found = group_thresholds(values[own], clusters[truth][own], count, alpha) if count else np.empty(0)
    return np.append(found, marginal_threshold(values, alpha))[clusters]  # -1 is the last entry
