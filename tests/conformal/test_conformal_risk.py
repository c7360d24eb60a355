"""Risk control: p-values against exact binomial sums, tests by simulation at the null, exact choice by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from conformal_cases import threshold_by_search

from neurosym.certify.conformal import conformal_risk_control, learn_then_test
from neurosym.certify.conformal.risk import _ceiling, binomial_p, hoeffding_bentkus_p, loss_p_values, rejected
from neurosym.errors import InputError


def _tail(n: int, k: int, alpha: Fraction) -> Fraction:
    return sum((math.comb(n, i) * alpha**i * (1 - alpha) ** (n - i) for i in range(min(k, n) + 1)), Fraction(0))


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("alpha", ["0.05", "0.3"])
def test_binomial_p_values_are_exact_and_rounded_up(n: int, alpha: str) -> None:
    for k in range(n + 1):
        exact, found = _tail(n, k, Fraction(alpha)), float(binomial_p(k, n, alpha))
        assert found >= min(exact, 1) * (1 - Fraction(1, 10**15))
        assert found == pytest.approx(float(exact), rel=1e-9)


@pytest.mark.parametrize("total", [0.0, 0.5, 3.0, 3.2, 12.0])
def test_hoeffding_bentkus_by_hand(total: float) -> None:
    n, alpha = 40, 0.2
    m = min(total / n, alpha)
    h = (m * math.log(m / alpha) if m else 0.0) + (1 - m) * math.log((1 - m) / (1 - alpha))
    expected = min(1.0, math.exp(-n * h), math.e * float(_tail(n, math.ceil(total), Fraction(1, 5))))
    assert float(hoeffding_bentkus_p(total, n, "0.2")) == pytest.approx(expected, rel=1e-8)


def test_sums_are_rounded_up_exactly() -> None:
    # ten times the float 0.1 is a little more than 1, though its float sum is 1 or less
    generator = np.random.default_rng(0)
    columns = [
        np.full(10, 0.1),
        np.full(10, 0.7),
        np.zeros(3),
        np.ones(4),
        np.array([0.5, 0.5]),
        np.array([1.0, 1e-300]),
    ]
    columns += [generator.integers(0, 11, 30) / 10.0 for _ in range(50)] + [generator.random(9) for _ in range(20)]
    for column in columns:
        assert _ceiling(column) == math.ceil(sum(map(Fraction, column.tolist()), Fraction(0)))


@pytest.mark.parametrize("kind", ["auto", "hoeffding_bentkus"])
def test_p_values_are_valid_at_the_null(kind: str) -> None:
    """At risk alpha exactly, P(p <= t) <= t for every t: summed exactly over all counts."""
    n, alpha = 30, Fraction(1, 5)
    chance = [float(math.comb(n, k) * alpha**k * (1 - alpha) ** (n - k)) for k in range(n + 1)]
    p = np.array([loss_p_values(np.repeat([[1.0], [0.0]], [k, n - k], 0), alpha, kind)[0] for k in range(n + 1)])  # type: ignore[arg-type]
    for t in np.unique(p):
        assert sum(c for c, value in zip(chance, p, strict=True) if value <= t) <= t
    if kind == "auto":
        assert max(sum(c for c, v in zip(chance, p, strict=True) if v <= t) / t for t in np.unique(p)) > 0.99


@pytest.mark.parametrize(("control", "starts"), [("fixed_sequence", 1), ("fixed_sequence", 3), ("bonferroni", 1)])
def test_false_choices_are_rare(control: str, starts: int) -> None:
    """Candidates 3.. have risk just above alpha: the chance to choose any is at most delta."""
    generator, rounds, false, true = np.random.default_rng(0), 1500, 0, 0
    risks = np.array([0.02, 0.05, 0.1, 0.2, 0.2, 0.25])
    for _ in range(rounds):
        shared = generator.random((60, 1))  # losses of one point depend on each other
        found = learn_then_test((shared < risks).astype(float), "0.2", "0.1", control=control, starts=starts)
        false += bool(found.valid[3:].any())
        true += bool(found.valid[:3].any())
    assert false / rounds <= 0.1 + 4 * math.sqrt(0.09 / rounds)
    assert true / rounds > 0.9


def test_sequences_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.2, 0.001, 0.02, 0.5])
    assert rejected(p, "0.05").tolist() == [True, True, False, False, False, False]
    assert rejected(p, "0.05", starts=2).tolist() == [True, False, False, True, True, False]
    assert rejected(p, "0.06", "bonferroni").tolist() == [True, False, False, True, False, False]
    assert rejected(np.array([0.05]), "0.05").tolist() == [True]


@pytest.mark.parametrize("n", [1, 5, 9, 19, 49])
@pytest.mark.parametrize("alpha", ["0.1", "0.18", "0.2", "0.5", "0.82"])
def test_risk_control_of_misses_is_the_conformal_quantile(n: int, alpha: str) -> None:
    scores = np.random.default_rng(n).permutation(np.repeat(np.arange(1.0, n // 2 + 2), 2)[:n])
    grid = np.append(np.unique(scores), np.inf)  # from the largest to the smallest loss
    found = conformal_risk_control((scores[:, None] > grid).astype(float), alpha)
    # too few points: no candidate passes, and only the full set (the last one, which never misses) is left
    assert (np.inf if found is None else grid[found]) == threshold_by_search(scores, Fraction(alpha))


@pytest.mark.parametrize("seed", range(15))
def test_risk_control_by_hand(seed: int) -> None:
    generator = np.random.default_rng(seed)
    n, columns = int(generator.integers(1, 12)), 8
    losses = np.sort(generator.integers(0, 11, (n, columns)) / 10.0 * 2, axis=1)[:, ::-1]
    alpha = Fraction(int(generator.integers(1, 10)), 10)
    exact = [sum((Fraction(float(v)) for v in column), Fraction(2)) <= alpha * (n + 1) for column in losses.T]
    assert conformal_risk_control(losses, alpha, largest=2) == (exact.index(True) if True in exact else None)


def test_expected_loss_of_a_new_point() -> None:
    """False-negative share of label sets that grow with the candidate, averaged over calibration and test points."""
    generator, alpha, rounds, found = np.random.default_rng(4), 0.2, 800, []
    grid = np.linspace(1, 0, 41)
    for _ in range(rounds):
        p = generator.random((25, 6)) ** 0.5  # probabilities of the true labels of each point
        losses = (p[:, :, None] < grid).mean(axis=1)
        found.append(losses[-1, conformal_risk_control(losses[:-1], "0.2")])
    assert np.mean(found) <= alpha + 4 * np.std(found) / math.sqrt(rounds)
    assert np.mean(found) >= alpha - 0.08


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: learn_then_test(np.array([[0.5], [1.5]]), "0.1", "0.1"), "row 1: 1.5 is outside"),
        (lambda: learn_then_test(np.array([[np.nan]]), "0.1", "0.1"), "row 0: nan"),
        (lambda: learn_then_test(np.zeros(3), "0.1", "0.1"), "shape"),
        (lambda: learn_then_test(np.zeros((3, 1)), "0.1", "2"), "strictly between"),
        (lambda: learn_then_test(np.full((3, 1), 0.5), "0.1", "0.1", p_value="binomial"), "need losses 0 and 1"),
        (lambda: learn_then_test(np.zeros((3, 1)), "0.1", "0.1", p_value="t"), "choose auto"),  # type: ignore[arg-type]
        (lambda: learn_then_test(np.zeros((3, 1)), "0.1", "0.1", control="holm"), "choose fixed"),  # type: ignore[arg-type]
        (lambda: learn_then_test(np.zeros((3, 1)), "0.1", "0.1", starts=2), "starts"),
        (lambda: conformal_risk_control(np.array([[0.1, 0.2]]), "0.1"), "row 0: 0.2 is above"),
        (lambda: conformal_risk_control(np.array([[0.1]]), "0.1", largest=0), "largest"),
    ],
)
def test_bad_input_is_refused_in_one_line(call: object, text: str) -> None:
    with pytest.raises(InputError, match=text) as caught:
        call()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
