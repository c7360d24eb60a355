"""Forgeries that leave every single check of numbers content: free text, loose tolerances, claims without evidence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest

from neurosym.certify.certificate import measure
from neurosym.certify.schema import Real
from neurosym.certify.verifier import verify
from neurosym.certify.verifier.digests import digest

Document = dict[str, Any]
Arrays = dict[str, np.ndarray]
RUNS: dict[str, Callable[[], dict[str, Any]]] = {
    "vanilla": lambda: builders.score_run("vanilla"),
    "rcp1": lambda: builders.score_run("rcp1"),
    "bincp": builders.bincp_run,
    "none": lambda: builders.colep_run("none"),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: builders.write(folder / name, make()) for name, make in RUNS.items()}


@pytest.fixture
def forge(originals: dict[str, Path], tmp_path: Path) -> Callable[[str, Callable[[Document, Arrays], None]], str]:
    """Forge one run with every checksum recomputed; the reasons for which it is refused."""

    def run(name: str, change: Callable[[Document, Arrays], None]) -> str:
        path = Path(shutil.copytree(originals[name].parent, tmp_path / name)) / "certificate.json"
        assert verify(path).ok, verify(path).failed
        builders.forge(path, change)
        result = verify(path)
        assert not result.ok
        assert all(check.name != "checksums" for check in result.failed)
        return " | ".join(check.detail for check in result.failed)

    return run


def real(value: float) -> dict[str, str]:
    return Real.of(value).model_dump()


Forge = Callable[[str, Callable[[Document, Arrays], None]], str]


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("place", ["sentence", "assumptions", "caveats"])
def test_words_of_the_guarantee(forge: Forge, name: str, place: str) -> None:
    """The right phrases and a further promise; an assumption or a caveat left out."""

    def change(doc: Document, arrays: Arrays) -> None:
        if place == "sentence":
            doc["guarantee"]["sentence"] += " This holds for every single image."
        else:
            del doc["guarantee"][place][0]

    assert place in forge(name, change)


def test_sentence_of_an_alpha_with_many_digits(forge: Forge) -> None:
    """0.200001 is spent exactly (the rank stays), and the sentence promises 99.9 %."""

    def change(doc: Document, arrays: Arrays) -> None:
        doc["alpha"] = doc["budget"][0]["value"] = "0.200001"
        doc["guarantee"]["sentence"] = doc["guarantee"]["sentence"].replace("80 %", "99.9 %")

    assert "sentence" in forge("vanilla", change)


@pytest.mark.parametrize("labels", [True, False])
def test_certified_coverage_of_points_that_are_not_there(forge: Forge, labels: bool) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        if not labels:
            del arrays["labels"], doc["test"]["arrays"]["labels"]
            doc["metrics"] = measure(arrays["sets"], None, doc["classes"]).model_dump(mode="json")
        from scipy import stats

        lower = (float(stats.beta.ppf(0.05, 999_990, 11)) - 0.001) / 0.999
        doc["metrics"]["certified"] = {
            "points": 1_000_000, "successes": 999_990, "delta": "0.05", "point_failure": "0.001", "lower": real(lower),
            "note": "",
        }  # fmt: skip

    assert "certified" in forge("bincp", change)


@pytest.mark.parametrize("share", [0.6949, 0.7001])
def test_share_beside_its_rank(forge: Forge, share: float) -> None:
    """k = 140 of 200 draws is the share 0.7 and no other that is a rank away."""
    assert "share" in forge("bincp", lambda doc, arrays: doc["derived"].update(p=real(share)))


@pytest.mark.parametrize("name", ["rcp1", "bincp", "none"])
def test_derived_numbers_nobody_asked_for(forge: Forge, name: str) -> None:
    assert "certified_for_all" in forge(name, lambda doc, arrays: doc["derived"].update(certified_for_all=True))


@pytest.mark.parametrize("bound", ["decoupled", "any"])
def test_added_member_under_another_bound(forge: Forge, bound: str) -> None:
    """Without rules there is nothing to bound loosely."""

    def change(doc: Document, arrays: Arrays) -> None:
        doc["reasoning"]["bound"] = bound
        row, label = (int(v) for v in np.argwhere(~arrays["sets"])[0])
        arrays["sets"][row, label] = True
        doc["metrics"] = measure(arrays["sets"], arrays["labels"], doc["classes"]).model_dump(mode="json")

    assert forge("none", change)


def test_member_at_the_threshold_removed(forge: Forge, originals: dict[str, Path]) -> None:
    """Vote scores tie often: lowering the tied calibration scores by less than a tolerance must not drop members."""

    def change(doc: Document, arrays: Arrays) -> None:
        # every sensor of label 0 at test such that its least score is exactly the threshold
        old = float.fromhex(doc["threshold"]["hex"])
        upper = [float.fromhex(entry["hex"]) for entry in doc["derived"]["attacked_upper"]]
        tied = [count for count, value in enumerate(upper) if abs(1 - value - old) < 1e-12]
        assert tied, "the run must hold a tie"
        scores = [float.fromhex(text) for text in doc["calibration"]["scores"]]
        moved = [score - 5e-10 if abs(score - old) < 1e-12 else score for score in scores]
        doc["calibration"]["scores"] = [score.hex() for score in moved]
        doc["threshold"] = real(old - 5e-10)
        gone = (np.isin(arrays["observed_votes"][:, :4], tied)) & arrays["sets"]
        arrays["observed_votes"][0, 0] = tied[0]
        gone[0, 0] = True
        arrays["sets"] &= ~gone
        doc["metrics"] = measure(arrays["sets"], arrays["labels"], doc["classes"]).model_dump(mode="json")

    assert "calibration.scores" in forge("none", change) or "removed" in forge("none", change)


@pytest.mark.parametrize("text", ["0.20", "1/5", "٠.٢", "0.2_0", "+0.2", "2E-1"])
def test_alpha_spelled_otherwise(forge: Forge, text: str) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["alpha"] = doc["budget"][0]["value"] = text

    assert "alpha" in forge("vanilla", change)


@pytest.mark.parametrize(
    "spelling",
    [
        {"hex": "1.0", "decimal": "1"},
        {"hex": "0x1.0p+0", "decimal": "1.0"},
        {"hex": "0x1.0000000000000p+0", "decimal": "١"},
    ],
)
def test_one_spelling_of_a_double(forge: Forge, spelling: dict[str, str]) -> None:
    assert "spelled" in forge("bincp", lambda doc, arrays: doc["reasoning"].update(scale=spelling))


def test_spelling_of_scores(forge: Forge) -> None:
    def change(doc: Document, arrays: Arrays) -> None:
        doc["calibration"]["scores"][3] = str(float.fromhex(doc["calibration"]["scores"][3]))

    assert "calibration.scores" in forge("bincp", change)


def test_draws_without_number(forge: Forge) -> None:
    """Binomial tails of a billion draws would keep the verifier busy for ever."""

    def change(doc: Document, arrays: Arrays) -> None:
        doc["trials"] = doc["derived"]["trials_test"] = 10**9
        doc["derived"]["k"] = 7 * 10**8

    assert "1000000000" in forge("bincp", change)


def test_score_nobody_knows(forge: Forge) -> None:
    assert "score" in forge("bincp", lambda doc, arrays: doc.update(score="best"))


class TestProvenance:
    """What stands twice must agree: the configuration, the rows and the tuning record against the certificate."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        """A BinCP run with the record that a certification from a configuration leaves."""
        path = builders.write(tmp_path / "run", builders.bincp_run())
        knowledge = dict(builders.KNOWLEDGE, concepts=[], rules=[], circuits=[])

        def complete(doc: Document, arrays: Arrays) -> None:
            doc["reasoning"] |= {"knowledge": knowledge, "knowledge_digest": digest(knowledge)}
            doc["tuning"] = {"points": 10, "chosen": {"circuit": "none", "scale": 1.0, "p": "0.7"}, "table": []}
            doc["provenance"] = {
                "config": {
                    "method": "bincp", "score": "aps", "alpha": "0.2", "radius": "0.125", "sigma": "0.25", "trials": 200,
                    "circuit": "auto", "bound": "exact", "class_kind": "categorical", "seed": 3,
                },
                "noise_seed": 3, "rules_sha256": digest(knowledge), "evidence_sha256": {"calibration": "x"},
                "rows": {"tune": list(range(10)), "calibrate": list(range(10, 70))},
            }  # fmt: skip
            arrays["index"] = np.arange(70, 110)

        builders.forge(path, complete)
        assert verify(path).ok, verify(path).failed
        return path

    @pytest.mark.parametrize(
        ("field", "value"),
        [("method", "rcp1"), ("score", "lac"), ("alpha", "0.1"), ("radius", "0.25"), ("sigma", "0.5"),
         ("trials", 100), ("circuit", "rules"), ("bound", "decoupled"), ("class_kind", "binary")],
    )  # fmt: skip
    def test_configuration(self, path: Path, field: str, value: object) -> None:
        builders.forge(path, lambda doc, arrays: doc["provenance"]["config"].update({field: value}))
        self.refused(path, field)

    @pytest.mark.parametrize(("field", "value"), [("circuit", "rules"), ("scale", 2.0), ("p", "0.8")])
    def test_tuning(self, path: Path, field: str, value: object) -> None:
        builders.forge(path, lambda doc, arrays: doc["tuning"]["chosen"].update({field: value}))
        self.refused(path, field)

    def test_score_dropped(self, path: Path) -> None:
        """The largest score is not needed for the threshold: n and rank can be made to fit."""

        def change(doc: Document, arrays: Arrays) -> None:
            scores = [float.fromhex(text) for text in doc["calibration"]["scores"]]
            worst = int(np.argmax(scores))
            for rows in doc["calibration"].values():
                if rows is not None:
                    del rows[worst]
            doc["n"] -= 1
            doc["rank"] = -(-(doc["n"] + 1) * 82 // 100)
            doc["threshold"] = real(sorted(scores)[doc["rank"] - 1])

        builders.forge(path, change)
        self.refused(path, "rows")

    @pytest.mark.parametrize("row", [3, 12])
    def test_test_row_seen_before(self, path: Path, row: int) -> None:
        builders.forge(path, lambda doc, arrays: arrays["index"].__setitem__(0, row))
        self.refused(path, f"row {row}")

    def test_tuned_on_calibration_rows(self, path: Path) -> None:
        builders.forge(path, lambda doc, arrays: doc["provenance"]["rows"]["tune"].__setitem__(0, 10))
        self.refused(path, "row 10")

    def test_other_rules(self, path: Path) -> None:
        builders.forge(path, lambda doc, arrays: doc["provenance"].update(rules_sha256="0" * 64))
        self.refused(path, "rules")

    @staticmethod
    def refused(path: Path, word: str) -> None:
        failed = verify(path).failed
        assert [check.name for check in failed] == ["provenance"]
        assert word in failed[0].detail
