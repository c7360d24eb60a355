"""The words of a guarantee, each a function of the numbers that it speaks of: nothing in them is free text.

Producer and verifier share these words, so that a certificate says neither more nor less than what was checked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

EXCHANGEABLE = (
    "The calibration points and the new image are exchangeable: same source, no selection, and no calibration "
    "point was used to train, tune or choose anything."
)
NORMS = {"l2": "L2", "linf": "L-infinity"}
SCORE = "score"  # radius of the scores themselves
ATTACKER = (
    "The attacker changes the image by at most {radius} in {norm} distance, in the units of the noise (for networks run "
    "here: pixels scaled to [0, 1], before normalisation), and may know the model, the rules and the calibration data."
)
SEEN_ATTACKER = (
    "The attacker changes the image by at most {radius} in {norm} distance (for networks run here: pixels scaled to "
    "[0, 1] before normalisation, and still within [0, 1] after the change), and may know everything: the model, the "
    "rules, the calibration data and all that is drawn at random."
)
NOISE = (
    "Gaussian noise of standard deviation {sigma} is drawn after the attack and independently of it: the attacker "
    "does not know the draws for the new image."
)
INDEPENDENT = (
    "The calibration points are independent draws from one distribution, no calibration point was used to train, tune or "
    "choose anything, and the new image is drawn independently of them, possibly from another distribution."
)
SHIFTED = (
    "The score of the new image's true label can be paired with that of an image like those of the calibration such that "
    "the two differ by more than {radius} with probability at most {mass}: a Levy-Prokhorov ball around the calibration "
    "scores. Whether a change of the images stays within it is not examined here."
)
NUMERICS = "Calibration and prediction ran with the same weights, the same preprocessing and the same numerics."
BOXES = (
    "The intervals of the predicate probabilities hold for every attack within the radius; they were supplied, "
    "not derived here."
)
AVERAGE = (
    "The probability is over the calibration set, the new image and the noise together; it is an average over "
    "images and classes, not a promise for each single image or class."
)
ASYMPTOTIC = (
    "This is an asymptotic statement: the error of the finitely many noise draws that were made is not accounted for, so "
    "for them no coverage is proved."
)
TRIVIAL = "This calibration is too small for the level: every set holds every label."


@dataclass(frozen=True)
class Words:
    """Sentence, assumptions and caveats of one guarantee."""

    sentence: str
    assumptions: list[str]
    caveats: list[str]


def decimal_text(value: Fraction) -> str:
    """Shortest exact decimal of a number >= 0, or ``p/q`` where the expansion does not end."""
    rest, digits = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        digits = max(digits, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    text = f"{(value * 10**digits).numerator:0{digits + 1}d}"
    return f"{text[:-digits]}.{text[-digits:]}" if digits else text


def percent(value: Fraction) -> str:
    """``0.9`` -> ``90 %``; rounded down to 4 digits after the point where the decimal does not end."""
    text = decimal_text(value * 100)
    if "/" in text:
        text = decimal_text(Fraction(math.floor(value * 100 * 10**4), 10**4))
    return f"{text} %"


def rests_on_boxes(method: str, boxed_calibration: bool) -> bool:
    """Whether a guarantee rests on intervals of the predicate probabilities, at calibration or at test."""
    return boxed_calibration or method == "vrcp_i"


def _shift_words(alpha: Fraction, radius: Fraction, sigma: Fraction, mass: Fraction, trivial: bool) -> Words:
    """The guarantee of the Levy-Prokhorov method."""
    shown, share = decimal_text(radius), percent(mass)
    sentence = (
        f"With probability at least {percent(1 - alpha)}, the set given for a new image contains its true label, even after "
        f"the distribution of scores has shifted: each score by up to {shown}, and those of at most {share} of the images "
        "without limit."
    )
    assumptions = [INDEPENDENT, SHIFTED.format(radius=shown, mass=decimal_text(mass))]
    if sigma > 0:
        assumptions.append(NOISE.format(sigma=decimal_text(sigma)))
    return Words(sentence, [*assumptions, NUMERICS], [AVERAGE] + [TRIVIAL] * trivial)


def words(
    alpha: Fraction,
    radius: Fraction,
    sigma: Fraction,
    *,
    boxes: bool,
    trivial: bool,
    norm: str = "l2",
    limit: bool = False,
    mass: Fraction = Fraction(0),
) -> Words:
    """The guarantee at total error ``alpha`` against attacks up to ``radius`` under noise ``sigma``.

    Args:
        boxes: intervals were supplied; trivial: every set holds every label; norm: distance of ``radius``;
            ``score`` for moves of scores; limit: only proved for infinitely many noise draws; mass: share of the
            scores that may move anywhere.
    """
    if norm == SCORE:
        return _shift_words(alpha, radius, sigma, mass, trivial)
    sentence = f"With probability at least {percent(1 - alpha)}, the set given for a new image contains its true label"
    if limit:
        sentence = f"In the limit of infinitely many noise draws, {sentence[0].lower()}{sentence[1:]}"
    assumptions = [EXCHANGEABLE]
    if radius > 0:
        shown = decimal_text(radius)
        sentence += f", even after an attacker has changed the image by up to {shown} in {NORMS[norm]} distance"
        assumptions.append((ATTACKER if sigma > 0 else SEEN_ATTACKER).format(radius=shown, norm=NORMS[norm]))
    if sigma > 0:
        assumptions.append(NOISE.format(sigma=decimal_text(sigma)))
    if boxes:
        assumptions.append(BOXES)
    caveats = [ASYMPTOTIC] * limit + [AVERAGE] + [TRIVIAL] * trivial
    return Words(f"{sentence}.", [*assumptions, NUMERICS], caveats)
