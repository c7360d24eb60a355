"""Outputs of networks brought to one form; folding changes nothing but rounding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from torch import Tensor, nn

from neurosym.errors import InputError
from neurosym.models.outputs import (
    PredicateModel,
    as_logits,
    fold_batchnorm,
    inference_network,
    predicate_probabilities,
)

CLASSES, CONCEPTS = torch.arange(6.0).reshape(2, 3), torch.arange(4.0).reshape(2, 2)


@pytest.mark.parametrize(
    "output",
    [
        torch.cat([CLASSES, CONCEPTS], 1),
        (CLASSES, CONCEPTS),
        [CLASSES, CONCEPTS],
        {"classes": CLASSES, "concepts": CONCEPTS},
        SimpleNamespace(logits=torch.cat([CLASSES, CONCEPTS], 1)),
    ],
)
def test_forms_of_output(output: Any) -> None:
    assert torch.equal(as_logits(output), torch.cat([CLASSES, CONCEPTS], 1))


@pytest.mark.parametrize("output", [(CLASSES,), (CLASSES, None), {"classes": CLASSES}, CLASSES])
def test_plain_classifiers(output: Any) -> None:
    assert torch.equal(as_logits(output), CLASSES)


@pytest.mark.parametrize(
    "output",
    [None, 3.0, CLASSES[0], (CLASSES, CLASSES, CLASSES), {"logits": CLASSES}, (CLASSES, CONCEPTS[0]), ("a", "b")],
)
def test_other_outputs_are_refused(output: Any) -> None:
    with pytest.raises(InputError, match="network output"):
        as_logits(output)


def test_probabilities_against_scipy() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    z = logits.numpy()
    both = predicate_probabilities(logits, 3)
    assert np.allclose(both.numpy(), np.concatenate([softmax(z[:, :3], 1), expit(z[:, 3:])], 1))
    assert np.allclose(predicate_probabilities(logits, 3, "binary").numpy(), expit(z))
    assert np.allclose(predicate_probabilities(logits, 5).numpy(), softmax(z, 1))
    for classes, kind, message in (
        (3, "odd", "class_kind"),
        (0, "binary", "num_classes"),
        (6, "binary", "num_classes"),
    ):
        with pytest.raises(InputError, match=message):
            predicate_probabilities(logits, classes, kind)


class Residual(nn.Module):
    """Folding must leave alone: a conv used twice, a norm after a sum, a conv whose output goes elsewhere too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.shared, self.norm_a, self.norm_b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.forked, self.fork_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.sum_norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first_norm(self.first(x)).relu()
        x = self.norm_a(self.shared(x)) + self.norm_b(self.shared(x))
        y = self.forked(x)
        x = self.sum_norm(self.fork_norm(y) + y)
        return self.head(x.mean((2, 3)))


def _shaken(net: nn.Module) -> nn.Module:
    """Batch norms with statistics and weights that matter."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return net.eval()


def test_folding_keeps_the_function() -> None:
    torch.manual_seed(0)
    net, images = _shaken(Residual()), torch.rand(5, 3, 6, 6)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    folded = fold_batchnorm(net)
    kinds = {name: type(module) for name, module in folded.named_modules()}
    assert kinds["first_norm"] is nn.Identity
    assert {kinds[name] for name in ("norm_a", "norm_b", "fork_norm", "sum_norm")} == {nn.BatchNorm2d}
    assert (folded(images) - net(images)).abs().max() < 1e-5
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_folding_a_resnet() -> None:
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    net, images = _shaken(models.resnet18(num_classes=4)), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        folded = fold_batchnorm(net)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
        expected = net(images)
        assert (folded(images) - expected).abs().max() < 1e-5 * expected.abs().max().clamp_min(1)


class Untraceable(Residual):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def test_untraceable_networks_stay_as_they_are() -> None:
    net = _shaken(Untraceable())
    assert isinstance(fold_batchnorm(net).get_submodule("first_norm"), nn.BatchNorm2d)


def test_inference_network_is_a_copy_with_the_same_function() -> None:
    torch.manual_seed(0)
    net, images = _shaken(Residual()).train(), torch.rand(4, 3, 6, 6)
    fast, layout, folded = inference_network(net, images, torch.device("cpu"))
    assert layout == torch.channels_last
    assert folded
    assert net.training
    assert not fast.training
    net.eval()
    assert (fast(images.contiguous(memory_format=layout)) - net(images)).abs().max() < 1e-5
    assert not inference_network(net, images, torch.device("cpu"), fold=False)[2]


def test_uncopyable_networks_still_run() -> None:
    class Stubborn(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("no copies")

    net = nn.Sequential(nn.Flatten(), Stubborn(12, 3))
    fast, _, folded = inference_network(net, torch.rand(2, 3, 2, 2), torch.device("cpu"))
    assert fast is net
    assert not folded


def test_protocol() -> None:
    net = nn.Linear(2, 2)
    assert not isinstance(net, PredicateModel)
    net.num_classes, net.num_concepts, net.predicates = 2, 0, ("a", "b")  # type: ignore[assignment]
    assert isinstance(net, PredicateModel)
