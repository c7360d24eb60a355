"""Gaussian smoothing: how far a probability under noise can move when the input moves.

Theorem (Cohen, Rosenfeld & Kolter 2019, Theorem 1; Neyman-Pearson). Let ``g(x) = P(f(x + e) = 1)``,
``e ~ N(0, sigma^2 I)``. For every measurable ``f`` and every ``|d|_2 <= R``, with ``r = R/sigma``,

    Phi(Phi^-1(g(x)) - r)  <=  g(x + d)  <=  Phi(Phi^-1(g(x)) + r),

with equality for half-spaces orthogonal to ``d``. The noise must be drawn independently of ``d``.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from scipy import special

from neurosym.certify.confidence import NUDGE, Side
from neurosym.certify.exact import Number, decimal
from neurosym.certify.quantile import level
from neurosym.errors import InputError

# Below this value the relative error of Phi may exceed NUDGE (|z| > 29): such results are rounded to 0 or up to FLOOR.
FLOOR = 1e-190


def radius_over_sigma(radius: Number, sigma: Number) -> Fraction:
    """Exact ``radius / sigma``; 0 at radius 0 whatever the noise.

    Raises:
        InputError: negative radius or sigma, or a positive radius without noise.
    """
    attack, noise = decimal(radius, "radius"), decimal(sigma, "sigma")
    if attack < 0:
        raise InputError(f"radius: {radius} is negative; give the largest l2 perturbation, e.g. 0.25")
    if noise < 0:
        raise InputError(f"sigma: {sigma} is negative; give the standard deviation of the noise, e.g. 0.25")
    if attack == 0:
        return Fraction(0)
    if noise == 0:
        raise InputError(f"sigma: 0 cannot certify radius {radius}; draw Gaussian noise of a positive sigma")
    return attack / noise


def gaussian_shift(prob: float | np.ndarray, shift: float, side: Side | None = None) -> np.ndarray:
    """``Phi(Phi^-1(prob) + shift)``, float64 of the shape of ``prob``; exact at 0, at 1 and at ``shift = 0``.

    ``side="lower"`` / ``"upper"`` rounds the result outwards (see ``confidence``), None gives the nearest value.

    Raises:
        InputError: a probability outside [0, 1].
    """
    prob = np.asarray(prob, dtype=np.float64)
    if np.any(~((prob >= 0.0) & (prob <= 1.0))):
        raise InputError("prob: a value is outside [0, 1]")
    if shift == 0.0:
        return prob.copy()
    with np.errstate(under="ignore"):
        moved = special.ndtr(special.ndtri(prob) + shift)
    if side == "lower":
        moved = np.where(moved < FLOOR, 0.0, moved * (1.0 - NUDGE))
    elif side == "upper":
        moved = np.minimum(np.maximum(moved, FLOOR) * (1.0 + NUDGE), 1.0)
    return np.where((prob == 0.0) | (prob == 1.0), prob, moved)


def rcp1_level(alpha: Number, radius: Number, sigma: Number) -> Fraction:
    """Conformal level ``a'`` of RCP1: ``a' = Phi(Phi^-1(alpha) - r)``, i.e. ``1-a' = Phi(Phi^-1(1-alpha) + r)``.

    The lower tail keeps full relative precision. The float is made smaller by a relative 1e-12, so it never exceeds
    the true value while ``|Phi^-1(alpha) - r| <= 29`` (a' > 1e-190; smaller values would need 1e190 points anyway).
    At radius 0 the level is exactly ``alpha``.

    Raises:
        InputError: alpha outside (0, 1), bad radius or sigma, or a level below 1e-190.
    """
    exact_alpha, ratio = level(alpha), radius_over_sigma(radius, sigma)
    if ratio == 0:
        return exact_alpha
    value = float(gaussian_shift(float(exact_alpha), -float(ratio), "lower"))
    if value == 0.0:
        raise InputError(f"radius: {radius} at sigma {sigma} needs a level below 1e-190; use a smaller radius")
    return Fraction(value)
