"""What the methods on deterministic bounds share: clean scores, and least and greatest scores over boxes.

A box holds the predicate probabilities of every input in the attack ball. Without rules the class columns are taken as
they are (no normalisation: bounds of a softmax are bounds of numbers that sum to one already), so the range of a score
is that of :mod:`neurosym.certify.scores`; with rules the box goes through the bounds of the circuits first.

Rounding. Ranges of LAC and binary APS without rules are monotone in floating point as well, so they need no slack.
K-ary scores are sums, taken in another order over a box than at a point, and circuits are widened by
``reasoning.SLACK``; least scores are lowered, and greatest scores raised, by ``sum_slack``.
"""

from __future__ import annotations

import numpy as np

from neurosym.certify import scores
from neurosym.certify.evidence import BoxEvidence, Evidence, ProbEvidence, check_norm, in_words
from neurosym.certify.exact import Number, decimal
from neurosym.certify.methods.colep import aligned, as_columns, same_radius, score_bound
from neurosym.certify.reasoning import SLACK, Reasoning
from neurosym.errors import InputError

SUM_TOLERANCE = 1e-11  # a softmax in double precision; bounds of circuits are widened by more than this
LEAST_SLACK = 1e-12  # of sums of few labels, so that ties of decimal values are no matter of luck


def sum_slack(kind: str, classes: int) -> float:
    """What the order of summation can change in a score of K ``classes``: K numbers up to 1, so below K^2 2^-52."""
    return max(LEAST_SLACK, classes**2 * 2.0**-52) if kind in scores.K_ARY else 0.0


def clean_answers(evidence: Evidence, reasoning: Reasoning, method: str) -> np.ndarray:
    """Probabilities float64 ``[n, V]`` at the points themselves, columns as the rules number them.

    Raises:
        InputError: evidence that does not hold them, or, where rules are used, classes of one softmax that do not
            sum to one (bounds of circuits may use that they do).
    """
    if not isinstance(evidence, ProbEvidence | BoxEvidence):
        raise InputError(f"{in_words(type(evidence).__name__)} found; {method} needs probabilities ('probs') here")
    if evidence.probs is None:
        raise InputError(
            f"field 'probs' is missing; {method} needs the probabilities of the points themselves beside their boxes"
        )
    if evidence.class_kind == "categorical" and reasoning.circuit != "none":
        total = evidence.probs[:, : evidence.num_classes].sum(axis=1)
        off = np.flatnonzero(np.abs(total - 1.0) > SUM_TOLERANCE)
        if off.size:
            raise InputError(
                f"field 'probs' row {off[0]}: the classes sum to {total[off[0]]:.9g}; take the softmax in double "
                "precision, or give class_kind 'binary'"
            )
    return aligned(reasoning, evidence.predicates, evidence.probs)


def boxes_of(evidence: Evidence, radius: Number, method: str) -> BoxEvidence:
    """``evidence`` if it holds boxes that were made for ``radius``.

    Raises:
        InputError: it does not.
    """
    if not isinstance(evidence, BoxEvidence):
        found = in_words(type(evidence).__name__)
        raise InputError(f"{found} found; {method} needs boxes ('lower', 'upper', 'radius') here")
    same_radius(evidence.radius, radius)
    return evidence


def norm_of(evidence: Evidence, norm: str | None) -> str:
    """The distance of the boxes; ``norm`` must agree with it where both are known.

    Raises:
        InputError: they differ.
    """
    if norm is not None:
        check_norm(norm)
    found = evidence.norm if isinstance(evidence, BoxEvidence) else None
    if found is not None and norm is not None and found != norm:
        raise InputError(f"field 'norm': the boxes hold for {found}, but {norm} is asked for; make new boxes")
    return found or norm or "l2"


def box_sides(evidence: BoxEvidence, reasoning: Reasoning) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends, columns as the rules number them."""
    lower, upper = (aligned(reasoning, evidence.predicates, side) for side in (evidence.lower, evidence.upper))
    return lower, upper


def clean_scores(reasoning: Reasoning, probs: np.ndarray, kind: str, u: np.ndarray) -> np.ndarray:
    """Scores ``[n, K]`` at the points themselves."""
    return scores.score(as_columns(reasoning).class_probabilities(probs), kind, u)


def least_clean_scores(reasoning: Reasoning, probs: np.ndarray, kind: str, u: np.ndarray) -> np.ndarray:
    """``clean_scores`` lowered by all that rounding can do against the greatest scores of a box around the points."""
    found = clean_scores(reasoning, probs, kind, u)
    slack = sum_slack(kind, found.shape[1]) + (SLACK if reasoning.circuit != "none" else 0.0)
    return found - slack if slack else found


def box_scores(
    reasoning: Reasoning, lower: np.ndarray, upper: np.ndarray, kind: str, u: np.ndarray, *, top: bool
) -> np.ndarray:
    """Least, or greatest if ``top``, score of every label over the boxes, ``[n, K]``; safe against rounding."""
    found = score_bound(as_columns(reasoning), lower, upper, kind, u, "exact", top=top)
    slack = sum_slack(kind, found.shape[1])
    return found + slack if top else found - slack


def not_negative(radius: Number) -> None:
    """Refuse a negative radius."""
    if decimal(radius, "radius") < 0:
        raise InputError(f"radius: {radius} is negative; give the radius of the attack, 0 or more")
