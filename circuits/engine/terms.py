"""Closed form of disjoint-term knowledge: the worlds fall into K terms, each a conjunction of literals.

With w(T_kv) the weight of variable v in term k (positive literal, negative literal, or their sum where v is free),

    log Z = logsumexp_k (c_k + sum_v log w(T_kv)),

a matrix product or two: the most common state is the base and only the differences from it are multiplied. With
share_k = exp(log term_k - log Z), the mass of a state of v is the sum of the shares of the terms in that state, and

    dZ/dpos_v / Z = mass(v true) / pos_v + mass(v free) / (pos_v + neg_v).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neurosym.circuits.engine.term_program import TermProgram, build_term_program

TRUE, FALSE, FREE = 1, 0, -1
STATES = (TRUE, FALSE, FREE)
Mass = tuple[slice, Tensor]
"""Some neighbouring variables, and their column of masses, [B, number of them]."""
SPARSE_SIZE, SPARSE_DENSITY = 1 << 15, 0.05
"""Indicators at least this large and at most this dense are kept sparse."""
CHUNK_VALUES = 1 << 17
"""Entries of the largest table (rows x terms or rows x columns) worked on at once."""


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in their own precision, also where autocast would round float32 to half of the bits."""
    kind = a.device.type
    if not torch.is_autocast_enabled(kind):
        return a @ b
    with torch.autocast(kind, enabled=False):
        return a @ b


@dataclass(frozen=True)
class _State:
    """A state on one device, in one dtype: which terms have it, for the variables lo..hi.

    Variables outside the range never have the state: with the classes first, one-way rules leave most columns out. The
    indicator is kept as ``matrix`` [hi - lo, K] and its transpose, or where few entries are 1 (hierarchies) as sparse
    ``rows`` [K, hi - lo] and ``columns`` [hi - lo, K].
    """

    lo: int
    hi: int
    has: NDArray[np.bool_]
    matrix: Tensor | None
    transposed: Tensor | None
    rows: Tensor | None
    columns: Tensor | None

    def take(self, x: Tensor) -> Tensor:
        """The columns of the range."""
        return x[:, self.lo : self.hi]

    def over_terms(self, x: Tensor) -> Tensor:
        """For each term the sum of x [B, hi - lo] over its variables with the state, [B, K]."""
        if self.rows is not None:
            return _product(self.rows, x.t()).t()
        assert self.matrix is not None
        return _product(x, self.matrix)

    def over_variables(self, share: Tensor) -> Tensor:
        """For each variable the sum of the shares [B, K] of the terms with the state, [B, hi - lo]."""
        if self.columns is not None:
            return _product(self.columns, share.t()).t()
        assert self.transposed is not None
        return _product(share, self.transposed)


def _make_state(has: NDArray[np.bool_], like: Tensor) -> _State | None:
    """From indicators [m, K]."""
    used = np.flatnonzero(has.any(axis=1))
    if not used.size:
        return None
    lo, hi = int(used[0]), int(used[-1]) + 1
    inside = has[lo:hi]
    dense = torch.from_numpy(inside.astype(np.float32)).to(like)
    sparse = like.device.type == "cpu" and inside.size >= SPARSE_SIZE and inside.mean() <= SPARSE_DENSITY
    if not sparse:
        return _State(lo, hi, inside, dense, dense.t().contiguous(), None, None)
    with warnings.catch_warnings():
        # torch calls its compressed rows a beta; the products used here are exact sums
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return _State(lo, hi, inside, None, None, dense.t().to_sparse_csr(), dense.to_sparse_csr())


@dataclass(frozen=True)
class _Matrices:
    """The three states (None where no term has it), inside ``rest`` or everywhere, and the terms' log constants."""

    rest: tuple[_State | None, _State | None, _State | None]
    states: tuple[_State | None, _State | None, _State | None]
    constant: Tensor


class TermMatrix:
    """Evaluation of K disjoint terms over m variables.

    A run of variables at either end of which each is true in one term only and false in the others (classes) needs no
    matrix: its logarithms are added to those terms.

    Args:
        terms: int8[K, m]; 1 true, 0 false, -1 free.
        log_constants: float64[K], log weight of each term beside its literals.
    """

    def __init__(self, terms: NDArray[np.int8], log_constants: NDArray[np.float64] | None = None) -> None:
        self.num_terms, self.num_variables = terms.shape
        constants = np.zeros(self.num_terms) if log_constants is None else log_constants
        self.run, owners = _one_hot_run(terms)
        order = np.concatenate([owners, np.setdiff1d(np.arange(self.num_terms), owners)])
        self.terms, self.log_constants = terms[order], constants[order]
        self.rest = slice(self.run.stop, self.num_variables) if self.run.start == 0 else slice(0, self.run.start)
        counts = [int((self.terms[:, self.rest] == state).sum()) for state in STATES]
        self.base = int(np.argmax(counts))
        self.uses_free = counts[2] > 0
        # a sparse indicator of true leaves a dense one of false, whose product is worth avoiding
        true = self.terms == TRUE
        self._complement = not self.uses_free and self.terms.size >= SPARSE_SIZE and true.mean() <= SPARSE_DENSITY
        self._made: dict[tuple[torch.device, torch.dtype], _Matrices] = {}

    def _at(self, like: Tensor) -> _Matrices:
        key = (like.device, like.dtype)
        if key not in self._made:
            inside = np.zeros(self.num_variables, dtype=bool)
            inside[self.rest] = True
            everywhere = np.ones(self.num_variables, dtype=bool)
            (a, b, c), (d, e, f) = (
                [_make_state((s == self.terms.T) & at[:, None], like) for s in STATES] for at in (inside, everywhere)
            )
            self._made[key] = _Matrices((a, b, c), (d, e, f), torch.as_tensor(self.log_constants).to(like))
        return self._made[key]

    @cached_property
    def program(self) -> TermProgram | None:
        """The terms as multiplications; None where there is none, or constants differ by too much."""
        return build_term_program(self.terms, self.log_constants)

    def log_terms(self, pos: Tensor, neg: Tensor) -> tuple[Tensor, Tensor]:
        """Log weight of every term, [B, K], but for a part common to all, [B, 1], which would only cost digits.

        Not finite in rows with weights too small for that (:meth:`log_terms_exact`).
        """
        fixed = self._at(pos)
        total = pos + neg if self.uses_free else None
        weights = (pos, neg, total)
        base = weights[self.base]
        assert base is not None
        unit = base is total and is_one(base)
        shift = log_product(neg[:, self.run])
        if not unit:
            shift = shift + log_product(base[:, self.rest])
        out = fixed.constant.repeat(pos.shape[0], 1)
        for number, state in enumerate(fixed.rest):
            weight = weights[number]
            if number == self.base or state is None or weight is None:
                continue
            logs = state.take(weight).log() if unit else log_ratio(state.take(weight), state.take(base))
            out += state.over_terms(logs)
        length = self.run.stop - self.run.start
        out[:, :length] += log_ratio(pos[:, self.run], neg[:, self.run])
        return out, shift

    def log_terms_exact(self, pos: Tensor, neg: Tensor, free: Tensor | None = None) -> Tensor:
        """The same for weights that may be 0: -inf for terms with such a literal.

        ``free`` [B, m] replaces pos + neg as the weight of free variables.
        """
        fixed = self._at(pos)
        free = pos + neg if free is None else free
        out = fixed.constant.expand(pos.shape[0], -1)
        zeros = torch.zeros_like(out)
        for weight, state in zip((pos, neg, free), fixed.states, strict=True):
            if state is not None:
                own = state.take(weight)
                none = own <= 0
                out = out + state.over_terms(own.log().masked_fill_(none, 0.0))
                zeros = zeros + state.over_terms(none.to(pos.dtype))
        return out.masked_fill(zeros > 0, -torch.inf)

    def rows(self, batch: int) -> int:
        """Rows worked on at once."""
        return max(1, min(batch, CHUNK_VALUES // max(1, self.num_terms, self.num_variables)))

    def masses(self, share: Tensor, signed: Tensor | None = None) -> tuple[list[Mass], list[Mass], list[Mass]]:
        """Sum of the shares [B, K] of the terms in which a variable is true, false, free.

        Of ``signed`` [B, K], shares times numbers that need not be positive, where it is given.
        """
        fixed, summed = self._at(share), share if signed is None else signed
        true, false, free = (
            [] if s is None else [(slice(s.lo, s.hi), s.over_variables(summed))]
            for s in (fixed.rest[0], None if self._complement else fixed.states[1], fixed.states[2])
        )
        if self.run.stop > self.run.start:
            true.append((self.run, summed[:, : self.run.stop - self.run.start]))
        if self._complement:
            full = summed.sum(dim=1, keepdim=True).repeat(1, self.num_variables)
            likely = true if signed is None else self.masses(share)[0]
            for (at, mass), (_, plain) in zip(true, likely, strict=True):
                full[:, at] = self._others(summed, at, mass, plain)
            false = [(slice(0, self.num_variables), full)]
        return true, false, free

    def _others(self, summed: Tensor, at: slice, mass: Tensor, plain: Tensor) -> Tensor:
        """What is left to the terms in which the variables ``at`` are false, from their masses if true.

        The complement is exact to rounding where it is not the small part, by the masses of the shares ``plain``; the
        few other columns are summed.
        """
        out = summed.sum(dim=1, keepdim=True) - mass
        large = (plain.amax(dim=0) > 0.5).nonzero()[:, 0]
        if large.numel():
            false = torch.from_numpy(self.terms[:, at][:, large.cpu().numpy()] == FALSE).to(summed)
            out[:, large] = _product(summed, false)
        return out

    def expected(self, gain: Tensor, free_gain: Tensor) -> Tensor:
        """sum_v gain_v [v true in k] + free_gain_v [v free in k] for each term, [B, K]."""
        true, _, free = self._at(gain).states
        out = gain.new_zeros((gain.shape[0], self.num_terms))
        for weight, state in ((gain, true), (free_gain, free)):
            if state is not None:
                out = out + state.over_terms(state.take(weight))
        return out


def _one_hot_run(terms: NDArray[np.int8]) -> tuple[slice, NDArray[np.int64]]:
    """The longest such run of variables at the start or the end, and the term of each of its variables."""
    true = terms == TRUE
    hot = (true.sum(axis=0) == 1) & ~(terms == FREE).any(axis=0)
    owner = true.argmax(axis=0) if terms.shape[0] else np.zeros(terms.shape[1], dtype=np.int64)

    def length(order: range) -> int:
        seen: set[int] = set()
        for count, v in enumerate(order):
            if not hot[v] or int(owner[v]) in seen:
                return count
            seen.add(int(owner[v]))
        return len(order)

    m = terms.shape[1]
    head, tail = length(range(m)), length(range(m - 1, -1, -1))
    run = slice(0, head) if head >= tail else slice(m - tail, m)
    return run, owner[run]


def is_one(total: Tensor) -> bool:
    """All entries are 1 up to rounding."""
    slack = 4 * torch.finfo(total.dtype).eps
    low, high = torch.aminmax(total)
    return 1 - slack <= float(low) and float(high) <= 1 + slack


def log_ratio(weight: Tensor, base: Tensor) -> Tensor:
    """log(weight / base); one logarithm where the quotient is an ordinary number."""
    ratio = weight / base
    low, high = torch.aminmax(ratio) if ratio.numel() else (ratio.new_ones(()), ratio.new_ones(()))
    tiny = torch.finfo(ratio.dtype).tiny
    if float(low) > tiny and float(high) < 1 / tiny:
        return ratio.log_()
    return weight.log() - base.log()


def log_product(x: Tensor) -> Tensor:
    """log of the product over dim 1, [B, 1], with few logarithms; NaN in rows where a partial product underflows."""
    fine: Tensor | None = None
    for _ in range(3 if x.dtype == torch.float32 else 5):
        if x.shape[1] < 2:
            break
        half = x.shape[1] // 2
        joined = x[:, :half] * x[:, half : 2 * half]
        fine = _in_range(joined, fine)
        if x.shape[1] % 2:
            joined[:, 0] *= x[:, -1]
            fine = _in_range(joined[:, :1], fine)
        x = joined
    if not x.shape[1]:
        return x.new_zeros((x.shape[0], 1))
    out = x.log().sum(dim=1, keepdim=True)
    fine = _in_range(x, fine)
    return out if fine is None else torch.where(fine, out, torch.nan)


def _in_range(x: Tensor, before: Tensor | None) -> Tensor | None:
    """Rows without numbers near the ends of the range, bool[B, 1], of those ``before``; None for all."""
    tiny = torch.finfo(x.dtype).tiny
    if not x.numel():
        return before
    low, high = torch.aminmax(x)
    if float(low) > tiny and float(high) < 1 / tiny:
        return before
    fine = ((x > tiny) & (x < 1 / tiny)).all(dim=1, keepdim=True)
    return fine if before is None else before & fine
