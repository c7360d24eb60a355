"""The finite-sample steps of BinCP and COLEP by exact binomial sums, and metamorphic behaviour of their sets."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from gaussian_world import three_classes
from scipy import stats

from neurosym.certify.evidence import BoxEvidence, CachedSamples, ProbEvidence, ScoreEvidence, VoteEvidence, encode
from neurosym.certify.methods import bincp, colep, rcp1, vanilla
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.smoothing import gaussian_shift
from neurosym.errors import InputError
from neurosym.logic import KnowledgeBase

NAMES = ("a", "b", "c", "left", "right")
GRID = np.concatenate([[0.0, 1e-6, 1e-3], np.linspace(0.01, 0.99, 99), [0.999, 1 - 1e-6, 1.0]])


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.5])
@pytest.mark.parametrize(("trials", "at_test"), [(40, 40), (25, 90)])
def test_vote_tables_fail_at_most_as_budgeted(trials: int, at_test: int, ratio: float) -> None:
    """Worst attack on one sensor: P(clean fraction > upper[attacked count]) <= b_1 + b_2, summed exactly."""
    b1, b2 = 0.01, 0.02
    lower, upper = colep.vote_tables(trials, at_test, ratio, b1, b2)
    assert np.all(np.diff(lower) >= 0)
    assert np.all(np.diff(upper) >= 0)
    for p in GRID:
        for sign in (-1, 1):
            moved = float(gaussian_shift(p, sign * ratio))
            attacked = stats.binom.pmf(np.arange(at_test + 1), at_test, moved)
            above = stats.binom.sf(np.round(upper * trials), trials, p)
            below = stats.binom.cdf(np.round(lower * trials) - 1, trials, p)
            assert (attacked * above).sum() <= b1 + b2 + 1e-12
            assert (attacked * below).sum() <= b1 + b2 + 1e-12


@pytest.mark.parametrize(("p", "ratio"), [("0.6", "0.5"), ("0.9", "1"), ("0.75", "0")])
@pytest.mark.parametrize(("trials", "at_test"), [(50, 50), (30, 200)])
def test_bincp_plan_fails_at_most_as_budgeted(p: str, ratio: str, trials: int, at_test: int) -> None:
    """Whatever the clean vote probability, either k clean votes are rare or too few attacked votes are rare."""
    budget, plan = bincp.votes_plan("0.1", ratio, 1, trials, at_test, p)
    b1, b2 = float(budget[1].amount), float(budget[2].amount)
    assert sum((item.amount for item in budget), Fraction(0)) == Fraction(1, 10)
    for prob in GRID:
        clean = stats.binom.sf(plan["k"] - 1, trials, prob)
        missed = stats.binom.cdf(plan["votes_needed"] - 1, at_test, gaussian_shift(prob, -float(ratio)))
        assert clean <= b1 + 1e-12 or missed <= b2 + 1e-12
    # and t is the largest such number
    one_more = stats.binom.cdf(plan["votes_needed"], at_test, plan["p_shifted"])
    assert one_more > b2


def samples(seed: int, n: int, trials: int, shift: float = 0.0) -> CachedSamples:
    world, _ = three_classes()
    rng = np.random.default_rng(seed)
    x, y = world.sample(rng, n)
    p = world.noisy_soft(rng, x - shift * world.weights[y], 0.5, trials)
    return CachedSamples(encode(p), 0.5, NAMES, y, num_classes=3)


def rules_layer(circuit: str) -> Reasoning:
    return Reasoning(KnowledgeBase.from_text(three_classes()[1]), circuit, "binary")  # type: ignore[arg-type]


def run(method: Any, alpha: str, radius: str, **options: Any) -> np.ndarray:
    reasoning = rules_layer(options.pop("circuit", "rules"))
    made = method.calibrate(samples(0, 120, 60), alpha=alpha, radius=radius, reasoning=reasoning, **options)
    return method.predict(made, method.observe(samples(1, 80, 60), made, reasoning=reasoning), reasoning=reasoning)


@pytest.mark.parametrize("circuit", ["none", "rules", "exclusive"])
@pytest.mark.parametrize("method", [rcp1, bincp, colep], ids=["rcp1", "bincp", "colep"])
def test_sets_grow_with_radius_and_shrink_with_alpha(method: Any, circuit: str) -> None:
    by_radius = [run(method, "0.2", r, circuit=circuit) for r in ("0", "0.1", "0.2", "0.4", "5")]
    for small, large in itertools.pairwise(by_radius):
        assert np.all(small <= large)
    assert by_radius[-1].all()  # nothing can be certified at ten sigmas
    assert by_radius[0].mean() < 0.7
    by_alpha = [run(method, a, "0.1", circuit=circuit) for a in ("0.05", "0.1", "0.2", "0.4")]
    for large, small in itertools.pairwise(by_alpha):
        assert np.all(small <= large)


def test_block_size_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [run(m, "0.2", "0.1") for m in (rcp1, bincp, colep)]
    monkeypatch.setattr("neurosym.certify.evidence.CACHE_BLOCK", 1000)
    monkeypatch.setattr("neurosym.certify.draws.BLOCK", 1000)
    for a, m in zip(whole, (rcp1, bincp, colep), strict=True):
        assert np.array_equal(a, run(m, "0.2", "0.1"))


def test_bincp_against_loops() -> None:
    """The record, step by step, with sorting and counting."""
    rng = np.random.default_rng(3)
    scores, y = rng.random((30, 3, 20)), rng.integers(0, 3, 30)
    made = bincp.calibrate(ScoreEvidence(scores, 0.5, NAMES[:3]), y, alpha="0.2", radius="0.1", p="0.75")
    assert made.derived["k"] == 15
    lambdas = [sorted(scores[i, y[i]])[14] for i in range(30)]
    assert np.array_equal(made.calibration["scores"], lambdas)
    a_c = Fraction(2, 10) * Fraction(9, 10)
    rank = -((-31 * (1 - a_c)) // 1)
    assert made.rank == rank
    assert made.threshold == sorted(lambdas)[int(rank) - 1]
    seen = bincp.observe(ScoreEvidence(scores[:5], 0.5, NAMES[:3]), made)
    for i in range(5):
        for c in range(3):
            assert seen["votes"][i, c] == sum(s <= made.threshold for s in scores[i, c])


def test_too_few_points_give_full_sets_and_say_so() -> None:
    for method in (rcp1, bincp, colep):
        made = method.calibrate(samples(0, 6, 40), alpha="0.1", radius="0.25", reasoning=rules_layer("rules"))
        assert made.rank == 7
        assert made.threshold == np.inf
        assert made.trivial
        assert "at least" in made.notes[0]
        seen = method.observe(samples(1, 5, 40), made, reasoning=rules_layer("rules"))
        assert method.predict(made, seen, reasoning=rules_layer("rules")).all()


def test_votes_that_cannot_certify_give_full_sets() -> None:
    made = bincp.calibrate(samples(0, 200, 10), alpha="0.1", radius="1.5", reasoning=rules_layer("none"), p="0.6")
    assert made.derived["votes_needed"] == 0
    assert made.trivial
    assert "every set is full" in made.notes[-1]


def test_colep_tables_and_budget_are_recorded() -> None:
    made = colep.calibrate(samples(0, 120, 60), alpha="0.1", radius="0.1", reasoning=rules_layer("rules"))
    derived: dict[str, Any] = dict(made.derived)
    assert derived["sensor_sides"] == 3  # b and c depend on b, c and left
    assert [item.name for item in made.budget] == ["conformal", "attacked_votes", "clean_votes"]
    assert sum((item.amount for item in made.budget), Fraction(0)) == Fraction(1, 10)
    each = float(made.budget[1].amount / 3)
    assert derived["attacked_failure_per_side"] == each
    lower, upper = colep.vote_tables(60, 60, derived["radius_over_sigma"], each, derived["clean_failure_per_side"])
    assert derived["attacked_lower"] == tuple(lower)
    assert derived["attacked_upper"] == tuple(upper)
    assert made.calibration["votes"].shape == (120, 5)


def test_colep_one_sided_corner_is_a_full_search_of_the_box() -> None:
    """Least score over the box by enumerating all corners (the probability is multilinear-fractional: few sensors)."""
    reasoning = rules_layer("rules")
    made = colep.calibrate(samples(0, 120, 60), alpha="0.1", radius="0.1", reasoning=reasoning)
    seen = colep.observe(samples(1, 6, 60), made, reasoning=reasoning)
    lower, upper = (np.array(made.derived[f"attacked_{s}"])[seen["votes"]] for s in ("lower", "upper"))
    corners = np.array(np.meshgrid(*[[0, 1]] * 5)).reshape(5, -1).T
    values = np.stack([1 - reasoning.class_probabilities(np.where(c, upper, lower)) for c in corners])
    assert np.allclose(colep.label_scores(made, seen, reasoning), values.min(axis=0), atol=1e-9)


def test_mismatched_noise_draws_and_kinds_are_refused() -> None:
    reasoning = rules_layer("rules")
    made = bincp.calibrate(samples(0, 60, 20), alpha="0.2", radius="0.1", reasoning=reasoning)
    with pytest.raises(InputError, match="field 'trials': 30 draws"):
        bincp.observe(samples(1, 5, 30), made, reasoning=reasoning)
    other = CachedSamples(samples(1, 5, 20).codes, 0.25, NAMES, num_classes=3)
    with pytest.raises(InputError, match=r"field 'sigma': 0.25, but calibration used 0.5"):
        bincp.observe(other, made, reasoning=reasoning)
    votes = VoteEvidence(np.full((5, 5), 3), 20, 0.5, NAMES, np.zeros(5, int), num_classes=3)
    with pytest.raises(InputError, match="holds no noise draws"):
        bincp.calibrate(votes, alpha="0.2", radius="0.1")
    with pytest.raises(InputError, match="holds no noise draws"):
        rcp1.calibrate(votes, alpha="0.2", radius="0.1")
    with pytest.raises(InputError, match="neither votes nor boxes"):
        colep.calibrate(ProbEvidence(np.full((5, 5), 0.5), NAMES, np.zeros(5, int)), alpha="0.2", radius="0.1")
    box = BoxEvidence(np.full((5, 5), 0.2), np.full((5, 5), 0.4), 0.125, NAMES, np.zeros(5, int), num_classes=3)
    with pytest.raises(InputError, match=r"boxes hold for 0.125, but 0.1 is asked for"):
        colep.calibrate(box, alpha="0.2", radius="0.1")
    boxed = colep.calibrate(box, alpha="0.2", radius="0.125")
    with pytest.raises(InputError, match="same kind of evidence"):
        colep.observe(votes, boxed)
    with pytest.raises(InputError, match="promises nothing under attack"):
        vanilla.calibrate(votes, alpha="0.2", radius="0.1")
    soft = VoteEvidence(np.full((5, 3), 3), 20, 0.5, NAMES[:3], np.zeros(5, int), "categorical")
    with pytest.raises(InputError, match="row 0: class votes do not sum to trials"):
        colep.calibrate(soft, alpha="0.2", radius="0.1")
    with pytest.raises(InputError, match="field 'labels' is missing"):
        colep.calibrate(VoteEvidence(np.full((5, 3), 3), 20, 0.5, NAMES[:3]), alpha="0.2", radius="0.1")
    ruled = colep.calibrate(votes, alpha="0.5", radius="0.1", reasoning=reasoning)
    seen = colep.observe(votes, ruled, reasoning=reasoning)
    with pytest.raises(InputError, match="calibration used 'rules'"):
        colep.predict(ruled, seen, reasoning=rules_layer("exclusive"))


def test_predicates_are_matched_by_name() -> None:
    """Concept columns may come in any order; class columns may not."""
    reasoning, order = rules_layer("rules"), np.array([0, 1, 2, 4, 3])
    plain, test = samples(0, 100, 40), samples(1, 10, 40)
    names = tuple(NAMES[i] for i in order)
    swapped = [CachedSamples(ev.codes[:, :, order], 0.5, names, ev.labels, num_classes=3) for ev in (plain, test)]
    for method in (rcp1, bincp, colep):
        made = method.calibrate(plain, alpha="0.2", radius="0.1", reasoning=reasoning)
        again = method.calibrate(swapped[0], alpha="0.2", radius="0.1", reasoning=reasoning)
        assert made.threshold == again.threshold
        a, b = (method.observe(ev, made, reasoning=reasoning) for ev in (test, swapped[1]))
        assert all(np.array_equal(a[name], b[name]) for name in a)
    wrong = CachedSamples(plain.codes, 0.5, ("b", "a", "c", "left", "right"), plain.labels, num_classes=3)
    with pytest.raises(InputError, match="must be the classes of the rules in their order"):
        rcp1.calibrate(wrong, alpha="0.2", radius="0.1", reasoning=reasoning)
    short = CachedSamples(plain.codes[:, :, :4], 0.5, NAMES[:4], plain.labels, num_classes=3)
    with pytest.raises(InputError, match="no column for 'right'"):
        rcp1.calibrate(short, alpha="0.2", radius="0.1", reasoning=reasoning)
