"""Boxes of predicate probabilities from a network, its images and an attack ball: the evidence of VRCP.

Everything runs in double precision on one function, the traced network (``models.bounds``): the probabilities at the points
themselves, which set thresholds, and the bounds, which hold for every double-precision evaluation of that function at any
image of the ball, rounding included. A network that is deployed in single precision is another function; certify what you
run, or run what you certify.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from neurosym.certify.evidence import BoxEvidence, ClassKind, ProbEvidence, check_norm
from neurosym.certify.exact import Number, decimal
from neurosym.errors import InputError
from neurosym.models.bounds.ball import ball
from neurosym.models.bounds.crown import PROPAGATIONS, Propagation, form_bounds, intervals_of
from neurosym.models.bounds.graph import build_network
from neurosym.models.bounds.layers import Network, evaluate
from neurosym.models.bounds.softmax_bounds import (
    box_tables,
    difference_forms,
    difference_tables,
    sigmoid_range,
    softmax_range,
)
from neurosym.models.outputs import PredicateModel, predicate_probabilities

BATCH, PLAIN_BATCH = 8, 64
MOST_PAIRS = 32  # classes up to which all differences of logits are bounded by themselves


@dataclass(frozen=True)
class Bounder:
    """How boxes are made.

    Attributes:
        norm: ``l2`` or ``linf``; radius in pixel units, pixels in [0, 1].
        propagation: ``ibp`` (fastest, loosest), ``crown_ibp`` or ``crown``.
        clip: images outside [0, 1] are refused, so the ball is cut there.
    """

    radius: Number
    norm: str = "l2"
    propagation: Propagation = "crown"
    class_kind: ClassKind = "categorical"
    clip: bool = True

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if decimal(self.radius, "radius") < 0:
            raise InputError(f"radius: {self.radius} is negative; give the radius of the attack, 0 or more")
        if self.propagation not in PROPAGATIONS:
            raise InputError(f"propagation: {self.propagation!r}; choose one of {', '.join(PROPAGATIONS)}")
        if self.class_kind not in ("binary", "categorical"):
            raise InputError(f"class_kind: {self.class_kind!r}; write 'binary' or 'categorical'")

    def boxes(self, network: Network, images: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities and their bounds, three float64 ``[B, V]``, for images ``[B, C, H, W]``."""
        around = ball(images.to(network.device), float(decimal(self.radius, "radius")), self.norm, clip=self.clip)
        found = intervals_of(network, around, self.propagation)
        linear, width = self.propagation != "ibp", network.outputs
        own = torch.eye(width, dtype=torch.float64, device=network.device)
        softmax = self.class_kind == "categorical"
        pairs = softmax and classes <= MOST_PAIRS
        forms = own[classes:] if pairs else own
        if pairs:
            forms = torch.cat([forms, difference_forms(classes, width, network.device)])
        low, high = form_bounds(network, found, around, forms, linear=linear)
        largest = found[-1].reach.amax(dim=1)
        if pairs:
            rest = width - classes
            tables = difference_tables(low[:, rest:], high[:, rest:], classes)
            blocks = [softmax_range(*tables, largest), sigmoid_range(low[:, :rest], high[:, :rest])]
        elif softmax:
            blocks = [softmax_range(*box_tables(low[:, :classes], high[:, :classes]), largest)]
            blocks.append(sigmoid_range(low[:, classes:], high[:, classes:]))
        else:
            blocks = [sigmoid_range(low, high)]
        lower, upper = (torch.cat([block[side] for block in blocks], dim=1) for side in (0, 1))
        probs = predicate_probabilities(evaluate(network, images), classes, self.class_kind)
        return probs, lower, upper


def bound_evidence(
    model: nn.Module,
    dataset: Any,
    bounder: Bounder,
    *,
    predicates: tuple[str, ...] | None = None,
    num_classes: int | None = None,
    labels: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    batch: int = BATCH,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> BoxEvidence:
    """Boxes for the images of a map-style dataset of ``image`` or ``(image, label)``, a batch at a time.

    Args:
        model: maps images ``[B, C, H, W]`` in [0, 1] to logits, class logits first; normalises inside.
        predicates, num_classes: names of the outputs; by default the attributes of ``model``.
        labels: int ``[n]``; by default those of the dataset, if it has any.
        rows: rows of the dataset; all by default.

    Raises:
        InputError: an operation without bounds, images outside [0, 1], or names that do not fit.
    """
    reader = _Reader(model, dataset, rows, predicates, num_classes, torch.device(device))
    parts = [
        [part.cpu().numpy() for part in bounder.boxes(network, images, reader.classes)]
        for network, images in reader.batches(batch, "bounds", progress)
    ]
    probs, lower, upper = (np.concatenate(side) for side in zip(*parts, strict=True))
    radius = float(decimal(bounder.radius, "radius"))
    names, truth = reader.names, reader.truth if labels is None else labels
    return BoxEvidence(
        lower, upper, radius, names, truth, bounder.class_kind, reader.classes, probs=probs, norm=bounder.norm
    )


def answer_evidence(
    model: nn.Module,
    dataset: Any,
    class_kind: ClassKind = "categorical",
    *,
    predicates: tuple[str, ...] | None = None,
    num_classes: int | None = None,
    labels: np.ndarray | None = None,
    rows: np.ndarray | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> ProbEvidence:
    """The probabilities that ``bound_evidence`` bounds, without bounds: the same function, one pass an image."""
    reader = _Reader(model, dataset, rows, predicates, num_classes, torch.device(device))
    parts = [
        predicate_probabilities(evaluate(network, images), reader.classes, class_kind).cpu().numpy()
        for network, images in reader.batches(PLAIN_BATCH, "answers", progress)
    ]
    truth = reader.truth if labels is None else labels
    return ProbEvidence(np.concatenate(parts), reader.names, truth, class_kind, reader.classes)


class _Reader:
    """Batches of images with the network traced for their shape; the labels that came along."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Any,
        rows: np.ndarray | None,
        predicates: tuple[str, ...] | None,
        num_classes: int | None,
        device: torch.device,
    ) -> None:
        own = model if isinstance(model, PredicateModel) else None
        names = predicates if predicates is not None else getattr(own, "predicates", None)
        classes = num_classes if num_classes is not None else getattr(own, "num_classes", None)
        if names is None or classes is None:
            raise InputError("the model does not name its outputs; pass predicates= and num_classes=")
        self.names, self.classes = tuple(str(name) for name in names), int(classes)
        self.model, self.dataset, self.device = model, dataset, device
        self.rows = np.arange(len(dataset)) if rows is None else np.asarray(rows, dtype=np.int64)
        if not self.rows.size:
            raise InputError("the dataset has no rows; check its folder or indices")
        self.labels: list[int] = []

    @property
    def truth(self) -> np.ndarray | None:
        return np.array(self.labels, dtype=np.int64) if len(self.labels) == self.rows.size else None

    def batches(self, size: int, what: str, progress: bool) -> Iterator[tuple[Network, Tensor]]:
        network: Network | None = None
        starts = range(0, self.rows.size, size)
        for start in tqdm(starts, desc=what, unit="batch", disable=not progress, leave=False):
            items = [self.dataset[int(row)] for row in self.rows[start : start + size]]
            images = torch.stack([item[0] if isinstance(item, tuple | list) else item for item in items])
            self.labels += [int(item[1]) for item in items if isinstance(item, tuple | list) and len(item) > 1]
            if network is None:
                network = build_network(self.model, tuple(images.shape[1:]), self.device)
                if network.outputs != len(self.names):
                    raise InputError(
                        f"the network has {network.outputs} outputs, but {len(self.names)} names are given"
                    )
            yield network, images.to(self.device)
