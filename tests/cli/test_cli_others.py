"""``neurosym verify``, ``train`` and ``data``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import neurosym.certify


class Check(NamedTuple):
    name: str
    ok: bool
    detail: str


class Result(NamedTuple):
    ok: bool
    checks: tuple[Check, ...]


@pytest.fixture
def verdict(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The verifier replaced by a stand-in that gives the answer in this list."""
    answers: list[Any] = []
    module = ModuleType("neurosym.certify.verifier")

    def verify(path: Path) -> Any:
        assert path.name == "certificate.json"
        return answers[0]

    module.verify = verify  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "neurosym.certify.verifier", module)
    monkeypatch.setattr(neurosym.certify, "verifier", module, raising=False)
    return answers


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "certificate.json"
    path.write_text("{}")
    return path


def test_verify_yes(run: Any, verdict: list[Any], certificate: Path) -> None:
    verdict.append(Result(True, (Check("budget", True, "sums to 0.1"), Check("sets", True, ""))))
    for place in (certificate, certificate.parent):
        ran = run("verify", place)
        assert (ran.code, ran.err) == (0, "")
        assert "holds: 2 checks passed" in ran.out
        assert "budget, sets" in ran.out
    assert run("verify", certificate, "--quiet") == (0, "", "")


def test_verify_no(run: Any, verdict: list[Any], certificate: Path) -> None:
    long = "recorded 0x1p-3, recomputed 0x1.8p-3, " * 5
    verdict.append(Result(False, (Check("budget", True, ""), Check("threshold", False, long))))
    ran = run("verify", certificate)
    assert ran.code == 1
    assert "DOES NOT HOLD" in ran.out
    assert "threshold" in ran.out
    assert "".join(long.split()) in "".join(ran.out.replace("threshold", "").split())
    content = json.loads(run("verify", certificate, "--json").out)
    assert content["ok"] is False
    assert content["checks"][1] == {"name": "threshold", "ok": False, "detail": long}
    assert run("verify", certificate, "--quiet") == (1, "", "")


def test_verify_refuses(run: Any, refused: Any, certificate: Path, tmp_path: Path) -> None:
    refused(run("verify", tmp_path / "no.json"), "no.json: no such file")
    (tmp_path / "empty").mkdir()
    refused(run("verify", tmp_path / "empty"), "certificate.json: no such file")


@pytest.fixture
def training(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(24) % 2)
    (tmp_path / "rules.yaml").write_text("classes: [a, b]\nconcepts: [c]\nrules: [a -> c, b -> ~c]\n")
    config = tmp_path / "train.yaml"
    config.write_text(
        f"data: {tmp_path / 'images.npz'}\nrules: rules.yaml\nsigma: 0.1\nepochs: 9\nbatch: 8\nwidth: 4\n"
    )
    return config


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_train_for_real(run: Any, training: Path, tmp_path: Path) -> None:
    from neurosym.models.checkpoint import load_checkpoint

    out = tmp_path / "o"
    ran = run("train", training, "--out", out, "--epochs", "1", "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    card = json.loads(ran.out)
    assert card["config"]["epochs"] == 1
    assert load_checkpoint(out).predicates == ("a", "b", "c")


def test_train_passes_options_on(run: Any, training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.models import training as module

    seen: list[Any] = []

    def train(config: Any, out: Path, *, quiet: bool) -> dict[str, Any]:
        seen.append((config, out, quiet))
        return {"metrics": {"val_accuracy": 0.75}, "seconds": 1.0, "device": "cpu"}

    monkeypatch.setattr(module, "train", train)
    out = tmp_path / "o"
    ran = run("train", training, "--out", out, "--epochs", "2", "--sigma", "0.5", "--seed", "4", "--device", "cpu")
    assert ran.code == 0, ran.err
    ((config, place, quiet),) = seen
    assert (config.epochs, config.sigma, config.seed, config.device) == (2, 0.5, 4, "cpu")
    assert (place, quiet) == (out, False)
    assert "0.7500" in ran.out
    assert f"wrote {out}" in ran.out
    assert run("train", training, "--out", out, "-q").out == ""
    assert (seen[-1][0].epochs, seen[-1][2]) == (9, True)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("no.yaml", "--out", "OUT"), ("no.yaml: no such file",)),
        (("C", "--out", "C"), ("--out", "not a folder")),
        (("C", "--out", "OUT", "--epochs", "0"), ("--epochs",)),
        (("C", "--out", "OUT", "--sigma", "-1"), ("--sigma",)),
        (("C", "--out", "OUT", "--device", "gpu"), ("--device",)),
        (("BAD", "--out", "OUT"), ("bad.yaml: field epoch",)),
        (("RULELESS", "--out", "OUT"), ("ruleless.yaml: field rules", "gone.yaml")),
    ],
)
def test_train_refuses(
    run: Any, refused: Any, training: Path, tmp_path: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    known = {"C": training, "OUT": tmp_path / "o", "BAD": tmp_path / "bad.yaml", "RULELESS": tmp_path / "ruleless.yaml"}
    known["BAD"].write_text(training.read_text() + "epoch: 1\n")
    known["RULELESS"].write_text(training.read_text().replace("rules.yaml", "gone.yaml"))
    refused(run("train", *(known.get(word, word) for word in words)), *parts, folder=tmp_path / "o")


def test_data_list(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEUROSYM_DATA", raising=False)
    ran = run("data", "list")
    assert ran.code == 0
    assert "root: not set" in ran.out
    assert "gtsrb12" in ran.out
    (tmp_path / "gtsrb" / "GTSRB" / "Training").mkdir(parents=True)
    monkeypatch.setenv("NEUROSYM_DATA", str(tmp_path))
    content = json.loads(run("data", "list", "--json").out)
    assert content["root"] == str(tmp_path)
    assert {item["name"]: item["state"] for item in content["data_sets"]}["gtsrb43"] == "train"


def test_data_gtsrb_never_downloads_unasked(
    run: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEUROSYM_DATA", raising=False)
    refused(run("data", "gtsrb"), "--root is missing")
    refused(
        run("data", "gtsrb", "--root", tmp_path), "train and test", f"--root {tmp_path} --download", folder=tmp_path
    )


def test_data_cifar10(run: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEUROSYM_DATA", raising=False)
    refused(run("data", "cifar10"), "--root is missing")
    refused(run("data", "cifar10", "--root", tmp_path), "no CIFAR-10 there", folder=tmp_path)
    from neurosym.models import backbones

    def fetching(*_: Any, download: bool = False, **__: Any) -> Any:
        raise OSError("no route" if download else "nothing asked for")

    sets = SimpleNamespace(datasets=SimpleNamespace(CIFAR10=fetching))
    monkeypatch.setattr(backbones, "import_torchvision", lambda: sets)
    refused(run("data", "cifar10", "--root", tmp_path, "--download"), "cannot be fetched (no route)", folder=tmp_path)


def test_data_gtsrb(run: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.models import backbones

    asked: list[tuple[str, bool]] = []

    class Signs(list[int]):
        def __init__(self, root: str, split: str, download: bool) -> None:
            asked.append((split, download))
            if download and broken:
                raise OSError("no route to host")
            super().__init__(range(1000 if split == "train" else 10))

    broken = False
    fake = ModuleType("torchvision")
    fake.datasets = ModuleType("datasets")  # type: ignore[attr-defined]
    fake.datasets.GTSRB = Signs
    monkeypatch.setattr(backbones, "import_torchvision", lambda: fake)
    (tmp_path / "gtsrb" / "GTSRB" / "Training").mkdir(parents=True)
    ran = run("data", "gtsrb", "--root", tmp_path, "--download")
    assert ran.code == 0, ran.err
    assert asked == [("train", False), ("test", True)]
    assert "1,000 images" in ran.out
    assert json.loads(run("data", "gtsrb", "--root", tmp_path, "--download", "--json").out)["images"]["test"] == 10
    broken = True
    refused(run("data", "gtsrb", "--root", tmp_path, "--download"), "no route to host", "try again")


def test_data_check(run: Any, refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.models.checkpoint import save_checkpoint
    from neurosym.models.concept_net import ConceptNet

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(20) % 2)
    (tmp_path / "rules.yaml").write_text("classes: [a, b]\nconcepts: [c]\nrules: [a -> c, b -> ~c]\n")
    save_checkpoint(tmp_path / "model", ConceptNet(("a", "b"), ("c",), image_size=16, width=4), {})
    config = tmp_path / "config.yaml"
    config.write_text("model: model\ndata: {name: images.npz}\nrules: rules.yaml\n")
    ran = run("data", "check", config, "--json")
    assert ran.code == 0, ran.err
    content = json.loads(ran.out)
    assert (content["images"], content["classes"], content["concepts"], content["rules"]) == (20, 2, 1, 2)
    assert "about 4 tuning, 8 calibration, 8 test" in run("data", "check", config).out
    config.write_text("model: gone\ndata: {name: images.npz}\nrules: rules.yaml\n")
    refused(run("data", "check", config), "gone")
    (tmp_path / "narrow_net.py").write_text(
        "from torch import nn\n\ndef two():\n    return nn.Sequential(nn.Flatten(), nn.Linear(768, 2))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config.write_text("model: narrow_net:two\ndata: images.npz\nrules: rules.yaml\n")
    refused(run("data", "check", config), "the network has 2 outputs but there are 3 predicates")
    refused(run("data", "check", tmp_path / "no.yaml"), "no.yaml: no such file")
