"""Certifications of a network by deterministic bounds: what is bounded, and what is only evaluated.

VRCP-I bounds the images at inference and evaluates those of the calibration; VRCP-C the other way round. Tuning plays both
parts, so its images have bounds and answers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify.bound_evidence import Bounder, answer_evidence, bound_evidence
from neurosym.certify.config import CertifyConfig
from neurosym.certify.evidence import BoxEvidence, ProbEvidence
from neurosym.certify.methods import BOXED
from neurosym.certify.noise import pick_device
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.records import Calibrated
    from neurosym.certify.sources import Network, Source
    from neurosym.certify.study import Split

BOUNDED = {"vrcp_i": (True, False, True), "vrcp_c": (True, True, False)}
"""Which of the tuning, calibration and test images need bounds."""


def _facts(config: CertifyConfig, network: Network) -> dict[str, Any]:
    names = {"predicates": network.predicates, "num_classes": network.num_classes}
    return {**names, "device": pick_device(config.device)}


def boxed_parts(config: CertifyConfig, source: Source, split: Split, *, progress: bool) -> list[Any]:
    """Boxes or answers for tuning (None without rows), calibration and testing.

    Raises:
        InputError: features in place of images, or a network that cannot be bounded.
    """
    if not source.images.are_pixels:
        raise InputError(f"method {config.method}: bounds are of images; features have no attack in pixels")
    bounder = Bounder(config.radius, config.norm, config.propagation, config.class_kind)
    parts: list[BoxEvidence | ProbEvidence | None] = []
    for rows, bounded in zip((split.tune, split.calibrate, split.test), BOUNDED[config.method], strict=True):
        facts = _facts(config, source) | {"rows": rows, "labels": source.images.labels[rows], "progress": progress}
        if not len(rows):
            parts.append(None)
        elif bounded:
            parts.append(bound_evidence(source.model, source.images, bounder, **facts))
        else:
            parts.append(answer_evidence(source.model, source.images, config.class_kind, **facts))
    return parts


def predicting_evidence(
    config: CertifyConfig, network: Network, dataset: Any, calibrated: Calibrated, *, progress: bool
) -> BoxEvidence | ProbEvidence:
    """What a calibrated predictor reads of new (or attacked) images."""
    facts = _facts(config, network) | {"progress": progress}
    if not BOUNDED[calibrated.method][2]:
        return answer_evidence(network.model, dataset, config.class_kind, **facts)
    bounder = Bounder(calibrated.radius, calibrated.norm, config.propagation, config.class_kind)
    return bound_evidence(network.model, dataset, bounder, **facts)


def plain_worlds(evidence: BoxEvidence | ProbEvidence) -> np.ndarray:
    """bool ``[n, V]``: the most probable class, and the concepts above one half."""
    probs = evidence.probs
    assert probs is not None
    classes = evidence.num_classes
    own = probs[:, :classes].argmax(axis=1)[:, None] == np.arange(classes)
    return np.concatenate([own, probs[:, classes:] > 0.5], axis=1)


def bound_notes(config: CertifyConfig) -> tuple[str, ...]:
    """How the intervals of a certificate were made."""
    if config.method not in BOXED:
        return ()
    kind = {"ibp": "interval propagation", "crown_ibp": "CROWN over interval propagation", "crown": "CROWN"}
    return (
        f"Intervals by {kind[config.propagation]} in double precision, rounding errors included, of the network "
        "evaluated in double precision, for images whose pixels stay within [0, 1].",
    )
