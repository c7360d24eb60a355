"""A sampling run that a test kills: ``python killed_run.py votes|samples TARGET WORKERS PIDS DELAY``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from neurosym.certify.sampling import ModelEvidence, cache_samples, sample_votes

ROWS = 200


class Slow:
    """Images of a fixed generator; each reading takes a while and leaves the reader's process id."""

    def __init__(self, pids: Path, delay: float) -> None:
        self.images = torch.rand(ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(2))
        self.pids, self.delay = pids, delay

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> Any:
        time.sleep(self.delay)
        (self.pids / str(os.getpid())).touch()
        return self.images[row], row % 3


def evidence(pids: Path, delay: float = 0.0, workers: int = 1, **changes: Any) -> ModelEvidence:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    options: dict[str, Any] = {"sigma": 0.5, "trials": 20, "seed": 4, **changes}
    return ModelEvidence(
        net,
        Slow(pids, delay),
        **options,
        predicates="abcd",
        num_classes=3,
        workers=workers,
        device="cpu",
        progress=False,
    )


if __name__ == "__main__":
    kind, target, workers, folder, pause = sys.argv[1:]
    run = evidence(Path(folder), float(pause), int(workers))
    if kind == "votes":
        sample_votes(run, target)
    else:
        cache_samples(run, target)
