"""``neurosym train``: one configuration file in, one checkpoint folder out."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from neurosym.errors import InputError, field_message
from neurosym.logic.knowledge import KnowledgeBase
from neurosym.models.checkpoint import save_checkpoint
from neurosym.models.concept_net import ConceptNet
from neurosym.models.data import ImageSet, load_images, load_npz
from neurosym.models.targets import class_concept_matrix

if TYPE_CHECKING:
    from neurosym.models.learner import ConceptLearner

QUIET = ("pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities")
VALIDATIONS = 6  # validation passes spread over a training
VALIDATION_BATCH = 256
GRADIENT_CLIP = 1.0


class RobustSection(BaseModel):
    """Losses for certification, beside those of the labels."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    draws: int = Field(default=2, ge=1, description="noise draws of each image in a step")
    consistency: float = Field(default=0.0, ge=0, description="weight of the disagreement of draws")
    set_size: float = Field(default=0.0, ge=0, description="weight of the size of robust sets")
    alpha: float = Field(default=0.05, gt=0, lt=1, description="error of those sets")
    radius: float = Field(default=0.25, ge=0, description="L2 radius of those sets")
    circuit: Literal["none", "rules", "exclusive"] = Field(default="none", description="reasoning before the sets")
    start: float = Field(default=0.5, ge=0, le=1, description="share of the steps before sets count")

    @model_validator(mode="after")
    def _enough(self) -> RobustSection:
        if self.consistency and self.draws < 2:
            raise ValueError("consistency compares draws of one image; set draws to 2 or more")
        return self


class TrainConfig(BaseModel):
    """What ``neurosym train`` reads; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    data: str = Field(description="gtsrb12, gtsrb43, cifar10, awa1, awa2, or an .npz file with images and labels")
    root: str | None = Field(default=None, description="folder of the data set; $NEUROSYM_DATA when left out")
    rules: str = Field(description="rules file; classes and concepts come from it")
    sigma: float = Field(ge=0, description="noise standard deviation, pixels in [0, 1]")
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=128, ge=2)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=5e-4, ge=0)
    concept_loss: float = Field(default=1.0, ge=0)
    trunk: str = "sign"
    views: Literal["signs", "objects", "none"] = Field(
        default="signs",
        description="random changes: small turns for signs, also mirrored for objects, none for features",
    )
    width: int = Field(default=16, ge=4)
    seed: int = Field(default=0, ge=0, lt=2**32)
    robust: RobustSection | None = Field(default=None, description="losses for certification")
    validation: float = Field(default=0.1, gt=0, lt=1, description="share of tracks held out for validation")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=1, ge=1, description="CPU threads")

    @model_validator(mode="after")
    def _noise_for_sets(self) -> TrainConfig:
        if self.robust is not None and self.robust.set_size and not self.sigma:
            raise ValueError("robust.set_size measures sets under noise; give a sigma above 0")
        return self


def load_train_config(path: str | Path) -> TrainConfig:
    """Read a training configuration (YAML); relative paths in it are relative to its folder.

    Raises:
        InputError: missing file, unknown or bad field, each named.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (yaml.YAMLError, ValueError, OSError) as error:  # ValueError: not text, or an impossible date
        raise InputError(f"{path}: not a YAML file ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected fields such as data, rules and sigma")
    for key in ("rules", "data", "root"):
        text = content.get(key)
        if isinstance(text, str) and (key == "rules" or (path.parent / text).exists()):
            content[key] = str(path.parent / text)
    try:
        return TrainConfig.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {field_message(error.errors()[0], TrainConfig.model_fields)}") from None


def split_by_group(groups: np.ndarray, labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row indices ``(train, held out)``: whole groups, the same share of each class.

    A class of several groups has at least one on each side; a class of one group is all in the training rows.

    Raises:
        InputError: a group holds images of several classes.
    """
    rng = np.random.default_rng(seed)
    held = np.zeros(len(labels), dtype=bool)
    taken: set[int] = set()
    for label in np.unique(labels):
        tracks = np.unique(groups[labels == label])
        if not taken.isdisjoint(tracks.tolist()):
            raise InputError(f"groups: one that holds label {label} holds another too; number groups within a class")
        taken.update(tracks.tolist())
        if len(tracks) > 1:
            count = min(max(1, round(share * len(tracks))), len(tracks) - 1)
            held |= np.isin(groups, rng.choice(tracks, count, replace=False))
    return np.flatnonzero(~held), np.flatnonzero(held)


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by fancy indexing: thirty times cheaper than collating single images."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        batch = self.__getitems__([index])
        return batch[0][0], batch[1][0]

    def __getitems__(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        return self.images.tensors(rows), torch.from_numpy(self.images.labels[rows])


def _same(batch: Any) -> Any:
    return batch


def resolve_device(name: str) -> torch.device:
    """``auto`` takes CUDA when there is one.

    Raises:
        InputError: cuda was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda: this machine has no usable CUDA device; use --device cpu or auto")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class _Data:
    """Knowledge and images of one training, split by track."""

    kb: KnowledgeBase
    images: ImageSet
    fit: ImageSet
    held: ImageSet


def _images(config: TrainConfig) -> ImageSet:
    if config.data.endswith(".npz"):
        return load_npz(config.data)
    root = config.root or os.environ.get("NEUROSYM_DATA")
    if root is None:
        raise InputError(f"data {config.data}: set root in the configuration or the NEUROSYM_DATA environment variable")
    return load_images(config.data, root, "train")


def _load(config: TrainConfig) -> _Data:
    """Read rules and images and check that they fit together and fill a batch."""
    kb = KnowledgeBase.from_yaml(config.rules)
    images = _images(config)
    low, high, count = int(images.labels.min()), int(images.labels.max()), len(kb.classes)
    if low < 0:
        row = int(images.labels.argmin())
        raise InputError(f"{images.name}: image {row} has no label (-1); training needs labels 0 .. {count - 1}")
    if high >= count:
        raise InputError(f"{images.name}: labels reach {high} but {config.rules} has {count} classes")
    if images.images.shape[2] != images.images.shape[3]:
        height, width = images.images.shape[2:]
        raise InputError(f"{images.name}: images are {height} x {width}; crop or resize them to squares")
    if not images.are_pixels and (config.trunk, config.views) != ("vector", "none"):
        raise InputError(f"{images.name}: these are features, not images; set trunk: vector and views: none")
    fit_rows, held_rows = split_by_group(images.groups, images.labels, config.validation, config.seed)
    if not len(held_rows):
        raise InputError(f"{images.name}: one image (or track) a class leaves none for validation; give more images")
    if len(fit_rows) < config.batch:
        raise InputError(
            f"{images.name}: {len(fit_rows)} training images do not fill one batch of {config.batch}; lower batch"
        )
    return _Data(kb, images, images.take(fit_rows), images.take(held_rows))


@contextmanager
def _calm(threads: int) -> Iterator[None]:
    """Lightning without banners, tips and advice on workers, and ``threads`` CPU threads, for one call."""
    loggers = [logging.getLogger(name) for name in QUIET]
    levels, before = [logger.level for logger in loggers], torch.get_num_threads()
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(pytorch_)?lightning")
            warnings.filterwarnings("ignore", message=".*(does not have many workers|GPU available but not used).*")
            yield
    finally:
        torch.set_num_threads(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class _Progress:
    """Rows of metrics, one a validation; each is also a line on stderr unless ``quiet``."""

    def __init__(self, epochs: int, quiet: bool) -> None:
        self.epochs, self.quiet = epochs, quiet
        self.history: list[dict[str, float]] = []
        self.start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def __call__(self, row: dict[str, float]) -> None:
        self.history.append(row)
        if not self.quiet:
            text = "  ".join(f"{key} {value:.4f}" for key, value in row.items() if key.startswith("val"))
            epoch = int(row["epoch"]) + 1
            if epoch > self.epochs:  # a last validation, of the same weights, comes after the last epoch
                return
            print(f"epoch {epoch:3d}/{self.epochs}  {self.seconds:6.0f} s  {text}", file=sys.stderr, flush=True)


def _circuit(kb: KnowledgeBase, name: Literal["none", "rules", "exclusive"]) -> Any:
    """The reasoning layer of the loss; categorical classes, as the class head is one softmax."""
    if name == "none":
        return None
    from neurosym.circuits import CircuitLayer, compile

    return CircuitLayer(compile(kb, circuit=name, class_kind="categorical"), check=False)


def _fit(config: TrainConfig, data: _Data, device: torch.device, progress: _Progress) -> ConceptLearner:
    """Build network, learner and trainer, and train; the metrics of the last validation stay in the learner."""
    import pytorch_lightning as pl

    from neurosym.models.learner import ConceptLearner, Robustness

    pl.seed_everything(config.seed, verbose=False)
    kb, inputs, size = data.kb, data.images.images.shape[1], data.images.images.shape[-1]
    model = ConceptNet(kb.classes, kb.concepts, image_size=size, trunk=config.trunk, width=config.width, inputs=inputs)
    robust = None
    if config.robust is not None:
        asked = config.robust.model_dump(exclude={"circuit"})
        robust = Robustness(**asked, circuit=_circuit(kb, config.robust.circuit))
    learner = ConceptLearner(
        model.to(memory_format=torch.channels_last),
        class_concept_matrix(kb),
        np.bincount(data.fit.labels, minlength=len(kb.classes)),
        sigma=config.sigma,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        concept_loss=config.concept_loss,
        seed=config.seed,
        views=config.views,
        robustness=robust,
        progress=progress,
    )
    trainer = pl.Trainer(
        max_epochs=config.epochs,
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=max(1, config.epochs // VALIDATIONS),
        gradient_clip_val=GRADIENT_CLIP,
    )
    loader = DataLoader(_Batches(data.fit), batch_size=config.batch, shuffle=True, drop_last=True, collate_fn=_same)
    check = DataLoader(_Batches(data.held), batch_size=VALIDATION_BATCH, collate_fn=_same)
    trainer.fit(learner, loader, check)
    trainer.validate(learner, check, verbose=False)
    return learner


def train(config: TrainConfig, out: str | Path, *, quiet: bool = False) -> dict[str, Any]:
    """Train a ConceptNet and write its checkpoint folder; returns the card. Nothing is written before the end.

    Raises:
        InputError: missing data, rules that do not fit the labels, no such device, ``out`` is not a folder.
    """
    if Path(out).exists() and not Path(out).is_dir():
        raise InputError(f"{out}: is not a folder; give another place for the checkpoint")
    device = resolve_device(config.device)
    data = _load(config)
    progress = _Progress(config.epochs, quiet)
    with _calm(config.threads):
        learner = _fit(config, data, device, progress)
    metrics = {key: float(value) for key, value in learner.trainer.callback_metrics.items()}
    card = {
        "config": _shareable(config),
        "data": {
            "name": Path(data.images.name).name,
            "sha256": data.images.digest(),
            "train_images": len(data.fit),
            "validation_images": len(data.held),
        },
        "rules_sha256": data.kb.digest(),
        "metrics": {key: value for key, value in metrics.items() if math.isfinite(value)},
        "history": progress.history,
        "seed": config.seed,
        "sigma": config.sigma,
        "seconds": round(progress.seconds, 1),
        "device": torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    save_checkpoint(out, learner.average.cpu(), card)
    return card


def _shareable(config: TrainConfig) -> dict[str, Any]:
    """The configuration for a card that travels: file names without the folders of this machine."""
    content = config.model_dump(exclude={"root"})
    return {**content, "data": Path(config.data).name, "rules": Path(config.rules).name}
