"""Forged certificates, every checksum recomputed by the forger: each must be refused with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import mean_builders
import numpy as np
import pytest
from scipy import stats

from neurosym.certify.schema import Real
from neurosym.certify.verifier import verify

METHODS: dict[str, Callable[[], dict[str, Any]]] = {
    "vanilla": lambda: builders.score_run("vanilla"),
    "rcp1": lambda: builders.score_run("rcp1"),
    "bincp": builders.bincp_run,
    "rscp": lambda: mean_builders.mean_run("rscp"),
    "rscp_plus": lambda: mean_builders.mean_run("rscp_plus"),
    "cas": mean_builders.cas_run,
    "cas-test": lambda: mean_builders.cas_run("test"),
    "colep-none": lambda: builders.colep_run("none"),
    "colep-rules": lambda: builders.colep_run("rules"),
    "colep-exclusive": lambda: builders.colep_run("exclusive"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: builders.write(folder / name, make()) for name, make in METHODS.items()}


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def copy(originals: dict[str, Path], method: str, tmp_path: Path) -> Path:
    shutil.copytree(originals[method].parent, tmp_path / "copy")
    return tmp_path / "copy" / "certificate.json"


def refused(path: Path, check: str | None = None) -> str:
    """The reasons of the failed checks; asserts that it is a no and that the checksums did not help."""
    result = verify(path)
    assert not result.ok
    assert all(item.name != "checksums" for item in result.failed)
    assert all(item.detail for item in result.checks)
    if check is not None:
        assert check in {item.name for item in result.failed}
    return " | ".join(item.detail for item in result.failed)


def real(value: float) -> dict[str, str]:
    return Real.of(value).model_dump()


def test_genuine_is_accepted(copy: Path) -> None:
    result = verify(copy)
    assert result.ok, result.failed
    assert verify(copy.parent).ok


def test_resigning_alone_changes_nothing(copy: Path) -> None:
    builders.forge(copy, lambda doc, arrays: None)
    assert verify(copy).ok


def test_forged_alpha(copy: Path) -> None:
    builders.forge(copy, lambda doc, arrays: doc.update(alpha="0.15"))
    assert "sum to alpha" in refused(copy, "error budget")


def test_forged_alpha_and_budget(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["budget"][0]["value"] = str(round(float(doc["budget"][0]["value"]) - 0.05, 6))
        doc["alpha"] = str(round(float(doc["alpha"]) - 0.05, 6))
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace("80 %", "85 %").replace("70 %", "75 %")

    builders.forge(copy, change)
    assert "give" in refused(copy)


def test_forged_radius(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        old, doc["radius"] = doc["radius"], "0.13"
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace(f"up to {old}", "up to 0.13")

    builders.forge(copy, change)
    assert "radius" in refused(copy)


def test_forged_radius_with_its_ratio(copy: Path, method: str) -> None:
    """The forger also writes the matching radius / sigma; then the shifted numbers or tables betray him."""
    if method == "vanilla":
        pytest.skip("vanilla has no ratio")
    if method == "cas-test":
        pytest.skip("these sets follow at the larger radius as well")

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        old, doc["radius"] = doc["radius"], "0.1875"
        doc["derived"]["radius_over_sigma"] = real(0.75)
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace(f"up to {old}", "up to 0.1875")

    builders.forge(copy, change)
    assert refused(copy, "calibration scores" if method == "cas" else "derived numbers")


def test_forged_sigma(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["sigma"] = "0.2500001"

    builders.forge(copy, change)
    assert "sigma" in refused(copy)


def test_forged_number_of_draws(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["trials"] += 1

    builders.forge(copy, change)
    assert refused(copy)


def test_forged_number_of_test_draws(copy: Path, method: str) -> None:
    if method in ("vanilla", "rcp1"):
        pytest.skip("no draws at test")

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["derived"]["trials_test"] *= 3

    builders.forge(copy, change)
    assert refused(copy, "prediction sets" if method == "cas-test" else "derived numbers")


def test_forged_n(copy: Path) -> None:
    builders.forge(copy, lambda doc, arrays: doc.update(n=doc["n"] + 1))
    assert "rows" in refused(copy, "rank and threshold")


def test_forged_n_with_duplicated_rows(copy: Path) -> None:
    """More rows, consistently: the rank must follow."""

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        for name, rows in doc["calibration"].items():
            if rows is not None:
                doc["calibration"][name] = rows + rows
        doc["n"] *= 2

    builders.forge(copy, change)
    assert "rank" in refused(copy, "rank and threshold")


def test_forged_threshold(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["threshold"] = real(float.fromhex(doc["threshold"]["hex"]) * (1 - 2**-50))

    builders.forge(copy, change)
    assert "threshold" in refused(copy, "rank and threshold")


def test_forged_rank_and_threshold(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["rank"] -= 1
        scores = sorted(map(float.fromhex, doc["calibration"]["scores"]))
        doc["threshold"] = real(scores[doc["rank"] - 1])

    builders.forge(copy, change)
    assert "rank" in refused(copy, "rank and threshold")


def test_deleted_budget_item(copy: Path) -> None:
    for position in range(len(json.loads(copy.read_text())["budget"])):
        name = ""

        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray], position: int = position) -> None:
            nonlocal name
            name = doc["budget"].pop(position)["name"]

        backup = copy.read_bytes()
        builders.forge(copy, change)
        assert f"budget item {name} is missing" in refused(copy, "error budget")
        copy.write_bytes(backup)


def test_deleted_budget_item_given_to_conformal(copy: Path, method: str) -> None:
    if method in ("vanilla", "rcp1", "rscp"):
        pytest.skip("only one item")

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        gone = doc["budget"].pop()
        doc["budget"][0]["value"] = str(round(float(doc["budget"][0]["value"]) + float(gone["value"]), 6))

    builders.forge(copy, change)
    assert "missing" in refused(copy, "error budget")


@pytest.mark.parametrize("added", [True, False])
def test_changed_set_member(copy: Path, added: bool) -> None:
    place = (0, 0)

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        nonlocal place
        row, label = (int(v) for v in np.argwhere(arrays["sets"] != added)[3])
        arrays["sets"][row, label] = added
        place = row, label
        redo_metrics(doc, arrays)

    builders.forge(copy, change)
    verb = "added" if added else "removed"
    assert f"row {place[0]}: label {builders.CLASSES[place[1]]} was {verb}" in refused(copy, "prediction sets")


def redo_metrics(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """What a careful forger would do: metrics that fit the forged sets."""
    from neurosym.certify.certificate import measure

    metrics = measure(arrays["sets"], arrays["labels"], doc["classes"])
    doc["metrics"] = metrics.model_dump(mode="json")


def test_forged_metrics(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["metrics"]["covered"] -= 1

    builders.forge(copy, change)
    assert "covered" in refused(copy, "metrics")


def test_forged_interval(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        interval = doc["metrics"]["interval"]
        interval["lower"] = real(float.fromhex(interval["lower"]["hex"]) + 1e-6)

    builders.forge(copy, change)
    assert "lower limit" in refused(copy, "metrics")


def test_forged_sentence(copy: Path) -> None:
    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace("0 %", "9 %")

    builders.forge(copy, change)
    assert "sentence" in refused(copy, "plain sense")


@pytest.mark.parametrize("name", ["p_lower", "p_shifted"])
@pytest.mark.parametrize("factor", [1 + 1e-11, 1 - 1e-8])
def test_forged_bincp_numbers(originals: dict[str, Path], tmp_path: Path, name: str, factor: float) -> None:
    path = Path(shutil.copytree(originals["bincp"].parent, tmp_path / "copy")) / "certificate.json"

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["derived"][name] = real(float.fromhex(doc["derived"][name]["hex"]) * factor)

    builders.forge(path, change)
    assert name in refused(path, "derived numbers")


@pytest.mark.parametrize("step", [-1, 1])
def test_forged_votes_needed(originals: dict[str, Path], tmp_path: Path, step: int) -> None:
    path = Path(shutil.copytree(originals["bincp"].parent, tmp_path / "copy")) / "certificate.json"

    def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        doc["derived"]["votes_needed"] += step

    builders.forge(path, change)
    assert "votes_needed" in refused(path, "derived numbers")


def with_certified(run: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The certified coverage of a run as the producer measures it."""
    from neurosym.certify.coverage import certified_coverage
    from neurosym.certify.schema import CertifiedCoverage

    observation = run["observation"] | {"uniforms": np.ones(len(run["test_labels"]))}
    bound = certified_coverage(run["calibrated"], observation, run["test_labels"])
    assert bound is not None
    found = CertifiedCoverage(
        points=bound.points, successes=bound.successes, delta=bound.evaluation_failure,
        point_failure=bound.point_failure, lower=Real.of(bound.lower),
    )  # fmt: skip
    return run, found


@pytest.mark.parametrize("name", ["vanilla", "bincp", "colep-none"])
def test_certified_coverage(name: str, tmp_path: Path) -> None:
    run, found = with_certified(METHODS[name]())
    path = builders.write(tmp_path / "run", run, certified=found)
    assert verify(path).ok, verify(path).failed

    def change_count(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        entry = doc["metrics"]["certified"]
        entry["successes"] += 1 if entry["successes"] < entry["points"] / 2 else -1
        b, count, points = float(entry["point_failure"]), entry["successes"], entry["points"]
        limit = stats.beta.ppf(float(entry["delta"]), count, points - count + 1)
        entry["lower"] = real(float((limit - b) / (1 - b)))

    def lift_bound(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        entry = doc["metrics"]["certified"]["lower"]
        entry.update(real(float.fromhex(entry["hex"]) + 1e-7))

    for change, word in ((change_count, "points are said"), (lift_bound, "lower bound")):
        shutil.copytree(tmp_path / "run", tmp_path / word)
        builders.forge(tmp_path / word / "certificate.json", change)
        assert word in refused(tmp_path / word / "certificate.json", "certified coverage")


@pytest.mark.parametrize("circuit", ["colep-rules", "colep-exclusive"])
class TestColep:
    """Forgeries that only COLEP offers."""

    @pytest.fixture
    def path(self, originals: dict[str, Path], circuit: str, tmp_path: Path) -> Path:
        return Path(shutil.copytree(originals[circuit].parent, tmp_path / "copy")) / "certificate.json"

    def test_fewer_sides(self, path: Path) -> None:
        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            doc["derived"]["sensor_sides"] = 2
            for name in ("attacked_failure_per_side", "clean_failure_per_side"):
                doc["derived"][name] = real(0.005)

        builders.forge(path, change)
        assert "sensor_sides" in refused(path, "derived numbers")

    def test_narrower_table(self, path: Path) -> None:
        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            entry = doc["derived"]["attacked_upper"][3]
            doc["derived"]["attacked_upper"][3] = real((round(float.fromhex(entry["hex"]) * 50) - 1) / 50)

        builders.forge(path, change)
        assert "attacked_upper[3]" in refused(path, "derived numbers")

    def test_calibration_vote(self, path: Path) -> None:
        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            row = doc["calibration"]["votes"][4]
            label = doc["calibration"]["labels"][4]
            row[label] += 1 if row[label] < 50 else -1

        builders.forge(path, change)
        assert "row 4" in refused(path, "calibration scores")

    def test_rule_weight(self, path: Path) -> None:
        from neurosym.certify.verifier.digests import digest

        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            doc["reasoning"]["knowledge"]["rules"][0]["weight"] = 1.6
            doc["reasoning"]["knowledge_digest"] = digest(doc["reasoning"]["knowledge"])

        builders.forge(path, change)
        assert "row" in refused(path, "calibration scores")

    def test_another_circuit(self, path: Path) -> None:
        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            doc["reasoning"]["circuit"] = "none"

        builders.forge(path, change)
        assert refused(path, "calibration scores")

    def test_rules_without_text(self, path: Path) -> None:
        def change(doc: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
            doc["reasoning"]["knowledge"] = None

        builders.forge(path, change)
        assert "no rules" in refused(path)
