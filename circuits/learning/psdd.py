"""Distributions over the worlds of a circuit, learnt from data (Kisa, Van den Broeck, Choi, Darwiche, "Probabilistic
sentential decision diagrams", KR 2014).

Complete data have a closed-form maximum: each parameter is the share of its edge among the times its sum was used. Data
with unknown values go through expectation maximisation, in which the expected counts are edge flows,
E[count of edge e] = theta_e (dZ/dtheta_e) / Z, from one upward and one downward pass (Darwiche 2003; Choi, Dang, Van den
Broeck, "Group fairness by probabilistic modeling with latent fair decisions", 2021, for the flows).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CompiledKnowledge
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.ir import CircuitIR
from neurosym.circuits.learning.parametric import ParametricIR
from neurosym.circuits.learning.parametric_circuit import CONTRADICTION, FLOW_VALUES, ParametricCircuit
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase


@dataclass(frozen=True)
class EmFit:
    """How expectation maximisation went.

    Attributes:
        log_likelihood: mean log likelihood of a row before each iteration and at the end.
        converged: the objective rose by less than the tolerance in the last iteration.
    """

    log_likelihood: tuple[float, ...]
    converged: bool


@dataclass(frozen=True)
class _Rows:
    """Distinct rows of a data set, the weight of each, and for every row of the data its number among them."""

    known: Tensor
    weights: Tensor
    index: Tensor

    def chunks(self, columns: int) -> list[slice]:
        """Slices that keep a table of ``columns`` columns small."""
        step = max(1, FLOW_VALUES // max(1, columns))
        return [slice(i, i + step) for i in range(0, len(self.known), step)]

    @contextmanager
    def named(self, part: slice) -> Iterator[None]:
        """Errors name the row of the data, not of the distinct rows in ``part``."""
        try:
            yield
        except InconsistentEvidence as error:
            row = int((self.index == part.start + error.row).nonzero()[0])
            raise InconsistentEvidence(row, CONTRADICTION) from None


class PSDD(nn.Module):
    """A distribution over the worlds that obey the hard rules.

    Args:
        source: a knowledge base (all of its rules as one distribution), a circuit, or a circuit with parameters from
            ``parametric_knowledge`` or ``with_edge_parameters`` (there ``share=False`` gives more parameters).

    Attributes:
        scores: the parameter, float64[C]; :attr:`log_parameters` normalises it. Starts at the distribution of the rules
            themselves (uniform over their worlds if all are hard).
        model: the circuit behind it.
    """

    def __init__(self, source: KnowledgeBase | CompiledKnowledge | Circuit | CircuitIR | ParametricIR) -> None:
        super().__init__()
        self.model = ParametricCircuit.build(source)
        self.scores = nn.Parameter(self.model.initial.clone())

    @property
    def log_parameters(self) -> Tensor:
        """Log parameters [C], normalised for each sum; differentiable."""
        return self.model.normalise(self.scores)

    def log_likelihood(self, worlds: Tensor) -> Tensor:
        """log P(worlds), float64[...]; -1 marks unknown values; differentiable in the parameters.

        Raises:
            InputError: wrong width or values; a row that violates the hard rules (names it).
        """
        return self.model.log_likelihood(self.log_parameters, worlds)

    forward = log_likelihood

    def marginals(self, evidence: Tensor | None = None) -> Tensor:
        """P(x_j = 1 | evidence), float64[..., m]; see :meth:`ParametricCircuit.marginals`."""
        return self.model.marginals(self.log_parameters, evidence)

    def mpe(self, evidence: Tensor | None = None) -> Tensor:
        """Most probable world given the evidence, bool[..., m]."""
        return self.model.mpe(self.log_parameters, evidence)

    def sample(
        self, num_samples: int, evidence: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Independent worlds given the evidence, bool[num_samples, ..., m]."""
        return self.model.sample(self.log_parameters, num_samples, evidence, generator)

    def set_parameters(self, counts: Tensor, smoothing: float = 0.0) -> None:
        """Parameters in proportion to counts >= 0 [C] plus ``smoothing``; sums without any keep their start.

        Raises:
            InputError: counts or smoothing negative or not finite, or another number of counts.
        """
        if counts.shape != self.scores.shape or not bool((counts.isfinite() & (counts >= 0)).all()):
            raise InputError(f"counts must be {self.scores.numel()} finite numbers >= 0")
        if not 0 <= smoothing < float("inf"):
            raise InputError(f"smoothing is {smoothing}; it must be a finite number >= 0")
        counts = counts.to(self.scores) + smoothing
        total = self.model.parametric.group_sums(counts)
        start = self.model.initial.to(self.scores)
        with torch.no_grad():
            self.scores.copy_(torch.where(total > 0, (counts / total).log(), start))

    def fit(self, worlds: Tensor, smoothing: float = 1.0, row_weights: Tensor | None = None) -> PSDD:
        """Maximum likelihood from complete worlds, in closed form.

        Args:
            worlds: bool or 0/1 [n, m].
            smoothing: Laplace smoothing, added to the count of each edge; 0 for plain maximum likelihood.
            row_weights: weight of each row, float[n] >= 0; all 1 if left out.

        Returns:
            self.

        Raises:
            InputError: unknown values (use :meth:`fit_em`), a row that violates the rules, wrong shapes.
        """
        rows = self._rows(worlds, row_weights)
        counts = torch.zeros_like(self.scores, requires_grad=False)
        for part in rows.chunks(self.scores.numel()):
            with rows.named(part):
                counts += rows.weights[part] @ self.model.flows(rows.known[part]).to(counts)
        self.set_parameters(counts, smoothing)
        return self

    def fit_em(
        self,
        worlds: Tensor,
        smoothing: float = 0.0,
        row_weights: Tensor | None = None,
        *,
        max_iterations: int = 100,
        tolerance: float = 1e-6,
    ) -> EmFit:
        """Maximum likelihood from worlds with unknown values (-1), from the present parameters on.

        Each iteration raises the likelihood (with smoothing: the likelihood plus ``smoothing`` times the sum of the log
        parameters), and complete data need only one.

        Args:
            worlds, smoothing, row_weights: as in :meth:`fit`.
            tolerance: stop when the objective rises by less, per unit of row weight.

        Raises:
            InputError: wrong shapes, or a row of probability 0 (under the present parameters or for any).
        """
        rows = self._rows(worlds, row_weights)
        total = float(rows.weights.sum())
        trail: list[float] = []
        best = -float("inf")
        converged = False
        for _ in range(max_iterations):
            counts, mean = self._expect(rows, total)
            trail.append(mean)
            objective = mean
            if smoothing > 0:  # a parameter that is 0 is lifted by the first step
                objective += smoothing * float(self.log_parameters.detach().sum()) / total
            converged = objective - best < tolerance
            if converged:
                return EmFit(tuple(trail), True)
            best = objective
            self.set_parameters(counts, smoothing)
        trail.append(self._expect(rows, total)[1])
        return EmFit(tuple(trail), converged)

    def _expect(self, rows: _Rows, total: float) -> tuple[Tensor, float]:
        """Expected counts [C] and mean log likelihood."""
        log_parameters = self.log_parameters.detach()
        counts, value = torch.zeros_like(log_parameters), 0.0
        for part in rows.chunks(self.scores.numel()):
            with rows.named(part):
                flows, log_value = self.model.expected_flows(log_parameters, rows.known[part])
            counts += rows.weights[part] @ flows.to(counts)
            value += float(rows.weights[part] @ log_value.to(counts))
        return counts, value / total

    def _rows(self, worlds: Tensor, row_weights: Tensor | None) -> _Rows:
        known = self.model.observed(worlds).to(self.scores.device)
        if known.ndim != 2 or not len(known):
            raise InputError(
                f"worlds has shape {tuple(worlds.shape)}; it must be [n, {self.model.num_variables}], n > 0"
            )
        if row_weights is None:
            weights = torch.ones(len(known), dtype=self.scores.dtype, device=self.scores.device)
        else:
            weights = row_weights.to(self.scores)
        good = weights.shape == (len(known),) and bool((weights.isfinite() & (weights >= 0)).all())
        if not good or not bool(weights.sum() > 0):
            raise InputError(f"row_weights must be {len(known)} finite numbers >= 0, not all 0")
        distinct, index = torch.unique(known, dim=0, return_inverse=True)
        return _Rows(distinct, weights.new_zeros(len(distinct)).index_add_(0, index, weights), index)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        parametric = self.model.parametric
        return f"variables={self.model.num_variables}, parameters={parametric.num_parameters}, sums={parametric.num_groups}"
