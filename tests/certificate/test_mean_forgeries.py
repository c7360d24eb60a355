"""RSCP, RSCP+ and CAS: produced certificates are accepted, and forgeries that only they offer are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import mean_builders
import numpy as np
import pytest

from neurosym.certify.certificate import load_certificate, measure, to_calibrated
from neurosym.certify.classifier import RobustConformalClassifier
from neurosym.certify.evidence import ScoreEvidence
from neurosym.certify.methods import cas, method, rscp, rscp_plus
from neurosym.certify.schema import Real
from neurosym.certify.study import Finding, radius_curve
from neurosym.certify.verifier import verify
from neurosym.certify.verifier.wording import ASYMPTOTIC

Document = dict[str, Any]
Arrays = dict[str, np.ndarray]
RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "rscp": lambda: mean_builders.mean_run("rscp"),
    "rscp_plus": lambda: mean_builders.mean_run("rscp_plus"),
    "cas": mean_builders.cas_run,
    "cas dkw": lambda: mean_builders.cas_run(band="dkw"),
    "cas asymptotic": lambda: mean_builders.cas_run(band="none"),
    "cas test": lambda: mean_builders.cas_run("test"),
    "cas test dkw": lambda: mean_builders.cas_run("test", "dkw"),
    "cas test asymptotic": lambda: mean_builders.cas_run("test", "none"),
}
NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: builders.write(folder / name, make()) for name, make in RUNS.items()}


Forge = Callable[[str, Callable[[Document, Arrays], None]], str]


@pytest.fixture
def forge(originals: dict[str, Path], tmp_path: Path) -> Forge:
    """Forge one run with every checksum and metric recomputed; the reasons for which it is refused."""

    def run(name: str, change: Callable[[Document, Arrays], None]) -> str:
        path = Path(shutil.copytree(originals[name].parent, tmp_path / name)) / "certificate.json"

        def careful(doc: Document, arrays: Arrays) -> None:
            change(doc, arrays)
            doc["metrics"] = measure(arrays["sets"], arrays["labels"], doc["classes"]).model_dump(mode="json")

        builders.forge(path, careful)
        result = verify(path)
        assert not result.ok
        assert all(check.name not in ("checksums", "metrics") for check in result.failed)
        return " | ".join(f"{check.name}: {check.detail}" for check in result.failed)

    return run


def real(value: float) -> dict[str, str]:
    return Real.of(value).model_dump()


def times(doc: Document, name: str, factor: float) -> None:
    doc["derived"][name] = real(float.fromhex(doc["derived"][name]["hex"]) * factor)


@pytest.mark.parametrize("name", RUNS)
def test_independent_runs_are_accepted(originals: dict[str, Path], name: str) -> None:
    result = verify(originals[name])
    assert result.ok, result.failed


OPTIONS: list[tuple[Any, dict[str, Any]]] = [
    (rscp, {}), (rscp_plus, {}), (rscp_plus, {"ptt": True}), (cas, {}), (cas, {"band": "dkw"}), (cas, {"asymptotic": True}),
    (cas, {"at": "test"}), (cas, {"at": "test", "band": "dkw"}), (cas, {"at": "test", "asymptotic": True}),
]  # fmt: skip


def scored(rng: np.random.Generator, n: int, draws: int = 90) -> ScoreEvidence:
    labels = rng.integers(0, 3, n)
    scores = rng.beta(5, 2, (n, 3, draws))
    scores[np.arange(n), labels] = rng.beta(2, 6, (n, draws))
    return ScoreEvidence(scores, 0.25, NAMES, labels, "categorical", 3)


@pytest.mark.parametrize(("module", "options"), OPTIONS)
@pytest.mark.parametrize(("alpha", "radius"), [("0.1", "0.1"), ("0.1", "0"), ("0.01", "0.1"), ("0.2", "9")])
def test_produced_runs_are_accepted_and_predict_again(
    module: Any, options: dict[str, Any], alpha: str, radius: str, tmp_path: Path
) -> None:
    """Plain, without an attacker, with too few points, and with too large a radius."""
    rng = np.random.default_rng(0)
    more = {key: value for key, value in options.items() if key != "ptt"}
    if options.get("ptt"):
        more["holdout"] = scored(rng, 100, 2)
    record = module.calibrate(scored(rng, 60), alpha=alpha, radius=radius, **more)
    test = scored(rng, 12)
    observed = module.observe(test, record)
    sets = module.predict(record, observed)
    run = {"calibrated": record, "observation": observed, "sets": sets, "test_labels": test.labels, "classes": NAMES,
           "predicates": NAMES, "knowledge": None}  # fmt: skip
    path = builders.write(tmp_path / "run", run)
    result = verify(path)
    assert result.ok, result.failed
    again = to_calibrated(load_certificate(path))
    restored = method(again.method)
    np.testing.assert_array_equal(restored.predict(again, restored.observe(test, again)), sets)


@pytest.mark.parametrize("name", ["rscp_plus", "cas test"])
@pytest.mark.parametrize("factor", [1 - 1e-7, 1 + 1e-7])
def test_clean_limit(forge: Forge, name: str, factor: float) -> None:
    assert "mean_clean" in forge(name, lambda doc, arrays: times(doc, "mean_clean", factor))


@pytest.mark.parametrize("name", ["rscp", "rscp_plus"])
@pytest.mark.parametrize("factor", [1 - 1e-11, 1 + 1e-8])
def test_shifted_mean(forge: Forge, name: str, factor: float) -> None:
    assert "mean_attacked" in forge(name, lambda doc, arrays: times(doc, "mean_attacked", factor))


@pytest.mark.parametrize("name", ["rscp", "rscp_plus", "cas", "cas dkw", "cas asymptotic"])
@pytest.mark.parametrize("step", [-1, 1])
def test_largest_total_with_its_sets(forge: Forge, name: str, step: int) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["derived"]["largest_total"] += step
        arrays["sets"] = arrays["observed_totals"] <= doc["derived"]["largest_total"]

    assert "largest_total" in forge(name, change)


@pytest.mark.parametrize("name", RUNS)
def test_published_flaw_no_budget_for_draws(forge: Forge, name: str) -> None:
    """The items are given to the conformal level (or an asymptotic run claims to be a paid one)."""

    def change(doc: Document, arrays: Arrays) -> None:
        if len(doc["budget"]) > 1:
            doc["budget"] = [doc["budget"][0] | {"value": "0.2"}]
        elif doc["method"] == "rscp":
            doc["method"] = "rscp_plus"
        else:
            doc["derived"]["asymptotic"] = False

    assert "error budget: budget item" in forge(name, change)


@pytest.mark.parametrize("name", ["rscp", "cas asymptotic", "cas test asymptotic"])
@pytest.mark.parametrize("place", ["sentence", "caveats"])
def test_published_flaw_asymptotic_without_saying_so(forge: Forge, name: str, place: str) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        if place == "caveats":
            doc["guarantee"]["caveats"].remove(ASYMPTOTIC)
        else:
            words = doc["guarantee"]["sentence"].removeprefix("In the limit of infinitely many noise draws, ")
            doc["guarantee"]["sentence"] = words[0].upper() + words[1:]

    assert place in forge(name, change)


@pytest.mark.parametrize("name", ["cas", "cas test"])
def test_paid_run_called_asymptotic(forge: Forge, name: str) -> None:
    assert "budget" in forge(name, lambda doc, arrays: doc["derived"].update(asymptotic=True))


@pytest.mark.parametrize("name", ["cas", "cas dkw", "cas asymptotic"])
def test_larger_radius_needs_other_scores(forge: Forge, name: str) -> None:
    """Everything that names the radius is changed; the CDF bounds of the counts are not."""

    def change(doc: Document, arrays: Arrays) -> None:
        doc["radius"], doc["derived"]["radius_over_sigma"] = "0.1875", real(0.75)
        text = doc["guarantee"]
        text["sentence"] = text["sentence"].replace("0.125", "0.1875")
        text["assumptions"] = [line.replace("0.125", "0.1875") for line in text["assumptions"]]

    reasons = forge(name, change)
    assert reasons.startswith("calibration scores: calibration.scores row 0 is not the CDF bound")


@pytest.mark.parametrize("name", ["cas test", "cas test dkw"])
def test_larger_radius_needs_other_sets(forge: Forge, name: str) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["radius"], doc["derived"]["radius_over_sigma"] = "1", real(4.0)
        text = doc["guarantee"]
        text["sentence"] = text["sentence"].replace("0.125", "1")
        text["assumptions"] = [line.replace("0.125", "1") for line in text["assumptions"]]

    assert "prediction sets" in forge(name, change)


@pytest.mark.parametrize("name", RUNS)
def test_calibration_counts(forge: Forge, name: str) -> None:
    """One draw of one calibration point moves by a cell."""

    def change(doc: Document, arrays: Arrays) -> None:
        row = doc["calibration"]["votes"][4]
        if len(row) == 1:
            row[0] += 1
        else:
            last = max(c for c, count in enumerate(row) if count)
            row[last], row[last - 1] = row[last] - 1, row[last - 1] + 1

    assert "calibration.scores row 4" in forge(name, change)


@pytest.mark.parametrize("name", ["cas", "cas test"])
def test_counts_that_are_not_the_draws(forge: Forge, name: str) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        if name == "cas":
            doc["calibration"]["votes"][3][0] += 1
        else:
            arrays["observed_counts"][3, 0, 0] += 1

    assert "61 of 60 draws" in forge(name, change) if name == "cas" else "do not sum" in forge(name, change)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("added", [True, False])
def test_set_member(forge: Forge, name: str, added: bool) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        row, label = (int(v) for v in np.argwhere(arrays["sets"] != added)[2])
        arrays["sets"][row, label] = added

    assert "was added" in forge(name, change) if added else "was removed" in forge(name, change)


@pytest.mark.parametrize("name", RUNS)
def test_every_set_full_without_cause(forge: Forge, name: str) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["derived"]["keeps_all"] = True
        arrays["sets"][:] = True

    assert "keeps_all" in forge(name, change)


def test_another_band(forge: Forge) -> None:
    assert "calibration scores" in forge("cas", lambda doc, arrays: doc["derived"].update(binomial_band=False))


@pytest.mark.parametrize("name", RUNS)
def test_another_grid(forge: Forge, name: str) -> None:
    """Fewer cells make every total a larger share; levels that fall, or leave the range, are no levels."""
    assert forge(name, lambda doc, arrays: doc["derived"].update(cells=25))


@pytest.mark.parametrize("levels", [[0, 2, 1], [0, 1, 3], [1, 1, 2], [0, 2]])
def test_levels_of_a_transform(originals: dict[str, Path], tmp_path: Path, levels: list[int]) -> None:
    path = Path(shutil.copytree(originals["rscp_plus"].parent, tmp_path / "run")) / "certificate.json"
    builders.forge(path, lambda doc, arrays: doc["derived"].update(cells=2, scale=2, levels=levels))
    assert any("levels" in check.detail for check in verify(path).failed)


@pytest.mark.parametrize("name", ["rscp", "rscp_plus", "cas"])
def test_certified_coverage_cannot_be_claimed(originals: dict[str, Path], tmp_path: Path, name: str) -> None:
    """Published flaw: coverage of un-enlarged sets without a certificate for each point."""
    from scipy import stats

    path = Path(shutil.copytree(originals[name].parent, tmp_path / "run")) / "certificate.json"

    def change(doc: Document, arrays: Arrays) -> None:
        n = doc["test"]["n"]
        doc["metrics"]["certified"] = {
            "points": n, "successes": n - 1, "delta": "0.05", "point_failure": "0",
            "lower": real(float(stats.beta.ppf(0.05, n - 1, 2))), "note": "",
        }  # fmt: skip

    builders.forge(path, change)
    assert any("no certified coverage" in check.detail for check in verify(path).failed)


@pytest.mark.parametrize(
    ("method", "options"),
    [("rscp", {}), ("rscp_plus", {}), ("cas", {}), ("cas", {"band": "dkw"}), ("cas", {"at": "test"})],
)
def test_forged_curve(method: str, options: dict[str, str], tmp_path: Path) -> None:
    """Every point of the curve is recomputed: one label fewer at another radius is noticed."""
    classifier = RobustConformalClassifier(method, "0.2", "0.05", options=options).conformalize(
        scored(np.random.default_rng(1), 60)
    )
    test = scored(np.random.default_rng(2), 30)
    observation, record = classifier.observe(test), classifier.calibrated
    assert record is not None
    sets = classifier.predict_set(test)
    finding = Finding(classifier, record, observation, sets, test.labels, None, None)
    run = {"calibrated": record, "observation": observation, "sets": sets, "test_labels": test.labels,
           "classes": NAMES, "predicates": NAMES, "knowledge": None}  # fmt: skip
    path = builders.write(tmp_path / "run", run, curve=radius_curve(finding))
    result = verify(path)
    assert result.ok, result.failed
    assert any(check.detail == "7 radii recomputed" for check in result.checks)

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        point = doc["metrics"]["curve"][5]
        size = float(point["mean_size"]["decimal"]) - 1 / 30
        point["mean_size"] = {"hex": size.hex(), "decimal": repr(size)}

    builders.forge(path, change)
    assert [check.name for check in verify(path).failed] == ["radius curve"]
