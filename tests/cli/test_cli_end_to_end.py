"""The real work behind the commands, on small evidence and a small untrained network."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("neurosym.certify.pipeline")

CLASSES, CONCEPTS = ("stop", "yield", "keep"), ("octagon", "triangle", "red")
NAMES = np.array(CLASSES + CONCEPTS)
TRUTH = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 0]], dtype=float)  # concepts of each class
RULES = f"""\
classes: [{", ".join(CLASSES)}]
concepts: [{", ".join(CONCEPTS)}]
rules:
  - stop -> octagon & red
  - {{rule: "yield -> triangle & red", weight: 3}}
  - keep -> ~red
"""
N, TRIALS = 160, 100


def probabilities(seed: int, n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 6] that mostly agree with the labels [n]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    clean = np.hstack([np.eye(3)[labels], TRUTH[labels]])
    return np.clip(0.75 * clean + 0.1 + 0.15 * rng.standard_normal((n, 6)), 0.01, 0.99), labels


def fields(kind: str, seed: int) -> dict[str, Any]:
    """Fields of an evidence file of some kind."""
    probs, labels = probabilities(seed)
    common = {"predicates": NAMES, "labels": labels}
    if kind == "probs":
        return {**common, "probs": probs}
    if kind == "votes":
        return {**common, "votes": np.random.default_rng(seed).binomial(TRIALS, probs), "trials": TRIALS, "sigma": 0.5}
    if kind == "box":
        return {**common, "lower": np.maximum(probs - 0.02, 0), "upper": np.minimum(probs + 0.02, 1), "radius": 0.1}
    rng = np.random.default_rng(seed)
    noise = 0.1 * rng.standard_normal((N, 3, 64))
    scores = np.clip(1 - probs[:, :3, None] + noise, 0, 1)
    return {**common, "predicates": NAMES[:3], "scores": scores, "sigma": 0.5}


Writer = Callable[..., list[str]]


@pytest.fixture
def written(tmp_path: Path) -> Writer:
    """Writes calibration, test and rules files and returns the words of the command line."""

    def write(kind: str, rules: str | None = RULES, **changed: Any) -> list[str]:
        cal, test = tmp_path / "cal.npz", tmp_path / "test.npz"
        content = {name: value for name, value in {**fields(kind, 0), **changed}.items() if value is not None}
        np.savez(cal, **content)
        np.savez(test, **fields(kind, 1))
        words = ["--evidence", str(cal), "--test", str(test), "--seed", "1", "--out", str(tmp_path / "out")]
        if rules is None:
            return words
        (tmp_path / "rules.yaml").write_text(rules)
        return [*words, "--rules", str(tmp_path / "rules.yaml")]

    return write


@pytest.mark.parametrize(
    ("kind", "rules", "words"),
    [
        ("probs", RULES, ("--method", "vanilla", "--radius", "0")),
        ("votes", RULES, ("--method", "colep", "--radius", "0.02", "--circuit", "exclusive")),
        ("box", RULES, ("--method", "colep", "--radius", "0.1", "--circuit", "rules")),
        ("scores", None, ("--method", "bincp", "--radius", "0.1", "--circuit", "none")),
        ("scores", None, ("--method", "rcp1", "--radius", "0.1", "--circuit", "none")),
    ],
)
def test_certify_verify_predict(
    run: Any, written: Writer, tmp_path: Path, kind: str, rules: str | None, words: tuple[str, ...]
) -> None:
    out = tmp_path / "out"
    ran = run("certify", *written(kind, rules), *words, "--alpha", "0.2", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert (summary["method"], summary["alpha"], summary["radius"]) == (words[1], "0.2", words[3])
    assert summary["n_test"] == N
    with np.load(out / "sets.npz") as archive:
        sets, labels = archive["sets"], archive["labels"]
    assert summary["coverage"] == pytest.approx(sets[np.arange(N), labels].mean())
    assert summary["mean_size"] == pytest.approx(sets.sum(axis=1).mean())
    checked = run("verify", out)
    assert checked.code == 0, checked.out + checked.err
    predicted = run("predict", out / "certificate.json", "--evidence", tmp_path / "test.npz", "--out", tmp_path / "p")
    assert predicted.code == 0, predicted.err
    with np.load(tmp_path / "p" / "sets.npz") as archive:
        np.testing.assert_array_equal(archive["sets"], sets)
    document = json.loads((out / "certificate.json").read_text())
    document["alpha"] = "0.1"
    (out / "certificate.json").write_text(json.dumps(document, indent=1) + "\n")
    forged = run("verify", out)
    assert forged.code == 1
    assert "DOES NOT HOLD" in forged.out


COLEP = ("--method", "colep", "--radius", "0.1", "--alpha", "0.2")
VANILLA = ("--method", "vanilla", "--radius", "0", "--alpha", "0.2")


def changed(kind: str, field: str, row: int, column: int, value: float) -> dict[str, Any]:
    """One field with one entry replaced."""
    array = np.array(fields(kind, 0)[field], dtype=float if field != "votes" else int)
    array[row, column] = value
    return {field: array}


BAD_EVIDENCE = [
    ("probs", changed("probs", "probs", 7, 2, np.nan), VANILLA, ("cal.npz", "probs", "row 7")),
    ("probs", changed("probs", "probs", 3, 1, 1.5), VANILLA, ("cal.npz", "probs", "row 3", "1.5")),
    ("probs", changed("probs", "probs", 3, 1, -0.5), VANILLA, ("cal.npz", "row 3")),
    ("probs", {"probs": np.full((N, 4), 0.5)}, VANILLA, ("cal.npz", "predicates")),
    ("probs", {"probs": np.full(N, 0.5)}, VANILLA, ("cal.npz", "probs", "shape")),
    ("probs", {"labels": np.full(N, 3)}, VANILLA, ("labels", "row 0", "3")),
    ("probs", {"labels": np.full(N, -1)}, VANILLA, ("cal.npz", "labels")),
    ("probs", {"labels": np.zeros(N - 1, dtype=int)}, VANILLA, ("cal.npz", "labels")),
    ("probs", {"labels": np.full(N, 0.5)}, VANILLA, ("cal.npz", "labels")),
    ("probs", {"labels": None}, VANILLA, ("labels",)),
    ("probs", {"probs": None}, VANILLA, ("cal.npz", "exactly one of")),
    ("probs", {"predicates": None}, VANILLA, ("cal.npz", "predicates")),
    ("probs", {"predicates": NAMES.astype(object)}, VANILLA, ("cal.npz", "predicates", "pickled")),
    ("probs", {"surprise": np.zeros(2)}, VANILLA, ("cal.npz", "surprise")),
    ("probs", {}, (*VANILLA, "--radius", "0.1"), ("radius",)),
    ("probs", {}, ("--method", "bincp", "--radius", "0.1", "--alpha", "0.2"), ()),
    ("votes", changed("votes", "votes", 5, 0, TRIALS + 1), COLEP, ("cal.npz", "votes", "row 5")),
    ("votes", {"sigma": -1.0}, COLEP, ("cal.npz", "sigma")),
    ("votes", {"trials": 0}, COLEP, ("cal.npz", "trials")),
    ("box", {"radius": 0.2}, COLEP, ("radius",)),
    ("box", changed("box", "lower", 2, 2, 0.999), COLEP, ("cal.npz", "lower", "row 2")),
]


@pytest.mark.parametrize(("kind", "changes", "words", "parts"), BAD_EVIDENCE)
def test_bad_evidence(
    run: Any,
    refused: Any,
    written: Writer,
    tmp_path: Path,
    kind: str,
    changes: dict[str, Any],
    words: tuple[str, ...],
    parts: tuple[str, ...],
) -> None:
    refused(run("certify", *written(kind, **changes), *words), *parts, folder=tmp_path / "out")


BAD_RULES = [
    (RULES + "  - stop -> octogon\n", ("rules.yaml:7", "octogon", "did you mean 'octagon'?")),
    (RULES + "  - {rule: red, weight: .inf}\n  - {rule: ~red, weight: .inf}\n", ("rules.yaml",)),
    (RULES.replace("[stop, yield, keep]", "[stop, yield, go]").replace("keep ->", "go ->"), ()),
]


@pytest.mark.parametrize(("rules", "parts"), BAD_RULES)
def test_bad_rules(run: Any, refused: Any, written: Writer, tmp_path: Path, rules: str, parts: tuple[str, ...]) -> None:
    refused(run("certify", *written("probs", rules), *VANILLA), *parts, folder=tmp_path / "out")


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), b"", b"PK\x03\x04 cut", b"text"])
def test_files_that_are_no_archives(run: Any, refused: Any, written: Writer, tmp_path: Path, content: bytes) -> None:
    words = written("probs")
    for name in ("cal.npz", "test.npz"):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        refused(run("certify", *words, *VANILLA), name, folder=tmp_path / "out")
        (tmp_path / name).write_bytes(before)


def test_test_evidence_of_another_kind(run: Any, refused: Any, written: Writer, tmp_path: Path) -> None:
    words = written("probs")
    np.savez(tmp_path / "test.npz", **fields("votes", 1))
    refused(run("certify", *words, *VANILLA), folder=tmp_path / "out")


def test_predict_refuses_another_kind(run: Any, refused: Any, written: Writer, tmp_path: Path) -> None:
    assert run("certify", *written("probs"), *VANILLA).code == 0
    np.savez(tmp_path / "x.npz", **fields("votes", 1))
    words = ("predict", tmp_path / "out", "--evidence", tmp_path / "x.npz", "--out", tmp_path / "p")
    refused(run(*words), folder=tmp_path / "p")


def test_test_evidence_of_other_predicates(run: Any, refused: Any, written: Writer, tmp_path: Path) -> None:
    words = written("probs")
    np.savez(tmp_path / "test.npz", **{**fields("probs", 1), "predicates": NAMES[::-1]})
    refused(run("certify", *words, *VANILLA), "predicates", folder=tmp_path / "out")


def test_too_few_points_are_refused_or_said(run: Any, written: Writer, tmp_path: Path) -> None:
    probs, labels = probabilities(0, 6)
    words = written("probs", probs=probs, labels=labels)
    ran = run("certify", *words, "--method", "vanilla", "--radius", "0", "--alpha", "0.01")
    assert ran.code in (0, 2)
    assert ran.err.strip()
    assert "Traceback" not in ran.err
    assert ran.code == 2 or "every set holds every label" in ran.err


def test_predict_refuses_other_predicates(run: Any, refused: Any, written: Writer, tmp_path: Path) -> None:
    assert run("certify", *written("probs"), *VANILLA).code == 0
    certificate = tmp_path / "out" / "certificate.json"
    np.savez(tmp_path / "x.npz", **{**fields("probs", 1), "predicates": NAMES[::-1]})
    words = ("predict", certificate, "--evidence", tmp_path / "x.npz", "--out", tmp_path / "p")
    refused(run(*words), "predicates", folder=tmp_path / "p")
    certificate.write_text("{}")
    refused(run("predict", certificate, "--evidence", tmp_path / "test.npz"), "certificate.json")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """A configuration with a small untrained network and random images."""
    import torch

    from neurosym.models.checkpoint import save_checkpoint
    from neurosym.models.concept_net import ConceptNet

    torch.manual_seed(0)
    save_checkpoint(tmp_path / "model", ConceptNet(CLASSES, CONCEPTS, image_size=16, width=4), {})
    images = np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(90) % 3)
    (tmp_path / "rules.yaml").write_text(RULES)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: model\ndata: {name: images.npz}\nrules: rules.yaml\nalpha: 0.3\nradius: 0.05\ntrials: 16\ndevice: cpu\n"
    )
    return config


def test_configuration(run: Any, network: Path, tmp_path: Path) -> None:
    from PIL import Image

    out = tmp_path / "out"
    ran = run("certify", network, "--out", out, "--method", "rcp1", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    assert (summary["method"], summary["radius"], summary["trials"]) == ("rcp1", "0.05", 1)
    assert {"certificate.json", "report.html", "sets.npz"} <= {path.name for path in out.iterdir()}
    assert run("verify", out).code == 0
    (tmp_path / "photos").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (20, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    words = ("predict", network, "--images", tmp_path / "photos", "--out", tmp_path / "p")
    ran = run(*words, "--certificate", out / "certificate.json")
    assert ran.code == 0, ran.err
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == [
        "predictions.csv",
        "predictions.png",
        "sets.npz",
    ]
    assert run(*words).code == 0


def test_interrupted_and_resumed(run: Any, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.certify import pipeline

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    results = ("certificate.json", "report.html", "sets.npz")
    assert run("certify", network, "--out", tmp_path / "straight").code == 0
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "certify_split", stop)
        ran = run("certify", network, "--out", tmp_path / "out")
    assert (ran.code, ran.out) == (130, "")
    assert ran.err.splitlines()[-1] == "interrupted; continue with --resume"
    assert not any((tmp_path / "out" / name).exists() for name in results)
    assert run("certify", network, "--out", tmp_path / "out", "--resume").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(results)
    with np.load(tmp_path / "out" / "sets.npz") as one, np.load(tmp_path / "straight" / "sets.npz") as other:
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


class Trap:
    """Pickles to code that leaves a trace when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def test_pickled_checkpoints_are_refused(run: Any, refused: Any, network: Path, tmp_path: Path) -> None:
    import torch

    trap, sprung = tmp_path / "weights.pt", tmp_path / "sprung"
    torch.save(Trap(sprung), trap)
    text = network.read_text()
    for line in ("model: weights.pt", "model: torchvision:resnet18\nweights: weights.pt"):
        network.write_text(text.replace("model: model", line))
        refused(run("certify", network, "--out", tmp_path / "out"), "weights.pt", folder=tmp_path / "out")
    (tmp_path / "model" / "model.safetensors").write_bytes(trap.read_bytes())
    network.write_text(text)
    refused(run("certify", network, "--out", tmp_path / "out"), "model.safetensors", folder=tmp_path / "out")
    assert not sprung.exists()
