"""Bounds of the concepts of an exclusive circuit.

P(k) = sum_c P(c) r_ck with r_ck = P(k | c) = sigmoid(logit q_k + ell_ck). Two bounds:

* *knapsack*: the class bounds hold [l_c, u_c] and sum to 1, so the sum is largest when as much mass as possible lies on
  the classes with the largest ell_ck (Dantzig, 1957). Their order does not depend on the box, so the mass of each upper
  set H of classes, min(u(H), 1 - l(not H)), is one matrix product for all concepts. Sound, not exact.
* *corner*: where P(k) is known to rise or fall in every other free concept (``ExclusivePlan.directions``), the best
  concept corner does not depend on the classes. With independent class weights W_c, P(k) is then the mean of r_ck
  under W_c G_c, largest where W_c is at its upper end for exactly the classes above some threshold of ell_ck. With one
  categorical variable, pi on box and simplex, it is a linear-fractional program (Charnes and Cooper, 1962), solved
  exactly by :func:`neurosym.circuits.boxes.fractional.largest_ratio`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.exclusive_classes import CERTAIN, log_weight
from neurosym.circuits.boxes.exclusive_plan import ExclusivePlan, Sensors
from neurosym.circuits.boxes.fractional import largest_ratio

RELATIVE_SLACK = 2.0**-40
"""Added to bounds that are not corners; covers sums of 2^10 terms of relative error 2^-50."""
EXACT_GAP = 1e-10


@dataclass(frozen=True)
class _Levels:
    """Upper sets of classes: of column j, the classes with ell_ck >= ``high[j]``, k = ``concept[j]``; J columns.

    Attributes:
        high, low: consecutive values of ell_ck, [J].
        inside: float64[K, J], 1 for the classes of the set.
        concept: int64[J].
        floor: float64[L], least ell of each concept.
    """

    high: NDArray[np.float64]
    low: NDArray[np.float64]
    inside: NDArray[np.float64]
    concept: NDArray[np.int64]
    floor: NDArray[np.float64]


def _levels(ell: NDArray[np.float64]) -> _Levels:
    high, low, inside, concept = [], [], [np.zeros((ell.shape[0], 0))], []
    for k in range(ell.shape[1]):
        values = np.unique(ell[:, k])
        for below, value in itertools.pairwise(values):
            high.append(value)
            low.append(below)
            inside.append((ell[:, k] >= value)[:, None].astype(float))
            concept.append(k)
    return _Levels(
        np.array(high),
        np.array(low),
        np.hstack(inside),
        np.array(concept, dtype=np.int64),
        ell.min(axis=0, initial=0.0),
    )


def _given(logit: Tensor, ell: NDArray[np.float64], largest: bool) -> Tensor:
    """sigmoid(logit + ell), 1 or 0 where that is undefined (an impossible class)."""
    value = torch.sigmoid(logit + torch.as_tensor(ell, device=logit.device))
    return torch.where(value.isnan(), float(largest), value)


def knapsack(plan: ExclusivePlan, sensors: Sensors, classes: tuple[Tensor, Tensor], largest: bool) -> Tensor:
    """One side of the bounds of all concepts, [n, L]."""
    ell = plan.form.ell_high if largest else plan.form.ell_low
    if ell.shape[0] == 0:
        return sensors.log_pos.new_zeros(sensors.log_pos.shape[:2])
    levels = plan.cached(f"levels {largest}", lambda: _levels(ell))
    device = sensors.log_pos.device
    end = int(largest)
    logit = sensors.log_pos[..., end] - sensors.log_neg[..., end]
    inside = torch.as_tensor(levels.inside, device=device)
    near, far = (classes[1], classes[0]) if largest else (classes[0], classes[1])
    own, rest = near @ inside, 1.0 - far @ (1.0 - inside)
    mass = torch.minimum(own, rest) if largest else torch.maximum(own, rest)
    at = torch.as_tensor(levels.concept, device=device)
    step = _given(logit[:, at], levels.high, largest) - _given(logit[:, at], levels.low, largest)
    # the lowest class of a concept may be undefined where the others are certain: then nothing is known of the step
    total = _given(logit, ell.min(axis=0), largest).index_add(1, at, step.clamp_min(0.0) * mass)
    return (total + RELATIVE_SLACK).clamp_max(1.0) if largest else (total - RELATIVE_SLACK).clamp_min(0.0)


def _corner_matrix(plan: ExclusivePlan, concept: int, largest: bool) -> Tensor:
    """[2 F, K]: values of both ends times this are log G_c at the best corner of the other concepts, without bases."""
    types = plan.types
    up = ((plan.directions[concept] == 1) == largest).astype(np.int64)
    made = np.zeros((2, types.concept.size, types.number.shape[0]))
    c, at = np.nonzero(types.number >= 0)
    keep = at != concept
    c, at = c[keep], at[keep]
    made[up[at], types.number[c, at], c] = 1.0
    return torch.as_tensor(made.reshape(-1, types.number.shape[0]))


def _corner_terms(plan: ExclusivePlan, sensors: Sensors, concept: int, largest: bool) -> Tensor:
    """log G_c at the best corner of the other concepts, [n, K]."""
    base = torch.as_tensor(np.where(plan.form.dead, -np.inf, plan.form.base), device=sensors.log_pos.device)
    values = sensors.values(plan)
    if values is not None:
        matrix = plan.cached(f"corner {concept} {largest}", lambda: _corner_matrix(plan, concept, largest))
        return torch.addmm(base, values, matrix.to(values.device))
    single = sensors.single
    up = torch.as_tensor((plan.directions[concept] == 1) == largest, device=single.device)
    picked = torch.where(up, single[..., 1], single[..., 0])
    picked[:, :, concept] = 0.0
    return picked.sum(dim=2) + base


def _independent(
    plan: ExclusivePlan, sensors: Sensors, concept: int, terms: Tensor, weights: tuple[Tensor, Tensor], largest: bool
) -> Tensor:
    """P(concept) at the best corner of independent class weights (log ends [n, K] each), [n]; NaN where undefined."""
    form = plan.form
    device = terms.device
    ell = form.ell_low[:, concept]
    thresholds = np.unique(ell[~form.dead])
    thresholds = thresholds[1:] if thresholds.size > 1 else thresholds
    end, found = int(largest), []
    for threshold in thresholds:
        favours = torch.as_tensor(ell >= threshold, device=device)
        weight = torch.where(favours == largest, weights[1], weights[0])
        # beside a certain class the others weigh nothing; adding logs to CERTAIN itself would cost their digits
        certain = weight == CERTAIN
        weight = torch.where(certain.any(dim=1, keepdim=True), torch.where(certain, 0.0, -torch.inf), weight) + terms
        on = torch.logsumexp(weight + torch.as_tensor(form.log_on[:, concept], device=device), dim=1)
        off = torch.logsumexp(weight + torch.as_tensor(form.log_off[:, concept], device=device), dim=1)
        found.append(torch.sigmoid(on - off + sensors.log_pos[:, concept, end] - sensors.log_neg[:, concept, end]))
    if not found:
        return torch.full_like(terms[:, 0], torch.nan)
    values = torch.stack(found)
    # amax and amin pass NaN on, so that one undefined threshold withdraws the claim
    return values.amax(dim=0) if largest else values.amin(dim=0)


def _on_simplex(
    plan: ExclusivePlan, sensors: Sensors, concept: int, terms: Tensor, pi: tuple[Tensor, Tensor], largest: bool
) -> tuple[Tensor, Tensor]:
    """(bound, exact) of P(concept) with pi on box and simplex, [n] each."""
    form, end = plan.form, int(largest)
    on = terms + torch.as_tensor(form.log_on[:, concept], device=terms.device) + sensors.log_pos[:, concept, end, None]
    off = (
        terms + torch.as_tensor(form.log_off[:, concept], device=terms.device) + sensors.log_neg[:, concept, end, None]
    )
    top = torch.maximum(on, off).masked_fill(pi[1] == 0, -torch.inf).amax(dim=1, keepdim=True)
    top = torch.where(top.isfinite(), top, 0.0)
    on, off = (on - top).exp(), (off - top).exp()
    outer, inner = largest_ratio(*pi, on if largest else off, off if largest else on)
    exact = outer - inner <= EXACT_GAP
    return (outer, exact) if largest else (1.0 - outer, exact)


def concept_bounds(
    plan: ExclusivePlan, sensors: Sensors, box: WeightBox, classes: tuple[Tensor, Tensor], categorical: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(lower, upper, exact) of all concepts, [n, L] each; ``classes`` are the bounds of the posteriors."""
    k = len(plan.form.classes)
    lower, upper = (knapsack(plan, sensors, classes, largest) for largest in (False, True))
    free = box.free[:, k:]
    exact = torch.zeros_like(free)
    if plan.form.blocks:
        return lower, upper, exact
    pi = box.pos_lo[:, :k], box.pos_hi[:, :k]
    weights = log_weight(pi[0], box.neg_lo[:, :k]), log_weight(pi[1], box.neg_hi[:, :k])
    unknown = torch.as_tensor(plan.directions == 2, dtype=torch.float64, device=free.device)
    sure = free.to(torch.float64) @ unknown.T == 0
    for concept in sure.any(dim=0).nonzero()[:, 0].tolist():
        good, ends = sure[:, concept], []
        for largest in (False, True):
            terms = _corner_terms(plan, sensors, concept, largest)
            if categorical:
                value, right = _on_simplex(plan, sensors, concept, terms, pi, largest)
                ends.append((value, ~value.isnan()))
                good = good & right
            else:
                value = _independent(plan, sensors, concept, terms, weights, largest)
                ends.append((value, ~value.isnan()))
                good = good & ~value.isnan()
        (low, low_known), (high, high_known) = ends
        if categorical:
            # sound whether exact or not
            use = sure[:, concept]
            lower[:, concept] = torch.where(
                use & low_known, torch.maximum(low - RELATIVE_SLACK, lower[:, concept]), lower[:, concept]
            )
            upper[:, concept] = torch.where(
                use & high_known, torch.minimum(high + RELATIVE_SLACK, upper[:, concept]), upper[:, concept]
            )
        else:
            lower[:, concept] = torch.where(good, low, lower[:, concept])
            upper[:, concept] = torch.where(good, high, upper[:, concept])
        exact[:, concept] = good
    return lower, upper, exact
