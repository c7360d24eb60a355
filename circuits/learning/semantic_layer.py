"""Semantic probabilistic layer: a network whose every prediction obeys the rules.

A gating network maps features to the parameters of a circuit over the worlds of the hard rules, a softmax for each sum, so
p(y | x) is a distribution over those worlds and no other (Ahmed, Teso, Chang, Van den Broeck, Vergari, "Semantic
probabilistic layers for neuro-symbolic learning", NeurIPS 2022). Here the circuit of the rules carries the parameters
itself, so p(y | x) is normalised by construction: the loss of a complete label is minus the sum of the log parameters on
its path, with no partition function to compute.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CompiledKnowledge
from neurosym.circuits.ir import CircuitIR
from neurosym.circuits.learning.parametric import ParametricIR
from neurosym.circuits.learning.parametric_circuit import ParametricCircuit
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase


class SemanticLayer(nn.Module):
    """Features [..., F] -> a distribution over the worlds that obey the hard rules; the last layer of a network.

    Before training, and for a feature vector of zeros, the distribution is that of the rules themselves (uniform over
    their worlds if all are hard). Only the gate is in the state dict.

    Args:
        source: a knowledge base (all of its rules as one distribution), a circuit, or a circuit with parameters from
            ``parametric_knowledge`` or ``with_edge_parameters`` (there ``share=False`` gives more parameters).
        in_features: width F of the features, for a linear gate.
        gate: a module [..., F] -> [..., C] (C = ``num_parameters`` of the parametric circuit) instead of the linear one.

    Raises:
        InputError: neither or both of ``in_features`` and ``gate``.
    """

    offset: Tensor

    def __init__(
        self,
        source: KnowledgeBase | CompiledKnowledge | Circuit | CircuitIR | ParametricIR,
        in_features: int | None = None,
        *,
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (in_features is None) == (gate is None):
            raise InputError("give the layer either in_features or a gate of its own")
        self.model = ParametricCircuit.build(source)
        if gate is None:
            assert in_features is not None
            gate = nn.Linear(in_features, self.model.num_parameters)
            nn.init.zeros_(gate.bias)
        self.gate = gate
        self.register_buffer("offset", self.model.initial.to(torch.get_default_dtype()), persistent=False)

    def log_parameters(self, features: Tensor) -> Tensor:
        """Log parameters of the circuit for each row, [..., C].

        Raises:
            InputError: the gate gives another number of parameters.
        """
        scores = self.gate(features)
        if scores.ndim == 0 or scores.shape[-1] != self.model.num_parameters:
            raise InputError(
                f"the gate gives shape {tuple(scores.shape)}; its last dimension must be {self.model.num_parameters}"
            )
        if scores.dtype in (torch.float16, torch.bfloat16):  # autocast: too coarse for a sum of logs
            scores = scores.float()
        return self.model.normalise(scores + self.offset.to(scores))

    def log_likelihood(self, features: Tensor, labels: Tensor) -> Tensor:
        """log p(labels | features), [...]; differentiable.

        Args:
            labels: bool or 0/1 [..., V], -1 where unknown (summed over).

        Raises:
            InputError: wrong width or values; labels that violate the hard rules (names the row).
        """
        found = self.model.log_likelihood(self.log_parameters(features), labels.to(features.device))
        return found.to(features.dtype)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean of -log p(labels | features); see :meth:`log_likelihood`."""
        return -self.log_likelihood(features, labels).mean()

    def forward(self, features: Tensor) -> Tensor:
        """P(predicate j holds | features), [..., V]; differentiable."""
        return self.model.marginals(self.log_parameters(features)).to(features.dtype)

    def predict(self, features: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Most probable world of each row, bool[..., V]; it obeys the hard rules whatever the features.

        Args:
            evidence: 1 true, 0 false, -1 unknown, [..., V]: values that are known beforehand.

        Raises:
            InconsistentEvidence: the evidence violates the hard rules; names the row.
        """
        with torch.no_grad():
            return self.model.mpe(self.log_parameters(features), evidence)

    def sample(self, features: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent worlds of each row, bool[num_samples, ..., V]."""
        with torch.no_grad():
            return self.model.sample(self.log_parameters(features), num_samples, generator=generator)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"predicates={self.model.num_variables}, parameters={self.model.num_parameters}"
