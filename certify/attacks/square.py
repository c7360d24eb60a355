"""The Square attack: random search over square patches, without gradients (Andriushchenko et al., ECCV 2020).

A move changes one or two square windows and is kept where the objective rises. In L-infinity all pixels of a window move
to a corner of the cube. In L2 the mass of a second window, and what of the ball was not used, goes to a bump in the
first (their algorithms 2 and 3, figure 3). The objective is estimated on one set of noise draws for all moves, so
that moves can be compared; a fresh set judges the result at the end.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from neurosym.certify.attacks.ball import Norm
from neurosym.certify.attacks.target import STREAM, Options, Problem, attack, in_range

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Moves, of 10,000, after which the share of pixels in a window is halved (their section 5)."""
_SEARCH = STREAM + 2


def square(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    reasoning: Any,
    sigma: float,
    *,
    norm: Norm = "linf",
    moves: int = 500,
    share: float = 0.3,
    **options: Unpack[Options],
) -> Tensor:
    """Images within ``radius`` on which the smoothed, reasoned true label looks worst, found by random search.

    Args:
        model, images, labels, radius, reasoning, sigma, options: as for :func:`neurosym.certify.attacks.pgd.pgd`.
        moves: proposals for each image; each costs ``draws`` passes of the network.
        share: share of the pixels in the first windows.

    Returns:
        float32 ``[n, C, H, W]`` on the CPU, each within ``radius`` of its image.

    Raises:
        InputError: bad shapes or settings.
    """
    in_range("moves", moves, 1)
    if not 0 < share <= 1:
        in_range("share", -1.0, 0)

    def search(problem: Problem) -> Tensor:
        return _search(problem, moves, share)

    return attack(model, images, labels, radius, reasoning, sigma, norm, search, options)


def _search(problem: Problem, moves: int, share: float) -> Tensor:
    images, ball = problem.images, problem.ball
    randoms = [np.random.default_rng((_SEARCH, problem.seed, int(i))) for i in problem.indices]
    stripes, propose = (_linf_start, _linf_move) if ball.norm == "linf" else (_l2_start, _l2_move)
    shape, guide = tuple(images.shape[1:]), problem.noises(problem.draws)
    first = np.stack([stripes(rng, shape, ball.radius) for rng in randoms])
    best = ball.finish(images, torch.from_numpy(first).float().to(images.device))
    value = problem.achieved(best, guide)
    for move in range(moves):
        side = _side(share, move, moves, shape)
        held = (best - images).cpu().numpy()
        tried = np.stack([propose(rng, d, side, ball.radius) for rng, d in zip(randoms, held, strict=True)])
        candidate = ball.finish(images, torch.from_numpy(tried).float().to(images.device))
        reached = problem.achieved(candidate, guide)
        better = (reached > value).to(best.device)
        best[better] = candidate[better]
        value = torch.maximum(value, reached)
    judging = problem.noises(0)
    worse = problem.achieved(best, judging) <= problem.achieved(images, judging)
    return torch.where(worse.to(best.device).reshape(-1, 1, 1, 1), images, best)


def _side(share: float, move: int, moves: int, shape: tuple[int, ...]) -> int:
    """Side of the windows of that move, at least 1 and less than the image's where that is more than 1."""
    done = 10_000 * move / moves
    part = share / 2 ** sum(done > at for at in HALVINGS)
    smaller = min(shape[1:])
    return int(min(max(round((part * shape[1] * shape[2]) ** 0.5), 1), max(smaller - 1, 1)))


def _corner(rng: np.random.Generator, shape: tuple[int, ...], side: int) -> tuple[int, int]:
    return int(rng.integers(0, shape[1] - side + 1)), int(rng.integers(0, shape[2] - side + 1))


def _linf_start(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> np.ndarray:
    """Vertical stripes of one pixel, each channel at one end of its range."""
    stripes = rng.choice([-radius, radius], size=(shape[0], 1, shape[2]))
    return np.repeat(stripes, shape[1], axis=1)


def _linf_move(rng: np.random.Generator, delta: np.ndarray, side: int, radius: float) -> np.ndarray:
    row, column = _corner(rng, delta.shape, side)
    out = delta.copy()
    out[:, row : row + side, column : column + side] = rng.choice([-radius, radius], size=(delta.shape[0], 1, 1))
    return out


def _bump(rng: np.random.Generator, side: int) -> np.ndarray:
    """Two half-windows of opposite sign, each largest in its middle; norm 1, ``[side, side]``."""

    def half(height: int, width: int) -> np.ndarray:
        rows = np.minimum(np.arange(height), np.arange(height)[::-1])[:, None]
        columns = np.minimum(np.arange(width), np.arange(width)[::-1])[None, :]
        depth = np.minimum(rows * max(width, 1) // max(height, 1), columns)
        outer = max(height, width) // 2 + 1
        # a pixel at depth d lies in d + 1 nested rectangles, the k-th of weight 1 / (outer - k)^2
        weights = np.cumsum(1.0 / (outer - np.arange(min(outer, int(depth.max()) + 1))) ** 2)
        return np.asarray(weights[depth])

    out = np.empty((side, side))
    cut = side // 2
    if cut:
        out[:cut], out[cut:] = half(cut, side), -half(side - cut, side)
    else:
        out[:] = 1.0
    out = out.T if rng.random() < 0.5 else out
    return np.asarray(out / np.linalg.norm(out))


def _l2_start(rng: np.random.Generator, shape: tuple[int, ...], radius: float) -> np.ndarray:
    """Bumps of random sign on a grid of five by five."""
    out, side = np.zeros(shape), max(min(shape[1:]) // 5, 1)
    for row in range(0, shape[1] - side + 1, side):
        for column in range(0, shape[2] - side + 1, side):
            signs = rng.choice([-1.0, 1.0], size=(shape[0], 1, 1))
            out[:, row : row + side, column : column + side] += _bump(rng, side) * signs
    return np.asarray(out * (radius / np.linalg.norm(out)))


def _l2_move(rng: np.random.Generator, delta: np.ndarray, side: int, radius: float) -> np.ndarray:
    """A bump in one window, added to what is there, with the norm of two windows and of what was unused."""
    one, two = _corner(rng, delta.shape, side), _corner(rng, delta.shape, side)
    at, from_ = ((slice(None), slice(row, row + side), slice(column, column + side)) for row, column in (one, two))
    out = delta.astype(np.float64)
    there = out[at] / max(float(np.linalg.norm(out[at])), 1e-12)
    unused = max(radius**2 - float((out**2).sum()), 0.0)
    freed = out.copy()
    freed[at] = freed[from_] = 0.0
    room = np.sqrt(max(float((out**2).sum()) - float((freed**2).sum()), 0.0) + unused)
    bump = _bump(rng, side)[None] * rng.choice([-1.0, 1.0], size=(out.shape[0], 1, 1))
    new = there + bump / np.linalg.norm(bump)
    freed[at] = new * (room / max(float(np.linalg.norm(new)), 1e-12))
    return np.asarray(freed)
