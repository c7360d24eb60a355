"""Coverage under attack, on a linear network whose worst case is known in closed form."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from neurosym.certify.attacked import attack_rows
from neurosym.certify.config import CertifyConfig, config_from_mapping
from neurosym.certify.evidence import votes_from_samples
from neurosym.certify.sampling import ModelEvidence
from neurosym.certify.sources import Source
from neurosym.certify.study import Finding, Settings, certify_split
from neurosym.models.checkpoint import weights_digest
from neurosym.models.data import ImageSet

SIGMA, TRIALS, N = 0.25, 200, 80
SIDE = 4


class HalfSpace(nn.Module):
    """Two classes on the two sides of a hyperplane through the grey image; smooth enough for gradients."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        normal = torch.randn(3 * SIDE * SIDE)
        self.normal = nn.Parameter(normal / normal.norm())

    def distance(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.normal

    def forward(self, images: Tensor) -> Tensor:
        t = self.distance(images) * 8
        return torch.stack([t, -t], dim=1)


def source() -> Source:
    """Images at random distances from the hyperplane, most on the side of their label."""
    model = HalfSpace().eval()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, N)
    distance = (1 - 2 * labels) * rng.normal(0.35, 0.15, N)
    plane = 0.5 + distance[:, None] * model.normal.detach().numpy()[None, :]
    pixels = np.rint(plane.reshape(N, 3, SIDE, SIDE) * 255).clip(0, 255).astype(np.uint8)
    images = ImageSet(pixels, labels, np.arange(N), "plane")
    return Source(model, None, ("in", "out"), 2, weights_digest(model), images)


def config(**changed: Any) -> CertifyConfig:
    return config_from_mapping(
        {
            "model": "plane",
            "data": {"name": "plane"},
            "radius": 0.2,
            "sigma": SIGMA,
            "trials": TRIALS,
            "alpha": 0.2,
            "device": "cpu",
            "attack": {"images": 30, "steps": 6, "draws": 16},
            **changed,
        },
        "here",
    )


def finding(origin: Source, asked: CertifyConfig) -> Finding:
    evidence: Any = ModelEvidence(
        origin.model, origin.images, asked.sigma, asked.draws, 0, predicates=origin.predicates, num_classes=2,
        device="cpu", progress=False,
    )  # fmt: skip
    if asked.method == "colep":
        evidence = votes_from_samples(evidence)
    calibration, test = evidence.take(np.arange(50)), evidence.take(np.arange(50, N))
    return certify_split(None, calibration, test, None, Settings(asked.method, asked.alpha, asked.radius))


ROWS = np.arange(50, N)


def test_vote_shares_fall_as_the_closed_form_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst case of a half-space under noise is Phi((distance - radius) / sigma): the attack reaches it."""
    origin, asked = source(), config()
    found = finding(origin, asked)
    seen: list[np.ndarray] = []
    observe = found.classifier.observe

    def spy(evidence: Any) -> dict[str, np.ndarray]:
        seen.append(votes_from_samples(evidence).votes)
        return observe(evidence)

    monkeypatch.setattr(found.classifier, "observe", spy)
    attack_rows(asked, origin, found, ROWS)
    truth = origin.images.labels[ROWS]
    share = seen[0][np.arange(30), truth] / TRIALS
    with torch.no_grad():
        images = torch.from_numpy(origin.images.images[ROWS]).float() / 255
        distance = origin.model.distance(images).numpy() * (1 - 2 * truth)  # type: ignore[operator]
    clean, worst = norm.cdf(distance / SIGMA), norm.cdf((distance - 0.2) / SIGMA)
    error = np.sqrt(worst * (1 - worst) / TRIALS)
    assert (np.abs(share - worst) < 5 * error + 0.02).all()
    assert (share < clean - 0.02)[clean < 0.97].all()
    assert share.mean() == pytest.approx(worst.mean(), abs=4 * error.mean() / np.sqrt(30) + 0.01)


@pytest.mark.parametrize("method", ["bincp", "rcp1", "colep"])
def test_counts_are_those_of_the_sets(method: str) -> None:
    origin, asked = source(), config(method=method)
    found = finding(origin, asked)
    attacked = attack_rows(asked, origin, found, ROWS)
    assert attacked.images == 30
    assert 0 <= attacked.covered <= 30
    assert attacked.coverage == attacked.covered / 30
    assert 0 < attacked.mean_size <= 2
    assert attacked.covered <= attacked.mean_size * 30
    record = attacked.record()
    assert (record["images"], record["covered"], record["steps"], record["draws"]) == (30, attacked.covered, 6, 16)
    again = attack_rows(asked, origin, found, ROWS)
    assert again == attacked
    one = [attack_rows(asked, origin, found, ROWS[i : i + 1]) for i in range(2)]
    assert all(item.images == 1 and item.covered in (0, 1) for item in one)
    # 80 % hold under any attack; 30 rows allow for 5 standard errors
    assert attacked.coverage > 0.8 - 5 * np.sqrt(0.16 / 30)


def test_the_radius_is_kept_and_zero_is_no_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    from neurosym.certify import attacks

    origin, asked = source(), config()
    found = finding(origin, asked)
    moved: list[Tensor] = []
    pgd = attacks.pgd

    def spy(model: nn.Module, images: Tensor, *rest: Any, **options: Any) -> Tensor:
        adversarial = pgd(model, images, *rest, **options)
        moved.append((adversarial.double() - images.double()).flatten(1).norm(dim=1))
        return adversarial

    monkeypatch.setattr(attacks, "pgd", spy)
    attack_rows(asked, origin, found, ROWS)
    assert float(moved[0].max()) <= 0.2
    assert float(moved[0].min()) > 0.19
    still = replace(found, calibrated=replace(found.calibrated, radius="0"))
    attack_rows(asked, origin, still, ROWS)
    assert float(moved[1].max()) == 0
