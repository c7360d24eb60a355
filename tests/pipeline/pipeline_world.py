"""Evidence with a known structure, for tests of whole certifications."""

from __future__ import annotations

import numpy as np

from neurosym.certify.evidence import CachedSamples, encode
from neurosym.logic.knowledge import KnowledgeBase

CLASSES, CONCEPTS = ("stop", "yield", "keep"), ("octagon", "red")
TRUTH = np.array([[1, 1], [0, 1], [0, 0]], dtype=float)  # concepts of each class
RULES = """\
classes: [stop, yield, keep]
concepts: [octagon, red]
rules:
  - stop -> octagon & red
  - {rule: "yield -> red & ~octagon", weight: 3}
  - keep -> ~red
"""


def knowledge() -> KnowledgeBase:
    return KnowledgeBase.from_text(RULES)


def labels(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, n)


def samples(n: int = 60, trials: int = 24, seed: int = 0, strength: float = 2.5, sigma: float = 0.5) -> CachedSamples:
    """Softmax classes and sigmoid concepts around the truth; every point has a difficulty of its own."""
    rng = np.random.default_rng(seed)
    truth = labels(n, seed)
    hardness = rng.normal(size=(n, 1, 5))
    logits = np.hstack([strength * np.eye(3)[truth], strength * (2 * TRUTH[truth] - 1)])[:, None, :]
    logits = logits + hardness + rng.normal(size=(n, trials, 5))
    classes = np.exp(logits[..., :3])
    classes /= classes.sum(axis=-1, keepdims=True)
    probs = np.concatenate([classes, 1 / (1 + np.exp(-logits[..., 3:]))], axis=-1)
    return CachedSamples(encode(probs), sigma, CLASSES + CONCEPTS, truth, "categorical", 3)


def decoded(evidence: CachedSamples) -> np.ndarray:
    """Probabilities float64 [n, M, V] behind the codes."""
    return (evidence.codes.astype(np.float64) + 0.5) / 65536
