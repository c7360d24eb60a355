"""Certificates of the Levy-Prokhorov method: genuine ones pass, careful forgeries are refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest

from neurosym.certify.certificate import measure
from neurosym.certify.records import Calibrated
from neurosym.certify.schema import Real
from neurosym.certify.verifier import verify

Document = dict[str, Any]
Arrays = dict[str, np.ndarray]


def shift_run(mass: str | None, n: int = 60) -> dict[str, Any]:
    """Radius 0.0625 on scores; the share ``mass`` moves freely."""
    base = builders.score_run("vanilla", n=n)
    old = base["calibrated"]
    budget = builders.items("0.2") if mass is None else builders.items("0.2", shifted_mass=mass)
    rank, threshold = builders.threshold_of(old.calibration["scores"], Fraction(budget[0].value))
    enlarged = math.inf if rank > n else math.nextafter(threshold + 0.0625, 2)
    calibrated = Calibrated(
        method="levy_prokhorov", score="lac", alpha="0.2", radius="0.0625", sigma="0", trials=0, n=n, rank=rank,
        threshold=threshold, budget=budget, derived={"enlarged_threshold": enlarged}, calibration=old.calibration,
        reasoning=old.reasoning, norm="score",
    )  # fmt: skip
    return base | {"calibrated": calibrated, "sets": base["observation"]["scores"] <= enlarged}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        name: builders.write(folder / name, shift_run(None if name == "none" else name)) for name in ("none", "0.05")
    }


@pytest.fixture(params=["none", "0.05"])
def copy(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[request.param].parent, tmp_path / "copy")) / "certificate.json"


def real(value: float) -> dict[str, str]:
    return Real.of(value).model_dump()


def refused(path: Path, change: Callable[[Document, Arrays], None], check: str) -> str:
    assert verify(path).ok, verify(path).failed
    builders.forge(path, change)
    result = verify(path)
    assert check in {item.name for item in result.failed}
    assert all(item.name != "checksums" for item in result.failed)
    return " | ".join(item.detail for item in result.failed)


def test_larger_radius(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["radius"] = "0.07"
        guarantee = doc["guarantee"]
        guarantee["sentence"] = guarantee["sentence"].replace("0.0625", "0.07")
        guarantee["assumptions"] = [text.replace("0.0625", "0.07") for text in guarantee["assumptions"]]

    assert "enlarged_threshold" in refused(copy, change, "derived numbers")


@pytest.mark.parametrize("factor", [1 - 1e-12, 1 + 1e-12])
def test_enlarged_threshold(copy: Path, factor: float) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        old = float.fromhex(doc["derived"]["enlarged_threshold"]["hex"])
        doc["derived"]["enlarged_threshold"] = real(old * factor)

    assert "enlarged_threshold" in refused(copy, change, "derived numbers")


def test_more_mass_in_words_alone(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        for old in ("0 % of the images", "5 % of the images"):
            doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace(f"most {old}", "most 9 % of the images")

    assert "sentence" in refused(copy, change, "plain sense")


def test_more_mass_in_the_budget(copy: Path) -> None:
    """The words follow, alpha stays: then the conformal level falls, and the rank does not."""

    def change(doc: Document, arrays: Arrays) -> None:
        doc["budget"] = [
            {"name": "conformal", "value": "0.1", "note": ""},
            {"name": "shifted_mass", "value": "0.1", "note": ""},
        ]
        text = doc["guarantee"]["sentence"]
        doc["guarantee"]["sentence"] = text.replace("most 0 %", "most 10 %").replace("most 5 %", "most 10 %")
        doc["guarantee"]["assumptions"] = [
            t.replace("at most 0:", "at most 0.1:").replace("at most 0.05:", "at most 0.1:")
            for t in doc["guarantee"]["assumptions"]
        ]

    assert "rank" in refused(copy, change, "rank and threshold")


def test_mass_forgotten(originals: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(originals["0.05"].parent, tmp_path / "copy")) / "certificate.json"

    def change(doc: Document, arrays: Arrays) -> None:
        doc["budget"] = [{"name": "conformal", "value": "0.2", "note": ""}]

    assert "sentence" in refused(path, change, "plain sense")


def test_an_attack_on_images_in_place_of_scores(copy: Path) -> None:
    assert "norm 'l2'" in refused(copy, lambda doc, arrays: doc.update(norm="l2"), "plain sense")


def test_scores_in_place_of_images(tmp_path: Path) -> None:
    path = builders.write(tmp_path / "run", builders.score_run("rcp1"))
    assert "norm 'score'" in refused(path, lambda doc, arrays: doc.update(norm="score"), "plain sense")


@pytest.mark.parametrize("added", [True, False])
def test_member(copy: Path, added: bool) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        row, label = np.argwhere(arrays["sets"] != added)[1]
        arrays["sets"][row, label] = added
        doc["metrics"] = measure(arrays["sets"], arrays["labels"], doc["classes"]).model_dump(mode="json")

    assert ("was added" if added else "was removed") in refused(copy, change, "prediction sets")


def test_certified_coverage(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        n = doc["test"]["n"]
        doc["metrics"]["certified"] = {
            "points": n, "successes": 0, "delta": "0.05", "point_failure": "0", "lower": real(0.0), "note": "",
        }  # fmt: skip

    assert "levy_prokhorov" in refused(copy, change, "certified coverage")


def test_no_finite_threshold(tmp_path: Path) -> None:
    run = shift_run("0.19", n=30)
    assert run["calibrated"].trivial
    path = builders.write(tmp_path / "run", run)
    assert verify(path).ok, verify(path).failed
    builders.forge(path, lambda doc, arrays: doc["derived"].update(enlarged_threshold=real(0.5)))
    assert not verify(path).ok
