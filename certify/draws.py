"""Scores of noise draws, streamed: one loop for every method that looks at single draws."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from neurosym.certify.evidence import Evidence, ProbEvidence, SampleEvidence, ScoreEvidence, VoteEvidence
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.scores import resolve, score
from neurosym.errors import InputError

BLOCK = 1 << 21  # scores held at once for stored score evidence


def drawn(evidence: Evidence) -> SampleEvidence | ScoreEvidence:
    """``evidence`` if it holds single noise draws.

    Raises:
        InputError: probabilities, votes or boxes, which do not.
    """
    if isinstance(evidence, ScoreEvidence | SampleEvidence):
        return evidence
    raise InputError(
        f"{type(evidence).__name__} holds no noise draws; give score samples or the model, or use method colep"
    )


def score_draws(
    evidence: Evidence,
    reasoning: Reasoning,
    kind: str,
    u: np.ndarray,
    *,
    first_only: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (row numbers ``[b]``, scores ``[b, M, K]``); stored scores are passed on as they are.

    Args:
        u: float64 ``[n]``, one number for each row, shared by its draws: given u the score is a fixed function of
            the noisy input, which is what the smoothing certificates need.
        first_only: keep only the first draw (M = 1).
    """
    source = drawn(evidence)
    if isinstance(source, ScoreEvidence):
        block = max(1, BLOCK // max(1, source.scores.shape[1] * source.trials))
        for start in range(0, source.n, block):
            rows = np.arange(start, min(start + block, source.n))
            scores = source.scores[rows].swapaxes(1, 2)
            yield rows, scores[:, :1] if first_only else scores
        return
    for rows, q in reasoned(source, reasoning, first_only):
        yield rows, score(q, kind, u[rows][:, None])


def reasoned(
    source: SampleEvidence, reasoning: Reasoning, first_only: bool = False
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of (row numbers ``[b]``, reasoned class probabilities ``[b, M, K]``).

    Evidence may bring a method ``reasoned(reasoning)`` of its own that remembers them, for studies that reason
    over the same samples many times.
    """
    memory = getattr(source, "reasoned", None)
    if memory is not None:
        for rows, q in memory(reasoning):
            yield rows, q[:, :1] if first_only else q
        return
    columns = reasoning.columns(source.predicates)
    for rows, samples in source.chunks():
        p = (samples[:, :1] if first_only else samples).numpy().astype(np.float64)
        yield rows, reasoning.class_probabilities(p if columns is None else p[..., columns])


def kind_of(evidence: Evidence, reasoning: Reasoning, name: str) -> str:
    """The score that is computed; for stored scores the name is taken as given."""
    return name if isinstance(evidence, ScoreEvidence) else resolve(name, reasoning.simplex)


def reasoning_for(evidence: Evidence, reasoning: Reasoning | None) -> Reasoning:
    """``reasoning``, or none at all with the classes of the evidence.

    Raises:
        InputError: rules together with stored scores, on which they cannot act, or another kind of classes.
    """
    if reasoning is None:
        return Reasoning(class_kind=evidence.class_kind, num_classes=evidence.num_classes)
    if isinstance(evidence, ScoreEvidence) and reasoning.circuit != "none":
        raise InputError("scores: rules cannot act on stored scores; give probabilities, votes or the model")
    if reasoning.class_kind != evidence.class_kind:
        raise InputError(
            f"field 'class_kind': {evidence.class_kind!r}, but the reasoning layer expects {reasoning.class_kind!r}"
        )
    if reasoning.num_classes and reasoning.num_classes != evidence.num_classes and reasoning.kb is None:
        raise InputError(f"num_classes: {evidence.num_classes} in the evidence, {reasoning.num_classes} expected")
    return reasoning


def one_score(evidence: Evidence, reasoning: Reasoning, kind: str, u: np.ndarray) -> np.ndarray:
    """One score for each label, ``[n, K]``: of the probabilities, the vote frequencies, or the first noise draw."""
    if isinstance(evidence, ProbEvidence | VoteEvidence):
        columns = reasoning.columns(evidence.predicates)
        p = evidence.probs if isinstance(evidence, ProbEvidence) else evidence.votes / evidence.trials
        p = p if columns is None else p[:, columns]
        return score(reasoning.class_probabilities(p), kind, u)
    blocks = [(rows, s[:, 0]) for rows, s in score_draws(evidence, reasoning, kind, u, first_only=True)]
    width = blocks[0][1].shape[1] if blocks else evidence.num_classes
    out = np.empty((evidence.n, width))
    for rows, scores in blocks:
        out[rows] = scores
    return out


def labels_of(evidence: Evidence, labels: np.ndarray | None, reasoning: Reasoning) -> np.ndarray:
    """``labels`` checked against the number of classes, or those of the evidence.

    Raises:
        InputError: there are none, or they do not fit.
    """
    from neurosym.certify.checks import check_labels

    found = evidence.labels if labels is None else labels
    if found is None:
        raise InputError("field 'labels' is missing; calibration needs one label a row")
    return check_labels(found, evidence.n, reasoning.num_classes or evidence.num_classes)
