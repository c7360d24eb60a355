"""One small network, three heads, one schedule; figures of raw predictions."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from layer_tasks import Split, Task
from torch import Tensor, nn

from neurosym.circuits import SemanticLayer, compile, mpe, semantic_loss
from neurosym.logic.semantics import evaluate

WIDTH, FEATURES = 24, 128
BATCH, RATE, DECAY = 128, 3e-3, 1e-2
METHODS = ("sigmoids", "sigmoids + semantic loss", "semantic layer")
LITERALS = "semantic layer, literals"


def backbone(channels: int, height: int, width: int) -> nn.Sequential:
    """Three strided convolutions and a linear layer: images -> features."""

    def block(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    layers = [*block(channels, WIDTH, 5), *block(WIDTH, 2 * WIDTH, 3), *block(2 * WIDTH, 4 * WIDTH, 3), nn.Flatten()]
    flat = 4 * WIDTH * -(-height // 8) * -(-width // 8)
    return nn.Sequential(*layers, nn.Linear(flat, FEATURES), nn.ReLU())


class Model(nn.Module):
    """The backbone with independent sigmoids or a semantic layer on top."""

    def __init__(self, task: Task, method: str, strength: float) -> None:
        super().__init__()
        self.task, self.method, self.strength = task, method, strength
        self.features = backbone(*task.train.images.shape[1:])
        self.compiled = compile(task.kb)
        self.head: nn.Module
        if method in ("semantic layer", LITERALS):
            self.head = SemanticLayer(task.kb, FEATURES, parameters="literals" if method == LITERALS else "edges")
        else:
            self.head = nn.Linear(FEATURES, task.kb.num_predicates)

    def loss(self, images: Tensor, worlds: Tensor) -> Tensor:
        """Mean negative log likelihood of the labels; the sigmoids' is a sum over predicates."""
        features = self.features(images)
        if isinstance(self.head, SemanticLayer):
            return self.head.loss(features, worlds)
        logits = self.head(features)
        error = nn.functional.binary_cross_entropy_with_logits(logits, worlds.to(logits), reduction="none")
        total = error.sum(dim=1).mean()
        if self.method == "sigmoids + semantic loss":
            total = total + self.strength * semantic_loss(self.compiled, logits, logits=True)
        return total

    @torch.no_grad()
    def answer(self, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """(worlds, scores of the predicates) for each way to read the output."""
        features = self.features(images)
        if isinstance(self.head, SemanticLayer):
            worlds = self.head.predict(features)
            return {"": (worlds, worlds.float())}
        p = torch.sigmoid(self.head(features).double())
        best = mpe(self.compiled, p).world
        return {"": (p > 0.5, p), ", best legal world": (best, best.float())}


@dataclass(frozen=True)
class Figures:
    """Shares of images. ``exact``: all predicates right; ``leaf``: all leaves right; ``legal``: every rule holds."""

    exact: float
    leaf: float
    legal: float


def legal(task: Task, worlds: np.ndarray) -> np.ndarray:
    """Which worlds obey every rule and group, by evaluating the formulas (no circuit); bool[n]."""
    columns = {name: worlds[:, i] for i, name in enumerate(task.kb.predicates)}
    holds = np.ones(len(worlds), dtype=bool)
    for rule in task.kb.rules:
        holds &= np.asarray(evaluate(rule.formula, columns))
    for group in task.kb.groups:
        holds &= np.asarray(group.holds(columns))
    return holds


def measure(model: Model, split: Split) -> dict[str, Figures]:
    """Figures of each way to read the output."""
    model.eval()
    pieces = [model.answer(split.images[i : i + 1000]) for i in range(0, len(split.images), 1000)]
    found = {}
    for name in pieces[0]:
        worlds, scores = (torch.cat([piece[name][k] for piece in pieces]) for k in (0, 1))
        leaf = torch.ones(len(worlds), dtype=torch.bool)
        for block in model.task.leaves:
            leaf &= scores[:, block].argmax(dim=1) == split.worlds[:, block].long().argmax(dim=1)
        exact = (worlds == split.worlds).all(dim=1)
        obeys = legal(model.task, worlds.numpy())
        found[name] = Figures(float(exact.float().mean()), float(leaf.float().mean()), float(obeys.mean()))
    return found


def train(task: Task, method: str, epochs: int, strength: float, seed: int) -> tuple[Model, float]:
    """A trained model and the seconds it took. The seed sets the start, the order of images and the flips."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = Model(task, method, strength).to(memory_format=torch.channels_last)
    data = task.train
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * (len(data.images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(data.images))
        for first in range(0, len(order) - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            images = data.images[rows]
            if task.mirror:
                images = torch.where(torch.rand(len(rows), 1, 1, 1) < 0.5, images.flip(3), images)
            optimiser.zero_grad()
            model.loss(images, data.worlds[rows]).backward()
            optimiser.step()
            schedule.step()
    return model, time.perf_counter() - start
