"""Losses for certification against scipy, closed forms and descent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import mstats
from test_training_run import write

from neurosym.errors import InputError
from neurosym.models.robust_losses import EDGE, consistency, harrell_davis, set_size, shifted
from neurosym.models.training import load_train_config, train


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
def test_quantile_is_that_of_harrell_and_davis(n: int, share: float) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    expected = scores[0] if n == 1 else float(mstats.hdquantiles(scores, [share])[0])
    assert float(harrell_davis(torch.from_numpy(scores), share)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "share"), [(0, 0.5), (3, 0.0), (3, 1.0)])
def test_quantile_refuses(n: int, share: float) -> None:
    with pytest.raises(InputError, match="quantile"):
        harrell_davis(torch.zeros(n), share)


def test_shift_is_the_certificate() -> None:
    p = torch.tensor([0.0, 1e-6, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    inside = np.clip(p.numpy(), EDGE, 1 - EDGE)
    np.testing.assert_allclose(shifted(p, 0.7), stats.norm.cdf(stats.norm.ppf(inside) + 0.7), rtol=1e-12)
    np.testing.assert_allclose(shifted(p, 0.0), inside, rtol=1e-9)


def entropies(p: np.ndarray) -> np.ndarray:
    """Sum over draws and images is left to the caller; p [..., K]."""
    return stats.entropy(p, axis=-1)


@pytest.mark.parametrize("concepts", [0, 3])
def test_consistency_is_the_gap_of_entropies(concepts: int) -> None:
    """mean_m KL(mean || draw) = cross-entropies - entropy of the mean, by scipy."""
    rng = np.random.default_rng(concepts)
    logits = rng.normal(size=(4, 5, 3 + concepts)) * 2
    expected = 0.0
    softmax = np.exp(logits[..., :3]) / np.exp(logits[..., :3]).sum(axis=-1, keepdims=True)
    blocks = [softmax[:, :, None]]
    if concepts:
        yes = 1 / (1 + np.exp(-logits[..., 3:]))
        blocks.append(np.stack([yes, 1 - yes], axis=-1))
    for block in blocks:
        mean = block.mean(axis=0)
        apart = np.mean([stats.entropy(np.broadcast_to(mean, draw.shape), draw, axis=-1) for draw in block], axis=0)
        expected += (apart + 0.5 * entropies(mean)).mean()
    assert float(consistency(torch.from_numpy(logits), 3)) == pytest.approx(expected, rel=1e-9)
    same = torch.from_numpy(np.repeat(logits[:1], 4, axis=0))
    assert float(consistency(same, 3, entropy=0.0)) == pytest.approx(0.0, abs=1e-12)


def test_losses_have_the_right_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda x: consistency(x, 3), (logits,))
    assert torch.autograd.gradcheck(lambda x: set_size(x[..., :3].softmax(-1), labels, 0.2, 0.5), (logits,))


def test_set_size_of_sure_answers() -> None:
    """All certain and right: one label each. All certain and wrong: the threshold is 1, every label belongs."""
    labels = torch.arange(4).repeat(10)
    right = torch.nn.functional.one_hot(labels, 4).double()[None]
    assert float(set_size(right, labels, 0.1, 0.0, temperature=0.01)) < 0.55  # members at the threshold count half
    wrong = right.roll(1, dims=2)
    assert float(set_size(wrong, labels, 0.1, 0.0, temperature=0.01)) == pytest.approx(2.5, abs=0.6)
    unsure = (0.6 * right + 0.1).clamp(0, 1)
    # from where the true label is well inside: below, what membership lacks counts
    sizes = [float(set_size(unsure, labels, 0.1, ratio)) for ratio in (1.0, 1.5, 2.0, 3.0)]
    assert sizes == sorted(sizes)
    assert sizes[-1] > sizes[0] + 0.5
    with pytest.raises(InputError, match="at least 2 images"):
        set_size(right[:, :1], labels[:1], 0.1, 0.0)


def test_descent_makes_robust_sets_smaller() -> None:
    """A linear network on two noisy blobs and a useless input: margins grow along the useful one."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(200) % 3
    centres = 2.0 * torch.eye(3)
    x = centres[labels] + 0.5 * torch.randn(200, 3, generator=generator)
    weight = torch.zeros(3, 3, requires_grad=True)

    def loss() -> torch.Tensor:
        noise = 0.5 * torch.randn(8, 200, 3, generator=torch.Generator().manual_seed(2))
        return set_size(((x + noise) @ weight).softmax(-1), labels, 0.1, 0.5)

    first = float(loss())
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss()) < 0.6 * first
    assert (weight.detach().argmax(0) == torch.arange(3)).all()


@pytest.mark.parametrize("circuit", ["none", "exclusive"])
def test_a_training_with_all_losses(tmp_path: Path, circuit: str) -> None:
    robust: dict[str, Any] = {"consistency": 1.0, "set_size": 0.5, "alpha": 0.2, "radius": 0.05, "circuit": circuit}
    card = train(load_train_config(write(tmp_path, robust=robust, epochs=4)), tmp_path / "net", quiet=True)
    assert card["config"]["robust"]["circuit"] == circuit
    assert card["metrics"]["val_noisy"] > 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"robust": {"consistency": 1.0, "draws": 1}}, "set draws to 2"),
        ({"robust": {"set_size": 1.0}, "sigma": 0.0}, "sigma above 0"),
        ({"robust": {"alpha": 0.0}}, "alpha"),
        ({"robust": {"circuit": "all"}}, "circuit"),
    ],
)
def test_bad_settings(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_train_config(write(tmp_path, **changed))
