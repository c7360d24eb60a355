"""The benchmarks' own arithmetic: right ranks, formulas of others, counts, and one small measurement."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from conformal_cases import rank_by_search
from scipy.stats import mstats

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.conformal import contestant, quantile_audit, ranks_one, speed


def test_right_ranks_and_ours() -> None:
    pairs = [(n, a) for n in (1, 2, 9, 49, 149, 200) for a in (1, 5, 100, 180, 293, 333, 500)]
    right = [rank_by_search(n, Fraction(a, 1000)) for n, a in pairs]
    assert [quantile_audit.right_rank(n, a) for n, a in pairs] == right
    rank, _, _ = ranks_one.neurosym()
    assert ranks_one.ranks(rank, [(n, quantile_audit.text_of(a)) for n, a in pairs]) == right


def test_formulas_are_what_they_are_called() -> None:
    for n in (5, 20, 101):
        for p in (0.1, 0.5, 0.9, 0.999):
            x = np.arange(1.0, n + 1)
            assert ranks_one._mquantile(x, p) == pytest.approx(float(mstats.mquantiles(x, p)[0]), abs=1e-9)


def test_counts_of_the_audit() -> None:
    pairs = [(9, 100), (9, 200), (19, 100), (5, 100), (4, 50), (9, 300)]  # right: 9, 8, 18, none, none, 7
    found = quantile_audit.compare({"name": "x", "how": "y", "ranks": [9, 7, 19, 5, None, None]}, pairs)
    assert (found["pairs"], found["too_low"], found["too_high"]) == (3, 1, 1)
    assert (found["few"], found["few_finite"], found["refused"]) == (2, 1, 1)
    assert found["worst_loss"] == pytest.approx(0.8 - 0.7)
    assert found["example"] == "n=9, alpha=0.2: 7 for 8"


def test_one_small_measurement(tmp_path: Path) -> None:
    speed.write_table(tmp_path, "cal", 200, 1)
    speed.write_table(tmp_path, "test", 150, 2)
    p = np.load(tmp_path / "test.npy")
    assert p.dtype == np.float32
    assert np.allclose(p.sum(axis=1), 1, atol=1e-5)
    sets, values = (contestant.measure(name, "aps", tmp_path) for name in ("neurosym", "neurosym p-values"))
    assert sets["coverage"] == values["coverage"] > 0.8
    assert sets["size"] == values["size"]
