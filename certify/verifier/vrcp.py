"""Checks of VRCP: scores of recorded probabilities on the one side, scores over recorded intervals on the other."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np

from neurosym.certify.verifier import colep, scores
from neurosym.certify.verifier.circuit import Circuits
from neurosym.certify.verifier.common import Refused, Run, array, compare_sets, hex_value
from neurosym.certify.verifier.numbers import WORK
from neurosym.certify.verifier.votes import only_derived

WIDENED = 2 * colep.WIDENED  # producers lower scores against rounding in circuits and in sums over the classes


def numbers(run: Run) -> str:
    """Neither noise nor derived numbers; a score that is known."""
    scores.check_kind(run.certificate.score)
    only_derived(run)
    if run.certificate.trials or run.certificate.reasoning.bound != "exact":
        raise Refused("verified bounds need no noise draws, and bound circuits exactly or not at all")
    return f"nothing derived; {run.certificate.norm} ball of radius {run.certificate.radius}"


def _row_uniform(values: Sequence[str] | None, row: int, kind: str) -> Decimal:
    if values is None and kind != "lac":
        raise Refused("calibration.uniforms is missing, which a randomised score needs")
    return colep.uniform_of(values, row)


Range = tuple[Decimal, Decimal]


def point_scores(
    run: Run, circuits: Circuits, sensors: Sequence[Decimal], u: Decimal, label: int | None
) -> list[Range]:
    """Scores at one point, as ranges that ties within double precision allow: of ``label``, or of every label."""
    kind, classes = run.certificate.score, range(circuits.classes)
    every = label is None or kind in scores.K_ARY
    p = [circuits.probability(c, sensors) if every or c == label else Decimal(0) for c in classes]
    return [scores.at_point(kind, p, c, u) for c in (classes if label is None else (label,))]


def answers(row: Sequence[float], width: int, where: str) -> list[Decimal]:
    """A row of ``width`` probabilities in decimals."""
    if len(row) != width or not all(0 <= value <= 1 for value in row):
        raise Refused(f"{where}: not {width} probabilities")
    return [Decimal(value) for value in row]


def clean_scores(run: Run) -> str:
    """VRCP-I: every calibration score from its probabilities."""
    circuits, table = colep.circuits_of(run), run.certificate.calibration
    width, kind = len(run.certificate.predicates), run.certificate.score
    if table.probs is None or table.lower is not None:
        raise Refused("calibration.probs is missing, or intervals stand beside it that nothing follows from")
    with localcontext(WORK):
        for row, (texts, label) in enumerate(zip(table.probs, table.labels, strict=True)):
            sensors = answers([hex_value(text, "probability") for text in texts], width, f"calibration row {row}")
            u = _row_uniform(table.uniforms, row, kind)
            low, high = point_scores(run, circuits, sensors, u, label)[0]
            colep.within(hex_value(table.scores[row], "score"), low, high, row, colep.tie_of(circuits))
    return f"{len(table.labels)} scores recomputed from probabilities"


def bounded_scores(run: Run) -> str:
    """VRCP-C: every calibration score from its intervals."""
    table = run.certificate.calibration
    if table.lower is None or table.upper is None or table.probs is not None:
        raise Refused("calibration.lower or upper is missing, or probabilities stand beside them")
    if table.uniforms is None and run.certificate.score != "lac":
        raise Refused("calibration.uniforms is missing, which a randomised score needs")
    return colep.calibration_scores(run)


def clean_sets(run: Run) -> str:
    """VRCP-C: a label stays when its score at the test point is at most the threshold."""
    certificate, circuits = run.certificate, colep.circuits_of(run)
    width, threshold = len(certificate.predicates), Decimal(run.certificate.threshold.value)
    found = array(run, "observed_probs", width, "f").tolist()
    expected = np.zeros((certificate.test.n, len(certificate.classes)), dtype=bool)
    if certificate.rank > certificate.n:
        return compare_sets(run, ~expected)
    optional, uniforms = expected.copy(), colep.observed_uniforms_of(run)
    tie = colep.tie_of(circuits)
    with localcontext(WORK):
        for row, values in enumerate(found):
            sensors = answers(values, width, f"test row {row}")
            for label, (low, high) in enumerate(point_scores(run, circuits, sensors, uniforms[row], None)):
                expected[row, label] = high <= threshold + tie
                optional[row, label] = low <= threshold + WIDENED
    return compare_sets(run, expected, optional)
