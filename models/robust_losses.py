"""Training losses for certification: the same answer under all noise, and small prediction sets at a radius.

All take answers to M noise draws of each image. Sources: consistency regularisation for smoothed classifiers (Jeong and
Shin, NeurIPS 2020); conformal training (Stutz et al., ICLR 2022), here with the smoothing certificate of the attack
inside (Phi(Phi^-1(p) + r), Cohen et al. 2019), and with the quantile of Harrell and Davis (1982), which weights all
order statistics and so has a gradient of low variance.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from neurosym.errors import InputError

EDGE = 1e-4
"""Probabilities are kept that far from 0 and 1 before they are shifted, where the shift has no gradient."""


def consistency(logits: Tensor, num_classes: int, entropy: float = 0.5) -> Tensor:
    """Mean over images and draws of KL(mean answer, answer to a draw), plus ``entropy`` times that of the mean answer.

    Args:
        logits: ``[M, B, K + L]``; the K classes are one softmax, each concept a sigmoid.

    Returns:
        A scalar: that of the classes plus the mean over concepts of theirs.
    """
    classes, concepts = logits[..., :num_classes], logits[..., num_classes:]
    logs = classes.log_softmax(dim=-1)
    total = _divergence(logs, logs.exp().mean(dim=0), entropy).mean()
    if concepts.shape[-1]:
        both = torch.stack([functional.logsigmoid(concepts), functional.logsigmoid(-concepts)], dim=-1)
        total = total + _divergence(both, both.exp().mean(dim=0), entropy).mean()
    return total


def _divergence(logs: Tensor, mean: Tensor, entropy: float) -> Tensor:
    """KL and entropy over the last dimension; ``logs`` [M, ..., K], ``mean`` [..., K], result [...]."""
    log_mean = mean.clamp_min(torch.finfo(mean.dtype).tiny).log()
    apart = (mean * (log_mean - logs)).sum(dim=-1).mean(dim=0)
    return apart - entropy * (mean * log_mean).sum(dim=-1)


def harrell_davis(scores: Tensor, share: float) -> Tensor:
    """Quantile of ``scores`` [n] at ``share``: the order statistics, weighted by a beta distribution.

    Weight i is the mass of Beta((n+1) share, (n+1)(1-share)) between (i-1)/n and i/n.

    Raises:
        InputError: no scores, or a share outside (0, 1).
    """
    from scipy import stats

    n = int(scores.numel())
    if not n or not 0 < share < 1:
        raise InputError(f"quantile: {n} scores at {share}; give at least one, and a share between 0 and 1")
    mass = stats.beta.cdf(np.arange(n + 1) / n, (n + 1) * share, (n + 1) * (1 - share))
    weights = torch.from_numpy(np.diff(mass)).to(scores)
    return (scores.sort().values * weights).sum()


def shifted(p: Tensor, ratio: float) -> Tensor:
    """Phi(Phi^-1(p) + ratio): how large a probability under Gaussian noise can become within ratio standard deviations."""
    inside = p.double().clamp(EDGE, 1 - EDGE)
    return torch.special.ndtr(torch.special.ndtri(inside) + ratio).to(p.dtype)


def set_size(q: Tensor, labels: Tensor, alpha: float, ratio: float, temperature: float = 0.1) -> Tensor:
    """How many labels beyond one a robust set holds: half of the batch calibrates, the other half is predicted.

    The score of a label is 1 minus its mean probability over the draws; the set holds labels whose score may, within the
    attack, be as low as the threshold.

    Args:
        q: class probabilities of the draws, ``[M, B, K]``, B >= 2.
        labels: int64 ``[B]``.
        alpha: error of the quantile; ratio: radius over sigma.
        temperature: width of the sigmoid that stands for membership.

    Returns:
        A scalar: mean over the predicted half of max(0, size - 1), plus what membership of the true label lacks to 1.
    """
    if q.shape[1] < 2:
        raise InputError(f"set size: a batch of {q.shape[1]} cannot calibrate and predict; give at least 2 images")
    mean = q.mean(dim=0)
    half = q.shape[1] // 2
    true = 1 - mean[:half].gather(1, labels[:half, None])[:, 0]
    threshold = harrell_davis(true, 1 - alpha)
    member = torch.sigmoid((threshold - (1 - shifted(mean[half:], ratio))) / temperature)
    missing = 1 - member.gather(1, labels[half:, None])[:, 0]
    return (member.sum(dim=1) - 1).clamp_min(0).mean() + missing.mean()
