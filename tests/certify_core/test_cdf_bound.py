"""The CDF bound against integrals, the published formula, known optimal attacks, and exact band coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, special, stats

from neurosym.certify.cdf_bound import Band, cdf_bound, counted_bound, tail_table, weights
from neurosym.certify.counting import plain_grid
from neurosym.certify.smoothing import gaussian_shift
from neurosym.errors import InputError


def integral(draws: np.ndarray, ratio: float, width: float, points: int = 200_001) -> float:
    """The definition on a fine grid: midpoint rule over v of the shifted survival function."""
    v = (np.arange(points) + 0.5) / points
    share = (draws[None, :] >= v[:, None]).mean(axis=1) + width
    return float(special.ndtr(special.ndtri(np.clip(share, 0, 1)) + ratio).mean())


@pytest.mark.parametrize("ratio", [0.0, 0.3, 1.5])
@pytest.mark.parametrize("band", ["none", "dkw"])
def test_is_the_integral(ratio: float, band: Band) -> None:
    rng = np.random.default_rng(0)
    draws = rng.beta(0.7, 1.5, 37)
    for side, sign in (("upper", 1), ("lower", -1)):
        width = 0.0 if band == "none" else math.sqrt(math.log(1 / 0.05) / (2 * 37))
        table = tail_table(37, ratio, band, 0.05, 37, side)
        assert cdf_bound(draws, table, side) == pytest.approx(integral(draws, sign * ratio, sign * width), abs=2e-5)


def published(draws: np.ndarray, ratio: float, err: float, side: str) -> float:
    """CAS's sums over intervals between order statistics, term by term."""
    x, n = [0.0, *sorted(draws), 1.0], len(draws)

    def shifted(p: float, r: float) -> float:
        return float(stats.norm.cdf(stats.norm.ppf(p) + r))

    if side == "lower":
        return sum((x[i] - x[i - 1]) * shifted(max(0, (n - i + 1) / n - err), -ratio) for i in range(1, n + 1))
    return sum((x[i] - x[i - 1]) * shifted(min(1, (n - i + 1) / n + err), ratio) for i in range(1, n + 2))


@pytest.mark.parametrize("side", ["lower", "upper"])
@pytest.mark.parametrize("failure", [None, 0.01])
def test_is_the_published_sum(side: str, failure: float | None) -> None:
    rng = np.random.default_rng(1)
    for n in (1, 2, 25):
        draws = rng.random((3, 4, n))
        err = 0.0 if failure is None else math.sqrt(math.log(1 / failure) / (2 * n))
        table = tail_table(n, 0.7, "none" if failure is None else "dkw", failure, n, side)  # type: ignore[arg-type]
        found = cdf_bound(draws, table, side)  # type: ignore[arg-type]
        expected = [[published(row, 0.7, err, side) for row in block] for block in draws]
        np.testing.assert_allclose(found, expected, atol=1e-9)


def test_mean_at_radius_zero() -> None:
    draws = np.random.default_rng(2).random((5, 64))
    for side in ("lower", "upper"):
        found = cdf_bound(draws, tail_table(64, 0.0, "none", None, 64, side), side)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, draws.mean(axis=1), atol=1e-13)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 3.0])
def test_never_outside_the_mean_bound(ratio: float) -> None:
    """Jensen: Phi(Phi^-1(p) + r) is concave in p for r > 0, so the mean of the shifts is below the shift of the mean."""
    draws = np.random.default_rng(3).beta(0.5, 0.9, (20, 50))
    upper = cdf_bound(draws, tail_table(50, ratio, "none", None, 50, "upper"), "upper")
    lower = cdf_bound(draws, tail_table(50, ratio, "none", None, 50, "lower"), "lower")
    mean = draws.mean(axis=1)
    assert np.all(upper <= gaussian_shift(mean, ratio) + 1e-12)
    assert np.all(lower >= gaussian_shift(mean, -ratio) - 1e-12)
    assert np.all(upper < gaussian_shift(mean, ratio) - 0.002)  # and clearly better where draws spread


def test_attained_by_a_linear_score() -> None:
    """s(x + e) = Phi((t + sigma z) / w): the worst attack moves t by R, and its mean has a closed form."""
    t, sigma, w, radius = 0.3, 0.5, 0.4, 0.25

    def mean(at: float) -> float:
        return float(stats.norm.cdf(at / math.hypot(w, sigma)))

    # quantiles of the score in place of draws: the empirical distribution is exact up to 1/n
    n = 4001
    draws = special.ndtr((t + sigma * special.ndtri((np.arange(n) + 0.5) / n)) / w)
    for side, sign in (("upper", 1), ("lower", -1)):
        table = tail_table(n, radius / sigma, "none", None, n, side)  # type: ignore[arg-type]
        found = float(cdf_bound(draws, table, side))  # type: ignore[arg-type]
        assert found == pytest.approx(mean(t + sign * radius), abs=2e-3)
        assert sign * (found - mean(t + sign * radius)) >= -2e-3
    quad, _ = integrate.quad(lambda z: stats.norm.pdf(z) * stats.norm.cdf((t + radius + sigma * z) / w), -9, 9)
    assert quad == pytest.approx(mean(t + radius), abs=1e-9)


@pytest.mark.parametrize("band", ["binomial", "dkw", "none"])
@pytest.mark.parametrize("side", ["upper", "lower"])
def test_tables_rise_and_weights_are_those_of_a_mean(band: Band, side: str) -> None:
    table = tail_table(200, 0.5, band, 0.01, 20, side)  # type: ignore[arg-type]
    assert np.all(np.diff(table) >= 0)
    assert 0 <= table[0] <= table[-1] <= 1
    slope, constant = weights(table)
    assert np.all(slope >= 0)
    assert slope.sum() + constant == pytest.approx(table[-1], abs=1e-12)
    if side == "upper":
        assert table[-1] == 1
    else:
        assert table[0] == 0


@pytest.mark.parametrize("band", ["binomial", "dkw"])
def test_bands_hold_at_all_steps_together(band: Band) -> None:
    """Exact simultaneous coverage for a score on three values, by enumeration of the multinomial counts."""
    n, failure, probs = 25, 0.1, (0.15, 0.5, 0.35)
    upper = tail_table(n, 0.0, band, failure, 2, "upper")
    lower = tail_table(n, 0.0, band, failure, 2, "lower")
    outside = {"upper": 0.0, "lower": 0.0}
    for first in range(n + 1):
        for second in range(n - first + 1):
            mass = stats.multinomial.pmf((first, second, n - first - second), n, probs)
            above = (n - first, n - first - second)
            truth = (probs[1] + probs[2], probs[2])
            outside["upper"] += mass * any(upper[k] < p for k, p in zip(above, truth, strict=True))
            outside["lower"] += mass * any(lower[k] > p for k, p in zip(above, truth, strict=True))
    for value in outside.values():
        assert 0 < value <= failure


@pytest.mark.parametrize("band", ["binomial", "dkw"])
def test_bounds_fail_rarely(band: Band) -> None:
    """Draws of a score on a grid: both bounds of the attacked mean hold, except with the failure given."""
    rng, n, failure, ratio = np.random.default_rng(4), 60, 0.2, 0.4
    values = np.array([0.0, 0.2, 0.7, 1.0])
    probs = np.array([0.4, 0.3, 0.2, 0.1])
    tails = np.cumsum(probs[::-1])[::-1][1:]
    counts = rng.multinomial(n, probs, 4000)
    for side, sign in (("upper", 1), ("lower", -1)):
        truth = float(special.ndtr(special.ndtri(tails) + sign * ratio) @ np.diff(values))
        table = tail_table(n, ratio, band, failure, 3, side)  # type: ignore[arg-type]
        bound = counted_bound(counts, np.diff(values), table, side)  # type: ignore[arg-type]
        missed = np.mean(sign * (bound - truth) < 0)
        assert missed <= failure + 4 * math.sqrt(failure / 4000)


def test_without_a_band_the_bound_is_only_asymptotic() -> None:
    """What the missing band costs: the same bounds fail for half of the samples."""
    rng, n = np.random.default_rng(5), 60
    counts = rng.multinomial(n, [0.5, 0.5], 2000)
    table = tail_table(n, 0.4, "none", None, 1, "upper")
    truth = float(gaussian_shift(0.5, 0.4))
    missed = np.mean(counted_bound(counts, np.ones(1), table, "upper") < truth)
    assert missed > 0.3


def test_counts_and_draws_agree() -> None:
    rng, n = np.random.default_rng(6), 80
    grid = plain_grid("lac", 3, 10)
    cells = grid.cell_of(rng.random((7, n)))
    counts = np.stack([np.bincount(row, minlength=11) for row in cells])
    for side in ("upper", "lower"):
        table = tail_table(n, 0.6, "dkw", 0.05, 10, side)  # type: ignore[arg-type]
        np.testing.assert_allclose(
            counted_bound(counts, grid.steps, table, side),  # type: ignore[arg-type]
            cdf_bound(cells / 10, table, side),  # type: ignore[arg-type]
            atol=1e-12,
        )


def test_refusals() -> None:
    with pytest.raises(InputError, match="band"):
        tail_table(5, 0.1, "wide", 0.1, 3, "upper")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        tail_table(0, 0.1, "dkw", 0.1, 3, "upper")
    with pytest.raises(InputError, match="needs a failure probability"):
        tail_table(5, 0.1, "binomial", None, 3, "upper")
    table = tail_table(5, 0.1, "dkw", 0.1, 5, "upper")
    with pytest.raises(InputError, match="4 for a table of 5"):
        cdf_bound(np.zeros(4), table, "upper")
    with pytest.raises(InputError, match="outside"):
        cdf_bound(np.full(5, 1.5), table, "upper")
