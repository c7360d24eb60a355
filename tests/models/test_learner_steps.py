"""The training objective against plain numpy, and the moving average against its recursion."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from torch import Tensor

from neurosym.models.concept_net import ConceptNet
from neurosym.models.learner import ConceptLearner, augment, concept_weights

MATRIX = np.array([[1, 0, 1], [0, 0, 1], [0, 1, 1]], dtype=bool)
COUNTS = np.array([10, 30, 60])


def learner(**options: Any) -> ConceptLearner:
    torch.manual_seed(0)
    net = ConceptNet(("a", "b", "c"), ("p", "q", "r"), image_size=8, width=4)
    return ConceptLearner(net, MATRIX, COUNTS, **{"sigma": 0.1, **options})


def test_concept_weights() -> None:
    positive, negative = concept_weights(MATRIX, COUNTS)
    # p: 10 of 100, q: 60 of 100, r: all of them, so that its negatives (none) count as one and are clipped
    np.testing.assert_allclose(positive, [100 / 20, 100 / 120, 100 / 200], rtol=1e-6)
    np.testing.assert_allclose(negative, [100 / 180, 100 / 80, 10.0], rtol=1e-6)
    clipped, _ = concept_weights(MATRIX, COUNTS, limit=2.0)
    np.testing.assert_allclose(clipped, [2.0, 100 / 120, 100 / 200], rtol=1e-6)
    # without clipping both outcomes weigh the same over the data set
    carriers = np.array([10, 60])
    np.testing.assert_allclose(positive[:2].numpy() * carriers, negative[:2].numpy() * (100 - carriers), rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.7])
def test_loss_against_numpy(share: float) -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(16, 6)) * 3, rng.integers(0, 3, 16)
    classes, concepts = logits[:, :3], logits[:, 3:]
    cross = -log_softmax(classes, axis=1)[np.arange(16), labels].mean()
    target = MATRIX[labels]
    carriers = (MATRIX * COUNTS[:, None]).sum(axis=0)
    weight = np.where(target, 100 / (2 * carriers), np.minimum(100 / (2 * np.maximum(100 - carriers, 1)), 10))
    likelihood = np.where(target, expit(concepts), 1 - expit(concepts))
    expected = cross + share * (-weight * np.log(likelihood)).mean()
    found = learner(concept_loss=share).loss(torch.from_numpy(logits).float(), torch.from_numpy(labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_loss_without_concepts() -> None:
    net = ConceptNet(("a", "b"), (), image_size=8, width=4)
    alone = ConceptLearner(net, np.zeros((2, 0), dtype=bool), np.array([1, 1]), sigma=0.1)
    logits = torch.tensor([[0.0, 2.0], [1.0, -1.0]])
    expected = np.log1p(np.exp([2.0, -2.0])).mean()
    assert float(alone.loss(logits, torch.tensor([0, 0]))) == pytest.approx(expected, rel=1e-6)


def run_augment(images: Tensor, seed: int = 0, **options: float) -> Tensor:
    return augment(images, torch.Generator().manual_seed(seed), **options)


def test_augment_range_shape_determinism() -> None:
    images = torch.rand(64, 3, 12, 12)
    before = images.clone()
    found = run_augment(images)
    assert found.shape == images.shape
    assert found.dtype == torch.float32
    assert 0 <= float(found.min()) < float(found.max()) <= 1
    assert torch.equal(images, before)
    assert torch.equal(found, run_augment(images))
    assert not torch.equal(found, run_augment(images, seed=1))
    assert len({tuple(row.flatten().tolist()) for row in run_augment(images[:1].repeat(8, 1, 1, 1))}) == 8


@pytest.mark.parametrize("mirror", [False, True])
def test_augment_mirrors_only_where_asked(mirror: bool) -> None:
    """Two blobs, left and below of the centre: their orientation around it keeps its sign, and moves little."""
    image = torch.zeros(1, 3, 33, 33)
    image[:, 0, 14:19, 2:7] = 1  # left
    image[:, 1, 26:31, 14:19] = 1  # below
    image[:, 2, 14:19, 14:19] = 1  # centre
    found = run_augment(image.repeat(200, 1, 1, 1), mirror=mirror).double()
    found = (found - found.amin(dim=(2, 3), keepdim=True)).clamp_min(0)
    found = torch.where(found > 0.5 * found.amax(dim=(2, 3), keepdim=True), found, 0)
    grid = torch.arange(33, dtype=torch.float64)
    mass = found.sum(dim=(2, 3))
    x = (found.sum(dim=2) * grid).sum(dim=2) / mass
    y = (found.sum(dim=3) * grid).sum(dim=2) / mass
    left = torch.stack([x[:, 0] - x[:, 2], y[:, 0] - y[:, 2]], dim=1)
    below = torch.stack([x[:, 1] - x[:, 2], y[:, 1] - y[:, 2]], dim=1)
    area = left[:, 0] * below[:, 1] - left[:, 1] * below[:, 0]
    # (-12, 0) x (0, 12) = -144, a reflection has the other sign
    mirrored = area > 0
    assert 60 < int(mirrored.sum()) < 140 if mirror else not bool(mirrored.any())
    side = torch.where(mirrored, -1.0, 1.0)
    turn = torch.rad2deg(torch.atan2(left[:, 1], -left[:, 0] * side)).abs()
    assert float(turn.max()) < 8.0 + 3.0  # at most 8 degrees, and what pixels cost
    assert float(turn.max()) > 4.0
    shift = torch.stack([x[:, 2] - 16, y[:, 2] - 16], dim=1).abs()
    assert float(shift.max()) < 0.08 * 33 * 1.12 + 1.0


def test_augment_without_moves_keeps_the_geometry() -> None:
    """Only scale, gain and offset remain: a constant image stays constant, at most 0.1 away."""
    found = run_augment(torch.full((32, 3, 8, 8), 0.5), degrees=0.0, shift=0.0)
    spread = found.amax(dim=(1, 2, 3)) - found.amin(dim=(1, 2, 3))
    assert float(spread.max()) < 1e-5
    assert 0.05 < float((found - 0.5).abs().max()) <= 0.1 + 1e-6


class Steps:
    """Stands for the trainer: the learner asks it for the number of optimiser steps."""

    def __init__(self) -> None:
        self.global_step = 0


def test_moving_average_by_hand() -> None:
    module = learner(ema=0.6)
    steps: Any = Steps()
    module._trainer = steps
    expected = {name: value.double().numpy().copy() for name, value in module.model.state_dict().items()}
    rng = np.random.default_rng(0)
    for step in range(1, 12):
        for value in module.model.state_dict().values():
            if value.dtype.is_floating_point:
                value += torch.from_numpy(rng.normal(size=tuple(value.shape))).to(value.dtype)
            else:
                value += 1
        steps.global_step = step
        module.on_train_batch_end(None, None, step)
        decay = min(0.6, (1 + step) / (10 + step))  # 2/11, 3/12, ... until 0.6
        for name, value in module.model.state_dict().items():
            new = value.double().numpy()
            expected[name] = decay * expected[name] + (1 - decay) * new if value.dtype.is_floating_point else new
    found = module.average.state_dict()
    assert any(not value.dtype.is_floating_point for value in found.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name].double().numpy(), value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert not any(p.requires_grad for p in module.average.parameters())


def test_weight_decay_spares_biases_and_norms() -> None:
    module = learner(weight_decay=0.25)
    stub: Any = Steps()
    stub.estimated_stepping_batches = 10
    module._trainer = stub
    groups = module.configure_optimizers()["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.25, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"])
    assert all(p.dim() == 1 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(module.model.parameters()))
