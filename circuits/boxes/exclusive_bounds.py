"""Bounds for the exclusive circuit in closed form.

With Z = sum_c w_c T_c (see :mod:`neurosym.circuits.boxes.exclusive_form`) the posterior of class c is
1 / (1 + sum_{d != c} w_d T_d / (w_c T_c)). It rises with w_c and falls with w_d, where w is the odds pi / (1 - pi) for
binary sensors (exactly-one divides by prod_d (1 - pi_d)) and pi itself for one categorical variable. Every ratio
T_d / T_c is a product of functions of single q_k, each monotone. So the sum of the separately optimised ratios is a sound
bound, and it is attained (*exact*) when for every concept k that is free the rivals agree: ell_dk - ell_ck has one sign
over all d != c. With equal weights per concept this always holds (COLEP's "class implies attribute" rules).

For categorical classes pi lies on box and simplex, see :mod:`neurosym.circuits.boxes.simplex`.

Concepts: P(k) = sum_c P(c) r_ck, r_ck = P(k | c) = sigmoid(logit q_k + ell_ck), is bounded by a fractional knapsack over
the class bounds; where every direction is known (``_concept_directions``) the corner itself is evaluated, which is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.exclusive_form import Block, ExclusiveForm
from neurosym.circuits.boxes.simplex import SUM_TOLERANCE, extreme_share, largest_mean

CERTAIN = 1e6
"""Log-odds that stand for certainty: beyond every finite weight, so that exp(difference) is 0 or infinite."""
RELATIVE_SLACK = 2.0**-40
"""Added to the knapsack bounds of concepts; covers sums of 2^10 terms of relative error 2^-50."""
CHUNK_VALUES = 1 << 21


@dataclass(frozen=True)
class _Ends:
    """Which end of q_k (True: upper) enters T_d and T_c in the ratio T_d / T_c; bool[K, K, L], indexed [c, d, k]."""

    rival: Tensor
    own: Tensor


def _pairwise(form: ExclusiveForm) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """T_d / T_c may (rise, fall) with q_k; bool[K, K, L] indexed [c, d, k]; False for d = c and for dead classes."""
    low, high = form.ell_low, form.ell_high
    rises = high[None, :, :] > low[:, None, :]
    falls = low[None, :, :] < high[:, None, :]
    alive = ~form.dead
    relevant = (alive[:, None] & alive[None, :] & ~np.eye(len(alive), dtype=bool))[:, :, None]
    return rises & relevant, falls & relevant


def _choose_ends(form: ExclusiveForm, largest: bool, device: torch.device) -> _Ends:
    rises, falls = _pairwise(form)
    responds_up = (form.ell_low + form.ell_high) > 0
    # ratio constant in q_k: any end will do, but not one at which a hard rule makes it 0 / 0
    own = np.where(rises & ~falls, not largest, np.where(falls & ~rises, largest, responds_up[:, None, :]))
    rival = own.copy()
    both = rises & falls
    # undecided (blocks only): numerator and denominator apart
    own = np.where(both, responds_up[:, None, :] == largest, own)
    rival = np.where(both, responds_up[None, :, :] != largest, rival)
    return _Ends(torch.as_tensor(rival, device=device), torch.as_tensor(own, device=device))


@dataclass(frozen=True)
class _Sensors:
    """Log literal weights of the concepts at both ends (last axis: 0 lower, 1 upper), [n, L, 2]."""

    form: ExclusiveForm
    log_pos: Tensor
    log_neg: Tensor

    @cached_property
    def single(self) -> Tensor:
        """log of alpha q + beta (1 - q), [n, K, L, 2]; exactly 0 where class and concept share no literal rule."""
        on = torch.as_tensor(self.form.log_on, device=self.log_pos.device)[None, :, :, None]
        off = torch.as_tensor(self.form.log_off, device=self.log_pos.device)[None, :, :, None]
        value = torch.logaddexp(on + self.log_pos[:, None], off + self.log_neg[:, None])
        return torch.where((on == 0) & (off == 0), 0.0, value)

    def block(self, block: Block, ends: Tensor) -> Tensor:
        """log of a (1 - u) + b u with member i at the end ``ends[t, i]``; [n, t]."""
        log_u = self.log_pos.new_zeros((self.log_pos.shape[0], ends.shape[0]))
        for i, (k, positive) in enumerate(zip(block.members, block.positive, strict=True)):
            literal = (self.log_pos if positive else self.log_neg)[:, k]
            log_u = log_u + torch.where(ends[None, :, i], literal[:, 1:], literal[:, :1])
        return torch.logaddexp(block.log_off + (-torch.expm1(log_u)).log(), block.log_on + log_u)


def _shared_ends(form: ExclusiveForm, ends: _Ends) -> Tensor | None:
    """bool[K, L] if each class uses one end for all its pairs wherever that matters and nothing is infinite."""
    finite = all(np.isfinite(x).all() for x in (form.base, form.log_on, form.log_off))
    rises, falls = _pairwise(form)
    if form.blocks or not finite or (rises.any(axis=1) & falls.any(axis=1)).any():
        return None
    decided = torch.as_tensor((rises | falls).any(axis=1), device=ends.own.device)
    matters = torch.as_tensor(rises | falls, device=ends.own.device)
    return torch.where(decided, (ends.own & matters).any(dim=1), ends.own[:, 0])


def _log_ratios(sensors: _Sensors, ends: _Ends) -> Tensor:
    """log T_d / T_c at the chosen ends, [n, K, K] indexed [row, c, d]; +inf where T_c = 0."""
    form, single = sensors.form, sensors.single
    n, k = single.shape[:2]
    base = torch.as_tensor(form.base, device=single.device)
    shared = _shared_ends(form, ends)
    if shared is not None:
        low, step = single[..., 0], single[..., 1] - single[..., 0]
        table = low.sum(dim=2)[:, None, :] + torch.einsum("ndk,ck->ncd", step, shared.to(step.dtype))
        own = torch.diagonal(table, dim1=1, dim2=2)[:, :, None]
        return table + base - own - base[:, None]
    rival = base.expand(n, k, k).clone()
    own = base[:, None].expand(n, k, k).clone()
    for concept in range(single.shape[2]):
        low, high = single[:, :, concept, 0], single[:, :, concept, 1]
        rival += torch.where(ends.rival[:, :, concept], high[:, None, :], low[:, None, :])
        own += torch.where(ends.own[:, :, concept], high[:, :, None], low[:, :, None])
    for block in form.blocks:
        at = torch.tensor(block.members, device=single.device)
        rival[:, :, block.owner] += sensors.block(block, ends.rival[:, block.owner][:, at])
        own[:, block.owner, :] += sensors.block(block, ends.own[block.owner][:, at])
    return torch.where(own == -torch.inf, torch.inf, rival - own)


def _log_weight(pos: Tensor, neg: Tensor) -> Tensor:
    """log odds of a class, +-CERTAIN or -inf at certainty."""
    return torch.where(neg == 0, CERTAIN, pos.log() - neg.log())


def _class_posteriors(
    form: ExclusiveForm, box: WeightBox, sensors: _Sensors, categorical: bool, largest: bool
) -> Tensor:
    """One side of the class bounds, [n, K]."""
    classes = torch.tensor(form.classes, device=box.pos_lo.device)
    part = box.columns(classes)
    ratio = _log_ratios(sensors, _choose_ends(form, largest, box.pos_lo.device))
    if categorical:
        return extreme_share(part.pos_lo, part.pos_hi, ratio, largest)
    low, high = _log_weight(part.pos_lo, part.neg_lo), _log_weight(part.pos_hi, part.neg_hi)
    own, rival = (high, low) if largest else (low, high)
    terms = rival[:, None, :] - own[:, :, None] + ratio
    impossible = (own == -torch.inf)[:, :, None] | (ratio == torch.inf)
    terms = torch.where(impossible, torch.inf, terms)
    terms = torch.where((rival == -torch.inf)[:, None, :] & ~impossible, -torch.inf, terms)
    diagonal = torch.eye(len(form.classes), dtype=torch.bool, device=terms.device)
    # the diagonal only remembers that the class itself has weight 0
    terms = torch.where(diagonal & ~impossible, -torch.inf, terms)
    return torch.sigmoid(-torch.logsumexp(terms, dim=2))


def _class_exact(form: ExclusiveForm, free: Tensor) -> Tensor:
    """bool[n, K]: no free concept on which the rivals pull in different directions; ``free`` bool[n, L]."""
    rises, falls = _pairwise(form)
    clash = torch.as_tensor(rises.any(axis=1) & falls.any(axis=1), dtype=torch.float64, device=free.device)
    return free.to(torch.float64) @ clash.T == 0


def _surely_possible(form: ExclusiveForm, box: WeightBox, categorical: bool) -> Tensor:
    """Rows in which Z > 0 all over the box, bool[n]."""
    device = box.pos_lo.device
    concepts = box.columns(torch.tensor(form.concepts, dtype=torch.long, device=device))
    part = box.columns(torch.tensor(form.classes, device=device))
    true, false = concepts.neg_hi == 0, concepts.pos_lo == 0
    fatal_on = torch.as_tensor(form.log_on == -np.inf, dtype=torch.float64, device=device)
    fatal_off = torch.as_tensor(form.log_off == -np.inf, dtype=torch.float64, device=device)
    empty = true.to(torch.float64) @ fatal_on.T + false.to(torch.float64) @ fatal_off.T > 0
    empty |= torch.as_tensor(form.dead, device=device)
    for block in form.blocks:
        if block.log_on == -np.inf:
            pins = [(true if p else false)[:, k] for k, p in zip(block.members, block.positive, strict=True)]
            empty[:, block.owner] |= torch.stack(pins).all(dim=0)
    nothing = ((part.pos_lo == 0) | empty).all(dim=1)
    if categorical:
        return ~(nothing & ((part.pos_hi * empty).sum(dim=1) >= 1 - SUM_TOLERANCE))
    certain = part.neg_hi == 0
    return ~(nothing | (certain.sum(dim=1) > 1) | (certain & empty).any(dim=1))


def _concept_directions(form: ExclusiveForm, concept: int) -> NDArray[np.int8] | None:
    """Direction of P(concept) in the other concepts' sensors, int8[L] (2: unknown); None if a class has none.

    P(k) rises with log(A / B), A / B = sum_c W_c alpha_ck / sum_c W_c beta_ck, the mean of exp(ell_ck) under weights
    W_c beta_ck. With two values of ell, classes of the larger one raise it and the others lower it. Raising q_m
    multiplies W_c by a function that is monotone in ell_cm, so A / B rises if ell_.k and ell_.m are ordered alike.
    """
    alive = ~form.dead
    ell = form.ell_low[alive]
    own = ell[:, concept]
    if form.blocks or np.unique(own).size > 2:
        return None
    order = np.sign((own[:, None] > own[None, :]).astype(int) - (own[:, None] < own[None, :]))
    directions = np.zeros(ell.shape[1], dtype=np.int8)
    for other in range(ell.shape[1]):
        column = ell[:, other]
        agree = order * ((column[:, None] > column[None, :]).astype(int) - (column[:, None] < column[None, :]))
        up, down = bool((agree > 0).any()), bool((agree < 0).any())
        directions[other] = 2 if up and down else int(up) - int(down)
    directions[concept] = 0
    return directions


def _concept_corner(
    sensors: _Sensors, concept: int, directions: NDArray[np.int8], low: Tensor, high: Tensor, largest: bool
) -> Tensor:
    """P(concept) at the corner that the directions name, [n]; ``low``, ``high`` log class weights [n, K]."""
    form, single = sensors.form, sensors.single
    device = single.device
    up = torch.as_tensor((directions == 1) == largest, device=device)
    picked = torch.where(up, single[..., 1], single[..., 0])
    picked[:, :, concept] = 0.0
    ell = form.ell_low[:, concept]
    favours = torch.as_tensor(ell == ell[~form.dead].max(initial=-np.inf), device=device)
    weight = torch.where(favours == largest, high, low)
    # beside a certain class the others weigh nothing; adding logs to CERTAIN itself would cost their digits
    certain = weight == CERTAIN
    weight = torch.where(certain.any(dim=1, keepdim=True), torch.where(certain, 0.0, -torch.inf), weight)
    weight = weight + torch.as_tensor(form.base, device=device) + picked.sum(dim=2)
    on = torch.logsumexp(weight + torch.as_tensor(form.log_on[:, concept], device=device), dim=1)
    off = torch.logsumexp(weight + torch.as_tensor(form.log_off[:, concept], device=device), dim=1)
    end = int(largest)
    return torch.sigmoid(on - off + sensors.log_pos[:, concept, end] - sensors.log_neg[:, concept, end])


def _conditional(sensors: _Sensors, concept: int, largest: bool) -> Tensor:
    """Bound of P(concept | class), [n, K]; 1 or 0 where the class is impossible."""
    end = int(largest)
    logit = sensors.log_pos[:, concept, end] - sensors.log_neg[:, concept, end]
    ell = sensors.form.ell_high if largest else sensors.form.ell_low
    value = torch.sigmoid(logit[:, None] + torch.as_tensor(ell[:, concept], device=logit.device))
    return torch.where(value.isnan(), float(largest), value)


def _concept_bounds(
    sensors: _Sensors, box: WeightBox, classes: tuple[Tensor, Tensor], categorical: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(lower, upper, exact) of all concepts, [n, L] each."""
    form = sensors.form
    part = box.columns(torch.tensor(form.classes, device=box.pos_lo.device))
    weights = _log_weight(part.pos_lo, part.neg_lo), _log_weight(part.pos_hi, part.neg_hi)
    shape = sensors.log_pos.shape[:2]
    lower, upper = box.pos_lo.new_empty(shape), box.pos_lo.new_empty(shape)
    exact = torch.zeros(shape, dtype=torch.bool, device=lower.device)
    free = box.free[:, len(form.classes) :]
    for k in range(shape[1]):
        top = largest_mean(*classes, _conditional(sensors, k, True)) + RELATIVE_SLACK
        bottom = -largest_mean(*classes, -_conditional(sensors, k, False)) - RELATIVE_SLACK
        directions = None if categorical else _concept_directions(form, k)
        if directions is not None:
            sure = ~(free & torch.as_tensor(directions == 2, device=free.device)).any(dim=1)
            high = _concept_corner(sensors, k, directions, *weights, largest=True)
            low = _concept_corner(sensors, k, directions, *weights, largest=False)
            sure &= ~(high.isnan() | low.isnan())
            top, bottom = torch.where(sure, high, top), torch.where(sure, low, bottom)
            exact[:, k] = sure
        lower[:, k], upper[:, k] = bottom, top
    return lower, upper, exact


def exclusive_extrema(form: ExclusiveForm, box: WeightBox, categorical: bool) -> ComponentBounds:
    """Bounds of classes and concepts of an exclusive component.

    Args:
        form: the component as a mixture over classes.
        box: weights of its literals, in the component's order (classes first).
        categorical: class weights are pi on the simplex, else the odds of independent sensors.

    Returns:
        classes are exact where the sign condition holds; concepts where all directions are known. [0, 1] and not exact
        in rows whose box may contain impossible evidence.
    """
    lower, upper = torch.empty_like(box.pos_lo), torch.empty_like(box.pos_lo)
    exact = torch.zeros_like(box.free)
    k = len(form.classes)
    chunk = CHUNK_VALUES // max(k * k, 2 * k * len(form.concepts), 1)
    for rows, part in box.chunks(chunk):
        log_pos = torch.stack([part.pos_lo[:, k:], part.pos_hi[:, k:]], dim=2).log()
        log_neg = torch.stack([part.neg_lo[:, k:], part.neg_hi[:, k:]], dim=2).log()
        sensors = _Sensors(form, log_pos, log_neg)
        bottom = _class_posteriors(form, part, sensors, categorical, largest=False)
        top = _class_posteriors(form, part, sensors, categorical, largest=True)
        lower[rows, :k], upper[rows, :k] = bottom, top
        exact[rows, :k] = _class_exact(form, part.free[:, k:])
        lower[rows, k:], upper[rows, k:], exact[rows, k:] = _concept_bounds(sensors, part, (bottom, top), categorical)
    return ComponentBounds(lower, upper, exact).where_possible(_surely_possible(form, box, categorical))
