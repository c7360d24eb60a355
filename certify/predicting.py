"""Prediction sets that carry the guarantee of a finished certificate."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify.config import CertifyConfig
from neurosym.certify.evidence import in_words
from neurosym.certify.methods import BOXED, method
from neurosym.certify.reasoning import Reasoning
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.records import Calibrated
    from neurosym.certify.schema import Certificate
    from neurosym.certify.sources import Network
    from neurosym.logic.knowledge import KnowledgeBase

LABEL_TRIALS = 64  # noise draws for a label when no certificate asks for more
PREDICTION_STREAM = 2  # apart from calibration and evaluation noise


@dataclass(frozen=True)
class Prediction:
    """Predictions for ``n`` rows.

    Attributes:
        sets: bool ``[n, K]``; every label everywhere when no certificate was given.
        classes: names of the K labels.
        rows: name of each row (row number or file).
        labels: int ``[n]``, the most plausible label.
    """

    sets: np.ndarray
    classes: tuple[str, ...]
    rows: tuple[str, ...]
    labels: np.ndarray


def read_evidence(path: Path, kb: KnowledgeBase | None) -> Any:
    """An evidence file; the rules, if any, say how many of its columns are classes.

    Raises:
        InputError: a malformed file, or columns that do not begin with the classes of the rules.
    """
    from neurosym.certify.evidence import load_evidence

    evidence: Any = load_evidence(path)
    if kb is None or evidence.num_classes == kb.num_classes:
        return evidence
    if evidence.predicates[: kb.num_classes] != kb.classes:
        names = ", ".join(kb.classes)
        raise InputError(f"{path}: field 'predicates' must begin with the classes of the rules: {names}")
    try:
        return replace(evidence, num_classes=kb.num_classes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _restore(path: Path) -> tuple[Certificate, Calibrated, KnowledgeBase | None, Reasoning]:
    from neurosym.certify.certificate import load_certificate, to_calibrated
    from neurosym.logic.knowledge import KnowledgeBase

    certificate = load_certificate(path)
    calibrated = to_calibrated(certificate)
    kb = None
    if certificate.reasoning.knowledge is not None:
        kb = KnowledgeBase.from_canonical(certificate.reasoning.knowledge)
    reasoning = Reasoning.from_description(calibrated.reasoning, kb, len(certificate.classes))
    return certificate, calibrated, kb, reasoning


def _predict(calibrated: Calibrated, reasoning: Reasoning, evidence: Any, seed: int) -> tuple[np.ndarray, np.ndarray]:
    module = method(calibrated.method)
    observation = module.observe(evidence, calibrated, reasoning=reasoning, seed=seed)
    sets = module.predict(calibrated, observation, reasoning=reasoning)
    best = module.preference(calibrated, observation, reasoning=reasoning).argmin(axis=1)
    return sets, best


def predict_file(certificate: Path, evidence: Path) -> Prediction:
    """Sets for the rows of an evidence file.

    Raises:
        InputError: the certificate or the file is malformed, or they do not belong together.
    """
    document, calibrated, kb, reasoning = _restore(Path(certificate))
    found = read_evidence(Path(evidence), kb)
    made_from = document.provenance.get("evidence_kind")
    if calibrated.method not in BOXED and type(found).__name__ != made_from:  # those say themselves what they need
        held, wanted = in_words(type(found).__name__), in_words(str(made_from))
        raise InputError(f"{evidence}: holds {held}, but the certificate was made from {wanted}")
    names = tuple(document.predicates)
    if kb is None and found.predicates != names:
        raise InputError(f"{evidence}: field 'predicates' is not that of the certificate: {', '.join(names[:4])}, ...")
    try:
        reasoning.columns(found.predicates)  # the rules find their columns by name
    except InputError as error:
        raise InputError(f"{evidence}: {error}") from None
    if found.num_classes != len(document.classes):
        found = replace(found, num_classes=len(document.classes))
    sets, best = _predict(calibrated, reasoning, found, secrets.randbits(62))
    return Prediction(sets, tuple(document.classes), tuple(str(i) for i in range(found.n)), best)


def _same_network(
    document: Certificate, kb: KnowledgeBase | None, network: Network, place: str, of: CertifyConfig
) -> None:
    """Refuse a network, or rules, other than those of the certificate (which brings its own rules)."""
    recorded = document.provenance.get("weights_sha256")
    if recorded is None:
        raise InputError(f"{place}: made from evidence files, not from a network; predict with --evidence")
    if recorded != network.weights_sha256:
        raise InputError(f"{place}: made for a network with other weights than {of.model}")
    classes = network.predicates[: network.num_classes]
    if classes != tuple(document.classes) or (kb is None and network.predicates != tuple(document.predicates)):
        raise InputError(
            f"{place}: made for outputs with other names than those of {of.model}; use the same rules file"
        )
    if network.kb is not None and (kb is None or kb.digest() != network.kb.digest()):
        raise InputError(f"{place}: made with other rules than {of.rules}; use those, or leave rules out")


def predict_images(
    config: CertifyConfig, images: Path, certificate: Path | None, *, progress: bool = True
) -> Prediction:
    """Labels, and with a certificate sets, for the image files below a folder.

    The noise is drawn from fresh entropy: nobody who made an image can have known it.

    Raises:
        InputError: the certificate was made for another network, noise or rules.
    """
    from neurosym.certify.boxed import predicting_evidence
    from neurosym.certify.evidence import votes_from_samples
    from neurosym.certify.images import ImageFolder
    from neurosym.certify.sampling import ModelEvidence
    from neurosym.certify.sources import image_size, load_network

    network = load_network(config)
    folder = ImageFolder(images, image_size(network.model, config.data))
    restored = None if certificate is None else _restore(Path(certificate))
    rows = tuple(str(path.relative_to(folder.root)) for path in folder.files)
    classes = network.predicates[: network.num_classes]
    sigma, trials = config.sigma, min(config.trials, LABEL_TRIALS)
    if restored is not None:
        document, calibrated, kb, _ = restored
        _same_network(document, kb, network, f"{certificate}", config)
        if calibrated.method in BOXED:
            found = predicting_evidence(config, network, folder, calibrated, progress=progress)
            sets, best = _predict(calibrated, restored[3], found, secrets.randbits(62))
            return Prediction(sets, classes, rows, best)
        sigma, trials = calibrated.sigma, int(calibrated.derived.get("trials_test", 1))
    evidence: Any = ModelEvidence(
        network.model,
        folder,
        sigma,
        trials,
        secrets.randbits(62),
        predicates=network.predicates,
        num_classes=network.num_classes,
        class_kind=config.class_kind,
        device=config.device,
        stream=PREDICTION_STREAM,
        progress=progress,
    )
    if restored is None:
        total = np.zeros((len(rows), network.num_classes))
        for block, samples in evidence.chunks():
            total[block] = samples[..., : network.num_classes].mean(dim=1).numpy()
        return Prediction(np.ones(total.shape, dtype=bool), classes, rows, total.argmax(axis=1))
    _, calibrated, _, reasoning = restored
    if calibrated.method == "colep":
        evidence = votes_from_samples(evidence)
    sets, best = _predict(calibrated, reasoning, evidence, secrets.randbits(62))
    return Prediction(sets, classes, rows, best)
