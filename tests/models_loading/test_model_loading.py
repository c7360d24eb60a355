"""Networks by name: each kind of spec works, and each way it can fail is one line with a mend."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from neurosym.errors import InputError
from neurosym.models.checkpoint import save_checkpoint
from neurosym.models.concept_net import ConceptNet
from neurosym.models.loading import PredicateNetwork, find_head, load_model, read_weights
from neurosym.models.outputs import PredicateModel

NAMES = ("stop", "yield", "red")
BACKBONE = "torchvision:squeezenet1_1"  # small, and its head is a convolution
IMAGES = torch.rand(2, 3, 33, 33, generator=torch.Generator().manual_seed(0))


def _backbone(outputs: int) -> nn.Module:
    from torchvision.models import squeezenet1_1

    torch.manual_seed(outputs)
    return squeezenet1_1(num_classes=outputs).eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    state = _backbone(3).state_dict()
    save_file(state, str(folder / "plain.safetensors"))
    torch.save(state, folder / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "parallel.pth")
    torch.save({f"_orig_mod.{k}": v for k, v in state.items()}, folder / "compiled.pt")
    torch.save(_backbone(3), folder / "whole.pt")
    torch.save({"epoch": 3}, folder / "empty.pt")
    (folder / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    (folder / "broken.pt").write_bytes(b"PK\x03\x04 not a zip")
    return folder


@pytest.mark.parametrize("name", ["plain.safetensors", "plain.pt", "parallel.pth", "compiled.pt"])
def test_backbone_with_weights(files: Path, name: str) -> None:
    model = load_model(BACKBONE, weights=files / name, num_classes=2, predicates=NAMES)
    assert isinstance(model, PredicateModel)
    assert (model.num_classes, model.num_concepts, model.predicates) == (2, 1, NAMES)
    assert not model.training
    with torch.no_grad():
        assert torch.equal(model(IMAGES), _backbone(3)(IMAGES))


def test_head_size_is_inferred(files: Path) -> None:
    model: Any = load_model(BACKBONE, weights=files / "plain.pt")
    assert model.predicates == ("class_0", "class_1", "class_2")
    model = load_model(BACKBONE, weights=files / "plain.pt", predicates=NAMES, num_classes=2)
    assert model.num_concepts == 1


def test_normalisation_comes_after_the_noise(files: Path) -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    model = load_model(BACKBONE, weights=files / "plain.pt", mean=mean, std=std)
    shift, scale = torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]
    with torch.no_grad():
        assert torch.equal(model(IMAGES), _backbone(3)((IMAGES - shift) / scale))


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        (BACKBONE, {}, "needs weights"),
        (BACKBONE, {"weights": "gone.pt"}, "no such weights file"),
        (BACKBONE, {"weights": "whole.pt"}, r"whole.pt: a pickle of more than tensors.*safetensors"),
        (BACKBONE, {"weights": "empty.pt"}, "no state dict"),
        (BACKBONE, {"weights": "broken.pt"}, "broken.pt: cannot be read as weights"),
        (BACKBONE, {"weights": "broken.safetensors"}, "not a safetensors file"),
        (BACKBONE, {"weights": "plain.pt", "num_classes": 4}, r"3 outputs but 4 predicates"),
        (BACKBONE, {"weights": "plain.pt", "predicates": ("a", "b"), "num_classes": 1}, "3 outputs but 2 predicates"),
        (BACKBONE, {"weights": "plain.pt", "predicates": NAMES}, "which of its 3 outputs are classes"),
        (BACKBONE, {"weights": "plain.pt", "std": (0, 1, 1)}, "std"),
        (BACKBONE, {"weights": "plain.pt", "mean": float("nan")}, "mean"),
        (BACKBONE, {"weights": "plain.pt", "width": 3}, "factory"),
        ("torchvision:resnet18", {"weights": "plain.pt"}, "has no fc.weight, so it is not a torchvision:resnet18"),
        ("torchvision:squeezenet1_0", {"weights": "plain.pt"}, r"does not fit SqueezeNet"),
        ("torchvision:nonesuch", {"weights": "plain.pt"}, "no classifier 'nonesuch'"),
        ("nowhere", {}, "no such checkpoint folder"),
        ("plain.pt", {}, "weights alone are not a model"),
        ("gone.pt2", {}, "no such exported program"),
    ],
)
def test_failures_are_one_line(
    files: Path, monkeypatch: pytest.MonkeyPatch, spec: str, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(InputError, match=message) as caught:
        load_model(spec, **options)
    assert "\n" not in str(caught.value)


class Boom:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> Any:
        return (_explode, ())


def _explode() -> None:
    Boom.ran = True


def test_pickles_never_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(2)}, "extra": Boom()}, tmp_path / "bad.pt")
    torch.save(Boom(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("bad.pt", "old.pt"):
        with pytest.raises(InputError, match=f"{name}: a pickle of more than tensors"):
            read_weights(tmp_path / name)
    assert not Boom.ran


def test_timm(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match="pip install timm"):
        load_model("timm:tiny", untrained=True)
    stand_in: Any = types.ModuleType("timm")
    stand_in.is_model = lambda name: name == "tiny"
    stand_in.create_model = lambda name, pretrained, num_classes=1000: nn.Sequential(
        nn.Flatten(), nn.Linear(3, num_classes)
    )
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    with pytest.raises(InputError, match="no model 'other'"):
        load_model("timm:other", untrained=True)
    save_file({"1.weight": torch.ones(2, 3), "1.bias": torch.zeros(2)}, str(files / "tiny.safetensors"))
    model = load_model("timm:tiny", weights=files / "tiny.safetensors")
    assert model(torch.ones(1, 3, 1, 1)).tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("error", [RuntimeError("operator torchvision::nms does not exist"), ImportError("gone")])
def test_mismatched_torchvision(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    import builtins

    real = builtins.__import__

    def broken(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "torchvision":
            raise error
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(InputError, match="torchvision") as caught:
        load_model(BACKBONE, untrained=True)
    assert "install" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_checkpoint_folder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ConceptNet(("stop", "yield"), ("red",), image_size=8, width=2).eval()
    save_checkpoint(tmp_path / "net", net, {})
    images = torch.rand(2, 3, 8, 8)
    model: Any = load_model(tmp_path / "net")
    assert isinstance(model, ConceptNet)
    assert torch.equal(model(images), net(images))
    wrapped: Any = load_model(tmp_path / "net", mean=0.5, std=0.25, predicates=NAMES)
    assert isinstance(wrapped, PredicateNetwork)
    assert torch.allclose(wrapped(images), net((images - 0.5) / 0.25))
    with pytest.raises(InputError, match="no output 'blue'"):
        load_model(tmp_path / "net", predicates=("stop", "yield", "blue"))
    with pytest.raises(InputError, match="'stop' stands where the rules have 'yield'"):
        load_model(tmp_path / "net", predicates=("yield", "stop"), num_classes=2)
    with pytest.raises(InputError, match="has 2 classes and not 3"):
        load_model(tmp_path / "net", num_classes=3)
    fewer: Any = load_model(tmp_path / "net", predicates=("stop", "yield"), num_classes=2)
    assert fewer.predicates == NAMES
    with pytest.raises(InputError, match="has its own weights"):
        load_model(tmp_path / "net", weights="more.pt")
    with pytest.raises(InputError, match=r"card.json"):
        load_model(tmp_path)


FACTORY = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(width, 2), nn.Linear(width, 1)
    def forward(self, x):
        x = x.flatten(1)
        return self.a(x), self.b(x)

def make(width=12):
    torch.manual_seed(0)
    return Two(width)

def fails():
    raise ValueError("two\\nlines")

def number():
    return 3
"""


def test_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_nets_a.py").write_text(FACTORY)
    (tmp_path / "my_nets_b.py").write_text("import package_that_is_missing")
    (tmp_path / "my_nets_c.py").write_text("1 +")
    before = list(sys.path)
    model: Any = load_model("my_nets_a:make", predicates=NAMES, num_classes=2)
    assert model(torch.rand(4, 3, 2, 2)).shape == (4, 3)
    assert load_model("my_nets_a:make", predicates=NAMES, num_classes=2, width=3)(torch.rand(4, 3, 1, 1)).shape == (
        4,
        3,
    )
    state = {name: torch.full_like(tensor, 2.0) for name, tensor in model.network.state_dict().items()}
    save_file(state, "twos.safetensors")
    filled = load_model("my_nets_a:make", weights="twos.safetensors", predicates=NAMES, num_classes=2)
    assert filled(torch.ones(1, 3, 2, 2)).tolist() == [[26.0, 26.0, 26.0]]
    for spec, message in (
        ("my_nets_gone:make", "no module 'my_nets_gone'"),
        ("my_nets_a:gone", "no function 'gone'"),
        ("my_nets_a:fails", "the factory failed: ValueError: two$"),
        ("my_nets_a:number", "gave a int"),
        ("my_nets_b:make", "package_that_is_missing"),
        ("my_nets_c:make", "SyntaxError"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            load_model(spec, predicates=NAMES, num_classes=2)
        assert "\n" not in str(caught.value)
    assert sys.path == before
    with pytest.raises(InputError, match="3 outputs but there are 2 predicates"):
        load_model("my_nets_a:make", predicates=("a", "b"), num_classes=2)(torch.rand(1, 3, 2, 2))


def test_heads_of_torchvision() -> None:
    models = pytest.importorskip("torchvision.models")
    expected = {
        "resnet18": "fc", "vgg11": "classifier.6", "mobilenet_v2": "classifier.1", "densenet121": "classifier",
        "squeezenet1_1": "classifier.1", "efficientnet_b0": "classifier.1", "vit_b_16": "heads.head",
        "convnext_tiny": "classifier.2", "googlenet": "fc", "inception_v3": "fc", "swin_t": "head",
    }  # fmt: skip
    with torch.device("meta"):
        for name, head in expected.items():
            extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
            assert find_head(models.get_model(name, weights=None, **extra)) == head


def test_no_head() -> None:
    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)

    assert find_head(Bare()) is None
    assert np.isfinite(PredicateNetwork(Bare(), 1, ("a", "b", "c"))(torch.rand(1, 3, 1, 1)).numpy()).all()
