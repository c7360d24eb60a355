"""What a network says: logits of the predicates, their probabilities, and the form in which it is run.

A network for ``K`` classes and ``L`` concepts (``V = K + L`` predicates) maps images ``[B, 3, H, W]`` to
logits ``[B, V]``, class logits first. :func:`as_logits` brings other common outputs to this form.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from neurosym.errors import InputError

CLASS_KINDS = ("binary", "categorical")
# Folding a batch norm into a convolution only reorders float32 roundings; a larger change of the logits means
# that the module is not used the way the graph says.
_FOLD_TOLERANCE = 1e-3
_REPEAT_TOLERANCE = 1e-4


@runtime_checkable
class PredicateModel(Protocol):
    """A network that knows its predicates: ``forward`` maps ``[B, 3, H, W]`` to logits ``[B, K + L]``."""

    num_classes: int
    num_concepts: int
    predicates: tuple[str, ...]

    def forward(self, x: Tensor) -> Any: ...


def as_logits(output: Any) -> Tensor:
    """Logits ``[B, V]`` of a network's output, class logits first.

    Accepts a tensor ``[B, V]``, a pair ``(class_logits, concept_logits)``, a mapping with ``"classes"`` and
    optionally ``"concepts"``, or an object with a tensor attribute ``logits``.

    Raises:
        InputError: any other output.
    """
    if isinstance(output, Tensor):
        if output.ndim != 2:
            raise InputError(f"network output has shape {tuple(output.shape)}; give logits [batch, predicates]")
        return output
    if isinstance(output, Mapping) and isinstance(output.get("classes"), Tensor):
        blocks = [output["classes"], output.get("concepts")]
    elif isinstance(output, tuple | list) and 1 <= len(output) <= 2:
        blocks = list(output)
    elif isinstance(getattr(output, "logits", None), Tensor):
        return as_logits(output.logits)
    else:
        raise InputError(
            f"network output of type {type(output).__name__} is not understood; return logits "
            '[batch, predicates], a pair (class_logits, concept_logits) or {"classes": ..., "concepts": ...}'
        )
    tensors = [block for block in blocks if block is not None]
    if not all(isinstance(block, Tensor) and block.ndim == 2 for block in tensors):
        raise InputError("network output: class and concept logits must be tensors [batch, count]")
    return torch.cat(tensors, dim=1)


def predicate_probabilities(logits: Tensor, num_classes: int, class_kind: str = "categorical") -> Tensor:
    """Probabilities ``[..., V]`` of the predicates, differentiable.

    The first ``num_classes`` columns go through a softmax (``categorical``) or each through a sigmoid
    (``binary``), the concept columns through a sigmoid.

    Raises:
        InputError: unknown ``class_kind`` or fewer columns than classes.
    """
    if class_kind not in CLASS_KINDS:
        raise InputError(f"class_kind: {class_kind!r} is unknown; use one of {', '.join(CLASS_KINDS)}")
    if not 1 <= num_classes <= logits.shape[-1]:
        raise InputError(f"num_classes: {num_classes} classes but the network has {logits.shape[-1]} outputs")
    if class_kind == "binary":
        return torch.sigmoid(logits)
    classes = torch.softmax(logits[..., :num_classes], dim=-1)
    return torch.cat([classes, torch.sigmoid(logits[..., num_classes:])], dim=-1)


def _foldable_pairs(model: nn.Module) -> list[tuple[str, str]]:
    """Names ``(conv, batch norm)`` of modules that are each called once, one right after the other."""
    try:
        graph = torch.fx.symbolic_trace(model).graph
    except Exception:  # tracing runs the user's forward: whatever it raises only means "do not fold"
        return []
    modules = dict(model.named_modules(remove_duplicate=False))
    calls = Counter(id(modules[str(node.target)]) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rsplit(".", 1)[0] for node in graph.nodes if node.op == "get_attr"}
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.args) != 1 or not isinstance(node.args[0], torch.fx.Node):
            continue
        before = node.args[0]
        if before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        if (
            type(conv) in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
            and type(norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
            and norm.track_running_stats
            and calls[id(conv)] == calls[id(norm)] == 1
            and not {str(before.target), str(node.target)} & read
            and not conv._forward_hooks
            and not norm._forward_hooks
            and not hasattr(conv, "parametrizations")
        ):
            pairs.append((str(before.target), str(node.target)))
    return pairs


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Copy of a network in evaluation mode with each batch norm folded into the convolution before it.

    The forward code stays the user's own: only the sub-modules are exchanged (batch norms become identities),
    and only those that the traced graph shows to be used once, in sequence. A network that cannot be traced
    comes back unfolded. Outputs agree up to float32 rounding.
    """
    folded = _evaluation(copy.deepcopy(model))
    for conv_name, norm_name in _foldable_pairs(folded):
        conv, norm = folded.get_submodule(conv_name), folded.get_submodule(norm_name)
        fused = torch.nn.utils.fusion.fuse_conv_bn_eval(cast(Any, conv), cast(Any, norm))
        folded.set_submodule(conv_name, fused)
        folded.set_submodule(norm_name, nn.Identity())
    return folded


def _evaluation(model: nn.Module) -> nn.Module:
    """The network in evaluation mode; modules of ``torch.export`` are fixed already and refuse the call."""
    try:
        return model.eval()
    except NotImplementedError:
        return model


def _same(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return first.shape == second.shape and bool(((first - second).abs() <= tolerance * (1 + first.abs())).all().item())


@torch.no_grad()
def inference_network(
    model: nn.Module, probe: Tensor, device: torch.device, fold: bool = True
) -> tuple[nn.Module, torch.memory_format, bool]:
    """The network as it is run under noise: a copy in evaluation mode, folded, in the faster memory layout.

    Args:
        model: the user's network; left as it is, unless it cannot be copied (then put in evaluation mode).
        probe: float32 ``[B, C, H, W]``: a batch of different images on which the variants must agree.
        device: where the copy lives.
        fold: fold batch norms into convolutions.

    Returns:
        The network, the memory format of its inputs and whether batch norms were folded. ``channels_last``
        and folding are dropped when the network does not run that way or its outputs move by more than rounding.

    Raises:
        InputError: the network fails on the probe, answers the same input differently twice, or lets the images of
            a batch influence one another.
    """
    try:
        network = _evaluation(copy.deepcopy(model)).to(device)
    except (RuntimeError, TypeError, AttributeError):
        network = _evaluation(model).to(device)
        fold = False
    probe = probe.to(device)
    try:
        expected = as_logits(network(probe))
    except InputError:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"the network fails on a batch {tuple(probe.shape)}: {type(error).__name__}: {first_line}"
        ) from error
    if not _same(expected, as_logits(network(probe)), _REPEAT_TOLERANCE):
        raise InputError("the network gives non-finite outputs, or different ones for the same input; mend its forward")
    others = torch.cat([probe[:1], torch.zeros_like(probe[1:])])
    if not _same(expected[:1], as_logits(network(others))[:1], _FOLD_TOLERANCE):
        raise InputError(
            "the network's output for one image depends on the others in its batch; put it in evaluation mode "
            "before it is exported or returned"
        )
    if fold:
        candidate = fold_batchnorm(network)
        fold = _same(expected, as_logits(candidate(probe)), _FOLD_TOLERANCE)
        network = candidate if fold else network
    layout = torch.channels_last if probe.ndim == 4 else torch.contiguous_format
    if layout == torch.channels_last:
        try:
            candidate = copy.deepcopy(network).to(memory_format=torch.channels_last)
            output = as_logits(candidate(probe.contiguous(memory_format=torch.channels_last)))
        except (RuntimeError, TypeError, AttributeError):  # x.view(len(x), -1) asks for contiguous images
            return network, torch.contiguous_format, fold
        if not _same(expected, output, _FOLD_TOLERANCE):
            return network, torch.contiguous_format, fold
        network = candidate
    return network, layout, fold
