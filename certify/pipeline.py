"""What the command line runs: configuration or evidence files in; certificate, sets and report out."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify.config import CertifyConfig
from neurosym.certify.file_parts import FileOptions, file_hashes, file_parts
from neurosym.certify.methods import BOXED
from neurosym.certify.predicting import Prediction, predict_file, predict_images
from neurosym.certify.sources import DEMO_NOTE, Source, demo_config, load_source, noise_samples
from neurosym.certify.study import (
    Finding,
    Settings,
    Split,
    advice,
    certify_split,
    radius_curve,
    says_nothing,
    split_rows,
)
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.attacked import Attacked
    from neurosym.certify.evidence import Evidence
    from neurosym.certify.report import Example, ReportExtras
    from neurosym.certify.schema import CertifiedCoverage, RuleUse
    from neurosym.logic.knowledge import KnowledgeBase

__all__ = [
    "FileOptions",
    "Outcome",
    "Prediction",
    "certify_config",
    "certify_files",
    "demo_config",
    "predict_file",
    "predict_images",
]

WORK = ".work"  # folder inside --out that holds what an interrupted run can go on from
SHOWN = 12  # example images in the report


@dataclass(frozen=True)
class Outcome:
    """``summary``: flat and JSON-able; ``files``: what was written, by name."""

    summary: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)


def writable(out: Path) -> None:
    """Make ``out`` and prove that files can be written there, before any work starts.

    Raises:
        InputError: it cannot be made or written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise InputError(f"{out}: cannot write here ({error.strerror}); give another --out") from None


def _settings(config: CertifyConfig | FileOptions) -> Settings:
    names = ("method", "alpha", "radius", "score", "circuit", "bound", "seed", "norm", "rho")
    return Settings(**{name: getattr(config, name) for name in names})


def _preflight(config: CertifyConfig, settings: Settings, kb: KnowledgeBase | None) -> None:
    """Refuse now what calibration would refuse after the noise has been drawn.

    Raises:
        InputError: options that contradict each other, or numbers that no threshold belongs to.
    """
    from neurosym.certify import scores
    from neurosym.certify.methods import bincp
    from neurosym.certify.reasoning import Reasoning
    from neurosym.certify.smoothing import rcp1_level
    from neurosym.certify.tuning import candidates

    settings.classifier(kb)
    if config.circuit == "auto" and config.splits.tune > 0:
        candidates(kb, config.class_kind, config.score)
    else:
        circuit = config.circuit
        if circuit == "auto":
            circuit = "exclusive" if kb is not None and (kb.rules or kb.groups) else "none"
        scores.resolve(config.score, Reasoning(kb, circuit, config.class_kind).simplex)
    if config.method == "rcp1":
        rcp1_level(config.alpha, config.radius, config.sigma)
    elif config.method == "bincp":
        numbers = (config.alpha, config.radius, config.sigma)
        bincp.votes_plan(*numbers, config.trials, config.trials, bincp.DEFAULT_P)


def certify_config(config: CertifyConfig, out: Path, *, resume: bool = False, progress: bool = True) -> Outcome:
    """Certify a network on its data and write ``certificate.json``, ``sets.npz`` and ``report.html`` to ``out``.

    Network outputs under noise are kept in ``out/.work`` until the end, so that ``resume`` continues an interrupted
    run with the same numbers.

    Raises:
        InputError: anything wrong with configuration, model, data or rules.
    """
    from neurosym.certify.attacked import attack_rows
    from neurosym.certify.boxed import bound_notes, boxed_parts, plain_worlds

    start = time.perf_counter()
    source = load_source(config)
    split = split_rows(len(source.images), config.seed, config.splits.tune, config.splits.calibrate)
    settings = _settings(config)
    _preflight(config, settings, source.kb)
    writable(out)
    parts: list[Any]
    if config.method in BOXED:
        parts = boxed_parts(config, source, split, progress=progress)
        worlds = plain_worlds(parts[2])
    else:
        samples = noise_samples(config, source, out / WORK, resume=resume, progress=progress)
        evidence = _method_evidence(config.method, samples)
        parts = [evidence.take(rows) if len(rows) else None for rows in (split.tune, split.calibrate, split.test)]
        worlds = _worlds(samples, split.test)
    finding = certify_split(parts[0], parts[1], parts[2], source.kb, settings)
    plain = _without_rules(finding, parts[0], parts[1], parts[2], source.kb, settings)
    attacked = None
    if config.attack.images and config.method not in ("vanilla", "levy_prokhorov"):
        attacked = attack_rows(config, source, finding, split.test[: config.attack.images], progress=progress)
    seconds = time.perf_counter() - start
    outcome = _write(
        out,
        finding,
        classes=source.predicates[: source.num_classes],
        predicates=source.predicates,
        kb=source.kb,
        index=split.test,
        notes=((DEMO_NOTE,) if config.data.name == "demo" else ()) + bound_notes(config),
        rules=_rules(source.kb, source.predicates, worlds),
        extras=_extras(source, finding, plain, split),
        provenance=_provenance(config, source, split, attacked),
        summary={**_summary(finding, plain, split, attacked), "seconds": round(seconds, 1)},
    )
    shutil.rmtree(out / WORK, ignore_errors=True)
    return outcome


def certify_files(cal: Path, test: Path | None, rules: Path | None, options: FileOptions, out: Path) -> Outcome:
    """Certify from evidence files: no network runs here. Without ``test`` the calibration file is split in two.

    Raises:
        InputError: anything wrong with the files or their fit.
    """
    from neurosym.logic.knowledge import KnowledgeBase

    start = time.perf_counter()
    kb = KnowledgeBase.from_yaml(rules) if rules is not None else None
    settings = _settings(options)
    calibration, evaluated, split = file_parts(cal, test, kb, options)
    files = file_hashes(cal, test)
    tuning = calibration.take(split.tune) if len(split.tune) else None
    finding = certify_split(tuning, calibration.take(split.calibrate), evaluated, kb, settings)
    plain = _without_rules(finding, tuning, calibration.take(split.calibrate), evaluated, kb, settings)
    provenance = {
        "evidence_kind": type(calibration).__name__,
        "evidence_sha256": files,
        "seed": options.seed,
        "rows": {"tune": split.tune.tolist(), "calibrate": split.calibrate.tolist()},
        **_environment(),
    }
    writable(out)
    return _write(
        out,
        finding,
        classes=calibration.predicates[: calibration.num_classes],
        predicates=calibration.predicates,
        kb=kb,
        index=split.test,
        rules=[],
        extras=None,
        provenance=provenance,
        summary={**_summary(finding, plain, split, None), "seconds": round(time.perf_counter() - start, 1)},
    )


def _method_evidence(method: str, samples: Any) -> Any:
    """COLEP reads hard votes; the others read the samples."""
    from neurosym.certify.evidence import votes_from_samples

    return votes_from_samples(samples) if method == "colep" else samples


def _without_rules(
    finding: Finding,
    tuning: Evidence | None,
    calibration: Evidence,
    test: Evidence,
    kb: KnowledgeBase | None,
    settings: Settings,
) -> Finding:
    """The same certification by the network alone, for comparison."""
    from dataclasses import replace

    reasoning = finding.classifier.reasoning
    if reasoning is None or reasoning.circuit == "none":
        return finding
    return certify_split(tuning, calibration, test, kb, replace(settings, circuit="none"))


def _worlds(samples: Any, rows: np.ndarray) -> np.ndarray:
    """bool ``[n, V]``: what the majority of draws says of each predicate."""
    from neurosym.certify.evidence import votes_from_samples

    votes = votes_from_samples(samples.take(rows))
    worlds = votes.votes > votes.trials / 2
    return np.asarray(worlds)


def _rules(kb: KnowledgeBase | None, predicates: tuple[str, ...], worlds: np.ndarray) -> list[RuleUse]:
    from neurosym.certify.report import rule_use

    if kb is None:
        return []
    return rule_use(kb, worlds[:, [predicates.index(name) for name in kb.predicates]])


def _extras(source: Source, finding: Finding, plain: Finding, split: Split) -> ReportExtras:
    """Example images: first those whose set reasoning changed, then the largest sets; features have no pictures."""
    from neurosym.certify.report import Example, ReportExtras

    names = source.predicates[: source.num_classes]
    changed = (finding.sets != plain.sets).any(axis=1)
    order = np.lexsort((-finding.sets.sum(axis=1), ~changed))[:SHOWN]

    def listed(row: np.ndarray) -> tuple[str, ...]:
        return tuple(names[i] for i in np.flatnonzero(row))

    def example(row: int) -> Example:
        image = source.images.images[split.test[row]].transpose(1, 2, 0)
        label = names[int(source.images.labels[split.test[row]])]
        return Example(image, label, listed(plain.sets[row]), listed(finding.sets[row]))

    return ReportExtras(
        title=f"Certified prediction sets: {source.images.name}",
        examples=[example(int(r)) for r in order] if source.images.are_pixels else [],
    )


def _environment() -> dict[str, Any]:
    import torch

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _provenance(config: CertifyConfig, source: Source, split: Split, attacked: Attacked | None) -> dict[str, Any]:
    return {
        "evidence_kind": "ModelEvidence",
        "config": _portable(config),
        "weights_sha256": source.weights_sha256,
        "data": {"name": source.images.name, "sha256": source.images.digest(), "images": len(source.images)},
        "rules_sha256": None if source.kb is None else source.kb.digest(),
        "noise_seed": config.seed,
        "rows": {"tune": split.tune.tolist(), "calibrate": split.calibrate.tolist()},
        "attack": None if attacked is None else attacked.record(),
        **_environment(),
    }


def _portable(config: CertifyConfig) -> dict[str, Any]:
    """The configuration with file names for paths: hashes identify the files, and folders are nobody's business."""
    content = config.model_dump()
    for key in ("model", "weights", "rules"):
        if content[key] is not None and Path(content[key]).exists():
            content[key] = Path(content[key]).resolve().name
    content["data"] |= {"name": Path(content["data"]["name"]).name, "root": None}
    return content


def _summary(finding: Finding, plain: Finding, split: Split, attacked: Attacked | None) -> dict[str, Any]:
    from neurosym.certify.certificate import clopper_pearson

    record = finding.calibrated
    summary: dict[str, Any] = {
        "method": record.method,
        "score": record.score,
        "alpha": record.alpha,
        "radius": record.radius,
        "norm": record.norm,
        "sigma": record.sigma,
        "trials": record.trials,
        "n_tune": len(split.tune),
        "n_calibration": record.n,
        "n_test": len(finding.sets),
        "circuit": str(record.reasoning.get("circuit")),
        "scale": float(record.reasoning.get("scale", 1.0)),
        "coverage": finding.coverage,
        "coverage_lower": None,
        "coverage_upper": None,
        "mean_size": finding.mean_size,
        "model_only_mean_size": plain.mean_size,
        "certified_coverage": None if finding.certified is None else finding.certified.lower,
        "attacked_coverage": None if attacked is None else attacked.coverage,
        "attacked_images": 0 if attacked is None else attacked.images,
        "trivial": says_nothing(finding),
        "advice": advice(finding),
    }
    if finding.labels is not None and len(finding.sets):
        covered = int(finding.sets[np.arange(len(finding.sets)), finding.labels].sum())
        interval = clopper_pearson(covered, len(finding.sets))
        summary |= {"coverage_lower": interval.lower.value, "coverage_upper": interval.upper.value}
    return summary


def _certified(finding: Finding) -> CertifiedCoverage | None:
    from neurosym.certify.schema import CertifiedCoverage, Real

    bound = finding.certified
    if bound is None:
        return None
    return CertifiedCoverage(
        points=bound.points,
        successes=bound.successes,
        delta=bound.evaluation_failure,
        point_failure=bound.point_failure,
        lower=Real.of(bound.lower),
        note=f"{bound.note}; each point certified up to failure probability {bound.point_failure}",
    )


def _write(
    out: Path,
    finding: Finding,
    *,
    classes: tuple[str, ...],
    predicates: tuple[str, ...],
    kb: KnowledgeBase | None,
    index: np.ndarray,
    rules: list[RuleUse],
    extras: ReportExtras | None,
    provenance: Mapping[str, Any],
    summary: dict[str, Any],
    notes: tuple[str, ...] = (),
) -> Outcome:
    from neurosym.certify.certificate import build_certificate, write_run
    from neurosym.certify.tuning import as_record

    certificate = build_certificate(
        finding.calibrated,
        classes=classes,
        predicates=predicates if kb is None else kb.predicates,
        observation=finding.observation,
        sets=finding.sets,
        test_labels=finding.labels,
        index=index,
        knowledge=None if kb is None else kb.canonical(),
        tuning=None if finding.tuned is None else as_record(finding.tuned),
        provenance=provenance,
        certified=_certified(finding),
        curve=radius_curve(finding),
        rules=rules,
        notes=notes,
    )
    files = write_run(out, certificate, finding.observation, finding.sets, finding.labels, index=index, extras=extras)
    return Outcome(summary, {name: str(path) for name, path in files.items()})
