"""Empirical coverage under an adaptive attack, to stand beside the certified one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurosym.certify.config import CertifyConfig
from neurosym.certify.evidence import votes_from_samples
from neurosym.certify.methods import BOXED
from neurosym.certify.sources import Source
from neurosym.certify.study import Finding, predicted
from neurosym.certify.verifier.wording import NORMS

ATTACK_STREAM = 1  # the defender's fresh noise on attacked images
ATTACK_SEED = 7
WIDEST, NARROWEST = 0.05, 0.002  # widths of the sigmoid that stands for a vote, in units of the score


@dataclass(frozen=True)
class Attacked:
    """Coverage and mean set size of the robust sets on attacked images."""

    images: int
    covered: int
    mean_size: float
    steps: int
    draws: int
    norm: str = "l2"

    @property
    def coverage(self) -> float:
        return self.covered / self.images

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "images": self.images,
            "covered": self.covered,
            "mean_size": self.mean_size,
            "steps": self.steps,
            "draws": self.draws,
            "kind": f"PGD-{NORMS[self.norm]} through noise, network, circuit and score",
        }


def attack_rows(
    config: CertifyConfig, source: Source, finding: Finding, rows: np.ndarray, *, progress: bool = False
) -> Attacked:
    """Attack the images ``rows`` within the certified radius and predict their sets on fresh noise.

    The gradient runs through the smoothing noise, the network, the circuit and the score; for BinCP it pushes the
    true label's draws over the threshold.
    """
    import torch

    from neurosym.certify.attacks import pgd
    from neurosym.certify.boxed import predicting_evidence
    from neurosym.certify.noise import pick_device
    from neurosym.certify.sampling import ModelEvidence

    record = finding.calibrated
    images = source.images.tensors(rows)
    labels = torch.from_numpy(source.images.labels[rows])
    votes = record.method == "bincp" and record.score == "lac" and np.isfinite(record.threshold)
    # A sigmoid as wide as the threshold's distance from 0 or 1: wider, confident images would give no gradient.
    distance = min(record.threshold, 1.0 - record.threshold) if votes else 1.0
    temperature = min(WIDEST, max(NARROWEST, 0.5 * distance))
    model = source.model.to(pick_device(config.device))
    draws = config.attack.draws if record.method not in BOXED else 1
    adversarial = pgd(
        model,
        images,
        labels,
        float(record.radius),
        finding.classifier.reasoning,
        float(record.sigma),
        steps=config.attack.steps,
        norm=record.norm,  # type: ignore[arg-type]  # l2 or linf
        draws=draws,
        seed=ATTACK_SEED + config.seed,
        loss="vote" if votes else "score",
        threshold=record.threshold if votes else None,
        temperature=temperature,
        num_classes=source.num_classes,
        class_kind=config.class_kind,
        clip=source.images.are_pixels,
        indices=rows,
    )
    pairs = [(image, int(label)) for image, label in zip(adversarial, labels, strict=True)]
    if record.method in BOXED:
        evidence: Any = predicting_evidence(config, source, pairs, record, progress=progress)
        return _result(config, finding, evidence, labels.numpy(), 1)
    evidence = ModelEvidence(
        source.model,
        pairs,
        config.sigma,
        config.draws,
        config.seed,
        predicates=source.predicates,
        num_classes=source.num_classes,
        labels=labels.numpy(),
        class_kind=config.class_kind,
        device=config.device,
        stream=ATTACK_STREAM,
        check_range=source.images.are_pixels,
        progress=progress,
    )
    if record.method == "colep":
        evidence = votes_from_samples(evidence)
    return _result(config, finding, evidence, labels.numpy(), draws)


def _result(config: CertifyConfig, finding: Finding, evidence: Any, labels: np.ndarray, draws: int) -> Attacked:
    record = finding.calibrated
    sets = predicted(finding.classifier, record, finding.classifier.observe(evidence))
    hit = sets[np.arange(len(labels)), labels]
    mean, steps = float(sets.sum(axis=1).mean()), config.attack.steps
    return Attacked(len(labels), int(hit.sum()), mean, steps, draws, record.norm)
