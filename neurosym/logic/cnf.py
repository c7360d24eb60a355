"""Conjunctive normal form: by distribution (same variables, may grow) or Tseitin's transformation (linear size)."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from neurosym.errors import InputError
from neurosym.logic.formula import And, Const, Formula, Iff, Implies, Not, Or, Var, variables

MAX_CLAUSES = 10_000
"""Default limit of :func:`to_cnf_direct`."""

Clause: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Cnf:
    """Clauses over the variables 1 .. ``num_variables``; literal ``-v`` is the negation of ``v``.

    Attributes:
        clauses: each a tuple of non-zero literals; the empty clause is false, no clauses at all are true.
        names: the first ``len(names)`` variables in order; the variables after them are auxiliary.
    """

    num_variables: int
    clauses: tuple[Clause, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "clauses", tuple(tuple(map(operator.index, c)) for c in self.clauses))
        object.__setattr__(self, "names", tuple(self.names))
        if self.num_variables < len(self.names):
            raise InputError(f"{len(self.names)} names for {self.num_variables} variables")
        for i, clause in enumerate(self.clauses):
            for literal in clause:
                if literal == 0 or abs(literal) > self.num_variables:
                    raise InputError(f"clause {i}: literal {literal} is outside 1..{self.num_variables}")

    @property
    def num_auxiliary(self) -> int:
        return self.num_variables - len(self.names)


def to_cnf_direct(formula: Formula, names: Sequence[str] | None = None, max_clauses: int = MAX_CLAUSES) -> Cnf:
    """Equivalent clauses over the formula's own variables, by distributing ``|`` over ``&``.

    Args:
        names: variables 1, 2, ... in this order. Default: the formula's, as first seen.
        max_clauses: most clauses of any subformula.

    Raises:
        InputError: the limit is passed (the growth is exponential for some formulas), or a name is missing.
    """
    order = _order(formula, names)
    clauses = _Distributor({name: i + 1 for i, name in enumerate(order)}, max_clauses).clauses(formula, True)
    return Cnf(len(order), tuple(_sorted(clause) for clause in clauses), order)


def to_cnf_tseitin(formula: Formula, names: Sequence[str] | None = None) -> Cnf:
    """Equisatisfiable clauses of linear size, with auxiliary variables numbered after the names.

    Every auxiliary variable is *equivalent* to a subformula, so each model of the formula extends to exactly one
    model of the clauses: weighted model counts are unchanged (auxiliary variables weigh one).

    Source: G. S. Tseitin, "On the complexity of derivation in propositional calculus", 1968.
    """
    order = _order(formula, names)
    encoder = _Tseitin({name: i + 1 for i, name in enumerate(order)})
    encoder.require(simplify(formula), True)
    return Cnf(encoder.count, tuple(encoder.clauses), order)


def _order(formula: Formula, names: Sequence[str] | None) -> tuple[str, ...]:
    own = variables(formula)
    if names is None:
        return own
    order = tuple(names)
    missing = [name for name in own if name not in set(order)]
    if missing:
        raise InputError(f"the formula mentions {missing[0]!r}, which is not among the names")
    if len(set(order)) != len(order):
        raise InputError("the names must be distinct")
    return order


def _sorted(clause: Iterable[int]) -> Clause:
    return tuple(sorted(clause, key=lambda literal: (abs(literal), literal)))


def simplify(formula: Formula) -> Formula:
    """Equivalent formula in which a constant occurs only as the whole formula."""
    match formula:
        case Not(arg):
            inner = simplify(arg)
            return Const(not inner.value) if isinstance(inner, Const) else Not(inner)
        case And(args) | Or(args):
            return _simplify_nary(tuple(simplify(arg) for arg in args), isinstance(formula, And))
        case Implies(left, right):
            a, b = simplify(left), simplify(right)
            if isinstance(a, Const):
                return b if a.value else Const(True)
            if isinstance(b, Const):
                return b if b.value else Not(a)
            return Implies(a, b)
        case Iff(left, right):
            a, b = simplify(left), simplify(right)
            if isinstance(a, Const):
                a, b = b, a
            if not isinstance(b, Const):
                return Iff(a, b)
            if isinstance(a, Const):
                return Const(a.value == b.value)
            return a if b.value else Not(a)
        case _:
            return formula


def _simplify_nary(args: tuple[Formula, ...], conjunction: bool) -> Formula:
    if Const(not conjunction) in args:
        return Const(not conjunction)
    kept = tuple(arg for arg in args if not isinstance(arg, Const))
    if len(kept) < 2:
        return kept[0] if kept else Const(conjunction)
    return And(kept) if conjunction else Or(kept)


class _Distributor:
    """Clause sets of subformulas and of their negations."""

    def __init__(self, number: dict[str, int], limit: int) -> None:
        self.number = number
        self.limit = limit
        # keyed by identity: hashing a formula costs its size; the formulas outlive this object
        self.known: dict[tuple[int, bool], dict[frozenset[int], None]] = {}

    def clauses(self, formula: Formula, positive: bool) -> dict[frozenset[int], None]:
        """Clauses (an ordered set) equivalent to the formula, or to its negation if not ``positive``."""
        key = (id(formula), positive)
        if key not in self.known:
            self.known[key] = self._clauses(formula, positive)
        return self.known[key]

    def _clauses(self, formula: Formula, positive: bool) -> dict[frozenset[int], None]:
        match formula:
            case Var(name):
                return {frozenset({self.number[name] if positive else -self.number[name]}): None}
            case Const(value):
                return {} if value == positive else {frozenset(): None}
            case Not(arg):
                return self.clauses(arg, not positive)
            case And(args) | Or(args):
                parts = [self.clauses(arg, positive) for arg in args]
                return self._all(parts) if isinstance(formula, And) == positive else self._any(parts)
            case Implies(left, right):
                parts = [self.clauses(left, not positive), self.clauses(right, positive)]
                return self._any(parts) if positive else self._all(parts)
            case Iff(left, right):
                first = self._any([self.clauses(left, False), self.clauses(right, positive)])
                return self._all([first, self._any([self.clauses(left, True), self.clauses(right, not positive)])])
        raise InputError(f"not a formula: {formula!r}")

    def _all(self, parts: list[dict[frozenset[int], None]]) -> dict[frozenset[int], None]:
        result: dict[frozenset[int], None] = {}
        for part in parts:
            result |= part
            self._check(len(result))
        return {frozenset(): None} if frozenset() in result else result

    def _any(self, parts: list[dict[frozenset[int], None]]) -> dict[frozenset[int], None]:
        result: dict[frozenset[int], None] = {frozenset(): None}
        for part in parts:
            self._check(len(result) * len(part))
            joined = (left | right for left in result for right in part)
            result = {c: None for c in joined if not any(-literal in c for literal in c)}
        return result

    def _check(self, count: int) -> None:
        if count > self.limit:
            raise InputError(f"the direct normal form needs more than {self.limit} clauses; use to_cnf_tseitin instead")


class _Tseitin:
    """Collects defining clauses; ``formula`` arguments contain no constants (except as a whole)."""

    def __init__(self, number: dict[str, int]) -> None:
        self.number = number
        self.count = len(number)
        self.clauses: list[Clause] = []

    def require(self, formula: Formula, positive: bool) -> None:
        """Add clauses that say the formula is true (or false)."""
        match formula:
            case Const(value):
                if value != positive:
                    self.clauses.append(())
            case Not(arg):
                self.require(arg, not positive)
            case And(args) if positive:
                for arg in args:
                    self.require(arg, True)
            case Or(args) if not positive:
                for arg in args:
                    self.require(arg, False)
            case Or(args):
                self._add([self.literal(arg) for arg in args])
            case And(args):
                self._add([-self.literal(arg) for arg in args])
            case Implies(left, right) if positive:
                self._add([-self.literal(left), self.literal(right)])
            case Implies(left, right):
                self.require(left, True)
                self.require(right, False)
            case _:
                self._add([self.literal(formula) if positive else -self.literal(formula)])

    def literal(self, formula: Formula) -> int:
        """A literal equivalent to the formula."""
        match formula:
            case Var(name):
                return self.number[name]
            case Not(arg):
                return -self.literal(arg)
            case And(args):
                return -self._define_or([-self.literal(arg) for arg in args])
            case Or(args):
                return self._define_or([self.literal(arg) for arg in args])
            case Implies(left, right):
                return self._define_or([-self.literal(left), self.literal(right)])
            case Iff(left, right):
                return self._define_iff(self.literal(left), self.literal(right))
        raise InputError(f"not a formula: {formula!r}")

    def _define_or(self, literals: list[int]) -> int:
        self.count += 1
        out = self.count
        self._add([-out, *literals])
        for literal in literals:
            self._add([out, -literal])
        return out

    def _define_iff(self, left: int, right: int) -> int:
        self.count += 1
        out = self.count
        for clause in ((-out, -left, right), (-out, left, -right), (out, left, right), (out, -left, -right)):
            self._add(list(clause))
        return out

    def _add(self, literals: list[int]) -> None:
        """Keep a clause unless it is a tautology; repeated literals are merged."""
        distinct = dict.fromkeys(literals)
        if not any(-literal in distinct for literal in distinct):
            self.clauses.append(tuple(distinct))
