"""Checkpoint folders: what is written is what is read, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from neurosym.errors import InputError
from neurosym.models.checkpoint import CARD, WEIGHTS, load_card, load_checkpoint, save_checkpoint, weights_digest
from neurosym.models.concept_net import ConceptNet


def network(seed: int = 0, width: int = 4) -> ConceptNet:
    torch.manual_seed(seed)
    net = ConceptNet(("a", "b", "c"), ("p", "q"), image_size=12, width=width)
    for buffer in net.buffers():
        if buffer.dtype.is_floating_point and buffer.dim():
            buffer.uniform_(0.5, 1.5)
    return net.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "net", network(), {"seed": 7, "metrics": {"val_clean": 0.5}})
    return tmp_path / "net"


def test_round_trip(folder: Path) -> None:
    net = network()
    found = load_checkpoint(folder)
    assert not found.training
    assert (found.classes, found.concepts, found.settings) == (net.classes, net.concepts, net.settings)
    images = torch.rand(3, 3, 12, 12)
    assert torch.equal(found(images), net(images))
    card = load_card(folder)
    assert (card["seed"], card["metrics"]) == (7, {"val_clean": 0.5})
    assert sorted(path.name for path in folder.iterdir()) == sorted([CARD, WEIGHTS])


def test_digest_against_its_definition() -> None:
    net = network()
    state = hashlib.sha256()
    for name in sorted(net.state_dict()):
        array = net.state_dict()[name].numpy()
        kind = {"float32": "torch.float32", "int64": "torch.int64"}[str(array.dtype)]
        state.update(f"{name}:{kind}:{array.shape};".encode() + np.ascontiguousarray(array).tobytes())
    assert weights_digest(net) == state.hexdigest()
    moved: Any = network().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert weights_digest(moved) == state.hexdigest()
    assert weights_digest(network(seed=1)) != state.hexdigest()
    assert weights_digest(network().bfloat16()) != state.hexdigest()
    with torch.no_grad():
        next(net.parameters()).view(-1)[0] += 1e-6
    assert weights_digest(net) != state.hexdigest()
    buffered = network()
    next(b for b in buffered.buffers() if b.dtype == torch.int64).add_(1)
    assert weights_digest(buffered) != state.hexdigest()


def test_saving_again_replaces(folder: Path) -> None:
    save_checkpoint(folder, network(seed=1, width=8), {"weights_sha256": "mine", "format": 9})
    assert weights_digest(load_checkpoint(folder)) == weights_digest(network(seed=1, width=8))


def test_a_card_that_is_no_json_changes_nothing(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_checkpoint(folder, network(seed=1), {"seed": object()})
    assert weights_digest(load_checkpoint(folder)) == weights_digest(network())
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "new", network(), {"seed": object()})
    assert not (tmp_path / "new").exists()


def tampered(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(str(folder / WEIGHTS))
    change(state)
    save_file(state, str(folder / WEIGHTS))


KEY = "class_head.layers.7.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state[KEY].view(-1)[0].add_(1e-3), "weights differ from the hash in card.json"),
        (lambda state: state.pop(KEY), f"do not fit the card.*{KEY}"),
        (lambda state: state.update(more=torch.zeros(1)), "do not fit the card.*more"),
        (lambda state: state.update({KEY: torch.zeros(2, 2)}), f"do not fit the card.*{KEY}"),
    ],
)
def test_tampered_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str) -> None:
    tampered(folder, change)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder / WEIGHTS) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda card: card.pop("network"), "field network is missing"),
        (lambda card: card.pop("weights_sha256"), "field weights_sha256 is missing"),
        (lambda card: card.update(format=2), "format 2 is not 1"),
        (lambda card: card.update(weights_sha256="0" * 64), "weights differ from the hash"),
        (lambda card: card.update(concepts=["p"]), "the weights do not fit the card"),
        (lambda card: card["network"].update(width=8), "the weights do not fit the card"),
        (lambda card: card["network"].update(image_size=40), "the weights do not fit the card"),
        (lambda card: card["network"].update(depth=3), "field network makes no ConceptNet.*depth"),
        (lambda card: card["network"].update(width="wide"), "field network makes no ConceptNet"),
        (lambda card: card["network"].update(width=-1), "field network makes no ConceptNet"),
        (lambda card: card["network"].update(trunk="torchvision:none"), "field network.*no classification model"),
        (lambda card: card.update(network=[1]), "field network makes no ConceptNet"),
        (lambda card: card.update(classes=["a"]), "at least 2 are needed"),
        (lambda card: card.update(classes="abc"), "field classes is not a list of names"),
        (lambda card: card.update(concepts=[1, 2]), "field concepts is not a list of names"),
    ],
)
def test_tampered_cards(folder: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    card = json.loads((folder / CARD).read_text())
    change(card)
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe"])
def test_cards_that_are_no_json(folder: Path, content: bytes) -> None:
    (folder / CARD).write_bytes(content)
    with pytest.raises(InputError, match=CARD) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


class Trap:
    """Unpickling this leaves a file behind."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.place,))


def test_pickles_and_scraps_are_refused(folder: Path, tmp_path: Path) -> None:
    sprung, weights = tmp_path / "sprung", folder / WEIGHTS
    whole = weights.read_bytes()
    torch.save(Trap(sprung), tmp_path / "weights.pt")
    for content in (pickle.dumps(Trap(sprung)), (tmp_path / "weights.pt").read_bytes(), whole[:-9], whole[:20], b""):
        weights.write_bytes(content)
        with pytest.raises(InputError, match="do not fit the card") as caught:
            load_checkpoint(folder)
        assert "\n" not in str(caught.value)
    assert not sprung.exists()
    weights.unlink()
    with pytest.raises(InputError, match=rf"{WEIGHTS}: no such file"):
        load_checkpoint(folder)
    (folder / CARD).unlink()
    with pytest.raises(InputError, match=rf"{CARD}: no such file"):
        load_checkpoint(folder)
    with pytest.raises(InputError, match="no such file"):
        load_checkpoint(tmp_path / "gone")
