"""Rule weights learnt from data by maximum (conditional) likelihood.

The model is P(mu | p; w) proportional to prod_j p_j^mu_j (1-p_j)^(1-mu_j) prod_h exp(w_h [mu |= rule h]) over the worlds that
obey the hard rules. Every soft rule gets an indicator predicate theta_h with the hard rule theta_h <-> rule h, whose
literals weigh 1 and exp(-w_h) (Chavira and Darwiche, "On probabilistic inference by weighted model counting", 2008). The
circuit therefore does not depend on the weights: it is compiled once, and the weights get gradients like any literal
weight. For complete worlds the gradient is (share of data that satisfies rule h) - E[rule h holds], and the log likelihood is
concave in w (Richardson and Domingos, "Markov logic networks", 2006, section 5).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from neurosym.circuits.compile import check_probabilities, compile, mixing_weights, weighted_marginals
from neurosym.circuits.component import CircuitName, ClassKind, Part, working
from neurosym.circuits.errors import InconsistentEvidence
from neurosym.circuits.queries.worlds import evidence_tensor, select_part
from neurosym.errors import InputError
from neurosym.logic.formula import Iff, Not, Var
from neurosym.logic.knowledge import KnowledgeBase, Rule

SMALLEST_START = 0.01
"""Where a weight of 0 starts if weights are kept >= 0: softplus has no slope at 0 for training to follow."""
SOFTPLUS_FLOOR = -40.0
"""Raw value that stands for weight 0 where weights are kept >= 0."""


@dataclass(frozen=True)
class WeightFit:
    """How a fit of rule weights went.

    Attributes:
        log_likelihood: mean log likelihood of a row after each iteration, the start first.
        converged: the optimiser met its tolerance.
        gradient_norm: largest absolute entry of the projected gradient of the objective at the end.
        at_limit: rules (numbers in the knowledge base) whose weight stopped at the limit.
    """

    log_likelihood: tuple[float, ...]
    converged: bool
    gradient_norm: float
    at_limit: tuple[int, ...]


class LearnableRules(nn.Module):
    """The correction of :class:`~neurosym.circuits.CircuitLayer` with trainable weights of the soft rules.

    Args:
        kb: the knowledge base; its finite weights are the start, its hard rules and groups stay as they are.
        circuit, class_kind: as in ``compile``.
        nonnegative: keep weights >= 0 (softplus; weights of 0 start at 0.01); otherwise a negative weight favours worlds that violate the rule.
        max_seconds, max_nodes: limits of the compilation.

    Attributes:
        rules: numbers of the soft rules in the knowledge base, in the order of the weights.
        raw: the parameter, float64[H]; the weights themselves, or their inverse softplus.

    Raises:
        InputError: no soft rule.
        CompileLimit: a limit was reached.
    """

    def __init__(
        self,
        kb: KnowledgeBase,
        circuit: CircuitName = "rules",
        class_kind: ClassKind = "binary",
        *,
        nonnegative: bool = True,
        max_seconds: float = 60.0,
        max_nodes: int = 2_000_000,
    ) -> None:
        super().__init__()
        self.kb = kb
        self.nonnegative = nonnegative
        self.rules = tuple(h for h, rule in enumerate(kb.rules) if not rule.hard)
        if not self.rules:
            raise InputError("every rule is hard, so there is no weight to learn; give a rule a finite weight")
        extended = with_indicators(kb, self.rules)
        self.compiled = compile(extended, circuit, class_kind, max_seconds=max_seconds, max_nodes=max_nodes)
        self.shares = torch.from_numpy(mixing_weights(self.compiled))
        start = torch.tensor([kb.rules[h].weight for h in self.rules], dtype=torch.float64)
        self.raw = nn.Parameter(self._to_raw(start.clamp_min(SMALLEST_START) if nonnegative else start))

    @property
    def weights(self) -> Tensor:
        """Weights of the soft rules, [H]; differentiable."""
        return nn.functional.softplus(self.raw) if self.nonnegative else self.raw

    def _to_raw(self, weights: Tensor) -> Tensor:
        if not self.nonnegative:
            return weights
        return torch.where(weights > 0, weights + (-torch.expm1(-weights)).log(), SOFTPLUS_FLOOR).clamp_min(
            SOFTPLUS_FLOOR
        )

    def set_weights(self, weights: Tensor) -> None:
        """Set the weights of the soft rules, float[H].

        Raises:
            InputError: another number of weights, a negative one where they are kept >= 0, or one that is not finite.
        """
        weights = torch.as_tensor(weights, dtype=self.raw.dtype, device=self.raw.device)
        if weights.shape != self.raw.shape:
            raise InputError(f"weights has shape {tuple(weights.shape)}; there are {len(self.rules)} soft rules")
        if not bool(weights.isfinite().all()) or (self.nonnegative and bool((weights < 0).any())):
            raise InputError("weights must be finite, and >= 0 unless nonnegative=False")
        with torch.no_grad():
            self.raw.copy_(self._to_raw(weights))

    def _literals(self, p: Tensor, weights: Tensor, known: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Literal weights of predicates and indicators, [..., V + H]; those that ``known`` excludes weigh 0."""
        pos, neg = self.compiled.literal_weights(p)  # classes come first, so the layout of the extension fits
        if known is not None:
            pos = torch.where(known == 0, 0.0, pos)
            neg = torch.where(known == 1, 0.0, neg)
        off = torch.exp(-working(weights)).to(pos.device).expand(*pos.shape[:-1], len(self.rules))
        return torch.cat([pos, torch.ones_like(off)], dim=-1), torch.cat([neg, off], dim=-1)

    def forward(self, p: Tensor) -> Tensor:
        """Corrected probabilities [..., V] -> [..., V]; differentiable in ``p`` and in the weights.

        Raises:
            InputError: wrong shape, NaN, or a value outside [0, 1].
            InconsistentEvidence: the hard rules leave no world; names the row.
        """
        p = check_probabilities(p, self.kb.num_predicates)
        work = working(p)
        pos, neg = self._literals(work, self.weights)
        keep = torch.cat([work, work.new_ones(*work.shape[:-1], len(self.rules))], dim=-1)
        shares = self.shares.to(device=work.device, dtype=work.dtype)
        found = weighted_marginals(self.compiled, keep, pos, neg, shares)
        return found[..., : self.kb.num_predicates].to(p.dtype)

    def log_likelihood(self, p: Tensor, worlds: Tensor, evidence: Tensor | None = None) -> Tensor:
        """log P(worlds | evidence; p, w), float64[...]; differentiable in ``p`` and in the weights.

        Args:
            p: sensor probabilities float[..., V]; 0.5 everywhere makes a model of the worlds alone.
            worlds: 1 true, 0 false, -1 unobserved (summed over); bool or integer [..., V].
            evidence: the same for what is given and not to be predicted (conditional likelihood); a value in both must
                agree.

        Raises:
            InputError: wrong shapes or values; several circuits (their mixture is no distribution over worlds).
            InconsistentEvidence: a row of worlds (or evidence) has probability 0; names the row.
        """
        return self._log_likelihood(p, worlds, evidence, self.weights)

    def _log_likelihood(self, p: Tensor, worlds: Tensor, evidence: Tensor | None, weights: Tensor) -> Tensor:
        part = select_part(self.compiled, None)
        p = working(check_probabilities(p, self.kb.num_predicates))
        known = evidence_tensor(self.kb, worlds).to(p.device)
        given = None
        if evidence is not None:
            given = evidence_tensor(self.kb, evidence).to(p.device)
            known = _joined(known, given)
        shape = torch.broadcast_shapes(p.shape, known.shape)
        p, known = p.expand(shape), known.expand(shape)
        below = self._log_count(part, *self._literals(p, weights, None if given is None else given.expand(shape)))
        _refuse_empty(below, "without the observed worlds")
        above = self._log_count(part, *self._literals(p, weights, known))
        _refuse_empty(above, "together with the observed worlds")
        return above - below

    def _log_count(self, part: Part, pos: Tensor, neg: Tensor) -> Tensor:
        total = torch.full(pos.shape[:-1], part.log_constant, dtype=pos.dtype, device=pos.device)
        inside: set[int] = set()
        for component in part.components:
            total = total + component.circuit.log_wmc(component.columns.take(pos), component.columns.take(neg))
            inside.update(component.variables)
        free = [v for v in range(pos.shape[-1]) if v not in inside]
        return total + (pos + neg)[..., free].log().sum(dim=-1)

    def fit(
        self,
        p: Tensor,
        worlds: Tensor,
        evidence: Tensor | None = None,
        *,
        l2: float = 0.0,
        limit: float = 10.0,
        max_iterations: int = 200,
        tolerance: float = 1e-6,
    ) -> WeightFit:
        """Set the weights to the maximum of mean log likelihood - l2/2 |w|^2, by L-BFGS with bounds.

        Args:
            p, worlds, evidence: as in :meth:`log_likelihood`.
            l2: strength of the Gaussian prior.
            limit: largest absolute weight. A rule that no observed world violates has no finite optimum; at 10 its
                violation is 22,000 times less likely than without the rule.
            tolerance: on the largest entry of the projected gradient.

        Raises:
            InputError, InconsistentEvidence: as for :meth:`log_likelihood`.
        """
        from scipy.optimize import minimize

        low = 0.0 if self.nonnegative else -limit
        start = self.weights.detach().cpu().double().clamp(low, limit).numpy()
        trail: list[float] = []
        mean = 0.0

        def objective(values: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal mean
            loss, gradient, mean = self._penalised(values, p.detach(), worlds, evidence, l2)
            return loss, gradient

        def note(_: np.ndarray) -> None:
            trail.append(mean)

        objective(start)
        note(start)
        options = {"maxiter": max_iterations, "gtol": tolerance, "ftol": 0.0}
        bounds = [(low, limit)] * start.size
        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, callback=note, options=options)
        self.set_weights(torch.from_numpy(found.x))
        slope = found.x - np.clip(found.x - found.jac, low, limit)
        norm = float(np.abs(slope).max())
        stopped = tuple(self.rules[i] for i in np.flatnonzero(np.abs(found.x) >= limit))
        return WeightFit(tuple(trail), bool(found.success or norm <= tolerance), norm, stopped)

    def _penalised(
        self, values: np.ndarray, p: Tensor, worlds: Tensor, evidence: Tensor | None, l2: float
    ) -> tuple[float, np.ndarray, float]:
        """(l2/2 |w|^2 - mean log likelihood, its gradient, mean log likelihood) at the weights ``values``."""
        weights = torch.tensor(values, dtype=torch.float64, device=p.device, requires_grad=True)
        with torch.enable_grad():
            mean = self._log_likelihood(p, worlds, evidence, weights).mean()
            loss = 0.5 * l2 * weights.square().sum() - mean
        (gradient,) = torch.autograd.grad(loss, weights)
        return float(loss.detach()), gradient.cpu().numpy().astype(np.float64), float(mean.detach())

    def to_knowledge(self) -> KnowledgeBase:
        """The knowledge base with the learnt weights; a negative weight w becomes ~(rule) with weight -w."""
        rules = list(self.kb.rules)
        for h, weight in zip(self.rules, self.weights.detach().tolist(), strict=True):
            formula = rules[h].formula
            rules[h] = replace(rules[h], formula=formula if weight >= 0 else Not(formula), weight=abs(weight))
        return replace(self.kb, rules=tuple(rules))

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"soft rules={len(self.rules)}, nonnegative={self.nonnegative}, nodes={self.compiled.size['nodes']}"


def with_indicators(kb: KnowledgeBase, rules: tuple[int, ...]) -> KnowledgeBase:
    """The knowledge base with a further concept for each listed rule, and the rule replaced by concept <-> rule (hard)."""
    taken, names = set(kb.predicates), []
    for h in rules:
        name = f"rule_{h}"
        while name in taken:
            name += "_"
        taken.add(name)
        names.append(name)
    changed = list(kb.rules)
    for h, name in zip(rules, names, strict=True):
        changed[h] = Rule(Iff(Var(name), kb.rules[h].formula), float("inf"), kb.rules[h].line)
    return replace(kb, concepts=(*kb.concepts, *names), rules=tuple(changed))


def _joined(known: Tensor, given: Tensor) -> Tensor:
    """Observed values of both; -1 where neither observes."""
    known, given = torch.broadcast_tensors(known, given)
    clash = (known >= 0) & (given >= 0) & (known != given)
    if bool(clash.any()):
        row, column = (int(i) for i in clash.reshape(-1, clash.shape[-1]).nonzero()[0])
        raise InputError(f"row {row}, column {column}: worlds and evidence differ; leave one of them unknown (-1)")
    return torch.where(given >= 0, given, known)


def _refuse_empty(log_count: Tensor, where: str) -> None:
    empty = log_count.detach().reshape(-1) == -torch.inf
    if bool(empty.any()):
        raise InconsistentEvidence(int(empty.nonzero()[0]), f"the knowledge base {where}")
