"""Lightning module that trains a ConceptNet under Gaussian noise."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from neurosym.models.concept_net import ConceptNet
from neurosym.models.outputs import predicate_probabilities
from neurosym.models.robust_losses import consistency, set_size


def concept_weights(matrix: np.ndarray, class_counts: np.ndarray, limit: float = 10.0) -> tuple[Tensor, Tensor]:
    """Weights ``(positive[L], negative[L])`` that balance each concept's two outcomes.

    With n images, of which n+ carry the concept, positives weigh n / (2 n+) and negatives n / (2 n-), clipped to
    ``limit`` so that a rare concept cannot dominate a batch.
    """
    positive = (matrix * class_counts[:, None]).sum(0).astype(np.float64)
    total = float(class_counts.sum())

    def weight(count: np.ndarray) -> Tensor:
        return torch.from_numpy(np.minimum(total / (2.0 * np.maximum(count, 1.0)), limit)).float()

    return weight(positive), weight(total - positive)


def augment(
    images: Tensor, generator: torch.Generator, *, degrees: float = 8.0, shift: float = 0.08, mirror: bool = False
) -> Tensor:
    """Small random rotation, scale, shift, brightness and contrast. ``[B,3,H,W] -> same``.

    Half of the images are mirrored if ``mirror``, which signs must never be.
    """
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(count, device=images.device).uniform_(low, high, generator=generator)

    angle = uniform(-math.radians(degrees), math.radians(degrees))
    scale = uniform(0.9, 1.1)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    side = torch.sign(uniform(-1.0, 1.0)) if mirror else 1.0
    theta = torch.stack(
        [
            torch.stack([cosine * side, -sine, uniform(-shift, shift) * 2], 1),
            torch.stack([sine * side, cosine, uniform(-shift, shift) * 2], 1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    gain, offset = uniform(0.7, 1.3)[:, None, None, None], uniform(-0.1, 0.1)[:, None, None, None]
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    return ((moved - mean) * gain + mean + offset).clamp_(0.0, 1.0)


@dataclass(frozen=True)
class Robustness:
    """Losses beside those of the labels; see :mod:`neurosym.models.robust_losses`.

    Attributes:
        draws: noise draws of each image in a step; at least 2 for consistency.
        consistency: weight of the loss on draws that disagree.
        set_size: weight of the size of robust sets at ``alpha`` and ``radius``, through ``circuit`` (None: class
            probabilities as they are), from ``start`` (a share of all steps) on.
    """

    draws: int = 1
    consistency: float = 0.0
    set_size: float = 0.0
    alpha: float = 0.05
    radius: float = 0.0
    circuit: nn.Module | None = None
    start: float = 0.5


class ConceptLearner(pl.LightningModule):
    """Cross-entropy on the classes plus class-balanced binary cross-entropy on the concepts, under noise sigma.

    The weights that are kept are an exponential moving average over steps (``ema``), the learning rate follows a
    one-cycle cosine, and validation measures the averaged weights under the same noise.

    Args:
        model: the network; trained in place, the average is in :attr:`average`.
        matrix: bool ``[K, L]``, concepts of each class.
        class_counts: int ``[K]``, training images of each class.
        sigma: standard deviation of the noise, in units of pixels scaled to [0, 1].
        views: random changes of the images, ``signs``, ``objects`` (also mirrored) or ``none``.
        robustness: losses for certification; none by default.
    """

    def __init__(
        self,
        model: ConceptNet,
        matrix: np.ndarray,
        class_counts: np.ndarray,
        *,
        sigma: float,
        learning_rate: float = 4e-3,
        weight_decay: float = 5e-4,
        concept_loss: float = 1.0,
        ema: float = 0.998,
        seed: int = 0,
        views: str = "signs",
        robustness: Robustness | None = None,
        progress: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.sigma, self.seed = model, sigma, seed
        self.average = copy.deepcopy(model).eval()
        self.average.requires_grad_(False)
        self.learning_rate, self.weight_decay, self.concept_loss, self.ema = (
            learning_rate,
            weight_decay,
            concept_loss,
            ema,
        )
        positive, negative = concept_weights(matrix, class_counts)
        self.register_buffer("concepts_of", torch.from_numpy(matrix.astype(np.float32)), persistent=False)
        self.register_buffer("positive", positive, persistent=False)
        self.register_buffer("negative", negative, persistent=False)
        self.progress, self.views = progress, views
        self.robustness = robustness or Robustness()
        self._generator: torch.Generator | None = None

    def _noise(self) -> torch.Generator:
        if self._generator is None:
            self._generator = torch.Generator(device=self.device).manual_seed(self.seed)
        return self._generator

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``[B, K+L]`` logits and ``[B]`` labels to the mean loss."""
        classes = self.model.num_classes
        total = functional.cross_entropy(logits[:, :classes], labels)
        if self.model.num_concepts:
            target = self.concepts_of[labels]
            weight = torch.where(target > 0.5, self.positive, self.negative)
            bce = functional.binary_cross_entropy_with_logits(logits[:, classes:], target, weight=weight)
            total = total + self.concept_loss * bce
        return total

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images, labels = batch
        generator = self._noise()
        if self.views != "none":
            images = augment(images, generator, mirror=self.views == "objects")
        draws = self.robustness.draws
        noise = torch.randn((draws, *images.shape), generator=generator, device=images.device)
        logits = self.model((images + self.sigma * noise).flatten(0, 1))
        total = self.loss(logits, labels.repeat(draws))
        return total + self._certification(logits.unflatten(0, (draws, len(images))), labels)

    def _certification(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What the certificate adds to the loss; ``logits`` [M, B, K + L]."""
        asked, classes = self.robustness, self.model.num_classes
        total = logits.new_zeros(())
        if asked.consistency:
            total = total + asked.consistency * consistency(logits, classes)
        if asked.set_size and self.global_step >= asked.start * self.trainer.estimated_stepping_batches:
            q = predicate_probabilities(logits.flatten(0, 1), classes, "categorical")
            if asked.circuit is not None:
                q = asked.circuit(q)
            q = q[:, :classes].unflatten(0, logits.shape[:2])
            total = total + asked.set_size * set_size(q, labels, asked.alpha, asked.radius / self.sigma)
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_index: int) -> None:
        # A short memory at first: the average of a young network is worth little.
        decay = min(self.ema, (1.0 + self.global_step) / (10.0 + self.global_step))
        with torch.no_grad():
            for old, new in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                if old.dtype.is_floating_point:
                    old.lerp_(new, 1.0 - decay)
                else:
                    old.copy_(new)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images, labels = batch
        generator = torch.Generator(device=images.device).manual_seed(self.seed + 1 + batch_index)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        classes = self.model.num_classes
        noisy, clean = self.average(images + self.sigma * noise), self.average(images)
        self.log(
            "val_clean",
            (clean[:, :classes].argmax(1) == labels).float().mean(),
            on_epoch=True,
            batch_size=len(labels),
        )
        self.log(
            "val_noisy",
            (noisy[:, :classes].argmax(1) == labels).float().mean(),
            on_epoch=True,
            batch_size=len(labels),
        )
        if self.model.num_concepts:
            right = (noisy[:, classes:] > 0) == (self.concepts_of[labels] > 0.5)
            self.log("val_concepts", right.float().mean(), on_epoch=True, batch_size=len(labels))

    def on_validation_epoch_end(self) -> None:
        if self.progress is not None:
            metrics = {name: float(value) for name, value in self.trainer.callback_metrics.items()}
            self.progress({"epoch": float(self.current_epoch), **metrics})

    def configure_optimizers(self) -> Any:
        decayed = [p for p in self.model.parameters() if p.dim() > 1]
        others = [p for p in self.model.parameters() if p.dim() <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=0.15,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
