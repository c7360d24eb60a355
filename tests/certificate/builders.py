"""Small synthetic runs for certificate tests, computed with scipy and plain enumeration.

A third implementation, apart from the methods and from the verifier: what it builds, the verifier must accept.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from scipy import stats

from neurosym.certify.certificate import build_certificate, write_run
from neurosym.certify.records import BudgetItem, Calibrated
from neurosym.certify.verifier.digests import array_digest, document_digests, file_text

CLASSES = ["stop", "yield", "keep_right", "no_entry"]
CONCEPTS = ["octagon", "triangle", "red"]
RULES = [
    ("stop -> octagon", lambda w: not w["stop"] or w["octagon"], 1.5),
    ("yield -> triangle", lambda w: not w["yield"] or w["triangle"], 1.5),
    ("stop -> red", lambda w: not w["stop"] or w["red"], 2.0),
    ("no_entry -> red", lambda w: not w["no_entry"] or w["red"], 2.0),
    ("keep_right -> ~red", lambda w: not w["keep_right"] or not w["red"], 2.0),
]
KNOWLEDGE: dict[str, Any] = {
    "classes": CLASSES,
    "concepts": CONCEPTS,
    "rules": [{"rule": text, "weight": weight} for text, _, weight in RULES],
    "groups": [],
    "circuits": [
        {"name": "colour", "rules": [2, 3, 4], "beta": None},
        {"name": "shape", "rules": [0, 1], "beta": None},
    ],
}
PLAIN_LAYER = {"circuit": "none", "class_kind": "categorical", "scale": 1.0, "bound": "exact"}


def threshold_of(scores: np.ndarray, level: Fraction) -> tuple[int, float]:
    """Rank and order statistic, by counting."""
    rank = math.ceil((len(scores) + 1) * (1 - level))
    return rank, float(np.sort(scores)[rank - 1]) if rank <= len(scores) else math.inf


def items(total: str, **extra: str) -> tuple[BudgetItem, ...]:
    """Budget with ``conformal`` first."""
    rest = Fraction(total) - sum((Fraction(value) for value in extra.values()), Fraction(0))
    text = f"{float(rest):.12g}"
    assert Fraction(text) == rest
    return (BudgetItem("conformal", text, "c"), *(BudgetItem(name, value, "n") for name, value in extra.items()))


def _labels_and_scores(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, k, n)
    scores = rng.beta(4, 2, (n, k))
    scores[np.arange(n), labels] = rng.beta(1.3, 5, n)
    return labels, scores


def score_run(method: str, seed: int = 0, n: int = 60, n_test: int = 40) -> dict[str, Any]:
    """A vanilla or RCP1 run."""
    rng = np.random.default_rng(seed)
    labels, scores = _labels_and_scores(rng, n, len(CLASSES))
    test_labels, test_scores = _labels_and_scores(rng, n_test, len(CLASSES))
    mine = scores[np.arange(n), labels]
    level, derived = Fraction("0.2"), {}
    if method == "rcp1":
        # a producer rounds down by a little
        level = Fraction(float(stats.norm.cdf(stats.norm.ppf(0.2) - 0.5) * (1 - 1e-12)))
        derived = {"conformal_alpha": float(level), "radius_over_sigma": 0.5}
    rank, threshold = threshold_of(mine, level)
    calibrated = Calibrated(
        method=method, score="lac", alpha="0.2",
        radius="0.125" if method == "rcp1" else "0", sigma="0.25" if method == "rcp1" else "0",
        trials=1 if method == "rcp1" else 0, n=n, rank=rank, threshold=threshold, budget=items("0.2"),
        derived=derived, calibration={"labels": labels, "scores": mine}, reasoning=PLAIN_LAYER,
    )  # fmt: skip
    return {
        "calibrated": calibrated, "observation": {"scores": test_scores}, "sets": test_scores <= threshold,
        "test_labels": test_labels, "classes": CLASSES, "predicates": CLASSES, "knowledge": None,
    }  # fmt: skip


def bincp_run(seed: int = 0, n: int = 60, n_test: int = 40, draws: int = 200) -> dict[str, Any]:
    """A BinCP run."""
    rng = np.random.default_rng(seed)
    labels, scores = _labels_and_scores(rng, n, len(CLASSES))
    mine = scores[np.arange(n), labels]
    rank, threshold = threshold_of(mine, Fraction("0.18"))
    k = 140
    lower = float(stats.beta.ppf(0.01, k, draws - k + 1) * (1 - 1e-12))
    moved = float(stats.norm.cdf(stats.norm.ppf(lower) - 0.5) * (1 - 1e-12))
    needed = max(t for t in range(draws + 1) if stats.binom.cdf(t - 1, draws, moved) <= 0.01)
    test_labels = rng.integers(0, len(CLASSES), n_test)
    votes = rng.binomial(draws, rng.beta(0.4, 0.6, (n_test, len(CLASSES))))
    votes[np.arange(n_test), test_labels] = rng.binomial(draws, 0.9, n_test)
    calibrated = Calibrated(
        method="bincp", score="aps", alpha="0.2", radius="0.125", sigma="0.25", trials=draws, n=n, rank=rank,
        threshold=threshold, budget=items("0.2", clean_votes="0.01", attacked_votes="0.01"),
        derived={"k": k, "trials_test": draws, "p": 0.7, "p_lower": lower, "radius_over_sigma": 0.5,
                 "p_shifted": moved, "votes_needed": needed},
        calibration={"labels": labels, "scores": mine}, reasoning=PLAIN_LAYER,
    )  # fmt: skip
    return {
        "calibrated": calibrated, "observation": {"votes": votes}, "sets": votes >= needed,
        "test_labels": test_labels, "classes": CLASSES, "predicates": CLASSES, "knowledge": None,
    }  # fmt: skip


def world_marginals(p: np.ndarray, circuit: str, class_kind: str = "binary") -> np.ndarray:
    """Class probabilities ``[K]`` for sensors ``[7]`` by summing over all worlds."""
    names = CLASSES + CONCEPTS
    parts = [[2, 3, 4], [0, 1]] if circuit == "rules" else [[0, 1, 2, 3, 4]]
    total, count = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for rules in parts:
        mass, weight = np.zeros(len(CLASSES)), 0.0
        for bits in itertools.product((0, 1), repeat=len(names)):
            world = dict(zip(names, map(bool, bits), strict=True))
            if circuit == "exclusive" and sum(bits[: len(CLASSES)]) != 1:
                continue
            value = 1.0
            for j, bit in enumerate(bits):
                false = 1.0 if class_kind == "categorical" and circuit == "exclusive" and j < 4 else 1 - p[j]
                value *= p[j] if bit else false
            for rule in rules:
                value *= 1.0 if RULES[rule][1](world) else math.exp(-RULES[rule][2])
            weight += value
            mass += value * np.array(bits[: len(CLASSES)])
        mentioned = np.array([circuit == "exclusive" or any(c in RULES[r][0] for r in rules) for c in CLASSES])
        total += np.where(mentioned, mass / weight, 0)
        count += mentioned
    return total / count


def corner_scores(low: np.ndarray, high: np.ndarray, circuit: str) -> np.ndarray:
    """Least LAC scores ``[K]`` over a box: all corners of each circuit; the rules of each class share directions."""
    best = np.zeros(len(CLASSES))
    for ends in itertools.product((0, 1), repeat=len(low)):
        best = np.maximum(best, world_marginals(np.where(np.array(ends) == 1, high, low), circuit))
    return 1 - best


def colep_run(circuit: str = "rules", seed: int = 0, n: int = 30, n_test: int = 8, draws: int = 50) -> dict[str, Any]:
    """A COLEP run from votes; the box bounds come from all corners (these rules let each class share directions)."""
    rng = np.random.default_rng(seed)
    names, shift = CLASSES + CONCEPTS, 0.25

    def votes_of(labels: np.ndarray) -> np.ndarray:
        truth = np.zeros((len(labels), len(names)))
        truth[np.arange(len(labels)), labels] = 1
        truth[:, 4], truth[:, 5] = labels == 0, labels == 1
        truth[:, 6] = np.isin(labels, [0, 3])
        return rng.binomial(draws, np.clip(truth * 0.86 + 0.07 + rng.normal(0, 0.06, truth.shape), 0.01, 0.99))

    labels, test_labels = rng.integers(0, 4, n), rng.integers(0, 4, n_test)
    votes, test_votes = votes_of(labels), votes_of(test_labels)
    layer = {"circuit": circuit, "class_kind": "binary", "scale": 1.0, "bound": "exact"}
    reason: Callable[[np.ndarray], np.ndarray] = (
        (lambda p: p[:4]) if circuit == "none" else lambda p: world_marginals(p, circuit)
    )
    mine = np.array([1 - reason(row / draws)[label] for row, label in zip(votes, labels, strict=True)])
    rank, threshold = threshold_of(mine, Fraction("0.28"))
    sides = {"none": 1, "rules": 5, "exclusive": 14}[circuit]
    each = 0.01 / sides
    tables: dict[str, list[float]] = {"attacked_lower": [], "attacked_upper": []}
    for count in range(draws + 1):
        low = 0.0 if count == 0 else stats.beta.ppf(each, count, draws - count + 1)
        low = stats.norm.cdf(stats.norm.ppf(low) - shift)
        t = max(t for t in range(draws + 1) if stats.binom.cdf(t - 1, draws, low) <= each)
        tables["attacked_lower"].append(t / draws)
    tables["attacked_upper"] = [(draws - round(low * draws)) / draws for low in tables["attacked_lower"][::-1]]
    low, high = (np.array(tables[name])[test_votes] for name in ("attacked_lower", "attacked_upper"))
    if circuit == "none":
        least = 1 - high[:, :4]
    else:
        least = np.array([corner_scores(a, b, circuit) for a, b in zip(low, high, strict=True)])
    calibrated = Calibrated(
        method="colep", score="lac", alpha="0.3", radius="0.0625", sigma="0.25", trials=draws, n=n, rank=rank,
        threshold=threshold, budget=items("0.3", attacked_votes="0.01", clean_votes="0.01"),
        derived={"trials_test": draws, "sensor_sides": sides, "attacked_failure_per_side": each,
                 "clean_failure_per_side": each, "radius_over_sigma": shift,
                 **{name: tuple(values) for name, values in tables.items()}},
        calibration={"labels": labels, "scores": mine, "votes": votes}, reasoning=layer,
    )  # fmt: skip
    return {
        "calibrated": calibrated, "observation": {"votes": test_votes}, "sets": least <= threshold + 1e-10,
        "test_labels": test_labels, "classes": CLASSES, "predicates": names,
        "knowledge": None if circuit == "none" else KNOWLEDGE,
    }  # fmt: skip


def write(folder: Path, run: Mapping[str, Any], *, report: bool = False, **more: Any) -> Path:
    """Build the certificate of a run and write all three files; the report is blank unless asked for (it is slow)."""
    common = {key: run[key] for key in ("observation", "sets", "test_labels")}
    certificate = build_certificate(
        run["calibrated"], classes=run["classes"], predicates=run["predicates"], knowledge=run["knowledge"],
        tuning={"split": "tuning", "chosen": "x"}, provenance={"seeds": {"noise": 7}, "device": "cpu"}, **common,
        **more,
    )  # fmt: skip
    blank = nullcontext() if report else patch("neurosym.certify.report.render_report", return_value="")
    with blank:
        write_run(folder, certificate, **common)
    return folder / "certificate.json"


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None]) -> None:
    """Change a certificate and its arrays, then recompute every checksum, as a forger would."""
    document = json.loads(path.read_text())
    with np.load(path.parent / "sets.npz") as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    change(document, arrays)
    for name, array in arrays.items():
        record = document["test"]["arrays"][name]
        record["sha256"], record["shape"] = array_digest(array), list(array.shape)
    document["digests"] = document_digests(document)
    np.savez_compressed(path.parent / "sets.npz", **arrays)
    path.write_text(file_text(document))
