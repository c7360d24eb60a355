"""Nonconformity scores of class probabilities, and their ranges over boxes of probabilities. Small is plausible.

``p`` is ``[..., K]``, ``u`` one uniform number in [0, 1] for each row, shared by its labels. With ties ranked in favour
of the label (``p_k > p_y`` is strict), the scores of label y are

* lac: ``1 - p_y`` (Sadinle, Lei & Wasserman 2019);
* binary_aps: APS of the question "is it y?": ``u p_y`` if ``p_y >= 1/2``, else ``1 - (1-u) p_y`` (COLEP, eq. of S_j);
* aps: ``sum_{p_k > p_y} p_k + u p_y`` (Romano, Sesia & Candes 2020);
* raps: aps + ``RAPS_PENALTY max(0, rank_y - RAPS_FREE)`` (Angelopoulos et al. 2021), ``rank_y = 1 + #{p_k > p_y}``;
* saps: ``u p_max`` if ``rank_y = 1``, else ``p_max + (rank_y - 2 + u) SAPS_WEIGHT`` (Huang et al. 2024).

Ranges over a box ``l <= p <= h`` (no simplex). Fix ``p_y = v``. The other coordinates are free of each other: k can be
kept out of ``{p_k > v}`` iff ``l_k <= v``, and can be put in iff ``h_k > v``. Hence, with ``L(v) = {k: l_k > v}`` and
``H(v) = {k != y: h_k > v}``,

    inf aps = min_v  u v + sum_{L(v)} l_k,        sup aps = sup_v  u v + sum_{H(v)} h_k,

both piecewise increasing in v with drops only at the l_k (h_k), so v is l_y or an l_k in (l_y, h_y] for the infimum,
and h_y or a left limit at an h_k in (l_y, h_y] for the supremum. RAPS adds a term that is monotone in the same sets.
For SAPS the infimum has rank 1 iff no other l_k exceeds h_y. Every range is exact for boxes; for points known to
lie on the simplex as well it is sound and marked so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurosym.errors import InputError

KINDS = ("lac", "binary_aps", "aps", "raps", "saps")
K_ARY = ("aps", "raps", "saps")
RAPS_PENALTY, RAPS_FREE = 0.01, 5  # Angelopoulos et al. 2021, appendix E: a small penalty past five classes
SAPS_WEIGHT = 0.2  # Huang et al. 2024, fig. 4: insensitive around this value
_CELLS = 1 << 22  # largest [rows, K, K] table held at once


@dataclass(frozen=True)
class ScoreBounds:
    """Ranges ``[..., K]`` of the scores; ``exact`` says that they are attained (else they are only sound)."""

    lower: np.ndarray
    upper: np.ndarray
    exact: bool


def resolve(score: str, simplex: bool) -> str:
    """The kind that ``score`` means for class probabilities that do (``simplex``) or do not sum to one.

    ``aps`` of separate sensors is the binary APS of each; RAPS and SAPS rank the classes and need a simplex.

    Raises:
        InputError: unknown score, or a K-ary score without a simplex.
    """
    if score not in KINDS:
        raise InputError(f"score: {score!r}; choose one of lac, aps, raps, saps")
    if simplex or score in ("lac", "binary_aps"):
        return score
    if score == "aps":
        return "binary_aps"
    raise InputError(
        f"score: {score!r} needs class probabilities that sum to one; use circuit 'exclusive', class_kind "
        "'categorical' or the score lac or aps"
    )


def randomised(kind: str) -> bool:
    """Whether the score uses ``u``."""
    return kind != "lac"


def uniforms(n: int, seed: int, stream: int) -> np.ndarray:
    """``u`` of ``n`` rows, float64 ``[n]``: a function of (seed, stream); calibration and test use other streams.

    The counter starts where no noise is drawn (its second word is 0 in ``noise``): with the counter at 0 these would be
    the random words of the noise of image 0, and the scores of the other images would depend on that image's draws.
    """
    words = np.array([0, 1, 0, 0], dtype=np.uint64)
    generator = np.random.Philox(counter=words, key=np.array([seed, stream], dtype=np.uint64))
    return np.random.Generator(generator).random(n)


def score(p: np.ndarray, kind: str, u: np.ndarray | float = 1.0) -> np.ndarray:
    """Scores of every label, ``[..., K]`` -> ``[..., K]``; ``u`` broadcasts against ``[...]``."""
    p = np.asarray(p, dtype=np.float64)
    if kind == "lac":
        return 1.0 - p
    u = np.broadcast_to(np.asarray(u, dtype=np.float64), p.shape[:-1])[..., None]
    if kind == "binary_aps":
        return np.where(p >= 0.5, u * p, 1.0 - (1.0 - u) * p)
    if kind not in K_ARY:
        raise InputError(f"score: {kind!r}; choose one of {', '.join(KINDS)}")
    ahead, mass = _ahead(p)
    if kind == "aps":
        return mass + u * p
    if kind == "raps":
        return mass + u * p + _penalty(ahead)
    top = p.max(axis=-1, keepdims=True)
    return np.where(ahead == 0, u * top, top + (ahead - 1 + u) * SAPS_WEIGHT)


def _penalty(ahead: np.ndarray) -> np.ndarray:
    return RAPS_PENALTY * np.maximum(ahead + 1 - RAPS_FREE, 0)


def _ahead(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each label the number and the mass of strictly larger probabilities, by one descending sort."""
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    position = np.broadcast_to(np.arange(p.shape[-1]), p.shape)
    # the first position of a run of equal values stands for all of them
    start = np.ones(p.shape, dtype=bool)
    start[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    first = np.maximum.accumulate(np.where(start, position, 0), axis=-1)
    ahead, mass = np.empty(p.shape, dtype=np.int64), np.empty(p.shape)
    np.put_along_axis(ahead, order, first, axis=-1)
    np.put_along_axis(mass, order, np.take_along_axis(before, first, axis=-1), axis=-1)
    return ahead, mass


def score_bounds(
    lower: np.ndarray, upper: np.ndarray, kind: str, u: np.ndarray | float = 1.0, *, simplex: bool = False
) -> ScoreBounds:
    """Ranges of the scores over boxes of class probabilities, ``[..., K]``.

    Args:
        u: broadcasts against ``[...]``.
        simplex: the probabilities are known to sum to one besides (then K-ary ranges are sound, not exact).
    """
    low, high = np.asarray(lower, dtype=np.float64), np.asarray(upper, dtype=np.float64)
    if kind == "lac":
        return ScoreBounds(1.0 - high, 1.0 - low, True)
    shape = low.shape
    flat_u = np.broadcast_to(np.asarray(u, dtype=np.float64), shape[:-1])[..., None]
    if kind == "binary_aps":
        below = np.where(high >= 0.5, flat_u * np.maximum(low, 0.5), 1.0 - (1.0 - flat_u) * high)
        above = np.where(low < 0.5, 1.0 - (1.0 - flat_u) * low, flat_u * high)
        return ScoreBounds(below, above, True)
    if kind not in K_ARY:
        raise InputError(f"score: {kind!r}; choose one of {', '.join(KINDS)}")
    low, high, flat_u = low.reshape(-1, shape[-1]), high.reshape(-1, shape[-1]), flat_u.reshape(-1, 1)
    run = _saps_range if kind == "saps" else _aps_range(_penalty if kind == "raps" else None)
    out = np.empty((2, *low.shape))
    block = max(1, _CELLS // max(1, shape[-1] ** 2))
    for start in range(0, low.shape[0], block):
        rows = slice(start, start + block)
        out[:, rows] = run(low[rows], high[rows], flat_u[rows])
    return ScoreBounds(out[0].reshape(shape), out[1].reshape(shape), not simplex)


Range = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def _aps_range(penalty: Callable[[np.ndarray], np.ndarray] | None) -> Range:
    """Infimum and supremum of (R)APS for blocks ``[b, K]``."""

    def run(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        at_low = _set_value(low, low, strict=True, penalty=penalty)  # v = l_j: the others with l_k > l_j
        value = u * low + at_low
        # candidates v = l_j (last axis) for label y (middle axis), allowed when l_y <= l_j <= h_y
        usable = (low[:, None, :] >= low[:, :, None]) & (low[:, None, :] <= high[:, :, None])
        below = np.where(usable, value[:, None, :], np.inf).min(axis=-1)
        own = u * high + _set_value(high, high, strict=True, penalty=penalty)  # v = h_y attained
        # left limits v -> h_j: all k != y with h_k >= h_j are ahead; y itself has h_y >= h_j and is taken out
        ahead, mass = _counts(high, high, strict=False)
        inside = (high[:, None, :] > low[:, :, None]) & (high[:, None, :] <= high[:, :, None])
        limit = u[:, :, None] * high[:, None, :] + mass[:, None, :] - high[:, :, None]
        if penalty is not None:
            limit = limit + penalty(ahead - 1)[:, None, :]
        above = np.maximum(own, np.where(inside, limit, -np.inf).max(axis=-1))
        return below, above

    return run


def _counts(values: np.ndarray, cuts: np.ndarray, strict: bool) -> tuple[np.ndarray, np.ndarray]:
    """Number and sum of ``values[b, :]`` above each ``cuts[b, j]`` (``>`` or ``>=``)."""
    over = values[:, None, :] > cuts[:, :, None] if strict else values[:, None, :] >= cuts[:, :, None]
    return over.sum(axis=-1), np.einsum("bjk,bk->bj", over, values)


def _set_value(
    values: np.ndarray, cuts: np.ndarray, strict: bool, penalty: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    ahead, mass = _counts(values, cuts, strict)
    return mass if penalty is None else mass + penalty(ahead)


def _largest_other(values: np.ndarray) -> np.ndarray:
    """For each entry of ``[b, K]`` the largest of the other entries (-inf for K = 1)."""
    if values.shape[-1] == 1:
        return np.full(values.shape, -np.inf)
    top = np.partition(values, -2, axis=-1)[:, -2:]
    first = values.argmax(axis=-1)
    other = np.repeat(top[:, 1:], values.shape[-1], axis=1)
    other[np.arange(values.shape[0]), first] = top[:, 0]
    return other


def _saps_range(low: np.ndarray, high: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Infimum and supremum of SAPS for blocks ``[b, K]``."""
    rest_low, rest_high = _largest_other(low), _largest_other(high)
    forced, _ = _counts(low, high, strict=True)  # ahead of y even at v = h_y
    below = np.where(forced == 0, u * np.maximum(low, rest_low), rest_low + (forced - 1 + u) * SAPS_WEIGHT)
    possible, _ = _counts(high, low, strict=True)  # ahead of y at v = l_y, if y's own h_y > l_y is taken out
    possible = possible - (high > low)
    behind = np.where(possible > 0, rest_high + (possible - 1 + u) * SAPS_WEIGHT, -np.inf)
    return below, np.maximum(u * high, behind)
