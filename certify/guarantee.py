"""The guarantee in words: one plain sentence for each method, what it assumes, and what it does not say.

Sources: split conformal prediction (Vovk, Gammerman, Shafer 2005, ch. 2); RCP1 (robust conformal prediction with a
single binary certificate); BinCP (binarised smoothing certificates); COLEP (Kang et al., ICLR 2024); VRCP (Jeary et
al., NeurIPS 2024); Levy-Prokhorov shifts (Aolaritei et al. 2025). The finite sample forms stand in the modules of the
methods, the words in :mod:`neurosym.certify.verifier.wording`.
"""

from __future__ import annotations

from fractions import Fraction

from neurosym.certify import exact
from neurosym.certify.records import Calibrated
from neurosym.certify.schema import GuaranteeText
from neurosym.certify.verifier.wording import percent, rests_on_boxes, words

__all__ = ["describe", "percent"]


def describe(calibrated: Calibrated) -> GuaranteeText:
    """The guarantee of a calibrated predictor: sentence, assumptions, caveats."""
    numbers = (exact.from_text(getattr(calibrated, name), name) for name in ("alpha", "radius", "sigma"))
    boxes = rests_on_boxes(calibrated.method, "lower" in calibrated.calibration)
    limit = calibrated.method == "rscp" or bool(calibrated.derived.get("asymptotic", False))
    mass = sum((item.amount for item in calibrated.budget if item.name == "shifted_mass"), Fraction(0))
    found = words(*numbers, boxes=boxes, trivial=calibrated.trivial, norm=calibrated.norm, limit=limit, mass=mass)
    return GuaranteeText(sentence=found.sentence, assumptions=found.assumptions, caveats=found.caveats)
