"""What a calibration leaves behind: everything that prediction, certificate and verifier need, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from neurosym.certify import exact


@dataclass(frozen=True)
class BudgetItem:
    """One failure probability that a guarantee spends.

    Attributes:
        name: what may fail, e.g. ``"conformal"``, ``"clean_votes"``, ``"attacked_votes"``.
        value: exact decimal text of the probability.
        note: one sentence: how the item is used and over how many events it is spread.
    """

    name: str
    value: str
    note: str

    @property
    def amount(self) -> Fraction:
        return exact.from_text(self.value, f"budget item {self.name}")


@dataclass(frozen=True)
class Calibrated:
    """A calibrated robust conformal predictor.

    Attributes:
        method: ``vanilla``, ``rcp1``, ``bincp`` or ``colep``.
        score: ``lac``, ``aps``, ``raps`` or ``saps`` (of the reasoned class probabilities).
        alpha, radius, sigma: exact decimal text; ``sigma`` is ``"0"`` where no noise is used.
        trials: noise draws for each calibration point (0 where none are used).
        n: calibration points.
        rank: conformal rank in ascending order of *nonconformity*; ``n + 1`` stands for "no finite threshold".
        threshold: nonconformity threshold (``inf`` when ``rank > n``); a label stays when its score is <= it.
        budget: items that sum exactly to ``alpha``.
        derived: further numbers the prediction rule uses, all recomputable from the rest
            (e.g. for BinCP ``k``, ``p_lower``, ``p_shifted``, ``votes_needed``).
        calibration: arrays the threshold came from, each with ``n`` rows: ``labels``, ``scores`` (nonconformity,
            float64) and the evidence that they follow from, where there is one: ``votes`` (int64 ``[n, V]``),
            ``probs``, ``lower`` and ``upper``, or ``logits`` (float64 ``[n, V]``).
        reasoning: description of the reasoning layer: ``circuit``, ``class_kind``, ``scale``, ``bound``.
        notes: warnings that belong into the certificate.
        norm: distance in which ``radius`` is measured: ``l2``, ``linf``, or ``score`` for moves of the score itself.
    """

    method: str
    score: str
    alpha: str
    radius: str
    sigma: str
    trials: int
    n: int
    rank: int
    threshold: float
    budget: tuple[BudgetItem, ...]
    derived: Mapping[str, int | float]
    calibration: Mapping[str, np.ndarray]
    reasoning: Mapping[str, str | float]
    notes: tuple[str, ...] = field(default=())
    norm: str = "l2"

    @property
    def trivial(self) -> bool:
        """True when every label is always included: no finite threshold, no votes needed, or no total too large."""
        everything = self.derived.get("votes_needed", 1) == 0 or self.derived.get("keeps_all", False)
        return self.rank > self.n or bool(everything)
