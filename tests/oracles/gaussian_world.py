"""A world in which everything about smoothing is known: Gaussian classes in the plane, linear sensors.

Inputs are ``x = m_y + spread * N(0, I_2)``. Sensor j looks at one projection ``t_j(x) = <w_j, x> - b_j`` with ``|w_j| = 1``.

* Hard votes under noise of deviation sigma have probability ``Phi(t_j / sigma)`` (closed form).
* Soft sensors answer ``Phi(t_j / softness)`` and are applied to noisy inputs; their draws need only the noisy plane.
* Attacks move x by at most R in the plane; for a score of the true label that depends on one projection the worst
  move is along it, and otherwise it is found on a circle of directions (the extremum of a monotone score lies on the
  boundary; 5 degrees of grid lose at most 0.1 % of R).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

ANGLES = 72


@dataclass(frozen=True)
class GaussianWorld:
    """K classes at the corners of a regular polygon of circumradius ``far``; V unit sensors ``weights [V, 2]``."""

    weights: np.ndarray
    offsets: np.ndarray
    num_classes: int
    far: float = 1.0
    spread: float = 0.35
    softness: float = 0.4

    @property
    def means(self) -> np.ndarray:
        angle = 2 * np.pi * np.arange(self.num_classes) / self.num_classes
        return self.far * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def sample(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs ``[n, 2]`` and labels ``[n]``."""
        y = rng.integers(0, self.num_classes, n)
        return self.means[y] + self.spread * rng.normal(size=(n, 2)), y

    def project(self, x: np.ndarray) -> np.ndarray:
        """``[..., 2]`` -> ``[..., V]``."""
        return x @ self.weights.T - self.offsets

    def soft(self, x: np.ndarray) -> np.ndarray:
        """Soft sensor answers ``[..., V]``."""
        return ndtr(self.project(x) / self.softness)

    def vote_probability(self, x: np.ndarray, sigma: float) -> np.ndarray:
        """Exact probability of a positive hard vote under noise, ``[..., V]``."""
        return ndtr(self.project(x) / sigma)

    def votes(self, rng: np.random.Generator, x: np.ndarray, sigma: float, trials: int) -> np.ndarray:
        """Counts ``[n, V]`` drawn from the exact probabilities."""
        return rng.binomial(trials, self.vote_probability(x, sigma))

    def noisy_soft(self, rng: np.random.Generator, x: np.ndarray, sigma: float, trials: int) -> np.ndarray:
        """Soft answers of noisy copies, ``[n, trials, V]``; the noise is shared by the sensors."""
        return self.soft(x[:, None, :] + sigma * rng.normal(size=(x.shape[0], trials, 2)))

    def attack_along(self, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
        """The worst move for a score that falls with the projection of the label's own sensor."""
        return x - radius * self.weights[y]

    def attack(self, x: np.ndarray, radius: float, badness: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The worst of ``ANGLES`` directions for each point: ``badness`` maps ``[a, n, 2]`` to ``[a, n]``."""
        angle = 2 * np.pi * np.arange(ANGLES) / ANGLES
        moved = x + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)[:, None, :]
        return moved[badness(moved).argmax(axis=0), np.arange(x.shape[0])]


def three_classes() -> tuple[GaussianWorld, str]:
    """Three classes with a sensor each and two concepts, and rules (as YAML) that are true in this world.

    Concept ``left`` belongs to classes b and c, ``right`` to class a.
    """
    angle = 2 * np.pi * np.arange(3) / 3
    own = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    weights = np.concatenate([own, [[-1.0, 0.0], [1.0, 0.0]]])
    offsets = np.array([0.25, 0.25, 0.25, 0.0, 0.0])
    rules = "classes: [a, b, c]\nconcepts: [left, right]\nrules: [a -> right, b -> left, c -> left]\n"
    return GaussianWorld(weights, offsets, 3), rules
