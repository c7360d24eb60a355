"""Projected gradients through noise, network, circuit and score.

PGD (Madry et al. 2018) on an expectation over noise (Athalye et al. 2018, "Synthesizing robust adversarial examples";
for smoothed classifiers Salman et al. 2019): the gradient is the mean over fresh Gaussian draws of the gradient of the
true label's nonconformity, taken through the reasoning layer.
"""

from __future__ import annotations

from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn

from neurosym.certify.attacks.ball import Norm, norms
from neurosym.certify.attacks.target import STREAM, Options, Problem, attack, in_range
from neurosym.certify.noise import noise

_START = STREAM + 1  # random starts have a stream of their own


def pgd(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    radius: float,
    reasoning: Any,
    sigma: float,
    *,
    norm: Norm = "l2",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    **options: Unpack[Options],
) -> Tensor:
    """Images within ``radius`` on which the smoothed, reasoned true label looks worst.

    Args:
        model: network; runs where its parameters are, and keeps its mode.
        images: float32 ``[n, C, H, W]`` in ``[0, 1]``; labels: int64 ``[n]``.
        reasoning: see :func:`neurosym.certify.attacks.target.differentiable`.
        sigma: standard deviation of the defender's noise.
        norm: ``l2`` or ``linf``; ``radius`` is in pixel units.
        steps, step_size, restarts: of the ascent; a step is ``2.5 radius / steps`` by default. The first run starts at
            the image, further ones at random points: of the sphere, or corners of the cube.
        options: see :class:`neurosym.certify.attacks.target.Options`.

    Returns:
        float32 ``[n, C, H, W]`` on the CPU, each within ``radius`` of its image.

    Raises:
        InputError: bad shapes or settings, ``loss="vote"`` without a threshold, an unknown number of classes.
    """
    in_range("steps", steps, 1)
    in_range("restarts", restarts, 1)
    size = 2.5 * radius / steps if step_size is None else float(step_size)

    def search(problem: Problem) -> Tensor:
        """The restart that does best on common fresh noise; the image itself where none does better."""
        best, judging = problem.images.clone(), problem.noises(0)
        value = problem.achieved(best, judging)
        for restart in range(restarts):
            attacked = problem.ball.finish(problem.images, _climb(problem, steps, size, restart))
            reached = problem.achieved(attacked, judging)
            better = (reached > value).to(best.device)
            best[better] = attacked[better]
            value = torch.maximum(value, reached)
        return best

    return attack(model, images, labels, radius, reasoning, sigma, norm, search, options)


def _gradient(problem: Problem, delta: Tensor, noises: Tensor) -> Tensor:
    """Gradient in ``delta`` of the mean objective."""
    draws = noises.shape[1]
    total = torch.zeros_like(delta)
    step = max(1, problem.passes // len(delta))
    for start in range(0, draws, step):
        variable = delta.detach().requires_grad_(True)
        noisy = (problem.images + variable).unsqueeze(1) + noises[:, start : start + step]
        objective = problem.target.values(noisy, problem.labels).sum() / draws
        total += torch.autograd.grad(objective, variable)[0]
    return torch.nan_to_num(total, nan=0.0, posinf=0.0, neginf=0.0)


def _climb(problem: Problem, steps: int, size: float, restart: int) -> Tensor:
    """One run of projected gradient ascent; perturbations ``[b, C, H, W]``."""
    images, ball = problem.images, problem.ball
    delta = torch.zeros_like(images)
    if restart:
        shape = tuple(images.shape[1:])
        starts = [noise(problem.seed, int(i), restart, 1, shape, stream=_START)[0] for i in problem.indices]
        direction = torch.from_numpy(np.stack(starts)).to(images.device)
        unit = direction.sign() if ball.norm == "linf" else direction / norms(direction, "l2")
        delta = ball.project(images, (unit * ball.radius).float())
    for step in range(steps):
        # the first draws judge the restarts
        noises = problem.noises((1 + restart * steps + step) * problem.draws)
        move = ball.steepest(_gradient(problem, delta, noises))
        delta = ball.project(images, delta + size * move)
    return delta
