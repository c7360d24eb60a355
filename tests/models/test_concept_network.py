"""Shapes of ConceptNet and of the backbones it can stand on."""

from __future__ import annotations

import pytest
import torch

from neurosym.errors import InputError
from neurosym.models.backbones import build_backbone
from neurosym.models.concept_net import ConceptNet

CLASSES, CONCEPTS = ("a", "b", "c"), ("p", "q")


@pytest.mark.parametrize("size", [4, 8, 10, 13, 17, 31, 32])
def test_any_image_size(size: int) -> None:
    net = ConceptNet(CLASSES, CONCEPTS, image_size=size, width=4).eval()
    assert net(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_classes_first_and_independent_heads() -> None:
    torch.manual_seed(0)
    net = ConceptNet(CLASSES, CONCEPTS, image_size=8, width=4).eval()
    assert net.predicates == CLASSES + CONCEPTS
    images = torch.rand(4, 3, 8, 8)
    before = net(images)
    with torch.no_grad():
        for parameter in net.concept_head.parameters():
            parameter.mul_(2)
    after = net(images)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.equal(before[:, 3:], after[:, 3:])
    one = torch.cat([net(image[None]) for image in images])  # rows do not see one another
    torch.testing.assert_close(one, after, rtol=1e-5, atol=1e-6)


def test_without_concepts_and_too_few_classes() -> None:
    assert ConceptNet(CLASSES, (), image_size=8, width=4).eval()(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(InputError, match="1 classes; at least 2"):
        ConceptNet(("a",), CONCEPTS)


@pytest.mark.parametrize(("spec", "features"), [("torchvision:resnet18", 512), ("torchvision:mobilenet_v3_small", 576)])
def test_torchvision_trunks(spec: str, features: int) -> None:
    net = ConceptNet(CLASSES, CONCEPTS, image_size=64, trunk=spec).eval()
    with torch.no_grad():
        assert net.trunk(torch.rand(2, 3, 64, 64)).shape == (2, features)
        assert net(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    assert net.class_head.in_features == features


def test_timm_trunk() -> None:
    pytest.importorskip("timm")
    trunk, features = build_backbone("timm:test_resnet")
    assert trunk.eval()(torch.rand(1, 3, 64, 64)).shape == (1, features)
    net = ConceptNet(CLASSES, CONCEPTS, image_size=64, trunk="timm:test_resnet").eval()
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 5)
    with pytest.raises(InputError, match="timm has no model 'resnet_none'"):
        build_backbone("timm:resnet_none")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet_none", "no classification model 'resnet_none'"),
        ("torchvision:", "no classification model ''"),
        ("torchvision:fcn_resnet50", "no classification model"),  # a segmentation network
        ("hub:resnet18", "write sign, object, vector, torchvision:NAME or timm:NAME"),
        ("resnet18", "write sign, object, vector, torchvision:NAME or timm:NAME"),
    ],
)
def test_unknown_trunks(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        ConceptNet(CLASSES, CONCEPTS, trunk=spec)
    assert repr(spec) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_timm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="timm is not installed; pip install timm"):
        build_backbone("timm:resnet18")
