"""Which class wins everywhere in a box: exact for every pair of classes.

With one true class the posterior odds of two classes are w_c T_c / (w_d T_d), a product of functions of single sensors
(:mod:`neurosym.circuits.boxes.exclusive_form`). Its logarithm is a sum of functions of one sensor each, so its minimum
over the box is the sum of their minima, each at an end: no search, whatever the polarities of the rules. Class c wins at
every point of the box iff the minimum is positive for every rival d. Comparing bounds of the posteriors instead
(lower of c above upper of every d) is sound but refuses boxes in which c wins: it lets each side choose its own corner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.exclusive_bounds import surely_possible
from neurosym.circuits.boxes.exclusive_plan import ExclusivePlan, Sensors, exclusive_plan, log_ratios
from neurosym.circuits.boxes.simplex import simplex_margin, simplex_total
from neurosym.circuits.compile import as_compiled
from neurosym.errors import InputError

if TYPE_CHECKING:
    from neurosym.circuits.component import ClassKind, CompiledKnowledge
    from neurosym.logic.knowledge import KnowledgeBase

MARGIN_SLACK = 2.0**-33
"""Taken off every margin: sums of 2^10 logarithms of size up to 2^9, each within 2^-52 of its size."""
CHUNK_VALUES = 1 << 18


@dataclass(frozen=True)
class CertifiedArgmax:
    """The class that wins over a box.

    Attributes:
        winner: int64[...], the class with the largest margin.
        certified: bool[...]; the winner has the strictly largest posterior at every point of the box. It is False only
            if some point of the box lets another class tie or win (up to ``MARGIN_SLACK``), or may have no world.
        margin: float64[..., K]; least log of the posterior odds of each class against its strongest rival, over the box.
        rival: int64[..., K]; that rival (the class itself if it is the only one).
        exact: bool; the margins are minima, not just below them (rules with several concepts in one disjunction).
    """

    winner: Tensor
    certified: Tensor
    margin: Tensor
    rival: Tensor
    exact: bool


def _log_odds_independent(box: WeightBox, k: int) -> Tensor:
    """Greatest log w_d / w_c of independent class sensors, [n, K, K] indexed [row, c, d]; NaN for 0 / 0."""
    most = box.pos_hi[:, :k].log() - box.neg_hi[:, :k].log()
    least = box.pos_lo[:, :k].log() - box.neg_lo[:, :k].log()
    return most[:, None, :] - least[:, :, None]


def _log_odds_simplex(lower: Tensor, upper: Tensor) -> Tensor:
    """Greatest log pi_d / pi_c on box and simplex, [n, K, K] indexed [row, c, d].

    The other classes take between ``least`` and ``most``. Start at pi_c = l_c and pi_d = u_d: with too much mass d must
    give some back, with too little c must take more.
    """
    total = simplex_total(lower, upper)[:, None, None]
    margin = simplex_margin(lower.shape[1])
    l_c, u_d = lower[:, :, None], upper[:, None, :]
    least = (lower.sum(dim=1)[:, None, None] - lower[:, :, None] - lower[:, None, :]).clamp_min(0.0) - margin
    most = (upper.sum(dim=1)[:, None, None] - upper[:, :, None] - upper[:, None, :]).clamp_min(0.0) + margin
    d = torch.minimum(u_d, (total - least - l_c).clamp_min(0.0))
    c = torch.maximum(l_c, total - most - u_d)
    return d.log() - c.log()


def _margins(plan: ExclusivePlan, box: WeightBox, categorical: bool) -> tuple[Tensor, Tensor]:
    """(margin, rival) of every class, [n, K] each."""
    k = len(plan.form.classes)
    greatest, _ = log_ratios(plan, Sensors.of(plan.form, box))
    odds = _log_odds_simplex(box.pos_lo[:, :k], box.pos_hi[:, :k]) if categorical else _log_odds_independent(box, k)
    against = greatest + odds
    # 0 / 0: nothing is known of the pair
    against = torch.where(against.isnan(), torch.inf, against)
    diagonal = torch.eye(k, dtype=torch.bool, device=against.device)
    worst, rival = against.masked_fill(diagonal, -torch.inf).max(dim=2)
    rival = torch.where(worst == -torch.inf, torch.arange(k, device=rival.device), rival)
    return -worst, rival


def certified_argmax(
    knowledge: KnowledgeBase | CompiledKnowledge, lower: Tensor, upper: Tensor, class_kind: ClassKind = "binary"
) -> CertifiedArgmax:
    """The class that has the largest posterior at every point of a box of sensors, and by how much.

    Args:
        knowledge: knowledge base, or one compiled with ``circuit="exclusive"``.
        lower, upper: ends of the sensors' intervals, float[..., V].
        class_kind: as in :func:`neurosym.circuits.compile`; ignored when compiled already.

    Raises:
        InputError: a bad box; a circuit of rules; rules that do not factorise given the class.
    """
    from neurosym.circuits.boxes.bounds import prepare_box

    compiled = as_compiled(knowledge, "exclusive", class_kind)
    if compiled.circuit != "exclusive":
        raise InputError("certified_argmax needs one true class; compile with circuit='exclusive'")
    component = compiled.parts[0].components[0]
    k = compiled.kb.num_classes
    plan = exclusive_plan(component, k)
    if plan is None:
        raise InputError(
            "certified_argmax: given the class, some rules still tie concepts together; use bounds() and compare"
        )
    box, shape = prepare_box(compiled, lower, upper)
    own = box.columns(torch.tensor(component.variables, device=box.pos_lo.device))
    categorical = compiled.class_kind == "categorical"
    pieces = [_margins(plan, part, categorical) for _, part in own.chunks(CHUNK_VALUES // max(k * k, 1))]
    empty = (box.pos_lo.new_zeros((0, k)), torch.zeros((0, k), dtype=torch.long, device=box.pos_lo.device))
    margin, rival = (torch.cat(column) for column in zip(*(pieces or [empty]), strict=True))
    margin = margin - MARGIN_SLACK
    best, winner = margin.max(dim=1)
    certified = (best > 0) & surely_possible(plan.form, own, categorical)
    return CertifiedArgmax(
        winner.reshape(shape[:-1]),
        certified.reshape(shape[:-1]),
        margin.reshape(*shape[:-1], k),
        rival.reshape(*shape[:-1], k),
        not plan.form.blocks,
    )
