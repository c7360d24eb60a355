"""The two tasks: images, the truth of every predicate, and the rules that tie the predicates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits import conditionals
from neurosym.logic.knowledge import KnowledgeBase

HERE = Path(__file__).resolve().parent
VALIDATION = 5000


@dataclass(frozen=True)
class Split:
    """Images float32[n, channels, H, W], standardised, and worlds bool[n, V]."""

    images: Tensor
    worlds: Tensor


@dataclass(frozen=True)
class Task:
    """A data set with its rules.

    Attributes:
        leaves: blocks of predicate numbers of which exactly one is true: the arg-max of each is the predicted leaf.
        mirror: horizontal flips keep the labels.
    """

    name: str
    kb: KnowledgeBase
    leaves: tuple[tuple[int, ...], ...]
    mirror: bool
    train: Split
    validation: Split
    test: Split


def cifar10(root: Path) -> Task:
    """CIFAR-10: 45,000 / 5,000 / 10,000 images, ten classes and seven concepts of a tree."""
    from torchvision.datasets import CIFAR10

    kb = KnowledgeBase.from_yaml(HERE / "cifar10.yaml")
    certain = torch.eye(10, kb.num_predicates, dtype=torch.int64)
    certain[:, 10:] = -1  # the concepts follow from the class
    worlds = conditionals(kb, torch.full((10, kb.num_predicates), 0.5), certain) > 0.5

    def split(train: bool) -> Split:
        data = CIFAR10(str(root), train=train)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).float().div_(255).sub_(0.47).div_(0.25)
        return Split(images.contiguous(memory_format=torch.channels_last), worlds[torch.tensor(data.targets)])

    return _task("cifar10", kb, (tuple(range(10)),), True, split(True), split(False))


def digit_sums(root: Path, train_pairs: int = 12_000, test_pairs: int = 10_000) -> Task:
    """Pairs of MNIST digits side by side: first digit, second digit and their sum; pairs are drawn once, with seed 0."""
    from torchvision.datasets import MNIST

    names = [tuple(f"{letter}{i}" for i in range(count)) for letter, count in (("a", 10), ("b", 10), ("sum", 19))]
    groups = "\n".join(f"  {name[0][:-1]}: {{exactly_one: [{', '.join(name)}]}}" for name in names)
    rules = "\n".join(f'  - {{rule: "a{i} & b{j} -> sum{i + j}", weight: .inf}}' for i in range(10) for j in range(10))
    kb = KnowledgeBase.from_text(f"classes: [{', '.join(sum(names, ()))}]\nrules:\n{rules}\ngroups:\n{groups}\n")

    def split(train: bool, count: int) -> Split:
        data = MNIST(str(root), train=train)
        pick = np.random.default_rng(train).integers(len(data), size=(count, 2))
        images = data.data.float().div_(255).sub_(0.13).div_(0.31)
        a, b = (data.targets[torch.from_numpy(pick[:, side])] for side in (0, 1))
        worlds = torch.zeros(count, 39, dtype=torch.bool)
        for column in (a, b + 10, a + b + 20):
            worlds[torch.arange(count), column] = True
        pair = torch.cat([images[pick[:, 0]], images[pick[:, 1]]], dim=2)[:, None]
        return Split(pair.contiguous(memory_format=torch.channels_last), worlds)

    leaves = (tuple(range(10)), tuple(range(10, 20)))
    return _task("digit_sums", kb, leaves, False, split(True, train_pairs + VALIDATION), split(False, test_pairs))


def _task(
    name: str, kb: KnowledgeBase, leaves: tuple[tuple[int, ...], ...], mirror: bool, whole: Split, test: Split
) -> Task:
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(whole.images)))
    held, fit = order[:VALIDATION], order[VALIDATION:]
    parts = [Split(whole.images[rows], whole.worlds[rows]) for rows in (fit, held)]
    return Task(name, kb, leaves, mirror, parts[0], parts[1], test)


TASKS = {"cifar10": cifar10, "digit_sums": digit_sums}
