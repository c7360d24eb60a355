"""Network outputs under Gaussian noise, the raw material of randomized smoothing (Cohen, Rosenfeld, Kolter 2019).

Noise comes from :mod:`neurosym.certify.noise`. Batches are formed within one image, never across, so that the
network sees the same batches whatever the sharding, the order or the number of processes.
"""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from neurosym.certify import exact
from neurosym.certify.noise import WORD, blocks, dequantise, noise, pick_device, quantise, reproducible, shard
from neurosym.certify.sample_store import cache_samples, sample_votes
from neurosym.errors import InputError
from neurosym.models.checkpoint import weights_digest
from neurosym.models.outputs import (
    CLASS_KINDS,
    PredicateModel,
    as_logits,
    inference_network,
    predicate_probabilities,
)

if TYPE_CHECKING:
    from neurosym.certify.evidence import ClassKind

__all__ = ["ModelEvidence", "cache_samples", "noise", "sample_votes", "shard"]

_CHUNK_BYTES = 1 << 26  # float32 samples handed out at once
_CHUNK_ROWS = 32


def _map_style(dataset: Any) -> Any:
    """The map-style dataset behind a dataset or DataLoader."""
    if isinstance(dataset, torch.utils.data.DataLoader):
        dataset = dataset.dataset
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise InputError(
            f"dataset: {type(dataset).__name__} has no length or index; use a map-style dataset (TensorDataset)"
        )
    return dataset


def _labelled(item: Any) -> bool:
    return isinstance(item, tuple | list) and len(item) >= 2


class ModelEvidence:
    """Network outputs under Gaussian noise, computed on demand (a ``SampleEvidence``).

    Args:
        model: network on images in ``[0, 1]``; any output that ``neurosym.models.outputs.as_logits`` accepts.
        dataset: map-style dataset, or a DataLoader of one (only its ``dataset`` is used), of ``image`` or
            ``(image, label)``; images float ``[C, H, W]`` in ``[0, 1]``, the same at every reading.
        sigma: standard deviation of the noise in pixel units; 0 for clean outputs.
        trials: draws for each image (M).
        seed: of the noise.
        indices: rows of ``dataset``; all by default. Noise belongs to the dataset row, not to the place here.
        predicates, num_classes: names of the outputs; by default the attributes of ``model``.
        labels: int ``[n]``; by default read from the dataset.
        class_kind: ``categorical`` (softmax) or ``binary`` (sigmoids).
        batch: draws in one forward pass.
        stream: give two datasets that share a seed (calibration and test) different streams, else row i of
            the one has the noise of row i of the other.
        workers: processes on the CPU, with one thread each; does not change the results.
        fold: fold batch norms into convolutions.
        check_range: refuse images outside ``[0, 1]`` (normalised ones, as a rule).

    Raises:
        InputError: for any unusable argument; while sampling, naming the dataset row at fault.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        sigma: exact.Number,
        trials: int,
        seed: int,
        *,
        indices: Sequence[int] | np.ndarray | None = None,
        predicates: Sequence[str] | None = None,
        num_classes: int | None = None,
        labels: Sequence[int] | np.ndarray | None = None,
        class_kind: ClassKind = "categorical",
        device: str | torch.device = "auto",
        batch: int = 128,
        progress: bool = True,
        stream: int = 0,
        workers: int = 1,
        start_method: str | None = None,
        fold: bool = True,
        check_range: bool = True,
    ) -> None:
        self.model, self.dataset = model, _map_style(dataset)
        self.sigma, self.trials, self.seed = float(exact.decimal(sigma, "sigma")), int(trials), int(seed)
        # A num_classes alone may count concepts too (torchvision's does).
        own = cast(PredicateModel, model) if isinstance(model, PredicateModel) else None
        names = own.predicates if predicates is None and own is not None else predicates
        classes = own.num_classes if num_classes is None and own is not None else num_classes
        if names is None or classes is None:
            raise InputError("the model does not name its outputs; pass predicates= and num_classes=")
        self.predicates, self.num_classes = tuple(str(name) for name in names), int(classes)
        self.class_kind: ClassKind = class_kind
        self.device = pick_device(device)
        self.batch, self.stream, self.workers = int(batch), int(stream), int(workers)
        self.progress, self.fold, self.check_range = progress, fold, check_range
        self.start_method = start_method
        size = len(self.dataset)
        rows = np.arange(size) if indices is None else np.asarray(indices)
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise InputError("indices: a one-dimensional list of integers is needed")
        self.indices = rows.astype(np.int64)
        self._given_labels: np.ndarray | None = None
        self._check(size)
        if labels is not None:
            given = np.asarray(labels)
            if given.shape != (self.n,) or given.dtype.kind not in "iu":
                raise InputError(f"labels: {self.n} integers are needed, one for each row")
            checked = [self._label(label, row) for row, label in enumerate(given)]
            self._given_labels = np.array(checked, dtype=np.int64)

    def _check(self, size: int) -> None:
        for name, value, least in (
            ("sigma", self.sigma, 0),
            ("trials", self.trials, 1),
            ("seed", self.seed, 0),
            ("stream", self.stream, 0),
            ("batch", self.batch, 1),
            ("workers", self.workers, 1),
        ):
            if not least <= value < float("inf"):
                raise InputError(f"{name}: {value} is out of range; use at least {least}")
        if max(self.seed, self.stream) >= WORD:
            raise InputError("seed: use an integer below 2^64")
        if self.class_kind not in CLASS_KINDS:
            raise InputError(f"class_kind: {self.class_kind!r} is unknown; use {' or '.join(CLASS_KINDS)}")
        if not 1 <= self.num_classes <= len(self.predicates):
            raise InputError(f"num_classes: {self.num_classes} classes but {len(self.predicates)} predicates")
        if self.n == 0:
            raise InputError("the dataset has no rows; check its folder or indices")
        if self.indices.min() < 0 or self.indices.max() >= size:
            raise InputError(f"indices: rows must lie in 0 .. {size - 1}, the dataset has {size}")
        if self.workers > 1 and self.device.type != "cpu":
            raise InputError("workers: several processes are for the CPU only; use workers=1 with CUDA")

    @property
    def n(self) -> int:
        return int(self.indices.size)

    @property
    def labels(self) -> np.ndarray | None:
        """int64 ``[n]``, or None when the dataset gives images only. Reads the dataset once."""
        return self._given_labels if self._given_labels is not None else self._scan[1]

    @cached_property
    def _scan(self) -> tuple[list[bytes], np.ndarray | None]:
        """SHA-256 of each image and the dataset's labels, in one pass."""
        digests, labels = [], []
        for row in range(self.n):
            item = self.dataset[int(self.indices[row])]
            digests.append(hashlib.sha256(self._checked(item, row).numpy().tobytes()).digest())
            if _labelled(item) and self._given_labels is None:
                labels.append(self._label(item[1], row))
        if labels and len(labels) != self.n:
            raise InputError("the dataset gives a label with some rows only; give all of them or none")
        return digests, np.array(labels, dtype=np.int64) if labels else None

    def _label(self, label: Any, row: int) -> int:
        where = f"dataset row {self.indices[row]}"
        try:
            value = int(label)
        except (TypeError, ValueError):
            raise InputError(f"{where}: label {label!r} is not an integer; use the class index") from None
        if not 0 <= value < self.num_classes:
            raise InputError(f"{where}: label {value} is not one of the {self.num_classes} classes")
        return value

    def _checked(self, item: Any, row: int) -> Tensor:
        where = f"dataset row {self.indices[row]}"
        image = item[0] if isinstance(item, tuple | list) and item else item
        if not isinstance(image, Tensor) or image.ndim != 3 or not image.dtype.is_floating_point:
            raise InputError(f"{where}: a float tensor [C, H, W] is needed; add the ToTensor transform")
        image = image.detach().to("cpu", torch.float32).contiguous()
        low, high = float(image.min()), float(image.max())
        if not np.isfinite(low + high) or (self.check_range and (low < -1e-6 or high > 1 + 1e-6)):
            raise InputError(
                f"{where}: pixels lie in [{low:g}, {high:g}], not in [0, 1]; noise is added before "
                "normalisation, so give mean and std to load_model and not to the dataset"
            )
        return image

    def image(self, row: int) -> Tensor:
        """float32 ``[C, H, W]`` of one row, checked."""
        image = self._checked(self.dataset[int(self.indices[row])], row)
        scan = self.__dict__.get("_scan")
        if scan is not None and hashlib.sha256(image.numpy().tobytes()).digest() != scan[0][row]:
            raise InputError(
                f"dataset row {self.indices[row]}: the image changed between two readings; remove random transforms"
            )
        return image

    def take(self, rows: np.ndarray) -> ModelEvidence:
        """The evidence of some rows, with the same noise."""
        part = copy.copy(self)
        part.indices = self.indices[rows]
        part._given_labels = None if self._given_labels is None else self._given_labels[rows]
        scan = self.__dict__.get("_scan")
        if scan is not None:
            digests = [scan[0][row] for row in np.arange(self.n)[rows]]
            part.__dict__["_scan"] = (digests, None if scan[1] is None else scan[1][rows])
        return part

    @cached_property
    def _network(self) -> tuple[nn.Module, torch.memory_format, bool]:
        probe = next(self._noisy_batches(0))[:4]
        with reproducible(self.device):
            network, layout, folded = inference_network(self.model, probe, self.device, self.fold)
            outputs = as_logits(network(probe.to(self.device))).shape[1]
        if outputs != len(self.predicates):
            raise InputError(
                f"the network has {outputs} outputs but there are {len(self.predicates)} predicates "
                f"({self.num_classes} classes and {len(self.predicates) - self.num_classes} concepts)"
            )
        return network, layout, folded

    def _noisy_batches(self, row: int) -> Iterator[Tensor]:
        """Noisy copies of one image, float32 ``[<= batch, C, H, W]`` on the CPU."""
        image = self.image(row)
        drawing = blocks(self.seed, int(self.indices[row]), self.stream, tuple(image.shape), self.trials)
        rest = np.empty((0, *image.shape), dtype=np.float32)
        left = self.trials
        while left:
            parts = [rest]
            while sum(map(len, parts)) < min(self.batch, left):
                parts.append(next(drawing))
            drawn = np.concatenate(parts) if len(parts) > 1 else rest
            take = min(self.batch, left)
            draws, rest, left = drawn[:take], drawn[take:], left - take
            yield torch.from_numpy(draws).mul(self.sigma).add_(image)

    @torch.inference_mode()
    def _sample(self, row: int) -> np.ndarray:
        """uint16 grid ``[M, V]`` of one row."""
        network, layout, _ = self._network
        result = np.empty((self.trials, len(self.predicates)), dtype=np.uint16)
        done = 0
        for images in self._noisy_batches(row):
            inputs = images.to(self.device, non_blocking=True).contiguous(memory_format=layout)
            logits = as_logits(network(inputs)).float()
            values = quantise(predicate_probabilities(logits, self.num_classes, self.class_kind))
            result[done : done + len(values)] = values
            done += len(values)
        return result

    def _sample_rows(self, rows: np.ndarray) -> np.ndarray:
        """uint16 grid ``[b, M, V]``."""
        with reproducible(self.device):
            return np.stack([self._sample(int(row)) for row in rows])

    def grids(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Like :meth:`chunks`, as grid indices uint16 ``[b, M, V]``."""
        chosen = np.arange(self.n) if rows is None else np.asarray(rows, dtype=np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < self.n):
            raise InputError(f"rows: must lie in 0 .. {self.n - 1}")
        size = max(1, min(_CHUNK_ROWS, _CHUNK_BYTES // (4 * self.trials * len(self.predicates))))
        if self.workers > 1:  # several pieces for each worker, so that none idles at the end
            size = min(size, max(1, len(chosen) // (4 * self.workers)))
        pieces = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        alone = self.workers == 1 or len(pieces) <= 1
        here = ((piece, self._sample_rows(piece)) for piece in pieces)
        results = here if alone else _in_processes(self, pieces)
        hidden = None if self.progress else True  # None: hidden unless stderr is a terminal
        with tqdm(total=len(chosen), desc="sampling", unit="image", disable=hidden) as bar:
            for piece, grid in results:
                yield piece, grid
                bar.update(len(piece))

    def chunks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows int64 ``[b]`` and samples float32 ``[b, M, V]`` on the grid ``(k + 1/2) / 65536``, in order."""
        for piece, grid in self.grids(rows):
            yield piece, dequantise(grid)

    def settings(self) -> dict[str, Any]:
        """Everything that the samples depend on, JSON-able; reads the dataset once."""
        network, layout, folded = self._network
        digests, labels = self._scan[0], self.labels
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "sigma": self.sigma.hex(),
            "trials": self.trials,
            "seed": self.seed,
            "stream": self.stream,
            "batch": self.batch,
            "predicates": list(self.predicates),
            "num_classes": self.num_classes,
            "class_kind": self.class_kind,
            "rows": hashlib.sha256(self.indices.tobytes()).hexdigest(),
            "images": hashlib.sha256(b"".join(digests)).hexdigest(),
            "labels": None if labels is None else hashlib.sha256(labels.tobytes()).hexdigest(),
            "weights": weights_digest(self.model),
            "network": hashlib.sha256(f"{type(self.model).__qualname__} {network!r}".encode()).hexdigest(),
            "folded": folded,
            "memory_format": str(layout),
            "device": device,
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        }

    def __getstate__(self) -> dict[str, Any]:
        """For spawned workers, which prepare the network anew (in the same way)."""
        return {name: value for name, value in self.__dict__.items() if name != "_network"}


_evidence: ModelEvidence | None = None  # of a worker process


def _start_worker(evidence: ModelEvidence, parent: int) -> None:
    """Set up a worker: one thread, interrupts left to the parent, and an end when the parent is gone."""
    global _evidence
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    _evidence = evidence

    def watch() -> None:
        # A killed parent cannot stop its workers, and they hold the pipe they wait on open for each other.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _work(rows: np.ndarray) -> np.ndarray:
    assert _evidence is not None
    return _evidence._sample_rows(rows)


def _in_processes(evidence: ModelEvidence, pieces: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sample pieces in worker processes, handing results out in order and looking only a little ahead."""
    evidence._network  # noqa: B018  errors of the network surface here, and forked workers share its memory
    forks = "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_initialized()
    context = multiprocessing.get_context(evidence.start_method or ("fork" if forks else "spawn"))
    pool = ProcessPoolExecutor(
        evidence.workers, mp_context=context, initializer=_start_worker, initargs=(evidence, os.getpid())
    )
    pending: deque[tuple[np.ndarray, Future[np.ndarray]]] = deque()
    try:
        for piece in pieces:
            pending.append((piece, pool.submit(_work, piece)))
            if len(pending) > 2 * evidence.workers:
                rows, future = pending.popleft()
                yield rows, future.result()
        while pending:
            rows, future = pending.popleft()
            yield rows, future.result()
    except BrokenProcessPool:
        raise InputError(
            "a sampling worker ended early (out of memory, or the model or dataset cannot be pickled); use workers=1"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
