"""Queries of a circuit with edge parameters, given as log parameters [C] for all rows or [..., C] for each row.

The partition function is 1, so the likelihood of a world is the product of the parameters on its path: a circuit that is
deterministic has exactly one, read off by an upward and a downward pass with all parameters 1. That path depends on the
world alone; repeated worlds (class labels) are traced once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from neurosym.circuits.circuit import Circuit
from neurosym.circuits.component import CompiledKnowledge, working
from neurosym.circuits.engine.logspace import trace, upward
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.ir import CircuitIR
from neurosym.circuits.learning.parametric import ParametricIR, parametric_knowledge, with_edge_parameters
from neurosym.errors import InputError
from neurosym.logic.knowledge import KnowledgeBase

FLOW_VALUES = 8_000_000
"""Entries of a table rows x parameters worked on at once."""

LARGEST_LOGIT = 300.0
"""A larger logit (of either sign) counts as this one: no predicate is ever ruled out by the network alone."""
CONTRADICTION = "the circuit, together with the given values,"


class ParametricCircuit:
    """A parametric circuit and its evaluation; variables are predicates 0..m-1, worlds are bool or 0/1/-1 tensors.

    Attributes:
        parametric: structure and groups of the parameters.
        circuit: the circuit of all queries.
    """

    def __init__(self, parametric: ParametricIR) -> None:
        self.parametric = parametric
        self.circuit = Circuit(parametric.ir)
        self.num_variables = parametric.ir.num_variables
        self.num_parameters = parametric.num_parameters
        self.initial = torch.from_numpy(parametric.initial.copy())

    def __deepcopy__(self, memo: dict[int, Any]) -> ParametricCircuit:
        """Itself: nothing in it changes, so averaged copies of a network may share it."""
        return self

    def __reduce__(self) -> tuple[type[ParametricCircuit], tuple[ParametricIR]]:
        """Rebuilt from the structure in another process."""
        return ParametricCircuit, (self.parametric,)

    @classmethod
    def build(cls, source: KnowledgeBase | CompiledKnowledge | Circuit | CircuitIR | ParametricIR) -> ParametricCircuit:
        """From whatever describes the worlds; see :func:`with_edge_parameters` and :func:`parametric_knowledge`."""
        if isinstance(source, ParametricIR):
            return cls(source)
        if isinstance(source, Circuit | CircuitIR):
            return cls(with_edge_parameters(source.ir if isinstance(source, Circuit) else source))
        return cls(parametric_knowledge(source))

    def normalise(self, scores: Tensor) -> Tensor:
        """Log parameters from scores, see :meth:`ParametricIR.normalise`."""
        return self.parametric.normalise(scores)

    def observed(self, worlds: Tensor) -> Tensor:
        """Checked worlds as int64[..., m] with -1 for unknown.

        Raises:
            InputError: another width or other values.
        """
        if worlds.ndim == 0 or worlds.shape[-1] != self.num_variables:
            raise InputError(
                f"worlds has shape {tuple(worlds.shape)}; its last dimension must be the {self.num_variables} predicates"
            )
        known = worlds.to(torch.int64)
        wrong = (known < -1) | (known > 1) | (known != worlds)
        if bool(wrong.any()):
            row, column = (int(i) for i in wrong.reshape(-1, self.num_variables).nonzero()[0])
            raise InputError(f"worlds: row {row}, column {column} is not 1 (true), 0 (false) or -1 (unknown)")
        return known

    def flows(self, worlds: Tensor) -> Tensor:
        """Which parameters the likelihood of each complete world multiplies, bool[..., C].

        Raises:
            InputError: an unknown value, or a world that violates the rules (names the row); a circuit that is not
                deterministic.
        """
        known = self.observed(worlds)
        if bool((known < 0).any()):
            raise InputError("worlds has unknown values (-1); this needs complete worlds")
        rows = known.reshape(-1, self.num_variables)
        step = max(1, FLOW_VALUES // max(1, self.circuit.ir.num_nodes))
        pieces = [self._flows(rows[i : i + step], i) for i in range(0, len(rows), step)]
        if not pieces:
            return torch.zeros((*known.shape[:-1], self.num_parameters), dtype=torch.bool, device=known.device)
        return torch.cat(pieces).reshape(*known.shape[:-1], self.num_parameters)

    def _flows(self, known: Tensor, first: int) -> Tensor:
        ones = torch.zeros(len(known), self.num_parameters, device=known.device)
        counts, paths = self._slopes(*_literals(known), ones, first)
        if bool((paths > 0.5).any()):
            raise InputError("the circuit counts a world twice (it is not deterministic); compile it with neurosym")
        return counts > 0.5

    def _slopes(self, pos: Tensor, neg: Tensor, log_parameters: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """d log Z / d log theta [..., C], the posterior probability of each edge, and log Z [...]."""
        leaf = working(log_parameters.detach()).expand(*pos.shape[:-1], self.num_parameters).requires_grad_()
        with torch.enable_grad():
            found = self.circuit.log_wmc(pos, neg, log_constants=self._constants(leaf))
            _refuse_violation(found, first)
            slopes = torch.autograd.grad(found.sum(), leaf)[0] if self.num_parameters else torch.zeros_like(leaf)
        return slopes, found.detach()

    def _constants(self, log_parameters: Tensor) -> Tensor | None:
        """The parameters as constants of the circuit; None where the rules leave one world and hence no parameter."""
        return log_parameters if self.num_parameters else None

    def log_likelihood(self, log_parameters: Tensor, worlds: Tensor, logits: Tensor | None = None) -> Tensor:
        """log P(worlds), float[...]; unknown values are summed over; differentiable in the parameters and logits.

        Args:
            log_parameters: [C] or [..., C].
            worlds: [..., m], broadcast against the rows of ``log_parameters``.
            logits: [..., m]; a world counts sigmoid(z_j) for each predicate that holds and sigmoid(-z_j) for each that does
                not, besides its parameters, and probabilities are normalised over the worlds of the circuit.

        Raises:
            InputError: wrong shapes or values, or a row that violates the rules (probability 0 for all parameters).
        """
        known = self.observed(worlds).to(log_parameters.device)
        if bool((known < 0).any()):
            pos, neg = self._weights(log_parameters, known, logits)
            found = self.circuit.log_wmc(pos, neg, log_constants=self._constants(log_parameters))
            if bool((found == -torch.inf).any()):  # a parameter of 0 is no error, a violated rule is
                _refuse_violation(self.circuit.log_wmc(*_literals(known)).expand(found.shape))
        else:
            found = self._path_likelihood(log_parameters, known)
            if logits is not None:
                signs = working(2.0 * known.float() - 1.0)
                found = found + nn.functional.logsigmoid(signs * _bounded(logits)).sum(dim=-1)
        if logits is None:
            return found
        pos, neg = self._weights(log_parameters, None, logits)
        return found - self.circuit.log_wmc(pos, neg, log_constants=self._constants(log_parameters))

    def _path_likelihood(self, log_parameters: Tensor, known: Tensor) -> Tensor:
        """Log of the product of parameters on the path of each complete world, [...]."""
        rows, index = torch.unique(known.reshape(-1, self.num_variables), dim=0, return_inverse=True)
        try:
            used = self.flows(rows)
        except InconsistentEvidence as error:
            row = int((index == error.row).nonzero()[0])
            raise InconsistentEvidence(row, CONTRADICTION) from None
        index = index.reshape(known.shape[:-1])
        if log_parameters.ndim == 1:
            return _path_sum(log_parameters, used)[index]
        return _path_sum(log_parameters, used[index])

    def marginals(self, log_parameters: Tensor, evidence: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
        """P(x_j = 1 | evidence), float[..., m]; differentiable in the parameters (and logits, see above).

        Raises:
            InputError: wrong shape or values.
            InconsistentEvidence: evidence of probability 0; names the row.
        """
        pos, neg = self._weights(log_parameters, evidence, logits)
        found = self.circuit.marginals(pos, neg, log_constants=self._constants(log_parameters))
        _refuse_violation(torch.where(found.detach().isnan().any(dim=-1), -torch.inf, 0.0))
        return found

    def expected_flows(self, log_parameters: Tensor, evidence: Tensor) -> tuple[Tensor, Tensor]:
        """(P(edge is used | evidence) [..., C], log P(evidence) [...]); no gradient.

        Raises:
            InputError, InconsistentEvidence: as for :meth:`marginals`.
        """
        pos, neg = self._weights(log_parameters, evidence)
        return self._slopes(pos, neg, log_parameters)

    def mpe(self, log_parameters: Tensor, evidence: Tensor | None = None, logits: Tensor | None = None) -> Tensor:
        """Most probable world of each row, bool[..., m]; it always obeys the rules.

        Raises:
            InputError, InconsistentEvidence: as for :meth:`marginals`.
        """
        (worlds,) = self._trace(self._weights(log_parameters, evidence, logits), log_parameters, None, 0)
        return worlds

    def sample(
        self,
        log_parameters: Tensor,
        num_samples: int,
        evidence: Tensor | None = None,
        generator: torch.Generator | None = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        """Independent worlds of each row given the evidence, bool[num_samples, ..., m].

        Raises:
            InputError, InconsistentEvidence: as for :meth:`marginals`; ``num_samples`` < 1.
        """
        if num_samples < 1:
            raise InputError(f"num_samples is {num_samples}; it must be at least 1")
        return self._trace(self._weights(log_parameters, evidence, logits), log_parameters, generator, num_samples)

    def _weights(
        self, log_parameters: Tensor, evidence: Tensor | None, logits: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Literal weights [..., m] for all rows: of the logits (all 1 without), 0 where the evidence excludes them."""
        if log_parameters.ndim == 0 or log_parameters.shape[-1] != self.num_parameters:
            raise InputError(
                f"parameters of shape {tuple(log_parameters.shape)}; the last dimension must be {self.num_parameters}"
            )
        if evidence is None:
            known = torch.full((self.num_variables,), -1, device=log_parameters.device)
        else:
            known = self.observed(evidence).to(log_parameters.device)
        shape = torch.broadcast_shapes(log_parameters.shape[:-1], known.shape[:-1])
        pos, neg = _literals(known)
        if logits is not None:
            shape = torch.broadcast_shapes(shape, logits.shape[:-1])
            pos, neg = pos * torch.sigmoid(_bounded(logits)), neg * torch.sigmoid(-_bounded(logits))
        return pos.expand(*shape, self.num_variables), neg.expand(*shape, self.num_variables)

    @torch.no_grad()
    def _trace(
        self, weights: tuple[Tensor, Tensor], log_parameters: Tensor, generator: torch.Generator | None, repeats: int
    ) -> Tensor:
        """Best worlds (``repeats`` = 0) or samples, bool[max(repeats, 1), ..., m], some rows at a time."""
        pos, neg = weights
        shape, plan = pos.shape[:-1], self.circuit.plan
        log_pos, log_neg = (w.reshape(-1, self.num_variables).t().log() for w in (pos, neg))
        batch = log_pos.shape[1]
        constants = working(log_parameters).expand(*shape, self.num_parameters).reshape(batch, self.num_parameters).t()
        step = plan.chunk_rows(max(batch, 1), log_pos.device)
        pieces = [log_pos.new_zeros((max(repeats, 1), 0, self.num_variables), dtype=torch.bool)]
        for first in range(0, batch, step):
            part = slice(first, first + step)
            values = upward(plan, log_pos[:, part], log_neg[:, part], repeats == 0, constants[:, part])
            _refuse_violation(values[plan.num_nodes - 1], first)
            worlds = trace(plan, values, generator, repeats)
            pieces.append(worlds.reshape(max(repeats, 1), -1, self.num_variables))
        return torch.cat(pieces, dim=1).reshape(max(repeats, 1), *shape, self.num_variables)


def _literals(known: Tensor) -> tuple[Tensor, Tensor]:
    """Weights 1 of the literals that ``known`` allows, in working precision."""
    return working((known != 0).float()), working((known != 1).float())


def _bounded(logits: Tensor) -> Tensor:
    """Logits in working precision, within what keeps sigmoids and their products above 0."""
    return working(logits).clamp(-LARGEST_LOGIT, LARGEST_LOGIT)


def _path_sum(log_parameters: Tensor, used: Tensor) -> Tensor:
    """Sum of the log parameters on each path; a parameter of 0 off the path does not count."""
    return torch.where(used, working(log_parameters), 0.0).sum(dim=-1)


def _refuse_violation(log_value: Tensor, first: int = 0) -> None:
    """Refuse a row of probability 0."""
    empty = log_value.detach().reshape(-1) == -torch.inf
    if bool(empty.any()):
        raise InconsistentEvidence(first + int(empty.nonzero()[0]), CONTRADICTION)
