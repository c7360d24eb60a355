"""Evidence files of one certification: what is read, and which rows tune, calibrate and evaluate."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from neurosym.certify.evidence import in_words
from neurosym.certify.methods import AUTO, BOXED
from neurosym.certify.predicting import read_evidence
from neurosym.certify.study import Split, split_rows
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.logic.knowledge import KnowledgeBase


@dataclass(frozen=True)
class FileOptions:
    """Options of a certification from evidence files; numbers as decimal text."""

    method: str = "colep"
    score: str = "lac"
    circuit: Literal["auto", "none", "rules", "exclusive"] = "auto"
    bound: Literal["exact", "decoupled"] = "exact"
    alpha: str = "0.1"
    radius: str = "0"
    seed: int = 0
    tune: float = 0.2
    norm: str | None = None
    rho: str = "0"


def file_parts(cal: Path, test: Path | None, kb: KnowledgeBase | None, options: FileOptions) -> tuple[Any, Any, Split]:
    """Evidence for tuning and calibration, evidence for evaluation, and which rows are used for what.

    Rows are set aside for tuning only where there is something to choose.

    Raises:
        InputError: files that do not fit together.
    """
    calibration = read_evidence(cal, kb)
    if calibration.labels is None:
        raise InputError(f"{cal}: field 'labels' is missing; calibration needs one label a row")
    choose = options.method in ("bincp", AUTO) or (
        options.circuit == "auto" and kb is not None and (kb.rules or kb.groups)
    )
    share = options.tune if choose else 0.0
    if test is None:
        split = split_rows(calibration.n, options.seed, share, 0.5 * (1 - share))
        return calibration, calibration.take(split.test), split
    evaluated = read_evidence(test, kb)
    if options.method not in BOXED and type(evaluated) is not type(calibration):  # those may use two kinds
        raise InputError(
            f"{test}: holds {in_words(type(evaluated).__name__)}, but {cal} holds "
            f"{in_words(type(calibration).__name__)}; use one kind"
        )
    if evaluated.predicates != calibration.predicates:
        raise InputError(f"{test}: field 'predicates' differs from that of {cal}; evidence must name the same columns")
    tune_rows = np.arange(0)
    if share:
        tune_rows = split_rows(calibration.n, options.seed, share, (1 - share) / 2).tune
    kept = np.setdiff1d(np.arange(calibration.n), tune_rows)
    return calibration, evaluated, Split(tune_rows, kept, np.arange(evaluated.n))


def file_hashes(cal: Path, test: Path | None) -> dict[str, str]:
    """SHA-256 of the evidence files.

    Raises:
        InputError: both are the same: coverage measured on calibration points says nothing about new ones.
    """
    files = {"calibration": hashlib.sha256(cal.read_bytes()).hexdigest()}
    if test is not None:
        files["test"] = hashlib.sha256(test.read_bytes()).hexdigest()
        if files["test"] == files["calibration"]:
            raise InputError(f"{test}: the same content as {cal}; give other test points, or none to split {cal}")
    return files
