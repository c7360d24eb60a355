"""Columns of a batch by number: a view where the numbers are consecutive, a gather where they are not."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Columns:
    """A fixed list of column numbers.

    Classes and concepts are numbered in blocks, so the columns of a component are mostly consecutive; a view costs
    nothing where a gather would copy the batch.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(int(i) for i in ids)
        start = self.ids[0] if self.ids else 0
        self.start: int | None = start if self.ids == tuple(range(start, start + len(self.ids))) else None
        self._index: dict[torch.device, Tensor] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._index:
            # a tensor made in inference mode could not be saved for a later backward pass
            with torch.inference_mode(False):
                self._index[device] = torch.tensor(self.ids, dtype=torch.int64, device=device)
        return self._index[device]

    def take(self, x: Tensor) -> Tensor:
        """The columns, [..., n] -> [..., len]; may share memory with ``x``."""
        if self.start is not None:
            return x.narrow(-1, self.start, len(self.ids))
        return x.index_select(-1, self._on(x.device))

    def put(self, x: Tensor, values: Tensor) -> Tensor:
        """Copy of ``x`` with the columns replaced (``values`` itself when those are all)."""
        if self.start is None:
            return x.index_copy(-1, self._on(x.device), values)
        if len(self.ids) == x.shape[-1]:
            return values
        stop = self.start + len(self.ids)
        return torch.cat([x[..., : self.start], values, x[..., stop:]], dim=-1)
