"""Exported programs: a round trip, what the certified sampler sees, and archives that are refused unloaded."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from neurosym.certify.sampling import ModelEvidence
from neurosym.errors import InputError
from neurosym.models.exported import load_exported
from neurosym.models.loading import load_model

NAMES = ("a", "b", "c")


def _net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).eval()


def _export(path: Path, batch: Any, size: int = 2) -> Path:
    shapes = None if batch is None else ({0: batch},)
    torch.export.save(torch.export.export(_net(), (torch.rand(size, 3, 6, 6),), dynamic_shapes=shapes), path)
    return path


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(tmp_path_factory.mktemp("export") / "net.pt2", torch.export.Dim("batch"))


def test_round_trip(program: Path) -> None:
    model: Any = load_model(program, predicates=NAMES, num_classes=2, mean=0.5, std=0.5)
    assert model.num_concepts == 1
    assert not model.training
    for batch in (1, 2, 9):
        images = torch.rand(batch, 3, 6, 6)
        assert torch.allclose(model(images), _net()((images - 0.5) / 0.5), atol=1e-6)
    assert model.train() is model
    with pytest.raises(InputError, match=r"exported for images \[3, 6, 6\], not \[3, 5, 6\]"):
        model(torch.rand(1, 3, 5, 6))
    with pytest.raises(InputError, match="does not name its outputs"):
        load_model(program)


def test_sampling_an_exported_program(program: Path) -> None:
    data = TensorDataset(torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    options: dict[str, Any] = {"progress": False, "device": "cpu", "predicates": NAMES, "num_classes": 2}
    model = load_model(program, predicates=NAMES, num_classes=2)
    one, two, own = (
        np.concatenate([grid for _, grid in ModelEvidence(net, data, 0.2, 20, 0, workers=w, **options).grids()])
        for net, w in ((model, 1), (model, 2), (_net(), 1))
    )
    assert np.array_equal(one, two)
    assert np.abs(one.astype(int) - own.astype(int)).max() <= 1


def test_fixed_and_bounded_batches(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exported for batches of 2 only"):
        load_exported(_export(tmp_path / "fixed.pt2", None))
    few = load_exported(_export(tmp_path / "few.pt2", torch.export.Dim("batch", min=3, max=8), 4))
    assert few(torch.rand(8, 3, 6, 6)).shape == (8, 3)
    for size in (2, 9):
        with pytest.raises(InputError, match="batches of 3 to 8"):
            few(torch.rand(size, 3, 6, 6))
    assert load_exported(_export(tmp_path / "auto.pt2", torch.export.Dim.AUTO))(torch.rand(1, 3, 6, 6)).shape == (1, 3)


class Boom:
    ran = False

    def __reduce__(self) -> Any:
        return (_explode, ())


def _explode() -> torch.Tensor:
    Boom.ran = True
    return torch.zeros(3)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save(Boom(), buffer)
    return buffer.getvalue()


def _weights_pickled(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("model_weights_config.json"))
    config = json.loads(entries[name])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    entries[name] = json.dumps(config).encode()
    entries[name.replace("model_weights_config.json", entry["path_name"])] = _pickled()


def _constants_pickled(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("model_constants_config.json"))
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
    entries[name] = json.dumps({"config": {"c": entry}}).encode()
    entries[name.replace("model_constants_config.json", "opaque_obj_0")] = pickle.dumps(Boom())


def _inputs_pickled(entries: dict[str, bytes]) -> None:
    entries[next(name for name in entries if name.endswith("sample_inputs/model.pt"))] = _pickled()


def _legacy_weights(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("model_weights_config.json"))
    del entries[name]
    entries[name.replace("model_weights_config.json", "model.pt")] = _pickled()


def _legacy_beside_config(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("model_weights_config.json"))
    entries[name.replace("model_weights_config.json", "model.pt")] = _pickled()


def _native_code(entries: dict[str, bytes]) -> None:
    root = next(iter(entries)).split("/")[0]
    entries[f"{root}/data/aotinductor/model/code.so"] = b"\x7fELF"


def _shape_with_code(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("models/model.json"))
    text = entries[name].decode()
    assert "Symbol('" in text
    start = text.index("Symbol('")
    stop = text.index('"', start)
    entries[name] = (text[:start] + "__import__('os').getpid()" + text[stop:]).encode()


def _two_programs(entries: dict[str, bytes]) -> None:
    name = next(name for name in entries if name.endswith("models/model.json"))
    entries[name.replace("model.json", "other.json")] = entries[name]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_weights_pickled, "is pickled, which could run code"),
        (_constants_pickled, "opaque_obj_0, which is not part"),
        (_inputs_pickled, "sample_inputs are pickled objects"),
        (_legacy_weights, "weights are pickled objects"),
        (_legacy_beside_config, "weights are pickled objects"),
        (_native_code, "not part of one plain exported program"),
        (_shape_with_code, "not an arithmetic expression"),
        (_two_programs, "not part of one plain exported program"),
    ],
)
def test_archives_that_could_run_code(
    program: Path, tmp_path: Path, change: Callable[[dict[str, bytes]], None], message: str
) -> None:
    with zipfile.ZipFile(program) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    path = tmp_path / "changed.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(InputError, match=message) as caught:
        load_exported(path)
    assert "\n" not in str(caught.value)
    assert not Boom.ran


def test_files_that_are_no_program(tmp_path: Path, program: Path) -> None:
    (tmp_path / "text.pt2").write_text("hello")
    (tmp_path / "cut.pt2").write_bytes(program.read_bytes()[:2000])
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as archive:
        archive.writestr("version", "8.8")
        archive.writestr("serialized_state_dict.pt", _pickled())
    for name in ("text.pt2", "cut.pt2", "old.pt2"):
        with pytest.raises(InputError, match=name) as caught:
            load_exported(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not Boom.ran
