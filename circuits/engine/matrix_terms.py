"""Evaluation of disjoint terms through a matrix product, on any device."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from neurosym.circuits.engine.evaluate import Evaluator
from neurosym.circuits.engine.kernel import Gradient, Weights, empty_gradient
from neurosym.circuits.engine.terms import FREE, TRUE, Mass, TermMatrix


class MatrixTerms:
    """Evaluation through a term matrix on any device; rows that it cannot do go to ``general``.

    Those are, for gradients, rows with a weight of 0: the derivative with respect to that weight is finite, but not a
    quotient of a mass by the weight.
    """

    def __init__(self, matrix: TermMatrix, general: Evaluator) -> None:
        self.matrix, self.general = matrix, general

    def _pieces(self, weights: Weights) -> Iterator[slice]:
        step = self.matrix.rows(weights.batch)
        return (slice(i, min(i + step, weights.batch)) for i in range(0, weights.batch, step))

    def log_value(self, weights: Weights) -> Tensor:
        """log Z, [B]."""
        out = weights.pos.new_empty(weights.batch)
        for rows in self._pieces(weights):
            out[rows] = _log_sum(*self.matrix.log_terms(weights.pos[rows], weights.neg[rows]))[1]
        bad = ~out.isfinite()
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            for some in index.split(self.matrix.rows(index.numel())):
                exact = self.matrix.log_terms_exact(weights.pos[some], weights.neg[some])
                out[some] = exact.logsumexp(dim=1)
        return out

    def gradient(self, weights: Weights) -> Gradient:
        """log Z and its derivatives."""
        out = empty_gradient(weights)
        out.constants.zero_()
        bad = torch.zeros(weights.batch, dtype=torch.bool, device=weights.pos.device)
        for rows in self._pieces(weights):
            part = weights.rows(rows)
            share, out.log_value[rows] = _log_sum(*self.matrix.log_terms(part.pos, part.neg))
            true, false, free = self.matrix.masses(share)
            for masses, weight, grad in ((true, part.pos, out.on[rows]), (false, part.neg, out.off[rows])):
                _divide(masses, weight, grad)
            for at, mass in free:
                mass = mass / (part.pos + part.neg)[:, at]
                out.on[rows, at] += mass
                out.off[rows, at] += mass
            bad[rows] = _unusable(part)
        bad |= ~out.log_value.isfinite()
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            out.put(index, self.general.gradient(weights.rows(index)))
        return out

    def best(self, weights: Weights) -> tuple[Tensor, Tensor]:
        """log weight of the heaviest world, [B] (-inf where there is none), and the world, bool[B, m]."""
        out = weights.pos.new_empty(weights.batch)
        world = torch.empty(weights.pos.shape, dtype=torch.bool, device=out.device)
        terms = torch.from_numpy(self.matrix.terms).to(out.device)
        for rows in self._pieces(weights):
            pos, neg = weights.pos[rows], weights.neg[rows]
            out[rows], which = self.matrix.log_terms_exact(pos, neg, torch.maximum(pos, neg)).max(dim=1)
            state = terms[which]
            world[rows] = torch.where(state == FREE, pos > neg, state == TRUE)
        return out, world

    def marginals(self, weights: Weights) -> Tensor:
        """P(x_j = 1), [B, m]; NaN where no world is left."""
        out = torch.empty_like(weights.pos)
        bad = torch.zeros(weights.batch, dtype=torch.bool, device=weights.pos.device)
        for rows in self._pieces(weights):
            part = weights.rows(rows)
            share, value = _log_sum(*self.matrix.log_terms(part.pos, part.neg))
            out[rows], bad[rows] = self._posterior(part, share), ~value.isfinite()
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            for some in index.split(self.matrix.rows(index.numel())):
                part = weights.rows(some)
                share, value = _log_sum(self.matrix.log_terms_exact(part.pos, part.neg))
                out[some] = self._posterior(part, share).masked_fill(value.isnan()[:, None], torch.nan)
        return out

    def _posterior(self, weights: Weights, share: Tensor) -> Tensor:
        true, _, free = self.matrix.masses(share)
        out = share.new_zeros(weights.pos.shape)
        for at, mass in true:
            out[:, at] = mass
        for at, mass in free:
            pos, total = weights.pos[:, at], (weights.pos + weights.neg)[:, at]
            out[:, at] += mass * torch.where(total > 0, pos / total, 0.0)
        return out

    def marginals_gradient(self, weights: Weights, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient of sum_j gain_j P(x_j): the covariance of S = sum_j gain_j x_j with each leaf, over its weight."""
        out = empty_gradient(weights)
        out.constants.zero_()
        bad = torch.zeros(weights.batch, dtype=torch.bool, device=weights.pos.device)
        for rows in self._pieces(weights):
            part, own = weights.rows(rows), gain[rows]
            total = part.pos + part.neg
            rho = part.pos / total
            share, value = _log_sum(*self.matrix.log_terms(part.pos, part.neg))
            given = self.matrix.expected(own, own * rho)
            mean = (share * given).sum(dim=1, keepdim=True)
            moved = self.matrix.masses(share, share * (given - mean))
            _divide(moved[0], part.pos, out.on[rows])
            _divide(moved[1], part.neg, out.off[rows])
            for (at, mass), (_, change) in zip(self.matrix.masses(share)[2], moved[2], strict=True):
                out.on[rows, at] += (change + (own * (1 - rho))[:, at] * mass) / total[:, at]
                out.off[rows, at] += (change - (own * rho)[:, at] * mass) / total[:, at]
            bad[rows] = _unusable(part) | ~value.isfinite()
        if bool(bad.any()):
            index = bad.nonzero()[:, 0]
            on, off, _ = self.general.marginals_gradient(weights.rows(index), gain[index])
            out.on[index], out.off[index] = on, off
        return out.on, out.off, out.constants


def _log_sum(logs: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Shares exp(log term - log Z), in place of ``logs`` [B, K], and log Z [B]; NaN without a world.

    ``shift`` [B, 1] is added to all logs.
    """
    top = logs.amax(dim=1, keepdim=True)
    share = logs.sub_(top).exp_()
    total = share.sum(dim=1, keepdim=True)
    value = total.log() + top
    return share.div_(total), (value if shift is None else value + shift)[:, 0]


def _divide(masses: list[Mass], weight: Tensor, out: Tensor) -> None:
    """Masses over weights, 0 for variables without a mass."""
    if sum(at.stop - at.start for at, _ in masses) < out.shape[1]:
        out.zero_()
    for at, mass in masses:
        torch.div(mass, weight[:, at], out=out[:, at])


def _unusable(weights: Weights) -> Tensor:
    """Rows with a weight so small that a mass divided by it means nothing, bool[B]."""
    least = torch.finfo(weights.pos.dtype).tiny
    if not weights.pos.numel() or float(torch.minimum(weights.pos.min(), weights.neg.min())) > least:
        return torch.zeros(weights.batch, dtype=torch.bool, device=weights.pos.device)
    return torch.minimum(weights.pos.amin(dim=1), weights.neg.amin(dim=1)) <= least
