"""Build, write and read ``certificate.json`` and the two files beside it (``sets.npz``, ``report.html``)."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

import neurosym
from neurosym.certify.guarantee import describe
from neurosym.certify.records import BudgetItem, Calibrated
from neurosym.certify.schema import (
    ArrayRecord,
    BudgetEntry,
    CalibrationTable,
    Certificate,
    CertifiedCoverage,
    ClassRow,
    CurvePoint,
    Digests,
    Interval,
    Metrics,
    Real,
    ReasoningRecord,
    RuleUse,
    TestRecord,
)
from neurosym.certify.verifier.digests import array_digest, document_digests, file_text
from neurosym.certify.verifier.digests import digest as json_digest
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.report import ReportExtras

CONFIDENCE = "0.95"  # of the two-sided Clopper-Pearson intervals of the reported coverages
CERTIFICATE_FILE, SETS_FILE, REPORT_FILE = "certificate.json", "sets.npz", "report.html"


def clopper_pearson(successes: int, trials: int, confidence: str = CONFIDENCE) -> Interval:
    """Two-sided Clopper-Pearson interval of a proportion (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    tail = (1.0 - float(confidence)) / 2
    lower = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    upper = 1.0 if successes == trials else float(beta.isf(tail, successes + 1, trials - successes))
    return Interval(lower=Real.of(lower), upper=Real.of(upper), confidence=confidence)


def measure(
    sets: np.ndarray,
    labels: np.ndarray | None,
    classes: Sequence[str],
    *,
    certified: CertifiedCoverage | None = None,
    curve: Sequence[CurvePoint] = (),
    rules: Sequence[RuleUse] = (),
) -> Metrics:
    """Set sizes and, where labels are known, empirical coverage overall and for each class.

    Args:
        sets: bool ``[n, K]``.
        labels: int ``[n]`` or None.
    """
    sizes = sets.sum(axis=1)
    n, total = int(sets.shape[0]), int(sizes.sum())
    size_facts: dict[str, Any] = {
        "n": n,
        "total_size": total,
        "mean_size": Real.of(total / n if n else 0.0),
        "empty": int((sizes == 0).sum()),
        "full": int((sizes == sets.shape[1]).sum()),
        "certified": certified,
        "curve": list(curve),
        "rules": list(rules),
    }
    if labels is None or n == 0:
        return Metrics(**size_facts)
    hit = sets[np.arange(n), labels]
    rows = []
    for position, name in enumerate(classes):
        mine = labels == position
        count, covered = int(mine.sum()), int(hit[mine].sum())
        interval = clopper_pearson(covered, count) if count else None
        rows.append(ClassRow(name=name, n=count, covered=covered, total_size=int(sizes[mine].sum()), interval=interval))
    covered = int(hit.sum())
    return Metrics(
        **size_facts,
        covered=covered,
        coverage=Real.of(covered / n),
        interval=clopper_pearson(covered, n),
        per_class=rows,
    )


def _plain(value: Any) -> Any:
    """JSON values only: numpy scalars and arrays become Python ones, non-finite floats become text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else repr(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)


def _derived(value: Any) -> Any:
    """Derived numbers: integers stay, floats are written as hexadecimal plus decimal."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float):
        return Real.of(plain)
    if plain is None or isinstance(plain, bool | int | str):
        return plain
    if isinstance(plain, list | tuple | np.ndarray):
        return [_derived(item) for item in plain]
    return str(plain)


def _hex_rows(rows: np.ndarray) -> list[list[str]]:
    return [[float(value).hex() for value in row] for row in rows]


def _calibration_table(arrays: Mapping[str, np.ndarray]) -> CalibrationTable:
    extra: dict[str, Any] = {}
    if "votes" in arrays:
        extra["votes"] = np.asarray(arrays["votes"]).astype(int).tolist()
    for name in ("lower", "upper", "probs", "logits"):
        if name in arrays:
            extra[name] = _hex_rows(np.asarray(arrays[name]))
    if "uniforms" in arrays:
        extra["uniforms"] = [float(value).hex() for value in arrays["uniforms"]]
    return CalibrationTable(
        labels=np.asarray(arrays["labels"]).astype(int).tolist(),
        scores=[float(score).hex() for score in arrays["scores"]],
        **extra,
    )


def run_arrays(
    observation: Mapping[str, np.ndarray],
    sets: np.ndarray,
    test_labels: np.ndarray | None,
    index: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of ``sets.npz``: ``sets``, ``index``, ``labels`` if known, and ``observed_*`` statistics.

    Raises:
        InputError: the arrays disagree in their number of rows.
    """
    n = int(sets.shape[0])
    arrays: dict[str, np.ndarray] = {"sets": np.asarray(sets, dtype=bool)}
    arrays["index"] = np.arange(n, dtype=np.int64) if index is None else np.asarray(index, dtype=np.int64)
    if test_labels is not None:
        arrays["labels"] = np.asarray(test_labels, dtype=np.int64)
    for name, value in observation.items():
        array = np.asarray(value)
        kind = np.int64 if array.dtype.kind in "iu" else array.dtype
        arrays[f"observed_{name}"] = array.astype(kind)
    for name, array in arrays.items():
        if array.shape[:1] != (n,):
            raise InputError(f"{SETS_FILE}: {name} has shape {array.shape}, but there are {n} prediction sets")
    return arrays


def build_certificate(
    calibrated: Calibrated,
    *,
    classes: Sequence[str],
    predicates: Sequence[str],
    observation: Mapping[str, np.ndarray],
    sets: np.ndarray,
    test_labels: np.ndarray | None = None,
    index: np.ndarray | None = None,
    knowledge: Mapping[str, Any] | None = None,
    tuning: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    certified: CertifiedCoverage | None = None,
    curve: Sequence[CurvePoint] = (),
    rules: Sequence[RuleUse] = (),
    notes: Sequence[str] = (),
) -> Certificate:
    """Assemble the certificate of one run, with its checksums.

    Args:
        calibrated: what calibration left behind.
        classes: names of the labels, length K; predicates: names of all sensors, length V (classes first).
        observation: test statistics, as ``observe`` of the method returned them; n_test rows each.
        sets: bool ``[n_test, K]``, as ``predict`` returned them.
        knowledge: ``KnowledgeBase.canonical()`` of the rules **before** scaling, None without rules.
        tuning, provenance: JSON-able records; certified, curve, rules: measured for the report.

    Returns:
        A frozen :class:`Certificate`.
    """
    arrays = run_arrays(observation, sets, test_labels, index)
    knowledge_plain = None if knowledge is None else _plain(knowledge)
    layer = calibrated.reasoning
    reasoning = ReasoningRecord(
        circuit=str(layer.get("circuit", "none")),  # type: ignore[arg-type]  # pydantic checks the literal
        class_kind=str(layer.get("class_kind", "binary")),  # type: ignore[arg-type]
        scale=Real.of(float(layer.get("scale", 1.0))),
        bound=str(layer.get("bound", "exact")),
        knowledge=knowledge_plain,
        knowledge_digest=None if knowledge_plain is None else json_digest(knowledge_plain),
    )
    unsigned = Certificate(
        neurosym=neurosym.__version__,
        method=calibrated.method,
        score=calibrated.score,
        alpha=str(calibrated.alpha),
        radius=str(calibrated.radius),
        norm=calibrated.norm,  # type: ignore[arg-type]  # pydantic checks the literal
        sigma=str(calibrated.sigma),
        trials=int(calibrated.trials),
        n=int(calibrated.n),
        rank=int(calibrated.rank),
        threshold=Real.of(calibrated.threshold),
        budget=[BudgetEntry(name=item.name, value=item.value, note=item.note) for item in calibrated.budget],
        derived={name: _derived(value) for name, value in calibrated.derived.items()},
        calibration=_calibration_table(calibrated.calibration),
        reasoning=reasoning,
        classes=[str(name) for name in classes],
        predicates=[str(name) for name in predicates],
        tuning=_plain(tuning or {}),
        metrics=measure(arrays["sets"], arrays.get("labels"), classes, certified=certified, curve=curve, rules=rules),
        provenance=_plain(provenance or {}),
        guarantee=describe(calibrated),
        notes=[*calibrated.notes, *notes],
        test=TestRecord(
            file=SETS_FILE,
            n=int(sets.shape[0]),
            arrays={
                name: ArrayRecord(dtype=array.dtype.str, shape=list(array.shape), sha256=array_digest(array))
                for name, array in arrays.items()
            },
        ),
        digests=Digests(sections={}, certificate=""),
    )
    return sign(unsigned)


def sign(certificate: Certificate) -> Certificate:
    """The same certificate with its checksums computed afresh."""
    return certificate.model_copy(update={"digests": Digests(**document_digests(certificate.model_dump(mode="json")))})


def certificate_text(certificate: Certificate) -> str:
    """The bytes (ASCII) of ``certificate.json``."""
    return file_text(certificate.model_dump(mode="json"))


def _replace(target: Path, content: bytes) -> None:
    """Write next to the target, then rename: a reader sees the old file or the whole new one."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(name, 0o644)  # mkstemp makes the file private; results are meant to be shared
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_run(
    out_dir: str | Path,
    certificate: Certificate,
    observation: Mapping[str, np.ndarray],
    sets: np.ndarray,
    test_labels: np.ndarray | None = None,
    *,
    index: np.ndarray | None = None,
    extras: ReportExtras | None = None,
) -> dict[str, Path]:
    """Write ``sets.npz``, ``report.html`` and, last, ``certificate.json``.

    All three contents are made in memory first, so a failure while making one leaves no file behind.

    Returns:
        The path of each file by its name.

    Raises:
        InputError: the arrays are not those that the certificate records, or ``out_dir`` cannot be written.
    """
    import io

    from neurosym.certify.report import render_report

    arrays = run_arrays(observation, sets, test_labels, index)
    recorded = {name: record.sha256 for name, record in certificate.test.arrays.items()}
    actual = {name: array_digest(array) for name, array in arrays.items()}
    if recorded != actual:
        names = sorted(name for name in recorded.keys() | actual.keys() if recorded.get(name) != actual.get(name))
        raise InputError(f"{SETS_FILE}: {', '.join(names)} differ from what the certificate records; rebuild it")
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    contents = {
        SETS_FILE: packed.getvalue(),
        REPORT_FILE: render_report(certificate, arrays, extras).encode("utf-8"),
        CERTIFICATE_FILE: certificate_text(certificate).encode("ascii"),
    }
    folder = Path(out_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            _replace(folder / name, content)
    except OSError as error:
        raise InputError(f"{folder}: cannot write here ({error.strerror}); give another --out") from None
    return {name: folder / name for name in contents}


def load_certificate(path: str | Path) -> Certificate:
    """Read ``certificate.json`` (or the folder that holds it). Shape only: ``verify`` judges the content.

    Raises:
        InputError: one line: no such file, not JSON, or a field that is missing or of the wrong type.
    """
    file = Path(path)
    if file.is_dir():
        file = file / CERTIFICATE_FILE
    try:
        document = json.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); give the path of a certificate") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file}: not JSON ({error}); make the certificate again") from None
    except RecursionError:
        raise InputError(f"{file}: nested too deeply for a certificate; make it again") from None
    try:
        return Certificate.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "document"
        reason = str(first["msg"]).splitlines()[0]
        raise InputError(f"{file}: field {place}: {reason}; make the certificate again") from None


def _value(value: Any) -> Any:
    """Inverse of :func:`_derived`; tables become tuples."""
    if isinstance(value, list):
        return tuple(_value(item) for item in value)
    return value.value if isinstance(value, Real) else value


def to_calibrated(certificate: Certificate) -> Calibrated:
    """The calibration record inside a certificate, for predicting with it later."""
    table = certificate.calibration
    arrays: dict[str, np.ndarray] = {
        "labels": np.array(table.labels, dtype=np.int64),
        "scores": np.array([float.fromhex(text) for text in table.scores], dtype=np.float64),
    }
    if table.votes is not None:
        arrays["votes"] = np.array(table.votes, dtype=np.int64)
    if table.uniforms is not None:
        arrays["uniforms"] = np.array([float.fromhex(text) for text in table.uniforms], dtype=np.float64)
    for name in ("lower", "upper", "probs", "logits"):
        rows = getattr(table, name)
        if rows is not None:
            arrays[name] = np.array([[float.fromhex(text) for text in row] for row in rows], dtype=np.float64)
    derived: dict[str, Any] = {name: _value(value) for name, value in certificate.derived.items()}
    layer = certificate.reasoning
    return Calibrated(
        method=certificate.method,
        score=certificate.score,
        alpha=certificate.alpha,
        radius=certificate.radius,
        sigma=certificate.sigma,
        trials=certificate.trials,
        n=certificate.n,
        rank=certificate.rank,
        threshold=certificate.threshold.value,
        budget=tuple(BudgetItem(item.name, item.value, item.note) for item in certificate.budget),
        derived=derived,
        calibration=arrays,
        reasoning={
            "circuit": layer.circuit,
            "class_kind": layer.class_kind,
            "scale": layer.scale.value,
            "bound": layer.bound,
        },
        notes=tuple(certificate.notes),
        norm=certificate.norm,
    )
