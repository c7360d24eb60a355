"""Backbones by name: ``torchvision:NAME`` or ``timm:NAME``, without their classification head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from neurosym.errors import InputError


def import_torchvision() -> Any:
    """Import torchvision lazily; a pair of torch and torchvision that do not match becomes one line.

    Raises:
        InputError: torchvision is missing or was built for another torch.
    """
    try:
        import torchvision
    except ImportError as error:
        raise InputError(
            f"torchvision cannot be imported ({error}); install the torchvision made for torch {torch.__version__}"
        ) from None
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        raise InputError(
            f"torchvision does not match torch {torch.__version__} ({error}); reinstall both together: pip install -U torch torchvision"
        ) from None
    return torchvision


def build_backbone(spec: str) -> tuple[nn.Module, int]:
    """A randomly initialised backbone and its number of features: ``[B, 3, H, W] -> [B, F]``.

    Raises:
        InputError: unknown library or network name.
    """
    library, _, name = spec.partition(":")
    if library == "timm":
        try:
            import timm
        except ImportError:
            raise InputError(f"trunk {spec!r}: timm is not installed; pip install timm") from None
        if name not in timm.list_models():
            raise InputError(f"trunk {spec!r}: timm has no model {name!r}; see timm.list_models()")
        network = timm.create_model(name, pretrained=False, num_classes=0)
        return network, int(network.num_features)
    if library != "torchvision":
        raise InputError(f"trunk {spec!r}: write sign, object, vector, torchvision:NAME or timm:NAME")
    models = import_torchvision().models
    if name not in models.list_models(module=models):
        raise InputError(f"trunk {spec!r}: torchvision has no classification model {name!r}")
    network = models.get_model(name, weights=None)
    for attribute in ("fc", "classifier", "head", "heads"):
        head = getattr(network, attribute, None)
        linear = [m for m in head.modules() if isinstance(m, nn.Linear)] if head is not None else []
        if linear:
            setattr(network, attribute, nn.Flatten(1))
            return network, _features(network, linear[0].in_features)
    raise InputError(
        f"trunk {spec!r}: its classification head was not recognised; pass your own module:function factory"
    )


def _features(network: nn.Module, expected: int) -> int:
    network.eval()
    with torch.no_grad():
        output = network(torch.zeros(1, 3, 224, 224))
    network.train()
    return int(output.shape[1]) if output.dim() == 2 else expected
