"""Networks by name: checkpoint folders, torchvision and timm backbones, exported programs, user factories.

Nothing here unpickles: weights come from safetensors, from ``torch.load(weights_only=True)`` or from an exported
program whose archive was looked at first. Only a factory ``module:function`` runs code, the user's own.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from neurosym.errors import InputError
from neurosym.models.exported import load_exported
from neurosym.models.outputs import PredicateModel, as_logits

_PREFIXES = ("module.", "_orig_mod.")  # DataParallel and torch.compile put these before every name
_LIBRARIES = ("torchvision", "timm")
_NESTED = ("state_dict", "model_state_dict", "model")  # where training scripts keep the weights


class PredicateNetwork(nn.Module):
    """Any network as a ``PredicateModel`` on images in ``[0, 1]``: normalisation first, one logit tensor last.

    Args:
        network: images ``[B, 3, H, W]`` to an output that :func:`neurosym.models.outputs.as_logits` accepts.
        num_classes: K; the other outputs are concepts.
        predicates: names of the outputs; ``class_0`` ... and ``concept_0`` ... by default.
        mean, std: per channel (or one number); the network sees ``(x - mean) / std``. Noise is added before.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        predicates: Sequence[str],
        mean: Sequence[float] | float | None = None,
        std: Sequence[float] | float | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.predicates = tuple(str(name) for name in predicates)
        self.num_classes, self.num_concepts = int(num_classes), len(self.predicates) - int(num_classes)
        if not 1 <= self.num_classes <= len(self.predicates):
            raise InputError(f"num_classes: {num_classes} classes but {len(self.predicates)} predicates")
        self.normalises = mean is not None or std is not None
        for name, value, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            tensor = torch.tensor(default if value is None else value, dtype=torch.float32).reshape(-1, 1, 1)
            good = bool(torch.isfinite(tensor).all()) and (name == "mean" or bool((tensor > 0).all()))
            if not good or tensor.numel() == 0:
                raise InputError(f"{name}: {value} is not usable; give one number for each channel, std above 0")
            self.register_buffer(name, tensor, persistent=True)

    def forward(self, images: Tensor) -> Tensor:
        """Images float ``[B, 3, H, W]`` in ``[0, 1]`` to logits ``[B, V]``."""
        if self.normalises:
            images = (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        logits = as_logits(self.network(images))
        if logits.shape[1] != len(self.predicates):
            raise InputError(
                f"the network has {logits.shape[1]} outputs but there are {len(self.predicates)} predicates "
                f"({self.num_classes} classes and {self.num_concepts} concepts)"
            )
        return logits


def load_model(
    spec: str | Path,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    predicates: Sequence[str] | None = None,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    device: str | torch.device = "cpu",
    untrained: bool = False,
    **factory_options: Any,
) -> nn.Module:
    """The network that ``spec`` names, in evaluation mode, as a ``PredicateModel`` on images in ``[0, 1]``.

    Args:
        spec: a checkpoint folder of ours, ``torchvision:NAME``, ``timm:NAME``, an exported program ``FILE.pt2``,
            or a factory ``module:function`` (found from the working folder or ``sys.path``).
        weights: safetensors or state-dict file for a backbone or a factory's network.
        num_classes: number of classes; by default the network's own attribute, or all its outputs.
        predicates: names of all outputs, classes first; by default the network's own, or made up. A network with
            names of its own keeps them; they must contain these, with the same classes in front.
        mean, std: normalisation applied after the noise; leave out what the network does itself.
        untrained: allow a backbone without weights.
        factory_options: handed to the factory.

    Raises:
        InputError: one line naming what is missing or does not fit, and the mend.
    """
    text = str(spec)
    path = Path(text)
    if factory_options and not _is_factory(text):
        option = next(iter(factory_options))
        raise InputError(f"model {text!r}: option {option!r} is only for a module:function factory")
    if path.is_dir() or path.suffix == ".pt2":
        if weights is not None:
            raise InputError(f"model {text!r} has its own weights; leave weights={str(weights)!r} out")
        network: nn.Module = _load_folder(path) if path.is_dir() else load_exported(path)
    elif text.partition(":")[0] in _LIBRARIES:
        outputs = len(predicates) if predicates is not None else num_classes
        network = _load_backbone(text, weights, outputs, untrained)
    elif _is_factory(text):
        network = _load_factory(text, factory_options)
        if weights is not None:
            _fill(network, read_weights(weights), str(weights))
    elif path.is_file():
        raise InputError(f"{text}: weights alone are not a model; name the network too, e.g. torchvision:resnet18")
    else:
        raise InputError(
            f"model {text!r}: no such checkpoint folder; use a folder, torchvision:NAME, timm:NAME, FILE.pt2 or "
            "module:function"
        )
    return _as_predicate_model(network, text, num_classes, predicates, mean, std).eval().to(device)


def _is_factory(text: str) -> bool:
    module, colon, name = text.partition(":")
    if module in _LIBRARIES:
        return False
    return bool(colon) and all(part.isidentifier() for part in module.split(".")) and name.isidentifier()


def _as_predicate_model(
    network: nn.Module,
    spec: str,
    num_classes: int | None,
    predicates: Sequence[str] | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> nn.Module:
    """The network itself if it fits already, else in a :class:`PredicateNetwork`."""
    own = getattr(network, "predicates", None)
    own = None if own is None else tuple(own)
    if own is not None and predicates is not None:
        _check_names(spec, own, tuple(predicates), num_classes)
    # torchvision's own num_classes counts all outputs, so it is heard only beside predicates.
    classes = getattr(network, "num_classes", None) if num_classes is None and own is not None else num_classes
    names = own if own is not None else predicates
    if names is None:
        outputs = _outputs(network)
        if outputs is None:
            raise InputError(f"model {spec!r} does not name its outputs; pass predicates= and num_classes=")
        classes = outputs if classes is None else int(classes)
        names = [f"class_{i}" for i in range(classes)] + [f"concept_{i}" for i in range(outputs - classes)]
    if classes is None:
        raise InputError(f"model {spec!r}: which of its {len(names)} outputs are classes? pass num_classes=")
    if own is not None and getattr(network, "num_classes", classes) != classes:
        raise InputError(f"model {spec!r}: has {network.num_classes} classes and not {classes}; use the same rules")
    if isinstance(network, PredicateModel) and mean is None and std is None:
        return network
    return PredicateNetwork(network, int(classes), names, mean, std)


def _check_names(spec: str, own: tuple[str, ...], given: tuple[str, ...], num_classes: int | None) -> None:
    """Named networks may know more concepts than the rules use, in another order; the classes must agree."""
    unknown = [name for name in given if name not in own]
    if unknown:
        raise InputError(f"model {spec!r}: has no output {unknown[0]!r}; use the rules that it was trained for")
    for mine, yours in zip(own[: num_classes or 0], given, strict=False):
        if mine != yours:
            raise InputError(f"model {spec!r}: its class {mine!r} stands where the rules have {yours!r}; reorder them")


def _outputs(network: nn.Module) -> int | None:
    """Number of outputs, where the network or its last linear layer tells it."""
    head = find_head(network)
    return None if head is None else int(network.get_parameter(f"{head}.weight").shape[0])


def find_head(network: nn.Module) -> str | None:
    """Name of the last linear layer (or 1x1 convolution, as in SqueezeNet), None if there is none."""
    last = None
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)):
            last = name
    return last


def _load_folder(folder: Path) -> nn.Module:
    from neurosym.models.checkpoint import load_checkpoint

    return load_checkpoint(folder)


def _load_factory(spec: str, options: Mapping[str, Any]) -> nn.Module:
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise InputError(f"model {spec!r}: importing {module_name} failed: {error}") from error
        raise InputError(
            f"model {spec!r}: no module {module_name!r} in {here} or on sys.path; run where {module_name}.py lies"
        ) from None
    except Exception as error:
        raise InputError(f"model {spec!r}: importing {module_name} failed: {_first_line(error)}") from error
    finally:
        if added:
            sys.path.remove(here)
    factory = getattr(module, name, None)
    if not callable(factory):
        raise InputError(f"model {spec!r}: {module_name} has no function {name!r}; check the spelling")
    try:
        network = factory(**options)
    except Exception as error:
        raise InputError(f"model {spec!r}: the factory failed: {_first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"model {spec!r}: the factory gave a {type(network).__name__}; return a torch.nn.Module")
    return network


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _backbone(spec: str, outputs: int | None) -> nn.Module:
    library, _, name = spec.partition(":")
    options = {} if outputs is None else {"num_classes": outputs}
    from neurosym.models.backbones import import_torchvision

    # timm imports torchvision too: a mismatched pair is reported the same way for both.
    vision = import_torchvision()
    if library == "timm":
        try:
            import timm
        except ImportError:
            raise InputError(f"model {spec!r}: timm is not installed; pip install timm") from None
        if not timm.is_model(name):
            raise InputError(f"model {spec!r}: timm has no model {name!r}; see timm.list_models()")
        return cast(nn.Module, timm.create_model(name, pretrained=False, **options))
    if name not in vision.models.list_models(module=vision.models):
        raise InputError(f"model {spec!r}: torchvision has no classifier {name!r}; see its list_models()")
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False
    return cast(nn.Module, vision.models.get_model(name, weights=None, **options))


def _load_backbone(spec: str, weights: str | Path | None, outputs: int | None, untrained: bool) -> nn.Module:
    if weights is None:
        if not untrained:
            raise InputError(
                f"model {spec!r} needs weights; give weights: FILE.safetensors (in Python weights= or untrained=True)"
            )
        return _backbone(spec, outputs)
    state = read_weights(weights)
    with torch.device("meta"):
        head = find_head(_backbone(spec, None))
    found = state.get(f"{head}.weight")
    if found is None:
        raise InputError(f"{weights}: has no {head}.weight, so it is not a {spec}; check the name of the network")
    if outputs is not None and found.shape[0] != outputs:
        raise InputError(
            f"{weights}: head {head}.weight has {found.shape[0]} outputs but {outputs} predicates are wanted; train "
            "the head for these predicates, or correct the rules"
        )
    network = _backbone(spec, int(found.shape[0]))
    _fill(network, state, str(weights))
    return network


def _fill(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict strictly.

    Raises:
        InputError: names that are missing, too many, or of another shape.
    """
    own = network.state_dict()
    both = [name for name in own if name in state and state[name].shape != own[name].shape]
    wrong = [f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in both]
    lists = (
        ("missing", [name for name in own if name not in state]),
        ("unknown", [name for name in state if name not in own]),
        ("shape", wrong),
    )
    parts = [f"{kind}: {', '.join(names[:3])}{' ...' * (len(names) > 3)}" for kind, names in lists if names]
    if parts:
        reason = "; ".join(parts)
        raise InputError(f"{where}: does not fit {type(network).__name__} ({reason}); use its own weights")
    network.load_state_dict(state)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """State dict of a ``.safetensors`` file or of a file that ``torch.load(weights_only=True)`` accepts.

    A dict under ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped; prefixes that DataParallel and
    torch.compile add are stripped.

    Raises:
        InputError: missing file, not weights, or a pickle of anything but tensors (which is never loaded).
    """
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path}: no such weights file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state: Any = load_file(str(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: not a safetensors file ({_first_line(error)}); save it again") from None
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            raise InputError(
                f"{path}: a pickle of more than tensors, which could run code and is not loaded; convert it where "
                "you trust it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
            ) from None
        except Exception as error:  # torch.load meets broken files with many kinds of error
            raise InputError(f"{path}: cannot be read as weights ({_first_line(error)}); use safetensors") from None
    for key in _NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path}: holds no state dict of tensors; save model.state_dict()")
    for prefix in _PREFIXES:
        if all(str(name).startswith(prefix) for name in state):
            state = {str(name)[len(prefix) :]: tensor for name, tensor in state.items()}
    return {str(name): tensor for name, tensor in state.items()}
