"""The certification configuration: what is read, what is refused, and which paths it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from neurosym.certify.config import CertifyConfig, config_from_mapping, load_config
from neurosym.certify.sources import demo_config
from neurosym.errors import InputError

LEAST: dict[str, Any] = {"model": "net", "data": {"name": "demo"}}


def test_defaults_and_exact_numbers() -> None:
    """Numbers stay the decimal text that was meant, never 0.1000000000000000055."""
    config = config_from_mapping({**LEAST, "alpha": 0.1, "radius": "0.250", "sigma": "2.50e-1"}, "here")
    assert (config.alpha, config.radius, config.sigma) == ("0.1", "0.25", "0.25")
    assert (config.method, config.score, config.circuit, config.bound) == ("bincp", "lac", "auto", "exact")
    assert config_from_mapping({**LEAST, "alpha": 1e-3, "radius": 0}, "here").alpha == "0.001"
    with pytest.raises(ValidationError):
        config.alpha = "0.2"  # type: ignore[misc]


@pytest.mark.parametrize(("method", "draws"), [("vanilla", 1), ("rcp1", 1), ("bincp", 40), ("colep", 40)])
def test_draws(method: str, draws: int) -> None:
    assert config_from_mapping({**LEAST, "method": method, "trials": 40}, "here").draws == draws


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"alpha": 0}, "alpha"),
        ({"alpha": 1}, "alpha"),
        ({"alpha": "ten"}, "alpha"),
        ({"alpha": True}, "alpha"),
        ({"alpha": [0.1]}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"radius": -0.1}, "radius"),
        ({"radius": float("inf")}, "radius"),
        ({"sigma": 0}, "sigma"),
        ({"sigma": -1}, "sigma"),
        ({"trials": 0}, "trials"),
        ({"trials": 2.5}, "trials"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"workers": 0}, "workers"),
        ({"method": "smoothest"}, "method"),
        ({"circuit": "star"}, "circuit"),
        ({"score": "hps"}, "score"),
        ({"bound": "tight"}, "bound"),
        ({"device": "tpu"}, "device"),
        ({"class_kind": "softmax"}, "class_kind"),
        ({"mean": [float("nan")] * 3}, "mean.0"),
        ({"model": None}, "model"),
        ({"splitz": {}}, "splitz"),
        ({"splits": {"tune": 0.5, "calibrate": 0.5}}, "splits"),
        ({"splits": {"tune": -0.1}}, "splits.tune"),
        ({"splits": {"calibrate": 0}}, "splits.calibrate"),
        ({"attack": {"images": -1}}, "attack.images"),
        ({"attack": {"steps": 0}}, "attack.steps"),
        ({"data": {"name": "demo", "limit": 9}}, "data.limit"),
        ({"data": {"name": "demo", "split": "val"}}, "data.split"),
        ({"data": ["demo"]}, "data"),
        ({"data": {"npz": "a.npz"}}, "data.name"),
    ],
)
def test_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"^here: field {field}: ") as caught:
        config_from_mapping({**LEAST, **changed}, "here")
    assert "\n" not in str(caught.value)
    assert "Value error" not in str(caught.value)


def test_a_name_alone_is_data_too() -> None:
    """As in the configuration of ``neurosym train``."""
    assert config_from_mapping({**LEAST, "data": "demo"}, "here") == config_from_mapping(LEAST, "here")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trails": 3}, "field trails: is unknown; did you mean 'trials'?"),
        ({"foo": 3}, "field foo: is unknown; remove it"),
        ({"data": {}}, "field data.name: is missing; add it"),
        ({"data": 3}, "field data: holds 3 where fields of its own are expected"),
    ],
)
def test_messages_name_the_mend(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        config_from_mapping({**LEAST, **changed}, "here")
    assert str(caught.value).startswith(f"here: {message}")


@pytest.mark.parametrize(
    "content", ["", "3", "[a]", "model: [", "model: a\ndata: {name: 2026-13-45}", "a: !!python/name:os.x"]
)
def test_files_that_are_no_configuration(tmp_path: Path, content: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=r"c\.yaml") as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name in ("gone.yaml", "binary.yaml", "."):
        with pytest.raises(InputError):
            load_config(tmp_path / name)


def test_paths_are_those_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs"
    (folder / "net").mkdir(parents=True)
    (folder / "rules.yaml").write_text("")
    (folder / "images.npz").write_bytes(b"")
    path = folder / "c.yaml"
    monkeypatch.chdir(tmp_path)
    path.write_text("model: net\nrules: rules.yaml\ndata: {name: images.npz, root: data}\n")
    config = load_config(path)
    assert (config.model, config.rules) == (str(folder / "net"), str(folder / "rules.yaml"))
    assert (config.data.name, config.data.root) == (str(folder / "images.npz"), "data")
    path.write_text("model: torchvision:resnet18\nweights: w.safetensors\ndata: {name: gtsrb12}\n")
    config = load_config(path)
    assert (config.model, config.weights, config.data.name) == ("torchvision:resnet18", "w.safetensors", "gtsrb12")
    path.write_text(f"model: {folder / 'net'}\ndata: {{name: demo}}\n")
    assert load_config(path).model == str(folder / "net")


def test_the_demo_is_a_valid_configuration() -> None:
    config = demo_config()
    assert config_from_mapping(config.model_dump(), "demo") == config
    assert isinstance(config, CertifyConfig)
    assert Path(config.model, "model.safetensors").is_file()
    assert Path(str(config.rules)).is_file()
