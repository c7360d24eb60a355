"""ConceptNet: one trunk, a K-way class head and L concept heads, one forward pass for all predicates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from neurosym.errors import InputError


def _block(inputs: int, outputs: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SignTrunk(nn.Module):
    """Four convolutions for 32x32 images: ``[B, 3, H, W] -> [B, 4 w, H/4, W/4]``, about 7 M multiply-adds at w = 16.

    The first kernel is wide and strided: under noise it averages before anything else sees the image, and it
    keeps the expensive full resolution out of the network, which is evaluated hundreds of times for each image.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(3, 2 * width, 2, kernel=5),
            _block(2 * width, 2 * width, 1),
            _block(2 * width, 4 * width, 2),
            _block(4 * width, 4 * width, 1),
        )
        self.channels = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.layers(images))


class _Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016), ``[B, C, H, W] -> [B, C', H / stride, W / stride]``."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = _block(inputs, outputs, stride)
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


class ObjectTrunk(nn.Module):
    """Three residual blocks for 32x32 photographs: ``[B, 3, H, W] -> [B, 4 w, H/4, W/4]``, 25 M multiply-adds at w = 16.

    Unlike :class:`SignTrunk` it keeps the full resolution for two more convolutions.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(3, width, 1),
            _Residual(width, width, 1),
            _Residual(width, 2 * width, 2),
            _Residual(2 * width, 4 * width, 2),
        )
        self.channels = 4 * width

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.layers(images))


class VectorTrunk(nn.Module):
    """Features in place of images: ``[B, D, 1, 1] -> [B, 32 w]``, one hidden layer."""

    def __init__(self, inputs: int, width: int = 16) -> None:
        super().__init__()
        self.channels = 32 * width
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, self.channels), nn.BatchNorm1d(self.channels), nn.ReLU(inplace=True)
        )

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


def _vector_head(channels: int, outputs: int) -> nn.Module:
    """Two layers, ``[B, channels] -> [B, outputs]``."""
    hidden = channels // 2
    return nn.Sequential(
        nn.Dropout(0.3), nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Linear(hidden, outputs)
    )


TRUNKS = {"sign": SignTrunk, "object": ObjectTrunk}


class Head(nn.Module):
    """One more convolution and a two-layer classifier: ``[B, C, h, w] -> [B, outputs]``.

    Classes and concepts have a head each, so that a concept can be right where the class is wrong: this is the
    redundancy that reasoning lives on.
    """

    def __init__(self, channels: int, side: int, outputs: int, hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _block(channels, 2 * channels, 2),
            nn.Conv2d(2 * channels, channels, 1),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(channels * ((side + 1) // 2) ** 2, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, outputs),
        )

    def forward(self, features: Tensor) -> Tensor:
        return cast(Tensor, self.layers(features))


class ConceptNet(nn.Module):
    """Class and concept logits from one trunk.

    Input: float ``[B, 3, H, W]`` in [0, 1] (noise may leave the range). Output: logits ``[B, K + L]``, the K classes
    first; read the class block by softmax and each concept by sigmoid.

    Args:
        classes, concepts: predicate names, in the order of the knowledge base.
        image_size: side of the square input images in pixels.
        trunk: ``"sign"``, ``"object"`` or ``"vector"`` (this module's small networks), or a torchvision / timm backbone ``torchvision:resnet18``.
        width: channels of the first convolution of these small networks.
        inputs: channels, or the number of features for ``vector``.
    """

    def __init__(
        self,
        classes: Sequence[str],
        concepts: Sequence[str],
        *,
        image_size: int = 32,
        trunk: str = "sign",
        width: int = 16,
        inputs: int = 3,
    ) -> None:
        super().__init__()
        if len(classes) < 2:
            raise InputError(f"ConceptNet: {len(classes)} classes; at least 2 are needed")
        self.classes, self.concepts = tuple(classes), tuple(concepts)
        self.num_classes, self.num_concepts = len(self.classes), len(self.concepts)
        self.predicates = self.classes + self.concepts
        self.settings = {"image_size": image_size, "trunk": trunk, "width": width}
        vector = trunk == "vector"
        self.register_buffer("center", torch.tensor(0.0 if vector else 0.4), persistent=False)
        self.register_buffer("spread", torch.tensor(1.0 if vector else 0.28), persistent=False)
        if vector:
            self.settings["inputs"] = inputs
            self.trunk: nn.Module = VectorTrunk(inputs, width)
            channels = 32 * width
            self.class_head: nn.Module = _vector_head(channels, self.num_classes)
            self.concept_head: nn.Module = _vector_head(channels, self.num_concepts) if concepts else nn.Identity()
        elif trunk in TRUNKS:
            self.trunk = TRUNKS[trunk](width)
            channels, side = 4 * width, -(-image_size // 4)  # two strides of 2, each rounds up
            self.class_head = Head(channels, side, self.num_classes)
            self.concept_head = Head(channels, side, self.num_concepts) if concepts else nn.Identity()
        else:
            from neurosym.models.backbones import build_backbone

            self.trunk, features = build_backbone(trunk)
            self.class_head = nn.Linear(features, self.num_classes)
            self.concept_head = (
                nn.Sequential(nn.Linear(features, 256), nn.ReLU(inplace=True), nn.Linear(256, self.num_concepts))
                if concepts
                else nn.Identity()
            )

    def forward(self, images: Tensor) -> Tensor:
        center, spread = cast(Tensor, self.center), cast(Tensor, self.spread)
        features = self.trunk((images - center) / spread)
        logits = self.class_head(features)
        if self.num_concepts:
            logits = torch.cat([logits, self.concept_head(features)], dim=1)
        return cast(Tensor, logits)
