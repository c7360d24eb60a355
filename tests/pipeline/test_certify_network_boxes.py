"""``neurosym certify CONFIG.yaml`` with VRCP on a small network: certificate, attack, verification, prediction."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from neurosym.certify.certificate import load_certificate
from neurosym.certify.verifier import verify
from neurosym.cli.app import main

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))
    with torch.no_grad():  # the first three channels pass the colours on, the rest disturb
        net[0].weight[:3] = 0
        for c in range(3):
            net[0].weight[c, c] = 1 / 9
        net[0].bias[:3] = 0
        net[0].weight[3:] *= 0.2
        net[4].weight *= 0.1
        for c in range(3):
            net[4].weight[c, 4 * c : 4 * c + 4] += 6
    return net
"""
CONFIG = """
model: {factory}:make
data: {{name: images.npz, size: 8}}
rules: rules.yaml
method: {method}
norm: {norm}
radius: {radius}
alpha: 0.2
propagation: {propagation}
circuit: none
attack: {{images: 8, steps: 5}}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images 8 x 8 with a dominant colour, the class; a factory, rules without rules."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    bright = 110 + 40 * np.eye(3)[labels] + rng.normal(0, 14, (90, 3))
    pixels = np.clip(bright[:, :, None, None] + rng.normal(0, 12, (90, 3, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    (tmp_path / "factory_of_boxes.py").write_text(FACTORY)
    (tmp_path / "rules.yaml").write_text("classes: [red, green, blue]\n")
    (tmp_path / "new").mkdir()
    from PIL import Image

    for row in range(4):
        Image.fromarray(pixels[row].transpose(1, 2, 0)).save(tmp_path / "new" / f"{row}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configured(folder: Path, method: str, norm: str = "linf", radius: str = "0.02", propagation: str = "crown") -> Path:
    path = folder / "config.yaml"
    path.write_text(
        CONFIG.format(factory="factory_of_boxes", method=method, norm=norm, radius=radius, propagation=propagation)
    )
    return path


@pytest.mark.parametrize(("method", "norm", "radius"), [("vrcp_i", "linf", "0.02"), ("vrcp_c", "l2", "0.15")])
def test_from_images_to_certificate(
    folder: Path, method: str, norm: str, radius: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = folder / "out"
    words = ["certify", str(configured(folder, method, norm, radius)), "--out", str(out), "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["method"], found["norm"], found["sigma"], found["trials"]) == (method, norm, "0", 0)
    assert found["mean_size"] < 2.5
    assert found["attacked_coverage"] >= 0.6
    assert (found["certified_coverage"] is None) == (method == "vrcp_c")
    result = verify(out)
    assert result.ok, result.failed
    certificate = load_certificate(out)
    assert ("L-infinity" in certificate.guarantee.sentence) == (norm == "linf")
    assert any("CROWN in double precision" in note for note in certificate.notes)
    assert certificate.provenance["attack"]["kind"].startswith("PGD-L" + ("2" if norm == "l2" else "-infinity"))
    words = ["predict", str(folder / "config.yaml"), "--images", str(folder / "new"), "--out", str(folder / "p")]
    assert main([*words, "--certificate", str(out / "certificate.json"), "--json"]) == 0
    capsys.readouterr()


def test_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(folder / "out")]
    assert main(["certify", str(configured(folder, "vrcp_i", "l7")), *out]) == 2
    assert "norm" in capsys.readouterr().err
    assert main(["certify", str(configured(folder, "bincp")), *out]) == 2
    assert "norm: 'linf'; method bincp is proved for l2 only" in capsys.readouterr().err
    text = FACTORY.replace("nn.ReLU()", "nn.Tanh()")
    (folder / "factory_of_waves.py").write_text(text)
    path = configured(folder, "vrcp_i")
    path.write_text(path.read_text().replace("factory_of_boxes", "factory_of_waves"))
    assert main(["certify", str(path), *out]) == 2
    assert "no bound is known for Tanh" in capsys.readouterr().err
    assert torch.is_grad_enabled()
