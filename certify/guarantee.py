"""The guarantee in words: one plain sentence for each method, what it assumes, and what it does not say.

Sources: split conformal prediction (Vovk, Gammerman, Shafer 2005, ch. 2); RCP1 (robust conformal prediction with a
single binary certificate); BinCP (binarised smoothing certificates); COLEP (Kang et al., ICLR 2024). The finite
sample forms stand in the modules of the methods.
"""

from __future__ import annotations

from fractions import Fraction

from neurosym.certify import exact
from neurosym.certify.records import Calibrated
from neurosym.certify.schema import GuaranteeText

_EXCHANGEABLE = (
    "The calibration points and the new image are exchangeable: same source, no selection, and no calibration "
    "point was used to train, tune or choose anything."
)
_ATTACKER = (
    "The attacker changes the image by at most {radius} in L2 distance, measured in the network's input units "
    "after preprocessing, and may know the model, the rules and the calibration data."
)
_NOISE = (
    "Gaussian noise of standard deviation {sigma} is drawn after the attack and independently of it: the attacker "
    "does not know the draws for the new image."
)
_NUMERICS = "Calibration and prediction ran with the same weights, the same preprocessing and the same numerics."
_BOXES = (
    "The intervals of the predicate probabilities hold for every attack within the radius; they were supplied, "
    "not derived here."
)
_CAVEATS = [
    "The probability is over the calibration set, the new image and the noise together; it is an average over "
    "images and classes, not a promise for each single image or class.",
]


def percent(value: Fraction) -> str:
    """``0.9`` -> ``90 %``, exact where the decimal ends and 4 digits otherwise."""
    scaled = value * 100
    text = exact.to_text(scaled)
    return f"{text} %" if "/" not in text else f"{float(scaled):.4g} %"


def _sentence(calibrated: Calibrated) -> str:
    level = percent(1 - exact.from_text(calibrated.alpha, "alpha"))
    radius = exact.from_text(calibrated.radius, "radius")
    if radius == 0:
        return f"With probability at least {level}, the set given for a new image contains its true label."
    return (
        f"With probability at least {level}, the set given for a new image contains its true label, even after "
        f"an attacker has changed the image by up to {calibrated.radius} in L2 distance."
    )


def describe(calibrated: Calibrated) -> GuaranteeText:
    """The guarantee of a calibrated predictor: sentence, assumptions, caveats."""
    radius = exact.from_text(calibrated.radius, "radius")
    assumptions = [_EXCHANGEABLE]
    if radius > 0:
        assumptions.append(_ATTACKER.format(radius=calibrated.radius))
    if exact.from_text(calibrated.sigma, "sigma") > 0:
        assumptions.append(_NOISE.format(sigma=calibrated.sigma))
    if "lower" in calibrated.calibration:
        assumptions.append(_BOXES)
    assumptions.append(_NUMERICS)
    caveats = list(_CAVEATS)
    if calibrated.trivial:
        caveats.append("This calibration is too small for the level: every set holds every label.")
    return GuaranteeText(sentence=_sentence(calibrated), assumptions=assumptions, caveats=caveats)
