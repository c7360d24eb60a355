"""The correction as a layer of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from neurosym.circuits.compile import check_probabilities, mixing_weights, weighted_marginals
from neurosym.circuits.component import CompiledKnowledge, working


class CircuitLayer(nn.Module):
    """Sensor probabilities [..., V] -> corrected probabilities [..., V]; no parameters, differentiable once.

    The buffers are rebuilt from the knowledge base, so they are not part of the state dict.

    Args:
        compiled: the result of :func:`neurosym.circuits.compile`.
        check: verify that inputs lie in [0, 1]; costs a synchronisation on a GPU.
    """

    shares: Tensor

    def __init__(self, compiled: CompiledKnowledge, check: bool = True) -> None:
        super().__init__()
        self.compiled = compiled
        self.check = check
        self.register_buffer("shares", torch.from_numpy(mixing_weights(compiled)), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> CircuitLayer:
        """Move with the module, but keep the mixture weights in float64: ``layer.half()`` must not change them."""
        super()._apply(fn, recurse)
        if self.shares.device.type != "mps":
            self.shares = torch.from_numpy(mixing_weights(self.compiled)).to(self.shares.device)
        return self

    def forward(self, p: Tensor) -> Tensor:
        """Marginals of the mixture.

        Raises:
            InputError: NaN or values outside [0, 1], a wrong last dimension.
            InconsistentEvidence: the hard rules leave no world; names the row.
        """
        if self.check:
            p = check_probabilities(p, self.compiled.kb.num_predicates)
        work = working(p)
        pos, neg = self.compiled.literal_weights(work)
        shares = self.shares.to(device=p.device, dtype=work.dtype)
        return weighted_marginals(self.compiled, work, pos, neg, shares).to(p.dtype)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return ", ".join(
            [f"circuit={self.compiled.circuit!r}", *(f"{name}={value}" for name, value in self.compiled.size.items())]
        )
