"""Small VRCP runs for certificate tests, computed with plain enumeration (see ``builders``)."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import builders
import numpy as np

from neurosym.certify.records import Calibrated

NAMES = builders.CLASSES + builders.CONCEPTS


def reasoned(p: np.ndarray, circuit: str) -> np.ndarray:
    """Class probabilities ``[n, K]``."""
    return p[:, :4] if circuit == "none" else np.array([builders.world_marginals(row, circuit) for row in p])


def extreme_scores(low: np.ndarray, high: np.ndarray, circuit: str, top: bool) -> np.ndarray:
    """Least or greatest LAC scores ``[n, K]`` over boxes, by all corners."""
    if circuit == "none":
        return 1 - (low if top else high)[:, :4]
    out = []
    for a, b in zip(low, high, strict=True):
        corners = [
            1 - builders.world_marginals(np.where(ends, b, a), circuit)
            for ends in itertools.product((True, False), repeat=len(a))
        ]
        out.append(np.max(corners, axis=0) if top else np.min(corners, axis=0))
    return np.array(out)


def vrcp_run(method: str, circuit: str = "none", seed: int = 0, n: int = 24, n_test: int = 10) -> dict[str, Any]:
    """A VRCP run with LAC at radius 0.125 in L-infinity; intervals of half width up to 0.05."""
    rng = np.random.default_rng(seed)

    def points(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        labels = rng.integers(0, 4, count)
        truth = np.zeros((count, 7))
        truth[np.arange(count), labels] = 1
        truth[:, 4], truth[:, 5] = labels == 0, labels == 1
        truth[:, 6] = np.isin(labels, [0, 3])
        p = np.clip(truth * 0.7 + 0.15 + rng.normal(0, 0.15, truth.shape), 0.01, 0.99)
        width = 0.05 * rng.random(p.shape)
        return labels, p, np.clip(p - width, 0, 1), np.clip(p + width, 0, 1)

    labels, p, low, high = points(n)
    test_labels, test_p, test_low, test_high = points(n_test)
    rows = np.arange(n)
    if method == "vrcp_i":
        mine = (1 - reasoned(p, circuit))[rows, labels]
        table = {"probs": p}
        observation = {"lower": test_low, "upper": test_high}
        found = extreme_scores(test_low, test_high, circuit, top=False)
    else:
        mine = extreme_scores(low, high, circuit, top=True)[rows, labels]
        table = {"lower": low, "upper": high}
        observation = {"probs": test_p}
        found = 1 - reasoned(test_p, circuit)
    rank, threshold = builders.threshold_of(mine, Fraction("0.2"))
    calibrated = Calibrated(
        method=method, score="lac", alpha="0.2", radius="0.125", sigma="0", trials=0, n=n, rank=rank,
        threshold=threshold, budget=builders.items("0.2"), derived={},
        calibration={"labels": labels, "scores": mine, **table},
        reasoning={"circuit": circuit, "class_kind": "binary", "scale": 1.0, "bound": "exact"}, norm="linf",
    )  # fmt: skip
    slack = 0 if circuit == "none" else 1e-10
    return {
        "calibrated": calibrated, "observation": observation | {"uniforms": np.ones(n_test)},
        "sets": found <= threshold + slack, "test_labels": test_labels, "classes": builders.CLASSES,
        "predicates": NAMES, "knowledge": None if circuit == "none" else builders.KNOWLEDGE,
    }  # fmt: skip
