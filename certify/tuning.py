"""Choosing the reasoning layer, BinCP's p and, if asked, the method, on a tuning split that is used for nothing else.

Cross-validation: each of ``FOLDS`` folds in turn plays the test set and the others the calibration set, and the mean
robust set is what counts. The first layer (no rules) is the reference: another layer is taken only if its sets are
smaller by more than one standard error of the paired differences over rows, since a small split would else pick
winners by luck. Nothing here needs to be valid: candidates are fixed before calibration, so every theorem holds for
the winner. Where the folds are too small for a finite threshold their largest score stands in, so that candidates
can still be compared, unless the calibration set to come is too small for them as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurosym.certify import draws, methods, scores
from neurosym.certify.budget import amount
from neurosym.certify.evidence import (
    BoxEvidence,
    Evidence,
    ProbEvidence,
    SampleEvidence,
    VoteEvidence,
    in_words,
    votes_from_samples,
)
from neurosym.certify.exact import Number, decimal, to_text
from neurosym.certify.methods import BOXED, MEANS, bincp
from neurosym.certify.quantile import conformal_rank, kth_smallest, level
from neurosym.certify.reasoning import Bound, Reasoning
from neurosym.certify.smoothing import rcp1_level
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

P_GRID: tuple[Number, ...] = ("0.5", "0.7", "0.8", "0.9", "0.95")
SCALES = (1.0, 2.0)
TUNING_STREAM = 2  # of the uniforms of randomised scores
FOLDS = 10


@dataclass(frozen=True)
class TuningRow:
    """One candidate: ``p`` is None except for BinCP; ``mean_size`` over all rows."""

    method: str
    circuit: str
    scale: float
    p: str | None
    mean_size: float
    coverage: float


@dataclass(frozen=True)
class Tuned:
    """The winner, and the table it was chosen from, in the order of the candidates."""

    method: str
    reasoning: Reasoning
    p: str | None
    table: tuple[TuningRow, ...]
    points: int


def candidates(
    kb: KnowledgeBase | None,
    class_kind: str,
    score: str = "lac",
    scales: Sequence[float] = SCALES,
    num_classes: int = 0,
) -> tuple[Reasoning, ...]:
    """No rules, then rules and the exclusive circuit at each scale, as far as ``score`` can use them."""
    found = [Reasoning(kb, "none", class_kind, 1.0, num_classes)]  # type: ignore[arg-type]
    if kb is not None and (kb.rules or kb.groups):
        for circuit in ("rules", "exclusive") if _some_class(kb) else ("rules",):
            found += [Reasoning(kb, circuit, class_kind, s) for s in scales]  # type: ignore[arg-type]
    usable = []
    for item in found:
        try:
            scores.resolve(score, item.simplex)
        except InputError:
            continue
        usable.append(item)
    if not usable:
        raise InputError(f"score: {score!r} fits no candidate; use lac or aps, or class_kind 'categorical'")
    return tuple(usable)


def _some_class(kb: KnowledgeBase) -> bool:
    from neurosym.logic.satisfiable import check_some_class

    try:
        check_some_class(kb)
    except InputError:
        return False
    return True


def _threshold(values: np.ndarray, alpha: Number) -> float:
    return float(kth_smallest(values, min(conformal_rank(values.size, alpha), values.size)))


def _folds(n: int, seed: int) -> np.ndarray:
    """Fold ``0 .. min(FOLDS, n // 2) - 1`` of each row, sizes as equal as can be."""
    order = np.random.Generator(np.random.Philox(key=np.array([seed, TUNING_STREAM], dtype=np.uint64))).permutation(n)
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % min(FOLDS, n // 2)
    return fold


@dataclass(frozen=True)
class _Trial:
    """A candidate's table row and the size of its set for each tuning row, float64 ``[n]``."""

    row: TuningRow
    sizes: np.ndarray


def _trial(
    method: str, reasoning: Reasoning, p: Number | None, sets: np.ndarray, rows: np.ndarray, truth: np.ndarray
) -> _Trial:
    """``sets`` bool ``[n, K]`` belong to ``rows``; ``truth`` is in the original order."""
    ordered = np.empty_like(sets)
    ordered[rows] = sets
    sizes = ordered.sum(axis=1).astype(np.float64)
    text = None if p is None else to_text(level(p, "p"))
    hit = float(ordered[np.arange(truth.size), truth].mean())
    return _Trial(TuningRow(method, reasoning.circuit, reasoning.scale, text, float(sizes.mean()), hit), sizes)


def _choose(trials: list[tuple[Reasoning, _Trial]]) -> tuple[Reasoning, _Trial]:
    """The smallest mean set, if it beats the best of the first method and layer by more than a paired standard error."""
    first, preferred = trials[0][0], trials[0][1].row.method
    firsts = (pair for pair in trials if pair[0] is first and pair[1].row.method == preferred)
    reference = min(firsts, key=lambda pair: pair[1].row.mean_size)
    best = min(trials, key=lambda pair: pair[1].row.mean_size)
    difference = reference[1].sizes - best[1].sizes
    error = float(difference.std(ddof=1)) / math.sqrt(difference.size)
    return best if float(difference.mean()) > error else reference


@dataclass(frozen=True)
class _Task:
    """What all candidates share."""

    alpha: Number
    radius: Number
    score: str
    trials_test: int | None
    truth: np.ndarray
    fold: np.ndarray
    u: np.ndarray
    points: int | None

    def hopeless(self, conformal: Number) -> bool:
        """The calibration set has too few points for a finite threshold at that level: every set will be full."""
        return self.points is not None and conformal_rank(self.points, conformal) > self.points

    @property
    def folds(self) -> range:
        return range(int(self.fold.max()) + 1)

    def single(self, method: str, source: Evidence, reasoning: Reasoning, alpha: Number) -> list[_Trial]:
        """Vanilla and RCP1: one score a label, one threshold."""
        kind = draws.kind_of(source, reasoning, self.score)
        values = draws.one_score(source, reasoning, kind, self.u)
        mine = values[np.arange(self.truth.size), self.truth]
        q = np.array([_threshold(mine[self.fold != f], alpha) for f in self.folds])
        sets = (values <= q[self.fold][:, None]) | self.hopeless(alpha)
        return [_trial(method, reasoning, None, sets, np.arange(self.truth.size), self.truth)]

    def bincp(
        self, source: SampleEvidence | draws.ScoreEvidence, reasoning: Reasoning, grid: Sequence[Number]
    ) -> list[_Trial]:
        """All p at once in two passes: order statistics, then votes below the other fold's thresholds."""
        kind = draws.kind_of(source, reasoning, self.score)
        at_test = source.trials if self.trials_test is None else self.trials_test
        plans = [bincp.votes_plan(self.alpha, self.radius, source.sigma, source.trials, at_test, p) for p in grid]
        ks = tuple(math.ceil(level(p, "p") * source.trials) for p in grid)
        lambdas = bincp.calibration_lambdas(source, self.truth, reasoning, kind, self.u, ks)
        q = np.empty((len(self.folds), len(grid)))
        for column, (budget, _) in enumerate(plans):
            for f in self.folds:
                q[f, column] = _threshold(lambdas[self.fold != f, column], amount(budget, "conformal"))
        # votes of the source's own draws stand for the planned number of test draws
        needed = np.array([int(d["votes_needed"]) for _, d in plans]) * source.trials / at_test
        sets: list[np.ndarray] = []
        order: list[np.ndarray] = []
        for rows, found in draws.score_draws(source, reasoning, kind, self.u):
            cut = q[self.fold[rows]]
            votes = np.stack([(found <= cut[:, None, None, j]).sum(axis=1) for j in range(len(grid))])
            sets.append(votes >= needed[:, None, None])
            order.append(rows)
        rows, every = np.concatenate(order), np.concatenate(sets, axis=1)
        every |= np.array([self.hopeless(amount(budget, "conformal")) for budget, _ in plans])[:, None, None]
        return [_trial("bincp", reasoning, p, every[j], rows, self.truth) for j, p in enumerate(grid)]

    def whole(self, name: str, source: Any, reasoning: Reasoning, **options: Any) -> list[_Trial]:
        """Calibrate on all folds but one, predict on that one, for each."""
        parts, method = [], methods.method(name)
        for f in self.folds:
            train, test = np.flatnonzero(self.fold != f), np.flatnonzero(self.fold == f)
            made = method.calibrate(
                source.take(train),
                self.truth[train],
                alpha=self.alpha,
                radius=self.radius,
                reasoning=reasoning,
                score=self.score,
                **options,
            )
            if made.trivial:
                made = replace(made, threshold=float(made.calibration["scores"].max()))
            seen = method.observe(source.take(test), made, reasoning=reasoning)
            sets = method.predict(made, seen, reasoning=reasoning)
            parts.append((test, sets | self.hopeless(amount(made.budget, "conformal"))))
        sets = np.concatenate([part for _, part in parts])
        return [_trial(name, reasoning, None, sets, np.concatenate([rows for rows, _ in parts]), self.truth)]


def tune(
    evidence: Evidence,
    labels: np.ndarray | None = None,
    *,
    method: str,
    layers: Sequence[Reasoning],
    alpha: Number,
    radius: Number,
    score: str = "lac",
    p_grid: Sequence[Number] = P_GRID,
    bound: Bound = "exact",
    trials_test: int | None = None,
    points: int | None = None,
    seed: int = 0,
) -> Tuned:
    """The layer (method, p) with the smallest mean robust set, the first unless another is clearly better.

    Args:
        evidence: the tuning split, of the kind that ``method`` takes; at least 4 rows.
        method: one of the catalogue, or ``auto`` for all of :func:`applicable`. Single draws are then read several
            times: give cached ones.
        layers: candidates, preferred ones first.
        p_grid: BinCP's shares; ignored by other methods.
        points: size of the calibration set to come: a candidate that needs more has full sets.

    Raises:
        InputError: no candidates, too few rows, an unknown method, or what the method itself refuses.
    """
    if not layers:
        raise InputError("layers: no candidates to choose from; give at least one reasoning layer")
    if evidence.n < 4:
        raise InputError(f"tuning split: {evidence.n} rows; give at least 4")
    truth = draws.labels_of(evidence, labels, layers[0])
    u = scores.uniforms(evidence.n, seed, TUNING_STREAM)
    task = _Task(alpha, radius, score, trials_test, truth, _folds(evidence.n, seed), u, points)
    names = applicable(evidence, radius) if method == methods.AUTO else (method,)
    votes = votes_from_samples(evidence) if isinstance(evidence, SampleEvidence) and "colep" in names else None
    trials: list[tuple[Reasoning, _Trial]] = []
    for name in names:
        source = votes if name == "colep" and votes is not None else evidence
        for layer in layers:
            reasoning = draws.reasoning_for(source, layer)
            if name == "vanilla":
                found = task.single(name, source, reasoning, alpha)
            elif name == "rcp1":
                drawn = draws.drawn(source)
                found = task.single(name, drawn, reasoning, rcp1_level(alpha, radius, drawn.sigma))
            elif name == "bincp":
                found = task.bincp(draws.drawn(source), reasoning, p_grid)
            elif name == "colep" and isinstance(source, VoteEvidence | BoxEvidence):
                found = task.whole(name, source, reasoning, bound=bound)
            elif name == "levy_prokhorov":
                found = task.whole(name, source, reasoning)
            elif name in MEANS:
                found = task.whole(name, draws.drawn(source), reasoning)
            elif name in BOXED:
                found = task.whole(name, source, reasoning)
            else:
                kind = in_words(type(source).__name__)
                raise InputError(f"method: {name!r} cannot use {kind}; give votes or boxes")
            trials += [(reasoning, item) for item in found]
    best, chosen = _choose(trials)
    return Tuned(chosen.row.method, best, chosen.row.p, tuple(item.row for _, item in trials), evidence.n)


def applicable(evidence: Evidence, radius: Number) -> tuple[str, ...]:
    """The sound methods for that evidence, the one to be preferred first; RSCP is asymptotic and never among them.

    Raises:
        InputError: no method certifies that radius from such evidence.
    """
    if isinstance(evidence, BoxEvidence):
        both = evidence.probs is not None
        return ("vrcp_i", "vrcp_c", "colep") if both else ("colep",)
    if isinstance(evidence, VoteEvidence):
        return ("colep",)
    if isinstance(evidence, ProbEvidence):
        if decimal(radius, "radius") != 0:
            raise InputError(f"method auto: {in_words('ProbEvidence')} certify no radius; give votes, draws or boxes")
        return ("vanilla",)
    found = ("bincp", "cas", "rscp_plus", "rcp1")
    return (*found, "colep") if isinstance(evidence, SampleEvidence) else found


def as_record(tuned: Tuned) -> dict[str, object]:
    """JSON-able record for a certificate."""
    return {
        "points": tuned.points,
        "chosen": {
            "method": tuned.method,
            "circuit": tuned.reasoning.circuit,
            "scale": tuned.reasoning.scale,
            "p": tuned.p,
        },
        "table": [
            {
                "method": r.method,
                "circuit": r.circuit,
                "scale": r.scale,
                "p": r.p,
                "mean_size": r.mean_size,
                "coverage": r.coverage,
            }
            for r in tuned.table
        ],
    }
