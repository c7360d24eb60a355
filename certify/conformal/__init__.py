"""Conformal prediction for class probabilities: scores, thresholds, sets, p-values, risks and their measures.

Functions on arrays, numpy or torch, with a thin class on top. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.certify.conformal.arrays import row_uniforms as row_uniforms
    from neurosym.certify.conformal.calibrate import class_thresholds as class_thresholds
    from neurosym.certify.conformal.calibrate import cluster_classes as cluster_classes
    from neurosym.certify.conformal.calibrate import clustered_thresholds as clustered_thresholds
    from neurosym.certify.conformal.calibrate import group_thresholds as group_thresholds
    from neurosym.certify.conformal.calibrate import marginal_threshold as marginal_threshold
    from neurosym.certify.conformal.classifier import ConformalClassifier as ConformalClassifier
    from neurosym.certify.conformal.metrics import SetReport as SetReport
    from neurosym.certify.conformal.metrics import report as report
    from neurosym.certify.conformal.online import AdaptiveLevel as AdaptiveLevel
    from neurosym.certify.conformal.online import QuantileTracker as QuantileTracker
    from neurosym.certify.conformal.online import adaptive_run as adaptive_run
    from neurosym.certify.conformal.online import tracking_run as tracking_run
    from neurosym.certify.conformal.pvalues import class_p_values as class_p_values
    from neurosym.certify.conformal.pvalues import group_p_values as group_p_values
    from neurosym.certify.conformal.pvalues import p_value_sets as p_value_sets
    from neurosym.certify.conformal.pvalues import p_values as p_values
    from neurosym.certify.conformal.risk import conformal_risk_control as conformal_risk_control
    from neurosym.certify.conformal.risk import learn_then_test as learn_then_test
    from neurosym.certify.conformal.rules import Score as Score
    from neurosym.certify.conformal.rules import label_scores as label_scores
    from neurosym.certify.conformal.sets import class_sets as class_sets
    from neurosym.certify.conformal.sets import prediction_sets as prediction_sets
    from neurosym.certify.conformal.temperature import apply_temperature as apply_temperature
    from neurosym.certify.conformal.temperature import fit_temperature as fit_temperature
    from neurosym.certify.conformal.weighted import label_weighted_thresholds as label_weighted_thresholds
    from neurosym.certify.conformal.weighted import weighted_thresholds as weighted_thresholds

HOMES = {
    "arrays": ("row_uniforms",),
    "calibrate": (
        "class_thresholds",
        "cluster_classes",
        "clustered_thresholds",
        "group_thresholds",
        "marginal_threshold",
    ),
    "classifier": ("ConformalClassifier",),
    "metrics": ("SetReport", "report"),
    "online": ("AdaptiveLevel", "QuantileTracker", "adaptive_run", "tracking_run"),
    "pvalues": ("class_p_values", "group_p_values", "p_value_sets", "p_values"),
    "risk": ("conformal_risk_control", "learn_then_test"),
    "rules": ("Score", "label_scores"),
    "sets": ("class_sets", "prediction_sets"),
    "temperature": ("apply_temperature", "fit_temperature"),
    "weighted": ("label_weighted_thresholds", "weighted_thresholds"),
}
_NAMES = {name: module for module, names in HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"neurosym.certify.conformal.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'neurosym.certify.conformal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
