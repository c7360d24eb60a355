"""Bounds of the class posteriors of an exclusive circuit.

The posterior of class c is 1 / (1 + sum_{d != c} w_d T_d / (w_c T_c)). It rises with w_c and falls with w_d, where w is
the odds pi / (1 - pi) for binary sensors (exactly-one divides by prod_d (1 - pi_d)) and pi itself for one categorical
variable, see :mod:`neurosym.circuits.boxes.simplex`. Every ratio T_d / T_c is a product of functions of single q_k, each
monotone. So the sum of the separately optimised ratios is a sound bound, and it is attained (*exact*) when for every
concept k that is free the rivals agree: ell_dk - ell_ck has one sign over all d != c. With equal weights per concept
this always holds (COLEP's "class implies attribute" rules). Where they disagree about f concepts, both ends of those are
tried, 2^f corners, and the others stay at their common best end: exact again.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.exclusive_plan import ExclusivePlan, Sensors, log_ratios
from neurosym.circuits.boxes.simplex import extreme_share, extreme_share_of

CERTAIN = 1e6
"""Log-odds that stand for certainty: beyond every finite weight, so that exp(difference) is 0 or infinite."""
MAX_CONFLICTS = 10
"""Largest number of free concepts about which the rivals of a class disagree: 2^10 corners."""
CHUNK_VALUES = 1 << 20


def log_weight(pos: Tensor, neg: Tensor) -> Tensor:
    """log odds of a class, +-CERTAIN or -inf at certainty."""
    return torch.where(neg == 0, CERTAIN, pos.log() - neg.log())


def _share(rival: Tensor, own: Tensor, ratio: Tensor, skip: Tensor) -> Tensor:
    """1 / (1 + sum_d exp(rival_d - own + ratio_d)) without the entries ``skip``; ``ratio`` is overwritten.

    Args:
        rival, own: log weights, broadcasting against ``ratio`` [..., K]; ``own`` has a last axis of 1.
        ratio: log T_d / T_c, [..., K].
        skip: bool[..., K], the class itself.
    """
    if bool(torch.isfinite(own).all()) and bool(torch.isfinite(rival).all()) and bool((ratio < torch.inf).all()):
        total = ratio.add_(rival).sub_(own).masked_fill_(skip, -torch.inf).exp_().sum(dim=-1)
        return 1.0 / (1.0 + total)
    terms = rival - own + ratio
    impossible = (own == -torch.inf) | (ratio == torch.inf)
    terms = torch.where(impossible, torch.inf, terms)
    terms = torch.where((rival == -torch.inf) & ~impossible, -torch.inf, terms)
    # the class's own entry only remembers that it has weight 0
    terms = torch.where(skip & ~impossible, -torch.inf, terms)
    return torch.sigmoid(-torch.logsumexp(terms, dim=-1))


def class_posteriors(plan: ExclusivePlan, box: WeightBox, sensors: Sensors, categorical: bool) -> tuple[Tensor, Tensor]:
    """Both sides of the class bounds, [n, K] each."""
    k = len(plan.form.classes)
    low, high = (box.pos_lo[:, :k], box.neg_lo[:, :k]), (box.pos_hi[:, :k], box.neg_hi[:, :k])
    greatest, least = log_ratios(plan, sensors)
    if categorical:
        return extreme_share(low[0], high[0], greatest, False), extreme_share(low[0], high[0], least, True)
    bottom, top = log_weight(*low), log_weight(*high)
    diagonal = torch.eye(k, dtype=torch.bool, device=greatest.device)
    return (
        _share(top[:, None, :], bottom[:, :, None], greatest, diagonal),
        _share(bottom[:, None, :], top[:, :, None], least, diagonal),
    )


def class_exact(plan: ExclusivePlan, free: Tensor) -> Tensor:
    """bool[n, K]: no free concept on which the rivals pull in different directions; ``free`` bool[n, L]."""
    clash = torch.as_tensor(plan.clash, dtype=torch.float64, device=free.device)
    return free.to(torch.float64) @ clash.T == 0


def _corner_ratios(plan: ExclusivePlan, sensors: Sensors, c: int, conflicts: list[int], largest: bool) -> Tensor:
    """log T_d / T_c with the conflicting concepts at all their corners and the others at the common end, [n, A, K]."""
    device = sensors.log_pos.device
    numbers = torch.arange(1 << len(conflicts), device=device)
    ends = torch.as_tensor(plan.common_ends(largest)[c], device=device).repeat(numbers.numel(), 1)
    ends[:, conflicts] = (numbers[:, None] >> torch.arange(len(conflicts), device=device)) & 1 == 1
    single = sensors.single
    others = torch.ones(ends.shape[1], dtype=torch.bool, device=device)
    others[conflicts] = False
    low, high = single[..., 0], single[..., 1]
    common = torch.where(ends[0], high, low)[:, :, others].sum(dim=2)
    table = common[:, None, :] + torch.as_tensor(plan.form.base, device=device)
    for k in conflicts:
        table = table + torch.where(ends[None, :, k, None], high[:, None, :, k], low[:, None, :, k])
    for block in plan.form.blocks:
        table[:, :, block.owner] += sensors.block(block, ends[:, list(block.members)])
    own = table[:, :, c : c + 1]
    return torch.where(own == -torch.inf, torch.inf, table - own)


def _class_at_corners(
    plan: ExclusivePlan, box: WeightBox, c: int, conflicts: list[int], categorical: bool, largest: bool
) -> Tensor:
    """One side of the bound of class c with all corners of the conflicting concepts, [n]."""
    k = len(plan.form.classes)
    ratio = _corner_ratios(plan, Sensors.of(plan.form, box), c, conflicts, largest)
    low, high = (box.pos_lo[:, :k], box.neg_lo[:, :k]), (box.pos_hi[:, :k], box.neg_hi[:, :k])
    if categorical:
        value = extreme_share_of(c, low[0], high[0], ratio, largest)
    else:
        own, rival = (log_weight(*x) for x in ((high, low) if largest else (low, high)))
        skip = torch.zeros(k, dtype=torch.bool, device=ratio.device)
        skip[c] = True
        value = _share(rival[:, None, :], own[:, None, c : c + 1], ratio, skip)
    return value.amax(dim=1) if largest else value.amin(dim=1)


def resolve_conflicts(
    plan: ExclusivePlan, box: WeightBox, categorical: bool, budget: int, ends: tuple[Tensor, Tensor], exact: Tensor
) -> None:
    """Replace class bounds that are not exact by exact ones where at most ``budget`` corners are needed, in place.

    Args:
        ends: lower and upper, [n, K] each.
        exact: bool[n, K].
    """
    k = len(plan.form.classes)
    for c in (~exact).any(dim=0).nonzero()[:, 0].tolist():
        clash = torch.as_tensor(plan.clash[c], device=exact.device)
        rows = (~exact[:, c]).nonzero()[:, 0]
        masks, member = torch.unique(box.free[rows, k:] & clash, dim=0, return_inverse=True)
        for g in range(masks.shape[0]):
            conflicts = masks[g].nonzero()[:, 0].tolist()
            if len(conflicts) > MAX_CONFLICTS or 1 << len(conflicts) > budget:
                continue
            for some in rows[member == g].split(max(1, CHUNK_VALUES // (k << len(conflicts)))):
                part = box.take(some)
                for side, largest in enumerate((False, True)):
                    ends[side][some, c] = _class_at_corners(plan, part, c, conflicts, categorical, largest)
                exact[some, c] = True
