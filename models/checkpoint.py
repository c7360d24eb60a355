"""Checkpoints that are never unpickled: ``model.safetensors`` beside ``card.json``."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from neurosym.errors import InputError
from neurosym.models.concept_net import ConceptNet

WEIGHTS, CARD, FORMAT = "model.safetensors", "card.json", 1


def weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 over the names, types, shapes and bytes of all parameters and buffers."""
    state = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        octets = array.reshape(-1).view(torch.uint8)  # numpy has no bfloat16
        state.update(f"{name}:{array.dtype}:{tuple(array.shape)};".encode())
        state.update(octets.numpy().tobytes())
    return state.hexdigest()


def save_checkpoint(folder: str | Path, model: ConceptNet, card: dict[str, Any]) -> None:
    """Write ``model.safetensors`` and ``card.json``; each file appears whole or not at all.

    ``card`` holds what a reader wants to know: data hash, metrics, seed, sigma, configuration. It cannot replace the
    fields that loading relies on.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    content = {
        **card,
        "format": FORMAT,
        "classes": list(model.classes),
        "concepts": list(model.concepts),
        "network": model.settings,
        "weights_sha256": weights_digest(model),
    }
    text = json.dumps(content, indent=1, sort_keys=True) + "\n"  # before any file changes: it may fail
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / (WEIGHTS + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, str(temporary))
    os.chmod(temporary, 0o644)  # safetensors makes private files; weights are meant to be shared
    os.replace(temporary, folder / WEIGHTS)
    temporary = folder / (CARD + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, folder / CARD)


def load_card(folder: str | Path) -> dict[str, Any]:
    """The JSON card of a checkpoint.

    Raises:
        InputError: missing or malformed card.
    """
    path = Path(folder) / CARD
    try:
        card = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a checkpoint is a folder with {WEIGHTS} and {CARD}") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path}: not a JSON card ({error}); fetch the checkpoint again") from None
    if not isinstance(card, dict):
        raise InputError(f"{path}: holds a {type(card).__name__} and no fields; fetch the checkpoint again")
    missing = [key for key in ("format", "classes", "concepts", "network", "weights_sha256") if key not in card]
    if missing:
        raise InputError(f"{path}: field {missing[0]} is missing; write checkpoints with neurosym train")
    if card["format"] != FORMAT:
        raise InputError(f"{path}: checkpoint format {card['format']} is not {FORMAT}; use a matching neurosym")
    for key in ("classes", "concepts"):
        if not isinstance(card[key], list) or not all(isinstance(name, str) for name in card[key]):
            raise InputError(f"{path}: field {key} is not a list of names; write checkpoints with neurosym train")
    return dict(card)


def _network(card: dict[str, Any], path: Path) -> ConceptNet:
    """The untrained network that a card describes.

    Raises:
        InputError: settings that make no network.
    """
    try:
        return ConceptNet(card["classes"], card["concepts"], **card["network"])
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:  # InputError is a ValueError
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: field network makes no ConceptNet ({first}); fetch the checkpoint again") from None


def load_checkpoint(folder: str | Path, *, device: str | torch.device = "cpu") -> ConceptNet:
    """The network of a checkpoint, in eval mode, its weights checked against the card's hash.

    Raises:
        InputError: missing files, weights that do not fit the card, a hash that does not match.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    card = load_card(folder)
    model = _network(card, folder / CARD)
    try:
        state = load_file(str(folder / WEIGHTS))
        model.load_state_dict(state)
    except FileNotFoundError:
        raise InputError(f"{folder / WEIGHTS}: no such file; a checkpoint is a folder with {WEIGHTS}, {CARD}") from None
    except (SafetensorError, RuntimeError, OSError) as error:
        # torch names the tensors at fault from its second line on
        reason = " ".join(line.strip() for line in str(error).strip().splitlines()[:2])
        raise InputError(f"{folder / WEIGHTS}: the weights do not fit the card ({reason[:200]})") from None
    if weights_digest(model) != card["weights_sha256"]:
        raise InputError(f"{folder / WEIGHTS}: weights differ from the hash in {CARD}; fetch the checkpoint again")
    return model.eval().to(device)
