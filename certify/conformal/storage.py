"""Calibrated classifiers as JSON files: readable, exact, and without pickles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurosym.certify.conformal.rules import Score
from neurosym.circuits.formats.files import write_atomically
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.certify.conformal.classifier import ConformalClassifier

FORMAT, VERSION = "neurosym-conformal-classifier", 1


def _hex(values: np.ndarray | None) -> list[str] | None:
    return None if values is None else [float(v).hex() for v in values]


def _whole(values: np.ndarray | None) -> list[int] | None:
    return None if values is None else [int(v) for v in values]


def save(path: Path, classifier: ConformalClassifier) -> None:
    """Write a classifier, calibrated or not."""
    known, rule = classifier.calibration, classifier.score
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "score": {
            "kind": rule.kind,
            "penalty": float(rule.penalty).hex(),
            "free": int(rule.free),
            "weight": float(rule.weight).hex(),
        },
        "alpha": classifier.alpha,
        "mode": classifier.mode,
        "seed": classifier.seed,
        "temperature": None if classifier.temperature is None else float(classifier.temperature).hex(),
        "randomised": classifier.randomised,
        "allow_empty": classifier.allow_empty,
        "calibration": None
        if known is None
        else {
            "classes": known.classes,
            "scores": _hex(known.scores),
            "labels": _whole(known.labels),
            "groups": _whole(known.groups),
            "weights": _hex(known.weights),
            "thresholds": _hex(known.thresholds),
        },
    }
    write_atomically(path, (json.dumps(document, indent=1) + "\n").encode())


def load(path: Path) -> ConformalClassifier:
    """Read a classifier.

    Raises:
        InputError: no such file, not JSON, another format, or a field that does not fit.
    """
    from neurosym.certify.conformal.classifier import ConformalClassifier

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file that save wrote") from None
    except ValueError:
        raise InputError(f"{path}: not JSON; give a file that save wrote") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT or document.get("version") != VERSION:
        raise InputError(f"{path}: field 'format' is not {FORMAT!r} version {VERSION}; give a file that save wrote")
    try:
        score = document["score"]
        rule = Score(score["kind"], float.fromhex(score["penalty"]), score["free"], float.fromhex(score["weight"]))
        heat = document["temperature"]
        classifier = ConformalClassifier(
            rule,
            document["alpha"],
            document["mode"],
            document["seed"],
            None if heat is None else float.fromhex(heat),
            randomised=document["randomised"],
            allow_empty=document["allow_empty"],
        )
        if document["calibration"] is not None:
            classifier.calibration = _calibration(document["calibration"], classifier.mode)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        said = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: {said}; the file is damaged, save it again") from None
    return classifier


def _calibration(part: dict[str, Any], mode: str) -> Any:
    from neurosym.certify.conformal.classifier import Calibration

    def reals(name: str) -> np.ndarray | None:
        return None if part[name] is None else np.array([float.fromhex(v) for v in part[name]], dtype=np.float64)

    def whole(name: str) -> np.ndarray | None:
        return None if part[name] is None else np.array(part[name], dtype=np.int64)

    scores, labels, thresholds = reals("scores"), whole("labels"), reals("thresholds")
    if scores is None or labels is None or thresholds is None:
        raise ValueError("field 'calibration' is incomplete")
    groups, weights, classes = whole("groups"), reals("weights"), int(part["classes"])
    for name, values in (("labels", labels), ("groups", groups), ("weights", weights)):
        if values is not None and values.shape != scores.shape:
            raise ValueError(f"field '{name}' has {values.size} entries for {scores.size} scores")
    if weights is not None:
        wanted = 0
    elif mode == "class":
        wanted = classes
    else:
        wanted = 1 if groups is None else int(groups.max(initial=-1)) + 1
    if thresholds.size != wanted or (groups is not None) != (mode == "group") or np.isnan([*scores, *thresholds]).any():
        raise ValueError("field 'thresholds' does not fit the mode")
    return Calibration(scores, labels, classes, groups, weights, thresholds)
