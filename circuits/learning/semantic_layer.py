"""Semantic probabilistic layer: a network whose every prediction obeys the rules.

A gating network maps features to the parameters of a circuit over the worlds of the hard rules, a softmax for each sum, so
p(y | x) is a distribution over those worlds and no other (Ahmed, Teso, Chang, Van den Broeck, Vergari, "Semantic
probabilistic layers for neuro-symbolic learning", NeurIPS 2022). Here the circuit of the rules carries the parameters
itself, so p(y | x) is normalised by construction: the loss of a complete label is minus the sum of the log parameters on
its path, with no partition function to compute.

The gate may also set the weights of the literals, one logit for each predicate, with the network's independent predictions
conditioned on the rules: p(y | x) = [y obeys the rules] prod_j sigmoid(+-z_j) / Z(x), the factorised case of the same paper.
That has fewer parameters and treats predicates alike wherever they occur; the partition function is then one more pass.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CompiledKnowledge
from neurosym.circuits.ir import CircuitIR
from neurosym.circuits.learning.parametric import ParametricIR
from neurosym.circuits.learning.parametric_circuit import ParametricCircuit
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

Parameters = Literal["edges", "literals", "both"]


class SemanticLayer(nn.Module):
    """Features [..., F] -> a distribution over the worlds that obey the hard rules; the last layer of a network.

    Before training, and for a feature vector of zeros, the distribution is that of the rules themselves (uniform over
    their worlds if all are hard). Only the gate is in the state dict.

    Which ``parameters``: ``literals`` is the safe choice where predicates are recognised by themselves (digits of a sum);
    ``edges`` can express dependence between predicates beyond the rules; ``both`` multiplies the two.

    Args:
        source: a knowledge base (all of its rules as one distribution), a circuit, or a circuit with parameters from
            ``parametric_knowledge`` or ``with_edge_parameters`` (there ``share=False`` gives more parameters).
        in_features: width F of the features, for a linear gate.
        parameters: what the gate sets: the C ``edges`` of the circuit, one logit for each of the V ``literals``, or
            ``both`` (edges first).
        gate: a module [..., F] -> [..., ``gate_size``] instead of the linear one.

    Attributes:
        gate_size: number of outputs of the gate: C, V or C + V.

    Raises:
        InputError: neither or both of ``in_features`` and ``gate``; unknown ``parameters``.
    """

    offset: Tensor

    def __init__(
        self,
        source: KnowledgeBase | CompiledKnowledge | Circuit | CircuitIR | ParametricIR,
        in_features: int | None = None,
        *,
        parameters: Parameters = "edges",
        gate: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if (in_features is None) == (gate is None):
            raise InputError("give the layer either in_features or a gate of its own")
        if parameters not in ("edges", "literals", "both"):
            raise InputError(f"parameters {parameters!r} is unknown; use 'edges', 'literals' or 'both'")
        self.model = ParametricCircuit.build(source)
        self.parameters_of = parameters
        edges = 0 if parameters == "literals" else self.model.num_parameters
        self.gate_size = edges + (0 if parameters == "edges" else self.model.num_variables)
        if gate is None:
            assert in_features is not None
            gate = nn.Linear(in_features, self.gate_size)
            nn.init.zeros_(gate.bias)
        self.gate = gate
        self.register_buffer("offset", self.model.initial.to(torch.get_default_dtype()), persistent=False)

    def weights(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Log parameters of the circuit, [..., C] or [C] for all rows alike, and the logits of the predicates, [..., V].

        Raises:
            InputError: the gate gives another number of outputs than ``gate_size``.
        """
        scores = self.gate(features)
        if scores.ndim == 0 or scores.shape[-1] != self.gate_size:
            raise InputError(f"the gate gives shape {tuple(scores.shape)}; its last dimension must be {self.gate_size}")
        if scores.dtype in (torch.float16, torch.bfloat16):  # autocast: too coarse for a sum of logs
            scores = scores.float()
        if self.parameters_of == "literals":
            return self.offset.to(scores), scores
        edges, logits = scores.tensor_split([self.model.num_parameters], dim=-1)
        log_parameters = self.model.normalise(edges + self.offset.to(scores))
        return log_parameters, logits if self.parameters_of == "both" else None

    def log_likelihood(self, features: Tensor, labels: Tensor) -> Tensor:
        """log p(labels | features), [...]; differentiable.

        Args:
            labels: bool or 0/1 [..., V], -1 where unknown (summed over).

        Raises:
            InputError: wrong width or values; labels that violate the hard rules (names the row).
        """
        log_parameters, logits = self.weights(features)
        found = self.model.log_likelihood(log_parameters, labels.to(features.device), logits)
        return found.to(features.dtype)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Mean of -log p(labels | features); see :meth:`log_likelihood`."""
        return -self.log_likelihood(features, labels).mean()

    def forward(self, features: Tensor) -> Tensor:
        """P(predicate j holds | features), [..., V]; differentiable."""
        log_parameters, logits = self.weights(features)
        return self.model.marginals(log_parameters, None, logits).to(features.dtype)

    def predict(self, features: Tensor, evidence: Tensor | None = None) -> Tensor:
        """Most probable world of each row, bool[..., V]; it obeys the hard rules whatever the features.

        Args:
            evidence: 1 true, 0 false, -1 unknown, [..., V]: values that are known beforehand.

        Raises:
            InconsistentEvidence: the evidence violates the hard rules; names the row.
        """
        with torch.no_grad():
            log_parameters, logits = self.weights(features)
            return self.model.mpe(log_parameters, evidence, logits)

    def sample(self, features: Tensor, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """Independent worlds of each row, bool[num_samples, ..., V]."""
        with torch.no_grad():
            log_parameters, logits = self.weights(features)
            return self.model.sample(log_parameters, num_samples, None, generator, logits)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"predicates={self.model.num_variables}, parameters={self.parameters_of!r}, gate_size={self.gate_size}"
