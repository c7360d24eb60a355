"""Checks that every method shares: checksums, plain sanity, error budget, rank and threshold, metrics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from neurosym.certify.schema import Interval, Real
from neurosym.certify.verifier.common import Refused, Run, array, budget, fraction, hex_value, real
from neurosym.certify.verifier.digests import array_digest, digest, document_digests, file_text
from neurosym.certify.verifier.numbers import RELATIVE, WORK, as_decimal, limit_above, limit_below, shifted
from neurosym.certify.verifier.wording import SCORE, Words, decimal_text, rests_on_boxes, words

MASS = "shifted_mass"
MOST_DRAWS = 200_000  # exact binomial tails of more draws would take minutes each
VOTE_ITEMS = ("conformal", "clean_votes", "attacked_votes")
DRAW_ITEMS = ("conformal", "clean_draws", "attacked_draws")


def checksums(run: Run) -> str:
    """The file is in its one spelling, and all sha256 values are those of its content."""
    expected, found = document_digests(run.document), run.document["digests"]
    for name in expected["sections"].keys() | found["sections"].keys():
        if expected["sections"].get(name) != found["sections"].get(name):
            raise Refused(f"section {name} does not have the recorded sha256")
    if expected["certificate"] != found["certificate"]:
        raise Refused("the sha256 of the whole certificate is not the recorded one")
    if file_text(run.document) != run.text:
        raise Refused("the file is not spelled as it was written (whitespace, order, or digits that change nothing)")
    records = run.certificate.test.arrays
    for name in records.keys() | run.arrays.keys():
        if name not in records or name not in run.arrays:
            raise Refused(f"sets.npz: array {name} is in only one of sets.npz and the certificate")
        actual = run.arrays[name]
        record = records[name]
        if (record.sha256, record.shape) != (array_digest(actual), list(actual.shape)):
            raise Refused(f"sets.npz: array {name} does not have the recorded sha256")
    knowledge = run.document["reasoning"]["knowledge"]
    if knowledge is not None and run.certificate.reasoning.knowledge_digest != digest(knowledge):
        raise Refused("the knowledge base does not have the recorded sha256")
    return f"{len(expected['sections'])} sections and {len(records)} arrays"


def sanity(run: Run) -> str:
    """Ranges, names, and a sentence that says what the numbers say."""
    certificate = run.certificate
    alpha, radius = fraction(certificate.alpha, "alpha"), fraction(certificate.radius, "radius")
    sigma = fraction(certificate.sigma, "sigma")
    if not 0 < alpha < 1:
        raise Refused(f"alpha {certificate.alpha} is not between 0 and 1")
    if radius < 0 or sigma < 0:
        raise Refused("radius and sigma must not be negative")
    boxes = rests_on_boxes(certificate.method, certificate.calibration.lower is not None)
    shift = certificate.method == "levy_prokhorov"
    if shift != (certificate.norm == SCORE):
        raise Refused(f"norm {certificate.norm!r} is not one that method {certificate.method} knows")
    if certificate.norm == "linf" and not boxes:
        raise Refused(f"norm {certificate.norm} is claimed, but only L2 is proved for method {certificate.method}")
    if radius > 0 and sigma == 0 and not boxes and not shift:
        raise Refused("an attack radius is claimed without noise and without intervals")
    if certificate.trials < 0 or (certificate.trials > 0) != (sigma > 0):
        raise Refused(f"{certificate.trials} noise draws and sigma {certificate.sigma} contradict each other")
    names = certificate.classes
    if not names or len(set(certificate.predicates)) != len(certificate.predicates):
        raise Refused("the names of classes or predicates are empty or repeated")
    if certificate.predicates[: len(names)] != names:
        raise Refused("the first predicates are not the classes")
    for name, value in (("alpha", alpha), ("radius", radius), ("sigma", sigma)):
        if getattr(certificate, name) != decimal_text(value):
            raise Refused(f"{name} {getattr(certificate, name)!r} is not spelled {decimal_text(value)}")
    if not {"lac", "aps", "raps", "saps", "binary_aps"} >= {certificate.score}:
        raise Refused(f"score {certificate.score!r} is not one this verifier knows")
    if certificate.reasoning.bound not in ("exact", "decoupled"):
        raise Refused(f"bound {certificate.reasoning.bound!r} is neither exact nor decoupled")
    facts: dict[str, Any] = {"boxes": boxes, "norm": certificate.norm, "limit": asymptotic(run)}
    mass = budget(run).get(MASS, Fraction(0))
    _words(run, words(alpha, radius, sigma, trivial=_trivial(run), mass=mass, **facts))
    return f"alpha {certificate.alpha}, radius {certificate.radius}, sigma {certificate.sigma}"


def _trivial(run: Run) -> bool:
    """Whether every set holds every label."""
    derived = run.certificate.derived
    everything = derived.get("votes_needed", 1) == 0 or derived.get("keeps_all") is True
    return run.certificate.rank > run.certificate.n or everything


def asymptotic(run: Run) -> bool:
    """Whether the guarantee holds only in the limit of infinitely many noise draws."""
    return run.certificate.method == "rscp" or run.certificate.derived.get("asymptotic") is True


def _words(run: Run, expected: Words) -> None:
    """Sentence, assumptions and caveats are those of the numbers, to the letter."""
    found = run.certificate.guarantee
    if found.sentence != expected.sentence:
        raise Refused(f"the guarantee's sentence is not that of alpha, radius and sigma: {expected.sentence!r}")
    for name in ("assumptions", "caveats"):
        said, wanted = getattr(found, name), getattr(expected, name)
        odd = [text for text in wanted if text not in said] + [text for text in said if text not in wanted]
        if said != wanted:
            raise Refused(f"the guarantee's {name} are not those of its numbers: {(odd or said)[0][:60]!r}...")


def required_items(run: Run) -> tuple[str, ...]:
    """Names of the budget items that the method spends."""
    method, boxes = run.certificate.method, run.certificate.calibration.lower is not None
    if method in ("vanilla", "rcp1", "vrcp_i", "vrcp_c") or (method == "colep" and boxes):
        return ("conformal",)
    if asymptotic(run):
        return ("conformal",)
    if method == "levy_prokhorov":  # no item where no mass moves freely: the words say how much does
        return ("conformal", MASS) if MASS in budget(run) else ("conformal",)
    if method in ("bincp", "colep"):
        return VOTE_ITEMS
    if method in ("rscp_plus", "cas"):
        return DRAW_ITEMS
    raise Refused(f"method {method!r} is not one this verifier knows")


def error_budget(run: Run) -> str:
    """Exactly the items the method needs, all positive, summing to alpha as rational numbers."""
    items, needed = budget(run), required_items(run)
    for name in needed:
        if name not in items:
            raise Refused(f"budget item {name} is missing")
    extra = sorted(set(items) - set(needed))
    if extra or len(run.certificate.budget) != len(needed):
        raise Refused(f"budget item {extra[0] if extra else 'written twice'} does not belong to this method")
    for name, amount in items.items():
        if amount <= 0:
            raise Refused(f"budget item {name} is not positive")
    alpha = fraction(run.certificate.alpha, "alpha")
    if sum(items.values()) != alpha:
        raise Refused(f"the budget items do not sum to alpha = {run.certificate.alpha}")
    return " + ".join(f"{name} {item.value}" for name, item in zip(items, run.certificate.budget, strict=True))


def _conformal_level(run: Run) -> Fraction:
    """Level of the conformal step: the budget item, or for RCP1 the recorded (and separately checked) float."""
    if run.certificate.method == "rcp1" and fraction(run.certificate.radius, "radius") > 0:
        return Fraction(real(run, "conformal_alpha"))
    return budget(run).get("conformal", Fraction(0))


def rank_and_threshold(run: Run) -> str:
    """n rows, rank ``ceil((n+1)(1-a))`` in rational arithmetic, and the threshold is that order statistic."""
    certificate, table = run.certificate, run.certificate.calibration
    n = certificate.n
    columns: list[tuple[str, Sequence[object] | None]] = [
        ("labels", table.labels), ("scores", table.scores), ("votes", table.votes),
        ("lower", table.lower), ("upper", table.upper), ("probs", table.probs), ("logits", table.logits),
        ("uniforms", table.uniforms),
    ]  # fmt: skip
    for name, rows in columns:
        if rows is not None and len(rows) != n:
            raise Refused(f"n is {n}, but calibration.{name} has {len(rows)} rows")
    for row, label in enumerate(table.labels):
        if not 0 <= label < len(certificate.classes):
            raise Refused(f"calibration.labels row {row}: {label} is no class")
    level = _conformal_level(run)
    if not 0 < level < 1:
        raise Refused("the conformal level is not between 0 and 1")
    rank = math.ceil((n + 1) * (1 - level))
    if rank != certificate.rank:
        raise Refused(f"rank is {certificate.rank}, but {n} points at this level give {rank}")
    for name, texts in (("scores", table.scores), ("uniforms", table.uniforms or [])):
        for row, text in enumerate(texts):
            if hex_value(text, f"calibration.{name} row {row}").hex() != text:
                raise Refused(f"calibration.{name} row {row} is not spelled as a hexadecimal double")
    scores = sorted(map(float.fromhex, table.scores))
    threshold = scores[rank - 1] if rank <= n else math.inf
    if threshold != certificate.threshold.value:
        raise Refused(
            f"threshold is {certificate.threshold.decimal}, but the calibration score of rank {rank} is {threshold!r}"
        )
    return f"rank {rank} of {n}, threshold {threshold!r}"


def close(recorded: Real, exact: Decimal, what: str) -> None:
    with localcontext(WORK):
        if abs(Decimal(recorded.value) - exact) > RELATIVE * max(abs(exact), Decimal("1e-30")):
            raise Refused(f"{what} is {recorded.decimal}, but the sets give {float(exact)!r}")


def _interval(recorded: Interval | None, successes: int, trials: int, what: str) -> None:
    if recorded is None:
        raise Refused(f"{what}: the confidence interval is missing")
    confidence = fraction(recorded.confidence, f"{what}: confidence")
    if not 0 < confidence < 1:
        raise Refused(f"{what}: confidence {recorded.confidence} is not between 0 and 1")
    tail = (1 - confidence) / 2
    close(recorded.lower, limit_below(successes, trials, tail), f"{what}: lower limit")
    close(recorded.upper, limit_above(successes, trials, tail), f"{what}: upper limit")


def metrics(run: Run) -> str:
    """Set sizes, coverage and their intervals, from the sets and labels."""
    certificate, found = run.certificate, run.certificate.metrics
    sets = array(run, "sets", len(certificate.classes), "b")
    n, width = sets.shape
    sizes = sets.sum(axis=1)
    facts = {
        "n": (found.n, n),
        "total_size": (found.total_size, int(sizes.sum())),
        "empty": (found.empty, int((sizes == 0).sum())),
        "full": (found.full, int((sizes == width).sum())),
    }
    for name, (recorded, actual) in facts.items():
        if recorded != actual:
            raise Refused(f"{name} is {recorded}, but the sets give {actual}")
    close(found.mean_size, as_decimal(Fraction(int(sizes.sum()), max(n, 1))), "mean set size")
    labelled = "labels" in run.arrays
    if labelled and n:
        _coverage(run, sets, array(run, "labels", None, "i"))
    elif found.per_class or any(x is not None for x in (found.covered, found.coverage, found.interval)):
        raise Refused("coverage is recorded, but there are no test labels")
    return f"{n} sets, mean size {found.mean_size.decimal}" + (f", {found.covered} covered" if labelled else "")


def _coverage(run: Run, sets: np.ndarray, labels: np.ndarray) -> None:
    found, names = run.certificate.metrics, run.certificate.classes
    bad = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if bad.size:
        raise Refused(f"sets.npz: labels row {int(bad[0])} is no class")
    hit = sets[np.arange(len(labels)), labels]
    covered = int(hit.sum())
    if found.covered != covered or found.coverage is None:
        raise Refused(f"covered is {found.covered}, but the sets and labels give {covered}")
    close(found.coverage, as_decimal(Fraction(covered, len(labels))), "coverage")
    _interval(found.interval, covered, len(labels), "coverage")
    if [row.name for row in found.per_class] != list(names):
        raise Refused("the rows for each class do not name the classes")
    for number, row in enumerate(found.per_class):
        mine = labels == number
        facts = (int(mine.sum()), int(hit[mine].sum()), int(sets[mine].sum()))
        if facts != (row.n, row.covered, row.total_size):
            raise Refused(f"class {row.name}: recorded counts are not those of the sets {facts}")
        if row.n:
            _interval(row.interval, row.covered, row.n, f"class {row.name}")


def shifted_down(p: Decimal, shift: Fraction) -> Decimal:
    """``Phi(Phi^-1(p) - shift)``."""
    return shifted(p, -shift)
