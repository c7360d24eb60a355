"""Levy-Prokhorov shifts: coverage under the worst shift (and just), order statistics, exact rounding, refusals."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurosym.certify import RobustConformalClassifier
from neurosym.certify.certificate import load_certificate
from neurosym.certify.evidence import BoxEvidence, ProbEvidence, ScoreEvidence, save_evidence
from neurosym.certify.methods import levy_prokhorov, vanilla
from neurosym.certify.pipeline import FileOptions, certify_files, predict_file
from neurosym.certify.quantile import conformal_rank
from neurosym.certify.verifier import verify
from neurosym.cli.app import main
from neurosym.errors import InputError

NAMES = ("a", "b", "c")


def one_score(scores: np.ndarray) -> ScoreEvidence:
    """Scores of one label, a single draw each."""
    return ScoreEvidence(scores[:, None, None], 0.0, ("a",))


def covered(eps: float, rho: float, repetitions: int, claimed: tuple[float, float] | None = None) -> np.ndarray:
    """Coverage under the worst shift: every score up by eps, a share rho to the top. Scores are uniform, n = 99."""
    rng, found = np.random.default_rng(1), []
    radius, mass = claimed or (eps, rho)
    for _ in range(repetitions):
        made = levy_prokhorov.calibrate(
            one_score(rng.random(99)), np.zeros(99, int), alpha="0.2", radius=str(radius), rho=str(mass)
        )
        moved = rng.random(200) + eps
        moved[rng.random(200) < rho] = 100.0
        found.append(levy_prokhorov.predict(made, levy_prokhorov.observe(one_score(moved), made)).mean())
    return np.array(found)


@pytest.mark.parametrize(("eps", "rho"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.05), (0.1, 0.05)])
def test_world_coverage_is_attained(eps: float, rho: float) -> None:
    """At least 1 - alpha, and for this worst shift no more than the integer rank adds (rank / (n+1) is a multiple of 0.01)."""
    found = covered(eps, rho, 1000)
    error = found.std() / np.sqrt(1000)
    assert found.mean() >= 0.8 - 4 * error
    # (1 - (alpha - rho)) (1 - rho) exceeds 1 - alpha by rho (alpha - rho): shifted points would have missed anyway
    assert found.mean() <= 0.8 + rho * (0.2 - rho) + 4 * error


@pytest.mark.parametrize("claimed", [(0.0, 0.05), (0.1, 0.0)])
def test_a_smaller_ball_than_the_shift_is_not_enough(claimed: tuple[float, float]) -> None:
    found = covered(0.1, 0.05, 300, claimed)
    assert found.mean() < 0.8 - 6 * found.std() / np.sqrt(300)


def test_threshold_is_the_order_statistic_of_the_raised_level() -> None:
    rng = np.random.default_rng(2)
    scores = rng.random(57)
    made = levy_prokhorov.calibrate(one_score(scores), np.zeros(57, int), alpha="0.1", radius="0.03", rho="0.04")
    assert made.rank == conformal_rank(57, "0.06") == 55
    assert made.threshold == np.sort(scores)[54]
    assert [(item.name, item.value) for item in made.budget] == [("conformal", "0.06"), ("shifted_mass", "0.04")]
    assert Fraction(made.derived["enlarged_threshold"]) >= Fraction(made.threshold) + Fraction("0.03")


def test_the_sum_is_rounded_upwards() -> None:
    rng = np.random.default_rng(3)
    for q, radius in zip(rng.random(2000), rng.integers(1, 10**6, 2000), strict=True):
        eps = Fraction(int(radius), 10**6)
        up = levy_prokhorov.enlarged(float(q), eps)
        assert Fraction(up) >= Fraction(float(q)) + eps
        assert Fraction(np.nextafter(up, -np.inf)) < Fraction(float(q)) + eps
    assert levy_prokhorov.enlarged(np.inf, "0.1") == np.inf


def test_without_shift_it_is_vanilla() -> None:
    rng = np.random.default_rng(4)
    cal = ProbEvidence(rng.dirichlet(np.ones(3), 80), NAMES, rng.integers(0, 3, 80), "categorical")
    test = ProbEvidence(rng.dirichlet(np.ones(3), 50), NAMES, None, "categorical")
    for score in ("lac", "aps", "raps", "saps"):
        made = levy_prokhorov.calibrate(cal, alpha="0.2", radius=0, score=score)
        plain = vanilla.calibrate(cal, alpha="0.2", score=score)
        assert made.threshold == plain.threshold
        sets = levy_prokhorov.predict(made, levy_prokhorov.observe(test, made))
        assert np.array_equal(sets, vanilla.predict(plain, vanilla.observe(test, plain)))
        wider = levy_prokhorov.calibrate(cal, alpha="0.2", radius="0.1", rho="0.05", score=score)
        more = levy_prokhorov.predict(wider, levy_prokhorov.observe(test, wider))
        assert (more >= sets).all()
        assert more.sum() > sets.sum()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"radius": "-0.1"}, "radius: -0.1 is negative"),
        ({"rho": "-0.1"}, "rho: -0.1 is negative"),
        ({"rho": "0.2"}, "rho: 0.2 is not below alpha = 0.2"),
        ({"rho": "x"}, "rho: 'x' is not a number"),
    ],
)
def test_refused(changed: dict[str, Any], text: str) -> None:
    evidence = one_score(np.linspace(0, 1, 20))
    with pytest.raises(InputError, match=text):
        levy_prokhorov.calibrate(evidence, np.zeros(20, int), **{"alpha": "0.2", "radius": "0.1", **changed})


def test_refused_elsewhere() -> None:
    boxes = BoxEvidence(np.zeros((9, 2)), np.ones((9, 2)), 0.1, ("a", "b"), np.zeros(9, int))
    with pytest.raises(InputError, match="BoxEvidence holds no noise draws"):
        levy_prokhorov.calibrate(boxes, alpha="0.2", radius="0.1")
    with pytest.raises(InputError, match="has no option 'sigma'"):
        RobustConformalClassifier("levy_prokhorov", "0.2", "0.1", options={"sigma": 1})
    with pytest.raises(InputError, match="norm: 'l2'; method levy_prokhorov is proved for score only"):
        RobustConformalClassifier("levy_prokhorov", "0.2", "0.1", norm="l2")
    few = levy_prokhorov.calibrate(one_score(np.arange(8.0)), np.zeros(8, int), alpha="0.2", radius=1, rho="0.15")
    assert "at least 19 are needed" in few.notes[0]
    assert levy_prokhorov.predict(few, levy_prokhorov.observe(one_score(np.array([9e9])), few)).all()


def evidence_file(path: Path, seed: int, n: int) -> Path:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    p = rng.dirichlet(np.ones(3), n) * 0.6
    p[np.arange(n), labels] += 0.4
    save_evidence(path, ProbEvidence(p, NAMES, labels, "categorical"))
    return path


@pytest.mark.parametrize("rho", ["0", "0.03"])
def test_from_files_to_a_verified_certificate(tmp_path: Path, rho: str, capsys: pytest.CaptureFixture[str]) -> None:
    cal, test = evidence_file(tmp_path / "cal.npz", 1, 90), evidence_file(tmp_path / "test.npz", 2, 40)
    words = ["certify", "--evidence", str(cal), "--test", str(test), "--method", "levy_prokhorov", "--radius", "0.05"]
    assert main([*words, "--rho", rho, "--alpha", "0.2", "--out", str(tmp_path / "out")]) == 0
    assert "scores moved by up to 0.05" in " ".join(capsys.readouterr().out.split())
    result = verify(tmp_path / "out")
    assert result.ok, result.failed
    certificate = load_certificate(tmp_path / "out")
    share = "0 %" if rho == "0" else "3 %"
    assert f"each score by up to 0.05, and those of at most {share} of the images" in certificate.guarantee.sentence
    assert "attacker" not in certificate.guarantee.sentence + " ".join(certificate.guarantee.assumptions)
    again = predict_file(tmp_path / "out" / "certificate.json", test)
    with np.load(tmp_path / "out" / "sets.npz") as archive:
        assert np.array_equal(again.sets, archive["sets"])
    with pytest.raises(InputError, match=r"rho 0\.1: only method levy_prokhorov"):
        certify_files(cal, test, None, FileOptions("vanilla", rho="0.1"), tmp_path / "x")
