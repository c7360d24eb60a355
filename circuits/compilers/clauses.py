"""Clauses as flat integer arrays: what every CNF compiler here takes.

Literals are those of the DIMACS format: variable v (from 1) is ``v``, its negation ``-v``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from neurosym.circuits.compilers.arrays import Ints, ranges
from neurosym.circuits.factors import Factor, group_factor, rule_factor
from neurosym.errors import InputError
from neurosym.logic.cnf import to_cnf_direct
from neurosym.logic.dimacs import from_dimacs, read_dimacs
from neurosym.logic.formula import And, Formula, Implies, Not, Or, Var
from neurosym.logic.knowledge import KnowledgeBase

MAX_VARIABLES = 10_000_000
"""Largest number of variables: a literal such as 10**9 is a mistake, not a problem of that size."""
MAX_GROUP = 3_000
"""Largest group written as pairwise clauses (4.5 million of them)."""


@dataclass(frozen=True, eq=False)
class Cnf:
    """A conjunction of clauses in normal form: within a clause the literals ascend by variable, none occurs twice.

    Attributes:
        num_variables: variables 1..num_variables; those in no clause are free.
        literals: int64[T], non-zero.
        offsets: int64[C+1]; clause i is literals[offsets[i]:offsets[i+1]], an empty one makes the CNF false.
    """

    num_variables: int
    literals: Ints
    offsets: Ints

    @property
    def num_clauses(self) -> int:
        """Number of clauses C."""
        return int(self.offsets.size) - 1

    @property
    def lengths(self) -> Ints:
        """Number of literals of each clause, int64[C]."""
        return np.diff(self.offsets)

    @property
    def clause_of(self) -> Ints:
        """Clause number of each literal, int64[T]."""
        return np.repeat(np.arange(self.num_clauses), self.lengths)

    def clauses(self) -> list[tuple[int, ...]]:
        """The clauses as tuples."""
        flat, ends = self.literals.tolist(), self.offsets.tolist()
        return [tuple(flat[a:b]) for a, b in itertools.pairwise(ends)]

    def select(self, keep: NDArray[np.bool_]) -> Cnf:
        """The clauses marked in ``keep``, bool[C]."""
        lengths = self.lengths
        return replace(self, literals=self.literals[np.repeat(keep, lengths)], offsets=_ends(lengths[keep]))

    def canonical(self) -> Cnf:
        """The same clauses, sorted, each once: equal for equal sets of clauses."""
        distinct = sorted(set(self.clauses()))
        flat = np.array([x for clause in distinct for x in clause], dtype=np.int64)
        return replace(self, literals=flat, offsets=_ends(np.array([len(c) for c in distinct], dtype=np.int64)))

    @staticmethod
    def from_clauses(clauses: Iterable[Sequence[int]], num_variables: int | None = None) -> Cnf:
        """From lists of literals. Repeated literals and tautologies are dropped; an empty clause is a contradiction.

        Args:
            num_variables: default: the largest variable that occurs.

        Raises:
            InputError: a literal is 0, not an integer, or outside the variables; names the clause (from 0).
        """
        flat: list[Any] = []
        lengths: list[int] = []
        for number, clause in enumerate(clauses):
            try:
                flat.extend(clause)
            except TypeError:
                raise InputError(f"clause {number}: {clause!r:.60} is not a list of literals") from None
            lengths.append(len(flat))
        ends = np.array([0, *lengths], dtype=np.int64)
        fault = None
        if not set(map(type, flat)) <= {int}:
            flat, fault = _as_ints(flat)
        count = _checked_count(num_variables)
        limit = MAX_VARIABLES if count is None else count
        if fault is None:
            fault = next((i for i, x in enumerate(flat) if x == 0 or abs(x) > limit), None)
        if fault is not None:
            where = f"clause {int(np.searchsorted(ends, fault, side='right')) - 1}: literal {flat[fault]!r:.40}"
            raise InputError(f"{where} is not a whole number other than 0 between {-limit} and {limit}")
        literals = np.array(flat, dtype=np.int64)
        return _normal(literals, ends, int(np.abs(literals).max(initial=0)) if count is None else count)

    @staticmethod
    def from_dimacs(text: str, name: str = "<dimacs>") -> Cnf:
        """From the text of a DIMACS file.

        Raises:
            InputError: ``name:line: ...``.
        """
        parsed = from_dimacs(text, name)
        return Cnf.from_clauses(parsed.clauses, parsed.num_variables)

    @staticmethod
    def from_file(path: str | Path) -> Cnf:
        """From a DIMACS file; see :meth:`from_dimacs`."""
        parsed = read_dimacs(path)
        return Cnf.from_clauses(parsed.clauses, parsed.num_variables)

    @staticmethod
    def from_knowledge(kb: KnowledgeBase) -> Cnf:
        """The hard rules and the groups; variable i + 1 is predicate i. Soft rules (of finite weight) are left out.

        Raises:
            InputError: a rule or group is too large for clauses.
        """
        factors = [rule_factor(kb, i) for i in range(len(kb.rules))] + [group_factor(kb, g) for g in kb.groups]
        return Cnf.from_factors([f for f in factors if f.hard], range(kb.num_predicates))

    @staticmethod
    def from_factors(factors: Iterable[Factor], variables: Sequence[int]) -> Cnf:
        """Hard factors over ``variables`` (global ids); variable i + 1 is ``variables[i]``.

        Raises:
            InputError: a factor is soft, or too large for clauses.
        """
        place = {v: i + 1 for i, v in enumerate(variables)}
        clauses: list[Sequence[int]] = []
        pairs: list[Ints] = []
        for factor in factors:
            ids = [place[v] for v in factor.scope]
            if not factor.hard:
                raise InputError("a rule of finite weight has no clauses; compile it as a factor")
            if factor.group is None:
                assert factor.formula is not None
                clauses.extend(_formula_clauses(factor.formula, dict(zip(factor.names, ids, strict=True))))
                continue
            if len(ids) > MAX_GROUP:
                raise InputError(f"a group of {len(ids)} members is too large for clauses (at most {MAX_GROUP})")
            if factor.group.kind == "exactly_one":
                clauses.append(ids)
            left, right = np.triu_indices(len(ids), 1)
            pairs.append(-np.array(ids, dtype=np.int64)[np.stack([left, right], axis=1)])
        flat = np.array([x for clause in clauses for x in clause], dtype=np.int64)
        both = np.concatenate([np.zeros((0, 2), dtype=np.int64), *pairs])
        lengths = np.concatenate([np.array([len(c) for c in clauses], dtype=np.int64), np.full(len(both), 2)])
        return _normal(np.concatenate([flat, both.ravel()]), _ends(lengths), len(variables))


def _ends(lengths: Ints) -> Ints:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def _as_ints(flat: list[Any]) -> tuple[list[Any], int | None]:
    """Numpy integers as ints, and the place of the first literal that is no integer (bool and float are none)."""
    out = [int(x) if isinstance(x, np.integer) else x for x in flat]
    return out, next((i for i, x in enumerate(out) if type(x) is not int), None)


def _checked_count(num_variables: int | None) -> int | None:
    if num_variables is None:
        return None
    if isinstance(num_variables, bool) or not isinstance(num_variables, int | np.integer):
        raise InputError(f"num_variables is {num_variables!r:.40}; it must be a whole number")
    if not 0 <= num_variables <= MAX_VARIABLES:
        raise InputError(f"num_variables is {num_variables}; it must lie between 0 and {MAX_VARIABLES}")
    return int(num_variables)


def _normal(literals: Ints, ends: Ints, num_variables: int) -> Cnf:
    """Sort within clauses, drop repeated literals and tautologies."""
    count = ends.size - 1
    width = 2 * (num_variables + 1)
    clause = np.repeat(np.arange(count), np.diff(ends))
    keys = distinct(clause * width + 2 * np.abs(literals) + (literals < 0))
    clause, code = keys // width, keys % width
    literals = np.where(code & 1, -(code >> 1), code >> 1)
    tautology = np.zeros(count, dtype=bool)
    both = (clause[1:] == clause[:-1]) & (literals[1:] == -literals[:-1])
    tautology[clause[1:][both]] = True
    full = Cnf(num_variables, literals, _ends(np.bincount(clause, minlength=count).astype(np.int64)))
    return full.select(~tautology) if both.any() else full


def distinct(keys: Ints) -> Ints:
    """Each value once, ascending; several times faster than ``np.unique``, which hashes."""
    keys = np.sort(keys)
    return keys[np.append(True, keys[1:] != keys[:-1])] if keys.size else keys


def _literal(formula: Formula, ids: Mapping[str, int]) -> int:
    """The literal that a formula is, or 0."""
    if isinstance(formula, Var):
        return ids[formula.name]
    if isinstance(formula, Not) and isinstance(formula.arg, Var):
        return -ids[formula.arg.name]
    return 0


def _formula_clauses(formula: Formula, ids: Mapping[str, int]) -> Iterable[Sequence[int]]:
    """Equivalent clauses; the usual shapes of rules directly, others by distribution."""
    if isinstance(formula, And):
        return [clause for arg in formula.args for clause in _formula_clauses(arg, ids)]
    if isinstance(formula, Or):
        found = [_literal(arg, ids) for arg in formula.args]
        if 0 not in found:
            return [found]
    if isinstance(formula, Implies):
        body = formula.left.args if isinstance(formula.left, And) else (formula.left,)
        out = [-_literal(arg, ids) for arg in body]
        right = formula.right
        single = right.args if isinstance(right, Or) else (right,)
        head = [_literal(arg, ids) for arg in single]
        if 0 not in out and 0 not in head:
            return [out + head]
        if 0 not in out and isinstance(right, And) and all(_literal(arg, ids) for arg in right.args):
            return [[*out, _literal(arg, ids)] for arg in right.args]
    literal = _literal(formula, ids)
    if literal:
        return [[literal]]
    direct = to_cnf_direct(formula)
    names = [ids[name] for name in direct.names]
    return [[names[abs(x) - 1] * (1 if x > 0 else -1) for x in clause] for clause in direct.clauses]


@dataclass(frozen=True, eq=False)
class Propagated:
    """Result of unit propagation.

    Attributes:
        consistent: False when two units contradict each other or a clause is empty.
        forced: int64[F], literals true in every model.
        rest: the clauses that are not satisfied by them, without false literals; all have two literals or more.
    """

    consistent: bool
    forced: Ints
    rest: Cnf


def propagate_units(cnf: Cnf) -> Propagated:
    """Unit propagation to its fixpoint, in time linear in the size of the clauses."""
    lengths = cnf.lengths
    nothing = np.zeros(0, dtype=np.int64)
    if (lengths == 0).any():
        return Propagated(False, nothing, cnf)
    if not (lengths == 1).any():
        return Propagated(True, nothing, cnf)
    order = np.argsort(-cnf.literals, kind="stable")  # by literal, to find the clauses in which one occurs
    n = cnf.num_variables
    start = np.searchsorted(-cnf.literals[order], np.arange(-n, n + 2)).tolist()
    owner = cnf.clause_of[order].tolist()
    left, flat, ends = lengths.tolist(), cnf.literals.tolist(), cnf.offsets.tolist()
    queue = cnf.literals[np.repeat(lengths == 1, lengths)].tolist()
    value: dict[int, bool] = {}
    forced: list[int] = []
    while queue:
        literal = queue.pop()
        known = value.get(abs(literal))
        if known is not None:
            if known != (literal > 0):
                return Propagated(False, np.array(forced, dtype=np.int64), cnf)
            continue
        value[abs(literal)] = literal > 0
        forced.append(literal)
        for number in owner[start[literal + n] : start[literal + n + 1]]:  # where -literal occurs
            left[number] -= 1
            if left[number] == 1:
                clause = flat[ends[number] : ends[number + 1]]
                queue.extend(x for x in clause if abs(x) not in value)
    state = np.zeros(cnf.num_variables + 1, dtype=np.int64)
    known_literals = np.array(forced, dtype=np.int64)
    state[np.abs(known_literals)] = np.sign(known_literals)
    sign = state[np.abs(cnf.literals)] * np.sign(cnf.literals)
    satisfied = np.zeros(cnf.num_clauses, dtype=bool)
    satisfied[cnf.clause_of[sign > 0]] = True
    keep = (sign == 0) & ~np.repeat(satisfied, lengths)
    kept = np.bincount(cnf.clause_of[keep], minlength=cnf.num_clauses)[~satisfied]
    return Propagated(True, known_literals, replace(cnf, literals=cnf.literals[keep], offsets=_ends(kept)))


def _labels(a: Ints, b: Ints, size: int) -> Ints:
    """Smallest vertex of the connected component of each vertex: hooking roots to smaller ones, and pointer jumping."""
    label = np.arange(size, dtype=np.int64)
    while a.size:
        low = np.minimum(a, b)
        np.minimum.at(label, a, low)
        np.minimum.at(label, b, low)
        while True:
            further = label[label]
            if (further == label).all():
                break
            label = further
        a, b = label[a], label[b]
        between = a != b
        a, b = a[between], b[between]
    return label


def components(cnf: Cnf) -> list[tuple[Ints, Cnf]]:
    """Connected components: (variables from 1, ascending; the clauses renumbered to 1..len(variables)).

    Variables in no clause belong to no component. Clauses must not be empty. Ordered by the smallest variable.
    """
    if not cnf.num_clauses:
        return []
    variable = np.abs(cnf.literals)
    first = variable[np.repeat(cnf.offsets[:-1], cnf.lengths)]
    size = cnf.num_variables + 1
    label = _labels(first, variable, size)
    seen = np.zeros(size, dtype=bool)
    seen[variable] = True
    used = np.flatnonzero(seen)
    order = used[np.argsort(label[used], kind="stable")]
    cut = np.flatnonzero(np.diff(label[order])) + 1
    blocks = sorted(np.split(order, cut), key=lambda block: int(block[0]))
    if len(blocks) == 1:
        blocks = [used]
    place, rank = np.zeros(size, dtype=np.int64), np.zeros(size, dtype=np.int64)
    for number, block in enumerate(blocks):
        place[block], rank[block] = np.arange(1, block.size + 1), number
    owner = rank[variable[cnf.offsets[:-1]]]
    sequence = np.argsort(owner, kind="stable")
    bounds = np.searchsorted(owner[sequence], np.arange(len(blocks) + 1))
    lengths = cnf.lengths[sequence]
    offsets = _ends(lengths)
    local = np.where(cnf.literals > 0, place[variable], -place[variable])[ranges(cnf.offsets[sequence], lengths)]
    return [
        (block, Cnf(int(block.size), local[offsets[a] : offsets[b]], offsets[a : b + 1] - offsets[a]))
        for block, (a, b) in zip(blocks, itertools.pairwise(bounds.tolist()), strict=True)
    ]
