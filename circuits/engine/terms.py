"""Closed form of disjoint-term knowledge: the worlds fall into K terms, each a conjunction of literals.

With w(T_kv) the weight of variable v in term k (positive literal, negative literal, or their sum where v is free),

    log Z = logsumexp_k (c_k + sum_v log w(T_kv)),

one matrix product. Each variable gets its most common state as base, so that most of the K x m entries drop out. With
share_k = exp(log term_k - log Z), the mass of a state of v is the sum of the shares of the terms in that state, and

    dZ/dpos_v / Z = mass(v true) / pos_v + mass(v free) / (pos_v + neg_v).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.evaluate import Evaluator, Gradient, empty_gradient
from neurosym.circuits.engine.kernel import Weights

TRUE, FALSE, FREE = 1, 0, -1
STATES = (TRUE, FALSE, FREE)
CHUNK_VALUES = 1 << 20
"""Entries of the largest table (rows x terms or rows x columns) worked on at once."""


@dataclass(frozen=True)
class _Matrices:
    """On one device, in one dtype: ``moves`` [J, K] of states other than the base, ``full`` [F, K] of all states."""

    moves: Tensor
    full: Tensor
    constant: Tensor


class TermMatrix:
    """Evaluation of K disjoint terms over m variables.

    Args:
        terms: int8[K, m]; 1 true, 0 false, -1 free.
        log_constants: float64[K], log weight of each term beside its literals.
    """

    def __init__(self, terms: NDArray[np.int8], log_constants: NDArray[np.float64] | None = None) -> None:
        self.num_terms, self.num_variables = terms.shape
        self.log_constants = np.zeros(self.num_terms) if log_constants is None else log_constants
        indicator = np.stack([terms == state for state in STATES])
        counts = indicator.sum(axis=1)
        self.base = counts.argmax(axis=0)
        moved = (counts > 0) & (np.arange(3)[:, None] != self.base)
        self.move_state, self.move_variable = np.nonzero(moved)
        self.full_state, self.full_variable = np.nonzero(counts > 0)
        self._moves = indicator[self.move_state, :, self.move_variable]
        self._full = indicator[self.full_state, :, self.full_variable]
        self.uses_free = bool(counts[2].any())
        self._made: dict[tuple[torch.device, torch.dtype], _Matrices] = {}
        self._index: dict[torch.device, dict[str, Tensor]] = {}

    def _at(self, like: Tensor) -> _Matrices:
        key = (like.device, like.dtype)
        if key not in self._made:
            moves, full = (torch.as_tensor(x).to(like) for x in (self._moves, self._full))
            self._made[key] = _Matrices(moves, full, torch.as_tensor(self.log_constants).to(like))
        return self._made[key]

    def _columns(self, device: torch.device) -> dict[str, Tensor]:
        if device not in self._index:
            m = self.num_variables
            host = {
                "move": self.move_state * m + self.move_variable,
                "move_base": self.base[self.move_variable] * m + self.move_variable,
                "base": self.base * m + np.arange(m),
                "full": self.full_state * m + self.full_variable,
            }
            self._index[device] = {name: torch.as_tensor(x, device=device) for name, x in host.items()}
        return self._index[device]

    def _states(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Weights of all states, [B, 3m]: true, false, free (zeros where no term leaves anything free)."""
        total = pos + neg if self.uses_free else torch.zeros_like(pos)
        return torch.cat([pos, neg, total], dim=1)

    def log_terms(self, pos: Tensor, neg: Tensor) -> Tensor:
        """Log weight of every term, [B, K]; -inf where a literal of the term has weight 0."""
        fixed, at = self._at(pos), self._columns(pos.device)
        weights = self._states(pos, neg)
        logs = weights.log()
        used = logs.index_select(1, at["full"])
        if bool((used == -torch.inf).any()):
            zero = used == -torch.inf
            found = used.masked_fill(zero, 0.0) @ fixed.full + fixed.constant
            return found.masked_fill(zero.to(pos.dtype) @ fixed.full > 0, -torch.inf)
        base = logs.index_select(1, at["base"])
        moves = logs.index_select(1, at["move"]) - logs.index_select(1, at["move_base"])
        return torch.addmm(fixed.constant, moves, fixed.moves) + base.sum(dim=1, keepdim=True)

    def rows(self, batch: int) -> int:
        """Rows worked on at once."""
        return max(1, min(batch, CHUNK_VALUES // max(1, self.num_terms, 3 * self.num_variables)))

    def masses(self, share: Tensor) -> Tensor:
        """Probability of each state of each variable from the shares of the terms (any [B, K]): [B, 3m]."""
        fixed, at = self._at(share), self._columns(share.device)
        out = share.new_zeros((share.shape[0], 3 * self.num_variables))
        return out.index_copy_(1, at["full"], share @ fixed.full.t())

    def expected(self, gain: Tensor, free_gain: Tensor) -> Tensor:
        """sum_v gain_v [v true in k] + free_gain_v [v free in k] for each term, [B, K]."""
        fixed, at = self._at(gain), self._columns(gain.device)
        grid = torch.cat([gain, torch.zeros_like(gain), free_gain], dim=1)
        return grid.index_select(1, at["full"]) @ fixed.full


class TermEvaluator:
    """Evaluation through a term matrix; rows that it cannot do go to ``general``.

    Those are, for gradients, rows with a weight of 0: the derivative with respect to that weight is finite, but not a
    quotient of a mass by the weight.
    """

    def __init__(self, matrix: TermMatrix, general: Evaluator) -> None:
        self.matrix, self.general = matrix, general

    def _pieces(self, weights: Weights) -> Iterator[slice]:
        step = self.matrix.rows(weights.batch)
        return (slice(i, min(i + step, weights.batch)) for i in range(0, weights.batch, step))

    def _shares(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """Shares of the terms [B, K] (NaN without a world), and log Z [B]."""
        logs = self.matrix.log_terms(weights.pos, weights.neg)
        top = logs.amax(dim=1, keepdim=True)
        share = logs.sub_(top).exp_()
        total = share.sum(dim=1, keepdim=True)
        log_value = (total.log() + top)[:, 0]
        return share.div_(total), torch.where(top[:, 0] == -torch.inf, top[:, 0], log_value)

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]."""
        out = weights.pos.new_empty(weights.batch)
        for rows in self._pieces(weights):
            out[rows] = self.matrix.log_terms(weights.pos[rows], weights.neg[rows]).logsumexp(dim=1)
        return out

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and its derivatives."""
        out, m = empty_gradient(weights), self.matrix.num_variables
        out.constants.zero_()
        for rows in self._pieces(weights):
            part = weights.rows(rows)
            share, out.log_value[rows] = self._shares(part)
            mass = self.matrix.masses(share)
            torch.div(mass[:, :m], part.pos, out=out.on[rows])
            torch.div(mass[:, m : 2 * m], part.neg, out=out.off[rows])
            if self.matrix.uses_free:
                free = mass[:, 2 * m :] / (part.pos + part.neg)
                out.on[rows] += free
                out.off[rows] += free
        bad = _unusable(weights) | (out.log_value == -torch.inf)
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            out.put(index, self.general.gradient(weights.rows(index)))
        return out

    def log_derivatives(self, weights: Weights) -> Gradient:
        """log Z and the logs of the derivatives of Z, from the circuit."""
        return self.general.log_derivatives(weights)

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]."""
        out, m = torch.empty_like(weights.pos), self.matrix.num_variables
        for rows in self._pieces(weights):
            part = weights.rows(rows)
            mass = self.matrix.masses(self._shares(part)[0])
            out[rows] = mass[:, :m]
            if self.matrix.uses_free:
                total = part.pos + part.neg
                out[rows] += mass[:, 2 * m :] * torch.where(total > 0, part.pos / total, 0.0)
        return out

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j): the covariance of S = sum_j gain_j x_j with each leaf, over its weight."""
        out, m = empty_gradient(weights), self.matrix.num_variables
        out.constants.zero_()
        for rows in self._pieces(weights):
            part, own = weights.rows(rows), gain[rows]
            total = part.pos + part.neg
            rho = part.pos / total
            share, _ = self._shares(part)
            given = self.matrix.expected(own, own * rho)
            mean = (share * given).sum(dim=1, keepdim=True)
            moved = self.matrix.masses(share * (given - mean))
            out.on[rows], out.off[rows] = moved[:, :m] / part.pos, moved[:, m : 2 * m] / part.neg
            if self.matrix.uses_free:
                free = self.matrix.masses(share)[:, 2 * m :]
                out.on[rows] += (moved[:, 2 * m :] + own * (1 - rho) * free) / total
                out.off[rows] += (moved[:, 2 * m :] - own * rho * free) / total
        bad = _unusable(weights) | ~torch.isfinite(out.on).all(dim=1)
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            on, off, _ = self.general.marginals_gradient(weights.rows(index), gain[index])
            out.on[index], out.off[index] = on, off
        return out.on, out.off, out.constants


def _unusable(weights: Weights) -> Tensor:
    """Rows with a weight so small that a mass divided by it means nothing, bool[B]."""
    least = torch.finfo(weights.pos.dtype).tiny
    return (torch.minimum(weights.pos, weights.neg) <= least).any(dim=1)
