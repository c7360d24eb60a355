"""Certified conformal prediction: evidence in, prediction sets with a coverage guarantee under attack out.

Names are imported on first use; importing this package imports neither torch nor scipy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from neurosym.certify.classifier import RobustConformalClassifier as RobustConformalClassifier
    from neurosym.certify.conformal.classifier import ConformalClassifier as ConformalClassifier
    from neurosym.certify.coverage import CoverageBound as CoverageBound
    from neurosym.certify.coverage import certified_coverage as certified_coverage
    from neurosym.certify.coverage import empirical_coverage as empirical_coverage
    from neurosym.certify.coverage import set_sizes as set_sizes
    from neurosym.certify.evidence import BoxEvidence as BoxEvidence
    from neurosym.certify.evidence import CachedSamples as CachedSamples
    from neurosym.certify.evidence import ProbEvidence as ProbEvidence
    from neurosym.certify.evidence import ScoreEvidence as ScoreEvidence
    from neurosym.certify.evidence import VoteEvidence as VoteEvidence
    from neurosym.certify.evidence import load_evidence as load_evidence
    from neurosym.certify.evidence import save_evidence as save_evidence
    from neurosym.certify.evidence import votes_from_samples as votes_from_samples
    from neurosym.certify.poisoning import label_range as label_range
    from neurosym.certify.poisoning import largest_budget as largest_budget
    from neurosym.certify.poisoning import poisoned_quantile as poisoned_quantile
    from neurosym.certify.quantile import conformal_quantile as conformal_quantile
    from neurosym.certify.quantile import conformal_rank as conformal_rank
    from neurosym.certify.quantile import smallest_n as smallest_n
    from neurosym.certify.reasoning import Reasoning as Reasoning
    from neurosym.certify.records import BudgetItem as BudgetItem
    from neurosym.certify.records import Calibrated as Calibrated
    from neurosym.certify.sampling import ModelEvidence as ModelEvidence

_HOMES = {
    "classifier": ("RobustConformalClassifier",),
    "conformal.classifier": ("ConformalClassifier",),
    "coverage": ("CoverageBound", "certified_coverage", "empirical_coverage", "set_sizes"),
    "evidence": (
        "BoxEvidence",
        "CachedSamples",
        "ProbEvidence",
        "ScoreEvidence",
        "VoteEvidence",
        "load_evidence",
        "save_evidence",
        "votes_from_samples",
    ),
    "poisoning": ("label_range", "largest_budget", "poisoned_quantile"),
    "quantile": ("conformal_quantile", "conformal_rank", "smallest_n"),
    "reasoning": ("Reasoning",),
    "records": ("BudgetItem", "Calibrated"),
    "sampling": ("ModelEvidence",),
}
_NAMES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(f"neurosym.certify.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'neurosym.certify' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])
