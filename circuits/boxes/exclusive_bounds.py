"""Bounds for the exclusive circuit in closed form.

With Z = sum_c w_c T_c (:mod:`neurosym.circuits.boxes.exclusive_form`) classes come first
(:mod:`neurosym.circuits.boxes.exclusive_classes`) and the concepts from them (:mod:`.exclusive_concepts`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.exclusive_classes import class_exact, class_posteriors, resolve_conflicts
from neurosym.circuits.boxes.exclusive_concepts import concept_bounds
from neurosym.circuits.boxes.exclusive_form import ExclusiveForm
from neurosym.circuits.boxes.exclusive_plan import ExclusivePlan, Sensors
from neurosym.circuits.boxes.simplex import SUM_TOLERANCE

CHUNK_VALUES = 1 << 18
"""Pairs of classes times rows worked on at once: stays in the second-level cache."""


def surely_possible(form: ExclusiveForm, box: WeightBox, categorical: bool) -> Tensor:
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


def exclusive_extrema(plan: ExclusivePlan, box: WeightBox, categorical: bool, budget: int) -> ComponentBounds:
    """Bounds of classes and concepts of an exclusive component.

    Args:
        plan: the component as a mixture over classes.
        box: weights of its literals, in the component's order (classes first).
        categorical: class weights are pi on the simplex, else the odds of independent sensors.
        budget: corners for each class and row whose rivals disagree about a concept.

    Returns:
        Classes are exact where the sign condition holds or the conflicts fit the budget; concepts where all directions
        are known. [0, 1] and not exact in rows whose box may contain impossible evidence.
    """
    lower, upper = torch.empty_like(box.pos_lo), torch.empty_like(box.pos_lo)
    exact = torch.zeros_like(box.free)
    k, length = len(plan.form.classes), len(plan.form.concepts)
    for rows, part in box.chunks(CHUNK_VALUES // max(k * k, 2 * length, 1)):
        sensors = Sensors.of(plan.form, part)
        ends = class_posteriors(plan, part, sensors, categorical)
        known = class_exact(plan, part.free[:, k:])
        resolve_conflicts(plan, part, categorical, budget, ends, known)
        lower[rows, :k], upper[rows, :k], exact[rows, :k] = ends[0], ends[1], known
        found = concept_bounds(plan, sensors, part, ends, categorical)
        lower[rows, k:], upper[rows, k:], exact[rows, k:] = found
    return ComponentBounds(lower, upper, exact).where_possible(surely_possible(plan.form, box, categorical))
