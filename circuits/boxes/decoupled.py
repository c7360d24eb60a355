"""The published decoupled bound (COLEP, Theorem 1), kept for comparison: sound on bipartite rules, not tight.

For predicate j, V_d the other antecedents (classes) and V_s the other consequents (concepts),

    upper_j = 1 / (1 + (1 - hi_j) Z0(V_d = hi, V_s = lo) / (hi_j Z1(V_d = lo, V_s = hi)))
    lower_j = 1 / (1 + (1 - lo_j) Z0(V_d = lo, V_s = hi) / (lo_j Z1(V_d = hi, V_s = lo)))

where Z_b is the worlds' sum with mu_j = b, without sensor j's own factor (Kang, Guerel, Li, Li, "COLEP: Certifiably
robust learning-reasoning conformal prediction via probabilistic circuits", 2024, Theorem 1). Numerator and denominator
use different corners. The proof needs every predicate to be always antecedent or always consequent: then Z_b falls with
every antecedent and rises with every consequent. On chains ``a -> b -> c`` it is violated, so they are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import ComponentBounds, WeightBox
from neurosym.circuits.boxes.monotone import implied_literals
from neurosym.errors import InputError
from neurosym.logic.formula import to_text

if TYPE_CHECKING:
    from neurosym.circuits.compile import CompiledKnowledge, Component, Factor

RELATIVE_SLACK = 2.0**-33
"""Added to the log-odds: four log partition functions of magnitude up to 2^10 through at most 2^9 operations."""


def _class_to_concept(factor: Factor, num_classes: int, what: str) -> tuple[int, int, int]:
    """(class, concept, polarity) of a rule ``class -> literal concept``."""
    if factor.group is not None or factor.formula is None:
        name = factor.group.name if factor.group is not None else "?"
        raise InputError(f"bound='decoupled': {what} group {name!r} is not a rule class -> concept; use bound='exact'")
    form = implied_literals(factor.formula)
    place = dict(zip(factor.names, factor.scope, strict=True))
    if form is not None and len(form[1]) == 1:
        (left, left_true), ((right, right_true),) = form
        if place[left] >= num_classes and place[right] < num_classes:
            # the contrapositive: ~concept -> ~class
            left, left_true, right, right_true = right, not right_true, left, not left_true
        if left_true and place[left] < num_classes <= place[right]:
            return place[left], place[right], 1 if right_true else -1
    raise InputError(
        f"bound='decoupled': rule '{to_text(factor.formula)}' is not class -> concept with one literal on each side, "
        "which the published bound needs; use bound='exact'"
    )


def antecedent_signs(compiled: CompiledKnowledge) -> NDArray[np.int8]:
    """Direction of every worlds' sum in every sensor, int8[V]: -1 for antecedents and for concepts that rules negate.

    Raises:
        InputError: a rule or group of another form, or a concept that rules both assert and negate; names the rule.
    """
    if compiled.circuit != "rules":
        raise InputError(
            "bound='decoupled' is defined for circuit='rules'; use bound='exact' for the exclusive circuit"
        )
    signs = np.zeros(compiled.kb.num_predicates, dtype=np.int8)
    for part in compiled.parts:
        own = np.zeros_like(signs)
        for component in part.components:
            for factor in component.factors:
                head, tail, polarity = _class_to_concept(factor, compiled.kb.num_classes, f"circuit {part.name!r}")
                if own[tail] not in (0, polarity) and factor.formula is not None:
                    raise InputError(
                        f"bound='decoupled': rule '{to_text(factor.formula)}' and another one give concept "
                        f"{compiled.kb.predicates[tail]!r} opposite signs; use bound='exact'"
                    )
                own[head], own[tail] = -1, polarity
        signs = np.where(own != 0, own, signs)
    return signs


def _component_signs(component: Component, num_classes: int) -> list[int]:
    signs = dict.fromkeys(component.variables, -1)
    for factor in component.factors:
        _, tail, polarity = _class_to_concept(factor, num_classes, "")
        signs[tail] = polarity
    return [signs[v] for v in component.variables]


def _log_sum(component: Component, pos: Tensor, neg: Tensor, target: int, value: int) -> Tensor:
    """log Z_b of eq. (4): ``target`` held at ``value`` with weight 1; [n]."""
    pos, neg = pos.clone(), neg.clone()
    pos[:, target], neg[:, target] = float(value), float(1 - value)
    with torch.no_grad():
        return component.log_partition(pos.log(), neg.log())


def decoupled_extrema(
    component: Component, box: WeightBox, num_classes: int, targets: Sequence[int]
) -> ComponentBounds:
    """Equation (4) for one component; never claimed exact.

    Args:
        component: only rules class -> literal concept (see :func:`antecedent_signs`).
        box: weights of its literals.
        num_classes: K.
        targets: positions of the variables to bound; the others get [0, 1].
    """
    up = torch.tensor(_component_signs(component, num_classes), device=box.pos_lo.device) > 0
    great, small = box.corner(up), box.corner(~up)
    lower, upper = torch.zeros_like(box.pos_lo), torch.ones_like(box.pos_lo)
    for j in targets:
        top = _log_sum(component, *great, j, 1) - _log_sum(component, *small, j, 0) + RELATIVE_SLACK
        bottom = _log_sum(component, *small, j, 1) - _log_sum(component, *great, j, 0) - RELATIVE_SLACK
        upper[:, j] = torch.sigmoid(top + box.pos_hi[:, j].log() - box.neg_hi[:, j].log())
        lower[:, j] = torch.sigmoid(bottom + box.pos_lo[:, j].log() - box.neg_lo[:, j].log())
    unknown = lower.isnan() | upper.isnan()
    return ComponentBounds(
        torch.where(unknown, 0.0, lower), torch.where(unknown, 1.0, upper), torch.zeros_like(box.free)
    )
