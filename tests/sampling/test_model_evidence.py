"""Network outputs under noise: right numbers, whatever the batches, the order and the processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from neurosym.certify.evidence import SampleEvidence, votes_from_samples
from neurosym.certify.noise import noise
from neurosym.certify.sampling import ModelEvidence, sample_votes
from neurosym.errors import InputError

Make = Callable[[int], TensorDataset]


def collect(evidence: ModelEvidence, rows: np.ndarray | None = None) -> np.ndarray:
    return np.concatenate([grid for _, grid in evidence.grids(rows)])


def test_samples_equal_a_plain_loop(tiny: nn.Module, data: Make) -> None:
    """Oracle: every draw by itself through the unfolded network, in float64 probabilities."""
    dataset = data(4)
    evidence = ModelEvidence(tiny, dataset, 0.5, 70, seed=3, batch=16, progress=False, device="cpu")
    assert isinstance(evidence, SampleEvidence)
    for rows, samples in evidence.chunks():
        assert samples.dtype == torch.float32
        assert samples.shape[1:] == (70, 5)
        for row, sample in zip(rows, samples, strict=True):
            draws = torch.from_numpy(noise(3, int(row), 0, 70, (3, 8, 8)))
            with torch.no_grad():
                logits = tiny(dataset[int(row)][0] + 0.5 * draws).double()
            expected = torch.cat([logits[:, :3].softmax(1), logits[:, 3:].sigmoid()], 1)
            assert (sample.double() - expected).abs().max() < 1 / 65536


def test_batches_order_and_subsets_do_not_matter(tiny: nn.Module, data: Make) -> None:
    dataset = data(9)
    reference = collect(ModelEvidence(tiny, dataset, 0.3, 100, 1, progress=False, device="cpu"))
    for batch in (1, 7, 64, 1000):
        grid = collect(ModelEvidence(tiny, dataset, 0.3, 100, 1, batch=batch, progress=False, device="cpu"))
        # the noise is the same; another batch size may round the network's sums differently
        assert np.abs(grid.astype(int) - reference.astype(int)).max() <= 1
    backward = ModelEvidence(tiny, dataset, 0.3, 100, 1, indices=np.arange(9)[::-1], progress=False, device="cpu")
    assert np.array_equal(collect(backward)[::-1], reference)
    assert backward.labels is not None
    assert backward.labels.tolist() == [2, 1, 0] * 3
    whole = ModelEvidence(tiny, dataset, 0.3, 100, 1, progress=False, device="cpu")
    assert np.array_equal(collect(whole, np.array([5, 2])), reference[[5, 2]])
    part = whole.take(np.array([7, 1]))
    assert np.array_equal(collect(part), reference[[7, 1]])
    assert part.labels is not None
    assert part.labels.tolist() == [1, 1]


def test_draws_are_a_prefix(tiny: nn.Module, data: Make) -> None:
    few, many = (collect(ModelEvidence(tiny, data(2), 0.3, m, 1, batch=10, progress=False)) for m in (30, 90))
    assert np.array_equal(few, many[:, :30])


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_do_not_matter(tiny: nn.Module, data: Make, method: str) -> None:
    if method == "spawn":  # a module that the new process can import
        torch.manual_seed(0)
        tiny = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    shared: dict[str, Any] = {"progress": False, "device": "cpu", "predicates": tuple("abcde"), "num_classes": 3}
    one = ModelEvidence(tiny, data(10), 0.3, 40, 1, **shared)
    two = ModelEvidence(tiny, data(10), 0.3, 40, 1, workers=2, start_method=method, **shared)
    assert np.array_equal(collect(two), collect(one))
    assert np.array_equal(sample_votes(two).votes, votes_from_samples(one).votes)


def test_error_in_a_worker_reaches_the_user(tiny: nn.Module) -> None:
    images = torch.rand(12, 3, 8, 8)
    images[7] += 3
    evidence = ModelEvidence(tiny, TensorDataset(images), 0.1, 8, 0, workers=2, progress=False, device="cpu")
    with pytest.raises(InputError, match=r"dataset row 7: pixels lie in \[3"):
        collect(evidence)


class HalfSpace(nn.Module):
    """Class 1 where ``w . x > b``; concept 0 where ``w . x > c``."""

    num_classes, num_concepts, predicates = 2, 1, ("below", "above", "far")

    def __init__(self, w: Tensor, b: float, c: float) -> None:
        super().__init__()
        self.register_buffer("w", w)
        self.b, self.c = b, c

    def forward(self, x: Tensor) -> Tensor:
        value = x.flatten(1) @ self.w
        return torch.stack([-(value - self.b), value - self.b, value - self.c], 1)


def test_votes_of_a_half_space_have_the_closed_form() -> None:
    """Cohen et al. 2019, appendix: the share of noisy copies above is Phi((w.x - b) / (sigma |w|))."""
    torch.manual_seed(5)
    w, sigma, trials = torch.randn(48), 0.7, 2000
    images = torch.rand(6, 3, 4, 4)
    values = (images.flatten(1) @ w).double().numpy()
    net = HalfSpace(w, float(values.mean()), float(values.mean()) + 2)
    votes = sample_votes(ModelEvidence(net, TensorDataset(images), sigma, trials, 9, progress=False)).votes
    scale = sigma * float(w.double().norm())
    for column, offset in ((1, net.b), (2, net.c)):
        chance = stats.norm.cdf((values - offset) / scale)
        error = votes[:, column] - trials * chance
        assert np.all(np.abs(error) < 5 * np.sqrt(trials * chance * (1 - chance)) + 1)
    assert np.array_equal(votes[:, 0] + votes[:, 1], np.full(6, trials))


def test_streams_separate_datasets(tiny: nn.Module, data: Make) -> None:
    first, second = (collect(ModelEvidence(tiny, data(2), 1, 16, 1, stream=s, progress=False)) for s in (0, 1))
    assert not np.array_equal(first, second)


def test_model_and_training_mode_are_left_alone(tiny: nn.Module, data: Make) -> None:
    tiny.train()
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    threads = torch.get_num_threads()
    collect(ModelEvidence(tiny, data(2), 0.2, 5, 1, progress=False))
    assert tiny.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())


def test_binary_classes_images_without_labels_and_loaders(tiny: nn.Module, data: Make) -> None:
    images = data(3).tensors[0]
    loader = DataLoader(images, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    evidence = ModelEvidence(tiny, loader, 0, 1, 1, class_kind="binary", progress=False, device="cpu")
    assert evidence.labels is None
    assert evidence.n == 3
    with torch.no_grad():
        expected = tiny(images).sigmoid().numpy()
    assert np.abs(next(evidence.chunks())[1].numpy()[:, 0] - expected).max() < 1 / 65536


def test_models_that_need_contiguous_images(data: Make) -> None:
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"classes": self.head(x.view(len(x), -1))}

    evidence = ModelEvidence(
        Viewing(), data(2), 0.1, 4, 0, predicates="ab", num_classes=2, progress=False, labels=[0, 1]
    )
    assert collect(evidence).shape == (2, 4, 2)
    assert evidence.settings()["memory_format"] == "torch.contiguous_format"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": -1}, "sigma"),
        ({"sigma": "nan"}, "sigma"),
        ({"trials": 0}, "trials"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"batch": 0}, "batch"),
        ({"workers": 0}, "workers"),
        ({"class_kind": "odd"}, "class_kind"),
        ({"num_classes": 6}, "num_classes"),
        ({"indices": [0, 4]}, "indices"),
        ({"indices": [-1]}, "indices"),
        ({"indices": [0.5]}, "indices"),
        ({"indices": []}, "no rows"),
        ({"labels": [0]}, "labels"),
        ({"labels": [0, 1, 2, 3]}, "label 3 is not one of the 3 classes"),
        ({"device": "quantum"}, "device"),
        ({"predicates": ("a", "b", "c")}, "5 outputs but there are 3 predicates"),
    ],
)
def test_bad_settings(tiny: nn.Module, data: Make, change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"sigma": 0.1, "trials": 4, "seed": 0, "progress": False, "device": "cpu", **change}
    with pytest.raises(InputError, match=message) as caught:
        collect(ModelEvidence(tiny, data(4), **options))
    assert "\n" not in str(caught.value)


class _Stream(IterableDataset[Tensor]):
    def __iter__(self) -> Any:
        return iter([])


class _Jittered(TensorDataset):
    def __getitem__(self, row: int) -> Any:
        image, label = super().__getitem__(row)
        return (image * torch.rand(()), label)


def test_bad_datasets_and_networks(tiny: nn.Module, data: Make) -> None:
    def run(dataset: Any, model: nn.Module = tiny) -> None:
        evidence = ModelEvidence(model, dataset, 0.1, 4, 0, progress=False, predicates="abcde", num_classes=3)
        evidence.settings()
        collect(evidence)

    with pytest.raises(InputError, match="map-style"):
        run(_Stream())
    with pytest.raises(InputError, match="ToTensor"):
        run(TensorDataset(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)))
    with pytest.raises(InputError, match="normalisation"):
        run(TensorDataset(torch.rand(2, 3, 8, 8) - 0.5))
    with pytest.raises(InputError, match="row 1: label 7"):
        run(TensorDataset(torch.rand(2, 3, 8, 8), torch.tensor([0, 7])))
    with pytest.raises(InputError, match="random transforms"):
        run(_Jittered(*data(2).tensors))
    with pytest.raises(InputError, match="non-finite outputs, or different ones"):
        run(data(2), nn.Sequential(nn.Flatten(), nn.Linear(192, 5), _Noisy()))
    with pytest.raises(InputError, match="depends on the others in its batch"):
        run(data(2), nn.Sequential(nn.Flatten(), nn.Linear(192, 5), _Mixing()))
    with pytest.raises(InputError, match="the network fails on a batch"):
        run(data(2), nn.Sequential(nn.Flatten(), nn.Linear(10, 5)))
    with pytest.raises(InputError, match="does not name its outputs"):
        ModelEvidence(nn.Flatten(), data(2), 0.1, 4, 0)


class _Mixing(nn.Module):
    """A batch norm that stays in training mode: images of a batch influence one another."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.batch_norm(x, None, None, training=True)


class _Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_agrees_with_the_cpu(tiny: nn.Module, data: Make) -> None:
    cpu, gpu = (collect(ModelEvidence(tiny, data(4), 0.3, 100, 1, device=d, progress=False)) for d in ("cpu", "cuda"))
    assert np.abs(cpu.astype(int) - gpu.astype(int)).max() <= 3
    again = collect(ModelEvidence(tiny, data(4), 0.3, 100, 1, device="cuda", progress=False))
    assert np.array_equal(gpu, again)
