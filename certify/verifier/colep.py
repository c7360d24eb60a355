"""Checks of COLEP: count tables, calibration scores through the circuit, and sets from the boxes of the sensors."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from neurosym.certify.schema import Real
from neurosym.certify.verifier import scores
from neurosym.certify.verifier.circuit import FALLS, RISES, Box, Circuits
from neurosym.certify.verifier.common import Refused, Run, array, budget, compare_sets, hex_value, integer, ratio, real
from neurosym.certify.verifier.numbers import WORK, as_decimal, limit_below, safe_range_below, shifted
from neurosym.certify.verifier.rules import NotRederivable, read_knowledge
from neurosym.certify.verifier.votes import only_derived
from neurosym.certify.verifier.wording import rests_on_boxes

POINT_TOLERANCE = Decimal("1e-9")  # double precision evaluation of a circuit, with room
WIDENED = Decimal("3e-10")  # producers widen circuit bounds by 1e-10 against their own rounding
EXACT_TIE = Decimal("1e-13")
CIRCUIT_TIE = Decimal("5e-11")  # half of that widening: a tie that lowered scores may not break
MANY_COUNTS = 2000  # up to this many draws every entry of a count table is recomputed


def by_boxes(run: Run) -> bool:
    """Whether the evidence is intervals instead of votes."""
    return rests_on_boxes(run.certificate.method, run.certificate.calibration.lower is not None)


def normalised_here(run: Run) -> bool:
    """Whether class columns of a softmax are divided by their sum; the other methods take them as they are."""
    return run.certificate.method == "colep" and by_boxes(run)


def circuits_of(run: Run) -> Circuits:
    """The reasoning layer, read afresh from the canonical knowledge base."""
    certificate, layer = run.certificate, run.certificate.reasoning
    classes = len(certificate.classes)
    if layer.circuit == "none":
        # one-hot votes sum to one by themselves and are taken as they are; COLEP's intervals of a softmax are normalised
        kind = layer.class_kind if normalised_here(run) else "binary"
        return Circuits(None, "none", kind, classes)
    document = run.document["reasoning"]["knowledge"]
    if document is None:
        raise Refused(f"circuit {layer.circuit} is claimed, but the certificate holds no rules")
    scale = layer.scale.value
    if not 0 <= scale < float("inf"):
        raise Refused(f"scale {layer.scale.decimal} is not a finite number >= 0")
    knowledge = read_knowledge(document, layer.circuit, Fraction(scale))
    if knowledge.predicates != tuple(certificate.predicates) or knowledge.classes != classes:
        raise Refused("the predicates of the rules are not those of the evidence")
    circuits = Circuits(knowledge, layer.circuit, layer.class_kind, classes)
    # with one corner for each class only one side of each sensor is paid for, and the sum of the others is out of reach
    circuits.simplex = not (certificate.score == "lac" and layer.bound == "exact" and circuits.one_corner)
    return circuits


def required_sides(circuits: Circuits, kind: str, exact_bound: bool) -> int:
    """Fewest one-sided sensor events that the sets of this certificate rest on, the most over the labels."""
    classes = range(circuits.classes)
    if circuits.circuit == "none":
        return {"lac": 1, "binary_aps": 2}.get(kind, circuits.classes + 1)
    used = [circuits.sides(c) for c in classes]
    both = [{variable for variable, _ in sides} for sides in used]
    if kind in scores.K_ARY:
        return 2 * len(set().union(*both))
    if kind == "lac" and exact_bound and circuits.one_corner:
        return max(len(sides) for sides in used)
    if kind == "lac" and exact_bound and not circuits.softmax:
        return max(len(sides) for sides in used)
    return 2 * max(len(variables) for variables in both)


def colep_numbers(run: Run) -> str:
    """Sensor sides, failure probability of each, and the tables from attacked counts to clean intervals."""
    certificate = run.certificate
    scores.check_kind(certificate.score)
    circuits = circuits_of(run)
    if by_boxes(run):
        if certificate.trials or certificate.derived:
            raise Refused("intervals need neither noise draws nor derived numbers")
        return "intervals as supplied"
    only_derived(
        run, "trials_test", "sensor_sides", "attacked_failure_per_side", "clean_failure_per_side", "radius_over_sigma",
        "attacked_lower", "attacked_upper",
    )  # fmt: skip
    items, sides = budget(run), integer(run, "sensor_sides")
    needed = required_sides(circuits, certificate.score, certificate.reasoning.bound == "exact")
    if sides < needed:
        raise Refused(f"sensor_sides is {sides}, but the score of one label depends on {needed}")
    for name in ("attacked", "clean"):
        exact = items.get(f"{name}_votes", Fraction(0)) / sides
        recorded = Fraction(real(run, f"{name}_failure_per_side"))
        if exact <= 0 or abs(recorded - exact) > exact * Fraction(1, 10**15):
            raise Refused(f"{name}_failure_per_side is not the budget item over {sides} sides")
    shift = ratio(run)
    if abs(Fraction(real(run, "radius_over_sigma")) - shift) > shift * Fraction(1, 10**15):
        raise Refused(f"radius_over_sigma is not radius / sigma = {float(shift)!r}")
    return f"{sides} sensor sides; " + _check_tables(run, sides, shift)


def _recorded_table(run: Run, name: str) -> list[int]:
    """A table of clean fractions by attacked count, as counts out of ``trials``."""
    draws, draws_test = run.certificate.trials, integer(run, "trials_test")
    entries = run.certificate.derived.get(name)
    if not isinstance(entries, list) or len(entries) != draws_test + 1 or draws < 1 or draws_test < 1:
        raise Refused(f"derived.{name} is not a table of {draws_test + 1} entries")
    counts = []
    for count, entry in enumerate(entries):
        value = entry.value if isinstance(entry, Real) else -1.0
        clean = round(value * draws) if 0 <= value <= 1 else -1
        if clean < 0 or clean / draws != value:
            raise Refused(f"derived.{name}[{count}] is not a count out of {draws} draws")
        counts.append(clean)
    return counts


def _check_tables(run: Run, sides: int, shift: Fraction) -> str:
    items, draws, draws_test = budget(run), run.certificate.trials, integer(run, "trials_test")
    lower, upper = _recorded_table(run, "attacked_lower"), _recorded_table(run, "attacked_upper")
    attacked, clean = items["attacked_votes"] / sides, as_decimal(items["clean_votes"] / sides)
    counts: Sequence[int] = range(draws_test + 1)
    if draws_test > MANY_COUNTS:
        seen = np.unique(array(run, "observed_votes", len(run.certificate.predicates), "i"))
        counts = sorted({int(count) for count in seen if 0 <= count <= draws_test} | {0, draws_test})
    for table, name in ((lower, "attacked_lower"), (upper, "attacked_upper")):
        if any(after < before for before, after in itertools.pairwise(table)):
            raise Refused(f"derived.{name} is not increasing")
    for count in counts:
        for name, ones, recorded in (
            ("attacked_lower", count, lower[count]),
            ("attacked_upper", draws_test - count, draws - upper[count]),  # an upper limit is a lower one of noes
        ):
            limit = shifted(limit_below(ones, draws_test, attacked), -shift)
            least, most = safe_range_below(draws, limit, clean)
            if not least <= recorded <= most:
                raise Refused(f"derived.{name}[{count}] is not what the draws, the budget and the radius give")
    return f"{len(counts)} entries of each count table"


def uniform_of(texts: Sequence[str] | None, row: int) -> Decimal:
    """The uniform of a calibration row (1 where none are recorded)."""
    value = Decimal(1) if texts is None else Decimal(hex_value(texts[row], f"calibration.uniforms row {row}"))
    if not 0 <= value <= 1:
        raise Refused(f"calibration.uniforms row {row} is not between 0 and 1")
    return value


def tie_of(circuits: Circuits) -> Decimal:
    """How close to the threshold a label must be kept: scores may be recorded too low by half of it at most."""
    return EXACT_TIE if circuits.circuit == "none" else CIRCUIT_TIE


def _tight(run: Run, circuits: Circuits) -> bool:
    """Whether the producer's bounds are the exact ones wherever those are corners; without rules all bounds are."""
    return circuits.circuit == "none" or run.certificate.reasoning.bound == "exact"


def within(recorded: float, low: Decimal, high: Decimal, row: int, tie: Decimal) -> None:
    """Refuse a recorded calibration score outside the range that its evidence gives."""
    if not low - tie / 2 <= Decimal(recorded) <= high + POINT_TOLERANCE:
        raise Refused(f"calibration.scores row {row} is {recorded!r}, but its evidence gives {float(low)!r}")


def calibration_scores(run: Run) -> str:
    """Every calibration score from its votes (or intervals) through this package's own circuit."""
    circuits, table = circuits_of(run), run.certificate.calibration
    if table.lower is not None and table.upper is not None:
        return _box_scores(run, circuits)
    if table.votes is None:
        raise Refused("calibration.votes is missing")
    draws, width = run.certificate.trials, len(run.certificate.predicates)
    fractions = [as_decimal(Fraction(count, draws)) for count in range(draws + 1)]
    with localcontext(WORK):
        for row, (votes, label) in enumerate(zip(table.votes, table.labels, strict=True)):
            if len(votes) != width or not all(0 <= vote <= draws for vote in votes):
                raise Refused(f"calibration.votes row {row} is not {width} counts out of {draws}")
            sensors = [fractions[vote] for vote in votes]
            kind = run.certificate.score
            wanted = range(circuits.classes) if kind in scores.K_ARY else (label,)
            p = {c: circuits.probability(c, sensors) for c in wanted}
            row_p = [p.get(c, Decimal(0)) for c in range(circuits.classes)]
            low, high = scores.at_point(kind, row_p, label, uniform_of(table.uniforms, row))
            within(hex_value(table.scores[row], "score"), low, high, row, tie_of(circuits))
    return f"{len(table.labels)} scores recomputed from votes"


def _box(low: Sequence[float], high: Sequence[float], width: int, where: str) -> Box:
    if len(low) != width or len(high) != width or not all(0 <= a <= b <= 1 for a, b in zip(low, high, strict=True)):
        raise Refused(f"{where}: not {width} intervals within [0, 1]")
    return Box([Decimal(value) for value in low], [Decimal(value) for value in high])


def _box_scores(run: Run, circuits: Circuits) -> str:
    table, width, kind = run.certificate.calibration, len(run.certificate.predicates), run.certificate.score
    assert table.lower is not None
    assert table.upper is not None
    larger = 0
    with localcontext(WORK):
        for row, label in enumerate(table.labels):
            ends = [[hex_value(text, "interval") for text in rows[row]] for rows in (table.lower, table.upper)]
            box = _box(ends[0], ends[1], width, f"calibration row {row}")
            value, _, closed = greatest_score(circuits, kind, box, label, uniform_of(table.uniforms, row))
            recorded = Decimal(hex_value(table.scores[row], "score"))
            sure = closed and _tight(run, circuits)
            if recorded < value - EXACT_TIE or (sure and recorded > value + POINT_TOLERANCE):
                raise Refused(
                    f"calibration.scores row {row} is {float(recorded)!r}, but its intervals give {float(value)!r}"
                )
            larger += recorded > value + POINT_TOLERANCE
    note = f", {larger} of them larger than needed (safe)" if larger else ""
    return f"{len(table.labels)} scores recomputed from intervals{note}"


def greatest_score(circuits: Circuits, kind: str, box: Box, label: int, u: Decimal) -> tuple[Decimal, bool, bool]:
    """Supremum of the score of a label over the box, and whether it is exact and closed (see ``Bounded``)."""
    wanted = range(circuits.classes) if kind in scores.K_ARY else (label,)
    lows, highs = [Decimal(0)] * circuits.classes, [Decimal(0)] * circuits.classes
    exact = closed = True
    for c in wanted:
        lows[c], highs[c], sharp, short = _class_interval(circuits, box, c)
        exact, closed = exact and sharp, closed and short
    return scores.greatest(kind, lows, highs, label, u), exact, closed


def _class_interval(circuits: Circuits, box: Box, label: int) -> tuple[Decimal, Decimal, bool, bool]:
    """Bounds of P(label) over the box, exact, closed; [0, 1] where no world is left."""
    low, high = circuits.bound(label, box, FALLS), circuits.bound(label, box, RISES)
    if low is None or high is None:
        return Decimal(0), Decimal(1), False, False
    return low.value, high.value, low.exact and high.exact, low.closed and high.closed


def observed_boxes(run: Run) -> list[Box]:
    width = len(run.certificate.predicates)
    if by_boxes(run):
        lower = array(run, "observed_lower", width, "f").tolist()
        upper = array(run, "observed_upper", width, "f").tolist()
        pairs = zip(lower, upper, strict=True)
        return [_box(low, high, width, f"test row {row}") for row, (low, high) in enumerate(pairs)]
    votes, draws = array(run, "observed_votes", width, "i"), integer(run, "trials_test")
    bad = np.argwhere((votes < 0) | (votes > draws))
    if len(bad):
        raise Refused(f"test row {int(bad[0][0])}: {int(votes[tuple(bad[0])])} votes of {draws} draws")
    tables = [
        [as_decimal(Fraction(count, run.certificate.trials)) for count in _recorded_table(run, name)]
        for name in ("attacked_lower", "attacked_upper")
    ]
    rows = votes.tolist()
    return [Box([tables[0][count] for count in row], [tables[1][count] for count in row]) for row in rows]


def _least_scores(run: Run, circuits: Circuits, box: Box, u: Decimal) -> list[tuple[Decimal, bool, bool]]:
    """Infimum of each label's score over the box, exact, closed."""
    kind, classes = run.certificate.score, range(circuits.classes)
    if kind == "lac":
        found = [circuits.bound(c, box, RISES) for c in classes]
        return [(Decimal(0), False, False) if b is None else (1 - b.value, b.exact, b.closed) for b in found]
    intervals = [_class_interval(circuits, box, c) for c in classes]
    lows, highs = [one[0] for one in intervals], [one[1] for one in intervals]
    exact, closed = all(one[2] for one in intervals), all(one[3] for one in intervals)
    if kind != "binary_aps" and circuits.circuit != "none":
        closed = closed and not circuits.softmax  # ranges of K-ary scores on a simplex are sound, not exact
    return [(scores.least(kind, lows, highs, c, u), exact, closed) for c in classes]


def _judge(
    run: Run, circuits: Circuits, box: Box, u: Decimal, row_set: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """Labels that belong to one set, labels that may be kept besides, and a label whose absence is not confirmed."""
    certificate, threshold = run.certificate, Decimal(run.certificate.threshold.value)
    expected, optional = np.zeros(row_set.shape, dtype=bool), np.zeros(row_set.shape, dtype=bool)
    # where hard rules may leave no world, a producer must keep every label
    lenient = circuits.hard and (bool(row_set.all()) or _pins(box))
    tie = tie_of(circuits)
    for label, (value, exact, closed) in enumerate(_least_scores(run, circuits, box, u)):
        if value <= threshold + tie and exact:
            expected[label] = True
        elif value <= threshold + tie and not row_set[label]:
            return expected, optional, certificate.classes[label]
        else:
            sure = closed and not lenient and _tight(run, circuits)
            optional[label] = not sure or value <= threshold + WIDENED
    return expected, optional, None


def colep_sets(run: Run) -> str:
    """A label stays when the least score over the box of its sensors is at most the threshold."""
    certificate, circuits = run.certificate, circuits_of(run)
    sets = array(run, "sets", len(certificate.classes), "b")
    expected, optional = np.zeros(sets.shape, dtype=bool), np.zeros(sets.shape, dtype=bool)
    if certificate.rank > certificate.n:
        return compare_sets(run, ~expected)
    draws = observed_uniforms_of(run)
    with localcontext(WORK):
        for row, box in enumerate(observed_boxes(run)):
            expected[row], optional[row], doubtful = _judge(run, circuits, box, draws[row], sets[row])
            if doubtful is not None:
                raise NotRederivable(
                    f"row {row}: label {doubtful} is left out, and the bound used here is not tight enough to "
                    "confirm that"
                )
    kept = int((optional & sets).sum())
    note = f"; {kept} members that a tighter bound might drop were kept, which is safe" if kept else ""
    return compare_sets(run, expected, optional) + note


def observed_uniforms_of(run: Run) -> list[Decimal]:
    """One uniform for each test row (1 where the score needs none)."""
    if "observed_uniforms" not in run.arrays:
        if run.certificate.score != "lac":
            raise Refused("sets.npz lacks observed_uniforms, which a randomised score needs")
        return [Decimal(1)] * run.certificate.test.n
    values = array(run, "observed_uniforms", None, "f").tolist()
    if not all(0 <= value <= 1 for value in values):
        raise Refused("sets.npz: observed_uniforms are not all between 0 and 1")
    return [Decimal(value) for value in values]


def _pins(box: Box) -> bool:
    return any(low == 0 or high == 1 for low, high in zip(box.lower, box.upper, strict=True))
