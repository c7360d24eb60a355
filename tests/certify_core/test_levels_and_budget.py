"""Levels for several classes, the published one's counterexample, and the error budget."""

from __future__ import annotations

import warnings
from fractions import Fraction

import numpy as np
import pytest

from neurosym.certify.budget import Spend, amount, split
from neurosym.certify.calibration import binary_answers, mondrian, pooled, published, union
from neurosym.errors import InputError

K = 10
ALPHA = "0.12"


def always_no(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Balanced classes; every sensor says "not my class" (a hair of jitter keeps the scores distinct)."""
    return 1e-6 * rng.random((n, K)), rng.integers(0, K, n)


def test_published_level_covers_nothing_and_warns() -> None:
    rng = np.random.default_rng(0)
    p, y = always_no(4000, rng)
    test, truth = always_no(4000, rng)
    yes, no = binary_answers(p)
    with pytest.warns(UserWarning, match="does not guarantee") as caught:
        made = published(yes, no, y, ALPHA)
    assert "\n" not in str(caught[0].message)
    sets = made.sets(binary_answers(test)[0])
    assert sets[np.arange(4000), truth].mean() == 0.0
    assert made.claimed == Fraction(88, 100)
    assert made.proved == 0
    # every binary problem keeps its own level
    member = truth[:, None] == np.arange(K)
    answers = np.where(member, binary_answers(test)[0], binary_answers(test)[1])
    assert np.all((answers <= made.thresholds).mean(axis=0) >= 0.88 - 0.02)


@pytest.mark.parametrize("level", ["pooled", "mondrian", "union"])
def test_sound_levels_cover_the_same_world(level: str) -> None:
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(150):
        p, y = always_no(300, rng)
        test, truth = always_no(200, rng)
        yes, no = binary_answers(p)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            made = {
                "pooled": lambda: pooled(yes, y, ALPHA),  # noqa: B023
                "mondrian": lambda: mondrian(yes, y, ALPHA),  # noqa: B023
                "union": lambda: union(yes, no, y, ALPHA),  # noqa: B023
            }[level]()
        sets = made.sets(binary_answers(test)[0])
        covered.append(sets[np.arange(200), truth].mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert made.proved == made.claimed == Fraction(88, 100)
    assert np.mean(covered) >= 0.88 - 4 * error


def test_mondrian_covers_each_class() -> None:
    """Scores of unlike classes: pooled coverage is unequal, Mondrian coverage is not."""
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(300):
        y, truth = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
        cal, test = rng.random((200, 3)) ** (1 + y[:, None]), rng.random((200, 3)) ** (1 + truth[:, None])
        sets = mondrian(cal, y, "0.2").sets(test)
        hit = sets[np.arange(200), truth]
        rates.append([hit[truth == j].mean() for j in range(3)])
    mean, error = np.mean(rates, axis=0), np.std(rates, axis=0) / np.sqrt(300)
    assert np.all(mean >= 0.8 - 4 * error)
    assert np.all(mean <= 0.8 + 1 / 50 + 4 * error)


def test_too_few_points_of_a_class_include_it_always() -> None:
    scores, y = np.random.default_rng(0).random((20, 3)), np.array([0] * 18 + [1] * 2)
    made = mondrian(scores, y, "0.1")
    assert np.isfinite(made.thresholds[0])
    assert np.all(np.isinf(made.thresholds[1:]))
    assert made.counts.tolist() == [18, 2, 0]


def test_levels_refuse_bad_input() -> None:
    good, y = np.zeros((4, 2)), np.zeros(4, dtype=int)
    with pytest.raises(InputError, match="row 1"):
        pooled(np.array([[0, 0], [np.nan, 0.0]]), np.zeros(2, dtype=int), "0.5")
    with pytest.raises(InputError, match="row 2: 5 is out of range"):
        mondrian(good, np.array([0, 1, 5, 0]), "0.5")
    with pytest.raises(InputError, match="field 'no'"):
        union(good, np.zeros((4, 3)), y, "0.5")


def test_budgets_sum_exactly() -> None:
    for alpha in ("0.1", 0.1, "0.07", Fraction(1, 3)):
        items = split(alpha, (Spend("a", "x"), Spend("b", "y", "0.003")))
        assert sum((i.amount for i in items), Fraction(0)) == (
            Fraction(1, 3) if alpha == Fraction(1, 3) else Fraction(str(alpha))
        )
        assert [i.name for i in items] == ["conformal", "a", "b"]
        assert amount(items, "b") == Fraction(3, 1000)
    assert split("0.1", ())[0].value == "0.1"


@pytest.mark.parametrize("items", [("0.05", "0.05"), ("0.2", None), ("0.1", None)])
def test_budget_that_eats_alpha_is_refused(items: tuple[str | None, str | None]) -> None:
    with pytest.raises(InputError, match="raise alpha") as error:
        split("0.1", [Spend(name, "", value) for name, value in zip("ab", items, strict=True)])
    assert "\n" not in str(error.value)


def test_budget_items_must_be_positive() -> None:
    with pytest.raises(InputError, match="not positive"):
        split("0.1", (Spend("a", "", "0"),))
    with pytest.raises(InputError, match="no item"):
        amount(split("0.1", ()), "b")
