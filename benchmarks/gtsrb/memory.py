"""Sample evidence that remembers reasoned probabilities: twenty splits reason over the same draws only once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from neurosym.certify.evidence import CachedSamples
from neurosym.certify.reasoning import Reasoning

BLOCK = 1 << 23  # numbers in one block


@dataclass(frozen=True, eq=False)
class Remembered:
    """A view of some rows of cached samples; equal to them in every number it gives.

    Attributes:
        base: all samples, uint16 codes ``[n, M, V]``.
        rows: row numbers of this view.
        memory: reasoned probabilities float64 ``[n, M, K]`` by (circuit, scale), shared by all views.
    """

    base: CachedSamples
    rows: np.ndarray
    memory: dict[tuple[str, float], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, base: CachedSamples) -> Remembered:
        return cls(base, np.arange(base.n))

    def __getattr__(self, name: str) -> Any:
        if name in ("predicates", "class_kind", "num_classes", "sigma", "trials"):
            return getattr(self.base, name)
        raise AttributeError(name)

    @property
    def n(self) -> int:
        return len(self.rows)

    @property
    def labels(self) -> np.ndarray | None:
        return None if self.base.labels is None else self.base.labels[self.rows]

    def take(self, rows: np.ndarray) -> Remembered:
        return replace(self, rows=self.rows[rows])

    def chunks(self, rows: np.ndarray | None = None) -> Iterator[Any]:
        chosen = np.arange(self.n) if rows is None else rows
        place = 0
        for part, samples in self.base.chunks(self.rows[chosen]):
            yield chosen[place : place + len(part)], samples
            place += len(part)

    def reasoned(self, reasoning: Reasoning) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        key = (reasoning.circuit, reasoning.scale)
        if key not in self.memory:
            columns = reasoning.columns(self.base.predicates)
            parts = [
                reasoning.class_probabilities(p if columns is None else p[..., columns])
                for p in (samples.numpy().astype(np.float64) for _, samples in self.base.chunks())
            ]
            self.memory[key] = np.concatenate(parts)
        found = self.memory[key]
        block = max(1, BLOCK // int(np.prod(found.shape[1:])))
        for start in range(0, self.n, block):
            part = np.arange(start, min(start + block, self.n))
            yield part, found[self.rows[part]]
