"""Probability tables and oracles that share no code with the implementation."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def softmax_rows(n: int, classes: int, seed: int, spread: float = 2.0, dtype: type = np.float64) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=(n, classes)) * spread
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(dtype)


def tied_rows(n: int, classes: int, seed: int, dtype: type = np.float64) -> np.ndarray:
    """Dyadic probabilities with many ties; their sums are exact in any order."""
    counts = np.random.default_rng(seed).integers(0, 5, size=(n, classes))
    scale = 2 ** math.ceil(math.log2(max(4 * classes, 4)))
    return (counts / scale).astype(dtype)


def draw_labels(probs: np.ndarray, seed: int) -> np.ndarray:
    u = np.random.default_rng(seed).random((len(probs), 1)) * probs.sum(axis=1, keepdims=True)
    return np.minimum((u > probs.cumsum(axis=1)).sum(axis=1), probs.shape[1] - 1)


def score_by_hand(p: np.ndarray, y: int, kind: str, u: float, penalty: float, free: int, weight: float) -> Fraction:
    """One label's score in rational arithmetic, from the definition."""
    values, own, v = [Fraction(float(x)) for x in p], Fraction(float(p[y])), Fraction(float(u))
    ahead = [x for x in values if x > own]
    rank = 1 + len(ahead)
    if kind == "lac":
        return 1 - own
    if kind == "saps":
        top = max(values)
        return v * top if rank == 1 else top + (rank - 2 + v) * Fraction(weight)
    score = sum(ahead, Fraction(0)) + v * own
    return score + Fraction(penalty) * max(0, rank - free) if kind == "raps" else score


def rank_by_search(n: int, alpha: Fraction) -> int:
    """Smallest l with l >= (n+1)(1-alpha), by trying every l."""
    return next(rank for rank in range(n + 2) if rank >= (n + 1) * (1 - alpha))


def threshold_by_search(scores: np.ndarray, alpha: Fraction) -> float:
    ranked = sorted(float(s) for s in scores)
    rank = rank_by_search(len(ranked), alpha)
    return math.inf if rank > len(ranked) else ranked[rank - 1]
