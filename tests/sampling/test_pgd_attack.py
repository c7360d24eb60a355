"""The attack against closed forms on linear networks, and its promises on any network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from neurosym.certify.attacks import differentiable, lac, pgd
from neurosym.certify.reasoning import Reasoning
from neurosym.certify.sampling import ModelEvidence, sample_votes
from neurosym.errors import InputError
from neurosym.logic.formula import Implies, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule


class HalfSpace(nn.Module):
    """Two classes, logits ``+-(w . x - b)``."""

    num_classes, num_concepts, predicates = 2, 0, ("below", "above")

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), b

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.w - self.b
        return torch.stack([-value, value], 1)


@pytest.fixture
def case() -> tuple[HalfSpace, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(48, generator=generator)
    images = 0.5 + 0.1 * torch.randn(5, 3, 4, 4, generator=generator)
    values = images.flatten(1) @ w
    net = HalfSpace(w / w.norm(), float((values / w.norm()).median()))
    labels = (images.flatten(1) @ net.w.detach() > net.b).long()
    return net, images.clamp(0, 1), labels


def _share_below(net: HalfSpace, images: Tensor, labels: Tensor, sigma: float) -> np.ndarray:
    """Closed form: chance that a noisy copy falls on the label's side."""
    signed = (images.flatten(1).double() @ net.w.detach().double() - net.b) * (2 * labels - 1)
    return stats.norm.cdf(signed.numpy() / sigma)


@pytest.mark.parametrize("options", [{}, {"loss": "vote", "threshold": 0.5}, {"restarts": 3}])
def test_linear_network_reaches_the_worst_case(case: tuple[HalfSpace, Tensor, Tensor], options: dict[str, Any]) -> None:
    """Against a half space the worst perturbation is ``-+ radius w / |w|`` (Cohen et al. 2019, theorem 2)."""
    net, images, labels = case
    radius, sigma = 0.2, 0.25
    attacked = pgd(net, images, labels, radius, None, sigma, steps=10, seed=1, clip=False, **options)
    delta = (attacked - images).flatten(1).double()
    worst = -(2 * labels - 1).double().unsqueeze(1) * net.w.detach().double()
    assert (torch.nn.functional.cosine_similarity(delta, worst) > 0.99).all()
    assert (delta.norm(dim=1) > 0.999 * radius).all()
    expected = stats.norm.cdf(stats.norm.ppf(_share_below(net, images, labels, sigma)) - radius / sigma)
    assert np.allclose(_share_below(net, attacked, labels, sigma), expected, atol=5e-3)


def test_linear_network_reaches_the_worst_corner(case: tuple[HalfSpace, Tensor, Tensor]) -> None:
    """In L-infinity the worst perturbation is ``-+ radius sign(w)``: the margin falls by ``radius |w|_1``."""
    net, images, labels = case
    attacked = pgd(net, images, labels, 0.03, None, 0.25, norm="linf", steps=10, seed=1, clip=False)
    worst = -0.03 * (2 * labels - 1).float().unsqueeze(1) * net.w.detach().sign()
    assert ((attacked - images).flatten(1) - worst).abs().max() < 1e-6


def test_votes_fall_as_the_certificate_allows(case: tuple[HalfSpace, Tensor, Tensor]) -> None:
    net, images, labels = case
    attacked = pgd(net, images, labels, 0.2, None, 0.25, steps=10, loss="vote", threshold=0.5)

    def votes(x: Tensor) -> np.ndarray:
        found = sample_votes(ModelEvidence(net, TensorDataset(x), 0.25, 500, 7, progress=False)).votes
        return found[np.arange(len(x)), labels.numpy()]

    assert (votes(attacked) < votes(images) - 50).all()


def _small(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 4))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_ball_range_and_determinism(norm: Any) -> None:
    net, images, labels = _small().train(), torch.rand(7, 3, 8, 8), torch.arange(7) % 3
    images[0] = 0.0
    images[1] = 1.0
    options: dict[str, Any] = {"num_classes": 3, "steps": 4, "draws": 6, "norm": norm}
    for radius in (0.0, 1e-3, 0.5, 30.0):
        for clip in (True, False):
            attacked = pgd(net, images, labels, radius, None, 0.25, seed=2, clip=clip, **options)
            assert attacked.dtype == torch.float32
            delta = (attacked.double() - images.double()).flatten(1)
            lengths = delta.norm(dim=1) if norm == "l2" else delta.abs().amax(dim=1)
            assert (lengths <= radius).all()
            if clip:
                assert attacked.min() >= 0
                assert attacked.max() <= 1
    first, again = (pgd(net, images, labels, 0.5, None, 0.25, seed=2, **options) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, pgd(net, images, labels, 0.5, None, 0.25, seed=3, **options))
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_subsets_and_batches_see_the_same_noise() -> None:
    net, images, labels = _small(), torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    options: dict[str, Any] = {"num_classes": 3, "steps": 5, "draws": 8}
    whole = pgd(net, images, labels, 0.3, None, 0.25, batch=256, **options)
    split = pgd(net, images, labels, 0.3, None, 0.25, batch=4, **options)
    rows = np.array([4, 1])
    part = pgd(net, images[rows], labels[rows], 0.3, None, 0.25, indices=rows, **options)
    assert (whole - split).abs().max() < 1e-4
    assert (whole[rows] - part).abs().max() < 1e-4


@pytest.fixture
def rules() -> KnowledgeBase:
    return KnowledgeBase(("stop", "yield"), ("red", "octagon"), (Rule(Implies(Var("stop"), Var("octagon")), 2.0),))


@pytest.mark.parametrize("circuit", ["rules", "exclusive"])
@pytest.mark.parametrize("kind", ["binary", "categorical"])
def test_gradient_goes_through_the_circuit(rules: KnowledgeBase, circuit: Any, kind: Any) -> None:
    reasoning = Reasoning(rules, circuit, kind)
    p = torch.tensor([[0.7, 0.2, 0.6, 0.3], [0.1, 0.9, 0.5, 0.8]], dtype=torch.float64, requires_grad=True)
    function = differentiable(reasoning, 2)
    q = function(p)
    assert np.allclose(q.detach().numpy(), reasoning.class_probabilities(p.detach().numpy()), atol=1e-12)
    assert torch.autograd.gradcheck(function, (p,))
    q[0, 0].backward()
    assert p.grad is not None
    assert p.grad[0, 3] > 0  # a surer octagon makes stop surer


def test_attack_on_reasoning_hurts_more_than_noise_alone(rules: KnowledgeBase) -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 4))
    with torch.no_grad():
        net[1].weight.mul_(5)
    net.predicates = ("stop", "yield", "octagon", "red")  # type: ignore[assignment]  # not the order of the rules
    reasoning = Reasoning(rules, "exclusive", "categorical")
    images, labels = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.long)
    attacked = pgd(net, images, labels, 0.5, reasoning, 0.1, steps=8)

    def score(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = net(x + 0.1 * torch.randn(200, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).sum(1))
        p = torch.cat([logits[:, :2].softmax(1), logits[:, 2:].sigmoid()], 1)[:, [0, 1, 3, 2]].double()
        return lac(differentiable(reasoning, 2)(p), torch.zeros(200, dtype=torch.long)).mean()

    for before, after in zip(images, attacked, strict=True):
        assert score(after) > score(before) + 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": -1.0}, "radius"),
        ({"sigma": float("nan")}, "sigma"),
        ({"steps": 0}, "steps"),
        ({"draws": 0}, "draws"),
        ({"restarts": 0}, "restarts"),
        ({"norm": "l1"}, "norm"),
        ({"loss": "vote"}, "threshold"),
        ({"threshold": 0.5}, "threshold"),
        ({"labels": torch.tensor([0])}, "labels"),
        ({"labels": torch.tensor([0, 5])}, "labels"),
        ({"images": torch.rand(2, 3, 4)}, "images"),
        ({"images": torch.rand(2, 3, 4, 4) * 3}, "clip=False"),
        ({"num_classes": None}, "num_classes"),
    ],
)
def test_bad_settings(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "images": torch.rand(2, 3, 4, 4),
        "labels": torch.tensor([0, 1]),
        "radius": 0.1,
        "reasoning": None,
        "sigma": 0.1,
        "num_classes": 2,
        **change,
    }
    with pytest.raises(InputError, match=message):
        pgd(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), **arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda(case: tuple[HalfSpace, Tensor, Tensor]) -> None:
    net, images, labels = case
    attacked = pgd(net.cuda(), images, labels, 0.2, None, 0.25, steps=5)
    assert attacked.device.type == "cpu"
