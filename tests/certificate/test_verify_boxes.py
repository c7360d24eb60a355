"""Certificates of the methods on deterministic bounds: genuine ones pass, careful forgeries are refused.

That intervals hold over the ball of the claimed radius is an assumption in the certificate's own words; everything
that follows from them is re-derived.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import box_builders
import builders
import numpy as np
import pytest

from neurosym.certify.certificate import load_certificate, measure, to_calibrated
from neurosym.certify.coverage import certified_coverage
from neurosym.certify.evidence import BoxEvidence
from neurosym.certify.methods import method as method_named
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.schema import CertifiedCoverage, Real
from neurosym.certify.verifier import verify
from neurosym.logic import KnowledgeBase

Document = dict[str, Any]
Arrays = dict[str, np.ndarray]
Change = Callable[[Document, Arrays], None]
RUNS = [(method, circuit) for method in ("vrcp_i", "vrcp_c") for circuit in ("none", "rules")]


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        f"{method}-{circuit}": builders.write(folder / f"{method}-{circuit}", box_builders.vrcp_run(method, circuit))
        for method, circuit in RUNS
    }


@pytest.fixture(params=[f"{method}-{circuit}" for method, circuit in RUNS])
def copy(request: pytest.FixtureRequest, originals: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals[request.param].parent, tmp_path / "copy")) / "certificate.json"


def refused(path: Path, change: Change, check: str) -> str:
    assert verify(path).ok, verify(path).failed
    builders.forge(path, change)
    result = verify(path)
    assert check in {item.name for item in result.failed}
    assert all(item.name != "checksums" for item in result.failed)
    return " | ".join(item.detail for item in result.failed)


def real(value: float) -> dict[str, str]:
    return Real.of(value).model_dump()


def redo_metrics(doc: Document, arrays: Arrays) -> None:
    doc["metrics"] = measure(arrays["sets"], arrays["labels"], doc["classes"]).model_dump(mode="json")


def test_genuine_names_the_norm(copy: Path) -> None:
    assert verify(copy).ok, verify(copy).failed
    certificate = load_certificate(copy)
    assert "0.125 in L-infinity distance" in certificate.guarantee.sentence
    assert any("supplied, not derived" in text for text in certificate.guarantee.assumptions)
    assert to_calibrated(certificate).norm == "linf"


def test_another_norm(copy: Path) -> None:
    assert "sentence" in refused(copy, lambda doc, arrays: doc.update(norm="l2"), "plain sense")


def test_norm_of_a_method_without_boxes(tmp_path: Path) -> None:
    path = builders.write(tmp_path / "run", builders.score_run("rcp1"))

    def change(doc: Document, arrays: Arrays) -> None:
        doc["norm"] = "linf"
        for place in ("sentence",):
            doc["guarantee"][place] = doc["guarantee"][place].replace("L2", "L-infinity")
        doc["guarantee"]["assumptions"] = [t.replace("L2", "L-infinity") for t in doc["guarantee"]["assumptions"]]

    assert "only L2 is proved for method rcp1" in refused(path, change, "plain sense")


def test_assumption_on_the_intervals_left_out(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["guarantee"]["assumptions"] = [t for t in doc["guarantee"]["assumptions"] if "intervals" not in t]

    assert "assumptions" in refused(copy, change, "plain sense")


def test_alpha_and_budget(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["alpha"] = doc["budget"][0]["value"] = "0.15"
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace("80 %", "85 %")

    assert "rank" in refused(copy, change, "rank and threshold")


def test_calibration_score(copy: Path) -> None:
    """A lower score and the threshold that follows from it: the evidence of the row betrays it."""

    def change(doc: Document, arrays: Arrays) -> None:
        values = [float.fromhex(text) for text in doc["calibration"]["scores"]]
        row = int(np.argsort(values)[doc["rank"] - 1])
        values[row] -= 1e-6
        doc["calibration"]["scores"] = [value.hex() for value in values]
        doc["threshold"] = real(sorted(values)[doc["rank"] - 1])

    assert "calibration.scores row" in refused(copy, change, "calibration scores")


def test_calibration_evidence(copy: Path) -> None:
    """Probabilities (or intervals) that look better than the scores say."""

    def change(doc: Document, arrays: Arrays) -> None:
        for name in ("probs", "lower"):
            if doc["calibration"][name] is not None:
                row, label = doc["calibration"][name][3], doc["calibration"]["labels"][3]
                row[label] = (float.fromhex(row[label]) * 0.9).hex()

    assert "row 3" in refused(copy, change, "calibration scores")


def test_evidence_removed(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        for name in ("probs", "upper"):
            doc["calibration"][name] = None

    assert "missing" in refused(copy, change, "calibration scores")


def test_member_removed(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        row, label = np.argwhere(arrays["sets"])[2]
        arrays["sets"][row, label] = False
        redo_metrics(doc, arrays)

    assert "was removed" in refused(copy, change, "prediction sets")


def test_member_added(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        row, label = np.argwhere(~arrays["sets"])[2]
        arrays["sets"][row, label] = True
        redo_metrics(doc, arrays)

    assert "was added" in refused(copy, change, "prediction sets")


def test_narrower_evidence_at_test(copy: Path) -> None:
    """Intervals or probabilities under which fewer labels would be kept, the sets left as they were."""

    def change(doc: Document, arrays: Arrays) -> None:
        for name in ("observed_upper", "observed_probs"):
            if name in arrays:
                arrays[name][:, :4] = np.minimum(arrays[name][:, :4], 0.05)
        if "observed_lower" in arrays:
            arrays["observed_lower"][:, :4] = np.minimum(arrays["observed_lower"][:, :4], 0.05)

    assert "was added" in refused(copy, change, "prediction sets")


def test_intervals_the_wrong_way_round(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        if "observed_lower" in arrays:
            arrays["observed_lower"], arrays["observed_upper"] = arrays["observed_upper"], arrays["observed_lower"]
        else:
            arrays["observed_probs"][0, 0] = 1.5

    assert "test row 0" in refused(copy, change, "prediction sets")


def test_noise_nobody_drew(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["trials"] = 5

    assert refused(copy, change, "plain sense")


def test_another_method_on_the_same_numbers(copy: Path) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["method"] = "vrcp_c" if doc["method"] == "vrcp_i" else "vrcp_i"

    assert refused(copy, change, "calibration scores")


def test_derived_number(copy: Path) -> None:
    assert "extra" in refused(copy, lambda doc, arrays: doc["derived"].update(extra=1), "derived numbers")


RULES = """
classes: [a, b, c]
concepts: [x, y]
rules: [a -> x, {rule: b -> ~x, weight: 2}, {rule: c -> y, weight: 1}]
"""


def produced(seed: int, n: int, kind: str) -> BoxEvidence:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    p = rng.dirichlet(np.ones(3), n) * 0.5
    p[np.arange(n), labels] += 0.5
    truth = np.stack([labels == 0, labels == 2], axis=1)
    p = np.c_[p, np.where(truth, 0.8, 0.2) + 0.15 * rng.random((n, 2))]
    low, high = np.clip(p - 0.08 * rng.random(p.shape), 0, 1), np.clip(p + 0.08 * rng.random(p.shape), 0, 1)
    names = ("a", "b", "c", "x", "y")
    return BoxEvidence(low, high, 0.03, names, labels, kind, 3, probs=p, norm="linf")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vrcp_i", "vrcp_c"])
@pytest.mark.parametrize(
    ("circuit", "kind", "score"),
    [("none", "categorical", s) for s in ("lac", "aps", "raps", "saps")]
    + [("none", "binary", "aps"), ("rules", "binary", "lac"), ("rules", "binary", "aps")]
    + [("exclusive", "binary", "lac"), ("exclusive", "categorical", "aps"), ("exclusive", "categorical", "saps")],
)
def test_produced(name: str, circuit: Any, kind: str, score: str, tmp_path: Path) -> None:
    """What the package's own methods make is accepted, with every score and circuit, certified coverage included."""
    kb, module = KnowledgeBase.from_text(RULES), method_named(name)
    layer = Reasoning(None if circuit == "none" else kb, circuit, kind, 1.5, 3)  # type: ignore[arg-type]
    record = module.calibrate(produced(1, 40, kind), alpha="0.2", radius="0.03", reasoning=layer, score=score)
    test = produced(2, 12, kind)
    observed = module.observe(test, record, reasoning=layer)
    sets = module.predict(record, observed, reasoning=layer)
    assert test.labels is not None
    bound = certified_coverage(record, observed, test.labels, reasoning=layer)
    certified = None
    if bound is not None:
        certified = CertifiedCoverage(
            points=bound.points, successes=bound.successes, delta=bound.evaluation_failure,
            point_failure=bound.point_failure, lower=Real.of(bound.lower),
        )  # fmt: skip
    run = {"calibrated": record, "observation": observed, "sets": sets, "test_labels": test.labels,
           "classes": ["a", "b", "c"], "predicates": test.predicates,
           "knowledge": None if layer.kb is None else layer.kb.canonical()}  # fmt: skip
    result = verify(builders.write(tmp_path, run, certified=certified))
    assert result.ok, result.failed
    assert (bound is None) == (name == "vrcp_c")
