"""What bounds of an exclusive circuit need to know before they see a box: directions, ends, and one matrix for each side.

Z = sum_c w_c T_c with T_c a product of functions of single concept sensors q_k (:mod:`.exclusive_form`). log T_d / T_c at
given ends of all sensors is a sum over the sensors of values that depend only on the sensor, its end and the *type* of
(class, concept), the pair of factors for q_k true and false. Rule sets have few types, so the ratios of all pairs of
classes are one product: rows [n, features] times a constant sparse matrix [features, K K].
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.boxes.box import WeightBox
from neurosym.circuits.boxes.exclusive_form import Block, ExclusiveForm, exclusive_form
from neurosym.circuits.circuit import Circuit

if TYPE_CHECKING:
    from neurosym.circuits.compile import Component

T = TypeVar("T")

MAX_FEATURES = 1200
"""Largest number of rows of the matrix; with more types than that the terms are added up one by one."""


@dataclass(frozen=True)
class Sensors:
    """Log literal weights of the concepts at both ends (last axis: 0 lower, 1 upper), [n, L, 2]."""

    form: ExclusiveForm
    log_pos: Tensor
    log_neg: Tensor

    @classmethod
    def of(cls, form: ExclusiveForm, box: WeightBox) -> Sensors:
        """From the component's box, classes first."""
        k = len(form.classes)
        return cls(
            form,
            torch.stack([box.pos_lo[:, k:], box.pos_hi[:, k:]], dim=2).log(),
            torch.stack([box.neg_lo[:, k:], box.neg_hi[:, k:]], dim=2).log(),
        )

    @cached_property
    def single(self) -> Tensor:
        """log of alpha q + beta (1 - q), [n, K, L, 2]; exactly 0 where class and concept share no literal rule."""
        on = torch.as_tensor(self.form.log_on, device=self.log_pos.device)[None, :, :, None]
        off = torch.as_tensor(self.form.log_off, device=self.log_pos.device)[None, :, :, None]
        value = torch.logaddexp(on + self.log_pos[:, None], off + self.log_neg[:, None])
        return torch.where((on == 0) & (off == 0), 0.0, value)

    @cached_property
    def _values(self) -> dict[int, Tensor | None]:
        return {}

    def values(self, plan: ExclusivePlan) -> Tensor | None:
        """log of alpha q + beta (1 - q) of all types at both ends, [n, 2 F]; None where one is infinite."""
        if id(plan) not in self._values:
            found = plan.types.values(self).flatten(1)
            self._values[id(plan)] = found if bool(torch.isfinite(found).all()) else None
        return self._values[id(plan)]

    def block(self, block: Block, ends: Tensor) -> Tensor:
        """log of a (1 - u) + b u with member i at the end ``ends[t, i]``; [n, t]."""
        log_u = self.log_pos.new_zeros((self.log_pos.shape[0], ends.shape[0]))
        for i, (k, positive) in enumerate(zip(block.members, block.positive, strict=True)):
            literal = (self.log_pos if positive else self.log_neg)[:, k]
            log_u = log_u + torch.where(ends[None, :, i], literal[:, 1:], literal[:, :1])
        return torch.logaddexp(block.log_off + (-torch.expm1(log_u)).log(), block.log_on + log_u)


@dataclass(frozen=True)
class _Types:
    """Distinct pairs (log_on, log_off) of each concept: they are the columns ``number`` of :meth:`values`.

    Attributes:
        concept, on, off: of each type, [F].
        number: int64[K, L], type of (class, concept); -1 where the pair says nothing.
    """

    concept: NDArray[np.int64]
    on: NDArray[np.float64]
    off: NDArray[np.float64]
    number: NDArray[np.int64]

    def values(self, sensors: Sensors) -> Tensor:
        """log of alpha q + beta (1 - q), [n, 2, F]."""
        device = sensors.log_pos.device
        at = torch.as_tensor(self.concept, device=device)
        on, off = (torch.as_tensor(x, device=device)[None, :, None] for x in (self.on, self.off))
        return torch.logaddexp(on + sensors.log_pos[:, at], off + sensors.log_neg[:, at]).transpose(1, 2).contiguous()


def _types(form: ExclusiveForm) -> _Types:
    concept: list[int] = []
    on: list[float] = []
    off: list[float] = []
    number = np.full(form.log_on.shape, -1, dtype=np.int64)
    for k in range(form.log_on.shape[1]):
        known: dict[tuple[float, float], int] = {(0.0, 0.0): -1}
        for c in range(form.log_on.shape[0]):
            pair = float(form.log_on[c, k]), float(form.log_off[c, k])
            if pair not in known:
                known[pair] = len(concept)
                concept.append(k)
                on.append(pair[0])
                off.append(pair[1])
            number[c, k] = known[pair]
    return _Types(np.array(concept, dtype=np.int64), np.array(on), np.array(off), number)


@dataclass(frozen=True)
class Ends:
    """Which end of q_k (True: upper) enters T_d and T_c in the ratio T_d / T_c; bool[K, K, L], indexed [c, d, k]."""

    rival: NDArray[np.bool_]
    own: NDArray[np.bool_]


class ExclusivePlan:
    """Everything about an :class:`ExclusiveForm` that does not depend on the box."""

    def __init__(self, form: ExclusiveForm) -> None:
        self.form = form
        low, high, alive = form.ell_low, form.ell_high, ~form.dead
        relevant = (alive[:, None] & alive[None, :] & ~np.eye(len(alive), dtype=bool))[:, :, None]
        self.rises = (high[None, :, :] > low[:, None, :]) & relevant
        """T_d / T_c may rise with q_k; bool[K, K, L] indexed [c, d, k]; False for d = c and for dead classes."""
        self.falls = (low[None, :, :] < high[:, None, :]) & relevant
        self.clash: NDArray[np.bool_] = np.asarray(self.rises.any(axis=1) & self.falls.any(axis=1))
        """bool[K, L]: the rivals of class c pull q_k in different directions."""
        self.types = _types(form)
        self.ends = {largest: self._ends(largest) for largest in (False, True)}
        self._matrices: dict[tuple[bool, torch.device], Tensor] = {}
        self._cache: dict[str, object] = {}

    def cached(self, name: str, make: Callable[[], T]) -> T:
        """``make()``, called once for each name."""
        if name not in self._cache:
            self._cache[name] = make()
        return cast(T, self._cache[name])

    def _ends(self, largest: bool) -> Ends:
        """The ends that make T_d / T_c least (``largest``: for the largest posterior of c) or greatest, pair by pair."""
        responds_up = (self.form.ell_low + self.form.ell_high) > 0
        # ratio constant in q_k: any end will do, but not one at which a hard rule makes it 0 / 0
        own = np.where(
            self.rises & ~self.falls,
            not largest,
            np.where(self.falls & ~self.rises, largest, responds_up[:, None, :]),
        )
        rival = own.copy()
        both = self.rises & self.falls
        # undecided (blocks only): numerator and denominator apart
        own = np.where(both, responds_up[:, None, :] == largest, own)
        rival = np.where(both, responds_up[None, :, :] != largest, rival)
        return Ends(rival, own)

    def common_ends(self, largest: bool) -> NDArray[np.bool_]:
        """bool[K, L], the end of q_k that is best for class c against all rivals, wherever they agree."""
        ends = self.ends[largest].own
        matters = self.rises | self.falls
        decided = matters.any(axis=1)
        return np.where(decided, (ends & matters).any(axis=1), ends[:, 0])

    def matrix(self, largest: bool, device: torch.device) -> Tensor | None:
        """[2 F, K K]: values of both ends times this are log T_d / T_c (without bases); None if too large or blocks."""
        form, types = self.form, self.types
        features = 2 * types.concept.size
        if form.blocks or features > MAX_FEATURES:
            return None
        found = self._matrices.get((largest, device))
        if found is None:
            k, length = types.number.shape
            made = np.zeros((2, types.concept.size, k, k))
            up = self.ends[largest].own.astype(np.int64)
            c, d, at = np.indices((k, k, length))
            for number, sign in ((types.number[d, at], 1.0), (types.number[c, at], -1.0)):
                says = number >= 0
                np.add.at(made, (up[says], number[says], c[says], d[says]), sign)
            found = torch.as_tensor(made.reshape(features, k * k), device=device)
            self._matrices[(largest, device)] = found
        return found

    @cached_property
    def base_ratio(self) -> NDArray[np.float64]:
        """base_d - base_c, [K, K] indexed [c, d]; +inf where class c is dead."""
        base = np.where(self.form.dead, -np.inf, self.form.base)
        with np.errstate(invalid="ignore"):
            return np.where(base[:, None] == -np.inf, np.inf, base[None, :] - base[:, None])

    @cached_property
    def directions(self) -> NDArray[np.int8]:
        """Direction of P(concept k) in the other concepts' sensors, int8[L, L] (2: unknown, diagonal 0).

        P(k) rises with log(A / B), A / B = sum_c W_c alpha_ck / sum_c W_c beta_ck, the mean of exp(ell_ck) under
        weights W_c beta_ck. Raising q_m multiplies W_c by a function that is monotone in ell_cm, so A / B rises if
        ell_.k and ell_.m are ordered alike (Chebyshev's sum inequality).
        """
        ell = self.form.ell_low[~self.form.dead]
        length = ell.shape[1]
        if self.form.blocks:
            return np.where(np.eye(length, dtype=bool), 0, 2).astype(np.int8)
        shape = ell.shape[0] ** 2, length
        above = (ell[:, None, :] > ell[None, :, :]).reshape(shape).astype(np.float32)
        below = (ell[:, None, :] < ell[None, :, :]).reshape(shape).astype(np.float32)
        up = (above.T @ above + below.T @ below) > 0
        down = (above.T @ below + below.T @ above) > 0
        found = np.where(up & down, 2, up.astype(np.int8) - down.astype(np.int8)).astype(np.int8)
        np.fill_diagonal(found, 0)
        return found


_plans: weakref.WeakKeyDictionary[Circuit, dict[int, ExclusivePlan | None]] = weakref.WeakKeyDictionary()


def exclusive_plan(component: Component, num_classes: int) -> ExclusivePlan | None:
    """The plan of a component of the exclusive circuit, made once; None if its rules do not factorise."""
    known = _plans.setdefault(component.circuit, {})
    if num_classes not in known:
        form = exclusive_form(component, num_classes)
        known[num_classes] = None if form is None else ExclusivePlan(form)
    return known[num_classes]


def log_ratios(plan: ExclusivePlan, sensors: Sensors) -> tuple[Tensor, Tensor]:
    """log T_d / T_c at the ends of each pair, [n, K, K] indexed [row, c, d]: greatest, least; +inf where T_c = 0.

    The greatest T_d / T_c is one over the least T_c / T_d, so one product serves both.
    """
    device = sensors.log_pos.device
    n, k = sensors.log_pos.shape[0], len(plan.form.classes)
    matrix = plan.matrix(True, device)
    values = None if matrix is None else sensors.values(plan)
    if matrix is not None and values is not None:
        least = (values @ matrix).view(n, k, k)
        base = torch.as_tensor(plan.base_ratio, device=device)
        return base - least.transpose(1, 2), least + base
    return _added_up(plan, sensors, False), _added_up(plan, sensors, True)


def _added_up(plan: ExclusivePlan, sensors: Sensors, largest: bool) -> Tensor:
    """One side of :func:`log_ratios`, concept by concept."""
    form, single = plan.form, sensors.single
    device, (n, k) = single.device, single.shape[:2]
    ends = [torch.as_tensor(x, device=device) for x in (plan.ends[largest].rival, plan.ends[largest].own)]
    base = torch.as_tensor(form.base, device=device)
    rival, own = base.expand(n, k, k).clone(), base[:, None].expand(n, k, k).clone()
    for concept in range(single.shape[2]):
        low, high = single[:, :, concept, 0], single[:, :, concept, 1]
        rival += torch.where(ends[0][:, :, concept], high[:, None, :], low[:, None, :])
        own += torch.where(ends[1][:, :, concept], high[:, :, None], low[:, :, None])
    for block in form.blocks:
        at = torch.tensor(block.members, device=device)
        rival[:, :, block.owner] += sensors.block(block, ends[0][:, block.owner][:, at])
        own[:, block.owner, :] += sensors.block(block, ends[1][block.owner][:, at])
    return torch.where(own == -torch.inf, torch.inf, rival - own)
