"""The same scores and sets for tensors outside the CPU's memory: sorted, summed and compared where they are.

Sums run over the classes one by one, each step one addition for all rows of a block, so that they are taken in the
defining order (``rules``) and do not depend on how a device schedules a scan.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from neurosym.certify.conformal.arrays import ABOVE_ONE, blocks, refuse

if TYPE_CHECKING:
    import torch

    from neurosym.certify.conformal.rules import Score

DEVICE_CELLS = 1 << 23  # a block of 8 M numbers: 64 MB in float64


def _sorted(block: torch.Tensor, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values in descending order and their places; the range is checked at both ends."""
    import torch

    values, order = torch.sort(block, dim=1, descending=True)  # NaN counts as the largest value
    bad = ~((values[:, -1] >= 0.0) & (values[:, 0] <= 1.0 + ABOVE_ONE))
    if bool(bad.any()):
        row = int(torch.nonzero(bad)[0, 0])
        refuse(start + row, float(values[row, -1]), float(values[row, 0]))
    return values, order


def positions(values: torch.Tensor, u: torch.Tensor, rule: Score) -> torch.Tensor:
    """Scores at the positions of rows in descending order, float64 ``[b, K]``; see ``rules.positions``."""
    import torch

    ranked = values.double()
    u = u[:, None]
    if rule.kind == "saps":
        steps = torch.arange(-1, ranked.shape[1] - 1, device=values.device, dtype=torch.float64) + u
        scores = ranked[:, :1] + steps * rule.weight
        scores[:, :1] = u * ranked[:, :1]
        return scores
    columns = ranked.T.contiguous()
    for j in range(1, columns.shape[0]):
        columns[j] += columns[j - 1]
    scores = columns.T - ranked
    scores = scores + u * ranked
    extra = rule.extra(ranked.shape[1])
    return scores if extra is None else scores + torch.as_tensor(extra, device=values.device)


def every_score(block: torch.Tensor, u: torch.Tensor, rule: Score, start: int = 0) -> torch.Tensor:
    """Scores of all labels, float64 ``[b, K]``."""
    import torch

    values, order = _sorted(block, start)
    if rule.kind == "lac":
        return 1.0 - block.double()
    scores = positions(values, u, rule)
    column = torch.arange(values.shape[1], device=values.device).expand(values.shape)
    fresh = torch.ones_like(values, dtype=torch.bool)
    fresh[:, 1:] = values[:, 1:] != values[:, :-1]
    first = torch.cummax(torch.where(fresh, column, torch.zeros_like(column)), dim=1).values
    return torch.empty_like(scores).scatter_(1, order, scores.gather(1, first))


def label_scores(probs: torch.Tensor, truth: np.ndarray, uniform: np.ndarray, rule: Score) -> torch.Tensor:
    """Scores of the true labels, float64 ``[n]`` on the device of ``probs``."""
    import torch

    u, labels = torch.as_tensor(uniform.copy(), device=probs.device), torch.as_tensor(truth, device=probs.device)
    out = torch.empty(probs.shape[0], dtype=torch.float64, device=probs.device)
    for rows in blocks(len(probs), probs.shape[1], DEVICE_CELLS):
        own = probs[rows].gather(1, labels[rows, None])
        values, _ = _sorted(probs[rows], rows.start)
        if rule.kind == "lac":
            out[rows] = 1.0 - own[:, 0].double()
            continue
        first = (values > own).sum(dim=1, keepdim=True)
        out[rows] = positions(values, u[rows], rule).gather(1, first)[:, 0]
    return out


def prediction_sets(
    probs: torch.Tensor,
    limit: np.ndarray,
    uniform: np.ndarray,
    rule: Score,
    allow_empty: bool,
    lac_cut: Callable[[np.ndarray, np.dtype], np.ndarray],
) -> torch.Tensor:
    """Sets of the most probable labels, bool ``[n, K]`` on the device of ``probs``; see ``sets.prediction_sets``."""
    import torch

    q, u = (torch.as_tensor(x.copy(), device=probs.device) for x in (limit, uniform))
    out = torch.empty(probs.shape, dtype=torch.bool, device=probs.device)
    wide = np.dtype(np.float64 if probs.dtype == torch.float64 else np.float32)
    cuts = torch.as_tensor(lac_cut(limit, wide), device=probs.device) if rule.kind == "lac" else None
    for rows in blocks(len(probs), probs.shape[1], DEVICE_CELLS):
        if cuts is not None:
            largest, smallest = probs[rows].amax(dim=1), probs[rows].amin(dim=1)
            if not bool(((smallest >= 0.0) & (largest <= 1.0 + ABOVE_ONE)).all()):
                _sorted(probs[rows], rows.start)  # names the row
            own = cuts if cuts.shape[0] == 1 else cuts[rows]
            cut = own if allow_empty else torch.minimum(own, largest.to(cuts.dtype))
            torch.ge(probs[rows], cut[:, None], out=out[rows])
            continue
        values, _ = _sorted(probs[rows], rows.start)
        good = positions(values, u[rows], rule) <= q[rows, None]
        place = torch.arange(1, good.shape[1] + 1, device=probs.device)
        count = torch.where(good, place, torch.zeros_like(place)).amax(dim=1)
        if not allow_empty:
            count = count.clamp(min=1)
        last = values.gather(1, (count - 1).clamp(min=0)[:, None])
        last = torch.where(count[:, None] > 0, last, torch.full_like(last, torch.inf))
        torch.ge(probs[rows], last, out=out[rows])
    return out


def class_sets(
    probs: torch.Tensor, limit: np.ndarray, uniform: np.ndarray, rule: Score, allow_empty: bool
) -> torch.Tensor:
    """Sets with a threshold for each class, bool ``[n, K]`` on the device of ``probs``."""
    import torch

    q, u = (torch.as_tensor(x.copy(), device=probs.device) for x in (limit, uniform))
    out = torch.empty(probs.shape, dtype=torch.bool, device=probs.device)
    for rows in blocks(len(probs), probs.shape[1], DEVICE_CELLS):
        block = probs[rows]
        out[rows] = every_score(block, u[rows], rule, rows.start) <= q
        if not allow_empty:
            empty = ~out[rows].any(dim=1, keepdim=True)
            out[rows] |= empty & (block == block.amax(dim=1, keepdim=True))
    return out


def searched(
    probs: torch.Tensor,
    uniform: np.ndarray,
    rule: Score,
    count: Callable[[torch.Tensor, slice], torch.Tensor],
) -> torch.Tensor:
    """``count`` of the scores of each block of rows, put together: float64 ``[n, K]`` on the device of ``probs``."""
    import torch

    u = torch.as_tensor(uniform.copy(), device=probs.device)
    out = torch.empty(probs.shape, dtype=torch.float64, device=probs.device)
    for rows in blocks(len(probs), probs.shape[1], DEVICE_CELLS):
        out[rows] = count(every_score(probs[rows], u[rows], rule, rows.start), rows)
    return out
