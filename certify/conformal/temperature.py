"""Temperature scaling (Guo et al. 2017): ``p_T = softmax(log(p) / T)``, one number fitted by likelihood.

A monotone change of the probabilities leaves validity alone as long as T does not depend on the calibration points: fit
it on other data. In ``beta = 1/T`` the negative log-likelihood is convex, with the derivative
``E_{p_beta}[z] - z_y`` summed over the points; its root is found by bracketing.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify.conformal.arrays import Array, blocks, host, is_tensor, labels_of, like, on_device, table
from neurosym.errors import InputError

COLDEST, HOTTEST = 0.01, 100.0


def fit_temperature(probs: Array, labels: Array, *, logits: bool = False) -> float:
    """The temperature of largest likelihood, between ``COLDEST`` and ``HOTTEST``.

    Args:
        probs: probabilities ``[n, K]``, or logits with ``logits=True``; of points used for nothing else.
        labels: int ``[n]``.
    """
    from scipy.optimize import brentq

    probs = table(probs)
    truth = labels_of(labels, *probs.shape)
    if truth.size == 0:
        raise InputError("field 'probs': no rows; a temperature needs labelled points")
    values = host(probs)
    z = np.concatenate([_logs(values[rows], logits) for rows in blocks(*values.shape)])
    own = z[np.arange(truth.size), truth]

    def slope(log_beta: float) -> float:
        beta, total = float(np.exp(log_beta)), 0.0
        for rows in blocks(*z.shape):
            weight = np.exp(beta * z[rows])  # each row of z has maximum 0
            total += float(((weight * z[rows]).sum(axis=1) / weight.sum(axis=1) - own[rows]).sum())
        return total

    low, high = -np.log(HOTTEST), -np.log(COLDEST)
    if slope(low) >= 0.0:
        return HOTTEST
    if slope(high) <= 0.0:
        return COLDEST
    return float(np.exp(-brentq(slope, low, high, xtol=1e-12)))


def _logs(block: np.ndarray, logits: bool) -> np.ndarray:
    """Logits with maximum 0 in each row, float64; a probability of 0 counts as the smallest one of its dtype."""
    z = block.astype(np.float64)
    if not logits:
        z = np.log(np.maximum(z, np.finfo(block.dtype).tiny))
    return z - z.max(axis=1, keepdims=True)


def apply_temperature(probs: Array, temperature: float) -> Array:
    """``p^(1/T)``, normalised; the same kind, dtype and device as ``probs``.

    Raises:
        InputError: a temperature that is not positive and finite.
    """
    if not 0.0 < temperature < np.inf:
        raise InputError(f"temperature: {temperature} is not a finite number > 0")
    probs, beta = table(probs), 1.0 / temperature
    if on_device(probs):
        import torch

        return torch.softmax(torch.log(probs) * beta, dim=1)
    values = host(probs)
    out = np.empty_like(values)
    for rows in blocks(*values.shape):
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.log(values[rows])
            z = np.exp((z - z.max(axis=1, keepdims=True)) * values.dtype.type(beta))
            out[rows] = z / z.sum(axis=1, keepdims=True)
    return like(out, probs).to(probs.dtype) if is_tensor(probs) else out
