"""Balls of perturbations around images, in L2 and in the largest pixel (L-infinity)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["l2", "linf"]
NORMS: tuple[Norm, ...] = ("l2", "linf")
TINY = 1e-12


def norms(delta: Tensor, norm: Norm) -> Tensor:
    """Norms ``[b, 1, 1, 1]`` of ``[b, C, H, W]``, in float64."""
    flat = delta.double().flatten(1)
    found = flat.norm(dim=1) if norm == "l2" else flat.abs().amax(dim=1)
    return found.reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Ball:
    """Perturbations of norm at most ``radius``; with ``clip`` of images that stay in ``[0, 1]``."""

    norm: Norm
    radius: float
    clip: bool

    def project(self, images: Tensor, delta: Tensor) -> Tensor:
        """The nearest perturbation in the ball, then the pixel range: clipping second never makes one longer."""
        if self.norm == "l2":
            scale = (self.radius / norms(delta, "l2").clamp_min(TINY)).clamp(max=1.0)
            delta = (delta.double() * scale).float()
        else:
            delta = delta.clamp(-self.radius, self.radius)
        return (images + delta).clamp(0, 1) - images if self.clip else delta

    def steepest(self, gradient: Tensor) -> Tensor:
        """The perturbation of norm 1 that rises fastest along ``gradient`` [b, C, H, W]."""
        if self.norm == "linf":
            return gradient.sign()
        return (gradient.double() / norms(gradient, "l2").clamp_min(TINY)).float()

    def finish(self, images: Tensor, delta: Tensor) -> Tensor:
        """``images + delta`` in float32, shrunk by rounding errors until the difference is in the ball."""
        delta = self.project(images, delta)
        while True:
            attacked = images + delta
            if self.clip:
                attacked = attacked.clamp(0, 1)
            lengths = norms(attacked.double() - images.double(), self.norm)
            if bool((lengths <= self.radius).all()):
                return attacked
            shrunk = delta * (1 - 1e-6) * (self.radius / lengths).float()
            delta = torch.where(lengths > self.radius, shrunk, delta)
